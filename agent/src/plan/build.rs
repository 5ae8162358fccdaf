//! Builds the steps of each outcome. The order of the steps is the design's: intent, destruction, stage, intent gone, exposure.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::device::{Device, sorted};
use super::evidence;
use super::exposure::{hidden_files, put_on_target, record_set, stale_intent, visible_options, wanted_mode};
use super::files::persist;
use super::set::Set;
use super::step::{MemberRef, Step, Stripe};
use super::{Outcome, Plan, Promise, Reason, Refusal};
use crate::config::Config;
use crate::intent::Identity;
use crate::md::{self, geometry};
use crate::observe::{Array, Content, Drive, Filesystem, Inventory, Mount};

fn member(drive: &Drive) -> MemberRef {
    MemberRef { path: drive.path(), serial: drive.serial.clone(), sectors: drive.sectors }
}

/// Why, and by what licence, a filesystem is made.
pub struct Make<'a> {
    outcome: Outcome,
    intent: Option<&'a Identity>,
    /// Drives whose signatures go first.
    wipe: Vec<&'a Drive>,
    array_uuid: Option<Uuid>,
    note: Option<String>,
}

impl<'a> Make<'a> {
    pub fn creating() -> Self {
        Make { outcome: Outcome::Create, intent: None, wipe: Vec::new(), array_uuid: None, note: None }
    }

    /// Creating on drives of which some have unknown data that the policy takes for blank.
    pub fn over_unknown(inventory: &'a Inventory) -> Self {
        let unknown = inventory.drives.iter().filter(|d| d.content == Content::Unknown);
        Make { wipe: unknown.collect(), ..Make::creating() }
    }

    pub fn wiping(drives: Vec<&'a Drive>) -> Self {
        Make { wipe: drives, ..Make::creating() }
    }

    /// What the interrupted run left (half a filesystem, no superblock) goes first, but for superblocks of its set.
    pub fn finishing(inventory: &'a Inventory, intent: &'a Identity) -> Self {
        let left = |d: &&Drive| !matches!(d.content, Content::Blank | Content::Member(_));
        let wipe = inventory.drives.iter().filter(left).collect();
        let note = Some("an interrupted setup is finished with its UUIDs".into());
        Make { outcome: Outcome::Finish, intent: Some(intent), wipe, note, ..Make::creating() }
    }

    pub fn rebuilding(set: &Set, why: String) -> Self {
        let note = format!(
            "REBUILD: {} of {} members are blank, so the stripe is gone for good; it is made anew because {why}",
            set.by_role.iter().filter(|d| d.is_none()).count(),
            set.first.raid_disks
        );
        Make { outcome: Outcome::Recreate, array_uuid: Some(set.uuid), note: Some(note), ..Make::creating() }
    }
}

impl Make<'_> {
    fn why_wiped(&self, config: &Config) -> String {
        match self.intent {
            Some(_) => "an interrupted setup left it",
            None if config.wipe_foreign => "--wipe-foreign gives up what is on it",
            None => "unknown data counts as blank here (`unknown_data`)",
        }
        .into()
    }
}

pub fn absent() -> Plan {
    Plan::of(Outcome::Absent, Vec::new())
}

/// A name that no array has, counting those that a plan stops first as gone: of the wished minor if that is free.
fn free_name(inventory: &Inventory, stopped: &[PathBuf], wished: Option<u32>) -> String {
    let staying: Vec<&Array> = inventory.arrays.iter().filter(|a| !stopped.contains(&a.path())).collect();
    let wished = wished.filter(|minor| !md::is_taken(&staying, *minor));
    format!("md{}", wished.unwrap_or_else(|| md::free_minor(&staying)))
}

/// Arrays, running or not, that hold any of the drives.
fn holding<'a>(inventory: &'a Inventory, drives: &'a [&Drive]) -> impl Iterator<Item = &'a Array> {
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

/// The steps that make a filesystem on all drives and put it on the target.
///
/// # Errors
/// mkfs is not there, or a file of the host cannot be edited.
pub fn make(inventory: &Inventory, config: &Config, make: Make) -> Result<Plan, Refusal> {
    let kind = config.filesystem;
    if !inventory.host.mkfs.iter().any(|k| k == kind.as_str()) {
        return Err(Refusal {
            reason: Reason::MkfsMissing,
            found: vec![format!("mkfs.{kind} is in none of /usr/sbin, /usr/bin, /sbin, /bin")],
            next: format!("Install {}.", if kind.as_str() == "xfs" { "xfsprogs" } else { "e2fsprogs" }),
        });
    }
    let drives: Vec<&Drive> = inventory.drives.iter().collect();
    let mut steps = stale_intent(inventory);
    let kept = running_array(inventory, &make);
    let begun = make.intent.or_else(|| evidence::begun_wiping(inventory, config));
    let fs_uuid = begun
        .map(|i| i.fs_uuid)
        .or_else(|| evidence::known_fs_uuid(inventory, config))
        .unwrap_or(inventory.fresh.filesystem);
    let array_uuid = match (&kept, drives.len()) {
        (Some((_, uuid)), _) => Some(*uuid),
        (None, 1) => None,
        (None, _) => Some(
            make.array_uuid
                .or_else(|| begun.and_then(|i| i.array_uuid))
                .or_else(|| evidence::known_array_uuid(inventory, config))
                .unwrap_or(inventory.fresh.array),
        ),
    };
    let identity = Identity {
        version: 1,
        serials: sorted(drives.iter().map(|d| d.serial.clone())),
        array_uuid,
        fs_uuid,
        filesystem: kind.as_str().into(),
        target: config.target.clone(),
        wiping: false,
    };
    let wiping = !make.wipe.is_empty() && make.intent.is_none_or(|i| i.wiping);
    steps.push(Step::RecordIntent { intent: Identity { wiping, ..identity.clone() } });
    let (name, stripe, size) = match (kept, array_uuid) {
        (Some((array, _)), _) => {
            if array.read_only {
                steps.push(Step::ReadWrite { array: array.path() });
            }
            let stripe = (array.chunk_bytes > 0)
                .then_some(Stripe { chunk_bytes: array.chunk_bytes, members: array.members.len() as u32 });
            (array.name.clone(), stripe, array.sectors * 512)
        }
        (None, uuid) => {
            let stopped: Vec<PathBuf> = holding(inventory, &drives).map(Array::path).collect();
            steps.extend(stopped.iter().map(|array| Step::StopArray { array: array.clone() }));
            if !make.wipe.is_empty() {
                steps.push(Step::Wipe {
                    devices: make.wipe.iter().copied().map(member).collect(),
                    why: make.why_wiped(config),
                });
            }
            if wiping {
                steps.push(Step::RecordIntent { intent: identity.clone() });
            }
            match uuid {
                None => (drives[0].name.clone(), None, drives[0].sectors * 512),
                Some(uuid) => {
                    let name = free_name(inventory, &stopped, None);
                    steps.push(Step::CreateArray {
                        array: PathBuf::from("/dev").join(&name),
                        uuid,
                        // homehost `any` is local on every host: it never becomes md127.
                        name: format!("any:{name}"),
                        chunk_bytes: config.chunk,
                        members: drives.iter().copied().map(member).collect(),
                    });
                    let stripe = Stripe { chunk_bytes: config.chunk, members: drives.len() as u32 };
                    (name, Some(stripe), array_size(&drives, config.chunk))
                }
            }
        }
    };
    let path = PathBuf::from("/dev").join(&name);
    steps.push(Step::MakeFilesystem {
        device: path.clone(),
        kind,
        uuid: fs_uuid,
        label: config.fs_label(),
        size,
        stripe,
        blank: drives.iter().all(|d| d.content == Content::Blank),
    });
    let promise = Promise {
        target: config.target.clone(),
        device: name,
        filesystem: kind.as_str().into(),
        fs_uuid: fs_uuid.to_string(),
        array_uuid,
        serials: identity.serials.clone(),
        layout: if stripe.is_some() { "raid0" } else { "single" }.into(),
        options: visible_options(config),
        mode: Some(wanted_mode(inventory, config)),
    };
    steps.extend(put_on_target(inventory, config, path, promise.mode, &promise.filesystem, true));
    steps.push(Step::RecordSet { record: identity });
    steps.extend(persist(inventory, config, &promise)?.whole()?);
    let notes = make.note.into_iter().chain(hidden_files(inventory)).collect();
    Ok(Plan { notes, promise: Some(promise), ..Plan::of(make.outcome, steps) })
}

/// Bytes of the RAID0 that the drives make: md uses whole chunks of each member, of any size (zones).
fn array_size(drives: &[&Drive], chunk_bytes: u64) -> u64 {
    let chunk = (chunk_bytes / 512) as u32;
    let offset = geometry::data_offset(drives[0].sectors, chunk);
    let whole =
        |d: &&Drive| geometry::data_size(d.sectors, offset, chunk).unwrap_or(0) / u64::from(chunk.max(1));
    drives.iter().map(whole).sum::<u64>() * chunk_bytes
}

/// A running array of exactly the set that the plan is about, which then needs no making.
fn running_array<'a>(inventory: &'a Inventory, make: &Make) -> Option<(&'a Array, Uuid)> {
    if !make.wipe.is_empty() || make.array_uuid.is_some() {
        return None;
    }
    let set = Set::of(inventory).ok().flatten().filter(Set::is_complete)?;
    if make.intent.is_some_and(|i| i.array_uuid != Some(set.uuid)) {
        return None;
    }
    let array = inventory
        .arrays
        .iter()
        .find(|a| a.is_running() && set.present().all(|d| a.members.contains(&d.name)))?;
    Some((array, set.uuid))
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
    let has = |option: &String| mount.options.split(',').any(|o| o == option);
    if !visible_options(config).iter().all(has) {
        steps.push(Step::Remount { target: config.target.clone(), options: config.options() });
    }
    let wrong_mode = config.target == "/tmp" && inventory.target.mode != Some(0o1777);
    let mode = wrong_mode.then_some(0o1777);
    if mode.is_some() || !config.directories.is_empty() {
        let directories = config.directories.clone();
        steps.push(Step::Directories { target: config.target.clone(), mode, directories });
    }
    let promise = promise_of(device, fs, config, (config.target == "/tmp").then_some(0o1777));
    steps.extend(record_set(inventory, &promise));
    let (persistence, problems) = persist(inventory, config, &promise)?.possible();
    steps.extend(persistence);
    Ok(Plan { problems, promise: Some(promise), ..Plan::of(Outcome::Keep, steps) })
}
