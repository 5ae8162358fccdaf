//! persist: fstab, mdadm.conf, tmpfiles.d: parse, edit, write atomically.
//!
//! The editing functions are pure (text in, text out), so that plan can judge and show a change before
//! anything is written; [`atomic`] alone touches files. Each edit owns exactly one line (or one file), says so
//! in that line, leaves every other byte as it was, and finds nothing to do the second time.

pub mod atomic;
mod attributes;
pub mod fstab;
mod lines;
pub mod mdadm_conf;
pub mod tmpfiles;

/// The fstab that every function here is about.
pub const FSTAB_PATH: &str = "/etc/fstab";

/// A file's whole new text, and the change in words (for `plan` and the journal).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    pub text: String,
    /// Such as "line 3 (/dev/md0) is replaced and kept as a comment".
    pub change: String,
}

/// Why a file is not edited. Nothing of it quotes mount options: they can hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A line that its readers cannot parse.
    #[error("line {line_no} is malformed ({why}): `{line}`")]
    Malformed { line_no: usize, line: String, why: String },
    /// A line of somebody else's that says the opposite of what we would write.
    #[error("line {line_no} is in the way ({why}): `{line}`")]
    Conflict { line_no: usize, line: String, why: String },
}

impl Problem {
    pub fn line_no(&self) -> usize {
        match self {
            Problem::Malformed { line_no, .. } | Problem::Conflict { line_no, .. } => *line_no,
        }
    }
}

/// The first three words of a line: enough to find it, and never a mount option.
fn quote(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let mut text = words.iter().take(3).copied().collect::<Vec<_>>().join(" ");
    if words.len() > 3 {
        text.push_str(" ...");
    }
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(160).collect()
}
