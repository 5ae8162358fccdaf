//! `nvme-agent status`.
use super::{Context, Format};
use crate::error::Result;

/// Print what is there now, its health, and why
///
/// Works without root, with what it may read. Changes nothing and starts no other program.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

pub fn run(_context: &Context, _args: &Args) -> Result<u8> {
    Ok(12)
}
