//! `nvme-agent gate`: may this node join?

use anyhow::Result;

use super::Context;
use crate::config::Overrides;
use crate::error::Error;
use crate::node;

/// Succeed where the node may join, for ExecStartPre= of the unit that joins it
///
/// Judges what setup came to in this boot: ready, degraded and absent pass. A failure passes or not by on_failure, and
/// by on_boot_failure where the node has joined before; one that is to be tainted and cannot be does not. Brings the label that the Node registers with up to date.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(context: &Context, _: &Args) -> Result<u8> {
    context.require_host("gate");
    context.require_root("gate")?;
    let (config, undecided) = match context.load(&Overrides::default()) {
        Ok(config) => (config, None),
        // The setup of this boot has failed by it. A policy that is written there all the same is followed; what cannot be
        // read may have been `no-join`.
        Err(error) => {
            let salvaged = context.salvage(&Overrides::default());
            let policy = |key: &String| key == "on_failure" || key == "on_boot_failure";
            let undecided = salvaged.unread || salvaged.wrong.iter().any(policy);
            (salvaged.config, undecided.then_some(error))
        }
    };
    let verdict = node::gate::gate(&context.root, &config);
    if let Some(error) = undecided {
        return Err(error.into());
    }
    if !verdict.join {
        return Err(Error::Other(verdict.line).into());
    }
    context.tell(std::slice::from_ref(&verdict.line), &format!("{}\n", verdict.line))?;
    Ok(0)
}
