//! What several checks go by, read once.

use std::path::Path;

use crate::config::Config;
use crate::error::Result;
use crate::intent::{Identity, RECORD_PATH};
use crate::observe::sysfs::Sysfs;
use crate::observe::{Array, Drive, Inventory, arrays, drives, files, mounts, owners, uses, wait};
use crate::root::Root;
use crate::state::{Health, State};

use super::Check;

/// A machine or an image.
pub struct Subject<'a> {
    pub root: &'a Root,
    pub config: &'a Config,
    /// This machine itself, not an image: what its kernel says is about it.
    pub running: bool,
    /// Everything below the root may be read.
    pub privileged: bool,
    /// Drives, who uses them, arrays, mounts, claims; nothing of what is on a device, nothing of the target. Or why not.
    pub seen: Result<Inventory, String>,
    /// What setup of this boot came to.
    pub state: Option<State>,
    /// What the last finished setup of any boot made.
    pub record: Option<Identity>,
    /// What of our own records cannot be understood, a sentence each.
    pub unread: Vec<String>,
}

impl<'a> Subject<'a> {
    pub fn read(root: &'a Root, config: &'a Config) -> Subject<'a> {
        let running = root.is_host();
        let privileged = nix::unistd::geteuid().is_root() || !running;
        Subject::with(root, config, running, privileged)
    }

    /// A fixture tree can stand in for a running machine.
    pub fn with(root: &'a Root, config: &'a Config, running: bool, privileged: bool) -> Subject<'a> {
        let mut unread = Vec::new();
        let state = State::load(root).unwrap_or_else(|error| {
            unread.push(error.to_string());
            None
        });
        let record = files::identity(root, RECORD_PATH, &mut unread).unwrap_or_else(|error| {
            unread.push(error.to_string());
            None
        });
        let seen = if running { look(root, config).map_err(|e| e.to_string()) } else { Err(IMAGE.into()) };
        Subject { root, config, running, privileged, seen, state, record, unread }
    }

    /// The unknown check, where this is an image or root's rights are missing.
    pub fn cannot(&self, name: &str) -> Option<Check> {
        let why = match () {
            () if !self.running => IMAGE,
            () if !self.privileged => ROOT_ONLY,
            () => return None,
        };
        Some(Check::unknown(name, why))
    }

    /// What `part` says, or the unknown check that has why it does not.
    pub fn seen(&self, name: &str) -> Result<&Inventory, Check> {
        self.seen.as_ref().map_err(|why| {
            let why = if self.running && !self.privileged { ROOT_ONLY } else { why };
            Check::unknown(name, why)
        })
    }

    /// Setup of this boot has mounted something.
    pub fn mounted_by_setup(&self) -> Option<&State> {
        self.state.as_ref().filter(|s| matches!(s.state, Health::Ready | Health::Degraded))
    }

    /// The directory that the filesystem is, or is to be, mounted on.
    pub fn target(&self) -> &str {
        match self.mounted_by_setup() {
            Some(state) if !state.target.is_empty() => &state.target,
            _ => &self.config.target,
        }
    }

    /// Asking about `path` waits for nothing but the root volume, memory, or another local mount below /etc, /run, /usr or
    /// /var: a network filesystem, or a drive of ours, may never answer.
    pub fn may_be_asked(&self, path: &str) -> bool {
        if !self.running {
            return true;
        }
        let Ok(seen) = &self.seen else { return false };
        let path = Path::new(path);
        if path.starts_with(self.target()) {
            return false;
        }
        let Some(mount) = path.to_str().and_then(|path| mounts::containing(&seen.mounts, path)) else {
            return true;
        };
        let system = ["/etc", "/run", "/usr", "/var"].iter().any(|dir| path.starts_with(dir));
        // They have no device number of their own, and are local all the same.
        let known = matches!(mount.fs_type.as_str(), "tmpfs" | "overlay" | "btrfs" | "zfs");
        let candidate = seen.drives.iter().map(|d| d.dev).chain(seen.arrays.iter().map(|a| a.dev));
        let local = known || !mounts::is_anonymous(mount.dev);
        mount.at == "/" || (system && local && !candidate.into_iter().any(|dev| dev == mount.dev))
    }

    /// UUID of our filesystem; none where none is known.
    pub fn fs_uuid(&self) -> Option<String> {
        let state = self.mounted_by_setup().map(|state| state.fs_uuid.clone());
        state
            .filter(|uuid| !uuid.is_empty())
            .or(self.record.as_ref().map(|record| record.fs_uuid.to_string()))
    }

    /// The array is one that setup made or took over.
    pub fn is_our_array(&self, array: &Array) -> bool {
        let by_state = self.mounted_by_setup().is_some_and(|state| state.device == array.name);
        let by_record =
            array.uuid.is_some() && self.record.as_ref().is_some_and(|r| r.array_uuid == array.uuid);
        by_state || by_record
    }

    /// The drive carries, by itself, what setup made or took over.
    pub fn is_our_drive(&self, drive: &Drive) -> bool {
        let by_state = self.mounted_by_setup().is_some_and(|state| state.device == drive.name);
        let by_record = |r: &Identity| r.array_uuid.is_none() && r.names_exactly([drive.serial.as_str()]);
        by_state || self.record.as_ref().is_some_and(by_record)
    }
}

pub const IMAGE: &str = "about a running machine; --root is taken for an image";
pub const ROOT_ONLY: &str = "needs root; try sudo";

/// sysfs, proc and a few names in /var and /run; nothing that waits for a device.
fn look(root: &Root, config: &Config) -> Result<Inventory> {
    let sysfs = Sysfs::new(root);
    let table = mounts::read(root)?;
    let found = drives::find(&sysfs, &config.matching, &table, &|_| Ok(None))?;
    let functions = wait::look(&sysfs, config)?;
    let mut inventory = Inventory {
        drives: found.drives,
        skipped: found.skipped,
        pending: functions.pending,
        arrays: arrays::find(&sysfs)?,
        ..Inventory::default()
    };
    inventory.pending.extend(found.pending);
    let busy = uses::Busy::read(sysfs, &table)?;
    for drive in &mut inventory.drives {
        drive.uses = busy.of(&drive.name)?;
    }
    for array in &mut inventory.arrays {
        array.uses = busy.of(&array.name)?;
    }
    inventory.claims = owners::find(root, &inventory.drives, &mut inventory.notes);
    inventory.mounts = table;
    Ok(inventory)
}
