//! /etc/fstab: what it says, and our one line in it.
//!
//! Our line is known by the mount option [`OWNER_OPTION`]: libmount keeps `x-*` options from the kernel, and
//! `findmnt --verify` accepts them. A line that was taken over from somebody (the old script) or put out of
//! force stays as a comment with one of two fixed prefixes.

use super::lines::{self, Line as Physical, Output};
use super::{Edited, Problem, quote};

/// The mount option that makes a line ours.
pub const OWNER_OPTION: &str = "x-nvme-agent";
/// How long systemd waits for the device at boot before it gives the mount up: shorter left the mount out on
/// a slow boot (facts.md 7), and `nofail` keeps this wait from the boot itself.
const DEVICE_TIMEOUT: &str = "x-systemd.device-timeout=90s";
const DISABLED: &str = "# nvme-agent: disabled, setup failed: ";
const REPLACED: &str = "# nvme-agent: replaced: ";

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
        let md_uuid = spec.strip_prefix("/dev/disk/by-id/md-uuid-").and_then(super::mdadm_conf::parse_uuid);
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

/// The lines that put something at `target`, among them one of ours that a failed setup put out of force: what
/// it says about whose filesystem belongs there is as good as before.
///
/// # Errors
/// As [`parse`].
pub fn evidence(text: &str, target: &str) -> Result<Vec<Entry>, Problem> {
    let mut entries = parse(text)?;
    entries.extend(lines::split(text).filter_map(disabled_entry));
    entries.retain(|e| e.is_at(target));
    entries.sort_by_key(|e| e.line_no);
    Ok(entries)
}

/// Our own lines, in force or not, also of a file that has malformed lines elsewhere.
pub fn owned(text: &str) -> Vec<Entry> {
    let ours = |line| match role(line) {
        Ok(Role::Owned(entry)) => Some(entry),
        _ => None,
    };
    lines::split(text).filter_map(ours).collect()
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

/// The other way: what libmount's mangle() escapes, and what would end the line for other readers.
fn escape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    for c in field.chars() {
        match c {
            ' ' | '\t' | '\n' | '\r' | '\\' | '\0' => out.push_str(&format!("\\{:03o}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

/// Our line, as it is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Filesystem UUID, as blkid prints it.
    pub uuid: String,
    pub target: String,
    /// `ext4` or `xfs`.
    pub fs_type: String,
    /// The whole fourth field, from [`options`].
    pub options: String,
}

/// The fourth field of our line: the configured mount options, and what keeps a boot from hanging on them.
pub fn options(configured: &[String]) -> String {
    let mut all: Vec<&str> = configured.iter().map(String::as_str).collect();
    all.retain(|o| !o.is_empty() && !matches!(*o, "nofail" | OWNER_OPTION));
    all.push("nofail");
    if !all.iter().any(|o| o.starts_with("x-systemd.device-timeout=")) {
        all.push(DEVICE_TIMEOUT);
    }
    all.push(OWNER_OPTION);
    all.join(",")
}

impl Line {
    /// The text of the line, without an ending. Passes 0 0: a boot-time fsck would race our own mount.
    pub fn render(&self) -> String {
        let Line { uuid, target, fs_type, options } = self;
        format!("UUID={uuid} {} {fs_type} {} 0 0", escape(target), escape(options))
    }

    fn is_said_by(&self, entry: &Entry) -> bool {
        entry.spec == format!("UUID={}", self.uuid)
            && entry.file == self.target
            && entry.vfstype == self.fs_type
            && entry.options == self.options
            && (entry.freq, entry.passno) == (0, 0)
    }
}

enum Role {
    Other,
    Owned(Entry),
    TakenOver(Entry),
}

fn role(line: Physical<'_>) -> Result<Role, Problem> {
    Ok(match parse_line(line)? {
        Some(entry) if entry.is_owned() => Role::Owned(entry),
        Some(entry) => Role::TakenOver(entry),
        None => disabled_entry(line).map_or(Role::Other, Role::Owned),
    })
}

/// The new text of fstab with exactly one line of ours, or `None` where it is in order as it is.
///
/// A line of somebody else's for the same target is taken over (kept as a comment, ours in its place) where it
/// names the filesystem wanted or `ours` says so; which lines those may be is plan's judgement. Any other
/// line for the target is a conflict, whatever it mounts and even with `noauto`: systemd makes one mount
/// unit for a mount point, from the first line. That includes a tmpfs: such a line is the image's own decision
/// on /tmp (CIS hardening writes it), and were it taken over nothing would bring it back when setup fails.
///
/// Our line is compared field by field, so that one whose blanks somebody aligned stays as it is.
///
/// # Errors
/// The first malformed line, else the first conflict.
pub fn edit(
    text: Option<&str>,
    want: &Line,
    ours: &dyn Fn(&Entry) -> bool,
) -> Result<Option<Edited>, Problem> {
    let text = text.unwrap_or_default();
    parse(text)?;
    let mut rows = Vec::new();
    for line in lines::split(text) {
        let role = match role(line)? {
            Role::TakenOver(entry) if !entry.is_at(&want.target) => Role::Other,
            Role::TakenOver(entry) => {
                let same =
                    matches!(entry.source(), Source::Uuid(uuid) if uuid.eq_ignore_ascii_case(&want.uuid));
                if !same && !ours(&entry) {
                    return Err(conflict(&entry, &want.target));
                }
                Role::TakenOver(entry)
            }
            role => role,
        };
        rows.push((line, role));
    }

    // Where our line goes: where it stands in force and right, else where one of ours is or was, else where the
    // line was that it replaces, else at the end.
    let find = |test: &dyn Fn(&Role) -> bool| rows.iter().position(|(_, role)| test(role));
    let place = find(&|r| matches!(r, Role::Owned(e) if !e.disabled && want.is_said_by(e)))
        .or_else(|| find(&|r| matches!(r, Role::Owned(_))))
        .or_else(|| find(&|r| matches!(r, Role::TakenOver(_))));

    let wanted = want.render();
    let mut changes = Vec::new();
    let mut out = Output::new(lines::style(text));
    for (index, (line, role)) in rows.iter().enumerate() {
        match role {
            Role::Other => out.keep(*line),
            Role::TakenOver(entry) => {
                changes.push(format!("line {} ({}) is replaced and kept as a comment", line.no, entry.spec));
                out.own(&format!("{REPLACED}{}", line.body), line.ending);
                if place == Some(index) {
                    out.own(&wanted, line.ending);
                }
            }
            Role::Owned(entry) if place != Some(index) => {
                changes.push(format!("line {} of ours ({}) is dropped", line.no, entry.spec));
            }
            Role::Owned(entry) if !entry.disabled && want.is_said_by(entry) => out.keep(*line),
            Role::Owned(entry) => {
                let what = if entry.disabled { "is in force again" } else { "is corrected" };
                changes
                    .push(format!("line {} of ours {what}: UUID={} at {}", line.no, want.uuid, want.target));
                out.own(&wanted, line.ending);
            }
        }
    }
    if place.is_none() {
        changes.push(format!("a line for UUID={} at {} is added", want.uuid, want.target));
        out.own(&wanted, "");
    }
    if changes.is_empty() {
        return Ok(None);
    }
    Ok(Some(Edited { text: out.into_text(), change: changes.join("; ") }))
}

fn conflict(entry: &Entry, target: &str) -> Problem {
    let why = if entry.vfstype == "tmpfs" {
        format!("it puts a tmpfs at {target}; take the line out, or choose another target")
    } else {
        format!(
            "it puts something else at {target}; take the line out if that is no longer wanted, or choose another target"
        )
    };
    Problem::Conflict { line_no: entry.line_no, line: quote(&entry.raw), why }
}

/// fstab with our line put out of force, for a setup that failed: nothing then waits for its device, and the
/// distribution's own mount comes. `None` where no line of ours is in force.
///
/// Unlike [`edit`] it does not mind malformed lines elsewhere: a boot must not wait because of them.
pub fn disable(text: &str) -> Option<String> {
    let mut out = Output::new(lines::style(text));
    let mut seen: Vec<&str> = Vec::new();
    let mut changed = false;
    for line in lines::split(text) {
        let (body, was_active) = match role(line) {
            Ok(Role::Owned(entry)) if entry.disabled => (&line.body[DISABLED.len()..], false),
            Ok(Role::Owned(_)) => (line.body, true),
            _ => {
                out.keep(line);
                continue;
            }
        };
        changed |= was_active;
        if !seen.contains(&body) {
            seen.push(body);
            out.own(&format!("{DISABLED}{body}"), line.ending);
        }
    }
    changed.then(|| out.into_text())
}

/// fstab without any line of ours, in force or not; a line that was taken over stays a comment. `None` where
/// there is none. Does not mind malformed lines elsewhere, as [`disable`].
pub fn remove(text: &str) -> Option<String> {
    let mut out = Output::new(lines::style(text));
    let mut changed = false;
    for line in lines::split(text) {
        match role(line) {
            Ok(Role::Owned(_)) => changed = true,
            _ => out.keep(line),
        }
    }
    changed.then(|| out.into_text())
}

#[cfg(test)]
#[path = "fstab_tests.rs"]
mod tests;
