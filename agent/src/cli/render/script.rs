//! `render userdata`, and the options of the script that the other subcommands share.

use std::path::Path;

use anyhow::Result;
use toml::de::DeTable;

use super::super::args::ConfigArgs;
use super::super::{Context, output};
use super::{maybe, value};
use crate::config::{self, Config, OnFailure};
use crate::error::Error;
use crate::render::{AmiFamily, Arch, Binary, Channel, Userdata, verify};
use crate::root::Root;

/// Print userData: a script that brings nvme-agent to a node and runs setup
///
/// Writes first what the Node says where the rest fails (--on-failure), then fetches the binary for the node's
/// architecture, verifies its sum, installs it and runs setup. Every configuration flag, and what --config names, goes into
/// the node's /etc/nvme-agent/config.toml.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    script: ScriptArgs,
    /// Of the nodes: al2023, al2, ubuntu or custom
    #[arg(long, value_name = "FAMILY", default_value = "al2023")]
    ami_family: String,
}

pub fn run(context: &Context, args: &Args) -> Result<()> {
    // There is one script; a family that has no place for it is refused.
    let family = value("--ami-family", &args.ami_family)?;
    output::text(&args.script.script(context, family, OnFailure::Label)?)
}

/// What the script is to do.
#[derive(Debug, clap::Args)]
pub struct ScriptArgs {
    /// Where the binary for x86_64 is: https://, http:// or s3://
    #[arg(long, value_name = "URL", requires = "sha256_x86_64",
        required_unless_present_any = ["url_aarch64", "channel"])]
    url_x86_64: Option<String>,
    /// Its SHA-256
    #[arg(long, value_name = "SUM", requires = "url_x86_64")]
    sha256_x86_64: Option<String>,
    /// Where the binary for aarch64 (Graviton) is
    #[arg(long, value_name = "URL", requires = "sha256_aarch64")]
    url_aarch64: Option<String>,
    /// Its SHA-256
    #[arg(long, value_name = "SUM", requires = "url_aarch64")]
    sha256_aarch64: Option<String>,
    /// Instead of both: the manifest of a channel, by which a node finds what it is to have; https://, http:// or s3://
    #[arg(long, value_name = "URL", requires = "public_key", conflicts_with_all = ["url_x86_64", "url_aarch64"])]
    channel: Option<String>,
    /// By which minisign has signed it: the second line of minisign.pub
    #[arg(long, value_name = "KEY", requires = "channel")]
    public_key: Option<String>,
    /// Of the bucket, for s3://
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// How long all of it may take on a node
    #[arg(long, value_name = "TIME", default_value = "600s")]
    deadline: String,
    /// Fetch the binaries now, and check their sums, and the channel's signature, before anything is printed
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl ScriptArgs {
    /// The script for nodes of `family`, verified where that is asked for; `policy` is for who names none.
    pub fn script(&self, context: &Context, family: AmiFamily, policy: OnFailure) -> Result<String, Error> {
        if self.channel.is_some() && family == AmiFamily::Al2 {
            return Err(Error::Config(
                "--channel: not on al2, whose openssl 1.0.2 cannot check the signature; name the binary and its sum: --url-x86-64, \
                 --sha256-x86-64"
                    .into(),
            ));
        }
        let userdata = self.userdata(context, policy)?;
        let script = userdata.script()?;
        if self.verify {
            let region = userdata.region.as_ref();
            userdata.binaries.iter().try_for_each(|binary| verify::verify(binary, region))?;
            userdata.channel.iter().try_for_each(|channel| verify::verify_channel(channel, region))?;
        }
        Ok(script)
    }

    fn userdata(&self, context: &Context, policy: OnFailure) -> Result<Userdata, Error> {
        let of =
            |arch: Arch, url: &Option<String>, sha256: &Option<String>| -> Result<Option<Binary>, Error> {
                let name = arch.as_str().replace('_', "-");
                let (Some(url), Some(sha256)) = (url, sha256) else { return Ok(None) };
                let (url, sha256) =
                    (value(&format!("--url-{name}"), url)?, value(&format!("--sha256-{name}"), sha256)?);
                Ok(Some(Binary { arch, url, sha256 }))
            };
        let binaries = [
            of(Arch::X86_64, &self.url_x86_64, &self.sha256_x86_64)?,
            of(Arch::Aarch64, &self.url_aarch64, &self.sha256_aarch64)?,
        ];
        let channel = match (&self.channel, &self.public_key) {
            (Some(url), Some(key)) => {
                Some(Channel { url: value("--channel", url)?, key: value("--public-key", key)? })
            }
            _ => None,
        };
        Ok(Userdata {
            binaries: binaries.into_iter().flatten().collect(),
            channel,
            region: maybe("--region", self.region.as_ref())?,
            deadline: value("--deadline", &self.deadline)?,
            config: configuration(context, &self.config, policy)?,
        })
    }
}

/// The nodes' configuration: flags over the file that --config names over the defaults. Neither this machine's file nor
/// its environment are the nodes' business.
pub fn configuration(context: &Context, args: &ConfigArgs, policy: OnFailure) -> Result<Config, Error> {
    let file = context.config.as_deref();
    let mut overrides = args.overrides();
    let named = overrides.values.iter().any(|(key, _)| *key == "on_failure");
    if !named && !file.is_some_and(says_policy) {
        overrides.values.push(("on_failure", policy.as_str().to_owned()));
    }
    // A root with nothing in it.
    config::load(&Root::new("/proc/self/fdinfo"), file, &overrides, std::iter::empty())
}

/// The file names a policy. Whether it can be read at all is for who loads it.
fn says_policy(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    DeTable::parse(&text).is_ok_and(|table| table.get_ref().contains_key("on_failure"))
}
