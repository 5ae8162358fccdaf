//! What the Kubernetes Node was told in this boot, and by which way.

use serde::{Deserialize, Serialize};

use crate::node::registration::Registration;
use crate::root::Root;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodePart {
    /// What it is to register with; none where nothing was decided in this boot.
    pub registration: Option<Registration>,
}

impl NodePart {
    /// What the records under `root` say of this boot.
    pub fn read(root: &Root) -> NodePart {
        NodePart { registration: Registration::load(root) }
    }

    /// For people, a line each.
    pub fn lines(&self) -> Vec<String> {
        let registration = self.registration.as_ref().map(|to| {
            let said = match &to.path {
                Some(path) => format!("{} by {} ({path})", to.state, to.way.as_str()),
                None => "nothing".into(),
            };
            let taint = if to.tainted { ", tainted" } else { "" };
            let problem = to.problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
            format!("registers as {said}{taint}{problem}")
        });
        registration.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Config, LabelMethod, OnFailure};
    use crate::node::registration::{DROP_IN_DIR, ENVIRONMENT_PATH, update};
    use crate::state::{Health, State};

    /// The lines after a setup that failed.
    fn lines(file: &str, config: &Config) -> (Root, tempfile::TempDir, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "NODEADM_KUBELET_ARGS=--v=2\n").unwrap();
        fs::create_dir_all(root.join("/proc/sys/kernel/random")).unwrap();
        fs::write(root.join("/proc/sys/kernel/random/boot_id"), "one").unwrap();
        update(&root, config, &State::new(&root, Health::Failed, "DriveLost", "x"));
        let lines = NodePart::read(&root).lines();
        (root, dir, lines)
    }

    #[test]
    fn it_says_which_way_was_taken_in_this_boot_only() {
        let tainting = Config { on_failure: OnFailure::Taint, ..Config::default() };
        let (root, _dir, said) = lines(&format!("{DROP_IN_DIR}/x.yaml"), &tainting);
        let drop_in = "registers as failed by dropin (/etc/eks/nodeadm.d/50-nvme-agent.yaml), tainted";
        assert_eq!(said, [drop_in]);
        let json = serde_json::to_value(NodePart::read(&root)).unwrap();
        assert_eq!(
            (&json["registration"]["way"], &json["registration"]["state"]),
            (&"dropin".into(), &"failed".into())
        );
        fs::write(root.join("/proc/sys/kernel/random/boot_id"), "two").unwrap();
        assert_eq!(NodePart::read(&root), NodePart::default());
        let (.., said) = lines(ENVIRONMENT_PATH, &Config::default());
        assert_eq!(said, ["registers as failed by environment (/etc/eks/kubelet/environment)"]);
        let api = Config { label_method: LabelMethod::Api, ..Config::default() };
        let (.., said) = lines(ENVIRONMENT_PATH, &api);
        assert_eq!(said, ["registers as nothing: label_method = \"api\": `report` alone labels the Node"]);
        let (.., said) = lines("/etc/hostname", &Config::default());
        assert!(said[0].starts_with("registers as nothing: neither /etc/eks/nodeadm.d nor"), "{said:?}");
    }
}
