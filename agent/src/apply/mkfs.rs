//! mkfs: which arguments, and the run of the distribution's `mkfs.ext4` or `mkfs.xfs`.
//!
//! # What ext4 writes
//!
//! Measured with e2fsprogs 1.47.0 on sparse files, decimal terabytes, bytes summed over the write calls of
//! `strace -f -e trace=pwrite64,write mkfs.ext4 -q -F -m 0 -b 4096 -I 256 -i BPI -G 256
//! -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 FILE`; the tail is what the kernel's ext4lazyinit writes
//! later, all inode tables at most:
//!
//! | size | written | writes | (with `-G 16`, the default) | inode tables | (with mke2fs' defaults) |
//! |---|---|---|---|---|---|
//! | 0.1 TB | 5 MiB | 1.1 k | 5 MiB, 1.1 k | 1023 MiB | 1.5 GiB |
//! | 0.9 TB | 12 MiB | 1.2 k | 14 MiB, 1.5 k | 1022 MiB | 13 GiB |
//! | 3.6 TB | 41 MiB | 1.2 k | 47 MiB, 2.8 k | 943 MiB | 56 GiB |
//! | 4 x 1 TiB | 49 MiB | 1.2 k | 56 MiB, 3.1 k | 1024 MiB | 69 GiB |
//! | 7.5 TB | 80 MiB | 1.3 k | 93 MiB, 4.6 k | 873 MiB | 59 GiB |
//! | 15 TB | 167 MiB | 0.8 k | 192 MiB, 7.4 k | 873 MiB | 117 GiB |
//! | 60 TB | 744 MiB | 1.8 k | 846 MiB, 28 k | 1746 MiB | 469 GiB |
//!
//! What remains is copies of the group descriptors in every backup group. `sparse_super2` or `meta_bg` would
//! save two thirds of it, but are rare in the field. At 60 TB one block of inodes a group is the least there is.
//! A journal that is written at once adds 1 GiB from 128 GB on.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use crate::config::FsKind;
use crate::error::{Error, Result};
use crate::exec;
use crate::plan::Stripe;
use crate::root::Root;

/// ext4's block, in bytes. Also where mke2fs would take 1 KiB (devices below 512 MB): stride counts in it.
const BLOCK: u64 = 4096;
/// Bytes a block group: 8 bits of one 4 KiB bitmap block, times 4 KiB.
const GROUP: u64 = 8 * BLOCK * BLOCK;
/// In bytes; set by us since mke2fs takes 128 for small devices.
const INODE: u64 = 256;
/// At most this many inodes, where the geometry allows: 1 GiB of inode tables.
const MAX_INODES: u64 = 4 << 20;
/// mke2fs' own default; fewer bytes an inode serve nobody on a scratch disk.
const MIN_BYTES_PER_INODE: u64 = 16 << 10;
/// Groups whose bitmaps and inode tables lie together: 32 GiB. mke2fs' 16 means four times the seeks at 4 TiB;
/// all in one place (`packed_meta_blocks`) would give every file of every directory the same allocation goal,
/// and e2fsprogs 1.42.9 (AL2) does not know it.
const FLEX_GROUPS: u64 = 256;
/// mkfs.xfs refuses a log stripe unit above 256 KiB (facts.md section 3).
const XFS_MAX_LOG_STRIPE: u64 = 256 << 10;
/// Where xfsprogs (5.10 and later) keeps the feature sets of long-term kernels, `lts_6.1.conf`.
const XFS_OPTIONS_DIR: &str = "/usr/share/xfsprogs/mkfs";

/// What to make: the fields of [`crate::plan::Step::MakeFilesystem`].
#[derive(Clone, Debug)]
pub struct Make<'a> {
    pub device: &'a Path,
    pub kind: FsKind,
    pub uuid: Uuid,
    pub label: &'a str,
    /// In bytes.
    pub size: u64,
    pub stripe: Option<Stripe>,
    /// Every byte that an unwritten journal would show is zero.
    pub blank: bool,
}

/// The program for `kind`, as found under `root`.
///
/// # Errors
/// [`Error::Environment`] where it is not installed.
pub fn program(root: &Root, kind: FsKind) -> Result<PathBuf> {
    let name = format!("mkfs.{kind}");
    exec::find_program(root, &name).ok_or_else(|| {
        let package = match kind {
            FsKind::Ext4 => "e2fsprogs",
            FsKind::Xfs => "xfsprogs",
        };
        Error::Environment(format!("{name} is not installed; install {package} or choose another filesystem"))
    })
}

/// Makes the filesystem.
///
/// `device` is where mkfs writes; it may be another node of the same device than `make.device`, which is
/// what errors name.
///
/// # Errors
/// [`Error::Child`] with what mkfs said, also when it was killed at `deadline`.
pub fn run(root: &Root, make: &Make<'_>, device: &Path, kernel: &str, deadline: Duration) -> Result<()> {
    let program = program(root, make.kind)?;
    let options = match make.kind {
        FsKind::Xfs => xfs_options_file(root, kernel),
        FsKind::Ext4 => None,
    };
    let make_there = Make { device, ..make.clone() };
    let mut output = exec::run(&program, &arguments(&make_there, options.as_deref()), deadline)?;
    if let Some(file) = options.filter(|f| !output.success() && output.text().contains(&*f.to_string_lossy()))
    {
        // Bookworm's xfsprogs 6.1.0 cannot parse its own lts_5.*.conf and lts_6.1.conf: nrext64 is in the wrong
        // section. It says so before it has written anything.
        tracing::warn!("mkfs.xfs does not take its own feature set {}: going without", file.display());
        output = exec::run(&program, &arguments(&make_there, None), deadline)?;
    }
    output.check(&program).map_err(|e| match e {
        Error::Child { program, problem, output } => {
            Error::Child { program: format!("{program} on {}", make.device.display()), problem, output }
        }
        other => other,
    })?;
    Ok(())
}

/// mkfs' arguments. Pure; `xfs_options` is a file for mkfs.xfs' `-c options=`.
pub fn arguments(make: &Make<'_>, xfs_options: Option<&Path>) -> Vec<OsString> {
    let mut args: Vec<OsString> = match make.kind {
        FsKind::Ext4 => ext4(make),
        FsKind::Xfs => xfs(make, xfs_options),
    }
    .into_iter()
    .map(OsString::from)
    .collect();
    args.push(make.device.into());
    args
}

fn ext4(make: &Make<'_>) -> Vec<String> {
    // No discard: instance-store drives arrive trimmed, and trimming terabytes takes long.
    let mut extended = vec!["nodiscard".to_owned(), "lazy_itable_init=1".to_owned()];
    // A journal that is not zeroed may replay transactions of an older filesystem at the same place.
    extended.push(format!("lazy_journal_init={}", u8::from(make.blank)));
    if let Some(stripe) = make.stripe {
        let stride = stripe.chunk_bytes / BLOCK;
        if stride > 0 {
            extended.push(format!("stride={stride}"));
            extended.push(format!("stripe_width={}", stride * u64::from(stripe.members)));
        }
    }
    let args = [
        "-q",
        // Not a terminal: without -F it would refuse a whole disk in some versions. The plan has judged.
        "-F",
        "-U",
        &make.uuid.to_string(),
        "-L",
        make.label,
        // No blocks kept for root: nothing of the system lives here, and 5 % of 60 TB is 3 TB.
        "-m",
        "0",
        "-b",
        &BLOCK.to_string(),
        "-I",
        &INODE.to_string(),
        "-i",
        &bytes_per_inode(make.size).to_string(),
        "-G",
        &FLEX_GROUPS.to_string(),
        "-E",
        &extended.join(","),
    ];
    args.map(str::to_owned).to_vec()
}

/// Bytes per inode for mke2fs' `-i`: max(16 KiB, size / 4 Mi), a little more where mke2fs would otherwise round
/// the inodes of each group up past 1 GiB of tables in all.
pub fn bytes_per_inode(size: u64) -> u64 {
    let groups = size.div_ceil(GROUP).max(1);
    // mke2fs rounds a group's inodes up to whole blocks of the table.
    let per_block = BLOCK / INODE;
    let per_group = (MAX_INODES / groups / per_block * per_block).max(per_block);
    size.div_ceil(per_group * groups).max(MIN_BYTES_PER_INODE)
}

fn xfs(make: &Make<'_>, options: Option<&Path>) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    if let Some(file) = options {
        args.extend(["-c".to_owned(), format!("options={}", file.display())]);
    }
    // -f: what is there was judged by the plan. -K: no discard.
    args.extend(["-q", "-f", "-K", "-L", make.label].map(str::to_owned));
    args.extend(["-m".to_owned(), format!("uuid={}", make.uuid)]);
    if let Some(stripe) = make.stripe {
        args.extend(["-d".to_owned(), format!("su={},sw={}", stripe.chunk_bytes, stripe.members)]);
        if stripe.chunk_bytes > XFS_MAX_LOG_STRIPE {
            args.extend(["-l".to_owned(), "su=32k".to_owned()]);
        }
    }
    args
}

/// The newest feature set of xfsprogs that the running kernel mounts, where xfsprogs is the newer of the two: it
/// then turns on what the kernel cannot mount (nrext64, parent pointers). That it is newer shows in a set for a
/// later kernel; in between long-term kernels its defaults are features that had been in kernels for years.
fn xfs_options_file(root: &Root, kernel: &str) -> Option<PathBuf> {
    let running = version(kernel)?;
    let entries = std::fs::read_dir(root.join(XFS_OPTIONS_DIR)).ok()?;
    let mut sets: Vec<((u32, u32), String)> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            Some((version(name.strip_prefix("lts_")?.strip_suffix(".conf")?)?, name))
        })
        .collect();
    sets.sort();
    if sets.last()?.0 <= running {
        return None;
    }
    let fitting = sets.iter().rev().find(|(release, _)| *release <= running)?;
    Some(Path::new(XFS_OPTIONS_DIR).join(&fitting.1))
}

/// Major and minor of `6.1.102-111.amzn2023.x86_64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
        for size in [100_000_000_000, 474_000_000_000, 900_000_000_000, 4 * TIB, 7_500_000_000_000, 30 * TIB]
        {
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
        for name in [
            "lts_4.19.conf",
            "lts_5.4.conf",
            "lts_5.10.conf",
            "lts_6.1.conf",
            "dax_x86_64.conf",
            "lts_x.conf",
        ] {
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
        for (size, stripe, blank) in
            [(64 << 20, None, true), (4 << 30, stripe, false), (4 * TIB, stripe, true)]
        {
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
}
