//! Whether the drives are somebody else's, by name. Not even `--wipe-foreign` gets past a claim: who holds it acts again.

use super::Reason;
use super::usable::own_array;
use super::words::{Judgement, refuse, who};
use crate::observe::{Claim, Content, Drive, Inventory, Use};

/// Where nodeadm's setup-local-disks mounts what it makes, and what it calls its array (awslabs/amazon-eks-ami,
/// templates/al2023/runtime/bin/setup-local-disks).
const NODEADM_MOUNTS: &str = "/mnt/k8s-disks";
const NODEADM_ARRAY: &str = "kubernetes";
/// Where volumes for the local static provisioner are mounted by its documents and charts, and by the DaemonSets that
/// prepare drives for it (eks-nvme-ssd-provisioner, eks-local-disk-provisioner).
const PROVISIONER_MOUNTS: [&str; 3] = ["/mnt/disks", "/mnt/fast-disks", "/pv-disks"];

/// What to do where nodeadm is told to set up the drives.
pub const NODEADM_NEXT: &str = "nodeadm's own localStorage and nvme-agent exclude each other: unset \
    `spec.instance.localStorage.strategy` (Karpenter: `instanceStorePolicy` of the EC2NodeClass), or disable \
    nvme-agent.service on these nodes. A target on nodeadm's array is not supported yet.";
const OWNER_NEXT: &str = "Have one owner of the drives of a node: keep its DaemonSet from these nodes, or disable \
    nvme-agent.service on them; docs/kubernetes.md says how to select nodes apart.";

/// Nobody else lays claim to the drives, and there are some to lay claim to.
pub fn drives_are_ours_to_take(inventory: &Inventory) -> Judgement<()> {
    if inventory.drives.is_empty() && inventory.pending.is_empty() {
        return Ok(());
    }
    match inventory.claims.first() {
        None => Ok(()),
        Some(Claim::Nodeadm { strategy }) => refuse(
            Reason::NodeadmLocalStorage,
            vec![format!(
                "spec.instance.localStorage.strategy is {strategy}: nodeadm will set up the drives itself"
            )],
            NODEADM_NEXT,
        ),
        Some(Claim::InstanceStoreCsi { trace }) => {
            let mut found =
                vec![format!("the EKS local instance store CSI driver is on this node ({trace})")];
            found.extend(inventory.pending.iter().map(|p| format!("PCI {}: {}", p.address, p.why)));
            refuse(
                Reason::OwnerConflict,
                found,
                format!(
                    "It deletes what is on the drives, the namespaces included. {OWNER_NEXT} Where it has gone, remove {trace}."
                ),
            )
        }
        Some(Claim::StaticProvisioner { trace }) => refuse(
            Reason::OwnerConflict,
            vec![format!("the local static provisioner hands out raw drives of this node: {trace}")],
            format!("{OWNER_NEXT} Or remove the udev rule that makes the link."),
        ),
    }
}

/// Nobody holds a drive, or has formatted it, whom we know by name. What `--wipe-foreign` may do with a signature it
/// may do with this one; a drive in use is never touched.
pub fn drives_are_nobodys(inventory: &Inventory, wipe_foreign: bool) -> Judgement<()> {
    let mut nodeadms = Vec::new();
    let mut others = Vec::new();
    for drive in &inventory.drives {
        for at in mounted_at(inventory, drive) {
            let line = format!("{} is mounted at {at}", who(drive));
            match () {
                () if below(at, NODEADM_MOUNTS) => nodeadms.push(line),
                () if PROVISIONER_MOUNTS.iter().any(|top| below(at, top)) => {
                    others.push(format!("{line}, where the local static provisioner looks for volumes"));
                }
                () if below(at, "/var/lib/kubelet") => others.push(format!("{line}, a volume of a pod")),
                () => {}
            }
        }
        if let (Content::Member(member), false) = (&drive.content, wipe_foreign)
            && member.set_name.rsplit(':').next() == Some(NODEADM_ARRAY)
        {
            nodeadms.push(format!("{} is a member of md set `{}`, nodeadm's", who(drive), member.set_name));
        }
    }
    match (nodeadms.is_empty(), others.is_empty()) {
        (true, true) => Ok(()),
        (false, _) => refuse(
            Reason::NodeadmLocalStorage,
            nodeadms,
            format!("{NODEADM_NEXT} Where it is unset by now, a new instance has blank drives."),
        ),
        (true, false) => refuse(Reason::OwnerConflict, others, OWNER_NEXT),
    }
}

/// Where the drive, or an array of the candidates that it is in, is mounted.
fn mounted_at<'a>(inventory: &'a Inventory, drive: &'a Drive) -> impl Iterator<Item = &'a str> {
    let holding = drive.uses.iter().filter_map(|by| match by {
        Use::Holder { name } => own_array(inventory, name),
        _ => None,
    });
    drive.uses.iter().chain(holding.flat_map(|array| &array.uses)).filter_map(|by| match by {
        Use::Mounted { at } => Some(at.as_str()),
        _ => None,
    })
}

fn below(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
