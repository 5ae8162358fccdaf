//! Child processes with deadlines.
//!
//! The agent runs at boot, before kubelet: a child that hangs must never hang the node. A process in an
//! uninterruptible read cannot be reaped until its device answers, not even after SIGKILL, so at the deadline
//! a child is killed with its process group and, if that does not end it, left behind without any pipe of ours.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::ioctl::die_with_us;
use crate::root::Root;

/// Bytes of each stream that are kept; what follows is read and dropped, so that the child does not block.
pub const OUTPUT_LIMIT: usize = 64 << 10;
/// How long a killed child may take to go away before it is abandoned.
const REAP_TIME: Duration = Duration::from_secs(2);
/// How long a pipe may stay open after the child has ended (a grandchild may hold it).
const DRAIN_TIME: Duration = Duration::from_secs(1);
/// Where programs are looked for, in this order; also the child's whole PATH.
const PROGRAM_DIRS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

static COUNT: AtomicU64 = AtomicU64::new(0);
static MICROS: AtomicU64 = AtomicU64::new(0);

/// How a child ended and what it said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Exit status; none if a signal ended it.
    pub status: Option<i32>,
    pub signal: Option<i32>,
    /// At most [`OUTPUT_LIMIT`] bytes.
    pub stdout: Vec<u8>,
    /// At most [`OUTPUT_LIMIT`] bytes.
    pub stderr: Vec<u8>,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status == Some(0)
    }

    /// Both streams as text, for people: stderr first, since errors are there.
    pub fn text(&self) -> String {
        let streams = [&self.stderr, &self.stdout].map(|s| String::from_utf8_lossy(s).trim().to_owned());
        streams.into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("\n")
    }

    /// The output where the child exited with 0.
    ///
    /// # Errors
    /// [`Error::Child`] with what it said otherwise.
    pub fn check(self, program: &Path) -> Result<Output> {
        let problem = match (self.status, self.signal) {
            (Some(0), _) => return Ok(self),
            (Some(status), _) => format!("failed with status {status}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended without a status".to_owned(),
        };
        Err(Error::Child { program: program.display().to_string(), problem, output: self.text() })
    }
}

/// Children started by this process so far.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Time this process has spent waiting for children.
pub fn time_in_children() -> Duration {
    Duration::from_micros(MICROS.load(Ordering::Relaxed))
}

/// Where `name` is installed under `root`, as a path of the host; the first of [`PROGRAM_DIRS`] wins.
pub fn find_program(root: &Root, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    PROGRAM_DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| {
        root.follow(path).metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    })
}

/// A program to run, and how.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub program: &'a Path,
    pub args: &'a [OsString],
    /// Besides `PATH` and `LC_ALL=C`, which they override.
    pub env: &'a [(OsString, OsString)],
    /// From start to the last byte; then its process group is killed.
    pub deadline: Duration,
    /// What it says is never repeated, in no error and no log, nor are its arguments.
    pub secret: bool,
}

/// Runs `program` with `args` and waits for it until `deadline`, whatever its exit status.
///
/// The child gets no stdin, an environment of `PATH` and `LC_ALL=C` only, `/` as its directory, and a process
/// group of its own, all of which is killed at the deadline. Not for programs whose output is secret: an
/// error repeats it. Not within an async runtime: see [`output`].
///
/// # Errors
/// [`Error::Child`] where it could not be started, or had to be killed; with its output so far.
pub fn run(program: &Path, args: &[OsString], deadline: Duration) -> Result<Output> {
    run_call(Call { program, args, env: &[], deadline, secret: false })
}

/// As [`run`], and as [`Call`] says.
///
/// # Errors
/// As [`run`].
pub fn run_call(call: Call<'_>) -> Result<Output> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io(call.program, "start a child process for"))?;
    let result = runtime.block_on(output(call));
    // Never wait for anything that is left: an abandoned child must not hold us.
    runtime.shutdown_background();
    result
}

/// As [`run`], within an async runtime, and as [`Call`] says.
///
/// # Errors
/// As [`run`].
pub async fn output(call: Call<'_>) -> Result<Output> {
    let started = Instant::now();
    COUNT.fetch_add(1, Ordering::Relaxed);
    let result = supervise(call).await;
    let elapsed = started.elapsed();
    MICROS.fetch_add(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    tracing::debug!(
        program = %call.program.display(),
        args = ?if call.secret { &[] } else { call.args },
        duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        status = ?result.as_ref().ok().and_then(|o| o.status),
        "ran {}",
        call.program.display()
    );
    result
}

async fn supervise(call: Call<'_>) -> Result<Output> {
    let failed = |problem: String, output: &Output| Error::Child {
        program: call.program.display().to_string(),
        problem,
        output: if call.secret { String::new() } else { output.text() },
    };
    let mut command = Command::new(call.program);
    command
        .args(call.args)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .envs(call.env.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    die_with_us(&mut command);
    let mut child =
        command.spawn().map_err(|e| failed(format!("could not be started: {e}"), &Output::default()))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let kill_group = || {
        if let Some(group) = group {
            let _ = killpg(group, Signal::SIGKILL);
        }
    };

    // Kept outside the futures that fill them: what was said before the deadline is shown.
    let (out, err) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let taken = |status: Option<ExitStatus>| Output {
        status: status.and_then(|s| s.code()),
        signal: status.and_then(|s| s.signal()),
        stdout: std::mem::take(&mut *lock(&out)),
        stderr: std::mem::take(&mut *lock(&err)),
    };
    let ended = {
        let reading = async { tokio::join!(collect(stdout, &out), collect(stderr, &err)) };
        tokio::pin!(reading);
        let mut read = false;
        let waiting = async {
            // The readers run beside the wait, else a child with much to say would block.
            loop {
                tokio::select! {
                    status = child.wait() => break status,
                    _ = &mut reading, if !read => read = true,
                }
            }
        };
        let status = timeout(call.deadline, waiting).await;
        if status.is_ok() && !read && timeout(DRAIN_TIME, reading).await.is_err() {
            // A grandchild holds the pipe: it does not outlive what started it.
            kill_group();
        }
        status
    };
    match ended {
        Ok(Ok(status)) => Ok(taken(Some(status))),
        Ok(Err(e)) => Err(failed(format!("could not be waited for: {e}"), &taken(None))),
        Err(_) => {
            kill_group();
            let gone = timeout(REAP_TIME, child.wait()).await.is_ok();
            let fate = if gone {
                "and was killed"
            } else {
                "and does not die (its device does not answer?): it was left behind"
            };
            let seconds = call.deadline.as_secs_f64();
            Err(failed(format!("was not done within {seconds:.1} s {fate}"), &taken(None)))
        }
    }
}

fn lock(buffer: &Mutex<Vec<u8>>) -> std::sync::MutexGuard<'_, Vec<u8>> {
    buffer.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn collect(stream: Option<impl AsyncRead + Unpin>, kept: &Mutex<Vec<u8>>) {
    let Some(mut stream) = stream else { return };
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        let mut kept = lock(kept);
        let room = OUTPUT_LIMIT.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..n.min(room)]);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
#[path = "exec_tests.rs"]
mod tests;
