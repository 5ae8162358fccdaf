//! Where things lie on a member, in sectors of 512 bytes, as mdadm computes it (`super1.c` of mdadm 4.2 to 4.6).

/// Where the v1.2 superblock is: sector 8, byte 4096.
pub const SUPER_OFFSET: u64 = 8;

/// [`SUPER_OFFSET`] in bytes.
pub const SUPER_OFFSET_BYTES: u64 = SUPER_OFFSET * 512;

/// Of the bad block log, in sectors, from the superblock. RAID0 has no bitmap, so it follows at once.
pub const BBLOG_OFFSET: i32 = 8;

/// Length of the bad block log, in sectors.
pub const BBLOG_SIZE: u16 = 8;

/// Room for superblock and bad block log before the headroom.
const METADATA: u64 = 12 * 2;

/// mdadm's most generous headroom for later reshapes: 128 MiB.
const MAX_HEADROOM: u64 = 128 * 1024 * 2;

const MIB: u64 = 2 * 1024;

/// The data offset that mdadm chooses by the **first** member's size and then uses for every member.
///
/// Headroom is a 1024th of the device, at most 128 MiB and at least two chunks, in powers of two; the whole is rounded
/// up to 1 MiB. (mdadm also leaves room for a bitmap, which the rounding always swallows.)
pub fn data_offset(first_member_sectors: u64, chunk_sectors: u32) -> u64 {
    let mut headroom = MAX_HEADROOM;
    while headroom << 10 > first_member_sectors && headroom / 2 >= u64::from(chunk_sectors) * 2 {
        headroom >>= 1;
    }
    (METADATA + bitmap_space(first_member_sectors) + headroom).next_multiple_of(MIB)
}

/// `choose_bm_space`: what mdadm sets aside for a bitmap, by the size of the device.
fn bitmap_space(sectors: u64) -> u64 {
    match sectors {
        ..128 => 0,
        s if s - 128 >= 200 * 1024 * 1024 * 2 => 256,
        s if s - 8 > 8 * 1024 * 1024 * 2 => 128,
        _ => 8,
    }
}

/// Sectors that a member gives to the array, before the kernel rounds down to whole chunks. `None` where the
/// device is too small for a single chunk.
pub fn data_size(sectors: u64, data_offset: u64, chunk_sectors: u32) -> Option<u64> {
    sectors.checked_sub(data_offset).filter(|size| *size >= u64::from(chunk_sectors))
}

/// How many roles mdadm makes room for: what fits into whole sectors behind the 256 bytes of the superblock.
pub fn max_dev(raid_disks: u32) -> u32 {
    (256 + 2 * raid_disks).next_multiple_of(512).saturating_sub(256) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u32 = 1024;

    /// Each pair was read from `mdadm --examine` of an array that mdadm 4.6 made of sparse files of that size.
    #[test]
    fn data_offset_is_mdadms_at_every_size() {
        for (bytes, offset) in include!("../../tests/golden/md/data_offset.in") {
            assert_eq!(data_offset(bytes / 512, CHUNK), offset, "{bytes} bytes");
        }
    }

    #[test]
    fn a_member_too_small_for_one_chunk_has_no_data_size() {
        assert_eq!(data_size(4096, 2048, CHUNK), Some(2048));
        assert_eq!(data_size(2048 + 1023, 2048, CHUNK), None);
        assert_eq!(data_size(100, 2048, CHUNK), None);
    }

    #[test]
    fn the_role_table_fills_whole_sectors() {
        assert_eq!((max_dev(2), max_dev(128), max_dev(129)), (128, 128, 384));
    }
}
