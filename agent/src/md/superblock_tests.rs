//! Tests of the parent module: bytes made by mdadm are the measure.

use proptest::prelude::*;

use super::*;
use crate::md::notation::mdadm_uuid;

/// A superblock that mdadm 4.6 wrote, with the size of its device in bytes and of the set's first device.
struct Golden {
    name: &'static str,
    bytes: &'static [u8],
    device: u64,
    first: u64,
    members: u32,
    role: u32,
}

macro_rules! golden {
    ($name:literal, $device:expr, $first:expr, $members:expr, $role:expr) => {
        Golden {
            name: $name,
            bytes: include_bytes!(concat!("../../tests/golden/md/", $name, ".sb")),
            device: $device,
            first: $first,
            members: $members,
            role: $role,
        }
    };
}

const GIB4: u64 = 4 << 30;

const GOLDEN: [Golden; 13] = [
    golden!("4g-0", GIB4, GIB4, 2, 0),
    golden!("4g-1", GIB4, GIB4, 2, 1),
    golden!("75g-0", 75_000_000_000, 75_000_000_000, 2, 0),
    golden!("75g-1", 75_000_000_000, 75_000_000_000, 2, 1),
    golden!("150g-0", 150_000_000_000, 150_000_000_000, 2, 0),
    golden!("150g-1", 150_000_000_000, 150_000_000_000, 2, 1),
    golden!("3750g-0", 3_750_000_000_000, 3_750_000_000_000, 2, 0),
    golden!("3750g-1", 3_750_000_000_000, 3_750_000_000_000, 2, 1),
    golden!("7500g-0", 7_500_000_000_000, 7_500_000_000_000, 2, 0),
    golden!("7500g-1", 7_500_000_000_000, 7_500_000_000_000, 2, 1),
    golden!("unequal-0", GIB4, GIB4, 3, 0),
    golden!("unequal-1", 75_000_000_000, GIB4, 3, 1),
    golden!("unequal-2", 1 << 30, GIB4, 3, 2),
];

fn set(members: u32) -> NewSet {
    NewSet {
        set_uuid: Uuid::from_u128(0x1717a165_d6c110a9_c8833362_ca4bb572),
        name: "any:md0".into(),
        ctime: 1_700_000_000,
        chunk_sectors: 1024,
        raid_disks: members,
        data_offset: 10240,
    }
}

fn ours() -> Vec<u8> {
    Superblock::new_raid0(&set(2), 1, Uuid::from_u128(7), GIB4 / 512).unwrap().encode()
}

/// `bytes` with a checksum that fits again, so that only the other checks stand in the way.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[216..220].fill(0);
    let len = 256 + 2 * u32::from_le_bytes(bytes[220..224].try_into().unwrap()) as usize;
    let sum: u64 = bytes[..len]
        .chunks(4)
        .map(|w| {
            let mut word = [0; 4];
            word[..w.len()].copy_from_slice(w);
            u64::from(u32::from_le_bytes(word))
        })
        .sum();
    bytes[216..220].copy_from_slice(&((sum as u32).wrapping_add((sum >> 32) as u32)).to_le_bytes());
    bytes
}

fn patched(at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = ours();
    bytes[at..at + value.len()].copy_from_slice(value);
    sealed(bytes)
}

#[test]
fn a_new_superblock_is_mdadms_byte_for_byte() {
    for golden in GOLDEN {
        let theirs = Superblock::parse(golden.bytes).unwrap();
        let set = NewSet {
            set_uuid: theirs.set_uuid(),
            ctime: theirs.header.ctime.get(),
            data_offset: geometry::data_offset(golden.first / 512, 1024),
            ..set(golden.members)
        };
        let device_uuid = Uuid::from_bytes(theirs.header.device_uuid);
        let ours = Superblock::new_raid0(&set, golden.role, device_uuid, golden.device / 512).unwrap();
        let bytes = ours.encode();
        assert_eq!(bytes, golden.bytes[..bytes.len()], "{}", golden.name);
        assert!(
            golden.bytes[bytes.len()..].iter().all(|byte| *byte == 0),
            "{}: mdadm wrote more",
            golden.name
        );
    }
}

#[test]
fn mdadms_superblock_is_read_as_mdadm_explains_it() {
    let member = Superblock::parse(GOLDEN[11].bytes).unwrap().to_member();
    assert_eq!(member.set_name, "any:md0");
    assert_eq!((member.level, member.raid_disks, member.role), (0, 3, Some(1)));
    assert_eq!((member.chunk_sectors, member.data_offset, member.events), (1024, 10240, 0));
    assert_eq!(member.data_size, 75_000_000_000 / 512 - 10240);
}

#[test]
fn the_uuid_reads_like_mdadms_and_blkids() {
    let bytes = ours();
    assert_eq!(bytes[16..20], [0x17, 0x17, 0xa1, 0x65]);
    let uuid = Superblock::parse(&bytes).unwrap().set_uuid();
    assert_eq!(uuid.to_string(), "1717a165-d6c1-10a9-c883-3362ca4bb572");
    assert_eq!(mdadm_uuid(&uuid), "1717a165:d6c110a9:c8833362:ca4bb572");
}

#[test]
fn only_bytes_without_the_magic_number_are_called_not_md() {
    assert_eq!(Superblock::parse(&[0; 4096]), Err(ParseError::NoMagic));
    assert_eq!(Superblock::parse(&[]), Err(ParseError::NoMagic));
    let mut bytes = ours();
    bytes[33] ^= 1;
    assert!(matches!(Superblock::parse(&bytes), Err(ParseError::BadChecksum { .. })));
    let bytes = ours();
    for cut in [4, 255, 256, 511] {
        assert!(matches!(Superblock::parse(&bytes[..cut]), Err(ParseError::Truncated { .. })), "{cut}");
    }
}

#[test]
fn other_versions_are_named() {
    let version = |bytes: &[u8]| match Superblock::parse(bytes) {
        Err(ParseError::OtherVersion(version)) => version,
        other => panic!("{other:?}"),
    };
    assert_eq!(version(&patched(4, &0u32.to_le_bytes())), "0.90");
    assert_eq!(version(&patched(4, &2u32.to_le_bytes())), "2.x");
    assert_eq!(version(&patched(144, &0u64.to_le_bytes())), "1.1");
    assert!(version(&patched(144, &7_000_000u64.to_le_bytes())).starts_with("1.0"));
    assert!(version(&patched(0, &MAGIC.to_be_bytes())).contains("big-endian"));
}

#[test]
fn hostile_superblocks_with_a_valid_checksum_are_refused_in_words() {
    let cases: [(&str, usize, &[u8]); 9] = [
        ("data at sector 8", 128, &8u64.to_le_bytes()),
        ("data beyond any device", 136, &(u64::MAX - 5).to_le_bytes()),
        ("no data", 136, &0u64.to_le_bytes()),
        ("no members", 92, &0u32.to_le_bytes()),
        ("two thousand members", 92, &2000u32.to_le_bytes()),
        ("no chunk", 88, &0u32.to_le_bytes()),
        ("chunk larger than the data", 88, &u32::MAX.to_le_bytes()),
        ("role 9 of 2", 258, &9u16.to_le_bytes()),
        ("role 65532 of 2", 258, &0xfffcu16.to_le_bytes()),
    ];
    for (case, at, value) in cases {
        let result = Superblock::parse(&patched(at, value));
        assert!(matches!(result, Err(ParseError::Inconsistent(_))), "{case}: {result:?}");
    }
    let mut bytes = ours();
    bytes[220..224].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Superblock::parse(&bytes), Err(ParseError::Inconsistent(_))));
}

#[test]
fn a_device_without_a_data_role_has_none() {
    for role in [0xffffu16, 0xfffe, 0xfffd] {
        assert_eq!(Superblock::parse(&patched(258, &role.to_le_bytes())).unwrap().role(), None);
    }
    assert_eq!(Superblock::parse(&patched(160, &500u32.to_le_bytes())).unwrap().role(), None);
}

/// An array that a kernel of 6.19 or later ran carries its logical block size: read, and never written by us.
#[test]
fn the_logical_block_size_of_newer_kernels_is_read() {
    assert_eq!(Superblock::parse(&ours()).unwrap().logical_block_size(), 0);
    assert_eq!(Superblock::parse(&patched(224, &512u32.to_le_bytes())).unwrap().logical_block_size(), 512);
}

#[test]
fn a_set_that_mdadm_would_refuse_is_not_made() {
    let make = |set: &NewSet, role, sectors| Superblock::new_raid0(set, role, Uuid::nil(), sectors);
    let good = set(2);
    assert!(make(&good, 2, 1 << 23).unwrap_err().contains("role 2 of 2"));
    assert!(make(&good, 0, 10240 + 1023).unwrap_err().contains("too few"));
    assert!(make(&NewSet { chunk_sectors: 0, ..good.clone() }, 0, 1 << 23).is_err());
    assert!(make(&NewSet { chunk_sectors: 1000, ..good.clone() }, 0, 1 << 23).is_err());
    assert!(make(&NewSet { raid_disks: 0, ..good.clone() }, 0, 1 << 23).is_err());
    assert!(make(&NewSet { name: "x".repeat(32), ..good.clone() }, 0, 1 << 23).is_err());
    assert!(make(&NewSet { name: "x".repeat(31), ..good }, 0, 1 << 23).is_ok());
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        uuid: u128, device: u128, name in "[a-z:0-9]{0,31}", ctime in 0u64..1 << 40,
        members in 1u32..=300, chunk in 3u32..=14, sectors in (1u64 << 21)..(1 << 40),
    ) {
        let chunk_sectors = 1 << chunk;
        let data_offset = geometry::data_offset(sectors, chunk_sectors);
        let set = NewSet {
            set_uuid: Uuid::from_u128(uuid), name: name.clone(), ctime, chunk_sectors, raid_disks: members, data_offset,
        };
        let role = members - 1;
        let made = Superblock::new_raid0(&set, role, Uuid::from_u128(device), sectors).unwrap();
        let read = Superblock::parse(&made.encode()).unwrap();
        prop_assert_eq!(read.encode(), made.encode());
        let member = read.to_member();
        prop_assert_eq!(member.set_uuid, set.set_uuid);
        prop_assert_eq!(member.device_uuid, Uuid::from_u128(device));
        prop_assert_eq!(member.set_name, name);
        prop_assert_eq!((member.level, member.raid_disks, member.role), (0, members, Some(role)));
        prop_assert_eq!((member.chunk_sectors, member.data_offset), (chunk_sectors, data_offset));
        prop_assert_eq!(member.data_offset + member.data_size, sectors);
    }

    /// One flipped bit anywhere is never read as another set, and as "no md" only where it is in the magic number.
    #[test]
    fn a_flipped_bit_is_noticed(at in 0usize..512, bit in 0u8..8) {
        let mut bytes = ours();
        bytes[at] ^= 1 << bit;
        match Superblock::parse(&bytes) {
            Ok(read) => prop_assert!(false, "read as {:?}", read.to_member()),
            Err(ParseError::NoMagic) => prop_assert!(at < 4, "byte {} made it blank", at),
            Err(_) => {}
        }
    }

    /// Any field at any value behind a valid checksum: an answer or an error, no panic; what is accepted can be written
    /// again as it was.
    #[test]
    fn sealed_garbage_never_panics(at in 4usize..508, value: u32) {
        let mut bytes = ours();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes.resize(4096, 0);
        if u32::from_le_bytes(bytes[220..224].try_into().unwrap()) <= 1920 {
            bytes = sealed(bytes);
        }
        if let Ok(read) = Superblock::parse(&bytes) {
            let member = read.to_member();
            prop_assert!(member.role.is_none_or(|role| role < member.raid_disks));
            let again = read.encode();
            prop_assert_eq!(&again[..], &bytes[..again.len()]);
        }
    }
}
