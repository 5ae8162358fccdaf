//! `nvme-agent install`.
use super::Context;
use crate::error::Result;

/// Install the binary, its units and its udev rule, and enable them for every boot
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write everything but do not enable the service
    #[arg(long)]
    no_enable: bool,
}

pub fn run(_context: &Context, _args: &Args) -> Result<u8> {
    Ok(0)
}
