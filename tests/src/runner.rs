//! What a scenario is and what it gets; [`all`] runs them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::dist::target::Arch;
use crate::dist::{self, Build};
use crate::image::Guest;
use crate::lab::Lab;
use crate::progress::say;
use crate::snapshot::Snapshot;
use crate::status;
use crate::vm::Vm;

pub mod all;
pub mod checks;
pub mod child;
pub mod select;
pub mod times;
pub mod watchdog;

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
    /// state of the guest are kept before it ends. At the end `status --output json` must be valid by its schema, whatever
    /// has become of the machine: see [`status`].
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
        watchdog::exempt(|| Snapshot::get(self.lab, guest))?;
        let mut vm = Vm::restore(self.lab, guest, logs)?;
        if let Some(agent) = agent_binary() {
            vm.push(&agent, "/usr/bin/nvme-agent")?;
        }
        let result = catch_unwind(AssertUnwindSafe(|| proof(&mut vm)))
            .unwrap_or_else(|panic| Err(from_panic(&*panic)))
            // Whatever a scenario has made of the machine, `status` says it in the words that are promised.
            .and_then(|()| status::of_what_is_left(&mut vm).context("status at the end of the scenario"));
        if result.is_err() {
            vm.autopsy();
        }
        result
    }
}

/// Names another agent than the one that ships, for quick rounds; nothing is built then.
pub const AGENT: &str = "NVME_LAB_AGENT";

/// The same for the agent with failpoints.
pub const FAILPOINTS: &str = "NVME_LAB_FAILPOINTS";

/// The agent as [`AGENT`] says, else the one that ships, built now unless it is up to date.
pub fn agent_under_test() -> Result<PathBuf> {
    if std::env::var_os(AGENT).is_none() {
        return dist::agent();
    }
    let agent = agent_binary().with_context(|| format!("{AGENT} names a file that is not there"))?;
    say(&format!("note: this is not what ships but {}", agent.display()));
    Ok(agent)
}

/// The agent that scenarios get: as [`AGENT`] says, else the shipped binary, if it has been built.
pub fn agent_binary() -> Option<PathBuf> {
    let path = match std::env::var_os(AGENT) {
        Some(path) => PathBuf::from(path),
        None => workspace().join("target/dist/nvme-agent-x86_64"),
    };
    path.exists().then_some(path)
}

/// The same with failpoints compiled in; built now unless [`FAILPOINTS`] names one.
pub fn failpoints_binary() -> Result<PathBuf> {
    match std::env::var_os(FAILPOINTS) {
        Some(path) => Ok(PathBuf::from(path)),
        None => watchdog::exempt(dist::agent_with_failpoints),
    }
}

/// Names another agent for aarch64 than the one that ships; nothing is built then.
pub const AGENT_AARCH64: &str = "NVME_LAB_AGENT_AARCH64";

/// The agent for aarch64; built now unless [`AGENT_AARCH64`] names one.
pub fn agent_aarch64() -> Result<PathBuf> {
    match std::env::var_os(AGENT_AARCH64) {
        Some(path) => Ok(PathBuf::from(path)),
        None => watchdog::exempt(|| {
            dist::build(&Build { arch: Arch::Aarch64, ..Build::new("nvme-agent", "nvme-agent") })
        }),
    }
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

/// Runs one scenario in this process.
pub fn run_one(lab: &Lab, scenario: &Scenario, logs: &Path) -> Result<()> {
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

/// Where a run's logs are.
pub fn logs_root() -> PathBuf {
    workspace().join("target/lab/logs")
}
