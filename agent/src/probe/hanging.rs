//! Children that could not be killed, so that the next look leaves that device in peace.
//!
//! A note in /run for each, made when it is left behind. One of another boot is of no meaning there: /run is memory. Where
//! it cannot be made, this process knows by itself, for as long as it looks (`--watch`).

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use nix::unistd::Pid;

use crate::ioctl::apart;
use crate::root::Root;

/// A file for whoever hangs, with the child's process id and when it was started.
pub const HANGING_DIR: &str = "/run/nvme-agent/hanging";

/// Children of this process, each with the file that notes it.
static LEFT_BEHIND: Mutex<Vec<(PathBuf, Pid)>> = Mutex::new(Vec::new());

/// The notes under a root.
pub struct Hanging<'a> {
    root: &'a Root,
    /// There are any: the rule is that there are none.
    any: bool,
}

impl<'a> Hanging<'a> {
    pub fn look(root: &'a Root) -> Hanging<'a> {
        Hanging { root, any: root.join(HANGING_DIR).is_dir() }
    }

    /// That a child of ours hangs in `name`, in words for people; none where none does.
    pub fn since(&self, name: &str) -> Option<String> {
        let path = self.path(name);
        let ours = left_behind(|all| all.iter().find(|(at, _)| *at == path).map(|(_, pid)| *pid));
        if let Some(pid) = ours {
            return Some(format!("does not answer: process {pid}, which asked it earlier, hangs in it"));
        }
        if !self.any {
            return None;
        }
        let note = fs::read_to_string(&path).ok()?;
        let (pid, start) = note.trim().split_once(' ')?;
        let pid: i32 = pid.parse().ok()?;
        if started(self.root, Pid::from_raw(pid)).as_deref() == Some(start) {
            return Some(format!("does not answer: process {pid}, which asked it earlier, hangs in it"));
        }
        // It answered after all; only root may take the note away, and for others it says nothing any more.
        let _ = fs::remove_file(path);
        None
    }

    /// Notes that `child`, asking `name`, was left behind. Where that cannot be done (not root) each run leaves one behind.
    pub fn remember(&self, name: &str, child: Pid) {
        let path = self.path(name);
        left_behind(|all| all.push((path.clone(), child)));
        let Some(start) = started(self.root, child) else { return };
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, format!("{child} {start}\n")));
        if let Err(error) = written {
            tracing::debug!("{}: cannot write: {error}", path.display());
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(HANGING_DIR).join(name.replace('/', "-"))
    }
}

/// Of this process' children that were left behind, those that still are; of the others the end note is taken.
fn left_behind<T>(with: impl FnOnce(&mut Vec<(PathBuf, Pid)>) -> T) -> T {
    let mut all = LEFT_BEHIND.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|(_, child)| apart::is_alive(*child));
    with(&mut all)
}

/// When the process was started, in ticks since boot: with it a process id is never mistaken for that of a later process.
/// Field 22 of /proc/PID/stat (proc(5)); none where there is no such process, or only its end note.
fn started(root: &Root, pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(root.join(format!("/proc/{pid}/stat"))).ok()?;
    // The name, in parentheses, may have anything in it.
    let mut rest = stat.rsplit_once(") ")?.1.split_ascii_whitespace();
    match rest.next()? {
        "Z" | "X" => None,
        _ => rest.nth(18).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_write_no_note_asks_once_and_leaves_no_end_note() {
        let dir = tempfile::tempdir().unwrap();
        // A file: nothing can be noted below it, by root neither.
        fs::write(dir.path().join("run"), "").unwrap();
        let root = Root::new(dir.path());
        let child = apart::start(|_| std::thread::sleep(std::time::Duration::from_secs(60))).unwrap();
        Hanging::look(&root).remember("tmp", child.pid);
        let said = Hanging::look(&root).since("tmp").unwrap();
        assert!(said.contains(&format!("process {}", child.pid)), "{said}");
        assert_eq!(Hanging::look(&root).since("nvme1n1"), None);
        nix::sys::signal::kill(child.pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while Hanging::look(&root).since("tmp").is_some() {
            assert!(std::time::Instant::now() < deadline, "it has ended");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(!PathBuf::from(format!("/proc/{}", child.pid)).exists(), "its end note is left");
    }

    #[test]
    fn a_child_that_hangs_is_known_until_it_is_gone_and_a_later_process_is_no_such() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let live = |pid: i32, stat: &str| {
            fs::create_dir_all(root.join(format!("/proc/{pid}"))).unwrap();
            fs::write(root.join(format!("/proc/{pid}/stat")), stat).unwrap();
        };
        let stat = |state: &str, start: u32| {
            format!("77 (a b) c) {state} 1 77 77 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 {start} 0 0\n")
        };
        assert_eq!(Hanging::look(&root).since("nvme1n1"), None);
        live(77, &stat("D", 4711));
        Hanging::look(&root).remember("nvme1n1", Pid::from_raw(77));
        let said = Hanging::look(&root).since("nvme1n1").unwrap();
        assert!(said.contains("process 77"), "{said}");
        assert_eq!(Hanging::look(&root).since("nvme2n1"), None);
        live(77, &stat("S", 9999));
        assert_eq!(Hanging::look(&root).since("nvme1n1"), None, "another process by now");
        live(77, &stat("D", 4711));
        assert_eq!(Hanging::look(&root).since("nvme1n1"), None, "and the note is gone");
        Hanging::look(&root).remember("nvme1n1", Pid::from_raw(77));
        live(77, &stat("Z", 4711));
        assert_eq!(Hanging::look(&root).since("nvme1n1"), None, "it has ended");
    }
}
