//! The gate's place: a drop-in of the unit that brings the node into the cluster, which runs `nvme-agent gate` first.
//!
//! Where a failed node must not join (`no-join`), without a dash: where there is no binary, or it fails, the unit
//! fails, and the node does not join. So, too, where a failed node is to be tainted (`taint`): whether it can be is known
//! only when nodeadm has cached the NodeConfig, and what cannot taint it, an agent that does not run too, must not let it
//! join untainted. Elsewhere with one: it only brings up to date what nodeadm is about to read, and nothing that becomes of
//! it keeps the node away.

use std::path::Path;

use super::{Files, MARK, OWN_BINARY, PACKAGED_BINARY};
use crate::config::{Config, OnBootFailure, OnFailure};
use crate::error::Result;
use crate::node::registration::{UNIT_DIRECTORIES, Way};
use crate::persist::atomic;
use crate::root::Root;

/// The drop-in for `no-join`, with the path that `install` gives the binary: a shell can write it before there is one.
pub const GATE: &str =
    include_str!("../../../packaging/registration/nodeadm-run.service.d/50-nvme-agent.conf");

/// What tells the drop-in for `taint` from that for `no-join`.
const TAINTING: &str = "# on_failure = \"taint\": a failed node joins where it can be tainted.\n";

/// AL2023: nodeadm's run phase, which alone starts containerd and kubelet.
pub const NODEADM_HOOK: &str = "/etc/systemd/system/nodeadm-run.service.d/50-nvme-agent.conf";
/// AL2, which has no nodeadm: kubelet itself.
pub const KUBELET_HOOK: &str = "/etc/systemd/system/kubelet.service.d/50-nvme-agent.conf";

/// What the configuration wants of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Nothing,
    /// Run, and let the unit start whatever it says.
    Refresh,
    /// The unit starts only where it says so: not where a failed node cannot be tainted.
    Taint,
    /// The unit starts only where it says so.
    Gate,
}

impl Want {
    fn of(root: &Root, config: &Config) -> Want {
        if config.on_failure == OnFailure::NoJoin || config.on_boot_failure == OnBootFailure::NoJoin {
            return Want::Gate;
        }
        if config.on_failure == OnFailure::Taint {
            return Want::Taint;
        }
        match Way::of(root, config.label_method).0 {
            // Much happens between setup and the join: the environment file of this boot is made, the taints of the
            // NodeConfig become known, and a mount that was ready may go.
            Way::DropIn | Way::Environment => Want::Refresh,
            Way::None => Want::Nothing,
        }
    }
}

fn unit_exists(root: &Root, name: &str) -> bool {
    UNIT_DIRECTORIES.iter().any(|dir| root.follow(Path::new(dir).join(name)).is_file())
}

/// The binary's path as units name it.
fn binary(root: &Root) -> &'static str {
    if root.follow(PACKAGED_BINARY).is_file() { PACKAGED_BINARY } else { OWN_BINARY }
}

/// Puts the drop-in in place, or takes ours away; says what changed, a line each.
///
/// # Errors
/// As [`super::install`].
pub fn ensure(root: &Root, config: &Config) -> Result<Vec<String>> {
    let mut files = Files { root, done: Vec::new() };
    apply(&mut files, config)?;
    Ok(files.done)
}

/// The policy that the gate in place stands for, whatever is configured by now.
pub fn shown(root: &Root) -> OnFailure {
    let policy = |path| match atomic::read_text(&root.follow(path)) {
        Ok(Some(text)) if !text.lines().any(is_strict) => OnFailure::Label,
        Ok(Some(text)) if text.contains(TAINTING) => OnFailure::Taint,
        Ok(Some(_)) => OnFailure::NoJoin,
        Ok(None) | Err(_) => OnFailure::Label,
    };
    policy(NODEADM_HOOK).max(policy(KUBELET_HOOK))
}

/// A line without a dash, with any path of the binary.
fn is_strict(line: &str) -> bool {
    line.strip_prefix("ExecStartPre=/").is_some_and(|command| command.ends_with("/nvme-agent gate"))
}

/// What the configuration wants at each place: the text there, or why there is none.
fn wanted(root: &Root, config: &Config) -> [(&'static str, Result<String, &'static str>); 2] {
    let nodeadm = unit_exists(root, "nodeadm-run.service");
    // kubelet is gated only where nothing else starts it: elsewhere its restart after a crash would be gated.
    let eks_kubelet =
        !nodeadm && unit_exists(root, "kubelet.service") && root.follow("/etc/eks/bootstrap.sh").is_file();
    let want = Want::of(root, config);
    [(NODEADM_HOOK, nodeadm), (KUBELET_HOOK, eks_kubelet)].map(|(path, there)| {
        let (note, dash) = match want {
            Want::Gate => ("", ""),
            Want::Taint => (TAINTING, ""),
            Want::Refresh => ("", "-"),
            Want::Nothing => return (path, Err("the configuration asks for no gate")),
        };
        match there {
            true => (path, Ok(format!("{note}[Service]\nExecStartPre={dash}{} gate\n", binary(root)))),
            false => (path, Err("there is no such unit of EKS's")),
        }
    })
}

/// True where a failed node is to be kept away, and there is no unit of EKS's that could be gated.
fn has_no_place(root: &Root, config: &Config) -> bool {
    let strict = matches!(Want::of(root, config), Want::Gate | Want::Taint);
    strict && wanted(root, config).iter().all(|(_, text)| text.is_err())
}

const NO_PLACE: &str =
    "neither nodeadm-run.service nor EKS's kubelet.service is here: nothing keeps a failed node from joining";

pub(super) fn apply(files: &mut Files<'_>, config: &Config) -> Result<()> {
    for (path, text) in wanted(files.root, config) {
        match text {
            Ok(text) => files.text(path, &text)?,
            Err(why) => files.remove_ours(path, why)?,
        }
    }
    if has_no_place(files.root, config) {
        files.done.push(format!("note: {NO_PLACE}"));
    }
    Ok(())
}

/// What is not as [`ensure`] would leave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// It decides whether a failed node joins.
    pub decides: bool,
    /// In words.
    pub what: String,
}

/// Where the gate in place is not what the configuration wants; none where it is. Changes nothing.
pub fn difference(root: &Root, config: &Config) -> Option<Difference> {
    if has_no_place(root, config) {
        return Some(Difference { decides: true, what: NO_PLACE.into() });
    }
    wanted(root, config).into_iter().find_map(|(path, wanted)| {
        let there = atomic::read_text(&root.follow(path)).ok().flatten();
        let strict = |text: &str| text.lines().any(is_strict);
        match (wanted, there) {
            (Ok(wanted), Some(there)) if there == format!("{MARK}\n{wanted}") => None,
            (Ok(wanted), Some(there)) => Some(Difference {
                decides: strict(&wanted) || strict(&there),
                what: format!("{path} is another than the configuration wants"),
            }),
            (Ok(wanted), None) => {
                Some(Difference { decides: strict(&wanted), what: format!("{path} is not there") })
            }
            (Err(why), Some(there)) if there.starts_with(MARK) => Some(Difference {
                decides: strict(&there),
                what: format!("{path} is still there, though {why}"),
            }),
            (Err(_), _) => None,
        }
    })
}

#[cfg(test)]
#[path = "hook_tests.rs"]
mod tests;
