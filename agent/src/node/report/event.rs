//! The Event about a change: `kubectl describe node` and whoever watches Events see it.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::node::Readiness;
use crate::state::{Health, State, rfc3339};

/// An Event's name is a DNS subdomain of at most 253 bytes; our part of it is at most 20.
const NAME_PART: usize = 230;
/// Longest message that the API takes (validation of Events), in bytes.
const MESSAGE_MAX: usize = 1024;

/// That `node` (with `uid`) went from `before` to `state`.
pub fn event(
    node: &str,
    uid: &str,
    before: Option<&str>,
    state: &State,
    readiness: &Readiness,
    now: SystemTime,
) -> Value {
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = rfc3339(now);
    let change = match before {
        Some(before) if before != state.state.as_str() => format!("{before} -> {}", state.state),
        _ => state.state.to_string(),
    };
    let mut message = format!("local storage {change}: {}", readiness.condition.message);
    let end = (0..=MESSAGE_MAX.min(message.len())).rev().find(|end| message.is_char_boundary(*end));
    message.truncate(end.unwrap_or_default());
    // Unique as client-go makes it: the object's name and the time.
    let part: String = node.chars().take(NAME_PART).collect();
    let name = format!("{}.{:x}", part.trim_end_matches(['.', '-']), since_epoch.as_nanos() as u64);
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": name, "namespace": "default" },
        "involvedObject": { "apiVersion": "v1", "kind": "Node", "name": node, "uid": uid },
        "type": if matches!(state.state, Health::Ready | Health::Absent) { "Normal" } else { "Warning" },
        "reason": readiness.condition.reason,
        "message": message,
        "source": { "component": "nvme-agent", "host": node },
        "reportingComponent": "nvme-agent",
        "reportingInstance": node,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Keys;

    #[test]
    fn it_names_node_change_and_device_and_fits() {
        let state = State {
            state: Health::Failed,
            reason: "DriveLost".into(),
            message: format!("drive AWS1 is gone{}", " \u{e4}".repeat(1000)),
            ..State::default()
        };
        let said = Readiness::of(&state, &Keys::default(), "");
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1);
        let long = format!("{}.b", "a".repeat(250));
        let event = event(&long, "uid-1", Some("ready"), &state, &said, now);
        assert_eq!(event["involvedObject"]["uid"], "uid-1");
        assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("DriveLost")));
        let message = event["message"].as_str().unwrap();
        assert!(message.starts_with("local storage ready -> failed: drive AWS1 is gone"), "{message}");
        assert!(message.len() <= 1024);
        let name = event["metadata"]["name"].as_str().unwrap();
        assert!(name.len() <= 253 && name.ends_with("a.3b9aca00"), "{name}");
    }
}
