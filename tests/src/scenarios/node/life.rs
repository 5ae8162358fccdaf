//! A node's life: it registers as ready, loses a drive over a reboot, has it back; on an older image; under power cuts.

use anyhow::{Context, Result, ensure};

use super::eks::{DOMAIN, Eks, KARPENTERS};
use crate::boot::BlankDrives;
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::nodeadm::NODE;
use crate::runner::Ctx;

pub fn life(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let (mut eks, registered) = Eks::booted(vm, "profile = \"spill\"\ndrive_timeout = \"5s\"\n")?;
        let names = ["state", "layout", "drives", "capacity-gib", "profile", "version"];
        let told = names.map(|name| registered.label(name));
        let version = env!("CARGO_PKG_VERSION");
        ensure!(told == ["ready", "raid0", "2", "7", "spill", version], "{registered:?}");
        ensure!(registered.labels["karpenter.sh/nodepool"] == "nvme", "{registered:?}");
        ensure!(registered.taints == [KARPENTERS], "{registered:?}");
        // The report of this boot: kubelet's start brought it.
        ensure!(eks.condition()?.0 == "True", "{:?}", eks.condition()?);
        let node = eks.cluster.node(NODE)?;
        let detail = node["metadata"]["annotations"][format!("{DOMAIN}/detail")].as_str().unwrap_or_default();
        ensure!(eks.vm.drives.iter().all(|drive| detail.contains(&drive.serial)), "{detail}");
        let status = eks.vm.ok("nvme-agent status")?;
        ensure!(status.contains("/etc/eks/nodeadm.d/50-nvme-agent.yaml"), "{status}");
        unchanged(&mut eks)?;

        eks.put_label("team", "spill")?;
        let serial = eks.vm.drives[1].serial.clone();
        let (boot, registered) = eks.boot(&[0], BlankDrives::Keep)?;
        ensure!(boot.failed == ["nvme-agent.service"], "{boot:?}");
        let registered = registered.context("a failed node joins under the policy `label`")?;
        ensure!(registered.label("state") == "failed" && registered.taints == [KARPENTERS], "{registered:?}");
        eks.told_failed("MemberMissing", &serial)?;
        ensure!(eks.cluster.node(NODE)?["metadata"]["labels"]["team"] == "spill", "a person's label is gone");

        let (boot, registered) = eks.boot(&[1, 0], BlankDrives::Keep)?;
        boot.clean()?;
        ensure!(registered.is_some_and(|registered| registered.label("state") == "ready"));
        eks.told_ready()?;
        ensure!(eks.cluster.node(NODE)?["metadata"]["labels"]["team"] == "spill", "a person's label is gone");
        unchanged(&mut eks)
    })
}

/// An instance without drives says so when it registers, and never again.
pub fn absent(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut eks = Eks::image(vm)?;
        eks.install("on_failure = \"no-join\"\n")?;
        let (boot, registered) = eks.boot(&[], BlankDrives::Keep)?;
        boot.clean()?;
        let registered = registered.context("nodeadm-run did not get through")?;
        ensure!(registered.label("state") == "absent" && registered.taints == [KARPENTERS], "{registered:?}");
        unchanged(&mut eks)?;
        ensure!(eks.condition().is_err(), "a condition was written: {:?}", eks.condition());
        ensure!(eks.vm.ok("systemctl show -P ConditionResult nvme-agent-report.service")? == "no");
        Ok(())
    })
}

/// A tick with nothing new asks nobody.
fn unchanged(eks: &mut Eks<'_, '_>) -> Result<()> {
    let asked = eks.tick()?;
    ensure!(asked.is_empty(), "a tick with nothing new asked {asked:?}");
    Ok(())
}

/// An image without nodeadm.d: the label goes into kubelet's environment file, which nodeadm writes anew at every boot.
pub fn older(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.add(&DriveSpec::many(2, 4 * GIB))?;
        let mut eks = Eks::image(vm)?;
        eks.older()?;
        eks.install("on_failure = \"taint\"\ndrive_timeout = \"5s\"\n")?;
        let (boot, registered) = eks.boot(&[0, 1], BlankDrives::Keep)?;
        boot.clean()?;
        let registered = registered.context("nodeadm-run did not get through")?;
        ensure!(registered.label("state") == "ready" && registered.taints == [KARPENTERS], "{registered:?}");
        ensure!(eks.vm.ok("nvme-agent status")?.contains("/etc/eks/kubelet/environment"));
        let (_, registered) = eks.boot(&[0], BlankDrives::Keep)?;
        let registered = registered.context("a failed node joins tainted")?;
        ensure!(registered.label("state") == "failed", "{registered:?}");
        ensure!(registered.taints == [KARPENTERS, &format!("{DOMAIN}/failed")], "{registered:?}");
        Ok(())
    })
}

/// The power is cut while the drop-in is rewritten over and over: what is there afterwards never keeps nodeadm from reading it.
pub fn power_cut(ctx: &Ctx) -> Result<()> {
    const CUTS: u32 = 6;
    ctx.vm(Guest::Trixie, |vm| {
        let (mut eks, _) = Eks::booted(vm, "")?;
        let mut seen = std::collections::BTreeSet::new();
        for cut in 0..CUTS {
            // Each time another text, of another length. The whole disk is written out meanwhile, so that the cut meets all stages.
            eks.vm.spawn(&format!(
                "n=0; while :; do
                     n=$((n + 1)); printf 'profile = \"%0*d\"\\n' $((n % 40 + 1)) $n > /etc/nvme-agent/config.toml
                     nvme-agent gate; [ $((n % 3)) != 0 ] || sync
                 done > /root/cut-{cut} 2>&1"
            ))?;
            let pause = 1500 + u64::from(cut) * 370;
            std::thread::sleep(std::time::Duration::from_millis(pause));
            eks.vm.crash()?;
            eks.vm.power_on_mini(&[0, 1])?;
            let there = eks.vm.ok("cat /etc/eks/nodeadm.d/*; ls -A /etc/eks/nodeadm.d")?;
            let checked = eks.vm.sh("mkdir -p /run/eks; for f in /etc/eks/nodeadm.d/*; do
                    nodeadm config check --config-source file:///etc/stand-in/user-data.yaml --config-source file://$f || exit 1
                done")?;
            ensure!(checked.rc == 0, "cut {cut}: {checked:?}\n{there}");
            seen.insert(there);
            if cut + 1 == CUTS {
                eks.vm.crash()?;
                let (boot, registered) = eks.power_on(&[0, 1], BlankDrives::Keep)?;
                boot.clean()?;
                ensure!(registered.is_some_and(|registered| registered.label("state") == "ready"));
            } else {
                eks.vm.crash()?;
                eks.vm.power_on(&[0, 1], BlankDrives::Keep)?;
            }
        }
        ensure!(seen.len() > 1, "nothing was being written when the power was cut: {seen:?}");
        Ok(())
    })
}
