//! A plain client for the tests: one connection a request, nothing retried, nothing hidden.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::pki::Pair;
use super::provider;

pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// Server-side apply; needs a `fieldManager`.
pub const APPLY: &str = "application/apply-patch+yaml";

/// For one request.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a client shows.
#[derive(Clone)]
pub enum Credential {
    Nothing,
    Certificate(Arc<Pair>),
    Token(String),
}

/// A client of one server.
#[derive(Clone)]
pub struct Client {
    /// `127.0.0.1:6443`.
    address: String,
    ca: String,
    credential: Credential,
    http1: bool,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub code: u16,
    pub headers: HeaderMap,
    pub text: String,
    /// Null where the text is not JSON.
    pub body: Value,
}

impl Reply {
    /// `message` of a `Status`.
    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Client {
    /// `url` as in a kubeconfig; `ca` in PEM.
    pub fn new(url: &str, ca: &str, credential: Credential) -> Client {
        let address = url.trim_start_matches("https://").to_owned();
        Client { address, ca: ca.into(), credential, http1: false }
    }

    /// HTTP/1.1, where else it is HTTP/2.
    pub fn http1(self) -> Client {
        Client { http1: true, ..self }
    }

    pub fn get(&self, path: &str) -> Result<Reply> {
        self.send(Method::GET, path, "", None)
    }

    pub fn delete(&self, path: &str) -> Result<Reply> {
        self.send(Method::DELETE, path, "", None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.send(Method::POST, path, "application/json", Some(body))
    }

    /// `kind` is [`MERGE`] or [`STRATEGIC`].
    pub fn patch(&self, path: &str, kind: &str, body: &Value) -> Result<Reply> {
        self.send(Method::PATCH, path, kind, Some(body))
    }

    pub fn send(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> Result<Reply> {
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        block_on(async {
            let response = self.response(method, path, kind, bytes).await?;
            let (head, body) = response.into_parts();
            let bytes = body.collect().await.context("read the answer")?.to_bytes();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let body = serde_json::from_str(&text).unwrap_or(Value::Null);
            Ok(Reply { code: head.status.as_u16(), headers: head.headers, text, body })
        })
    }

    /// The first `count` events of a watch; `meanwhile` runs when it has begun.
    pub fn watch(
        &self,
        path: &str,
        count: usize,
        meanwhile: impl FnOnce() + Send + 'static,
    ) -> Result<Vec<Value>> {
        block_on(async {
            let response = self.response(Method::GET, path, "", Bytes::new()).await?;
            ensure!(response.status().is_success(), "{path}: {}", response.status());
            tokio::task::spawn_blocking(meanwhile);
            let (mut body, mut text) = (response.into_body(), String::new());
            while text.matches('\n').count() < count {
                let frame = body.frame().await.context("the watch ended")?.context("read the watch")?;
                text.push_str(&String::from_utf8_lossy(frame.data_ref().context("expected data")?));
            }
            text.lines().map(|line| serde_json::from_str(line).context("an event of a watch")).collect()
        })
    }

    async fn response(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>> {
        let stream = TcpStream::connect(&self.address)
            .await
            .with_context(|| format!("connect to {}", self.address))?;
        let name = ServerName::try_from("127.0.0.1").context("a server's name")?;
        let stream =
            TlsConnector::from(Arc::new(self.tls()?)).connect(name, stream).await.context("TLS handshake")?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let uri = if http2 { format!("https://{}{path}", self.address) } else { path.to_owned() };
        let mut request = Request::builder().method(method).uri(uri);
        if !http2 {
            request = request.header(HOST, &self.address);
        }
        if !kind.is_empty() {
            request = request.header(CONTENT_TYPE, kind);
        }
        if let Credential::Token(token) = &self.credential {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).context("a request")?;
        let io = TokioIo::new(stream);
        if http2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.context("HTTP/2")?;
            tokio::spawn(connection);
            sender.send_request(request).await.context("send the request")
        } else {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(io).await.context("HTTP/1.1")?;
            tokio::spawn(connection);
            sender.send_request(request).await.context("send the request")
        }
    }

    fn tls(&self) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).context("the CA")?).context("the CA")?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_root_certificates(roots);
        let mut config = match &self.credential {
            Credential::Certificate(pair) => {
                let (certificates, key) = pair.der();
                config.with_client_auth_cert(certificates, key).context("the client's certificate")?
            }
            _ => config.with_no_client_auth(),
        };
        config.alpn_protocols = if self.http1 { vec![b"http/1.1".to_vec()] } else { vec![b"h2".to_vec()] };
        Ok(config)
    }
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    let result = runtime.block_on(async { tokio::time::timeout(DEADLINE, work).await });
    runtime.shutdown_background();
    result.context("no answer in time")?
}
