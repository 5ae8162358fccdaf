//! Who asks: client certificates and bearer tokens, as kube-apiserver's authenticators judge them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};

use super::api::parameter;
use super::pki::Pki;

/// Members may do everything.
pub const MASTERS: &str = "system:masters";
/// Kubelets.
pub const NODES: &str = "system:nodes";

/// A user as Kubernetes knows one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

impl User {
    /// What kubelet of this node is.
    pub fn node(name: &str) -> User {
        User { name: format!("system:node:{name}"), groups: vec![NODES.into()] }
    }

    pub fn admin() -> User {
        User { name: "admin".into(), groups: vec![MASTERS.into()] }
    }

    /// Who shows no credentials.
    pub fn anonymous() -> User {
        User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
    }

    pub fn is_admin(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }

    /// The node that this user is, by name and group (k8s.io/kubernetes/pkg/auth/nodeidentifier).
    pub fn node_name(&self) -> Option<&str> {
        let name = self.name.strip_prefix("system:node:")?;
        self.groups.iter().any(|group| group == NODES).then_some(name)
    }
}

/// Bearer tokens that hold now. An EKS token is of this moment; whose it is, is known by the access key that signed it.
#[derive(Default)]
pub struct Tokens(Mutex<HashMap<String, User>>);

impl Tokens {
    pub fn add(&self, token: &str, user: User) {
        self.lock().insert(token.to_owned(), user);
    }

    /// From now on `user` is who signs EKS tokens with this access key.
    pub fn add_access_key(&self, id: &str, user: User) {
        self.lock().insert(format!("access key {id}"), user);
    }

    fn user(&self, token: &str) -> Option<User> {
        let key = eks_access_key(token).map(|id| format!("access key {id}"));
        self.lock().get(key.as_deref().unwrap_or(token)).cloned()
    }

    /// From now on 401.
    pub fn revoke(&self, token: &str) {
        self.lock().remove(token);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, User>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Who made a request: none is 401. A certificate that convinces goes before a token, as in kube-apiserver; credentials
/// that convince nobody are 401 even where nobody would be asked for any.
pub fn authenticate(
    pki: &Pki,
    tokens: &Tokens,
    certificate: Option<&CertificateDer<'_>>,
    headers: &HeaderMap,
) -> Option<User> {
    if let Some(user) = certificate.and_then(|certificate| pki.user(certificate)) {
        return Some(user);
    }
    let bearer = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    match bearer {
        Some(value) => tokens.user(value.strip_prefix("Bearer ")?),
        None if certificate.is_some() => None,
        None => Some(User::anonymous()),
    }
}

/// Who signed an EKS token: a request to STS in base64, which the authenticator of EKS has carried out to learn who asks.
/// What it checks beforehand is checked here (kubernetes-sigs/aws-iam-authenticator, pkg/token/token.go); the signature is
/// for STS to judge.
fn eks_access_key(token: &str) -> Option<String> {
    let url = URL_SAFE_NO_PAD.decode(token.strip_prefix("k8s-aws-v1.")?).ok()?;
    let url = String::from_utf8(url).ok()?;
    let (host, query) = url.strip_prefix("https://")?.split_once("/?")?;
    let of_sts = host.starts_with("sts.") && host.ends_with(".amazonaws.com");
    let is = |name: &str, expected: &str| parameter(query, name).as_deref() == Some(expected);
    let whole = is("Action", "GetCallerIdentity")
        && is("X-Amz-Algorithm", "AWS4-HMAC-SHA256")
        && is("X-Amz-Expires", "60")
        && is("X-Amz-SignedHeaders", "host;x-k8s-aws-id")
        && parameter(query, "X-Amz-Signature")?.len() == 64;
    let scope = parameter(query, "X-Amz-Credential")?;
    let (id, rest) = scope.split_once('/')?;
    (of_sts && whole && rest.ends_with("/sts/aws4_request")).then(|| id.to_owned())
}

/// Asks for a certificate, takes any, and demands its key: whether it convinces is for [`authenticate`], whose no is a
/// 401 and not a broken handshake. kube-apiserver does the same (`tls.RequestClientCert`).
#[derive(Debug)]
pub struct AnyCertificate(pub Arc<CryptoProvider>);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
