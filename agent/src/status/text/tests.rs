//! The screen for machines that are not as they ought to be. Those that are, by number of drives, are with the verdict's
//! tests.

use std::time::Duration;

use super::*;
use crate::config::Config;
use crate::probe::smart::Smart;
use crate::probe::statistics::{Latency, Statistics};
use crate::root::Root;
use crate::state::StepTime;
use crate::status::{
    self, ArrayPart, DrivePart, FilePart, HostPart, MemberPart, MountPart, PersistencePart, ReportedPart,
    SetupPart,
};

fn drive(n: usize) -> DrivePart {
    DrivePart {
        device: format!("nvme{n}n1"),
        serial: format!("AWS{:017X}", 0x1111_0000 + n),
        model: "Amazon EC2 NVMe Instance Storage".into(),
        size_bytes: 7_500_000_000_000,
        state: "live".into(),
        used: true,
        smart: Some(Smart {
            temperature_celsius: Some(36 + n as i32),
            spare_percent: 100,
            wear_percent: n as u8,
            ..Smart::default()
        }),
        new_media_errors: Some(0),
        ..DrivePart::default()
    }
}

/// A node that is as it ought to be.
fn report(drives: usize) -> Report {
    let member = |n| MemberPart { device: format!("nvme{n}n1"), state: "in_sync".into() };
    Report {
        agent: "VERSION".into(),
        state: Verdict::Ready,
        reason: "SetupComplete".into(),
        message: "mounted and verified".into(),
        since: Some("2026-07-26T10:00:00Z".into()),
        layout: "raid0".into(),
        target: "/tmp".into(),
        mount: Some(MountPart {
            source: "/dev/md0".into(),
            filesystem: "ext4".into(),
            options: "rw,nosuid,nodev,noatime,stripe=1024".into(),
            size_bytes: Some(59 << 40),
            used_bytes: Some(600 << 30),
            inodes: Some(1 << 32),
            inodes_used: Some(1 << 20),
            ours: true,
            errors: Some(0),
            hidden_files: Some(0),
            ..MountPart::default()
        }),
        array: Some(ArrayPart {
            device: "md0".into(),
            level: "raid0".into(),
            state: "clean".into(),
            chunk_bytes: 512 << 10,
            members: (1..=drives).map(member).collect(),
            raid_disks: drives as u32,
            uuid: Some(uuid::Uuid::from_u128(7)),
        }),
        drives: (1..=drives).map(drive).collect(),
        last_setup: Some(SetupPart {
            finished: "2026-07-26T10:00:01Z".into(),
            trigger: "boot".into(),
            duration_ms: 1234,
            agent: "VERSION".into(),
            steps: ["record-intent", "create-array", "make-filesystem"]
                .into_iter()
                .zip([3, 120, 900])
                .map(|(name, millis)| StepTime { name: name.into(), what: String::new(), millis })
                .collect(),
        }),
        persistence: PersistencePart {
            in_order: true,
            problems: Vec::new(),
            files: [
                ("/etc/fstab", Some(true)),
                ("/etc/mdadm.conf", None),
                ("/etc/tmpfiles.d/tmp.conf", Some(true)),
            ]
            .map(|(path, in_order)| FilePart { path: path.into(), in_order, ..FilePart::default() })
            .into(),
        },
        host: Some(HostPart {
            instance_type: Some("i4i.32xlarge".into()),
            kernel: Some("6.12.46-66.121.amzn2023.x86_64".into()),
            uptime_s: Some(7300),
            memory_bytes: Some(123 << 30),
            memory_available_bytes: Some(118 << 30),
        }),
        ..Report::default()
    }
}

fn finding(n: usize) -> Finding {
    Finding {
        reason: "DriveWarning".into(),
        state: Verdict::Degraded,
        message: format!("drive {n} says that its spare blocks run low"),
        next: "Replace the node.".into(),
    }
}

#[test]
fn a_user_who_is_not_root_is_told_once_what_needs_root() {
    let mut report = report(2);
    for drive in &mut report.drives {
        (drive.smart, drive.new_media_errors) = (None, None);
        drive.not_asked = Some("needs root".into());
    }
    let text = report.to_string();
    assert_eq!(text.matches("needs root").count(), 1, "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn a_drive_that_warns_and_what_else_was_found() {
    let mut report = report(3);
    let first = finding(2);
    (report.state, report.reason) = (first.state, first.reason.clone());
    (report.message, report.next, report.since) = (first.message.clone(), Some(first.next.clone()), None);
    report.findings = vec![first, Finding { reason: "PersistenceMissing".into(), ..finding(3) }];
    report.warnings = vec![Finding {
        reason: "InodesLow".into(),
        message: "96% of the inodes of /tmp are taken".into(),
        next: "Remove files.".into(),
        ..Finding::default()
    }];
    let smart = report.drives[1].smart.as_mut().unwrap();
    smart.critical_warnings = vec!["spare-low".into(), "temperature".into()];
    report.drives[2].new_media_errors = Some(4);
    report.array.as_mut().unwrap().members[2].state = "faulty".into();
    report.mount.as_mut().unwrap().hidden_files = Some(3);
    report.notes =
        vec!["3 entries of /tmp on tmpfs are hidden by the mount".into(), "the stripe was made anew".into()];
    let files = &mut report.persistence.files;
    files[0].in_order = Some(false);
    files[1] = FilePart {
        in_order: Some(false),
        differs: Some("no ARRAY line is of it".into()),
        ..files[1].clone()
    };
    report.persistence.problems = vec!["/etc/fstab: no line mounts it".into()];
    insta::assert_snapshot!(report.to_string());
}

#[test]
fn what_ec2_counts_is_shown_where_a_drive_reports_it() {
    let mut report = report(2);
    let counted = Statistics {
        read_latency: Some(Latency { p50_us: 90, p99_us: 512 }),
        write_latency: Some(Latency { p50_us: 20, p99_us: 65_536 }),
        ..Statistics::default()
    };
    report.drives[1].statistics = Some(Statistics {
        iops_exceeded_us: 2_500_000,
        throughput_exceeded_us: 780_000_000,
        ..counted.clone()
    });
    report.drives[0].statistics = Some(Statistics { read_latency: None, ..counted });
    let text = report.to_string();
    // README shows it.
    let readme = include_str!("../../../../README.md");
    let shown: String = text.lines().map(|line| format!("    {line}\n")).collect();
    assert!(
        readme.contains(&shown.replace("VERSION", "0.1.0")),
        "README shows something else than:\n{shown}"
    );
    insta::assert_snapshot!(text);
}

#[test]
fn a_drive_that_does_not_answer_and_one_that_is_gone() {
    let mut report = report(3);
    (report.state, report.reason) = (Verdict::Failed, "DriveLost".into());
    let silent = &mut report.drives[0];
    (silent.smart, silent.new_media_errors) = (None, None);
    silent.not_asked = Some("does not answer within 1.2 s".into());
    report.drives[1] = DrivePart {
        device: String::new(),
        state: "missing".into(),
        serial: report.drives[1].serial.clone(),
        used: true,
        ..DrivePart::default()
    };
    report.drives[2].read_error = Some("I/O error".into());
    insta::assert_snapshot!(report.to_string());
}

#[test]
fn of_many_drives_those_that_are_not_as_the_others_have_a_line() {
    let mut report = report(24);
    report.drives[6].smart.as_mut().unwrap().critical_warnings = vec!["read-only".into()];
    report.drives[8].state = "dead".into();
    let text = report.to_string();
    assert!(text.lines().count() <= 20 && text.contains("warns: read-only"), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn where_nothing_can_be_read_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::default();
    let report = status::report(&Root::new(dir.path()), &config, Vec::new(), Duration::from_secs(1));
    let text = Report { agent: "VERSION".into(), ..report }.to_string();
    insta::assert_snapshot!(text.replace(dir.path().to_str().unwrap(), "ROOT"));
}

/// The worst that may be in every part at once.
fn worst() -> Report {
    let long = "something long and sad happened to /etc/somewhere, ".repeat(40);
    let mut report = report(8);
    (report.state, report.message, report.next) = (Verdict::Failed, long.clone(), Some(long.clone()));
    report.findings =
        (0..9).map(|n| Finding { message: long.clone(), next: long.clone(), ..finding(n) }).collect();
    report.warnings = report.findings.clone();
    for drive in &mut report.drives {
        drive.state = "deleting (no IO)".into();
        drive.smart.as_mut().unwrap().critical_warnings =
            vec!["reliability-degraded".into(), "read-only".into()];
        drive.read_error = Some("I/O error".into());
        drive.used = false;
        drive.statistics = Some(Statistics {
            iops_exceeded_us: u64::MAX,
            throughput_exceeded_us: u64::MAX,
            read_latency: Some(Latency { p50_us: u64::MAX, p99_us: u64::MAX }),
            write_latency: Some(Latency { p50_us: u64::MAX, p99_us: u64::MAX }),
            ..Statistics::default()
        });
    }
    for member in &mut report.array.as_mut().unwrap().members {
        member.state = "faulty,write_error,want_replacement".into();
    }
    let mount = report.mount.as_mut().unwrap();
    (mount.options, mount.errors, mount.hidden_files) = (long.clone(), Some(u64::MAX), Some(u64::MAX));
    report.persistence.problems = vec![long.clone(); 9];
    report.notes = vec![long.clone(); 9];
    report.unreadable = vec![long.clone(); 9];
    report.node.reported = Some(ReportedPart { node: "n".repeat(253), ..ReportedPart::default() });
    report.last_setup.as_mut().unwrap().steps.iter_mut().for_each(|step| step.millis = 123_456);
    report
}

#[test]
fn the_worst_of_eight_drives_fits_and_begins_with_verdict_and_next_action() {
    let text = worst().to_string();
    assert!(text.len() <= SCREEN && text.is_ascii(), "{}:\n{text}", text.len());
    let heads: Vec<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(&heads[..3], ["failed", "why", "next"], "{text}");
    for drive in &worst().drives {
        assert!(text.contains(&format!(" {} ", drive.serial)), "no {}:\n{text}", drive.serial);
    }
}

/// The SSM console shows 2,500 characters of `--output json`, too.
#[test]
fn json_begins_with_verdict_and_next_action() {
    let mut report = worst();
    report.next = Some("Replace the node.".into());
    let json = serde_json::to_string_pretty(&report).unwrap();
    let (first, at) = (&json[..2500], |key: &str| json.find(&format!("\"{key}\": ")).unwrap());
    assert!(
        first.contains("\"state\": \"failed\"") && first.contains("\"next\": \"Replace the node.\""),
        "{first}"
    );
    assert!(at("reason") < at("message"));
}

#[test]
fn only_the_verdict_and_what_is_wrong_are_coloured_and_only_where_asked_for() {
    let mut report = report(2);
    report.drives[1].state = "dead".into();
    let plain = report.screen(false);
    let coloured = report.screen(true);
    assert!(!plain.contains('\u{1b}'));
    let coloured: Vec<&str> = coloured.lines().filter(|line| line.contains('\u{1b}')).collect();
    let [verdict, dead] = coloured[..] else { panic!("{coloured:?}") };
    assert_eq!(verdict, "\u{1b}[32mready\u{1b}[0m (SetupComplete) since 2026-07-26T10:00:00Z");
    assert!(dead.starts_with("\u{1b}[31m  nvme2n1") && dead.ends_with("\u{1b}[0m"), "{dead:?}");
    let mut without = report.screen(true);
    for code in ["\u{1b}[0m", "\u{1b}[31m", "\u{1b}[32m"] {
        without = without.replace(code, "");
    }
    assert_eq!(without, plain);
}

#[test]
fn what_a_name_would_have_a_terminal_do_is_escaped() {
    let mut report = report(2);
    report.drives[0].serial = "\u{1b}[2J\n".into();
    report.message = "\u{1b}]0;x\u{7}".into();
    for text in [report.screen(false), report.screen(true).replace("\u{1b}[32mready\u{1b}[0m", "ready")] {
        assert!(text.chars().all(|c| matches!(c, '\n' | ' '..='~')), "{text:?}");
    }
}
