//! The last look before the first destructive write: is it still the drive that the plan spoke of, is it nobody's,
//! and is there still nothing on it? Between observe and apply anything may have happened.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use uuid::Uuid;

use super::geometry::SUPER_OFFSET_BYTES;
use super::superblock::{MAX_LEN, Superblock};
use crate::error::{Error, Result};
use crate::observe::blank::{self, ALIGN, Buffer, Device};
use crate::plan::MemberRef;
use crate::root::Root;

/// From the start of the drive: every signature that does not lie at its end is in here.
const HEAD: u64 = 1 << 20;
/// At the end of the drive: backup GPT, md 0.90 and 1.0.
const TAIL: u64 = 128 << 10;
/// One read. Small, because all drives are read at once.
const READ: usize = 64 << 10;
const SUPERBLOCK: Range<usize> = SUPER_OFFSET_BYTES as usize..SUPER_OFFSET_BYTES as usize + MAX_LEN;

/// A drive that passed, held with O_EXCL: until this is dropped nobody can mount it, swap on it or add it to an array
/// (we cannot either: drop it before ADD_NEW_DISK).
#[derive(Debug)]
pub struct Claimed {
    pub path: PathBuf,
    pub file: File,
}

/// Kernel name of a drive, such as `nvme1n1`.
pub fn kernel_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The drive at this path still has the serial number and the size that the plan was made for.
///
/// # Errors
/// It has not, or is gone: kernel names were handed out anew since, or the plan is stale.
pub fn verify_identity(root: &Root, drive: &MemberRef) -> Result<()> {
    let sys = root.join("/sys/block").join(kernel_name(&drive.path));
    let read = |name: &str| fs::read_to_string(sys.join(name)).map(|text| text.trim().to_owned());
    // A drive behind native multipath has the same attribute on its subsystem; other buses have it on the disk.
    let serial = read("device/serial").or_else(|_| read("serial")).unwrap_or_default();
    let sectors = read("size").map_err(Error::io(sys.join("size"), "read the size"))?;
    if serial != drive.serial || sectors != drive.sectors.to_string() {
        return Err(Error::Other(format!(
            "{} is another drive than the one that was looked at: expected serial {} with {} sectors, found {serial:?} \
             with {sectors}. Nothing was changed; run setup again",
            drive.path.display(),
            drive.serial,
            drive.sectors
        )));
    }
    Ok(())
}

/// [`verify_identity`], then opens the drive for reading and writing with O_EXCL.
///
/// # Errors
/// Not that drive (any more); in use: mounted, swap, a member of something, exclusively open elsewhere.
pub fn claim(root: &Root, drive: &MemberRef) -> Result<Claimed> {
    open(root, drive, true)
}

fn open(root: &Root, drive: &MemberRef, write: bool) -> Result<Claimed> {
    verify_identity(root, drive)?;
    let path = root.join(&drive.path);
    let mut options = OpenOptions::new();
    // O_EXCL without O_CREAT is the exclusive claim of a block device, and nothing for other files (open(2)).
    options.read(true).write(write).custom_flags((OFlag::O_EXCL | OFlag::O_CLOEXEC).bits());
    let file = options.open(&path).map_err(|error| match error.kind() {
        ErrorKind::ResourceBusy => Error::Other(format!(
            "{} (serial {}) is in use since it was looked at: mounted, swap, held by dm or md, or opened exclusively. \
             Nothing was changed on it; find out by whom with lsblk and fuser, then run setup again",
            drive.path.display(),
            drive.serial
        )),
        _ => Error::io(&path, "open it exclusively")(error),
    })?;
    Ok(Claimed { path, file })
}

/// The drive is the one meant and nobody's at this moment; nothing is held afterwards.
///
/// # Errors
/// As [`claim`].
pub fn ensure_unclaimed(root: &Root, drive: &MemberRef) -> Result<()> {
    // Read-only: closing a node that was open for writing is a reason for udev to probe it.
    open(root, drive, false).map(drop)
}

impl Claimed {
    /// Both ends of the drive are zero, but for a superblock of the set `ours` (an interrupted run's). Other content
    /// that is to go must have been wiped by a step before.
    ///
    /// # Errors
    /// Something is there: names the byte. A read that fails.
    pub fn ensure_free(&self, ours: Option<&Uuid>) -> Result<()> {
        let path = &self.path;
        let fail = |text: String| {
            Err(Error::Other(format!(
                "{}: {text}, where the plan was made for an empty drive. Nothing was changed on it; run setup again to \
                 have it looked at",
                path.display()
            )))
        };
        let size = size_of_device(&self.file).map_err(Error::io(path, "find its size"))?;
        // Past the page cache, which md and dm above a drive do not keep up to date.
        let device = Device::open(path, size).map_err(Error::io(path, "open it for reading"))?;
        let mut buffer = Buffer::default();
        let head = HEAD.min(size);
        let tail = (size.saturating_sub(TAIL) / ALIGN as u64 * ALIGN as u64).max(head);
        let starts = (0..head).step_by(READ).chain((tail..size).step_by(READ));
        for start in starts {
            let end = if start < head { head } else { size };
            let length = (end - start).min(READ as u64) as usize;
            blank::read(&device, start, length, &mut buffer).map_err(Error::io(path, "read it"))?;
            let bytes = buffer.part(length);
            if let (0, Some(at)) = (start, bytes.get_mut(SUPERBLOCK)) {
                match Superblock::parse(at) {
                    Ok(found) if Some(&found.set_uuid()) == ours => at.fill(0),
                    Ok(found) => return fail(format!("a member of the md set {}", found.set_uuid())),
                    Err(_) => {}
                }
            }
            if !blank::is_zero(bytes) {
                let at = bytes.iter().take_while(|byte| **byte == 0).count();
                return fail(format!("data at byte {}", start + at as u64));
            }
        }
        Ok(())
    }
}

/// In bytes. A block device says 0 in stat(2), but can be sought to its end.
fn size_of_device(file: &File) -> std::io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    let mut file = file;
    file.seek(SeekFrom::End(0))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::md::superblock::NewSet;

    const SECTORS: u64 = 8192;

    /// A machine with one drive `nvme1n1`, serial AWS1, of 4 MiB.
    fn machine() -> (tempfile::TempDir, Root, MemberRef) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let sys = dir.path().join("sys/block/nvme1n1/device");
        fs::create_dir_all(&sys).unwrap();
        fs::create_dir(dir.path().join("dev")).unwrap();
        fs::write(sys.join("serial"), "AWS1                \n").unwrap();
        fs::write(sys.join("../size"), format!("{SECTORS}\n")).unwrap();
        File::create(dir.path().join("dev/nvme1n1")).unwrap().set_len(SECTORS * 512).unwrap();
        (dir, root, MemberRef { path: "/dev/nvme1n1".into(), serial: "AWS1".into(), sectors: SECTORS })
    }

    fn put(root: &Root, at: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(root.join("/dev/nvme1n1")).unwrap();
        file.write_all_at(bytes, at).unwrap();
    }

    fn superblock(set_uuid: Uuid) -> Vec<u8> {
        let set = NewSet {
            set_uuid,
            name: "any:md0".into(),
            ctime: 0,
            chunk_sectors: 1024,
            raid_disks: 2,
            data_offset: 4096,
        };
        Superblock::new_raid0(&set, 0, Uuid::nil(), SECTORS).unwrap().encode()
    }

    #[test]
    fn the_drive_that_was_planned_for_passes() {
        let (_dir, root, drive) = machine();
        ensure_unclaimed(&root, &drive).unwrap();
        claim(&root, &drive).unwrap().ensure_free(None).unwrap();
    }

    #[test]
    fn another_drive_under_the_same_name_is_noticed() {
        let (_dir, root, drive) = machine();
        let other = MemberRef { serial: "AWS2".into(), ..drive.clone() };
        let error = claim(&root, &other).unwrap_err().to_string();
        assert!(error.contains("expected serial AWS2") && error.contains("AWS1"), "{error}");
        let larger = MemberRef { sectors: SECTORS + 8, ..drive.clone() };
        assert!(claim(&root, &larger).unwrap_err().to_string().contains("8200 sectors"));
        let gone = MemberRef { path: "/dev/nvme9n1".into(), ..drive };
        assert!(claim(&root, &gone).is_err());
    }

    #[test]
    fn one_byte_at_either_end_stops_the_write() {
        for at in [0, 4095, 65_536, HEAD - 1, SECTORS * 512 - TAIL, SECTORS * 512 - 1] {
            let (_dir, root, drive) = machine();
            put(&root, at, &[1]);
            let error = claim(&root, &drive).unwrap().ensure_free(None).unwrap_err().to_string();
            assert!(error.contains(&format!("data at byte {at}")), "{error}");
        }
    }

    #[test]
    fn only_the_set_that_is_being_made_may_be_overwritten() {
        let (_dir, root, drive) = machine();
        let (ours, theirs) = (Uuid::from_u128(1), Uuid::from_u128(2));
        put(&root, SUPER_OFFSET_BYTES, &superblock(ours));
        let claimed = claim(&root, &drive).unwrap();
        claimed.ensure_free(Some(&ours)).unwrap();
        for set in [None, Some(&theirs)] {
            let error = claimed.ensure_free(set).unwrap_err().to_string();
            assert!(error.contains(&format!("a member of the md set {ours}")), "{error}");
        }
        // Ours, and something else beside it.
        put(&root, 1024, b"x");
        assert!(claimed.ensure_free(Some(&ours)).unwrap_err().to_string().contains("data at byte 1024"));
        // A damaged superblock of ours is data like any other.
        put(&root, 1024, &[0]);
        put(&root, SUPER_OFFSET_BYTES + 40, b"x");
        assert!(claimed.ensure_free(Some(&ours)).is_err());
    }
}
