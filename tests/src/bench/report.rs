//! `cargo lab bench report`: what ten thousand nodes ask of an API server, and whether they all get through one that
//! throttles.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nvme_agent::node::report::PATIENCE;
use nvme_agent::state::{Health, State};

use super::fleet::{Fleet, Round, state};
use super::table::{Table, seconds};
use crate::progress::{note, step};

/// Requests a second that the ill server takes.
const THROTTLE: u32 = 500;
/// The timer of the report unit: what systemd spreads the nodes over.
const TIMER: &str = include_str!("../../../systemd/nvme-agent-report.timer");

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many
    #[arg(long, default_value_t = 10_000)]
    nodes: usize,
}

/// Measures, and prints the table. False where a limit was missed.
pub fn run(args: &Args) -> Result<bool> {
    let started = Instant::now();
    more_files()?;
    let spread = random_delay()?;
    let mut table = Table::default();
    let fleet = step(&format!("Making {} nodes", args.nodes), || Fleet::new(args.nodes.max(1)))?;

    // As userData leaves it for kubelet before setup has run.
    let failed = state(Health::Failed, "SettingUp", "setup has not ended yet");
    let round = step("Registration", || fleet.register(&failed))?;
    costs(&mut table, "registration", &round, (0, 0));

    let ready = state(Health::Ready, "SetupComplete", "/tmp is /dev/nvme1n1 (ext4)");
    let round = reports(&fleet, "A change", || fleet.tick(&ready))?;
    costs(&mut table, "a change", &round, (3, 1));
    succeeded(&mut table, "a change", &fleet, &round);
    said(&mut table, "a change", &fleet, &ready);

    let round = reports(&fleet, "A tick without a change", || fleet.tick(&ready))?;
    costs(&mut table, "an unchanged tick", &round, (0, 0));
    succeeded(&mut table, "an unchanged tick", &fleet, &round);

    fleet.server.faults().throttle(THROTTLE);
    let lost = state(Health::Failed, "DriveLost", "nvme1 (AWS0006638E38E390087) is gone");
    let what = format!("a change, {THROTTLE} requests/s");
    let round = reports(&fleet, &what, || fleet.report(&lost, spread))?;
    let most = f64::from(round.most_requests);
    let measured = format!("{} in all, in {}", round.requests, seconds(round.wall));
    table.at_most(&format!("{what}: requests that are not refused"), measured, most, (3.0, "a node"));
    succeeded(&mut table, &what, &fleet, &round);
    said(&mut table, &what, &fleet, &lost);
    let p99 = percentile(&round.times, 0.99);
    let measured = format!(
        "median {}, longest {}",
        seconds(percentile(&round.times, 0.5)),
        seconds(percentile(&round.times, 1.0))
    );
    table.at_most(&format!("{what}: p99"), measured, p99.as_secs_f64(), (PATIENCE.as_secs_f64(), "s"));
    let measured = format!("{} of {}", round.throttled, round.throttled + round.requests);
    table.note(&format!("{what}: refused with 429"), measured);
    table.note(&format!("{what}: busiest second"), format!("{} requests", round.busiest_second));
    let events = fleet.server.store().events().len();
    table.note("Events", format!("{events} of {}", 2 * fleet.count()));

    println!("{} nodes, in the throttled round begun within {} s", fleet.count(), spread.as_secs());
    println!("{}", super::host());
    println!("{}", table.render());
    println!("{:.0} s in all; {}", started.elapsed().as_secs_f64(), table.verdict());
    Ok(table.missed() == 0)
}

/// A report of every node, as a step.
fn reports(fleet: &Fleet, what: &str, work: impl FnOnce() -> Round) -> Result<Round> {
    let round = step(&format!("{what} of {} nodes", fleet.count()), || Ok(work()))?;
    for problem in round.failed.iter().take(3) {
        note(&format!("    {problem}"));
    }
    Ok(round)
}

/// Requests and credential processes of the node that had most of them.
fn costs(table: &mut Table, what: &str, round: &Round, limit: (u32, u32)) {
    let measured = format!("{} in all, in {}", round.requests, seconds(round.wall));
    let most = f64::from(round.most_requests);
    table.at_most(&format!("{what}: requests"), measured, most, (f64::from(limit.0), "a node"));
    let measured = format!("{} in all", round.processes);
    let most = f64::from(round.most_processes);
    table.at_most(&format!("{what}: credential processes"), measured, most, (f64::from(limit.1), "a node"));
}

fn succeeded(table: &mut Table, what: &str, fleet: &Fleet, round: &Round) {
    let measured = format!("{} of {} succeeded", round.times.len(), fleet.count());
    table.at_most(&format!("{what}: failures"), measured, round.failed.len() as f64, (0.0, "nodes"));
}

fn said(table: &mut Table, what: &str, fleet: &Fleet, state: &State) {
    let wrong = fleet.wrong(state);
    for problem in wrong.iter().take(3) {
        note(&format!("    {problem}"));
    }
    let measured = format!("{} of {} as they should be", fleet.count() - wrong.len(), fleet.count());
    table.at_most(&format!("{what}: wrong Nodes"), measured, wrong.len() as f64, (0.0, "nodes"));
}

/// Of times in order.
fn percentile(times: &[Duration], part: f64) -> Duration {
    let index = (times.len() as f64 * part).ceil() as usize;
    times.get(index.clamp(1, times.len().max(1)) - 1).copied().unwrap_or_default()
}

/// What the timer unit spreads the nodes over.
fn random_delay() -> Result<Duration> {
    let value = TIMER.lines().find_map(|line| line.strip_prefix("RandomizedDelaySec="));
    let value = value.context("nvme-agent-report.timer has no RandomizedDelaySec")?;
    nvme_agent::config::parse_duration(value)
        .map_err(|problem| anyhow::anyhow!("RandomizedDelaySec: {problem}"))
}

/// Each node has a connection with two ends here: as many descriptors as this process may have.
fn more_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("ask for the limit of descriptors")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raise the limit of descriptors")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_secs).collect();
        let of = |part| percentile(&times, part).as_secs();
        assert_eq!((of(0.0), of(0.5), of(0.99), of(1.0)), (1, 100, 198, 200));
        assert_eq!(percentile(&[], 0.99), Duration::ZERO);
    }

    #[test]
    fn the_timer_has_a_random_delay() {
        assert!(random_delay().unwrap() >= Duration::from_secs(10));
    }

    #[test]
    fn some_nodes_cost_what_many_may_cost() {
        let mut fleet = Fleet::new(5).unwrap();
        let mut table = Table::default();
        let failed = state(Health::Failed, "SettingUp", "setup has not ended yet");
        let ready = state(Health::Ready, "SetupComplete", "-");
        costs(&mut table, "registration", &fleet.register(&failed).unwrap(), (0, 0));
        costs(&mut table, "change", &fleet.tick(&ready), (3, 1));
        let tick = fleet.tick(&ready);
        costs(&mut table, "tick", &tick, (0, 0));
        succeeded(&mut table, "tick", &fleet, &tick);
        said(&mut table, "tick", &fleet, &ready);
        assert_eq!(table.missed(), 0, "{}", table.render());
        assert_eq!(fleet.wrong(&failed).len(), 5);
        // And a limit that is broken is seen.
        fleet.server.faults().throttle(0);
        fleet.set_patience(Duration::from_secs(1));
        let round = fleet.report(&state(Health::Failed, "DriveLost", "-"), Duration::ZERO);
        succeeded(&mut table, "change", &fleet, &round);
        assert_eq!((table.missed(), round.failed.len()), (1, 5));
    }
}
