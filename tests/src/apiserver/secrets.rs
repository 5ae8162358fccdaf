//! What must be nowhere in what the agent says or writes.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

/// Tokens and keys of a test.
#[derive(Clone, Debug, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// A token: as it is, and in base64.
    pub fn token(&mut self, token: &str) {
        self.0.push(token.to_owned());
        // Without the end, which depends on what follows.
        for text in [STANDARD.encode(token), URL_SAFE_NO_PAD.encode(token)] {
            self.0.push(text[..text.len() / 4 * 3].to_owned());
        }
    }

    /// A key in PEM: every line of it, and the whole in base64 as in a kubeconfig.
    pub fn key(&mut self, pem: &str) {
        let lines = pem.lines().filter(|line| !line.starts_with("-----") && line.len() >= 24);
        self.0.extend(lines.map(str::to_owned));
        let encoded = STANDARD.encode(pem);
        self.0.extend(
            encoded
                .as_bytes()
                .chunks(64)
                .skip(1)
                .filter(|c| c.len() == 64)
                .map(|chunk| String::from_utf8_lossy(chunk).into_owned()),
        );
    }

    pub fn add_all(&mut self, other: &Secrets) {
        self.0.extend_from_slice(&other.0);
    }

    /// The first secret that `text` has; shortened, for the test's own message is a log, too.
    pub fn found_in(&self, text: &str) -> Option<String> {
        let secret = self.0.iter().find(|secret| text.contains(secret.as_str()))?;
        Some(format!("{}...", secret.chars().take(8).collect::<String>()))
    }

    /// The first file below `dir` that has a secret, but for those in `except`.
    pub fn found_below(&self, dir: &Path, except: &[&Path]) -> Result<Option<String>> {
        for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
            let path = entry.with_context(|| format!("list {}", dir.display()))?.path();
            let kind = path.symlink_metadata().with_context(|| format!("look at {}", path.display()))?;
            let found = if kind.is_dir() {
                self.found_below(&path, except)?
            } else if kind.is_file() && !except.iter().any(|other| **other == path) && kind.len() < 1 << 20 {
                let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                self.found_in(&String::from_utf8_lossy(&bytes))
                    .map(|found| format!("{}: {found}", path.display()))
            } else {
                None
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::auth::User;
    use crate::apiserver::pki::Pki;

    #[test]
    fn a_secret_is_found_plain_and_encoded_and_not_where_it_is_not() {
        let key = Pki::new().unwrap().client(&User::node("a")).unwrap().key;
        let mut secrets = Secrets::default();
        secrets.token("k8s-aws-v1.aHR0cHM6Ly9zdHMu");
        secrets.key(&key);
        for leak in [
            "authorization: Bearer k8s-aws-v1.aHR0cHM6Ly9zdHMu".to_owned(),
            STANDARD.encode("k8s-aws-v1.aHR0cHM6Ly9zdHMu and more"),
            key.lines().nth(1).unwrap().to_owned(),
            format!("{:?}", key),
            STANDARD.encode(&key),
        ] {
            assert!(secrets.found_in(&leak).is_some(), "{leak}");
        }
        assert_eq!(secrets.found_in("Bearer [hidden]; -----BEGIN PRIVATE KEY-----"), None);
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        let file = dir.path().join("run/state");
        fs::write(&file, &key).unwrap();
        assert!(secrets.found_below(dir.path(), &[]).unwrap().is_some());
        assert_eq!(secrets.found_below(dir.path(), &[&file]).unwrap(), None);
    }
}
