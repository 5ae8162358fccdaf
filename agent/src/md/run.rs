//! From an array device to a running array and back: the sequence of ioctls, with what may get in between.
//! All of it under mdadm's map lock, which [`super::array`] holds.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use tracing::{debug, info, warn};

use super::array::restart_rw;
use super::device;
use super::kernel::{self, Shown};
use super::superblock::Superblock;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::ioctl::md as ioctl;
use crate::plan::MemberRef;
use crate::root::Root;

/// How long others (a udev worker that probes, a scanner) may keep a member or the array open.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for the device of a stopped array to go.
const LINGER: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(10);
/// Of `/dev/md*` superblocks: version 1.2.
const MINOR_VERSION: i32 = 2;

/// Adds the members and runs the array. On failure it is stopped again.
pub(super) fn start(
    root: &Root,
    file: File,
    minor: u32,
    level: i32,
    members: &[MemberRef],
    superblocks: &[Superblock],
    read_only: bool,
) -> Result<PathBuf> {
    let name = format!("md{minor}");
    let array = PathBuf::from("/dev").join(&name);
    let result = add_all(root, &file, members, superblocks).and_then(|()| {
        failpoint::hit("md-added").map_err(Error::io(&array, "go on"))?;
        run(root, &file, &name, level, read_only)
    });
    drop(file);
    if let Err(error) = result {
        if let Err(second) = stop_locked(root, &name) {
            warn!(device = name, "{name}: cannot stop what was half assembled: {second}");
        }
        return Err(error);
    }
    if !read_only {
        restart_rw(root, &array)?;
    }
    info!(device = name, read_only, "array {name} runs");
    Ok(array)
}

/// The array device, told that superblocks are of version 1.2. One that is just being deleted is waited for.
pub(super) fn bring_up_empty(root: &Root, minor: u32) -> Result<File> {
    let deadline = Instant::now() + device::TIMEOUT;
    loop {
        let file = device::bring_up(root, minor)?;
        match ioctl::set_version(&file, MINOR_VERSION) {
            Ok(()) => return Ok(file),
            Err(Errno::ENODEV | Errno::EBUSY | Errno::EINTR) if Instant::now() < deadline => {
                drop(file);
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(Error::io(format!("/dev/md{minor}"), "set up the array")(error)),
        }
    }
}

fn add_all(root: &Root, array: &File, members: &[MemberRef], superblocks: &[Superblock]) -> Result<()> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    for (member, superblock) in members.iter().zip(superblocks) {
        let path = root.join(&member.path);
        let device = fs::metadata(&path).map_err(Error::io(&path, "look at the drive"))?.rdev();
        let role = superblock.role().and_then(|role| i32::try_from(role).ok());
        // The kernel takes number and role from the superblock; only the device number counts.
        let disk = ioctl::DiskInfo {
            number: i32::try_from(superblock.number()).unwrap_or(-1),
            major: major(device) as i32,
            minor: minor(device) as i32,
            raid_disk: role.unwrap_or(-1),
            state: role.map_or(0, |_| ioctl::DISK_ACTIVE_SYNC),
        };
        loop {
            match ioctl::add_new_disk(array, &disk) {
                Ok(()) => break,
                // Somebody looks whether it is free, as we did.
                Err(Errno::EBUSY | Errno::EINTR) if Instant::now() < deadline => std::thread::sleep(PAUSE),
                Err(Errno::EINVAL) if superblock.logical_block_size() != 0 => {
                    return Err(Error::Environment(format!(
                        "{} (serial {}): its superblock was marked by a kernel of 6.19 or later (logical block size \
                         {}), and this kernel refuses such members; boot the newer kernel",
                        member.path.display(),
                        member.serial,
                        superblock.logical_block_size()
                    )));
                }
                Err(error) => {
                    return Err(Error::io(&path, "add it to the array (see the kernel log)")(error));
                }
            }
        }
    }
    Ok(())
}

fn run(root: &Root, file: &File, name: &str, level: i32, read_only: bool) -> Result<()> {
    let array = PathBuf::from("/dev").join(name);
    let ran = if read_only { run_read_only(root, file, name, level) } else { run_array(file) };
    ran.map_err(|error| {
        if level == 0 && !kernel::has_personality(root, "raid0") {
            kernel::raid0_missing(&format!(
                "{} cannot be run ({error}), and /proc/mdstat has no [raid0]",
                array.display()
            ))
        } else {
            Error::io(&array, "run the array (see the kernel log)")(error)
        }
    })?;
    match Shown::read(root, name) {
        Some(shown) if shown.is_running() => Ok(()),
        shown => Err(Error::Other(format!(
            "{} does not run after it was started: state {}",
            array.display(),
            shown.map_or("gone".into(), |shown| shown.state)
        ))),
    }
}

fn run_array(file: &File) -> std::io::Result<()> {
    Ok(ioctl::run_array(file)?)
}

/// Starts without writing to a member: `readonly` into `array_state`. RAID0 writes nothing at its start anyway, so
/// there, and only there, a kernel that refuses may be asked the other way; other levels would resync.
fn run_read_only(root: &Root, file: &File, name: &str, level: i32) -> std::io::Result<()> {
    let state = root.join("/sys/block").join(name).join("md/array_state");
    let written = OpenOptions::new().write(true).open(state).and_then(|mut file| file.write_all(b"readonly"));
    match written {
        Err(error) if level == 0 && kernel::has_personality(root, "raid0") => {
            debug!("{name}: array_state refuses, RUN_ARRAY instead: {error}");
            run_array(file)
        }
        other => other,
    }
}

/// Stops the array and waits until its device is gone, which the kernel sees to after the last close.
pub(super) fn stop_locked(root: &Root, name: &str) -> Result<()> {
    let node = root.join("/dev").join(name);
    let disk = root.join("/sys/block").join(name);
    let deadline = Instant::now() + BUSY_TIMEOUT;
    let mut stopped = None;
    loop {
        if !disk.exists() {
            return Ok(());
        }
        if let Some(since) = stopped
            && Shown::read(root, name).is_none_or(|shown| shown.is_empty())
        {
            // Somebody has it open: without members it is nobody's business.
            if Instant::now() >= since + LINGER {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        let result = File::open(&node).map(|file| ioctl::stop_array(&file));
        let late = Instant::now() >= deadline;
        match result {
            Ok(Ok(())) => stopped = stopped.or(Some(Instant::now())),
            // A udev worker probes what has just appeared, or it is mounted; or it is being deleted already.
            Ok(Err(Errno::EBUSY | Errno::EINTR | Errno::ENXIO | Errno::ENODEV)) if !late => {
                std::thread::sleep(PAUSE);
            }
            Ok(Err(Errno::EBUSY)) => {
                return Err(Error::Other(format!(
                    "{} is in use for longer than {} s and cannot be stopped; findmnt and fuser say by whom",
                    node.display(),
                    BUSY_TIMEOUT.as_secs()
                )));
            }
            Ok(Err(error)) => return Err(Error::io(&node, "stop the array")(error)),
            Err(_) if !late => std::thread::sleep(PAUSE),
            Err(error) => return Err(Error::io(&node, "open the array")(error)),
        }
        if late {
            return Err(Error::Other(format!("{} is still there after it was stopped", node.display())));
        }
    }
}
