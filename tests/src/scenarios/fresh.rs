//! Fresh instances: blank drives in, one ready filesystem out.

use anyhow::{Result, ensure};

use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};

pub const SCENARIOS: &[Scenario] = &[Scenario { name: "fresh-two", tier: Tier::Normal, run: two }];

fn two(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        vm.ok("nvme-agent plan")?;
        vm.ok("nvme-agent setup")?;
        vm.ok("findmnt /tmp; cat /etc/fstab /etc/mdadm/mdadm.conf; ls -la /tmp; cat /run/nvme-agent/state.json; nvme-agent status; mdadm --detail /dev/md0; mdadm --examine /dev/nvme1n1; journalctl -b -u nvme-agent -t nvme-agent --no-pager; systemctl list-jobs; dmesg | tail -20")?;
        ensure!(vm.ok("findmnt -no FSTYPE,OPTIONS /tmp")?.contains("noatime"));
        Ok(())
    })
}
