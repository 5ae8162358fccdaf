//! userData of managed node groups, which must be MIME multipart: EKS adds its own part to it, unless the image is a custom one. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::values::{ApiServer, Base64, Cidr, ClusterName, Gib, Sysctl, Tag};
use super::yaml;
use crate::error::{Error, Result};

/// As in EKS's own examples; no line of ours begins with it.
const BOUNDARY: &str = "//";
/// Before base64 (EC2, `UserData`).
const LONGEST: usize = 16_384;

/// What a node with a custom image needs to be told, since EKS adds nothing there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub name: ClusterName,
    pub api_server: ApiServer,
    pub certificate_authority: Base64,
    /// Of services.
    pub cidr: Cidr,
}

impl Cluster {
    /// nodeadm's configuration.
    pub fn node_config(&self) -> Value {
        json!({
            "apiVersion": "node.eks.aws/v1alpha1",
            "kind": "NodeConfig",
            "spec": {"cluster": {
                "name": self.name.as_str(),
                "apiServerEndpoint": self.api_server.as_str(),
                "certificateAuthority": self.certificate_authority.as_str(),
                "cidr": self.cidr.as_str(),
            }},
        })
    }
}

/// The MIME multipart: the script, one for kernel settings that stay over reboots, the NodeConfig of a custom image.
///
/// # Errors
/// [`Error::Config`] where EC2 would not take it for its size.
pub fn mime(script: &str, sysctls: &[Sysctl], cluster: Option<&Cluster>) -> Result<String> {
    let shell = "text/x-shellscript; charset=\"us-ascii\"";
    let mut parts = vec![(shell, script.to_owned())];
    if !sysctls.is_empty() {
        let lines: String = sysctls.iter().map(|one| format!("{one}\n")).collect();
        let file = "/etc/sysctl.d/90-local-nvme.conf";
        parts.push((
            shell,
            format!("#!/bin/bash\ncat >{file} <<'EOF'\n{lines}EOF\ntimeout 10 sysctl -p {file}\n"),
        ));
    }
    if let Some(cluster) = cluster {
        parts.push(("application/node.eks.aws", format!("---\n{}", yaml::document(&cluster.node_config()))));
    }
    let mut text = format!("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"{BOUNDARY}\"\n\n");
    for (kind, part) in parts {
        text.push_str(&format!("--{BOUNDARY}\nContent-Type: {kind}\n\n{part}\n"));
    }
    text.push_str(&format!("--{BOUNDARY}--\n"));
    match text.len() {
        length if length > LONGEST => {
            Err(Error::Config(format!("userData of {length} bytes: EC2 takes at most {LONGEST}")))
        }
        _ => Ok(text),
    }
}

/// What `aws ec2 create-launch-template --launch-template-data` takes. EKS chooses the instance type, and the image where it is
/// not a custom one.
pub fn data(userdata: &str, volume: Gib, image: Option<&str>, tags: &[Tag]) -> Value {
    let mut data = json!({
        "UserData": STANDARD.encode(userdata),
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": volume.count(), "VolumeType": "gp3", "DeleteOnTermination": true}}
        ],
        // Two hops: pods on the pod network ask, too.
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
    });
    if let Some(image) = image {
        data["ImageId"] = image.into();
    }
    if !tags.is_empty() {
        let tags: Vec<Value> = tags.iter().map(|tag| json!({"Key": tag.key, "Value": tag.value})).collect();
        let of = |kind: &str| json!({"ResourceType": kind, "Tags": tags});
        data["TagSpecifications"] = json!([of("instance"), of("volume")]);
    }
    data
}
