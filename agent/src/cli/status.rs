//! `nvme-agent status`: what is there now, its health, and why.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use clap::error::ErrorKind;

use super::{Context, explain, output, watch};
use crate::config::Overrides;
use crate::persist::atomic;
use crate::status::{self, OnNodePart, Report, prometheus};
use crate::terminal;

/// Print what is there now, its health, and why
///
/// Works without root, with what it may read. Changes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to print
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    /// With prometheus: write it to this file, or to nvme-agent.prom in this directory, whole and at once, for the textfile
    /// collector of node_exporter
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
    /// Metrics, in Prometheus' text format
    Prometheus,
}

/// The file's name where a directory is given. node_exporter reads what ends in `.prom`, and nothing else.
const TEXTFILE: &str = "nvme-agent.prom";

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    if args.textfile.is_some() && args.output != Format::Prometheus {
        conflict("--textfile goes with --output prometheus");
    }
    if let Some(code) = &args.explain {
        return match args.output {
            Format::Text => explain::run(code, super::Format::Text),
            Format::Json => explain::run(code, super::Format::Json),
            Format::Prometheus => {
                conflict("--explain has no metrics: it cannot be used with --output prometheus")
            }
        };
    }
    if let Some(seconds) = args.watch {
        require_terminal(args);
        return watch::watch(Duration::from_secs(seconds), || look(context, args));
    }
    let report = look(context, args);
    match (args.output, &args.textfile) {
        (Format::Text, _) => output::screen(&report)?,
        (Format::Json, _) => output::json(&report)?,
        (Format::Prometheus, None) => output::text(&prometheus::page(&report))?,
        (Format::Prometheus, Some(file)) => write(file, &prometheus::page(&report))?,
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
    // At a terminal somebody waits; for a file nobody does.
    let patience = args.textfile.as_ref().map_or(status::PATIENCE, |_| status::UNATTENDED_PATIENCE);
    let mut report = status::report(&context.root, &config, problems, patience);
    if args.node {
        report.node.on_node = Some(OnNodePart::read(&context.root, &config, &report));
    }
    report
}

fn write(file: &Path, page: &str) -> Result<()> {
    let file = if file.is_dir() { file.join(TEXTFILE) } else { file.to_path_buf() };
    Ok(atomic::publish(&file, page)?)
}

/// Nobody else can be shown one screen after the other.
fn require_terminal(args: &Args) {
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

fn conflict(message: &str) -> ! {
    super::command().error(ErrorKind::ArgumentConflict, message).exit()
}
