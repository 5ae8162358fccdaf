//! `nvme-agent teardown`: takes back what setup made.

use super::Context;
use crate::config::Overrides;
use crate::error::Result;

/// Unmount, stop the array, wipe what is ours, take our lines out; DESTROYS the filesystem's data
///
/// Refuses, and names them, where processes or services use the mount.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Yes, the data on the filesystem may go
    #[arg(long, required = true)]
    yes: bool,
    /// Not now but at the next boot, where the mount is in use
    #[arg(long)]
    at_next_boot: bool,
    /// Directory that the filesystem is mounted on [default: as configured]
    #[arg(long, value_name = "DIR")]
    target: Option<String>,
}

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    context.require_host("teardown");
    context.require_root("teardown")?;
    let values = args.target.iter().map(|target| ("target", target.clone())).collect();
    let config = context.load(&Overrides { values, ..Overrides::default() })?;
    let done = crate::teardown::run(&context.root, &config, args.at_next_boot)?;
    let text: String = done.iter().map(|line| format!("{line}\n")).collect();
    context.tell(&done, &text)?;
    Ok(0)
}
