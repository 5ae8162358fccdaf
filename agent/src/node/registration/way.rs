//! By which way the labels can come to the Node at registration: what this image has.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{DROP_IN_DIR, ENVIRONMENT_PATH};
use crate::config::LabelMethod;
use crate::exec;
use crate::persist::atomic;
use crate::root::Root;

/// Where systemd finds units, the strongest first.
pub const UNIT_DIRECTORIES: [&str; 3] =
    ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// How the labels come to the Node at registration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    DropIn,
    Environment,
    /// Nothing is written.
    #[default]
    None,
}

impl Way {
    pub fn as_str(self) -> &'static str {
        match self {
            Way::DropIn => "dropin",
            Way::Environment => "environment",
            Way::None => "none",
        }
    }

    /// The way that this image has and the configuration allows; where there is none, why.
    pub fn of(root: &Root, method: LabelMethod) -> (Way, Option<String>) {
        let there = root.follow(DROP_IN_DIR).is_dir();
        let drop_in = there && is_read(root);
        // nodeadm makes the file at every boot: it may not be there yet.
        let environment =
            root.follow(ENVIRONMENT_PATH).is_file() || exec::find_program(root, "nodeadm").is_some();
        let none = |why: &str| (Way::None, Some(why.to_owned()));
        match method {
            LabelMethod::Auto | LabelMethod::DropIn if drop_in => (Way::DropIn, None),
            LabelMethod::Auto | LabelMethod::Environment if environment => (Way::Environment, None),
            LabelMethod::Auto => none(
                "neither /etc/eks/nodeadm.d nor /etc/eks/kubelet/environment is here: `report` alone can label the Node",
            ),
            LabelMethod::DropIn if there => none(
                "label_method = \"dropin\", but nodeadm-run.service does not read /etc/eks/nodeadm.d (AMI v20251023 and later do)",
            ),
            LabelMethod::DropIn => none("label_method = \"dropin\", but /etc/eks/nodeadm.d is not here"),
            LabelMethod::Environment => none(
                "label_method = \"environment\", but neither /etc/eks/kubelet/environment nor nodeadm is here",
            ),
            LabelMethod::Api => none("label_method = \"api\": `report` alone labels the Node"),
            LabelMethod::None => none("label_method = \"none\""),
        }
    }
}

/// nodeadm is told of the directory, which somebody may have made on an image whose nodeadm-run.service does not name it:
/// what is written there is read by nobody. Where there is no such unit (an image that is being built) it counts as read.
pub fn is_read(root: &Root) -> bool {
    let units = UNIT_DIRECTORIES.map(|dir| Path::new(dir).join("nodeadm-run.service"));
    let Some(unit) = units.into_iter().find(|unit| root.follow(unit).is_file()) else { return true };
    let mut drop_ins: Vec<PathBuf> = Vec::new();
    for dir in UNIT_DIRECTORIES.map(|dir| Path::new(dir).join("nodeadm-run.service.d")) {
        let entries = fs::read_dir(root.follow(&dir)).into_iter().flatten().flatten();
        let paths = entries.map(|entry| dir.join(entry.file_name()));
        drop_ins.extend(paths.filter(|path| path.extension().is_some_and(|ext| ext == "conf")));
    }
    // Each after the one before it, as systemd reads them (systemd.unit(5)).
    drop_ins.sort_by_key(|path| path.file_name().map(OsStr::to_owned));
    let mut read = false;
    for path in [unit].iter().chain(&drop_ins) {
        let text =
            atomic::read_text(&root.follow(path)).ok().flatten().unwrap_or_default().replace("\\\n", " ");
        for command in text.lines().filter_map(|line| line.trim_start().strip_prefix("ExecStart=")) {
            // An empty one takes back those before it.
            read = !command.trim().is_empty() && (read || command.contains(DROP_IN_DIR));
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "[Service]\nExecStart=/usr/bin/nodeadm init --skip config --config-source imds://user-data \\\n \
                         --config-source file:///etc/eks/nodeadm.d/\n";
    const OLDER: &str =
        "[Service]\n# file:///etc/eks/nodeadm.d/\nExecStart=/usr/bin/nodeadm init --skip config\n";

    fn way(files: &[(&str, &str)], method: LabelMethod) -> (Way, Option<String>) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let environment = [
            ("/etc/eks/kubelet/environment", "NODEADM_KUBELET_ARGS=--v=2\n"),
            ("/etc/eks/nodeadm.d/.keep", ""),
        ];
        for (path, text) in environment.iter().chain(files) {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        }
        Way::of(&root, method)
    }

    #[test]
    fn a_directory_that_nodeadm_is_not_told_of_is_no_way() {
        for dir in UNIT_DIRECTORIES {
            let unit = format!("{dir}/nodeadm-run.service");
            assert_eq!(way(&[(&unit, NAMES)], LabelMethod::Auto), (Way::DropIn, None), "{dir}");
            assert_eq!(way(&[(&unit, OLDER)], LabelMethod::Auto), (Way::Environment, None), "{dir}");
        }
        assert_eq!(way(&[], LabelMethod::Auto), (Way::DropIn, None), "no unit here says otherwise");
        let older = ("/usr/lib/systemd/system/nodeadm-run.service", OLDER);
        let (none, why) = way(&[older], LabelMethod::DropIn);
        assert!(none == Way::None && why.unwrap().contains("does not read /etc/eks/nodeadm.d"));
        // The strongest unit counts, and any drop-in of it.
        assert_eq!(
            way(&[older, ("/etc/systemd/system/nodeadm-run.service", NAMES)], LabelMethod::Auto).0,
            Way::DropIn
        );
        let drop_in = ("/etc/systemd/system/nodeadm-run.service.d/10-more.conf", NAMES);
        assert_eq!(way(&[older, drop_in], LabelMethod::Auto).0, Way::DropIn);
        let over = "[Service]\nExecStart=\nExecStart=/usr/bin/nodeadm init\n";
        let last = ("/usr/lib/systemd/system/nodeadm-run.service.d/90-own.conf", over);
        assert_eq!(way(&[older, drop_in, last], LabelMethod::Auto).0, Way::Environment);
    }
}
