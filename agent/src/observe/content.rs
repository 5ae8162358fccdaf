//! What is on a device: blank, an md member, a filesystem, something foreign, or bytes that nobody knows.

use std::io;
use std::path::Path;

use tracing::debug;
use uuid::Uuid;

use super::blank::{self, Buffer, Depth, Device, ReadAt};
use super::blkid::{Answer, Prober};
use super::{Content, Filesystem, Member};
use crate::error::Result;
use crate::md::geometry::SUPER_OFFSET_BYTES;
use crate::md::superblock::{ParseError, Superblock};

/// What our own eyes say, before anybody is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Blank,
    /// A member, and the 4 KiB before its superblock are zero, as mdadm and we leave them.
    Member(Member),
    /// A member, and something lies before its superblock: a stale boot sector, or a second signature.
    MemberAndMore(Member),
    /// An md superblock that is damaged, of another version, or behind a boot sector.
    OtherRaid(String),
    /// Bytes. blkid may know.
    Bytes,
}

/// What is on the device at `path`, of `sectors` sectors of 512 bytes.
///
/// `mounted_as` is the filesystem type that the kernel has mounted from it, if any: see [`mounted`].
///
/// # Errors
/// blkid is needed and not installed. A device that cannot be read is [`Content::Unreadable`].
pub fn examine(path: &Path, sectors: u64, mounted_as: Option<&str>, prober: &dyn Prober) -> Result<Content> {
    let unreadable = |error: io::Error| Content::Unreadable { error: error.to_string() };
    let device = match Device::open(path, sectors.saturating_mul(512)) {
        Ok(device) => device,
        Err(error) => return Ok(unreadable(error)),
    };
    let mut buffer = Buffer::default();
    if let Some(kind) = mounted_as {
        match mounted(&device, kind, &mut buffer) {
            Ok(Some(filesystem)) => return Ok(Content::Filesystem(filesystem)),
            Ok(None) => {}
            Err(error) => return Ok(unreadable(error)),
        }
    }
    let seen = match look(&device, Depth::Usual, &mut buffer) {
        Ok(seen) => seen,
        Err(error) => return Ok(unreadable(error)),
    };
    debug!(device = %path.display(), "{}: {seen:?}", path.display());
    let probe = || prober.probe(path);
    Ok(match seen {
        Seen::Blank => Content::Blank,
        Seen::Member(member) => Content::Member(member),
        Seen::OtherRaid(signature) => Content::Foreign { signature },
        Seen::MemberAndMore(member) => match probe()? {
            Answer::RaidMember => Content::Member(member),
            Answer::Named(Content::Filesystem(other)) => {
                Content::Foreign { signature: format!("linux_raid_member and {}", other.kind) }
            }
            Answer::Named(content) => content,
            Answer::Nothing => Content::Foreign { signature: "linux_raid_member and unknown data".into() },
        },
        Seen::Bytes => match probe()? {
            Answer::RaidMember => Content::Foreign { signature: "linux_raid_member".into() },
            Answer::Named(Content::Filesystem(found)) => match is_half_made(&device, &found, &mut buffer) {
                Ok(false) => Content::Filesystem(found),
                Ok(true) => Content::HalfMade(found),
                Err(error) => unreadable(error),
            },
            Answer::Named(content) => content,
            // blkid says the same where it could not read: only what we could read ourselves is just bytes.
            Answer::Nothing => {
                let places = blank::places(device.size(), Depth::Usual);
                match blank::read_all(&device, &places, &mut buffer) {
                    Ok(()) => Content::Unknown,
                    Err(error) => unreadable(error),
                }
            }
        },
    })
}

/// True where mkfs has not finished this filesystem. blkid, to which an xfs is whole as soon as it has a superblock, does
/// not say so; mkfs.ext4 writes the signature last, so that a half-made ext4 has none.
///
/// # Errors
/// A read that fails.
fn is_half_made(
    device: &(impl ReadAt + ?Sized),
    found: &Filesystem,
    buffer: &mut Buffer,
) -> io::Result<bool> {
    // sb_inprogress of struct xfs_dsb (fs/xfs/libxfs/xfs_format.h): set from the first write of the superblock on until
    // the last one of mkfs. The kernel calls such a filesystem corrupt (xfs_validate_sb_common).
    const IN_PROGRESS: usize = 126;
    if found.kind != "xfs" {
        return Ok(false);
    }
    let block = blank::read(device, 0, blank::ALIGN, buffer)?;
    Ok(block.get(IN_PROGRESS) != Some(&0))
}

/// Looks once more, and much harder, at a device that seemed blank.
pub fn examine_deeply(path: &Path, sectors: u64) -> Content {
    let deep = Device::open(path, sectors.saturating_mul(512))
        .and_then(|device| look(&device, Depth::Deep, &mut Buffer::default()));
    match deep {
        Ok(Seen::Blank) => Content::Blank,
        Ok(_) => Content::Unknown,
        Err(error) => Content::Unreadable { error: error.to_string() },
    }
}

/// The judgement of our own eyes: the first 8 KiB first, the rest only where they are zero.
///
/// # Errors
/// A read that fails, with its place.
pub fn look(device: &(impl ReadAt + ?Sized), depth: Depth, buffer: &mut Buffer) -> io::Result<Seen> {
    let before = SUPER_OFFSET_BYTES as usize;
    let length = (2 * before).min(usize::try_from(device.size()).unwrap_or(usize::MAX));
    let start = blank::read(device, 0, length, buffer)?;
    let (first, superblock) = start.split_at(before.min(length));
    match Superblock::parse(superblock) {
        Ok(superblock) => {
            let member = superblock.to_member();
            let end = member.data_offset.saturating_add(member.data_size);
            if end > device.size() / 512 {
                return Ok(Seen::OtherRaid(format!(
                    "damaged linux_raid_member (its data end at sector {end}, the device at {})",
                    device.size() / 512
                )));
            }
            return Ok(match first.get(510..512) {
                _ if blank::is_zero(first) => Seen::Member(member),
                // A partition table over a former member, or a former table under a member? blkid passes over it.
                Some(&[0x55, 0xaa]) => Seen::OtherRaid("linux_raid_member and a boot sector".into()),
                _ => Seen::MemberAndMore(member),
            });
        }
        Err(ParseError::NoMagic) => {}
        Err(ParseError::OtherVersion(version)) => {
            return Ok(Seen::OtherRaid(format!("linux_raid_member (version {version})")));
        }
        Err(error) => return Ok(Seen::OtherRaid(format!("damaged linux_raid_member ({error})"))),
    }
    if !blank::is_zero(start) {
        return Ok(Seen::Bytes);
    }
    let places = blank::places(device.size(), depth);
    Ok(match blank::first_nonzero(device, &places, buffer)? {
        None => Seen::Blank,
        Some(_) => Seen::Bytes,
    })
}

/// UUID and label of a filesystem that the kernel has mounted, straight from its superblock.
///
/// A short cut past blkid that is right only there: the kernel has vouched for the type, so nothing else can be
/// the truth, and at every boot with nothing to do it saves the dearest thing we would do. None where the
/// superblock is not of that type.
///
/// # Errors
/// A read that fails.
pub fn mounted(
    device: &(impl ReadAt + ?Sized),
    kind: &str,
    buffer: &mut Buffer,
) -> io::Result<Option<Filesystem>> {
    if device.size() < blank::ALIGN as u64 {
        return Ok(None);
    }
    let block = blank::read(device, 0, blank::ALIGN, buffer)?;
    Ok(superblock_of(kind, block))
}

/// `block` is the first 4 KiB of the device.
fn superblock_of(kind: &str, block: &[u8]) -> Option<Filesystem> {
    let at = |offset: usize, length: usize| block.get(offset..offset + length);
    // ext4: struct ext4_super_block at byte 1024, s_magic 0x38, s_uuid 0x68, s_volume_name 0x78 (fs/ext4/ext4.h).
    // xfs: struct xfs_dsb at byte 0, sb_magicnum 0, sb_uuid 32, sb_fname 108 (fs/xfs/libxfs/xfs_format.h).
    let (magic, uuid, label) = match kind {
        "ext4" => (at(1080, 2)? == [0x53, 0xef], at(1128, 16)?, at(1144, 16)?),
        "xfs" => (at(0, 4)? == *b"XFSB", at(32, 16)?, at(108, 12)?),
        _ => return None,
    };
    let uuid = Uuid::from_slice(uuid).ok().filter(|uuid| magic && !uuid.is_nil())?;
    let label = label.split(|byte| *byte == 0).next().unwrap_or_default();
    let label = String::from_utf8_lossy(label).into_owned();
    Some(Filesystem {
        kind: kind.to_owned(),
        uuid: uuid.to_string(),
        label: Some(label).filter(|label| !label.is_empty()),
    })
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
