//! Other NodeConfigs in the directory of ours, as far as they are about taints.
//!
//! nodeadm merges what ends in .yaml, .yml or .json by name, each over the ones before: `kubelet.flags` are appended, a
//! list of `kubelet.config` that is not empty replaces the former (nodeadm/internal/configprovider/file.go,
//! internal/api/merge.go). So those before ours say what our list must keep, and one after it can undo it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::Value;

use super::{DROP_IN_DIR, DROP_IN_PATH};
use crate::node::nodeadm::{self, Cached};
use crate::persist::atomic;
use crate::root::Root;

/// What the files say that name taints at all, each after the one before it.
#[derive(Debug, Default, PartialEq)]
pub struct Others {
    pub before: Vec<Other>,
    pub after: Vec<Other>,
}

#[derive(Debug, Default, PartialEq)]
pub struct Other {
    /// The file's name.
    pub name: String,
    pub told: Cached,
}

/// Reads them.
///
/// # Errors
/// One names taints and is not understood, in words: whether our taint holds is not known then.
pub fn read(root: &Root) -> Result<Others, String> {
    let mut others = Others::default();
    // Where it cannot be read nodeadm fails, and the node does not join.
    let Ok(entries) = fs::read_dir(root.follow(DROP_IN_DIR)) else { return Ok(others) };
    let mut paths: Vec<_> = entries
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| is_read(name))
        .map(|name| Path::new(DROP_IN_DIR).join(name))
        .collect();
    paths.sort();
    let ours = Path::new(DROP_IN_PATH);
    for path in paths.iter().filter(|path| *path != ours) {
        let at = root.follow(path);
        if at.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().escape_default().to_string();
        let text = atomic::read_text(&at).map_err(|e| e.to_string())?.unwrap_or_default();
        if !names_taints(&text) {
            continue;
        }
        // Its text is not quoted: a NodeConfig may hold a proxy's password.
        let told = serde_saphyr::from_str::<Value>(&text)
            .map_err(|_| "expected the YAML of one NodeConfig".to_owned())
            .and_then(|config| nodeadm::told(&config))
            .map_err(|problem| format!("{DROP_IN_DIR}/{name} names taints, but: {problem}"))?;
        let list = if path.as_path() < ours { &mut others.before } else { &mut others.after };
        list.push(Other { name, told });
    }
    Ok(others)
}

/// By name, as nodeadm does it: one with a dot in front, too. Directories are not.
pub fn is_read(name: &OsStr) -> bool {
    let name = name.as_bytes().to_ascii_lowercase();
    [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending.as_bytes()))
}

fn names_taints(text: &str) -> bool {
    text.to_ascii_lowercase().replace(['-', '_'], "").contains("registerwithtaints")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Result<Others, String> {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (name, text) in files {
            let path = root.join(DROP_IN_DIR).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        read(&root)
    }

    const LIST: &str = "spec: {kubelet: {config: {registerWithTaints: [{key: a, effect: NoSchedule}]}}}";
    const FLAG: &str = "spec:\n  kubelet:\n    flags:\n      - --register-with-taints=a:NoSchedule\n";

    #[test]
    fn by_name_as_nodeadm_reads_them() {
        let json = r#"{"spec":{"kubelet":{"flags":["--v=2","--register_with_taints=b:NoSchedule"]}}}"#;
        let others = of(&[
            ("60-z.YML", LIST),
            ("10-a.yaml", FLAG),
            ("50-nvme-agent.yaml", LIST),
            ("50-nvme-agent.yaml.json", json),
            (".hidden.yaml", LIST),
            ("10-a.conf", LIST),
            ("20-nothing.yaml", "spec: {password: x"),
            ("30.yaml/x.yaml", LIST),
        ])
        .unwrap();
        let names = |list: &[Other]| list.iter().map(|other| other.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&others.before), [".hidden.yaml", "10-a.yaml"]);
        assert_eq!(names(&others.after), ["50-nvme-agent.yaml.json", "60-z.YML"]);
        assert_eq!(others.before[0].told.taints[0]["key"], "a");
        assert_eq!(others.before[1].told.flags, "--register-with-taints=a:NoSchedule");
        assert_eq!(others.after[0].told.flags, "--v=2 --register_with_taints=b:NoSchedule");
        assert_eq!(of(&[]), Ok(Others::default()));
    }

    #[test]
    fn what_is_not_understood_is_told_without_its_text() {
        for text in [
            "registerWithTaints: secret: {",
            "MIME-Version: 1.0\n\n--x\nsecret registerWithTaints\n--x--",
            "spec: {kubelet: {config: {registerWithTaints: secret}}}",
        ] {
            let problem = of(&[("60-x.yaml", text)]).unwrap_err();
            assert!(problem.contains("60-x.yaml") && !problem.contains("secret"), "{problem}");
        }
    }
}
