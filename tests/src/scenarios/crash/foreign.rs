//! What an interrupted run licenses, and what it never does: whatever came onto the drives since is somebody's data.

use anyhow::{Context, Result, ensure};

use super::{AGENT, facts, one, prepare, script, script_any};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] =
    &[Scenario { name: "crash-then-foreign-data", tier: Tier::Full, run: foreign }];

/// After a kill at the failpoint somebody does this; then setup must refuse, and change nothing. `$a` and `$b` are drives.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "ext4 on one drive",
        "record-intent-done",
        "mkfs.ext4 -q $a; mount $a /mnt; echo precious > /mnt/file; umount /mnt",
    ),
    ("a partition table", "record-intent-done", "sgdisk -n 1 $b > /run/said; udevadm settle; partx -d $b"),
    ("swap beside a superblock", "md-superblocks", "wipefs -qa $b; mkswap -q $b"),
    ("ext4 on our array, which runs", "create-array-done", "mkfs.ext4 -q /dev/md0"),
    ("ext4 on our array, which is stopped", "create-array-done", "mkfs.ext4 -q /dev/md0; settle_down"),
    (
        "LVM on our array, which is stopped",
        "make-filesystem",
        "pvcreate -q /dev/md0 > /run/said; udevadm settle; settle_down",
    ),
    ("another filesystem instead of ours", "make-filesystem-done", "mkfs.xfs -q -f /dev/md0; settle_down"),
];

/// After a kill at the failpoint our filesystem is used by somebody, in a way that the agent does not see; then its file must
/// be there in every run to come.
const USED: &[(&str, &str, &str)] = &[
    (
        "mounted by hand",
        "make-filesystem-done",
        "mount /dev/md0 /mnt; echo precious > /mnt/file; umount /mnt",
    ),
    (
        "mounted by hand, then a boot without udev",
        "stage",
        "mount /dev/md0 /mnt; echo precious > /mnt/file; umount /mnt; settle_down",
    ),
    (
        "mounted by systemd, then a boot",
        "prepare",
        "mount /dev/md0 /tmp; echo precious > /tmp/file; settle_down",
    ),
    (
        "mounted by systemd, then a run, then a boot",
        "make-filesystem-done",
        "mount /dev/md0 /tmp; echo precious > /tmp/file; nvme-agent setup > /run/said; cat /tmp/file > /run/said; settle_down",
    ),
];

fn foreign(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        prepare(vm, 2, false)?;
        for (what, at, deed) in REFUSED {
            note(ctx, vm, what, |vm| refused(vm, at, deed));
        }
        for (what, at, deed) in USED {
            for filesystem in ["ext4", "xfs"] {
                note(ctx, vm, &format!("{filesystem} {what}"), |vm| used(vm, filesystem, at, deed));
            }
        }
        note(ctx, vm, "a rebuild", rebuild);
        Ok(())
    })
}

fn note(ctx: &Ctx, vm: &mut Vm, what: &str, case: impl FnOnce(&mut Vm) -> Result<()>) {
    vm.note(&format!("=== {what}"));
    if let Err(error) = case(vm) {
        ctx.note_failure(format!("{what}: {error:#}"));
    }
}

fn killed(vm: &mut Vm, arguments: &str, at: &str, deed: &str) -> Result<()> {
    let text = format!(
        "set -- $(drives); a=$1 b=$2
         FAILPOINTS='{at}=1*return(kill)' {AGENT} setup {arguments} > /run/died 2>&1 && exit 1
         [ -e /var/lib/nvme-agent/intent.json ]
         {deed}
         sync"
    );
    script(vm, &text).map(drop)
}

fn refused(vm: &mut Vm, at: &str, deed: &str) -> Result<()> {
    script(vm, "reset")?;
    killed(vm, "", at, deed)?;
    let before = vm.hashes()?;
    let run = script_any(vm, "nvme-agent setup; rc=$?; sync; exit $rc")?;
    ensure!(run.rc == 3 && run.err.contains("/dev/"), "exit {}: {}{}", run.rc, run.out, run.err);
    ensure!(vm.hashes()? == before, "refused, but bytes on the drives changed");
    let run = script_any(vm, "nvme-agent setup --wipe-foreign")?;
    ensure!(
        run.rc == 0 && run.out.starts_with("ready"),
        "--wipe-foreign: exit {}: {}{}",
        run.rc,
        run.out,
        run.err
    );
    Ok(())
}

fn used(vm: &mut Vm, filesystem: &str, at: &str, deed: &str) -> Result<()> {
    script(vm, "reset")?;
    killed(vm, &format!("--filesystem {filesystem}"), at, deed)?;
    still_there(vm, &format!("--filesystem {filesystem}"))
}

/// Two more runs, with a boot between: the file is there, all of it is in order.
fn still_there(vm: &mut Vm, arguments: &str) -> Result<()> {
    for run in ["the next run", "the one after it"] {
        let said = script(vm, &format!("nvme-agent setup {arguments}")).context(run)?;
        ensure!(said.starts_with("ready"), "{run}: {said}");
        ensure!(script(vm, "cat /tmp/file")? == "precious", "{run}: the file is gone");
        let now = facts(&script(vm, "facts")?);
        ensure!(one(&now, "mode") == Some("1777") && !now.contains_key("left"), "{run}: {now:?}");
        script(vm, "settle_down")?;
    }
    Ok(())
}

/// After a stop and start the filesystem is made anew with the UUID that fstab names, so whoever mounts by fstab finds it
/// before the run that made it is over.
fn rebuild(vm: &mut Vm) -> Result<()> {
    script(
        vm,
        "reset; nvme-agent setup; settle_down; for d in $(drives); do blkdiscard -f $d; done; udevadm settle",
    )?;
    killed(
        vm,
        "",
        "make-filesystem-done",
        "mount -T /etc/fstab /tmp; echo precious > /tmp/file; settle_down",
    )?;
    still_there(vm, "")
}
