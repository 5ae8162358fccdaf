//! Connections: TLS, HTTP/1.1 and HTTP/2, and the faults of both.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::Shared;
use super::api::{self, Reply};
use super::audit::Entry;
use super::auth::authenticate;
use super::body::Answer;
use super::faults::Fault;
use super::status::{About, Failure};

/// For a handshake, which a client may never finish.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// What kube-apiserver takes at most (`MaxRequestBodyBytes`), in bytes.
const BODY_LIMIT: usize = 3 << 20;

/// One connection of one client.
struct Connection {
    shared: Arc<Shared>,
    certificate: Option<CertificateDer<'static>>,
    /// Ends the connection at once, without a word.
    close: Notify,
}

/// Accepts connections for ever.
pub async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors: others will close theirs.
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        tokio::spawn(connection(stream, acceptor.clone(), shared.clone()));
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(Ok(stream)) = timeout(HANDSHAKE_TIME, acceptor.accept(stream)).await else { return };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|all| all.first().cloned());
    let certificate = certificate.map(CertificateDer::into_owned);
    let connection = Arc::new(Connection { shared, certificate, close: Notify::new() });
    let service = service_fn(|request| {
        let connection = connection.clone();
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = serving => {}
        () = connection.close.notified() => {}
    }
}

impl Connection {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let (head, body) = request.into_parts();
        let user =
            authenticate(&self.shared.pki, &self.shared.tokens, self.certificate.as_ref(), &head.headers);
        let path = head.uri.path().to_owned();
        // Who is nobody gets a 401, however ill the server is otherwise.
        let fault = user.as_ref().and_then(|_| self.shared.faults.of(&head.method, &path));
        let body = match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => Bytes::new(),
        };
        let query = head.uri.query().unwrap_or_default().to_owned();
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let mut entry = Entry {
            at: Instant::now(),
            user: user.as_ref().map(|user| user.name.clone()).unwrap_or_default(),
            method: head.method.clone(),
            version: head.version,
            path,
            query,
            content_type: content_type.unwrap_or_default().to_owned(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
            status: None,
        };
        if let Some(Fault::CloseBefore | Fault::Hang) = fault {
            self.shared.audit.add(entry);
            if fault == Some(Fault::CloseBefore) {
                self.close.notify_one();
            }
            return std::future::pending().await;
        }
        let reply = match (&user, canned(fault.as_ref(), &entry.path)) {
            (None, _) => Err(Failure::unauthorized()),
            (_, Some(response)) => {
                entry.status = Some(response.status().as_u16());
                self.shared.audit.add(entry);
                return response;
            }
            (Some(user), None) => {
                if fault == Some(Fault::Recreated) {
                    self.shared.store.recreate(entry.path.split('/').nth(4).unwrap_or_default());
                }
                let body = match fault {
                    Some(Fault::Relabel(key, value)) => relabelled(&body, key, value),
                    _ => body,
                };
                let request = api::Request {
                    user,
                    method: &head.method,
                    path: &entry.path,
                    query: &entry.query,
                    headers: &head.headers,
                    body: &body,
                };
                api::answer(&self.shared.store, &request)
            }
        };
        let reply = reply.unwrap_or_else(|failure| Reply::Object(failure.code, failure.body()));
        if fault == Some(Fault::CloseAfter) {
            self.shared.audit.add(entry);
            self.close.notify_one();
            return std::future::pending().await;
        }
        let response = match reply {
            Reply::Watch(answer) => plain(StatusCode::OK, answer),
            Reply::Object(code, object) => {
                let bytes = Bytes::from(object.to_string());
                match fault {
                    Some(Fault::Slow(pause)) => plain(code, slow(bytes, pause)),
                    Some(Fault::Truncated) => plain(code, self.clone().truncated(&bytes)),
                    _ => plain(code, Answer::Whole(bytes)),
                }
            }
        };
        entry.status = Some(response.status().as_u16());
        self.shared.audit.add(entry);
        response
    }

    /// Half of the bytes, after all of them were promised.
    fn truncated(self: Arc<Self>, bytes: &Bytes) -> Answer {
        let (sender, answer) = Answer::pieces(Some(bytes.len() as u64));
        let half = bytes.slice(..bytes.len() / 2);
        tokio::spawn(async move {
            let _ = sender.send(half).await;
            // Long enough for these to be on the wire.
            sleep(Duration::from_millis(200)).await;
            self.close.notify_one();
        });
        answer
    }
}

/// A patch with this label in it.
fn relabelled(body: &Bytes, key: &str, value: &str) -> Bytes {
    let mut patch: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    patch["metadata"]["labels"][key] = json!(value);
    Bytes::from(patch.to_string())
}

/// Answers for which nothing is looked at or done.
fn canned(fault: Option<&Fault>, path: &str) -> Option<Response<Answer>> {
    let name = path.split('/').nth(4).unwrap_or_default();
    let about = About { resource: "nodes", name };
    let failure = match fault? {
        Fault::NotFound => Failure::not_found(about),
        Fault::Conflict => Failure::conflict(about),
        Fault::Refuse(code) => Failure::of(*code, about),
        Fault::TooMany(seconds) => {
            let text = Bytes::from_static(b"Too many requests, please try again later.\n");
            let mut response = plain(StatusCode::TOO_MANY_REQUESTS, Answer::Whole(text));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(*seconds));
            return Some(response);
        }
        Fault::Malformed => {
            let bytes = Bytes::from_static(b"{\"kind\": \"Node\", \"metadata\": {\"name\"= <html>");
            return Some(plain(StatusCode::OK, Answer::Whole(bytes)));
        }
        Fault::Huge(bytes) => return Some(plain(StatusCode::OK, huge(*bytes))),
        _ => return None,
    };
    Some(plain(failure.code, Answer::Whole(Bytes::from(failure.body().to_string()))))
}

fn plain(code: StatusCode, answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

fn slow(bytes: Bytes, pause: Duration) -> Answer {
    let (sender, answer) = Answer::pieces(Some(bytes.len() as u64));
    tokio::spawn(async move {
        for at in 0..bytes.len() {
            sleep(pause).await;
            if sender.send(bytes.slice(at..=at)).await.is_err() {
                return;
            }
        }
    });
    answer
}

/// A Node whose annotation does not end for `bytes` bytes.
fn huge(bytes: u64) -> Answer {
    const PIECE: usize = 64 << 10;
    let (sender, answer) = Answer::pieces(None);
    tokio::spawn(async move {
        let begin =
            json!({"kind": "Node", "apiVersion": "v1", "metadata": {"annotations": {"x": ""}}}).to_string();
        let (begin, end) = begin.split_at(begin.len() - 4);
        let piece = Bytes::from(vec![b'x'; PIECE]);
        let mut pieces = vec![Bytes::from(begin.to_owned())];
        pieces.extend(std::iter::repeat_n(piece, usize::try_from(bytes).unwrap_or(usize::MAX) / PIECE));
        pieces.push(Bytes::from(end.to_owned()));
        for piece in pieces {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    answer
}
