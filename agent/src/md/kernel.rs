//! md as the kernel shows it (sysfs, /proc/mdstat).
//! Attributes: the kernel's `Documentation/admin-guide/md.rst`.

use std::fs;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::geometry::SUPER_OFFSET_BYTES;
use super::superblock::{MAX_LEN, Superblock};
use crate::error::{Error, Result};
use crate::ioctl::md::MAJOR;
use crate::observe::Array;
use crate::observe::blank::{self, Buffer, Device};
use crate::root::Root;

/// `MINORMASK`: the greatest minor that `new_array` takes.
const MAX_MINOR: u32 = (1 << 20) - 1;
/// Words of `md/array_state` for arrays that serve no I/O.
const NOT_RUNNING: [&str; 4] = ["", "clear", "inactive", "broken"];

/// Kernel name of an array, such as `md0`, from its path, and its minor.
///
/// # Errors
/// Any other name: the kernel makes arrays of other names only where it is configured to.
pub fn minor_of(array: &Path) -> Result<u32> {
    let name = super::guard::kernel_name(array);
    let minor = name.strip_prefix("md").and_then(|digits| digits.parse().ok());
    match minor {
        Some(minor) if minor <= MAX_MINOR && format!("md{minor}") == name => Ok(minor),
        _ => Err(Error::Other(format!(
            "{} is no name for an array: expected /dev/md and a number",
            array.display()
        ))),
    }
}

/// True where one of these arrays has the minor. One that is `clear` and has no members does not count: a killed run (of
/// anybody's) leaves such a node, and nothing is on it.
pub fn is_taken(arrays: &[&Array], minor: u32) -> bool {
    arrays.iter().any(|array| {
        let same = array.name == format!("md{minor}")
            || (array.dev.major == u32::from(MAJOR) && array.dev.minor == minor);
        same && !(array.state == "clear" && array.members.is_empty())
    })
}

/// The lowest minor that none of these arrays has.
pub fn free_minor(arrays: &[&Array]) -> u32 {
    (0..=MAX_MINOR).find(|minor| !is_taken(arrays, *minor)).unwrap_or(MAX_MINOR)
}

/// An array as sysfs shows it at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Kernel name.
    pub name: String,
    /// `md/array_state`.
    pub state: String,
    /// Kernel names of the members, sorted.
    pub members: Vec<String>,
}

impl Shown {
    /// The array of this kernel name; none where there is none.
    pub fn read(root: &Root, name: &str) -> Option<Shown> {
        let md = root.join("/sys/block").join(name).join("md");
        let state = fs::read_to_string(md.join("array_state")).ok()?.trim().to_owned();
        let mut members: Vec<String> = fs::read_dir(&md)
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("dev-").map(str::to_owned))
            .collect();
        members.sort_unstable();
        Some(Shown { name: name.to_owned(), state, members })
    }

    /// Every array that the kernel has, by name.
    pub fn read_all(root: &Root) -> Vec<Shown> {
        let names = fs::read_dir(root.join("/sys/block")).into_iter().flatten().flatten();
        let mut all: Vec<Shown> =
            names.filter_map(|entry| Shown::read(root, entry.file_name().to_str()?)).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// It serves I/O.
    pub fn is_running(&self) -> bool {
        !NOT_RUNNING.contains(&self.state.as_str())
    }

    /// It may not be written: started so, or waiting for its first write.
    pub fn is_read_only(&self) -> bool {
        matches!(self.state.as_str(), "readonly" | "read-auto")
    }

    /// No members and no shape: as good as none.
    pub fn is_empty(&self) -> bool {
        self.state == "clear" && self.members.is_empty()
    }

    /// The set's UUID, from the kernel where it says (5.19 and later), else from the first member that can be read.
    pub fn set_uuid(&self, root: &Root) -> Option<Uuid> {
        let attribute = root.join("/sys/block").join(&self.name).join("md/uuid");
        let said = fs::read_to_string(attribute).ok().and_then(|text| Uuid::try_parse(text.trim()).ok());
        said.filter(|uuid| !uuid.is_nil()).or_else(|| {
            let superblock = |member: &String| read_superblock(&root.join("/dev").join(member)).ok()?.ok();
            self.members.iter().find_map(superblock).map(|superblock| superblock.set_uuid())
        })
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }
}

/// The v1.2 superblock of a device (a path under the root), or why there is none.
///
/// # Errors
/// It cannot be read.
pub fn read_superblock(device: &Path) -> Result<Result<Superblock, super::superblock::ParseError>> {
    let at = SUPER_OFFSET_BYTES;
    // Past the page cache, which md above a drive does not keep up to date.
    let open = Device::open(device, at + MAX_LEN as u64).map_err(Error::io(device, "open it"))?;
    let mut buffer = Buffer::default();
    let bytes = blank::read(&open, at, MAX_LEN, &mut buffer);
    Ok(Superblock::parse(bytes.map_err(Error::io(device, "read its md superblock"))?))
}

/// The kernel can run this level: its module is loaded (or built in).
pub fn has_personality(root: &Root, level: &str) -> bool {
    let mdstat = fs::read_to_string(root.join("/proc/mdstat")).unwrap_or_default();
    mdstat.lines().next().is_some_and(|line| line.split_whitespace().any(|word| word == format!("[{level}]")))
}

/// raid0 is loaded, built in, or a module that the kernel's own request will find when the array is run. Asked before
/// anything is written.
///
/// # Errors
/// It is none of these.
pub fn require_raid0(root: &Root) -> Result<()> {
    let Ok(release) = fs::read_to_string(root.join("/proc/sys/kernel/osrelease")) else { return Ok(()) };
    let dir = root.join("/lib/modules").join(release.trim());
    let listed = |list: &str| {
        let text = fs::read_to_string(dir.join(list)).ok()?;
        let is_raid0 = |path: &&str| path.rsplit('/').next().is_some_and(|file| file.starts_with("raid0.ko"));
        Some(text.lines().filter_map(|line| line.split(':').next()).find(is_raid0).map(|path| dir.join(path)))
    };
    if has_personality(root, "raid0") || listed("modules.builtin").flatten().is_some() {
        return Ok(());
    }
    match listed("modules.dep") {
        Some(None) => Err(raid0_missing(&format!("{} does not list it", dir.join("modules.dep").display()))),
        Some(Some(file)) if !file.exists() => Err(raid0_missing(&format!("{} is not there", file.display()))),
        // Listed and there; or no list at all, so that only running an array can tell.
        _ => Ok(()),
    }
}

/// The one error for it.
pub fn raid0_missing(how: &str) -> Error {
    Error::Environment(format!(
        "raid0 module missing: {how}. Install the kernel's module package, or allow the module: `modprobe raid0` must \
         work"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::DevNum;

    fn array(name: &str, minor: u32, state: &str, members: &[&str]) -> Array {
        Array {
            name: name.into(),
            dev: DevNum { major: 9, minor },
            state: state.into(),
            members: members.iter().map(|m| (*m).to_owned()).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_lowest_minor_that_nobody_uses_is_chosen() {
        assert_eq!(free_minor(&[]), 0);
        let arrays = [array("md0", 0, "clean", &["sda"]), array("md127", 127, "clean", &["sdb"])];
        assert_eq!(free_minor(&arrays.each_ref()), 1);
        assert_eq!(free_minor(&[&array("md0", 0, "inactive", &["sda"])]), 1);
        assert_eq!(free_minor(&[&array("md0", 0, "inactive", &[])]), 1);
        assert_eq!(free_minor(&[&array("md_home", 0, "clean", &["sda"])]), 1);
        assert_eq!(free_minor(&[&array("md0", 0, "clear", &[])]), 0);
    }

    #[test]
    fn only_plain_array_names_have_a_minor() {
        assert_eq!(minor_of(Path::new("/dev/md0")).unwrap(), 0);
        assert_eq!(minor_of(Path::new("/dev/md127")).unwrap(), 127);
        for bad in
            ["/dev/md", "/dev/md_home", "/dev/md01", "/dev/md+1", "/dev/md1048576", "/dev/nvme0n1", "/"]
        {
            assert!(minor_of(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn arrays_are_read_from_sysfs_with_the_uuid_of_kernel_or_member() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let md = dir.path().join("sys/block/md127/md");
        for member in ["dev-nvme2n1", "dev-nvme1n1"] {
            fs::create_dir_all(md.join(member)).unwrap();
        }
        fs::create_dir_all(dir.path().join("sys/block/nvme0n1")).unwrap();
        fs::create_dir_all(dir.path().join("dev")).unwrap();
        fs::write(md.join("array_state"), "inactive\n").unwrap();
        let mut disk = vec![0; 4096];
        disk.extend_from_slice(include_bytes!("../../tests/golden/md/4g-0.sb"));
        fs::write(dir.path().join("dev/nvme1n1"), &disk).unwrap();

        let shown = Shown::read_all(&root);
        assert_eq!(shown.len(), 1);
        assert_eq!((shown[0].name.as_str(), shown[0].state.as_str()), ("md127", "inactive"));
        assert_eq!(shown[0].members, ["nvme1n1", "nvme2n1"]);
        assert!(!shown[0].is_running() && !shown[0].is_empty());
        let on_disk = read_superblock(&dir.path().join("dev/nvme1n1")).unwrap().unwrap().set_uuid();
        assert_eq!(shown[0].set_uuid(&root), Some(on_disk));
        fs::write(md.join("uuid"), "1717a165-d6c1-10a9-c883-3362ca4bb572\n").unwrap();
        assert_eq!(shown[0].set_uuid(&root).unwrap().to_string(), "1717a165-d6c1-10a9-c883-3362ca4bb572");
    }

    #[test]
    fn raid0_is_there_when_mdstat_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        assert!(!has_personality(&root, "raid0"));
        fs::create_dir(dir.path().join("proc")).unwrap();
        fs::write(dir.path().join("proc/mdstat"), "Personalities : [raid10] \nunused devices: <none>\n")
            .unwrap();
        assert!(!has_personality(&root, "raid0"));
        fs::write(dir.path().join("proc/mdstat"), "Personalities : [raid10] [raid0] \n").unwrap();
        assert!(has_personality(&root, "raid0"));
    }

    #[test]
    fn a_missing_raid0_module_is_noticed_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        require_raid0(&root).expect("nothing is known: only running it can tell");
        put("proc/sys/kernel/osrelease", "6.12.1\n");
        require_raid0(&root).unwrap();
        let other =
            "kernel/drivers/md/raid10.ko.xz:\nkernel/fs/raid0.kofs/x.ko: kernel/drivers/md/raid0.ko.xz\n";
        put("lib/modules/6.12.1/modules.dep", other);
        let error = require_raid0(&root).unwrap_err().to_string();
        assert!(error.starts_with("raid0 module missing") && error.contains("modprobe raid0"), "{error}");
        put(
            "lib/modules/6.12.1/modules.dep",
            &format!("{other}kernel/drivers/md/raid0.ko.xz: kernel/md-mod.ko.xz\n"),
        );
        assert!(require_raid0(&root).unwrap_err().to_string().contains("raid0.ko.xz is not there"));
        put("lib/modules/6.12.1/kernel/drivers/md/raid0.ko.xz", "");
        require_raid0(&root).unwrap();
        put("lib/modules/6.12.1/modules.dep", "");
        put("lib/modules/6.12.1/modules.builtin", "kernel/drivers/md/raid0.ko\n");
        require_raid0(&root).unwrap();
    }
}
