//! Tests of mkfs arguments, and mkfs itself where it is installed.
#![allow(clippy::unwrap_used)]

use super::*;

const TIB: u64 = 1 << 40;

fn make(kind: FsKind, size: u64) -> Make<'static> {
    Make {
        device: Path::new("/dev/md0"),
        kind,
        uuid: Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef),
        label: "nvme-tmp",
        size,
        stripe: None,
        blank: true,
    }
}

fn line(make: &Make<'_>, options: Option<&Path>) -> String {
    arguments(make, options).iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[test]
fn ext4_arguments() {
    let single = make(FsKind::Ext4, TIB);
    assert_eq!(
        line(&single, None),
        "-q -F -U 12345678-9abc-4def-8123-456789abcdef -L nvme-tmp -m 0 -b 4096 -I 256 -i 262144 -G 256 \
         -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 /dev/md0"
    );
    let striped = Make {
        stripe: Some(Stripe { chunk_bytes: 512 << 10, members: 4 }),
        blank: false,
        ..make(FsKind::Ext4, 4 * TIB)
    };
    assert!(
        line(&striped, None).contains(
            "-i 1048576 -G 256 -E nodiscard,lazy_itable_init=1,lazy_journal_init=0,stride=128,stripe_width=512 /"
        ),
        "{}",
        line(&striped, None)
    );
}

#[test]
fn xfs_arguments() {
    let uuid = "uuid=12345678-9abc-4def-8123-456789abcdef";
    let mut xfs = make(FsKind::Xfs, TIB);
    assert_eq!(line(&xfs, None), format!("-q -f -K -L nvme-tmp -m {uuid} /dev/md0"));
    xfs.stripe = Some(Stripe { chunk_bytes: 256 << 10, members: 2 });
    assert_eq!(line(&xfs, None), format!("-q -f -K -L nvme-tmp -m {uuid} -d su=262144,sw=2 /dev/md0"));
    xfs.stripe = Some(Stripe { chunk_bytes: 512 << 10, members: 24 });
    assert_eq!(
        line(&xfs, Some(Path::new("/x/lts_6.1.conf"))),
        format!(
            "-c options=/x/lts_6.1.conf -q -f -K -L nvme-tmp -m {uuid} -d su=524288,sw=24 -l su=32k /dev/md0"
        )
    );
}

#[test]
fn inode_tables_stay_at_one_gib_up_to_30_tb() {
    for size in [100_000_000_000, 474_000_000_000, 900_000_000_000, 4 * TIB, 7_500_000_000_000, 30 * TIB] {
        let groups = size.div_ceil(GROUP);
        let per_group = (size / bytes_per_inode(size)).div_ceil(groups).div_ceil(16) * 16;
        let tables = per_group * groups * INODE;
        assert!(tables <= 1 << 30, "{size}: {} MiB of inode tables", tables >> 20);
        assert!(tables >= 512 << 20, "{size}: only {} MiB of inode tables", tables >> 20);
    }
    assert_eq!(bytes_per_inode(50_000_000_000), 16384);
    assert_eq!(bytes_per_inode(4 << 30), 16384);
    // The limits of mke2fs' -i are 1 KiB and 64 MiB.
    for size in [0, 1, 4096, 60_000_000_000_000, 200 * TIB] {
        assert!((1024..=64 << 20).contains(&bytes_per_inode(size)), "{size}: {}", bytes_per_inode(size));
    }
}

#[test]
fn an_older_kernel_gets_the_newest_feature_set_that_it_mounts() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    assert_eq!(xfs_options_file(&root, "6.1.0"), None);
    std::fs::create_dir_all(dir.path().join("usr/share/xfsprogs/mkfs")).unwrap();
    for name in
        ["lts_4.19.conf", "lts_5.4.conf", "lts_5.10.conf", "lts_6.1.conf", "dax_x86_64.conf", "lts_x.conf"]
    {
        std::fs::write(dir.path().join("usr/share/xfsprogs/mkfs").join(name), "").unwrap();
    }
    let chosen = |kernel: &str| {
        xfs_options_file(&root, kernel).map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
    };
    assert_eq!(chosen("6.12.30-amd64"), None);
    assert_eq!(chosen("6.1.102-111.amzn2023.x86_64"), None);
    assert_eq!(chosen("5.15.1").as_deref(), Some("lts_5.10.conf"));
    assert_eq!(chosen("5.10.230-223.amzn2.x86_64").as_deref(), Some("lts_5.10.conf"));
    assert_eq!(chosen("4.14.0"), None);
    assert_eq!(chosen("strange"), None);
}

#[test]
fn a_missing_mkfs_is_named_with_its_package() {
    let dir = tempfile::tempdir().unwrap();
    let error = program(&Root::new(dir.path()), FsKind::Xfs).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().starts_with("mkfs.xfs is not installed; install xfsprogs"), "{error}");
}

/// The arguments must be accepted by the programs themselves: makes a real one on a sparse file.
fn really_make(
    kind: FsKind,
    size: u64,
    stripe: Option<Stripe>,
    blank: bool,
    kernel: &str,
) -> Option<Vec<u8>> {
    let root = Root::default();
    if program(&root, kind).is_err() {
        eprintln!("skipped: mkfs.{kind} is not installed");
        return None;
    }
    let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
    file.as_file().set_len(size).unwrap();
    let make = Make { device: file.path(), stripe, blank, ..make(kind, size) };
    run(&root, &make, file.path(), kernel, Duration::from_secs(60)).unwrap();
    use std::os::unix::fs::{FileExt, MetadataExt};
    let written = file.as_file().metadata().unwrap().blocks() * 512;
    // An unlazy journal is at most 1 GiB, xfs' log 2 GiB (fallocated, not written).
    assert!(kind == FsKind::Xfs || !blank || written <= 64 << 20, "{size}: {written} bytes written");
    let mut head = vec![0; 4096];
    file.as_file().read_exact_at(&mut head, 0).unwrap();
    Some(head)
}

#[test]
fn mkfs_ext4_accepts_them_and_sets_uuid_label_and_stripe() {
    let stripe = Some(Stripe { chunk_bytes: 512 << 10, members: 4 });
    for (size, stripe, blank) in [(64 << 20, None, true), (4 << 30, stripe, false), (4 * TIB, stripe, true)] {
        let Some(head) = really_make(FsKind::Ext4, size, stripe, blank, "6.1") else { return };
        // struct ext4_super_block at 1024: s_uuid 0x68, s_volume_name 0x78, s_raid_stride 0x164,
        // s_raid_stripe_width 0x170, s_r_blocks_count 0x08.
        let sb = &head[1024..];
        assert_eq!(&sb[0x68..0x78], make(FsKind::Ext4, 0).uuid.as_bytes());
        assert_eq!(&sb[0x78..0x88], b"nvme-tmp\0\0\0\0\0\0\0\0");
        let stride = u16::from_le_bytes([sb[0x164], sb[0x165]]);
        let width = u32::from_le_bytes([sb[0x170], sb[0x171], sb[0x172], sb[0x173]]);
        assert_eq!((stride, width), if stripe.is_some() { (128, 512) } else { (0, 0) });
        assert_eq!(sb[0x08..0x0c], [0; 4], "blocks are reserved");
    }
}

#[test]
fn mkfs_xfs_accepts_them_and_sets_uuid_and_label() {
    let stripe = Some(Stripe { chunk_bytes: 512 << 10, members: 24 });
    for (size, stripe, kernel) in [(1 << 30, None, "6.12"), (2 * TIB, stripe, "5.10.1")] {
        let Some(head) = really_make(FsKind::Xfs, size, stripe, true, kernel) else { return };
        // struct xfs_dsb: sb_uuid 32, sb_fname 108[12], sb_unit 184, sb_width 188 (in blocks of 4 KiB, BE).
        assert_eq!(&head[32..48], make(FsKind::Xfs, 0).uuid.as_bytes());
        assert_eq!(&head[108..120], b"nvme-tmp\0\0\0\0");
        let be = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        assert_eq!((be(184), be(188)), if stripe.is_some() { (128, 128 * 24) } else { (0, 0) });
    }
}

#[test]
fn what_mkfs_says_is_in_the_error() {
    let root = Root::default();
    if program(&root, FsKind::Ext4).is_err() {
        eprintln!("skipped: mkfs.ext4 is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no-such-device");
    let make = Make { device: &missing, ..make(FsKind::Ext4, TIB) };
    let error = run(&root, &make, &missing, "6.1.0", Duration::from_secs(60)).unwrap_err().to_string();
    assert!(error.contains("/mkfs.ext4 on /") && error.contains("failed with status 1"), "{error}");
    assert!(error.contains("does not exist"), "{error}");
}
