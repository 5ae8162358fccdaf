//! Which NVMe namespaces are candidates, and why the others are not.

use std::collections::{BTreeMap, BTreeSet};

use super::nvme::{self, Controller, NodeName};
use super::sysfs::{self, Dir, Sysfs};
use super::{Drive, Mount, Pending, Skipped, mounts};
use crate::config::Match;
use crate::error::Result;

/// What discovery found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Candidates, ordered by serial; contents and uses not filled in.
    pub drives: Vec<Drive>,
    pub skipped: Vec<Skipped>,
    /// Drives that would be candidates if they could be told apart or if they answered: nothing must be
    /// built while there are any.
    pub pending: Vec<Pending>,
}

/// What the drive itself says, asked by another way than sysfs (Identify Controller).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Witness {
    pub vendor: u16,
    pub model: String,
    pub serial: String,
}

/// Asks a drive who it is; none where there is nobody to ask (a fixture tree).
pub type Identify<'a> = &'a dyn Fn(&Drive) -> Result<Option<Witness>>;

/// Finds the candidates: PCI NVMe namespaces whose model and vendor are matched, whose drive confirms both,
/// and that do not carry the root filesystem.
///
/// # Errors
/// A directory of sysfs cannot be read.
pub fn find(sysfs: &Sysfs<'_>, wanted: &Match, table: &[Mount], identify: Identify<'_>) -> Result<Found> {
    let root_devices = root_devices(sysfs, table)?;
    let mut found = Found::default();
    for name in sysfs.disks()? {
        let Some(node) = NodeName::parse(&name) else { continue };
        let block = sysfs.open(&name)?;
        let controllers = nvme::controllers(&block)?;
        let first = controllers.iter().find(|c| c.is_live()).or(controllers.first()).cloned();
        let controller = first.unwrap_or_default();
        let skip = |why: String| Skipped {
            name: name.clone(),
            serial: controller.serial.clone(),
            model: controller.model.clone(),
            why,
            ..Skipped::default()
        };
        if node.path.is_some() || block.number("hidden")? == Some(1) {
            found.skipped.push(skip(format!("hidden multipath path of {}", node.head())));
            continue;
        }
        if controllers.is_empty() {
            found.skipped.push(skip("no controller in sysfs".into()));
            continue;
        }
        if let Some(why) = controllers.iter().find_map(|c| c.mismatch(wanted)) {
            // A dead controller's drive has no size any more (nvme_mark_namespaces_dead).
            let unmatched = controller.is_live() && sectors(&block)? > 0;
            found.skipped.push(Skipped { unmatched, ..skip(why) });
            continue;
        }
        if root_devices.contains(&name) {
            found.skipped.push(skip("holds the root filesystem".into()));
            continue;
        }
        let drive = drive(&block, &name, &controller)?;
        if drive.sectors == 0 {
            found.skipped.push(skip("has no capacity".into()));
            continue;
        }
        if drive.serial.is_empty() {
            found.skipped.push(skip("has no serial number".into()));
            found.pending.push(Pending {
                address: drive.address.clone(),
                why: format!("{name} has no serial number: drives without one cannot be told apart"),
            });
            continue;
        }
        match identify(&drive) {
            Ok(None) => found.drives.push(drive),
            Ok(Some(witness)) => match disagreement(&drive, &witness, wanted) {
                None => found.drives.push(drive),
                Some(why) => found.skipped.push(skip(why)),
            },
            Err(error) => {
                found.skipped.push(skip(format!("does not answer Identify Controller: {error}")));
                found.pending.push(Pending {
                    address: drive.address.clone(),
                    why: format!("{name} does not answer Identify Controller: {error}"),
                });
            }
        }
    }
    take_out_twins(&mut found);
    found.drives.sort_by(|a, b| (&a.serial, &a.name).cmp(&(&b.serial, &b.name)));
    found.skipped.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn drive(block: &Dir, name: &str, controller: &Controller) -> Result<Drive> {
    Ok(Drive {
        name: name.to_owned(),
        dev: block.attribute("dev")?.and_then(|dev| sysfs::dev_num(&dev)).unwrap_or_default(),
        controller: controller.name.clone(),
        address: controller.address.clone(),
        serial: controller.serial.clone(),
        model: controller.model.clone(),
        firmware: controller.firmware.clone(),
        state: controller.state.clone(),
        sectors: sectors(block)?,
        logical_block: block
            .number("queue/logical_block_size")?
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(512),
        read_only: block.attribute("ro")?.is_none_or(|ro| ro != "0"),
        ..Drive::default()
    })
}

/// In sectors of 512 bytes.
fn sectors(block: &Dir) -> Result<u64> {
    Ok(block.number("size")?.unwrap_or(0))
}

/// What the second witness says otherwise than sysfs.
fn disagreement(drive: &Drive, witness: &Witness, wanted: &Match) -> Option<String> {
    let says = |what: &str, theirs: &str, ours: &str| {
        Some(format!("Identify Controller says {what} `{theirs}`, sysfs says `{ours}`"))
    };
    if witness.model != drive.model {
        return says("model", &witness.model, &drive.model);
    }
    if witness.serial != drive.serial {
        return says("serial number", &witness.serial, &drive.serial);
    }
    if !nvme::vendor_matches(witness.vendor.into(), wanted) {
        return Some(format!(
            "Identify Controller says vendor {:#06x}, which is not matched",
            witness.vendor
        ));
    }
    None
}

/// One serial number, two block devices: a drive seen twice (multipath switched off), or two namespaces on one
/// controller. A stripe over both could write over itself, and records name drives by serial. Neither is
/// taken, and because leaving drives out could look like a smaller node, nothing is built at all.
fn take_out_twins(found: &mut Found) {
    let mut by_serial: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for drive in &found.drives {
        by_serial.entry(drive.serial.clone()).or_default().push(drive.name.clone());
    }
    by_serial.retain(|_, names| names.len() > 1);
    let (twins, drives) = std::mem::take(&mut found.drives)
        .into_iter()
        .partition(|drive| by_serial.contains_key(&drive.serial));
    found.drives = drives;
    for drive in twins {
        let why = format!("serial number {} is on {}", drive.serial, by_serial[&drive.serial].join(" and "));
        found.pending.push(Pending { address: drive.address, why: why.clone() });
        let Drive { name, serial, model, .. } = drive;
        found.skipped.push(Skipped { name, serial, model, why, ..Skipped::default() });
    }
}

/// How many namespaces are there that sysfs alone would take: what `expect_drives` is held against while waiting.
///
/// # Errors
/// A directory of sysfs cannot be read.
pub fn count(sysfs: &Sysfs<'_>, wanted: &Match) -> Result<usize> {
    let mut count = 0;
    for name in sysfs.disks()? {
        if NodeName::parse(&name).is_none_or(|node| node.path.is_some()) {
            continue;
        }
        let block = sysfs.open(&name)?;
        let controllers = nvme::controllers(&block)?;
        if !controllers.is_empty()
            && controllers.iter().all(|c| c.mismatch(wanted).is_none())
            && sectors(&block)? > 0
        {
            count += 1;
        }
    }
    Ok(count)
}

/// Every block device that the root filesystem stands on: through partitions, md and dm, and for filesystems
/// without a device number of their own (btrfs, overlay) through the devices and directories they name.
///
/// # Errors
/// A directory of sysfs cannot be read.
pub fn root_devices(sysfs: &Sysfs<'_>, table: &[Mount]) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut todo: Vec<&Mount> = table.iter().filter(|mount| mount.at == "/").collect();
    while let Some(mount) = todo.pop() {
        if !seen.insert(mount.id) {
            continue;
        }
        names.extend(devices_of(sysfs, mount)?);
        if mount.fs_type == "overlay" {
            todo.extend(layers(&mount.super_options).filter_map(|dir| mounts::containing(table, dir)));
        }
    }
    let mut all = BTreeSet::new();
    for name in names {
        all.extend(sysfs.beneath(&name)?);
    }
    Ok(all)
}

/// The block devices that a mount names: by device number, else by its source.
fn devices_of(sysfs: &Sysfs<'_>, mount: &Mount) -> Result<Vec<String>> {
    if !mounts::is_anonymous(mount.dev)
        && let Some(name) = sysfs.name_of(mount.dev)
    {
        return Ok(vec![name]);
    }
    // bcachefs names all its devices, with colons between.
    let mut names: Vec<String> =
        mount.source.split(':').filter_map(|node| sysfs.name_of_node(node)).collect();
    if mount.fs_type == "btrfs" {
        for name in names.clone() {
            names.extend(sysfs.btrfs_devices(&name)?);
        }
    }
    Ok(names)
}

/// The directories that an overlay is made of.
fn layers(super_options: &str) -> impl Iterator<Item = &str> {
    super_options
        .split(',')
        .filter_map(|option| option.split_once('='))
        .filter(|(key, _)| key.trim_end_matches('+') == "lowerdir" || matches!(*key, "upperdir" | "workdir"))
        .flat_map(|(_, value)| value.split(':'))
        .filter(|dir| dir.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one() -> Drive {
        Drive { model: "M".into(), serial: "S".into(), ..Drive::default() }
    }

    #[test]
    fn a_second_witness_that_says_otherwise_is_quoted() {
        let wanted = Match::default();
        let good = Witness { vendor: 0x1d0f, model: "M".into(), serial: "S".into() };
        assert_eq!(disagreement(&one(), &good, &wanted), None);
        let serial = Witness { serial: "T".into(), ..good.clone() };
        assert!(disagreement(&one(), &serial, &wanted).unwrap().contains("`T`"));
        let model = Witness { model: "N".into(), ..good.clone() };
        assert!(disagreement(&one(), &model, &wanted).unwrap().contains("`N`"));
        let vendor = Witness { vendor: 0x8086, ..good };
        assert!(disagreement(&one(), &vendor, &wanted).unwrap().contains("0x8086"));
    }

    #[test]
    fn layers_of_an_overlay() {
        let options = "rw,lowerdir=/run/a:/run/b,upperdir=/cow/up,workdir=/cow/work,xino=off";
        assert_eq!(layers(options).collect::<Vec<_>>(), ["/run/a", "/run/b", "/cow/up", "/cow/work"]);
    }
}
