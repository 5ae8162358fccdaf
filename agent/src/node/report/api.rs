//! The requests: read the Node, patch it, create an Event. Each has a deadline, and of an answer only so much is read
//! as a Node can have; whatever else comes is a failure that passes or one that does not.

use std::time::Duration;

use http::Request;
use http::header::RETRY_AFTER;
use http_body_util::{BodyExt, Limited};
use kube::Client;
use kube::api::{PatchParams, PostParams};
use kube::client::Body;
use kube::core::params::GetParams;
use serde::Deserialize;
use serde_json::Value;

use super::diff::{Node, Patch};
use super::retry::{Failure, refused, retry_after};
use crate::error::Error;
use crate::logging::one_line;

/// One request, from its first byte to the last of its answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Largest answer that is read, in bytes. etcd refuses objects above 1.5 MiB.
const MAX_ANSWER: usize = 4 << 20;
/// Events about Nodes are in this namespace: a Node has none, and the API takes no other for such an object.
const EVENT_NAMESPACE: &str = "default";

/// One client, and how often it was used.
pub struct Api {
    client: Client,
    pub requests: u32,
    /// Whatever is written is judged by the API server as in earnest, and not kept (`dryRun=All`).
    dry_run: bool,
}

impl Api {
    pub fn new(client: Client) -> Api {
        Api { client, requests: 0, dry_run: false }
    }

    /// One that never changes anything.
    pub fn rehearsing(client: Client) -> Api {
        Api { dry_run: true, ..Api::new(client) }
    }

    /// Reads Node `name`, within `limit`.
    pub async fn node(&mut self, name: &str, limit: Duration) -> Result<Node, Failure> {
        let what = format!("GET node {name}");
        let request = kube::core::Request::new("/api/v1/nodes").get(name, &GetParams::default());
        let body = self.send(&what, request, limit).await?;
        this_node(&what, name, &body)
    }

    /// Applies `patch` to Node `name`, and returns what it then is.
    pub async fn patch(&mut self, name: &str, patch: &Patch, limit: Duration) -> Result<Node, Failure> {
        let parameters = PatchParams { dry_run: self.dry_run, ..PatchParams::default() };
        let part = patch.subresource;
        let what = format!("PATCH node {name}{}", part.map(|part| format!("/{part}")).unwrap_or_default());
        let body = kube::api::Patch::Strategic(&patch.body);
        let nodes = kube::core::Request::new("/api/v1/nodes");
        let request = match part {
            None => nodes.patch(name, &parameters, &body),
            Some(part) => nodes.patch_subresource(part, name, &parameters, &body),
        };
        let body = self.send(&what, request, limit).await?;
        this_node(&what, name, &body)
    }

    /// Creates an Event (v1: what the Node authorizer allows to a kubelet; not events.k8s.io).
    pub async fn event(&mut self, event: &Value, limit: Duration) -> Result<(), Failure> {
        let events = kube::core::Request::new(format!("/api/v1/namespaces/{EVENT_NAMESPACE}/events"));
        let parameters = PostParams { dry_run: self.dry_run, ..PostParams::default() };
        let request = events.create(&parameters, event.to_string().into_bytes());
        self.send("POST event", request, limit).await.map(drop)
    }

    async fn send(
        &mut self,
        what: &str,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
        limit: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let request =
            request.map_err(|e| Failure::Stop(Error::Other(format!("{what}: cannot be asked: {e}"))))?;
        self.requests += 1;
        let limit = limit.min(REQUEST_TIMEOUT);
        match tokio::time::timeout(limit, exchange(&self.client, what, request)).await {
            Ok(result) => result,
            Err(_) => {
                Err(Failure::again(format!("{what}: no whole answer within {:.1} s", limit.as_secs_f64())))
            }
        }
    }
}

async fn exchange(client: &Client, what: &str, request: Request<Vec<u8>>) -> Result<Vec<u8>, Failure> {
    let answer = client.send(request.map(Body::from)).await.map_err(|e| transport(what, &e))?;
    let status = answer.status();
    let after = retry_after(answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()));
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    if !status.is_success() {
        // What it says is told where it can be had; its status counts anyway.
        let bytes = body.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
        return Err(refused(what, status, &message(&bytes), after));
    }
    match body {
        Ok(body) => Ok(body.to_bytes().to_vec()),
        Err(e) => Err(Failure::again(format!(
            "{what}: the answer broke off or is too large: {}",
            one_line(&e.to_string())
        ))),
    }
}

fn this_node(what: &str, name: &str, body: &[u8]) -> Result<Node, Failure> {
    let node: Node = parse(what, body)?;
    if node.metadata.name != name || node.metadata.uid.is_empty() {
        return Err(Failure::again(format!("{what}: the answer is not this Node")));
    }
    Ok(node)
}

fn parse<T: for<'a> Deserialize<'a>>(what: &str, body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|e| {
        Failure::again(format!(
            "{what}: the answer is no JSON of a Node (line {}, column {})",
            e.line(),
            e.column()
        ))
    })
}

/// The message of a `Status`; empty where the answer is none.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        #[serde(default)]
        message: String,
    }
    serde_json::from_slice::<Status>(body).map(|status| status.message).unwrap_or_default()
}

/// A request without an answer: what TLS refuses stays refused, all else may pass.
fn transport(what: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let (mut causes, mut current) = (Vec::new(), Some(error));
    while let Some(error) = current {
        if let Some(tls) = tls_error(error) {
            return Failure::Stop(Error::ApiRefused(format!(
                "{what}: no trusted connection: {}; expected a server with a certificate of the kubeconfig's \
                 certificate-authority, for the name in `server`, valid now (is the clock right?)",
                one_line(&tls.to_string())
            )));
        }
        causes.push(one_line(&error.to_string()));
        current = error.source();
    }
    causes.dedup();
    Failure::again(format!("{what}: {}", causes.join(": ")))
}

/// rustls's own error, where `error` is one, bare or within an I/O error.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(tls) = error.downcast_ref() {
        return Some(tls);
    }
    let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    tls_error(inner)
}
