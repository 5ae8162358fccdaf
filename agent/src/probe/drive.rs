//! What a drive says of itself, and whether it can be read.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::libc;
use nix::sys::stat::{Mode, fstat};
use nix::sys::uio::pread;

use super::Question;
use super::smart::{self, Smart};
use super::statistics::{self, Statistics};
use crate::ioctl::nvme;
use crate::observe::{DevNum, Drive};

/// What is read: where the superblocks of md (at 4096), ext4 (1024) and xfs (0) are. In bytes.
const READ: usize = 8192;
/// How [`Said::refusal`] begins where the drive answers, but for log pages.
pub const NO_LOG_PAGES: &str = "gives no log pages";
/// What says that there is no such page: the controller's own word, and the kernel's of a device that is no NVMe namespace.
const LACKING: [Errno; 2] = [Errno::EREMOTEIO, Errno::ENOTTY];
/// A part's kind, errno and length.
const HEAD: usize = 9;

/// What a drive said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Why it could not be asked at all, as an errno; 0 where it could.
    pub closed: i32,
    /// Why it did not give a log page that it may have, as an errno; 0 where it did, or has no such page.
    pub pages: i32,
    /// None where the drive has no such page.
    pub smart: Option<Smart>,
    /// None where the drive has no such page: it is not one of EC2's.
    pub statistics: Option<Statistics>,
    /// Of the read: 0 where it worked, an errno otherwise; none where it was not tried, or has not come back.
    pub read: Option<i32>,
}

impl Said {
    /// What the bytes of the answer say, as far as they go.
    pub(super) fn understand(bytes: &[u8]) -> Said {
        let mut said = Said::default();
        let mut rest = bytes;
        while let Some((part, errno, data, after)) = next(rest) {
            if (part == Part::Smart as u8 || part == Part::Statistics as u8)
                && said.pages == 0
                && !LACKING.contains(&Errno::from_raw(errno))
            {
                said.pages = errno;
            }
            match part {
                part if part == Part::Open as u8 => said.closed = errno,
                part if part == Part::Smart as u8 => said.smart = smart::decode(data),
                part if part == Part::Statistics as u8 => said.statistics = statistics::decode(data),
                part if part == Part::Read as u8 => said.read = Some(errno),
                _ => {}
            }
            rest = after;
        }
        said
    }

    /// In words why the drive could not be asked all; none where it could.
    pub fn refusal(&self) -> Option<String> {
        let of = |errno: i32, what: &str| match Errno::from_raw(errno) {
            _ if errno == 0 => None,
            // Of a log page: nvme_cmd_allowed() in drivers/nvme/host/ioctl.c, whoever may open the device.
            Errno::EACCES | Errno::EPERM => Some("needs root".into()),
            error => Some(format!("{what}: {}", error.desc())),
        };
        of(self.closed, "cannot be opened").or_else(|| of(self.pages, NO_LOG_PAGES))
    }

    /// In words why it cannot be read; none where it can, or nobody knows: an error that speaks of us says nothing of the
    /// drive.
    pub fn unreadable(&self) -> Option<String> {
        // The device has gone from under its name.
        if let gone @ (Errno::ENXIO | Errno::EIO | Errno::ENODEV) = Errno::from_raw(self.closed) {
            return Some(gone.desc().to_owned());
        }
        match Errno::from_raw(self.read.filter(|errno| *errno != 0)?) {
            Errno::EACCES | Errno::EPERM | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE | Errno::EINTR => {
                None
            }
            error => Some(error.desc().to_owned()),
        }
    }
}

/// A part of the answer: a byte that says which, an errno, the length of what follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Open = 1,
    Smart = 2,
    Statistics = 3,
    Read = 4,
}

/// A drive that is to be asked.
pub(super) struct Device {
    name: String,
    path: PathBuf,
    number: DevNum,
}

impl Device {
    pub(super) fn of(drive: &Drive) -> Device {
        Device { name: drive.name.clone(), path: drive.path(), number: drive.dev }
    }

    fn open(&self) -> Result<File, Errno> {
        let file = File::from(open(&self.path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?);
        let number = fstat(&file)?.st_rdev;
        let found = DevNum { major: libc::major(number), minor: libc::minor(number) };
        // A name may have gone to another device since.
        if found == self.number { Ok(file) } else { Err(Errno::ESTALE) }
    }
}

/// Reads from the medium, past the page cache.
fn read(device: &File) -> Result<(), Errno> {
    fcntl(device, FcntlArg::F_SETFL(OFlag::O_DIRECT))?;
    let mut room = Aligned([0; READ]);
    match pread(device, &mut room.0, 0)? {
        READ => Ok(()),
        _ => Err(Errno::ENODATA),
    }
}

impl Question for Device {
    fn name(&self) -> &str {
        &self.name
    }

    fn ask(&self, answer: &mut File) {
        let device = match self.open() {
            Ok(device) => device,
            Err(errno) => return say(answer, Part::Open, Err(errno), &[]),
        };
        // Commands to the controller first: they may be answered where I/O is not.
        let mut page = [0; smart::LEN];
        let said = nvme::get_log_page(&device, smart::PAGE, &mut page, 0);
        say(answer, Part::Smart, said, &page);
        let mut page = [0; statistics::LEN];
        let said = nvme::get_log_page(&device, statistics::PAGE, &mut page, 0);
        say(answer, Part::Statistics, said, &page);
        say(answer, Part::Read, read(&device), &[]);
    }
}

/// As drives want the memory that they write to.
#[repr(align(4096))]
struct Aligned([u8; READ]);

fn say(answer: &mut File, part: Part, said: Result<(), Errno>, data: &[u8]) {
    let (errno, data) = match said {
        Ok(()) => (0, data),
        Err(errno) => (errno as i32, &[][..]),
    };
    let mut head = [part as u8; HEAD];
    head[1..5].copy_from_slice(&errno.to_le_bytes());
    head[5..].copy_from_slice(&(data.len() as u32).to_le_bytes());
    let _ = answer.write_all(&head).and_then(|()| answer.write_all(data));
}

/// The first part of the answer and what comes after it; none at its end, or where it is cut off.
fn next(bytes: &[u8]) -> Option<(u8, i32, &[u8], &[u8])> {
    let (part, rest) = bytes.split_first()?;
    let (errno, rest) = rest.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (data, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((*part, i32::from_le_bytes(*errno), data, rest))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::probe;
    use crate::root::Root;

    /// What a child would have written.
    fn written(parts: impl FnOnce(&mut File)) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        parts(&mut file);
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_the_child_says_is_understood_as_far_as_it_goes() {
        let mut page = vec![0; smart::LEN];
        page[5] = 7;
        let bytes = written(|answer| {
            say(answer, Part::Smart, Ok(()), &page);
            say(answer, Part::Statistics, Err(Errno::EREMOTEIO), &[0; statistics::LEN]);
            say(answer, Part::Read, Err(Errno::EIO), &[]);
        });
        let said = Said::understand(&bytes);
        assert_eq!((said.smart.clone().unwrap().wear_percent, said.statistics.clone()), (7, None));
        assert_eq!((said.unreadable().as_deref(), said.refusal()), (Some("I/O error"), None));
        let ours = Said { read: Some(Errno::ENOMEM as i32), ..said.clone() };
        assert_eq!(ours.unreadable(), None, "it says nothing of the drive");
        let silent = Said::understand(&bytes[..bytes.len() - 9]);
        assert_eq!((silent.smart, silent.read), (said.smart, None), "a read that does not come back");
        assert_eq!(Said::understand(&bytes[..20]), Said::default());
    }

    #[test]
    fn a_log_page_that_is_refused_is_not_one_that_the_drive_lacks() {
        let said = |smart: Errno, statistics: Errno| {
            let bytes = written(|answer| {
                say(answer, Part::Smart, Err(smart), &[]);
                say(answer, Part::Statistics, Err(statistics), &[]);
                say(answer, Part::Read, Ok(()), &[]);
            });
            let said = Said::understand(&bytes);
            assert_eq!((said.smart.as_ref(), said.unreadable()), (None, None));
            said.refusal()
        };
        // Whoever may open the device, such as the group disk, may not send it commands.
        assert_eq!(said(Errno::EACCES, Errno::EACCES).as_deref(), Some("needs root"));
        assert_eq!(said(Errno::EREMOTEIO, Errno::EREMOTEIO), None);
        assert_eq!(said(Errno::ENOTTY, Errno::ENOTTY), None);
        assert_eq!(
            said(Errno::EREMOTEIO, Errno::ENODEV).as_deref(),
            Some("gives no log pages: No such device")
        );
    }

    #[test]
    fn a_drive_that_may_not_be_opened_needs_root_and_one_that_is_gone_says_so() {
        let said = |errno: Errno| {
            let bytes = written(|answer| say(answer, Part::Open, Err(errno), &[]));
            Said::understand(&bytes).refusal()
        };
        let unreadable = |errno: Errno| Said { closed: errno as i32, ..Said::default() }.unreadable();
        assert!(unreadable(Errno::ENXIO).is_some() && unreadable(Errno::EIO).is_some());
        assert_eq!((unreadable(Errno::EACCES), unreadable(Errno::ENOENT)), (None, None));
        assert_eq!(said(Errno::EACCES).as_deref(), Some("needs root"));
        assert_eq!(said(Errno::ENOENT).as_deref(), Some("cannot be opened: No such file or directory"));
    }

    #[test]
    fn another_device_of_that_name_is_not_asked() {
        let drive = Drive { name: "null".into(), dev: DevNum { major: 1, minor: 5 }, ..Drive::default() };
        let ask = |drive: &Drive| {
            let drives = std::slice::from_ref(drive);
            probe::ask(&Root::new("/"), drives, None, Duration::from_secs(20)).drives.remove(0).unwrap().said
        };
        let said = ask(&drive);
        assert_eq!((said.closed, said.read, said.unreadable()), (Errno::ESTALE as i32, None, None));
        let same = Drive { dev: DevNum { major: 1, minor: 3 }, ..drive };
        let said = ask(&same);
        assert_eq!((said.closed, said.smart.clone()), (0, None));
        assert!(said.read.is_some_and(|errno| errno != 0), "/dev/null has nothing to read");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            Said::understand(&bytes);
        }
    }
}
