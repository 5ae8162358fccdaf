//! Who may do what, and what is a valid Node: the Node authorizer, the NodeRestriction admission, validation.
//!
//! Sources: k8s.io/kubernetes/plugin/pkg/auth/authorizer/node (with AuthorizeNodeWithSelectors, on since 1.32),
//! plugin/pkg/admission/noderestriction, k8s.io/kubelet/pkg/apis/well_known_labels.go,
//! k8s.io/apimachinery/pkg/util/validation.

use std::collections::BTreeSet;

use serde_json::Value;

use super::auth::User;
use super::status::{About, Cause, Failure};

/// In bytes, keys and values of all annotations together.
const ANNOTATIONS_LIMIT: usize = 256 << 10;
/// Labels under kubernetes.io and k8s.io that a kubelet may set on its own Node.
const KUBELET_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];
const KUBELET_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const NODE_RESTRICTION: &str = "node-restriction.kubernetes.io";

/// A request for nodes or events, as authorizers see it.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `patch`, `delete`.
    pub verb: &'a str,
    /// `nodes`, `nodes/status` or `events`.
    pub resource: &'a str,
    /// The API group; empty for the core.
    pub group: &'a str,
    /// Of the object; of a list what a field selector on metadata.name says; else empty.
    pub name: &'a str,
    /// Empty for what has none.
    pub namespace: &'a str,
}

/// May `user` do this?
///
/// # Errors
/// 403.
pub fn authorize(user: &User, request: &Attributes<'_>) -> Result<(), Failure> {
    if user.is_admin() {
        return Ok(());
    }
    let why = match (user.node_name(), request.resource, request.verb) {
        // Whose node it is, NodeRestriction looks at.
        (Some(_), "nodes", "create" | "patch") | (Some(_), "nodes/status", "patch") => return Ok(()),
        (Some(_), "events", "create" | "patch") => return Ok(()),
        (Some(own), "nodes", "get" | "list" | "watch") if request.name == own => return Ok(()),
        (Some(own), "nodes", "get" | "list" | "watch") if request.name.is_empty() => {
            format!(": node '{own}' cannot read all nodes, only its own Node object")
        }
        (Some(own), "nodes", "get" | "list" | "watch") => {
            format!(": node '{own}' cannot read '{}', only its own Node object", request.name)
        }
        _ => String::new(),
    };
    let scope = if request.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", request.namespace)
    };
    let Attributes { verb, resource, group, .. } = request;
    let why = format!(
        "User {:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}{why}",
        user.name
    );
    let resource = resource.split('/').next().unwrap_or_default();
    Err(Failure::forbidden(About { resource, name: request.name }, &why))
}

/// NodeRestriction: may `user` make this of Node `name`? `old` is none where it is created.
///
/// # Errors
/// 403.
pub fn admit(user: &User, name: &str, old: Option<&Value>, new: &Value) -> Result<(), Failure> {
    let Some(own) = user.node_name() else { return Ok(()) };
    let forbidden = |why: String| Err(Failure::forbidden(About { resource: "nodes", name }, &why));
    if own != name {
        return forbidden(format!("node {own:?} is not allowed to modify node {name:?}"));
    }
    let nothing = Value::Null;
    if let Some(old) = old
        && taints(old) != taints(new)
    {
        return forbidden(format!("node {own:?} is not allowed to modify taints"));
    }
    let labels = forbidden_labels(labels(old.unwrap_or(&nothing)), labels(new));
    match (labels.is_empty(), old) {
        (true, _) => Ok(()),
        (false, Some(_)) => forbidden(format!("is not allowed to modify labels: {}", labels.join(", "))),
        (false, None) => forbidden(format!(
            "node {own:?} is not allowed to set the following labels: {}",
            labels.join(", ")
        )),
    }
}

fn taints(node: &Value) -> &[Value] {
    node["spec"]["taints"].as_array().map_or(&[], Vec::as_slice)
}

fn labels(node: &Value) -> Option<&serde_json::Map<String, Value>> {
    node["metadata"]["labels"].as_object()
}

type Labels<'a> = Option<&'a serde_json::Map<String, Value>>;

fn forbidden_labels<'a>(old: Labels<'a>, new: Labels<'a>) -> Vec<&'a str> {
    let keys: BTreeSet<&str> =
        old.into_iter().chain(new).flat_map(|map| map.keys().map(String::as_str)).collect();
    let value = |labels: Labels<'a>, key: &str| labels.and_then(|map| map.get(key)).cloned();
    keys.into_iter().filter(|key| value(old, key) != value(new, key) && !kubelet_may_set(key)).collect()
}

fn kubelet_may_set(key: &str) -> bool {
    let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
    let within = |domain: &str| namespace == domain || namespace.ends_with(&format!(".{domain}"));
    if within(NODE_RESTRICTION) {
        return false;
    }
    let reserved = within("kubernetes.io") || within("k8s.io");
    !reserved || KUBELET_LABELS.contains(&key) || KUBELET_NAMESPACES.into_iter().any(within)
}

/// Is this a valid Node?
///
/// # Errors
/// 422 with every field that is not.
pub fn validate(name: &str, node: &Value) -> Result<(), Failure> {
    let mut causes = Vec::new();
    let mut cause = |field: &str, value: &str, problem: String| {
        let reason = "FieldValueInvalid";
        causes.push(Cause { field: field.into(), value: value.into(), problem, reason });
    };
    for (key, value) in labels(node).into_iter().flatten() {
        if let Some(problem) = key_problem(key) {
            cause("metadata.labels", key, problem);
        }
        let value = value.as_str().unwrap_or_default();
        if let Some(problem) = value_problem(value) {
            cause("metadata.labels", value, problem);
        }
    }
    let mut bytes = 0;
    for (key, value) in node["metadata"]["annotations"].as_object().into_iter().flatten() {
        bytes += key.len() + value.as_str().map_or(0, str::len);
        if let Some(problem) = key_problem(&key.to_lowercase()) {
            cause("metadata.annotations", key, problem);
        }
    }
    if bytes > ANNOTATIONS_LIMIT {
        cause("metadata.annotations", "", format!("may not be more than {ANNOTATIONS_LIMIT} bytes"));
    }
    if causes.is_empty() { Ok(()) } else { Err(Failure::invalid("Node", name, &causes)) }
}

const VALUE_PROBLEM: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                             must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
                             regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

fn value_problem(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some("must be no more than 63 bytes".into());
    }
    (!value.is_empty() && !is_name(value)).then(|| VALUE_PROBLEM.to_owned())
}

fn key_problem(key: &str) -> Option<String> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if let Some(prefix) = prefix {
        let part = |part: &str| {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            part.starts_with(plain) && part.ends_with(plain) && part.chars().all(|c| plain(c) || c == '-')
        };
        if prefix.len() > 253 || !prefix.split('.').all(part) {
            return Some(format!("prefix part {prefix:?} must be a lowercase RFC 1123 subdomain"));
        }
    }
    if name.len() > 63 || !is_name(name) {
        return Some(format!(
            "name part {name:?} must consist of alphanumeric characters, '-', '_' or '.', must start and end with an \
             alphanumeric character and be no more than 63 bytes"
        ));
    }
    None
}

fn is_name(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || matches!(c, '-' | '_' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kubelet_may_set() {
        for key in [
            "nvme-agent.e6data.com/state",
            "plain",
            "kubernetes.io/hostname",
            "x.node.kubernetes.io/y",
            "kubelet.kubernetes.io/y",
            "notkubernetes.io/y",
        ] {
            assert!(kubelet_may_set(key), "{key}");
        }
        for key in [
            "kubernetes.io/role",
            "node-role.kubernetes.io/x",
            "k8s.io/x",
            "a.k8s.io/x",
            "node-restriction.kubernetes.io/x",
            "a.node-restriction.kubernetes.io/x",
            "topology.kubernetes.io/rack",
        ] {
            assert!(!kubelet_may_set(key), "{key}");
        }
    }

    #[test]
    fn keys_and_values() {
        for good in ["", "ready", "a_b.c-d", "1"] {
            assert_eq!(value_problem(good), None, "{good}");
        }
        for bad in ["a b", "-a", "a-", &"x".repeat(64)] {
            assert!(value_problem(bad).is_some(), "{bad}");
        }
        for bad in ["", "/x", "A.b/x", "a..b/x", "a/b/c", "a/ b"] {
            assert!(key_problem(bad).is_some(), "{bad}");
        }
        assert_eq!(key_problem("nvme-agent.e6data.com/capacity-gib"), None);
    }
}
