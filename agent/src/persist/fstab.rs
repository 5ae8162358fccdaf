//! /etc/fstab: what it says, and our one line in it.
//!
//! Our line is known by the mount option [`OWNER_OPTION`]: libmount keeps `x-*` options from the kernel, and
//! `findmnt --verify` accepts them. A line that was taken over from somebody (the old script) or put out of
//! force stays as a comment with one of two fixed prefixes.

mod edit;

use super::lines::{self, Line as Physical};
use super::{Problem, quote};

pub use edit::{Line, conflict, disable, edit, options, owned, remove};

/// The mount option that makes a line ours.
pub const OWNER_OPTION: &str = "x-nvme-agent";
const DISABLED: &str = "# nvme-agent: disabled, setup failed: ";

/// One line that mounts (or swaps on) something. Field names as in fstab(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From 1.
    pub line_no: usize,
    /// The line as it stands, without its ending. May hold secrets (`password=`): not for logs.
    pub raw: String,
    /// Device, tag or share, unescaped.
    pub spec: String,
    /// Mount point, unescaped; `none` for swap.
    pub file: String,
    pub vfstype: String,
    /// Comma-separated; empty where the field is missing.
    pub options: String,
    pub freq: i64,
    pub passno: i64,
    /// One of our own lines that [`disable`] put out of force.
    pub disabled: bool,
}

/// What an entry's `spec` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source<'a> {
    /// `UUID=` or `/dev/disk/by-uuid/`.
    Uuid(&'a str),
    /// `LABEL=` or `/dev/disk/by-label/`.
    Label(&'a str),
    /// `/dev/disk/by-id/md-uuid-…`: an md set.
    MdUuid(uuid::Uuid),
    /// `/dev/md/NAME` or `/dev/disk/by-id/md-name-NAME`: an md set's name, perhaps with its host before a colon.
    MdName(&'a str),
    /// `/dev/NAME` with nothing below: a kernel name, such as `md0`, `md127`, `nvme1n1`.
    Kernel(&'a str),
    /// `PARTUUID=`, other links, network shares, `tmpfs` ...
    Other(&'a str),
}

impl Entry {
    pub fn has_option(&self, name: &str) -> bool {
        self.options.split(',').any(|o| o == name)
    }

    /// True where the line is ours.
    pub fn is_owned(&self) -> bool {
        self.has_option(OWNER_OPTION)
    }

    /// In which way it mounts otherwise than a line of ours for a filesystem of that type; none where it does not.
    pub fn unlike_ours(&self, fs_type: &str) -> Option<String> {
        if !self.is_owned() {
            return Some(format!("has no `{OWNER_OPTION}`: a setup that fails cannot put it out of force"));
        }
        if !self.has_option("nofail") {
            return Some("lacks `nofail`: a boot without the drives ends in emergency mode".into());
        }
        if let Some(option) = ["noauto", "ro"].into_iter().find(|option| self.has_option(option)) {
            return Some(format!("has `{option}`"));
        }
        if self.vfstype != fs_type && self.vfstype != "auto" {
            return Some(format!("is for {}, but the filesystem is {fs_type}", self.vfstype));
        }
        // systemd-fsck would race our own mount, and take long.
        (self.passno != 0).then(|| format!("has it checked at boot (pass {}, not 0)", self.passno))
    }

    /// True where the line mounts at `target` (`//tmp/` is `/tmp`).
    pub fn is_at(&self, target: &str) -> bool {
        self.vfstype != "swap" && self.file.starts_with('/') && same_path(&self.file, target)
    }

    pub fn source(&self) -> Source<'_> {
        let spec = self.spec.as_str();
        let tag = |name: &str| {
            let value = spec.strip_prefix(name)?.strip_prefix('=')?;
            Some(value.trim_matches('"'))
        };
        if let Some(uuid) = tag("UUID").or_else(|| spec.strip_prefix("/dev/disk/by-uuid/")) {
            return Source::Uuid(uuid);
        }
        if let Some(label) = tag("LABEL").or_else(|| spec.strip_prefix("/dev/disk/by-label/")) {
            return Source::Label(label);
        }
        let md_uuid =
            spec.strip_prefix("/dev/disk/by-id/md-uuid-").and_then(crate::md::notation::parse_mdadm_uuid);
        if let Some(uuid) = md_uuid {
            return Source::MdUuid(uuid);
        }
        let md_name = spec.strip_prefix("/dev/disk/by-id/md-name-").or_else(|| spec.strip_prefix("/dev/md/"));
        if let Some(name) = md_name {
            return Source::MdName(name);
        }
        match spec.strip_prefix("/dev/") {
            Some(name) if !name.is_empty() && !name.contains('/') => Source::Kernel(name),
            _ => Source::Other(spec),
        }
    }
}

fn same_path(a: &str, b: &str) -> bool {
    fn parts(path: &str) -> impl Iterator<Item = &str> {
        path.split('/').filter(|part| !part.is_empty() && *part != ".")
    }
    parts(a).eq(parts(b))
}

/// Every line in force, in the order of the file.
///
/// Judges as libmount does (util-linux, libmount/src/tab_parse.c; checked against `findmnt --verify`): three
/// fields at least, the others default to no options and 0; what follows the sixth is ignored; the fifth and
/// sixth are whole numbers.
///
/// # Errors
/// [`Problem::Malformed`] for the first line that libmount would call a parse error.
pub fn parse(text: &str) -> Result<Vec<Entry>, Problem> {
    let mut entries = Vec::new();
    for line in lines::split(text) {
        entries.extend(parse_line(line)?);
    }
    Ok(entries)
}

/// What keeps this text from mounting the filesystem `uuid` on `target` at the next boot as our line does; none where nothing
/// does. Mount options that only tune it are the administrator's.
pub fn lacks(text: &str, uuid: &str, target: &str, fs_type: &str) -> Option<String> {
    let entries = match parse(text) {
        Ok(entries) => entries,
        Err(problem) => return Some(problem.to_string()),
    };
    let at: Vec<&Entry> = entries.iter().filter(|entry| entry.is_at(target)).collect();
    let named =
        |entry: &&&Entry| matches!(entry.source(), Source::Uuid(found) if found.eq_ignore_ascii_case(uuid));
    let Some(entry) = at.iter().find(named) else {
        return Some(format!("no line mounts UUID={uuid} on {target}"));
    };
    if at.len() > 1 {
        return Some(format!("{} lines are for {target}", at.len()));
    }
    entry.unlike_ours(fs_type).map(|why| format!("line {} {why}", entry.line_no))
}

/// The lines that put something at `target`, among them one of ours that a failed setup put out of force: what
/// it says about whose filesystem belongs there is as good as before. A malformed line says nothing.
pub fn evidence(text: &str, target: &str) -> Vec<Entry> {
    let said = |line| parse_line(line).ok().flatten().or_else(|| disabled_entry(line));
    lines::split(text).filter_map(said).filter(|e| e.is_at(target)).collect()
}

/// Every line in force, and of malformed ones as much as can be made out: a device and a place. For doubt only, never
/// as evidence: nobody mounts by such a line, but somebody meant something by it.
pub fn meant(text: &str) -> Vec<Entry> {
    let meant = |line: Physical<'_>| match parse_line(line) {
        Ok(entry) => entry,
        Err(_) => {
            let mut fields = line.body.split([' ', '\t']).filter(|f| !f.is_empty());
            Some(Entry {
                line_no: line.no,
                raw: line.body.to_owned(),
                spec: unescape(fields.next()?),
                file: unescape(fields.next().unwrap_or_default()),
                vfstype: String::new(),
                options: String::new(),
                freq: 0,
                passno: 0,
                disabled: false,
            })
        }
    };
    lines::split(text).filter_map(meant).collect()
}

fn parse_line(line: Physical<'_>) -> Result<Option<Entry>, Problem> {
    let body = line.body.trim_start_matches([' ', '\t']);
    if body.is_empty() || body.starts_with('#') {
        return Ok(None);
    }
    let malformed = |why: &str| Problem::Malformed { line_no: line.no, line: quote(body), why: why.into() };
    if body.contains('\0') {
        return Err(malformed("it contains a NUL byte"));
    }
    let fields: Vec<&str> = body.split([' ', '\t']).filter(|f| !f.is_empty()).collect();
    let [spec, file, vfstype, rest @ ..] = fields.as_slice() else {
        return Err(malformed("fewer than the three fields device, mount point and type"));
    };
    let number = |index: usize, name: &str| match rest.get(index) {
        None => Ok(0),
        // The field itself is not quoted: after a stray blank it is part of the options.
        Some(text) => text
            .parse::<i64>()
            .map_err(|_| malformed(&format!("field {} ({name}) is not a number", index + 4))),
    };
    Ok(Some(Entry {
        line_no: line.no,
        raw: line.body.to_owned(),
        spec: unescape(spec),
        file: unescape(file),
        vfstype: unescape(vfstype),
        options: rest.first().map(|o| unescape(o)).unwrap_or_default(),
        freq: number(1, "dump")?,
        passno: number(2, "pass")?,
        disabled: false,
    }))
}

/// A comment that is our own line out of force. Whatever else it has become is just a comment.
fn disabled_entry(line: Physical<'_>) -> Option<Entry> {
    let body = line.body.strip_prefix(DISABLED)?;
    let entry = parse_line(Physical { body, ..line }).ok()??;
    entry.is_owned().then_some(Entry { disabled: true, ..entry })
}

/// `\040` and its like, as libmount's unmangle(): a backslash and three octal digits.
fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match bytes.get(at + 1..at + 4) {
            Some([a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7']) if byte == b'\\' => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                at += 4;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
#[path = "fstab_tests.rs"]
mod tests;
