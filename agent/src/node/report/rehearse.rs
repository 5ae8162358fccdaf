//! A report without effect: the same credential, the same requests in the same words, each once, as a dry run. It says
//! beforehand what a report would be refused.

use std::time::Duration;

use jiff::Timestamp;

use super::Options;
use super::api::Api;
use super::diff::{self, Change, Metadata, Node};
use super::retry::Failure;
use crate::error::Error;
use crate::node::Readiness;
use crate::state::State;

/// What the API server says of a request as a dry run that would call a webhook which has other effects
/// (k8s.io/apiserver/pkg/admission/plugin/webhook/errors, NewDryRunUnsupportedErr).
const NO_DRY_RUN: &str = "does not support dry run";

/// How long to wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the credential.
    pub login: Duration,
    /// For each answer; there are three.
    pub answer: Duration,
}

/// What a report would meet. `during` is what was asked for, as RBAC has it: `patch nodes/status`.
#[derive(Debug)]
pub enum Setback {
    /// A report would end by it, too.
    Refused { during: &'static str, error: Error },
    /// It may pass; a report would try again.
    Passing { during: &'static str, why: String },
    /// There is no such Node (yet).
    NoNode { why: String },
    /// A webhook of the cluster's takes no dry runs: nothing is known.
    NoDryRun { why: String },
}

impl Setback {
    fn of(during: &'static str, failure: Failure) -> Setback {
        match failure {
            Failure::Stop(error) if error.to_string().contains(NO_DRY_RUN) => {
                Setback::NoDryRun { why: error.to_string() }
            }
            Failure::Stop(error) => Setback::Refused { during, error },
            Failure::Again(again) if again.no_node => Setback::NoNode { why: again.why },
            Failure::Again(again) => Setback::Passing { during, why: again.why },
        }
    }
}

/// Reads the Node, and has the API server judge what a report would write to it: all of it through the status, then labels
/// and annotation alone. Returns how many requests it took. Nothing is written, neither there nor here.
///
/// # Errors
/// The first that does not go well.
pub async fn rehearse(options: &Options, state: &State, patience: Patience) -> Result<u32, Setback> {
    let now = (options.clock)();
    let login = |error| Setback::Refused { during: "log in", error };
    let session = options.access.open(patience.login, now).await.map_err(login)?;
    let mut api = Api::rehearsing(session.client);
    let name = options.node.as_str();
    let during = "get nodes";
    let node = api.node(name, patience.answer).await.map_err(|failure| Setback::of(during, failure))?;
    // Of a Node that says nothing yet everything has to be written.
    let bare = Metadata { uid: node.metadata.uid, name: node.metadata.name, ..Metadata::default() };
    let readiness = Readiness::of(state, &options.keys, &options.profile);
    let at = Timestamp::try_from(now).unwrap_or_default();
    let node = Node { metadata: bare, ..Node::default() };
    let change = diff::diff(&node, &readiness, &options.keys, at);
    let alone = Change { condition: None, ..change.clone() };
    for (during, change) in [("patch nodes/status", change), ("patch nodes", alone)] {
        let Some(patch) = change.patch() else { continue };
        api.patch(name, &patch, patience.answer).await.map_err(|failure| Setback::of(during, failure))?;
    }
    Ok(api.requests)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::super::retry::refused;
    use super::*;

    fn setback(code: u16, message: &str) -> Setback {
        Setback::of(
            "patch nodes",
            refused("PATCH node x", StatusCode::from_u16(code).unwrap(), message, None),
        )
    }

    #[test]
    fn what_does_not_pass_what_may_and_what_says_nothing() {
        for code in [401, 403, 422] {
            assert!(matches!(setback(code, "no"), Setback::Refused { during: "patch nodes", .. }), "{code}");
        }
        for code in [409, 429, 500, 503] {
            assert!(matches!(setback(code, "later"), Setback::Passing { .. }), "{code}");
        }
        assert!(matches!(setback(404, ""), Setback::NoNode { .. }));
        let webhook = "admission webhook \"w.example\" does not support dry run";
        let Setback::NoDryRun { why } = setback(400, webhook) else { panic!() };
        assert!(why.contains("w.example"), "{why}");
        assert!(matches!(setback(400, "bad"), Setback::Refused { .. }));
    }
}
