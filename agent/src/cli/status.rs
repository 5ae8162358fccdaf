//! `nvme-agent status`: what is there now, its health, and why.

use std::time::Duration;

use anyhow::Result;
use clap::error::ErrorKind;

use super::{Context, Format, explain, output, watch};
use crate::config::Overrides;
use crate::status::{self, OnNodePart, Report};
use crate::terminal;

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
    /// Read the Node from the API server, too: whether it says what is the case
    #[arg(long)]
    node: bool,
    /// On a terminal: look again every so many seconds (2 where none are given), until interrupted
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", conflicts_with = "explain",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    if let Some(code) = &args.explain {
        return explain::run(code, args.output);
    }
    if let Some(seconds) = args.watch {
        require_terminal(args);
        return watch::watch(Duration::from_secs(seconds), || look(context, args));
    }
    let report = look(context, args);
    match args.output {
        Format::Text => output::screen(&report)?,
        Format::Json => output::json(&report)?,
    }
    Ok(report.state.exit_code())
}

fn look(context: &Context, args: &Args) -> Report {
    // A wrong configuration is one of the things that status is asked about: it must not keep it from answering, nor
    // have it look at other drives than those that are meant.
    let (config, problems) = match context.load(&Overrides::as_set_up()) {
        Ok(config) => (config, Vec::new()),
        Err(error) => {
            let salvaged = context.salvage(&Overrides::as_set_up());
            (salvaged.config, vec![format!("configuration: {error}")])
        }
    };
    let mut report = status::report(&context.root, &config, problems, status::PATIENCE);
    if args.node {
        report.node.on_node = Some(OnNodePart::read(&context.root, &config, &report));
    }
    report
}

/// Nobody else can be shown one screen after the other.
fn require_terminal(args: &Args) {
    let conflict = |message: &str| super::command().error(ErrorKind::ArgumentConflict, message).exit();
    if args.output != Format::Text {
        conflict("--watch is for people: it cannot be used with --output json or prometheus");
    }
    if !terminal::takes_codes(&std::io::stdout(), |name| std::env::var_os(name)) {
        conflict(
            "--watch draws on a terminal, and stdout is none (or TERM says that it takes no escape codes); leave it out to \
             print once",
        );
    }
}
