//! The two patches: JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch.
//!
//! They differ where it matters: a merge patch replaces a list, a strategic one merges lists whose type says by which key.
//! Source: k8s.io/apimachinery/pkg/util/strategicpatch (`mergeMap`, `mergeSlice`), with the options that the API server
//! uses: nulls for what is not there are dropped. The order of merged elements is not reproduced: in none of these lists
//! has it a meaning.

use serde_json::{Map, Value};

/// JSON merge patch.
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(object) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            object.remove(&key);
        } else {
            merge(object.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// How a list of a Node merges; `path` with dots, from k8s.io/api/core/v1/types.go (`patchStrategy`, `patchMergeKey`).
enum List {
    ByKey(&'static str),
    /// Of scalars: the union.
    Set,
    Replace,
}

fn list(path: &str) -> List {
    match path {
        "status.conditions" | "status.addresses" => List::ByKey("type"),
        "metadata.ownerReferences" => List::ByKey("uid"),
        "metadata.finalizers" | "spec.podCIDRs" => List::Set,
        // spec.taints has no strategy either.
        _ => List::Replace,
    }
}

/// Strategic merge patch of a Node.
///
/// # Errors
/// What the API server says of a patch that it cannot merge.
pub fn strategic(target: &mut Value, patch: Value) -> Result<(), String> {
    match (target.as_object_mut(), patch) {
        (Some(target), Value::Object(patch)) => merge_maps(target, patch, ""),
        _ => Err("error decoding patch: expected an object".into()),
    }
}

fn merge_maps(
    target: &mut Map<String, Value>,
    mut patch: Map<String, Value>,
    path: &str,
) -> Result<(), String> {
    if let Some(directive) = patch.remove("$patch") {
        return match directive.as_str() {
            Some("replace") => {
                *target = patch;
                Ok(())
            }
            Some("delete") => {
                target.clear();
                Ok(())
            }
            Some("merge") => merge_maps(target, patch, path),
            _ => Err(format!("unknown patch type found: {directive}")),
        };
    }
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix("$deleteFromPrimitiveList/") {
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(Value::Array(list)) = target.get_mut(name) {
                list.retain(|element| !gone.contains(element));
            }
            continue;
        }
        if key.starts_with("$setElementOrder/") {
            continue;
        }
        if key.starts_with('$') {
            return Err(format!("{key}: not known to this server"));
        }
        let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match (target.get_mut(&key), value) {
            (_, Value::Null) => {
                target.remove(&key);
            }
            (None, mut value) => {
                discard_nulls(&mut value);
                if let (List::ByKey(by), Value::Array(elements)) = (list(&below), &mut value) {
                    let mut merged = Vec::new();
                    merge_lists(&mut merged, std::mem::take(elements), by, &below)?;
                    *elements = merged;
                }
                target.insert(key, value);
            }
            (Some(Value::Object(inner)), Value::Object(patch)) => merge_maps(inner, patch, &below)?,
            (Some(Value::Array(elements)), Value::Array(patch)) => match list(&below) {
                List::ByKey(by) => merge_lists(elements, patch, by, &below)?,
                List::Set => {
                    for element in patch {
                        if !elements.contains(&element) {
                            elements.push(element);
                        }
                    }
                }
                List::Replace => *elements = patch,
            },
            (Some(other), value) => *other = value,
        }
    }
    Ok(())
}

fn merge_lists(target: &mut Vec<Value>, patch: Vec<Value>, by: &str, path: &str) -> Result<(), String> {
    let mut elements = Vec::new();
    let mut replace = false;
    for element in patch {
        let Value::Object(element) = element else {
            return Err(format!("{path}: expected objects in the list"));
        };
        match element.get("$patch").map(|directive| directive.as_str().unwrap_or_default()) {
            None => elements.push(element),
            Some("replace") => replace = true,
            Some("delete") => {
                let value = element.get(by).ok_or_else(|| no_key(&element, by))?;
                target.retain(|old| old.get(by) != Some(value));
            }
            Some(other) => return Err(format!("unknown patch type found: {other}")),
        }
    }
    if replace {
        *target = elements.into_iter().map(Value::Object).collect();
        return Ok(());
    }
    for element in elements {
        let value = element.get(by).ok_or_else(|| no_key(&element, by))?.clone();
        match target.iter_mut().find(|old| old.get(by) == Some(&value)) {
            Some(Value::Object(old)) => merge_maps(old, element, &format!("{path}[]"))?,
            _ => target.push(Value::Object(element)),
        }
    }
    Ok(())
}

fn no_key(element: &Map<String, Value>, by: &str) -> String {
    format!("map: {} does not contain declared merge key: {by}", Value::Object(element.clone()))
}

fn discard_nulls(value: &mut Value) {
    if let Value::Object(object) = value {
        object.retain(|_, value| !value.is_null());
        object.values_mut().for_each(discard_nulls);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node() -> Value {
        json!({
            "metadata": {"labels": {"a": "1", "b": "2"}},
            "spec": {"taints": [{"key": "x", "effect": "NoSchedule"}]},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "reason": "KubeletReady"},
                {"type": "DiskPressure", "status": "False"},
            ]},
        })
    }

    fn patched(patch: Value) -> Value {
        let mut node = node();
        strategic(&mut node, patch).unwrap();
        node
    }

    #[test]
    fn maps_merge_and_a_null_deletes() {
        let node = patched(json!({"metadata": {"labels": {"a": null, "c": "3", "d": null}}}));
        assert_eq!(node["metadata"]["labels"], json!({"b": "2", "c": "3"}));
        let node = patched(json!({"metadata": {"annotations": {"x": null, "y": "1"}}}));
        assert_eq!(node["metadata"]["annotations"], json!({"y": "1"}), "a map that was not there");
        let node = patched(json!({"metadata": {"labels": {"$patch": "replace", "z": "9"}}}));
        assert_eq!(node["metadata"]["labels"], json!({"z": "9"}));
    }

    #[test]
    fn conditions_merge_by_type_each_field_by_itself_and_nulls_delete_fields() {
        let patch = json!({"status": {
            "$setElementOrder/conditions": [{"type": "Ours"}, {"type": "Ready"}],
            "conditions": [{"type": "Ours", "status": "True"}, {"type": "Ready", "status": "False", "reason": null}],
        }});
        assert_eq!(
            patched(patch)["status"]["conditions"],
            json!([
                {"type": "Ready", "status": "False"},
                {"type": "DiskPressure", "status": "False"},
                {"type": "Ours", "status": "True"},
            ])
        );
        let patch = json!({"status": {"conditions": [{"type": "Ready", "$patch": "delete"}]}});
        assert_eq!(
            patched(patch)["status"]["conditions"],
            json!([{"type": "DiskPressure", "status": "False"}])
        );
        let error =
            strategic(&mut node(), json!({"status": {"conditions": [{"status": "True"}]}})).unwrap_err();
        assert!(error.ends_with("does not contain declared merge key: type"), "{error}");
    }

    #[test]
    fn a_list_without_a_strategy_is_replaced() {
        let patch = json!({"spec": {"taints": [{"key": "y", "effect": "NoExecute"}]}});
        assert_eq!(patched(patch)["spec"]["taints"], json!([{"key": "y", "effect": "NoExecute"}]));
    }

    #[test]
    fn a_merge_patch_replaces_every_list() {
        let mut target = node();
        merge(
            &mut target,
            json!({"status": {"conditions": [{"type": "Ours"}]}, "metadata": {"labels": {"a": null}}}),
        );
        assert_eq!(target["status"]["conditions"], json!([{"type": "Ours"}]));
        assert_eq!(target["metadata"]["labels"], json!({"b": "2"}));
    }
}
