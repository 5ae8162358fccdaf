//! Is a device blank? Reading it past the page cache, at places where something would lie.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::md::geometry;

/// Reads are aligned to this: enough for O_DIRECT on any logical block size up to a page (open(2)).
pub const ALIGN: usize = 4096;
/// One read. Small, because several drives are read at once and memory stays below 10 MiB.
pub const CHUNK: usize = 256 << 10;
/// First and last part of a device that are read whole: every signature that blkid knows at a fixed place from the
/// start or the end is there (libblkid, `superblocks/*.c`), but for those in [`LANDMARKS`].
pub const EDGE: u64 = 1 << 20;
/// Samples of [`ALIGN`] bytes between the edges, evenly spread.
const SAMPLES: u64 = 32;
/// The same where there is reason for doubt; see [`Depth::Deep`].
const DEEP_SAMPLES: u64 = 2048;
/// At the start of the data of an md member, under doubt.
const DEEP_DATA: u64 = 64 << 20;
/// Copies that survive when the start of a device is zeroed: btrfs superblocks (64 MiB, 256 GiB), the backup
/// superblocks of ext4 with 4 KiB blocks (groups 1, 3 and 5 of 128 MiB).
const LANDMARKS: [u64; 5] = [64 << 20, 128 << 20, 384 << 20, 640 << 20, 256 << 30];

/// Something to read from; a trait so that tests read from memory.
pub trait ReadAt {
    /// In bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` from byte `offset`.
    ///
    /// # Errors
    /// Whatever the device says; also where it ends too early.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let part = usize::try_from(offset).ok().and_then(|start| self.get(start..start + buffer.len()));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A block device, or a file that stands in for one.
#[derive(Debug)]
pub struct Device {
    file: File,
    size: u64,
}

impl Device {
    /// Opens for reading, past the page cache: what the drive has is what counts.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path, size: u64) -> io::Result<Device> {
        let open = |flags: OFlag| OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
        let file = match open(OFlag::O_DIRECT) {
            // A file of a fixture tree, on a filesystem without direct reads.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => open(OFlag::empty())?,
            other => other?,
        };
        Ok(Device { file, size })
    }
}

impl ReadAt for Device {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// Memory that starts at a multiple of [`ALIGN`], as O_DIRECT wants it.
#[derive(Debug)]
pub struct Buffer {
    storage: Vec<u8>,
    start: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        let storage = vec![0; CHUNK + ALIGN];
        let start = storage.as_ptr().addr().next_multiple_of(ALIGN) - storage.as_ptr().addr();
        Buffer { storage, start }
    }
}

impl Buffer {
    /// The first `length` bytes, at most [`CHUNK`].
    pub fn part(&mut self, length: usize) -> &mut [u8] {
        &mut self.storage[self.start..][..length.min(CHUNK)]
    }
}

/// How hard to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// Edges, landmarks, spread samples.
    #[default]
    Usual,
    /// Another drive holds an md superblock and this one seems blank: is it a fresh drive, or a member whose
    /// superblock was lost? Much more of it is read, because the answer decides over a whole stripe.
    Deep,
}

/// The places to read, as offset and length in bytes; within the device, aligned, edges first.
pub fn places(size: u64, depth: Depth) -> Vec<(u64, u64)> {
    let align = ALIGN as u64;
    let down = |offset: u64| offset / align * align;
    let head = EDGE.min(size);
    let tail = down(size.saturating_sub(EDGE)).max(head);
    let mut places = vec![(0, head)];
    if tail < size {
        places.push((tail, size - tail));
    }
    let mut between = |offset: u64, length: u64| {
        let start = down(offset).max(head);
        let end = start.saturating_add(length).min(tail);
        if start < end {
            places.push((start, end - start));
        }
    };
    // Where the data of an md member start, for a device of this size with the default chunk.
    let data = geometry::data_offset(size / 512, 1024).saturating_mul(512);
    let samples = match depth {
        Depth::Usual => {
            between(data, align);
            SAMPLES
        }
        Depth::Deep => {
            between(data, DEEP_DATA);
            DEEP_SAMPLES
        }
    };
    for landmark in LANDMARKS {
        between(landmark, align);
    }
    let span = tail.saturating_sub(head);
    for index in 1..=samples {
        // In u128: a span of exabytes times the index must not wrap.
        let offset = u128::from(span) * u128::from(index) / u128::from(samples + 1);
        between(head + offset as u64, align);
    }
    places
}

/// Offset of the first place found that is not all zero; none where all are.
///
/// # Errors
/// The first read that fails, with its place.
pub fn first_nonzero(
    device: &(impl ReadAt + ?Sized),
    places: &[(u64, u64)],
    buffer: &mut Buffer,
) -> io::Result<Option<u64>> {
    for (offset, length) in chunks(places) {
        if !is_zero(read(device, offset, length, buffer)?) {
            return Ok(Some(offset));
        }
    }
    Ok(None)
}

/// Reads every place, whatever is in it.
///
/// # Errors
/// The first read that fails, with its place.
pub fn read_all(
    device: &(impl ReadAt + ?Sized),
    places: &[(u64, u64)],
    buffer: &mut Buffer,
) -> io::Result<()> {
    chunks(places).try_for_each(|(offset, length)| read(device, offset, length, buffer).map(drop))
}

/// One read of at most [`CHUNK`] bytes.
///
/// # Errors
/// The system's, with the place.
pub fn read<'b>(
    device: &(impl ReadAt + ?Sized),
    offset: u64,
    length: usize,
    buffer: &'b mut Buffer,
) -> io::Result<&'b [u8]> {
    let part = buffer.part(length);
    device.read_at(offset, part).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot read {length} bytes at byte {offset}: {error}"))
    })?;
    Ok(part)
}

fn chunks(places: &[(u64, u64)]) -> impl Iterator<Item = (u64, usize)> {
    places.iter().flat_map(|&(offset, length)| {
        (0..length).step_by(CHUNK).map(move |at| (offset + at, (length - at).min(CHUNK as u64) as usize))
    })
}

/// True where every byte is zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // By words folded together, page by page: an early exit at each byte would keep the compiler from doing
    // it fast, and at 24 drives 48 MiB are looked through.
    bytes.chunks(ALIGN).all(|page| {
        let (words, rest) = page.as_chunks::<16>();
        let folded = words.iter().fold(0, |all, word| all | u128::from_ne_bytes(*word));
        folded == 0 && rest.iter().all(|byte| *byte == 0)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn places_lie_within_the_device_are_aligned_and_cover_both_edges() {
        for size in [512, 4096, 5000 * 512, 2 * MIB, 64 * MIB + 512, 50_000_000_000, 7_500_000_000_000] {
            for depth in [Depth::Usual, Depth::Deep] {
                let places = places(size, depth);
                for (offset, length) in &places {
                    assert!(offset % 4096 == 0 && *length > 0 && offset + length <= size, "{size} {offset}");
                }
                let covered = |at: u64| places.iter().any(|(o, l)| (*o..o + l).contains(&at));
                assert!(covered(0) && covered((MIB - 1).min(size - 1)), "{size}");
                assert!(covered(size - 1) && covered(size.saturating_sub(MIB)), "{size}");
            }
        }
    }

    #[test]
    fn a_wiped_start_does_not_hide_the_data_of_a_member_or_a_backup_superblock() {
        // 50 GB: data at sector 67584 (facts.md 2).
        let usual = places(50_000_000_000, Depth::Usual);
        let covered = |at: u64| usual.iter().any(|(o, l)| (*o..o + l).contains(&at));
        assert!(covered(67584 * 512 + 1024));
        assert!(covered(64 * MIB + 64) && covered(128 * MIB + 56));
        assert!(places(50_000_000_000, Depth::Deep).len() > 2000);
    }

    #[test]
    fn samples_are_spread_over_the_whole_device() {
        let size = 1u64 << 40;
        let mut offsets: Vec<u64> = places(size, Depth::Usual).iter().map(|(offset, _)| *offset).collect();
        offsets.sort_unstable();
        assert!(offsets.windows(2).all(|pair| pair[1] - pair[0] <= size / 32));
    }

    #[test]
    fn a_read_error_is_an_error_with_its_place_never_blank() {
        struct Bad;
        impl ReadAt for Bad {
            fn size(&self) -> u64 {
                8 * MIB
            }
            fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
                buffer.fill(0);
                if offset >= 7 * MIB { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
            }
        }
        let places = places(Bad.size(), Depth::Usual);
        let error = first_nonzero(&Bad, &places, &mut Buffer::default()).unwrap_err();
        assert!(error.to_string().contains("at byte 7340032"), "{error}");
        assert!(read_all(&Bad, &places, &mut Buffer::default()).is_err());
    }

    #[test]
    fn a_device_that_is_shorter_than_sysfs_says_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MIB).unwrap();
        let device = Device::open(file.path(), 2 * MIB).unwrap();
        assert!(first_nonzero(&device, &places(2 * MIB, Depth::Usual), &mut Buffer::default()).is_err());
        let device = Device::open(file.path(), MIB).unwrap();
        let found = first_nonzero(&device, &places(MIB, Depth::Usual), &mut Buffer::default());
        assert_eq!(found.unwrap(), None);
    }

    proptest! {
        #[test]
        fn one_nonzero_bit_in_any_place_is_seen(
            sectors in 8u64..20_000, pick in any::<prop::sample::Index>(), at in any::<u64>(), bit in 0u8..8,
        ) {
            let size = sectors * 512;
            let places = places(size, Depth::Usual);
            let (offset, length) = places[pick.index(places.len())];
            let mut bytes = vec![0u8; size as usize];
            bytes[(offset + at % length) as usize] = 1 << bit;
            let mut buffer = Buffer::default();
            prop_assert!(first_nonzero(bytes.as_slice(), &places, &mut buffer).unwrap().is_some());
        }

        #[test]
        fn zero_means_zero(bytes in proptest::collection::vec(0u8..2, 0..9000)) {
            prop_assert_eq!(is_zero(&bytes), bytes.iter().all(|b| *b == 0));
        }
    }
}
