//! Paths to what they mean: nodes, nodes/status, events, the health of the server.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::auth::User;
use super::body::Answer;
use super::rules::{self, Attributes};
use super::status::{Cause, Failure};
use super::store::{Change, PatchKind, Store};

/// A watch without `timeoutSeconds` ends after this.
const WATCH_TIME: Duration = Duration::from_secs(300);

/// A request that has been read.
pub struct Request<'a> {
    pub user: &'a User,
    pub method: &'a Method,
    pub path: &'a str,
    pub query: &'a str,
    pub headers: &'a HeaderMap,
    pub body: &'a Bytes,
}

/// What is answered: an object, or a watch.
pub enum Reply {
    Object(StatusCode, Value),
    Watch(Answer),
}

/// Answers a request.
///
/// # Errors
/// Whatever the API server would refuse it with.
pub fn answer(store: &Store, request: &Request<'_>) -> Result<Reply, Failure> {
    let segments: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        ["healthz" | "readyz" | "livez"] => Ok(Reply::Object(StatusCode::OK, json!("ok"))),
        ["version"] => Ok(Reply::Object(
            StatusCode::OK,
            json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0-test", "platform": "linux/amd64"}),
        )),
        ["api", "v1", "nodes"] => nodes(store, request),
        ["api", "v1", "nodes", name] => node(store, request, name, false),
        ["api", "v1", "nodes", name, "status"] => node(store, request, name, true),
        ["api", "v1", "namespaces", namespace, "events"] => events(store, request, "", namespace),
        ["apis", "events.k8s.io", "v1", "namespaces", namespace, "events"] => {
            events(store, request, "events.k8s.io", namespace)
        }
        _ => Err(Failure::no_such_path()),
    }
}

fn nodes(store: &Store, request: &Request<'_>) -> Result<Reply, Failure> {
    if request.method == Method::POST {
        let attributes = Attributes { verb: "create", resource: "nodes", group: "", name: "", namespace: "" };
        rules::authorize(request.user, &attributes)?;
        return Ok(Reply::Object(StatusCode::CREATED, store.create(request.user, object(request)?)?));
    }
    if request.method != Method::GET {
        return Err(Failure::method());
    }
    let watch = matches!(parameter(request.query, "watch").as_deref(), Some("1" | "true"));
    let selector = parameter(request.query, "fieldSelector").unwrap_or_default();
    let name = match selector.split_once('=') {
        Some(("metadata.name", name)) => name.trim_start_matches('=').to_owned(),
        None if selector.is_empty() => String::new(),
        _ => return Err(Failure::bad_request(format!("field label not supported: {selector}"))),
    };
    let verb = if watch { "watch" } else { "list" };
    rules::authorize(
        request.user,
        &Attributes { verb, resource: "nodes", group: "", name: &name, namespace: "" },
    )?;
    let name = Some(name).filter(|name| !name.is_empty());
    let (nodes, version, changes) = store.list(name.as_deref());
    if !watch {
        let list = json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": nodes});
        return Ok(Reply::Object(StatusCode::OK, list));
    }
    let seconds = parameter(request.query, "timeoutSeconds").and_then(|text| text.parse().ok());
    let time = seconds.map_or(WATCH_TIME, Duration::from_secs);
    // A client that names the version of a list has seen what was in it.
    let since =
        parameter(request.query, "resourceVersion").and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let known = |node: &Value| {
        node["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|v| v.parse::<u64>().ok())
            .is_some_and(|v| v <= since)
    };
    let first =
        nodes.into_iter().filter(|node| !known(node)).map(|node| Change { kind: "ADDED", node }).collect();
    Ok(Reply::Watch(watching(first, changes, name, time)))
}

fn watching(
    first: Vec<Change>,
    mut changes: broadcast::Receiver<Change>,
    name: Option<String>,
    time: Duration,
) -> Answer {
    let (sender, answer) = Answer::pieces(None);
    tokio::spawn(async move {
        let line = |change: &Change| {
            Bytes::from(format!("{}\n", json!({"type": change.kind, "object": change.node})))
        };
        let all = async {
            for change in &first {
                if sender.send(line(change)).await.is_err() {
                    return;
                }
            }
            while let Ok(change) = changes.recv().await {
                let ours = name.is_none() || change.node["metadata"]["name"].as_str() == name.as_deref();
                if ours && sender.send(line(&change)).await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(time, all).await;
    });
    answer
}

fn node(store: &Store, request: &Request<'_>, name: &str, status: bool) -> Result<Reply, Failure> {
    let verb = match *request.method {
        Method::GET => "get",
        Method::PATCH => "patch",
        Method::DELETE if !status => "delete",
        _ => return Err(Failure::method()),
    };
    let resource = if status { "nodes/status" } else { "nodes" };
    rules::authorize(request.user, &Attributes { verb, resource, group: "", name, namespace: "" })?;
    let node = match verb {
        "get" => store.node(name)?,
        "delete" => store.delete(name)?,
        _ => {
            let (kind, dry_run) = (patch_kind(request)?, dry_run(request)?);
            store.patch_or_try(request.user, name, status, kind, &object(request)?, dry_run)?
        }
    };
    Ok(Reply::Object(StatusCode::OK, node))
}

/// apimachinery, ValidateDryRun: `All` is the one value that there is.
fn dry_run(request: &Request<'_>) -> Result<bool, Failure> {
    match parameter(request.query, "dryRun").as_deref() {
        None => Ok(false),
        Some("All") => Ok(true),
        Some(other) => Err(Failure::invalid(
            "PatchOptions.meta.k8s.io",
            "",
            &[Cause {
                field: "dryRun".into(),
                value: other.into(),
                problem: "supported values: \"All\"".into(),
                reason: "FieldValueNotSupported",
            }],
        )),
    }
}

fn patch_kind(request: &Request<'_>) -> Result<PatchKind, Failure> {
    let kind = request.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim() {
        "application/merge-patch+json" => Ok(PatchKind::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchKind::Strategic),
        // Server-side apply merges lists by the same keys. Who owns which field is not kept: nothing is taken away, and
        // nobody is in anybody's way. JSON is YAML; other YAML is not understood.
        "application/apply-patch+yaml" if parameter(request.query, "fieldManager").is_some() => {
            Ok(PatchKind::Strategic)
        }
        "application/apply-patch+yaml" => Err(Failure::invalid(
            "PatchOptions.meta.k8s.io",
            "",
            &[Cause {
                field: "fieldManager".into(),
                value: String::new(),
                problem: "is required for apply patch".into(),
                reason: "FieldValueRequired",
            }],
        )),
        _ => Err(Failure::media_type()),
    }
}

fn events(store: &Store, request: &Request<'_>, group: &str, namespace: &str) -> Result<Reply, Failure> {
    let verb = match *request.method {
        Method::GET => "list",
        Method::POST => "create",
        _ => return Err(Failure::method()),
    };
    rules::authorize(request.user, &Attributes { verb, resource: "events", group, name: "", namespace })?;
    if verb == "list" {
        let kind = json!({"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": store.events()});
        return Ok(Reply::Object(StatusCode::OK, kind));
    }
    let mut event = object(request)?;
    check_event(&event, group, namespace)?;
    event["metadata"]["namespace"] = json!(namespace);
    Ok(Reply::Object(StatusCode::CREATED, store.add_event(event)))
}

/// k8s.io/kubernetes/pkg/apis/core/validation/events.go.
fn check_event(event: &Value, group: &str, namespace: &str) -> Result<(), Failure> {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let mut causes = Vec::new();
    let mut cause = |field: &str, value: &str, reason: &'static str, problem: &str| {
        causes.push(Cause { field: field.into(), value: value.into(), problem: problem.into(), reason });
    };
    if text("/metadata/name").is_empty() && text("/metadata/generateName").is_empty() {
        cause("metadata.name", "", "FieldValueRequired", "name or generateName is required");
    }
    if !matches!(text("/metadata/namespace"), "") && text("/metadata/namespace") != namespace {
        return Err(Failure::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    // An event about something that is in no namespace, such as a Node, goes to default.
    let (field, about) = if group.is_empty() {
        ("involvedObject.namespace", text("/involvedObject/namespace"))
    } else {
        ("regarding.namespace", text("/regarding/namespace"))
    };
    if about != namespace && !(about.is_empty() && namespace == "default") {
        cause(field, about, "FieldValueInvalid", "does not match event.namespace");
    }
    if !group.is_empty() {
        for field in ["eventTime", "reportingController", "reportingInstance", "action", "reason"] {
            if text(&format!("/{field}")).is_empty() {
                cause(field, "", "FieldValueRequired", "");
            }
        }
        if !matches!(text("/type"), "Normal" | "Warning") {
            cause("type", text("/type"), "FieldValueInvalid", "has invalid value");
        }
    }
    let name = text("/metadata/name");
    if causes.is_empty() { Ok(()) } else { Err(Failure::invalid("Event", name, &causes)) }
}

fn object(request: &Request<'_>) -> Result<Value, Failure> {
    serde_json::from_slice(request.body)
        .ok()
        .filter(Value::is_object)
        .ok_or_else(|| Failure::bad_request("error decoding the body: expected a JSON object"))
}

/// A parameter of the query, percent-decoded.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    let (_, value) =
        query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
    let mut bytes = Vec::new();
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_query_are_decoded() {
        let query = "watch=true&fieldSelector=metadata.name%3Dip-10-0-0-1&limit=500";
        assert_eq!(parameter(query, "fieldSelector").as_deref(), Some("metadata.name=ip-10-0-0-1"));
        assert_eq!(parameter(query, "limit").as_deref(), Some("500"));
        assert_eq!(parameter(query, "continue"), None);
    }
}
