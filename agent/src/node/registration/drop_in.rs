//! The NodeConfig that nodeadm merges into its own: `/etc/eks/nodeadm.d/50-nvme-agent.yaml`. Pure.
//!
//! `kubelet.flags` are appended to what is there, and kubelet merges repeated `--node-labels`; every other list is
//! replaced (nodeadm/internal/api/merge.go). Its forms for a failed node are files in `packaging/registration/`, which
//! a shell can write before there is a binary.

use crate::node::labels::Readiness;

use super::taints::Taints;

/// What a node says whose agent never ran, with `on_failure = "label"` and `"no-join"`.
pub const FAILED: &str = include_str!("../../../../packaging/registration/50-nvme-agent.yaml");
/// The same with `on_failure = "taint"`: [`TAINTS`] stands for the list of taints.
pub const FAILED_TAINTED: &str =
    include_str!("../../../../packaging/registration/50-nvme-agent-tainted.yaml");
/// What is to be replaced in [`FAILED_TAINTED`], by a list in JSON with sorted keys.
pub const TAINTS: &str = "@TAINTS@";

/// The file's text. JSON is YAML, so that nothing of what was read needs another quoting.
pub fn render(words: &Readiness, taints: Option<&Taints>) -> String {
    let mut text = format!(
        "# nvme-agent rewrites this at every boot.\n\
         apiVersion: node.eks.aws/v1alpha1\n\
         kind: NodeConfig\n\
         spec:\n  kubelet:\n    flags:\n      - \"--node-labels={}\"\n",
        words.node_labels()
    );
    match taints {
        None => {}
        Some(Taints::Flag(argument)) => text.push_str(&format!("      - \"{argument}\"\n")),
        Some(Taints::Config(list)) => {
            let list = serde_json::Value::from(list.clone());
            text.push_str(&format!("    config:\n      registerWithTaints: {list}\n"));
        }
    }
    text
}
