//! Certificates of the test cluster: its CA, what the server shows, what clients show.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use super::auth::User;

/// What the server shows in the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerCertificate {
    /// As it ought to be: of the CA in the kubeconfig, for 127.0.0.1 and localhost.
    #[default]
    Good,
    /// Of a CA that no client has heard of.
    OtherCa,
    /// It ended yesterday.
    Expired,
    /// For another host.
    WrongName,
}

/// A certificate with its key, both in PEM and DER.
pub struct Pair {
    pub certificate: String,
    pub key: String,
    certificate_der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Pair {
    /// For rustls.
    pub fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.key_der.clone());
        (vec![self.certificate_der.clone()], PrivateKeyDer::Pkcs8(key))
    }
}

/// A CA, and who has a client certificate of it.
pub struct Pki {
    /// PEM.
    pub ca: String,
    issuer: Issuer<'static, KeyPair>,
    clients: Mutex<HashMap<Vec<u8>, User>>,
}

impl Pki {
    pub fn new() -> Result<Pki> {
        let mut params = params("nvme-agent test CA", &[], (-1, 2))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("make the CA's key")?;
        let certificate = params.self_signed(&key).context("sign the CA's certificate")?;
        Ok(Pki { ca: certificate.pem(), issuer: Issuer::new(params, key), clients: Mutex::default() })
    }

    /// A certificate for the server.
    pub fn server(&self, kind: ServerCertificate) -> Result<Pair> {
        let days = if kind == ServerCertificate::Expired { (-2, -1) } else { (-1, 2) };
        let mut params = params("kube-apiserver", &[], days)?;
        params.subject_alt_names = if kind == ServerCertificate::WrongName {
            vec![SanType::DnsName("elsewhere.example".try_into().context("a DNS name")?)]
        } else {
            let address = SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST));
            vec![address, SanType::DnsName("localhost".try_into().context("a DNS name")?)]
        };
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        match kind {
            ServerCertificate::OtherCa => Pki::new()?.sign(params),
            _ => self.sign(params),
        }
    }

    /// A client certificate by which `user` is known.
    pub fn client(&self, user: &User) -> Result<Pair> {
        let pair = self.client_for_days(user, (-1, 2))?;
        let mut clients = self.clients.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        clients.insert(pair.certificate_der.to_vec(), user.clone());
        Ok(pair)
    }

    /// One that ended yesterday: nobody is known by it.
    pub fn expired_client(&self, user: &User) -> Result<Pair> {
        self.client_for_days(user, (-2, -1))
    }

    fn client_for_days(&self, user: &User, days: (i64, i64)) -> Result<Pair> {
        let groups: Vec<&str> = user.groups.iter().map(String::as_str).collect();
        let mut params = params(&user.name, &groups, days)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// Whose certificate this is.
    pub fn user(&self, certificate: &CertificateDer<'_>) -> Option<User> {
        let clients = self.clients.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        clients.get(certificate.as_ref()).cloned()
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair> {
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("sign a certificate")?;
        Ok(Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            certificate_der: certificate.der().clone(),
            key_der: key.serialize_der(),
        })
    }
}

/// Kubernetes takes the common name for the user's, organizations for groups. `days` from now: begin and end.
fn params(name: &str, groups: &[&str], days: (i64, i64)) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).context("certificate parameters")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // rcgen keeps one value of a type: the node's group, which is the only one that matters here.
    if let Some(group) = groups.first() {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    let now = OffsetDateTime::now_utc();
    params.not_before = now + Duration::days(days.0);
    params.not_after = now + Duration::days(days.1);
    Ok(params)
}
