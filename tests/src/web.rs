//! What a node fetches from at its first boot: a file server with faults, and the instance metadata service (IMDS).
//!
//! The server runs on this machine, or in a guest without a network (the lab's own program, pushed there as [`NAME`]). IMDS is
//! one connection on standard input and output, as QEMU's `guestfwd` wants it: a directory whose files are its answers
//! (docs.aws.amazon.com, EC2 user guide, "instance metadata"), for any version; a directory is listed; a token is to be had,
//! and has to be shown.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::sleep;

use crate::apiserver::body::Answer;

/// The program's name in a guest and on QEMU's command line: `lab-web serve DIR ADDRESS`, `lab-web imds DIR`.
pub const NAME: &str = "lab-web";
/// A path that begins so is sent at a byte a second.
pub const SLOW: &str = "/slow/";
/// A path that begins so promises all and sends half.
pub const SHORT: &str = "/short/";
const TOKEN: &str = "stand-in-token";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";

/// The command line of [`NAME`]; an error ends the program with 1.
pub fn main() -> Result<bool> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", dir, address] => {
            let listener = TcpListener::bind(address).with_context(|| format!("listen at {address}"))?;
            runtime()?.block_on(accept(listener, dir.into()))?;
        }
        ["imds", dir] => {
            let runtime = runtime()?;
            runtime.block_on(one(Stdio::new(), dir.into(), true));
            // A read of standard input cannot be called off.
            runtime.shutdown_background();
        }
        _ => bail!("usage: {NAME} serve DIR ADDRESS | imds DIR"),
    }
    Ok(true)
}

/// Serves the files of `dir` from a free port of this machine's loopback, until the program ends.
pub fn serve(dir: &Path) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("listen at the loopback")?;
    let address = listener.local_addr().context("its port")?;
    let (runtime, dir) = (runtime()?, dir.to_owned());
    std::thread::spawn(move || runtime.block_on(accept(listener, dir)));
    Ok(address)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

async fn accept(listener: TcpListener, dir: PathBuf) -> Result<()> {
    listener.set_nonblocking(true).context("set the listener up")?;
    let listener = tokio::net::TcpListener::from_std(listener).context("set the listener up")?;
    loop {
        let (stream, _) = listener.accept().await.context("accept a connection")?;
        tokio::spawn(one(stream, dir.clone(), false));
    }
}

async fn one(stream: impl AsyncRead + AsyncWrite + Unpin, dir: PathBuf, imds: bool) {
    let service = service_fn(|request| {
        let reply = if imds { metadata(&dir, &request) } else { file(&dir, &request) };
        async { Ok::<_, Infallible>(reply) }
    });
    // Errors are the client's: it has hung up.
    let _ = http1::Builder::new().keep_alive(!imds).serve_connection(TokioIo::new(stream), service).await;
}

fn file(dir: &Path, request: &Request<Incoming>) -> Response<Answer> {
    let path = request.uri().path();
    let name = [SLOW, SHORT].iter().find_map(|fault| path.strip_prefix(fault)).unwrap_or(path);
    let Some(bytes) = read(dir, name) else { return reply(StatusCode::NOT_FOUND, "no such file\n") };
    let length = bytes.len();
    if path.starts_with(SHORT) {
        return Response::new(trickle(bytes.slice(..length / 2), length, length, Duration::ZERO));
    }
    match path.starts_with(SLOW) {
        true => Response::new(trickle(bytes, length, 1, Duration::from_secs(1))),
        false => Response::new(Answer::Whole(bytes)),
    }
}

/// `bytes` in pieces with pauses, where `promised` were promised.
fn trickle(bytes: Bytes, promised: usize, piece: usize, pause: Duration) -> Answer {
    let (sender, answer) = Answer::pieces(Some(promised as u64));
    tokio::spawn(async move {
        for start in (0..bytes.len()).step_by(piece) {
            let end = bytes.len().min(start + piece);
            if sender.send(bytes.slice(start..end)).await.is_err() {
                return;
            }
            sleep(pause).await;
        }
    });
    answer
}

fn metadata(dir: &Path, request: &Request<Incoming>) -> Response<Answer> {
    // `latest` or a date.
    let path = request.uri().path().trim_start_matches('/');
    let (version, path) = path.split_once('/').unwrap_or((path, ""));
    if version.is_empty() {
        return reply(StatusCode::OK, "latest\n");
    }
    if request.method() == Method::PUT && path == "api/token" {
        return reply(StatusCode::OK, TOKEN);
    }
    if request.headers().get(TOKEN_HEADER).and_then(|value| value.to_str().ok()) != Some(TOKEN) {
        return reply(StatusCode::UNAUTHORIZED, "no token\n");
    }
    match (read(dir, path), list(dir, path)) {
        (Some(bytes), _) => Response::new(Answer::Whole(bytes)),
        (None, Some(listing)) => reply(StatusCode::OK, &listing),
        (None, None) => reply(StatusCode::NOT_FOUND, "no such category\n"),
    }
}

/// A file of the directory; none where the path would leave it.
fn read(dir: &Path, path: &str) -> Option<Bytes> {
    inside(dir, path).and_then(|path| fs::read(path).ok()).map(Bytes::from)
}

/// Names, a line each; those of directories end in a slash.
fn list(dir: &Path, path: &str) -> Option<String> {
    let entries = fs::read_dir(inside(dir, path)?).ok()?;
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| {
            let slash = if entry.path().is_dir() { "/" } else { "" };
            format!("{}{slash}", entry.file_name().to_string_lossy())
        })
        .collect();
    names.sort();
    Some(names.join("\n"))
}

fn inside(dir: &Path, path: &str) -> Option<PathBuf> {
    (!path.split('/').any(|part| part == "..")).then(|| dir.join(path.trim_matches('/')))
}

fn reply(code: StatusCode, text: &str) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Bytes::from(text.to_owned())));
    *response.status_mut() = code;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Standard input and output as one stream.
struct Stdio {
    input: tokio::io::Stdin,
    output: tokio::io::Stdout,
}

impl Stdio {
    fn new() -> Stdio {
        Stdio { input: tokio::io::stdin(), output: tokio::io::stdout() }
    }
}

impl AsyncRead for Stdio {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().input).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stdio {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().output).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().output).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().output).poll_shutdown(cx)
    }
}
