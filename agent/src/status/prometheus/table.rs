//! Every metric, in the order of the page. docs/metrics.md is held to this table by a test.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::{Kind, Metric, Samples, micros, timestamp};
use crate::probe::smart::{Smart, WARNINGS};
use crate::probe::statistics::Statistics;
use crate::status::{DrivePart, Finding, MountPart, Report, SetupPart, Verdict};

/// Labels of what is said of each drive.
const DRIVE: &[&str] = &["device", "serial"];
const OPERATION: &[&str] = &["device", "serial", "operation"];

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&Report, &mut Samples),
) -> Metric {
    Metric { name, kind, labels, help, samples }
}

/// All that there are.
#[rustfmt::skip] // One metric: its name, what it is, and where it comes from.
pub const METRICS: &[Metric] = &[
    metric("nvme_agent_info", Kind::Info, &["version", "layout", "filesystem", "target", "device"],
        "The agent's version, and the storage as the last setup made it; labels are empty where there is none.",
        info),
    metric("nvme_agent_look_timestamp_seconds", Kind::Gauge, &[],
        "When the machine was looked at: all else on this page is of that time.",
        |report, out| out.put(&[], timestamp(&report.time))),
    metric("nvme_agent_state", Kind::Flag, &["state"],
        "The verdict: 1 for the state that the local storage is in, 0 for the others.",
        |report, out| for state in Verdict::ALL {
            out.put(&[state.as_str()], Some(u8::from(report.state == state)));
        }),
    metric("nvme_agent_reason_info", Kind::Info, &["reason"],
        "Why the state is what it is, in one word.",
        |report, out| out.put(&[&report.reason], some_text(&report.reason))),
    metric("nvme_agent_findings", Kind::Gauge, &["reason", "state"],
        "What was found wrong, by reason and by the state that it makes of the verdict by itself.",
        |report, out| count(&report.findings, out, |finding| vec![&finding.reason, finding.state.as_str()])),
    metric("nvme_agent_warnings", Kind::Gauge, &["reason"],
        "What may become a problem and does not change the state, by reason.",
        |report, out| count(&report.warnings, out, |warning| vec![&warning.reason])),
    metric("nvme_agent_state_since_timestamp_seconds", Kind::Gauge, &[],
        "Since when the last setup's verdict holds; absent where the live machine says otherwise.",
        |report, out| out.put(&[], report.since.as_deref().and_then(timestamp))),
    metric("nvme_agent_unreadable_parts", Kind::Gauge, &[],
        "Parts of the machine that could not be read for this look.",
        |report, out| out.put(&[], Some(report.unreadable.len()))),

    metric("nvme_agent_setup_info", Kind::Info, &["trigger", "version"],
        "What started the last setup of this boot, and the version of the agent that ran it.",
        |report, out| if let Some(setup) = &report.last_setup {
            out.put(&[&setup.trigger, &setup.agent], Some(1));
        }),
    metric("nvme_agent_setup_timestamp_seconds", Kind::Gauge, &[],
        "When the last setup of this boot ended.",
        |report, out| out.put(&[], setup(report).and_then(|setup| timestamp(&setup.finished)))),
    metric("nvme_agent_setup_duration_seconds", Kind::Gauge, &[],
        "How long the last setup of this boot took.",
        |report, out| out.put(&[], setup(report).map(|setup| millis(setup.duration_ms)))),
    metric("nvme_agent_setup_step_duration_seconds", Kind::Gauge, &["step"],
        "How long each step of it took; steps of one name together.",
        steps),
    metric("nvme_agent_persistence_in_order", Kind::Flag, &[],
        "1 where the next boot will find what it needs to mount the storage again.",
        |report, out| out.put(&[], setup(report).map(|_| u8::from(report.persistence.in_order)))),
    metric("nvme_agent_persistence_file_in_order", Kind::Flag, &["file"],
        "1 for each of the host's files that is as setup left it, 0 where it differs; absent where it is not needed or not known.",
        |report, out| for file in &report.persistence.files {
            out.put(&[&file.what], file.in_order.map(u8::from));
        }),

    metric("nvme_agent_filesystem_size_bytes", Kind::Gauge, &[],
        "Size of our filesystem; absent, as all of it, where what is mounted at the target is not ours.",
        |report, out| out.put(&[], mount(report).and_then(|mount| mount.size_bytes))),
    metric("nvme_agent_filesystem_used_bytes", Kind::Gauge, &[],
        "What files take of it.",
        |report, out| out.put(&[], mount(report).and_then(|mount| mount.used_bytes))),
    metric("nvme_agent_filesystem_available_bytes", Kind::Gauge, &[],
        "What is left of it for users without privileges.",
        |report, out| out.put(&[], mount(report).and_then(|mount| mount.available_bytes))),
    metric("nvme_agent_filesystem_inodes", Kind::Gauge, &[],
        "Inodes that it has; absent where it makes them as it goes.",
        |report, out| out.put(&[], mount(report).and_then(|mount| mount.inodes))),
    metric("nvme_agent_filesystem_inodes_used", Kind::Gauge, &[],
        "Inodes that are taken.",
        |report, out| out.put(&[], mount(report).and_then(|mount| mount.inodes_used))),
    metric("nvme_agent_filesystem_errors_total", Kind::Counter, &[],
        "Errors that the kernel has found in it since it was last checked; ext4 counts them.",
        |report, out| out.put(&[], mount(report).and_then(|mount| mount.errors))),

    metric("nvme_agent_array_info", Kind::Info, &["device", "level", "state"],
        "The array that carries the filesystem, and its state as the kernel says it.",
        |report, out| if let Some(array) = &report.array {
            out.put(&[&array.device, &array.level, &array.state], Some(1));
        }),
    metric("nvme_agent_array_members_expected", Kind::Gauge, &[],
        "Members that the array must have.",
        |report, out| out.put(&[], report.array.as_ref().map(|array| array.raid_disks))),
    metric("nvme_agent_array_members_present", Kind::Gauge, &[],
        "Members that it has and that the kernel does not call faulty.",
        |report, out| out.put(&[], report.array.as_ref().map(|array| {
            array.members.iter().filter(|member| !member.state.contains("faulty")).count()
        }))),

    metric("nvme_agent_drive_info", Kind::Info, &["device", "serial", "model"],
        "The drives that are candidates, and those that setup used and that are gone.",
        |report, out| for drive in &report.drives {
            out.put(&[&drive.device, &drive.serial, &drive.model], Some(1));
        }),
    metric("nvme_agent_drive_used", Kind::Flag, DRIVE,
        "1 where setup made the drive part of the storage.",
        |report, out| drives(report, out, |drive| Some(u8::from(drive.used)))),
    metric("nvme_agent_drive_live", Kind::Flag, DRIVE,
        "1 where the drive's controller works, 0 where it does not or the drive is gone.",
        |report, out| drives(report, out, live)),
    metric("nvme_agent_drive_answered", Kind::Flag, DRIVE,
        "1 where the drive answered, 0 where it did not in time, or may not be asked.",
        |report, out| drives(report, out, |drive| match is_silent(drive) {
            true => Some(0),
            false => answered(drive).then_some(1),
        })),
    metric("nvme_agent_drive_readable", Kind::Flag, DRIVE,
        "1 where a read of the drive's first blocks worked, 0 where it failed.",
        |report, out| drives(report, out, |drive| match &drive.read_error {
            Some(_) => Some(0),
            None => (!is_silent(drive) && answered(drive)).then_some(1),
        })),
    metric("nvme_agent_drive_size_bytes", Kind::Gauge, DRIVE,
        "Size of the drive.",
        |report, out| drives(report, out, |drive| (drive.size_bytes > 0).then_some(drive.size_bytes))),

    metric("nvme_agent_drive_critical_warning", Kind::Flag, &["device", "serial", "warning"],
        "1 for each critical warning of SMART that the drive has set.",
        |report, out| for drive in &report.drives {
            let Some(smart) = &drive.smart else { continue };
            for warning in WARNINGS {
                let set = smart.critical_warnings.iter().any(|set| set == warning);
                out.put(&[&drive.device, &drive.serial, warning], Some(u8::from(set)));
            }
        }),
    metric("nvme_agent_drive_temperature_celsius", Kind::Gauge, DRIVE,
        "Temperature of the drive.",
        |report, out| drives(report, out, |drive| drive.smart.as_ref()?.temperature_celsius)),
    metric("nvme_agent_drive_spare_ratio", Kind::Gauge, DRIVE,
        "Spare blocks that are left.",
        |report, out| smart(report, out, |smart| ratio(smart.spare_percent))),
    metric("nvme_agent_drive_spare_threshold_ratio", Kind::Gauge, DRIVE,
        "Below this share of spare blocks the drive warns.",
        |report, out| smart(report, out, |smart| ratio(smart.spare_threshold_percent))),
    metric("nvme_agent_drive_wear_ratio", Kind::Gauge, DRIVE,
        "Of the life that the vendor expects, what is used up; above 1 possible.",
        |report, out| smart(report, out, |smart| ratio(smart.wear_percent))),
    metric("nvme_agent_drive_media_errors_total", Kind::Counter, DRIVE,
        "Data that could not be had back, and other failures of the medium, in the drive's life.",
        |report, out| smart(report, out, |smart| smart.media_errors)),
    metric("nvme_agent_drive_media_errors_since_setup", Kind::Gauge, DRIVE,
        "How many of them came since the first setup of this boot.",
        |report, out| drives(report, out, |drive| drive.new_media_errors)),
    metric("nvme_agent_drive_error_log_entries_total", Kind::Counter, DRIVE,
        "Entries of the drive's error log in its life.",
        |report, out| smart(report, out, |smart| smart.error_log_entries)),
    metric("nvme_agent_drive_unsafe_shutdowns_total", Kind::Counter, DRIVE,
        "Times that the drive lost power unprepared.",
        |report, out| smart(report, out, |smart| smart.unsafe_shutdowns)),
    metric("nvme_agent_drive_power_on_seconds_total", Kind::Counter, DRIVE,
        "For how long the drive has been powered in its life, in whole hours.",
        |report, out| smart(report, out, |smart| smart.power_on_hours.saturating_mul(3600))),
    metric("nvme_agent_drive_read_bytes_total", Kind::Counter, DRIVE,
        "What was read from the drive in its life, by whomever.",
        |report, out| smart(report, out, |smart| smart.read_bytes)),
    metric("nvme_agent_drive_written_bytes_total", Kind::Counter, DRIVE,
        "What was written to the drive in its life, by whomever.",
        |report, out| smart(report, out, |smart| smart.written_bytes)),

    metric("nvme_agent_drive_ec2_operation_duration_seconds", Kind::Summary, OPERATION,
        "How long operations took (read, write) since the instance was started, by EC2's own statistics: quantiles, their time \
         and their number.",
        |report, out| each(report, out, |out, drive, ec2| {
            let (device, serial) = (&*drive.device, &*drive.serial);
            out.summary(&[device, serial, "read"], ec2.read_latency, micros(ec2.read_us), ec2.read_ops);
            out.summary(&[device, serial, "write"], ec2.write_latency, micros(ec2.write_us), ec2.write_ops);
        })),
    metric("nvme_agent_drive_ec2_operation_bytes_total", Kind::Counter, OPERATION,
        "What was read and written since the instance was started.",
        |report, out| each(report, out, |out, drive, ec2| {
            out.put(&[&drive.device, &drive.serial, "read"], Some(ec2.read_bytes));
            out.put(&[&drive.device, &drive.serial, "write"], Some(ec2.written_bytes));
        })),
    metric("nvme_agent_drive_ec2_iops_exceeded_seconds_total", Kind::Counter, DRIVE,
        "For how long more operations were wanted than the instance type allows.",
        |report, out| statistics(report, out, |ec2| micros(ec2.iops_exceeded_us))),
    metric("nvme_agent_drive_ec2_throughput_exceeded_seconds_total", Kind::Counter, DRIVE,
        "For how long more bytes were wanted than the instance type allows.",
        |report, out| statistics(report, out, |ec2| micros(ec2.throughput_exceeded_us))),
    metric("nvme_agent_drive_ec2_queue_length", Kind::Gauge, DRIVE,
        "Operations that wait now.",
        |report, out| statistics(report, out, |ec2| ec2.queue_length)),

    metric("nvme_agent_node_registration_info", Kind::Info, &["way", "state", "tainted"],
        "What the Node is to register with, and by which way; state is empty where nothing is said.",
        |report, out| if let Some(to) = &report.node.registration {
            let state = if to.path.is_some() { to.state.as_str() } else { "" };
            out.put(&[to.way.as_str(), state, if to.tainted { "true" } else { "false" }], Some(1));
        }),
    metric("nvme_agent_node_reported_info", Kind::Info, &["node", "state", "reason"],
        "What the Node was last told through the API server in this boot.",
        |report, out| if let Some(told) = &report.node.reported {
            out.put(&[&told.node, &told.state, &told.reason], Some(1));
        }),
    metric("nvme_agent_node_read_timestamp_seconds", Kind::Gauge, &[],
        "When the Node was last read from the API server; each report that has something to say reads it first.",
        |report, out| out.put(&[], report.node.reported.as_ref().and_then(|told| timestamp(&told.read)))),
    metric("nvme_agent_node_changed_timestamp_seconds", Kind::Gauge, &[],
        "When the Node was last written to; absent where it said it all already.",
        |report, out| out.put(&[], report.node.reported.as_ref().and_then(|told| timestamp(&told.changed)))),
    metric("nvme_agent_host_info", Kind::Info, &["instance_type", "kernel"],
        "The machine; labels are empty where it could not be read.",
        |report, out| if let Some(host) = &report.host {
            let text = |part: &Option<String>| part.clone().unwrap_or_default();
            out.put(&[&text(&host.instance_type), &text(&host.kernel)], Some(1));
        }),
];

fn info(report: &Report, out: &mut Samples) {
    let mounted = mount(report);
    let device = match &report.array {
        Some(array) => array.device.as_str(),
        None => mounted.map_or("", |mount| mount.source.strip_prefix("/dev/").unwrap_or(&mount.source)),
    };
    let filesystem = mounted.map_or("", |mount| &mount.filesystem);
    out.put(&[&report.agent, &report.layout, filesystem, &report.target, device], Some(1));
}

fn setup(report: &Report) -> Option<&SetupPart> {
    report.last_setup.as_ref()
}

/// What is mounted, where it is ours: the size of somebody's tmpfs is not that of the local storage.
fn mount(report: &Report) -> Option<&MountPart> {
    report.mount.as_ref().filter(|mount| mount.ours)
}

fn steps(report: &Report, out: &mut Samples) {
    let mut steps: BTreeMap<&str, u64> = BTreeMap::new();
    for step in setup(report).iter().flat_map(|setup| &setup.steps) {
        let total = steps.entry(&step.name).or_default();
        *total = total.saturating_add(step.millis);
    }
    for (name, total) in steps {
        out.put(&[name], Some(millis(total)));
    }
}

fn count<'a>(found: &'a [Finding], out: &mut Samples, labels: impl Fn(&'a Finding) -> Vec<&'a str>) {
    let mut counts: BTreeMap<Vec<&str>, u32> = BTreeMap::new();
    for finding in found {
        *counts.entry(labels(finding)).or_default() += 1;
    }
    for (labels, count) in counts {
        out.put(&labels, Some(count));
    }
}

/// None where nobody knows: what no configuration matches was not looked at, and some kernels do not say.
fn live(drive: &DrivePart) -> Option<u8> {
    match drive.state.as_str() {
        "" | "unmatched" => None,
        state => Some(u8::from(state == "live")),
    }
}

/// It was asked, and has said something.
fn answered(drive: &DrivePart) -> bool {
    drive.smart.is_some() || drive.statistics.is_some() || drive.gives_no_log_pages()
}

/// It did not answer in time, or may not be asked.
fn is_silent(drive: &DrivePart) -> bool {
    drive.not_asked.is_some() && !drive.gives_no_log_pages()
}

fn drives<T: Display>(report: &Report, out: &mut Samples, value: impl Fn(&DrivePart) -> Option<T>) {
    for drive in &report.drives {
        out.put(&[&drive.device, &drive.serial], value(drive));
    }
}

fn smart<T: Display>(report: &Report, out: &mut Samples, value: impl Fn(&Smart) -> T) {
    drives(report, out, |drive| drive.smart.as_ref().map(&value));
}

fn statistics<T: Display>(report: &Report, out: &mut Samples, value: impl Fn(&Statistics) -> T) {
    drives(report, out, |drive| drive.statistics.as_ref().map(&value));
}

fn each(report: &Report, out: &mut Samples, say: impl Fn(&mut Samples, &DrivePart, &Statistics)) {
    for drive in &report.drives {
        if let Some(ec2) = &drive.statistics {
            say(out, drive, ec2);
        }
    }
}

fn some_text(text: &str) -> Option<u8> {
    (!text.is_empty()).then_some(1)
}

/// In seconds.
fn millis(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1e3
}

fn ratio(percent: u8) -> f64 {
    f64::from(percent) / 100.0
}
