//! An HTTP proxy that tunnels: what stands between many a node and its API server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// For each read and write of a tunnel: longer than any test.
const SILENCE: Duration = Duration::from_secs(120);
/// Longest request for a tunnel, in bytes.
const HEAD: u64 = 16 << 10;

/// A proxy that runs until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// `user:password`; empty where nobody is asked.
    login: String,
    tunnels: Mutex<Vec<String>>,
    over: AtomicBool,
}

impl Proxy {
    pub fn start() -> Result<Proxy> {
        Proxy::with_login("")
    }

    /// One that answers 407 to who does not log in with `user:password`.
    pub fn with_login(login: &str) -> Result<Proxy> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on 127.0.0.1")?;
        let address = listener.local_addr().context("ask for the port")?;
        let shared =
            Arc::new(Shared { login: login.into(), tunnels: Mutex::default(), over: AtomicBool::new(false) });
        let theirs = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if theirs.over.load(Ordering::Relaxed) {
                    return;
                }
                let shared = theirs.clone();
                std::thread::spawn(move || shared.serve(client));
            }
        });
        Ok(Proxy { address, shared })
    }

    /// `127.0.0.1:3128`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Where tunnels were asked to, `host:port`, those that were refused too.
    pub fn tunnels(&self) -> Vec<String> {
        self.shared.tunnels.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// One client, to its end. What goes wrong is for it to notice.
    fn serve(&self, client: TcpStream) -> Option<()> {
        client.set_read_timeout(Some(SILENCE)).ok()?;
        let mut reader = BufReader::new(client.try_clone().ok()?).take(HEAD);
        let (mut target, mut login) = (String::new(), None);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
            match line.trim_end() {
                "" => break,
                line if target.is_empty() => {
                    target = line.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
                }
                line => {
                    let (name, value) = line.split_once(':')?;
                    if name.eq_ignore_ascii_case("proxy-authorization") {
                        login = Some(value.trim().to_owned());
                    }
                }
            }
        }
        self.tunnels.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(target.clone());
        let expected = format!("Basic {}", STANDARD.encode(&self.login));
        let mut answer = client.try_clone().ok()?;
        if !self.login.is_empty() && login.as_deref() != Some(&expected) {
            let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"lab\"\r\nContent-Length: 0\r\n\r\n";
            return answer.write_all(refusal.as_bytes()).ok();
        }
        let Ok(server) = TcpStream::connect(&target) else {
            return answer.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").ok();
        };
        server.set_read_timeout(Some(SILENCE)).ok()?;
        answer.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
        // The client says nothing before it has the answer: the buffer is empty.
        let back = (server.try_clone().ok()?, client.try_clone().ok()?);
        let returning = std::thread::spawn(move || copy(back.0, back.1));
        copy(client, server);
        returning.join().ok()
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
