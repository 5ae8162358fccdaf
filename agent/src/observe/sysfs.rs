//! The part of sysfs that block devices are in: attributes, and who stands on whom.

mod dir;

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::DevNum;
use crate::error::{Error, Result};
use crate::root::Root;

pub use dir::Dir;

/// The text of an attribute without padding; none where it does not exist or cannot be read. Where that makes a
/// difference: [`Dir::attribute`].
///
/// NVMe strings are padded with spaces (NVMe base specification, Identify Controller); bytes that are not
/// UTF-8 become U+FFFD, so that they never match anything.
pub fn attribute(path: impl AsRef<Path>) -> Option<String> {
    dir::read(rustix::fs::CWD, path.as_ref()).ok()
}

/// Trimmed text of raw attribute bytes.
pub fn clean(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
}

/// A decimal attribute.
pub fn number(path: impl AsRef<Path>) -> Option<u64> {
    attribute(path)?.parse().ok()
}

/// `0x1d0f` or `0x010802` as a number.
pub fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// `259:3` as a device number.
pub fn dev_num(text: &str) -> Option<DevNum> {
    let (major, minor) = text.split_once(':')?;
    Some(DevNum { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// Names in a directory, sorted; empty where it does not exist.
///
/// # Errors
/// Where it exists and cannot be read: not knowing who holds a device is not the same as nobody.
pub fn names(dir: impl AsRef<Path>) -> Result<Vec<String>> {
    let dir = dir.as_ref();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(Error::io(dir, "read the directory")(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(dir, "read the directory"))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Last component of what a symlink leads to: in sysfs, the name of that object.
///
/// One system call. Resolving the path takes one for each of its components, and a drive's is long.
pub fn leads_to(link: impl AsRef<Path>) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_string_lossy().into_owned())
}

/// Block devices under a root.
#[derive(Clone, Copy, Debug)]
pub struct Sysfs<'a> {
    root: &'a Root,
}

impl<'a> Sysfs<'a> {
    pub fn new(root: &'a Root) -> Self {
        Sysfs { root }
    }

    pub fn root(&self) -> &'a Root {
        self.root
    }

    /// Whole disks, sorted by name.
    ///
    /// # Errors
    /// `/sys/block` cannot be read, or is not there: no sysfs is not the same as no drives.
    pub fn disks(&self) -> Result<Vec<String>> {
        let list = self.root.join("/sys/block");
        let disks = names(&list)?;
        // A machine that runs has one to run from.
        if disks.is_empty() && (self.root.is_host() || !list.is_dir()) {
            return Err(Error::Other(format!(
                "{}: expected the kernel's list of disks, found nothing; is sysfs mounted? `findmnt /sys`",
                list.display()
            )));
        }
        Ok(disks)
    }

    /// The directory of a disk or partition.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.root.join("/sys/class/block").join(name)
    }

    /// The same, held open.
    ///
    /// # Errors
    /// It may be there, and we are kept from it.
    pub fn open(&self, name: &str) -> Result<Dir> {
        Dir::open(self.dir(name))
    }

    pub fn dev(&self, name: &str) -> Option<DevNum> {
        dev_num(&attribute(self.dir(name).join("dev"))?)
    }

    pub fn exists(&self, name: &str) -> bool {
        !name.is_empty() && !name.contains('/') && self.dir(name).exists()
    }

    /// Kernel name of a device number.
    pub fn name_of(&self, dev: DevNum) -> Option<String> {
        leads_to(self.root.join(format!("/sys/dev/block/{dev}")))
    }

    /// Kernel name of a device node, such as `md0` for `/dev/md/kubernetes` or `dm-0` for `/dev/mapper/vg-root`.
    pub fn name_of_node(&self, node: &str) -> Option<String> {
        if !node.starts_with("/dev/") {
            return None;
        }
        if self.root.is_host()
            && let Ok(status) = rustix::fs::stat(node)
            && rustix::fs::FileType::from_raw_mode(status.st_mode).is_block_device()
        {
            let dev =
                DevNum { major: rustix::fs::major(status.st_rdev), minor: rustix::fs::minor(status.st_rdev) };
            return self.name_of(dev);
        }
        // In a fixture tree, or where the node is gone: by its name.
        let name = Path::new(node).file_name()?.to_str()?;
        self.exists(name).then(|| name.to_owned())
    }

    /// The whole disk that a partition is on; a disk itself.
    pub fn disk_of(&self, name: &str) -> String {
        let dir = self.dir(name);
        if dir.join("partition").exists()
            && let Ok(path) = fs::read_link(&dir)
            && let Some(parent) = path.parent().and_then(Path::file_name)
        {
            return parent.to_string_lossy().into_owned();
        }
        name.to_owned()
    }

    /// The partitions of a disk that the kernel knows.
    ///
    /// # Errors
    /// The disk's directory cannot be read.
    pub fn partitions(&self, disk: &str) -> Result<Vec<String>> {
        let dir = self.dir(disk);
        let mut partitions = names(&dir)?;
        partitions.retain(|name| name.starts_with(disk) && dir.join(name).join("partition").exists());
        Ok(partitions)
    }

    /// Devices that stand on this disk or partition: dm, md, bcache ...
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn holders(&self, name: &str) -> Result<Vec<String>> {
        names(self.dir(name).join("holders"))
    }

    /// Every disk and partition that `name` stands on, itself included.
    ///
    /// # Errors
    /// A directory of sysfs cannot be read.
    pub fn beneath(&self, name: &str) -> Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        let mut todo = vec![name.to_owned()];
        while let Some(name) = todo.pop() {
            if !found.insert(name.clone()) {
                continue;
            }
            todo.extend(names(self.dir(&name).join("slaves"))?);
            let disk = self.disk_of(&name);
            if disk != name {
                todo.push(disk);
            }
        }
        Ok(found)
    }

    /// Every device of the btrfs filesystem that `name` belongs to: mountinfo shows only one of them.
    ///
    /// # Errors
    /// A directory of sysfs cannot be read.
    pub fn btrfs_devices(&self, name: &str) -> Result<Vec<String>> {
        let base = self.root.join("/sys/fs/btrfs");
        for filesystem in names(&base)? {
            let devices = names(base.join(filesystem).join("devices"))?;
            if devices.iter().any(|device| device == name) {
                return Ok(devices);
            }
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_of_nvme_strings_is_cut_and_odd_bytes_match_nothing() {
        assert_eq!(clean(b"Amazon EC2 NVMe Instance Storage        \n"), "Amazon EC2 NVMe Instance Storage");
        assert_eq!(clean(b"AWS1\0\0\n"), "AWS1");
        assert_eq!(clean(b"AWS\xff\n"), "AWS\u{fffd}");
    }

    #[test]
    fn no_sysfs_is_not_the_same_as_no_drives() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let why = Sysfs::new(&root).disks().unwrap_err().to_string();
        assert!(why.contains("/sys/block") && why.contains("findmnt /sys"), "{why}");
        fs::create_dir_all(root.join("/sys/block")).unwrap();
        assert!(Sysfs::new(&root).disks().unwrap().is_empty());
    }

    #[test]
    fn numbers_of_sysfs() {
        assert_eq!(hex("0x1d0f"), Some(0x1d0f));
        assert_eq!(hex("1d0f"), None);
        assert_eq!(dev_num("259:12"), Some(DevNum { major: 259, minor: 12 }));
        assert_eq!(dev_num("259"), None);
    }
}
