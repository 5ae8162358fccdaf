//! A directory of sysfs, held open: an attribute of it costs no walk of the long path to it, which for hundreds of them
//! takes more time than to read them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, accessat, openat, readlinkat};
use rustix::io::Errno;

use super::clean;
use crate::error::{Error, Result};

/// A sysfs attribute is never longer than a page.
const PAGE: usize = 4096;
/// To look up what is in it, no more.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory, such as that of a block device, a controller or a PCI function; or the place where there is none.
#[derive(Debug)]
pub struct Dir {
    path: PathBuf,
    /// None where it does not exist: nothing is in it.
    open: Option<OwnedFd>,
}

impl Dir {
    /// # Errors
    /// It may be there, and we are kept from it.
    pub fn open(path: PathBuf) -> Result<Dir> {
        Dir::opened(openat(CWD, &path, DIRECTORY, Mode::empty()), path)
    }

    /// The directory `name` in this one, or that a link of that name leads to.
    ///
    /// # Errors
    /// It may be there, and we are kept from it.
    pub fn dir(&self, name: &str) -> Result<Dir> {
        let path = self.path.join(name);
        match &self.open {
            Some(dir) => Dir::opened(openat(dir, name, DIRECTORY, Mode::empty()), path),
            None => Ok(Dir { path, open: None }),
        }
    }

    fn opened(asked: Result<OwnedFd, Errno>, path: PathBuf) -> Result<Dir> {
        match there(asked) {
            Ok(open) => Ok(Dir { path, open }),
            Err(error) => Err(Error::io(path, "open the directory")(error)),
        }
    }

    pub fn exists(&self) -> bool {
        self.open.is_some()
    }

    /// The text of an attribute without padding; none where it does not exist, or its device has none to give or is gone.
    ///
    /// # Errors
    /// It may be there, and we are kept from it: not knowing that a device is read-only is not the same as it being so.
    pub fn attribute(&self, name: &str) -> Result<Option<String>> {
        let Some(dir) = &self.open else { return Ok(None) };
        there(read(dir, name.as_ref())).map_err(|error| Error::io(self.path.join(name), "read")(error))
    }

    /// The text of an attribute; empty where [`attribute`](Dir::attribute) is none.
    ///
    /// # Errors
    /// As there.
    pub fn text(&self, name: &str) -> Result<String> {
        Ok(self.attribute(name)?.unwrap_or_default())
    }

    /// A decimal attribute.
    ///
    /// # Errors
    /// As [`attribute`](Dir::attribute).
    pub fn number(&self, name: &str) -> Result<Option<u64>> {
        Ok(self.attribute(name)?.and_then(|text| text.parse().ok()))
    }

    /// Last component of what a link leads to: in sysfs, the name of that object.
    pub fn leads_to(&self, name: &str) -> Option<String> {
        let target = readlinkat(self.open.as_ref()?, name, Vec::new()).ok()?;
        Some(Path::new(target.to_str().ok()?).file_name()?.to_str()?.to_owned())
    }

    pub fn has(&self, name: &str) -> bool {
        let access = rustix::fs::Access::EXISTS;
        self.open.as_ref().is_some_and(|dir| accessat(dir, name, access, AtFlags::empty()).is_ok())
    }

    /// Names in it, sorted; empty where it does not exist.
    ///
    /// # Errors
    /// Where it exists and cannot be read: not knowing who holds a device is not the same as nobody.
    pub fn names(&self) -> Result<Vec<String>> {
        let Some(dir) = &self.open else { return Ok(Vec::new()) };
        let failed = |errno: Errno| Error::io(&self.path, "read the directory")(errno);
        // What is open here is for looking up, not for reading.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let list = openat(dir, ".", flags, Mode::empty()).and_then(rustix::fs::Dir::new).map_err(failed)?;
        let mut names = Vec::new();
        for entry in list {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// What was asked for; none where it is not there, an error where we are what it failed by.
fn there<T>(asked: Result<T, Errno>) -> std::io::Result<Option<T>> {
    match asked {
        Ok(found) => Ok(Some(found)),
        Err(ours @ (Errno::ACCESS | Errno::PERM | Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => {
            Err(ours.into())
        }
        Err(_) => Ok(None),
    }
}

/// The trimmed text of a file of at most a page.
pub(super) fn read(dir: impl std::os::fd::AsFd, path: &Path) -> Result<String, Errno> {
    let mut page = [0u8; PAGE];
    // Not std's, which makes a fourth system call with musl: hundreds of these are read.
    let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut length = 0;
    while length < PAGE {
        match rustix::io::read(&file, &mut page[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        // Attributes end with a newline: saves the read that would only say so.
        if page[length - 1] == b'\n' {
            break;
        }
    }
    Ok(clean(&page[..length]))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_not_there_is_nothing_and_what_is_kept_from_us_is_an_error() {
        let at = tempfile::tempdir().unwrap();
        fs::create_dir_all(at.path().join("devices/nvme1")).unwrap();
        fs::write(at.path().join("devices/nvme1/serial"), "AWS1   \n").unwrap();
        symlink("devices/nvme1", at.path().join("device")).unwrap();
        let top = Dir::open(at.path().to_path_buf()).unwrap();
        let device = top.dir("device").unwrap();
        assert_eq!(device.attribute("serial").unwrap().as_deref(), Some("AWS1"));
        assert_eq!(device.attribute("model").unwrap(), None);
        assert_eq!(device.names().unwrap(), ["serial"]);
        assert_eq!(top.leads_to("device").as_deref(), Some("nvme1"));
        assert!(device.has("serial") && !device.has("model"));
        let none = top.dir("gone").unwrap();
        assert!(!none.exists() && !none.has("serial") && !none.dir("deeper").unwrap().exists());
        assert_eq!((none.attribute("serial").unwrap(), none.names().unwrap()), (None, vec![]));
    }

    #[test]
    fn an_errno_that_speaks_of_us_says_nothing_of_the_device() {
        for gone in [Errno::NOENT, Errno::NODEV, Errno::NXIO, Errno::NOTDIR, Errno::BUSY, Errno::IO] {
            assert_eq!(there::<()>(Err(gone)).unwrap(), None, "{gone}");
        }
        for ours in [Errno::ACCESS, Errno::PERM, Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(there::<()>(Err(ours)).is_err(), "{ours}");
        }
    }
}
