//! What a user would notice of a boot, as functions that fail.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::boot::Boot;
use crate::image::Guest;
use crate::vm::Vm;

/// The system bus as dbus-broker has it: before basic.target, with a private /tmp, needed by the boot itself. In up to
/// systemd 252 it thereby requires tmp.mount.
const EARLY_BUS: &str = "[Unit]\nDefaultDependencies=no\nAfter=dbus.socket\nBefore=basic.target shutdown.target\n\
                         Conflicts=shutdown.target\n[Service]\nPrivateTmp=yes\nPrivateDevices=yes\nProtectSystem=full\n";

/// Has /tmp in view since before setup, as any daemon of the early boot.
const WITNESS: &str = "[Unit]\nDefaultDependencies=no\nBefore=nvme-agent.service\n[Service]\nType=exec\n\
                       ExecStart=/bin/sleep infinity\n[Install]\nWantedBy=sysinit.target\n";

/// Whose /tmp and whose filesystem it is; must stay the same over boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub array: String,
    pub filesystem: String,
    pub fstab: String,
}

/// Installs the agent as an image build would, and the company that its place in the boot is for.
pub fn bake(vm: &mut Vm) -> Result<()> {
    vm.ok("nvme-agent install")?;
    company(vm)
}

/// The early bus and the witness.
pub fn company(vm: &mut Vm) -> Result<()> {
    vm.write("/etc/systemd/system/dbus.service.d/shape.conf", 0o644, EARLY_BUS.as_bytes())?;
    vm.write("/etc/systemd/system/witness.service", 0o644, WITNESS.as_bytes())?;
    vm.ok("mkdir -p /etc/systemd/system/basic.target.wants
           ln -s /usr/lib/systemd/system/dbus.service /etc/systemd/system/basic.target.wants/
           systemctl enable witness.service; sync")
        .map(drop)
}

/// The state file.
pub fn state(vm: &mut Vm) -> Result<Value> {
    let text = vm.ok("cat /run/nvme-agent/state.json")?;
    serde_json::from_str(&text).with_context(|| format!("state.json: {text}"))
}

/// A boot after which everything is as it should be. Returns whose filesystem the target has.
pub fn ready(vm: &mut Vm, boot: &Boot, target: &str) -> Result<Identity> {
    boot.clean()?;
    let state = state(vm)?;
    ensure!(state["state"] == "ready" && state["trigger"] == "boot", "{state:#}");
    ensure!(state["device"] == "md0", "not md0: {state:#}");
    let mounts = vm.ok(&format!(
        "while read -r _ _ dev _ at rest; do [ $at != {target} ] || echo $dev $rest; done < /proc/1/mountinfo"
    ))?;
    ensure!(mounts.lines().count() == 1 && mounts.contains("noatime"), "mounts at {target}:\n{mounts}");
    ensure!(vm.ok(&format!("findmnt -no SOURCE {target}"))? == "/dev/md0");
    let filesystem = vm.ok("blkid -o value -s UUID /dev/md0")?;
    ensure!(vm.ok(&format!("readlink -f /dev/disk/by-uuid/{filesystem}"))? == "/dev/md0");
    let unit = format!(
        "systemctl show --property=ActiveState,What $(systemd-escape --path --suffix=mount {target})"
    );
    let unit = vm.ok(&unit)?;
    // systemd names the device as fstab or as the kernel does, whichever it learned of last.
    ensure!(unit.contains("ActiveState=active") && !unit.contains("What=tmpfs"), "{unit}");
    ensure!(vm.ok("systemctl list-jobs --no-legend")?.is_empty());
    let verified = vm.sh("findmnt --verify")?;
    ensure!(verified.rc == 0, "{verified:?}");
    let fstab = vm.ok("cat /etc/fstab")?;
    ensure!(fstab.lines().any(|line| line.starts_with(&format!("UUID={filesystem} {target} "))), "{fstab}");
    let array = state["array_uuid"].as_str().unwrap_or_default().to_owned();
    calm(vm)?;
    seen_by_all(vm, target)?;
    if target == "/tmp" {
        ensure!(vm.ok("stat -c %a /tmp")? == "1777");
    }
    ensure!(!vm.console().contains("setup failed"), "the console is told of failures only");
    Ok(Identity { array, filesystem, fstab })
}

/// Whatever became of setup: the bus answers, nothing was waited for in vain, no cycle, each message once.
pub fn calm(vm: &mut Vm) -> Result<()> {
    ensure!(vm.ok("busctl list --no-legend")?.contains("org.freedesktop.systemd1"));
    let bus = vm.ok("systemctl show --property=PrivateTmp,ActiveState dbus.service")?;
    ensure!(bus.contains("ActiveState=active") && bus.contains("PrivateTmp=yes"), "{bus}");
    let journal = vm.ok("journalctl -b --no-pager -o cat")?;
    for bad in ["ordering cycle", "Timed out waiting for device", "Dependency failed", "emergency.target"] {
        let lines: Vec<&str> = journal.lines().filter(|line| line.contains(bad)).collect();
        ensure!(lines.is_empty(), "the journal has {lines:?}");
    }
    messages_once(vm)
}

fn messages_once(vm: &mut Vm) -> Result<()> {
    let ours = vm.ok("journalctl -b --no-pager -o json -u nvme-agent.service")?;
    let mut seen = BTreeSet::new();
    let mut starts = 0;
    for line in ours.lines() {
        let entry: Value = serde_json::from_str(line)?;
        if entry["_COMM"] != "nvme-agent" {
            continue;
        }
        let message = entry["MESSAGE"].as_str().unwrap_or_default().to_owned();
        starts += usize::from(message.starts_with("setup starts"));
        ensure!(seen.insert(message.clone()), "twice in the journal: {message}");
    }
    ensure!(
        starts == 1 && seen.iter().any(|m| m.starts_with("setup ends") || m.contains("Nothing was changed")),
        "{seen:?}"
    );
    Ok(())
}

/// PID 1 and a service that was there before setup see the same mount as a command of today.
fn seen_by_all(vm: &mut Vm, target: &str) -> Result<()> {
    let script = format!(
        "pid=$(systemctl show --property=MainPID --value witness.service)
                  systemctl show --property=ExecMainStartTimestampMonotonic --value witness.service
                  systemctl show --property=ExecMainStartTimestampMonotonic --value nvme-agent.service
                  stat -c %d {target} /proc/1/root{target} /proc/$pid/root{target}"
    );
    let lines = vm.ok(&script)?;
    let numbers: Vec<u64> = lines.lines().map(str::parse).collect::<Result<_, _>>()?;
    let [witness, agent, here, first, there] = numbers.as_slice() else { anyhow::bail!("{lines}") };
    ensure!(witness < agent, "the witness is to start before setup: {witness}, {agent}");
    ensure!(here == first && here == there, "{target} of us, PID 1, the witness: {lines}");
    Ok(())
}

/// A boot in which setup found one of two drives: the distribution's /tmp, and no more trouble than that.
pub fn failed(vm: &mut Vm, boot: &Boot, missing: &str) -> Result<()> {
    ensure!(boot.state == "degraded" && boot.failed == ["nvme-agent.service"], "{boot:?}");
    let state = state(vm)?;
    ensure!(state["state"] == "failed" && state["reason"] == "MemberMissing", "{state:#}");
    ensure!(
        state["message"].as_str().is_some_and(|text| text.contains(missing)),
        "no {missing} in {state:#}"
    );
    ensure!(vm.fails(11, "nvme-agent status")?.out.contains(missing));
    let told = vm.console().matches("nvme-agent: setup failed (MemberMissing): ").count();
    ensure!(told == 1, "the console was told {told} times");
    let fstab = vm.ok("cat /etc/fstab")?;
    ensure!(!fstab.lines().any(|line| line.starts_with("UUID=") && line.contains(" /tmp ")), "{fstab}");
    let mounted = vm.sh("findmnt -no FSTYPE /tmp")?.out;
    match vm.guest {
        Guest::Bookworm | Guest::Bookworm61 => ensure!(mounted.is_empty(), "/tmp: {mounted}"),
        _ => ensure!(mounted.trim() == "tmpfs", "/tmp: {mounted}"),
    }
    ensure!(vm.ok("stat -c %a /tmp")? == "1777");
    ensure!(vm.ok("systemctl list-jobs --no-legend")?.is_empty());
    vm.ok("systemd-run --wait --property=PrivateTmp=yes touch /tmp/works")?;
    calm(vm)
}

/// Seconds from the kernel's start until systemd had nothing left to start (the last number of systemd-analyze).
pub fn finished(vm: &mut Vm) -> Result<f64> {
    let text = vm.ok("systemctl show --property=FinishTimestampMonotonic --value")?;
    Ok(text.parse::<f64>()? / 1e6)
}

/// systemd-tmpfiles a month later, and as at boot, leaves the workload's files alone, and would not without us.
pub fn tmpfiles(vm: &mut Vm) -> Result<()> {
    let run = "now=$(date +%s); date -s @$((now + 30 * 86400)) > /dev/null
               systemd-tmpfiles --clean || echo \"ended with $?\"
               systemd-tmpfiles --create --remove --boot || echo \"ended with $?\"
               date -s @$((now + 1)) > /dev/null";
    let make = "mkdir -p /tmp/work/deep; echo bytes > /tmp/work/deep/file; echo more > /tmp/file; touch /tmp/.hidden";
    vm.ok(make)?;
    vm.ok(run)?;
    ensure!(vm.ok("cat /tmp/work/deep/file /tmp/file; ls -A /tmp/.hidden")? == "bytes\nmore\n/tmp/.hidden");
    ensure!(vm.ok("stat -c %a /tmp")? == "1777");
    vm.ok("mv /etc/tmpfiles.d/tmp.conf /root/")?;
    vm.ok(run)?;
    vm.ok("mv /root/tmp.conf /etc/tmpfiles.d/")?;
    ensure!(
        vm.sh("cat /tmp/work/deep/file /tmp/file")?.rc != 0,
        "the distribution's rules delete nothing: no proof"
    );
    Ok(())
}
