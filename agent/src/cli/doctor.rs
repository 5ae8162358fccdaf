//! `nvme-agent doctor`: what will go wrong, before it does.

use std::path::PathBuf;

use anyhow::Result;

use super::{Context, Format, output};
use crate::config::Overrides;
use crate::doctor::{self, Options};
use crate::node::policy;

/// Check this machine, or an image, for what will keep setup or the label from working
///
/// Changes nothing, and reads no drive. Asks the API server for a dry run of what `report` would write, where this is a
/// Kubernetes node. With --root: an image that is being built; what is about a running machine is unknown then.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    /// Ask no API server
    #[arg(long, conflicts_with_all = ["kubeconfig", "node_name"])]
    offline: bool,
    /// How to reach the API server [default: /var/lib/kubelet/kubeconfig]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The Node's name [default: kubelet's --hostname-override]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
}

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    // A wrong configuration is one of the things that it is there to find.
    let (config, wrong) = match context.load(&Overrides::as_set_up()) {
        Ok(config) => (config, None),
        Err(error) => {
            let salvaged = context.salvage(&Overrides::as_set_up());
            (policy::in_doubt_as_shown(&context.root, salvaged), Some(error.to_string()))
        }
    };
    let options = Options {
        config: &config,
        wrong,
        offline: args.offline,
        kubeconfig: args.kubeconfig.as_deref(),
        node_name: args.node_name.as_deref(),
    };
    let report = doctor::examine(&context.root, &options);
    match args.output {
        Format::Text => output::text(&report.to_string())?,
        Format::Json => output::json(&report)?,
    }
    Ok(report.verdict.exit_code())
}
