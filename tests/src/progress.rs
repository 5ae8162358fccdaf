//! What the lab is doing, how long it has been at it, how long it took.
//!
//! On a terminal one line at the bottom names what goes on and counts seconds. Elsewhere (a CI log) a step prints a line
//! when it begins and one when it ends, and whenever nothing was printed for half a minute one that says what is still
//! going on: a log that is silent for minutes tells nobody whether to wait.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Set for the processes that run scenarios: whoever started them shows the progress.
pub const CHILD: &str = "NVME_LAB_CHILD";

const SILENCE: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_secs(1);

/// Something that goes on; until it is dropped it is part of what is shown.
#[derive(Debug)]
pub struct Active {
    id: u64,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    what: String,
    since: Instant,
}

#[derive(Debug)]
struct Display {
    active: Vec<Entry>,
    /// Said behind what goes on: how much is done.
    overall: String,
    last_line: Instant,
    terminal: bool,
    child: bool,
    /// Nothing is drawn while somebody else talks to the terminal.
    paused: bool,
}

fn display() -> MutexGuard<'static, Display> {
    static DISPLAY: OnceLock<Mutex<Display>> = OnceLock::new();
    let display = DISPLAY.get_or_init(|| {
        let child = std::env::var_os(CHILD).is_some();
        let terminal = std::io::stderr().is_terminal() && !child;
        if !child {
            std::thread::spawn(tick);
        }
        let (active, overall) = (Vec::new(), String::new());
        Mutex::new(Display { active, overall, last_line: Instant::now(), terminal, child, paused: false })
    });
    display.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn tick() {
    loop {
        std::thread::sleep(TICK);
        let mut display = display();
        if display.active.is_empty() || display.paused {
            continue;
        }
        if display.terminal {
            display.draw();
        } else if display.last_line.elapsed() >= SILENCE {
            let line = format!("  still: {}", display.going_on());
            display.line(&mut std::io::stderr(), &line);
        }
    }
}

impl Display {
    fn going_on(&self) -> String {
        let all: Vec<String> = self
            .active
            .iter()
            .map(|entry| format!("{} ({} s)", entry.what, entry.since.elapsed().as_secs()))
            .collect();
        let overall = if self.overall.is_empty() { String::new() } else { format!("; {}", self.overall) };
        all.join(", ") + &overall
    }

    /// A reader that has gone away is no reason to end.
    fn draw(&self) {
        let width = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_usize);
        let text: String = self.going_on().chars().take(width.saturating_sub(4)).collect();
        let _ = write!(std::io::stderr(), "\r\x1b[K  {text}");
    }

    fn line(&mut self, to: &mut dyn Write, text: &str) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
        let _ = writeln!(to, "{text}").and_then(|()| to.flush());
        self.last_line = Instant::now();
        if self.terminal && !self.paused && !self.active.is_empty() {
            self.draw();
        }
    }
}

impl Active {
    /// Shows this from now on.
    pub fn new(what: &str) -> Active {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        display().active.push(Entry { id, what: what.to_owned(), since: Instant::now() });
        Active { id }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut display = display();
        display.active.retain(|entry| entry.id != self.id);
        if display.terminal && display.active.is_empty() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Runs `work` and says what it is and how long it takes.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let active = Active::new(what);
    {
        let mut display = display();
        if !display.terminal {
            display.line(&mut std::io::stderr(), &format!("  {what} ..."));
        }
    }
    let result = work();
    drop(active);
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    note(&format!("  {what}: {verdict} in {:.1} s", started.elapsed().as_secs_f64()));
    result
}

/// A line about progress, on stderr.
pub fn note(line: &str) {
    display().line(&mut std::io::stderr(), line);
}

/// A line of the result, on stdout.
pub fn say(line: &str) {
    display().line(&mut std::io::stdout(), line);
}

/// What is said behind what goes on ("12 of 40 done").
pub fn overall(text: String) {
    display().overall = text;
}

/// Runs `work` with the terminal to itself (a prompt for a password).
pub fn aside<T>(work: impl FnOnce() -> T) -> T {
    {
        let mut display = display();
        display.paused = true;
        if display.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
    let result = work();
    display().paused = false;
    result
}

/// Whether this process runs a scenario for another.
pub fn is_child() -> bool {
    display().child
}
