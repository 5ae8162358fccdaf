//! `nvme-agent teardown`: takes back what setup made.

use anyhow::Result;

use super::{Context, output};
use crate::config::Overrides;

/// Unmount, stop the array, wipe what is ours, take our lines out; DESTROYS the filesystem's data
///
/// Refuses, and names them, where processes or services use the mount. Without --yes it says what it would do, and
/// exits with 1. nvme-agent.service stays: where it is enabled, the next boot sets up anew.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Yes, the data on the filesystem may go
    #[arg(long)]
    yes: bool,
    /// Not now but at the next boot, where the mount is in use. A setup before that calls it off
    #[arg(long)]
    at_next_boot: bool,
    /// Directory that the filesystem is mounted on [default: as configured, and as on record]
    #[arg(long, value_name = "DIR")]
    target: Option<String>,
}

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    context.require_host("teardown");
    context.require_root("teardown")?;
    let values = args.target.iter().map(|target| ("target", target.clone())).collect();
    let config = context.load(&Overrides { values, ..Overrides::default() })?;
    if !args.yes {
        let would = crate::teardown::preview(&context.root, &config)?;
        let list: String = would.iter().map(|line| format!("  {line}\n")).collect();
        output::text(&match would.is_empty() {
            true => "There is nothing of nvme-agent's to take back.\n".to_owned(),
            false => format!("Nothing was changed. With --yes this happens:\n{list}"),
        })?;
        return Ok(u8::from(!would.is_empty()));
    }
    let done = crate::teardown::run(&context.root, &config, args.at_next_boot)?;
    let list: String = done.iter().map(|line| format!("{line}\n")).collect();
    context.tell(
        &done,
        if done.is_empty() { "There is nothing of nvme-agent's to take back.\n" } else { &list },
    )?;
    Ok(0)
}
