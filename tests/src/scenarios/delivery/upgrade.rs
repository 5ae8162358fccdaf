//! A new binary on a node that is set up: nothing that is mounted changes, and the next boot runs the new one.

use anyhow::{Context, Result, ensure};

use crate::boot::BlankDrives;
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, agent_binary};
use crate::scenarios::kit::{ensure_ready, files};

/// What a file in use is told by.
const OPEN: &str =
    "cat /tmp/open; stat -c '%i %Y' /tmp/open; grep ' /tmp ' /proc/self/mountinfo; cat /proc/mdstat";

pub fn upgrade(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        vm.ok("mv /usr/bin/nvme-agent /root/old; /root/old install; systemctl start nvme-agent.service")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        let (state, etc) = (vm.ok("cat /run/nvme-agent/state.json")?, files(vm, "/etc")?);
        vm.ok("echo kept > /tmp/open; sync")?;
        let before = vm.ok(OPEN)?;
        let holder = vm.spawn("exec 9< /tmp/open; until [ -e /root/done ]; do sleep 0.2; done; cat <&9")?;

        // Other bytes, the same program: what `install` has to put into the place of one that runs at every boot.
        let mut new = std::fs::read(agent_binary().context("no agent has been built")?)?;
        new.extend_from_slice(b"\nnew\n");
        vm.write("/root/new", 0o755, &new)?;
        let said = vm.ok("/root/new install; cmp /root/new /usr/local/bin/nvme-agent; systemctl restart nvme-agent.service")?;
        ensure!(said.contains("/usr/local/bin/nvme-agent"), "{said}");
        ensure!(vm.ok(OPEN)? == before, "what is mounted changed");
        ensure!(vm.ok("cat /run/nvme-agent/state.json")? == state, "the first run's record is gone");
        let changed = crate::scenarios::kit::differences(&etc, &files(vm, "/etc")?);
        ensure!(changed.is_empty(), "{changed:?}");
        vm.ok("touch /root/done")?;
        ensure!(vm.wait(holder)?.out.trim() == "kept");

        vm.ok("sync")?;
        vm.boot_again(&[1, 0], BlankDrives::Keep)?.clean()?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        ensure!(vm.ok("cat /tmp/open")? == "kept");
        Ok(())
    })
}
