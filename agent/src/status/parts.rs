//! The parts of a report beside the verdict: what is mounted, the array, the drives.

use crate::observe::{Array, Mount};
use crate::probe::Answer;
use crate::probe::drive::Said;
use crate::state::State;

use super::live::Live;
use super::{ArrayPart, DrivePart, MemberPart, MountPart, SetupPart};

/// The mount is that of the device that setup mounted: by its number, where the kernel's lists are readable.
pub(super) fn is_ours(mount: &Mount, state: &State, live: &Live) -> bool {
    let arrays = live.arrays.iter().flatten().map(|array| (&array.name, array.dev));
    let drives = live.drives.iter().flatten().map(|drive| (&drive.name, drive.dev));
    match arrays.chain(drives).find(|(name, _)| **name == state.device) {
        Some((_, dev)) => mount.dev == dev && mount.root == "/" && mount.fs_type == state.filesystem,
        None => mount.source == format!("/dev/{}", state.device) && mount.root == "/",
    }
}

/// The topmost mount at the target.
pub(super) fn top<'a>(live: &'a Live, target: &str) -> Option<&'a Mount> {
    live.mounts.iter().flatten().rev().find(|mount| mount.at == target)
}

pub(super) fn options(mount: &Mount) -> impl Iterator<Item = &str> {
    mount.options.split(',').chain(mount.super_options.split(','))
}

pub(super) fn mount_part(mount: &Mount, state: Option<&State>, live: &Live) -> MountPart {
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
        inodes: live.usage.map(|usage| usage.inodes).filter(|inodes| *inodes > 0),
        inodes_used: live.usage.filter(|usage| usage.inodes > 0).map(|usage| usage.inodes_used),
        ours: state.is_some_and(|state| is_ours(mount, state, live)),
        errors: live.errors,
        hidden_files: state.filter(|state| is_ours(mount, state, live)).and_then(|state| state.hidden_files),
    }
}

/// The array of the last setup, or, without one, the array that is mounted at the target.
pub(super) fn array<'a>(state: Option<&State>, target: &str, live: &'a Live) -> Option<&'a Array> {
    let mut arrays = live.arrays.iter().flatten();
    match state {
        Some(state) => arrays.find(|array| array.name == state.device),
        None => top(live, target).and_then(|mount| arrays.find(|array| array.dev == mount.dev)),
    }
}

pub(super) fn array_part(array: &Array) -> ArrayPart {
    ArrayPart {
        device: array.name.clone(),
        level: array.level.clone(),
        state: array.state.clone(),
        chunk_bytes: array.chunk_bytes,
        members: array
            .members
            .iter()
            .enumerate()
            .map(|(slot, device)| MemberPart {
                device: device.clone(),
                state: array.member_states.get(slot).cloned().unwrap_or_default(),
            })
            .collect(),
        raid_disks: array.raid_disks,
        uuid: array.uuid,
    }
}

pub(super) fn drives(state: Option<&State>, live: &Live) -> Vec<DrivePart> {
    let Some(found) = &live.drives else { return Vec::new() };
    let used: &[String] = state.map_or(&[], |state| &state.serials);
    let mut parts: Vec<DrivePart> = found
        .iter()
        .map(|drive| {
            let known = state.and_then(|state| state.media_errors.get(&drive.serial)).copied();
            let part = DrivePart {
                device: drive.name.clone(),
                serial: drive.serial.clone(),
                model: drive.model.clone(),
                size_bytes: drive.sectors.saturating_mul(512),
                state: drive.state.clone(),
                used: used.contains(&drive.serial),
                ..DrivePart::default()
            };
            with_health(part, live.health.get(&drive.name), known)
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
            ..DrivePart::default()
        });
    }
    parts.sort_by(|a, b| a.serial.cmp(&b.serial));
    parts
}

/// `known`: media errors at the first setup of this boot.
fn with_health(part: DrivePart, answer: Option<&Answer<Said>>, known: Option<u64>) -> DrivePart {
    let Some(Answer { said, silent }) = answer else { return part };
    let errors = said.smart.as_ref().map(|smart| smart.media_errors);
    DrivePart {
        new_media_errors: errors.zip(known).map(|(now, then)| now.saturating_sub(then)),
        smart: said.smart.clone(),
        statistics: said.statistics.clone(),
        read_error: said.unreadable(),
        not_asked: silent.clone().or_else(|| said.refusal()),
        ..part
    }
}

pub(super) fn setup_part(state: &State) -> SetupPart {
    SetupPart {
        finished: state.finished.clone(),
        trigger: state.trigger.to_string(),
        duration_ms: state.duration_ms,
        agent: state.agent.clone(),
        steps: state.steps.clone(),
    }
}
