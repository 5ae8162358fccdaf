//! Nodes and events: what etcd and the registry's strategies are to the API server.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use nvme_agent::state::rfc3339;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;

use super::auth::User;
use super::patch;
use super::rules;
use super::status::{About, Cause, Failure};

/// Fields of a Node condition (k8s.io/api/core/v1 NodeCondition); others are dropped, as by its decoder.
const CONDITION_FIELDS: [&str; 6] =
    ["type", "status", "lastHeartbeatTime", "lastTransitionTime", "reason", "message"];

/// What a watch sends.
#[derive(Clone, Debug)]
pub struct Change {
    /// `ADDED`, `MODIFIED`, `DELETED`.
    pub kind: &'static str,
    pub node: Value,
}

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Merge,
    Strategic,
}

/// Everything that is stored.
pub struct Store {
    objects: Mutex<Objects>,
    changes: broadcast::Sender<Change>,
}

#[derive(Default)]
struct Objects {
    version: u64,
    nodes: BTreeMap<String, Value>,
    events: Vec<Value>,
}

impl Default for Store {
    fn default() -> Self {
        Store { objects: Mutex::default(), changes: broadcast::Sender::new(4096) }
    }
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn node(&self, name: &str) -> Result<Value, Failure> {
        self.lock().nodes.get(name).cloned().ok_or_else(|| missing(name))
    }

    /// All of them, or the one of this name; and the list's resource version. With what follows, nothing left out.
    pub fn list(&self, name: Option<&str>) -> (Vec<Value>, String, broadcast::Receiver<Change>) {
        let objects = self.lock();
        let nodes = objects.nodes.iter().filter(|(key, _)| name.is_none_or(|name| name == *key));
        (nodes.map(|(_, node)| node.clone()).collect(), objects.version.to_string(), self.changes.subscribe())
    }

    /// Registers a Node.
    pub fn create(&self, user: &User, mut node: Value) -> Result<Value, Failure> {
        let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        rules::admit(user, &name, None, &node)?;
        if name.is_empty() {
            return Err(Failure::invalid(
                "Node",
                "",
                &[Cause {
                    field: "metadata.name".into(),
                    value: String::new(),
                    problem: "name or generateName is required".into(),
                    reason: "FieldValueRequired",
                }],
            ));
        }
        normalize(&mut node)?;
        rules::validate(&name, &node)?;
        let mut objects = self.lock();
        if objects.nodes.contains_key(&name) {
            return Err(Failure::exists(about(&name)));
        }
        objects.version += 1;
        node["kind"] = json!("Node");
        node["apiVersion"] = json!("v1");
        node["metadata"]["uid"] = json!(uid(objects.version));
        node["metadata"]["creationTimestamp"] = json!(rfc3339(SystemTime::now()));
        node["metadata"]["resourceVersion"] = json!(objects.version.to_string());
        for part in ["spec", "status"] {
            if !node[part].is_object() {
                node[part] = json!({});
            }
        }
        // The NodeTaint admission: every Node begins so, and the node controller takes it away.
        let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
        match node["spec"]["taints"].as_array_mut() {
            Some(taints) if taints.contains(&taint) => {}
            Some(taints) => taints.push(taint),
            None => node["spec"]["taints"] = json!([taint]),
        }
        objects.nodes.insert(name, node.clone());
        let _ = self.changes.send(Change { kind: "ADDED", node: node.clone() });
        Ok(node)
    }

    pub fn delete(&self, name: &str) -> Result<Value, Failure> {
        let mut objects = self.lock();
        let node = objects.nodes.remove(name).ok_or_else(|| missing(name))?;
        objects.version += 1;
        let _ = self.changes.send(Change { kind: "DELETED", node: node.clone() });
        Ok(node)
    }

    /// Another Node of this name, that says the same.
    pub fn recreate(&self, name: &str) {
        let mut objects = self.lock();
        objects.version += 1;
        let version = objects.version;
        if let Some(node) = objects.nodes.get_mut(name) {
            node["metadata"]["uid"] = json!(uid(version));
            node["metadata"]["resourceVersion"] = json!(version.to_string());
        }
    }

    /// Patches a Node, or its status. A patch that changes nothing leaves the resource version.
    pub fn patch(
        &self,
        user: &User,
        name: &str,
        status: bool,
        kind: PatchKind,
        body: &Value,
    ) -> Result<Value, Failure> {
        self.patch_or_try(user, name, status, kind, body, false)
    }

    /// The same; one that is a dry run is judged and answered like any other, and not kept
    /// (k8s.io/apiserver/pkg/registry/generic/registry/dryrun.go).
    pub fn patch_or_try(
        &self,
        user: &User,
        name: &str,
        status: bool,
        kind: PatchKind,
        body: &Value,
        dry_run: bool,
    ) -> Result<Value, Failure> {
        let mut objects = self.lock();
        // The object is read before anything is judged: a Node that does not exist is 404, whosever it would be.
        let old = objects.nodes.get(name).cloned().ok_or_else(|| missing(name))?;
        let mut new = old.clone();
        match kind {
            PatchKind::Merge => patch::merge(&mut new, body.clone()),
            PatchKind::Strategic => {
                patch::strategic(&mut new, body.clone()).map_err(Failure::bad_request)?;
            }
        }
        if new["metadata"]["name"] != old["metadata"]["name"] {
            let found = new["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Failure::bad_request(format!(
                "the name of the object ({found}) does not match the name on the URL ({name})"
            )));
        }
        // Compared with what the patch demands, which need not name one.
        if body["metadata"]["resourceVersion"].is_string()
            && body["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]
        {
            return Err(Failure::conflict(about(name)));
        }
        normalize(&mut new)?;
        rules::admit(user, name, Some(&old), &new)?;
        // Which makes it a precondition: apimachinery, ValidateObjectMetaAccessorUpdate.
        if new["metadata"]["uid"] != old["metadata"]["uid"] {
            return Err(Failure::invalid(
                "Node",
                name,
                &[Cause {
                    field: "metadata.uid".into(),
                    value: new["metadata"]["uid"].as_str().unwrap_or_default().into(),
                    problem: "field is immutable".into(),
                    reason: "FieldValueInvalid",
                }],
            ));
        }
        // What the other endpoint is for is put back, after admission has seen it.
        let kept = if status { "spec" } else { "status" };
        new[kept] = old[kept].clone();
        for field in ["uid", "creationTimestamp", "resourceVersion"] {
            new["metadata"][field] = old["metadata"][field].clone();
        }
        rules::validate(name, &new)?;
        if new == old {
            return Ok(old);
        }
        if dry_run {
            return Ok(new);
        }
        objects.version += 1;
        new["metadata"]["resourceVersion"] = json!(objects.version.to_string());
        objects.nodes.insert(name.into(), new.clone());
        let _ = self.changes.send(Change { kind: "MODIFIED", node: new.clone() });
        Ok(new)
    }

    pub fn add_event(&self, mut event: Value) -> Value {
        let mut objects = self.lock();
        objects.version += 1;
        let metadata = &mut event["metadata"];
        if !metadata["name"].is_string() {
            let prefix = metadata["generateName"].as_str().unwrap_or_default();
            metadata["name"] = json!(format!("{prefix}{:05x}", objects.version));
        }
        metadata["uid"] = json!(uid(objects.version));
        metadata["resourceVersion"] = json!(objects.version.to_string());
        objects.events.push(event.clone());
        event
    }

    pub fn events(&self) -> Vec<Value> {
        self.lock().events.clone()
    }
}

fn about(name: &str) -> About<'_> {
    About { resource: "nodes", name }
}

fn missing(name: &str) -> Failure {
    Failure::not_found(about(name))
}

fn uid(number: u64) -> String {
    format!("6b1f3c5e-0000-4000-8000-{number:012x}")
}

/// What decoding into typed objects and encoding again does to the parts that matter here.
fn normalize(node: &mut Value) -> Result<(), Failure> {
    for map in ["labels", "annotations"] {
        match &mut node["metadata"][map] {
            Value::Object(entries) => {
                if let Some((key, _)) = entries.iter().find(|(_, value)| !value.is_string()) {
                    return Err(Failure::bad_request(format!(
                        "json: cannot unmarshal into Go struct field ObjectMeta.metadata.{map} of type string: {key}"
                    )));
                }
            }
            Value::Null => {}
            _ => return Err(Failure::bad_request(format!("metadata.{map}: expected a map"))),
        }
        if node["metadata"][map].as_object().is_none_or(Map::is_empty)
            && let Some(metadata) = node["metadata"].as_object_mut()
        {
            metadata.remove(map);
        }
    }
    if !node["status"].is_object() {
        return Ok(());
    }
    if let Some(conditions) = node["status"]["conditions"].as_array_mut() {
        conditions.iter_mut().try_for_each(normalize_condition)?;
    } else if let Some(status) = node["status"].as_object_mut() {
        status.remove("conditions");
    }
    Ok(())
}

fn normalize_condition(condition: &mut Value) -> Result<(), Failure> {
    let Some(fields) = condition.as_object_mut() else {
        return Err(Failure::bad_request("status.conditions: expected objects"));
    };
    fields.retain(|key, value| CONDITION_FIELDS.contains(&key.as_str()) && !value.is_null());
    for field in ["lastHeartbeatTime", "lastTransitionTime"] {
        let time = match fields.get(field) {
            None => Value::Null,
            Some(Value::String(text)) => json!(whole_seconds(text).ok_or_else(|| {
                Failure::bad_request(format!("status.conditions.{field}: parsing time {text:?}"))
            })?),
            Some(_) => {
                return Err(Failure::bad_request(format!("status.conditions.{field}: expected a time")));
            }
        };
        fields.insert(field.into(), time);
    }
    Ok(())
}

/// metav1.Time knows whole seconds and writes them in UTC. Here only UTC is understood.
fn whole_seconds(text: &str) -> Option<String> {
    let time = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00"))?;
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let shape = whole.len() == 19
        && whole
            .bytes()
            .zip(b"0000-00-00T00:00:00")
            .all(|(a, b)| if *b == b'0' { a.is_ascii_digit() } else { a == *b });
    (shape && !fraction.is_empty() && digits(fraction)).then(|| format!("{whole}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_in_whole_seconds() {
        assert_eq!(whole_seconds("2026-01-02T03:04:05.678901Z").as_deref(), Some("2026-01-02T03:04:05Z"));
        assert_eq!(whole_seconds("2026-01-02T03:04:05+00:00").as_deref(), Some("2026-01-02T03:04:05Z"));
        for bad in
            ["", "now", "2026-01-02", "2026-01-02 03:04:05Z", "2026-01-02T03:04:05", "2026-01-02T03:04:05.Z"]
        {
            assert_eq!(whole_seconds(bad), None, "{bad}");
        }
    }
}
