//! Whether the filesystem on the target still answers, asked by a child: who asks one whose device hangs may hang with
//! it, beyond any signal, so it is stat(1) that is left behind then, and never we.

use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Usage;
use crate::error::{Error, Result};
use crate::exec;

/// How long stat(1) may take. It needs milliseconds: the root of a mounted filesystem and its counters are in memory.
const PATIENCE: Duration = Duration::from_secs(10);
/// What stat(1) says of a filesystem that broke, in the C locale: EIO of an xfs that was shut down (xfs_vn_getattr),
/// EUCLEAN of damaged metadata. musl and busybox word the first otherwise.
const BROKEN: [&str; 3] = ["Input/output error", "I/O error", "Structure needs cleaning"];

/// What came of asking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It answers; its space where that could be had.
    Alive(Option<Usage>),
    /// It does not, and why: `says "Input/output error"`.
    Broken(String),
}

/// Asks the filesystem that is mounted on `target`, with `stat` as the program.
///
/// # Errors
/// stat(1) could not be started, or was not allowed to look: nothing is known.
pub fn ask(stat: &Path, target: &str) -> Result<Answer> {
    ask_within(stat, target, PATIENCE)
}

fn ask_within(stat: &Path, target: &str, patience: Duration) -> Result<Answer> {
    let run = |args: &[&str]| {
        let args: Vec<OsString> = args.iter().chain(&["--", target]).map(OsString::from).collect();
        let started = Instant::now();
        match exec::run(stat, &args, patience) {
            Err(_) if started.elapsed() >= patience => {
                Ok(Err(format!("does not answer within {} s", patience.as_secs())))
            }
            other => other.map(Ok),
        }
    };
    // First what is there: an xfs that was shut down still knows its space.
    let there = match run(&["-c", "%i"])? {
        Ok(output) => output,
        Err(silent) => return Ok(Answer::Broken(silent)),
    };
    let said = there.text();
    if let Some(error) = BROKEN.into_iter().find(|error| !there.success() && said.ends_with(error)) {
        return Ok(Answer::Broken(format!("says \"{error}\"")));
    }
    there.check(stat)?;
    // Counters alone are no reason to call it broken: xfs waits for work in the background before it gives them.
    let space = run(&["-f", "-c", "%S %b %f %a"])?.ok().filter(exec::Output::success);
    Ok(Answer::Alive(space.and_then(|output| usage(&output.text()))))
}

/// The space in "block size, blocks, free, available".
fn usage(text: &str) -> Option<Usage> {
    let numbers: Vec<u64> =
        text.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>().ok()?;
    let &[size, blocks, free, available] = numbers.as_slice() else { return None };
    let bytes = |blocks: u64| blocks.saturating_mul(size);
    Some(Usage { size: bytes(blocks), used: bytes(blocks.saturating_sub(free)), available: bytes(available) })
}

/// That there is no stat(1).
pub fn nobody() -> Error {
    Error::Environment("stat: no such program, so nobody asked the filesystem whether it answers".into())
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
