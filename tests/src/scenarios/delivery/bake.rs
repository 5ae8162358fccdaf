//! An image that is made with `ami/`, on a host that had set its own drives up, and two instances of it.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::boot::BlankDrives;
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, agent_binary, workspace};
use crate::scenarios::kit::ensure_ready;
use crate::vm::Vm;

const SCRIPTS: [&str; 2] = ["provision.sh", "clean.sh"];

pub fn bake(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let host = build(vm)?;
        vm.power_off()?;
        let image = vm.root().with_extension("baked");
        fs::copy(vm.root(), &image).context("keep the image")?;
        let mut seen = vec![host];
        for (id, kind) in [("i-0aaaaaaaaaaaaaaa1", "i4i.large"), ("i-0bbbbbbbbbbbbbbb2", "m6id.large")] {
            fs::copy(&image, vm.root()).with_context(|| format!("launch {id}"))?;
            (vm.instance.id, vm.instance.kind) = (id.into(), kind.into());
            vm.power_on(&[0, 1], BlankDrives::Replaced)?.clean()?;
            let state = ensure_ready(vm, "/tmp", "ext4", 2)?;
            ensure!(state["trigger"] == "boot", "{state:#}");
            let this = identity(vm)?;
            for (name, (one, other)) in ["machine id", "filesystem", "array"]
                .iter()
                .cycle()
                .zip(seen.iter().flat_map(|before| before.iter().zip(&this)))
            {
                ensure!(
                    one != other && !other.is_empty(),
                    "{id}: the {name} is that of another host: {other}"
                );
            }
            seen.push(this);
            vm.power_off()?;
        }
        Ok(())
    })
}

/// The build host: provisioned, set up by somebody who tried it, torn down and cleaned.
fn build(vm: &mut Vm<'_>) -> Result<[String; 3]> {
    vm.plug(&DriveSpec::many(2, 4 * GIB))?;
    vm.ok("rm /usr/bin/nvme-agent; mkdir -p /etc/ssh; touch /etc/ssh/ssh_host_ed25519_key")?;
    vm.push(&agent_binary().context("no agent has been built")?, "/root/ami/nvme-agent")?;
    for name in SCRIPTS {
        vm.push(&workspace().join("ami").join(name), &format!("/root/ami/{name}"))?;
    }
    vm.ok("/root/ami/provision.sh /root/ami/nvme-agent; nvme-agent setup")?;
    let host = identity(vm)?;
    // Not while the drives are in use.
    let refused = vm.fails(1, "/root/ami/clean.sh")?;
    ensure!(refused.err.contains("teardown --yes"), "{refused:?}");
    vm.ok("nvme-agent teardown --yes; /root/ami/clean.sh --identity; rm -r /root/ami; sync")?;
    let left = vm.sh(
        "grep -rs x-nvme-agent /etc/fstab; grep -s nvme-agent /etc/mdadm/mdadm.conf; ls -d /var/lib/nvme-agent /etc/ssh/ssh_host_* 2> /dev/null
         cat /etc/machine-id",
    )?;
    ensure!(left.out.is_empty(), "{left:?}");
    Ok(host)
}

/// Machine id, filesystem's UUID, array's UUID.
fn identity(vm: &mut Vm<'_>) -> Result<[String; 3]> {
    let state: serde_json::Value = serde_json::from_str(&vm.ok("cat /run/nvme-agent/state.json")?)?;
    let of = |name: &str| state[name].as_str().unwrap_or_default().to_owned();
    Ok([vm.ok("cat /etc/machine-id")?, of("fs_uuid"), of("array_uuid")])
}
