//! What the state file says against what is there: a pure function.

use crate::config::Config;
use crate::observe::{Array, Drive, mounts};
use crate::state::{Health, State};

use super::live::Live;
use super::parts::{array, array_part, drives, is_ours, mount_part, options, persistence, setup_part, top};
use super::{PersistencePart, Report, SCHEMA, Verdict};

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

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
