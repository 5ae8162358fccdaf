//! The ioctls of md and NVMe, as safe functions over an open file, and how children are begun. The only `unsafe` of the
//! crate.
//!
//! Nothing here checks that the file is the right device: a driver that does not know a request answers `ENOTTY`,
//! and the kernel writes no more than the size that is part of the request number.
#![allow(unsafe_code)]

pub mod apart;
pub mod block;
pub mod md;
pub mod nvme;

/// Makes the child die with the thread that starts it: an mkfs that outlives a killed run would write to what the next run
/// has made and shown to users.
pub fn die_with_us(command: &mut tokio::process::Command) {
    use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
    let us = getpid();
    let before_exec = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // Killed before that call: nobody will send the signal.
        if getppid() == Some(us) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
    };
    // SAFETY: between fork and exec only two system calls are made; nothing is allocated, no lock is taken.
    unsafe { command.pre_exec(before_exec) };
}
