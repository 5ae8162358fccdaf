//! What an API server lets kubelet's credentials do: the table in facts.md section 5, row by row, by a plain client.

use std::sync::Arc;

use lab::apiserver::client::{APPLY, Client, Credential, MERGE, Reply, STRATEGIC};
use lab::apiserver::cluster::{Cluster, kubelet_conditions};
use lab::apiserver::pki::Pair;
use serde_json::{Value, json};

const STATE: &str = "nvme-agent.e6data.com/state";

/// A Node of its own, and kubelet's client.
struct Own {
    name: String,
    kubelet: Client,
    path: String,
}

impl Own {
    fn new(cluster: &Cluster) -> Own {
        let (name, pair) = cluster.register().unwrap();
        let path = format!("/api/v1/nodes/{name}");
        Own { name, kubelet: kubelet(cluster, pair), path }
    }

    fn patch(&self, kind: &str, body: &Value) -> Reply {
        self.kubelet.patch(&self.path, kind, body).unwrap()
    }

    fn patch_status(&self, kind: &str, body: &Value) -> Reply {
        self.kubelet.patch(&format!("{}/status", self.path), kind, body).unwrap()
    }
}

fn kubelet(cluster: &Cluster, pair: Arc<Pair>) -> Client {
    cluster.client(Credential::Certificate(pair))
}

fn labels(labels: Value) -> Value {
    json!({"metadata": {"labels": labels}})
}

/// A refusal as Kubernetes words it.
fn refused(reply: &Reply, code: u16, reason: &str, words: &str) {
    assert_eq!(reply.code, code, "{}", reply.text);
    assert_eq!(reply.body["kind"], "Status", "{}", reply.text);
    assert_eq!(reply.body["status"], "Failure", "{}", reply.text);
    assert_eq!(reply.body["reason"], reason, "{}", reply.text);
    assert_eq!(reply.body["code"], code, "{}", reply.text);
    assert!(reply.message().contains(words), "no `{words}` in {}", reply.text);
}

/// Type and status of all conditions, sorted.
fn conditions(node: &Value) -> Vec<(String, String)> {
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let mut all: Vec<(String, String)> = node["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|condition| (text(condition, "type"), text(condition, "status")))
        .collect();
    all.sort();
    all
}

fn ours(status: &str) -> Value {
    json!({"status": {"conditions": [{
        "type": "nvme-agent.e6data.com/LocalStorageReady", "status": status, "reason": "SetupComplete", "message": "-",
        "lastHeartbeatTime": "2026-01-02T03:04:05Z", "lastTransitionTime": "2026-01-02T03:04:05Z",
    }]}})
}

pub fn own_labels_and_annotations_by_either_patch(cluster: &Cluster) {
    let own = Own::new(cluster);
    for (kind, state) in [(MERGE, "ready"), (STRATEGIC, "failed")] {
        let detail = format!("{{\"reason\":\"by {kind}\"}}");
        let body = json!({"metadata": {"labels": {STATE: state}, "annotations": {"nvme-agent.e6data.com/detail": detail}}});
        let reply = own.patch(kind, &body);
        assert_eq!(reply.code, 200, "{}", reply.text);
        let node = cluster.node(&own.name).unwrap();
        assert_eq!(node["metadata"]["labels"][STATE], state);
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/os"], "linux", "others stay");
        assert_eq!(node["metadata"]["annotations"]["nvme-agent.e6data.com/detail"], detail);
    }
}

pub fn a_patch_that_changes_nothing_keeps_the_resource_version(cluster: &Cluster) {
    let own = Own::new(cluster);
    let version = |reply: &Reply| reply.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let before = version(&own.kubelet.get(&own.path).unwrap());
    let first = own.patch(MERGE, &labels(json!({STATE: "ready"})));
    assert_ne!(version(&first), before);
    for kind in [MERGE, STRATEGIC] {
        assert_eq!(version(&own.patch(kind, &labels(json!({STATE: "ready"})))), version(&first), "{kind}");
    }
    let first = own.patch_status(STRATEGIC, &ours("True"));
    assert_eq!(version(&own.patch_status(STRATEGIC, &ours("True"))), version(&first));
}

pub fn a_patch_as_a_dry_run_is_judged_and_not_kept(cluster: &Cluster) {
    let own = Own::new(cluster);
    let before = cluster.node(&own.name).unwrap();
    let dry = |path: &str, body: &Value, value: &str| {
        own.kubelet.patch(&format!("{path}?dryRun={value}"), STRATEGIC, body).unwrap()
    };
    let reply = dry(&own.path, &labels(json!({STATE: "ready"})), "All");
    assert_eq!(
        (reply.code, &reply.body["metadata"]["labels"][STATE]),
        (200, &json!("ready")),
        "{}",
        reply.text
    );
    let reply = dry(&format!("{}/status", own.path), &ours("True"), "All");
    assert_eq!(
        (reply.code, conditions(&reply.body).len()),
        (200, conditions(&before).len() + 1),
        "{}",
        reply.text
    );
    let reserved = dry(&own.path, &labels(json!({"node-restriction.kubernetes.io/x": "y"})), "All");
    refused(&reserved, 403, "Forbidden", "is not allowed to modify labels");
    let unknown = dry(&own.path, &labels(json!({STATE: "ready"})), "Some");
    refused(&unknown, 422, "Invalid", "dryRun");
    assert_eq!(cluster.node(&own.name).unwrap(), before);
}

pub fn an_apply_is_merged_and_keeps_the_resource_version_where_nothing_changes(cluster: &Cluster) {
    let own = Own::new(cluster);
    let mut body = labels(json!({STATE: "ready"}));
    body["apiVersion"] = json!("v1");
    body["kind"] = json!("Node");
    body["metadata"]["name"] = json!(own.name);
    let apply = |body: &Value| {
        let path = format!("{}?fieldManager=nvme-agent", own.path);
        own.kubelet.patch(&path, APPLY, body).unwrap()
    };
    let first = apply(&body);
    assert_eq!(
        (first.code, &first.body["metadata"]["labels"][STATE]),
        (200, &json!("ready")),
        "{}",
        first.text
    );
    assert_eq!(first.body["metadata"]["labels"]["kubernetes.io/os"], "linux", "others stay");
    let version = &first.body["metadata"]["resourceVersion"];
    assert_eq!(&apply(&body).body["metadata"]["resourceVersion"], version);
    assert_eq!(own.patch(APPLY, &body).code, 422, "without a field manager");
    body["metadata"]["labels"] = json!({"node-restriction.kubernetes.io/nvme": "x"});
    refused(&apply(&body), 403, "Forbidden", "is not allowed to modify labels");
}

pub fn a_null_takes_a_label_away(cluster: &Cluster) {
    let own = Own::new(cluster);
    for kind in [MERGE, STRATEGIC] {
        assert_eq!(own.patch(kind, &labels(json!({STATE: "ready", "kept": "yes"}))).code, 200);
        let reply = own.patch(kind, &labels(json!({STATE: null, "never-there": null})));
        assert_eq!(reply.code, 200, "{}", reply.text);
        let all = reply.body["metadata"]["labels"].as_object().unwrap();
        assert!(!all.contains_key(STATE) && !all.contains_key("never-there"), "{all:?}");
        assert_eq!(all["kept"], "yes");
    }
}

pub fn reserved_labels_are_403(cluster: &Cluster) {
    let own = Own::new(cluster);
    for key in ["kubernetes.io/nvme", "storage.k8s.io/nvme", "node-restriction.kubernetes.io/nvme"] {
        for kind in [MERGE, STRATEGIC] {
            let reply = own.patch(kind, &labels(json!({key: "x", STATE: "ready"})));
            refused(&reply, 403, "Forbidden", &format!("is not allowed to modify labels: {key}"));
        }
    }
    // kubelet's own list.
    assert_eq!(own.patch(MERGE, &labels(json!({"node.kubernetes.io/nvme": "x"}))).code, 200);
    let node = cluster.node(&own.name).unwrap();
    assert_eq!(node["metadata"]["labels"][STATE], Value::Null, "nothing of a refused patch is done");
}

pub fn a_value_with_a_space_is_422(cluster: &Cluster) {
    let own = Own::new(cluster);
    let reply = own.patch(MERGE, &labels(json!({STATE: "not ready"})));
    refused(
        &reply,
        422,
        "Invalid",
        "a valid label must be an empty string or consist of alphanumeric characters",
    );
    assert_eq!(reply.body["details"]["kind"], "Node");
    assert_eq!(reply.body["details"]["causes"][0]["field"], "metadata.labels");
}

pub fn taints_are_403_with_and_without_a_label(cluster: &Cluster) {
    let own = Own::new(cluster);
    let taints = json!([{"key": "nvme-agent.e6data.com/failed", "effect": "NoSchedule"}]);
    let with_label = json!({"metadata": {"labels": {STATE: "ready"}}, "spec": {"taints": taints}});
    // Registration leaves not-ready: taking it away is a change, too.
    for body in [json!({"spec": {"taints": taints}}), with_label, json!({"spec": {"taints": null}})] {
        for kind in [MERGE, STRATEGIC] {
            refused(&own.patch(kind, &body), 403, "Forbidden", "is not allowed to modify taints");
        }
        refused(&own.patch_status(STRATEGIC, &body), 403, "Forbidden", "is not allowed to modify taints");
    }
}

pub fn another_node_is_403_and_one_that_does_not_exist_404(cluster: &Cluster) {
    let own = Own::new(cluster);
    let other = Own::new(cluster);
    let missing = cluster.fresh_name();
    for status in ["", "/status"] {
        let patch = |name: &str| {
            let path = format!("/api/v1/nodes/{name}{status}");
            own.kubelet.patch(&path, STRATEGIC, &labels(json!({STATE: "ready"}))).unwrap()
        };
        refused(&patch(&other.name), 403, "Forbidden", "is not allowed to modify node");
        refused(&patch(&missing), 404, "NotFound", &format!("nodes \"{missing}\" not found"));
    }
    // Its own, before it is registered: what `--wait` sees.
    let pair = Arc::new(cluster.pki().client(&lab::apiserver::auth::User::node(&missing)).unwrap());
    let reply = kubelet(cluster, pair).get(&format!("/api/v1/nodes/{missing}")).unwrap();
    refused(&reply, 404, "NotFound", "not found");
}

pub fn conditions_merge_by_type_in_a_strategic_patch(cluster: &Cluster) {
    let own = Own::new(cluster);
    let before = cluster.node(&own.name).unwrap();
    let mut expected = conditions(&before);
    for status in ["True", "False"] {
        let reply = own.patch_status(STRATEGIC, &ours(status));
        assert_eq!(reply.code, 200, "{}", reply.text);
        expected.retain(|(kind, _)| !kind.starts_with("nvme-agent"));
        expected.push(("nvme-agent.e6data.com/LocalStorageReady".into(), status.into()));
        expected.sort();
        assert_eq!(conditions(&cluster.node(&own.name).unwrap()), expected);
    }
    let node = cluster.node(&own.name).unwrap();
    let kubelets = |node: &Value| {
        let all = node["status"]["conditions"].as_array().unwrap().clone();
        let named = |kind: &str| all.iter().find(|condition| condition["type"] == kind).cloned();
        ["Ready", "DiskPressure", "MemoryPressure", "PIDPressure"].map(named)
    };
    assert_eq!(kubelets(&node), kubelets(&before), "every field of kubelet's own");
    assert_eq!(kubelet_conditions().as_array().unwrap().len() + 1, expected.len());
}

pub fn conditions_are_replaced_by_a_merge_patch(cluster: &Cluster) {
    let own = Own::new(cluster);
    let reply = own.patch_status(MERGE, &ours("True"));
    assert_eq!(reply.code, 200, "{}", reply.text);
    let expected = [("nvme-agent.e6data.com/LocalStorageReady".to_owned(), "True".to_owned())];
    assert_eq!(
        conditions(&cluster.node(&own.name).unwrap()),
        expected,
        "which is why the agent never sends one"
    );
}

pub fn metadata_may_go_with_the_status_and_spec_stays(cluster: &Cluster) {
    let own = Own::new(cluster);
    let mut body = ours("True");
    body["metadata"] = json!({"labels": {STATE: "ready"}});
    body["spec"] = json!({"unschedulable": true});
    assert_eq!(own.patch_status(STRATEGIC, &body).code, 200);
    let node = cluster.node(&own.name).unwrap();
    assert_eq!(node["metadata"]["labels"][STATE], "ready");
    assert_eq!(node["spec"]["unschedulable"], Value::Null);
    // And the other way round: the status is not touched by a patch of the Node.
    assert_eq!(own.patch(STRATEGIC, &ours("False")).code, 200);
    let expected = ("nvme-agent.e6data.com/LocalStorageReady".to_owned(), "True".to_owned());
    assert!(conditions(&cluster.node(&own.name).unwrap()).contains(&expected));
}

pub fn a_stale_resource_version_is_409(cluster: &Cluster) {
    let own = Own::new(cluster);
    let version = cluster.node(&own.name).unwrap()["metadata"]["resourceVersion"].clone();
    assert_eq!(own.patch(MERGE, &labels(json!({STATE: "failed"}))).code, 200);
    let body = json!({"metadata": {"resourceVersion": version, "labels": {STATE: "ready"}}});
    refused(&own.patch(MERGE, &body), 409, "Conflict", "the object has been modified");
}

pub fn another_uid_is_422_and_the_own_changes_nothing(cluster: &Cluster) {
    let own = Own::new(cluster);
    let node = cluster.node(&own.name).unwrap();
    let with = |uid: &Value, state: &str| json!({"metadata": {"uid": uid, "labels": {STATE: state}}});
    let other = json!("6b1f3c5e-ffff-4000-8000-000000000000");
    let path = format!("{}/status", own.path);
    for path in [&own.path, &path] {
        let answer = own.kubelet.patch(path, STRATEGIC, &with(&other, "failed")).unwrap();
        refused(&answer, 422, "Invalid", "metadata.uid: Invalid value");
    }
    assert_eq!(cluster.node(&own.name).unwrap(), node);
    assert_eq!(own.patch(STRATEGIC, &with(&node["metadata"]["uid"], "failed")).code, 200);
}

pub fn only_the_own_node_can_be_read(cluster: &Cluster) {
    let own = Own::new(cluster);
    let other = Own::new(cluster);
    let get = |path: &str| own.kubelet.get(path).unwrap();
    let node = get(&own.path);
    assert_eq!((node.code, &node.body["metadata"]["name"]), (200, &json!(own.name)));
    assert_eq!(node.body["kind"], "Node");
    refused(
        &get(&other.path),
        403,
        "Forbidden",
        "cannot get resource \"nodes\" in API group \"\" at the cluster scope",
    );
    refused(&get("/api/v1/nodes"), 403, "Forbidden", "cannot list resource \"nodes\"");
    let list = get(&format!("/api/v1/nodes?fieldSelector=metadata.name%3D{}", own.name));
    assert_eq!((list.code, &list.body["kind"]), (200, &json!("NodeList")), "{}", list.text);
    let names: Vec<&Value> =
        list.body["items"].as_array().unwrap().iter().map(|node| &node["metadata"]["name"]).collect();
    assert_eq!(names, [&json!(own.name)]);
    let list = get(&format!("/api/v1/nodes?fieldSelector=metadata.name%3D{}", other.name));
    refused(&list, 403, "Forbidden", "cannot list resource \"nodes\"");
}

pub fn the_own_node_can_be_watched(cluster: &Cluster) {
    let own = Own::new(cluster);
    let (kubelet, path) = (own.kubelet.clone(), own.path.clone());
    let change = move || {
        kubelet.patch(&path, MERGE, &labels(json!({STATE: "ready"}))).unwrap();
    };
    let path =
        format!("/api/v1/nodes?watch=true&timeoutSeconds=60&fieldSelector=metadata.name%3D{}", own.name);
    let events = own.kubelet.watch(&path, 2, change).unwrap();
    assert_eq!(events[0]["type"], "ADDED");
    assert_eq!(events[1]["type"], "MODIFIED");
    assert_eq!(events[1]["object"]["metadata"]["labels"][STATE], "ready");
    let reply = own.kubelet.get("/api/v1/nodes?watch=true&timeoutSeconds=60").unwrap();
    refused(&reply, 403, "Forbidden", "cannot watch resource \"nodes\"");
}

pub fn a_bad_token_is_401_and_no_credentials_403(cluster: &Cluster) {
    let own = Own::new(cluster);
    let bad = cluster.client(Credential::Token("no-such-token".into()));
    refused(&bad.get(&own.path).unwrap(), 401, "Unauthorized", "Unauthorized");
    let expired = cluster.pki().expired_client(&lab::apiserver::auth::User::node(&own.name)).unwrap();
    let expired = kubelet(cluster, Arc::new(expired));
    refused(&expired.get(&own.path).unwrap(), 401, "Unauthorized", "Unauthorized");
    let nobody = cluster.client(Credential::Nothing);
    refused(
        &nobody.get(&own.path).unwrap(),
        403,
        "Forbidden",
        "User \"system:anonymous\" cannot get resource",
    );
}

pub fn a_good_token_is_the_node(cluster: &Cluster) {
    let (name, token) = cluster.with_token().unwrap();
    cluster.register_as(&name).unwrap();
    let kubelet = cluster.client(Credential::Token(token));
    let reply =
        kubelet.patch(&format!("/api/v1/nodes/{name}"), MERGE, &labels(json!({STATE: "ready"}))).unwrap();
    assert_eq!(reply.code, 200, "{}", reply.text);
}

pub fn events_may_be_made_but_not_read(cluster: &Cluster) {
    let own = Own::new(cluster);
    let path = "/api/v1/namespaces/default/events";
    let event = json!({
        "metadata": {"generateName": "nvme-agent-", "namespace": "default"},
        "involvedObject": {"kind": "Node", "apiVersion": "v1", "name": own.name, "uid": own.name},
        "reason": "LocalStorageFailed", "message": "-", "type": "Warning", "source": {"component": "nvme-agent"},
    });
    let reply = own.kubelet.post(path, &event).unwrap();
    assert_eq!(reply.code, 201, "{}", reply.text);
    let newer = json!({
        "metadata": {"generateName": "nvme-agent-", "namespace": "default"},
        "regarding": {"kind": "Node", "apiVersion": "v1", "name": own.name},
        "eventTime": "2026-01-02T03:04:05.000000Z", "action": "Report", "reason": "LocalStorageReady",
        "note": "-", "type": "Normal", "reportingController": "nvme-agent.e6data.com/report",
        "reportingInstance": own.name,
    });
    let group = "/apis/events.k8s.io/v1/namespaces/default/events";
    let reply = own.kubelet.post(group, &newer).unwrap();
    assert_eq!(reply.code, 201, "{}", reply.text);
    assert_eq!(cluster.events(&own.name).unwrap().len(), 2);
    let mut nameless = newer.clone();
    nameless["action"] = Value::Null;
    assert_eq!(own.kubelet.post(group, &nameless).unwrap().code, 422);
    // What is in no namespace has its events in default only.
    let elsewhere = "/api/v1/namespaces/kube-system/events";
    let mut event = event.clone();
    event["metadata"]["namespace"] = json!("kube-system");
    assert_eq!(own.kubelet.post(elsewhere, &event).unwrap().code, 422);
    refused(&own.kubelet.get(path).unwrap(), 403, "Forbidden", "cannot list resource \"events\"");
}

pub fn http1_is_spoken_too(cluster: &Cluster) {
    let (name, pair) = cluster.register().unwrap();
    let kubelet = kubelet(cluster, pair).http1();
    let path = format!("/api/v1/nodes/{name}");
    let reply = kubelet.patch(&path, STRATEGIC, &labels(json!({STATE: "ready"}))).unwrap();
    assert_eq!(
        (reply.code, &reply.body["metadata"]["labels"][STATE]),
        (200, &json!("ready")),
        "{}",
        reply.text
    );
}

pub fn an_unknown_patch_type_is_415(cluster: &Cluster) {
    let own = Own::new(cluster);
    let reply = own.patch("application/json", &labels(json!({STATE: "ready"})));
    refused(&reply, 415, "UnsupportedMediaType", "the body of the request was in an unknown format");
}
