//! Node Feature Discovery: the Node's labels once more, as a feature file for its source `local` (opt-in).
//!
//! nfd-worker reads every regular file of the directory whose name does not begin with a dot, a `name=value` a line, and
//! has nfd-master label the Node. Our own keys are not among them: nfd-master would become a second writer of labels
//! that `report` keeps, and would take them from the Node when it is uninstalled. So the names are of NFD's namespace:
//! `feature.node.kubernetes.io/nvme-agent-state` (kubernetes-sigs.github.io/node-feature-discovery, Customization
//! guide, "Local feature source"). Written out in full, since that prefix is optional only by default.

use std::fs;

use super::labels::Readiness;
use crate::config::FeatureFile;
use crate::error::{Error, Result};
use crate::persist::atomic;
use crate::root::Root;

/// In the directory that NFD's charts mount into nfd-worker.
pub const FEATURE_PATH: &str = "/etc/kubernetes/node-feature-discovery/features.d/nvme-agent";
/// First line: what begins so is ours.
const MARK: &str = "# nvme-agent: the local NVMe storage of this node. Rewritten at every boot.\n";
const PREFIX: &str = "feature.node.kubernetes.io/nvme-agent-";

/// Brings the feature file up to date; takes it away where it is not wanted.
///
/// # Errors
/// It cannot be written or removed, or is somebody else's; no half of it is ever there.
pub fn update(root: &Root, wanted: FeatureFile, words: &Readiness) -> Result<()> {
    let path = root.join(FEATURE_PATH);
    let there = atomic::read(&path).ok();
    let ours = there.as_ref().is_some_and(|text| text.starts_with(MARK.as_bytes()));
    atomic::remove_leftovers(&path);
    match wanted {
        FeatureFile::None if ours => atomic::remove_durable(&path).map(drop),
        FeatureFile::None => Ok(()),
        FeatureFile::Nfd if there.is_some() && !ours => Err(Error::Other(format!(
            "{FEATURE_PATH} is not ours (expected it to begin with `# nvme-agent:`), so it was left; remove it, or set \
             feature_file = \"none\""
        ))),
        FeatureFile::Nfd => {
            let text = render(words);
            if there.as_deref() == Some(text.as_bytes()) {
                return Ok(());
            }
            // Before NFD's first pod is on the node nobody has made it.
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir).map_err(Error::io(dir, "make the directory"))?;
            }
            atomic::replace(&path, &text).inspect_err(|_| {
                // Better none than one of an earlier boot.
                let _ = fs::remove_file(&path);
            })
        }
    }
}

fn render(words: &Readiness) -> String {
    let mut text = MARK.to_owned();
    for (key, value) in &words.labels {
        let name = key.rsplit('/').next().unwrap_or(key);
        text.push_str(&format!("{PREFIX}{name}={value}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Keys;
    use crate::state::{Health, State};

    fn words(health: Health) -> Readiness {
        let state = State {
            layout: "raid0".into(),
            drives: 2,
            capacity_gib: 6984,
            ..State::new(&Root::new("/nonexistent"), health, "X", "")
        };
        Readiness::of(&state, &Keys::default(), "fast")
    }

    fn image() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        (dir, root)
    }

    fn names(root: &Root) -> Vec<String> {
        let dir = root.join(FEATURE_PATH);
        let entries = fs::read_dir(dir.parent().unwrap()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn it_says_what_the_labels_say_in_nfds_namespace_and_nothing_else_is_left_there() {
        let (_dir, root) = image();
        update(&root, FeatureFile::Nfd, &words(Health::Ready)).unwrap();
        let expected = format!(
            "{MARK}{PREFIX}state=ready\n{PREFIX}layout=raid0\n{PREFIX}drives=2\n{PREFIX}capacity-gib=6984\n{PREFIX}profile=fast\n{PREFIX}version={}\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(fs::read_to_string(root.join(FEATURE_PATH)).unwrap(), expected);
        // As a power cut in the middle of the next write leaves it.
        let left = root.join(FEATURE_PATH).with_file_name(".nvme-agent.nvme-agent.99.0");
        fs::write(&left, "feature").unwrap();
        update(&root, FeatureFile::Nfd, &words(Health::Failed)).unwrap();
        assert!(fs::read_to_string(root.join(FEATURE_PATH)).unwrap().contains("-state=failed\n"));
        assert_eq!(names(&root), ["nvme-agent"]);
    }

    #[test]
    fn without_the_key_nothing_is_written_and_ours_is_taken_away() {
        let (_dir, root) = image();
        update(&root, FeatureFile::None, &words(Health::Ready)).unwrap();
        assert!(!root.join("/etc").exists());
        update(&root, FeatureFile::Nfd, &words(Health::Ready)).unwrap();
        update(&root, FeatureFile::None, &words(Health::Ready)).unwrap();
        assert!(names(&root).is_empty());
    }

    #[test]
    fn somebody_elses_file_stays() {
        let (_dir, root) = image();
        let path = root.join(FEATURE_PATH);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine=1\n").unwrap();
        let error = update(&root, FeatureFile::Nfd, &words(Health::Ready)).unwrap_err().to_string();
        assert!(error.contains("features.d/nvme-agent is not ours"), "{error}");
        update(&root, FeatureFile::None, &words(Health::Ready)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine=1\n");
    }
}
