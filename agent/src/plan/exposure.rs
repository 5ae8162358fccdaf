//! From a filesystem to the target: the steps that all outcomes end with, and what they are to come to.

use std::path::PathBuf;

use uuid::Uuid;

use super::Promise;
use super::step::Step;
use crate::config::Config;
use crate::intent::Identity;
use crate::observe::mounts::topmost;
use crate::observe::{Inventory, TargetKind};

/// From the filesystem to the target. The intent goes before exposure: what was ever exposed has no intent.
pub fn put_on_target(
    inventory: &Inventory,
    config: &Config,
    device: PathBuf,
    mode: Option<u32>,
    kind: &str,
    intent: bool,
) -> Vec<Step> {
    let mut steps = Vec::new();
    if inventory.target.kind == TargetKind::Missing {
        steps.push(Step::CreateTarget { path: config.target.clone() });
    }
    let (uid, gid) =
        if config.target == "/tmp" { (0, 0) } else { (inventory.target.uid, inventory.target.gid) };
    let kind = if kind == "xfs" { crate::config::FsKind::Xfs } else { crate::config::FsKind::Ext4 };
    steps.push(Step::Stage { device, kind, options: config.options() });
    steps.push(Step::Prepare {
        target: config.target.clone(),
        mode,
        uid,
        gid,
        selinux: inventory.target.selinux.clone().filter(|_| inventory.host.selinux),
        directories: config.directories.clone(),
    });
    let stale = inventory.intent.is_some() && stale_intent(inventory).is_empty();
    if intent || stale {
        steps.push(Step::ClearIntent);
    }
    steps.push(Step::Expose { target: config.target.clone() });
    steps
}

/// An intent that names drives of which none is here: an AMI baked from a live node, or a stop/start.
pub fn stale_intent(inventory: &Inventory) -> Vec<Step> {
    let stale = inventory
        .intent
        .as_ref()
        .is_some_and(|i| !i.names_exactly(inventory.drives.iter().map(|d| d.serial.as_str())));
    stale.then_some(Step::DropStaleIntent).into_iter().collect()
}

/// Evidence for later runs, where it is not written yet.
pub fn record_set(inventory: &Inventory, promise: &Promise) -> Option<Step> {
    let record = Identity {
        version: 1,
        serials: promise.serials.clone(),
        array_uuid: promise.array_uuid,
        fs_uuid: Uuid::try_parse(&promise.fs_uuid).ok()?,
        filesystem: promise.filesystem.clone(),
        target: promise.target.clone(),
        wiping: false,
    };
    (inventory.record.as_ref() != Some(&record)).then_some(Step::RecordSet { record })
}

/// 1777 for /tmp, else what the directory that gets covered has; 0755 where there is none.
pub fn wanted_mode(inventory: &Inventory, config: &Config) -> u32 {
    if config.target == "/tmp" { 0o1777 } else { inventory.target.mode.unwrap_or(0o755) }
}

/// Those of the configured options that mountinfo shows per mount.
pub fn visible_options(config: &Config) -> Vec<String> {
    const SHOWN: [&str; 6] = ["noatime", "nosuid", "nodev", "noexec", "nodiratime", "relatime"];
    config.options().into_iter().filter(|o| SHOWN.contains(&o.as_str())).collect()
}

pub fn hidden_files(inventory: &Inventory) -> Option<String> {
    let count = inventory.target.entries;
    let on =
        topmost(&inventory.mounts, &inventory.target.path).map_or("the root volume", |m| m.fs_type.as_str());
    (count > 0)
        .then(|| format!("{count} entries of {} on {on} are hidden by the mount", inventory.target.path))
}
