//! A whole run: checks, what is to be tested, guests, scenarios.
//!
//! The guests are made ready while the checks run: those mostly compile, these mostly download and unpack. What fails
//! among the checks ends the run before any VM is started.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;

use super::checks::CHECKS;
use super::select::{Request, select};
use super::times::Times;
use super::{AGENT, FAILPOINTS, Scenario, agent_under_test, child, logs_root};
use crate::dist;
use crate::image::Guest;
use crate::lab::Lab;
use crate::progress::{self, Active, say, step};
use crate::snapshot::Snapshot;

#[derive(Debug, Default)]
struct Counts {
    passed: usize,
    failed: usize,
}

/// Binaries under test, for the environment of scenarios.
#[derive(Debug, Default)]
struct Binaries {
    agent: Option<PathBuf>,
    failpoints: Option<PathBuf>,
}

/// Runs what was asked for and prints. False if anything failed.
pub fn run(all: &[Scenario], request: &Request) -> Result<bool> {
    let selected = select(all, request)?;
    let mut counts = Counts::default();
    let binaries = if request.names.is_empty() { before(request, &mut counts)? } else { Some(build(false)?) };
    match binaries {
        Some(binaries) => scenarios(selected, request, &binaries, &mut counts)?,
        None => say(&format!("skip {} scenarios: first what is above", selected.len())),
    }
    say(&format!("{} passed, {} failed", counts.passed, counts.failed));
    Ok(counts.failed == 0)
}

/// Checks and preparations. None where one of them failed.
fn before(request: &Request, counts: &mut Counts) -> Result<Option<Binaries>> {
    let guests: &[Guest] = if request.full { &Guest::ALL } else { &Guest::NORMAL };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let prepared = scope.spawn(|| prepare(guests, &stop));
        let good = checks(counts);
        if !good {
            stop.store(true, Ordering::Relaxed);
        }
        let built = if good { Some(build(true)) } else { None };
        let prepared = prepared.join().unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")));
        let mut result = None;
        match built {
            Some(Ok(binaries)) => result = Some(binaries),
            Some(Err(error)) => failed(counts, "building the agent", &error),
            None => {}
        }
        if let Err(error) = prepared {
            failed(counts, "preparing the guests", &error);
            result = None;
        }
        Ok(result)
    })
}

fn checks(counts: &mut Counts) -> bool {
    for check in CHECKS {
        let started = Instant::now();
        match step(check.name, || check.run()) {
            Ok(tests) => {
                counts.passed += tests.unwrap_or(1);
                let many = tests.map(|number| format!(" ({number} tests)")).unwrap_or_default();
                verdict(true, &format!("{}{many}", check.name), started);
            }
            Err(error) => {
                verdict(false, check.name, started);
                counts.failed += 1;
                say(&format!("{error:#}"));
                return false;
            }
        }
    }
    true
}

fn failed(counts: &mut Counts, what: &str, error: &anyhow::Error) {
    counts.failed += 1;
    say(&format!("FAIL {what}: {error:#}"));
}

/// What scenarios test.
fn build(failpoints: bool) -> Result<Binaries> {
    let agent = Some(agent_under_test()?);
    let given = std::env::var_os(AGENT).is_some() || std::env::var_os(FAILPOINTS).is_some();
    let failpoints = if failpoints && !given { Some(dist::agent_with_failpoints()?) } else { None };
    Ok(Binaries { agent, failpoints })
}

fn prepare(guests: &[Guest], stop: &AtomicBool) -> Result<()> {
    let lab = Lab::open()?;
    for guest in guests {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        Snapshot::get(&lab, *guest)?;
    }
    Ok(())
}

fn scenarios(
    mut selected: Vec<Scenario>,
    request: &Request,
    binaries: &Binaries,
    counts: &mut Counts,
) -> Result<()> {
    let lab = Lab::open()?;
    if !request.names.is_empty() {
        // Here, and not in as many processes as there are jobs, of which all but one would wait.
        Snapshot::get(&lab, Guest::Trixie)?;
    }
    let mut times = Times::load(lab.cache.root());
    times.order(&mut selected);
    let environment: Vec<(&str, &OsStr)> = [(AGENT, &binaries.agent), (FAILPOINTS, &binaries.failpoints)]
        .into_iter()
        .filter_map(|(name, path)| Some((name, path.as_deref()?.as_os_str())))
        .collect();
    let (next, shared) = (AtomicUsize::new(0), Mutex::new((counts, &mut times)));
    std::thread::scope(|scope| {
        for _ in 0..request.jobs.clamp(1, selected.len().max(1)) {
            scope.spawn(|| {
                while let Some(scenario) = selected.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let active = Active::new(scenario.name);
                    let result = child::run(scenario, request.limit, &environment);
                    drop(active);
                    let mut shared = shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    verdict(result.is_ok(), scenario.name, started);
                    match result {
                        Ok(()) => {
                            shared.0.passed += 1;
                            shared.1.record(scenario.name, started.elapsed().as_secs_f64());
                        }
                        Err(error) => {
                            shared.0.failed += 1;
                            explain(&error, &logs_root().join(scenario.name));
                        }
                    }
                    let done = shared.0.passed + shared.0.failed;
                    progress::overall(format!("{done} done, {} failed", shared.0.failed));
                }
            });
        }
    });
    times.store();
    Ok(())
}

fn verdict(ok: bool, name: &str, started: Instant) {
    let verdict = if ok { "ok  " } else { "FAIL" };
    say(&format!("{verdict} {name:<44} {:>6.1} s", started.elapsed().as_secs_f64()));
}

fn explain(error: &anyhow::Error, logs: &Path) {
    say(&format!("     {}", format!("{error:#}").replace('\n', "\n     ")));
    say(&format!("     logs: {}", logs.display()));
}
