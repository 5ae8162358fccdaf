//! plan: a pure function from what was observed and what is configured to typed steps, or to a refusal.
//!
//! All judgement is here. Nothing in this module does I/O. The decision table ([`plan`] follows it from the top):
//!
//! | found | do |
//! |---|---|
//! | target is a file, a symlink, or mounted from something that is not ours | refuse |
//! | target mounted from our array or drive | keep: repair persistence, options, directories |
//! | fstab has a malformed line, and nothing is to be made | fstab is left as it is: `degraded`; else refuse |
//! | nodeadm is told to set up the drives, or has; another owner of them is on the node, or holds them | refuse |
//! | a PCI function without a live controller, fewer drives than `expect_drives` | drive missing |
//! | no drive | `absent`, nothing written |
//! | a kernel before 5.2 | refuse: it could make the filesystem, but not put it in place |
//! | a drive in use, read-only or unreadable | refuse, also under `--wipe-foreign` |
//! | an intent record names exactly these drives, and nothing else is on them | redo the job with its UUIDs |
//! | all blank (or unknown data that the policy takes for blank) | create |
//! | all members of one set, roles complete, not running | assemble read-only, look again |
//! | the array runs, or there is one drive: blank | make the filesystem |
//! | ... ext4 or xfs with evidence that it is the target's | adopt as it is |
//! | ... anything else | refuse; `--wipe-foreign` wipes and creates |
//! | fewer drives than raid_disks | member missing |
//! | as many drives as raid_disks, some blank, the set is ours by evidence | recreate, loudly |
//! | the same without evidence, or with unknown data | refuse |
//! | several sets, roles twice, members that disagree | refuse |

mod build;
mod decide;
mod device;
mod evidence;
mod exposure;
mod files;
mod make;
pub(crate) mod owners;
mod set;
mod step;
#[cfg(test)]
mod tests;
mod usable;
pub(crate) mod words;

use serde::{Deserialize, Serialize};

pub use decide::plan;
pub use step::{MemberRef, Step, Stripe};

/// What `setup` would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub outcome: Outcome,
    pub steps: Vec<Step>,
    /// After these steps observe and plan again: what is on an array is only known once it is assembled.
    pub look_again: bool,
    /// Said aloud (journal, state file): a rebuild, files that get hidden, ...
    pub notes: Vec<String>,
    /// What will not be in order after these steps, a sentence each: the state is then `degraded`.
    #[serde(default)]
    pub problems: Vec<String>,
    /// What verify will demand; none where there is nothing to verify (absent).
    pub promise: Option<Promise>,
}

/// What the plan is about, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// No drives and none expected.
    Absent,
    /// The target is mounted from our filesystem; at most persistence is repaired.
    Keep,
    /// New filesystem (and array).
    Create,
    /// A stripe that is gone for good is made anew.
    Recreate,
    /// An interrupted run of ours is finished.
    Finish,
    /// A filesystem that is there is mounted as it is.
    Adopt,
    /// An array is assembled to be looked into.
    Assemble,
}

/// What must be true after the steps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub target: String,
    /// Kernel name of the device that carries the filesystem, such as `md0` or `nvme1n1`.
    pub device: String,
    pub filesystem: String,
    pub fs_uuid: String,
    pub array_uuid: Option<uuid::Uuid>,
    /// Serials of the drives, sorted.
    pub serials: Vec<String>,
    /// `raid0` or `single`.
    pub layout: String,
    /// Per-mount options that must show in mountinfo.
    pub options: Vec<String>,
    /// Mode of the root inode; none where it is left as it is.
    pub mode: Option<u32>,
}

/// The judgement to change nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub reason: Reason,
    /// One entry a device or file: what was found, and where.
    pub found: Vec<String>,
    /// What the operator can do, with the flag or key that would override.
    pub next: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}. Nothing was changed. {}", self.reason, self.found.join("; "), self.next)
    }
}

/// Why nothing was changed. Printed as it is spelled here (a Kubernetes condition reason).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// A signature, filesystem or array that is not ours.
    ForeignData,
    /// Bytes without a signature, not in the first boot.
    UnknownData,
    /// Mounted elsewhere, swap, held, partitioned, or opened exclusively.
    DriveInUse,
    DriveUnreadable,
    DriveReadOnly,
    /// Fewer drives than the superblock's raid_disks.
    MemberMissing,
    /// Fewer drives than `expect_drives`, or a PCI function without a live controller.
    DriveMissing,
    /// The members cannot be one array: roles twice, roles missing, different sets.
    ArrayInconsistent,
    /// fstab puts another device at the target, or has a malformed line.
    FstabConflict,
    /// mdadm.conf or tmpfiles.d cannot be edited safely.
    FileConflict,
    /// The target is a file, a symlink, or is mounted from something else.
    TargetUnsuitable,
    /// mkfs for the configured filesystem is not installed.
    MkfsMissing,
    /// Another driver or provisioner for local drives is on this node, or holds them.
    OwnerConflict,
    /// nodeadm is told to set up the drives itself, or has.
    NodeadmLocalStorage,
    /// The kernel is older than what putting a mount in place needs.
    KernelTooOld,
}

impl Reason {
    /// Drives that ought to be there are not: `failed` with its own exit code, worth waiting for.
    pub fn is_missing(self) -> bool {
        matches!(self, Reason::MemberMissing | Reason::DriveMissing)
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}
