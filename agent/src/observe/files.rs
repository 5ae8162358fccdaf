//! Text of the host's files that persist edits, and our own two records.

use std::io::{ErrorKind, Read};
use std::path::Path;

use super::Files;
use crate::error::{Error, Result};
use crate::exec;
use crate::intent::Identity;
use crate::persist::{atomic, tmpfiles};
use crate::plan::{Reason, Refusal};
use crate::root::Root;

/// A file of ours or of the host's that is longer than this is not what it claims to be.
const LONGEST: u64 = 4 << 20;

/// Reads the files.
///
/// # Errors
/// A file that is there and cannot be read; a refusal for one that is not UTF-8, with the line: we could not
/// write it back byte for byte.
pub fn read(root: &Root) -> Result<Files> {
    let mdadm_conf_path = mdadm_conf_path(root);
    Ok(Files {
        fstab: text(root, "/etc/fstab", Reason::FstabConflict)?,
        mdadm_conf: text(root, mdadm_conf_path, Reason::FileConflict)?,
        mdadm_conf_path: mdadm_conf_path.to_owned(),
        has_mdadm: exec::find_program(root, "mdadm").is_some(),
        tmpfiles: text(root, tmpfiles::PATH, Reason::FileConflict)?,
        tmpfiles_distro: text(root, tmpfiles::DISTRO_PATH, Reason::FileConflict)?,
    })
}

/// Which file this host's mdadm reads: what is there; where both or none are, by the family of the distribution.
pub fn mdadm_conf_path(root: &Root) -> &'static str {
    let (plain, debian) = ("/etc/mdadm.conf", "/etc/mdadm/mdadm.conf");
    match (root.follow(plain).exists(), root.follow(debian).exists()) {
        (true, false) => plain,
        (false, true) => debian,
        _ if is_debian_family(root) => debian,
        _ => plain,
    }
}

fn is_debian_family(root: &Root) -> bool {
    let release = ["/etc/os-release", "/usr/lib/os-release"]
        .into_iter()
        .find_map(|path| atomic::read_text(&root.follow(path)).ok().flatten())
        .unwrap_or_default();
    let listed = release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches(['"', '\'']).split_ascii_whitespace())
        .any(|id| matches!(id, "debian" | "ubuntu"));
    listed || root.follow("/etc/debian_version").exists()
}

fn text(root: &Root, name: &str, reason: Reason) -> Result<Option<String>> {
    let path = root.follow(name);
    let Some(bytes) = bytes(&path)? else { return Ok(None) };
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count();
        Error::Refused(Refusal {
            reason,
            found: vec![format!("{name}, line {line}: bytes that are not UTF-8 text")],
            next: format!("Correct line {line} of {name}."),
        })
    })
}

fn bytes(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match atomic::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::io(path, "read")(error)),
    };
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(Error::io(path, "read"))?;
    if bytes.len() as u64 > LONGEST {
        return Err(Error::Other(format!("{}: longer than {} MiB", path.display(), LONGEST >> 20)));
    }
    Ok(Some(bytes))
}

/// An intent or a record. One that makes no sense licenses nothing: it counts as none, and `notes` says so.
///
/// # Errors
/// The file is there and cannot be read.
pub fn identity(root: &Root, name: &str, notes: &mut Vec<String>) -> Result<Option<Identity>> {
    let Some(bytes) = bytes(&root.join(name))? else { return Ok(None) };
    match parse_identity(&bytes) {
        Ok(identity) => Ok(Some(identity)),
        Err(problem) => {
            notes.push(format!("{name} is ignored and licenses nothing: {problem}"));
            Ok(None)
        }
    }
}

fn parse_identity(bytes: &[u8]) -> Result<Identity, String> {
    let identity: Identity = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if identity.version != 1 {
        return Err(format!("its version is {}, this agent knows 1", identity.version));
    }
    if identity.serials.is_empty() || identity.serials.iter().any(String::is_empty) {
        return Err("it names no drives".into());
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::fs;

    use super::*;

    fn machine(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let root = Root::new(dir.path());
        (dir, root)
    }

    #[test]
    fn the_file_that_this_hosts_mdadm_reads() {
        let chosen = |files: &[&str]| {
            let files: Vec<_> =
                files.iter().map(|name| (*name, b"ID=\"amzn\"\nID_LIKE=fedora\n".as_slice())).collect();
            let (_dir, root) = machine(&files);
            read(&root).unwrap().mdadm_conf_path
        };
        assert_eq!(chosen(&["etc/os-release"]), "/etc/mdadm.conf");
        assert_eq!(chosen(&["etc/mdadm/mdadm.conf"]), "/etc/mdadm/mdadm.conf");
        assert_eq!(chosen(&["etc/mdadm.conf", "etc/debian_version"]), "/etc/mdadm.conf");
        assert_eq!(chosen(&["etc/debian_version"]), "/etc/mdadm/mdadm.conf");
        let (_dir, root) = machine(&[("etc/os-release", b"ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n")]);
        assert_eq!(read(&root).unwrap().mdadm_conf_path, "/etc/mdadm/mdadm.conf");
    }

    #[test]
    fn a_file_that_could_not_be_written_back_is_refused_with_its_line() {
        let (_dir, root) = machine(&[("etc/fstab", b"# one\n# caf\xe9\n")]);
        let error = read(&root).unwrap_err();
        assert!(error.to_string().contains("/etc/fstab, line 2"), "{error}");
        assert_eq!(error.exit_code(), 3);
    }

    const INTENT: &str = r#"{"version":1,"serials":["AWS1"],"array_uuid":null,
        "fs_uuid":"df8a9a5e-62b2-4e3e-a0d5-6c0c3b8b5d6f","filesystem":"ext4","target":"/tmp"}"#;

    #[test]
    fn a_record_that_makes_no_sense_is_no_record_and_is_said() {
        let look = |text: &str| {
            let (_dir, root) = machine(&[("var/lib/nvme-agent/intent.json", text.as_bytes())]);
            let mut notes = Vec::new();
            (identity(&root, crate::intent::INTENT_PATH, &mut notes).unwrap(), notes)
        };
        let (intent, notes) = look(INTENT);
        assert_eq!((intent.unwrap().serials, notes.len()), (vec!["AWS1".to_owned()], 0));
        for bad in ["", "{", &INTENT.replace(":1,", ":2,"), &INTENT.replace(r#""AWS1""#, "")] {
            let (intent, notes) = look(bad);
            assert!(intent.is_none() && notes[0].contains("intent.json"), "{bad}: {notes:?}");
        }
    }

    proptest! {
        #[test]
        fn outside_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_identity(&bytes);
        }
    }
}
