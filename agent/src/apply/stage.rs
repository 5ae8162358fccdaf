//! The stage: a mount that nobody sees, worked on through its file descriptor, then put on the target in one step.
//!
//! fsopen, fsmount and move_mount are in kernel 5.2 and later; every EKS image since AL2's end runs 5.10 or later.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, OFlags, StatxFlags, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags};

use crate::config::FsKind;
use crate::error::{Error, Result};

/// Where a path leads to: which filesystem, which inode, which mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Device number of the filesystem, major and minor.
    pub dev: (u32, u32),
    pub ino: u64,
    /// Mount ID as in mountinfo; 0 before kernel 5.8.
    pub mount: u64,
}

/// A mount that is attached nowhere. Dropping it unmounts it.
#[derive(Debug)]
pub struct Staged {
    mount: OwnedFd,
    /// The root directory, open for work.
    root: OwnedFd,
    place: Place,
}

/// Mount options, sorted by who takes them.
#[derive(Debug, PartialEq, Eq)]
struct Options<'a> {
    attributes: MountAttrFlags,
    /// For the filesystem: key, and value where it has one.
    filesystem: Vec<(&'a str, Option<&'a str>)>,
}

/// Sorts options as mount(8) does: flags of the mount, options of the filesystem, and what only fstab's readers take.
fn sort_options(options: &[String]) -> Options<'_> {
    let mut attributes = MountAttrFlags::empty();
    let mut filesystem = Vec::new();
    // MOUNT_ATTR__ATIME is a field of two bits, in which relatime is 0.
    let atime = MountAttrFlags::MOUNT_ATTR__ATIME;
    for option in options.iter().flat_map(|o| o.split(',')).filter(|o| !o.is_empty()) {
        match option {
            "ro" => {
                attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
                filesystem.push(("ro", None));
            }
            "rw" | "atime" | "diratime" => {}
            "noatime" => attributes = (attributes - atime) | MountAttrFlags::MOUNT_ATTR_NOATIME,
            "strictatime" => attributes = (attributes - atime) | MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            "relatime" => attributes -= atime,
            "nodiratime" => attributes |= MountAttrFlags::MOUNT_ATTR_NODIRATIME,
            "nosuid" => attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
            "suid" => attributes -= MountAttrFlags::MOUNT_ATTR_NOSUID,
            "nodev" => attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
            "dev" => attributes -= MountAttrFlags::MOUNT_ATTR_NODEV,
            "noexec" => attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "exec" => attributes -= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "nosymfollow" => attributes |= MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
            // For those who read fstab, not for the kernel (mount(8), systemd.mount(5)).
            "defaults" | "auto" | "noauto" | "nofail" | "user" | "nouser" | "users" | "owner" | "group"
            | "_netdev" => {}
            comment if comment.starts_with("x-") || comment.starts_with("X-") => {}
            other => filesystem.push(match other.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (other, None),
            }),
        }
    }
    Options { attributes, filesystem }
}

impl Staged {
    /// Mounts `device` nowhere. ext4 replays its journal here.
    ///
    /// # Errors
    /// Where the kernel refuses; with its own words, which it gives through the fsopen descriptor.
    pub fn mount(device: &Path, kind: FsKind, options: &[String]) -> Result<Staged> {
        let sorted = sort_options(options);
        let context = rustix::mount::fsopen(kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| match e {
            Errno::NOSYS => Error::Environment(
                "this kernel has no fsopen(2); Linux 5.2 or later is needed (every EKS image has 5.10 or later)".into(),
            ),
            Errno::NODEV => Error::Environment(format!(
                "this kernel has no {kind}, and loading its module did not help; choose another filesystem"
            )),
            e => Error::io(device, "prepare a mount of")(e),
        })?;
        let refused = |context: OwnedFd, what: &'static str, e: Errno| {
            let said = kernel_messages(context);
            let source = std::io::Error::other(format!("{}{said}", std::io::Error::from(e)));
            Error::Io { path: device.to_path_buf(), action: what, source }
        };
        for (key, value) in [("source", Some(device))]
            .map(|(k, v)| (k, v.map(|p| p.to_string_lossy().into_owned())))
            .into_iter()
            .chain(sorted.filesystem.iter().map(|(k, v)| (*k, v.map(str::to_owned))))
        {
            let set = match &value {
                Some(value) => rustix::mount::fsconfig_set_string(context.as_fd(), key, value.as_str()),
                None => rustix::mount::fsconfig_set_flag(context.as_fd(), key),
            };
            if let Err(e) = set {
                return Err(refused(context, "mount (a mount option was refused)", e));
            }
        }
        if let Err(e) = rustix::mount::fsconfig_create(context.as_fd()) {
            return Err(refused(context, "mount", e));
        }
        let mount = rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, sorted.attributes);
        let mount = match mount {
            Ok(mount) => mount,
            Err(e) => return Err(refused(context, "mount", e)),
        };
        Staged::of(mount, device)
    }

    fn of(mount: OwnedFd, device: &Path) -> Result<Staged> {
        let root = rustix::fs::openat(
            &mount,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(Error::io(device, "open the root directory of"))?;
        let place = place_of(mount.as_fd()).map_err(Error::io(device, "look at the mount of"))?;
        Ok(Staged { mount, root, place })
    }

    /// The root directory of the filesystem, for the `*at` calls.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// Writes everything out. Blocks for as long as the device takes.
    ///
    /// # Errors
    /// Where a write failed.
    pub fn sync(&self, target: &str) -> Result<()> {
        rustix::fs::syncfs(&self.root).map_err(Error::io(target, "write out the filesystem for"))
    }

    /// Puts the mount on `target`, whose path must still lead to `expected`.
    ///
    /// # Errors
    /// Where the target is not what it was (something was mounted there meanwhile), or is ours already, or the
    /// kernel refuses; nothing has changed then. Also where another mount covers ours afterwards.
    pub fn expose(self, target: &Path, expected: Place) -> Result<Place> {
        let directory = open_target(target)?;
        let now = place_of(directory.as_fd()).map_err(Error::io(target, "look at"))?;
        if now.dev == self.place.dev {
            return Err(Error::Other(format!(
                "{} has our filesystem mounted already (mount {}), which was not so when this run began: something \
                 else mounts it, systemd from fstab perhaps; run `nvme-agent setup` again",
                target.display(),
                now.mount
            )));
        }
        if now != expected {
            return Err(Error::Other(format!(
                "{} changed while the filesystem was made: mount {} of device {}:{} is there now, it was mount {} of \
                 {}:{}; something else mounts there. Nothing was put on it; run `nvme-agent setup` again",
                target.display(),
                now.mount,
                now.dev.0,
                now.dev.1,
                expected.mount,
                expected.dev.0,
                expected.dev.1
            )));
        }
        rustix::mount::move_mount(
            &self.mount,
            "",
            &directory,
            "",
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
        )
        .map_err(Error::io(target, "put the mount on"))?;
        let seen = place_of(open_target(target)?.as_fd()).map_err(Error::io(target, "look at"))?;
        if seen != self.place {
            return Err(Error::Verify(format!(
                "our mount {} was put on {}, but mount {} of device {}:{} is what is seen there: something else was \
                 mounted at the same moment; look with `findmnt -a {}`",
                self.place.mount,
                target.display(),
                seen.mount,
                seen.dev.0,
                seen.dev.1,
                target.display()
            )));
        }
        Ok(seen)
    }
}

/// What the kernel says about a failed mount: `; the kernel says: ...`, or nothing.
fn kernel_messages(context: OwnedFd) -> String {
    // The descriptor yields one message a read, `e text`, and ENODATA when there is none left.
    let mut messages = Vec::new();
    let mut file = std::fs::File::from(context);
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = file.read(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..n]);
        messages.push(text.trim().trim_start_matches(['e', 'w', 'i']).trim().to_owned());
        if messages.len() == 8 {
            break;
        }
    }
    if messages.is_empty() { String::new() } else { format!("; the kernel says: {}", messages.join("; ")) }
}

/// Opens the directory `target` for use as a place, never through a symlink in its last component.
///
/// # Errors
/// Where it is not a directory.
pub fn open_target(target: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(target, flags, Mode::empty()).map_err(Error::io(target, "open the directory"))
}

/// Gives the mount that `fd` is in the per-mount flags among `options`; what the filesystem takes stays as it is.
///
/// # Errors
/// Those of mount(2), about `shown`.
pub fn remount(shown: &Path, fd: BorrowedFd<'_>, options: &[String]) -> Result<()> {
    let mut flags = MountFlags::BIND;
    for option in options {
        flags |= match option.as_str() {
            "noatime" => MountFlags::NOATIME,
            "relatime" => MountFlags::RELATIME,
            "nodiratime" => MountFlags::NODIRATIME,
            "nosuid" => MountFlags::NOSUID,
            "nodev" => MountFlags::NODEV,
            "noexec" => MountFlags::NOEXEC,
            _ => MountFlags::empty(),
        };
    }
    // By descriptor: the path may be covered by another mount a moment from now.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::mount::mount_remount(path.as_str(), flags, "")
        .map_err(Error::io(shown, "change the mount options of"))
}

/// Where `fd` leads to.
///
/// # Errors
/// Those of statx(2).
pub fn place_of(fd: BorrowedFd<'_>) -> rustix::io::Result<Place> {
    let statx = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::MNT_ID)?;
    let mount = if statx.stx_mask & StatxFlags::MNT_ID.bits() != 0 { statx.stx_mnt_id } else { 0 };
    Ok(Place { dev: (statx.stx_dev_major, statx.stx_dev_minor), ino: statx.stx_ino, mount })
}

/// Sets owner, mode and SELinux label of an open directory, where they differ.
///
/// # Errors
/// Those of the system calls, about `shown`.
pub fn dress(
    directory: BorrowedFd<'_>,
    shown: &Path,
    mode: Option<u32>,
    owner: Option<(u32, u32)>,
    selinux: Option<&str>,
) -> Result<()> {
    let stat = rustix::fs::fstat(directory).map_err(Error::io(shown, "look at"))?;
    if let Some((uid, gid)) = owner.filter(|o| *o != (stat.st_uid, stat.st_gid)) {
        rustix::fs::fchown(directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(Error::io(shown, "set the owner of"))?;
    }
    // After the owner: chown(2) may clear set-id bits.
    if let Some(mode) = mode.filter(|m| *m != stat.st_mode & 0o7777 || owner.is_some()) {
        rustix::fs::fchmod(directory, Mode::from_raw_mode(mode))
            .map_err(Error::io(shown, "set the mode of"))?;
    }
    if let Some(label) = selinux.filter(|label| label_of(directory).as_deref() != Some(label)) {
        // As libselinux does, the value ends in a NUL.
        let value = [label.as_bytes(), b"\0"].concat();
        rustix::fs::fsetxattr(directory, "security.selinux", &value, XattrFlags::empty())
            .map_err(Error::io(shown, "set the SELinux label of"))?;
    }
    Ok(())
}

/// The SELinux label of an open directory.
pub fn label_of(directory: BorrowedFd<'_>) -> Option<String> {
    let mut value = [0_u8; 512];
    let n = rustix::fs::fgetxattr(directory, "security.selinux", &mut value[..]).ok()?;
    let text = String::from_utf8_lossy(value.get(..n)?);
    Some(text.trim_end_matches('\0').to_owned()).filter(|t| !t.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(text: &str) -> (MountAttrFlags, String) {
        let options = [text.to_owned()];
        let Options { attributes, filesystem } = sort_options(&options);
        let filesystem: Vec<String> =
            filesystem.iter().map(|(k, v)| v.map_or(k.to_string(), |v| format!("{k}={v}"))).collect();
        (attributes, filesystem.join(","))
    }

    #[test]
    fn options_go_to_who_takes_them() {
        use MountAttrFlags as F;
        let usual = F::MOUNT_ATTR_NOATIME | F::MOUNT_ATTR_NOSUID | F::MOUNT_ATTR_NODEV;
        assert_eq!(sorted("noatime,nosuid,nodev"), (usual, String::new()));
        assert_eq!(
            sorted("defaults,noatime,nodev,nosuid,nofail,x-systemd.device-timeout=90s,_netdev"),
            (usual, String::new())
        );
        assert_eq!(
            sorted("noexec,discard,data=writeback,lazytime"),
            (F::MOUNT_ATTR_NOEXEC, "discard,data=writeback,lazytime".into())
        );
        // The last of several that contradict each other holds.
        assert_eq!(sorted("noatime,strictatime"), (F::MOUNT_ATTR_STRICTATIME, String::new()));
        assert_eq!(sorted("strictatime,relatime"), (F::empty(), String::new()));
        assert_eq!(sorted("nosuid,suid,dev,exec"), (F::empty(), String::new()));
        assert_eq!(sorted("ro"), (F::MOUNT_ATTR_RDONLY, "ro".into()));
    }
}
