//! `render launch-template`.

use anyhow::Result;

use super::super::{Context, output};
use super::script::ScriptArgs;
use super::{maybe, value, values};
use crate::config::OnFailure;
use crate::error::Error;
use crate::render::launch_template::{Cluster, data, mime};
use crate::render::values::{Gib, Sysctl, Tag};
use crate::render::{Ami, AmiFamily};

/// Print userData for an EKS managed node group: MIME multipart, as its launch template wants it
///
/// EKS adds what makes the node join, unless the launch template names an image (--ami ami-...): then --cluster,
/// --api-server, --certificate-authority and --service-cidr say it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// userData as it is, or what `aws ec2 create-launch-template --launch-template-data` takes
    #[arg(long, value_name = "FORMAT", default_value = "mime")]
    output: Form,
    /// An image of your own, made from one of EKS's for AL2023
    #[arg(long, value_name = "AMI", requires_all = ["cluster", "api_server", "certificate_authority", "service_cidr"])]
    ami: Option<String>,
    /// Name of the cluster
    #[arg(long, value_name = "NAME", requires = "ami")]
    cluster: Option<String>,
    /// Its API server
    #[arg(long, value_name = "URL", requires = "ami")]
    api_server: Option<String>,
    /// Its certificate authority
    #[arg(long, value_name = "BASE64", requires = "ami")]
    certificate_authority: Option<String>,
    /// The addresses of its services
    #[arg(long, value_name = "CIDR", requires = "ami")]
    service_cidr: Option<String>,
    /// A kernel setting, such as fs.aio-max-nr=8388608 for Starburst Warp Speed
    #[arg(long, value_name = "KEY=VALUE")]
    sysctl: Vec<String>,
    /// Of the root volume, gp3; with --output json
    #[arg(long, value_name = "SIZE", default_value = "100Gi")]
    volume_size: String,
    /// A tag of instances and volumes; with --output json
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,
    /// Of the nodes: al2023 or al2
    #[arg(long, value_name = "FAMILY", default_value = "al2023")]
    ami_family: String,
    #[command(flatten)]
    script: ScriptArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Mime,
    Json,
}

pub fn run(context: &Context, args: &Args) -> Result<()> {
    let wrong = |text: &str| Error::Config(text.to_owned());
    let family: AmiFamily = value("--ami-family", &args.ami_family)?;
    let ami: Option<Ami> = maybe("--ami", args.ami.as_ref())?;
    if matches!(family, AmiFamily::Ubuntu | AmiFamily::Custom) {
        return Err(wrong(
            "--ami-family: a managed node group with such an image takes userData as it is: put what `nvme-agent render \
             userdata` prints first into a MIME multipart, and then the part that makes the node join (/etc/eks/bootstrap.sh)",
        )
        .into());
    }
    let image = match &ami {
        Some(Ami::Id(_)) if family == AmiFamily::Al2 => {
            return Err(wrong("--ami: with an AL2 image of your own the part that runs /etc/eks/bootstrap.sh is yours to add").into());
        }
        Some(Ami::Id(id)) => Some(id.as_str()),
        Some(Ami::Alias(_)) => {
            return Err(wrong(
                "--ami: expected ami-...; without it the node group chooses the image by its AMI type",
            )
            .into());
        }
        None => None,
    };
    let cluster = match (&args.cluster, &args.api_server, &args.certificate_authority, &args.service_cidr) {
        (Some(name), Some(api_server), Some(authority), Some(cidr)) => Some(Cluster {
            name: value("--cluster", name)?,
            api_server: value("--api-server", api_server)?,
            certificate_authority: value("--certificate-authority", authority)?,
            cidr: value("--service-cidr", cidr)?,
        }),
        _ => None,
    };
    let sysctls: Vec<Sysctl> = values("--sysctl", &args.sysctl)?;
    let (volume, tags): (Gib, Vec<Tag>) =
        (value("--volume-size", &args.volume_size)?, values("--tag", &args.tag)?);
    let userdata = mime(&args.script.script(context, family, OnFailure::Label)?, &sysctls, cluster.as_ref())?;
    match args.output {
        Form::Mime => output::text(&userdata),
        Form::Json => output::json(&data(&userdata, volume, image, &tags)),
    }
}
