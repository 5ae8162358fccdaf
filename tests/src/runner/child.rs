//! A scenario in a process of its own: what hangs can be ended, what crashes takes nothing along, and with the process
//! goes every VM that it started.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::{Scenario, logs_root, run_one, watchdog};
use crate::lab::{Lab, remove_scratch_of};
use crate::progress;

/// Written into a scenario's logs when it failed.
const FAILURE: &str = "failure.txt";

/// Runs a scenario in a child process. Its error is what the child says about it.
pub fn run(scenario: &Scenario, limit: Option<Duration>, environment: &[(&str, &OsStr)]) -> Result<()> {
    let logs = logs_root().join(scenario.name);
    // Logs of the last run only: whoever looks after a failure must not find an older one's.
    let _ = fs::remove_dir_all(&logs);
    fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
    let limit = limit.unwrap_or_else(|| watchdog::limit(scenario.tier));
    // By this name it is the very program that runs, even after another build has replaced the file.
    let mut child = Command::new("/proc/self/exe")
        .args(["scenario", scenario.name, "--limit", &limit.as_secs().to_string()])
        .env(progress::CHILD, "1")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(File::create(logs.join("stdout.log")).context("create stdout.log")?)
        .stderr(Stdio::piped())
        .spawn()
        .context("start a process for the scenario")?;
    for line in
        child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok)
    {
        progress::note(&format!("  [{}] {}", scenario.name, line.trim_start()));
    }
    let status = child.wait().context("wait for the scenario's process")?;
    remove_scratch_of(child.id());
    if status.success() {
        return Ok(());
    }
    match fs::read_to_string(logs.join(FAILURE)) {
        Ok(text) => bail!("{}", text.trim_end()),
        Err(_) => bail!("its process ended with {status} and left no reason"),
    }
}

/// The child's side. False where the scenario failed.
pub fn main(scenario: &Scenario, limit: Duration) -> Result<bool> {
    set_pdeathsig(Signal::SIGKILL).context("ask to end with the parent")?;
    let logs = logs_root().join(scenario.name);
    watchdog::watch(limit, &logs.join(FAILURE));
    let result = watchdog::exempt(Lab::open).and_then(|lab| run_one(&lab, scenario, &logs));
    if let Err(error) = &result {
        write_failure(&logs, &format!("{error:#}"))?;
    }
    Ok(result.is_ok())
}

fn write_failure(logs: &Path, text: &str) -> Result<()> {
    let file = logs.join(FAILURE);
    fs::write(&file, text).with_context(|| format!("write {}", file.display()))
}
