//! `nvme-agent render`: what brings the agent to nodes, printed.

mod karpenter;
mod launch_template;
mod script;

use std::str::FromStr;

use anyhow::Result;

use super::Context;
use crate::config::quoted;
use crate::error::Error;

/// Print userData, Karpenter's objects or a launch template that bring nvme-agent to nodes
///
/// Reads no file of this machine but the one that --config names, and needs no root. Whatever is printed was checked: no
/// value reaches a root shell on a node that could be taken for anything but a value.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Userdata(script::Args),
    Nodeclass(karpenter::NodeClassArgs),
    Nodepool(karpenter::NodePoolArgs),
    LaunchTemplate(launch_template::Args),
}

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    match &args.what {
        What::Userdata(args) => script::run(context, args),
        What::Nodeclass(args) => karpenter::node_class(context, args),
        What::Nodepool(args) => karpenter::node_pool(context, args),
        What::LaunchTemplate(args) => launch_template::run(context, args),
    }?;
    Ok(0)
}

/// The value of an option, which the error names. Not by clap: it would compile its parsers once for each type, which the binary
/// that every node fetches would carry.
fn value<T: FromStr<Err = String>>(option: &str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|problem| {
        // An address that is refused may be so for the credential in it, which is not repeated.
        let found = if text.contains("://") { String::new() } else { format!("; found {}", quoted(text)) };
        Error::Config(format!("{option}: {problem}{found}"))
    })
}

fn values<T: FromStr<Err = String>>(option: &str, texts: &[String]) -> Result<Vec<T>, Error> {
    texts.iter().map(|text| value(option, text)).collect()
}

fn maybe<T: FromStr<Err = String>>(option: &str, text: Option<&String>) -> Result<Option<T>, Error> {
    text.map(|text| value(option, text)).transpose()
}
