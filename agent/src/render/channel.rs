//! A channel: an address that says which binary nodes are to have, in a manifest that minisign has signed. userData names the
//! address and the public key, so that a new version is no change of it, and no drift. Pure.
//!
//! The manifest is lines of sha256sum(1) and comments; the names are of files beside it: `nvme-agent-VERSION-ARCH`. Whoever can
//! write to the address can serve any manifest that was ever signed by the key, an older one too, and nothing else.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::userdata::Arch;
use super::values::{Sha256, Url};

/// What the files of a channel begin with. No other file of a release has a name of this form: the key may sign its checksums, too.
const PREFIX: &str = "nvme-agent-";
/// A SubjectPublicKeyInfo up to the key's 32 bytes (RFC 8410, section 4), which openssl takes.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Where the manifest is, and whose signature it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Of the manifest; its signature is at the same address with `.minisig`.
    pub url: Url,
    pub key: PublicKey,
}

impl Channel {
    /// The address as that of a directory, with its slash, and the name of the manifest in it.
    pub fn parts(&self) -> (&str, &str) {
        let url = self.url.as_str();
        url.split_at(url.rfind('/').map_or(0, |slash| slash + 1))
    }
}

/// A public key of minisign's: `Ed`, 8 bytes by which it is told from others, 32 bytes of Ed25519.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 42]);

impl FromStr for PublicKey {
    type Err = String;

    fn from_str(text: &str) -> Result<PublicKey, String> {
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| <[u8; 42]>::try_from(bytes).ok());
        bytes.filter(|bytes| bytes.starts_with(b"Ed")).map(PublicKey).ok_or_else(|| {
            "expected a public key of minisign's: the second line of minisign.pub, 56 characters from RW on".into()
        })
    }
}

impl PublicKey {
    /// Base64, as minisign prints it.
    pub fn text(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Base64 of the key as openssl reads it.
    pub fn spki(&self) -> String {
        STANDARD.encode([&SPKI[..], &self.0[10..]].concat())
    }

    /// Checks what minisign says of `manifest`, prehashed or as older versions made it.
    ///
    /// # Errors
    /// `signature` is none, or is of another key or file, in words.
    pub fn verify(&self, manifest: &[u8], signature: &str) -> Result<(), String> {
        let signature = minisign_verify::Signature::decode(signature)
            .map_err(|problem| format!("expected a signature of minisign's: {problem}"))?;
        minisign_verify::PublicKey::from_base64(&self.text())
            .and_then(|key| key.verify(manifest, &signature, true))
            .map_err(|problem| format!("expected a signature by the key {}: {problem}", self.text()))
    }
}

/// What a channel has for one kind of machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub arch: Arch,
    pub url: Url,
    pub sha256: Sha256,
}

/// What a manifest names, whose signature holds.
///
/// # Errors
/// A line that a node would pass over or take for another, by its number.
pub fn entries(channel: &Channel, manifest: &str) -> Result<Vec<Entry>, String> {
    let mut found: Vec<Entry> = Vec::new();
    for (at, line) in manifest.lines().enumerate() {
        if line.starts_with('#') {
            continue;
        }
        let wrong = |problem: &str| format!("line {}: {problem}", at + 1);
        let expected =
            || wrong("expected a line of sha256sum(1) with a name such as nvme-agent-0.2.0-x86_64");
        let (sum, name) = line.split_once("  ").ok_or_else(expected)?;
        let sha256: Sha256 = sum.parse().map_err(|_| expected())?;
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let rest = name.strip_prefix(PREFIX).filter(|_| plain).ok_or_else(expected)?;
        let arch = [Arch::X86_64, Arch::Aarch64].into_iter().find(|arch| {
            rest.strip_suffix(arch.as_str())
                .is_some_and(|version| version.len() > 1 && version.ends_with('-'))
        });
        let arch = arch.ok_or_else(expected)?;
        // As the node compares it, to the letter.
        if sha256.as_str() != sum || found.iter().any(|entry| entry.arch == arch) {
            return Err(wrong("expected a sum in lower case, and one line for each kind of machine"));
        }
        let url =
            format!("{}{name}", channel.parts().0).parse().map_err(|problem: String| wrong(&problem))?;
        found.push(Entry { arch, url, sha256 });
    }
    match found.is_empty() {
        true => Err("expected a line for each kind of machine, found none".into()),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of minisign's own documentation.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    fn channel(url: &str) -> Channel {
        Channel { url: url.parse().unwrap(), key: KEY.parse().unwrap() }
    }

    #[test]
    fn a_key_is_one_of_minisigns_and_openssl_reads_it() {
        let key: PublicKey = KEY.parse().unwrap();
        assert_eq!(key.text(), KEY);
        assert_eq!(key.spki(), "MCowBQYDK2VwAyEAeaVh5w7gjNPnVMY+m9a5w1IKHUIEzRBNoufvdjsYU7c=");
        let secret = "untrusted comment: minisign public key";
        for bad in
            ["", secret, &KEY[..52], &format!("{KEY}AAAA"), &KEY.replacen("RW", "RU", 1), &format!("{KEY}\n")]
        {
            let problem = bad.parse::<PublicKey>().unwrap_err();
            assert!(problem.contains("second line of minisign.pub"), "{problem}");
        }
    }

    #[test]
    fn what_a_manifest_names_is_beside_it() {
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        let text =
            format!("# nvme-agent 0.2.0\n{one}  nvme-agent-0.2.0-x86_64\n{two}  nvme-agent-0.2.0-aarch64\n");
        let found = entries(&channel("s3://bucket/manifest"), &text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].url.as_str(), "s3://bucket/nvme-agent-0.2.0-aarch64");
        assert_eq!((found[1].arch, found[1].sha256.as_str()), (Arch::Aarch64, two.as_str()));
        let deep = entries(&channel("https://example.com/a/stable/manifest"), &text).unwrap();
        assert_eq!(deep[0].url.as_str(), "https://example.com/a/stable/nvme-agent-0.2.0-x86_64");
    }

    #[test]
    fn a_line_that_a_node_would_not_take_is_named() {
        let sum = "a".repeat(64);
        let good = format!("{sum}  nvme-agent-1-x86_64");
        for bad in [
            String::new(),
            "# nothing".into(),
            format!("{sum} *nvme-agent-1-x86_64"),
            format!("{sum}  ../nvme-agent-1-x86_64"),
            format!("{sum}  nvme-agent-../x-x86_64"),
            format!("{sum}  -o-x86_64"),
            format!("{sum}  nvme-agent-x86_64"),
            format!("{sum}  nvme-agent--x86_64 "),
            format!("{sum}  nvme-agent-1-riscv64"),
            format!("{}  nvme-agent-1-x86_64", &sum[1..]),
            format!("{}  nvme-agent-1-x86_64", sum.to_uppercase()),
            format!("{good}\n\n"),
            format!("{good}\n{good}"),
        ] {
            let problem = entries(&channel("https://example.com/m"), &bad).unwrap_err();
            assert!(problem.contains("expected"), "{bad}: {problem}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_signed_names_files_beside_it_or_is_an_error(text in "([a1]{64}  (nvme-agent-)?[-./a%1\\PC]{0,12}-(x86_64|aarch64)\n?|\\PC{0,20}\n){0,3}") {
            let channel = channel("https://example.com/stable/manifest");
            for entry in entries(&channel, &text).unwrap_or_default() {
                let name = entry.url.as_str().strip_prefix("https://example.com/stable/nvme-agent-").unwrap();
                prop_assert!(!name.contains(['/', '%', ' ']), "{name}");
            }
        }

        #[test]
        fn no_text_is_a_signature(text in "\\PC{0,90}(\n\\PC{0,90}){0,4}") {
            prop_assert!(channel("https://example.com/m").key.verify(b"", &text).is_err());
        }
    }
}
