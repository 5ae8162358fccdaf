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
use crate::observe::host::version;
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

#[cfg(test)]
#[path = "mkfs_tests.rs"]
mod tests;
