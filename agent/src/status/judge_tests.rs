//! Tests of the verdict: a machine as setup left it, what happens to it one at a time, by subject, and how the report looks.

#[path = "judge_tests/array.rs"]
mod array;
#[path = "judge_tests/drives.rs"]
mod drives;
#[path = "judge_tests/mount.rs"]
mod mount;
#[path = "judge_tests/persistence.rs"]
mod persistence;
#[path = "judge_tests/setup.rs"]
mod setup;
#[path = "judge_tests/table.rs"]
mod table;

use uuid::Uuid;

use super::*;
use crate::node::registration::{Registration, Way};
use crate::observe::{Array, DevNum, Drive, Mount};
use crate::persist::mdadm_conf;
use crate::probe::filesystem::Usage;
use crate::probe::smart::Smart;
use crate::probe::{Answer, drive::Said};
use crate::state::{StepTime, Trigger};
use crate::status::{HostPart, Kept, ReportedPart, Text};

const FS: &str = "0b1c2d3e-0000-4000-8000-000000000001";
const TIME: &str = "2026-07-26T12:00:00Z";

fn serial(n: usize) -> String {
    format!("AWS{:017X}", 0x1111_0000 + n)
}

/// A machine with `n` drives (one: no array) as setup left it.
fn machine(n: usize) -> (State, Live) {
    let drives: Vec<Drive> = (0..n)
        .map(|i| Drive {
            name: format!("nvme{}n1", i + 1),
            dev: DevNum { major: 259, minor: i as u32 },
            serial: serial(i),
            model: "Amazon EC2 NVMe Instance Storage".into(),
            state: "live".into(),
            sectors: 14_648_437_500,
            ..Drive::default()
        })
        .collect();
    let single = n == 1;
    let (device, dev) =
        if single { ("nvme1n1", drives[0].dev) } else { ("md0", DevNum { major: 9, minor: 0 }) };
    let uuid = Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0);
    let array = Array {
        name: "md0".into(),
        dev,
        level: "raid0".into(),
        state: "clean".into(),
        raid_disks: n as u32,
        chunk_bytes: 512 << 10,
        uuid: Some(uuid),
        members: drives.iter().map(|d| d.name.clone()).collect(),
        ..Array::default()
    };
    let steps = [
        "record-intent",
        "create-array",
        "make-filesystem",
        "stage",
        "prepare",
        "clear-intent",
        "expose",
        "record-set",
        "fstab",
        "mdadm-conf",
        "tmpfiles",
        "reload-systemd",
    ];
    let state = State {
        version: 1,
        state: Health::Ready,
        reason: "SetupComplete".into(),
        message: "mounted and verified".into(),
        since: "2026-07-26T10:00:00Z".into(),
        finished: "2026-07-26T10:00:01Z".into(),
        duration_ms: 1234,
        agent: "0.1.0".into(),
        trigger: Trigger::Boot,
        layout: if single { "single" } else { "raid0" }.into(),
        target: "/tmp".into(),
        device: device.into(),
        array_uuid: (!single).then_some(uuid),
        fs_uuid: FS.into(),
        filesystem: "ext4".into(),
        serials: drives.iter().map(|d| d.serial.clone()).collect(),
        drives: n as u32,
        steps: steps
            .into_iter()
            .zip([3, 120, 900])
            .chain(steps.into_iter().skip(3).map(|s| (s, 2)))
            .map(|(name, millis)| StepTime { name: name.into(), what: String::new(), millis })
            .collect(),
        ..State::default()
    };
    let mounts = vec![
        Mount {
            at: "/".into(),
            fs_type: "xfs".into(),
            source: "/dev/nvme0n1p1".into(),
            root: "/".into(),
            ..Mount::default()
        },
        Mount {
            at: "/tmp".into(),
            fs_type: "tmpfs".into(),
            source: "tmpfs".into(),
            root: "/".into(),
            ..Mount::default()
        },
        Mount {
            at: "/tmp".into(),
            dev,
            fs_type: "ext4".into(),
            source: format!("/dev/{device}"),
            root: "/".into(),
            options: "rw,nosuid,nodev,noatime".into(),
            super_options: "rw,stripe=1024".into(),
            ..Mount::default()
        },
    ];
    let smart = Smart {
        temperature_celsius: Some(38),
        spare_percent: 100,
        spare_threshold_percent: 10,
        ..Smart::default()
    };
    let said = Said { smart: Some(smart), read: Some(0), ..Said::default() };
    let health =
        drives.iter().map(|d| (d.name.clone(), Answer { said: said.clone(), silent: None })).collect();
    let live = Live {
        mounts: Some(mounts),
        drives: Some(drives),
        others: Vec::new(),
        arrays: Some(if single { Vec::new() } else { vec![array] }),
        fstab: Some(format!("UUID={FS} /tmp ext4 noatime,nofail,x-nvme-agent 0 0\n")),
        health,
        usage: Some(Usage {
            size: 59 << 40,
            used: 600 << 30,
            available: 58 << 40,
            inodes: 1 << 32,
            inodes_used: 1 << 20,
        }),
        broken: None,
        errors: Some(0),
        host: Some(HostPart {
            instance_type: Some("i4i.32xlarge".into()),
            kernel: Some("6.12.46-66.121.amzn2023.x86_64".into()),
            uptime_s: Some(7300),
            memory_bytes: Some(123 << 30),
            memory_available_bytes: Some(118 << 30),
        }),
        no_state: NoState::Missing,
        kept: kept(state.array_uuid),
        unprivileged: false,
        problems: Vec::new(),
    };
    (state, live)
}

/// The host's files as setup left them.
fn kept(set: Option<Uuid>) -> Kept {
    let line = |uuid| mdadm_conf::Line { device: "/dev/md0".into(), name: Some("any:md0".into()), uuid };
    let registration = registered();
    Kept {
        mdadm_conf_path: "/etc/mdadm.conf".into(),
        mdadm_conf: set.map_or(Text::Missing, |set| Text::Is(line(set).render() + "\n")),
        tmpfiles: Text::Is("# nvme-agent: ours\nq /tmp 1777 root root -\n".into()),
        keeps_tmp: true,
        registered: Text::Is(format!("flags:\n  - \"--node-labels={}\"\n", registration.labels)),
        registration: Some(registration),
    }
}

fn report(state: &State, live: &Live) -> Report {
    let report = judge(&Config::default(), Some(state), live, TIME);
    let calm = matches!(report.state, Verdict::Ready | Verdict::Absent);
    assert_eq!(report.next.is_some(), !calm, "whoever needs to act is told how: {report:?}");
    assert_eq!(report.findings.is_empty(), calm, "{report:?}");
    report
}

fn verdict(state: &State, live: &Live) -> (Verdict, String) {
    let report = report(state, live);
    (report.state, report.reason)
}

fn mounts(live: &mut Live) -> &mut Vec<Mount> {
    live.mounts.as_mut().unwrap()
}

/// What the first drive says.
fn said(live: &mut Live) -> &mut Answer<Said> {
    live.health.get_mut("nvme1n1").unwrap()
}

/// What the first drive says of its health.
fn smart(live: &mut Live) -> &mut Smart {
    said(live).said.smart.as_mut().unwrap()
}

type Change = fn(&mut State, &mut Live);

/// Something that happens to a machine with so many drives that is ready: its verdict, and all that is then found, the worst
/// first.
struct Case(&'static str, usize, Verdict, &'static [&'static str], Change);

/// Each fact makes the verdict and names itself with what to do, and without it all is well.
fn tried(cases: &[Case]) {
    for Case(name, drives, expected, codes, change) in cases {
        let (mut state, mut live) = machine(*drives);
        let before = report(&state, &live);
        assert_eq!((before.state, before.warnings.len()), (Verdict::Ready, 0), "{name}: {before:?}");
        change(&mut state, &mut live);
        let after = report(&state, &live);
        let found: Vec<&str> = after.findings.iter().map(|finding| finding.reason.as_str()).collect();
        assert_eq!((after.state, found.as_slice()), (*expected, *codes), "{name}: {after:?}");
        let rule = rules::find(codes[0]).unwrap();
        assert_eq!((after.reason.as_str(), after.next.as_deref()), (rule.code, Some(rule.next)), "{name}");
        assert_eq!((&after.message, after.since), (&after.findings[0].message, None), "{name}");
    }
}

#[test]
fn exit_codes_are_as_documented() {
    let all = [Verdict::Ready, Verdict::Absent, Verdict::Degraded, Verdict::Failed, Verdict::NotSetUp];
    assert_eq!(all.map(Verdict::exit_code), [0, 0, 10, 11, 12]);
}

/// What such a node registers with.
fn registered() -> Registration {
    Registration {
        boot_id: "one".into(),
        way: Way::DropIn,
        path: Some("/etc/eks/nodeadm.d/50-nvme-agent.yaml".into()),
        state: Health::Ready,
        labels: "nvme-agent.e6data.com/state=ready".into(),
        written: "2026-07-26T10:00:01Z".into(),
        ..Registration::default()
    }
}

/// The report for `n` drives, as a person and as a program get it.
fn both(n: usize) -> (String, Report) {
    let (state, live) = machine(n);
    let mut report = judge(&Config::default(), Some(&state), &live, TIME);
    report.node.registration = Some(registered());
    report.agent = "VERSION".into();
    report.last_setup.as_mut().unwrap().agent = "VERSION".into();
    (report.to_string(), report)
}

#[test]
fn text_and_json_for_1_2_8_and_24_drives() {
    for n in [1, 2, 8, 24] {
        let (text, report) = both(n);
        insta::assert_snapshot!(format!("text_{n}"), text);
        insta::assert_json_snapshot!(format!("json_{n}"), report);
    }
}

#[test]
fn json_lists_all_drives_and_reads_back_as_the_same_report() {
    let (_, report) = both(24);
    let json = serde_json::to_string(&report).unwrap();
    let back: Report = serde_json::from_str(&json).unwrap();
    assert_eq!((back.drives.len(), &back), (24, &report));
}

#[test]
fn text_for_a_lost_drive() {
    let (state, mut live) = machine(3);
    live.drives.as_mut().unwrap().remove(1);
    let report = judge(&Config::default(), Some(&state), &live, TIME);
    insta::assert_snapshot!(Report { agent: state.agent.clone(), ..report }.to_string());
}

/// The SSM console shows 2,500 characters of a command's output.
#[test]
fn text_for_eight_drives_fits_on_the_ssm_console_even_when_all_is_wrong() {
    let (mut state, mut live) = machine(8);
    let long = "something long and sad happened to /etc/somewhere, ".repeat(20);
    let calm = judge(&Config::default(), Some(&state), &live, TIME).to_string();
    assert!(calm.len() <= 1500 && calm.is_ascii(), "{}", calm.len());
    for n in 0..8 {
        assert!(calm.contains(&serial(n)), "{calm}");
    }
    state.message = long.clone();
    state.state = Health::Degraded;
    state.persistence = vec![long.clone(); 9];
    state.notes = vec![long.clone(); 9];
    live.problems = vec![long.clone(); 9];
    state.steps.iter_mut().for_each(|step| step.millis = 123_456);
    let mut report = judge(&Config::default(), Some(&state), &live, TIME);
    report.node.registration = Some(Registration { problem: Some(long), tainted: true, ..registered() });
    report.node.reported = Some(ReportedPart { node: "n".repeat(253), ..Default::default() });
    let text = report.to_string();
    assert!(text.len() <= 2500 && text.is_ascii(), "{}:\n{text}", text.len());
}

#[test]
fn twenty_four_drives_stay_on_one_screen() {
    let (state, live) = machine(24);
    let text = judge(&Config::default(), Some(&state), &live, TIME).to_string();
    assert!(text.lines().count() <= 25 && text.contains("nvme24n1"), "{text}");
}
