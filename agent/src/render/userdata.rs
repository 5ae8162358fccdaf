//! userData: a shell script that brings the agent to a node. Pure.
//!
//! The script is `packaging/userdata/userdata.sh`; here are the values that go into it. Its order is what matters: what the Node
//! says where everything else fails is written before anything is fetched.

use super::channel::Channel;
use super::overrides;
use super::values::{Deadline, Region, Sha256, Url};
use crate::config::{Config, OnFailure};
use crate::error::{Error, Result};
use crate::node::labels::{Keys, Readiness};
use crate::node::registration::drop_in;
use crate::state::{Health, State};

const TEMPLATE: &str = include_str!("../../../packaging/userdata/userdata.sh");
/// EC2 takes 16,384 bytes of userData; Karpenter adds a NodeConfig of two or three thousand, with a certificate, and MIME.
const LONGEST: usize = 12 << 10;

/// Of a machine, as `uname -m` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    pub fn as_str(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
    }
}

/// Where the binary for an architecture is, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary {
    pub arch: Arch,
    pub url: Url,
    pub sha256: Sha256,
}

/// What userData is to do.
#[derive(Clone, Debug)]
pub struct Userdata {
    /// One for each architecture that nodes may have; none with a channel.
    pub binaries: Vec<Binary>,
    /// What names the binaries instead, whenever a node starts.
    pub channel: Option<Channel>,
    /// Of the bucket, for `s3://`.
    pub region: Option<Region>,
    /// For fetching, installing and setup together.
    pub deadline: Deadline,
    /// What differs from the defaults goes to `/etc/nvme-agent/config.toml`; the policy decides what is written first.
    pub config: Config,
}

impl Userdata {
    /// The script.
    ///
    /// # Errors
    /// [`Error::Config`]: neither binary nor channel, or both, a value of the configuration that a script must not carry, or a script that is too long.
    pub fn script(&self) -> Result<String> {
        if self.binaries.is_empty() == self.channel.is_none() {
            return Err(Error::Config(
                "--url-x86-64, --url-aarch64: expected at least one of them, or --channel instead".into(),
            ));
        }
        overrides::check(&self.config)?;
        let values = self.values()?;
        self.check_times()?;
        let script = fill(&sections(TEMPLATE, |section| self.wants(section)), &values)?;
        if script.len() > LONGEST {
            return Err(Error::Config(format!(
                "userData of {} bytes: expected at most {LONGEST}, since EC2 takes 16384 with what Karpenter adds; put the \
                 configuration into the image",
                script.len()
            )));
        }
        Ok(script)
    }

    /// A `mkfs_timeout` of one's own must be able to come to pass; the default may, where less than half of a short deadline is enough.
    fn check_times(&self) -> Result<()> {
        let (mkfs, setup) = (self.config.mkfs_timeout, self.deadline.setup());
        if mkfs <= setup || mkfs == Config::default().mkfs_timeout {
            return Ok(());
        }
        Err(Error::Config(format!(
            "--mkfs-timeout, --deadline: expected --mkfs-timeout to be at most the half of --deadline that setup has, found {} s and \
             {} s: setup would be ended first",
            mkfs.as_secs(),
            setup.as_secs()
        )))
    }

    fn binary(&self, arch: Arch) -> Option<&Binary> {
        self.binaries.iter().find(|binary| binary.arch == arch)
    }

    /// Of everything that is fetched, whether it is so from S3.
    fn s3(&self) -> impl Iterator<Item = bool> {
        let urls = self.binaries.iter().map(|binary| &binary.url);
        urls.chain(self.channel.iter().map(|channel| &channel.url)).map(|url| url.as_str().starts_with("s3:"))
    }

    fn wants(&self, section: &str) -> bool {
        let policy = self.config.on_failure;
        match section {
            "label" => policy == OnFailure::Label,
            "taint" => policy == OnFailure::Taint,
            "no-join" => policy == OnFailure::NoJoin,
            "gate" => policy != OnFailure::Label,
            // Where drives are required a node without any has failed, which the agent says.
            "absent" => self.config.expect_drives == 0,
            // What cannot be said is an error when the values are made.
            "config" => overrides::toml(&self.config).map_or(true, |text| !text.is_empty()),
            "x86_64" => self.binary(Arch::X86_64).is_some(),
            "aarch64" => self.binary(Arch::Aarch64).is_some(),
            "pinned" => self.channel.is_none(),
            "channel" => self.channel.is_some(),
            "curl" => self.s3().any(|s3| !s3),
            "s3" => self.s3().any(|s3| s3),
            "either" => self.wants("curl") && self.wants("s3"),
            _ => false,
        }
    }

    fn values(&self) -> Result<Vec<(&'static str, String)>> {
        let keys = Keys::of(&self.config);
        let failed = State { state: Health::Failed, ..State::default() };
        let labels = Readiness::of(&failed, &keys, &self.config.profile).node_labels();
        let state = keys.state();
        let (Some(labels), Some((head, _))) =
            (labels.strip_prefix(&format!("{state}=failed")), drop_in::FAILED.split_once("\n      - "))
        else {
            return Err(Error::Other("the drop-in does not begin with the state".into()));
        };
        // As the script spells it; a key of another domain is not touched, or comes out as it was.
        let short = |text: &str| text.replace(&format!("{}/", keys.domain()), "$D/");
        let models = self.config.matching.models.iter();
        let models: Vec<String> =
            models.map(|model| format!("-e '^{}'", model.replace('.', "[.]"))).collect();
        let of = |arch, part: fn(&Binary) -> &str| self.binary(arch).map_or("", part).to_owned();
        let seconds = self.deadline.seconds();
        // Three tries take less than half of it, setup the other half at most: of a short one the pauses between tries may leave it
        // less, and then the deadline ends it. With a channel each try is three files.
        let fetch = seconds * 2 / 15 / if self.channel.is_some() { 3 } else { 1 };
        let (base, file) = self.channel.as_ref().map(Channel::parts).unwrap_or_default();
        Ok(vec![
            ("VERSION", env!("CARGO_PKG_VERSION").into()),
            ("HEAD", head.into()),
            ("DOMAIN", keys.domain().into()),
            ("STATE", short(&state)),
            ("LABELS", short(labels)),
            ("TAINT", short(&keys.taint())),
            ("MODELS", models.join(" ")),
            ("URL_X86_64", of(Arch::X86_64, |binary| binary.url.as_str())),
            ("SUM_X86_64", of(Arch::X86_64, |binary| binary.sha256.as_str())),
            ("URL_AARCH64", of(Arch::Aarch64, |binary| binary.url.as_str())),
            ("SUM_AARCH64", of(Arch::Aarch64, |binary| binary.sha256.as_str())),
            ("BASE", base.into()),
            ("FILE", file.into()),
            ("KEY", self.channel.as_ref().map(|channel| channel.key.spki()).unwrap_or_default()),
            ("REGION", self.region.as_ref().map(|region| format!(" --region {region}")).unwrap_or_default()),
            ("DEADLINE", seconds.to_string()),
            ("TRY", fetch.to_string()),
            ("SETUP", self.deadline.setup().as_secs().to_string()),
            ("CONFIG", overrides::toml(&self.config)?.trim_end().into()),
        ])
    }
}

/// The template's lines that are wanted: without its comments, and without indentation but in here-documents.
fn sections(template: &str, wants: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let mut wanted = true;
    let mut document = false;
    for line in template.lines() {
        let bare = line.trim_start();
        if let Some(name) = bare.strip_prefix("##[") {
            wanted = wants(name);
        } else if bare == "##]" {
            wanted = true;
        } else if wanted
            && !bare.starts_with("##")
            && !bare.starts_with("# shellcheck")
            && (document || !bare.is_empty())
        {
            text.push_str(if document { line } else { bare });
            text.push('\n');
            document = (document || line.contains("<<")) && line != "EOF";
        }
    }
    text
}

/// `text` with `@NAME@` replaced, once: what is put in is not looked into.
fn fill(text: &str, values: &[(&str, String)]) -> Result<String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('@') {
        filled.push_str(before);
        let name = after.split_once('@').filter(|(name, _)| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        });
        rest = match name {
            Some((name, after)) => {
                let value = values.iter().find(|(known, _)| *known == name);
                let (_, value) = value.ok_or_else(|| Error::Other(format!("the template wants @{name}@")))?;
                filled.push_str(value);
                after
            }
            None => {
                filled.push('@');
                after
            }
        };
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept_or_left_out_and_documents_keep_their_indentation() {
        let template = "## no\n# shellcheck disable=X\n    a <<EOF\n  b\n## c\n\nEOF\n\n##[x\n  d\n##]\n##[y\ne\n##]\n f\n";
        assert_eq!(sections(template, |name| name == "x"), "a <<EOF\n  b\n\nEOF\nd\nf\n");
    }

    #[test]
    fn what_is_put_in_is_not_looked_into() {
        let values = [("A", "@B@".to_owned()), ("B", "b".to_owned())];
        assert_eq!(fill("x@A@y@B@ $@ a@b", &values).unwrap(), "x@B@yb $@ a@b");
        assert!(fill("@C@", &values).is_err());
    }
}
