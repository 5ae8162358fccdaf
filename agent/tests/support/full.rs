//! A report in which everything is there that can be.

use nvme_agent::node::registration::{Registration, Way};
use nvme_agent::probe::smart::{Smart, WARNINGS};
use nvme_agent::probe::statistics::{Latency, Statistics};
use nvme_agent::state::{Health, StepTime};
use nvme_agent::status::{
    ArrayPart, DrivePart, FilePart, Finding, HostPart, MemberPart, MountPart, NodePart, OnNodePart,
    PersistencePart, Report, ReportedPart, SCHEMA, SetupPart, Verdict,
};

const TIME: &str = "2026-07-26T12:00:00Z";

fn drive(device: &str, serial: &str) -> DrivePart {
    DrivePart {
        device: device.into(),
        serial: serial.into(),
        model: "Amazon EC2 NVMe Instance Storage".into(),
        size_bytes: 7_500_000_000_000,
        state: "live".into(),
        used: true,
        smart: Some(Smart {
            critical_warnings: vec![WARNINGS[0].into(), WARNINGS[3].into()],
            temperature_celsius: Some(38),
            spare_percent: 93,
            spare_threshold_percent: 10,
            wear_percent: 7,
            read_bytes: u64::MAX,
            written_bytes: 1_024_000,
            power_on_hours: 8766,
            unsafe_shutdowns: 3,
            media_errors: 2,
            error_log_entries: 5,
        }),
        new_media_errors: Some(1),
        statistics: Some(Statistics {
            read_ops: 1000,
            write_ops: 10,
            read_bytes: 4_096_000,
            written_bytes: 40_960,
            read_us: 90_000,
            write_us: 250,
            iops_exceeded_us: 1_500_000,
            throughput_exceeded_us: 20,
            queue_length: 4,
            read_latency: Some(Latency { p50_us: 64, p99_us: 512 }),
            write_latency: Some(Latency { p50_us: 16, p99_us: 32 }),
        }),
        read_error: None,
        not_asked: None,
    }
}

fn finding(reason: &str, state: Verdict) -> Finding {
    Finding { reason: reason.into(), state, message: "It is so.".into(), next: "Mend it.".into() }
}

pub fn report() -> Report {
    Report {
        schema: SCHEMA,
        agent: "0.1.0".into(),
        time: TIME.into(),
        state: Verdict::Degraded,
        reason: "DriveCriticalWarning".into(),
        message: "drive AWS1 warns".into(),
        next: Some("Replace the node.".into()),
        findings: vec![
            finding("DriveCriticalWarning", Verdict::Degraded),
            finding("DriveCriticalWarning", Verdict::Degraded),
        ],
        warnings: vec![finding("SpaceLow", Verdict::Ready)],
        since: Some(TIME.into()),
        layout: "raid0".into(),
        target: "/tmp".into(),
        mount: Some(MountPart {
            source: "/dev/md0".into(),
            filesystem: "ext4".into(),
            options: "rw,noatime".into(),
            size_bytes: Some(15 << 40),
            used_bytes: Some(1 << 40),
            available_bytes: Some(13 << 40),
            inodes: Some(1 << 28),
            inodes_used: Some(1 << 20),
            ours: true,
            errors: Some(1),
            hidden_files: Some(2),
        }),
        array: Some(ArrayPart {
            device: "md0".into(),
            level: "raid0".into(),
            state: "clean".into(),
            chunk_bytes: 512 << 10,
            members: ["nvme1n1", "nvme2n1"]
                .map(|device| MemberPart { device: device.into(), state: "in_sync".into() })
                .to_vec(),
            raid_disks: 2,
            uuid: Some(uuid::Uuid::from_u128(0x1234_5678_9abc_def0_1234_5678_9abc_def0)),
        }),
        drives: vec![
            drive("nvme1n1", "AWS1"),
            DrivePart {
                read_error: Some("I/O error".into()),
                not_asked: Some("does not answer within 1.2 s".into()),
                ..drive("nvme2n1", "AWS2")
            },
            DrivePart { serial: "AWS3".into(), state: "missing".into(), used: true, ..DrivePart::default() },
        ],
        last_setup: Some(SetupPart {
            finished: TIME.into(),
            trigger: "boot".into(),
            duration_ms: 1234,
            agent: "0.1.0".into(),
            steps: [("create-array", 120), ("directory", 2), ("directory", 3)]
                .map(|(name, millis)| StepTime { name: name.into(), what: "what it does".into(), millis })
                .to_vec(),
        }),
        persistence: PersistencePart {
            in_order: false,
            problems: vec!["/etc/fstab: 2 lines are for /tmp".into()],
            files: vec![FilePart {
                what: "fstab".into(),
                path: "/etc/fstab".into(),
                in_order: Some(false),
                differs: Some("2 lines are for /tmp".into()),
            }],
        },
        node: NodePart {
            registration: Some(Registration {
                boot_id: "one".into(),
                way: Way::DropIn,
                path: Some("/etc/eks/nodeadm.d/50-nvme-agent.yaml".into()),
                state: Health::Ready,
                labels: "nvme-agent.e6data.com/state=ready".into(),
                tainted: false,
                written: TIME.into(),
                problem: Some("another drop-in comes later".into()),
            }),
            reported: Some(ReportedPart {
                node: "ip-10-0-0-1.ec2.internal".into(),
                uid: "0b1c2d3e".into(),
                state: "degraded".into(),
                reason: "DriveCriticalWarning".into(),
                changed: TIME.into(),
                read: TIME.into(),
            }),
            on_node: Some(OnNodePart {
                problem: None,
                node: "ip-10-0-0-1.ec2.internal".into(),
                state: Some("degraded".into()),
                condition: Some("True".into()),
                reason: Some("DriveCriticalWarning".into()),
                tainted: false,
                agrees: Some(true),
                differs: Vec::new(),
            }),
        },
        host: Some(HostPart {
            instance_type: Some("i4i.4xlarge".into()),
            kernel: Some("6.12.46-66.121.amzn2023.x86_64".into()),
            uptime_s: Some(7300),
            memory_bytes: Some(123 << 30),
            memory_available_bytes: Some(118 << 30),
        }),
        notes: vec!["REBUILD: made anew".into()],
        unreadable: vec!["host: no memory".into()],
    }
}
