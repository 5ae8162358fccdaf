//! The last line of a terminal while setup works: which step runs, and for how long it has. It is gone when the step is
//! done, and there is nothing of it where stderr is no terminal.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::one_line;
use crate::terminal;

/// Between two drawings.
const TICK: Duration = Duration::from_millis(200);
/// Back to the start of the line, which is cleared (ECMA-48, EL).
const ERASE: &[u8] = b"\r\x1b[K";
/// Columns where the terminal does not say how many it has.
const COLUMNS: usize = 80;

/// stderr, where it is a terminal.
static SCREEN: OnceLock<Arc<Screen>> = OnceLock::new();

/// Shows steps from now on, where stderr is a terminal.
pub(super) fn begin() {
    let stderr = io::stderr();
    if terminal::takes_codes(&stderr, |name| std::env::var_os(name))
        && let Ok(file) = stderr.as_fd().try_clone_to_owned()
    {
        let _ = SCREEN.set(Arc::new(Screen::new(file.into())));
    }
}

/// Shows step `number` (from 1) of `all`, as far as that is known, until what is returned is dropped.
pub fn step(number: usize, all: Option<usize>, words: &str) -> Progress {
    Progress::on(SCREEN.get(), number, all, words)
}

/// stderr for whole lines: the step's line makes way for each.
pub(super) fn stderr() -> Box<dyn Write> {
    match SCREEN.get() {
        Some(screen) => Box::new(Lines(screen.clone())),
        None => Box::new(io::stderr()),
    }
}

/// A terminal, and whether the step's line is on it.
struct Screen {
    file: File,
    drawn: Mutex<bool>,
}

impl Screen {
    fn new(file: File) -> Screen {
        Screen { file, drawn: Mutex::new(false) }
    }

    fn draw(&self, text: &str) {
        let mut drawn = self.drawn.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // A terminal that was stopped (Ctrl-S), or whose connection hangs, does not hold up the work.
        if !self.has_room() {
            return;
        }
        // The last column stays free: some terminals go to the next line after it.
        let columns = terminal::size(&self.file).map_or(COLUMNS, |(_, columns)| columns);
        let text = text.get(..columns.saturating_sub(1)).unwrap_or(text);
        *drawn = (&self.file).write_all(&[ERASE, text.as_bytes()].concat()).is_ok();
    }

    fn erase(&self) {
        let mut drawn = self.drawn.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if *drawn && self.has_room() {
            let _ = (&self.file).write_all(ERASE);
            *drawn = false;
        }
    }

    fn has_room(&self) -> bool {
        let mut files = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        poll(&mut files, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

/// Whole lines for a terminal.
struct Lines(Arc<Screen>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut drawn = self.0.drawn.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if std::mem::take(&mut *drawn) {
            (&self.0.file).write_all(ERASE)?;
        }
        (&self.0.file).write_all(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A step that is shown.
pub struct Progress {
    /// None where nothing is shown.
    shown: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    fn on(screen: Option<&Arc<Screen>>, number: usize, all: Option<usize>, words: &str) -> Progress {
        let Some(screen) = screen.cloned() else { return Progress { shown: None } };
        let all = all.map(|all| format!(" of {all}")).unwrap_or_default();
        let (head, words) = (format!("nvme-agent: step {number}{all}"), one_line(words));
        let (end, ended) = mpsc::channel();
        let draws = move || {
            let begun = Instant::now();
            loop {
                screen.draw(&format!("{head}, {:.1} s: {words}", begun.elapsed().as_secs_f64()));
                if ended.recv_timeout(TICK) != Err(RecvTimeoutError::Timeout) {
                    return screen.erase();
                }
            }
        };
        // Where there is no thread to be had there is no line, and the step goes on.
        let thread = std::thread::Builder::new().name("progress".into()).spawn(draws).ok();
        Progress { shown: thread.map(|thread| (end, thread)) }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.shown.take() {
            drop(end);
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
