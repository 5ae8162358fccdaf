//! The definitions of custom resources in fixtures/crds, as validators.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// A custom resource's schema, as its definition gives it.
pub struct Schema {
    validator: jsonschema::Validator,
}

impl Schema {
    pub fn of(definition: &str, version: &str) -> Schema {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/crds/{definition}.yaml"));
        let definition: Value = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let versions = definition["spec"]["versions"].as_array().unwrap();
        let mut schema = versions.iter().find(|one| one["name"] == version).unwrap().clone();
        let mut schema = schema["schema"]["openAPIV3Schema"].take();
        close(&mut schema);
        let (group, kind) = (&definition["spec"]["group"], &definition["spec"]["names"]["kind"]);
        let group_version = format!("{}/{version}", group.as_str().unwrap());
        schema["properties"]["apiVersion"] = json!({"const": group_version});
        schema["properties"]["kind"] = json!({"const": kind});
        Schema { validator: jsonschema::draft202012::new(&schema).unwrap() }
    }

    /// Every violation, in words.
    pub fn problems(&self, object: &Value) -> Vec<String> {
        let errors = self.validator.iter_errors(object);
        errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    pub fn check(&self, object: &Value) {
        assert_eq!(self.problems(object), [""; 0], "{object:#}");
    }
}

/// What the API server does with a structural schema and JSON Schema does not: fields that are not named are none.
fn close(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    if object.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        // Of a Go RawExtension, for which controller-gen writes `type: object`. nodeadm decodes any JSON there: the examples
        // of its own documentation have numbers and lists.
        *schema = json!({});
        return;
    }
    if object.contains_key("properties") && !object.contains_key("additionalProperties") {
        object.insert("additionalProperties".into(), false.into());
    }
    for key in ["properties", "items", "additionalProperties"] {
        match object.get_mut(key) {
            Some(Value::Object(inner)) if key == "properties" => inner.values_mut().for_each(close),
            Some(inner) => close(inner),
            None => {}
        }
    }
}
