//! Bringing an array device into being: no udev, no child process.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use tracing::debug;

use super::kernel::Shown;
use crate::error::{Error, Result};
use crate::ioctl::md::MAJOR;
use crate::root::Root;

/// How long an array device may take to appear, or to go, after the kernel was told.
pub const TIMEOUT: Duration = Duration::from_secs(5);
const NEW_ARRAY: &str = "/sys/module/md_mod/parameters/new_array";

/// Makes `/dev/mdN` exist and opens it. No udev, no child: md itself is loaded by the kernel's own request when a node
/// of its major is opened, and the device node comes from devtmpfs.
///
/// # Errors
/// The kernel has no md; the device or its node does not appear; the name belongs to an array in use.
pub fn bring_up(root: &Root, minor: u32) -> Result<File> {
    let name = format!("md{minor}");
    let sys = root.join("/sys/block").join(&name);
    let node = root.join("/dev").join(&name);
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let problem = match Shown::read(root, &name) {
            Some(shown) if !shown.is_empty() => {
                return Err(Error::Other(format!(
                    "{} is taken by another array (state {}, members {})",
                    node.display(),
                    shown.state,
                    shown.members.join(", ")
                )));
            }
            Some(_) => match open_node(&node, minor) {
                Ok(file) => return Ok(file),
                Err(error) => error,
            },
            None => match request_array(root, minor) {
                Ok(()) if sys.exists() => continue,
                Ok(()) => Error::Other(format!("{} does not appear", sys.display())),
                Err(error @ Error::Environment(_)) => return Err(error),
                Err(error) => error,
            },
        };
        if Instant::now() >= deadline {
            return Err(problem);
        }
        // A device that is just being deleted answers EBUSY, EEXIST or ENXIO until it is gone.
        debug!("{name} is not there yet: {problem}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Tells the kernel to make an array device.
fn request_array(root: &Root, minor: u32) -> Result<()> {
    let new_array = root.join(NEW_ARRAY);
    let write =
        || OpenOptions::new().write(true).open(&new_array)?.write_all(format!("md{minor}").as_bytes());
    match write() {
        Err(error) if error.kind() == ErrorKind::NotFound => load_md(root, minor),
        other => other.map_err(Error::io(&new_array, "ask for a new array")),
    }
}

/// Opens a node of md's major for a moment: the kernel then requests `block-major-9-*`, which is md_mod.
///
/// That needs BLOCK_LEGACY_AUTOLOAD, which is deprecated but selected by BLK_DEV_MD (drivers/md/Kconfig): a kernel that
/// has md has it, so that `install` need not have md_mod loaded by modules-load.d. raid0 is requested by md itself.
fn load_md(root: &Root, minor: u32) -> Result<()> {
    // Under /dev, since /run is often mounted nodev; under a name of our own, since devtmpfs would neither replace
    // nor ever remove a /dev/mdN that it did not make.
    let node = root.join("/dev").join(format!(".nvme-agent-md{minor}-{}", std::process::id()));
    make_node(&node, minor)?;
    let opened = File::open(&node);
    fs::remove_file(&node).map_err(Error::io(&node, "remove the temporary node"))?;
    match opened {
        Ok(_) => Ok(()),
        Err(_) if root.join(NEW_ARRAY).exists() => Ok(()),
        Err(error) => Err(md_missing(&error)),
    }
}

fn md_missing(error: &std::io::Error) -> Error {
    Error::Environment(format!(
        "this kernel has no md (module md_mod): opening a node of block major {MAJOR} says {error}. Install the \
         kernel's module package, or check /proc/sys/kernel/modprobe and modules_disabled; if `modprobe md_mod` works, \
         the kernel does not load it by itself (BLOCK_LEGACY_AUTOLOAD): put md_mod into a file in /etc/modules-load.d"
    ))
}

fn make_node(node: &Path, minor: u32) -> Result<()> {
    let device = makedev(u64::from(MAJOR), u64::from(minor));
    mknod(node, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, device)
        .map_err(Error::io(node, "make the device node"))
}

/// Opens the node, having made it where nothing does so (a /dev that is no devtmpfs).
fn open_node(node: &Path, minor: u32) -> Result<File> {
    let metadata = match fs::symlink_metadata(node) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            make_node(node, minor)?;
            fs::symlink_metadata(node)
        }
        other => other,
    }
    .map_err(Error::io(node, "look at the device node"))?;
    let expected = makedev(u64::from(MAJOR), u64::from(minor));
    if !metadata.file_type().is_block_device() || metadata.rdev() != expected {
        return Err(Error::Other(format!(
            "{} is not the block device {MAJOR}:{minor}: move it out of the way",
            node.display()
        )));
    }
    // Read-only is enough for md's ioctls, and closing it wakes no udev watch.
    File::open(node).map_err(Error::io(node, "open the array"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_md_says_what_to_do_also_where_the_kernel_does_not_load_it_by_itself() {
        let error = md_missing(&std::io::Error::from_raw_os_error(nix::libc::ENXIO));
        assert_eq!(error.exit_code(), 5);
        let text = error.to_string();
        for words in ["block major 9", "No such device", "modprobe md_mod", "/etc/modules-load.d"] {
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn a_name_that_another_array_has_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let md = dir.path().join("sys/block/md0/md/dev-sda");
        fs::create_dir_all(&md).unwrap();
        fs::write(md.join("../array_state"), "clean\n").unwrap();
        let error = bring_up(&Root::new(dir.path()), 0).unwrap_err().to_string();
        assert!(error.contains("taken by another array (state clean, members sda)"), "{error}");
    }
}
