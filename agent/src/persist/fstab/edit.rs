//! Our line in fstab: wanted, put in, put out of force, taken out.

use std::path::Path;

use super::{DISABLED, Entry, OWNER_OPTION, Source, disabled_entry, parse, parse_line};
use crate::persist::lines::{self, Line as Physical, Output};
use crate::persist::{Edited, Problem, quote};

/// How long systemd waits for the device at boot before it gives the mount up: shorter left the mount out on
/// a slow boot (facts.md 7), and `nofail` keeps this wait from the boot itself.
const DEVICE_TIMEOUT: &str = "x-systemd.device-timeout=90s";
pub(super) const REPLACED: &str = "# nvme-agent: replaced: ";

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

    pub(super) fn is_said_by(&self, entry: &Entry) -> bool {
        entry.spec == format!("UUID={}", self.uuid)
            && entry.file == self.target
            && entry.vfstype == self.fs_type
            && entry.options == self.options
            && (entry.freq, entry.passno) == (0, 0)
    }
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

pub(super) enum Role {
    Other,
    Owned(Entry),
    TakenOver(Entry),
}

pub(super) fn role(line: Physical<'_>) -> Result<Role, Problem> {
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
            Role::TakenOver(entry) if !may_be_replaced(&entry, want, ours) => {
                return Err(in_the_way(&entry, &want.target));
            }
            role => role,
        };
        rows.push((line, role));
    }

    // Where our line goes: where it stands in force and right, else where one of ours is or was, else where the
    // line was that it replaces, else where `new_place` says, else at the end.
    let find = |test: &dyn Fn(&Role) -> bool| rows.iter().position(|(_, role)| test(role));
    let place = find(&|r| matches!(r, Role::Owned(e) if !e.disabled && want.is_said_by(e)))
        .or_else(|| find(&|r| matches!(r, Role::Owned(_))))
        .or_else(|| find(&|r| matches!(r, Role::TakenOver(_))));

    let before = if place.is_none() { new_place(&rows, &want.target) } else { None };

    let wanted = want.render();
    let added = format!("a line for UUID={} at {} is added", want.uuid, want.target);
    let mut changes = Vec::new();
    let mut out = Output::new(lines::style(text));
    for (index, (line, role)) in rows.iter().enumerate() {
        if before == Some(index) {
            changes.push(added.clone());
            out.own(&wanted, "");
        }
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
    if place.is_none() && before.is_none() {
        changes.push(added);
        out.own(&wanted, "");
    }
    if changes.is_empty() {
        return Ok(None);
    }
    Ok(Some(Edited { text: out.into_text(), change: changes.join("; ") }))
}

/// The line before which ours goes where there is none to take its place: one that mounts below the target, or binds
/// something from there, since `mount -a` goes by the order of the file and would cover the first and bind what is about
/// to be covered by the second; else a last line that has no newline, since nothing of the file has to be finished then,
/// and taking ours out gives it back byte for byte. Never before a line that mounts above the target.
fn new_place(rows: &[(Physical<'_>, Role)], target: &str) -> Option<usize> {
    let mounts = |line: &Physical<'_>, test: &dyn Fn(&Entry) -> bool| {
        let entry = parse_line(*line).ok().flatten();
        entry.is_some_and(|e| e.vfstype != "swap" && e.file.starts_with('/') && !e.is_at(target) && test(&e))
    };
    let below = |e: &Entry| [&e.file, &e.spec].iter().any(|path| Path::new(path).starts_with(target));
    let below = rows.iter().position(|(line, _)| mounts(line, &below));
    let unfinished = rows.iter().position(|(line, _)| !line.ending.ends_with('\n'));
    // The root is there before all of them.
    let last_above = rows
        .iter()
        .rposition(|(line, _)| mounts(line, &|e| !e.is_at("/") && Path::new(target).starts_with(&e.file)));
    below.or(unfinished).filter(|place| last_above.is_none_or(|above| above < *place))
}

fn may_be_replaced(entry: &Entry, want: &Line, ours: &dyn Fn(&Entry) -> bool) -> bool {
    matches!(entry.source(), Source::Uuid(uuid) if uuid.eq_ignore_ascii_case(&want.uuid)) || ours(entry)
}

/// The first line that [`edit`] would refuse as a conflict, also in a file that it does not edit because of a malformed
/// line.
pub fn conflict(text: &str, want: &Line, ours: &dyn Fn(&Entry) -> bool) -> Option<Problem> {
    lines::split(text).find_map(|line| match role(line) {
        Ok(Role::TakenOver(entry)) if entry.is_at(&want.target) && !may_be_replaced(&entry, want, ours) => {
            Some(in_the_way(&entry, &want.target))
        }
        _ => None,
    })
}

fn in_the_way(entry: &Entry, target: &str) -> Problem {
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
/// there is none. Does not mind malformed lines elsewhere, as [`disable`]. Where ours had to go after a last line without
/// a newline, the newline stays: that it was missing is not on record, and every reader takes both alike.
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

/// Our own lines, in force or not, also of a file that has malformed lines elsewhere.
pub fn owned(text: &str) -> Vec<Entry> {
    let ours = |line| match role(line) {
        Ok(Role::Owned(entry)) => Some(entry),
        _ => None,
    };
    lines::split(text).filter_map(ours).collect()
}
