//! Other kernels than the one that most scenarios run on: AL2023 runs 6.1 and 6.12, and newer ones will come. The main
//! claims in short: fresh, reboot, stop and start, adoption.

use anyhow::{Result, ensure};

use crate::boot::{BlankDrives, ROOT};
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "guests-6.1", tier: Tier::Full, run: |ctx| all(ctx, Guest::Bookworm61, "6.1.") },
    Scenario { name: "guests-newest", tier: Tier::Full, run: |ctx| all(ctx, Guest::TrixieNewest, "") },
];

fn all(ctx: &Ctx, guest: Guest, kernel: &str) -> Result<()> {
    ctx.case("life", guest, |vm| {
        let release = vm.ok("uname -r")?;
        ensure!(release.starts_with(kernel) && !release.starts_with("6.12."), "kernel {release}");
        life(vm)
    });
    ctx.case("adoption", guest, adoption);
    ctx.case("one-drive", guest, one_drive);
    Ok(())
}

/// Fresh, again, reboot with other numbers, stop and start on other drives.
fn life(vm: &mut Vm) -> Result<()> {
    vm.plug(&DriveSpec::many(2, 4 * GIB))?;
    vm.ok("nvme-agent install; nvme-agent setup")?;
    ready(vm)?;
    let made = identity(vm)?;
    vm.ok("mdadm --examine /dev/nvme1n1 | grep -q 'Checksum.*correct'; mdadm --detail /dev/md0")?;
    let lines = vm.ok("cat /etc/fstab /etc/mdadm/mdadm.conf")?;
    vm.ok("nvme-agent setup")?;
    ensure!(vm.ok("cat /etc/fstab /etc/mdadm/mdadm.conf")? == lines, "a second run changes nothing");
    vm.ok("echo kept > /tmp/file; sync")?;

    vm.boot_again(&[1, ROOT, 0], BlankDrives::Keep)?.clean()?;
    ready(vm)?;
    ensure!(identity(vm)? == made, "the same filesystem on the same array: {made}, {}", identity(vm)?);
    ensure!(vm.ok("cat /tmp/file")? == "kept");

    vm.boot_again(&[ROOT, 0, 1], BlankDrives::Replaced)?.clean()?;
    ready(vm)?;
    ensure!(identity(vm)? == made, "made again under the UUIDs that systemd waits for");
    vm.fails(1, "test -e /tmp/file")?;
    no_complaint(vm)
}

/// An array of the old script, under its host's name, is taken over and stays through a boot in another order.
fn adoption(vm: &mut Vm) -> Result<()> {
    vm.plug(&DriveSpec::many(2, 4 * GIB))?;
    vm.ok("hostname ip-10-0-1-23.us-west-2.compute.internal
           mdadm --create /dev/md0 --run --name=md0 --level=0 --raid-devices=2 /dev/nvme1n1 /dev/nvme2n1
           mkfs.ext4 -q -F /dev/md0; mount /dev/md0 /tmp; echo kept > /tmp/file; blkid -p -o value -s UUID /dev/md0 > /root/uuid
           mdadm --detail --scan >> /etc/mdadm/mdadm.conf
           echo '/dev/md0 /tmp ext4 defaults,nofail,noatime 0 2' >> /etc/fstab
           umount /tmp; mdadm --stop /dev/md0
           nvme-agent install; sync")?;
    let uuid = vm.ok("cat /root/uuid")?;
    vm.boot_again(&[1, ROOT, 0], BlankDrives::Keep)?.clean()?;
    ready(vm)?;
    ensure!(vm.ok("cat /tmp/file; findmnt -no UUID --mountpoint /tmp -t ext4")? == format!("kept\n{uuid}"));
    no_complaint(vm)
}

/// The single drive with xfs: the other shape of everything.
fn one_drive(vm: &mut Vm) -> Result<()> {
    vm.plug(&DriveSpec::many(1, 4 * GIB))?;
    vm.ok("nvme-agent setup --filesystem xfs")?;
    ready(vm)?;
    ensure!(vm.ok("findmnt -no FSTYPE,SOURCE --mountpoint /tmp -t xfs")?.starts_with("xfs"));
    vm.ok("nvme-agent setup --filesystem xfs; umount /tmp; xfs_repair -n /dev/nvme1n1")?;
    no_complaint(vm)
}

/// What a user sees of a node that is ready.
fn ready(vm: &mut Vm) -> Result<()> {
    vm.ok("nvme-agent status")?;
    // Below it is the distribution's tmpfs, where that came first.
    let mounts = vm.ok("findmnt -no OPTIONS --mountpoint /tmp -t ext4,xfs")?;
    ensure!(
        mounts.contains("noatime") && mounts.lines().count() == 1,
        "one mount at /tmp, noatime: {mounts}"
    );
    ensure!(vm.ok("stat -c %a /tmp")? == "1777");
    vm.ok("setpriv --reuid=1000 --regid=1000 --clear-groups touch /tmp/by-anybody; rm /tmp/by-anybody; findmnt --verify")?;
    ensure!(vm.ok("nvme-agent status | head -n 1")?.contains("ready"));
    Ok(())
}

fn identity(vm: &mut Vm) -> Result<String> {
    vm.ok(
        "findmnt -no SOURCE,UUID --mountpoint /tmp -t ext4; mdadm --detail --export /dev/md0 | grep MD_UUID",
    )
}

fn no_complaint(vm: &mut Vm) -> Result<()> {
    let log = vm.kernel_log()?;
    let bad = ["WARNING:", "BUG:", "Call Trace", "EXT4-fs error", "raid0: cannot", "md: invalid"];
    ensure!(!bad.iter().any(|word| log.contains(word)), "the kernel complains: {log}");
    Ok(())
}
