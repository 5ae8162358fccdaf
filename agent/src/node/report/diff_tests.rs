//! What a patch names, and what it leaves alone.

use proptest::prelude::*;

use super::*;
use crate::state::{Health, State};

const NOW: &str = "2026-07-26T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn readiness(health: Health, reason: &str, message: &str) -> Readiness {
    let state = State {
        state: health,
        reason: reason.into(),
        message: message.into(),
        layout: "raid0".into(),
        drives: 2,
        capacity_gib: 100,
        ..State::default()
    };
    Readiness::of(&state, &Keys::default(), "")
}

/// A Node as kubelet and a person left it.
fn registered() -> Node {
    serde_json::from_value(json!({
        "kind": "Node",
        "metadata": {
            "name": "n",
            "uid": "u",
            "labels": { "kubernetes.io/arch": "arm64", "team": "blue", "nvme-agent.e6data.com/profile": "theirs" },
            "annotations": { "note": "mine" },
        },
        "spec": { "taints": [{ "key": "karpenter.sh/unregistered", "effect": "NoExecute" }] },
        "status": { "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": NOW }], "images": [] },
    }))
    .unwrap()
}

/// `node` after a strategic merge of `patch`, as far as we look at it.
fn merged(mut node: Node, patch: &Patch) -> Node {
    let entries = |key: &str| -> BTreeMap<String, String> {
        serde_json::from_value(patch.body["metadata"][key].clone()).unwrap_or_default()
    };
    node.metadata.labels.extend(entries("labels"));
    node.metadata.annotations.extend(entries("annotations"));
    for new in patch.body["status"]["conditions"].as_array().into_iter().flatten() {
        let kind = new["type"].as_str().unwrap();
        let mut there = serde_json::Map::new();
        if let Some(at) = node.status.conditions.iter().position(|c| c.kind == kind) {
            let old = node.status.conditions.remove(at);
            there.insert("lastHeartbeatTime".into(), json!(old.last_heartbeat_time));
        }
        there.extend(new.as_object().unwrap().clone());
        node.status.conditions.push(serde_json::from_value(Value::Object(there)).unwrap());
    }
    node
}

fn told(readiness: &Readiness) -> Node {
    let node = registered();
    let patch = diff(&node, readiness, &Keys::default(), now()).patch().unwrap();
    merged(node, &patch)
}

#[test]
fn a_first_report_is_one_patch_of_our_own_keys_through_the_status() {
    let change =
        diff(&registered(), &readiness(Health::Ready, "SetupComplete", "ok"), &Keys::default(), now());
    assert_eq!((change.before.as_deref(), change.tells), (None, false));
    assert_eq!(change.parts(), "labels, annotation, condition");
    let patch = change.patch().unwrap();
    assert_eq!(patch.subresource, Some("status"));
    assert_eq!(
        patch.body,
        json!({
            "metadata": {
                "uid": "u",
                "labels": {
                    "nvme-agent.e6data.com/state": "ready",
                    "nvme-agent.e6data.com/layout": "raid0",
                    "nvme-agent.e6data.com/drives": "2",
                    "nvme-agent.e6data.com/capacity-gib": "100",
                },
                "annotations": {
                    "nvme-agent.e6data.com/detail":
                        "{\"reason\":\"SetupComplete\",\"since\":\"\",\"serials\":[],\"agent\":\"\"}",
                },
            },
            "status": {
                "conditions": [{
                    "type": "nvme-agent.e6data.com/LocalStorageReady",
                    "status": "True",
                    "reason": "SetupComplete",
                    "message": "ok",
                    "lastHeartbeatTime": NOW,
                    "lastTransitionTime": NOW,
                }],
            },
        })
    );
}

#[test]
fn what_was_told_is_not_told_again() {
    let ready = readiness(Health::Ready, "SetupComplete", "ok");
    let node = told(&ready);
    assert_eq!(diff(&node, &ready, &Keys::default(), now()).patch(), None);
}

#[test]
fn the_registered_state_turning_true_is_a_change_that_is_told() {
    let mut node = registered();
    node.metadata.labels.insert("nvme-agent.e6data.com/state".into(), "failed".into());
    let change = diff(&node, &readiness(Health::Ready, "SetupComplete", "ok"), &Keys::default(), now());
    assert_eq!((change.before.as_deref(), change.tells), (Some("failed"), true));
}

#[test]
fn transition_time_moves_with_the_status_only() {
    let later: Timestamp = "2026-07-26T12:10:00Z".parse().unwrap();
    let node = told(&readiness(Health::Ready, "SetupComplete", "ok"));
    let condition = |readiness: &Readiness| {
        let change = diff(&node, readiness, &Keys::default(), later);
        (change.condition.unwrap(), change.tells)
    };
    let (degraded, tells) = condition(&readiness(Health::Degraded, "PersistenceMissing", "x"));
    assert_eq!((degraded["status"].as_str(), tells), (Some("True"), true));
    assert_eq!(degraded.get("lastTransitionTime"), None);
    assert_eq!(degraded["lastHeartbeatTime"], "2026-07-26T12:10:00Z");
    let (failed, tells) = condition(&readiness(Health::Failed, "DriveLost", "drive A is gone"));
    assert_eq!((failed["status"].as_str(), tells), (Some("False"), true));
    assert_eq!(failed["lastTransitionTime"], "2026-07-26T12:10:00Z");
    // Another device, the same reason: written, but no Event.
    let (message, tells) = condition(&readiness(Health::Ready, "SetupComplete", "other"));
    assert_eq!((message["message"].as_str(), tells), (Some("other"), false));
}

#[test]
fn a_label_that_somebody_took_away_comes_back_alone_and_not_through_the_status() {
    let ready = readiness(Health::Ready, "SetupComplete", "ok");
    let mut node = told(&ready);
    node.metadata.labels.remove("nvme-agent.e6data.com/drives");
    let change = diff(&node, &ready, &Keys::default(), now());
    let patch = change.patch().unwrap();
    assert_eq!(patch.subresource, None);
    assert_eq!(
        patch.body,
        json!({ "metadata": { "uid": "u", "labels": { "nvme-agent.e6data.com/drives": "2" } } })
    );
    assert!(!change.tells);
}

#[test]
fn keys_of_before_go_in_the_same_patch_but_not_those_that_stay_or_are_not_there() {
    let state = State { state: Health::Ready, reason: "SetupComplete".into(), ..State::default() };
    let of = |names: &str, profile: &str| {
        let keys = Keys::default().renamed(names).unwrap();
        (Readiness::of(&state, &keys, profile), keys)
    };
    let (former, _) = of("", "trino");
    let (readiness, keys) = of("state=local,detail=x.example/detail,LocalStorageReady=x.example/Ready", "");
    let mut node = told(&former);
    node.metadata.labels.remove("nvme-agent.e6data.com/profile");
    let change = diff(&node, &readiness, &keys, now()).without(&node, &former, &readiness);
    let body = change.patch().unwrap().body;
    assert_eq!(
        body["metadata"]["labels"],
        json!({ "nvme-agent.e6data.com/local": "ready", "nvme-agent.e6data.com/state": null })
    );
    let annotations = body["metadata"]["annotations"].as_object().unwrap();
    assert_eq!(annotations["nvme-agent.e6data.com/detail"], Value::Null);
    assert!(annotations["x.example/detail"].is_string());
    let conditions = body["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions[0]["type"], "x.example/Ready");
    let gone = json!({ "$patch": "delete", "type": "nvme-agent.e6data.com/LocalStorageReady" });
    assert_eq!(conditions[1..], [gone]);
    // One key alone goes without the status.
    let (with, _) = of("", "trino");
    let (without, keys) = of("", "");
    let change = diff(&told(&with), &without, &keys, now()).without(&told(&with), &with, &without);
    let patch = change.patch().unwrap();
    assert_eq!(patch.subresource, None);
    assert_eq!(patch.body["metadata"]["labels"], json!({ "nvme-agent.e6data.com/profile": null }));
    // Once gone, nothing is left to do.
    let mut node = told(&with);
    node.metadata.labels.remove("nvme-agent.e6data.com/profile");
    assert!(diff(&node, &without, &keys, now()).without(&node, &with, &without).is_empty());
}

#[test]
fn the_heartbeat_is_renewed_before_it_is_an_hour_old() {
    let ready = readiness(Health::Ready, "SetupComplete", "ok");
    let node = told(&ready);
    let at = |time: &str| diff(&node, &ready, &Keys::default(), time.parse().unwrap()).patch();
    assert_eq!(at("2026-07-26T12:53:59Z"), None);
    let patch = at("2026-07-26T12:54:00Z").unwrap();
    assert_eq!(patch.body["status"]["conditions"][0]["lastHeartbeatTime"], "2026-07-26T12:54:00Z");
    assert_eq!(patch.body["metadata"], json!({ "uid": "u" }));
    // Of a clock that was wrong: nothing tells how old it is.
    assert!(at("2026-07-26T11:00:00Z").is_some());
}

/// Few enough to meet each other.
fn names() -> impl Strategy<Value = BTreeMap<String, String>> {
    let key = prop_oneof!["[a-c]", "(nvme-agent.e6data.com|example.com)/(state|drives|detail|layout)"];
    proptest::collection::btree_map(key, "[a-z]{0,3}", 0..6)
}

proptest! {
    #[test]
    fn whatever_a_node_says_one_patch_is_enough_and_touches_nothing_of_others(
        labels in names(),
        annotations in names(),
        statuses in proptest::collection::vec("True|False|Unknown|", 0..3),
        failed in any::<bool>(),
    ) {
        let mut node = registered();
        node.metadata.labels.extend(labels);
        node.metadata.annotations.extend(annotations);
        for (n, status) in statuses.into_iter().enumerate() {
            let kind = if n == 0 { Keys::default().condition() } else { format!("Other{n}") };
            let last_heartbeat_time = Some(NOW.to_owned());
            node.status.conditions.push(Condition { kind, status, last_heartbeat_time, ..Condition::default() });
        }
        let wanted = readiness(if failed { Health::Failed } else { Health::Ready }, "Reason", "message");
        let patch = diff(&node, &wanted, &Keys::default(), now()).patch().unwrap();
        let ours = |key: &String| key.starts_with("nvme-agent.e6data.com/") && !key.ends_with("/profile");
        for key in ["labels", "annotations"] {
            for (key, _) in patch.body["metadata"][key].as_object().into_iter().flatten() {
                prop_assert!(ours(key), "{key}");
            }
        }
        prop_assert_eq!(patch.body.get("spec"), None);
        let conditions = patch.body["status"]["conditions"].as_array().map_or(0, Vec::len);
        prop_assert!(conditions <= 1);
        let after = merged(node.clone(), &patch);
        prop_assert_eq!(diff(&after, &wanted, &Keys::default(), now()).patch(), None);
        let others = |node: &Node| {
            let labels: BTreeMap<_, _> = node.metadata.labels.clone().into_iter().filter(|(key, _)| !ours(key)).collect();
            let mut kinds: Vec<String> = node.status.conditions.iter().map(|c| c.kind.clone()).collect();
            kinds.sort();
            kinds.retain(|kind| *kind != Keys::default().condition());
            (labels, kinds)
        };
        prop_assert_eq!(others(&node), others(&after));
    }
}
