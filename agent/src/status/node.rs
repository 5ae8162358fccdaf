//! What the Kubernetes Node was told in this boot, and by which way.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::OnNodePart;
use crate::node::registration::Registration;
use crate::node::report::{MEMORY_PATH, Memory};
use crate::root::Root;
use crate::state::{boot_id, rfc3339};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodePart {
    /// What it is to register with; none where nothing was decided in this boot.
    pub registration: Option<Registration>,
    /// What it was told through the API server; none where it was not, in this boot.
    pub reported: Option<ReportedPart>,
    /// What the Node itself says; none where nobody asked (`--node`).
    #[serde(default)]
    pub on_node: Option<OnNodePart>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedPart {
    /// The Node's name.
    pub node: String,
    pub uid: String,
    /// `ready`, `degraded`, `failed`, `absent`.
    pub state: String,
    /// CamelCase.
    pub reason: String,
    /// When `report` last wrote to the Node, RFC 3339, UTC; empty where the Node said it all already.
    pub changed: String,
    /// When `report` last read the Node, RFC 3339, UTC.
    pub read: String,
}

impl NodePart {
    /// What the records under `root` say of this boot.
    pub fn read(root: &Root) -> NodePart {
        let told = Memory::load(&root.join(MEMORY_PATH)).filter(|told| told.boot_id == boot_id(root));
        NodePart {
            registration: Registration::load(root),
            reported: told.map(|told| ReportedPart {
                read: rfc3339(UNIX_EPOCH + Duration::from_secs(u64::try_from(told.read).unwrap_or(0))),
                node: told.node,
                uid: told.uid,
                state: told.state,
                reason: told.reason,
                changed: told.changed,
            }),
            on_node: None,
        }
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
        let reported = self.reported.as_ref().map(|told| {
            let changed = match told.changed.as_str() {
                "" => String::new(),
                time => format!(", written {time}"),
            };
            format!("{} was told {} ({}){changed}, read {}", told.node, told.state, told.reason, told.read)
        });
        registration.into_iter().chain(reported).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::{Config, LabelMethod, OnFailure};
    use crate::node::registration::{DROP_IN_DIR, ENVIRONMENT_PATH, update};
    use crate::node::{Keys, Readiness};
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

    #[test]
    fn it_says_what_was_told_through_the_api_in_this_boot_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let boot = |id: &str| {
            fs::create_dir_all(root.join("/proc/sys/kernel/random")).unwrap();
            fs::write(root.join("/proc/sys/kernel/random/boot_id"), id).unwrap();
        };
        boot("one");
        assert_eq!(NodePart::read(&root), NodePart::default());
        assert!(NodePart::default().lines().is_empty());
        let state = State::new(&root, Health::Failed, "DriveLost", "x");
        let words = Readiness::of(&state, &Keys::default(), "");
        let time = Duration::from_secs(951_782_400);
        let mut told = Memory::new("ip-10-0-0-1", "u", &state, &words, time);
        told.changed = "2000-02-28T00:00:00Z".into();
        told.save(&root.join(MEMORY_PATH)).unwrap();
        assert_eq!(
            NodePart::read(&root).lines(),
            [
                "ip-10-0-0-1 was told failed (DriveLost), written 2000-02-28T00:00:00Z, read 2000-02-29T00:00:00Z"
            ]
        );
        boot("two");
        assert_eq!(NodePart::read(&root), NodePart::default());
    }
}
