//! Tests of the verdict: a state file that says ready against machines that are not.

use uuid::Uuid;

use super::*;
use crate::node::registration::{Registration, Way};
use crate::observe::{DevNum, Mount, Skipped};
use crate::probe::filesystem::Usage;
use crate::probe::smart::Smart;
use crate::probe::{Answer, drive::Said};
use crate::state::{StepTime, Trigger};
use crate::status::{HostPart, ReportedPart};

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
        fstab: Some(format!("UUID={FS} /tmp ext4 noatime,nofail 0 0\n")),
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
        problems: Vec::new(),
    };
    (state, live)
}

fn verdict(state: &State, live: &Live) -> (Verdict, String) {
    let report = judge(&Config::default(), Some(state), live, TIME);
    let calm = matches!(report.state, Verdict::Ready | Verdict::Absent);
    assert_eq!(report.next.is_some(), !calm, "whoever needs to act is told how: {report:?}");
    (report.state, report.reason)
}

fn mounts(live: &mut Live) -> &mut Vec<Mount> {
    live.mounts.as_mut().unwrap()
}

#[test]
fn a_machine_as_setup_left_it_is_what_setup_said() {
    for n in [1, 2, 8, 24] {
        let (mut state, live) = machine(n);
        assert_eq!(verdict(&state, &live), (Verdict::Ready, "SetupComplete".into()), "{n}");
        state.state = Health::Degraded;
        state.reason = "PersistenceIncomplete".into();
        assert_eq!(verdict(&state, &live), (Verdict::Degraded, "PersistenceIncomplete".into()), "{n}");
    }
}

type Change = fn(&mut State, &mut Live);

#[test]
fn the_live_machine_overrules_a_state_file_that_says_ready() {
    let cases: &[(&str, &str, usize, Change)] = &[
        ("unmounted, the tmpfs below shows", "MountReplaced", 2, |_, live| {
            mounts(live).pop();
        }),
        ("unmounted", "MountGone", 2, |_, live| mounts(live).truncate(1)),
        ("something mounted over it", "MountReplaced", 2, |_, live| {
            let over = mounts(live)[1].clone();
            mounts(live).push(over);
        }),
        ("another device under the same name", "MountReplaced", 2, |_, live| {
            mounts(live)[2].dev = DevNum { major: 259, minor: 9 };
        }),
        ("a bind of a part of it", "MountReplaced", 1, |_, live| mounts(live)[2].root = "/sub".into()),
        ("another filesystem", "MountReplaced", 1, |_, live| mounts(live)[2].fs_type = "xfs".into()),
        ("read-only mount", "MountReadOnly", 2, |_, live| mounts(live)[2].options = "ro,noatime".into()),
        ("errors=remount-ro struck", "MountReadOnly", 2, |_, live| {
            mounts(live)[2].super_options = "ro,errors=remount-ro".into();
        }),
        ("something mounted over a directory above", "MountHidden", 2, |state, live| {
            state.target = "/opt/data".into();
            live.fstab = None;
            let mounts = mounts(live);
            mounts[1].at = "/opt".into();
            mounts[2].at = "/opt/data".into();
            for (mount, id) in mounts.iter_mut().zip([27, 61, 60]) {
                (mount.id, mount.parent) = (id, if id == 27 { 1 } else { 27 });
            }
        }),
        ("a drive is gone", "DriveLost", 2, |_, live| {
            live.drives.as_mut().unwrap().pop();
        }),
        ("a controller died", "DriveLost", 1, |_, live| {
            live.drives.as_mut().unwrap()[0].state = "dead".into()
        }),
        ("a drive went read-only", "DriveLost", 2, |_, live| {
            live.drives.as_mut().unwrap()[1].read_only = true
        }),
        ("the array is broken", "ArrayBroken", 2, |_, live| {
            live.arrays.as_mut().unwrap()[0].state = "broken".into()
        }),
        ("the array lost a member", "ArrayBroken", 2, |_, live| {
            live.arrays.as_mut().unwrap()[0].members.pop();
        }),
        ("the array is gone", "ArrayBroken", 2, |_, live| live.arrays.as_mut().unwrap().clear()),
        ("another array took its name", "ArrayBroken", 2, |_, live| {
            live.arrays.as_mut().unwrap()[0].uuid = Some(Uuid::from_u128(7));
        }),
        ("xfs was shut down", "FilesystemFailed", 2, |_, live| {
            live.broken = Some("says \"Input/output error\"".into());
            live.errors = None;
        }),
        ("it hangs, and has errors", "FilesystemFailed", 1, |_, live| {
            (live.broken, live.errors) = (Some("does not answer within 10 s".into()), Some(2));
        }),
        ("mounts cannot be read", "MountsUnreadable", 2, |_, live| live.mounts = None),
        ("drives came after an absent", "DrivesAppeared", 2, |state, _| state.state = Health::Absent),
    ];
    for (name, reason, n, change) in cases {
        let (mut state, mut live) = machine(*n);
        change(&mut state, &mut live);
        assert_eq!(verdict(&state, &live), (Verdict::Failed, (*reason).to_owned()), "{name}");
    }
}

#[test]
fn what_struck_the_mount_is_told_with_the_device() {
    for (n, device) in [(1, "/dev/nvme1n1"), (2, "/dev/md0")] {
        let (state, live) = machine(n);
        let message = |change: fn(&mut Vec<Mount>)| {
            let mut live = live.clone();
            change(mounts(&mut live));
            judge(&Config::default(), Some(&state), &live, TIME).message
        };
        for said in [
            message(|mounts| mounts[2].super_options = "ro,errors=remount-ro".into()),
            message(|mounts| mounts.truncate(1)),
            message(|mounts| mounts.truncate(2)),
        ] {
            assert!(said.contains(device), "{said}");
        }
    }
}

#[test]
fn a_filesystem_with_errors_is_degraded_whatever_setup_said_and_shows_how_many() {
    let (mut state, mut live) = machine(2);
    live.errors = Some(3);
    for (health, reason) in [(Health::Ready, "SetupComplete"), (Health::Degraded, "Incomplete")] {
        (state.state, state.reason) = (health, reason.into());
        assert_eq!(verdict(&state, &live), (Verdict::Degraded, "FilesystemErrors".into()), "{health}");
    }
    let report = judge(&Config::default(), Some(&state), &live, TIME);
    assert!(
        report.message.contains("/dev/md0") && report.message.contains(": 3 since"),
        "{}",
        report.message
    );
    assert!(
        report.to_string().lines().any(|line| line.starts_with("mount") && line.ends_with(", 3 errors")),
        "{report}"
    );
    // What is mounted there instead, or over it, answers for itself.
    live.broken = Some("says \"Input/output error\"".into());
    mounts(&mut live)[2].dev = DevNum { major: 259, minor: 9 };
    assert_eq!(verdict(&state, &live), (Verdict::Failed, "MountReplaced".into()));
}

#[test]
fn after_a_teardown_at_boot_the_drives_that_are_there_are_no_failure() {
    let (mut state, live) = machine(2);
    (state.state, state.reason) = (Health::Absent, crate::teardown::REASON.into());
    assert_eq!(verdict(&state, &live), (Verdict::Absent, "TornDown".into()));
}

#[test]
fn a_mount_without_its_fstab_line_is_degraded() {
    for fstab in ["", "# UUID=x /tmp\n", "UUID=other /tmp ext4 nofail 0 0\n", "LABEL=x /tmp\n"] {
        let (state, mut live) = machine(2);
        live.fstab = Some(fstab.into());
        assert_eq!(verdict(&state, &live), (Verdict::Degraded, "PersistenceMissing".into()), "{fstab}");
    }
    let (state, mut live) = machine(2);
    live.fstab = None;
    assert_eq!(verdict(&state, &live).0, Verdict::Ready, "an fstab that cannot be read says nothing");
}

#[test]
fn parts_that_cannot_be_read_do_not_hide_that_the_mount_is_there() {
    let (state, mut live) = machine(2);
    (live.drives, live.arrays) = (None, None);
    live.problems = vec!["/sys/block: cannot read".into()];
    let report = judge(&Config::default(), Some(&state), &live, TIME);
    assert_eq!(report.state, Verdict::Ready);
    assert_eq!(report.unreadable, ["/sys/block: cannot read"]);
}

#[test]
fn a_drive_that_setup_was_told_to_match_and_this_configuration_does_not_is_not_lost() {
    let (state, mut live) = machine(2);
    live.others = state
        .serials
        .iter()
        .map(|serial| Skipped {
            name: "nvme1n1".into(),
            serial: serial.clone(),
            model: "QEMU".into(),
            unmatched: true,
            why: "model is not matched".into(),
        })
        .collect();
    live.drives = Some(Vec::new());
    assert_eq!(verdict(&state, &live).0, Verdict::Ready);
    // One whose controller died has no size, and is no candidate either.
    live.others[0].unmatched = false;
    live.others[0].why = "has no capacity".into();
    assert_eq!(verdict(&state, &live), (Verdict::Failed, "DriveLost".into()));
}

#[test]
fn without_a_state_of_this_boot_nothing_is_called_ready() {
    let (_, live) = machine(2);
    let report = judge(&Config::default(), None, &live, TIME);
    assert_eq!((report.state, report.state.exit_code()), (Verdict::NotSetUp, 12));
    assert!(report.next.unwrap().contains("nvme-agent setup"));
    assert!(!report.mount.unwrap().ours);
    assert_eq!(report.array.unwrap().device, "md0");
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
