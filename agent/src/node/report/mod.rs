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
mod memory;
mod name;
mod observed;
mod pem;
mod plugin;
mod retry;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::node::{Keys, Readiness};
use crate::state::State;

pub use access::{Access, Session};
pub use idle::{IDLE, IDLE_PATH, is_idle, mark as mark_idle};
pub use kubeconfig::KUBECONFIG_PATH;
pub use memory::{MEMORY_PATH, Memory};
pub use name::{find as node_name, kubelet};
pub use observed::observe;

use api::Api;
use diff::{Change, Node};
use retry::{Again, Failure};

/// How long a report may take besides its wait for the Node.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// A try with less time than this is not begun: it could only hide the last answer behind a timeout of its own.
const SHORTEST_TRY: Duration = Duration::from_secs(1);
/// How long a Node that was read stands in for reading it again, while its patch is turned away.
const READ_HOLDS: Duration = Duration::from_secs(100);
/// An Event that is turned away so often is given up: the Node itself has been told.
const EVENT_TRIES: u32 = 6;
/// The longest `--wait`: nvme-agent-report.service must not outlast what systemd gives it.
pub const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

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
    /// Ask nobody where the Node was told the same within the hour, in this boot, and not registered since.
    pub if_changed: bool,
    /// Which run of kubelet there is, see [`kubelet`]; none where that is not known.
    pub kubelet: Option<String>,
    /// How long to wait for the Node to exist; none: where it does not, that is an error.
    pub wait: Option<Duration>,
    /// How long everything else may take.
    pub patience: Duration,
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
            if_changed: false,
            kubelet: None,
            wait: None,
            patience: PATIENCE,
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

/// Tells the Node `state`.
///
/// # Errors
/// [`Error::ApiRefused`] where the API server, or its certificate, does not allow it; [`Error::Api`] where it could not
/// be reached, or the Node not be found, in time; [`Error::Config`] or [`Error::Child`] where the credential cannot be
/// had. What was written by then stays.
pub async fn report(options: &Options, state: &State) -> Result<Outcome> {
    let readiness = Readiness::of(state, &options.keys, &options.profile);
    let memory = Memory::load(&options.memory);
    let now = since_epoch((options.clock)());
    let quiet = |line: String| Outcome { line, changed: false, requests: 0, processes: 0 };
    let (node, kubelet) = (options.node.as_str(), options.kubelet.as_deref());
    if options.if_changed
        && memory.as_ref().is_some_and(|said| said.covers(node, kubelet, state, &readiness, now))
    {
        return Ok(quiet(line(node, state, &Change::default())));
    }
    let mut run = Run {
        options,
        state,
        readiness,
        session: None,
        read: None,
        first: None,
        deadline: Instant::now() + options.patience + options.wait.unwrap_or_default(),
        requests: 0,
        processes: 0,
    };
    let (node, change) = run.told().await?;
    let mut told = Memory::new(&options.node, &node.metadata.uid, state, &run.readiness, now);
    told.kubelet = options.kubelet.clone().unwrap_or_default();
    told.changed = if change.is_empty() {
        memory.map(|memory| memory.changed).unwrap_or_default()
    } else {
        crate::state::rfc3339((options.clock)())
    };
    if let Err(error) = told.save(&options.memory) {
        tracing::warn!("what was reported cannot be remembered, so the next tick asks again: {error}");
    }
    if change.tells {
        run.announce(&node, change.before.as_deref()).await;
    }
    Ok(Outcome {
        line: line(&options.node, state, &change),
        changed: !change.is_empty(),
        requests: run.requests,
        processes: run.processes,
    })
}

/// One report under way.
struct Run<'a> {
    options: &'a Options,
    state: &'a State,
    readiness: Readiness,
    session: Option<(Session, Api)>,
    /// The Node as read, where the patch that followed was turned away unread: when thousands of nodes are throttled,
    /// each reading its Node again before each try is what keeps them throttled.
    read: Option<(Instant, Node)>,
    /// What the Node lacked when it was first read. A patch whose answer was lost may have been done all the same: the
    /// next look then finds nothing to change, and it is still to be told.
    first: Option<Change>,
    deadline: Instant,
    requests: u32,
    processes: u32,
}

impl Run<'_> {
    /// Tries until the Node says what it ought to: the Node, and what had to be changed.
    async fn told(&mut self) -> Result<(Node, Change)> {
        for tries in 1.. {
            let failure = match self.attempt().await {
                Ok(done) => return Ok(done),
                Err(Failure::Stop(error)) => return Err(error),
                Err(Failure::Again(failure)) => failure,
            };
            if failure.no_node && self.options.wait.is_none() {
                return Err(Error::Api(format!(
                    "{}; expected one that kubelet has registered: is the name right? --wait waits for it",
                    failure.why
                )));
            }
            let pause = retry::pause(tries, &failure, fastrand::f64());
            if self.left() <= pause + SHORTEST_TRY {
                return Err(self.too_late(tries, &failure));
            }
            tracing::info!(
                tries,
                pause_ms = pause.as_millis() as u64,
                "trying again in {:.1} s: {}",
                pause.as_secs_f64(),
                failure.why
            );
            tokio::time::sleep(pause).await;
        }
        Err(Error::Other("report: no try was left".into()))
    }

    fn too_late(&self, tries: u32, failure: &Again) -> Error {
        let all = (self.options.patience + self.options.wait.unwrap_or_default()).as_secs();
        let tried = if tries == 1 { "once".to_owned() } else { format!("{tries} times") };
        Error::Api(format!(
            "{} was asked {tried}, and there is no time left for another try (of {all} s); the last answer: {}",
            self.options.access.server(),
            failure.why
        ))
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    async fn attempt(&mut self) -> Result<(Node, Change), Failure> {
        let (name, left) = (self.options.node.as_str(), self.left());
        let now = (self.options.clock)();
        let read = self.read.take().filter(|(at, _)| at.elapsed() < READ_HOLDS);
        let (read_at, node) = match read {
            Some(read) => read,
            None => {
                let node = self.api(now).await?.node(name, left).await;
                (Instant::now(), self.counted(node)?)
            }
        };
        let at = jiff::Timestamp::try_from(now).unwrap_or_default();
        let change = diff::diff(&node, &self.readiness, &self.options.keys, at);
        let told = self.first.get_or_insert_with(|| change.clone()).clone();
        let Some(patch) = change.patch() else { return Ok((node, told)) };
        let after = match self.patch(&patch).await {
            Err(Failure::Again(again)) if again.throttled => {
                self.read = Some((read_at, node));
                return Err(Failure::Again(again));
            }
            other => other?,
        };
        // Where metadata was not taken along with the status (a proxy, a webhook), it goes by itself.
        let rest = diff::diff(&after, &self.readiness, &self.options.keys, at);
        if patch.subresource.is_some() && rest.metadata.is_some() {
            let alone = Change { condition: None, ..change.clone() };
            if let Some(patch) = alone.patch() {
                self.patch(&patch).await?;
            }
        }
        Ok((node, told))
    }

    async fn patch(&mut self, patch: &diff::Patch) -> Result<Node, Failure> {
        let (name, left) = (self.options.node.as_str(), self.left());
        let now = (self.options.clock)();
        let after = self.api(now).await?.patch(name, patch, left).await;
        self.counted(after)
    }

    /// The client, with a credential that holds for the next request.
    async fn api(&mut self, now: SystemTime) -> Result<&mut Api, Failure> {
        if self.session.as_ref().is_none_or(|(session, _)| session.is_over(now)) {
            self.processes += u32::from(self.options.access.has_plugin());
            let session = self.options.access.open(self.left(), now).await.map_err(Failure::Stop)?;
            let api = Api::new(session.client.clone());
            self.session = Some((session, api));
        }
        match &mut self.session {
            Some((_, api)) => Ok(api),
            None => Err(Failure::again("no client")),
        }
    }

    /// Takes over how many requests were sent.
    fn counted<T>(&mut self, result: Result<T, Failure>) -> Result<T, Failure> {
        if let Some((_, api)) = &mut self.session {
            self.requests += std::mem::take(&mut api.requests);
        }
        result
    }

    /// The Event about the change. Best effort: the Node itself has been told.
    async fn announce(&mut self, node: &Node, before: Option<&str>) {
        let now = (self.options.clock)();
        let name = &self.options.node;
        let event = event::event(name, &node.metadata.uid, before, self.state, &self.readiness, now);
        for tries in 1.. {
            let left = self.left();
            let sent = match self.api(now).await {
                Ok(api) => api.event(&event, left).await,
                Err(failure) => Err(failure),
            };
            match self.counted(sent) {
                Ok(()) => return,
                Err(Failure::Stop(error)) => {
                    return tracing::info!("the Event about it was not taken: {error}");
                }
                Err(Failure::Again(failure)) => {
                    let pause = retry::pause(tries, &failure, fastrand::f64());
                    // One that may have been taken is not sent twice.
                    if !failure.throttled || tries == EVENT_TRIES || self.left() <= pause + SHORTEST_TRY {
                        return tracing::info!("the Event about it was not taken: {}", failure.why);
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
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

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
