//! One report under way: read, patch, tell, and all of it again where what failed may pass.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::time::Instant;

use super::access::Session;
use super::api::Api;
use super::diff::{self, Change, Node};
use super::retry::{self, Again, Failure};
use super::wording::Wording;
use super::{Memory, Options, event};
use crate::error::{Error, Result};
use crate::node::Readiness;
use crate::state::State;

/// A try with less time than this is not begun: it could only hide the last answer behind a timeout of its own.
const SHORTEST_TRY: Duration = Duration::from_secs(1);
/// How long a Node that was read stands in for reading it again, while its patch is turned away.
const READ_HOLDS: Duration = Duration::from_secs(100);
/// An Event that is turned away so often is given up: the Node itself has been told.
const EVENT_TRIES: u32 = 6;

/// What came of it.
pub(super) struct Told {
    /// As the API server's last answer has it.
    pub node: Node,
    /// What had to be changed.
    pub change: Change,
    /// What of it the Node says otherwise all the same: "labels, condition"; usually empty.
    pub other: String,
}

pub(super) struct Run<'a> {
    options: &'a Options,
    /// What is the case; looked at again before each further try.
    pub state: State,
    pub readiness: Readiness,
    /// What some Node was told last, as far as that is known.
    said: Option<&'a Memory>,
    session: Option<(Session, Api)>,
    /// The Node as read, where the patch that followed was turned away unread: when thousands of nodes are throttled,
    /// each reading its Node again before each try is what keeps them throttled.
    read: Option<(Instant, Node)>,
    /// What the Node lacked when it was first read. A patch whose answer was lost may have been done all the same: the
    /// next look then finds nothing to change, and it is still to be told.
    first: Option<Change>,
    deadline: Instant,
    pub requests: u32,
    pub processes: u32,
}

impl<'a> Run<'a> {
    pub fn new(options: &'a Options, state: &State, said: Option<&'a Memory>) -> Run<'a> {
        Run {
            options,
            state: state.clone(),
            readiness: Readiness::of(state, &options.keys, &options.profile),
            said,
            session: None,
            read: None,
            first: None,
            deadline: Instant::now() + options.patience + options.wait.unwrap_or_default(),
            requests: 0,
            processes: 0,
        }
    }

    /// Tries until the Node was told what it ought to say.
    pub async fn told(&mut self) -> Result<Told> {
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
            self.look_again().await;
        }
        Err(Error::Other("report: no try was left".into()))
    }

    /// What is written is what is true then, and not what was true when the API server did not answer yet.
    async fn look_again(&mut self) {
        let Some(look) = self.options.look.clone() else { return };
        let looking = tokio::task::spawn_blocking(move || look());
        let mut state = match tokio::time::timeout(self.left(), looking).await {
            Ok(Ok(state)) => state,
            _ => return tracing::warn!("the machine could not be looked at again in time"),
        };
        // It was first seen to be so before, and is not another state for that.
        if (state.state, &state.reason) == (self.state.state, &self.state.reason) {
            state.since.clone_from(&self.state.since);
        }
        let readiness = Readiness::of(&state, &self.options.keys, &self.options.profile);
        self.state = state;
        if readiness != self.readiness {
            self.readiness = readiness;
            // It was about other words.
            self.first = None;
        }
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

    async fn attempt(&mut self) -> Result<Told, Failure> {
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
        let at = Timestamp::try_from(now).unwrap_or_default();
        let change = self.lacks(&node, at);
        let told = self.first.get_or_insert_with(|| change.clone()).clone();
        let Some(patch) = change.patch() else {
            return Ok(Told { node, change: told, other: String::new() });
        };
        let mut after = match self.patch(&patch).await {
            Err(Failure::Again(again)) if again.throttled => {
                self.read = Some((read_at, node));
                return Err(Failure::Again(again));
            }
            other => other?,
        };
        // Where metadata was not taken along with the status (a proxy, a webhook), it goes by itself.
        let rest = self.lacks(&after, at);
        if patch.subresource.is_some() && rest.metadata.is_some() {
            let alone = Change { condition: None, gone: None, ..rest };
            if let Some(patch) = alone.patch() {
                after = self.patch(&patch).await?;
            }
        }
        // Whoever changes it on its way in, or at once, wins: to write it again would be a quarrel without end.
        let other = self.lacks(&after, at).parts();
        Ok(Told { node: after, change: told, other })
    }

    /// What `node` has to be told, and what of the keys that it was told under before has to go.
    fn lacks(&self, node: &Node, now: Timestamp) -> Change {
        let Options { keys, profile, .. } = self.options;
        let change = diff::diff(node, &self.readiness, keys, now);
        let before = self.said.filter(|said| said.node == self.options.node && said.uid == node.metadata.uid);
        match before.map(|said| &said.wording).filter(|wording| **wording != Wording::of(keys, profile)) {
            Some(wording) => match wording.readiness(&self.state) {
                Some(former) => change.without(node, &former, &self.readiness),
                None => change,
            },
            None => change,
        }
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
    pub async fn announce(&mut self, node: &Node, before: Option<&str>) {
        let now = (self.options.clock)();
        let name = &self.options.node;
        let event = event::event(name, &node.metadata.uid, before, &self.state, &self.readiness, now);
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
