use std::io::Write;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::md::superblock::NewSet;

const SIZE: usize = 16 << 20;

fn superblock() -> Vec<u8> {
    let set = NewSet {
        set_uuid: Uuid::from_u128(7),
        name: "any:md0".into(),
        ctime: 1,
        chunk_sectors: 1024,
        raid_disks: 2,
        data_offset: 2048,
    };
    Superblock::new_raid0(&set, 1, Uuid::from_u128(8), SIZE as u64 / 512).unwrap().encode()
}

fn member() -> Vec<u8> {
    let mut device = vec![0; SIZE];
    let superblock = superblock();
    device[4096..4096 + superblock.len()].copy_from_slice(&superblock);
    device
}

fn seen(device: &[u8]) -> Seen {
    look(device, Depth::Usual, &mut Buffer::default()).unwrap()
}

/// Says what the test wants and remembers whether it was asked.
struct Says(Answer, Mutex<u32>);

impl Says {
    fn new(answer: Answer) -> Says {
        Says(answer, Mutex::new(0))
    }
}

impl Prober for Says {
    fn probe(&self, _: &Path) -> Result<Answer> {
        *self.1.lock().unwrap() += 1;
        Ok(self.0.clone())
    }
}

fn examined(device: &[u8], mounted_as: Option<&str>, answer: Answer) -> (Content, u32) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(device).unwrap();
    let says = Says::new(answer);
    let content = examine(file.path(), device.len() as u64 / 512, mounted_as, &says).unwrap();
    let asked = *says.1.lock().unwrap();
    (content, asked)
}

#[test]
fn blank_and_member_are_known_without_a_child_process() {
    assert_eq!(examined(&vec![0; SIZE], None, Answer::Nothing), (Content::Blank, 0));
    let (content, asked) = examined(&member(), None, Answer::Nothing);
    let Content::Member(member) = content else { panic!("{content:?}") };
    assert_eq!((member.set_uuid, member.role, member.raid_disks), (Uuid::from_u128(7), Some(1), 2));
    assert_eq!(asked, 0);
}

#[test]
fn something_before_the_superblock_of_a_member_is_for_blkid_to_judge() {
    let mut device = member();
    device[510] = 0x55;
    let mut boot = device.clone();
    boot[511] = 0xaa;
    let foreign = |signature: &str| Content::Foreign { signature: signature.into() };
    assert!(matches!(examined(&device, None, Answer::RaidMember), (Content::Member(_), 1)));
    assert_eq!(examined(&device, None, Answer::Nothing), (foreign("linux_raid_member and unknown data"), 1));
    let signature = foreign("linux_raid_member and a boot sector");
    assert_eq!(examined(&boot, None, Answer::RaidMember), (signature, 0));
    let swap = Answer::Named(foreign("swap"));
    assert_eq!(examined(&device, None, swap), (foreign("swap"), 1));
    let ext4 = Content::Filesystem(Filesystem { kind: "ext4".into(), uuid: "1".into(), label: None });
    assert_eq!(examined(&device, None, Answer::Named(ext4)), (foreign("linux_raid_member and ext4"), 1));
}

#[test]
fn a_damaged_or_other_md_superblock_is_foreign_never_blank() {
    let signature = |device: &[u8]| match seen(device) {
        Seen::OtherRaid(signature) => signature,
        other => panic!("{other:?}"),
    };
    let mut device = member();
    device[4096 + 200] ^= 1;
    assert!(signature(&device).starts_with("damaged linux_raid_member"), "{}", signature(&device));
    let mut device = member();
    device[4096 + 4] = 0;
    assert!(signature(&device).contains("version 0.90"), "{}", signature(&device));
    // The superblock of a larger drive, copied here.
    let device = &member()[..SIZE / 2];
    assert!(signature(device).contains("its data end at sector 32768"), "{}", signature(device));
}

#[test]
fn bytes_that_blkid_does_not_know_are_unknown_only_if_all_can_be_read() {
    let mut device = vec![0; SIZE];
    device[100] = 1;
    assert_eq!(examined(&device, None, Answer::Nothing), (Content::Unknown, 1));
    let raid = Content::Foreign { signature: "linux_raid_member".into() };
    assert_eq!(examined(&device, None, Answer::RaidMember), (raid, 1));

    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&device).unwrap();
    let longer = 2 * SIZE as u64 / 512;
    let content = examine(file.path(), longer, None, &Says::new(Answer::Nothing)).unwrap();
    assert!(matches!(content, Content::Unreadable { .. }), "{content:?}");
    let content = examine(Path::new("/nonexistent"), 8, None, &Says::new(Answer::Nothing)).unwrap();
    assert!(matches!(content, Content::Unreadable { .. }), "{content:?}");
}

#[test]
fn a_mounted_filesystem_is_read_straight_and_an_unmounted_one_is_not() {
    let mut ext4 = vec![0; SIZE];
    ext4[1080..1082].copy_from_slice(&[0x53, 0xef]);
    ext4[1128..1144].copy_from_slice(Uuid::from_u128(0xabc).as_bytes());
    ext4[1144..1152].copy_from_slice(b"nvme-tmp");
    let (content, asked) = examined(&ext4, Some("ext4"), Answer::Nothing);
    let Content::Filesystem(filesystem) = content else { panic!("{content:?}") };
    assert_eq!(filesystem.uuid, "00000000-0000-0000-0000-000000000abc");
    assert_eq!((filesystem.label.as_deref(), asked), (Some("nvme-tmp"), 0));
    let unmounted = Answer::Named(Content::Foreign { signature: "ambivalent".into() });
    assert!(matches!(examined(&ext4, None, unmounted.clone()), (Content::Foreign { .. }, 1)));
    // The kernel says xfs, the bytes do not: blkid is asked.
    assert!(matches!(examined(&ext4, Some("xfs"), unmounted), (Content::Foreign { .. }, 1)));

    let mut xfs = vec![0; SIZE];
    xfs[..4].copy_from_slice(b"XFSB");
    xfs[32..48].copy_from_slice(Uuid::from_u128(0xdef).as_bytes());
    let (content, asked) = examined(&xfs, Some("xfs"), Answer::Nothing);
    let Content::Filesystem(filesystem) = content else { panic!("{content:?}") };
    assert_eq!((filesystem.label, asked), (None, 0));
    assert!(filesystem.uuid.ends_with("def"));
}

#[test]
fn a_member_without_superblock_that_still_has_data_is_not_blank_on_a_second_look() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.as_file_mut().set_len(256 << 20).unwrap();
    let sectors = (256 << 20) / 512;
    assert_eq!(examine_deeply(file.path(), sectors), Content::Blank);
    // Behind the start of the data, where the usual samples do not look.
    std::os::unix::fs::FileExt::write_all_at(file.as_file(), b"data", (3 << 20) + 777).unwrap();
    let usual = examine(file.path(), sectors, None, &Says::new(Answer::Nothing)).unwrap();
    assert_eq!(usual, Content::Blank);
    assert_eq!(examine_deeply(file.path(), sectors), Content::Unknown);
}

#[test]
fn real_signatures_through_the_real_blkid() {
    let dir = tempfile::tempdir().unwrap();
    let blkid = crate::observe::blkid::Blkid::find(&crate::root::Root::default());
    let look = |name: &str, at: u64, bytes: &[u8]| {
        let path = dir.path().join(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(SIZE as u64).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
        examine(&path, SIZE as u64 / 512, None, &blkid).unwrap()
    };
    let foreign = |signature: &str| Content::Foreign { signature: signature.into() };
    assert_eq!(look("random", 5000, b"no signature at all"), Content::Unknown);
    assert_eq!(look("luks", 0, b"LUKS\xba\xbe\x00\x01"), foreign("crypto_LUKS"));
    // A whole MBR: one partition of type 0x83 from sector 2048 on.
    let mut mbr = [0u8; 512];
    mbr[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(look("mbr", 0, &mbr), foreign("dos"));
    // A member with something before its superblock, as blkid sees it.
    let before = |at: usize, bytes: &[u8]| {
        let path = dir.path().join("member");
        let mut device = member();
        device[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, device).unwrap();
        examine(&path, SIZE as u64 / 512, None, &blkid).unwrap()
    };
    assert!(matches!(before(100, b"boot code"), Content::Member(_)));
    // blkid itself says linux_raid_member and nothing else here.
    assert_eq!(before(0, &mbr), foreign("linux_raid_member and a boot sector"));
    let path = dir.path().join("swap");
    std::fs::write(&path, member()).unwrap();
    assert!(std::process::Command::new("mkswap").arg(&path).output().unwrap().status.success());
    assert_eq!(examine(&path, SIZE as u64 / 512, None, &blkid).unwrap(), foreign("swap"));
}

/// Needs mkfs.ext4 (e2fsprogs) and blkid, which the lab needs too; mkfs.xfs where it is there.
#[test]
fn the_short_cut_for_mounted_filesystems_reads_what_blkid_reads() {
    let dir = tempfile::tempdir().unwrap();
    let root = crate::root::Root::default();
    let blkid = crate::observe::blkid::Blkid::find(&root);
    let size = 400u64 << 20;
    for kind in ["ext4", "xfs"] {
        let Some(program) = crate::exec::find_program(&root, &format!("mkfs.{kind}")) else {
            assert_ne!(kind, "ext4", "mkfs.ext4 is not installed");
            continue;
        };
        let path = dir.path().join(kind);
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        let made = std::process::Command::new(program).args(["-L", "nvme-tmp"]).arg(&path).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let by_blkid = examine(&path, size / 512, None, &blkid).unwrap();
        let straight = examine(&path, size / 512, Some(kind), &Says::new(Answer::Nothing)).unwrap();
        let Content::Filesystem(filesystem) = &by_blkid else { panic!("{by_blkid:?}") };
        assert_eq!((filesystem.kind.as_str(), filesystem.label.as_deref()), (kind, Some("nvme-tmp")));
        assert_eq!(by_blkid, straight);
    }
}

/// The first block of an xfs, as far as we read it.
fn xfs(in_progress: u8) -> Vec<u8> {
    let mut device = vec![0; SIZE];
    device[..4].copy_from_slice(b"XFSB");
    device[32..48].copy_from_slice(Uuid::from_u128(0xdef).as_bytes());
    device[126] = in_progress;
    device
}

#[test]
fn an_xfs_that_mkfs_did_not_finish_is_not_whole() {
    let named = |kind: &str| Filesystem { kind: kind.into(), uuid: "1".into(), label: None };
    let says = |kind: &str| Answer::Named(Content::Filesystem(named(kind)));
    assert_eq!(examined(&xfs(0), None, says("xfs")).0, Content::Filesystem(named("xfs")));
    for in_progress in [1, 0xff] {
        assert_eq!(examined(&xfs(in_progress), None, says("xfs")).0, Content::HalfMade(named("xfs")));
        // That byte is boot code in front of an ext4.
        assert_eq!(examined(&xfs(in_progress), None, says("ext4")).0, Content::Filesystem(named("ext4")));
    }
}

/// Needs mkfs.xfs and strace, which the lab needs too: mkfs dies at each of its writes in turn.
#[test]
fn a_real_mkfs_xfs_that_dies_leaves_nothing_that_seems_whole() {
    let root = crate::root::Root::default();
    let (Some(strace), Some(mkfs)) =
        (crate::exec::find_program(&root, "strace"), crate::exec::find_program(&root, "mkfs.xfs"))
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (path, trace) = (dir.path().join("drive"), dir.path().join("trace"));
    let blkid = crate::observe::blkid::Blkid::find(&root);
    let size = 400u64 << 20;
    let mut half_made = 0;
    for write in 1.. {
        std::fs::File::create(&path).unwrap().set_len(size).unwrap();
        let inject = format!("inject=pwrite64:signal=SIGKILL:when={write}");
        let run = std::process::Command::new(&strace)
            .args(["-f", "-qq", "-e", "trace=pwrite64", "-e", "signal=none", "-e", &inject, "-o"])
            .args([trace.as_os_str(), mkfs.as_os_str()])
            .args(["-q", "-f", "-K"])
            .arg(&path)
            .output()
            .unwrap();
        if !run.status.success() && std::fs::metadata(&trace).is_ok_and(|trace| trace.len() == 0) {
            return; // Nobody may trace here (a container).
        }
        let content = examine(&path, size / 512, None, &blkid).unwrap();
        if run.status.success() {
            assert!(matches!(content, Content::Filesystem(_)), "{content:?}");
            break;
        }
        half_made += u32::from(matches!(content, Content::HalfMade(_)));
        // With the last write it is whole, and dies after it.
        let whole = matches!(content, Content::Filesystem(_));
        let last = std::fs::read_to_string(&trace).unwrap().matches("pwrite64").count() == write;
        assert!(!whole || last, "write {write}: {content:?}");
        if whole {
            break;
        }
    }
    assert!(half_made > 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_nonzero_byte_in_a_sampled_place_is_never_blank(
        pick in any::<prop::sample::Index>(), at in any::<u64>(), byte in 1u8..,
    ) {
        let places = blank::places(SIZE as u64, Depth::Usual);
        let (offset, length) = places[pick.index(places.len())];
        let mut device = vec![0; SIZE];
        device[(offset + at % length) as usize] = byte;
        prop_assert_ne!(seen(&device), Seen::Blank);
    }

    #[test]
    fn random_bytes_anywhere_near_the_start_are_never_blank_nor_a_member(
        at in 0usize..9000, bytes in proptest::collection::vec(1u8.., 1..400),
    ) {
        let mut device = vec![0; SIZE];
        device[at..at + bytes.len()].copy_from_slice(&bytes);
        let seen = seen(&device);
        prop_assert!(matches!(seen, Seen::Bytes | Seen::OtherRaid(_)), "{:?}", seen);
        let xfs = Filesystem { kind: "xfs".into(), uuid: "1".into(), label: None };
        prop_assert_eq!(
            is_half_made(device.as_slice(), &xfs, &mut Buffer::default()).unwrap(),
            device[126] != 0
        );
        for kind in ["ext4", "xfs", "btrfs"] {
            mounted(device.as_slice(), kind, &mut Buffer::default()).unwrap();
        }
    }

    #[test]
    fn a_flipped_byte_in_a_superblock_is_never_blank_and_never_another_member(
        at in 0usize..260, flip in 1u8..,
    ) {
        let mut device = member();
        device[4096 + at] ^= flip;
        let seen = seen(&device);
        prop_assert!(matches!(seen, Seen::Bytes | Seen::OtherRaid(_)), "{:?}", seen);
    }
}
