//! A failed setup's one line on the machine's console: all that is left of a node that is gone within half a minute.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::kit::state_is;
use crate::boot::{BlankDrives, Boot};
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::screen;
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[Scenario { name: "console", tier: Tier::Normal, run: failures }];

const CONFIG: &str = "/etc/nvme-agent/config.toml";
/// Long enough for systemd to say on the console what it waits for.
const ONE_IS_MISSING: &str = "expect_drives = 2\ndrive_timeout = \"9s\"\n";
const WRONG: &str = "# of another version\nfile_system = \"xfs\"\n";
const BAD_CONFIGURATION: &[&str] =
    &["(BadConfiguration): ", "/etc/nvme-agent/config.toml:2", "unknown key `file_system`", "; Correct it"];

fn failures(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        // As EKS's images have it: of the kernel errors only, so that it writes into the midst of nobody's line.
        vm.append = "quiet".into();
        vm.add(&DriveSpec::many(2, 4 * GIB))?;
        let serial = vm.drives[0].serial.clone();
        let boot = boot_with(vm, ONE_IS_MISSING, &[0])?;
        let words = ["(DriveMissing): ", "expected 2 drives, found 1", &serial, "; Check the instance type"];
        fails(vm, &boot, "DriveMissing", &words)?;
        let boot = boot_with(vm, WRONG, &[0, 1])?;
        fails(vm, &boot, "BadConfiguration", BAD_CONFIGURATION)?;
        nobody_watches(vm)
    })
}

/// A boot with this configuration and these drives.
fn boot_with(vm: &mut Vm, config: &str, drives: &[usize]) -> Result<Boot> {
    vm.ok("nvme-agent install")?;
    vm.write(CONFIG, 0o644, config.as_bytes())?;
    vm.boot_again(drives, BlankDrives::Keep)
}

/// The boot has gone on without the drives, and the console has why.
fn fails(vm: &mut Vm, boot: &Boot, reason: &str, words: &[&str]) -> Result<()> {
    ensure!(
        boot.state == "degraded" && boot.failed.iter().any(|unit| unit == "nvme-agent.service"),
        "{boot:?}"
    );
    state_is(vm, "failed", reason)?;
    let line = told(vm, 1)?;
    ensure!(words.iter().all(|word| line.contains(word)), "expected {words:?} in: {line}");
    // A terminal on which somebody prints the log does what it says: systemd has its own lines make way for others.
    let shown = screen::shown(&vm.console());
    ensure!(shown.iter().filter(|shown| **shown == line).count() == 1, "{line}\nis not in\n{shown:#?}");
    Ok(())
}

/// The last of the lines about a failed setup, of which the console has so many since the boot.
fn told(vm: &Vm, count: usize) -> Result<String> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let console = vm.console();
        let lines: Vec<&str> =
            console.split(['\r', '\n']).filter(|line| line.contains("setup failed")).collect();
        match lines.last() {
            Some(line) if lines.len() == count => {
                ensure!(line.starts_with("nvme-agent: setup failed ("), "{line}");
                ensure!(line.len() <= 300 && line.chars().all(|c| matches!(c, ' '..='~')), "{line}");
                return Ok((*line).to_owned());
            }
            _ => ensure!(Instant::now() < end, "expected {count} lines on the console, found {lines:#?}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What nobody watches is told, the boot's setup and userData's; what somebody sees who typed it, and a success, are not.
fn nobody_watches(vm: &mut Vm) -> Result<()> {
    // As cloud-init runs it, the output in a pipe.
    let user_data = |arguments: &str| {
        format!("nvme-agent setup --trigger user-data {arguments} 2>&1 | cat; exit ${{PIPESTATUS[0]}}")
    };
    let three = "--expect-drives 3 --drive-timeout 1s";
    vm.fails(4, "nvme-agent setup")?;
    vm.fails(4, "nvme-agent plan")?;
    vm.fails(4, &user_data(""))?;
    let line = told(vm, 2)?;
    ensure!(BAD_CONFIGURATION.iter().all(|word| line.contains(word)), "{line}");
    vm.ok(&format!("rm {CONFIG}"))?;
    vm.fails(6, &format!("nvme-agent setup {three}"))?;
    vm.fails(6, &user_data(three))?;
    let line = told(vm, 3)?;
    ensure!(line.contains("(DriveMissing): expected 3 drives, found 2"), "{line}");
    vm.fails(4, &format!("NVME_AGENT_LOG_LEVEL=loud {}", user_data("")))?;
    let line = told(vm, 4)?;
    ensure!(line.contains("(BadConfiguration): ") && line.contains("NVME_AGENT_LOG_LEVEL"), "{line}");

    vm.ok("systemctl restart nvme-agent.service")?;
    state_is(vm, "ready", "SetupComplete")?;
    vm.ok(&user_data(""))?;
    vm.ok("sleep 1")?;
    told(vm, 4).map(drop)
}
