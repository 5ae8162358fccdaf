//! What the Kubernetes Node was told in this boot, and by which way.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

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
        }
    }

    /// For people, a line each.
    pub fn lines(&self) -> Vec<String> {
        let registration = self.registration.as_ref().map(|to| {
            let said = match &to.path {
                Some(path) => format!("{} by {path}", to.state),
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
    use crate::node::registration::Way;
    use crate::node::{Keys, Readiness};
    use crate::state::{Health, State};

    #[test]
    fn it_says_what_the_node_was_told_and_by_which_way_in_this_boot_only() {
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
        let mut part = NodePart::read(&root);
        assert_eq!(
            part.lines(),
            [
                "ip-10-0-0-1 was told failed (DriveLost), written 2000-02-28T00:00:00Z, read 2000-02-29T00:00:00Z"
            ]
        );
        part.reported = None;
        part.registration = Some(Registration {
            way: Way::DropIn,
            path: Some("/etc/x.yaml".into()),
            state: Health::Ready,
            ..Registration::default()
        });
        assert_eq!(part.lines(), ["registers as ready by /etc/x.yaml"]);
        part.registration = Some(Registration { problem: Some("no way".into()), ..Registration::default() });
        assert_eq!(part.lines(), ["registers as nothing: no way"]);
        boot("two");
        assert_eq!(NodePart::read(&root), NodePart::default());
    }
}
