//! Evidence that a filesystem, or an md set, belongs at our target. Without it it is somebody's data.

use uuid::Uuid;

use crate::config::Config;
use crate::intent::Identity;
use crate::observe::{Filesystem, Inventory};
use crate::persist::fstab::{self, Entry, Source};
use crate::persist::mdadm_conf;

/// Where the filesystem in question is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier<'a> {
    /// On an array of our drives, with this kernel name.
    Array { name: &'a str, uuid: Option<Uuid> },
    /// On the one drive there is, with this serial.
    OnlyDrive { name: &'a str, serial: &'a str },
}

/// Why the filesystem may be mounted at the target as it is; none where it may not.
pub fn of_filesystem(inventory: &Inventory, config: &Config, fs: &Filesystem, on: Carrier) -> Option<String> {
    if config.adopt {
        return Some("--adopt".into());
    }
    let at_target = fstab_lines(inventory, config).into_iter().find(|entry| names(entry, fs, on));
    if let Some(entry) = at_target {
        return Some(format!("fstab puts `{}` at {}", entry.spec, config.target));
    }
    // Somebody has given it another place since it was ours.
    if elsewhere(inventory, config, fs, on).is_some() {
        return None;
    }
    // A label of the operator's own choice does not say for which target it was made, and may be anybody's.
    if config.label.is_empty() && fs.label.as_deref() == Some(config.fs_label().as_str()) {
        return Some(format!("it carries the label {}", config.fs_label()));
    }
    let record = inventory.record.as_ref()?;
    (record.target == config.target && record.fs_uuid.to_string() == fs.uuid.to_lowercase())
        .then(|| "our record names it".into())
}

/// The fstab line that puts this very filesystem at another place than the target. Device nodes do not count: their
/// numbers move, and `/dev/nvme1n1` at /data may well be an EBS volume. A malformed line counts: nobody mounts by it, but
/// in doubt it is somebody's data.
pub fn elsewhere(inventory: &Inventory, config: &Config, fs: &Filesystem, on: Carrier) -> Option<Entry> {
    let entries = fstab::meant(inventory.files.fstab.as_deref().unwrap_or_default());
    entries.into_iter().find(|entry| {
        let certain = !matches!(entry.source(), Source::Kernel(_) | Source::MdName(_));
        certain && !entry.is_at(&config.target) && names(entry, fs, on)
    })
}

/// True where an fstab line means this filesystem.
///
/// A bare `/dev/nvme1n1` counts only for the only candidate: the numbers move between boots. An md device node
/// counts for any array of all our drives, because md names move, too (md0, md127).
pub fn names(entry: &Entry, fs: &Filesystem, on: Carrier) -> bool {
    match entry.source() {
        Source::Uuid(uuid) => uuid.eq_ignore_ascii_case(&fs.uuid),
        Source::Label(label) => fs.label.as_deref() == Some(label),
        _ => names_carrier(entry, on),
    }
}

/// True where an fstab line means what carries, or will carry, the filesystem, whatever is on it.
pub fn names_carrier(entry: &Entry, on: Carrier) -> bool {
    match (entry.source(), on) {
        (Source::MdUuid(named), Carrier::Array { uuid, .. }) => Some(named) == uuid,
        (Source::MdName(_), Carrier::Array { .. }) => true,
        (Source::Kernel(name), Carrier::Array { .. }) => name.starts_with("md"),
        (Source::Kernel(name), Carrier::OnlyDrive { .. }) => is_whole_nvme(name),
        (Source::Other(spec), Carrier::OnlyDrive { serial, .. }) => {
            spec.starts_with("/dev/disk/by-id/nvme-") && spec.contains(serial)
        }
        _ => false,
    }
}

/// Lines that mount something at the target.
pub fn fstab_lines(inventory: &Inventory, config: &Config) -> Vec<Entry> {
    fstab::evidence(inventory.files.fstab.as_deref().unwrap_or_default(), &config.target)
}

/// Why an md set of which members are gone may be made anew; none where it may not.
pub fn of_set(inventory: &Inventory, config: &Config, set: Uuid) -> Option<String> {
    if inventory.record.as_ref().is_some_and(|r| r.array_uuid == Some(set) && r.target == config.target) {
        return Some("our record names the set".into());
    }
    let conf = inventory.files.mdadm_conf.as_deref().unwrap_or_default();
    let lines = mdadm_conf::evidence(conf);
    if lines.iter().any(|l| l.owned && l.uuid == Some(set)) {
        return Some("our line in mdadm.conf names the set".into());
    }
    // The old script wrote both lines; one alone may be about another array.
    let at_target = fstab_lines(inventory, config).iter().any(|e| match e.source() {
        Source::Uuid(_) | Source::MdUuid(_) | Source::MdName(_) => true,
        Source::Kernel(name) => name.starts_with("md"),
        _ => false,
    });
    (at_target && lines.iter().any(|l| l.uuid == Some(set)))
        .then(|| format!("mdadm.conf names the set and fstab mounts an array at {}", config.target))
}

/// The intent of a run that was killed while it wiped these drives: it says which UUIDs were meant, and licenses nothing.
pub fn begun_wiping<'a>(inventory: &'a Inventory, config: &Config) -> Option<&'a Identity> {
    let these = |i: &&Identity| i.names_exactly(inventory.drives.iter().map(|d| d.serial.as_str()));
    inventory.intent.as_ref().filter(these).filter(|i| i.wiping && i.target == config.target)
}

/// The filesystem UUID that our fstab line, or our record, already names for the target. A rebuild reuses it:
/// systemd's generator ran before us, and would wait for the old one.
pub fn known_fs_uuid(inventory: &Inventory, config: &Config) -> Option<Uuid> {
    fstab_lines(inventory, config)
        .iter()
        .filter(|e| e.is_owned())
        .find_map(|e| match e.source() {
            Source::Uuid(uuid) => Uuid::try_parse(uuid).ok(),
            _ => None,
        })
        .or_else(|| inventory.record.as_ref().filter(|r| r.target == config.target).map(|r| r.fs_uuid))
}

/// The set UUID that our line in mdadm.conf, or our record, already names.
pub fn known_array_uuid(inventory: &Inventory, config: &Config) -> Option<Uuid> {
    mdadm_conf::evidence(inventory.files.mdadm_conf.as_deref().unwrap_or_default())
        .iter()
        .find(|line| line.owned)
        .and_then(|line| line.uuid)
        .or_else(|| {
            inventory.record.as_ref().filter(|r| r.target == config.target).and_then(|r| r.array_uuid)
        })
}

/// `nvme1n1`, not a partition.
fn is_whole_nvme(name: &str) -> bool {
    let Some((controller, namespace)) = name.strip_prefix("nvme").and_then(|rest| rest.split_once('n'))
    else {
        return false;
    };
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    digits(controller) && digits(namespace)
}
