//! `nvme-agent install`: the binary and its units, for every boot.

use std::path::PathBuf;

use anyhow::Result;

use super::Context;
use crate::config::Overrides;
use crate::{apply, install};

/// Install the binary, its units and its udev rule, and enable them for every boot
///
/// The running binary is copied to /usr/local/bin. Where an rpm or deb of nvme-agent is installed its files stay
/// in force. With --root it works on an image that is being built. Does not start anything: `setup` does the job
/// now, the unit does it from the next boot on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write everything but do not enable the service
    #[arg(long)]
    no_enable: bool,
}

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    context.require_root("install")?;
    // A wrong configuration is better found while an image is built than when a node boots.
    let config = context.load(&Overrides::default())?;
    let options = install::Options {
        config,
        enable: !args.no_enable,
        // Not current_exe(): this one opens even where the file has been replaced meanwhile.
        binary: PathBuf::from("/proc/self/exe"),
    };
    let mut done = install::install(&context.root, &options)?;
    if !done.is_empty()
        && let Err(error) = apply::systemd::reload(&context.root)
    {
        // The next boot reads everything anyway.
        done.push(format!("note: {error}"));
    }
    if done.is_empty() {
        done.push("nothing to do: everything is in place".into());
    }
    let text: String = done.iter().map(|line| format!("{line}\n")).collect();
    context.tell(&done, &text)?;
    Ok(0)
}
