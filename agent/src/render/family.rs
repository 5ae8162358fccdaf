//! Which AMI families userData works with.

use std::str::FromStr;

/// How nodes are made into nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AmiFamily {
    /// nodeadm.
    Al2023,
    /// bootstrap.sh; best effort: the label comes through the API alone.
    Al2,
    /// The same script, but nobody adds what makes the node join.
    Ubuntu,
    Custom,
}

impl FromStr for AmiFamily {
    type Err = String;

    fn from_str(text: &str) -> Result<AmiFamily, String> {
        match text.to_ascii_lowercase().as_str() {
            "al2023" => Ok(AmiFamily::Al2023),
            "al2" => Ok(AmiFamily::Al2),
            "ubuntu" => Ok(AmiFamily::Ubuntu),
            "custom" => Ok(AmiFamily::Custom),
            other => {
                refuse(other)?;
                Err("expected al2023, al2, ubuntu or custom".into())
            }
        }
    }
}

impl AmiFamily {
    /// Whether an EC2NodeClass with this family can carry our userData as it is.
    ///
    /// # Errors
    /// How it is done instead, in words.
    pub fn for_node_class(self) -> Result<(), String> {
        let how = "Karpenter adds nothing to the userData of amiFamily Custom, which then has to make the node join, too: put \
                   what `nvme-agent render userdata` prints into a MIME multipart, as its first part";
        match self {
            AmiFamily::Al2023 | AmiFamily::Al2 => Ok(()),
            AmiFamily::Ubuntu => Err(format!(
                "Karpenter has no family Ubuntu since v1, its images are Custom. {how}, and then the call of /etc/eks/bootstrap.sh"
            )),
            AmiFamily::Custom => Err(format!("{how}, and then the image's own part")),
        }
    }
}

/// # Errors
/// Why there is nothing to render for a family that cannot have the agent, in words; none for others.
pub fn refuse(family: &str) -> Result<(), String> {
    let family = family.to_ascii_lowercase();
    let why = match family.as_str() {
        "bottlerocket" => {
            "its userData is settings and runs no scripts, its root filesystem is read-only, and it has an own way to instance \
             store: Karpenter's instanceStorePolicy"
        }
        "auto" | "auto-mode" | "eks-auto-mode" => {
            "its nodes are AWS's own, run Bottlerocket and take no userData; they use instance store for ephemeral storage \
             by themselves"
        }
        "fargate" => "its pods have no node of yours, no instance store and no hostPath",
        windows if windows.starts_with("windows") => {
            "nvme-agent is for Linux: md, ext4 and xfs, systemd; Windows nodes have nothing of that"
        }
        _ => return Ok(()),
    };
    Err(format!("not supported: {why}"))
}
