//! What several checks go by, read once.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::Result;
use crate::intent::{Identity, RECORD_PATH};
use crate::observe::sysfs::{self, Sysfs};
use crate::observe::{Array, Drive, Inventory, Mount, arrays, drives, files, mounts, owners, uses, wait};
use crate::persist::atomic;
use crate::root::Root;
use crate::state::{Health, State, StateFile};

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
    /// The mount table; of an image none. Or why it is not known, and so not what may be asked.
    mounts: Result<Vec<Mount>, String>,
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
        let state = match State::read(root) {
            StateFile::OfThisBoot(state) => Some(*state),
            StateFile::Missing | StateFile::OfAnotherBoot(_) => None,
            // An image has no boot that it could be of.
            StateFile::OfUnknownBoot(_) if !running => None,
            StateFile::Unreadable(error) | StateFile::OfUnknownBoot(error) => {
                unread.push(error.to_string());
                None
            }
        };
        let mounts = if running { mounts::read(root).map_err(|e| e.to_string()) } else { Ok(Vec::new()) };
        let seen = match &mounts {
            _ if !running => Err(IMAGE.into()),
            Ok(table) => look(root, config, table).map_err(|e| e.to_string()),
            Err(why) => Err(why.clone()),
        };
        let mut subject =
            Subject { root, config, running, privileged, seen, mounts, state, record: None, unread };
        // The target may be above the one or the other.
        if let Ok(at) = subject.at(RECORD_PATH) {
            let record = files::identity(&Root::default(), &at.to_string_lossy(), &mut subject.unread);
            subject.record = record.unwrap_or_else(|error| {
                subject.unread.push(error.to_string());
                None
            });
        }
        let plugins = subject.at("/var/lib/kubelet/plugins");
        if let Ok(seen) = &mut subject.seen {
            match plugins {
                Ok(_) => seen.claims = owners::find(root, &seen.drives, &mut seen.notes),
                Err(why) => seen.notes.push(why),
            }
        }
        subject
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
        self.seen.as_ref().map_err(|_| Check::unknown(name, self.why(&self.seen)))
    }

    fn why<T>(&self, part: &Result<T, String>) -> String {
        match part {
            Err(why) if !self.running || self.privileged => why.clone(),
            _ => ROOT_ONLY.into(),
        }
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

    /// Where `path` is to be opened: links on the way are followed below the root, and nothing on it is touched that may
    /// not answer.
    ///
    /// # Errors
    /// Something on it may not, or that is not known, in words.
    pub fn at(&self, path: &str) -> Result<PathBuf, String> {
        self.at_path(path.as_ref())
    }

    /// [`Subject::at`] of a path whose names may be no text.
    pub fn at_path(&self, path: &Path) -> Result<PathBuf, String> {
        match self.root.resolve(path, &|on_the_way| self.may_be_asked(on_the_way)) {
            Some(to) => Ok(self.root.join(to)),
            None if self.mounts.is_ok() => Err(format!(
                "{} is on the target, on another of the drives, or on a filesystem that may not answer",
                path.display()
            )),
            None => Err(self.why(&self.mounts)),
        }
    }

    /// Names in a directory, sorted; none where it is not there, or cannot be read.
    pub fn names(&self, dir: &str) -> Vec<String> {
        self.at(dir).ok().and_then(|dir| sysfs::names(dir).ok()).unwrap_or_default()
    }

    /// The text of a file; none where it is not there, or cannot be read.
    pub fn text(&self, path: &str) -> Option<String> {
        atomic::read_text(&self.at(path).ok()?).ok().flatten()
    }

    /// Asking about `path` waits for nothing but the root volume, memory, or another local mount below /etc, /run, /usr or
    /// /var: a network filesystem, or a drive of ours, may never answer. By the names alone: links
    /// in what is above it are followed by then.
    fn may_be_asked(&self, path: &Path) -> bool {
        if !self.running {
            return true;
        }
        let (Ok(mounts), Some(text)) = (&self.mounts, path.to_str()) else { return false };
        // What is masked leads there.
        if matches!(text, "/dev" | "/dev/null") {
            return true;
        }
        if path.starts_with(self.target()) {
            return false;
        }
        let Some(mount) = mounts::containing(mounts, text) else {
            return true;
        };
        if mount.at == "/" {
            return true;
        }
        // They have no device number of their own, and are local all the same.
        let known = matches!(mount.fs_type.as_str(), "tmpfs" | "overlay" | "btrfs" | "zfs");
        // Where it is not known which are the drives, any other may be one.
        let local = known
            || self.seen.as_ref().is_ok_and(|seen| {
                let mut candidate =
                    seen.drives.iter().map(|d| d.dev).chain(seen.arrays.iter().map(|a| a.dev));
                !mounts::is_anonymous(mount.dev) && !candidate.any(|dev| dev == mount.dev)
            });
        local && ["/etc", "/run", "/usr", "/var"].iter().any(|dir| path.starts_with(dir))
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

/// sysfs and proc; nothing that waits for a device.
fn look(root: &Root, config: &Config, table: &[Mount]) -> Result<Inventory> {
    let sysfs = Sysfs::new(root);
    let found = drives::find(&sysfs, &config.matching, table, &|_| Ok(None))?;
    let functions = wait::look(&sysfs, config)?;
    let mut inventory = Inventory {
        drives: found.drives,
        skipped: found.skipped,
        pending: functions.pending,
        arrays: arrays::find(&sysfs)?,
        ..Inventory::default()
    };
    inventory.pending.extend(found.pending);
    let busy = uses::Busy::read(sysfs, table)?;
    for drive in &mut inventory.drives {
        drive.uses = busy.of(&drive.name)?;
    }
    for array in &mut inventory.arrays {
        array.uses = busy.of(&array.name)?;
    }
    inventory.mounts = table.to_vec();
    Ok(inventory)
}
