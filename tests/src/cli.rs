//! `cargo lab …`

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::cache::Cache;
use crate::drive::{GIB, MIB, TIB};
use crate::image::Guest;
use crate::runner::select::Request;
use crate::runner::{self, child};
use crate::scenarios;
use crate::{bench, demo, dist, shell};

#[derive(Debug, Parser)]
#[command(name = "cargo lab", about = "Boots real VMs with real NVMe and md, and proves nvme-agent in them")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Format, clippy, unit tests and VM scenarios; with names only those scenarios
    Test {
        /// Scenarios, or how their names begin
        names: Vec<String>,
        /// The longer tier too
        #[arg(long)]
        full: bool,
        /// Say which there are
        #[arg(long)]
        list: bool,
        /// Scenarios at a time
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// End a scenario that takes longer than so many minutes (10; 45 of the longer tier)
        #[arg(long)]
        limit: Option<u64>,
    },
    /// One scenario, in this process: what `test` starts
    #[command(hide = true)]
    Scenario {
        name: String,
        /// Seconds
        #[arg(long)]
        limit: u64,
    },
    /// Build what ships into target/dist: static binaries, manual pages, completions
    Dist(dist::Args),
    /// The main job in a VM: fresh instance, reboot, stop and start, each checked
    Demo(demo::Args),
    /// What setup costs: against the same system calls without checks, the old script, and limits of its own
    Bench(bench::Args),
    /// A prompt in a fresh VM, or a script from standard input
    Shell {
        /// Instance-store drives
        #[arg(long, default_value_t = 2)]
        drives: usize,
        /// Size of each: 4G, 1T
        #[arg(long, default_value = "4G", value_parser = size)]
        size: u64,
        /// Which guest: trixie, bookworm, bookworm-6.1, trixie-newest, trixie-cloud-init
        #[arg(long, default_value = "trixie", value_parser = guest)]
        guest: Guest,
    },
    /// Empty the cache of images and saved machines
    Clean {
        /// Only what was not used for this many days
        #[arg(long)]
        unused_days: Option<u64>,
    },
}

/// Runs what the command line asks for. False where tests failed.
pub fn main() -> Result<bool> {
    match Arguments::parse().command {
        Task::Test { list: true, .. } => {
            for scenario in scenarios::all() {
                println!("{:<44} {:?}", scenario.name, scenario.tier);
            }
            Ok(true)
        }
        Task::Test { names, full, jobs, limit, .. } => {
            let limit = limit.map(|minutes| Duration::from_secs(minutes * 60));
            runner::all::run(&scenarios::all(), &Request { names, full, jobs, limit })
        }
        Task::Scenario { name, limit } => {
            let all = scenarios::all();
            let scenario = all.iter().find(|scenario| scenario.name == name);
            let scenario = scenario.with_context(|| format!("no scenario is called {name}"))?;
            child::main(scenario, Duration::from_secs(limit))
        }
        Task::Dist(args) => dist::run(&args, nvme_agent::cli::command()).map(|()| true),
        Task::Demo(args) => demo::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Shell { drives, size, guest } => shell::run(guest, drives, size),
        Task::Clean { unused_days } => {
            let cache = Cache::open()?;
            let freed = cache.clean(unused_days.map(|days| Duration::from_secs(days * 86_400)))?;
            println!("{} MiB freed in {}", freed / MIB, cache.root().display());
            Ok(true)
        }
    }
}

fn guest(text: &str) -> Result<Guest> {
    Guest::ALL
        .into_iter()
        .find(|guest| guest.name() == text)
        .with_context(|| format!("no guest is called {text}"))
}

fn size(text: &str) -> Result<u64> {
    let (number, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
    let unit = match unit {
        "M" => MIB,
        "G" => GIB,
        "T" => TIB,
        other => bail!("size {text}: the unit is M, G or T, not {other:?}"),
    };
    Ok(number.parse::<u64>().with_context(|| format!("size {text}"))? * unit)
}
