//! Every boot: the unit's place in it, and what it makes of drives that moved, went blank, went missing, came back.
//!
//! A boot costs half a minute, so that one VM lives through many of them.

mod checks;
mod stop_start;
mod unit;

use anyhow::{Result, ensure};

use crate::boot::{BlankDrives, Boot, ROOT};
use crate::drive::{DriveSpec, TIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::Vm;

use checks::Identity;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "boot-trixie", tier: Tier::Normal, run: |ctx| life(ctx, Guest::Trixie) },
    Scenario { name: "boot-stop-start", tier: Tier::Full, run: |ctx| stop_start::cost(ctx, Guest::Bookworm) },
    Scenario { name: "boot-unit", tier: Tier::Full, run: unit::judged },
    Scenario { name: "boot-slow-reload", tier: Tier::Normal, run: unit::slow_reload },
    Scenario { name: "boot-other-target", tier: Tier::Full, run: unit::other_target },
    Scenario {
        name: "boot-stop-start-trixie",
        tier: Tier::Full,
        run: |ctx| stop_start::cost(ctx, Guest::Trixie),
    },
    Scenario { name: "boot-bookworm", tier: Tier::Full, run: |ctx| life(ctx, Guest::Bookworm) },
    Scenario { name: "boot-6.1", tier: Tier::Full, run: |ctx| life(ctx, Guest::Bookworm61) },
    Scenario { name: "boot-newest", tier: Tier::Full, run: |ctx| life(ctx, Guest::TrixieNewest) },
];

/// How long setup waits for a drive where one is missing: a boot in which it waits for the default 30 s shows no more.
const DRIVE_TIMEOUT: u32 = 8;

const TMP: &str = "/tmp";

/// An image with the agent in it: first boot, reboot with other numbers, stop and start, a drive missing, back again.
fn life(ctx: &Ctx, guest: Guest) -> Result<()> {
    ctx.vm(guest, |vm| {
        checks::bake(vm)?;
        vm.add(&DriveSpec::many(2, TIB))?;
        let boot = vm.boot_again(&[0, 1], BlankDrives::Keep)?;
        let made = checks::ready(vm, &boot, TMP)?;
        checks::tmpfiles(vm)?;
        fill(vm)?;

        let boot = vm.boot_again(&[1, ROOT, 0], BlankDrives::Keep)?;
        ensure!([vm.device(1)?, vm.device(0)?] == ["nvme0n1", "nvme2n1"], "{:?}", vm.devices()?);
        ensure!(checks::ready(vm, &boot, TMP)? == made);
        kept(vm)?;

        let boot = stopped_and_started(vm)?;
        ensure!(checks::ready(vm, &boot, TMP)? == made, "fstab and mdadm.conf name the same UUIDs");
        fill(vm)?;
        missing(vm, &boot)?;
        vm.ok("dpkg --purge mdadm; [ ! -e /sbin/mdadm ]; [ ! -e /etc/mdadm ]")?;
        back(vm, &made)?;
        ensure!(vm.sh("ls /etc/mdadm")?.rc != 0, "no mdadm here, so no mdadm.conf");
        Ok(())
    })
}

/// Blank drives with other serials, same root: made anew with the UUIDs that fstab names, and the boot waits for nothing.
fn stopped_and_started(vm: &mut Vm) -> Result<Boot> {
    vm.power_off()?;
    for drive in &mut vm.drives {
        drive.serial = drive.serial.replace("AWS00002", "AWS00003");
    }
    let boot = vm.power_on(&[0, 1], BlankDrives::Blank)?;
    ensure!(
        vm.ok("ls -A /tmp")?.split_whitespace().all(|name| name.starts_with("systemd-private-")
            || name == "lost+found"
            || name.starts_with('.'))
    );
    Ok(boot)
}

/// One of two drives is not there. `usual` is how many seconds a good boot takes on this host.
fn missing(vm: &mut Vm, usual: &Boot) -> Result<()> {
    let config = format!("drive_timeout = \"{DRIVE_TIMEOUT}s\"\n");
    vm.write("/etc/nvme-agent/config.toml", 0o644, config.as_bytes())?;
    let serial = vm.drives[1].serial.clone();
    let boot = vm.boot_again(&[0], BlankDrives::Keep)?;
    checks::failed(vm, &boot, &serial)?;
    // Far below what a job that waits for the device of our fstab line would take, 90 s.
    let limit = usual.seconds.unwrap_or_default() * 2.0 + f64::from(DRIVE_TIMEOUT) + 5.0;
    let took = boot.seconds.unwrap_or(f64::INFINITY).max(checks::finished(vm)?);
    ensure!(
        took < limit,
        "{took} s until nothing was left to be started; a good boot: {usual:?}, this: {boot:?}"
    );
    Ok(())
}

/// The drive is back, under another number: as if nothing had been.
fn back(vm: &mut Vm, made: &Identity) -> Result<()> {
    let boot = vm.boot_again(&[1, ROOT, 0], BlankDrives::Keep)?;
    ensure!(checks::ready(vm, &boot, TMP)? == *made);
    kept(vm)
}

/// What a workload leaves: content and times.
fn fill(vm: &mut Vm) -> Result<()> {
    vm.ok("mkdir -p /tmp/spill; seq 100000 > /tmp/spill/page; touch -d 2020-02-02T02:02:02Z /tmp/spill/page; sync").map(drop)
}

fn kept(vm: &mut Vm) -> Result<()> {
    ensure!(vm.ok("seq 100000 | cmp - /tmp/spill/page; stat -c %Y /tmp/spill/page")? == "1580608922");
    Ok(())
}
