//! Making a filesystem, and the array below it: with which identities, on what, in which order.

use std::path::PathBuf;

use uuid::Uuid;

use super::build::{free_name, holding, member};
use super::device::sorted;
use super::evidence;
use super::exposure::{hidden_files, put_on_target, stale_intent, visible_options, wanted_mode};
use super::files::persist;
use super::set::Set;
use super::step::{Step, Stripe};
use super::{Outcome, Plan, Promise, Reason, Refusal};
use crate::config::{Config, FsKind};
use crate::intent::Identity;
use crate::md::geometry;
use crate::observe::{Array, Content, Drive, Inventory};

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

/// What the filesystem is made on.
struct Base {
    /// Kernel name.
    name: String,
    /// None for a single drive.
    stripe: Option<Stripe>,
    /// In bytes.
    size: u64,
}

/// The steps that make a filesystem on all drives and put it on the target.
///
/// # Errors
/// mkfs is not there, or a file of the host cannot be edited.
pub fn make(inventory: &Inventory, config: &Config, make: Make) -> Result<Plan, Refusal> {
    let kind = config.filesystem;
    mkfs_is_there(inventory, kind)?;
    let kept = running_array(inventory, &make);
    let identity = identity(inventory, config, &make, kept.map(|(_, uuid)| uuid));
    let wiping = !make.wipe.is_empty() && make.intent.is_none_or(|i| i.wiping);

    let mut steps = stale_intent(inventory);
    steps.push(Step::RecordIntent { intent: Identity { wiping, ..identity.clone() } });
    let base = match kept {
        Some((array, _)) => {
            steps.extend(array.read_only.then(|| Step::ReadWrite { array: array.path() }));
            base_of(array)
        }
        None => {
            let stopped = clear_drives(inventory, config, &make, &mut steps);
            if wiping {
                steps.push(Step::RecordIntent { intent: identity.clone() });
            }
            new_base(inventory, config, &identity, &stopped, &mut steps)
        }
    };
    let path = PathBuf::from("/dev").join(&base.name);
    steps.push(Step::MakeFilesystem {
        device: path.clone(),
        kind,
        uuid: identity.fs_uuid,
        label: config.fs_label(),
        size: base.size,
        stripe: base.stripe,
        blank: inventory.drives.iter().all(|d| d.content == Content::Blank),
    });
    let promise = Promise {
        target: config.target.clone(),
        device: base.name,
        filesystem: kind.as_str().into(),
        fs_uuid: identity.fs_uuid.to_string(),
        array_uuid: identity.array_uuid,
        serials: identity.serials.clone(),
        layout: if base.stripe.is_some() { "raid0" } else { "single" }.into(),
        options: visible_options(config),
        mode: Some(wanted_mode(inventory, config)),
    };
    steps.extend(put_on_target(inventory, config, path, promise.mode, &promise.filesystem, true));
    steps.push(Step::RecordSet { record: identity });
    steps.extend(persist(inventory, config, &promise)?.whole()?);
    let notes = make.note.into_iter().chain(hidden_files(inventory)).collect();
    Ok(Plan { notes, promise: Some(promise), ..Plan::of(make.outcome, steps) })
}

fn mkfs_is_there(inventory: &Inventory, kind: FsKind) -> Result<(), Refusal> {
    if inventory.host.mkfs.iter().any(|k| k == kind.as_str()) {
        return Ok(());
    }
    Err(Refusal {
        reason: Reason::MkfsMissing,
        found: vec![format!("mkfs.{kind} is in none of /usr/sbin, /usr/bin, /sbin, /bin")],
        next: format!("Install {}.", if kind.as_str() == "xfs" { "xfsprogs" } else { "e2fsprogs" }),
    })
}

/// What is made: with the UUIDs of the run that it goes on from, else with those that the host's files name, else new.
fn identity(inventory: &Inventory, config: &Config, make: &Make, kept: Option<Uuid>) -> Identity {
    let begun = make.intent.or_else(|| evidence::begun_wiping(inventory, config));
    let fs_uuid = begun
        .map(|i| i.fs_uuid)
        .or_else(|| evidence::known_fs_uuid(inventory, config))
        .unwrap_or(inventory.fresh.filesystem);
    let new_set = || {
        make.array_uuid
            .or_else(|| begun.and_then(|i| i.array_uuid))
            .or_else(|| evidence::known_array_uuid(inventory, config))
            .unwrap_or(inventory.fresh.array)
    };
    Identity {
        version: 1,
        serials: sorted(inventory.drives.iter().map(|d| d.serial.clone())),
        array_uuid: kept.or_else(|| (inventory.drives.len() > 1).then(new_set)),
        fs_uuid,
        filesystem: config.filesystem.as_str().into(),
        target: config.target.clone(),
        wiping: false,
    }
}

fn base_of(array: &Array) -> Base {
    let stripe = Stripe { chunk_bytes: array.chunk_bytes, members: array.members.len() as u32 };
    Base {
        name: array.name.clone(),
        stripe: (array.chunk_bytes > 0).then_some(stripe),
        size: array.sectors * 512,
    }
}

/// Stops what holds the drives and wipes what goes; returns the arrays that are gone then.
fn clear_drives(inventory: &Inventory, config: &Config, make: &Make, steps: &mut Vec<Step>) -> Vec<PathBuf> {
    let drives: Vec<&Drive> = inventory.drives.iter().collect();
    let stopped: Vec<PathBuf> = holding(inventory, &drives).map(Array::path).collect();
    steps.extend(stopped.iter().map(|array| Step::StopArray { array: array.clone() }));
    if !make.wipe.is_empty() {
        let chunk = (config.chunk / 512) as u32;
        steps.push(Step::Wipe {
            devices: make.wipe.iter().copied().map(member).collect(),
            data_offset: (drives.len() > 1).then(|| geometry::data_offset(drives[0].sectors, chunk) * 512),
            why: make.why_wiped(config),
        });
    }
    stopped
}

/// The single drive, or a new array of all of them.
fn new_base(
    inventory: &Inventory,
    config: &Config,
    identity: &Identity,
    stopped: &[PathBuf],
    steps: &mut Vec<Step>,
) -> Base {
    let drives: Vec<&Drive> = inventory.drives.iter().collect();
    let Some(uuid) = identity.array_uuid else {
        return Base { name: drives[0].name.clone(), stripe: None, size: drives[0].sectors * 512 };
    };
    let name = free_name(inventory, stopped, None);
    steps.push(Step::CreateArray {
        array: PathBuf::from("/dev").join(&name),
        uuid,
        // homehost `any` is local on every host: it never becomes md127.
        name: format!("any:{name}"),
        chunk_bytes: config.chunk,
        members: drives.iter().copied().map(member).collect(),
    });
    let stripe = Stripe { chunk_bytes: config.chunk, members: drives.len() as u32 };
    Base { name, stripe: Some(stripe), size: array_size(&drives, config.chunk) }
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
