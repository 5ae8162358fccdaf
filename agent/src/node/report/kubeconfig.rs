//! Reads a kubeconfig: every field that we use is checked here, so that an error names the file and the field. Values
//! are never repeated in an error: most of them are secrets.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use kube::config::{AuthInfo, Cluster, Config, Kubeconfig, KubeconfigError};
use secrecy::ExposeSecret;

use super::access::{Access, Login, decode};
use super::pem;
use super::plugin::Plugin;
use crate::error::{Error, Result};
use crate::persist::atomic;
use crate::root::Root;

/// kubelet's own.
pub const KUBECONFIG_PATH: &str = "/var/lib/kubelet/kubeconfig";
/// Larger than any kubeconfig, certificate, key or token, in bytes.
const MAX_FILE: u64 = 1 << 20;

pub(super) fn read(root: &Root, file: Option<&Path>) -> Result<Access> {
    let path = file.map_or_else(|| root.join(KUBECONFIG_PATH), Path::to_path_buf);
    if file.is_none() && fs::symlink_metadata(&path).is_err() {
        return Err(Error::Environment(format!(
            "{}: there is no kubeconfig: this machine is no Kubernetes node (yet); `nvme-agent report --kubeconfig` takes another",
            path.display()
        )));
    }
    let at = if file.is_none() { root.follow(KUBECONFIG_PATH) } else { path.clone() };
    let bytes = load(&at).map_err(|problem| Error::Config(format!("{}: {problem}", path.display())))?;
    // Below another root its files are there, too; one that was named by hand speaks of this machine.
    let files = if file.is_none() { root.clone() } else { Root::default() };
    Source { path: &path, files }.access(&bytes)
}

/// The token in `path`, read now.
pub(super) fn token_file(path: &Path) -> Result<String> {
    let wrong = |problem: String| Error::Config(format!("{}: {problem}", path.display()));
    let bytes = load(path).map_err(wrong)?;
    token(&String::from_utf8_lossy(&bytes)).map_err(|problem| wrong(problem.into()))
}

/// A token as a header can have it.
pub(super) fn token(text: &str) -> Result<String, &'static str> {
    let token = text.trim();
    let plain = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    plain
        .then(|| token.to_owned())
        .ok_or("expected a token of printable ASCII, found something else (not shown)")
}

/// A name or path out of a kubeconfig, for people: short, and on one line.
fn name(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

/// Scheme, host and port, for people: what else may be in a URL can be a password.
pub(super) fn shown(url: &Uri) -> String {
    let port = url.port_u16().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}", url.scheme_str().unwrap_or("?"), url.host().unwrap_or("?"))
}

fn load(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |e: std::io::Error| format!("cannot read it: {e}");
    let file = atomic::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("expected at most {MAX_FILE} bytes, found more"));
    }
    Ok(bytes)
}

/// A kubeconfig that is being read.
struct Source<'a> {
    path: &'a Path,
    /// Where the paths in it are. Another than the host's: it is an image's own, which nobody here has vouched for.
    files: Root,
}

impl Source<'_> {
    fn wrong(&self, field: &str, problem: impl std::fmt::Display) -> Error {
        Error::Config(format!("{}: {field}: {problem}", self.path.display()))
    }

    fn access(&self, bytes: &[u8]) -> Result<Access> {
        let text = std::str::from_utf8(bytes)
            .map_err(|_| Error::Config(format!("{}: is not UTF-8 text", self.path.display())))?;
        let kubeconfig = Kubeconfig::from_yaml(text).map_err(|e| self.unparsable(&e))?;
        if let Some(kind) = &kubeconfig.kind
            && kind != "Config"
        {
            return Err(self.wrong("kind", "expected `Config`, found something else"));
        }
        let (cluster, user) = self.select(kubeconfig)?;
        let (cluster_field, cluster) = cluster;
        let server = self.server(&cluster_field, &cluster)?;
        let mut config = Config::new(server.clone());
        config.root_cert = self.authorities(&cluster_field, &cluster)?;
        config.tls_server_name = cluster.tls_server_name.clone().filter(|name| !name.is_empty());
        config.proxy_url = self.proxy(&cluster_field, &cluster, &server)?;
        let (user_field, user) = user;
        let login = self.login(&user_field, &user, &cluster, &mut config)?;
        Ok(Access::new(config, login, self.path.display().to_string()))
    }

    /// An error of the parser quotes what it does not understand; only the place of it can be told.
    fn unparsable(&self, error: &KubeconfigError) -> Error {
        let place = match error {
            KubeconfigError::Parse(error) => error.location(),
            _ => None,
        };
        let line = place.map_or_else(String::new, |place| format!(":{}", place.line()));
        Error::Config(format!(
            "{}{line}: expected a kubeconfig, found YAML that does not parse, or a field of another type (not shown: it \
             may be a secret)",
            self.path.display()
        ))
    }

    /// Cluster and user of the current context, with the name of their field.
    fn select(&self, kubeconfig: Kubeconfig) -> Result<((String, Cluster), (String, AuthInfo))> {
        let current = kubeconfig.current_context.as_deref().filter(|context| !context.is_empty());
        let current = current
            .ok_or_else(|| self.wrong("current-context", "expected the name of a context, found none"))?;
        let context = kubeconfig.contexts.iter().find(|context| context.name == current);
        let context = context.and_then(|context| context.context.as_ref()).ok_or_else(|| {
            self.wrong("current-context", format!("there is no context `{}` in contexts", name(current)))
        })?;
        let field = |kind: &str, named: &str| format!("{kind}[{}]", name(named));
        let at = field("contexts", current);
        let cluster = kubeconfig.clusters.iter().find(|cluster| cluster.name == context.cluster);
        let cluster = cluster.and_then(|cluster| cluster.cluster.clone()).ok_or_else(|| {
            self.wrong(&at, format!("cluster: there is no cluster `{}` in clusters", name(&context.cluster)))
        })?;
        let user_name = context.user.as_deref().filter(|user| !user.is_empty());
        let user_name =
            user_name.ok_or_else(|| self.wrong(&at, "user: expected the name of a user, found none"))?;
        let user = kubeconfig.auth_infos.iter().find(|user| user.name == user_name);
        let user = user.and_then(|user| user.auth_info.clone()).ok_or_else(|| {
            self.wrong(&at, format!("user: there is no user `{}` in users, or it is empty", name(user_name)))
        })?;
        Ok(((field("clusters", &context.cluster), cluster), (field("users", user_name), user)))
    }

    fn server(&self, at: &str, cluster: &Cluster) -> Result<Uri> {
        let field = format!("{at}.server");
        let wrong = |found: &str| self.wrong(&field, format!("expected https://HOST[:PORT], found {found}"));
        let text = cluster.server.as_deref().unwrap_or_default();
        if text.is_empty() {
            return Err(wrong("none"));
        }
        let url: Uri = text.parse().map_err(|_| wrong("no URL"))?;
        if cluster.insecure_skip_tls_verify == Some(true) {
            return Err(self.wrong(
                &format!("{at}.insecure-skip-tls-verify"),
                "is true: the node's credential would go to whoever answers; give the certificate authority instead",
            ));
        }
        match (url.scheme_str(), url.host()) {
            (Some("https"), Some(host)) if !host.is_empty() => Ok(url),
            (Some("http"), _) => {
                Err(wrong("http: the node's credential would go over the network in the clear"))
            }
            _ => Err(wrong("another URL")),
        }
    }

    /// The certificates that sign the server's; none where the system's are meant.
    fn authorities(&self, at: &str, cluster: &Cluster) -> Result<Option<Vec<Vec<u8>>>> {
        let data = cluster.certificate_authority_data.as_deref();
        let file = cluster.certificate_authority.as_deref();
        let Some((field, bytes)) = self.data(&format!("{at}.certificate-authority"), data, file)? else {
            return Ok(None);
        };
        let certificates = pem::certificates(&bytes).map_err(|problem| self.wrong(&field, problem))?;
        let mut store = rustls::RootCertStore::empty();
        for certificate in &certificates {
            store
                .add(certificate.clone())
                .map_err(|e| self.wrong(&field, format!("a certificate is not usable: {e}")))?;
        }
        Ok(Some(certificates.iter().map(|certificate| certificate.to_vec()).collect()))
    }

    /// What `FIELD-data` or the file in `FIELD` has, and the field that it is from. Data comes first, as in client-go.
    fn data(&self, at: &str, data: Option<&str>, file: Option<&str>) -> Result<Option<(String, Vec<u8>)>> {
        if let Some(text) = data.filter(|text| !text.is_empty()) {
            let field = format!("{at}-data");
            let bytes =
                decode(text).ok_or_else(|| self.wrong(&field, "expected base64, found something else"))?;
            return Ok(Some((field, bytes)));
        }
        let Some(file) = file.filter(|file| !file.is_empty()) else { return Ok(None) };
        let path = self.resolve(file);
        let bytes =
            load(&path).map_err(|problem| self.wrong(at, format!("{}: {problem}", path.display())))?;
        Ok(Some((at.to_owned(), bytes)))
    }

    /// Relative paths are relative to the kubeconfig's directory. Out of an image's, neither links nor `..` lead: a token of
    /// this host's would go to the server that the image names.
    fn resolve(&self, file: &str) -> PathBuf {
        let below = |path: &Path| path.parent().unwrap_or(Path::new("")).join(file);
        match self.files.is_host() {
            true => below(self.path),
            false => self.files.follow(below(Path::new(KUBECONFIG_PATH))),
        }
    }

    /// `proxy-url`, else what the environment says for this server. (kube's own look at the environment compares
    /// NO_PROXY with the proxy's address instead of the server's.)
    fn proxy(&self, at: &str, cluster: &Cluster, server: &Uri) -> Result<Option<Uri>> {
        let first = |names: [&'static str; 2]| {
            let set = names.into_iter().find_map(|name| Some((name, std::env::var(name).ok()?)));
            set.filter(|(_, url)| !url.is_empty())
        };
        let (wrong, text, ours) = match cluster.proxy_url.as_deref().filter(|url| !url.is_empty()) {
            Some(url) => (self.wrong(&format!("{at}.proxy-url"), PROXY), url.to_owned(), true),
            None => {
                // In the matcher's order; it takes what it does not understand for none, and keeps a password to itself.
                let set = first(["HTTPS_PROXY", "https_proxy"]).or_else(|| first(["ALL_PROXY", "all_proxy"]));
                let Some((name, url)) = set else { return Ok(None) };
                let url = if url.contains("://") { url } else { format!("http://{url}") };
                (Error::Config(format!("environment variable {name}: {PROXY}")), url, false)
            }
        };
        match text.parse::<Uri>() {
            Ok(url) if matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some() => {
                Ok(Some(url).filter(|_| ours || Matcher::from_env().intercept(server).is_some()))
            }
            _ => Err(wrong),
        }
    }

    /// Puts what does not change into `config`; the rest is fetched for each report.
    fn login(&self, at: &str, user: &AuthInfo, cluster: &Cluster, config: &mut Config) -> Result<Login> {
        for (field, there) in [
            ("username", user.username.is_some() || user.password.is_some()),
            ("auth-provider", user.auth_provider.is_some()),
            ("as", user.impersonate.is_some() || user.impersonate_groups.is_some()),
        ] {
            if there {
                return Err(self.wrong(
                    &format!("{at}.{field}"),
                    "is not supported; expected a client certificate, token, tokenFile or exec",
                ));
            }
        }
        let has_identity = self.identity(at, user, config)?;
        if let Some(exec) = &user.exec {
            let field = format!("{at}.exec");
            if !self.files.is_host() {
                // As root, here: whoever made the image would say what runs on this machine. Not even looked for.
                return Err(self.wrong(
                    &field,
                    format!(
                        "an image does not say what is started here, so `{}` was not; give a kubeconfig by --kubeconfig \
                         (`report`, `doctor`), or run nvme-agent on the machine itself",
                        name(exec.command.as_deref().unwrap_or_default())
                    ),
                ));
            }
            let dir = self.path.parent().unwrap_or(Path::new("/"));
            let authorities = config.root_cert.as_deref();
            let plugin = Plugin::new(exec, dir, cluster, authorities)
                .map_err(|problem| self.wrong(&field, problem))?;
            return Ok(Login::Plugin(Box::new(plugin)));
        }
        // The file is over the token, as in client-go: it is the one that gets renewed.
        if let Some(file) = user.token_file.as_deref().filter(|file| !file.is_empty()) {
            let path = self.resolve(file);
            // Looked at now, so that the error can name the field.
            token_file(&path).map_err(|e| self.wrong(&format!("{at}.tokenFile"), e))?;
            return Ok(Login::TokenFile(path));
        }
        if let Some(text) =
            user.token.as_ref().map(ExposeSecret::expose_secret).filter(|text| !text.is_empty())
        {
            let token = token(text).map_err(|problem| self.wrong(&format!("{at}.token"), problem))?;
            config.auth_info.token = Some(token.into());
            return Ok(Login::Config);
        }
        if has_identity {
            return Ok(Login::Config);
        }
        Err(self.wrong(at, "has no credential; expected a client certificate, token, tokenFile or exec"))
    }

    /// Client certificate and key, each checked by itself. kubelet keeps both in one file, so each is taken out of
    /// what is not its own.
    fn identity(&self, at: &str, user: &AuthInfo, config: &mut Config) -> Result<bool> {
        let certificate = (user.client_certificate_data.as_deref(), user.client_certificate.as_deref());
        let key =
            (user.client_key_data.as_ref().map(ExposeSecret::expose_secret), user.client_key.as_deref());
        let certificate = self.data(&format!("{at}.client-certificate"), certificate.0, certificate.1)?;
        let key = self.data(&format!("{at}.client-key"), key.0, key.1)?;
        let (certificate, key) = match (certificate, key) {
            (None, None) => return Ok(false),
            (Some(_), None) => {
                return Err(self.wrong(&format!("{at}.client-key"), "is missing beside the certificate"));
            }
            (None, Some(_)) => {
                return Err(self.wrong(&format!("{at}.client-certificate"), "is missing beside the key"));
            }
            (Some(certificate), Some(key)) => (certificate, key),
        };
        let (field, bytes) = certificate;
        let certificates = pem::identity(&bytes).map_err(|problem| self.wrong(&field, problem))?;
        let (field, bytes) = key;
        let key = pem::key(&bytes).map_err(|problem| self.wrong(&field, problem))?;
        config.auth_info.client_certificate_data = Some(certificates);
        config.auth_info.client_key_data = Some(key);
        Ok(true)
    }
}

const PROXY: &str = "expected http://HOST:PORT or https://HOST:PORT, found something else (not shown)";

#[cfg(test)]
#[path = "kubeconfig_tests.rs"]
mod tests;
