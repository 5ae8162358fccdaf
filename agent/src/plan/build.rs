//! Builds the steps of each outcome but making ([`super::make`]). Their order is the design's: intent, destruction, stage, intent
//! gone, exposure.

use std::path::{Path, PathBuf};

use super::device::Device;
use super::exposure::{hidden_files, put_on_target, record_set, stale_intent, visible_options, wanted_mode};
use super::files::persist;
use super::set::Set;
use super::step::{MemberRef, Step};
use super::{Outcome, Plan, Promise, Reason, Refusal};
use crate::config::Config;
use crate::md;
use crate::observe::{Array, Content, Drive, Filesystem, Inventory, Mount};

pub fn member(drive: &Drive) -> MemberRef {
    MemberRef { path: drive.path(), serial: drive.serial.clone(), sectors: drive.sectors }
}

pub fn absent() -> Plan {
    Plan::of(Outcome::Absent, Vec::new())
}

/// A name that no array has, counting those that a plan stops first as gone: of the wished minor if that is free.
pub fn free_name(inventory: &Inventory, stopped: &[PathBuf], wished: Option<u32>) -> String {
    let staying: Vec<&Array> = inventory.arrays.iter().filter(|a| !stopped.contains(&a.path())).collect();
    let wished = wished.filter(|minor| !md::is_taken(&staying, *minor));
    format!("md{}", wished.unwrap_or_else(|| md::free_minor(&staying)))
}

/// Arrays, running or not, that hold any of the drives.
pub fn holding<'a>(inventory: &'a Inventory, drives: &'a [&Drive]) -> impl Iterator<Item = &'a Array> {
    inventory.arrays.iter().filter(|a| drives.iter().any(|d| a.members.contains(&d.name)))
}

/// Start a complete set, to see what is on it.
pub fn assemble(inventory: &Inventory, set: &Set) -> Plan {
    let drives: Vec<&Drive> = set.present().collect();
    let stopped: Vec<PathBuf> = holding(inventory, &drives).map(Array::path).collect();
    let wished = set.first.set_name.rsplit(':').next().unwrap_or_default();
    let minor = md::minor_of(Path::new(wished)).ok().filter(|minor| *minor < 1000);
    let name = free_name(inventory, &stopped, minor);
    let mut steps: Vec<Step> = stopped.into_iter().map(|array| Step::StopArray { array }).collect();
    steps.push(Step::AssembleArray {
        array: PathBuf::from("/dev").join(name),
        uuid: set.uuid,
        members: drives.into_iter().map(member).collect(),
    });
    Plan { look_again: true, ..Plan::of(Outcome::Assemble, steps) }
}

/// A filesystem with evidence is mounted as it is.
pub fn adopt(
    inventory: &Inventory,
    config: &Config,
    device: &Device,
    fs: &Filesystem,
    why: String,
) -> Result<Plan, Refusal> {
    // /tmp must be writable for everyone whoever made it; another directory's mode is its owner's business.
    let mode = (config.target == "/tmp").then_some(0o1777);
    let note = format!("the {} filesystem {} is adopted as it is: {why}", fs.kind, fs.uuid);
    mount_as_it_is(inventory, config, device, fs, Outcome::Adopt, mode, note)
}

/// The filesystem that an interrupted run of ours made is mounted; what may be in it stays.
pub fn finish(
    inventory: &Inventory,
    config: &Config,
    device: &Device,
    fs: &Filesystem,
) -> Result<Plan, Refusal> {
    let mode = Some(wanted_mode(inventory, config));
    let note = format!("an interrupted setup is finished with the filesystem {} that it made", fs.uuid);
    mount_as_it_is(inventory, config, device, fs, Outcome::Finish, mode, note)
}

/// What verify will demand of a filesystem that is there already.
fn promise_of(device: &Device, fs: &Filesystem, config: &Config, mode: Option<u32>) -> Promise {
    Promise {
        target: config.target.clone(),
        device: device.name.clone(),
        filesystem: fs.kind.clone(),
        fs_uuid: fs.uuid.clone(),
        array_uuid: device.array_uuid,
        serials: device.serials.clone(),
        layout: device.layout(),
        options: visible_options(config),
        mode,
    }
}

fn mount_as_it_is(
    inventory: &Inventory,
    config: &Config,
    device: &Device,
    fs: &Filesystem,
    outcome: Outcome,
    mode: Option<u32>,
    note: String,
) -> Result<Plan, Refusal> {
    let mut steps = stale_intent(inventory);
    if let Some(array) = device.array.filter(|a| a.read_only) {
        steps.push(Step::ReadWrite { array: array.path() });
    }
    steps.extend(put_on_target(inventory, config, device.path.clone(), mode, &fs.kind, false));
    let mut notes = vec![note];
    let unused: Vec<&str> = inventory
        .drives
        .iter()
        .filter(|d| !device.serials.contains(&d.serial))
        .map(|d| d.serial.as_str())
        .collect();
    if !unused.is_empty() {
        notes.push(format!("blank drives that are not part of it stay unused: {}", unused.join(", ")));
    }
    notes.extend(hidden_files(inventory));
    let promise = promise_of(device, fs, config, mode);
    steps.extend(record_set(inventory, &promise));
    let (persistence, problems) = persist(inventory, config, &promise)?.possible();
    steps.extend(persistence);
    Ok(Plan { notes, problems, promise: Some(promise), ..Plan::of(outcome, steps) })
}

/// The target is mounted from our device: repair what is around it.
pub fn keep(inventory: &Inventory, config: &Config, mount: &Mount, device: &Device) -> Result<Plan, Refusal> {
    let fs = match device.content {
        Content::Filesystem(fs) => fs,
        other => {
            return Err(Refusal {
                reason: Reason::TargetUnsuitable,
                found: vec![format!(
                    "{} is mounted from {}, but its superblock reads as {other:?}",
                    config.target,
                    device.in_words()
                )],
                next: "The filesystem is damaged or of another kind than ext4 and xfs; look into the kernel log.".into(),
            });
        }
    };
    let mut steps = stale_intent(inventory);
    // A run was interrupted, and then somebody mounted what it had made: users see it, so nothing licenses redoing it.
    if steps.is_empty() && inventory.intent.is_some() {
        steps.push(Step::ClearIntent);
    }
    let wrong_mode = config.target == "/tmp" && inventory.target.mode != Some(0o1777);
    let mode = wrong_mode.then_some(0o1777);
    let promise = promise_of(device, fs, config, (config.target == "/tmp").then_some(0o1777));
    let (persistence, problems) = persist(inventory, config, &promise)?.possible();
    let corrected = persistence.iter().any(|step| matches!(step, Step::Fstab { .. }));
    if options_differ(mount, config, corrected) {
        steps.push(Step::Remount { target: config.target.clone(), options: config.options() });
    }
    if mode.is_some() || !config.directories.is_empty() {
        let directories = config.directories.clone();
        steps.push(Step::Directories { target: config.target.clone(), mode, directories });
    }
    steps.extend(record_set(inventory, &promise));
    steps.extend(persistence);
    Ok(Plan { problems, promise: Some(promise), ..Plan::of(Outcome::Keep, steps) })
}

/// An option that is wanted is not there, or one that takes something from users and is wanted no more still is. The
/// latter only where fstab had to be corrected: somebody may have hardened the mount by hand, and that is theirs.
fn options_differ(mount: &Mount, config: &Config, corrected: bool) -> bool {
    let wanted = visible_options(config);
    let shows = |option: &str| mount.options.split(',').any(|o| o == option);
    let left_over = |option: &str| shows(option) && !wanted.iter().any(|w| w == option);
    !wanted.iter().all(|option| shows(option))
        || corrected && ["nosuid", "nodev", "noexec"].into_iter().any(left_over)
}
