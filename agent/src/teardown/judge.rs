//! What teardown would do: a pure function from what was observed, like plan.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::intent::Identity;
use crate::observe::{Content, DevNum, Drive, Files, Inventory, Use};
use crate::persist::{fstab, mdadm_conf, tmpfiles};
use crate::plan::MemberRef;

/// What is ours by our own records: nothing else is ever unmounted, stopped or wiped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// md set UUIDs.
    pub sets: BTreeSet<Uuid>,
    /// Filesystem UUIDs, lower case, as blkid prints them.
    pub filesystems: BTreeSet<String>,
    /// Directories that we mount on.
    pub targets: BTreeSet<String>,
}

impl Licence {
    /// From the records, and from our lines in fstab and mdadm.conf.
    pub fn of(inventory: &Inventory, target: &str) -> Licence {
        let mut licence = Licence::default();
        licence.targets.insert(target.to_owned());
        for identity in inventory.record.iter().chain(&inventory.intent) {
            licence.add(identity);
        }
        let files = &inventory.files;
        for entry in fstab::owned(files.fstab.as_deref().unwrap_or_default()) {
            if let fstab::Source::Uuid(uuid) = entry.source() {
                licence.filesystems.insert(uuid.to_ascii_lowercase());
            }
            licence.targets.insert(entry.file.clone());
        }
        let arrays = mdadm_conf::evidence(files.mdadm_conf.as_deref().unwrap_or_default());
        licence.sets.extend(arrays.iter().filter(|a| a.owned).filter_map(|a| a.uuid));
        licence
    }

    fn add(&mut self, identity: &Identity) {
        self.sets.extend(identity.array_uuid);
        self.filesystems.insert(identity.fs_uuid.to_string());
        self.targets.insert(identity.target.clone());
    }

    pub fn join(&mut self, other: Licence) {
        self.sets.extend(other.sets);
        self.filesystems.extend(other.filesystems);
        self.targets.extend(other.targets);
    }

    fn has_filesystem(&self, uuid: &str) -> bool {
        self.filesystems.contains(&uuid.to_ascii_lowercase())
    }
}

/// What must still be on a drive for it to be wiped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// A superblock of this md set.
    Set(Uuid),
    /// This filesystem, on the whole drive.
    Filesystem { kind: String, uuid: String },
}

/// A host file that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    pub path: String,
    pub before: String,
    /// None: the file goes.
    pub after: Option<String>,
}

/// All that is ours on this machine, in the order in which it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Where the filesystem is mounted, last mount first.
    pub unmount: Vec<String>,
    /// The device that carries it; none where it is not mounted.
    pub mounted: Option<DevNum>,
    pub stop: Vec<PathBuf>,
    pub wipe: Vec<(MemberRef, Expect)>,
    pub files: Vec<FileChange>,
    /// Said aloud.
    pub notes: Vec<String>,
}

impl Work {
    pub fn is_empty(&self) -> bool {
        self.unmount.is_empty() && self.stop.is_empty() && self.wipe.is_empty() && self.files.is_empty()
    }

    /// One line each, for people.
    pub fn lines(&self) -> Vec<String> {
        let notes = self.notes.iter().cloned();
        let unmount = self.unmount.iter().map(|at| format!("unmount {at}"));
        let stop = self.stop.iter().map(|array| format!("stop {}", array.display()));
        let wipe = self.wipe.iter().map(|(drive, expect)| {
            let what = match expect {
                Expect::Set(uuid) => format!("member of md set {}", crate::md::notation::mdadm_uuid(uuid)),
                Expect::Filesystem { kind, uuid } => format!("{kind} filesystem {uuid}"),
            };
            format!("wipe {} (serial {}), {what}: ITS DATA IS GONE THEN", drive.path.display(), drive.serial)
        });
        let files = self.files.iter().map(|file| match file.after {
            Some(_) => format!("take our line out of {}", file.path),
            None => format!("remove {}", file.path),
        });
        notes.chain(unmount).chain(stop).chain(wipe).chain(files).collect()
    }
}

/// What of the machine goes.
///
/// # Errors
/// What is in the way, an entry each: ours is used for something that is not ours.
pub fn judge(inventory: &Inventory, licence: &Licence) -> Result<Work, Vec<String>> {
    let mut work = Work::default();
    let mut problems = Vec::new();

    let carries_ours = |content: &Content| match content {
        Content::Filesystem(found) | Content::HalfMade(found) => licence.has_filesystem(&found.uuid),
        _ => false,
    };
    let arrays: Vec<_> = inventory
        .arrays
        .iter()
        .filter(|a| a.uuid.is_some_and(|uuid| licence.sets.contains(&uuid)) || carries_ours(&a.content))
        .collect();
    let sets: BTreeSet<Uuid> =
        arrays.iter().filter_map(|a| a.uuid).chain(licence.sets.iter().copied()).collect();
    let names: BTreeSet<&str> = arrays.iter().map(|a| a.name.as_str()).collect();

    for array in &arrays {
        let what = match &array.content {
            Content::Filesystem(found) | Content::HalfMade(found) if !licence.has_filesystem(&found.uuid) => {
                format!("{} filesystem {}", found.kind, found.uuid)
            }
            Content::Foreign { signature } => signature.clone(),
            _ => String::new(),
        };
        if !what.is_empty() {
            problems
                .push(format!("{} carries {what}, which nvme-agent did not make", array.path().display()));
        }
        work.stop.push(array.path());
    }
    for pending in &inventory.pending {
        work.notes.push(format!("not looked at: the drive at {}: {}", pending.address, pending.why));
    }
    let mut drives: Vec<&Drive> = Vec::new();
    for drive in &inventory.drives {
        let expect = match &drive.content {
            Content::Member(member) if sets.contains(&member.set_uuid) => Expect::Set(member.set_uuid),
            Content::Filesystem(found) | Content::HalfMade(found) if licence.has_filesystem(&found.uuid) => {
                Expect::Filesystem { kind: found.kind.clone(), uuid: found.uuid.clone() }
            }
            Content::Unreadable { error } => {
                let (path, serial) = (drive.path(), &drive.serial);
                work.notes
                    .push(format!("not looked at: {} ({serial}) cannot be read: {error}", path.display()));
                continue;
            }
            _ => continue,
        };
        let member = MemberRef { path: drive.path(), serial: drive.serial.clone(), sectors: drive.sectors };
        if drive.read_only {
            problems.push(format!(
                "{} ({}) is read-only and cannot be wiped",
                drive.path().display(),
                drive.serial
            ));
        }
        work.wipe.push((member, expect));
        drives.push(drive);
    }

    let devices: BTreeSet<DevNum> =
        arrays.iter().map(|a| a.dev).chain(drives.iter().map(|d| d.dev)).collect();
    for mount in inventory.mounts.iter().filter(|m| devices.contains(&m.dev)) {
        if !licence.targets.contains(&mount.at) || mount.root != "/" {
            problems.push(format!(
                "{} of it is mounted at {}, where nvme-agent did not put it; unmount that first",
                mount.root, mount.at
            ));
            continue;
        }
        let top = inventory.mounts.iter().rfind(|m| m.at == mount.at);
        if let Some(top) = top.filter(|top| !devices.contains(&top.dev)) {
            problems.push(format!(
                "{} ({}) is mounted over it at {}; unmount that first",
                top.source, top.fs_type, top.at
            ));
        }
        work.mounted = Some(mount.dev);
        work.unmount.insert(0, mount.at.clone());
    }
    let used = drives.iter().map(|d| (d.path(), &d.uses)).chain(arrays.iter().map(|a| (a.path(), &a.uses)));
    for (path, uses) in used {
        for what in uses.iter().filter_map(|used| foreign_use(used, &names, licence)) {
            problems.push(format!("{} {what}", path.display()));
        }
    }

    work.files = files(&inventory.files);
    if !problems.is_empty() {
        problems.sort();
        problems.dedup();
        return Err(problems);
    }
    Ok(work)
}

/// A use that is not part of what goes anyway, in words.
fn foreign_use(used: &Use, arrays: &BTreeSet<&str>, licence: &Licence) -> Option<String> {
    match used {
        Use::Mounted { at } if licence.targets.contains(at) => None,
        Use::Holder { name } if arrays.contains(name.as_str()) => None,
        Use::Mounted { at } => Some(format!("is mounted at {at}")),
        Use::Holder { name } => Some(format!("is held by {name}")),
        Use::Swap => Some("is swap in use".into()),
        Use::Partitions { names } => Some(format!("has partitions: {}", names.join(", "))),
        Use::Exclusive => Some("is opened exclusively by another program".into()),
        Use::Root => Some("carries the root filesystem".into()),
    }
}

/// Our lines and our file.
pub fn files(files: &Files) -> Vec<FileChange> {
    let mut changes = Vec::new();
    if let Some(before) = &files.fstab {
        let after = fstab::remove(before);
        changes.extend(after.map(|after| change(crate::persist::FSTAB_PATH, before, Some(after))));
    }
    if let Some(before) = &files.mdadm_conf {
        // Empty: it held nothing but our line, so it is the one that setup made.
        let after = mdadm_conf::remove(before).map(|text| Some(text).filter(|text| !text.is_empty()));
        changes.extend(after.map(|after| change(&files.mdadm_conf_path, before, after)));
    }
    if let Some(before) = files.tmpfiles.as_ref().filter(|text| tmpfiles::is_owned(text)) {
        changes.push(change(tmpfiles::PATH, before, None));
    }
    changes
}

fn change(path: &str, before: &str, after: Option<String>) -> FileChange {
    FileChange { path: path.to_owned(), before: before.to_owned(), after }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
pub(super) mod tests;
