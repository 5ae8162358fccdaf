//! The life of an array: create, assemble, let write, stop. No mdadm, no child process, no wait for udev.
//!
//! Every function is idempotent and takes mdadm's map lock while it works; the drives must be locked before
//! ([`Holds`]), in that order (see [`super::lock`]).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::geometry::{self, SUPER_OFFSET_BYTES};
use super::guard::{self, Claimed, kernel_name};
use super::kernel::{self, Shown};
use super::lock::{Holds, MAP_TIMEOUT, MapLock};
use super::notation::mdadm_uuid;
use super::run::{bring_up_empty, start, stop_locked};
use super::superblock::{MAX_LEN, NewSet, Superblock};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::ioctl::md as ioctl;
use crate::plan::MemberRef;
use crate::root::Root;

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
        let array = spec.array.display();
        info!(device = %array, "superblocks written for {array}, UUID {}", mdadm_uuid(&spec.uuid));
        failpoint::hit("md-superblocks").map_err(Error::io(spec.array, "go on"))?;
        start(root, file, minor, 0, spec.members, &superblocks, false)
    });
    if result.is_err() {
        for member in spec.members {
            if let Err(error) = take_back(root, member, &spec.uuid) {
                let member = member.path.display();
                warn!(device = %member, "{member}: cannot take the superblock off again: {error}");
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
            debug!("{}: the set runs already", shown.name);
            return Ok(Some(shown.path()));
        }
        info!(device = shown.name, "stopping {}, a part of the set: {}", shown.name, shown.members.join(" "));
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
