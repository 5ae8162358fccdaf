//! A process of its own for a system call that may never return.
//!
//! A thread would not do: a process with one thread in an uninterruptible read cannot be reaped until the device answers,
//! not even after SIGKILL. A child can be left behind, provided that nobody waits for anything that it holds.

use std::fs::File;
use std::io::Result;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::unistd::{ForkResult, Pid, fork};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal, setsid};

/// A child at work, and the end of a pipe from which its answer is read.
#[derive(Debug)]
pub struct Apart {
    pub pid: Pid,
    /// At its end when the child is done, or gone.
    pub answer: OwnedFd,
}

/// Has `work` done by a child of this process, a copy of it that ends with `work`; what it writes to the file is the answer.
///
/// The child holds nothing but its end of that pipe: whoever waits for the end of our output, or for our session, does
/// not wait for the child. It dies with us unless the kernel cannot let it.
///
/// `work` reads, writes and asks the kernel, with what was made before: it allocates nothing, prints nothing, logs nothing
/// and starts nothing. Whatever other threads of ours were in the middle of, holding its lock, stays so in the copy.
///
/// # Errors
/// There are no more processes or files to be had.
pub fn start(work: impl FnOnce(&mut File)) -> Result<Apart> {
    let (answer, to_us) = pipe_with(PipeFlags::CLOEXEC)?;
    let us = getpid();
    // SAFETY: the child never returns from here, and makes system calls only: it takes no lock that a thread which is not in
    // the copy may hold.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Apart { pid: child, answer }),
        ForkResult::Child => {
            // Out of the session and the group that somebody may wait for, or signal.
            let _ = setsid();
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            // Killed before that call: nobody will send the signal.
            let wanted = getppid() == Some(us);
            if wanted {
                close_all_but(to_us.as_raw_fd());
                work(&mut File::from(to_us));
            }
            // SAFETY: ends the process at once: no handler of the copy runs, no buffer of ours is written a second time.
            unsafe { libc::_exit(i32::from(!wanted)) }
        }
    }
}

/// Closes every file of this process but one.
fn close_all_but(kept: i32) {
    let kept = kept.unsigned_abs();
    let close = |first: u32, last: u32| {
        // SAFETY: no memory is touched; what is closed here is used by nobody in a process that only does `work`.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) == 0 }
    };
    let below = kept == 0 || close(0, kept - 1);
    if below && close(kept + 1, u32::MAX) {
        return;
    }
    // Before Linux 5.9, as on Amazon Linux 2. We have a dozen at most, and what we were given besides counts from 0.
    for fd in (0..1024).filter(|fd| *fd != kept) {
        // SAFETY: as above.
        unsafe { libc::close(fd as i32) };
    }
}

/// Kills the child, and takes its end note where it has one; false where it does not die, being in the hands of the
/// kernel: it is left behind.
pub fn end(child: Pid) -> bool {
    let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
    // It needs a moment to be scheduled once more, on a busy machine too.
    [0, 1, 2, 4, 8, 16, 32].into_iter().any(|pause| {
        std::thread::sleep(std::time::Duration::from_millis(pause));
        !is_alive(child)
    })
}

/// False where the child has ended, and its end note is taken; also of a process that is no child of ours.
pub fn is_alive(child: Pid) -> bool {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    waitpid(child, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive)
}

/// Takes the end note of a child whose answer is at its end; false where it was ended before it had said all, as by the
/// kernel when memory is short. Its own end is not waited for without limit.
pub fn reap(child: Pid) -> bool {
    use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
    for pause in [0, 1, 2, 4, 8, 16, 32, 64, 128, 256] {
        std::thread::sleep(std::time::Duration::from_millis(pause));
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(status) => return matches!(status, WaitStatus::Exited(_, 0)),
            Err(_) => return false,
        }
    }
    // It closed the pipe by itself, and is on its way.
    true
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn the_child_answers_and_holds_none_of_our_files() {
        let (ours, theirs) = pipe_with(PipeFlags::empty()).unwrap();
        let child = start(|answer| {
            let open =
                (0..1024).filter(|fd| std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists()).count();
            let _ = write!(answer, "{open}");
            std::thread::sleep(std::time::Duration::from_secs(60));
        })
        .unwrap();
        // The end of our output, while the child is at work.
        drop(theirs);
        let mut rest = String::new();
        File::from(ours).read_to_string(&mut rest).unwrap();
        let mut said = [0; 8];
        let n = File::from(child.answer).read(&mut said).unwrap();
        assert_eq!(&said[..n], b"1");
        assert!(end(child.pid), "it sleeps, so it dies");
        assert!(!std::path::Path::new(&format!("/proc/{}", child.pid)).exists());
    }

    #[test]
    fn a_child_that_was_ended_has_not_said_all() {
        let child = start(|_| std::thread::sleep(std::time::Duration::from_secs(60))).unwrap();
        nix::sys::signal::kill(child.pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert_eq!(File::from(child.answer).read(&mut [0]).unwrap(), 0, "the end of its answer");
        assert!(!reap(child.pid));
    }

    #[test]
    fn a_child_that_is_done_is_read_to_its_end() {
        let child = start(|answer| drop(answer.write_all(b"done"))).unwrap();
        let mut said = String::new();
        File::from(child.answer).read_to_string(&mut said).unwrap();
        assert_eq!(said, "done");
        assert!(reap(child.pid));
    }
}
