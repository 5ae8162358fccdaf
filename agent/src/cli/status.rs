//! `nvme-agent status`: what is there now, its health, and why.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{CommandFactory, ValueEnum, error::ErrorKind};

use super::{Cli, Context, output};
use crate::config::Overrides;
use crate::persist::atomic;
use crate::status::{self, prometheus};

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
        let message = "--textfile goes with --output prometheus";
        Cli::command().error(ErrorKind::ArgumentConflict, message).exit()
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
    // At a terminal somebody waits; for a file nobody does.
    let patience = args.textfile.as_ref().map_or(status::PATIENCE, |_| status::UNATTENDED_PATIENCE);
    let report = status::report(&context.root, &config, problems, patience);
    match args.output {
        Format::Text => output::text(&report.to_string())?,
        Format::Json => output::json(&report)?,
        Format::Prometheus => match &args.textfile {
            Some(file) => write(file, &prometheus::page(&report))?,
            None => output::text(&prometheus::page(&report))?,
        },
    }
    Ok(report.state.exit_code())
}

fn write(file: &Path, page: &str) -> Result<()> {
    let file = if file.is_dir() { file.join(TEXTFILE) } else { file.to_path_buf() };
    Ok(atomic::publish(&file, page)?)
}
