//! What is to be reported: the last setup's word, unless the live machine says otherwise by now.

use std::path::Path;

use super::memory::Memory;
use crate::config::Config;
use crate::root::Root;
use crate::state::{Health, State};
use crate::status::{self, Verdict};

/// Looks at the machine again, as `status` does, and returns the state as it is now.
///
/// `since` stays what it was while state and reason stay, across ticks, for which the memory at `memory` is asked.
pub fn observe(root: &Root, config: &Config, memory: &Path) -> State {
    let report = status::report(root, config, Vec::new(), status::UNATTENDED_PATIENCE);
    let mut state = match State::load(root) {
        Ok(Some(state)) => state,
        _ => State::new(root, Health::Failed, "", ""),
    };
    state.state = match report.state {
        Verdict::Ready => Health::Ready,
        Verdict::Degraded => Health::Degraded,
        // Every boot has a setup: where it has not run, nothing is usable.
        Verdict::Failed | Verdict::NotSetUp => Health::Failed,
        Verdict::Absent => Health::Absent,
    };
    state.reason = report.reason;
    state.message = report.message;
    let said = Memory::load(memory).filter(|said| {
        said.boot_id == state.boot_id && said.state == state.state.as_str() && said.reason == state.reason
    });
    // Setup's own time where its word stands; the time of the tick that saw it first where the machine overruled it.
    state.since = match (report.since, said) {
        (Some(since), _) => since,
        (None, Some(said)) if !said.since.is_empty() => said.since,
        (None, _) => report.time,
    };
    state
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::node::{Keys, Readiness};

    /// A machine with nothing on it.
    fn fixture() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for path in ["/proc/sys/kernel/random", "/proc/1", "/sys/block", "/sys/bus/pci/devices", "/etc"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        fs::write(root.join("/proc/sys/kernel/random/boot_id"), "boot\n").unwrap();
        fs::write(root.join("/proc/1/mountinfo"), "22 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw\n").unwrap();
        (dir, root)
    }

    #[test]
    fn a_filesystem_that_vanished_is_failed_since_it_was_first_seen_to_be() {
        let (dir, root) = fixture();
        let memory = dir.path().join("reported.json");
        let mut state = State::new(&root, Health::Ready, "SetupComplete", "mounted");
        state.target = "/tmp".into();
        state.device = "nvme1n1".into();
        state.since = "2026-01-01T00:00:00Z".into();
        state.write(&root).unwrap();
        let mut seen = observe(&root, &Config::default(), &memory);
        assert_eq!((seen.state, seen.reason.as_str()), (Health::Failed, "MountGone"));
        assert!(seen.since > state.since);
        seen.since = "2026-02-02T00:00:00Z".into();
        let said = Readiness::of(&seen, &Keys::default(), "");
        Memory::new("n", "u", &seen, &said, Duration::ZERO).save(&memory).unwrap();
        assert_eq!(observe(&root, &Config::default(), &memory), seen);
        // Back again, by setup's word.
        let line = "23 22 259:2 / /tmp rw,noatime - ext4 /dev/nvme1n1 rw\n";
        let mounts = fs::read_to_string(root.join("/proc/1/mountinfo")).unwrap() + line;
        fs::write(root.join("/proc/1/mountinfo"), mounts).unwrap();
        let back = observe(&root, &Config::default(), &memory);
        assert_eq!((back.state, back.since.as_str()), (Health::Ready, "2026-01-01T00:00:00Z"), "{back:?}");
    }

    #[test]
    fn without_a_setup_in_this_boot_it_is_failed() {
        let (dir, root) = fixture();
        let state = observe(&root, &Config::default(), &dir.path().join("x"));
        assert_eq!(
            (state.state, state.reason.as_str(), state.boot_id.as_str()),
            (Health::Failed, "NotSetUp", "boot")
        );
    }
}
