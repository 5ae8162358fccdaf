//! The gate: may this node join? Asked by the unit that brings it into the cluster, just before that does.
//!
//! It judges this boot's setup alone, as the machine confirms it (a mount can go between setup and the join), and a
//! failure by policy: `on_failure` where the node joins for the first time,
//! `on_boot_failure` where it has joined before, so that its Node exists and its pods come back. A failed node that is to be
//! tainted joins only where it will be.
//!
//! "Has joined before" is told by what kubelet left in an earlier boot of *this instance*: files older than this boot, and
//! newer than our own record of having let it join, or than the instance's first boot (an AMI baked from a live node brings
//! older ones). The record alone says nothing: what was let join may have failed before kubelet. In doubt it has not, so
//! that `no-join` holds.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::nodeadm;
use super::registration::{self, Registration};
use crate::config::{Config, OnBootFailure, OnFailure};
use crate::error::Error;
use crate::observe::host;
use crate::persist::atomic;
use crate::root::Root;
use crate::setup::lock;
use crate::state::{Health, State};
use crate::status::{self, Verdict as Now};

/// Which instance was let join first in which boot.
pub const JOINED_PATH: &str = "/var/lib/nvme-agent/joined.json";
/// What kubelet makes when it runs first.
const KUBELET_TRACES: [&str; 4] = [
    "/var/lib/kubelet/cpu_manager_state",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet/pki",
    "/var/lib/kubelet/pods",
];
/// A setup that still runs is waited for so long; its own end then brings the files up to date.
const LOCK_TIME: Duration = Duration::from_secs(10);

/// The content of [`JOINED_PATH`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Joined {
    /// Format of this file: 1.
    version: u32,
    instance_id: String,
    boot_id: String,
}

/// The judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub join: bool,
    /// One line: why.
    pub line: String,
}

/// Brings up to date what the node registers with, and judges whether it may.
pub fn gate(root: &Root, config: &Config) -> Verdict {
    let held = lock::take(root, LOCK_TIME);
    let (state, problem) = match State::load(root) {
        Ok(Some(state)) => (confirmed(root, config, state), None),
        Ok(None) => (not_set_up(root, "setup has not run in this boot"), None),
        Err(error) => (not_set_up(root, "the state of this boot cannot be read"), Some(error.to_string())),
    };
    let registered = match &held {
        // A setup runs, which brings it up to date at its end.
        Err(Error::Busy { .. }) => Registration::load(root),
        // Also where there can be no lock: what is there may be of another boot.
        _ => Some(registration::update(root, config, &state)),
    };
    let mut verdict = judge(&state, config, &registered.unwrap_or_default(), || joined_before(root));
    if let Some(problem) = problem {
        verdict.line = format!("{}; {problem}", verdict.line);
    }
    if verdict.join {
        if let Some(warning) = storage_is_nodeadms(root, &state) {
            verdict.line = format!("{}; {warning}", verdict.line);
        }
        remember(root);
    }
    verdict
}

/// What setup came to, unless the machine says otherwise by now.
fn confirmed(root: &Root, config: &Config, mut state: State) -> State {
    let report = status::report(root, config, Vec::new(), status::UNATTENDED_PATIENCE);
    let health = match report.state {
        Now::Ready => Health::Ready,
        Now::Degraded => Health::Degraded,
        Now::Failed | Now::NotSetUp => Health::Failed,
        Now::Absent => Health::Absent,
    };
    if (health, &report.reason) != (state.state, &state.reason) {
        (state.state, state.reason, state.message, state.since) =
            (health, report.reason, report.message, report.time);
    }
    state
}

fn not_set_up(root: &Root, message: &str) -> State {
    State::new(root, Health::Failed, "NotSetUp", message)
}

fn judge(
    state: &State,
    config: &Config,
    registered: &Registration,
    joined_before: impl FnOnce() -> bool,
) -> Verdict {
    let what = format!("{} ({}): {}", state.state, state.reason, state.message);
    if state.state != Health::Failed {
        return Verdict { join: true, line: format!("the node may join: {what}") };
    }
    let (join, key, value, when) = match joined_before() {
        true => (
            config.on_boot_failure != OnBootFailure::NoJoin,
            "on_boot_failure",
            config.on_boot_failure.as_str(),
            "has joined before",
        ),
        false => (
            match config.on_failure {
                OnFailure::Label => true,
                // kubelet may not taint its own Node afterwards: untainted it would stay.
                OnFailure::Taint => registered.tainted,
                OnFailure::NoJoin => false,
            },
            "on_failure",
            config.on_failure.as_str(),
            "has not joined before",
        ),
    };
    if join {
        return Verdict {
            join,
            line: format!("the node, which {when}, may join all the same ({key} = \"{value}\"): {what}"),
        };
    }
    let untainted = match (&registered.problem, value == OnFailure::Taint.as_str()) {
        (Some(problem), true) => format!("; {problem}"),
        _ => String::new(),
    };
    let line = format!(
        "the node, which {when}, must not join ({key} = \"{value}\"): {what}{untainted}; mend it, run `nvme-agent setup`, \
         then start the unit again"
    );
    Verdict { join, line }
}

/// nodeadm is about to take the drives that we have taken.
fn storage_is_nodeadms(root: &Root, state: &State) -> Option<String> {
    let strategy = nodeadm::cached(root).ok()??.strategy?;
    (state.drives > 0).then(|| {
        format!(
            "but spec.instance.localStorage.strategy = {strategy} has nodeadm set up the drives too, which nvme-agent has taken: \
             it will find them busy; unset it (Karpenter: instanceStorePolicy), or disable nvme-agent.service"
        )
    })
}

/// This instance has run kubelet in an earlier boot.
fn joined_before(root: &Root) -> bool {
    let facts = host::read(root);
    let Some(boot) = host::boot_time(root).filter(|_| !facts.instance_id.is_empty()) else { return false };
    let let_join = load(root)
        .filter(|joined| joined.instance_id == facts.instance_id && joined.boot_id != facts.boot_id)
        .and_then(|_| modified(root, JOINED_PATH));
    // Known to the second: what is of the same one is in doubt.
    let first_boot = host::first_boot_time(root, &facts.instance_id).map(|second| (second, i64::MAX));
    let Some(since) = let_join.into_iter().chain(first_boot).min() else { return false };
    KUBELET_TRACES
        .iter()
        .filter_map(|path| modified(root, path))
        .any(|time| time > since && time.0 + host::SLACK < boot)
}

/// When a file was last changed, in seconds and nanoseconds since 1970.
fn modified(root: &Root, path: &str) -> Option<(i64, i64)> {
    fs::symlink_metadata(root.join(path)).ok().map(|meta| (meta.mtime(), meta.mtime_nsec()))
}

fn load(root: &Root) -> Option<Joined> {
    let joined: Joined = serde_json::from_slice(&atomic::read(&root.join(JOINED_PATH)).ok()?).ok()?;
    (joined.version == 1).then_some(joined)
}

/// Notes the first boot in which this instance was let join.
fn remember(root: &Root) {
    let facts = host::read(root);
    let noted = load(root).is_some_and(|joined| joined.instance_id == facts.instance_id);
    if noted || facts.instance_id.is_empty() || facts.boot_id.is_empty() {
        return;
    }
    let joined = Joined { version: 1, instance_id: facts.instance_id, boot_id: facts.boot_id };
    if let Err(error) = atomic::write_json_durable(&root.join(JOINED_PATH), &joined) {
        tracing::warn!("{error}");
    }
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
