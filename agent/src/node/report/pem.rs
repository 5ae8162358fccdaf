//! PEM in, and out again as kube takes it: base64 of PEM with nothing in it but what is asked for.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::SecretString;

use super::access::encode;

/// All certificates of `bytes`, at least one.
pub fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("expected certificates in PEM, found none".into()),
        Err(_) => Err("expected certificates in PEM, found one that is broken".into()),
    }
}

/// Certificates, as DER, in one PEM text.
pub fn bundle(certificates: &[Vec<u8>]) -> String {
    certificates.iter().map(|der| section("CERTIFICATE", der)).collect()
}

/// The certificates of `bytes` for `client-certificate-data`.
pub fn identity(bytes: &[u8]) -> Result<String, String> {
    let text: String = certificates(bytes)?.iter().map(|der| section("CERTIFICATE", der)).collect();
    Ok(encode(text.as_bytes()))
}

/// The private key of `bytes` for `client-key-data`.
pub fn key(bytes: &[u8]) -> Result<SecretString, String> {
    // Its errors could quote.
    let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| {
        "expected a private key in PEM (PKCS #8, PKCS #1 or SEC 1), found none that is readable".to_owned()
    })?;
    rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| {
        "expected a private key of RSA, ECDSA or Ed25519, found another or a broken one".to_owned()
    })?;
    let kind = match &key {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    Ok(encode(section(kind, key.secret_der()).as_bytes()).into())
}

fn section(kind: &str, der: &[u8]) -> String {
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", encode(der))
}
