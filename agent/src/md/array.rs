//! The life of an array: create, assemble, let write, stop. No mdadm, no child process, no wait for udev.
//!
//! Every function is idempotent and takes mdadm's map lock while it works; the drives must be locked before
//! ([`Holds`]), in that order (see [`super::lock`]).

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::geometry::{self, SUPER_OFFSET_BYTES};
use super::guard::{self, Claimed, kernel_name};
use super::kernel::{self, Shown};
use super::lock::{Holds, MAP_TIMEOUT, MapLock};
use super::superblock::{MAX_LEN, NewSet, Superblock, mdadm_uuid};
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

/// A new RAID0.
#[derive(Clone, Copy, Debug)]
pub struct CreateSpec<'a> {
    /// `/dev/mdN`.
    pub array: &'a Path,
    pub uuid: Uuid,
    /// With the home host, such as `any:md0`.
    pub name: &'a str,
    pub chunk_bytes: u64,
    /// In the order of their roles.
    pub members: &'a [MemberRef],
}

/// An array from its members' superblocks.
#[derive(Clone, Copy, Debug)]
pub struct AssembleSpec<'a> {
    /// `/dev/mdN`, unless the set runs under another name already.
    pub array: &'a Path,
    pub uuid: Uuid,
    /// In any order.
    pub members: &'a [MemberRef],
    /// Start so that nothing is written to any member.
    pub read_only: bool,
}

/// Writes the members' superblocks and runs the array; returns its node.
///
/// Where this set runs already of just these members (an earlier run got that far), nothing is written.
///
/// # Errors
/// The kernel has no md; a member is not the drive meant, in use, or not empty but for this set's superblock: then no
/// member was written. The kernel refuses to run it: then it is stopped, and the superblocks are taken off again.
pub fn create(root: &Root, spec: &CreateSpec<'_>, holds: &Holds) -> Result<PathBuf> {
    require(root, spec.members, holds)?;
    let minor = kernel::minor_of(spec.array)?;
    let _map = MapLock::acquire(root, MAP_TIMEOUT)?;
    if let Some(running) = settle(root, spec.uuid, spec.members)? {
        return Ok(running);
    }
    kernel::require_raid0(root)?;
    let superblocks = superblocks(spec)?;
    // Every member is known to be free, and the kernel to have md, before the first is written.
    let claims: Vec<Claimed> = in_parallel(spec.members, |member| {
        let claimed = guard::claim(root, member)?;
        claimed.ensure_free(Some(&spec.uuid))?;
        Ok(claimed)
    })?;
    let file = bring_up_empty(root, minor)?;
    let written = write(&claims, &superblocks);
    // The kernel wants them for itself.
    drop(claims);
    let result = written.and_then(|()| {
        info!(array = %spec.array.display(), uuid = mdadm_uuid(&spec.uuid), "superblocks written");
        failpoint::hit("md-superblocks").map_err(Error::io(spec.array, "go on"))?;
        start(root, file, minor, 0, spec.members, &superblocks, false)
    });
    if result.is_err() {
        for member in spec.members {
            if let Err(error) = take_back(root, member, &spec.uuid) {
                warn!(device = %member.path.display(), %error, "cannot take the superblock off again");
            }
        }
    }
    result
}

/// One superblock on each, and all of them durable.
fn write(claims: &[Claimed], superblocks: &[Superblock]) -> Result<()> {
    for (claimed, superblock) in claims.iter().zip(superblocks) {
        let mut block = superblock.encode();
        block.resize(MAX_LEN.max(block.len()), 0);
        claimed
            .file
            .write_all_at(&block, SUPER_OFFSET_BYTES)
            .map_err(Error::io(&claimed.path, "write its md superblock"))?;
        failpoint::hit("md-superblock").map_err(Error::io(&claimed.path, "go on"))?;
    }
    in_parallel(claims, |claimed| {
        claimed.file.sync_all().map_err(Error::io(&claimed.path, "flush its md superblock"))
    })
    .map(drop)
}

/// Zeroes the superblock of a set that could not be run: the drive is empty again, as it was found.
fn take_back(root: &Root, member: &MemberRef, uuid: &Uuid) -> Result<()> {
    let claimed = guard::claim(root, member)?;
    match kernel::read_superblock(&claimed.path)? {
        Ok(superblock) if superblock.set_uuid() == *uuid => {}
        _ => return Ok(()),
    }
    let zeroed = claimed.file.write_all_at(&[0; MAX_LEN], SUPER_OFFSET_BYTES);
    zeroed.and_then(|()| claimed.file.sync_all()).map_err(Error::io(&claimed.path, "zero its md superblock"))
}

/// Starts the array of this set; returns its node, which is another than asked for where it runs already.
///
/// # Errors
/// The members' superblocks do not make one complete set; the kernel refuses: then the array is stopped again.
pub fn assemble(root: &Root, spec: &AssembleSpec<'_>, holds: &Holds) -> Result<PathBuf> {
    require(root, spec.members, holds)?;
    let minor = kernel::minor_of(spec.array)?;
    let _map = MapLock::acquire(root, MAP_TIMEOUT)?;
    if let Some(running) = settle(root, spec.uuid, spec.members)? {
        return Ok(running);
    }
    let mut found = Vec::new();
    for member in spec.members {
        guard::ensure_unclaimed(root, member)?;
        let path = root.join(&member.path);
        let superblock = kernel::read_superblock(&path)?
            .map_err(|error| Error::Other(format!("{}: {error}", member.path.display())))?;
        found.push((superblock, member.clone()));
    }
    let level = check_set(spec.uuid, &found)?;
    found.sort_by_key(|(superblock, _)| superblock.role());
    let (superblocks, members): (Vec<Superblock>, Vec<MemberRef>) = found.into_iter().unzip();
    let file = bring_up_empty(root, minor)?;
    start(root, file, minor, level, &members, &superblocks, spec.read_only)
}

/// Lets a read-only array be written. Nothing is done where it may be already.
///
/// # Errors
/// It does not run; the kernel refuses.
pub fn restart_rw(root: &Root, array: &Path) -> Result<()> {
    let node = root.join(array);
    let shown = Shown::read(root, kernel_name(array)).filter(Shown::is_running);
    let shown = shown.ok_or_else(|| Error::Other(format!("{} does not run", array.display())))?;
    if !shown.is_read_only() {
        return Ok(());
    }
    let file = File::open(&node).map_err(Error::io(&node, "open the array"))?;
    match ioctl::restart_array_rw(&file) {
        // It became writable by itself: read-auto does at the first write.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(error) => Err(Error::io(&node, "make the array writable")(error)),
    }
}

/// Stops an array and waits until it is gone. Nothing is done where there is none.
///
/// # Errors
/// It is in use beyond a deadline.
pub fn stop(root: &Root, array: &Path) -> Result<()> {
    let _map = MapLock::acquire(root, MAP_TIMEOUT)?;
    stop_locked(root, kernel_name(array))
}

fn require(root: &Root, members: &[MemberRef], holds: &Holds) -> Result<()> {
    if !root.is_host() && !cfg!(test) {
        return Err(Error::Environment(
            "arrays are made on the host itself only, not under another root".into(),
        ));
    }
    if members.len() < 2 {
        return Err(Error::Other(format!("an array of {} member(s): two or more are needed", members.len())));
    }
    match members.iter().find(|member| !holds.covers(&root.join(&member.path))) {
        Some(member) => Err(Error::Other(format!("{} is not locked: a bug", member.path.display()))),
        None => Ok(()),
    }
}

/// What the kernel has of this set already: the node of the array where it runs complete; an inactive part of it,
/// such as udev's `mdadm -I` leaves behind when a member is late, is stopped.
fn settle(root: &Root, uuid: Uuid, members: &[MemberRef]) -> Result<Option<PathBuf>> {
    let mut wanted: Vec<&str> = members.iter().map(|member| kernel_name(&member.path)).collect();
    wanted.sort_unstable();
    for shown in Shown::read_all(root) {
        let ours = shown.set_uuid(root) == Some(uuid);
        let common = shown.members.iter().any(|member| wanted.contains(&member.as_str()));
        if !ours && !common {
            continue;
        }
        let what = format!("{} (state {}, members {})", shown.name, shown.state, shown.members.join(", "));
        if !ours {
            return Err(Error::Other(format!("{what} holds a member of the set {uuid} and is another set")));
        }
        if shown.members.iter().any(|member| !wanted.contains(&member.as_str())) {
            return Err(Error::Other(format!(
                "{what} has the set's UUID {uuid}, expected {}",
                wanted.join(", ")
            )));
        }
        if shown.is_running() {
            if shown.members != wanted {
                return Err(Error::Other(format!("{what} runs, expected members {}", wanted.join(", "))));
            }
            for member in members {
                guard::verify_identity(root, member)?;
            }
            debug!(array = shown.name, "the set runs already");
            return Ok(Some(shown.path()));
        }
        info!(array = shown.name, members = shown.members.join(","), "stopping a part of the set");
        stop_locked(root, &shown.name)?;
    }
    Ok(None)
}

/// The superblocks of a new set, by role.
fn superblocks(spec: &CreateSpec<'_>) -> Result<Vec<Superblock>> {
    let bad = |what: String| Error::Other(format!("cannot make {}: {what}", spec.array.display()));
    let count = u32::try_from(spec.members.len()).map_err(|_| bad("too many members".into()))?;
    let chunk_sectors = u32::try_from(spec.chunk_bytes / 512)
        .ok()
        .filter(|sectors| u64::from(*sectors) * 512 == spec.chunk_bytes)
        .ok_or_else(|| bad(format!("a chunk of {} bytes", spec.chunk_bytes)))?;
    let first = spec.members.first().map_or(0, |member| member.sectors);
    let set = NewSet {
        set_uuid: spec.uuid,
        name: spec.name.to_owned(),
        ctime: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs()),
        chunk_sectors,
        raid_disks: count,
        data_offset: geometry::data_offset(first, chunk_sectors),
    };
    let superblock = |(role, member): (u32, &MemberRef)| {
        Superblock::new_raid0(&set, role, Uuid::new_v4(), member.sectors)
            .map_err(|what| bad(format!("{} ({}): {what}", member.path.display(), member.serial)))
    };
    (0..count).zip(spec.members).map(superblock).collect()
}

/// The superblocks belong to one complete set of this UUID; returns its level.
fn check_set(uuid: Uuid, found: &[(Superblock, MemberRef)]) -> Result<i32> {
    let Some((first, _)) = found.first() else {
        return Err(Error::Other(format!("the set {uuid} has no members")));
    };
    let bad = |member: &MemberRef, text: String| {
        Err(Error::Other(format!(
            "{} (serial {}): {text}; nothing was started",
            member.path.display(),
            member.serial
        )))
    };
    let mut seen = vec![None; first.raid_disks() as usize];
    for (superblock, member) in found {
        let said = superblock.to_member();
        if superblock.set_uuid() != uuid {
            return bad(member, format!("a member of the set {}, expected {uuid}", said.set_uuid));
        }
        if (said.level, said.raid_disks) != (first.level(), first.raid_disks()) {
            return bad(member, format!("level {} of {}, unlike the others", said.level, said.raid_disks));
        }
        if said.data_offset.saturating_add(said.data_size) > member.sectors {
            return bad(member, format!("data end beyond its {} sectors", member.sectors));
        }
        // None is a spare: the kernel may have it.
        let Some(role) = said.role else { continue };
        match seen.get_mut(role as usize) {
            Some(slot @ None) => *slot = Some(&member.serial),
            Some(Some(other)) => return bad(member, format!("has role {role}, as has serial {other}")),
            None => return bad(member, format!("has role {role} of {}", first.raid_disks())),
        }
    }
    match seen.iter().position(Option::is_none) {
        Some(role) => Err(Error::Other(format!(
            "the set {uuid} lacks the member with role {role} of {}; nothing was started",
            first.raid_disks()
        ))),
        None => Ok(first.level()),
    }
}

/// Adds the members and runs the array. On failure it is stopped again.
fn start(
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
            warn!(array = name, error = %second, "cannot stop what was half assembled");
        }
        return Err(error);
    }
    if !read_only {
        restart_rw(root, &array)?;
    }
    info!(array = name, read_only, "array runs");
    Ok(array)
}

/// The array device, told that superblocks are of version 1.2. One that is just being deleted is waited for.
fn bring_up_empty(root: &Root, minor: u32) -> Result<File> {
    let deadline = Instant::now() + kernel::DEVICE_TIMEOUT;
    loop {
        let file = kernel::bring_up(root, minor)?;
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
            debug!(array = name, %error, "array_state refuses: RUN_ARRAY instead");
            run_array(file)
        }
        other => other,
    }
}

/// Stops the array and waits until its device is gone, which the kernel sees to after the last close.
fn stop_locked(root: &Root, name: &str) -> Result<()> {
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

/// `work` on each, all at once: 24 drives flush in the time of one. The first error in their order is returned.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = items.iter().map(|item| scope.spawn(|| work(item))).collect();
        let joined = threads.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::Other("a worker thread panicked: a bug".into())))
        });
        joined.collect()
    })
}

#[cfg(test)]
#[path = "array_tests.rs"]
mod tests;
