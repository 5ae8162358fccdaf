//! Wiping drives that are ours: looked at once more under an exclusive claim, all of them, before the first byte.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::FallocateFlags;

use super::judge::Expect;
use crate::error::{Error, Result};
use crate::md::guard;
use crate::md::lock::Holds;
use crate::md::superblock::{MAX_LEN, Superblock};
use crate::observe::blank;
use crate::observe::content;
use crate::plan::MemberRef;
use crate::root::Root;

/// How long all drives together may take to be zeroed beyond their signatures. A drive is asked to do that
/// by itself (Write Zeroes), which takes seconds; one that cannot is left at that.
const ZERO_TIME: Duration = Duration::from_secs(60);
/// One request, in bytes: the deadline is looked at between two.
const PIECE: u64 = 1 << 30;

/// Wipes `drives`: first every signature, then as much of the rest as [`ZERO_TIME`] allows. Returns notes.
///
/// # Errors
/// A drive is another one now, is in use, or does not hold what is expected: nothing was written then. A write that fails.
pub fn wipe(root: &Root, drives: &[(MemberRef, Expect)]) -> Result<Vec<String>> {
    // udev keeps off until all are done, then finds nothing.
    let _holds = Holds::acquire(root, drives.iter().map(|(drive, _)| &drive.path), None)?;
    let mut claimed = Vec::new();
    for (drive, expect) in drives {
        let claim = guard::claim(root, drive)?;
        let places = check(&claim.path, drive, expect)?;
        claimed.push((claim, drive, places));
    }
    for (claim, _, places) in &claimed {
        zero(&claim.file, places).map_err(Error::io(&claim.path, "wipe"))?;
    }
    let deadline = Instant::now() + ZERO_TIME;
    let notes = std::thread::scope(|scope| {
        let work: Vec<_> = claimed
            .iter()
            .map(|(claim, drive, _)| {
                let note = move || zero_rest(&claim.file, drive.sectors * 512, deadline);
                (drive, scope.spawn(note))
            })
            .collect();
        work.into_iter()
            .filter_map(|(drive, thread)| {
                let why = match thread.join() {
                    Ok(Ok(())) => return None,
                    Ok(Err(why)) => why,
                    Err(_) => "a thread panicked".into(),
                };
                Some(format!(
                    "{} ({}): its signatures are wiped, its other blocks were not all zeroed ({why}); to a later \
                     setup by hand they are unknown data (`--unknown-data format`)",
                    drive.path.display(),
                    drive.serial
                ))
            })
            .collect()
    });
    Ok(notes)
}

/// That the drive still holds what our record says; returns where its signatures lie, as offset and length in
/// bytes: both ends, and where the data of a member start, which is where the first one has the filesystem's.
fn check(path: &Path, drive: &MemberRef, expect: &Expect) -> Result<Vec<(u64, u64)>> {
    let size = drive.sectors * 512;
    let edge = blank::EDGE.min(size);
    let mut places = vec![(0, edge), (size - edge, edge)];
    let device = blank::Device::open(path, drive.sectors * 512).map_err(Error::io(path, "open"))?;
    let mut buffer = blank::Buffer::default();
    let found = match expect {
        Expect::Set(uuid) => {
            let start = blank::read(&device, 4096, MAX_LEN.next_multiple_of(blank::ALIGN), &mut buffer)
                .map_err(Error::io(path, "read the md superblock"))?;
            match Superblock::parse(start) {
                Ok(superblock) if superblock.set_uuid() == *uuid => {
                    let data = superblock.to_member().data_offset.saturating_mul(512).min(size);
                    places.push((data, edge.min(size - data)));
                    return Ok(places);
                }
                Ok(superblock) => format!("a member of md set {}", superblock.set_uuid()),
                Err(_) => "no md superblock".into(),
            }
        }
        Expect::Filesystem { kind, uuid } => {
            let found = content::mounted(&device, kind, &mut buffer)
                .map_err(Error::io(path, "read the superblock"))?;
            match found {
                Some(found) if found.uuid.eq_ignore_ascii_case(uuid) => return Ok(places),
                Some(found) => format!("{kind} filesystem {}", found.uuid),
                None => format!("no {kind} filesystem"),
            }
        }
    };
    Err(Error::Other(format!(
        "{} (serial {}): expected what nvme-agent made, {expect:?}, found {found}; nothing was wiped",
        path.display(),
        drive.serial
    )))
}

fn zero(file: &File, places: &[(u64, u64)]) -> std::io::Result<()> {
    let zeros = vec![0; blank::EDGE as usize];
    for (offset, length) in places {
        file.write_all_at(&zeros[..*length as usize], *offset)?;
    }
    file.sync_all()
}

/// Has the drive zero everything. `PUNCH_HOLE` on a block device is "zeros afterwards, by the device's own means,
/// or an error" (blkdev_fallocate(), block/fops.c): never a slow write of terabytes.
fn zero_rest(file: &File, size: u64, deadline: Instant) -> Result<(), String> {
    let mut offset = 0;
    while offset < size {
        if Instant::now() > deadline {
            return Err(format!("{} of {} GiB in {} s", offset >> 30, size >> 30, ZERO_TIME.as_secs()));
        }
        let length = PIECE.min(size - offset);
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, flags, offset, length).map_err(|e| e.to_string())?;
        offset += length;
    }
    file.sync_all().map_err(|e| e.to_string())
}

#[cfg(test)]
#[path = "wipe_tests.rs"]
mod tests;
