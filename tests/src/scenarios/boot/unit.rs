//! The unit itself: what systemd thinks of it, and that its confinement leaves setup what it needs.

use anyhow::{Result, ensure};

use super::checks;
use crate::boot::{BlankDrives, ROOT};
use crate::drive::{DriveSpec, GIB, TIB};
use crate::image::Guest;
use crate::runner::Ctx;
use crate::vm::Vm;

const UNITS: &str = "/etc/systemd/system";

/// Everything that needs no boot.
pub fn judged(ctx: &Ctx) -> Result<()> {
    for guest in [Guest::Trixie, Guest::Bookworm] {
        ctx.case(&format!("judged on {}", guest.name()), guest, judge);
        ctx.case(&format!("confined on {}", guest.name()), guest, confined);
    }
    Ok(())
}

fn judge(vm: &mut Vm) -> Result<()> {
    vm.ok("nvme-agent install")?;
    let installed = format!("find {UNITS} /etc/udev /usr/local /usr/bin/nvme-agent -printf '%p %T@ %l\\n'");
    let first = vm.ok(&installed)?;
    ensure!(first.contains("basic.target.wants/nvme-agent.service"), "{first}");
    vm.ok("nvme-agent install")?;
    ensure!(vm.ok(&installed)? == first, "a second install changes nothing");

    let verified = vm.sh(&format!("systemd-analyze verify {UNITS}/nvme-agent.service"))?;
    ensure!(verified.rc == 0 && verified.out.is_empty() && verified.err.is_empty(), "{verified:?}");
    vm.ok("systemctl daemon-reload")?;
    let score = vm.ok("systemd-analyze security --no-pager nvme-agent.service | tail -n 1")?;
    let number = score.split(':').nth(1).and_then(|rest| rest.split_whitespace().next());
    ensure!(number.and_then(|n| n.parse::<f64>().ok()).is_some_and(|n| n <= 5.0), "{score}");
    Ok(())
}

/// As the unit, each time: ext4 on /tmp, and xfs on another target, with groups and modes of directories.
fn confined(vm: &mut Vm) -> Result<()> {
    vm.plug(&DriveSpec::many(2, 4 * GIB))?;
    vm.ok("nvme-agent install; systemctl daemon-reload; systemctl start nvme-agent")?;
    quiet(vm)?;
    ensure!(vm.ok("df --output=source,fstype /tmp | tail -n 1")?.split_whitespace().eq(["/dev/md0", "ext4"]));
    vm.ok("systemctl stop nvme-agent; umount /tmp; mdadm -q --stop /dev/md0
           blkdiscard -f /dev/nvme1n1; blkdiscard -f /dev/nvme2n1; rm -r /var/lib/nvme-agent; sed -i /x-nvme-agent/d /etc/fstab")?;
    let config = "target = \"/opt/data\"\nfilesystem = \"xfs\"\n[[directory]]\npath = \"shared\"\nowner = \"1000\"\ngroup = \"1000\"\nmode = \"2775\"\n";
    vm.write("/etc/nvme-agent/config.toml", 0o644, config.as_bytes())?;
    vm.ok("nvme-agent install; systemctl daemon-reload; systemctl start nvme-agent")?;
    quiet(vm)?;
    ensure!(vm.ok("findmnt -no SOURCE,FSTYPE /opt/data")?.split_whitespace().eq(["/dev/md0", "xfs"]));
    ensure!(vm.ok("stat -c '%u %g %a' /opt/data/shared")? == "1000 1000 2775");
    vm.ok("systemctl restart nvme-agent")?;
    quiet(vm)
}

/// A system call or capability that is forbidden shows as a warning of ours. Files that get hidden are none of that.
fn quiet(vm: &mut Vm) -> Result<()> {
    let loud = vm.ok("journalctl -b --no-pager -o cat -p warning -u nvme-agent.service")?;
    let loud: Vec<&str> = loud.lines().filter(|line| !line.contains("hidden by the mount")).collect();
    ensure!(loud.is_empty(), "{loud:?}");
    ensure!(checks::state(vm)?["state"] == "ready", "{:#}", checks::state(vm)?);
    Ok(())
}

/// xfs at /opt/data from the first boot on, with the drop-in that another target needs.
pub fn other_target(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.write("/etc/nvme-agent/config.toml", 0o644, b"target = \"/opt/data\"\nfilesystem = \"xfs\"\n")?;
        checks::bake(vm)?;
        vm.add(&DriveSpec::many(2, TIB))?;
        let boot = vm.boot_again(&[0, 1], BlankDrives::Keep)?;
        let made = checks::ready(vm, &boot, "/opt/data")?;
        ensure!(vm.ok("findmnt -no FSTYPE /tmp")? == "tmpfs", "/tmp is nobody's business");
        vm.ok("echo kept > /opt/data/file; sync")?;
        let boot = vm.boot_again(&[1, ROOT, 0], BlankDrives::Keep)?;
        ensure!(checks::ready(vm, &boot, "/opt/data")? == made);
        ensure!(vm.ok("cat /opt/data/file")? == "kept");
        Ok(())
    })
}

/// PID 1 is busy while the array is made, and reads afterwards what udev said of it meanwhile: that it is not ready. A
/// reload of ours in between would have it find the device ready, then lost, and stop the mount that fstab bound to it.
pub fn slow_reload(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        let generator = "/etc/systemd/system-generators/slow";
        vm.write(generator, 0o755, b"#!/bin/sh\n[ -e /run/slowed ] || { touch /run/slowed; sleep 8; }\n")?;
        vm.ok(
            "systemctl daemon-reload & until [ -e /run/slowed ]; do sleep 0.1; done; nvme-agent setup; wait",
        )?;
        stays(vm)?;
        let fragment = vm.ok("systemctl show --property=FragmentPath --value tmp.mount")?;
        ensure!(fragment.contains("generator"), "systemd has not read fstab: {fragment}");
        // What went a moment ago, with systemd still about to stop it, and is there again.
        vm.ok("nvme-agent teardown --yes; nvme-agent setup")?;
        stays(vm)?;
        vm.ok("rm /run/slowed; systemctl daemon-reload & until [ -e /run/slowed ]; do sleep 0.1; done
               nvme-agent teardown --yes; nvme-agent setup; wait")?;
        stays(vm)
    })
}

/// The reload that setup asked for, and whatever comes of it, has left the mount where it is.
fn stays(vm: &mut Vm) -> Result<()> {
    vm.ok("sleep 3; udevadm settle; systemctl daemon-reload; sleep 1")?;
    ensure!(vm.ok("df --output=source /tmp | tail -n 1")? == "/dev/md0");
    Ok(())
}
