//! What the Node says now, for somebody who asks: read once, nothing is written.

use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use super::access::Access;
use super::api::Api;
use super::diff::{Condition, Node};
use super::name;
use super::retry::Failure;
use crate::error::{Error, Result};
use crate::node::Keys;
use crate::root::Root;

/// What of a Node is about its local storage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The Node's name.
    pub node: String,
    /// Value of the label `<domain>/state`.
    pub state: Option<String>,
    /// Status (`True`, `False`, `Unknown`) and reason of the condition.
    pub condition: Option<(String, String)>,
    /// It has the taint of a failed node.
    pub tainted: bool,
}

/// Reads this machine's Node by the access that a report has, within `limit`.
///
/// # Errors
/// As [`super::report`], without a second try; [`Error::Api`] where there is no answer by then.
pub fn look(root: &Root, keys: &Keys, limit: Duration) -> Result<Seen> {
    let (tell, hear) = mpsc::channel();
    let (root, keys) = (root.clone(), keys.clone());
    // On a thread, for not all of it has a deadline: files are read, and libc looks names up. It ends with the process.
    std::thread::spawn(move || {
        // What has a deadline says better what was waited for, and ends a little earlier.
        let _ = tell.send(ask(&root, &keys, limit.mul_f64(0.9)));
    });
    hear.recv_timeout(limit).unwrap_or_else(|_| {
        Err(Error::Api(format!(
            "the API server, or kubelet's credential, took more than {} s",
            limit.as_secs()
        )))
    })
}

fn ask(root: &Root, keys: &Keys, limit: Duration) -> Result<Seen> {
    let node = name::find(root, None)?;
    let access = Access::read(root, None)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("/proc/self", "start the network client in"))?;
    let seen = runtime.block_on(seen(&access, &node, keys, limit));
    runtime.shutdown_background();
    seen
}

/// Reads Node `node` by `access`.
pub(super) async fn seen(access: &Access, node: &str, keys: &Keys, limit: Duration) -> Result<Seen> {
    let end = Instant::now() + limit;
    let session = access.open(limit, SystemTime::now()).await?;
    let left = end.saturating_duration_since(Instant::now());
    match Api::new(session.client.clone()).node(node, left).await {
        Ok(found) => Ok(Seen::of(&found, keys)),
        Err(Failure::Stop(error)) => Err(error),
        Err(Failure::Again(again)) => Err(Error::Api(again.why)),
    }
}

impl Seen {
    fn of(node: &Node, keys: &Keys) -> Seen {
        let ours = |there: &&Condition| there.kind == keys.condition();
        let words = |there: &Condition| (there.status.clone(), there.reason.clone().unwrap_or_default());
        Seen {
            node: node.metadata.name.clone(),
            state: node.metadata.labels.get(&keys.state()).cloned(),
            condition: node.status.conditions.iter().find(ours).map(words),
            tainted: node.spec.taints.iter().any(|taint| taint.key == keys.taint()),
        }
    }
}
