//! How to reach the API server and who we are there. The client and its TLS are kube's business; credentials that have
//! to be fetched anew (a token file, a plugin) are fetched here, once for each report, and handed to it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::{Client, Config};

use super::kubeconfig;
use super::plugin::Plugin;
use crate::error::{Error, Result};
use crate::root::Root;

/// How long a connection may take to come about, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A credential that ends so soon is fetched again first.
const ENDS_SOON: Duration = Duration::from_secs(30);

/// Server, trust and identity.
#[derive(Clone)]
pub struct Access {
    config: Config,
    login: Login,
    /// The file that it is from, for errors.
    origin: String,
}

// The configuration may hold what no log should: a proxy's password, headers.
impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let server = self.server();
        f.debug_struct("Access").field("server", &server).field("login", &self.login).finish_non_exhaustive()
    }
}

/// Where the credential comes from.
#[derive(Clone, Debug)]
pub enum Login {
    /// It is in the [`Config`]: a token, a client certificate.
    Config,
    /// A file with a token, which somebody else renews.
    TokenFile(PathBuf),
    /// A program that prints one.
    Plugin(Box<Plugin>),
}

/// A client with its credential.
pub struct Session {
    pub client: Client,
    expires: Option<SystemTime>,
}

impl Session {
    /// True where the credential has ended or is about to.
    pub fn is_over(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|end| end <= now + ENDS_SOON)
    }
}

impl Access {
    /// What the kubeconfig says, `file` or kubelet's own. `KUBECONFIG` is not consulted: it is a person's. `file` was named
    /// by the operator, and may start a program; one that is found below another root than the host's may not.
    ///
    /// # Errors
    /// [`Error::Config`] with the file and the field; [`Error::Environment`] where kubelet's own does not exist.
    pub fn read(root: &Root, file: Option<&Path>) -> Result<Access> {
        kubeconfig::read(root, file)
    }

    /// What `config` says, credential included.
    pub fn with(config: Config) -> Access {
        Access::new(config, Login::Config, "client configuration".into())
    }

    pub(super) fn new(mut config: Config, login: Login, origin: String) -> Access {
        // A retry of kube's own has no deadline of ours, and would hide what happened.
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        Access { config, login, origin }
    }

    /// `https://host:port`, for people.
    pub fn server(&self) -> String {
        kubeconfig::shown(&self.config.cluster_url)
    }

    /// True where opening a session starts a program.
    pub fn has_plugin(&self) -> bool {
        matches!(self.login, Login::Plugin(_))
    }

    /// Fetches the credential, within `deadline`, and makes a client. Sends nothing yet.
    ///
    /// # Errors
    /// The credential cannot be had; [`Error::Config`] where kube takes no client from it. Never with the credential.
    pub async fn open(&self, deadline: Duration, now: SystemTime) -> Result<Session> {
        // kube's rustls asks the process for its provider, and several could be compiled in; a second call is refused,
        // harmlessly.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = self.config.clone();
        let mut expires = None;
        match &self.login {
            Login::Config => {}
            Login::TokenFile(path) => {
                let token = kubeconfig::token_file(path)?;
                config.auth_info.token = Some(token.into());
            }
            Login::Plugin(plugin) => {
                let credential = plugin.run(deadline, now).await?;
                config.auth_info.token = credential.token;
                if let Some((certificates, key)) = credential.identity {
                    config.auth_info.client_certificate_data = Some(certificates);
                    config.auth_info.client_key_data = Some(key);
                }
                expires = credential.expires;
            }
        }
        let client = Client::try_from(config)
            .map_err(|e| Error::Config(format!("{}: no client can be made from it: {e}", self.origin)))?;
        Ok(Session { client, expires })
    }
}

/// Base64, as kubeconfigs have data.
pub(super) fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    // Folded lines of YAML leave spaces in it.
    STANDARD.decode(text.split_whitespace().collect::<String>()).ok()
}
