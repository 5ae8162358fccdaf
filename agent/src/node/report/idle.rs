//! Nodes without drives: their registration has said so, and nothing of it can change, so that none of this runs there.
//!
//! A mark tells systemd, which then does not even start a process for a tick. Only a setup of this boot, or a report,
//! leaves it: where setup never ran there is none, and the Node is told that it failed.

use std::fs;

use super::memory::{MEMORY_PATH, Memory};
use crate::error::Error;
use crate::intent::RECORD_PATH;
use crate::persist::atomic;
use crate::root::Root;
use crate::state::{Health, State};
use crate::teardown;

/// Said where [`is_idle`].
pub const IDLE: &str = "nothing to report: no local drives";
/// The mark; nvme-agent-report.service is not started while it is there. On a tmpfs: it never outlives its boot.
pub const IDLE_PATH: &str = "/run/nvme-agent/absent";

/// True on a node without drives that has nothing to take back: it never had storage of ours, which an instance whose
/// type was changed had, and the Node was told nothing else in this boot.
pub fn is_idle(root: &Root, state: &State) -> bool {
    let told = Memory::load(&root.join(MEMORY_PATH)).filter(|told| told.boot_id == state.boot_id);
    state.state == Health::Absent
        && match told {
            Some(told) => told.state == Health::Absent.as_str(),
            // A teardown takes the record away.
            None => state.reason != teardown::REASON && !root.join(RECORD_PATH).exists(),
        }
}

/// Leaves the mark where [`is_idle`], and takes it away elsewhere.
pub fn mark(root: &Root, state: &State) {
    let path = root.join(IDLE_PATH);
    let done = match (is_idle(root, state), path.exists()) {
        (true, false) => {
            atomic::replace(&path, "nvme-agent: no local drives, so nothing is reported to the Node\n")
        }
        (false, true) => fs::remove_file(&path).map_err(Error::io(&path, "remove the mark")),
        _ => Ok(()),
    };
    if let Err(error) = done {
        tracing::warn!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::node::{Keys, Readiness};

    #[test]
    fn only_a_node_that_never_said_anything_else_is_idle() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(root.join("/run/nvme-agent")).unwrap();
        let marked = |state: &State| {
            mark(&root, state);
            assert_eq!(root.join(IDLE_PATH).exists(), is_idle(&root, state));
            is_idle(&root, state)
        };
        let state = |state, reason: &str| State {
            state,
            reason: reason.into(),
            boot_id: "one".into(),
            ..State::default()
        };
        let absent = state(Health::Absent, "NoDrives");
        assert!(marked(&absent) && marked(&absent));
        for other in [Health::Ready, Health::Degraded, Health::Failed] {
            assert!(!marked(&state(other, "X")), "{other}");
        }
        assert!(!marked(&state(Health::Absent, teardown::REASON)));
        // Of an instance that had drives, the Node may still say ready; once it was told otherwise that is over.
        fs::create_dir_all(root.join("/var/lib/nvme-agent")).unwrap();
        fs::write(root.join(RECORD_PATH), "{}").unwrap();
        assert!(!marked(&absent));
        let tell = |state: &State| {
            let words = Readiness::of(state, &Keys::default(), "");
            Memory::new("n", "u", state, &words, Duration::ZERO).save(&root.join(MEMORY_PATH)).unwrap();
        };
        tell(&absent);
        assert!(marked(&absent));
        fs::remove_file(root.join(RECORD_PATH)).unwrap();
        tell(&state(Health::Failed, "X"));
        assert!(!marked(&absent));
        let later = State { boot_id: "two".into(), ..absent };
        assert!(marked(&later), "what was told in an earlier boot is no matter");
    }
}
