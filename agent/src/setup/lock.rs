//! One run at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, Result};
use crate::root::Root;

/// Where the lock is. On a tmpfs, and never removed: a lock that is unlinked can be held twice.
pub const LOCK_PATH: &str = "/run/nvme-agent/lock";

const PAUSE: Duration = Duration::from_millis(50);

/// Takes the run lock, waiting up to `timeout` for a run that holds it. Let go when dropped, or when we die.
///
/// # Errors
/// [`Error::Busy`] at the deadline; [`Error::Io`] where the file cannot be made.
pub fn take(root: &Root, timeout: Duration) -> Result<Flock<File>> {
    take_at(root, LOCK_PATH, timeout)
}

/// As [`take`], with another file as the lock: for commands that exclude themselves only.
///
/// # Errors
/// As [`take`].
pub fn take_at(root: &Root, lock: &str, timeout: Duration) -> Result<Flock<File>> {
    let path = root.join(lock);
    if let Some(dir) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(Error::io(dir, "make the directory"))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(Error::io(&path, "open the lock"))?;
    let deadline = Instant::now() + timeout;
    let mut told = false;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((_, errno)) if errno != Errno::EWOULDBLOCK && errno != Errno::EINTR => {
                return Err(Error::io(&path, "lock it")(std::io::Error::from(errno)));
            }
            Err(_) if Instant::now() >= deadline => {
                return Err(Error::Busy { path, seconds: timeout.as_secs() });
            }
            Err((back, _)) => file = back,
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!("waiting for another nvme-agent run to end");
        }
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_waits_for_the_first_and_gives_up_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let first = take(&root, Duration::ZERO).unwrap();
        let error = take(&root, Duration::from_millis(120)).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        let second = std::thread::spawn(move || take(&root, Duration::from_secs(20)).map(|_| Instant::now()));
        std::thread::sleep(Duration::from_millis(100));
        let released = Instant::now();
        drop(first);
        assert!(second.join().unwrap().unwrap() >= released);
    }
}
