//! Tests of the checks of units, on what `install` leaves in a directory.

use super::*;
use crate::config::{OnBootFailure, OnFailure};
use crate::doctor::tests::Machine;
use crate::install::{self, Options};

const ETC: &str = "/etc/systemd/system/nvme-agent.service";
const LINK: &str = "/etc/systemd/system/basic.target.wants/nvme-agent.service";
const NODEADM: &str =
    "[Service]\nExecStart=/usr/bin/nodeadm init --config-source file:///etc/eks/nodeadm.d/\n";

/// An EKS node with the agent installed.
fn installed(change: impl FnOnce(&mut Machine)) -> Machine {
    let mut machine = Machine::new();
    change(&mut machine);
    for name in JOINING {
        machine.write(&format!("/usr/lib/systemd/system/{name}"), NODEADM);
    }
    fs::create_dir_all(machine.root.join("/etc/eks/nodeadm.d")).unwrap();
    install(&machine);
    machine
}

fn install(machine: &Machine) {
    let options = Options { config: machine.config.clone(), enable: true, binary: "/bin/true".into() };
    install::install(&machine.root, &options).unwrap();
}

#[test]
fn what_install_leaves_is_fine() {
    let machine = installed(|_| {});
    for check in [unit, order, gate, report] {
        machine.check(check).is(Verdict::Ok, &[]);
        // An image is judged as a machine is: all of it is files.
        machine.image(check).is(Verdict::Ok, &[]);
    }
    machine.check(order).is(Verdict::Ok, &["before tmp.mount; nodeadm-config.service", "kubelet.service"]);
}

#[test]
fn what_is_not_installed_not_enabled_or_masked_is_said() {
    let machine = Machine::new();
    machine.check(unit).is_problem(&["not installed", "nvme-agent install"]);
    machine.check(order).is(Verdict::Unknown, &[]);
    machine.check(report).is(Verdict::Warning, &["nvme-agent-report.service is not installed"]);
    let machine = installed(|_| {});
    machine.remove(LINK);
    machine.check(unit).is_problem(&["is not enabled", "systemctl enable nvme-agent.service"]);
    machine.link("/run/systemd/system/multi-user.target.wants/nvme-agent.service", ETC);
    machine.check(unit).is(Verdict::Ok, &[]);
    machine.link(ETC, "/dev/null");
    machine.check(unit).is_problem(&["masks nvme-agent.service", "unmask"]);
    machine.remove(ETC);
    fs::write(machine.root.join(ETC), "").unwrap();
    machine.check(unit).is_problem(&["masks nvme-agent.service"]);
    fs::write(machine.root.join(ETC), b"\xff").unwrap();
    machine.check(unit).is(Verdict::Unknown, &["nvme-agent.service", "not UTF-8"]);
}

#[test]
fn a_binary_that_the_unit_cannot_start() {
    let machine = installed(|_| {});
    machine.remove("/usr/local/bin/nvme-agent");
    machine.check(unit).is_problem(&["starts /usr/local/bin/nvme-agent, which is not here"]);
    machine.write("/usr/local/bin/nvme-agent", "x");
    machine.check(unit).is_problem(&["not executable"]);
}

#[test]
fn an_order_that_is_too_late_a_cycle_or_for_another_target() {
    let drop_in = "/etc/systemd/system/nvme-agent.service.d/90-site.conf";
    let mut machine = installed(|_| {});
    machine.write(drop_in, "[Unit]\nAfter=time-sync.target \\\n  local-fs.target\n");
    machine.check(order).is_problem(&["after local-fs.target", "systemctl cat"]);
    machine.write(drop_in, "[Unit]\nDefaultDependencies=yes\n");
    machine.check(order).is_problem(&["DefaultDependencies=no"]);
    machine.remove(drop_in);
    let text = fs::read_to_string(machine.root.join(ETC)).unwrap();
    machine.write(ETC, &text.replace(" kubelet.service", ""));
    machine.check(order).is_problem(&["not ordered before kubelet.service"]);
    machine.remove("/usr/lib/systemd/system/kubelet.service");
    machine.check(order).is(Verdict::Ok, &[]);
    machine.config.target = "/data".into();
    machine.check(order).is_problem(&["not ordered before data.mount", "nvme-agent install"]);
    machine.write(drop_in, "[Unit]\nBefore=data.mount\n");
    machine.check(order).is(Verdict::Ok, &[]);
}

#[test]
fn a_gate_that_does_not_stand_for_the_policy() {
    let mut machine = installed(|machine| machine.config.on_failure = OnFailure::NoJoin);
    machine.check(gate).is(Verdict::Ok, &["no-join"]);
    machine.remove(hook::NODEADM_HOOK);
    machine
        .check(gate)
        .is_problem(&["nodeadm-run.service.d/50-nvme-agent.conf is not there", "does not hold"]);
    // The form of another policy.
    machine.write(hook::NODEADM_HOOK, "[Service]\nExecStartPre=-/usr/local/bin/nvme-agent gate\n");
    machine.check(gate).is_problem(&["another than the configuration wants"]);
    machine.config.on_failure = OnFailure::Label;
    install(&machine);
    machine.check(gate).is(Verdict::Ok, &[]);
    machine.remove(hook::NODEADM_HOOK);
    machine.check(gate).is(Verdict::Warning, &["is not there"]);
}

#[test]
fn a_policy_that_nothing_can_enforce_and_a_gate_that_nobody_wants_any_more() {
    let mut machine = Machine::new();
    machine.check(gate).is(Verdict::Ok, &[]);
    machine.config.on_boot_failure = OnBootFailure::NoJoin;
    machine.check(gate).is_problem(&["nothing keeps a failed node from joining", "does not hold"]);
    let mut machine = installed(|machine| machine.config.on_failure = OnFailure::Taint);
    machine.check(gate).is(Verdict::Ok, &[]);
    machine.config = crate::config::Config { label_method: LabelMethod::None, ..Default::default() };
    machine.check(gate).is_problem(&["is still there, though the configuration asks for no gate"]);
}

#[test]
fn reports_that_are_masked_are_so_on_purpose() {
    let mut machine = installed(|_| {});
    machine.remove("/etc/systemd/system/timers.target.wants/nvme-agent-report.timer");
    machine.check(report).is(Verdict::Warning, &["nvme-agent-report.timer is not enabled"]);
    machine.link("/etc/systemd/system/nvme-agent-report.timer", "/dev/null");
    machine.check(report).is(Verdict::Ok, &["masked, so this node does not report: nvme-agent-report.timer"]);
    machine.remove("/etc/systemd/system/nvme-agent-report.timer");
    machine.config.label_method = LabelMethod::None;
    machine.check(report).is(Verdict::Ok, &["label_method"]);
}
