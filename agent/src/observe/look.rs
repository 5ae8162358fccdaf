//! The whole look at a machine, composed of its parts.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use tracing::{debug, debug_span};
use uuid::Uuid;

use super::blkid::{Blkid, Nobody, Prober};
use super::drives::Witness;
use super::sysfs::Sysfs;
use super::{Array, Content, DevNum, Drive, Fresh, Inventory, Mount};
use super::{arrays, content, drives, files, host, mounts, owners, sysfs, uses, wait};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::intent;
use crate::ioctl;
use crate::root::Root;

/// So many drives are read at once: enough to hide their latency, few enough for the memory of their buffers.
const READERS: usize = 8;

/// Which devices are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Examine {
    /// None: sysfs, proc and files only, which never blocks on a device.
    #[default]
    Nothing,
    /// Only what is mounted at the target: what a run that knows its drives has to see again.
    Target,
    /// All, and the drives are asked who they are.
    Everything,
}

/// How to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct How {
    pub examine: Examine,
    /// Wait for drives up to `drive_timeout`.
    pub wait: bool,
}

/// Looks at the machine under `root`. Reads only; starts no child process but blkid, and that only for a device
/// that is neither blank, nor an md member, nor mounted.
///
/// On a root other than `/` no device is asked anything; a device that is there as a file
/// (`ROOT/dev/nvme1n1`) is read.
///
/// # Errors
/// Something that the judgement needs cannot be read: sysfs, the mount table, a file that persist edits; blkid is
/// needed and missing. A *device* that cannot be read is no error but its content.
pub fn observe(root: &Root, config: &Config, how: How) -> Result<Inventory> {
    let _span = debug_span!("observe", root = %root.as_path().display(), ?how).entered();
    let sysfs = Sysfs::new(root);
    let mut inventory = Inventory { fresh: fresh(), ..Inventory::default() };

    let functions =
        timed("wait", || if how.wait { wait::settle(&sysfs, config) } else { wait::look(&sysfs, config) })?;
    let table = timed("mounts", || mounts::read(root))?;
    let ask = how.examine == Examine::Everything && root.is_host() && nix::unistd::geteuid().is_root();
    let identify = |drive: &Drive| if ask { identify(drive).map(Some) } else { Ok(None) };
    let found = timed("drives", || drives::find(&sysfs, &config.matching, &table, &identify))?;
    inventory.drives = found.drives;
    inventory.skipped = found.skipped;
    inventory.skipped.extend(functions.elsewhere);
    inventory.pending = functions.pending;
    inventory.pending.extend(found.pending);

    timed("uses and arrays", || -> Result<()> {
        let busy = uses::Busy::read(sysfs, &table)?;
        for drive in &mut inventory.drives {
            drive.uses = busy.of(&drive.name)?;
        }
        inventory.arrays = arrays::find(&sysfs)?;
        for array in &mut inventory.arrays {
            array.uses = busy.of(&array.name)?;
        }
        Ok(())
    })?;
    if how.examine != Examine::Nothing {
        let blkid = Blkid::find(root);
        let prober: &dyn Prober = if root.is_host() { &blkid } else { &Nobody };
        let examiner = Examiner { sysfs, config, table: &table, prober };
        let (drives, arrays) = (&mut inventory.drives, &mut inventory.arrays);
        if how.examine == Examine::Target {
            timed("content at the target", || examiner.target(drives, arrays))?;
        } else {
            timed("content", || examiner.drives(drives))?;
            timed("content of arrays", || examiner.arrays(arrays, drives))?;
        }
    }

    timed("host", || -> Result<()> {
        inventory.host = host::read(root);
        inventory.target = mounts::target(root, &config.target, inventory.host.selinux)?;
        inventory.files = files::read(root)?;
        inventory.claims = owners::find(root, &inventory.drives, &mut inventory.notes);
        inventory.intent = files::identity(root, intent::INTENT_PATH, &mut inventory.notes)?;
        inventory.record = files::identity(root, intent::RECORD_PATH, &mut inventory.notes)?;
        Ok(())
    })?;
    // These drives have been set up before: what is on them is not what a fresh drive came with.
    if let Some(record) = &inventory.record
        && inventory.drives.iter().any(|drive| record.serials.contains(&drive.serial))
    {
        inventory.host.first_boot = false;
    }
    inventory.mounts = table;
    debug!(
        drives = inventory.drives.len(),
        skipped = inventory.skipped.len(),
        pending = inventory.pending.len(),
        arrays = inventory.arrays.len(),
        "observed"
    );
    Ok(inventory)
}

fn fresh() -> Fresh {
    Fresh { array: Uuid::new_v4(), filesystem: Uuid::new_v4() }
}

fn timed<T>(part: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work();
    debug!(duration_us = start.elapsed().as_micros() as u64, ok = result.is_ok(), "looked at {part}");
    result
}

/// Identify Controller: vid at byte 0, sn at 4, mn at 24 (NVM Express base specification, figure of Identify
/// Controller data structure).
fn identify(drive: &Drive) -> Result<Witness> {
    let controller = Path::new("/dev").join(&drive.controller);
    let path = if controller.exists() { controller } else { drive.path() };
    let file = File::open(&path).map_err(Error::io(&path, "open"))?;
    let data =
        ioctl::nvme::identify_controller(&file).map_err(Error::io(&path, "ask Identify Controller of"))?;
    Ok(Witness {
        vendor: u16::from_le_bytes([data[0], data[1]]),
        serial: sysfs::clean(&data[4..24]),
        model: sysfs::clean(&data[24..64]),
    })
}

/// Reads what is on devices.
struct Examiner<'a> {
    sysfs: Sysfs<'a>,
    config: &'a Config,
    table: &'a [Mount],
    prober: &'a dyn Prober,
}

impl Examiner<'_> {
    fn drives(&self, drives: &mut [Drive]) -> Result<()> {
        side_by_side(drives, |drive| {
            drive.content = self.content(&drive.path(), drive.dev, drive.sectors)?;
            Ok(())
        })?;
        // A blank drive where a set lacks members: fresh, or a member that lost its superblock? That decides
        // over a whole stripe.
        if lacks_members(drives) {
            side_by_side(drives, |drive| {
                if drive.content == Content::Blank {
                    let path = self.sysfs.root().join(drive.path());
                    drive.content = content::examine_deeply(&path, drive.sectors);
                }
                Ok(())
            })?;
        }
        for drive in drives {
            if self.may_be_held(&drive.content, &drive.uses) && uses::held_exclusively(&drive.path()) {
                drive.uses.push(super::Use::Exclusive);
            }
        }
        Ok(())
    }

    fn target(&self, drives: &mut [Drive], arrays: &mut [Array]) -> Result<()> {
        let at =
            |dev: DevNum| self.table.iter().any(|mount| mount.dev == dev && mount.at == self.config.target);
        for drive in drives.iter_mut().filter(|drive| at(drive.dev)) {
            drive.content = self.content(&drive.path(), drive.dev, drive.sectors)?;
        }
        for array in arrays.iter_mut().filter(|array| at(array.dev)) {
            array.content = self.content(&array.path(), array.dev, array.sectors)?;
        }
        Ok(())
    }

    fn arrays(&self, all: &mut [Array], drives: &[Drive]) -> Result<()> {
        for array in all {
            arrays::fill_uuid(array, drives);
            if array.is_running() && arrays::concerns(&self.sysfs, array, drives) {
                array.content = self.content(&array.path(), array.dev, array.sectors)?;
                if self.may_be_held(&array.content, &array.uses) && uses::held_exclusively(&array.path()) {
                    array.uses.push(super::Use::Exclusive);
                }
            }
        }
        Ok(())
    }

    /// Asking for the exclusive right takes it for a moment, and a mount or an assembly by somebody else in that
    /// moment would fail. So it is asked for only where we might write, and nobody else has reason to.
    fn may_be_held(&self, content: &Content, uses: &[super::Use]) -> bool {
        let redone = matches!(content, Content::Blank | Content::Unknown | Content::HalfMade(_));
        let writable = redone || self.config.wipe_foreign;
        // An exclusive opener of a partition keeps the whole disk from being opened so, too.
        let unused = uses.iter().all(|by| matches!(by, super::Use::Partitions { .. }));
        self.sysfs.root().is_host() && unused && writable
    }

    fn content(&self, node: &Path, dev: DevNum, sectors: u64) -> Result<Content> {
        let root = self.sysfs.root();
        let path = root.join(node);
        if root.is_host() {
            if let Err(error) = is_device(&path, dev) {
                return Ok(Content::Unreadable { error });
            }
        } else if !path.exists() {
            return Ok(Content::Unexamined);
        }
        let mounted_as = self.table.iter().find(|mount| mount.dev == dev).map(|mount| mount.fs_type.as_str());
        content::examine(&path, sectors, mounted_as, self.prober)
    }
}

/// True where a set has fewer members here than it wants.
fn lacks_members(drives: &[Drive]) -> bool {
    let members: Vec<_> = drives
        .iter()
        .filter_map(|drive| match &drive.content {
            Content::Member(member) => Some(member),
            _ => None,
        })
        .collect();
    members.iter().any(|one| {
        let found = members.iter().filter(|other| other.set_uuid == one.set_uuid).count();
        found < one.raid_disks as usize
    })
}

/// The node in /dev is the device that sysfs speaks of.
fn is_device(path: &Path, dev: DevNum) -> Result<(), String> {
    let status = path.metadata().map_err(|error| format!("no device node: {error}"))?;
    let found = DevNum { major: rustix::fs::major(status.rdev()), minor: rustix::fs::minor(status.rdev()) };
    if status.file_type().is_block_device() && found == dev {
        return Ok(());
    }
    Err(format!("{} is not block device {dev}, but {found}", path.display()))
}

/// Does `work` on every item, up to [`READERS`] at once.
fn side_by_side<T: Send>(items: &mut [T], work: impl Fn(&mut T) -> Result<()> + Sync) -> Result<()> {
    if items.len() < 2 {
        return items.iter_mut().try_for_each(work);
    }
    let share = items.len().div_ceil(READERS);
    std::thread::scope(|scope| {
        let readers: Vec<_> =
            items.chunks_mut(share).map(|part| scope.spawn(|| part.iter_mut().try_for_each(&work))).collect();
        readers.into_iter().try_for_each(|reader| {
            reader.join().unwrap_or_else(|_| Err(Error::Other("a reader panicked".into())))
        })
    })
}
