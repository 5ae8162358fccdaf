//! What is found wrong on the live machine: pure functions, one a subject.

use super::live::Live;
use super::parts::{is_ours, options, top};
use super::persistence::{FSTAB, MDADM_CONF, REGISTRATION, TMPFILES};
use super::rules::{Rule, live as rules};
use super::{DrivePart, FilePart, Finding, Report};
use crate::node::registration::Way;
use crate::observe::{Array, Mount, mounts};
use crate::probe::smart::{Smart, WARNINGS};
use crate::state::{Health, State};

/// From so many percent on space or inodes are low.
const NEARLY_FULL: u128 = 95;
/// Percent of the life that the vendor expects.
const WORN: u8 = 100;
/// Names of critical warnings that have rules of their own.
const SPARE_LOW: &str = WARNINGS[0];
const READ_ONLY: &str = WARNINGS[3];

/// All that is wrong with what a setup of this boot left in place, in no order. `report` has the machine's parts.
pub(super) fn all(state: &State, live: &Live, report: &Report) -> Vec<Finding> {
    let mut found = drives(state, live);
    found.extend(array(state, live));
    found.extend(target(state, live, &report.target));
    for drive in report.drives.iter().filter(|drive| drive.used) {
        // One that the kernel has made read-only may say so itself, too: once is enough.
        let told = |new: &Finding| {
            found.iter().any(|old| old.reason == new.reason && old.message.contains(drive.serial.as_str()))
        };
        let new: Vec<Finding> =
            health(drive, silence(drive, live)).into_iter().filter(|new| !told(new)).collect();
        found.extend(new);
    }
    found.extend(persistence(state, report));
    found
}

/// Drives that setup used and that are gone, or not as they were.
fn drives(state: &State, live: &Live) -> Vec<Finding> {
    let Some(found) = &live.drives else { return Vec::new() };
    // Setup may have been told to match other models than this configuration does.
    let unmatched =
        |serial: &String| live.others.iter().any(|other| other.serial == *serial && other.unmatched);
    let judge = |serial: &String| {
        let Some(drive) = found.iter().find(|drive| drive.serial == *serial) else {
            return Some(rules::DRIVE_LOST.finding(format!("drive {serial} is gone")));
        };
        let named = format!("drive {serial} ({})", drive.name);
        match drive.state.as_str() {
            "live" | "" if drive.read_only => {
                Some(rules::DRIVE_READ_ONLY.finding(format!("{named} has become read-only")))
            }
            "live" | "" => None,
            // On their way to live, or to dead: nvme_sysfs_show_state() in drivers/nvme/host/sysfs.c.
            state @ ("new" | "resetting" | "connecting") => {
                Some(rules::DRIVE_NOT_LIVE.finding(format!("{named} is not live but {state}")))
            }
            state => Some(rules::DRIVE_LOST.finding(format!("{named} is not live but {state}"))),
        }
    };
    state.serials.iter().filter(|serial| !unmatched(serial)).filter_map(judge).collect()
}

/// What the array has become.
fn array(state: &State, live: &Live) -> Option<Finding> {
    let arrays = live.arrays.as_ref().filter(|_| state.layout == "raid0")?;
    let named = format!("array {}", state.device);
    let Some(array) = arrays.iter().find(|array| array.name == state.device) else {
        return Some(rules::ARRAY_STOPPED.finding(format!("{named} is gone")));
    };
    let (rule, problem) = array_problem(array, state)?;
    Some(rule.finding(format!("{named} {problem}")))
}

fn array_problem(array: &Array, state: &State) -> Option<(Rule, String)> {
    if let (Some(found), Some(expected)) = (array.uuid, state.array_uuid)
        && found != expected
    {
        return Some((rules::ARRAY_REPLACED, format!("is another one: {found}, not {expected}")));
    }
    if !array.is_running() {
        let word = if array.state.is_empty() { "without a state" } else { &array.state };
        let rule = if word == "broken" { rules::ARRAY_BROKEN } else { rules::ARRAY_STOPPED };
        return Some((rule, format!("is not running but {word}")));
    }
    let states = array.members.iter().zip(&array.member_states);
    let faulty: Vec<&str> = states
        .filter(|(_, state)| state.split(',').any(|word| word == "faulty"))
        .map(|(name, _)| name.as_str())
        .collect();
    if !faulty.is_empty() {
        return Some((rules::ARRAY_BROKEN, format!("has faulty members: {}", faulty.join(", "))));
    }
    if array.members.len() < array.raid_disks as usize {
        let (members, all) = (array.members.len(), array.raid_disks);
        return Some((rules::ARRAY_BROKEN, format!("has {members} of {all} members")));
    }
    array.read_only.then(|| (rules::ARRAY_READ_ONLY, "is read-only".into()))
}

/// What is mounted on the target: whether it is ours, can be reached, written, and answers.
fn target(state: &State, live: &Live, target: &str) -> Vec<Finding> {
    let device = &state.device;
    let Some(table) = &live.mounts else {
        // Who may not look knows nothing.
        let unknown = (!live.unprivileged).then(|| {
            rules::MOUNTS_UNREADABLE.finding("the mount table cannot be read, so nothing is certain")
        });
        return unknown.into_iter().collect();
    };
    let Some(mount) = top(live, target) else {
        let message = format!("nothing is mounted on {target} any more; setup had put /dev/{device} there");
        return vec![rules::MOUNT_GONE.finding(message)];
    };
    if !is_ours(mount, state, live) {
        let (source, kind) = (&mount.source, &mount.fs_type);
        let message = format!("{target} is now {source} ({kind}), not /dev/{device} as setup left it");
        return vec![rules::MOUNT_REPLACED.finding(message)];
    }
    let mut found = mount_problems(state, table, mount);
    let hidden = found.iter().any(|finding| finding.reason == rules::MOUNT_HIDDEN.code);
    // Where it is hidden, another one was asked.
    if let Some(why) = live.broken.as_ref().filter(|_| !hidden) {
        found.push(rules::FILESYSTEM_FAILED.finding(format!(
            "the filesystem on {target} (/dev/{device}) {why}: the kernel has given it up, or hangs in it"
        )));
    }
    if let Some(errors @ 1..) = live.errors {
        found.push(rules::FILESYSTEM_ERRORS.finding(format!(
            "the kernel has found errors in the filesystem on {target} (/dev/{device}): {errors} since it was last checked"
        )));
    }
    found
}

fn mount_problems(state: &State, table: &[Mount], mount: &Mount) -> Vec<Finding> {
    let (target, device) = (&mount.at, &state.device);
    let mut found = Vec::new();
    if options(mount).any(|option| matches!(option, "ro" | "shutdown" | "emergency_ro")) {
        found.push(rules::MOUNT_READ_ONLY.finding(format!(
            "{target} cannot be written: /dev/{device} is mounted read-only or was shut down"
        )));
    }
    if let Some(over) = mounts::hiding(table, mount) {
        let (source, at) = (&over.source, &over.at);
        found.push(
            rules::MOUNT_HIDDEN
                .finding(format!("{target} cannot be reached: {source} is mounted on {at}, over it")),
        );
    }
    found
}

/// Why a drive has not answered; none where it has, or may not be asked.
fn silence<'a>(drive: &DrivePart, live: &'a Live) -> Option<&'a str> {
    live.health.get(&drive.device)?.silent.as_deref()
}

/// What a drive says of itself. One that is gone or not live has its finding for that.
fn health(drive: &DrivePart, silence: Option<&str>) -> Vec<Finding> {
    let mut found = Vec::new();
    if !matches!(drive.state.as_str(), "live" | "") {
        return found;
    }
    let named = format!("drive {} ({})", drive.serial, drive.device);
    if let Some(error) = &drive.read_error {
        found.push(rules::DRIVE_UNREADABLE.finding(format!("{named} cannot be read: {error}")));
    }
    if let Some(silence) = silence {
        found.push(rules::DRIVE_SILENT.finding(format!("{named} {silence}")));
    }
    if let Some(errors @ 1..) = drive.new_media_errors {
        found.push(
            rules::DRIVE_MEDIA_ERRORS
                .finding(format!("{named} has {errors} more media errors than at this boot's setup")),
        );
    }
    found.extend(drive.smart.iter().flat_map(|smart| warnings_of(smart, &named)));
    found
}

fn warnings_of(smart: &Smart, named: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let warns = |of: &str| smart.critical_warnings.iter().any(|warning| warning == of);
    if warns(READ_ONLY) {
        found.push(rules::DRIVE_READ_ONLY.finding(format!("{named} says that it is read-only")));
    }
    let (left, threshold) = (smart.spare_percent, smart.spare_threshold_percent);
    // 0 may be a field that the drive does not keep; one that has none left warns besides.
    let low = left < threshold && (left > 0 || warns(SPARE_LOW));
    if low {
        found.push(
            rules::DRIVE_SPARE_LOW
                .finding(format!("{named} has {left} % of its spare blocks left, less than {threshold} %")),
        );
    }
    let told = |warning: &str| warning == READ_ONLY || (low && warning == SPARE_LOW);
    let others: Vec<&str> =
        smart.critical_warnings.iter().map(String::as_str).filter(|warning| !told(warning)).collect();
    if !others.is_empty() {
        found.push(rules::DRIVE_CRITICAL_WARNING.finding(format!("{named} warns: {}", others.join(", "))));
    }
    found
}

/// What the next boot would lack. Setup's own word on a file, where it has one, stands instead; one that failed has put our
/// line out of force itself.
fn persistence(state: &State, report: &Report) -> Vec<Finding> {
    if !matches!(state.state, Health::Ready | Health::Degraded) {
        return Vec::new();
    }
    // By the path, or by the step that failed, as what an error names may be a temporary file beside it.
    let told = |file: &&FilePart| {
        let step = format!("{}: ", file.what);
        state.persistence.iter().any(|problem| problem.contains(&file.path) || problem.starts_with(&step))
    };
    let rule = |what: &str| match what {
        FSTAB => Some((rules::PERSISTENCE_MISSING, "the next boot may not mount it, or not so")),
        MDADM_CONF => Some((rules::MDADM_CONF_CHANGED, "the next boot may name the array otherwise")),
        TMPFILES => Some((rules::TMPFILES_CHANGED, "systemd-tmpfiles will delete files there")),
        _ => None,
    };
    let judge = |file: &FilePart| {
        let (rule, then) = rule(file.what.as_str())?;
        let differs = file.differs.as_ref().filter(|_| file.in_order == Some(false))?;
        Some(rule.finding(format!("{} is mounted, but {then}: {}: {differs}", report.target, file.path)))
    };
    report.persistence.files.iter().filter(|file| !told(file)).filter_map(judge).collect()
}

/// What may become a problem.
pub(super) fn warnings(live: &Live, report: &Report) -> Vec<Finding> {
    let mut found = Vec::new();
    let target = &report.target;
    let low = |used: u64, all: u128| {
        let percent = u128::from(used) * 100 / all.max(1);
        (all > 0 && percent >= NEARLY_FULL).then_some(percent)
    };
    if let Some(usage) = live.usage.filter(|_| report.mount.as_ref().is_some_and(|mount| mount.ours)) {
        // As df counts: what is kept for root cannot be had.
        if let Some(percent) = low(usage.used, u128::from(usage.used) + u128::from(usage.available)) {
            found.push(rules::SPACE_LOW.finding(format!("{target} is {percent} % full")));
        }
        if let Some(percent) = low(usage.inodes_used, usage.inodes.into()) {
            found.push(rules::INODES_LOW.finding(format!("{percent} % of the inodes on {target} are used")));
        }
    }
    for drive in report.drives.iter().filter(|drive| drive.used) {
        if let Some(wear) = drive.smart.as_ref().map(|smart| smart.wear_percent).filter(|wear| *wear >= WORN)
        {
            let named = format!("drive {} ({})", drive.serial, drive.device);
            found.push(
                rules::DRIVE_WORN
                    .finding(format!("{named} has used {wear} % of the life that is expected of it")),
            );
        }
    }
    // nodeadm writes the environment file at every boot, and the gate ours into it after that.
    let regular = live.kept.registration.as_ref().is_some_and(|record| record.way == Way::Environment);
    let file = report.persistence.files.iter().find(|file| file.what == REGISTRATION && !regular);
    if let Some((file, differs)) = file.and_then(|file| Some((file, file.differs.as_ref()?)))
        && file.in_order == Some(false)
    {
        found.push(rules::REGISTRATION_CHANGED.finding(format!("{}: {differs}", file.path)));
    }
    found
}
