//! Whether a mounted filesystem still answers, and how much room it has.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::{stat::stat, statvfs::statvfs};

use super::Question;
use crate::root::Root;

/// Room of a filesystem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In bytes.
    pub size: u64,
    /// In bytes.
    pub used: u64,
    /// In bytes, for unprivileged users.
    pub available: u64,
    /// 0 where the filesystem makes them as it goes.
    pub inodes: u64,
    pub inodes_used: u64,
}

/// What the filesystem said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The error in asking what is there: an xfs that was shut down says EIO (xfs_vn_getattr), one that is damaged
    /// EUCLEAN. 0 where it answered; none where it has not.
    pub error: Option<i32>,
    pub usage: Option<Usage>,
}

impl Said {
    /// What the bytes of the answer say; those of one that was cut off, too.
    pub(super) fn understand(bytes: &[u8]) -> Said {
        let Some((error, rest)) = bytes.split_first_chunk() else { return Said::default() };
        let numbers: Vec<u64> = rest.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let usage = match numbers.as_slice() {
            &[size, used, available, inodes, inodes_used, ..] => {
                Some(Usage { size, used, available, inodes, inodes_used })
            }
            _ => None,
        };
        Said { error: Some(i32::from_le_bytes(*error)), usage }
    }

    /// In words what is wrong with the filesystem: an error that speaks of its device or its content, and not of us.
    pub fn broken(&self) -> Option<String> {
        match Errno::from_raw(self.error?) {
            error @ (Errno::EIO | Errno::EUCLEAN | Errno::ENODEV | Errno::EROFS | Errno::ESHUTDOWN) => {
                Some(format!("says \"{}\"", error.desc()))
            }
            _ => None,
        }
    }
}

/// What is mounted somewhere is asked what its root is, then for its counters. Counters alone would not do, since an xfs
/// that was shut down still knows them.
pub(super) struct Mounted {
    name: String,
    target: PathBuf,
}

impl Mounted {
    pub(super) fn on(root: &Root, target: &str) -> Mounted {
        Mounted { name: target.trim_matches('/').replace('/', "-"), target: root.join(target) }
    }
}

impl Question for Mounted {
    fn name(&self) -> &str {
        &self.name
    }

    fn ask(&self, answer: &mut File) {
        let there = stat(&self.target).map_or_else(|error| error as i32, |_| 0);
        let _ = answer.write_all(&there.to_le_bytes());
        let Ok(room) = statvfs(&self.target) else { return };
        let block = room.fragment_size();
        let blocks = |n: u64| n.saturating_mul(block);
        let numbers = [
            blocks(room.blocks()),
            blocks(room.blocks().saturating_sub(room.blocks_free())),
            blocks(room.blocks_available()),
            room.files(),
            room.files().saturating_sub(room.files_free()),
        ];
        let mut bytes = [0; 5 * size_of::<u64>()];
        for (place, number) in bytes.chunks_exact_mut(size_of::<u64>()).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let _ = answer.write_all(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::probe::{self, Answer};

    fn ask(target: &str) -> Answer<Said> {
        probe::ask(&Root::new("/"), &[], Some(target), Duration::from_secs(20)).filesystem.unwrap().unwrap()
    }

    #[test]
    fn a_filesystem_says_its_room() {
        let dir = tempfile::tempdir().unwrap();
        let answer = ask(dir.path().to_str().unwrap());
        assert_eq!((answer.said.error, answer.silent), (Some(0), None));
        let usage = answer.said.usage.unwrap();
        assert!(usage.size >= usage.used + usage.available && usage.used > 0, "{usage:?}");
    }

    #[test]
    fn an_error_of_the_device_is_a_broken_filesystem_and_one_of_ours_is_not() {
        let said = |errno: Errno| Said { error: Some(errno as i32), usage: None }.broken();
        assert_eq!(said(Errno::EIO).as_deref(), Some("says \"I/O error\""));
        assert_eq!(said(Errno::EUCLEAN).as_deref(), Some("says \"Structure needs cleaning\""));
        assert_eq!((said(Errno::EACCES), said(Errno::ENOENT)), (None, None));
        assert_eq!(Said::default().broken(), None);
    }

    #[test]
    fn what_is_not_there_is_an_error_and_no_room() {
        let answer = ask("/nonexistent/at-all");
        assert_eq!(answer.said, Said { error: Some(Errno::ENOENT as i32), usage: None });
    }
}
