//! Runs scenarios: two at a time, one line each, logs kept, a summary on the last line.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::debian::run;
use crate::image::Guest;
use crate::lab::Lab;
use crate::progress::step;
use crate::snapshot::Snapshot;
use crate::vm::Vm;

/// When a scenario runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Always.
    Normal,
    /// With `--full`, or when it is named.
    Full,
}

/// A scenario of the registry ([`crate::scenarios`]).
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Kebab case, topic first: `reboot-other-order`.
    pub name: &'static str,
    /// When it runs.
    pub tier: Tier,
    /// The proof.
    pub run: fn(&Ctx) -> Result<()>,
}

/// What a scenario gets.
#[derive(Debug)]
pub struct Ctx<'lab> {
    /// Cache, QEMU.
    pub lab: &'lab Lab,
    /// Where this scenario's logs go.
    pub logs: PathBuf,
    failed: Mutex<Vec<String>>,
}

impl Ctx<'_> {
    /// Restores a guest, puts the agent at `/usr/bin/nvme-agent`, and hands it over. When `proof` fails or panics, journal and
    /// state of the guest are kept before it ends.
    pub fn vm(&self, guest: Guest, proof: impl FnOnce(&mut Vm) -> Result<()>) -> Result<()> {
        self.vm_logged(guest, &self.logs, proof)
    }

    /// One of many cases, each in a fresh VM (they cost a second). A failure is noted and the next case runs; the scenario
    /// fails at its end.
    pub fn case(&self, label: &str, guest: Guest, proof: impl FnOnce(&mut Vm) -> Result<()>) {
        let directory: String =
            label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        if let Err(error) = self.vm_logged(guest, &self.logs.join(directory), proof) {
            self.note_failure(format!("{label}: {error:#}"));
        }
    }

    /// Notes a failure without ending the scenario.
    pub fn note_failure(&self, text: String) {
        self.failed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(text);
    }

    fn vm_logged(&self, guest: Guest, logs: &Path, proof: impl FnOnce(&mut Vm) -> Result<()>) -> Result<()> {
        let mut vm = Vm::restore(self.lab, guest, logs)?;
        if let Some(agent) = agent_binary() {
            vm.push(&agent, "/usr/bin/nvme-agent")?;
        }
        let result = catch_unwind(AssertUnwindSafe(|| proof(&mut vm)))
            .unwrap_or_else(|panic| Err(from_panic(&*panic)));
        if result.is_err() {
            vm.autopsy();
        }
        result
    }
}

/// The shipped binary, if it has been built (`cargo lab dist`). `NVME_LAB_AGENT` names another.
pub fn agent_binary() -> Option<PathBuf> {
    let path = match std::env::var_os("NVME_LAB_AGENT") {
        Some(path) => PathBuf::from(path),
        None => workspace().join("target/dist/nvme-agent-x86_64"),
    };
    path.exists().then_some(path)
}

/// The same with failpoints compiled in.
pub fn failpoints_binary() -> Result<PathBuf> {
    let path = workspace().join("target/dist/nvme-agent-x86_64-failpoints");
    if path.exists() { Ok(path) } else { bail!("{} is missing: cargo lab dist makes it", path.display()) }
}

/// The root of the checkout.
pub fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// The cargo that built this, in the checkout.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

fn from_panic(panic: &(dyn Any + Send)) -> anyhow::Error {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    anyhow!("{}", text.unwrap_or("panicked"))
}

/// What `cargo lab test` was asked for.
#[derive(Debug, Default)]
pub struct Request {
    /// Names, or beginnings of names; none: everything, after format, clippy and unit tests.
    pub names: Vec<String>,
    /// The longer tier too.
    pub full: bool,
    /// Scenarios at a time.
    pub jobs: usize,
}

/// The scenarios that a request means.
pub fn select(all: &[Scenario], request: &Request) -> Result<Vec<Scenario>> {
    if let Some(name) =
        request.names.iter().find(|name| !all.iter().any(|scenario| scenario.name.starts_with(name.as_str())))
    {
        bail!("no scenario is called {name} or starts so; cargo lab test --list shows them");
    }
    let exact = |scenario: &Scenario| request.names.iter().any(|name| name == scenario.name);
    let begun =
        |scenario: &Scenario| request.names.iter().any(|name| scenario.name.starts_with(name.as_str()));
    let due = |scenario: &Scenario| scenario.tier == Tier::Normal || request.full;
    Ok(all
        .iter()
        .filter(|scenario| {
            if request.names.is_empty() {
                due(scenario)
            } else {
                exact(scenario) || begun(scenario) && due(scenario)
            }
        })
        .copied()
        .collect())
}

/// Runs them and prints. False if anything failed.
pub fn run_all(all: &[Scenario], request: &Request) -> Result<bool> {
    let selected = select(all, request)?;
    let (mut passed, mut failed) = (0, 0);
    if request.names.is_empty() {
        for (name, arguments) in CHECKS {
            let started = Instant::now();
            let result = step(name, || run(cargo().args(*arguments)));
            let ok = result.is_ok();
            if ok {
                passed += 1
            } else {
                failed += 1
            }
            println!("{} {:<44} {:>6.1} s", verdict(ok), name, started.elapsed().as_secs_f64());
            if let Err(error) = result {
                println!("{error:#}");
            }
        }
    }
    let lab = Lab::open()?;
    Snapshot::get(&lab, Guest::Trixie)?;
    if agent_binary().is_none() {
        println!("note: no agent binary in target/dist: cargo lab dist makes it");
    }
    let logs = workspace().join("target/lab/logs");
    let (next, results) = (AtomicUsize::new(0), Mutex::new((0, 0)));
    std::thread::scope(|scope| {
        for _ in 0..request.jobs.clamp(1, selected.len().max(1)) {
            scope.spawn(|| {
                while let Some(scenario) = selected.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let result = run_one(&lab, scenario, &logs.join(scenario.name));
                    let mut counts = results.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    println!(
                        "{} {:<44} {:>6.1} s",
                        verdict(result.is_ok()),
                        scenario.name,
                        started.elapsed().as_secs_f64()
                    );
                    match result {
                        Ok(()) => counts.0 += 1,
                        Err(error) => {
                            counts.1 += 1;
                            println!("     {}", format!("{error:#}").replace('\n', "\n     "));
                            println!("     logs: {}", logs.join(scenario.name).display());
                        }
                    }
                }
            });
        }
    });
    let counts = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    passed += counts.0;
    failed += counts.1;
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

const CHECKS: &[(&str, &[&str])] = &[
    ("cargo fmt --check", &["fmt", "--check"]),
    ("cargo clippy", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ("cargo test", &["test", "--quiet", "--workspace"]),
];

fn verdict(ok: bool) -> &'static str {
    if ok { "ok  " } else { "FAIL" }
}

fn run_one(lab: &Lab, scenario: &Scenario, logs: &Path) -> Result<()> {
    // Logs of the last run only: whoever looks after a failure must not find an older one's.
    let _ = std::fs::remove_dir_all(logs);
    std::fs::create_dir_all(logs).with_context(|| format!("create {}", logs.display()))?;
    let ctx = Ctx { lab, logs: logs.to_owned(), failed: Mutex::default() };
    let result = catch_unwind(AssertUnwindSafe(|| (scenario.run)(&ctx)))
        .unwrap_or_else(|panic| Err(from_panic(&*panic)));
    let failed = ctx.failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    match result {
        Err(error) => Err(error),
        Ok(()) if failed.is_empty() => Ok(()),
        Ok(()) => bail!("{} cases failed:\n{}", failed.len(), failed.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection() {
        let scenario = |name, tier| Scenario { name, tier, run: |_| Ok(()) };
        let all = [
            scenario("fresh-2", Tier::Normal),
            scenario("fresh-all", Tier::Full),
            scenario("reboot", Tier::Normal),
        ];
        let names = |names: &[&str], full| {
            let request =
                Request { names: names.iter().map(|name| (*name).to_owned()).collect(), full, jobs: 1 };
            select(&all, &request).map(|found| found.iter().map(|scenario| scenario.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[], false).unwrap(), ["fresh-2", "reboot"]);
        assert_eq!(names(&[], true).unwrap().len(), 3);
        assert_eq!(names(&["fresh"], false).unwrap(), ["fresh-2"]);
        assert_eq!(names(&["fresh-all"], false).unwrap(), ["fresh-all"]);
        assert!(names(&["nothing"], false).is_err());
    }
}
