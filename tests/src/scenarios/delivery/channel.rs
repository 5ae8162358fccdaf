//! userData that names a channel: a node has what minisign has signed there, by the guest's own curl and openssl, and nothing
//! else.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::faults::{self, SERVER, launch};
use super::launch::render;
use crate::cache;
use crate::debian::ensure_host_tools;
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::Ctx;
use crate::scenarios::node::eks::{Eks, KARPENTERS};
use crate::vm::Vm;

/// The agent that the node runs, once it has been fetched.
const INSTALLED: &str = "/usr/local/bin/nvme-agent";

/// What a node finds, and what comes of it.
struct Found {
    name: &'static str,
    /// The file of [`faults::image`] that the manifest has the sum of, and the one that is served by that name.
    signed: &'static str,
    served: &'static str,
    /// Of userData's key, and not of another.
    ours: bool,
    /// In the journal, where nothing is installed.
    refused: Option<&'static str>,
}

const FOUND: &[Found] = &[
    Found { name: "signed", signed: "nvme-agent", served: "nvme-agent", ours: true, refused: None },
    // Another version for the same userData: the byte at its end is the difference.
    Found { name: "signed anew", signed: "other", served: "other", ours: true, refused: None },
    Found {
        name: "another key",
        signed: "nvme-agent",
        served: "nvme-agent",
        ours: false,
        refused: Some("not signed"),
    },
    Found {
        name: "another binary",
        signed: "nvme-agent",
        served: "other",
        ours: true,
        refused: Some("wrong sha256"),
    },
];

pub fn channel(ctx: &Ctx) -> Result<()> {
    ensure_host_tools(&[("minisign", "minisign")])?;
    for found in FOUND {
        ctx.case(found.name, Guest::Trixie, |vm| case(vm, found));
    }
    Ok(())
}

fn case(vm: &mut Vm, found: &Found) -> Result<()> {
    vm.plug(&DriveSpec::many(2, 4 * GIB))?;
    let keys = vm.logs().join("keys");
    fs::create_dir_all(&keys).with_context(|| format!("create {}", keys.display()))?;
    let mut eks = faults::image(vm)?;
    let published = publish(&mut eks, &keys, found)?;
    let key = fs::read_to_string(keys.join("ours.pub")).context("the public key")?;
    let url = format!("http://{SERVER}/stable/manifest");
    let key = key.lines().nth(1).context("the key's second line")?;
    let script = render(&["userdata", "--channel", &url, "--public-key", key, "--deadline", "60s"])?;
    let (_, registered) = launch(&mut eks, &script)?;
    let registered = registered.context("it joins")?;
    ensure!(registered.taints == [KARPENTERS], "{registered:?}");
    let journal =
        eks.vm.ok("journalctl -b --no-pager -o cat -t nvme-agent -t cloud-init -t nvme-agent-user-data")?;
    let Some(refused) = found.refused else {
        ensure!(registered.label("state") == "ready", "{registered:?}: {journal}");
        let installed =
            eks.vm.ok(&format!("sha256sum < {INSTALLED}; findmnt -no SOURCE /tmp | tail -n 1"))?;
        ensure!(installed.starts_with(&published) && installed.ends_with("/dev/md0"), "{installed}");
        return Ok(());
    };
    ensure!(registered.label("state") == "failed", "{registered:?}");
    ensure!(journal.contains(refused), "the journal does not say `{refused}`: {journal}");
    eks.vm.ok(&format!("! findmnt -t ext4,xfs /tmp; [ ! -e {INSTALLED} ]; [ ! -e /usr/bin/nvme-agent ]"))?;
    Ok(())
}

/// Puts a version on the guest's server, as docs/upgrades.md has it done; returns the sum in the manifest.
fn publish(eks: &mut Eks<'_, '_>, keys: &Path, found: &Found) -> Result<String> {
    for key in ["ours", "theirs"] {
        minisign(keys, &["-G", "-W", "-p", &format!("{key}.pub"), "-s", key])?;
    }
    let sum = eks.vm.ok(&format!("sha256sum < /root/web/{}", found.signed))?;
    let sum = sum.split_once(' ').context("a sum")?.0.to_owned();
    let other = cache::digest(b"of another architecture");
    let manifest = format!("# nvme-agent 9\n{sum}  nvme-agent-9-x86_64\n{other}  nvme-agent-9-aarch64\n");
    fs::write(keys.join("manifest"), &manifest).context("write the manifest")?;
    let key = if found.ours { "ours" } else { "theirs" };
    minisign(keys, &["-S", "-W", "-s", key, "-m", "manifest"])?;
    eks.vm.ok(&format!(
        "mkdir /root/web/stable; cp /root/web/{} /root/web/stable/nvme-agent-9-x86_64",
        found.served
    ))?;
    for name in ["manifest", "manifest.minisig"] {
        eks.vm.push(&keys.join(name), &format!("/root/web/stable/{name}"))?;
    }
    Ok(sum)
}

fn minisign(directory: &Path, args: &[&str]) -> Result<()> {
    let output = Command::new("minisign").args(args).current_dir(directory).stdin(Stdio::null()).output();
    let output = output.context("run minisign")?;
    ensure!(output.status.success(), "minisign {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
