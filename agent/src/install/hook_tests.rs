//! Tests of the gate's drop-in, on trees that stand in for images.

use std::fs;

use super::*;
use crate::config::LabelMethod;

/// As the image's unit.
const NODEADM_RUN: &str =
    "[Service]\nExecStart=/usr/bin/nodeadm init --config-source file:///etc/eks/nodeadm.d/\n";

fn image(files: &[&str]) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    for file in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, if file.ends_with("nodeadm-run.service") { NODEADM_RUN } else { "" }).unwrap();
    }
    (dir, root)
}

const AL2023: [&str; 2] = ["/etc/systemd/system/nodeadm-run.service", "/etc/eks/nodeadm.d/.keep"];
const AL2: [&str; 2] = ["/etc/systemd/system/kubelet.service", "/etc/eks/bootstrap.sh"];

fn policy(on_failure: OnFailure, on_boot_failure: OnBootFailure) -> Config {
    Config { on_failure, on_boot_failure, ..Config::default() }
}

fn text(root: &Root, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path)).ok()
}

#[test]
fn no_join_is_the_file_that_a_shell_can_write_before_there_is_a_binary() {
    for config in [
        policy(OnFailure::NoJoin, OnBootFailure::Report),
        policy(OnFailure::Label, OnBootFailure::NoJoin),
        policy(OnFailure::Taint, OnBootFailure::NoJoin),
    ] {
        let (_dir, root) = image(&AL2023);
        assert_eq!(ensure(&root, &config).unwrap(), [format!("wrote {NODEADM_HOOK}")]);
        assert_eq!(text(&root, NODEADM_HOOK).as_deref(), Some(GATE));
        assert_eq!(ensure(&root, &config).unwrap(), [""; 0], "a second time");
    }
    // systemd fails a unit whose command without a dash cannot be executed (systemd.service(5)).
    assert!(GATE.contains("\nExecStartPre=/usr/local/bin/nvme-agent gate\n"), "{GATE}");
}

#[test]
fn a_packaged_binary_is_the_one_that_is_named() {
    let (_dir, root) = image(&[AL2023[0], "/usr/bin/nvme-agent"]);
    ensure(&root, &policy(OnFailure::NoJoin, OnBootFailure::Report)).unwrap();
    assert!(text(&root, NODEADM_HOOK).unwrap().contains("ExecStartPre=/usr/bin/nvme-agent gate\n"));
}

#[test]
fn the_label_is_brought_up_to_date_and_everything_passes() {
    let (_dir, root) = image(&AL2023);
    ensure(&root, &policy(OnFailure::Label, OnBootFailure::Report)).unwrap();
    assert!(text(&root, NODEADM_HOOK).unwrap().contains("\nExecStartPre=-/usr/local/bin/nvme-agent gate\n"));
    let (_dir, root) = image(&[AL2023[0], "/etc/eks/kubelet/environment"]);
    ensure(&root, &Config::default()).unwrap();
    assert!(text(&root, NODEADM_HOOK).unwrap().contains("ExecStartPre=-"));
}

#[test]
fn a_node_that_is_to_be_tainted_waits_for_the_gates_word_also_where_nothing_can_taint_it() {
    let tainting = policy(OnFailure::Taint, OnBootFailure::Report);
    for (files, hook) in [(AL2023, NODEADM_HOOK), (AL2, KUBELET_HOOK)] {
        let (_dir, root) = image(&files);
        ensure(&root, &tainting).unwrap();
        let text = text(&root, hook).unwrap();
        assert!(text.contains("\nExecStartPre=/usr/local/bin/nvme-agent gate\n"), "{text}");
    }
}

#[test]
fn what_says_nothing_at_registration_needs_no_gate_and_one_of_an_earlier_configuration_goes_but_not_somebody_elses()
 {
    let (_dir, root) = image(&AL2023);
    let silent = Config { label_method: LabelMethod::Api, ..Config::default() };
    assert_eq!(ensure(&root, &silent).unwrap(), [""; 0]);
    ensure(&root, &policy(OnFailure::NoJoin, OnBootFailure::Report)).unwrap();
    let done = ensure(&root, &silent).unwrap();
    assert_eq!(done, [format!("removed {NODEADM_HOOK}: the configuration asks for no gate")]);
    assert_eq!(text(&root, NODEADM_HOOK), None);
    fs::write(root.join(NODEADM_HOOK), "[Service]\nNice=1\n").unwrap();
    ensure(&root, &silent).unwrap();
    assert!(text(&root, NODEADM_HOOK).is_some());
}

#[test]
fn on_al2_it_is_kubelet_that_is_gated_and_without_either_it_is_said() {
    let no_join = policy(OnFailure::NoJoin, OnBootFailure::Report);
    let (_dir, root) = image(&AL2);
    ensure(&root, &no_join).unwrap();
    assert_eq!(text(&root, KUBELET_HOOK).as_deref(), Some(GATE));
    let (_dir, root) = image(&["/etc/systemd/system/kubelet.service"]);
    let done = ensure(&root, &no_join).unwrap();
    assert!(done[0].contains("nothing keeps a failed node from joining"), "{done:?}");
    assert!(!root.join(KUBELET_HOOK).exists());
}
