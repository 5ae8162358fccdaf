//! The state file, `/run/nvme-agent/state.json`: what the last setup of this boot came to.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::persist::atomic;
use crate::root::Root;

/// Where the state file is. On a tmpfs: it never outlives the boot it speaks of.
pub const STATE_PATH: &str = "/run/nvme-agent/state.json";
/// Format of the state file. Grows when a field changes its meaning, not when one is added.
pub const STATE_VERSION: u32 = 1;

const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";
/// A state file is some 2 KiB; a larger one is not ours. In bytes.
const MAX_FILE: u64 = 1 << 20;

/// The verdict, as on the Node's label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Mounted and verified.
    Ready,
    /// Usable, but something promised is missing.
    Degraded,
    /// Not usable.
    #[default]
    Failed,
    /// No drives, none required.
    Absent,
}

impl Health {
    pub fn as_str(self) -> &'static str {
        match self {
            Health::Ready => "ready",
            Health::Degraded => "degraded",
            Health::Failed => "failed",
            Health::Absent => "absent",
        }
    }
}

impl std::fmt::Display for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What started a setup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// nvme-agent.service.
    Boot,
    /// The instance's userData, from cloud-init.
    UserData,
    /// Somebody typed it.
    #[default]
    Hand,
}

impl std::fmt::Display for Trigger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Trigger::Boot => "boot",
            Trigger::UserData => "user-data",
            Trigger::Hand => "hand",
        })
    }
}

/// One step of the last setup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTime {
    /// [`crate::plan::Step::name`].
    pub name: String,
    /// The step in words.
    #[serde(default)]
    pub what: String,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// The state file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// [`STATE_VERSION`].
    pub version: u32,
    pub state: Health,
    /// CamelCase, such as `SetupComplete` or `ForeignData`.
    pub reason: String,
    /// One sentence.
    pub message: String,
    /// Since when state and reason are what they are, RFC 3339, UTC.
    pub since: String,
    /// When the setup that wrote this ended, RFC 3339, UTC.
    pub finished: String,
    /// How long that setup took, in milliseconds.
    pub duration_ms: u64,
    /// For how long of it child processes ran (mkfs, blkid), in milliseconds.
    pub children_ms: u64,
    pub boot_id: String,
    /// Version of the agent.
    pub agent: String,
    pub trigger: Trigger,
    /// `raid0`, `single`; empty where there is no storage.
    pub layout: String,
    pub target: String,
    /// Kernel name, such as `md0` or `nvme1n1`; empty where there is none.
    pub device: String,
    pub array_uuid: Option<Uuid>,
    pub fs_uuid: String,
    /// `ext4` or `xfs`.
    pub filesystem: String,
    /// Serial numbers of the drives, sorted.
    pub serials: Vec<String>,
    /// Media errors that the drives counted when the first setup of this boot ended, by serial number; of those that said so.
    pub media_errors: BTreeMap<String, u64>,
    pub drives: u32,
    /// Size of the filesystem's device.
    pub capacity_gib: u64,
    /// Entries of the target that the mount hides, counted (up to [`crate::observe::mounts::ENTRIES_MAX`]) before it was put
    /// there; none where nothing was.
    pub hidden_files: Option<u64>,
    pub steps: Vec<StepTime>,
    /// What could not be persisted, a sentence each.
    pub persistence: Vec<String>,
    /// Said aloud: a rebuild, files that got hidden, ...
    pub notes: Vec<String>,
}

/// What there is of a state file.
#[derive(Debug)]
pub enum StateFile {
    Missing,
    /// It speaks of a machine as it was then.
    OfAnotherBoot(Box<State>),
    OfThisBoot(Box<State>),
    /// It is there but cannot be read, or is of another format.
    Unreadable(Error),
    /// With the error: nobody knows which boot this is.
    OfUnknownBoot(Error),
}

impl State {
    /// A state with what every state has: version, agent, boot id and the time as `since` and `finished`.
    pub fn new(root: &Root, state: Health, reason: impl Into<String>, message: impl Into<String>) -> State {
        let now = rfc3339(SystemTime::now());
        State {
            version: STATE_VERSION,
            state,
            reason: reason.into(),
            message: message.into(),
            since: now.clone(),
            finished: now,
            boot_id: boot_id(root),
            agent: env!("CARGO_PKG_VERSION").into(),
            ..State::default()
        }
    }

    /// The state that a failed setup leaves.
    pub fn failed(root: &Root, error: &Error) -> State {
        State::new(root, Health::Failed, error.reason(), error.to_string())
    }

    /// Writes the state file: readers see the former or this one, never half of one. `since` is carried over
    /// where state and reason have not changed in this boot.
    ///
    /// # Errors
    /// [`Error::Io`], with the path.
    pub fn write(&mut self, root: &Root) -> Result<()> {
        if let Ok(Some(before)) = State::load(root)
            && (before.state, &before.reason) == (self.state, &self.reason)
            && !before.since.is_empty()
        {
            self.since = before.since;
        }
        let path = root.join(STATE_PATH);
        let dir = path.parent().unwrap_or(root.as_path());
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(Error::io(dir, "make the directory"))?;
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Other(format!("{}: cannot write as JSON: {e}", path.display())))?;
        text.push('\n');
        // No fsync: /run is memory. The pid keeps two writers apart.
        let temporary = dir.join(format!(".state.json.{}", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let write = || {
            let mut file =
                fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            // Whatever the umask: kubelet's neighbours and operators read it.
            file.set_permissions(fs::Permissions::from_mode(0o644))?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&temporary);
            Error::io(&path, "write the state file")(e)
        })
    }

    /// The state of this boot; none where setup has not run in it.
    ///
    /// # Errors
    /// The file is there but cannot be read, or is of another format.
    pub fn load(root: &Root) -> Result<Option<State>> {
        match State::read(root) {
            StateFile::OfThisBoot(state) => Ok(Some(*state)),
            StateFile::Missing | StateFile::OfAnotherBoot(_) => Ok(None),
            StateFile::Unreadable(error) | StateFile::OfUnknownBoot(error) => Err(error),
        }
    }

    /// The state file, whatever is the matter with it.
    pub fn read(root: &Root) -> StateFile {
        match State::parse(&root.follow(STATE_PATH)) {
            Ok(Some(state)) => match boot_id(root) {
                id if id == state.boot_id => StateFile::OfThisBoot(Box::new(state)),
                id if id.is_empty() => StateFile::OfUnknownBoot(Error::Other(format!(
                    "{BOOT_ID_PATH}: expected this boot's id, found none, so nobody knows whether {STATE_PATH} is of this boot; look with `findmnt /proc`"
                ))),
                _ => StateFile::OfAnotherBoot(Box::new(state)),
            },
            Ok(None) => StateFile::Missing,
            Err(error) => StateFile::Unreadable(error),
        }
    }

    /// Whatever boot it is of; none where there is no file.
    fn parse(path: &Path) -> Result<Option<State>> {
        let file = match atomic::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, "read the state file")(e)),
        };
        let mut text = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut text).map_err(Error::io(path, "read the state file"))?;
        let state: State = serde_json::from_slice(&text).map_err(|e| {
            Error::Other(format!("{}: not a state file: {e}; run `nvme-agent setup`", path.display()))
        })?;
        if state.version != STATE_VERSION {
            return Err(Error::Other(format!(
                "{}: expected format {STATE_VERSION}, found {}: another version of nvme-agent wrote it; run `nvme-agent setup`",
                path.display(),
                state.version
            )));
        }
        Ok(Some(state))
    }
}

/// The kernel's boot id; empty where it cannot be read.
pub fn boot_id(root: &Root) -> String {
    fs::read_to_string(root.join(BOOT_ID_PATH)).unwrap_or_default().trim().to_owned()
}

/// `2026-07-26T12:34:56Z`. Times before 1970 show as 1970.
pub fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date of the proleptic Gregorian calendar: Howard Hinnant, "chrono-Compatible Low-Level Date
    // Algorithms", civil_from_days; here only for days since 1970.
    let shifted = days + 719_468;
    let era_day = shifted % 146_097;
    let year_of_era = (era_day - era_day / 1460 + era_day / 36_524 - era_day / 146_096) / 365;
    let day_of_year = era_day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + shifted / 146_097 * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
