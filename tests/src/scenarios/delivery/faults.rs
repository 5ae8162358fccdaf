//! userData whose fetch goes wrong: the node joins all the same, saying that its storage failed, or not at all where that is the
//! policy. The script runs in a guest that is up, beside a server of its own.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::launch::{render, sha256};
use crate::cache;
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::nodeadm::REGISTERED;
use crate::runner::{Ctx, agent_binary};
use crate::scenarios::node::eks::{DOMAIN, Eks, KARPENTERS, Registered};
use crate::vm::Vm;
use crate::web;

/// Where the guest's own server listens.
pub(super) const SERVER: &str = "127.0.0.1:8000";
/// What userData may take here, as it is rendered: a slow server is given up on then.
const DEADLINE: Duration = Duration::from_secs(60);

/// A fetch, and what comes of it.
struct Fetch {
    name: &'static str,
    policy: &'static str,
    /// The path on the server.
    path: &'static str,
    /// In the guest, before.
    before: &'static str,
    /// The node joins.
    joins: bool,
    /// The reason in the journal.
    said: &'static str,
}

const FETCHES: &[Fetch] = &[
    Fetch { name: "nothing wrong", policy: "label", path: "/nvme-agent", before: "", joins: true, said: "" },
    Fetch {
        name: "server down",
        policy: "label",
        path: "/nvme-agent",
        before: "kill $(cat /root/web.pid)",
        joins: true,
        said: "Failed to connect",
    },
    Fetch { name: "not found", policy: "taint", path: "/nothing", before: "", joins: true, said: "404" },
    Fetch {
        name: "slow",
        policy: "label",
        path: "/slow/nvme-agent",
        before: "",
        joins: true,
        said: "gave up",
    },
    Fetch {
        name: "wrong checksum",
        policy: "label",
        path: "/other",
        before: "",
        joins: true,
        said: "wrong sha256",
    },
    Fetch {
        name: "truncated",
        policy: "label",
        path: "/short/nvme-agent",
        before: "",
        joins: true,
        said: "curl: (18)",
    },
    Fetch {
        name: "wrong architecture",
        policy: "label",
        path: "/aarch64",
        before: "",
        joins: true,
        said: "Exec format error",
    },
    Fetch {
        name: "full disk",
        policy: "label",
        path: "/nvme-agent",
        before: "mkdir -p /var/lib/nvme-agent; mount -t tmpfs -o size=1m full /var/lib/nvme-agent",
        joins: true,
        said: "curl: (23)",
    },
    Fetch {
        name: "no-join",
        policy: "no-join",
        path: "/other",
        before: "",
        joins: false,
        said: "wrong sha256",
    },
];

pub fn faults(ctx: &Ctx) -> Result<()> {
    for fetch in FETCHES {
        ctx.case(fetch.name, Guest::Trixie, |vm| case(vm, fetch));
    }
    ctx.case("no drives", Guest::Trixie, |vm| {
        let mut eks = image(vm)?;
        eks.vm.ok("kill $(cat /root/web.pid)")?;
        let (took, registered) = launch(&mut eks, &pinned("no-join", "/nvme-agent", &"0".repeat(64))?)?;
        let registered = registered.context("a node without drives joins")?;
        ensure!(registered.label("state") == "absent" && registered.taints == [KARPENTERS], "{registered:?}");
        ensure!(took < Duration::from_secs(10), "nothing is fetched, in {took:?}");
        Ok(())
    });
    Ok(())
}

fn case(vm: &mut Vm, fetch: &Fetch) -> Result<()> {
    vm.plug(&DriveSpec::many(2, 4 * GIB))?;
    let mut eks = image(vm)?;
    let agent = agent_binary().context("no agent has been built")?;
    let sum = match fetch.path {
        "/aarch64" => cache::digest(&foreign()?),
        _ => sha256(&agent)?,
    };
    eks.vm.ok(fetch.before)?;
    let (took, registered) = launch(&mut eks, &pinned(fetch.policy, fetch.path, &sum)?)?;
    let journal =
        eks.vm.ok("journalctl -b --no-pager -o short -t nvme-agent -t cloud-init -t nvme-agent-user-data")?;
    ensure!(took < DEADLINE + Duration::from_secs(15), "it took {took:?}");
    ensure!(journal.contains(fetch.said), "the journal does not say `{}`: {journal}", fetch.said);
    if fetch.name == "nothing wrong" {
        let registered = registered.context("it joins")?;
        ensure!(registered.label("state") == "ready" && registered.taints == [KARPENTERS], "{registered:?}");
        eks.vm.ok(
            "findmnt -no SOURCE /tmp | tail -n 1 | grep /dev/md0; systemctl is-enabled nvme-agent.service",
        )?;
        return Ok(());
    }
    // Nothing that was not verified has been run or left.
    eks.vm
        .ok("! findmnt -t ext4,xfs /tmp; [ ! -e /usr/local/bin/nvme-agent ]; [ ! -e /usr/bin/nvme-agent ]")?;
    ensure!(registered.is_some() == fetch.joins, "{registered:?}");
    if let Some(registered) = registered {
        ensure!(registered.label("state") == "failed", "{registered:?}");
        let failed = format!("{DOMAIN}/failed");
        let taints: &[&str] = if fetch.policy == "taint" { &[KARPENTERS, &failed] } else { &[KARPENTERS] };
        ensure!(registered.taints == taints, "{registered:?}");
    }
    Ok(())
}

/// The guest is a node that nodeadm has not been run on yet; the agent is on its own server alone.
pub(super) fn image<'v, 'lab>(vm: &'v mut Vm<'lab>) -> Result<Eks<'v, 'lab>> {
    let agent = fs::read(agent_binary().context("no agent has been built")?)?;
    let mut other = agent.clone();
    other.push(0);
    for (name, bytes) in [("nvme-agent", &agent), ("other", &other), ("aarch64", &foreign()?)] {
        vm.write(&format!("/root/web/{name}"), 0o644, bytes)?;
    }
    vm.push(std::path::Path::new("/proc/self/exe"), &format!("/root/{}", web::NAME))?;
    vm.ok(&format!(
        "rm /usr/bin/nvme-agent
         setsid /root/{} serve /root/web {SERVER} > /root/web.log 2>&1 & echo $! > /root/web.pid
         until curl -s -o /dev/null http://{SERVER}/; do sleep 0.1; done",
        web::NAME
    ))?;
    let eks = Eks::image(vm)?;
    eks.vm.ok("systemctl daemon-reload; systemctl start nodeadm-config.service")?;
    Ok(eks)
}

/// A program of another architecture, as far as the kernel looks.
fn foreign() -> Result<Vec<u8>> {
    /// `e_machine` of the ELF header: EM_AARCH64 at byte 18.
    const MACHINE: usize = 18;
    let mut bytes = fs::read(agent_binary().context("no agent has been built")?)?;
    bytes[MACHINE] = 183;
    Ok(bytes)
}

/// What names one binary.
fn pinned(policy: &str, path: &str, sum: &str) -> Result<String> {
    render(&[
        "userdata",
        "--url-x86-64",
        &format!("http://{SERVER}{path}"),
        "--sha256-x86-64",
        sum,
        "--on-failure",
        policy,
        "--deadline",
        &format!("{}s", DEADLINE.as_secs()),
    ])
}

/// Runs userData, then what comes after it.
pub(super) fn launch(eks: &mut Eks<'_, '_>, script: &str) -> Result<(Duration, Option<Registered>)> {
    eks.vm.write("/root/user-data", 0o755, script.as_bytes())?;
    let started = Instant::now();
    // As cloud-final does.
    eks.vm.ok("/root/user-data 2>&1 | systemd-cat -t cloud-init")?;
    let took = started.elapsed();
    let text = eks
        .vm
        .ok(&format!("systemctl start nodeadm-run.service || :; cat {REGISTERED} 2> /dev/null || :"))?;
    let registered = if text.is_empty() { None } else { Some(eks.register(&serde_json::from_str(&text)?)?) };
    Ok((took, registered))
}
