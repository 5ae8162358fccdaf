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
    // Where it is wrong, the setup of this boot has failed by it: what it says of the policy all the same is followed.
    let (config, wrong) = match context.load(&Overrides::as_set_up()) {
        Ok(config) => (config, None),
        Err(error) => {
            let salvaged = context.salvage(&Overrides::as_set_up());
            (node::policy::in_doubt_as_shown(&context.root, salvaged), Some(error))
        }
    };
    let verdict = node::gate::gate(&context.root, &config);
    match (verdict.join, wrong) {
        (true, None) => {}
        (true, Some(error)) => tracing::warn!("{error}"),
        (false, None) => return Err(Error::Other(verdict.line).into()),
        (false, Some(error)) => return Err(Error::Config(format!("{}; {error}", verdict.line)).into()),
    }
    context.tell(std::slice::from_ref(&verdict.line), &format!("{}\n", verdict.line))?;
    Ok(0)
}
