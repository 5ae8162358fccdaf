//! Kubeconfigs as kubelet has them, with every way to log in.

use std::fmt::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::pki::Pair;

/// How the user logs in.
pub enum Login<'a> {
    Token(&'a str),
    TokenFile(&'a Path),
    /// In the kubeconfig itself.
    Certificate(&'a Pair),
    /// Certificate and key.
    CertificateFiles(&'a Path, &'a Path),
    Exec(Exec<'a>),
}

/// The exec plugin.
pub struct Exec<'a> {
    pub command: &'a str,
    pub args: &'a [&'a str],
    pub env: &'a [(&'a str, &'a str)],
}

/// Whom to trust.
pub enum Authority<'a> {
    /// PEM, in the kubeconfig itself.
    Data(&'a str),
    File(&'a Path),
}

/// In the form of the one that nodeadm writes (nodeadm/internal/kubelet/kubeconfig.template.yaml).
pub fn kubeconfig(server: &str, authority: &Authority<'_>, login: &Login<'_>) -> String {
    let authority = match authority {
        Authority::Data(pem) => format!("certificate-authority-data: {}", STANDARD.encode(pem)),
        Authority::File(path) => format!("certificate-authority: {}", path.display()),
    };
    let mut user = String::new();
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(user, "      {key}: {value}");
    };
    match login {
        Login::Token(token) => line("token", token),
        Login::TokenFile(path) => line("tokenFile", &path.display().to_string()),
        Login::Certificate(pair) => {
            line("client-certificate-data", &STANDARD.encode(&pair.certificate));
            line("client-key-data", &STANDARD.encode(&pair.key));
        }
        Login::CertificateFiles(certificate, key) => {
            line("client-certificate", &certificate.display().to_string());
            line("client-key", &key.display().to_string());
        }
        Login::Exec(exec) => {
            line("exec", "");
            line("  apiVersion", "client.authentication.k8s.io/v1beta1");
            line("  command", exec.command);
            line("  args", "");
            for arg in exec.args {
                line("    - ", arg);
            }
            if !exec.env.is_empty() {
                line("  env", "");
                for (name, value) in exec.env {
                    line("    - name", name);
                    line("      value", value);
                }
            }
        }
    }
    // An empty value before a block, and the dash of a list, are not keys with values.
    let user = user.replace(": \n", ":\n").replace("- : ", "- ");
    format!(
        "---
apiVersion: v1
kind: Config
clusters:
  - name: kubernetes
    cluster:
      {authority}
      server: {server}
current-context: kubelet
contexts:
  - name: kubelet
    context:
      cluster: kubernetes
      user: kubelet
users:
  - name: kubelet
    user:
{user}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_plugin_is_a_block() {
        let exec = Exec { command: "aws", args: &["eks", "get-token"], env: &[("A", "b")] };
        let text = kubeconfig("https://127.0.0.1:1", &Authority::File(Path::new("/ca")), &Login::Exec(exec));
        let (_, user) = text.split_once("    user:\n").unwrap();
        assert_eq!(
            user,
            "      exec:
        apiVersion: client.authentication.k8s.io/v1beta1
        command: aws
        args:
          - eks
          - get-token
        env:
          - name: A
            value: b
"
        );
    }
}
