//! At registration: the Node's labels, and the taint of a failed node, in kubelet's arguments, so that they are in the
//! Node's CREATE. No credentials, no request.
//!
//! Two ways, by what the image has: a NodeConfig drop-in, or kubelet's environment file. First thing at every boot it
//! is rewritten to failed ([`expect_failure`]), at the end of setup to the truth ([`update`]), so that it is neither
//! absent nor of an earlier boot, whatever becomes of setup. The gate brings it up to date once more, just before
//! nodeadm reads it: only then is known what else the node is to be tainted with, and only then does the environment
//! file of this boot exist. A failed node that cannot be tainted although it ought to be (`on_failure = "taint"`) must not
//! join: the gate keeps it away, as the shell's form of the policy does.
//!
//! kubelet does not read any of it for a Node that exists: after a reboot `report` brings the labels up to date.

mod args;
mod check;
pub mod drop_in;
mod environment;
pub mod others;
pub mod taints;
mod way;

use std::fs;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use check::{Answer, Checker, Nodeadm};

use super::features::{self, FEATURE_PATH};
use super::labels::{Keys, Readiness};
use super::nodeadm::{self, Cached};
use crate::config::{Config, FeatureFile, OnFailure};
use crate::error::{Error, Result};
use crate::persist::atomic;
use crate::root::Root;
use crate::state::{Health, State, boot_id, rfc3339};
use taints::Taints;

pub use way::{UNIT_DIRECTORIES, Way, is_read as drop_ins_are_read};

/// The directory that nodeadm merges NodeConfigs from (AMI v20251023 and later).
pub const DROP_IN_DIR: &str = "/etc/eks/nodeadm.d";
pub const DROP_IN_PATH: &str = "/etc/eks/nodeadm.d/50-nvme-agent.yaml";
/// Written at every boot by nodeadm-config.service, read by kubelet.service.
pub const ENVIRONMENT_PATH: &str = "/etc/eks/kubelet/environment";
/// What was written last, for status.
pub const RECORD_PATH: &str = "/run/nvme-agent/registration.json";
/// Where kubelet's configuration has its taints, on images without a cached NodeConfig: the last one that has any wins.
const KUBELET_CONFIG: &str = "/etc/kubernetes/kubelet/config.json";
const KUBELET_CONFIG_DIR: &str = "/etc/kubernetes/kubelet/config.json.d";

/// Every file of the host that says what the storage is.
pub const FILES: [&str; 3] = [DROP_IN_PATH, ENVIRONMENT_PATH, FEATURE_PATH];

/// What was written last; the content of [`RECORD_PATH`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registration {
    pub boot_id: String,
    pub way: Way,
    /// The file; none where nothing was written.
    pub path: Option<String>,
    pub state: Health,
    /// `key=value,...`, as in the file; empty where nothing was written.
    pub labels: String,
    /// The node is to register with our taint.
    pub tainted: bool,
    /// RFC 3339, UTC.
    pub written: String,
    /// What is not as it ought to be, or why nothing was written.
    pub problem: Option<String>,
}

impl Registration {
    /// What was written last in this boot.
    pub fn load(root: &Root) -> Option<Registration> {
        let text = atomic::read(&root.join(RECORD_PATH)).ok()?;
        let found: Registration = serde_json::from_slice(&text).ok()?;
        (found.boot_id == boot_id(root)).then_some(found)
    }
}

/// What an earlier boot, userData or this boot has left has a failed node register with a taint of ours.
pub fn shows_taint(root: &Root) -> bool {
    // Nobody else's are in it but as a copy beside ours.
    let in_file =
        |text: String| text.contains("registerWithTaints") || text.contains("--register-with-taints");
    atomic::read_text(&root.follow(DROP_IN_PATH)).is_ok_and(|text| text.is_some_and(in_file))
        || Registration::load(root).is_some_and(|record| record.tainted)
}

/// First thing at a boot, before anything can go wrong: what an earlier boot left is rewritten to failed.
pub fn expect_failure(root: &Root, config: &Config) -> Registration {
    // Without a version: no agent has judged yet, and what a shell has written in its place is left as it is.
    let state = State {
        agent: String::new(),
        ..State::new(root, Health::Failed, "SettingUp", "setup has not ended yet")
    };
    update(root, config, &state)
}

/// Brings what the node will register with up to date with `state`. Never fails: a node whose label cannot be written
/// still has its storage; what went wrong is in the journal, the record and status.
pub fn update(root: &Root, config: &Config, state: &State) -> Registration {
    update_with(root, config, state, &Nodeadm::find(root))
}

/// [`update`] with somebody else's word on the drop-in.
pub fn update_with(root: &Root, config: &Config, state: &State, checker: &dyn Checker) -> Registration {
    let keys = Keys::of(config);
    let (way, none) = Way::of(root, config.label_method);
    let mut now = Registration {
        boot_id: boot_id(root),
        way,
        state: state.state,
        written: rfc3339(SystemTime::now()),
        problem: none,
        ..Registration::default()
    };
    let work = Work {
        root,
        words: Readiness::of(state, &keys, &config.profile),
        tainting: state.state == Health::Failed && config.on_failure == OnFailure::Taint,
        keys,
    };
    let written = match way {
        Way::DropIn => work.drop_in(checker, &mut now),
        Way::Environment => work.withdraw(DROP_IN_PATH).and_then(|()| work.environment(&mut now)),
        Way::None => work.withdraw(DROP_IN_PATH).and_then(|()| work.leave_environment()),
    };
    let failed = written.is_err();
    if let Err(error) = written {
        now.problem = Some(error.to_string());
    }
    // That nodeadm has yet to make the file is so at every boot of an older image.
    let awaited = way == Way::Environment && now.path.is_none() && !failed;
    if work.tainting && !now.tainted && !awaited {
        let why = now.problem.take().unwrap_or_default();
        now.problem = Some(format!("it cannot be tainted, so a node that failed must not join: {why}"));
    }
    let expected = awaited || (way == Way::None && !work.tainting);
    if let (Some(problem), false) = (&now.problem, expected) {
        tracing::warn!(way = way.as_str(), "the Node's label at registration: {problem}");
    }
    if let Err(error) = features::update(root, config.feature_file, &work.words) {
        tracing::warn!("{error}");
        now.problem.get_or_insert(error.to_string());
    }
    remember(root, &mut now);
    now
}

/// Writes the record where it says something new.
fn remember(root: &Root, now: &mut Registration) {
    if let Some(before) = Registration::load(root) {
        let same = Registration { written: before.written.clone(), ..now.clone() };
        if same == before {
            *now = before;
            return;
        }
    }
    if now.path.is_some() {
        let (way, tainted) = (now.way.as_str(), now.tainted);
        tracing::info!(way, state = %now.state, tainted, "at registration the Node says {}", now.state);
    }
    let path = root.join(RECORD_PATH);
    let made =
        path.parent().map_or(Ok(()), fs::create_dir_all).map_err(Error::io(&path, "make the directory of"));
    let text = serde_json::to_string(now).unwrap_or_default();
    if let Err(error) = made.and_then(|()| atomic::replace(&path, &format!("{text}\n"))) {
        tracing::warn!("{error}");
    }
}

/// Takes back what was written, when there is nothing left to speak of; says what went, a line each. Also of an image
/// that is being built: what a setup on the build host left there would speak of other drives.
///
/// # Errors
/// A file cannot be removed or rewritten.
pub fn withdraw(root: &Root, config: &Config) -> Result<Vec<String>> {
    let before = FILES.map(|path| atomic::read(&root.join(path)).ok());
    let keys = Keys::of(config);
    let words = Readiness::of(&State::new(root, Health::Absent, "", ""), &keys, "");
    let work = Work { root, words, tainting: false, keys };
    work.withdraw(DROP_IN_PATH)?;
    work.leave_environment()?;
    features::update(root, FeatureFile::None, &work.words)?;
    let _ = fs::remove_file(root.join(RECORD_PATH));
    let changed = FILES.into_iter().zip(before);
    Ok(changed
        .filter(|(path, before)| atomic::read(&root.join(path)).ok() != *before)
        .map(|(path, _)| format!("took our label out of {path}"))
        .collect())
}

struct Work<'a> {
    root: &'a Root,
    keys: Keys,
    words: Readiness,
    /// The node is to register with our taint.
    tainting: bool,
}

impl Work<'_> {
    fn drop_in(&self, checker: &dyn Checker, now: &mut Registration) -> Result<()> {
        let taints = self.taints_for_nodeadm(now);
        let text = drop_in::render(&self.words, taints.as_ref());
        let path = self.root.join(DROP_IN_PATH);
        // A power cut may have left one; nodeadm does not read them, but nobody else would remove them.
        atomic::remove_leftovers(&path);
        let there = atomic::read(&path).ok();
        if there.as_deref() != Some(text.as_bytes()) {
            if let Answer::Bad(problem) = checker.check(&text) {
                // What an earlier boot left must not stay either: without the file the node joins, without a label.
                self.withdraw(DROP_IN_PATH)?;
                return Err(Error::Other(format!(
                    "{DROP_IN_PATH} was withdrawn, so that the node can join: nodeadm does not take it: {problem}"
                )));
            }
            // Whatever happens to it, that of an earlier boot is not to be read.
            atomic::replace(&path, &text).inspect_err(|_| {
                let _ = fs::remove_file(&path);
            })?;
        }
        now.path = Some(DROP_IN_PATH.into());
        now.labels = self.words.node_labels();
        now.tainted = taints.is_some();
        Ok(())
    }

    fn taints_for_nodeadm(&self, now: &mut Registration) -> Option<Taints> {
        if !self.tainting {
            return None;
        }
        let cached = nodeadm::cached(self.root).unwrap_or_else(|problem| {
            now.problem = Some(format!("{problem}: the node's other taints are not kept"));
            None
        });
        let cached = cached.unwrap_or_default();
        let taints =
            others::read(self.root).and_then(|others| taints::for_nodeadm(&cached, &others, &self.keys));
        taints.map_err(|problem| now.problem = Some(problem)).ok()
    }

    fn environment(&self, now: &mut Registration) -> Result<()> {
        let path = self.root.join(ENVIRONMENT_PATH);
        atomic::remove_leftovers(&path);
        let Some(text) = atomic::read_text(&path)? else {
            now.problem = Some(format!(
                "{ENVIRONMENT_PATH} is not here yet; nodeadm writes it, and the gate of nodeadm-run adds the label"
            ));
            return Ok(());
        };
        let wrong =
            |problem: String| Error::Other(format!("{ENVIRONMENT_PATH}: {problem}; it was left as it is"));
        let labels = self.words.node_labels();
        let mut arguments = vec![format!("--node-labels={labels}")];
        if self.tainting {
            let there = environment::arguments(&text, &self.keys).map_err(wrong)?;
            match taints::for_kubelet(&there, &self.configured_taints(), &self.keys) {
                Ok(argument) => {
                    arguments.push(argument);
                    now.tainted = true;
                }
                Err(problem) => now.problem = Some(problem),
            }
        }
        let edited = environment::edit(&text, &arguments, &self.keys).map_err(wrong)?;
        if edited != text {
            atomic::replace_if(&path, Some(&text), &edited)?;
        }
        now.path = Some(ENVIRONMENT_PATH.into());
        now.labels = labels;
        Ok(())
    }

    /// The taints that kubelet's configuration has, on an image without drop-ins.
    fn configured_taints(&self) -> Vec<Value> {
        if let Ok(Some(Cached { taints, .. })) = nodeadm::cached(self.root) {
            return taints;
        }
        let mut files = vec![self.root.join(KUBELET_CONFIG)];
        if let Ok(entries) = fs::read_dir(self.root.join(KUBELET_CONFIG_DIR)) {
            // As kubelet does: *.conf by name, each over the ones before.
            let mut more: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            more.retain(|path| path.extension().is_some_and(|ext| ext == "conf"));
            more.sort();
            files.extend(more);
        }
        let taints = |path: &std::path::PathBuf| -> Option<Vec<Value>> {
            let config: Value = serde_json::from_slice(&atomic::read(path).ok()?).ok()?;
            config.get("registerWithTaints")?.as_array().cloned()
        };
        files.iter().rev().find_map(taints).unwrap_or_default()
    }

    /// Our drop-in goes where it is not the way: it would be of an earlier boot or configuration.
    fn withdraw(&self, path: &str) -> Result<()> {
        let path = self.root.join(path);
        atomic::remove_leftovers(&path);
        atomic::remove_durable(&path).map(drop)
    }

    fn leave_environment(&self) -> Result<()> {
        let path = self.root.join(ENVIRONMENT_PATH);
        let Ok(Some(text)) = atomic::read_text(&path) else { return Ok(()) };
        match environment::edit(&text, &[], &self.keys) {
            Ok(edited) if edited != text => atomic::replace_if(&path, Some(&text), &edited),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
