//! `nvme-agent render`: what brings the agent to nodes, printed.

mod karpenter;
mod launch_template;
mod script;

use anyhow::Result;

use super::Context;

/// Print userData, Karpenter's objects or a launch template that bring nvme-agent to nodes
///
/// Reads no file of this machine but the one that --config names, and needs no root. Whatever is printed was checked: no
/// value reaches a root shell on a node that could be taken for anything but a value.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Userdata(script::Args),
    Nodeclass(karpenter::NodeClassArgs),
    Nodepool(karpenter::NodePoolArgs),
    LaunchTemplate(launch_template::Args),
}

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    match &args.what {
        What::Userdata(args) => script::run(context, args),
        What::Nodeclass(args) => karpenter::node_class(context, args),
        What::Nodepool(args) => karpenter::node_pool(context, args),
        What::LaunchTemplate(args) => launch_template::run(context, args),
    }?;
    Ok(0)
}
