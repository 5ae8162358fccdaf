//! Tests of the gate, on trees that stand in for machines.

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;

const ID: &str = "i-0123456789abcdef0";

/// A machine whose boot began 20 s ago.
struct Machine {
    _dir: tempfile::TempDir,
    root: Root,
}

impl Machine {
    fn new() -> Machine {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let machine = Machine { _dir: dir, root };
        machine.write("/sys/class/dmi/id/board_asset_tag", ID);
        machine.write("/proc/stat", &format!("btime {}\n", seconds_ago(20)));
        for dir in ["/sys/block", "/sys/bus/pci/devices", "/etc"] {
            fs::create_dir_all(machine.root.join(dir)).unwrap();
        }
        machine.mount(true);
        machine.boot("one");
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The filesystem on its target, or not.
    fn mount(&self, there: bool) {
        let target = if there { "23 22 259:2 / /tmp rw,noatime - ext4 /dev/nvme1n1 rw\n" } else { "" };
        self.write("/proc/1/mountinfo", &format!("22 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw\n{target}"));
    }

    /// A file of so many seconds ago.
    fn old(&self, path: &str, age: u64) {
        self.write(path, "");
        self.age(path, age);
    }

    fn age(&self, path: &str, age: u64) {
        let when = SystemTime::now() - Duration::from_secs(age);
        fs::File::options().write(true).open(self.root.join(path)).unwrap().set_modified(when).unwrap();
    }

    /// /run is empty then.
    fn boot(&self, id: &str) {
        let _ = fs::remove_dir_all(self.root.join("/run"));
        self.write("/proc/sys/kernel/random/boot_id", id);
    }

    fn state(&self, health: Health) {
        let mut state = State::new(&self.root, health, "ForeignData", "because");
        (state.target, state.device, state.filesystem) = ("/tmp".into(), "nvme1n1".into(), "ext4".into());
        state.write(&self.root).unwrap();
    }

    fn gate(&self, on_failure: OnFailure, on_boot_failure: OnBootFailure) -> Verdict {
        gate(&self.root, &Config { on_failure, on_boot_failure, ..Config::default() })
    }
}

fn seconds_ago(age: u64) -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - age
}

use OnBootFailure::{NoJoin as StayAway, Report};
use OnFailure::{Label, NoJoin, Taint};

#[test]
fn what_is_usable_or_absent_passes_under_every_policy() {
    for health in [Health::Ready, Health::Degraded, Health::Absent] {
        let machine = Machine::new();
        machine.state(health);
        let verdict = machine.gate(NoJoin, StayAway);
        assert!(verdict.join && verdict.line.contains(health.as_str()), "{verdict:?}");
    }
}

#[test]
fn a_first_boot_that_failed_joins_by_on_failure() {
    let machine = Machine::new();
    fs::create_dir_all(machine.root.join(registration::DROP_IN_DIR)).unwrap();
    machine.state(Health::Failed);
    for (policy, join) in [(Label, true), (Taint, true), (NoJoin, false)] {
        // Letting it join is remembered: a machine each.
        let _ = fs::remove_file(machine.root.join(JOINED_PATH));
        assert_eq!(machine.gate(policy, Report).join, join, "{policy:?}");
        assert_eq!(machine.gate(policy, StayAway).join, join, "{policy:?}");
    }
    let refused = machine.gate(NoJoin, Report);
    assert!(!refused.line.contains('\n') && refused.line.contains("ForeignData"), "{}", refused.line);
    assert!(refused.line.contains("on_failure = \"no-join\""), "{}", refused.line);
}

#[test]
fn a_failed_node_that_cannot_be_tainted_does_not_join() {
    let machine = Machine::new();
    machine.state(Health::Failed);
    let verdict = machine.gate(Taint, Report);
    assert!(!verdict.join && verdict.line.contains("neither /etc/eks/nodeadm.d nor"), "{verdict:?}");
    fs::create_dir_all(machine.root.join(registration::DROP_IN_DIR)).unwrap();
    machine.write(
        nodeadm::CACHE_PATH,
        r#"{"spec":{"kubelet":{"flags":["--x='","--register-with-taints=a:NoSchedule"]}}}"#,
    );
    let verdict = machine.gate(Taint, Report);
    assert!(!verdict.join && verdict.line.contains("cannot be tainted"), "{verdict:?}");
    assert!(machine.gate(Label, Report).join);
    let _ = fs::remove_file(machine.root.join(JOINED_PATH));
    machine.write(nodeadm::CACHE_PATH, r#"{"spec":{"kubelet":{"flags":["--x='"]}}}"#);
    let verdict = machine.gate(Taint, Report);
    assert!(verdict.join && verdict.line.contains("on_failure = \"taint\""), "{verdict:?}");
}

#[test]
fn without_a_setup_in_this_boot_the_last_boots_result_counts_for_nothing() {
    let machine = Machine::new();
    machine.state(Health::Ready);
    let ready = fs::read(machine.root.join(crate::state::STATE_PATH)).unwrap();
    machine.boot("two");
    let verdict = machine.gate(NoJoin, StayAway);
    assert!(!verdict.join && verdict.line.contains("NotSetUp"), "{verdict:?}");
    fs::write(machine.root.join(crate::state::STATE_PATH), ready).unwrap();
    assert!(!machine.gate(NoJoin, StayAway).join, "a state file of another boot");
    machine.write(crate::state::STATE_PATH, "{");
    let verdict = machine.gate(NoJoin, StayAway);
    assert!(!verdict.join && verdict.line.contains("state.json"), "{verdict:?}");
}

#[test]
fn a_reboot_of_a_node_that_was_let_join_goes_by_on_boot_failure() {
    let machine = Machine::new();
    machine.state(Health::Ready);
    assert!(machine.gate(NoJoin, Report).join);
    machine.state(Health::Failed);
    assert!(!machine.gate(NoJoin, Report).join, "still its first boot");
    // kubelet ran when it had been let join, and then this boot began.
    machine.age(JOINED_PATH, 100);
    machine.old("/var/lib/kubelet/cpu_manager_state", 90);
    machine.boot("two");
    machine.state(Health::Failed);
    let verdict = machine.gate(NoJoin, Report);
    assert!(verdict.join && verdict.line.contains("on_boot_failure = \"report\""), "{verdict:?}");
    assert!(!machine.gate(Label, StayAway).join);
}

#[test]
fn a_node_that_was_let_join_and_never_ran_kubelet_has_not_joined() {
    let machine = Machine::new();
    // Of the image that this instance was made of.
    machine.old("/var/lib/kubelet/cpu_manager_state", 9000);
    machine.state(Health::Ready);
    assert!(machine.gate(NoJoin, Report).join);
    machine.age(JOINED_PATH, 100);
    machine.boot("two");
    machine.state(Health::Failed);
    let verdict = machine.gate(NoJoin, Report);
    assert!(!verdict.join && verdict.line.contains("has not joined before"), "{verdict:?}");
    // It runs in this boot only.
    machine.write("/var/lib/kubelet/pods/x", "");
    assert!(!machine.gate(NoJoin, Report).join);
}

#[test]
fn a_filesystem_that_went_after_setup_is_a_failure_to_join_with() {
    let machine = Machine::new();
    fs::create_dir_all(machine.root.join(registration::DROP_IN_DIR)).unwrap();
    machine.state(Health::Ready);
    assert!(machine.gate(NoJoin, StayAway).join);
    machine.mount(false);
    let verdict = machine.gate(NoJoin, StayAway);
    assert!(!verdict.join && verdict.line.contains("MountGone"), "{verdict:?}");
    let said = || fs::read_to_string(machine.root.join(registration::DROP_IN_PATH)).unwrap();
    assert!(said().contains("/state=failed,"), "{}", said());
    machine.mount(true);
    assert!(machine.gate(NoJoin, StayAway).join && said().contains("/state=ready,"));
}

#[test]
fn another_instances_record_and_an_image_of_a_live_node_are_no_join_of_this_one() {
    let machine = Machine::new();
    machine.write(JOINED_PATH, r#"{"version":1,"instance_id":"i-00000000000000bad","boot_id":"zero"}"#);
    // What the image came with, then this instance's first boot, which is this one.
    machine.old("/var/lib/kubelet/cpu_manager_state", 9000);
    machine.old(&format!("/var/lib/cloud/instances/{ID}/sem/config_ssh"), 10);
    machine.state(Health::Failed);
    assert!(!machine.gate(NoJoin, Report).join);
}

#[test]
fn a_node_that_ran_kubelet_before_it_had_a_gate_has_joined_before() {
    let machine = Machine::new();
    machine.old(&format!("/var/lib/cloud/instances/{ID}/sem/config_ssh"), 9000);
    machine.old("/var/lib/kubelet/cpu_manager_state", 8900);
    machine.state(Health::Failed);
    assert!(machine.gate(NoJoin, Report).join);
    // Made in this boot, it says nothing.
    machine.write("/var/lib/kubelet/cpu_manager_state", "");
    let _ = fs::remove_file(machine.root.join(JOINED_PATH));
    assert!(!machine.gate(NoJoin, Report).join);
}

#[test]
fn in_doubt_it_has_not_joined_before() {
    let machine = Machine::new();
    machine.write("/sys/class/dmi/id/board_asset_tag", "Not Specified");
    machine.old("/var/lib/kubelet/cpu_manager_state", 8900);
    machine.state(Health::Failed);
    assert!(!machine.gate(NoJoin, Report).join);
}

#[test]
fn what_is_about_to_be_read_is_brought_up_to_date() {
    let machine = Machine::new();
    fs::create_dir_all(machine.root.join(registration::DROP_IN_DIR)).unwrap();
    machine.state(Health::Ready);
    machine.gate(Label, Report);
    let text = fs::read_to_string(machine.root.join(registration::DROP_IN_PATH)).unwrap();
    assert!(text.contains("/state=ready,"), "{text}");
}

#[test]
fn nodeadms_own_storage_beside_ours_is_said() {
    let machine = Machine::new();
    machine.write(nodeadm::CACHE_PATH, r#"{"spec":{"instance":{"localStorage":{"strategy":"RAID0"}}}}"#);
    machine.state(Health::Absent);
    assert!(!machine.gate(Label, Report).line.contains("localStorage"));
    machine.state(Health::Ready);
    let mut ready = State::load(&machine.root).unwrap().unwrap();
    ready.drives = 2;
    ready.write(&machine.root).unwrap();
    let verdict = machine.gate(Label, Report);
    assert!(verdict.join && verdict.line.contains("localStorage.strategy = RAID0"), "{verdict:?}");
}

/// What `degraded` is for: the node works, and is told apart. The gate looks before it writes the file anew.
#[test]
fn what_the_next_boot_would_lack_keeps_no_node_out_and_a_changed_drop_in_is_mended_and_no_fault() {
    let machine = Machine::new();
    fs::create_dir_all(machine.root.join(registration::DROP_IN_DIR)).unwrap();
    machine.state(Health::Ready);
    assert!(machine.gate(NoJoin, StayAway).join);
    machine.write(registration::DROP_IN_PATH, "kind: NodeConfig\n");
    let verdict = machine.gate(NoJoin, StayAway);
    let written = fs::read_to_string(machine.root.join(registration::DROP_IN_PATH)).unwrap();
    assert!(verdict.join && written.contains("/state=ready,"), "{verdict:?}: {written}");
    let mut state = State::load(&machine.root).unwrap().unwrap();
    state.fs_uuid = "0b1c2d3e-0000-4000-8000-000000000001".into();
    state.write(&machine.root).unwrap();
    machine.write("/etc/fstab", "tmpfs /tmp tmpfs\n");
    let verdict = machine.gate(NoJoin, StayAway);
    let written = fs::read_to_string(machine.root.join(registration::DROP_IN_PATH)).unwrap();
    assert!(verdict.join && verdict.line.contains("degraded (PersistenceMissing)"), "{verdict:?}");
    assert!(written.contains("/state=degraded,"), "{written}");
}
