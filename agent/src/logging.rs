//! Logs: journald with structured fields, or stderr where there is no journal; never both.
//!
//! Where an event goes is decided once, at start:
//! - Commands that act (setup, teardown, install) on the host write to journald's native socket, where the fields
//!   of an event can be asked for: `journalctl STEP=make-filesystem`, `DEVICE=`, `SERIAL=`, `DURATION_MS=`. A person
//!   who typed the command sees its result and its final error on the terminal as the command's own output.
//! - Without journald, under `--root`, and for commands that only look, events are lines on stderr.
//! - Where stderr is a terminal, it also shows which step runs, on a line that does not stay ([`progress`]).

mod gate;
pub mod progress;
mod stderr;

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use tracing::level_filters::LevelFilter;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::root::Root;

/// Where journald listens: fixed in tracing-journald, and in systemd.
pub const SOCKET_PATH: &str = "/run/systemd/journal/socket";

/// What sort of command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Changes the machine: its doings belong into the journal.
    Acts,
    /// Only looks: nobody wants a line in the journal for each `status`.
    Looks,
}

/// Where things go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// Events go to journald.
    pub to_journal: bool,
    /// stdout is connected to the journal: systemd started us, and the result is logged already.
    pub stdout_is_journal: bool,
    /// stderr is connected to the journal.
    pub stderr_is_journal: bool,
}

/// Sets up tracing for the process. A second call changes nothing.
pub fn init(root: &Root, kind: Kind, level: LevelFilter) -> Logging {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stdout_is_journal = is_stream(&stream, std::io::stdout());
    let stderr_is_journal = is_stream(&stream, std::io::stderr());
    let journal = if kind == Kind::Acts && root.is_host() { journal() } else { None };
    let to_journal = journal.is_some();
    // Ours alone: what libraries log of requests and answers is not ours to answer for.
    let ours = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level);
    let registry = tracing_subscriber::registry().with(ours);
    if kind == Kind::Acts {
        progress::begin();
    }
    let _ = match journal {
        // stderr would be the journal again.
        Some((journal, gate)) if stderr_is_journal => {
            registry.with(journal.with_filter(gate::Takes(gate))).try_init()
        }
        Some((journal, gate)) => registry
            .with(stderr::layer(progress::stderr).with_filter(gate::Refuses(gate.clone())))
            .with(journal.with_filter(gate::Takes(gate)))
            .try_init(),
        None => registry.with(stderr::layer(progress::stderr)).try_init(),
    };
    Logging { to_journal, stdout_is_journal, stderr_is_journal }
}

/// The journal, and whether it has room; none where there is none.
fn journal() -> Option<(tracing_journald::Layer, gate::Gate)> {
    // First: the layer's own greeting would block.
    let gate = gate::Gate::at(Path::new(SOCKET_PATH))?;
    let journal = tracing_journald::layer().ok()?;
    // Priorities of syslog(3) as other services have them: info is 6, not 5.
    let priorities =
        PriorityMappings { info: Priority::Informational, debug: Priority::Debug, ..PriorityMappings::new() };
    let journal = journal
        .with_syslog_identifier("nvme-agent".into())
        .with_field_prefix(None)
        .with_priority_mappings(priorities);
    Some((journal, gate))
}

impl Logging {
    /// Says a command's final error: once in the journal where there is one, once on a stderr that is not the
    /// journal.
    pub fn error(&self, message: &str, reason: &str, code: u8) {
        if self.to_journal {
            tracing::error!(reason, exit_code = code, "{message}");
            if self.stderr_is_journal {
                return;
            }
        }
        let _ = std::io::stderr().write_all(stderr::line("error", message).as_bytes());
    }
}

/// `text` on one line: line ends become `; `, and what a terminal might obey or cannot show is escaped.
pub fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    ascii(&lines.join("; "))
}

/// `text` with everything but printable ASCII and line feeds escaped.
pub fn ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | ' '..='~' => out.push(c),
            '\t' => out.push(' '),
            other => out.extend(other.escape_default()),
        }
    }
    out
}

/// True where `JOURNAL_STREAM` (`device:inode`, systemd.exec(5)) names this very descriptor. Children of a unit
/// inherit the variable also where their output is redirected.
fn is_stream(variable: &str, fd: impl AsFd) -> bool {
    let Some((device, inode)) = variable.split_once(':') else { return false };
    match nix::sys::stat::fstat(fd) {
        Ok(stat) => device.parse() == Ok(stat.st_dev) && inode.parse() == Ok(stat.st_ino),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journal_stream_must_name_the_descriptor_itself() {
        let file = tempfile::tempfile().unwrap();
        let stat = nix::sys::stat::fstat(&file).unwrap();
        assert!(is_stream(&format!("{}:{}", stat.st_dev, stat.st_ino), &file));
        assert!(!is_stream(&format!("{}:{}", stat.st_dev, stat.st_ino + 1), &file));
        for nonsense in ["", ":", "1", "a:b", "1:2:3"] {
            assert!(!is_stream(nonsense, &file), "{nonsense}");
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(one_line("a\n  b\n\n\u{1b}[31mred\u{7f}\u{e4}\r\n"), "a; b; \\u{1b}[31mred\\u{7f}\\u{e4}");
    }
}
