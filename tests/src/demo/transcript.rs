//! What the demo shows: told to the reader as it happens, and kept for a picture.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::progress::say;

/// What a line is, which decides its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A chapter.
    Heading,
    /// A command, as typed in the guest.
    Command,
    /// What it printed.
    Output,
    /// Something that was checked and holds.
    Good,
    /// Something that does not.
    Bad,
    /// What happens and how long it took.
    Event,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub kind: Kind,
    /// Its text.
    pub text: String,
}

/// All lines so far.
#[derive(Debug)]
pub struct Transcript {
    started: Instant,
    colours: bool,
    lines: Vec<Line>,
}

impl Transcript {
    /// Begins now.
    pub fn new() -> Transcript {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Transcript { started: Instant::now(), colours, lines: Vec::new() }
    }

    /// Shows a line and keeps it.
    pub fn line(&mut self, kind: Kind, text: impl Into<String>) {
        let line = Line { kind, text: text.into() };
        say(&if self.colours { coloured(&line) } else { line.text.clone() });
        self.lines.push(line);
    }

    /// A chapter, after an empty line, with the time since the start.
    pub fn heading(&mut self, text: &str) {
        if !self.lines.is_empty() {
            self.line(Kind::Output, "");
        }
        let stamp = minutes(self.started.elapsed());
        self.line(Kind::Heading, format!("[{stamp}] {text}"));
    }

    /// Several lines of output.
    pub fn output(&mut self, text: &str) {
        for line in text.lines() {
            self.line(Kind::Output, line.trim_end());
        }
    }

    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// For the picture.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }
}

impl Default for Transcript {
    fn default() -> Self {
        Transcript::new()
    }
}

/// `1:05`.
pub fn minutes(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

fn coloured(line: &Line) -> String {
    let code = match line.kind {
        Kind::Heading => "1;36",
        Kind::Command => "1",
        Kind::Output => return line.text.clone(),
        Kind::Good => "32",
        Kind::Bad => "1;31",
        Kind::Event => "2",
    };
    format!("\x1b[{code}m{}\x1b[0m", line.text)
}
