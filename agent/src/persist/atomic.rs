//! Writing files so that at every moment, a power cut included, the old text or the new one is there, whole.
//!
//! The recipe: a temporary file in the same directory, with mode, owner and extended attributes of the old one;
//! fsync; rename; fsync of the directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, RenameFlags};
use serde::Serialize;

use super::attributes;
use crate::error::{Error, Result};

/// Follows symlinks this far, as the kernel does (include/linux/namei.h, MAXSYMLINKS).
const MAX_LINKS: usize = 40;

/// Opens a file of the host for reading, never waiting for it: without O_NONBLOCK the open of a FIFO waits for a writer, at
/// every boot, and a device may have no end.
///
/// # Errors
/// As open(2), or it is no regular file. /dev/null is one that is empty: so files are masked.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let found = file.metadata()?;
    let null = found.file_type().is_char_device() && found.rdev() == rustix::fs::makedev(1, 3);
    if found.is_file() || null {
        return Ok(file);
    }
    let what = if found.is_dir() { "a directory, expected a file" } else { "not a regular file" };
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("is {what}; mend or remove it")))
}

/// The bytes of a file of the host; see [`open`].
///
/// # Errors
/// As [`open`], or as read(2).
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of a file, `None` where it is absent.
///
/// # Errors
/// It cannot be read, or is not UTF-8 (and is then nothing that we would edit).
pub fn read_text(path: &Path) -> Result<Option<String>> {
    match read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            let line = 1 + e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count();
            Error::Other(format!("{}: line {line} is not UTF-8 text; the file is not edited", path.display()))
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, "read")(e)),
    }
}

/// Gives `path` the text `new`, whatever it held. New files get mode 0644.
///
/// # Errors
/// As [`replace_if`], but for a change in between.
pub fn replace(path: &Path, new: &str) -> Result<()> {
    Writer { path, mode: 0o644, expected: None }.write(new.as_bytes())
}

/// Gives `path` the text `new` where it still holds what the change was planned on (`None`: no file).
///
/// A symlink stays one: the file that it leads to is replaced, in that file's directory. Links are followed as the
/// kernel does, so an absolute link inside an image's root would lead out of it.
///
/// # Errors
/// Somebody else changed the file in between; the directory cannot be written (read-only /etc); the file is a mount
/// point itself. The old text is then still there, and no temporary file.
pub fn replace_if(path: &Path, expected: Option<&str>, new: &str) -> Result<()> {
    Writer { path, mode: 0o644, expected: Some(expected) }.write(new.as_bytes())
}

/// Gives `path` the text `new`, whatever it was: no symlink is followed and nothing of the old file is kept, since the
/// directory may be somebody's who is not root. Mode 0644. The temporary file's name ends in a number.
///
/// # Errors
/// The directory is missing or cannot be written.
pub fn publish(path: &Path, new: &str) -> Result<()> {
    remove_leftovers(path);
    let mut temp = Temp::create(path)?;
    let failed = |action| Error::io(temp.path.clone(), action);
    temp.file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(failed("set the mode"))?;
    (&temp.file).write_all(new.as_bytes()).map_err(failed("write"))?;
    temp.file.sync_all().map_err(failed("sync"))?;
    temp.rename_to(path, false)
}

/// Writes `value` as JSON, mode 0600; makes the directory (0700) where it is missing. On return it survives a
/// power cut.
///
/// # Errors
/// As [`replace`].
pub fn write_json_durable(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::Other(format!("{}: cannot be written as JSON: {e}", path.display())))?;
    text.push(b'\n');
    make_dir_durable(parent(path))?;
    Writer { path, mode: 0o600, expected: None }.write(&text)
}

/// Unlinks `path`, durably. False where it was not there.
///
/// # Errors
/// It cannot be unlinked, or the directory not be synced.
pub fn remove_durable(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(path, "remove")(e)),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io(dir, "sync the directory"))
}

/// Makes `dir` with mode 0700, and what is missing above it with the usual mode.
fn make_dir_durable(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = parent(dir);
    if !above.is_dir() {
        fs::create_dir_all(above).map_err(Error::io(above, "make the directory"))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io(dir, "make the directory")(e)),
        _ => sync_dir(above),
    }
}

struct Writer<'a> {
    path: &'a Path,
    /// For a file that is not there yet.
    mode: u32,
    /// What the file must still hold: `Some(None)` is "absent"; `None` is "whatever".
    expected: Option<Option<&'a str>>,
}

impl Writer<'_> {
    fn write(&self, new: &[u8]) -> Result<()> {
        let path = resolve(self.path)?;
        let old = match open(&path) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(&path, "open")(e)),
        };
        self.check(&path)?;
        remove_leftovers(&path);
        let mut temp = Temp::create(&path)?;
        let failed = |action| Error::io(temp.path.clone(), action);
        match &old {
            Some(old) => {
                attributes::copy(old, &temp.file).map_err(failed("keep mode, owner and attributes"))?
            }
            None => temp
                .file
                .set_permissions(fs::Permissions::from_mode(self.mode))
                .map_err(failed("set the mode"))?,
        }
        (&temp.file).write_all(new).map_err(failed("write"))?;
        temp.file.sync_all().map_err(failed("sync"))?;
        self.check(&path)?;
        temp.rename_to(&path, self.expected == Some(None))?;
        sync_dir(parent(&path))
    }

    /// The file is still what the change was planned on.
    fn check(&self, path: &Path) -> Result<()> {
        let Some(expected) = self.expected else { return Ok(()) };
        let now = match read(path) {
            Ok(now) => Some(now),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(path, "read")(e)),
        };
        if now.as_deref() == expected.map(str::as_bytes) { Ok(()) } else { Err(changed(path)) }
    }
}

fn changed(path: &Path) -> Error {
    Error::Other(format!(
        "{}: somebody else changed it meanwhile, so it was left as they made it; run `nvme-agent setup` again",
        path.display()
    ))
}

/// Where the chain of symlinks ends; the last name may be of a file that is not there yet.
fn resolve(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(to) => path = parent(&path).join(to),
            // EINVAL: not a symlink.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                let found = fs::symlink_metadata(&path).map_err(Error::io(&path, "look at"))?.file_type();
                if found.is_file() {
                    return Ok(path);
                }
                // A link to /dev/null, as systemd's masks are: renaming a file over it would take it from everybody.
                return Err(Error::Other(format!(
                    "{}: expected a regular file; nothing was written over it",
                    path.display()
                )));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(e) => return Err(Error::io(&path, "resolve")(e)),
        }
    }
    Err(Error::Other(format!("{}: too many levels of symbolic links", path.display())))
}

fn temp_prefix(path: &Path) -> Vec<u8> {
    let mut prefix = b".".to_vec();
    prefix.extend(path.file_name().unwrap_or_default().as_bytes());
    prefix.extend(b".nvme-agent.");
    prefix
}

/// Removes temporary files that runs which were killed left beside `path`. One that is in use is locked, and stays.
pub fn remove_leftovers(path: &Path) {
    let prefix = temp_prefix(path);
    let Ok(entries) = fs::read_dir(parent(path)) else { return };
    for entry in entries.flatten().filter(|e| e.file_name().as_bytes().starts_with(&prefix)) {
        let file = OpenOptions::new().read(true).custom_flags(libc_nofollow()).open(entry.path());
        let Ok(file) = file else { continue };
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Nothing depends on it: what cannot be removed is tried again next time.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// O_NOFOLLOW and O_NONBLOCK: whatever bears such a name, it is neither followed nor waited for.
fn libc_nofollow() -> i32 {
    (nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK).bits()
}

/// A temporary file beside the one to be replaced; gone when dropped, unless renamed.
struct Temp {
    path: PathBuf,
    file: File,
    renamed: bool,
}

impl Temp {
    fn create(beside: &Path) -> Result<Temp> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut name = temp_prefix(beside);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        name.extend(format!("{}.{count}", std::process::id()).bytes());
        let path = parent(beside).join(std::ffi::OsStr::from_bytes(&name));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc_nofollow())
            .open(&path)
            .map_err(Error::io(beside, "make a temporary file in the directory of"))?;
        let temp = Temp { path, file, renamed: false };
        rustix::fs::flock(&temp.file, FlockOperation::NonBlockingLockExclusive)
            .map_err(Error::io(&temp.path, "lock"))?;
        Ok(temp)
    }

    fn rename_to(&mut self, path: &Path, must_be_new: bool) -> Result<()> {
        let renamed = if must_be_new {
            let cwd = rustix::fs::CWD;
            match rustix::fs::renameat_with(cwd, &self.path, cwd, path, RenameFlags::NOREPLACE) {
                Err(rustix::io::Errno::EXIST) => return Err(changed(path)),
                // A filesystem without the flag: the check just before has to do.
                Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(&self.path, path),
                other => other.map_err(io::Error::from),
            }
        } else {
            fs::rename(&self.path, path)
        };
        match renamed {
            Ok(()) => {
                self.renamed = true;
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => Err(Error::Other(format!(
                "{}: cannot be replaced: the file is a mount point itself (a bind mount?); unmount it, or put the line in by hand",
                path.display()
            ))),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(Error::Other(format!(
                "{}: cannot be replaced: {e}; is it immutable (`lsattr`)?",
                path.display()
            ))),
            Err(e) => Err(Error::io(path, "replace")(e)),
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
#[path = "atomic_tests.rs"]
mod tests;
