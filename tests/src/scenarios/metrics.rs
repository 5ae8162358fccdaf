//! Metrics as the unit writes them: under systemd itself, whose confinement must leave the agent what it asks drives by.

use anyhow::{Result, ensure};

use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[Scenario { name: "metrics", tier: Tier::Full, run: metrics }];

const DIRECTORY: &str = "/var/lib/node_exporter/textfile_collector";
const UNIT: &str = "nvme-agent-metrics.service";

fn metrics(ctx: &Ctx) -> Result<()> {
    for guest in [Guest::Trixie, Guest::Bookworm] {
        ctx.case(&format!("metrics on {}", guest.name()), guest, written);
    }
    Ok(())
}

fn written(vm: &mut Vm) -> Result<()> {
    vm.plug(&DriveSpec::many(2, 4 * GIB))?;
    vm.ok("nvme-agent install; systemctl daemon-reload; systemctl start nvme-agent")?;
    vm.ok(&format!("systemctl start {UNIT}; [ ! -e {DIRECTORY} ]"))?;
    ensure!(
        vm.ok(&format!("systemctl show -P ConditionResult {UNIT}"))? == "no",
        "skipped without node_exporter"
    );

    // The directory is another user's, and something of that user's is where the file goes.
    vm.ok(&format!(
        "mkdir -p {DIRECTORY}; echo theirs > /root/theirs; ln -s /root/theirs {DIRECTORY}/nvme-agent.prom
         chown -R -h 65534:65534 /var/lib/node_exporter; systemctl start {UNIT}"
    ))?;
    let page = vm.ok(&format!("cat {DIRECTORY}/nvme-agent.prom"))?;
    ensure!(page.contains("\nnvme_agent_state{state=\"ready\"} 1\n"), "{page}");
    let of =
        |name: &str| page.lines().filter(|line| line.starts_with(&format!("{name}{{"))).collect::<Vec<_>>();
    for flag in ["nvme_agent_drive_live", "nvme_agent_drive_answered", "nvme_agent_drive_readable"] {
        let drives = of(flag);
        ensure!(drives.len() == 2 && drives.iter().all(|line| line.ends_with(" 1")), "{flag}: {page}");
    }
    ensure!(of("nvme_agent_drive_temperature_celsius").len() == 2, "SMART was not told: {page}");
    ensure!(page.contains("\nnvme_agent_filesystem_size_bytes "), "{page}");
    ensure!(
        vm.ok(&format!("stat -c '%F %a %u' {DIRECTORY}/*; ls -A {DIRECTORY}"))?
            == "regular file 644 0\nnvme-agent.prom"
    );
    ensure!(vm.ok("cat /root/theirs")? == "theirs", "root wrote where a link led");

    // A bad verdict is written, and nothing of it fails.
    vm.ok(&format!("umount /tmp; systemctl start {UNIT}"))?;
    let page = vm.ok(&format!("cat {DIRECTORY}/nvme-agent.prom"))?;
    ensure!(page.contains("\nnvme_agent_state{state=\"failed\"} 1\n"), "{page}");
    // Debian 13 has a tmpfs beneath.
    let reason = |name: &str| page.contains(&format!("\nnvme_agent_reason_info{{reason=\"{name}\"}} 1\n"));
    ensure!(reason("MountGone") || reason("MountReplaced"), "{page}");
    ensure!(vm.ok(&format!("systemctl show -P Result {UNIT}"))? == "success");
    let said = vm.ok(&format!("journalctl -b -q --no-pager -o cat -u {UNIT}"))?;
    ensure!(said.is_empty(), "a line in the journal each minute: {said}");
    vm.ok("systemctl start nvme-agent-metrics.timer; systemctl list-timers --no-pager | grep nvme-agent-metrics.timer")?;
    Ok(())
}
