//! `blkid -p`: the word of libblkid on what a device holds. Only asked for devices that are neither blank, nor
//! md members, nor mounted.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Content, Filesystem};
use crate::error::{Error, Result};
use crate::exec;
use crate::root::Root;

/// A probe takes milliseconds; a device that does not answer in this time is not one to build on.
const DEADLINE: Duration = Duration::from_secs(30);

/// What blkid says.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// It names what is there.
    Named(Content),
    /// An md member, and nothing beside it.
    RaidMember,
    /// It knows no signature here. Said for some read errors too: the caller reads for itself.
    Nothing,
}

/// Names what is on a device; a trait so that a fixture tree starts no child process.
pub trait Prober: Sync {
    /// # Errors
    /// There is nobody to ask. A device that cannot be probed is [`Content::Unreadable`], not an error.
    fn probe(&self, device: &Path) -> Result<Answer>;
}

/// The host's blkid.
#[derive(Debug)]
pub struct Blkid {
    program: Option<PathBuf>,
}

impl Blkid {
    pub fn find(root: &Root) -> Blkid {
        Blkid { program: exec::find_program(root, "blkid") }
    }
}

impl Prober for Blkid {
    fn probe(&self, device: &Path) -> Result<Answer> {
        let Some(program) = &self.program else {
            return Err(Error::Environment(format!(
                "{}: holds data, and blkid, which would say which, is not installed; install util-linux",
                device.display()
            )));
        };
        let args: [OsString; 5] = ["-p".into(), "-o".into(), "export".into(), "--".into(), device.into()];
        Ok(match exec::run(program, &args, DEADLINE) {
            Ok(output) => parse(output.status, &output.stdout, &output.stderr),
            Err(error) => Answer::Named(Content::Unreadable { error: error.to_string() }),
        })
    }
}

/// For a fixture tree: what would need blkid stays unexamined.
#[derive(Debug)]
pub struct Nobody;

impl Prober for Nobody {
    fn probe(&self, _: &Path) -> Result<Answer> {
        Ok(Answer::Named(Content::Unexamined))
    }
}

/// Reads what `blkid -p -o export` said. Exit statuses as in blkid(8): 0 found, 2 nothing found or could not be
/// opened, 4 usage and other errors, 8 ambivalent.
pub fn parse(status: Option<i32>, stdout: &[u8], stderr: &[u8]) -> Answer {
    let said = String::from_utf8_lossy(stderr).trim().to_owned();
    match status {
        Some(0) => named(stdout),
        Some(2) if said.is_empty() => Answer::Nothing,
        Some(8) => foreign("ambivalent (several signatures)"),
        other => {
            let ended = other.map_or("a signal".into(), |status| format!("status {status}"));
            Answer::Named(Content::Unreadable { error: format!("blkid ended with {ended}: {said}") })
        }
    }
}

fn foreign(signature: &str) -> Answer {
    Answer::Named(Content::Foreign { signature: signature.to_owned() })
}

fn named(stdout: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(stdout);
    let all = |key: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .filter(|(name, _)| *name == key)
            .map(|(_, value)| unescape(value))
            .collect()
    };
    let (types, tables) = (all("TYPE"), all("PTTYPE"));
    let signature = types.iter().chain(&tables).map(String::as_str).collect::<Vec<_>>().join(" and ");
    let [kind] = types.as_slice() else {
        let unnamed = signature.is_empty();
        return foreign(if unnamed { "something that blkid gives no name" } else { &signature });
    };
    if !tables.is_empty() {
        return foreign(&signature);
    }
    match kind.as_str() {
        "linux_raid_member" => Answer::RaidMember,
        "ext4" | "xfs" => match all("UUID").as_slice() {
            [uuid] if !uuid.is_empty() => Answer::Named(Content::Filesystem(Filesystem {
                kind: kind.clone(),
                uuid: uuid.to_ascii_lowercase(),
                label: all("LABEL").pop().filter(|label| !label.is_empty()),
            })),
            _ => foreign(&format!("{kind} without a UUID")),
        },
        _ => foreign(&signature),
    }
}

/// `-o export` puts a backslash before what a shell would take (misc-utils/blkid.c, `safe_print`).
fn unescape(value: &str) -> String {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        plain.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(stdout: &str) -> Answer {
        parse(Some(0), stdout.as_bytes(), b"")
    }

    fn signature(answer: Answer) -> String {
        match answer {
            Answer::Named(Content::Foreign { signature }) => signature,
            other => panic!("{other:?}"),
        }
    }

    const EXT4: &str = "DEVNAME=/dev/nvme1n1\nLABEL=my\\ \\\"label\\$\nUUID=DF8A9A5E-62B2-4E3E-A0D5-6C0C3B8B5D6F\n\
        VERSION=1.0\nFSBLOCKSIZE=4096\nBLOCK_SIZE=4096\nTYPE=ext4\nUSAGE=filesystem\n";

    #[test]
    fn a_filesystem_that_could_be_adopted() {
        let Answer::Named(Content::Filesystem(filesystem)) = said(EXT4) else { panic!() };
        assert_eq!(filesystem.kind, "ext4");
        assert_eq!(filesystem.uuid, "df8a9a5e-62b2-4e3e-a0d5-6c0c3b8b5d6f");
        assert_eq!(filesystem.label.as_deref(), Some("my \"label$"));
    }

    #[test]
    fn whatever_else_has_a_name_is_foreign() {
        assert_eq!(signature(said("DEVNAME=/dev/x\nPTUUID=1\nPTTYPE=gpt\n")), "gpt");
        assert_eq!(signature(said("TYPE=LVM2_member\nUSAGE=raid\n")), "LVM2_member");
        assert_eq!(signature(said("TYPE=ext3\nSEC_TYPE=ext2\nUUID=1\n")), "ext3");
        assert_eq!(signature(said(&format!("{EXT4}PTTYPE=dos\n"))), "ext4 and dos");
        assert_eq!(signature(said(&format!("{EXT4}TYPE=xfs\n"))), "ext4 and xfs");
        assert_eq!(signature(said("TYPE=ext4\n")), "ext4 without a UUID");
        assert_eq!(signature(said("DEVNAME=/dev/x\n")), "something that blkid gives no name");
        assert!(signature(parse(Some(8), b"", b"blkid: ambivalent result")).starts_with("ambivalent"));
        assert_eq!(said("TYPE=linux_raid_member\nUUID=1\n"), Answer::RaidMember);
        assert_eq!(signature(said("TYPE=linux_raid_member\nPTTYPE=dos\n")), "linux_raid_member and dos");
    }

    #[test]
    fn nothing_is_only_what_it_says_without_complaint() {
        assert_eq!(parse(Some(2), b"", b""), Answer::Nothing);
        for (status, stderr) in [
            (Some(2), "blkid: error: /dev/x: Input/output error"),
            (Some(4), "usage"),
            (Some(1), ""),
            (None, ""),
        ] {
            let answer = parse(status, b"", stderr.as_bytes());
            let Answer::Named(Content::Unreadable { error }) = answer else { panic!("{answer:?}") };
            assert!(error.contains(stderr), "{error}");
        }
    }

    #[test]
    fn no_blkid_is_an_error_that_names_it_and_the_device() {
        let error = Blkid { program: None }.probe(Path::new("/dev/nvme1n1")).unwrap_err();
        assert!(error.to_string().contains("blkid") && error.to_string().contains("/dev/nvme1n1"));
        assert_eq!(error.exit_code(), 5);
    }

    proptest! {
        #[test]
        fn whatever_it_prints_is_never_nothing_where_it_says_found(
            stdout in proptest::collection::vec(any::<u8>(), 0..200), stderr in any::<[u8; 4]>(),
        ) {
            prop_assert_ne!(parse(Some(0), &stdout, &stderr), Answer::Nothing);
            parse(Some(2), &stdout, &stderr);
        }

        #[test]
        fn a_flipped_byte_of_its_output_never_becomes_nothing(at in 0..EXT4.len(), flip in 1u8..) {
            let mut bytes = EXT4.as_bytes().to_vec();
            bytes[at] ^= flip;
            let answer = parse(Some(0), &bytes, b"");
            let named = matches!(answer, Answer::Named(Content::Filesystem(_) | Content::Foreign { .. }));
            prop_assert!(named, "{:?}", answer);
        }
    }
}
