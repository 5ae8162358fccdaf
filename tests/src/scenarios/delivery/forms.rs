//! The forms that userData takes, run by real cloud-init: Karpenter's for AL2023 and AL2, a managed node group's, and none at
//! all on a baked image.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::launch::{Launch, karpenter as merged, mime};
use crate::boot::BlankDrives;
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::Ctx;
use crate::scenarios::node::eks::{KARPENTERS, Registered};

/// EC2's limit of userData, in bytes, after the merge.
const LIMIT: usize = 16_384;

/// What the agent prints for this instance.
fn script(launch: &Launch<'_, '_>, kind: &str) -> Result<String> {
    launch.render(kind, &["--on-failure", "taint"])
}

/// The script in the EC2NodeClass that README's way makes, with a web server for the bucket.
fn node_class(launch: &Launch<'_, '_>) -> Result<String> {
    let yaml = launch.render("nodeclass", &["--cluster", "lab", "--role", "KarpenterNodeRole-lab"])?;
    let class: Value = serde_saphyr::from_str(&yaml).context("what render printed is not YAML")?;
    class["spec"]["userData"].as_str().map(str::to_owned).context("no spec.userData")
}

fn ready(registered: Option<Registered>) -> Result<()> {
    let registered = registered.context("nodeadm-run did not get through")?;
    ensure!(registered.label("state") == "ready" && registered.taints == [KARPENTERS], "{registered:?}");
    Ok(())
}

/// Ours first, then Karpenter's NodeConfig; then a reboot, where userData does not run.
pub fn karpenter(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::TrixieCloudInit, |vm| {
        vm.add(&DriveSpec::many(2, 4 * GIB))?;
        let mut launch = Launch::image(vm)?;
        let user_data = merged(&node_class(&launch)?);
        ensure!(user_data.len() < LIMIT, "{} bytes", user_data.len());
        launch.eks.vm.note(&format!("merged userData: {} bytes of {LIMIT}", user_data.len()));
        let (_, registered) = launch.boot(&user_data)?;
        let vm = &mut launch.eks.vm;
        vm.ok("cloud-init status --long || :; cat /var/log/cloud-init-output.log; systemctl --failed --no-legend")?;
        ready(registered)?;
        vm.ok("findmnt -no SOURCE,FSTYPE /tmp | tail -n 1 | grep '/dev/md0 *ext4'; nvme-agent status")?;
        ensure!(vm.ok("cat /run/nvme-agent/state.json")?.contains("\"trigger\": \"user-data\""));
        vm.ok("echo kept > /tmp/file; sync")?;
        let (boot, registered) = launch.eks.boot(&[1, 0], BlankDrives::Keep)?;
        ready(registered)?;
        ensure!(boot.failed.is_empty(), "{boot:?}");
        ensure!(launch.eks.vm.ok("cat /tmp/file")? == "kept");
        Ok(())
    })
}

/// AL2: two scripts, and the second one starts kubelet.
pub fn al2(ctx: &Ctx) -> Result<()> {
    const BOOTSTRAP: &str = "#!/bin/bash\nset -e\nfindmnt -no SOURCE /tmp | tail -n 1 > /var/log/at-bootstrap\n\
        systemctl start kubelet.service\n";
    ctx.vm(Guest::TrixieCloudInit, |vm| {
        vm.add(&DriveSpec::many(2, 4 * GIB))?;
        let mut launch = Launch::image(vm)?;
        // No nodeadm there.
        launch.eks.vm.ok("systemctl -q disable nodeadm-config.service nodeadm-run.service
             rm -r /usr/bin/nodeadm /etc/eks/nodeadm.d /etc/systemd/system/nodeadm-*")?;
        launch.eks.vm.write("/etc/eks/bootstrap.sh", 0o755, BOOTSTRAP.as_bytes())?;
        launch.eks.vm.ok("sync")?;
        let script = script(&launch, "userdata")?;
        let shell = "text/x-shellscript; charset=\"us-ascii\"";
        let user_data =
            mime(&[(shell, &script), (shell, "#!/bin/bash -xe\nexec /etc/eks/bootstrap.sh lab\n")]);
        launch.boot_alone(&user_data)?;
        let vm = &mut launch.eks.vm;
        vm.ok("cloud-init status --wait || :; cat /var/log/cloud-init-output.log")?;
        ensure!(
            vm.ok("cat /var/log/at-bootstrap")? == "/dev/md0",
            "the mount was not there for bootstrap.sh"
        );
        vm.ok("systemctl is-active kubelet.service; nvme-agent status")?;
        Ok(())
    })
}

/// A managed node group: the launch template's own MIME document, to which EKS adds its NodeConfig.
pub fn managed(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::TrixieCloudInit, |vm| {
        vm.add(&DriveSpec::many(2, 4 * GIB))?;
        let mut launch = Launch::image(vm)?;
        let user_data = script(&launch, "launch-template")?;
        ensure!(user_data.starts_with("MIME-Version: 1.0\n"), "{user_data}");
        let (_, registered) = launch.boot(&user_data)?;
        launch.eks.vm.ok("cat /var/log/cloud-init-output.log")?;
        launch.eks.vm.note(&format!("userData: {} bytes of {LIMIT}", user_data.len()));
        ready(registered)?;
        launch.eks.vm.ok("findmnt -no SOURCE,FSTYPE /tmp | tail -n 1 | grep '/dev/md0 *ext4'")?;
        Ok(())
    })
}

/// An image with the agent in it, launched without any userData.
pub fn baked(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::TrixieCloudInit, |vm| {
        vm.add(&DriveSpec::many(2, 4 * GIB))?;
        let mut launch = Launch::image(vm)?;
        let agent = launch.agent();
        launch.eks.vm.push(&agent, "/usr/bin/nvme-agent")?;
        launch.eks.install("")?;
        let (boot, registered) = launch.boot("")?;
        ready(registered)?;
        ensure!(boot.failed.is_empty(), "{boot:?}");
        launch.eks.vm.ok("findmnt -no SOURCE,FSTYPE /tmp | tail -n 1 | grep '/dev/md0 *ext4'")?;
        Ok(())
    })
}
