//! status: what is there now, how it is, and why.
//!
//! The state file says what the last setup of this boot came to; whether that still holds is judged from the live
//! machine. Nothing here writes to a device, or fails because one part cannot be read: the report says which. Whoever may
//! never answer (the filesystem, the drives) is asked by children of their own, see [`crate::probe`].

mod findings;
mod judge;
mod live;
mod node;
mod on_node;
mod parts;
mod persistence;
pub mod prometheus;
pub mod rules;
mod text;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::probe::drive::NO_LOG_PAGES;
use crate::probe::smart::Smart;
use crate::probe::statistics::Statistics;
use crate::root::Root;
use crate::state::{State, StateFile, StepTime, rfc3339};

pub use judge::judge;
pub use live::{Kept, Live, NoState, Text};
pub use node::{NodePart, ReportedPart};
pub use on_node::OnNodePart;

/// Format of the JSON. Grows when a field changes its meaning or goes, not when one is added.
pub const SCHEMA: u32 = 1;

/// How long devices and filesystems may take to answer somebody who looks at a terminal, or over SSM.
pub const PATIENCE: Duration = Duration::from_millis(1200);
/// The same where nobody waits and a wrong word costs a node: a drive at its limits may be slow.
pub const UNATTENDED_PATIENCE: Duration = Duration::from_secs(10);

/// The verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Ready,
    Degraded,
    Failed,
    Absent,
    /// setup has not run in this boot.
    #[default]
    NotSetUp,
}

impl Verdict {
    /// From good to bad.
    pub const ALL: [Verdict; 5] =
        [Verdict::Ready, Verdict::Degraded, Verdict::Failed, Verdict::Absent, Verdict::NotSetUp];

    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Ready => "ready",
            Verdict::Degraded => "degraded",
            Verdict::Failed => "failed",
            Verdict::Absent => "absent",
            Verdict::NotSetUp => "not-set-up",
        }
    }

    /// Exit code of `status`.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Ready | Verdict::Absent => 0,
            Verdict::Degraded => 10,
            Verdict::Failed => 11,
            Verdict::NotSetUp => 12,
        }
    }
}

/// What `status` prints, as text or JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the agent that reports.
    pub agent: String,
    /// When this was looked at, RFC 3339, UTC.
    pub time: String,
    pub state: Verdict,
    /// CamelCase.
    pub reason: String,
    /// What to do next; none where nothing needs doing. Before the message, which may be long: who shows the first 2,500
    /// characters of it, as the SSM console does, shows this.
    pub next: Option<String>,
    /// One sentence.
    pub message: String,
    /// All that was found wrong, the worst first: state, reason, message and next action are those of the first, where
    /// there is one.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// What may become a problem, and changes no verdict, such as a filesystem that is nearly full.
    #[serde(default)]
    pub warnings: Vec<Finding>,
    /// Since when the last setup's verdict holds; none where the live machine says otherwise, or setup has not run.
    pub since: Option<String>,
    /// `raid0`, `single`; empty where there is no storage.
    pub layout: String,
    pub target: String,
    /// What is mounted on the target, topmost; none where nothing is.
    pub mount: Option<MountPart>,
    /// The array that carries the filesystem.
    pub array: Option<ArrayPart>,
    /// Candidate drives, and drives that setup used and that are gone, ordered by serial.
    pub drives: Vec<DrivePart>,
    /// The last setup of this boot.
    pub last_setup: Option<SetupPart>,
    pub persistence: PersistencePart,
    pub node: NodePart,
    /// The machine itself; none for another root than this machine's.
    pub host: Option<HostPart>,
    /// Said aloud by the last setup.
    pub notes: Vec<String>,
    /// Parts that could not be read, and why.
    pub unreadable: Vec<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// CamelCase; `status --explain` says more.
    pub reason: String,
    /// What it makes of the verdict by itself; `ready` of a warning.
    pub state: Verdict,
    /// One sentence.
    pub message: String,
    pub next: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MountPart {
    pub source: String,
    pub filesystem: String,
    /// Per-mount options, then those of the superblock that are not among them.
    pub options: String,
    /// In bytes; none where it could not be read.
    pub size_bytes: Option<u64>,
    /// In bytes, what files take.
    pub used_bytes: Option<u64>,
    /// In bytes, for unprivileged users.
    pub available_bytes: Option<u64>,
    /// None where it could not be read, or the filesystem makes them as it goes.
    #[serde(default)]
    pub inodes: Option<u64>,
    #[serde(default)]
    pub inodes_used: Option<u64>,
    /// It is the filesystem that setup mounted and verified.
    pub ours: bool,
    /// Errors that the kernel has found in it since it was last checked; none where it does not count them.
    #[serde(default)]
    pub errors: Option<u64>,
    /// Entries of the directory that it hides, as setup counted them, up to 10 000, before it mounted; none where it did not.
    #[serde(default)]
    pub hidden_files: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ArrayPart {
    /// Kernel name, such as `md0`.
    pub device: String,
    pub level: String,
    /// As the kernel says it: `clean`, `readonly`, `broken` ...
    pub state: String,
    pub chunk_bytes: u64,
    /// By slot.
    pub members: Vec<MemberPart>,
    /// How many there must be.
    pub raid_disks: u32,
    pub uuid: Option<uuid::Uuid>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPart {
    /// Kernel name, such as `nvme1n1`.
    pub device: String,
    /// As the kernel says it: `in_sync`, `faulty` ...; empty where it does not.
    pub state: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DrivePart {
    /// Kernel name; empty where the drive is gone.
    pub device: String,
    pub serial: String,
    pub model: String,
    pub size_bytes: u64,
    /// `live`, `missing`, `unmatched` (by the configuration), or what the kernel says of its controller.
    pub state: String,
    /// setup used it.
    pub used: bool,
    /// Log page 0x02; none where `not_asked` says why, or the drive has no such page.
    #[serde(default)]
    pub smart: Option<Smart>,
    /// How many media errors there are more than at the first setup of this boot; none where either is not known.
    #[serde(default)]
    pub new_media_errors: Option<u64>,
    /// EC2's own counters; none where `not_asked` says why, or the drive has no such page.
    #[serde(default)]
    pub statistics: Option<Statistics>,
    /// Why a read of the drive failed; none where it did not, or was not tried.
    #[serde(default)]
    pub read_error: Option<String>,
    /// Why the drive has not said all, such as `needs root` or `does not answer within 1.2 s`.
    #[serde(default)]
    pub not_asked: Option<String>,
}

impl DrivePart {
    /// It answers, but for log pages that it, or the kernel, does not give.
    fn gives_no_log_pages(&self) -> bool {
        self.not_asked.as_ref().is_some_and(|why| why.starts_with(NO_LOG_PAGES))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetupPart {
    /// RFC 3339, UTC.
    pub finished: String,
    pub trigger: String,
    /// In milliseconds.
    pub duration_ms: u64,
    pub agent: String,
    pub steps: Vec<StepTime>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistencePart {
    /// The next boot has all that it needs.
    pub in_order: bool,
    pub problems: Vec<String>,
    /// The host's files that setup keeps: fstab, mdadm.conf, tmpfiles.d, then what the Node registers with.
    #[serde(default)]
    pub files: Vec<FilePart>,
}

/// One of the host's files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePart {
    /// `fstab`, `mdadm-conf`, `tmpfiles`, `registration`.
    pub what: String,
    pub path: String,
    /// It is as setup left it, as far as it is setup's; none where this machine does not need it, or it could not be read.
    pub in_order: Option<bool>,
    /// What differs; none where nothing does.
    pub differs: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPart {
    /// On EC2, where the hypervisor says it as the product's name (DMI).
    #[serde(default)]
    pub instance_type: Option<String>,
    /// As `uname -r` says it; none where it could not be read, as all of these.
    pub kernel: Option<String>,
    /// In seconds.
    pub uptime_s: Option<u64>,
    /// In bytes.
    pub memory_bytes: Option<u64>,
    /// In bytes, what programs could still get.
    pub memory_available_bytes: Option<u64>,
}

/// Looks at the machine under `root` and judges it. `problems` are the caller's own, to be told along. Devices and the
/// filesystem may take `patience` to answer, all together.
pub fn report(root: &Root, config: &Config, problems: Vec<String>, patience: Duration) -> Report {
    let mut unreadable = problems;
    let (state, no_state) = match State::read(root) {
        StateFile::OfThisBoot(state) => (Some(*state), NoState::default()),
        StateFile::Missing => (None, NoState::Missing),
        StateFile::OfAnotherBoot(state) => (None, NoState::OfAnotherBoot { finished: state.finished }),
        StateFile::Unreadable(error) | StateFile::OfUnknownBoot(error) => {
            unreadable.push(error.to_string());
            (None, NoState::Unreadable(error.to_string()))
        }
    };
    // What was set up is where the state file says, whatever is configured by now.
    let target =
        state.as_ref().map(|s| s.target.as_str()).filter(|t| !t.is_empty()).unwrap_or(&config.target);
    let mut live = Live::look(root, config, target, patience);
    live.no_state = no_state;
    unreadable.append(&mut live.problems);
    live.problems = unreadable;
    let report = judge(config, state.as_ref(), &live, &rfc3339(SystemTime::now()));
    Report { node: NodePart::read(root), ..report }
}
