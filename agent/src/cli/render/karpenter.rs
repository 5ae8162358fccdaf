//! `render nodeclass` and `render nodepool`.

use anyhow::Result;

use super::super::args::ConfigArgs;
use super::super::{Context, output};
use super::script::{ScriptArgs, configuration};
use super::{maybe, value, values};
use crate::config::OnFailure;
use crate::error::Error;
use crate::node::Keys;
use crate::render::karpenter::DISCOVERY;
use crate::render::values::{ClusterName, Tag};
use crate::render::{Ami, AmiFamily, NodeClass, NodePool, yaml};

/// Print an EC2NodeClass (Karpenter v1) whose userData brings nvme-agent
///
/// With on_failure = taint unless another policy is named: under Karpenter a label alone keeps no pod away.
#[derive(Debug, clap::Args)]
pub struct NodeClassArgs {
    /// Name of the EC2NodeClass
    #[arg(long, value_name = "NAME", default_value = "local-nvme")]
    name: String,
    /// Whose subnets and security groups: those tagged karpenter.sh/discovery=NAME
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Name of the nodes' IAM role
    #[arg(long, value_name = "NAME")]
    role: String,
    /// Another tag that subnets are found by; several: all of them
    #[arg(long, value_name = "KEY=VALUE")]
    subnet_tag: Vec<String>,
    /// Another tag that security groups are found by; several: all of them
    #[arg(long, value_name = "KEY=VALUE")]
    security_group_tag: Vec<String>,
    /// Image: al2023@latest, al2023@vYYYYMMDD, or ami-... made from one of those
    #[arg(long, value_name = "AMI", default_value = "al2023@latest")]
    ami: String,
    /// Of the nodes: al2023 or al2
    #[arg(long, value_name = "FAMILY", default_value = "al2023")]
    ami_family: String,
    /// e6data's workspace: labels app and e6data-workspace-name
    #[arg(long, value_name = "NAME")]
    workspace: Option<String>,
    /// A label of the object
    #[arg(long, value_name = "KEY=VALUE")]
    object_label: Vec<String>,
    /// A tag of what is launched
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,
    /// Of the root volume, gp3
    #[arg(long, value_name = "SIZE", default_value = "100Gi")]
    volume_size: String,
    #[command(flatten)]
    script: ScriptArgs,
}

pub fn node_class(context: &Context, args: &NodeClassArgs) -> Result<()> {
    let family: AmiFamily = value("--ami-family", &args.ami_family)?;
    family
        .for_node_class()
        .map_err(|how| Error::Config(format!("--ami-family: not in an EC2NodeClass as it is: {how}")))?;
    let ami: Ami = value("--ami", &args.ami)?;
    let al2 = matches!(&ami, Ami::Alias(alias) if alias.starts_with("al2@"));
    if al2 != (family == AmiFamily::Al2) {
        return Err(Error::Config(format!(
            "--ami-family: expected that of --ami: al2 for al2@..., al2023 for others, found {family:?}"
        ))
        .into());
    }
    let cluster: Option<ClusterName> = maybe("--cluster", args.cluster.as_ref())?;
    let found_by = |option: &str, named: &[String]| -> Result<Vec<Tag>, Error> {
        match (&cluster, named) {
            (Some(cluster), []) => Ok(vec![Tag { key: DISCOVERY.into(), value: cluster.to_string() }]),
            (_, named) => values(option, named),
        }
    };
    let class = NodeClass {
        name: value("--name", &args.name)?,
        workspace: maybe("--workspace", args.workspace.as_ref())?,
        labels: values("--object-label", &args.object_label)?,
        ami,
        role: value("--role", &args.role)?,
        subnets: found_by("--subnet-tag", &args.subnet_tag)?,
        security_groups: found_by("--security-group-tag", &args.security_group_tag)?,
        tags: values("--tag", &args.tag)?,
        volume: value("--volume-size", &args.volume_size)?,
        userdata: args.script.script(context, family, OnFailure::Taint)?,
    };
    output::text(&yaml::document(&class.object()?))
}

/// Print a NodePool (Karpenter v1) of instances with local NVMe
#[derive(Debug, clap::Args)]
pub struct NodePoolArgs {
    /// Name of the NodePool
    #[arg(long, value_name = "NAME", default_value = "local-nvme")]
    name: String,
    /// Name of the EC2NodeClass
    #[arg(long, value_name = "NAME", default_value = "local-nvme")]
    node_class: String,
    /// e6data's workspace: labels app and e6data-workspace-name, and the taint of that name
    #[arg(long, value_name = "NAME")]
    workspace: Option<String>,
    /// A label of the nodes
    #[arg(long, value_name = "KEY=VALUE")]
    node_label: Vec<String>,
    /// Instance families such as i4i,m6id,i8g [default: all with local NVMe]
    #[arg(long, value_name = "FAMILIES", value_delimiter = ',')]
    family: Vec<String>,
    /// Availability zones such as eu-west-1a,eu-west-1b [default: those of the subnets]
    #[arg(long, value_name = "ZONES", value_delimiter = ',')]
    zone: Vec<String>,
    /// For which userData names a binary
    #[arg(long, value_name = "ARCHS", value_delimiter = ',', default_values = ["amd64", "arm64"])]
    arch: Vec<Architecture>,
    /// on-demand, spot, or both [default: Karpenter's, on-demand]
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    capacity_type: Vec<Capacity>,
    /// CPUs of all nodes together: bounds what a mistake costs
    #[arg(long, value_name = "N", default_value = "256", value_parser = clap::value_parser!(u32).range(1..))]
    cpu_limit: u32,
    /// A node is replaced after this time, ready or not; finite
    #[arg(long, value_name = "TIME", default_value = "168h")]
    expire_after: String,
    /// Start nodes with the taint that packaging/kubernetes/node-readiness-rule.yaml takes off
    #[arg(long)]
    startup_taint: bool,
    /// The nodes' image: userData of the EC2NodeClass decides; here only to refuse what cannot be
    #[arg(long, value_name = "FAMILY", default_value = "al2023", hide = true)]
    ami_family: String,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Architecture {
    Amd64,
    Arm64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Capacity {
    OnDemand,
    Spot,
}

pub fn node_pool(context: &Context, args: &NodePoolArgs) -> Result<()> {
    value::<AmiFamily>("--ami-family", &args.ami_family)?;
    let config = configuration(context, &args.config, OnFailure::Taint)?;
    let has = |wanted| args.arch.contains(&wanted);
    let architectures = [(Architecture::Amd64, "amd64"), (Architecture::Arm64, "arm64")];
    let capacities = [(Capacity::OnDemand, "on-demand"), (Capacity::Spot, "spot")];
    let pool = NodePool {
        name: value("--name", &args.name)?,
        node_class: value("--node-class", &args.node_class)?,
        workspace: maybe("--workspace", args.workspace.as_ref())?,
        labels: values("--node-label", &args.node_label)?,
        families: values("--family", &args.family)?,
        zones: values("--zone", &args.zone)?,
        architectures: architectures
            .into_iter()
            .filter(|(arch, _)| has(*arch))
            .map(|(_, name)| name)
            .collect(),
        capacity: capacities
            .into_iter()
            .filter(|(capacity, _)| args.capacity_type.contains(capacity))
            .map(|(_, name)| name)
            .collect(),
        cpu_limit: args.cpu_limit,
        expire_after: value("--expire-after", &args.expire_after)?,
        startup_taint: args.startup_taint,
        keys: Keys::of(&config),
        profile: config.profile,
    };
    output::text(&yaml::document(&pool.object()?))
}
