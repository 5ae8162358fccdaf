//! What flags, `NVME_AGENT_*` and a file that was named gave this boot's setup, for what judges and tells in other processes what came of it.
//!
//! `gate`, `report`, `status` and `teardown` have neither setup's command line nor its unit's environment: by the file alone they would
//! judge by another policy, or speak under other keys. So setup notes its words first thing, before the state file exists:
//! also a setup that is killed on its way was given them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::salvage::ABOUT_THE_NODE;
use crate::error::{Error, Result};
use crate::persist::atomic;
use crate::root::Root;
use crate::state::boot_id;

/// Where the words are; no file where there are none. On a tmpfs, as the state file.
pub const GIVEN_PATH: &str = "/run/nvme-agent/given.json";
/// Format of the file.
const VERSION: u32 = 1;

/// The content of [`GIVEN_PATH`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    /// [`VERSION`].
    version: u32,
    boot_id: String,
    /// Keys as the file spells them, values as typed.
    values: BTreeMap<String, String>,
}

/// Other processes need the value of this key: what is said on the Node, what becomes of it, which drives are meant, which
/// of the host's files were to be written.
pub(super) fn is_shared(key: &str) -> bool {
    ABOUT_THE_NODE.contains(&key) || key.starts_with("match.") || key == "tmpfiles"
}

/// What this boot's last setup was given; nothing where none has begun in this boot.
///
/// # Errors
/// [`Error::Config`]: the file cannot be read, or is of another version.
pub(super) fn read(root: &Root) -> Result<BTreeMap<String, String>> {
    let path = root.join(GIVEN_PATH);
    let wrong = |problem: &str| {
        Error::Config(format!("{}: {problem}; run `nvme-agent setup` as its unit does", path.display()))
    };
    let Some(text) = atomic::read_text(&path).map_err(|e| Error::Config(e.to_string()))? else {
        return Ok(BTreeMap::new());
    };
    let given: Given = serde_json::from_str(&text).map_err(|e| wrong(&e.to_string()))?;
    if given.version != VERSION {
        return Err(wrong(&format!("expected format {VERSION}, found {}", given.version)));
    }
    Ok(if given.boot_id == boot_id(root) { given.values } else { BTreeMap::new() })
}

/// Notes what a setup was given; writes only where that is new.
///
/// # Errors
/// [`Error::Io`], with the path.
pub fn remember(root: &Root, values: &BTreeMap<String, String>) -> Result<()> {
    if read(root).is_ok_and(|before| before == *values) {
        return Ok(());
    }
    let path = root.join(GIVEN_PATH);
    if values.is_empty() {
        return atomic::remove_durable(&path).map(drop);
    }
    let given = Given { version: VERSION, boot_id: boot_id(root), values: values.clone() };
    let text = serde_json::to_string(&given)
        .map_err(|e| Error::Other(format!("{}: cannot be written as JSON: {e}", path.display())))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(Error::io(dir, "make the directory"))?;
    atomic::replace(&path, &format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, OnFailure, Overrides, load, salvage};

    fn boot(root: &Root, id: &str) {
        fs::create_dir_all(root.join("/proc/sys/kernel/random")).unwrap();
        fs::write(root.join("/proc/sys/kernel/random/boot_id"), id).unwrap();
    }

    fn machine(file: &str) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        boot(&root, "one");
        fs::create_dir_all(root.join("/etc/nvme-agent")).unwrap();
        fs::write(root.join(crate::config::CONFIG_PATH), file).unwrap();
        (dir, root)
    }

    fn env(name: &str, value: &str) -> [(std::ffi::OsString, std::ffi::OsString); 1] {
        [(name.into(), value.into())]
    }

    /// A setup by these flags, under this environment.
    fn setup(root: &Root, flags: &[(&'static str, &str)]) {
        let values = flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let overrides = Overrides { values, ..Overrides::default() };
        let config = load(root, None, &overrides, env("NVME_AGENT_MATCH_MODELS", "QEMU")).unwrap();
        remember(root, &config.given).unwrap();
    }

    fn later(root: &Root) -> Config {
        load(root, None, &Overrides::as_set_up(), []).unwrap()
    }

    #[test]
    fn what_setup_was_given_holds_over_the_file_for_others_in_this_boot() {
        let (_dir, root) = machine("on_failure = \"label\"\nprofile = \"file\"\n");
        let given = [("on_failure", "no-join"), ("label_domain", "x.example.com"), ("target", "/data")];
        setup(&root, &[&given[..], &[("tmpfiles", "distro")]].concat());
        let config = later(&root);
        assert_eq!(config.tmpfiles, crate::config::Tmpfiles::Distro, "status misses no file then");
        assert_eq!((config.on_failure, config.label_domain.as_str()), (OnFailure::NoJoin, "x.example.com"));
        assert_eq!((config.profile.as_str(), config.matching.models), ("file", vec!["QEMU".to_owned()]));
        assert_eq!(config.target, "/tmp", "the state file says where");
        // Their own environment is stronger, and setup itself starts from the file.
        let own = load(&root, None, &Overrides::as_set_up(), env("NVME_AGENT_ON_FAILURE", "taint")).unwrap();
        assert_eq!(own.on_failure, OnFailure::Taint);
        assert_eq!(load(&root, None, &Overrides::default(), []).unwrap().on_failure, OnFailure::Label);
        // A damaged file does not take it away.
        fs::write(root.join(crate::config::CONFIG_PATH), "not TOML").unwrap();
        let salvaged = salvage(&root, None, &Overrides::as_set_up(), []);
        assert!(salvaged.config.on_failure == OnFailure::NoJoin && !salvaged.in_doubt("on_failure"));
        fs::write(root.join(crate::config::CONFIG_PATH), "").unwrap();
        boot(&root, "two");
        assert_eq!(later(&root), Config::default(), "another boot's");
    }

    #[test]
    fn a_file_that_only_setup_was_told_of_counts_too() {
        let (dir, root) = machine("");
        let named = dir.path().join("named.toml");
        let text =
            "on_failure = \"taint\"\n[match]\nmodels = [\"A b\", \"C\"]\nvendors = [0x1b36, \"0x1ae0\"]\n";
        fs::write(&named, text).unwrap();
        let config = load(&root, Some(&named), &Overrides::default(), []).unwrap();
        remember(&root, &config.given).unwrap();
        fs::remove_file(&named).unwrap();
        let later = later(&root);
        assert_eq!((later.on_failure, &later.matching), (OnFailure::Taint, &config.matching));
        assert_eq!(later.matching.vendors, [0x1b36, 0x1ae0]);
    }

    #[test]
    fn the_last_setup_counts_and_without_flags_there_is_no_file() {
        let (_dir, root) = machine("");
        remember(&root, &BTreeMap::new()).unwrap();
        assert!(!root.join("/run").exists());
        setup(&root, &[("on_failure", "taint")]);
        setup(&root, &[]);
        assert_eq!(later(&root).on_failure, OnFailure::Label);
        remember(&root, &BTreeMap::new()).unwrap();
        assert!(!root.join(GIVEN_PATH).exists());
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_leaves_the_policy_in_doubt() {
        let (_dir, root) = machine("");
        setup(&root, &[("on_failure", "taint")]);
        for text in ["{", r#"{"version":2,"boot_id":"one","values":{}}"#] {
            fs::write(root.join(GIVEN_PATH), text).unwrap();
            let error = load(&root, None, &Overrides::as_set_up(), []).unwrap_err();
            assert!(error.to_string().contains("given.json") && error.exit_code() == 4, "{error}");
            assert!(salvage(&root, None, &Overrides::as_set_up(), []).in_doubt("on_failure"));
        }
    }
}
