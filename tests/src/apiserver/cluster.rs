//! A cluster that assertions are made about: the test server, or a real kube-apiserver.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Server;
use super::auth::User;
use super::client::{Client, Credential, STRATEGIC};
use super::pki::{Pair, Pki};
use super::real::RealServer;

/// Nodes that have a token from the beginning: a real API server reads them when it starts.
pub const TOKEN_NODES: usize = 32;

/// A cluster with an administrator.
pub struct Cluster {
    pub url: String,
    /// PEM.
    pub ca: String,
    /// May do everything.
    pub admin: Client,
    backend: Backend,
    next: AtomicUsize,
    next_token: AtomicUsize,
}

enum Backend {
    Test(Box<Server>),
    Real(Box<RealServer>),
}

impl Cluster {
    /// On the server that this crate has.
    pub fn test(server: Server) -> Result<Cluster> {
        for number in 0..TOKEN_NODES {
            let (name, token) = token_node(number);
            server.tokens().add(&token, User::node(&name));
        }
        Cluster::new(server.url(), server.pki().ca.clone(), Backend::Test(Box::new(server)))
    }

    /// On a real one, started now; none where KUBEBUILDER_ASSETS names nothing.
    pub fn real() -> Result<Option<Cluster>> {
        let Some(server) = RealServer::start()? else { return Ok(None) };
        let (url, ca) = (server.url.clone(), server.pki.ca.clone());
        Cluster::new(url, ca, Backend::Real(Box::new(server))).map(Some)
    }

    fn new(url: String, ca: String, backend: Backend) -> Result<Cluster> {
        let pki = match &backend {
            Backend::Test(server) => server.pki(),
            Backend::Real(server) => &server.pki,
        };
        let admin = Credential::Certificate(Arc::new(pki.client(&User::admin())?));
        let admin = Client::new(&url, &ca, admin);
        Ok(Cluster { url, ca, admin, backend, next: AtomicUsize::new(0), next_token: AtomicUsize::new(0) })
    }

    /// The server that this crate has, where it is that.
    pub fn server(&self) -> Result<&Server> {
        match &self.backend {
            Backend::Test(server) => Ok(server),
            Backend::Real(_) => bail!("a real kube-apiserver does not go wrong on demand"),
        }
    }

    pub fn pki(&self) -> &Pki {
        match &self.backend {
            Backend::Test(server) => server.pki(),
            Backend::Real(server) => &server.pki,
        }
    }

    /// A name that no Node has had.
    pub fn fresh_name(&self) -> String {
        format!("ip-10-0-0-{}.ec2.internal", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A Node as kubelet registers it, with kubelet's conditions, and kubelet's certificate.
    pub fn register(&self) -> Result<(String, Arc<Pair>)> {
        let name = self.fresh_name();
        let pair = self.register_as(&name)?;
        Ok((name, pair))
    }

    /// The same under this name.
    pub fn register_as(&self, name: &str) -> Result<Arc<Pair>> {
        let pair = Arc::new(self.pki().client(&User::node(name))?);
        let kubelet = self.client(Credential::Certificate(pair.clone()));
        let reply = kubelet.post("/api/v1/nodes", &registration(name))?;
        ensure!(reply.code == 201, "register {name}: {}", reply.text);
        let status = json!({"status": {"conditions": kubelet_conditions()}});
        let reply = kubelet.patch(&format!("/api/v1/nodes/{name}/status"), STRATEGIC, &status)?;
        ensure!(reply.code == 200, "status of {name}: {}", reply.text);
        Ok(pair)
    }

    /// Name and token of a Node that is not registered yet.
    pub fn with_token(&self) -> Result<(String, String)> {
        let number = self.next_token.fetch_add(1, Ordering::Relaxed);
        ensure!(number < TOKEN_NODES, "all {TOKEN_NODES} nodes with tokens are taken");
        Ok(token_node(number))
    }

    pub fn client(&self, credential: Credential) -> Client {
        Client::new(&self.url, &self.ca, credential)
    }

    /// As the administrator sees it.
    pub fn node(&self, name: &str) -> Result<Value> {
        let reply = self.admin.get(&format!("/api/v1/nodes/{name}"))?;
        ensure!(reply.code == 200, "{}", reply.text);
        Ok(reply.body)
    }

    /// Events about this Node, in both API groups.
    pub fn events(&self, name: &str) -> Result<Vec<Value>> {
        let reply = self.admin.get("/api/v1/namespaces/default/events")?;
        let items = reply.body["items"].as_array().context("a list of events")?;
        let about = |event: &&Value| {
            ["involvedObject", "regarding"].iter().any(|field| event[*field]["name"].as_str() == Some(name))
        };
        Ok(items.iter().filter(about).cloned().collect())
    }
}

/// Name and token of the so-many-th Node that has one.
pub fn token_node(number: usize) -> (String, String) {
    (format!("ip-10-1-0-{number}.ec2.internal"), format!("t0ken-0f-n0de-{number:03}-f7b2c1e84d9a4d51"))
}

/// What kubelet sends when it registers.
pub fn registration(name: &str) -> Value {
    json!({
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "node.kubernetes.io/instance-type": "i4i.large",
            },
        },
        "spec": {"providerID": "aws:///eu-west-1a/i-0123456789abcdef0"},
    })
}

/// kubelet's own.
pub fn kubelet_conditions() -> Value {
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "kubelet's own",
            "lastHeartbeatTime": "2026-01-02T03:04:05Z", "lastTransitionTime": "2026-01-02T03:04:05Z",
        })
    };
    json!([
        condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        condition("PIDPressure", "False", "KubeletHasSufficientPID"),
        condition("Ready", "True", "KubeletReady"),
    ])
}
