//! An API server for tests: it enforces what kube-apiserver enforces towards a kubelet, over TLS, and goes wrong on demand.
//!
//! Only what the agent and its tests need: Nodes, their status, events. It answers as kube-apiserver 1.36 does with
//! `--authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction`; the suite in `tests/tests/apiserver` runs
//! against a real one too, where there is one, with the same assertions. Left out: PUT, protobuf, who owns a field.

pub mod api;
pub mod audit;
pub mod auth;
pub mod body;
pub mod client;
pub mod cluster;
pub mod faults;
pub mod kubeconfig;
pub mod patch;
pub mod pki;
pub mod proxy;
pub mod real;
pub mod rules;
pub mod secrets;
pub mod serve;
pub mod status;
pub mod store;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use audit::{Audit, Entry};
use auth::{AnyCertificate, Tokens};
use faults::{Faults, Rule};
use pki::{Pki, ServerCertificate};
use store::Store;

/// How a server is to be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub certificate: ServerCertificate,
    /// Only HTTP/1.1.
    pub http1_only: bool,
}

/// What the server's tasks and its owner share.
pub struct Shared {
    pub pki: Pki,
    pub tokens: Tokens,
    pub store: Store,
    pub faults: Faults,
    pub audit: Audit,
}

/// A server that runs until it is dropped.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    pub fn start() -> Result<Server> {
        Server::with(Options::default())
    }

    pub fn with(options: Options) -> Result<Server> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .thread_name("apiserver")
            .build()
            .context("start the server's threads")?;
        let pki = Pki::new()?;
        let acceptor = TlsAcceptor::from(Arc::new(tls(&pki, options)?));
        let shared = Arc::new(Shared {
            pki,
            tokens: Tokens::default(),
            store: Store::default(),
            faults: Faults::default(),
            audit: Audit::default(),
        });
        let listener =
            runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).context("listen on 127.0.0.1")?;
        let address = listener.local_addr().context("ask for the port")?;
        runtime.spawn(serve::accept(listener, acceptor, shared.clone()));
        Ok(Server { shared, address, runtime: Some(runtime) })
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn pki(&self) -> &Pki {
        &self.shared.pki
    }

    pub fn tokens(&self) -> &Tokens {
        &self.shared.tokens
    }

    pub fn store(&self) -> &Store {
        &self.shared.store
    }

    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    pub fn inject(&self, rule: Rule) {
        self.shared.faults.add(rule);
    }

    /// What was asked by anybody but the tests' administrator.
    pub fn requests(&self) -> Vec<Entry> {
        self.shared.audit.entries().into_iter().filter(|entry| entry.user != "admin").collect()
    }

    /// The same since the last time, and forgets them.
    pub fn take_requests(&self) -> Vec<Entry> {
        self.shared.audit.take().into_iter().filter(|entry| entry.user != "admin").collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

/// The one TLS provider of the workspace, named, so that no other crate's choice matters.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn tls(pki: &Pki, options: Options) -> Result<ServerConfig> {
    let (certificates, key) = pki.server(options.certificate)?.der();
    let provider = provider();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_client_cert_verifier(Arc::new(AnyCertificate(provider)))
        .with_single_cert(certificates, key)
        .context("the server's certificate")?;
    config.alpn_protocols = if options.http1_only {
        vec![b"http/1.1".to_vec()]
    } else {
        vec![b"h2".to_vec(), b"http/1.1".to_vec()]
    };
    Ok(config)
}
