//! `nvme-agent status`: what is there now, its health, and why.

use anyhow::Result;

use super::{Context, Format, explain, output};
use crate::config::Overrides;
use crate::status;

/// Print what is there now, its health, and why
///
/// Works without root, with what it may read. Changes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    /// Say what a reason code means, what to do about it and how to look further; without CODE, list them all
    #[arg(long, value_name = "CODE", num_args = 0..=1, default_missing_value = "")]
    explain: Option<String>,
}

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    if let Some(code) = &args.explain {
        return explain::run(code, args.output);
    }
    // A wrong configuration is one of the things that status is asked about: it must not keep it from answering, nor
    // have it look at other drives than those that are meant.
    let (config, problems) = match context.load(&Overrides::as_set_up()) {
        Ok(config) => (config, Vec::new()),
        Err(error) => {
            let salvaged = context.salvage(&Overrides::as_set_up());
            (salvaged.config, vec![format!("configuration: {error}")])
        }
    };
    let report = status::report(&context.root, &config, problems, status::PATIENCE);
    match args.output {
        Format::Text => output::text(&report.to_string())?,
        Format::Json => output::json(&report)?,
    }
    Ok(report.state.exit_code())
}
