//! The mount table of PID 1, active swaps, and the directory to be mounted on.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use procfs::process::MountInfo;

use super::{DevNum, Mount, Target, TargetKind, sysfs};
use crate::error::{Error, Result};
use crate::root::Root;

/// The mount table that the host sees; our own namespace may be another one.
pub const MOUNTINFO: &str = "/proc/1/mountinfo";

/// Entries of the target directory are counted up to here: a workload's /tmp can have millions.
pub const ENTRIES_MAX: u64 = 10_000;

/// Reads the mount table of PID 1.
///
/// # Errors
/// The file cannot be read or has a line that makes no sense: an unknown mount must never look like no mount.
pub fn read(root: &Root) -> Result<Vec<Mount>> {
    let path = root.join(MOUNTINFO);
    let bytes = fs::read(&path).map_err(Error::io(&path, "read the mount table"))?;
    parse(&bytes).map_err(|problem| Error::Other(format!("{}: {problem}", path.display())))
}

/// Parses mountinfo (proc_pid_mountinfo(5)). Paths that are not UTF-8 get U+FFFD.
///
/// # Errors
/// A sentence with the number of the line that could not be understood.
pub fn parse(bytes: &[u8]) -> Result<Vec<Mount>, String> {
    String::from_utf8_lossy(bytes)
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| {
            line_of(line).ok_or_else(|| format!("line {} is not a line of mountinfo: `{line}`", index + 1))
        })
        .collect()
}

fn line_of(line: &str) -> Option<Mount> {
    let info = MountInfo::from_line(line).ok()?;
    Some(Mount {
        id: info.mnt_id,
        parent: info.pid,
        dev: sysfs::dev_num(&info.majmin)?,
        root: unescape(&info.root),
        at: unescape(info.mount_point.to_str()?),
        fs_type: unescape(&info.fs_type),
        source: unescape(info.mount_source.as_deref().unwrap_or("none")),
        options: options(info.mount_options),
        super_options: options(info.super_options),
    })
}

/// The parser hands options over without their order: `rw` or `ro` first, as the kernel has it, the rest sorted.
fn options(map: std::collections::HashMap<String, Option<String>>) -> String {
    let mut list: Vec<String> = map
        .into_iter()
        .map(|(name, value)| match value {
            Some(value) => format!("{name}={}", unescape(&value)),
            None => name,
        })
        .collect();
    list.sort_unstable_by_key(|option| (option != "rw" && option != "ro", option.clone()));
    list.join(",")
}

/// The kernel writes space, tab, newline, backslash (and `#`) as three octal digits (`mangle_path`, fs/seq_file.c).
pub fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|digits| bytes[at] == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)))
            .map(|digits| digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0')))
            .and_then(|value| u8::try_from(value).ok());
        match octal {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// Paths of active swap areas, from `/proc/swaps`; empty where the kernel has no swap.
///
/// # Errors
/// The file is there and cannot be read.
pub fn swaps(root: &Root) -> Result<Vec<String>> {
    let path = root.join("/proc/swaps");
    match fs::read(&path) {
        Ok(bytes) => Ok(parse_swaps(&bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(&path, "read the swap areas")(error)),
    }
}

/// First column of `/proc/swaps`, below its header.
pub fn parse_swaps(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes)
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().next())
        .filter(|first| first.starts_with('/'))
        .map(unescape)
        .collect()
}

/// The mount that is seen at `path`: mounts on one directory stack, the last one counts.
pub fn topmost<'a>(mounts: &'a [Mount], path: &str) -> Option<&'a Mount> {
    mounts.iter().rfind(|mount| mount.at == path)
}

/// What hides `mount` although it is the last one on its directory: a mount over one of the directories above.
pub fn hiding<'a>(mounts: &'a [Mount], mount: &Mount) -> Option<&'a Mount> {
    let by_id = |id| mounts.iter().find(|m| m.id == id);
    // What is passed on the way from the root to it. A mount table that makes no sense has loops.
    let mut way = vec![mount.id];
    let mut above = by_id(mount.parent);
    while let Some(step) = above.filter(|step| !way.contains(&step.id)) {
        way.push(step.id);
        above = by_id(step.parent);
    }
    let path = Path::new(&mount.at);
    mounts.iter().find(|over| {
        let beside = way[1..].contains(&over.parent) && !way.contains(&over.id);
        beside && over.at != "/" && over.at != mount.at && path.starts_with(&over.at)
    })
}

/// The mount that the file or directory `path` is on.
pub fn containing<'a>(mounts: &'a [Mount], path: &str) -> Option<&'a Mount> {
    let path = Path::new(path);
    path.ancestors().find_map(|dir| topmost(mounts, dir.to_str()?))
}

/// True for filesystems without a block device number of their own (overlay, btrfs, zfs, tmpfs).
pub fn is_anonymous(dev: DevNum) -> bool {
    dev.major == 0
}

/// Looks at the directory to be mounted on, without following a symlink anywhere in its path: what is mounted
/// through one shows up elsewhere in the mount table.
///
/// # Errors
/// The target or one of its parents cannot be looked at.
pub fn target(root: &Root, path: &str, selinux: bool) -> Result<Target> {
    let mut target = Target { path: normalised(path), ..Target::default() };
    let mut place = PathBuf::from("/");
    let components: Vec<_> =
        Path::new(&target.path).components().filter(|c| matches!(c, Component::Normal(_))).collect();
    // From the root itself on, so that a target of `/` is looked at too.
    for depth in 0..=components.len() {
        if depth > 0 {
            place.push(components[depth - 1]);
        }
        let path = root.join(&place);
        let status = match fs::symlink_metadata(&path) {
            Ok(status) => status,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(target),
            Err(error) => return Err(Error::io(&path, "look at the target")(error)),
        };
        target.kind = match status.file_type() {
            kind if kind.is_dir() => TargetKind::Directory,
            kind if kind.is_symlink() => TargetKind::Symlink,
            kind if kind.is_file() => TargetKind::File,
            _ => TargetKind::Other,
        };
        if target.kind != TargetKind::Directory {
            return Ok(target);
        }
        if depth == components.len() {
            target.mode = Some(status.permissions().mode() & 0o7777);
            target.uid = status.uid();
            target.gid = status.gid();
            target.entries = entries(&path)?;
            target.selinux = if selinux { selinux_label(&path) } else { None };
        } else {
            target.kind = TargetKind::Missing;
        }
    }
    Ok(target)
}

fn entries(path: &Path) -> Result<u64> {
    let listing = fs::read_dir(path).map_err(Error::io(path, "list the target"))?;
    Ok(listing.take(ENTRIES_MAX as usize).count() as u64)
}

/// `security.selinux` of a path; none where the filesystem has no label for it.
fn selinux_label(path: &Path) -> Option<String> {
    let mut label = [0u8; 4096];
    let length = rustix::fs::lgetxattr(path, "security.selinux", &mut label[..]).ok()?;
    Some(sysfs::clean(&label[..length])).filter(|label| !label.is_empty())
}

/// No trailing slash, no `.`, no doubled slash.
fn normalised(path: &str) -> String {
    let mut plain = PathBuf::from("/");
    plain.extend(Path::new(path).components().filter(|c| matches!(c, Component::Normal(_))));
    plain.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw,discard
60 27 0:40 / /tmp rw,nosuid,nodev shared:30 master:2 - tmpfs tmpfs rw,size=4k,nr_inodes=1048576,inode64
61 60 9:0 /sub\\040dir /tmp rw,noatime,nosuid,nodev - ext4 /dev/md0 rw,stripe=256
62 27 0:41 / /mnt/a\\040b\\134 rw - tmpfs  rw
";

    #[test]
    fn a_mount_table_with_stacked_mounts_escapes_and_an_empty_source() {
        let mounts = parse(TABLE.as_bytes()).unwrap();
        assert_eq!(mounts.len(), 5);
        let top = topmost(&mounts, "/tmp").unwrap();
        assert_eq!(top.dev, DevNum { major: 9, minor: 0 });
        assert_eq!(top.options, "rw,noatime,nodev,nosuid");
        assert_eq!(top.root, "/sub dir");
        assert_eq!(top.super_options, "rw,stripe=256");
        assert_eq!(mounts[4].at, "/mnt/a b\\");
        assert_eq!(mounts[4].source, "none");
        assert_eq!(containing(&mounts, "/tmp/x/y").unwrap().id, 61);
        assert_eq!(containing(&mounts, "/usr/bin").unwrap().id, 27);
    }

    #[test]
    fn a_mount_over_a_directory_above_hides_one_that_is_the_last_on_its_own() {
        let table = |more: &str| {
            let base = "27 1 259:2 / / rw - ext4 /dev/a rw\n40 27 0:40 / /opt rw - tmpfs opt rw\n\
                        61 40 9:0 / /opt/data/x rw - ext4 /dev/md0 rw\n";
            parse(format!("{base}{more}").as_bytes()).unwrap()
        };
        let hidden = |more: &str| {
            let mounts = table(more);
            let ours = mounts.iter().find(|mount| mount.id == 61).unwrap();
            hiding(&mounts, ours).map(|over| over.id)
        };
        assert_eq!(hidden(""), None);
        // Beside it, below it, on a directory that only begins like one above, elsewhere.
        for at in ["/opt/data/y", "/opt/data/x/z", "/opt/dat", "/mnt"] {
            assert_eq!(hidden(&format!("70 40 0:50 / {at} rw - tmpfs t rw\n")), None, "{at}");
        }
        assert_eq!(hidden("70 40 0:50 / /opt/data rw - tmpfs t rw\n"), Some(70));
        assert_eq!(hidden("70 40 0:50 / /opt rw - tmpfs t rw\n"), Some(70));
        // Within a mount that is itself not on the way.
        assert_eq!(
            hidden("62 61 0:51 / /opt/data/x/y rw - tmpfs t rw\n70 62 0:50 / /opt rw - tmpfs t rw\n"),
            None
        );
    }

    #[test]
    fn a_line_that_makes_no_sense_is_an_error_with_its_number() {
        let problem = parse(b"22 27 0:21 / /proc rw - proc proc rw\nnonsense\n").unwrap_err();
        assert!(problem.contains("line 2") && problem.contains("nonsense"), "{problem}");
        assert!(parse(b"22 27 021 / /proc rw - proc proc rw\n").is_err());
    }

    #[test]
    fn a_path_that_is_not_utf8_does_not_hide_the_other_mounts() {
        let mut table = TABLE.as_bytes().to_vec();
        table.extend(b"70 27 0:50 / /mnt/\xff rw - tmpfs tmpfs rw\n");
        assert_eq!(parse(&table).unwrap().len(), 6);
    }

    #[test]
    fn swaps_with_spaces_and_deleted_files() {
        let text = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /dev/nvme1n1p2                          partition\t1048572\t\t0\t\t-2\n\
            /swap\\040file\\040(deleted) file 1 0 -3\n";
        assert_eq!(parse_swaps(text), ["/dev/nvme1n1p2", "/swap file (deleted)"]);
    }

    #[test]
    fn the_target_and_every_parent_are_judged_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(dir.path().join("data/scratch/one")).unwrap();
        fs::set_permissions(dir.path().join("data/scratch"), fs::Permissions::from_mode(0o750)).unwrap();
        std::os::unix::fs::symlink("data", dir.path().join("link")).unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        let kind = |path| target(&root, path, false).unwrap().kind;
        let found = target(&root, "/data//scratch/", false).unwrap();
        assert_eq!((found.path.as_str(), found.kind), ("/data/scratch", TargetKind::Directory));
        assert_eq!((found.mode, found.entries), (Some(0o750), 1));
        assert_eq!(kind("/data/none"), TargetKind::Missing);
        assert_eq!(kind("/none/none"), TargetKind::Missing);
        assert_eq!(kind("/link"), TargetKind::Symlink);
        assert_eq!(kind("/link/scratch"), TargetKind::Symlink);
        assert_eq!(kind("/file"), TargetKind::File);
        assert_eq!(kind("/file/below"), TargetKind::File);
    }

    proptest! {
        #[test]
        fn outside_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
            parse_swaps(&bytes);
            unescape(&String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn a_flipped_byte_never_makes_a_mount_vanish_silently(at in 0..TABLE.len(), flip in 1u8..) {
            let mut bytes = TABLE.as_bytes().to_vec();
            bytes[at] ^= flip;
            if let Ok(mounts) = parse(&bytes) {
                let newlines = String::from_utf8_lossy(&bytes).lines().filter(|l| !l.is_empty()).count();
                prop_assert_eq!(mounts.len(), newlines);
            }
        }
    }
}
