//! Karpenter's objects, v1: EC2NodeClass and NodePool. Pure; `agent/tests/render.rs` and `render_limits.rs` hold them against the definitions.

use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::values::{
    Family, Gib, Label, LabelValue, Lifetime, ObjectName, RoleName, Tag, Zone, is_karpenters,
};
use crate::error::{Error, Result};
use crate::node::labels::Keys;

/// Label and taint of the nodes of one workspace; pods of e6data tolerate and select it.
pub const WORKSPACE: &str = "e6data-workspace-name";
/// By which subnets and security groups are found, unless other tags are named.
pub const DISCOVERY: &str = "karpenter.sh/discovery";
/// What holds pods off until node-readiness-controller has seen the condition: packaging/kubernetes/node-readiness-rule.yaml.
pub const STARTUP_TAINT: &str = "readiness.k8s.io/nvme-agent-local-storage";
/// Beginnings of the keys of tags that AWS keeps for itself, or that the EC2NodeClass's definition refuses.
const RESERVED_TAGS: [&str; 2] = ["aws:", "kubernetes.io/cluster"];
/// Whole keys of tags that it refuses.
const KARPENTERS_TAGS: [&str; 4] = [
    "eks:eks-cluster-name",
    "karpenter.sh/nodepool",
    "karpenter.sh/nodeclaim",
    "karpenter.k8s.aws/ec2nodeclass",
];

/// Of tags that a subnet or a security group is found by: `maxProperties` of the definition.
const MOST_TAGS: usize = 20;
/// Of labels of a NodePool's nodes: the same.
const MOST_LABELS: usize = 100;

/// Which images nodes are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ami {
    /// `al2023@latest`, `al2023@v20250920`, and of AL2.
    Alias(String),
    /// One of your own, made from an AL2023 image of EKS.
    Id(String),
}

impl FromStr for Ami {
    type Err = String;

    fn from_str(text: &str) -> Result<Ami, String> {
        let expected = "expected al2023@latest, al2023@vYYYYMMDD or ami-...";
        // As EKS numbers its images, and Karpenter finds them by.
        let dated = |version: &str| {
            version
                .strip_prefix('v')
                .is_some_and(|date| date.len() == 8 && date.bytes().all(|b| b.is_ascii_digit()))
        };
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if text.len() <= 40 && text.strip_prefix("ami-").is_some_and(plain) {
            return Ok(Ami::Id(text.into()));
        }
        let (family, version) = text.split_once('@').ok_or(expected)?;
        match family {
            "al2023" | "al2" if version == "latest" || dated(version) => Ok(Ami::Alias(text.into())),
            "al2023" | "al2" => Err(expected.into()),
            family => super::family::refuse(family).and(Err(expected.into())),
        }
    }
}

/// An EC2NodeClass.
#[derive(Clone, Debug)]
pub struct NodeClass {
    pub name: ObjectName,
    pub workspace: Option<LabelValue>,
    pub labels: Vec<Label>,
    pub ami: Ami,
    /// Of the nodes.
    pub role: RoleName,
    /// All of them on each subnet.
    pub subnets: Vec<Tag>,
    /// All of them on each security group.
    pub security_groups: Vec<Tag>,
    /// Of everything that Karpenter launches.
    pub tags: Vec<Tag>,
    /// The root volume, gp3.
    pub volume: Gib,
    /// [`super::Userdata::script`].
    pub userdata: String,
}

impl NodeClass {
    /// The object.
    ///
    /// # Errors
    /// [`Error::Config`] names the option: a tag or label that is reserved or there twice, a selector that selects everything.
    pub fn object(&self) -> Result<Value> {
        for tag in &self.tags {
            let key = tag.key.to_ascii_lowercase();
            let reserved = RESERVED_TAGS.iter().find(|own| key.starts_with(**own));
            if let Some(own) = reserved.or(KARPENTERS_TAGS.iter().find(|own| tag.key == **own)) {
                return Err(wrong(
                    "--tag",
                    &format!("expected a tag of your own, found {}: {own} is reserved", tag.key),
                ));
            }
        }
        let ami = match &self.ami {
            Ami::Alias(alias) => json!({"alias": alias}),
            Ami::Id(id) => json!({"id": id}),
        };
        let mut spec = json!({
            "amiSelectorTerms": [ami],
            "role": self.role.as_str(),
            "subnetSelectorTerms": [{"tags": selector("--subnet-tag", &self.subnets)?}],
            "securityGroupSelectorTerms": [{"tags": selector("--security-group-tag", &self.security_groups)?}],
            "blockDeviceMappings": [
                {"deviceName": "/dev/xvda", "ebs": {"volumeSize": self.volume.to_string(), "volumeType": "gp3"}}
            ],
            "userData": self.userdata,
        });
        if let Ami::Id(_) = self.ami {
            // No alias says it, and by it Karpenter knows how the node joins.
            spec["amiFamily"] = "AL2023".into();
        }
        if !self.tags.is_empty() {
            spec["tags"] = tags("--tag", &self.tags)?;
        }
        Ok(json!({
            "apiVersion": "karpenter.k8s.aws/v1",
            "kind": "EC2NodeClass",
            "metadata": metadata(&self.name, labels("--object-label", self.workspace.as_ref(), &self.labels)?),
            "spec": spec,
        }))
    }
}

/// A NodePool.
#[derive(Clone, Debug)]
pub struct NodePool {
    pub name: ObjectName,
    /// Of the EC2NodeClass.
    pub node_class: ObjectName,
    pub workspace: Option<LabelValue>,
    pub labels: Vec<Label>,
    /// None: every family with instance store.
    pub families: Vec<Family>,
    /// None: wherever there are subnets.
    pub zones: Vec<Zone>,
    /// `amd64`, `arm64`: those for which userData names a binary.
    pub architectures: Vec<&'static str>,
    /// `on-demand`, `spot`; none: Karpenter's default, on-demand.
    pub capacity: Vec<&'static str>,
    /// CPUs of all nodes together.
    pub cpu_limit: u32,
    pub expire_after: Lifetime,
    /// Nodes start with [`STARTUP_TAINT`].
    pub startup_taint: bool,
    /// The keys of the nodes' configuration, and its profile.
    pub keys: Keys,
    pub profile: String,
}

impl NodePool {
    /// The object.
    ///
    /// # Errors
    /// [`Error::Config`] names the option: a label that says what only the node can say, or that is there twice.
    pub fn object(&self) -> Result<Value> {
        let keys = &self.keys;
        let own = [keys.state(), keys.layout(), keys.drives(), keys.capacity_gib(), keys.version()];
        if let Some(label) = self.labels.iter().find(|label| own.contains(&label.key)) {
            return Err(wrong(
                "--node-label",
                &format!("{}: Karpenter would write it itself, whatever the node has to say", label.key),
            ));
        }
        let profile = self.keys.profile();
        if !self.profile.is_empty() && is_karpenters(&profile) {
            return Err(wrong(
                "--label-domain, --label-keys",
                &format!("expected a key for the profile that is not Karpenter's own, found {profile}"),
            ));
        }
        let mut of_nodes = labels("--node-label", self.workspace.as_ref(), &self.labels)?;
        let of_pool = of_nodes.clone();
        if !self.profile.is_empty()
            && of_nodes.insert(profile.clone(), self.profile.as_str().into()).is_some()
        {
            return Err(wrong("--node-label", &format!("{profile} is there twice (--profile writes it)")));
        }
        if of_nodes.len() > MOST_LABELS {
            return Err(wrong(
                "--node-label",
                &format!(
                    "expected at most {MOST_LABELS} labels, --workspace's and --profile's counted, found {}",
                    of_nodes.len()
                ),
            ));
        }
        let among = |key: &str, values: Vec<&str>| json!({"key": key, "operator": "In", "values": values});
        let mut requirements = vec![
            // In GiB; types without instance store have no such label, and never match.
            json!({"key": "karpenter.k8s.aws/instance-local-nvme", "operator": "Gt", "values": ["0"]}),
            among("kubernetes.io/os", vec!["linux"]),
            among("kubernetes.io/arch", self.architectures.clone()),
        ];
        for (key, values) in [
            ("karpenter.sh/capacity-type", self.capacity.clone()),
            ("karpenter.k8s.aws/instance-family", self.families.iter().map(Family::as_str).collect()),
            ("topology.kubernetes.io/zone", self.zones.iter().map(Zone::as_str).collect()),
        ] {
            if !values.is_empty() {
                requirements.push(among(key, values));
            }
        }
        let mut spec = json!({
            "nodeClassRef": {
                "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": self.node_class.as_str()
            },
            "requirements": requirements,
            "expireAfter": self.expire_after.as_str(),
        });
        if let Some(workspace) = &self.workspace {
            spec["taints"] = json!([{"key": WORKSPACE, "value": workspace.as_str(), "effect": "NoSchedule"}]);
        }
        if self.startup_taint {
            spec["startupTaints"] = json!([{"key": STARTUP_TAINT, "effect": "NoSchedule"}]);
        }
        let mut template = json!({"spec": spec});
        if !of_nodes.is_empty() {
            template["metadata"] = json!({"labels": of_nodes});
        }
        Ok(json!({
            "apiVersion": "karpenter.sh/v1",
            "kind": "NodePool",
            "metadata": metadata(&self.name, of_pool),
            "spec": {
                "template": template,
                "limits": {"cpu": self.cpu_limit},
                "disruption": {"consolidationPolicy": "WhenEmpty", "consolidateAfter": "30s"},
            },
        }))
    }
}

fn wrong(option: &str, problem: &str) -> Error {
    Error::Config(format!("{option}: {problem}"))
}

fn metadata(name: &ObjectName, labels: Map<String, Value>) -> Value {
    let mut metadata = json!({"name": name.as_str()});
    if !labels.is_empty() {
        metadata["labels"] = labels.into();
    }
    metadata
}

/// Those of a workspace, and more.
fn labels(option: &str, workspace: Option<&LabelValue>, more: &[Label]) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    if let Some(workspace) = workspace {
        all.insert("app".into(), "e6data".into());
        all.insert(WORKSPACE.into(), workspace.as_str().into());
    }
    for label in more {
        if all.insert(label.key.clone(), label.value.as_str().into()).is_some() {
            return Err(wrong(
                option,
                &format!("{} is there twice (--workspace writes app and {WORKSPACE})", label.key),
            ));
        }
    }
    Ok(all)
}

fn tags(option: &str, list: &[Tag]) -> Result<Value> {
    let mut all = Map::new();
    for tag in list {
        if all.insert(tag.key.clone(), tag.value.as_str().into()).is_some() {
            return Err(wrong(option, &format!("{} is there twice", tag.key)));
        }
    }
    Ok(all.into())
}

fn selector(option: &str, list: &[Tag]) -> Result<Value> {
    if list.is_empty() {
        return Err(wrong(
            option,
            "expected KEY=VALUE, or --cluster NAME, by whose discovery tag they are found",
        ));
    }
    if list.len() > MOST_TAGS {
        return Err(wrong(option, &format!("expected at most {MOST_TAGS} tags, found {}", list.len())));
    }
    match list.iter().find(|tag| tag.value.is_empty()) {
        Some(tag) => {
            Err(wrong(option, &format!("expected a value for {}; `*` is not ours to choose", tag.key)))
        }
        None => tags(option, list),
    }
}
