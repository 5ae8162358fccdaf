//! Configuration: flags over environment over `/etc/nvme-agent/config.toml` over defaults.
//!
//! This file has the types and defaults; reading and merging is in [`load()`].

mod check;
mod directories;
pub mod given;
mod load;
mod node;
mod raw;
mod salvage;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::node::labels;

pub use check::UNIT_TIMEOUT;
pub use load::{KEYS, Overrides, flag, load, variable};
pub use node::{FeatureFile, LabelMethod, OnBootFailure, OnFailure};
pub use raw::quoted;
pub use salvage::{Salvaged, salvage};
pub use values::parse_duration;

/// Where the config file is.
pub const CONFIG_PATH: &str = "/etc/nvme-agent/config.toml";

/// What the operator wants. Every value is valid: [`load()`] has checked it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The directory to mount on. Absolute.
    pub target: String,
    pub layout: Layout,
    pub filesystem: FsKind,
    /// Filesystem label; empty: derived from the target, see [`Config::fs_label`].
    pub label: String,
    /// Mount options, comma-separated.
    pub mount_options: String,
    /// RAID0 chunk, in bytes; a power of two, 4 KiB to 16 MiB.
    #[serde(with = "values::bytes")]
    pub chunk: u64,
    /// Fewer drives than this is a failure; 0: take what is there.
    pub expect_drives: u32,
    /// How long to wait for drives to appear and for missing members.
    #[serde(with = "values::seconds")]
    pub drive_timeout: Duration,
    /// After this a mkfs is killed.
    #[serde(with = "values::seconds")]
    pub mkfs_timeout: Duration,
    /// How long to wait for another run of the agent.
    #[serde(with = "values::seconds")]
    pub lock_timeout: Duration,
    pub unknown_data: UnknownData,
    pub tmpfiles: Tmpfiles,
    /// Domain of what is said on the Node, such as `nvme-agent.e6data.com`; see [`crate::node::labels`].
    pub label_domain: String,
    /// Other names for the keys in it, `NAME=KEY` separated by commas; see [`crate::node::Keys::renamed`].
    pub label_keys: String,
    pub label_method: LabelMethod,
    pub on_failure: OnFailure,
    pub on_boot_failure: OnBootFailure,
    /// Value of the label `<domain>/profile`; empty: no such label.
    pub profile: String,
    pub feature_file: FeatureFile,
    #[serde(rename = "match")]
    pub matching: Match,
    #[serde(rename = "directory", skip_serializing_if = "Vec::is_empty")]
    pub directories: Vec<Directory>,
    /// `--wipe-foreign`; on the command line only, where it holds for one run.
    #[serde(skip)]
    pub wipe_foreign: bool,
    /// `--adopt`; on the command line only.
    #[serde(skip)]
    pub adopt: bool,
    /// What of the above flags, environment and a file that was named gave, as typed, where other processes need it; see [`given`].
    #[serde(skip)]
    pub given: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            target: "/tmp".into(),
            layout: Layout::Raid0,
            filesystem: FsKind::Ext4,
            label: String::new(),
            mount_options: "noatime,nosuid,nodev".into(),
            chunk: 512 << 10,
            expect_drives: 0,
            drive_timeout: Duration::from_secs(30),
            mkfs_timeout: Duration::from_secs(120),
            lock_timeout: Duration::from_secs(240),
            unknown_data: UnknownData::FirstBoot,
            tmpfiles: Tmpfiles::Keep,
            label_domain: labels::DEFAULT_DOMAIN.into(),
            label_keys: String::new(),
            label_method: LabelMethod::Auto,
            on_failure: OnFailure::Label,
            on_boot_failure: OnBootFailure::Report,
            profile: String::new(),
            feature_file: FeatureFile::None,
            matching: Match::default(),
            directories: Vec::new(),
            wipe_foreign: false,
            adopt: false,
            given: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Label of the filesystem: it says for which target it was made, because a filesystem with our label is
    /// adopted at that target only. At most 12 bytes, xfs's limit: `nvme-` and the path with dashes where
    /// that fits, else `nvme-` and 7 hex digits of the path's FNV-1a hash.
    pub fn fs_label(&self) -> String {
        if !self.label.is_empty() {
            return self.label.clone();
        }
        let plain = format!("nvme-{}", self.target.trim_matches('/').replace('/', "-"));
        if plain.len() <= 12 {
            return plain;
        }
        let hash = self
            .target
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        format!("nvme-{:07x}", hash & 0x0fff_ffff)
    }

    /// Mount options as a list.
    pub fn options(&self) -> Vec<String> {
        self.mount_options.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// One drive: that drive; more: one RAID0.
    #[default]
    Raid0,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsKind {
    #[default]
    Ext4,
    Xfs,
}

impl FsKind {
    pub fn as_str(self) -> &'static str {
        match self {
            FsKind::Ext4 => "ext4",
            FsKind::Xfs => "xfs",
        }
    }
}

impl fmt::Display for FsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What to do with a drive that has bytes but no signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnknownData {
    /// Blank in the instance's first boot, refused later.
    #[default]
    FirstBoot,
    /// Always as good as blank.
    Format,
    /// Always refused.
    Refuse,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tmpfiles {
    /// Write `/etc/tmpfiles.d/tmp.conf`, so that systemd-tmpfiles deletes nothing on the mount.
    #[default]
    Keep,
    /// Leave the distribution's rules in force.
    Distro,
}

/// Which NVMe namespaces are candidates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// The trimmed model starts with one of these.
    pub models: Vec<String>,
    /// PCI vendor ids, as Identify Controller and sysfs say them: `0x1d0f`.
    #[serde(with = "values::vendors")]
    pub vendors: Vec<u16>,
}

impl Default for Match {
    fn default() -> Self {
        Match { models: vec!["Amazon EC2 NVMe Instance Storage".into()], vendors: vec![0x1d0f] }
    }
}

/// A directory under the mount, made at every boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directory {
    /// Relative to the target; no `..`.
    pub path: String,
    /// A name of /etc/passwd or a number.
    #[serde(default = "values::root_name")]
    pub owner: String,
    /// A name of /etc/group or a number.
    #[serde(default = "values::root_name")]
    pub group: String,
    /// Octal, such as `"0750"`.
    #[serde(with = "values::octal", default = "values::default_mode")]
    pub mode: u32,
    /// SELinux type, such as `container_file_t`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux_type: Option<String>,
}
