//! What keeps others off while the agent works: flock on the drives (udevd), the mark `creating-mdN` (systemd, by a
//! rule of mdadm's), and mdadm's map lock (mdadm).
//!
//! **Order.** Drives first, then the map lock, never the other way: a udev worker holds its shared lock on a drive
//! while the `mdadm -I` that it runs waits for the map lock.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use tracing::{debug, warn};

use crate::error::{Error, Result};
use crate::root::Root;

/// mdadm's `MAP_DIR`, as Amazon Linux, Debian, Ubuntu and upstream have it.
const MAP_DIR: &str = "/run/mdadm";
/// How long to wait for udevd to let go of the drives: at boot a worker may sit in `mdadm -I`.
pub const DEVICE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait for an mdadm at work.
pub const MAP_TIMEOUT: Duration = Duration::from_secs(15);
/// First line of a mark of ours, so that a stale one is told from mdadm's, which are empty.
const MARK: &str = "nvme-agent";
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// mdadm's lock over everything that makes, changes or stops arrays; let go when dropped.
#[derive(Debug)]
pub struct MapLock {
    path: PathBuf,
    _file: File,
}

impl MapLock {
    /// # Errors
    /// [`Error::Busy`] after `timeout`; `/run/mdadm` cannot be made or written.
    pub fn acquire(root: &Root, timeout: Duration) -> Result<MapLock> {
        make_map_dir(root)?;
        let path = root.join(MAP_DIR).join("map.lock");
        let deadline = Instant::now() + timeout;
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(Error::io(&path, "open mdadm's lock"))?;
            lock_until(&file, &path, deadline, timeout)?;
            let links = file.metadata().map_err(Error::io(&path, "look at mdadm's lock"))?.nlink();
            if links != 0 {
                return Ok(MapLock { path, _file: file });
            }
            // Whoever held it unlinked it: this is a lock on a file that nobody else will find.
            debug!("mdadm's lock was unlinked meanwhile: once more");
        }
    }
}

impl Drop for MapLock {
    fn drop(&mut self) {
        // As mdadm does, and before the lock goes (fields drop after this): only its holder may unlink it.
        if let Err(error) = fs::remove_file(&self.path) {
            warn!("{}: cannot remove mdadm's lock file: {error}", self.path.display());
        }
    }
}

/// The file `/run/mdadm/creating-mdN`, for which mdadm's udev rule says `SYSTEMD_READY=0`: systemd neither mounts nor
/// checks what is on the array. When dropped, udev is told to look at the array.
#[derive(Debug)]
pub struct CreatingMark {
    path: PathBuf,
    uevent: PathBuf,
}

impl CreatingMark {
    /// For the array of this kernel name, such as `md0`, which need not exist yet.
    ///
    /// # Errors
    /// `/run/mdadm` cannot be made or written.
    pub fn place(root: &Root, array: &str) -> Result<CreatingMark> {
        make_map_dir(root)?;
        let path = root.join(MAP_DIR).join(format!("creating-{array}"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&path).map_err(Error::io(&path, "make the mark"))?;
        writeln!(file, "{MARK} {}", std::process::id()).map_err(Error::io(&path, "write the mark"))?;
        Ok(CreatingMark { path, uevent: root.join("/sys/block").join(array).join("uevent") })
    }

    /// Removes marks that a killed run of ours left: with one in place systemd would take the array for not ready, and
    /// unmount what is bound to it. Call it only under the agent's own run lock. mdadm's own marks are left alone.
    pub fn remove_stale(root: &Root) {
        let dir = root.join(MAP_DIR);
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(array) = name.to_str().and_then(|name| name.strip_prefix("creating-")) else { continue };
            if fs::read_to_string(entry.path()).is_ok_and(|text| text.starts_with(MARK)) {
                warn!("{}: removing the mark of a run that was killed", entry.path().display());
                let uevent = root.join("/sys/block").join(array).join("uevent");
                drop(CreatingMark { path: entry.path(), uevent });
            }
        }
    }
}

impl Drop for CreatingMark {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            warn!("{}: cannot remove the mark: {error}; systemd will not see the array", self.path.display());
        }
        // What udev noted while the mark stood was "not ready". No array (any more): nobody to tell.
        match OpenOptions::new().write(true).open(&self.uevent).and_then(|mut file| file.write_all(b"change"))
        {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                warn!("{}: cannot tell udev about the array: {error}", self.uevent.display());
            }
            _ => {}
        }
    }
}

/// flock(LOCK_EX) on whole-disk nodes: while it is held udevd neither probes them nor acts on what it finds
/// (systemd.io/BLOCK_DEVICE_LOCKING). Let go when dropped.
#[derive(Debug, Default)]
pub struct DeviceLocks(Vec<(PathBuf, File)>);

impl DeviceLocks {
    /// # Errors
    /// A device cannot be opened; [`Error::Busy`] where others hold one beyond `timeout`, which is for all together.
    pub fn acquire<P: AsRef<Path>>(
        devices: impl IntoIterator<Item = P>,
        timeout: Duration,
    ) -> Result<DeviceLocks> {
        let deadline = Instant::now() + timeout;
        let mut locks = DeviceLocks::default();
        for device in devices {
            let path = device.as_ref();
            // Read-only: closing a node that was open for writing is itself a reason for udev to probe it.
            let file = File::open(path).map_err(Error::io(path, "open it for locking"))?;
            lock_until(&file, path, deadline, timeout)?;
            locks.0.push((path.to_owned(), file));
        }
        Ok(locks)
    }

    pub fn covers(&self, device: &Path) -> bool {
        self.0.iter().any(|(path, _)| path == device)
    }
}

/// What apply holds from before the first destructive step until the mount is exposed.
#[derive(Debug)]
pub struct Holds {
    // Dropped in this order: udev is to look at the finished array first, then at its members.
    mark: Option<CreatingMark>,
    devices: DeviceLocks,
}

impl Holds {
    /// Locks the drives (paths of the host) and, where an array is to be made or started, marks it by its kernel name.
    ///
    /// # Errors
    /// As [`DeviceLocks::acquire`] and [`CreatingMark::place`].
    pub fn acquire<P: AsRef<Path>>(
        root: &Root,
        drives: impl IntoIterator<Item = P>,
        array: Option<&str>,
    ) -> Result<Holds> {
        let devices = DeviceLocks::acquire(drives.into_iter().map(|drive| root.join(drive)), DEVICE_TIMEOUT)?;
        let mark = array.map(|array| CreatingMark::place(root, array)).transpose()?;
        Ok(Holds { mark, devices })
    }

    /// True where this drive (its path under the root) is locked by us.
    pub fn covers(&self, drive: &Path) -> bool {
        self.devices.covers(drive)
    }

    /// Lets go of the drives, and keeps the mark of the array.
    pub fn release_drives(&mut self) {
        self.devices = DeviceLocks::default();
    }

    /// True where an array is marked.
    pub fn is_marked(&self) -> bool {
        self.mark.is_some()
    }
}

/// 0755 as mdadm makes it, without failing where it exists.
fn make_map_dir(root: &Root) -> Result<()> {
    let dir = root.join(MAP_DIR);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&dir)
        .map_err(Error::io(&dir, "make the directory"))
}

/// flock(2) has no timeout of its own: try, and pause longer each time.
fn lock_until(file: &File, path: &Path, deadline: Instant, timeout: Duration) -> Result<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::Other(format!(
                    "{} is locked by another process for longer than {} s; `lslocks` says by which",
                    path.display(),
                    timeout.as_secs()
                )));
            }
            Err(error) => return Err(Error::io(path, "lock it")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(60);

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        (dir, root)
    }

    #[test]
    fn the_map_lock_excludes_others_and_leaves_nothing_behind() {
        let (dir, root) = root();
        let held = MapLock::acquire(&root, SHORT).unwrap();
        let error = MapLock::acquire(&root, SHORT).unwrap_err().to_string();
        assert!(error.contains("map.lock") && error.contains("lslocks"), "{error}");
        drop(held);
        assert!(!dir.path().join("run/mdadm/map.lock").exists());
        MapLock::acquire(&root, SHORT).unwrap();
    }

    /// mdadm unlinks the file and then lets go: who waited has a lock on nothing, and must start over.
    #[test]
    fn a_lock_file_that_is_unlinked_under_us_is_taken_anew() {
        let (dir, root) = root();
        let path = dir.path().join("run/mdadm/map.lock");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mdadm = File::create(&path).unwrap();
        flock(&mdadm, FlockOperation::LockExclusive).unwrap();
        let ours = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| MapLock::acquire(&root, Duration::from_secs(10)).unwrap());
            std::thread::sleep(SHORT);
            fs::remove_file(&path).unwrap();
            drop(mdadm);
            waiting.join().unwrap()
        });
        let other = File::open(&path).expect("our lock is on a file that others find");
        assert!(flock(&other, FlockOperation::NonBlockingLockExclusive).is_err());
        drop(ours);
    }

    #[test]
    fn drives_are_locked_while_udevd_would_probe_and_free_afterwards() {
        let (dir, root) = root();
        let drive = dir.path().join("dev/nvme1n1");
        fs::create_dir_all(drive.parent().unwrap()).unwrap();
        fs::write(&drive, "").unwrap();
        let udevd = File::open(&drive).unwrap();
        let holds = Holds::acquire(&root, ["/dev/nvme1n1"], None).unwrap();
        assert!(holds.covers(&drive) && !holds.covers(Path::new("/dev/nvme1n1")));
        assert!(flock(&udevd, FlockOperation::NonBlockingLockShared).is_err());
        drop(holds);
        flock(&udevd, FlockOperation::NonBlockingLockShared).unwrap();
        let error = DeviceLocks::acquire([&drive], SHORT).unwrap_err().to_string();
        assert!(error.contains("nvme1n1 is locked by another process"), "{error}");
    }

    #[test]
    fn the_mark_stands_while_it_is_held_and_then_udev_is_told() {
        let (dir, root) = root();
        let sys = dir.path().join("sys/block/md0");
        fs::create_dir_all(&sys).unwrap();
        fs::write(sys.join("uevent"), "").unwrap();
        let mark = dir.path().join("run/mdadm/creating-md0");
        let holds = Holds::acquire(&root, None::<&Path>, Some("md0")).unwrap();
        assert!(mark.exists() && holds.is_marked());
        assert_eq!(fs::read_to_string(sys.join("uevent")).unwrap(), "");
        drop(holds);
        assert!(!mark.exists());
        assert_eq!(fs::read_to_string(sys.join("uevent")).unwrap(), "change");
    }

    #[test]
    fn a_killed_runs_mark_is_removed_and_mdadms_is_not() {
        let (dir, root) = root();
        std::mem::forget(CreatingMark::place(&root, "md0").unwrap());
        let mdadms = dir.path().join("run/mdadm/creating-md5");
        fs::write(&mdadms, "").unwrap();
        CreatingMark::remove_stale(&root);
        assert!(!dir.path().join("run/mdadm/creating-md0").exists());
        assert!(mdadms.exists());
    }
}
