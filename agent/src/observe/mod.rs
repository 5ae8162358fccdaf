//! observe: reads the machine and never writes. Yields an [`Inventory`].

pub mod arrays;
pub mod blank;
pub mod blkid;
pub mod content;
pub mod drives;
pub mod files;
pub mod host;
mod look;
pub mod mounts;
pub mod nvme;
pub mod owners;
pub mod sysfs;
pub mod uses;
pub mod wait;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::intent::Identity;

pub use look::{Examine, How, observe};

/// Everything that [`crate::plan`] judges by. Plain data: a test can write one down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    /// The candidate drives, ordered by serial.
    pub drives: Vec<Drive>,
    /// NVMe namespaces that are not candidates, and why.
    pub skipped: Vec<Skipped>,
    /// PCI NVMe functions of a matched vendor that were not bound and live when the wait ended.
    pub pending: Vec<Pending>,
    /// Every md array that the kernel knows.
    pub arrays: Vec<Array>,
    /// The mount table of PID 1, in mount order.
    pub mounts: Vec<Mount>,
    /// The directory to be mounted on.
    pub target: Target,
    /// Text of the host's files that persist edits.
    pub files: Files,
    /// Who else lays claim to the drives.
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// An intent record of an interrupted run.
    pub intent: Option<Identity>,
    /// The record of the last finished run.
    pub record: Option<Identity>,
    /// UUIDs for what may be created, drawn by observe so that plan stays pure.
    pub fresh: Fresh,
    pub host: Host,
    /// Said aloud: a record of ours that could not be understood, ...
    #[serde(default)]
    pub notes: Vec<String>,
}

/// An NVMe namespace block device that is a candidate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Drive {
    /// Kernel name, such as `nvme1n1`. Changes between boots.
    pub name: String,
    /// Device number, `major:minor` of sysfs `dev`.
    pub dev: DevNum,
    /// Controller, such as `nvme1`.
    pub controller: String,
    /// PCI address of the controller, such as `0000:00:1f.0`; empty for fabrics.
    pub address: String,
    /// Trimmed serial number. Identifies the drive for as long as the instance runs.
    pub serial: String,
    /// Trimmed model.
    pub model: String,
    /// Trimmed firmware revision.
    pub firmware: String,
    /// Controller state as sysfs says it: `live`, `resetting`, ...
    pub state: String,
    /// Size in sectors of 512 bytes, as sysfs `size`.
    pub sectors: u64,
    /// Logical block size in bytes.
    pub logical_block: u32,
    pub read_only: bool,
    pub content: Content,
    /// Who uses it. Non-empty means hands off.
    pub uses: Vec<Use>,
}

impl Drive {
    /// The device node, such as `/dev/nvme1n1`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/dev").join(&self.name)
    }
}

/// A block device number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DevNum {
    pub major: u32,
    pub minor: u32,
}

impl std::fmt::Display for DevNum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What is on a device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Content {
    /// First and last MiB and samples spread between are all zero.
    Blank,
    /// Bytes, but no signature that we or blkid know.
    Unknown,
    /// A member of an md v1.2 set whose superblock has a valid checksum.
    Member(Member),
    /// A whole-device filesystem that could be adopted: ext4 or xfs.
    Filesystem(Filesystem),
    /// An xfs whose mkfs did not get to its end: the kernel does not mount it. (A half-made ext4 has no signature yet.)
    HalfMade(Filesystem),
    /// Anything else that has a name: partition table, LVM, LUKS, swap, ext2, btrfs, a damaged md superblock ...
    Foreign {
        /// As blkid calls it (`gpt`, `LVM2_member`, `crypto_LUKS`, `ambivalent`), or our own words.
        signature: String,
    },
    /// It could not be read.
    Unreadable { error: String },
    /// Nobody looked (yet).
    #[default]
    Unexamined,
}

/// What a member's md superblock says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub set_uuid: Uuid,
    pub device_uuid: Uuid,
    /// As stored, such as `any:md0` or `ip-10-0-0-1:md0`.
    pub set_name: String,
    /// 0 for raid0, 10 for raid10, -4 for multipath ...
    pub level: i32,
    pub raid_disks: u32,
    /// This device's role; none for a spare or a faulty device.
    pub role: Option<u32>,
    /// In sectors of 512 bytes; 0 where the level has no chunk.
    pub chunk_sectors: u32,
    pub events: u64,
    /// In sectors, from the start of the device.
    pub data_offset: u64,
    /// In sectors.
    pub data_size: u64,
}

/// An adoptable filesystem.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Filesystem {
    /// `ext4` or `xfs`.
    pub kind: String,
    /// As blkid prints it: lower case with dashes.
    pub uuid: String,
    pub label: Option<String>,
}

/// A reason why a device is busy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Use {
    /// Mounted, or a partition of it is.
    Mounted { at: String },
    /// Active swap, or a partition of it is.
    Swap,
    /// sysfs `holders/`: dm, md, bcache ... by kernel name.
    Holder { name: String },
    /// It has partitions that the kernel knows.
    Partitions { names: Vec<String> },
    /// Somebody has it open with O_EXCL.
    Exclusive,
    /// The root filesystem is on it, directly or through md or dm.
    Root,
}

/// Somebody else's claim on the drives, which no flag gets past.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Claim {
    /// nodeadm, by `spec.instance.localStorage.strategy` of its NodeConfig.
    Nodeadm { strategy: String },
    /// The EKS add-on for instance stores, which deletes namespaces that are not its own.
    InstanceStoreCsi { trace: String },
    /// The local static provisioner, which hands raw drives to pods.
    StaticProvisioner { trace: String },
}

/// Why an NVMe namespace (or a PCI function that somebody gave to another driver) is not a candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    pub name: String,
    pub serial: String,
    pub model: String,
    /// A live drive of a size, which the configuration does not match; else it is something that could have been one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unmatched: bool,
    /// In plain words: `model is not matched`, `holds the root filesystem`, `hidden multipath path` ...
    pub why: String,
}

/// A PCI NVMe function that has no live controller, or a live controller with no namespace; also a drive that does
/// not answer or cannot be told from another. Nothing must be built while there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// PCI address.
    pub address: String,
    /// In plain words: `no driver bound`, `controller nvme3 is resetting` ...
    pub why: String,
}

/// An md array of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Array {
    /// Kernel name, such as `md0`.
    pub name: String,
    pub dev: DevNum,
    /// Kernel words from `md/level`: `raid0` ...; empty where inactive.
    pub level: String,
    /// Kernel words from `md/array_state`: `clean`, `readonly`, `inactive`, `clear`, `broken`, ...
    pub state: String,
    pub raid_disks: u32,
    pub chunk_bytes: u64,
    /// In sectors of 512 bytes; 0 where it is not running.
    pub sectors: u64,
    /// The set UUID: from `md/uuid` where the kernel has it, else from the members' superblocks.
    pub uuid: Option<Uuid>,
    /// Kernel names of the members, such as `nvme1n1`, ordered by role where it is known.
    pub members: Vec<String>,
    /// What the kernel says of each of them: `in_sync`, `faulty` ...; empty where it does not.
    #[serde(default)]
    pub member_states: Vec<String>,
    pub read_only: bool,
    /// What is on it, where it runs and any of its members is a candidate drive.
    pub content: Content,
    pub uses: Vec<Use>,
}

impl Array {
    /// True where the array serves I/O.
    pub fn is_running(&self) -> bool {
        !matches!(self.state.as_str(), "" | "inactive" | "clear" | "broken")
    }

    /// The device node, such as `/dev/md0`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/dev").join(&self.name)
    }
}

/// One line of mountinfo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub id: i32,
    pub parent: i32,
    pub dev: DevNum,
    /// Root of the mount within the filesystem; `/` unless it is a bind.
    pub root: String,
    pub at: String,
    pub fs_type: String,
    pub source: String,
    /// Per-mount options, such as `rw,nosuid,nodev,noatime`.
    pub options: String,
    /// Superblock options.
    pub super_options: String,
}

/// The directory to be mounted on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Absolute, normalised.
    pub path: String,
    pub kind: TargetKind,
    /// Permission bits of the directory that is there now (the topmost mount).
    pub mode: Option<u32>,
    pub uid: u32,
    pub gid: u32,
    /// `security.selinux` of the directory, where SELinux is on.
    pub selinux: Option<String>,
    /// Entries in the directory (not counting sub-entries): what a mount would hide. Counted up to
    /// [`mounts::ENTRIES_MAX`].
    pub entries: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    Directory,
    #[default]
    Missing,
    File,
    Symlink,
    Other,
}

/// Text of the host's files that persist edits; `None` where the file is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    pub fstab: Option<String>,
    /// Which of `/etc/mdadm.conf` and `/etc/mdadm/mdadm.conf` this host uses.
    pub mdadm_conf_path: String,
    pub mdadm_conf: Option<String>,
    /// mdadm is installed: only then is a missing mdadm.conf created.
    pub has_mdadm: bool,
    /// `/etc/tmpfiles.d/tmp.conf`.
    pub tmpfiles: Option<String>,
    /// `/usr/lib/tmpfiles.d/tmp.conf`, which the former masks: what it says about other paths is carried over.
    #[serde(default)]
    pub tmpfiles_distro: Option<String>,
}

/// UUIDs for what may be created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fresh {
    pub array: Uuid,
    pub filesystem: Uuid,
}

/// Facts of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub boot_id: String,
    /// From DMI `board_asset_tag` where it looks like `i-...`, else from cloud-init; empty where unknown.
    pub instance_id: String,
    /// This is the instance's first boot, cloud-init has not finished for this instance id, and no finished setup
    /// of ours is on record for these drives.
    pub first_boot: bool,
    pub selinux: bool,
    /// Our mount namespace is PID 1's.
    pub host_mount_namespace: bool,
    pub effective_root: bool,
    /// systemd is PID 1.
    pub systemd: bool,
    /// mkfs programs that are present: `ext4` and/or `xfs`.
    pub mkfs: Vec<String>,
    /// The kernel's release, such as `6.1.102-111.amzn2023.x86_64`; empty where unknown.
    pub kernel: String,
}

impl Host {
    /// Major and minor number of the kernel's release; none where it says neither.
    pub fn kernel_version(&self) -> Option<(u32, u32)> {
        host::version(&self.kernel)
    }
}
