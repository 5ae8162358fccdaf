//! What becomes of a node whose drives are somebody else's, under each policy; and of one whose agent never came.

use anyhow::{Context, Result, ensure};

use super::eks::{DOMAIN, Eks, KARPENTERS, Registered};
use crate::boot::{BlankDrives, Boot};
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, workspace};

/// What a shell writes before it fetches the binary, and the script that does.
const PESSIMISTIC: &str = "packaging/registration";

const GATE: &str = "nodeadm-run.service.d/50-nvme-agent.conf";

/// A first boot with a filesystem of somebody else's on a drive.
fn foreign(eks: &mut Eks<'_, '_>, config: &str) -> Result<(Boot, Option<Registered>)> {
    eks.vm.plug(&DriveSpec::many(2, 4 * GIB))?;
    let name = eks.vm.device(1)?;
    eks.vm.ok(&format!("mkfs.xfs -q /dev/{name}; sync"))?;
    eks.install(config)?;
    eks.boot(&[0, 1], BlankDrives::Keep)
}

pub fn label(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut eks = Eks::image(vm)?;
        let (boot, registered) = foreign(&mut eks, "")?;
        ensure!(boot.failed == ["nvme-agent.service"], "{boot:?}");
        let registered = registered.context("it joins")?;
        ensure!(registered.label("state") == "failed" && registered.taints == [KARPENTERS], "{registered:?}");
        eks.told_failed("ForeignData", "xfs")?;
        // Mended by hand, in the same boot.
        eks.vm.ok("nvme-agent setup --wipe-foreign")?;
        eks.tick()?;
        eks.told_ready()?;
        Ok(())
    })
}

pub fn taint(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut eks = Eks::image(vm)?;
        let (_, registered) = foreign(&mut eks, "on_failure = \"taint\"\n")?;
        let registered = registered.context("it joins, tainted")?;
        ensure!(registered.label("state") == "failed", "{registered:?}");
        ensure!(registered.taints == [KARPENTERS, &format!("{DOMAIN}/failed")], "{registered:?}");
        eks.told_failed("ForeignData", "xfs")
    })
}

/// At a first boot, then on an instance that has joined, by the policy for that.
pub fn no_join(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut eks = Eks::image(vm)?;
        let config = "on_failure = \"no-join\"\ndrive_timeout = \"5s\"\n";
        let (boot, registered) = foreign(&mut eks, config)?;
        ensure!(registered.is_none(), "{registered:?}");
        ensure!(boot.failed == ["nodeadm-run.service", "nvme-agent.service"], "{boot:?}");
        ensure!(eks.vm.sh("systemctl is-active kubelet.service")?.rc != 0, "kubelet runs");
        let said = eks.vm.ok("journalctl -b -u nodeadm-run.service -o cat --no-pager")?;
        ensure!(said.contains("must not join") && said.contains("ForeignData"), "{said}");

        // Mended by hand: the unit can be started, and the node is there. What kubelet leaves must be older than the next boot
        // by more than the clock may be off.
        eks.vm.ok("nvme-agent setup --wipe-foreign; systemctl start nodeadm-run.service; systemctl is-active kubelet.service; sleep 6")?;
        // A reboot into failure: it has joined before, and `on_boot_failure` is to report.
        let (_, registered) = eks.boot(&[0], BlankDrives::Keep)?;
        let registered = registered.context("a node that has joined comes back")?;
        ensure!(registered.label("state") == "failed", "{registered:?}");
        eks.told_failed("MemberMissing", "")?;
        eks.install(&format!("{config}on_boot_failure = \"no-join\"\n"))?;
        let (boot, registered) = eks.boot(&[0], BlankDrives::Keep)?;
        ensure!(registered.is_none() && boot.failed.iter().any(|unit| unit == "nodeadm-run.service"), "{boot:?}");
        let (boot, registered) = eks.boot(&[0, 1], BlankDrives::Keep)?;
        boot.clean()?;
        ensure!(registered.is_some_and(|registered| registered.label("state") == "ready"));
        Ok(())
    })
}

/// The files that a shell writes before the binary is there, and no binary ever.
pub fn without_agent(ctx: &Ctx) -> Result<()> {
    for policy in ["label", "taint", "no-join"] {
        ctx.case(policy, Guest::Trixie, |vm| {
            vm.add(&DriveSpec::many(2, 4 * GIB))?;
            let mut eks = Eks::image(vm)?;
            eks.vm.ok("rm /usr/bin/nvme-agent")?;
            for file in ["pessimistic.sh", "50-nvme-agent.yaml", "50-nvme-agent-tainted.yaml", GATE] {
                eks.vm.push(&workspace().join(PESSIMISTIC).join(file), &format!("/root/registration/{file}"))?;
            }
            // As userData would, when nodeadm has cached the NodeConfig.
            let shim = format!(
                "[Unit]\nAfter=nodeadm-config.service\nBefore=nodeadm-run.service\n[Service]\nType=oneshot\n\
                 ExecStart=/root/registration/pessimistic.sh {policy}\n[Install]\nWantedBy=multi-user.target\n"
            );
            eks.vm.write("/etc/systemd/system/shim.service", 0o644, shim.as_bytes())?;
            eks.vm.ok("systemctl -q enable shim.service; sync")?;
            let (boot, registered) = eks.boot(&[0, 1], BlankDrives::Keep)?;
            if policy == "no-join" {
                ensure!(
                    registered.is_none() && boot.failed == ["nodeadm-run.service"],
                    "{boot:?} {registered:?}"
                );
                return Ok(());
            }
            boot.clean()?;
            let registered = registered.context("it joins")?;
            ensure!(registered.label("state") == "failed", "{registered:?}");
            let failed = format!("{DOMAIN}/failed");
            let taints: &[&str] = if policy == "taint" { &[KARPENTERS, &failed] } else { &[KARPENTERS] };
            ensure!(registered.taints == taints, "{registered:?}");
            Ok(())
        });
    }
    Ok(())
}
