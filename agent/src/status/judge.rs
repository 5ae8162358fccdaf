//! What the state file says against what is there: a pure function.

use crate::config::Config;
use crate::observe::{Array, Drive, Mount, mounts};
use crate::persist::fstab;
use crate::state::{Health, State};

use super::live::Live;
use super::{ArrayPart, DrivePart, MountPart, PersistencePart, Report, SCHEMA, SetupPart, Verdict};

/// A verdict with its reason, message and next action.
struct Finding {
    state: Verdict,
    reason: &'static str,
    message: String,
    next: &'static str,
}

const SET_UP_AGAIN: &str =
    "Run `nvme-agent setup`; it says what it finds, and touches no data that it did not make.";
const LOOK: &str = "Look into the journal (`journalctl -b -p warning`). On EC2 a lost instance-store drive \
                    does not come back: replace the node, or stop and start the instance.";

/// The report on `live`, given what the last setup of this boot said.
pub fn judge(config: &Config, state: Option<&State>, live: &Live, time: &str) -> Report {
    let target = state.map(|s| s.target.as_str()).filter(|t| !t.is_empty()).unwrap_or(&config.target);
    let persistence = persistence(state, target, live);
    let mut report = Report {
        schema: SCHEMA,
        agent: env!("CARGO_PKG_VERSION").into(),
        time: time.into(),
        target: target.into(),
        layout: state.map(|s| s.layout.clone()).unwrap_or_default(),
        mount: top(live, target).map(|mount| mount_part(mount, state, live)),
        array: array(state, target, live).map(array_part),
        drives: drives(state, live),
        last_setup: state.map(setup_part),
        notes: state.map(|s| s.notes.clone()).unwrap_or_default(),
        host: live.host.clone(),
        unreadable: live.problems.clone(),
        ..Report::default()
    };
    match finding(state, target, live, &persistence) {
        Some(finding) => {
            report.state = finding.state;
            report.reason = finding.reason.into();
            report.message = finding.message;
            report.next = Some(finding.next.into());
        }
        // The last setup's word stands.
        None => {
            let Some(state) = state else { return report };
            report.state = match state.state {
                Health::Ready => Verdict::Ready,
                Health::Degraded => Verdict::Degraded,
                Health::Failed => Verdict::Failed,
                Health::Absent => Verdict::Absent,
            };
            report.reason = state.reason.clone();
            report.message = state.message.clone();
            report.since = Some(state.since.clone());
            report.next = match state.state {
                Health::Ready | Health::Absent => None,
                Health::Degraded => {
                    Some("Mend what is named here, then run `nvme-agent setup` again.".into())
                }
                Health::Failed => Some(
                    "Run `nvme-agent plan` to see what is found now; when it is mended, `nvme-agent setup`."
                        .into(),
                ),
            };
        }
    }
    report.persistence = persistence;
    report
}

/// Where the live machine overrules the last setup's word, or there is none.
fn finding(
    state: Option<&State>,
    target: &str,
    live: &Live,
    persistence: &PersistencePart,
) -> Option<Finding> {
    let Some(state) = state else {
        return Some(Finding {
            state: Verdict::NotSetUp,
            reason: "NotSetUp",
            message: match &live.drives {
                Some(drives) => format!("setup has not run in this boot; drives found: {}", drives.len()),
                None => "setup has not run in this boot".into(),
            },
            next: "Run `nvme-agent plan` to see what setup would do, then `nvme-agent setup`.",
        });
    };
    let failed = |reason, message, next| Some(Finding { state: Verdict::Failed, reason, message, next });
    match state.state {
        Health::Failed => return None,
        // A boot that tore down leaves its drives there, and does nothing with them on purpose.
        Health::Absent if state.reason == crate::teardown::REASON => return None,
        Health::Absent => {
            return match live.drives.as_deref() {
                Some([first, ..]) => failed(
                    "DrivesAppeared",
                    format!(
                        "setup found no drives, but there are some now, such as {} ({})",
                        first.name, first.serial
                    ),
                    SET_UP_AGAIN,
                ),
                _ => None,
            };
        }
        Health::Ready | Health::Degraded => {}
    }
    let Some(mounts) = &live.mounts else {
        return failed(
            "MountsUnreadable",
            "the mount table cannot be read, so nothing is certain".into(),
            LOOK,
        );
    };
    // Losing a drive comes first: all else follows from it.
    if let Some(found) = &live.drives {
        for serial in &state.serials {
            let drive = found.iter().find(|drive| drive.serial == *serial);
            // Setup may have been told to match other models than this configuration does.
            let unmatched = live.others.iter().any(|other| other.serial == *serial && other.unmatched);
            if let Some(problem) = drive_problem(drive)
                && !unmatched
            {
                return failed("DriveLost", format!("drive {serial} {problem}"), LOOK);
            }
        }
    }
    if let Some(arrays) = &live.arrays
        && state.layout == "raid0"
    {
        let array = arrays.iter().find(|array| array.name == state.device);
        if let Some(problem) = array_problem(array, state) {
            return failed("ArrayBroken", format!("array {} {problem}", state.device), LOOK);
        }
    }
    let Some(mount) = mounts.iter().rev().find(|mount| mount.at == target) else {
        return failed(
            "MountGone",
            format!("nothing is mounted on {target} any more; setup had put /dev/{} there", state.device),
            SET_UP_AGAIN,
        );
    };
    if !is_ours(mount, state, live) {
        let (source, kind) = (&mount.source, &mount.fs_type);
        return failed(
            "MountReplaced",
            format!("{target} is now {source} ({kind}), not /dev/{} as setup left it", state.device),
            "Find out who mounted it; `umount` it, then run `nvme-agent setup`.",
        );
    }
    if options(mount).any(|option| matches!(option, "ro" | "shutdown" | "emergency_ro")) {
        return failed(
            "MountReadOnly",
            format!(
                "{target} cannot be written: /dev/{} is mounted read-only or was shut down",
                state.device
            ),
            LOOK,
        );
    }
    if let Some(over) = mounts::hiding(mounts, mount) {
        let (source, at) = (&over.source, &over.at);
        return failed(
            "MountHidden",
            format!("{target} cannot be reached: {source} is mounted on {at}, over it"),
            "Find out who mounted it; `umount` it, then run `nvme-agent setup`.",
        );
    }
    if let Some(why) = &live.broken {
        return failed(
            "FilesystemFailed",
            format!(
                "the filesystem on {target} (/dev/{}) {why}: the kernel has given it up, or hangs in it",
                state.device
            ),
            LOOK,
        );
    }
    if let Some(errors @ 1..) = live.errors {
        return Some(Finding {
            state: Verdict::Degraded,
            reason: "FilesystemErrors",
            message: format!(
                "the kernel has found errors in the filesystem on {target} (/dev/{}): {errors} since it was last checked",
                state.device
            ),
            next: "Look into the journal (`journalctl -k -p warning`) and replace the node, or unmount the filesystem and \
                   check it with `e2fsck -f`.",
        });
    }
    if !persistence.in_order && state.state == Health::Ready {
        return Some(Finding {
            state: Verdict::Degraded,
            reason: "PersistenceMissing",
            message: format!("{target} is mounted, but the next boot may not mount it"),
            next: "Run `nvme-agent setup`, which repairs its own lines.",
        });
    }
    None
}

fn drive_problem(drive: Option<&Drive>) -> Option<String> {
    match drive {
        None => Some("is gone".into()),
        Some(drive) if !matches!(drive.state.as_str(), "live" | "") => {
            Some(format!("({}) is not live but {}", drive.name, drive.state))
        }
        Some(drive) if drive.read_only => Some(format!("({}) has become read-only", drive.name)),
        Some(_) => None,
    }
}

fn array_problem(array: Option<&Array>, state: &State) -> Option<String> {
    let Some(array) = array else { return Some("is gone".into()) };
    if !array.is_running() {
        return Some(format!("is not running but {}", word(&array.state)));
    }
    if array.read_only {
        return Some("is read-only".into());
    }
    if array.members.len() < array.raid_disks as usize {
        return Some(format!("has {} of {} members", array.members.len(), array.raid_disks));
    }
    match (array.uuid, state.array_uuid) {
        (Some(found), Some(expected)) if found != expected => {
            Some(format!("is another one: {found}, not {expected}"))
        }
        _ => None,
    }
}

fn word(state: &str) -> &str {
    if state.is_empty() { "without a state" } else { state }
}

/// The mount is that of the device that setup mounted: by its number, where the kernel's lists are readable.
fn is_ours(mount: &Mount, state: &State, live: &Live) -> bool {
    let arrays = live.arrays.iter().flatten().map(|array| (&array.name, array.dev));
    let drives = live.drives.iter().flatten().map(|drive| (&drive.name, drive.dev));
    match arrays.chain(drives).find(|(name, _)| **name == state.device) {
        Some((_, dev)) => mount.dev == dev && mount.root == "/" && mount.fs_type == state.filesystem,
        None => mount.source == format!("/dev/{}", state.device) && mount.root == "/",
    }
}

/// The topmost mount at the target.
fn top<'a>(live: &'a Live, target: &str) -> Option<&'a Mount> {
    live.mounts.iter().flatten().rev().find(|mount| mount.at == target)
}

fn options(mount: &Mount) -> impl Iterator<Item = &str> {
    mount.options.split(',').chain(mount.super_options.split(','))
}

fn mount_part(mount: &Mount, state: Option<&State>, live: &Live) -> MountPart {
    let mut all: Vec<&str> = Vec::new();
    for option in options(mount).filter(|option| !option.is_empty()) {
        if !all.contains(&option) {
            all.push(option);
        }
    }
    MountPart {
        source: mount.source.clone(),
        filesystem: mount.fs_type.clone(),
        options: all.join(","),
        size_bytes: live.usage.map(|usage| usage.size),
        used_bytes: live.usage.map(|usage| usage.used),
        available_bytes: live.usage.map(|usage| usage.available),
        ours: state.is_some_and(|state| is_ours(mount, state, live)),
        errors: live.errors,
    }
}

/// The array of the last setup, or, without one, the array that is mounted at the target.
fn array<'a>(state: Option<&State>, target: &str, live: &'a Live) -> Option<&'a Array> {
    let mut arrays = live.arrays.iter().flatten();
    match state {
        Some(state) => arrays.find(|array| array.name == state.device),
        None => top(live, target).and_then(|mount| arrays.find(|array| array.dev == mount.dev)),
    }
}

fn array_part(array: &Array) -> ArrayPart {
    ArrayPart {
        device: array.name.clone(),
        level: array.level.clone(),
        state: array.state.clone(),
        chunk_bytes: array.chunk_bytes,
        members: array.members.clone(),
        raid_disks: array.raid_disks,
        uuid: array.uuid,
    }
}

fn drives(state: Option<&State>, live: &Live) -> Vec<DrivePart> {
    let Some(found) = &live.drives else { return Vec::new() };
    let used: &[String] = state.map_or(&[], |state| &state.serials);
    let mut parts: Vec<DrivePart> = found
        .iter()
        .map(|drive| DrivePart {
            device: drive.name.clone(),
            serial: drive.serial.clone(),
            model: drive.model.clone(),
            size_bytes: drive.sectors.saturating_mul(512),
            state: drive.state.clone(),
            used: used.contains(&drive.serial),
        })
        .collect();
    for serial in used.iter().filter(|serial| !found.iter().any(|drive| drive.serial == **serial)) {
        let other = live.others.iter().find(|other| other.serial == *serial);
        parts.push(DrivePart {
            device: other.map(|other| other.name.clone()).unwrap_or_default(),
            serial: serial.clone(),
            model: other.map(|other| other.model.clone()).unwrap_or_default(),
            size_bytes: 0,
            state: if other.is_some() { "unmatched" } else { "missing" }.into(),
            used: true,
        });
    }
    parts.sort_by(|a, b| a.serial.cmp(&b.serial));
    parts
}

fn setup_part(state: &State) -> SetupPart {
    SetupPart {
        finished: state.finished.clone(),
        trigger: state.trigger.to_string(),
        duration_ms: state.duration_ms,
        agent: state.agent.clone(),
        steps: state.steps.clone(),
    }
}

/// What setup could not persist, and whether fstab still has our line.
fn persistence(state: Option<&State>, target: &str, live: &Live) -> PersistencePart {
    let mut problems = state.map(|state| state.persistence.clone()).unwrap_or_default();
    if let (Some(state), Some(text)) = (state, &live.fstab)
        && !state.fs_uuid.is_empty()
        && problems.is_empty()
    {
        match fstab::parse(text) {
            Ok(entries) => {
                let at: Vec<_> = entries.iter().filter(|entry| entry.is_at(target)).collect();
                let named = |entry: &&fstab::Entry| match entry.source() {
                    fstab::Source::Uuid(uuid) => uuid.eq_ignore_ascii_case(&state.fs_uuid),
                    _ => false,
                };
                if !at.iter().any(named) {
                    problems.push(format!("/etc/fstab: no line mounts UUID={} on {target}", state.fs_uuid));
                } else if at.len() > 1 {
                    problems.push(format!("/etc/fstab: {} lines are for {target}", at.len()));
                }
            }
            Err(problem) => problems.push(format!("/etc/fstab: {problem}")),
        }
    }
    PersistencePart { in_order: problems.is_empty(), problems }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
