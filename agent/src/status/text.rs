//! The report for people: one screen, and for eight drives within 2,500 characters, which is what the SSM console
//! shows of a command's output. The verdict and the next action are its first lines.

mod drives;
mod storage;
#[cfg(test)]
mod tests;
mod units;

use std::fmt::{self, Display, Write};

use super::{Finding, Report, Verdict};
use crate::logging::{ascii, one_line};
use units::{bytes, duration};

/// What fits there.
const SCREEN: usize = 2500;
/// Steps are shown from this time on, in milliseconds; the others only count.
const SLOW_STEP: u64 = 5;

/// How much is shown; JSON has it all.
#[derive(Clone, Copy)]
struct Limits {
    /// Characters of why, and of what to do next.
    sentence: usize,
    /// Characters of any other row.
    row: usize,
    /// Characters of one of several notes or problems.
    item: usize,
    /// Notes or problems of a kind.
    items: usize,
    /// Of the drives: which warnings, and latencies.
    details: bool,
}

/// From roomy to tight: the first that fits on the screen is shown.
const LIMITS: [Limits; 3] = [
    Limits { sentence: 600, row: 600, item: 400, items: 6, details: true },
    Limits { sentence: 280, row: 280, item: 110, items: 2, details: true },
    TIGHTEST,
];
const TIGHTEST: Limits = Limits { sentence: 240, row: 120, item: 70, items: 1, details: false };

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.screen(false))
    }
}

impl Report {
    /// One screen of printable ASCII. With `colour`, the verdict and what is wrong have the escape codes of a terminal
    /// around them.
    pub fn screen(&self, colour: bool) -> String {
        let page = LIMITS.iter().map(|limits| Page::of(self, *limits)).find(Page::fits);
        page.unwrap_or_else(|| Page::of(self, TIGHTEST).cut()).print(colour)
    }
}

/// How a line is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

impl Tone {
    fn of(verdict: Verdict) -> Tone {
        match verdict {
            Verdict::Ready | Verdict::Absent => Tone::Good,
            Verdict::Degraded | Verdict::NotSetUp => Tone::Warning,
            Verdict::Failed => Tone::Bad,
        }
    }

    /// The escape code (ECMA-48, SGR); none where it is as any other text.
    fn code(self) -> Option<&'static str> {
        match self {
            Tone::Plain => None,
            Tone::Good => Some("\x1b[32m"),
            Tone::Warning => Some("\x1b[33m"),
            Tone::Bad => Some("\x1b[31m"),
        }
    }
}

struct Line {
    /// ASCII.
    text: String,
    tone: Tone,
    /// How many characters have that tone, from the start.
    toned: usize,
}

/// The text as it grows.
struct Page {
    lines: Vec<Line>,
    limits: Limits,
}

impl Page {
    fn of(report: &Report, limits: Limits) -> Page {
        let mut page = Page { lines: Vec::new(), limits };
        page.head(report);
        page.storage(report);
        page.drives(report);
        page.setup(report);
        page.list(Tone::Plain, "node", &report.node.lines());
        if let Some(there) = &report.node.on_node {
            let tone = if there.agrees == Some(true) { Tone::Plain } else { Tone::Warning };
            page.toned_row(tone, "on node", &there.line());
        }
        page.host(report);
        // The mount's row says that.
        let told = report.mount.as_ref().is_some_and(|mount| mount.hidden_files.is_some());
        let notes = report.notes.iter().filter(|note| !told || !note.ends_with("hidden by the mount"));
        page.list(Tone::Plain, "note", &notes.cloned().collect::<Vec<_>>());
        page.list(Tone::Warning, "unread", &report.unreadable);
        page
    }

    fn len(&self) -> usize {
        self.lines.iter().map(|line| line.text.len() + 1).sum()
    }

    fn fits(&self) -> bool {
        self.len() <= SCREEN
    }

    /// Without its last lines, so that it fits.
    fn cut(mut self) -> Page {
        const MORE: &str = "...     the rest is in --output json";
        while self.len() + MORE.len() + 1 > SCREEN && self.lines.pop().is_some() {}
        self.line(Tone::Plain, MORE);
        self
    }

    fn print(&self, colour: bool) -> String {
        let mut text = String::with_capacity(SCREEN);
        for line in &self.lines {
            let (head, tail) = line.text.split_at(line.toned.min(line.text.len()));
            let _ = match line.tone.code().filter(|_| colour) {
                Some(code) => writeln!(text, "{code}{head}\x1b[0m{tail}"),
                None => writeln!(text, "{head}{tail}"),
            };
        }
        text
    }

    fn head(&mut self, report: &Report) {
        let word = report.state.as_str();
        let mut head = word.to_owned();
        if !report.reason.is_empty() {
            let _ = write!(head, " ({})", report.reason);
        }
        if let Some(since) = &report.since {
            let _ = write!(head, " since {since}");
        }
        self.line(Tone::of(report.state), &head);
        if let Some(head) = self.lines.last_mut() {
            head.toned = word.len();
        }
        self.cut_row(Tone::Plain, "why", &report.message, self.limits.sentence);
        if let Some(next) = &report.next {
            self.cut_row(Tone::Plain, "next", next, self.limits.sentence);
        }
        let is_head = |found: &&Finding| found.reason == report.reason && found.message == report.message;
        let sentence = |found: &Finding| {
            format!("{}: {}. {}", found.reason, found.message.trim_end_matches('.'), found.next)
        };
        let further = report.findings.iter().filter(|found| !is_head(found)).map(sentence);
        self.list(Tone::Bad, "also", &further.collect::<Vec<_>>());
        let warnings: Vec<String> = report.warnings.iter().map(sentence).collect();
        self.list(Tone::Warning, "warning", &warnings);
    }

    fn setup(&mut self, report: &Report) {
        let Some(setup) = &report.last_setup else { return };
        let mut text = format!("{}, by {}, {} ms", setup.finished, setup.trigger, setup.duration_ms);
        if setup.agent != report.agent {
            let _ = write!(text, ", by agent {}", setup.agent);
        }
        if !setup.steps.is_empty() {
            let slow = setup.steps.iter().filter(|step| step.millis >= SLOW_STEP);
            let mut parts: Vec<String> = slow.map(|step| format!("{} {}", step.name, step.millis)).collect();
            let quick = setup.steps.len() - parts.len();
            if quick > 0 {
                parts.push(format!("{quick} under {SLOW_STEP}"));
            }
            let _ = write!(text, ": {}", parts.join(", "));
        }
        self.row("setup", &text);
    }

    fn host(&mut self, report: &Report) {
        self.row("agent", &report.agent);
        let Some(host) = &report.host else { return };
        let parts = [
            host.instance_type.clone(),
            host.kernel.as_ref().map(|kernel| format!("kernel {kernel}")),
            host.uptime_s.map(|seconds| format!("up {}", duration(seconds))),
            host.memory_bytes.map(|memory| format!("memory {}", bytes(memory))),
            host.memory_available_bytes.map(|memory| format!("{} of it available", bytes(memory))),
        ];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
        self.row("host", if text.is_empty() { "nothing could be read" } else { &text });
    }

    fn row(&mut self, name: &str, text: &str) {
        self.toned_row(Tone::Plain, name, text);
    }

    fn toned_row(&mut self, tone: Tone, name: &str, text: &str) {
        self.cut_row(tone, name, text, self.limits.row);
    }

    fn list(&mut self, tone: Tone, name: &str, items: &[String]) {
        for item in items.iter().take(self.limits.items) {
            self.cut_row(tone, name, item, self.limits.item);
        }
        match items.len().saturating_sub(self.limits.items) {
            0 => {}
            more => self.toned_row(tone, name, &format!("and {more} more: --output json")),
        }
    }

    fn cut_row(&mut self, tone: Tone, name: &str, text: &str, limit: usize) {
        self.line(tone, &format!("{name:<7} {}", shortened(text, limit)));
    }

    /// A line as it is, indentation too.
    fn line(&mut self, tone: Tone, line: &str) {
        let text = ascii(line).replace('\n', " ");
        let toned = text.len();
        self.lines.push(Line { text, tone, toned });
    }
}

/// On one line, at most `limit` characters and dots in the place of the others.
fn shortened(text: &str, limit: usize) -> String {
    // ASCII after this, so that bytes are characters.
    let text = one_line(text);
    match text.get(..limit) {
        Some(head) if text.len() > limit => format!("{head}..."),
        _ => text,
    }
}
