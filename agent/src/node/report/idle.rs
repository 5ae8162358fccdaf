//! Nodes without drives: their registration has said so, and nothing of it can change, so that none of this runs there.
//!
//! A mark tells systemd, which then does not even start a process for a tick. Only a setup of this boot, or a report,
//! leaves it: where setup never ran there is none, and the Node is told that it failed.

use std::fs;

use super::memory::{LASTING_PATH, MEMORY_PATH, Memory};
use crate::error::Error;
use crate::intent::RECORD_PATH;
use crate::node::registration::Registration;
use crate::persist::atomic;
use crate::root::Root;
use crate::state::{Health, State};
use crate::teardown;

/// Said where [`is_idle`].
pub const IDLE: &str = "nothing to report: no local drives";
/// The mark; nvme-agent-report.service is not started while it is there. On a tmpfs: it never outlives its boot.
pub const IDLE_PATH: &str = "/run/nvme-agent/absent";

/// True on a node without drives that has nothing to take back. Either the Node was told so in this boot; or it registers
/// so by a file, never had storage of ours, which an instance whose type was changed had, and was told nothing else in
/// an earlier boot: for a Node that exists kubelet changes no label.
pub fn is_idle(root: &Root, state: &State) -> bool {
    let absent = Health::Absent.as_str();
    let told = Memory::load(&root.join(MEMORY_PATH)).filter(|told| told.boot_id == state.boot_id);
    let earlier = || Memory::load(&root.join(LASTING_PATH)).is_none_or(|told| told.state == absent);
    state.state == Health::Absent
        && match told {
            Some(told) => told.state == absent,
            // A teardown takes the record away.
            None => {
                state.reason != teardown::REASON
                    && !root.join(RECORD_PATH).exists()
                    && registers_absent(root)
                    && earlier()
            }
        }
}

/// True where what kubelet registers with says so: not on images without such a file, nor by `label_method = "api"`.
fn registers_absent(root: &Root) -> bool {
    Registration::load(root).is_some_and(|to| to.path.is_some() && to.state == Health::Absent)
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

    use crate::config::{Config, LabelMethod};
    use crate::node::registration::{DROP_IN_DIR, update};

    /// A machine in boot `one`, on an image that reads drop-ins.
    fn fixture() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for dir in ["/run/nvme-agent", "/var/lib/nvme-agent", "/proc/sys/kernel/random", DROP_IN_DIR] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::write(root.join("/proc/sys/kernel/random/boot_id"), "one").unwrap();
        (dir, root)
    }

    fn state(state: Health, reason: &str) -> State {
        State { state, reason: reason.into(), boot_id: "one".into(), ..State::default() }
    }

    fn marked(root: &Root, state: &State) -> bool {
        mark(root, state);
        assert_eq!(root.join(IDLE_PATH).exists(), is_idle(root, state));
        is_idle(root, state)
    }

    fn memory(state: &State) -> Memory {
        Memory::new("n", "u", state, &Readiness::of(state, &Keys::default(), ""), Duration::ZERO)
    }

    #[test]
    fn only_a_node_that_never_said_anything_else_is_idle() {
        let (_dir, root) = fixture();
        let marked = |state: &State| marked(&root, state);
        let absent = state(Health::Absent, "NoDrives");
        update(&root, &Config::default(), &absent);
        assert!(marked(&absent) && marked(&absent));
        for other in [Health::Ready, Health::Degraded, Health::Failed] {
            assert!(!marked(&state(other, "X")), "{other}");
        }
        assert!(!marked(&state(Health::Absent, teardown::REASON)));
        // Of an instance that had drives, the Node may still say ready; once it was told otherwise that is over.
        fs::write(root.join(RECORD_PATH), "{}").unwrap();
        assert!(!marked(&absent));
        let tell = |state: &State| memory(state).save(&root.join(MEMORY_PATH)).unwrap();
        tell(&absent);
        assert!(marked(&absent));
        fs::remove_file(root.join(RECORD_PATH)).unwrap();
        tell(&state(Health::Failed, "X"));
        assert!(!marked(&absent));
    }

    #[test]
    fn what_the_node_was_told_before_a_stop_and_start_is_taken_back_once() {
        let (_dir, root) = fixture();
        let absent = state(Health::Absent, "NoDrives");
        update(&root, &Config::default(), &absent);
        // A teardown took the record away, and then the instance came back as a type without drives.
        let before = |health| State { boot_id: "zero".into(), ..state(health, "X") };
        memory(&before(Health::Ready)).keep(&root.join(LASTING_PATH)).unwrap();
        assert!(!marked(&root, &absent));
        memory(&absent).save(&root.join(MEMORY_PATH)).unwrap();
        memory(&absent).keep(&root.join(LASTING_PATH)).unwrap();
        assert!(marked(&root, &absent));
        // And the boot after: nothing but absent was ever said since.
        fs::remove_file(root.join(MEMORY_PATH)).unwrap();
        assert!(marked(&root, &absent));
    }

    #[test]
    fn a_node_that_registers_with_nothing_is_told_once_that_it_has_no_drives() {
        let absent = state(Health::Absent, "NoDrives");
        for method in [LabelMethod::Api, LabelMethod::Environment] {
            let (_dir, root) = fixture();
            let config = Config { label_method: method, ..Config::default() };
            update(&root, &config, &absent);
            assert!(!marked(&root, &absent), "{method:?}");
            memory(&absent).save(&root.join(MEMORY_PATH)).unwrap();
            assert!(marked(&root, &absent), "{method:?}");
        }
        // Nor where nothing of a registration is known.
        let (_dir, root) = fixture();
        assert!(!marked(&root, &absent));
    }
}
