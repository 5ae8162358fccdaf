//! The typed steps. They print well, serialise, and say all that apply needs: apply decides nothing.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::config::{Directory, FsKind};
use crate::intent::Identity;

/// A drive as a step names it: by what does not change (serial) and by what is used now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRef {
    pub path: PathBuf,
    pub serial: String,
    /// In sectors of 512 bytes.
    pub sectors: u64,
}

/// One step of apply. Each is idempotent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Unlink an intent record that names other drives (an AMI baked from a live node).
    DropStaleIntent,
    /// Write the intent record, durably, before anything destructive.
    RecordIntent { intent: Identity },
    /// Zero the first and last MiB of each device, and the first of what will be the data of a member: an array that
    /// comes to where one was before would show what was on that. Only under `--wipe-foreign`, or for content that is
    /// ours to redo.
    Wipe {
        devices: Vec<MemberRef>,
        /// In bytes; none where no array is made.
        data_offset: Option<u64>,
        why: String,
    },
    /// Stop an array (inactive, or ours to redo).
    StopArray { array: PathBuf },
    /// Write v1.2 superblocks and run a new RAID0.
    CreateArray { array: PathBuf, uuid: Uuid, name: String, chunk_bytes: u64, members: Vec<MemberRef> },
    /// Start an array from its members' superblocks, read-only.
    AssembleArray { array: PathBuf, uuid: Uuid, members: Vec<MemberRef> },
    /// Let a read-only array be written.
    ReadWrite { array: PathBuf },
    /// mkfs.
    MakeFilesystem {
        device: PathBuf,
        kind: FsKind,
        uuid: Uuid,
        label: String,
        /// In bytes.
        size: u64,
        /// RAID geometry; none for a single drive.
        stripe: Option<Stripe>,
        /// Every member is blank: old transactions cannot be replayed from an unzeroed journal.
        blank: bool,
    },
    /// Make the target directory where it is missing.
    CreateTarget { path: String },
    /// Mount the filesystem where nobody sees it.
    Stage { device: PathBuf, kind: FsKind, options: Vec<String> },
    /// Root inode's mode, owner and SELinux label, the directories, private tmp directories of running services; syncfs.
    Prepare {
        target: String,
        mode: Option<u32>,
        uid: u32,
        gid: u32,
        selinux: Option<String>,
        directories: Vec<Directory>,
    },
    /// Unlink the intent record, durably: from here on nothing licenses reformatting.
    ClearIntent,
    /// Put the staged mount on the target, in one step.
    Expose { target: String },
    /// Mount options of a target that is mounted already.
    Remount { target: String, options: Vec<String> },
    /// Root inode's mode (where it is wrong) and the directories of a target that is mounted already.
    Directories { target: String, mode: Option<u32>, directories: Vec<Directory> },
    /// Remember what we made (not an intent: evidence that a set is ours).
    RecordSet { record: Identity },
    /// Put our line into fstab (or repair it), whole new text of the file.
    Fstab {
        path: String,
        /// Not serialised: a line of somebody else's may hold a password (cifs).
        #[serde(skip)]
        text: String,
        change: String,
    },
    /// Put our ARRAY line into mdadm.conf, whole new text of the file.
    MdadmConf { path: String, text: String, change: String },
    /// The owned tmpfiles.d entry.
    Tmpfiles { path: String, text: String },
    /// Have systemd read fstab again.
    ReloadSystemd,
}

/// RAID geometry for mkfs, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stripe {
    /// Chunk: what one member holds before the next one's turn.
    pub chunk_bytes: u64,
    /// Data members; stripe width = chunk x members.
    pub members: u32,
}

impl Step {
    /// The step's name, as in the state file, the journal and failpoints.
    pub fn name(&self) -> &'static str {
        match self {
            Step::DropStaleIntent => "drop-stale-intent",
            Step::RecordIntent { .. } => "record-intent",
            Step::Wipe { .. } => "wipe",
            Step::StopArray { .. } => "stop-array",
            Step::CreateArray { .. } => "create-array",
            Step::AssembleArray { .. } => "assemble-array",
            Step::ReadWrite { .. } => "read-write",
            Step::MakeFilesystem { .. } => "make-filesystem",
            Step::CreateTarget { .. } => "create-target",
            Step::Stage { .. } => "stage",
            Step::Prepare { .. } => "prepare",
            Step::ClearIntent => "clear-intent",
            Step::Expose { .. } => "expose",
            Step::Remount { .. } => "remount",
            Step::Directories { .. } => "directories",
            Step::RecordSet { .. } => "record-set",
            Step::Fstab { .. } => "fstab",
            Step::MdadmConf { .. } => "mdadm-conf",
            Step::Tmpfiles { .. } => "tmpfiles",
            Step::ReloadSystemd => "reload-systemd",
        }
    }

    /// Persistence may fail without making the storage unusable: the state is then `degraded`.
    pub fn is_persistence(&self) -> bool {
        matches!(
            self,
            Step::RecordSet { .. }
                | Step::Fstab { .. }
                | Step::MdadmConf { .. }
                | Step::Tmpfiles { .. }
                | Step::ReloadSystemd
        )
    }
}

fn names(members: &[MemberRef]) -> String {
    members.iter().map(|m| format!("{} ({})", m.path.display(), m.serial)).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::DropStaleIntent => write!(f, "remove the intent record of other drives"),
            Step::RecordIntent { intent } => {
                let when = if intent.wiping { ", which are wiped first" } else { "" };
                let drives = intent.serials.len();
                write!(f, "record the intent: filesystem {} on {drives} drive(s){when}", intent.fs_uuid)
            }
            Step::Wipe { devices, why, .. } => write!(f, "wipe {}: {why}", names(devices)),
            Step::StopArray { array } => write!(f, "stop {}", array.display()),
            Step::CreateArray { array, uuid, chunk_bytes, members, .. } => write!(
                f,
                "create RAID0 {} {uuid}, chunk {} KiB, of {}",
                array.display(),
                chunk_bytes / 1024,
                names(members)
            ),
            Step::AssembleArray { array, uuid, members } => {
                write!(f, "assemble {} {uuid}, read-only, of {}", array.display(), names(members))
            }
            Step::ReadWrite { array } => write!(f, "make {} writable", array.display()),
            Step::MakeFilesystem { device, kind, uuid, label, .. } => {
                write!(f, "make {kind} on {}, UUID {uuid}, label {label}", device.display())
            }
            Step::CreateTarget { path } => write!(f, "make the directory {path}"),
            Step::Stage { device, options, .. } => {
                write!(f, "mount {} out of sight, {}", device.display(), options.join(","))
            }
            Step::Prepare { mode, uid, gid, directories, .. } => {
                match mode {
                    Some(mode) => write!(f, "set its root to mode {mode:04o}, owner {uid}:{gid}")?,
                    None => write!(f, "leave its root's mode and owner")?,
                }
                write!(f, ", {} further directories", directories.len())
            }
            Step::ClearIntent => write!(f, "remove the intent record"),
            Step::Expose { target } => write!(f, "put the mount on {target}"),
            Step::Remount { target, options } => write!(f, "remount {target} with {}", options.join(",")),
            Step::Directories { target, mode, directories } => {
                if let Some(mode) = mode {
                    write!(f, "set {target} to mode {mode:04o}; ")?;
                }
                write!(f, "make {} directories under {target}", directories.len())
            }
            Step::RecordSet { record } => write!(f, "remember filesystem {} as ours", record.fs_uuid),
            Step::Fstab { path, change, .. } | Step::MdadmConf { path, change, .. } => {
                write!(f, "{path}: {change}")
            }
            Step::Tmpfiles { path, .. } => write!(f, "{path}: keep the files of the mount"),
            Step::ReloadSystemd => write!(f, "have systemd read fstab again"),
        }
    }
}
