//! Directories under the mount: the configured ones, and at /tmp those that running services need.
//!
//! /tmp is world-writable, so every name below it may be an attack: no symlink is followed, every step goes through
//! an open directory, and what an unprivileged user made is not walked through on the way to something of root's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::Errno;

use super::stage::{dress, label_of};
use crate::config::Directory;
use crate::error::{Error, Result};
use crate::persist::atomic;
use crate::root::Root;

/// Sockets of X and font servers, which tmpfiles.d/x11.conf makes at boot in the /tmp that gets covered.
const X11_DIRECTORIES: [&str; 4] = [".X11-unix", ".ICE-unix", ".XIM-unix", ".font-unix"];
/// What systemd names the private /tmp of a service: `systemd-private-BOOTID-UNIT-RANDOM`, with `tmp` in it.
const PRIVATE_PREFIX: &[u8] = b"systemd-private-";
/// Mode of directories on the way to a configured one, where they are missing.
const PARENT_MODE: u32 = 0o755;

/// Makes the configured directories below `top`, or repairs them; each on its own, so that one that cannot be made
/// does not keep the others, nor the mount, from the node. `shown` is how errors name `top`.
///
/// Returns one error for each that could not be made.
pub fn make_all(host: &Root, top: BorrowedFd<'_>, shown: &Path, directories: &[Directory]) -> Vec<Error> {
    directories.iter().filter_map(|directory| make(host, top, shown, directory).err()).collect()
}

fn make(host: &Root, top: BorrowedFd<'_>, shown: &Path, wanted: &Directory) -> Result<()> {
    let uid = id_of(host, "/etc/passwd", &wanted.owner)?;
    let gid = id_of(host, "/etc/group", &wanted.group)?;
    let names: Vec<&str> = wanted.path.split('/').filter(|n| !n.is_empty() && *n != ".").collect();
    if names.is_empty() || names.contains(&"..") {
        return Err(Error::Config(format!(
            "[[directory]] path {:?} does not lead below the mount",
            wanted.path
        )));
    }
    let mut path = shown.to_path_buf();
    let mut current: Option<OwnedFd> = None;
    for (at, name) in names.iter().enumerate() {
        let parent = current.as_ref().map_or(top, AsFd::as_fd);
        path.push(name);
        let made = enter(parent, name, &path)?;
        let last = at + 1 == names.len();
        if last {
            dress(made.fd.as_fd(), &path, Some(wanted.mode), Some((uid, gid)), None)?;
            if let Some(kind) = &wanted.selinux_type
                && let Some(label) = label_of(made.fd.as_fd())
            {
                dress(made.fd.as_fd(), &path, None, None, Some(&with_type(&label, kind)))?;
            }
        } else if made.new {
            dress(made.fd.as_fd(), &path, Some(PARENT_MODE), None, None)?;
        }
        current = Some(made.fd);
    }
    Ok(())
}

struct Entered {
    fd: OwnedFd,
    new: bool,
}

/// Opens the directory `name` in `parent`, and makes it first where it is missing.
fn enter(parent: BorrowedFd<'_>, name: &str, shown: &Path) -> Result<Entered> {
    // Nobody but root gets in until it is dressed.
    let new = match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(e) => return Err(Error::io(shown, "make the directory")(e)),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(|e| match e {
        Errno::LOOP | Errno::NOTDIR => Error::Other(format!(
            "{} is not a directory but a symlink or file, which any user can put there; it was left alone: remove it, \
             then run `nvme-agent setup` again",
            shown.display()
        )),
        e => Error::io(shown, "open the directory")(e),
    })?;
    let inside = rustix::fs::fstat(&fd).map_err(Error::io(shown, "look at"))?;
    let outside = rustix::fs::fstat(parent).map_err(Error::io(shown, "look at the parent of"))?;
    if inside.st_dev != outside.st_dev {
        return Err(Error::Other(format!(
            "{} is a mount of something else; it was left alone: unmount it or take it out of [[directory]]",
            shown.display()
        )));
    }
    // systemd-tmpfiles' rule against unsafe path transitions: below what a user owns, only what is the same user's.
    if outside.st_uid != 0 && inside.st_uid != outside.st_uid && !new {
        return Err(Error::Other(format!(
            "{} is owned by uid {} in a directory of uid {}, who could swap it for another; it was left alone: let root \
             own the directories above it",
            shown.display(),
            inside.st_uid,
            outside.st_uid
        )));
    }
    Ok(Entered { fd, new })
}

/// `user:role:type:level` with another type.
fn with_type(label: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = label.splitn(4, ':').collect();
    if let Some(part) = parts.get_mut(2) {
        *part = kind;
    }
    parts.join(":")
}

/// The number of a user or group, from `file` under the root: reads it itself, since libc's way may ask a name
/// service that does not answer this early in the boot.
fn id_of(host: &Root, file: &str, name: &str) -> Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    if name == "root" {
        return Ok(0);
    }
    let path = host.join(file);
    let text = atomic::read_text(&path)?.unwrap_or_default();
    let found = text.lines().map(|line| line.split(':')).find_map(|mut fields| {
        (fields.next() == Some(name)).then(|| fields.nth(1).and_then(|id| id.parse().ok())).flatten()
    });
    found.ok_or_else(|| {
        Error::Config(format!(
            "[[directory]] names {name:?}, which {file} does not have; use a number for users of a directory service"
        ))
    })
}

/// Makes on the stage what running services have in the directory that gets covered: the private /tmp of each, empty,
/// without which a reload or stop of it fails (facts.md 4b), and the X11 socket directories.
///
/// Only what root owns is taken for such; the rest could be anybody's. Returns what could not be made.
pub fn carry_over(covered: &Path, stage: BorrowedFd<'_>) -> Vec<Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let old = match rustix::fs::open(covered, flags, Mode::empty()) {
        Ok(old) => old,
        Err(Errno::NOENT) => return Vec::new(),
        Err(e) => return vec![Error::io(covered, "open the directory")(e)],
    };
    let entries = match Dir::read_from(&old) {
        Ok(entries) => entries,
        Err(e) => return vec![Error::io(covered, "list")(e)],
    };
    let mut errors = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_bytes();
        let Ok(text) = std::str::from_utf8(name) else { continue };
        let private = name.starts_with(PRIVATE_PREFIX);
        if !private && !X11_DIRECTORIES.contains(&text) {
            continue;
        }
        let shown = covered.join(text);
        match copy_directory(old.as_fd(), stage, text, &shown) {
            Ok(Some((from, to))) if private => {
                // `tmp` is what the service sees as /tmp.
                if let Err(e) = copy_directory(from.as_fd(), to.as_fd(), "tmp", &shown.join("tmp")) {
                    errors.push(e);
                }
            }
            Ok(_) => {}
            Err(e) => errors.push(e),
        }
    }
    errors
}

/// Makes `name` in `to` with the mode, owner and label that it has in `from`; none where it is not a directory of
/// root's there.
fn copy_directory(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &str,
    shown: &PathBuf,
) -> Result<Option<(OwnedFd, OwnedFd)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(original) = rustix::fs::openat(from, name, flags, Mode::empty()) else { return Ok(None) };
    let stat = rustix::fs::fstat(&original).map_err(Error::io(shown, "look at"))?;
    if stat.st_uid != 0 {
        return Ok(None);
    }
    let copy = enter(to, name, shown)?.fd;
    let label = label_of(original.as_fd());
    let owner = Some((stat.st_uid, stat.st_gid));
    dress(copy.as_fd(), shown, Some(stat.st_mode & 0o7777), owner, label.as_deref())?;
    Ok(Some((original, copy)))
}

#[cfg(test)]
#[path = "directories_tests.rs"]
mod tests;
