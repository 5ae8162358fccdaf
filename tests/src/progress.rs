//! What the lab is doing, how long it has been at it, how long it took.
//!
//! On a terminal the running step's line counts seconds; elsewhere a step prints one line when it starts and one when
//! it ends, so that a CI log shows at once what a silent minute is spent on.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::Result;

/// Runs `work` and says what it is and how long it takes.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let terminal = std::io::stderr().is_terminal();
    if !terminal {
        eprintln!("  {what} ...");
    }
    let (done, ticks) = channel::<()>();
    let label = what.to_owned();
    let ticker = std::thread::spawn(move || {
        if !terminal {
            return;
        }
        loop {
            let _ = write!(std::io::stderr(), "\r  {label} ... {} s ", started.elapsed().as_secs());
            if ticks.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    });
    let result = work();
    drop(done);
    let _ = ticker.join();
    let clear = if terminal { "\r\x1b[K" } else { "" };
    let verdict = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("{clear}  {what}: {verdict} in {:.1} s", started.elapsed().as_secs_f64());
    result
}
