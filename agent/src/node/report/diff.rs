//! What of the Node has to change: a pure function of what it says and what it ought to say.
//!
//! Only our own keys are ever named in a patch. Both patches are strategic merges: in those the conditions are a map by
//! type, while a merge patch would replace the whole list, kubelet's conditions with it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::node::{Keys, Readiness};

/// From this age on the condition's heartbeat is renewed. The next tick, which does so, comes up to 5 minutes later (4 min,
/// 30 s of chance, 10 s of systemd's, the report itself), and no heartbeat is to be older than an hour.
pub const HEARTBEAT: Duration = Duration::from_secs(54 * 60);

/// What we look at of a Node. Everything else of it is skipped while it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Node {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: Spec,
    #[serde(default)]
    pub status: Status,
}

/// Never written: a kubelet may not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Spec {
    pub taints: Vec<Taint>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Taint {
    pub key: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Metadata {
    pub name: String,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Status {
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: Option<String>,
    pub message: Option<String>,
    pub last_heartbeat_time: Option<String>,
}

/// What to write; empty where the Node says it all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// UID of the Node that was read. It goes into the patch: where somebody has deleted that Node, and kubelet registered
    /// another one of its name, the API server refuses it, and what is true of the one is not said of the other.
    pub uid: String,
    /// Labels and annotation that differ, as the patch's `metadata`.
    pub metadata: Option<Value>,
    /// Our element of the patch's `status.conditions`.
    pub condition: Option<Value>,
    /// A condition that was ours under another name, as an element that takes it away.
    pub gone: Option<Value>,
    /// The state that the Node's label said; none where it had none.
    pub before: Option<String>,
    /// What the Node said of the state or its reason was something else: worth an Event.
    pub tells: bool,
}

/// A strategic merge patch, and which part of the Node it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    pub subresource: Option<&'static str>,
    pub body: Value,
}

impl Change {
    pub fn is_empty(&self) -> bool {
        self.metadata.is_none() && self.condition.is_none() && self.gone.is_none()
    }

    /// The one patch that makes the change; none for an empty one.
    ///
    /// Where a condition changes, labels and annotation go with it, through the status: the API server takes metadata
    /// there (pkg/registry/core/node/strategy.go resets the spec alone; kubelet does the same), so that label and
    /// condition never contradict each other, and a change costs one request less.
    pub fn patch(&self) -> Option<Patch> {
        let mut body = json!({ "metadata": self.metadata.clone().unwrap_or_else(|| json!({})) });
        body["metadata"]["uid"] = json!(self.uid);
        let conditions: Vec<&Value> = self.condition.iter().chain(&self.gone).collect();
        if conditions.is_empty() {
            return self.metadata.is_some().then_some(Patch { subresource: None, body });
        }
        body["status"] = json!({ "conditions": conditions });
        Some(Patch { subresource: Some("status"), body })
    }

    /// Also takes away what `node` was told as `former` and is not among `readiness`: the keys have been renamed, or one of
    /// them is no longer configured, and what stayed would go on saying what was true then.
    pub fn without(mut self, node: &Node, former: &Readiness, readiness: &Readiness) -> Change {
        let mut takes = |part: &str, key: &str| {
            let metadata = self.metadata.get_or_insert_with(|| json!({}));
            metadata[part][key] = Value::Null;
        };
        for (key, _) in &former.labels {
            let kept = readiness.labels.iter().any(|(ours, _)| ours == key);
            if !kept && node.metadata.labels.contains_key(key) {
                takes("labels", key);
            }
        }
        let (key, _) = &former.annotation;
        if *key != readiness.annotation.0 && node.metadata.annotations.contains_key(key) {
            takes("annotations", key);
        }
        let kind = &former.condition.kind;
        if *kind != readiness.condition.kind && node.status.conditions.iter().any(|there| there.kind == *kind)
        {
            // A directive of strategic merges (k8s.io/apimachinery, strategicpatch).
            self.gone = Some(json!({ "$patch": "delete", "type": kind }));
        }
        self
    }

    /// What was written, in words: "labels, annotation, condition".
    pub fn parts(&self) -> String {
        let has = |key: &str| self.metadata.as_ref().is_some_and(|metadata| metadata.get(key).is_some());
        let parts = [
            ("labels", has("labels")),
            ("annotation", has("annotations")),
            ("condition", self.condition.is_some() || self.gone.is_some()),
        ];
        let parts: Vec<&str> = parts.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
        parts.join(", ")
    }
}

/// What `node` lacks of `readiness` at the time `now`.
pub fn diff(node: &Node, readiness: &Readiness, keys: &Keys, now: Timestamp) -> Change {
    let differ =
        |there: &BTreeMap<String, String>, wanted: &[(String, String)]| -> BTreeMap<String, String> {
            wanted.iter().filter(|(key, value)| there.get(key) != Some(value)).cloned().collect()
        };
    let labels = differ(&node.metadata.labels, &readiness.labels);
    let annotations = differ(&node.metadata.annotations, std::slice::from_ref(&readiness.annotation));
    let mut metadata = json!({});
    for (key, changed) in [("labels", &labels), ("annotations", &annotations)] {
        if !changed.is_empty() {
            metadata[key] = json!(changed);
        }
    }
    let there = node.status.conditions.iter().find(|condition| condition.kind == readiness.condition.kind);
    let other_state = labels.contains_key(&keys.state());
    let before = node.metadata.labels.get(&keys.state()).cloned();
    let other_reason = there.is_some_and(|there| {
        there.status != readiness.condition.status.as_str()
            || there.reason.as_deref() != Some(&readiness.condition.reason)
    });
    Change {
        uid: node.metadata.uid.clone(),
        metadata: (!labels.is_empty() || !annotations.is_empty()).then_some(metadata),
        condition: condition(there, readiness, now),
        gone: None,
        tells: (other_state && before.is_some()) || other_reason,
        before,
    }
}

/// Our condition where it has to be written. Its times are ours to keep: `lastTransitionTime` moves only with the
/// status, and what a strategic merge does not name stays.
fn condition(there: Option<&Condition>, readiness: &Readiness, now: Timestamp) -> Option<Value> {
    let wanted = &readiness.condition;
    let same = there.is_some_and(|there| {
        there.status == wanted.status.as_str()
            && there.reason.as_deref() == Some(&wanted.reason)
            && there.message.as_deref().unwrap_or_default() == wanted.message
    });
    if same && there.is_some_and(|there| is_fresh(there.last_heartbeat_time.as_deref(), now)) {
        return None;
    }
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut condition = json!({
        "type": wanted.kind,
        "status": wanted.status.as_str(),
        "reason": wanted.reason,
        "message": wanted.message,
        "lastHeartbeatTime": now,
    });
    if there.is_none_or(|there| there.status != wanted.status.as_str()) {
        condition["lastTransitionTime"] = json!(now);
    }
    Some(condition)
}

/// When the condition of type `kind` was last said to hold, in seconds since 1970.
pub fn heartbeat(node: &Node, kind: &str) -> Option<i64> {
    let condition = node.status.conditions.iter().find(|condition| condition.kind == kind)?;
    Some(condition.last_heartbeat_time.as_deref()?.parse::<Timestamp>().ok()?.as_second())
}

fn is_fresh(heartbeat: Option<&str>, now: Timestamp) -> bool {
    let Some(Ok(beat)) = heartbeat.map(str::parse::<Timestamp>) else { return false };
    // One from the future is of another clock: it says nothing of its age.
    let age = now.as_second().saturating_sub(beat.as_second());
    (0..HEARTBEAT.as_secs() as i64).contains(&age)
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
