//! `nvme-agent gate`: may this node join?

use anyhow::Result;

use super::Context;
use crate::config::Overrides;
use crate::error::Error;
use crate::node;

/// Succeed where the node may join, for ExecStartPre= of the unit that joins it
///
/// Judges what setup came to in this boot: ready, degraded and absent pass. A failure passes or not by on_failure, and
/// by on_boot_failure where the node has joined before. Brings the label that the Node registers with up to date.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(context: &Context, _: &Args) -> Result<u8> {
    context.require_host("gate");
    context.require_root("gate")?;
    let config = context.load(&Overrides::default())?;
    let verdict = node::gate::gate(&context.root, &config);
    if !verdict.join {
        return Err(Error::Other(verdict.line).into());
    }
    context.tell(std::slice::from_ref(&verdict.line), &format!("{}\n", verdict.line))?;
    Ok(0)
}
