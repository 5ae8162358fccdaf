//! report: puts labels, annotation and condition on this machine's own Node, through the API server.
//!
//! One report is at most one credential process and three requests: GET the Node, PATCH what differs, POST an Event
//! where state or reason changed. Where nothing differs there is no PATCH, and a tick ([`Options::if_changed`]) that
//! would say what was said within the hour, to a Node of the same kubelet, asks nobody. Taints are never touched: a kubelet may not.
//!
//! Failures that pass are tried again until a deadline, with pauses that grow and differ from node to node; what does
//! not pass (401, 403, 422, TLS) ends it at once. Nothing here is global: ten thousand nodes can be in one process.

mod access;
mod api;
mod diff;
mod event;
mod idle;
mod kubeconfig;
mod look;
mod memory;
mod name;
mod observed;
mod pem;
mod plugin;
mod rehearse;
mod retry;
mod run;
mod wording;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::error::Result;
use crate::node::{Keys, Readiness};
use crate::state::State;

pub use access::{Access, Session};
pub use idle::{IDLE, IDLE_PATH, is_idle, mark as mark_idle};
pub use kubeconfig::KUBECONFIG_PATH;
pub use look::{Seen, look};
pub use memory::{LASTING_PATH, MEMORY_PATH, Memory};
pub use name::{find as node_name, kubelet};
pub use observed::observe;
pub use rehearse::{Patience, Setback, rehearse};

use diff::Change;
pub use wording::recall;

use run::{Run, Told};
use wording::Wording;

/// How long a report may take besides its wait for the Node.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The longest `--wait`: nvme-agent-report.service must not outlast what systemd gives it.
pub const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;
/// Looks at the machine, see [`observe`]. It may block.
pub type Look = Arc<dyn Fn() -> State + Send + Sync>;

/// Two reports at once would overwrite each other's word, the older one last: the second waits for the first.
pub const LOCK_PATH: &str = "/run/nvme-agent/report.lock";

/// Whom to tell, and how.
#[derive(Clone)]
pub struct Options {
    pub access: Access,
    /// The Node's name, see [`node_name`].
    pub node: String,
    pub keys: Keys,
    /// Value of the label `<domain>/profile`; empty: no such label.
    pub profile: String,
    /// Where what was told is remembered; usually [`MEMORY_PATH`].
    pub memory: PathBuf,
    /// Where what outlives the boot is remembered, usually [`LASTING_PATH`]; none: nowhere.
    pub lasting: Option<PathBuf>,
    /// Ask nobody where the Node was told the same within the hour, in this boot, and not registered since.
    pub if_changed: bool,
    /// Which run of kubelet there is, see [`kubelet`]; none where that is not known.
    pub kubelet: Option<String>,
    /// How long to wait for the Node to exist; none: where it does not, that is an error.
    pub wait: Option<Duration>,
    /// How long everything else may take.
    pub patience: Duration,
    /// Looks again before each further try; none: what was given is told however long it takes.
    pub look: Option<Look>,
    pub clock: Clock,
}

impl Options {
    /// For `node` by way of `access`, with the defaults for the rest.
    pub fn new(access: Access, node: impl Into<String>, memory: impl Into<PathBuf>) -> Options {
        Options {
            access,
            node: node.into(),
            keys: Keys::default(),
            profile: String::new(),
            memory: memory.into(),
            lasting: None,
            if_changed: false,
            kubelet: None,
            wait: None,
            patience: PATIENCE,
            look: None,
            clock: Arc::new(SystemTime::now),
        }
    }
}

/// What came of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// One line for people, such as `Node ip-10-0-0-1: state failed -> ready (SetupComplete)`.
    pub line: String,
    /// Something was written.
    pub changed: bool,
    /// Requests that were sent, those that failed too.
    pub requests: u32,
    /// Credential plugins that were started.
    pub processes: u32,
}

/// Tells the Node `state`, or what it has become where that takes more than one try.
///
/// # Errors
/// [`Error::ApiRefused`] where the API server, or its certificate, does not allow it; [`Error::Api`] where it could not
/// be reached, or the Node not be found, in time; [`Error::Config`] or [`Error::Child`] where the credential cannot be
/// had. What was written by then stays.
pub async fn report(options: &Options, state: &State) -> Result<Outcome> {
    let readiness = Readiness::of(state, &options.keys, &options.profile);
    let memory = Memory::load(&options.memory).or_else(|| Memory::load(options.lasting.as_deref()?));
    let now = since_epoch((options.clock)());
    let quiet = |line: String| Outcome { line, changed: false, requests: 0, processes: 0 };
    let (node, kubelet) = (options.node.as_str(), options.kubelet.as_deref());
    if options.if_changed
        && memory.as_ref().is_some_and(|said| said.covers(node, kubelet, state, &readiness, now))
    {
        return Ok(quiet(line(node, state, &Change::default())));
    }
    let mut run = Run::new(options, state, memory.as_ref());
    let Told { node, change, other } = run.told().await?;
    let mut told = Memory::new(&options.node, &node.metadata.uid, &run.state, &run.readiness, now);
    // One that was taken away on its way in is not sent again with every tick.
    told.beat = diff::heartbeat(&node, &run.readiness.condition.kind).unwrap_or(told.read);
    told.wording = Wording::of(&options.keys, &options.profile);
    told.kubelet = options.kubelet.clone().unwrap_or_default();
    told.changed = if change.is_empty() {
        memory.as_ref().map(|memory| memory.changed.clone()).unwrap_or_default()
    } else {
        crate::state::rfc3339((options.clock)())
    };
    if let Err(error) = told.save(&options.memory) {
        tracing::warn!("what was reported cannot be remembered, so the next tick asks again: {error}");
    }
    if let Some(Err(error)) = options.lasting.as_deref().map(|path| told.keep(path)) {
        tracing::warn!("what was reported is not remembered beyond this boot: {error}");
    }
    if change.tells {
        run.announce(&node, change.before.as_deref()).await;
    }
    Ok(Outcome {
        line: line(&options.node, &run.state, &change) + &otherwise(&other),
        changed: !change.is_empty(),
        requests: run.requests,
        processes: run.processes,
    })
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn line(node: &str, state: &State, change: &Change) -> String {
    let (now, reason) = (state.state.as_str(), &state.reason);
    match &change.before {
        _ if change.is_empty() => format!("Node {node}: nothing new: {now} ({reason})"),
        Some(before) if before != now => format!("Node {node}: state {before} -> {now} ({reason})"),
        Some(_) => format!("Node {node}: state {now} ({reason}); wrote {}", change.parts()),
        None => format!("Node {node}: state none -> {now} ({reason})"),
    }
}

/// That the Node does not say what was written.
fn otherwise(parts: &str) -> String {
    match parts {
        "" => String::new(),
        parts => format!("; but the Node says otherwise ({parts}): did a webhook or a controller change it?"),
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
