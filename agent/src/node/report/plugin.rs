//! A credential plugin (client.authentication.k8s.io), such as `aws eks get-token`, run by us: kube's own runner waits
//! for it without a limit and repeats what it printed in its errors.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kube::config::{Cluster, ExecConfig};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use super::access::encode;
use super::{kubeconfig, pem};
use crate::error::{Error, Result};
use crate::exec;

/// From its start to its last byte. `aws`, a large Python program, takes 1 to 3 s, and many times that in a boot in which
/// every program wants the processor and the root volume is still being fetched from its snapshot. kubelet waits for ever.
pub const DEADLINE: Duration = Duration::from_secs(40);
/// As systemd gives it to a service, kubelet among them.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a plugin may need of our own environment; the kubeconfig's `env` overrides it. Everything of AWS besides.
const PASSED: [&str; 9] = [
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
const PREFIX: &str = "client.authentication.k8s.io/";

/// The `exec` part of a kubeconfig's user.
#[derive(Clone)]
pub struct Plugin {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    api_version: String,
}

// Arguments and environment may hold a secret.
impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("program", &self.program).finish_non_exhaustive()
    }
}

/// What a plugin gave.
#[derive(Debug)]
pub struct Credential {
    pub token: Option<SecretString>,
    /// Certificates and key, as a kubeconfig's `-data` fields have them.
    pub identity: Option<(String, SecretString)>,
    pub expires: Option<SystemTime>,
}

impl Plugin {
    /// `dir` is the kubeconfig's: a command with a slash in it is relative to that.
    ///
    /// # Errors
    /// What is wrong, in words that begin with the field.
    pub fn new(
        exec: &ExecConfig,
        dir: &Path,
        cluster: &Cluster,
        authorities: Option<&[Vec<u8>]>,
    ) -> Result<Plugin, String> {
        let command = exec.command.as_deref().filter(|command| !command.is_empty());
        let command = command.ok_or("command: expected a program, found none")?;
        let api_version = exec.api_version.clone().unwrap_or_default();
        if !["v1", "v1beta1", "v1alpha1"]
            .into_iter()
            .any(|version| api_version.strip_prefix(PREFIX) == Some(version))
        {
            return Err(format!("apiVersion: expected {PREFIX}v1 or {PREFIX}v1beta1, found another or none"));
        }
        let mut env = environment(std::env::vars_os());
        for pair in exec.env.iter().flatten() {
            match (pair.get("name"), pair.get("value")) {
                (Some(name), Some(value))
                    if !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0') =>
                {
                    env.push((name.into(), value.into()));
                }
                _ => return Err("env: expected a list of {name, value}, found something else".into()),
            }
        }
        let mut spec = json!({ "interactive": false });
        if exec.provide_cluster_info {
            spec["cluster"] = info(cluster, authorities);
        }
        let info = json!({ "apiVersion": api_version, "kind": "ExecCredential", "spec": spec });
        env.push(("KUBERNETES_EXEC_INFO".into(), info.to_string().into()));
        let program = if command.contains('/') {
            // Made absolute: the child has another working directory.
            std::path::absolute(dir.join(command)).map_err(|e| format!("command: {e}"))?
        } else {
            find(command, &env).ok_or_else(|| {
                format!("command: there is no program `{}` in PATH", command.escape_default())
            })?
        };
        let args = exec.args.iter().flatten().map(OsString::from).collect();
        Ok(Plugin { program, args, env, api_version })
    }

    /// Runs it, for at most [`DEADLINE`] and `deadline`.
    ///
    /// # Errors
    /// It failed, hung, printed no credential or one that has expired; never with what it printed.
    pub async fn run(&self, deadline: Duration, now: SystemTime) -> Result<Credential> {
        let failed = |problem: String| Error::Child {
            program: format!("credential plugin {}", self.program.display()),
            problem: format!(
                "{problem}; what it printed is not shown, since it may hold a credential: run it by hand"
            ),
            output: String::new(),
        };
        let call = exec::Call {
            program: &self.program,
            args: &self.args,
            env: &self.env,
            deadline: deadline.min(DEADLINE),
            secret: true,
        };
        let output = match exec::output(call).await {
            Ok(output) => output,
            Err(Error::Child { problem, .. }) => return Err(failed(problem)),
            Err(error) => return Err(error),
        };
        match (output.status, output.signal) {
            (Some(0), _) => {}
            (Some(status), _) => return Err(failed(format!("failed with status {status}"))),
            (None, signal) => {
                return Err(failed(format!("was ended by signal {}", signal.unwrap_or_default())));
            }
        }
        parse(&output.stdout, &self.api_version, now).map_err(failed)
    }
}

/// `PATH` and what is passed on of `own`.
fn environment(own: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let passed = own.filter(|(name, _)| {
        name.to_str().is_some_and(|name| PASSED.contains(&name) || name.starts_with("AWS_"))
    });
    std::iter::once(("PATH".into(), PATH.into())).chain(passed).collect()
}

/// `command` in the PATH of `env`.
fn find(command: &str, env: &[(OsString, OsString)]) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = env.iter().rfind(|(name, _)| name == "PATH").map(|(_, value)| value.clone())?;
    std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(command)).find(|file| {
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// `spec.cluster`, for plugins that ask where their token goes.
fn info(cluster: &Cluster, authorities: Option<&[Vec<u8>]>) -> serde_json::Value {
    let mut info = json!({ "server": cluster.server });
    if let Some(name) = &cluster.tls_server_name {
        info["tls-server-name"] = json!(name);
    }
    if let Some(url) = &cluster.proxy_url {
        info["proxy-url"] = json!(url);
    }
    if let Some(data) = authorities.map(pem::bundle) {
        info["certificate-authority-data"] = json!(encode(data.as_bytes()));
    }
    // The name that client-go reserves for it.
    if let Some(extension) =
        cluster.extensions.iter().flatten().find(|e| e.name == "client.authentication.k8s.io/exec")
    {
        info["config"] = extension.extension.clone();
    }
    info
}

#[derive(Deserialize)]
struct Printed {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<String>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// What a plugin printed. An error never quotes it, and so not serde's message either.
fn parse(stdout: &[u8], api_version: &str, now: SystemTime) -> Result<Credential, String> {
    let printed: Printed = serde_json::from_slice(stdout).map_err(|e| {
        let (line, column) = (e.line(), e.column());
        format!(
            "printed no ExecCredential in JSON (line {line}, column {column}), but {} bytes",
            stdout.len()
        )
    })?;
    if printed.kind != "ExecCredential" {
        return Err("printed another kind than ExecCredential".into());
    }
    if printed.api_version != api_version {
        return Err(format!("printed another apiVersion than {api_version}, which the kubeconfig asks for"));
    }
    let status = printed.status.ok_or("printed an ExecCredential without status")?;
    let expires = match &status.expiration_timestamp {
        None => None,
        Some(text) => {
            let end: jiff::Timestamp =
                text.parse().map_err(|_| "printed an expirationTimestamp that is no time")?;
            let end = SystemTime::from(end);
            if end <= now {
                let past = now.duration_since(end).unwrap_or_default().as_secs();
                return Err(format!("printed a credential that expired {past} s ago (is the clock right?)"));
            }
            Some(end)
        }
    };
    let token = status.token.filter(|token| !token.is_empty());
    let token = token.map(|token| kubeconfig::token(&token)).transpose()?.map(SecretString::from);
    let identity = match (status.client_certificate_data, status.client_key_data) {
        (None, None) => None,
        (Some(certificates), Some(key)) => {
            Some((pem::identity(certificates.as_bytes())?, pem::key(key.as_bytes())?))
        }
        _ => return Err("printed a client certificate without its key, or a key alone".into()),
    };
    if token.is_none() && identity.is_none() {
        return Err("printed an ExecCredential with neither token nor certificate".into());
    }
    Ok(Credential { token, identity, expires })
}

#[cfg(test)]
#[path = "plugin_tests.rs"]
mod tests;
