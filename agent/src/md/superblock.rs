//! The md superblock, version 1.2: bytes to struct and back. Pure, no I/O.
//!
//! Layout, names and constants: `struct mdp_superblock_1` in the kernel's `include/uapi/linux/raid/md_p.h`.
//!
//! **UUIDs.** The 16 bytes of `set_uuid` in the order in which they lie on the disk are the bytes of a [`Uuid`]. So
//! `Uuid` prints them as blkid and sysfs `md/uuid` do (`1717a165-d6c1-10a9-c883-3362ca4bb572`); mdadm prints the same
//! hex digits in four groups (`1717a165:d6c110a9:c8833362:ca4bb572`): [`super::notation`].

use uuid::Uuid;
use zerocopy::byteorder::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::geometry;
use crate::observe::Member;

/// `MD_SB_MAGIC`.
pub const MAGIC: u32 = 0xa92b_4efc;
/// Bytes to read at [`geometry::SUPER_OFFSET_BYTES`] for [`Superblock::parse`]: all that a v1.2 superblock may take.
pub const MAX_LEN: usize = 4096;
/// Roles that fit into [`MAX_LEN`]: more is refused by the kernel too (`super_1_load`).
const MAX_ROLES: u32 = (MAX_LEN as u32 - HEADER_LEN as u32) / 2;
const HEADER_LEN: usize = size_of::<Header>();
/// `MD_DISK_ROLE_SPARE`; also what mdadm fills the table with.
const ROLE_SPARE: u16 = 0xffff;
/// `MD_DISK_ROLE_JOURNAL`: this and everything above it is no data role.
const ROLE_JOURNAL: u16 = 0xfffd;
/// `MD_FEATURE_RAID0_LAYOUT`: `layout` holds how zones of unequal members are laid out.
const FEATURE_RAID0_LAYOUT: u32 = 0x1000;
/// `RAID0_ORIG_LAYOUT`, mdadm's default.
const RAID0_ORIG_LAYOUT: u32 = 1;
/// Bits of `ctime` and `utime` that are seconds.
const SECONDS_MASK: u64 = (1 << 40) - 1;

/// The fixed part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: U32,
    major_version: U32,
    feature_map: U32,
    pad0: U32,
    set_uuid: [u8; 16],
    set_name: [u8; 32],
    ctime: U64,
    level: I32,
    layout: U32,
    size: U64,
    chunksize: U32,
    raid_disks: U32,
    bitmap_offset: U32,
    new_level: U32,
    reshape_position: U64,
    delta_disks: U32,
    new_layout: U32,
    new_chunk: U32,
    new_offset: U32,
    data_offset: U64,
    data_size: U64,
    super_offset: U64,
    recovery_offset: U64,
    dev_number: U32,
    cnt_corrected_read: U32,
    device_uuid: [u8; 16],
    devflags: u8,
    bblog_shift: u8,
    bblog_size: U16,
    bblog_offset: I32,
    utime: U64,
    events: U64,
    resync_offset: U64,
    sb_csum: U32,
    max_dev: U32,
    /// From Linux 6.19 on; padding before, and a kernel that does not know it refuses what is not zero.
    logical_block_size: U32,
    pad3: [u8; 28],
}

// The offsets that facts and kernel agree on; a slip in the struct does not compile.
const _: () = assert!(HEADER_LEN == 256);
const _: () = assert!(std::mem::offset_of!(Header, data_offset) == 128);
const _: () = assert!(std::mem::offset_of!(Header, device_uuid) == 168);
const _: () = assert!(std::mem::offset_of!(Header, utime) == 192);
const _: () = assert!(std::mem::offset_of!(Header, logical_block_size) == 224);

/// A v1.2 superblock that passed every check of [`Superblock::parse`], or a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    header: Header,
    /// `dev_roles`: role by device number, `max_dev` of them.
    roles: Vec<u16>,
}

/// Why bytes are no v1.2 superblock. Only [`ParseError::NoMagic`] says that md never wrote here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("no md magic number")]
    NoMagic,
    #[error("an md superblock that is cut off after {found} of {expected} bytes")]
    Truncated { expected: usize, found: usize },
    #[error("an md superblock with a bad checksum: stored {stored:08x}, computed {computed:08x}")]
    BadChecksum { stored: u32, computed: u32 },
    #[error("an md superblock of version {0}")]
    OtherVersion(String),
    #[error("an inconsistent md superblock: {0}")]
    Inconsistent(String),
}

/// What all members of a new set share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSet {
    pub set_uuid: Uuid,
    /// With the home host in front, such as `any:md0`. At most 31 bytes.
    pub name: String,
    /// Creation time in seconds since 1970.
    pub ctime: u64,
    /// In sectors of 512 bytes.
    pub chunk_sectors: u32,
    pub raid_disks: u32,
    /// In sectors: [`geometry::data_offset`] of the first member.
    pub data_offset: u64,
}

impl Superblock {
    /// Reads `bytes`, which start at byte 4096 of the device. Give [`MAX_LEN`] bytes where the device has them.
    ///
    /// # Errors
    /// See [`ParseError`]. Every check that the kernel makes at assembly is made here, so that nothing that it would
    /// refuse is taken for a member; no error but `NoMagic` means "not md".
    pub fn parse(bytes: &[u8]) -> Result<Superblock, ParseError> {
        let magic = match bytes.get(..4) {
            Some(&[a, b, c, d]) => [a, b, c, d],
            _ => return Err(ParseError::NoMagic),
        };
        if magic == MAGIC.to_be_bytes() {
            return Err(ParseError::OtherVersion("0.90 or 1.x in big-endian byte order".into()));
        }
        if magic != MAGIC.to_le_bytes() {
            return Err(ParseError::NoMagic);
        }
        let truncated = |expected| ParseError::Truncated { expected, found: bytes.len() };
        let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| truncated(HEADER_LEN))?;
        match header.major_version.get() {
            1 => {}
            0 => return Err(ParseError::OtherVersion("0.90".into())),
            major => return Err(ParseError::OtherVersion(format!("{major}.x"))),
        }
        let max_dev = header.max_dev.get();
        if max_dev > MAX_ROLES {
            return Err(ParseError::Inconsistent(format!(
                "room for {max_dev} devices, at most {MAX_ROLES} fit"
            )));
        }
        let table = 2 * max_dev as usize;
        let table = rest.get(..table).ok_or_else(|| truncated(HEADER_LEN + table))?;
        let roles = table.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        let superblock = Superblock { header, roles };
        let (stored, computed) = (header.sb_csum.get(), superblock.checksum());
        if stored != computed {
            return Err(ParseError::BadChecksum { stored, computed });
        }
        superblock.check()?;
        Ok(superblock)
    }

    /// What has a valid checksum and yet cannot be.
    fn check(&self) -> Result<(), ParseError> {
        let header = &self.header;
        let bad = |text: String| Err(ParseError::Inconsistent(text));
        let raid_disks = header.raid_disks.get();
        let chunk = header.chunksize.get();
        let (offset, size) = (header.data_offset.get(), header.data_size.get());
        match header.super_offset.get() {
            geometry::SUPER_OFFSET => {}
            0 => return Err(ParseError::OtherVersion("1.1".into())),
            _ => return Err(ParseError::OtherVersion("1.0, copied to where 1.2 lies".into())),
        }
        if raid_disks == 0 || raid_disks > MAX_ROLES {
            return bad(format!("a set of {raid_disks} devices"));
        }
        if self.level() == 0 && chunk == 0 {
            return bad("RAID0 without a chunk size".into());
        }
        let end = geometry::SUPER_OFFSET + self.len().div_ceil(512) as u64;
        if offset < end {
            return bad(format!("data begin at sector {offset}, within the superblock that ends at {end}"));
        }
        if offset.checked_add(size).is_none_or(|end| end > u64::MAX / 512) || size < u64::from(chunk).max(8) {
            return bad(format!("{size} sectors of data at {offset}"));
        }
        match self.role() {
            Some(role) if role >= raid_disks => bad(format!("role {role} in a set of {raid_disks} devices")),
            _ => Ok(()),
        }
    }

    /// The superblock of the member with this role in a new RAID0 set, as `mdadm --create` writes it.
    ///
    /// The measure is mdadm 4.4 to 4.6. mdadm 4.2 leaves out the layout bit where all members are of one size; with
    /// the bit, kernels before 5.4 would refuse the set, and no later one ever has to guess.
    ///
    /// # Errors
    /// In words, for a set that mdadm or the kernel would refuse: no or too many members, a role outside of the set,
    /// a name that does not fit, no chunk, a device without room for one.
    pub fn new_raid0(
        set: &NewSet,
        role: u32,
        device_uuid: Uuid,
        device_sectors: u64,
    ) -> Result<Superblock, String> {
        if set.raid_disks == 0 || set.raid_disks > MAX_ROLES || role >= set.raid_disks {
            return Err(format!("role {role} of {} members", set.raid_disks));
        }
        if set.chunk_sectors < 8 || !set.chunk_sectors.is_power_of_two() {
            return Err(format!(
                "a chunk of {} sectors is no power of two of 4 KiB or more",
                set.chunk_sectors
            ));
        }
        let mut set_name = [0; 32];
        let name = set.name.as_bytes();
        if name.len() >= set_name.len() || name.contains(&0) {
            return Err(format!("the set name {:?} is longer than 31 bytes", set.name));
        }
        set_name[..name.len()].copy_from_slice(name);
        let data_size = geometry::data_size(device_sectors, set.data_offset, set.chunk_sectors)
            .ok_or_else(|| format!("{device_sectors} sectors are too few for data at {}", set.data_offset))?;
        let max_dev = geometry::max_dev(set.raid_disks);
        let time = U64::new(set.ctime & SECONDS_MASK);
        let mut header = Header::new_zeroed();
        header.magic = U32::new(MAGIC);
        header.major_version = U32::new(1);
        header.feature_map = U32::new(FEATURE_RAID0_LAYOUT);
        header.set_uuid = set.set_uuid.into_bytes();
        header.set_name = set_name;
        header.ctime = time;
        header.layout = U32::new(RAID0_ORIG_LAYOUT);
        header.chunksize = U32::new(set.chunk_sectors);
        header.raid_disks = U32::new(set.raid_disks);
        header.data_offset = U64::new(set.data_offset);
        header.data_size = U64::new(data_size);
        header.super_offset = U64::new(geometry::SUPER_OFFSET);
        header.dev_number = U32::new(role);
        header.device_uuid = device_uuid.into_bytes();
        header.bblog_size = U16::new(geometry::BBLOG_SIZE);
        header.bblog_offset = I32::new(geometry::BBLOG_OFFSET);
        header.utime = time;
        header.resync_offset = U64::new(u64::MAX);
        header.max_dev = U32::new(max_dev);
        let mut roles = vec![ROLE_SPARE; max_dev as usize];
        for (slot, role) in roles.iter_mut().zip(0..set.raid_disks as u16) {
            *slot = role;
        }
        Ok(Superblock { header, roles })
    }

    /// The bytes, with the checksum computed anew, to be written at byte 4096.
    pub fn encode(&self) -> Vec<u8> {
        let mut header = self.header;
        header.sb_csum = U32::new(self.checksum());
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(self.roles.iter().flat_map(|role| role.to_le_bytes()));
        bytes
    }

    /// Length in bytes.
    fn len(&self) -> usize {
        HEADER_LEN + 2 * self.roles.len()
    }

    /// `calc_sb_1_csum`: little-endian words summed into 64 bits, the field itself as zero, then folded once.
    fn checksum(&self) -> u32 {
        let mut header = self.header;
        header.sb_csum = U32::new(0);
        let words = header.as_bytes().chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        let pairs = self.roles.chunks(2).map(|pair| match *pair {
            [low, high] => u32::from(low) | u32::from(high) << 16,
            [low] => u32::from(low),
            _ => 0,
        });
        let sum: u64 = words.chain(pairs).map(u64::from).sum();
        (sum as u32).wrapping_add((sum >> 32) as u32)
    }

    pub fn set_uuid(&self) -> Uuid {
        Uuid::from_bytes(self.header.set_uuid)
    }

    /// 0 for RAID0, 10 for RAID10, -1 for linear ...
    pub fn level(&self) -> i32 {
        self.header.level.get()
    }

    pub fn raid_disks(&self) -> u32 {
        self.header.raid_disks.get()
    }

    /// `dev_number`: this device's place in the role table.
    pub fn number(&self) -> u32 {
        self.header.dev_number.get()
    }

    /// None for a spare, a faulty device and a journal.
    pub fn role(&self) -> Option<u32> {
        let role = *self.roles.get(usize::try_from(self.number()).ok()?)?;
        (role < ROLE_JOURNAL).then_some(u32::from(role))
    }

    /// In bytes: what a kernel of 6.19 or later recorded as the array's logical block size; 0 where none did. An
    /// older kernel refuses (`EINVAL`) a member where it is not 0.
    pub fn logical_block_size(&self) -> u32 {
        self.header.logical_block_size.get()
    }

    /// The set's name as text; bytes that are no UTF-8 become U+FFFD.
    pub fn set_name(&self) -> String {
        let name = self.header.set_name.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }

    /// As observe hands it to plan.
    pub fn to_member(&self) -> Member {
        Member {
            set_uuid: self.set_uuid(),
            device_uuid: Uuid::from_bytes(self.header.device_uuid),
            set_name: self.set_name(),
            level: self.level(),
            raid_disks: self.raid_disks(),
            role: self.role(),
            chunk_sectors: self.header.chunksize.get(),
            events: self.header.events.get(),
            data_offset: self.header.data_offset.get(),
            data_size: self.header.data_size.get(),
        }
    }
}

#[cfg(test)]
#[path = "superblock_tests.rs"]
mod tests;
