//! Who uses a drive or an array. Anything found here means: hands off.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::sysfs::Sysfs;
use super::{Mount, Use, mounts};
use crate::error::Result;

/// The busy things of the machine, read once.
#[derive(Debug)]
pub struct Busy<'a> {
    sysfs: Sysfs<'a>,
    table: &'a [Mount],
    /// Kernel names of swap areas in use.
    swaps: BTreeSet<String>,
    /// Everything that the root filesystem stands on.
    root_devices: BTreeSet<String>,
}

impl<'a> Busy<'a> {
    /// # Errors
    /// The swap areas or a directory of sysfs cannot be read.
    pub fn read(sysfs: Sysfs<'a>, table: &'a [Mount]) -> Result<Busy<'a>> {
        let swaps = mounts::swaps(sysfs.root())?.iter().filter_map(|node| sysfs.name_of_node(node)).collect();
        Ok(Busy { sysfs, table, swaps, root_devices: super::drives::root_devices(&sysfs, table)? })
    }

    /// Who uses a whole disk: itself, or any of its partitions.
    ///
    /// # Errors
    /// A directory of sysfs cannot be read.
    pub fn of(&self, disk: &str) -> Result<Vec<Use>> {
        let partitions = self.sysfs.partitions(disk)?;
        let mut uses = Vec::new();
        if self.root_devices.contains(disk) {
            uses.push(Use::Root);
        }
        for name in std::iter::once(disk).chain(partitions.iter().map(String::as_str)) {
            let dev = self.sysfs.dev(name);
            let mounted = self.table.iter().filter(|mount| {
                if mounts::is_anonymous(mount.dev) {
                    mount.source.split(':').any(|node| self.sysfs.name_of_node(node).as_deref() == Some(name))
                } else {
                    Some(mount.dev) == dev
                }
            });
            uses.extend(mounted.map(|mount| Use::Mounted { at: mount.at.clone() }));
            if self.swaps.contains(name) {
                uses.push(Use::Swap);
            }
            uses.extend(self.sysfs.holders(name)?.into_iter().map(|name| Use::Holder { name }));
            if !self.sysfs.btrfs_devices(name)?.is_empty() {
                uses.push(Use::Holder { name: "btrfs".into() });
            }
        }
        if !partitions.is_empty() {
            uses.push(Use::Partitions { names: partitions });
        }
        Ok(uses)
    }
}

/// True where somebody has the block device open exclusively: the kernel then answers `EBUSY` to a second
/// `O_EXCL` (open(2)). Whoever else tries in the microseconds that this holds it gets `EBUSY` too, which is why
/// it is only asked where nothing else says what the device is for.
pub fn held_exclusively(device: &Path) -> bool {
    let opened = OpenOptions::new().read(true).custom_flags(OFlag::O_EXCL.bits()).open(device);
    opened.is_err_and(|error| error.raw_os_error() == Some(Errno::EBUSY as i32))
}
