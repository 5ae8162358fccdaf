//! Refusals as kube-apiserver words them: `Status` objects, with its codes, reasons and details.
//!
//! Source: k8s.io/apimachinery/pkg/api/errors/errors.go.

use hyper::StatusCode;
use serde_json::{Map, Value, json};

/// A refusal.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub code: StatusCode,
    reason: &'static str,
    pub message: String,
    details: Value,
}

/// What a refusal is about, for its details.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// `nodes`, or `events`.
    pub resource: &'a str,
    /// Empty where there is none.
    pub name: &'a str,
}

/// One field that is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub field: String,
    pub value: String,
    pub problem: String,
    pub reason: &'static str,
}

impl Failure {
    fn new(code: StatusCode, reason: &'static str, message: String, details: Value) -> Failure {
        Failure { code, reason, message, details }
    }

    pub fn unauthorized() -> Failure {
        Failure::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized".into(), Value::Null)
    }

    /// 403, `nodes "x" is forbidden: why`.
    pub fn forbidden(about: About<'_>, why: &str) -> Failure {
        let name = if about.name.is_empty() { String::new() } else { format!(" {:?}", about.name) };
        let message = format!("{}{name} is forbidden: {why}", about.resource);
        Failure::new(StatusCode::FORBIDDEN, "Forbidden", message, details(about))
    }

    pub fn not_found(about: About<'_>) -> Failure {
        let message = format!("{} {:?} not found", about.resource, about.name);
        Failure::new(StatusCode::NOT_FOUND, "NotFound", message, details(about))
    }

    /// 404 for a path that means nothing.
    pub fn no_such_path() -> Failure {
        let message = "the server could not find the requested resource".into();
        Failure::new(StatusCode::NOT_FOUND, "NotFound", message, json!({}))
    }

    pub fn exists(about: About<'_>) -> Failure {
        let message = format!("{} {:?} already exists", about.resource, about.name);
        Failure::new(StatusCode::CONFLICT, "AlreadyExists", message, details(about))
    }

    pub fn conflict(about: About<'_>) -> Failure {
        let message = format!(
            "Operation cannot be fulfilled on {} {:?}: the object has been modified; please apply your changes to the latest version and try again",
            about.resource, about.name
        );
        Failure::new(StatusCode::CONFLICT, "Conflict", message, details(about))
    }

    pub fn bad_request(message: impl Into<String>) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "BadRequest", message.into(), Value::Null)
    }

    pub fn media_type() -> Failure {
        let message = "the body of the request was in an unknown format - accepted media types include: \
                       application/merge-patch+json, application/strategic-merge-patch+json";
        Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message.into(), Value::Null)
    }

    pub fn method() -> Failure {
        let message = "the server does not allow this method on the requested resource".into();
        Failure::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message, json!({}))
    }

    /// 422 with a cause for each field. `kind` as in `Node`.
    pub fn invalid(kind: &str, name: &str, causes: &[Cause]) -> Failure {
        let text = |cause: &Cause| match cause.reason {
            "FieldValueRequired" => format!("{}: Required value: {}", cause.field, cause.problem),
            _ => format!("{}: Invalid value: {:?}: {}", cause.field, cause.value, cause.problem),
        };
        let all: Vec<String> = causes.iter().map(text).collect();
        let all = if let [one] = all.as_slice() { one.clone() } else { format!("[{}]", all.join(", ")) };
        let causes: Vec<Value> = causes
            .iter()
            .map(|cause| {
                let message =
                    text(cause).split_once(": ").map_or_else(String::new, |(_, text)| text.to_owned());
                json!({"reason": cause.reason, "message": message, "field": cause.field})
            })
            .collect();
        Failure::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("{kind} {name:?} is invalid: {all}"),
            json!({"name": name, "kind": kind, "causes": causes}),
        )
    }

    /// A refusal of this code, whatever was asked.
    pub fn of(code: StatusCode, about: About<'_>) -> Failure {
        match code {
            StatusCode::UNAUTHORIZED => Failure::unauthorized(),
            StatusCode::FORBIDDEN => Failure::forbidden(about, "on demand of a test"),
            StatusCode::UNPROCESSABLE_ENTITY => {
                let (field, problem) = ("metadata.labels".into(), "on demand of a test".into());
                let cause = Cause { field, value: String::new(), problem, reason: "FieldValueInvalid" };
                Failure::invalid("Node", about.name, &[cause])
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                let message = "the server is currently unable to handle the request".into();
                Failure::new(code, "ServiceUnavailable", message, json!({}))
            }
            code => {
                let message = "Internal error occurred: etcdserver: request timed out".into();
                Failure::new(code, "InternalError", message, json!({}))
            }
        }
    }

    /// The `Status` object.
    pub fn body(&self) -> Value {
        let mut status = Map::new();
        for (key, value) in [
            ("kind", json!("Status")),
            ("apiVersion", json!("v1")),
            ("metadata", json!({})),
            ("status", json!("Failure")),
            ("message", json!(self.message)),
            ("reason", json!(self.reason)),
            ("details", self.details.clone()),
            ("code", json!(self.code.as_u16())),
        ] {
            if !value.is_null() {
                status.insert(key.into(), value);
            }
        }
        Value::Object(status)
    }
}

fn details(about: About<'_>) -> Value {
    if about.name.is_empty() {
        json!({"kind": about.resource})
    } else {
        json!({"name": about.name, "kind": about.resource})
    }
}
