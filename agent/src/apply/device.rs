//! Block devices: that they are still what the plan saw, wiping, a private node for mkfs, and telling udev.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::error::{Error, Result};
use crate::md::guard;
use crate::plan::MemberRef;
use crate::root::Root;

/// What is zeroed at each end: every signature that blkid or mdadm knows lies within (md 1.0 and the backup GPT at the
/// end, ZFS' labels in the outer 512 KiB, md 1.2 at 4 KiB).
pub const WIPE_BYTES: u64 = 1 << 20;
/// Alignment for O_DIRECT: the largest logical block of any NVMe drive here.
const ALIGN: usize = 4096;
/// How long somebody (a udev worker that probes) may keep a partition open that is to go.
const PARTITIONS_TIMEOUT: Duration = Duration::from_secs(3);
/// Sectors of sysfs `size` are always of 512 bytes (Documentation/ABI/stable/sysfs-block).
const SECTOR: u64 = 512;

/// Kernel name of a device node's path, such as `md0`.
pub fn kernel_name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn attribute(root: &Root, device: &Path, name: &str) -> Result<String> {
    let path = root.join("/sys/block").join(kernel_name(device)).join(name);
    std::fs::read_to_string(&path).map(|s| s.trim().to_owned()).map_err(Error::io(path, "read"))
}

/// Size of a whole-disk device in bytes, as sysfs says it.
///
/// # Errors
/// Where there is no such device.
pub fn size(root: &Root, device: &Path) -> Result<u64> {
    let text = attribute(root, device, "size")?;
    let sectors: u64 = text.parse().map_err(|_| {
        Error::Other(format!("{}: sysfs gives the size as {text:?}, which is no number", device.display()))
    })?;
    Ok(sectors * SECTOR)
}

/// Device number of a whole-disk device, as sysfs `dev` says it.
///
/// # Errors
/// Where there is no such device.
pub fn number(root: &Root, device: &Path) -> Result<(u32, u32)> {
    let text = attribute(root, device, "dev")?;
    let parsed = text.split_once(':').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parsed.ok_or_else(|| Error::Other(format!("{}: sysfs gives the number as {text:?}", device.display())))
}

/// Zeroes the first and last MiB of the drives, and the one at `data_offset` (in bytes), reads them back from the device,
/// and has the kernel forget partitions that were there. Nothing is written before all of them are claimed.
///
/// # Errors
/// Where one is in use (opened exclusively, mounted, held), is not the drive that was planned for, or does not
/// read back as zeros.
pub fn wipe(root: &Root, members: &[MemberRef], data_offset: Option<u64>) -> Result<()> {
    let claim = |member| -> Result<_> {
        guard::verify_identity(root, member)?;
        let path = root.join(&member.path);
        Ok((claim(&path)?, path, member.sectors * SECTOR))
    };
    let claimed = members.iter().map(claim).collect::<Result<Vec<_>>>()?;
    for (file, path, size) in &claimed {
        zero(file, path, *size, data_offset)?;
        forget_partitions(file, path);
    }
    Ok(())
}

/// Partitions of a table that is gone would stay in /dev until the next boot, over the bytes of what is made next.
fn forget_partitions(file: &File, path: &Path) {
    let end = Instant::now() + PARTITIONS_TIMEOUT;
    loop {
        match crate::ioctl::block::reread_partitions(file) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOTTY) => return,
            // udev looks at one of them.
            Err(Errno::EBUSY) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => {
                tracing::warn!(device = %path.display(), %error, "the kernel keeps partitions that are wiped");
                return;
            }
        }
    }
}

/// O_DIRECT, so that reading back asks the drive and not the page cache; O_EXCL means "nobody else's" for a block device.
fn claim(path: &Path) -> Result<File> {
    open_direct(path).map_err(|e| match e.raw_os_error() {
        Some(code) if code == Errno::EBUSY as i32 => Error::Other(format!(
            "{} is in use: the kernel refuses to open it exclusively. Nothing was written to it; see who holds it with \
             `lsblk {0}` and `fuser -v {0}`",
            path.display()
        )),
        _ => Error::io(path, "open for wiping")(e),
    })
}

fn zero(file: &File, path: &Path, size: u64, data_offset: Option<u64>) -> Result<()> {
    let aligned = |bytes: u64| bytes / ALIGN as u64 * ALIGN as u64;
    let length = aligned(WIPE_BYTES.min(size / 2));
    let end = aligned(size - length);
    // Whole in any case: data that start within the last MiB are within the end's.
    let data = data_offset.map(|offset| aligned(offset).min(end));
    for offset in [Some(0), data, Some(end)].into_iter().flatten() {
        let mut buffer = Aligned::new(length as usize);
        file.write_all_at(buffer.bytes(), offset).map_err(Error::io(path, "wipe"))?;
        file.sync_all().map_err(Error::io(path, "sync after wiping"))?;
        buffer.bytes().fill(0xff);
        file.read_exact_at(buffer.bytes(), offset).map_err(Error::io(path, "read back after wiping"))?;
        if buffer.bytes().iter().any(|b| *b != 0) {
            return Err(Error::Other(format!(
                "{}: bytes at {offset} are not zero after they were written as zeros; the drive does not keep what it \
                 is given, replace the instance",
                path.display()
            )));
        }
    }
    Ok(())
}

fn open_direct(path: &Path) -> std::io::Result<File> {
    let flags = nix::fcntl::OFlag::O_EXCL | nix::fcntl::OFlag::O_DIRECT;
    OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)
}

/// Zeroed memory at an address that O_DIRECT accepts.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Aligned {
        let memory = vec![0; length + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Aligned { memory, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// A second node of a device, in /dev, gone when dropped.
///
/// mkfs.xfs of xfsprogs 6.11 and later takes the flock of the node that it opens (systemd.io/BLOCK_DEVICE_LOCKING),
/// which we hold: it would wait for us, and we for it. flock and udev's inotify watch belong to the node, not to the
/// device, so with a node of its own it neither meets our lock nor wakes udev when it closes the device.
#[derive(Debug)]
pub struct PrivateNode(PathBuf);

impl PrivateNode {
    /// # Errors
    /// Where the node cannot be made: a unit's DeviceAllow= needs `m`.
    pub fn of(root: &Root, device: &Path) -> Result<PrivateNode> {
        let (major, minor) = number(root, device)?;
        // Not below /run, which is mounted nodev.
        let path = Path::new("/dev").join(format!(".nvme-agent-{}", kernel_name(device)));
        // A run that was killed may have left it.
        let _ = std::fs::remove_file(&path);
        let kind = SFlag::S_IFBLK;
        mknod(&path, kind, Mode::S_IRUSR | Mode::S_IWUSR, makedev(u64::from(major), u64::from(minor)))
            .map_err(Error::io(&path, "make the device node"))?;
        Ok(PrivateNode(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateNode {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Has udev look at a device again: it did not while we held the lock, and links by UUID come from it.
pub fn announce(root: &Root, device: &Path) {
    let path = root.join("/sys/block").join(kernel_name(device)).join("uevent");
    if let Err(error) = std::fs::write(&path, "change\n") {
        tracing::debug!("{}: cannot ask for a uevent: {error}", path.display());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SIZE: u64 = 8 << 20;

    fn fixture(serial: &str, sectors: u64) -> (tempfile::TempDir, Root) {
        // On disk, not tmpfs: O_DIRECT.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        std::fs::create_dir(dir.path().join("dev")).unwrap();
        std::fs::write(dir.path().join("dev/nvme1n1"), vec![0xa5; SIZE as usize]).unwrap();
        let block = dir.path().join("sys/block/nvme1n1");
        std::fs::create_dir_all(block.join("device")).unwrap();
        std::fs::write(block.join("device/serial"), format!("{serial:<20}\n")).unwrap();
        std::fs::write(block.join("size"), format!("{sectors}\n")).unwrap();
        std::fs::write(block.join("dev"), "259:3\n").unwrap();
        let root = Root::new(dir.path());
        (dir, root)
    }

    fn member() -> MemberRef {
        MemberRef { path: "/dev/nvme1n1".into(), serial: "AWS1".into(), sectors: SIZE / SECTOR }
    }

    #[test]
    fn a_drive_that_is_another_one_now_is_not_wiped() {
        let (dir, root) = fixture("AWS2", SIZE / SECTOR);
        let drive = dir.path().join("dev/nvme1n1");
        let error = wipe(&root, &[member()], None).unwrap_err().to_string();
        assert!(error.contains("AWS1") && error.contains("AWS2"), "{error}");
        assert!(std::fs::read(&drive).unwrap().iter().all(|b| *b == 0xa5));
        let (dir, root) = fixture("AWS1", SIZE / SECTOR);
        wipe(&root, &[member()], None).unwrap();
        assert_eq!(std::fs::read(dir.path().join("dev/nvme1n1")).unwrap()[0], 0);
        assert_eq!(size(&root, &member().path).unwrap(), SIZE);
        assert_eq!(number(&root, &member().path).unwrap(), (259, 3));
    }

    #[test]
    fn wiping_zeroes_both_ends_and_the_start_of_the_data_and_nothing_between() {
        const MIB: u64 = 1 << 20;
        for (data_offset, zeros) in [
            (None, vec![0]),
            (Some(3 * MIB), vec![0, 3]),
            // Data that start in the last MiB, or behind it (which no geometry gives).
            (Some(SIZE - MIB / 2), vec![0]),
            (Some(SIZE + MIB), vec![0]),
        ] {
            // On disk, not tmpfs: O_DIRECT.
            let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
            file.as_file().write_all_at(&vec![0xa5; SIZE as usize], 0).unwrap();
            zero(&claim(file.path()).unwrap(), file.path(), SIZE, data_offset).unwrap();
            let bytes = std::fs::read(file.path()).unwrap();
            assert_eq!(bytes.len(), SIZE as usize);
            for (nth, mib) in bytes.chunks(MIB as usize).enumerate() {
                let zeroed = zeros.contains(&(nth as u64)) || nth as u64 == SIZE / MIB - 1;
                let expected = if zeroed { 0 } else { 0xa5 };
                assert!(mib.iter().all(|b| *b == expected), "MiB {nth}, data at {data_offset:?}");
            }
        }
    }
}
