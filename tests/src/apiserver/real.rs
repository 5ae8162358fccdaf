//! A real kube-apiserver with its etcd, from the directory that KUBEBUILDER_ASSETS names (the envtest convention).

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use super::auth::User;
use super::client::{Client, Credential};
use super::cluster::{TOKEN_NODES, token_node};
use super::pki::{Pki, ServerCertificate};

/// Names the directory.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";
/// Until the API server says that it is ready; it takes some seconds on an idle machine.
const START_TIME: Duration = Duration::from_secs(180);

/// Both processes; they end when this is dropped.
pub struct RealServer {
    pub url: String,
    pub pki: Pki,
    /// The API server first: it must not outlive its store.
    children: Vec<Child>,
    dir: TempDir,
}

impl RealServer {
    /// Starts both and waits until they are ready. None where the variable is not set.
    ///
    /// # Errors
    /// It is set, and they do not start: with the end of what kube-apiserver said.
    pub fn start() -> Result<Option<RealServer>> {
        let Some(assets) = std::env::var_os(ASSETS).map(PathBuf::from) else { return Ok(None) };
        for program in ["etcd", "kube-apiserver"] {
            let path = assets.join(program);
            ensure!(path.is_file(), "{ASSETS}={}: expected {program} in it", assets.display());
        }
        let dir = tempfile::tempdir().context("a directory for etcd and kube-apiserver")?;
        let pki = Pki::new()?;
        let (etcd, peer, port) = (free_port()?, free_port()?, free_port()?);
        let mut server =
            RealServer { url: format!("https://127.0.0.1:{port}"), pki, children: Vec::new(), dir };
        let client = format!("http://127.0.0.1:{etcd}");
        server.spawn(
            &assets.join("etcd"),
            &[
                format!("--data-dir={}", server.dir.path().join("etcd").display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                "--unsafe-no-fsync=true".into(),
            ],
        )?;
        let arguments = server.arguments(&client, port)?;
        server.spawn(&assets.join("kube-apiserver"), &arguments)?;
        server.children.reverse();
        server.wait_until_ready()?;
        Ok(Some(server))
    }

    fn arguments(&self, etcd: &str, port: u16) -> Result<Vec<String>> {
        let dir = self.dir.path();
        let pair = self.pki.server(ServerCertificate::Good)?;
        // Signs service account tokens, which nobody here asks for.
        let account = self.pki.server(ServerCertificate::Good)?.key;
        let tokens: String = (0..TOKEN_NODES)
            .map(token_node)
            .map(|(name, token)| format!("{token},system:node:{name},{name},system:nodes\n"))
            .collect();
        for (name, text) in [
            ("ca.crt", &self.pki.ca),
            ("tls.crt", &pair.certificate),
            ("tls.key", &pair.key),
            ("sa.key", &account),
            ("tokens.csv", &tokens),
        ] {
            fs::write(dir.join(name), text).with_context(|| format!("write {name}"))?;
        }
        let file = |flag: &str, name: &str| format!("--{flag}={}", dir.join(name).display());
        Ok(vec![
            format!("--etcd-servers={etcd}"),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            format!("--secure-port={port}"),
            file("cert-dir", "certificates"),
            file("tls-cert-file", "tls.crt"),
            file("tls-private-key-file", "tls.key"),
            file("client-ca-file", "ca.crt"),
            file("token-auth-file", "tokens.csv"),
            file("service-account-key-file", "sa.key"),
            file("service-account-signing-key-file", "sa.key"),
            "--service-account-issuer=https://127.0.0.1/".into(),
            "--service-cluster-ip-range=10.0.0.0/24".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--disable-admission-plugins=ServiceAccount".into(),
            "--profiling=false".into(),
        ])
    }

    fn spawn(&mut self, program: &Path, arguments: &[String]) -> Result<()> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = File::create(self.dir.path().join(format!("{name}.log"))).context("create a log")?;
        let child = Command::new(program)
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        self.children.push(child);
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let admin = Credential::Certificate(Arc::new(self.pki.client(&User::admin())?));
        let admin = Client::new(&self.url, &self.pki.ca, admin);
        let end = Instant::now() + START_TIME;
        while !admin.get("/readyz").is_ok_and(|reply| reply.code == 200) {
            let ended =
                self.children.iter_mut().any(|child| child.try_wait().is_ok_and(|status| status.is_some()));
            ensure!(!ended && Instant::now() < end, "kube-apiserver is not ready: {}", self.said());
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn said(&self) -> String {
        let text = |name: &str| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        let log = text("kube-apiserver.log") + &text("etcd.log");
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One that nobody listens on now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("look for a free port")?;
    Ok(listener.local_addr().context("ask for the port")?.port())
}
