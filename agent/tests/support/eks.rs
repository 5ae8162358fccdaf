//! Roots that stand in for EKS images, for what a shell writes there before there is an agent.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nvme_agent::config::Config;
use nvme_agent::install::hook;
use nvme_agent::node::nodeadm::CACHE_PATH;
use nvme_agent::node::registration::{self, DROP_IN_DIR};
use nvme_agent::root::Root;

/// What Karpenter has nodeadm register with, as nodeadm caches it.
pub const CACHED: &str = r#"{"apiVersion":"node.eks.aws/__internal","kind":"NodeConfig","spec":{"cluster":{"name":"c"},"kubelet":{"config":{"maxPods":110,"registerWithTaints":[{"effect":"NoExecute","key":"karpenter.sh/unregistered"},{"effect":"NoSchedule","key":"workspace","value":"a"}]},"flags":["--v=2"]}}}"#;

pub struct Image {
    pub dir: tempfile::TempDir,
    pub root: Root,
}

impl Image {
    pub fn new(files: &[(&str, &str)]) -> Image {
        let dir = tempfile::tempdir().unwrap();
        let image = Image { root: Root::new(dir.path()), dir };
        image.write("/etc/systemd/system/nodeadm-run.service", "");
        for (path, text) in files {
            image.write(path, text);
        }
        image
    }

    /// An image with the directory of drop-ins, and a NodeConfig that nodeadm has cached.
    pub fn al2023(cached: &str) -> Image {
        let image = Image::new(&[]);
        fs::create_dir_all(image.root.join(DROP_IN_DIR)).unwrap();
        if !cached.is_empty() {
            image.write(CACHE_PATH, cached);
        }
        image
    }

    /// An image of Amazon Linux 2: kubelet, and no nodeadm.
    pub fn al2() -> Image {
        let image = Image::new(&[("/etc/systemd/system/kubelet.service", ""), ("/etc/eks/bootstrap.sh", "")]);
        fs::remove_file(image.root.join("/etc/systemd/system/nodeadm-run.service")).unwrap();
        image
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    fn inode(&self, path: &str) -> u64 {
        fs::metadata(self.root.join(path)).unwrap().ino()
    }

    /// Runs packaging/registration/pessimistic.sh, with programs of `stubs` before those of the machine.
    pub fn pessimistic(&self, policy: &str, stubs: &Path) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/registration/pessimistic.sh");
        let path = format!("{}:{}", stubs.display(), std::env::var("PATH").unwrap());
        Command::new("sh").arg(script).arg(policy).arg(self.dir.path()).env("PATH", path).output().unwrap()
    }

    /// The agent's first work of a boot finds nothing to write, and nothing that nodeadm could take for a whole file.
    pub fn agent_agrees(&self, config: &Config, files: &[&str]) {
        let before: Vec<u64> = files.iter().map(|path| self.inode(path)).collect();
        registration::expect_failure(&self.root, config);
        hook::ensure(&self.root, config).unwrap();
        let after: Vec<u64> = files.iter().map(|path| self.inode(path)).collect();
        assert_eq!(
            before,
            after,
            "the agent found something to rewrite: {:?}",
            files.iter().map(|path| self.read(path)).collect::<Vec<_>>()
        );
        for path in files {
            let dir = self.root.join(path).parent().unwrap().to_path_buf();
            let names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(names.len(), 1, "{names:?}");
        }
    }

    /// Every file below the root with its text.
    pub fn files(&self) -> BTreeMap<PathBuf, String> {
        fn walk(dir: &Path, top: &Path, files: &mut BTreeMap<PathBuf, String>) {
            for entry in fs::read_dir(dir).unwrap() {
                match entry.unwrap().path() {
                    path if path.is_dir() => walk(&path, top, files),
                    path => {
                        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
                        files.insert(path.strip_prefix(top).unwrap().to_path_buf(), text);
                    }
                }
            }
        }
        let mut files = BTreeMap::new();
        walk(self.dir.path(), self.dir.path(), &mut files);
        files
    }
}

/// Programs that stand in for the machine's: name and shell text.
pub fn stubs(programs: &[(&str, &str)]) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in programs {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

/// A chmod that fails for files whose path has one of these in it: whoever writes there cannot.
pub fn cannot_write(at: &[&str]) -> tempfile::TempDir {
    let patterns: Vec<String> = at.iter().map(|part| format!("*{part}*")).collect();
    stubs(&[(
        "chmod",
        &format!("case $* in {}) exit 1 ;; esac\nexec /bin/chmod \"$@\"", patterns.join(" | ")),
    )])
}
