//! Who else lays claim to the drives, told by what they leave on a node. Reads a few names and one small file.

use std::fs;
use std::path::Path;

use super::sysfs::Sysfs;
use super::{Claim, Drive};
use crate::node::nodeadm;
use crate::root::Root;

/// The driver of the EKS add-on `aws-ec2-local-instance-store-csi-driver`, as it registers with kubelet
/// (docs.aws.amazon.com/eks/latest/userguide/lis-csi.html: `provisioner: lis.csi.aws.com`).
const INSTANCE_STORE_CSI: &str = "lis.csi.aws.com";
/// Links to raw drives for the local static provisioner, by the udev rule of its getting-started page.
const DISCOVERY_LINKS: &str = "/dev/disk/kubernetes";

/// Claims on the drives, and what keeps them from being known, in words.
pub fn find(root: &Root, drives: &[Drive], notes: &mut Vec<String>) -> Vec<Claim> {
    let mut claims = Vec::new();
    match nodeadm::cached(root) {
        Ok(cached) => {
            let strategy = cached.and_then(|cached| cached.strategy);
            claims.extend(strategy.map(|strategy| Claim::Nodeadm { strategy }));
        }
        Err(problem) => {
            notes.push(format!("whether nodeadm is to set up the drives is not known: {problem}"))
        }
    }
    // kubelet's directory for a plugin, and the socket by which a driver registers (CSI node-driver-registrar).
    let traces = [
        format!("/var/lib/kubelet/plugins/{INSTANCE_STORE_CSI}"),
        format!("/var/lib/kubelet/plugins_registry/{INSTANCE_STORE_CSI}-reg.sock"),
    ];
    let trace = traces.into_iter().find(|path| fs::symlink_metadata(root.join(path)).is_ok());
    claims.extend(trace.map(|trace| Claim::InstanceStoreCsi { trace }));
    claims.extend(linked(root, drives).map(|trace| Claim::StaticProvisioner { trace }));
    claims
}

/// A link of the static provisioner's that leads to one of the drives.
fn linked(root: &Root, drives: &[Drive]) -> Option<String> {
    let sysfs = Sysfs::new(root);
    let links = fs::read_dir(root.join(DISCOVERY_LINKS)).ok()?;
    links.flatten().find_map(|link| {
        let to = fs::read_link(link.path()).ok()?;
        let node = Path::new("/dev").join(to.file_name()?);
        let name = sysfs.name_of_node(node.to_str()?)?;
        drives
            .iter()
            .any(|drive| drive.name == name)
            .then(|| format!("{DISCOVERY_LINKS}/{} leads to /dev/{name}", link.file_name().to_string_lossy()))
    })
}
