//! Teardown: everything of ours goes, nothing else; and never while somebody uses the mount.

use anyhow::{Result, ensure};

use super::company::{changes_nothing, plan_changes_nothing, ready, status_is};
use crate::boot::BlankDrives;
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "teardown-everything", tier: Tier::Full, run: everything },
    Scenario { name: "teardown-pinned", tier: Tier::Normal, run: pinned },
    Scenario { name: "teardown-at-next-boot", tier: Tier::Full, run: at_next_boot },
];

/// Names, modes, owners and contents of /etc and /var/lib, but for times: a line that came and went changes those.
fn host(vm: &mut Vm) -> Result<String> {
    vm.ok(
        "cd /; find etc var/lib \\( -path var/lib/systemd -o -path var/lib/dpkg \\) -prune -o -printf '%p %y %m %U:%G %l\\n' | sort
         find etc -type f -exec sha256sum {} + | sort -k 2
         [ ! -e /proc/mdstat ] || sed '/^unused/d' /proc/mdstat; grep ' /tmp ' /proc/1/mountinfo || true; ls -A /tmp; ls /dev/md* 2> /dev/null || true
         ls /dev/disk/by-uuid",
    )
}

fn same(what: &str, before: &str, after: &str) -> Result<()> {
    let lines = |a: &str, b: &str| {
        let there: std::collections::BTreeSet<&str> = b.lines().collect();
        a.lines().filter(|line| !there.contains(line)).map(str::to_owned).collect::<Vec<_>>()
    };
    ensure!(before == after, "{what}: gone {:#?}, new {:#?}", lines(before, after), lines(after, before));
    Ok(())
}

/// Blank drives again, byte by byte.
fn blank(vm: &mut Vm, drives: &[usize]) -> Result<()> {
    for &index in drives {
        let name = vm.device(index)?;
        ensure!(vm.ok(&format!("wipefs /dev/{name}; blkid -p /dev/{name} || true"))?.is_empty());
    }
    Ok(())
}

/// Two drives and one, ext4 and xfs, /tmp and elsewhere, comments and others' lines in the files that we edit.
fn everything(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.ok("printf '# a comment\\n\\n/dev/null\\t/opt/none none noauto 0 0' >> /etc/fstab
               printf '# theirs\\nARRAY /dev/md9 UUID=01234567:89abcdef:01234567:89abcdef\\n' >> /etc/mdadm/mdadm.conf
               mkdir -p /opt/data; chmod 750 /opt/data; systemctl daemon-reload; udevadm settle")?;
        // Drives that are somebody else's, beside ours.
        vm.plug(&[DriveSpec::ebs(GIB, "vol0aaaaaaaaaaaaaaa1")])?;
        let ebs = vm.device(0)?;
        vm.ok(&format!("mkfs.ext4 -q -L theirs /dev/{ebs}; sync; udevadm settle"))?;
        for (count, flags, target) in [
            (2, "", "/tmp"),
            (1, "", "/tmp"),
            (3, "--target /opt/data --filesystem xfs", "/opt/data"),
        ] {
            let drives = vm.plug(&DriveSpec::many(count, 4 * GIB))?;
            if (count, target) == (2, "/tmp") {
                // The last line of fstab lacks its newline, and does again.
                vm.ok("cp /etc/fstab /run/expected; nvme-agent setup; nvme-agent teardown --yes; cmp /etc/fstab /run/expected")?;
            }
            let (before, bytes) = (host(vm)?, vm.hashes()?);
            ensure!(vm.ok("nvme-agent teardown")?.contains("nothing of nvme-agent's"));
            ensure!(vm.ok("nvme-agent teardown --yes")?.contains("nothing of nvme-agent's"));
            same("teardown of nothing", &before, &host(vm)?)?;
            vm.ok(&format!("nvme-agent setup {flags}; echo data > {target}/file; sync"))?;

            // Without --yes it tells what would go, and changes nothing.
            let would = changes_nothing(vm, 1, &format!("nvme-agent teardown --target {target}"))?.out;
            ensure!(would.contains("Nothing was changed") && would.contains(&format!("unmount {target}")), "{would}");
            for index in &drives {
                ensure!(would.contains(&vm.drives[*index].serial), "{would}");
            }
            let done = vm.ok(&format!("(cd {target}; exec nvme-agent teardown --yes)"))?;
            ensure!(done.contains("unmounted") && done.contains("wiped"), "{done}");
            vm.ok("sync; udevadm settle; [ ! -e /run/nvme-agent/state.json ]; [ ! -e /var/lib/nvme-agent ]
                   for n in 1 2 3 4 5 6 7 8 9; do [ -n \"$(systemctl list-jobs --no-legend)\" ] || break; sleep 1; done
                   [ -z \"$(systemctl list-jobs --no-legend; systemctl --failed --no-legend)\" ]")?;
            same("after teardown", &before, &host(vm)?)?;
            blank(vm, &drives)?;
            ensure!(vm.hashes()? == bytes, "what was blank is blank again, and the EBS volume is as it was");
            vm.ok(&format!("[ \"$(blkid -o value -s LABEL /dev/{ebs})\" = theirs ]; findmnt --verify"))?;
            status_is(vm, 12, "not-set-up")?;
            // Idempotent.
            ensure!(vm.ok("nvme-agent teardown --yes")?.contains("nothing of nvme-agent's"));
            same("the second teardown", &before, &host(vm)?)?;
            // And setup works again, as on a fresh instance.
            plan_changes_nothing(vm, 0)?;
            vm.ok(&format!("nvme-agent setup {flags}; [ ! -e {target}/file ]; nvme-agent setup {flags}"))?;
            status_is(vm, 0, "ready")?;
            vm.ok("nvme-agent teardown --yes; udevadm settle")?;
            same("after the last teardown", &before, &host(vm)?)?;
            for index in drives {
                vm.unplug(index)?;
            }
        }
        Ok(())
    })
}

/// Whoever keeps the mount busy is named, and nothing has changed then.
fn pinned(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        // Started before setup, it has the old directory as its /tmp, and goes on living.
        vm.write(
            "/run/systemd/system/early.service",
            0o644,
            b"[Service]\nPrivateTmp=yes\nExecStart=sleep infinity\n",
        )?;
        vm.write(
            "/run/systemd/system/private.service",
            0o644,
            b"[Service]\nPrivateTmp=yes\nExecStart=sleep infinity\n",
        )?;
        vm.write(
            "/run/systemd/system/writer.service",
            0o644,
            b"[Service]\nExecStart=/bin/sh -c 'exec 9> /tmp/of-writer; exec sleep infinity'\n",
        )?;
        vm.ok("systemctl daemon-reload; systemctl start early.service; nvme-agent setup")?;
        ready(vm, "md0")?;
        refused(
            vm,
            "systemctl start writer.service; systemctl show -P MainPID writer.service > /run/pin",
            "systemctl stop writer.service; rm -f /tmp/of-writer",
            &["writer.service", "PID", "sleep", "/tmp/of-writer"],
        )?;
        refused(
            vm,
            "(cd /tmp; exec sleep 300) & echo $! > /run/pin",
            "kill $(cat /run/pin)",
            &["PID", "working directory"],
        )?;
        refused(
            vm,
            "cp /bin/sleep /tmp/program; /tmp/program 300 & echo $! > /run/pin",
            "kill $(cat /run/pin); rm /tmp/program",
            &["PID", "program"],
        )?;
        // Its private directory is a bind of one on our filesystem.
        refused(
            vm,
            "systemctl start private.service; systemctl show -P MainPID private.service > /run/pin",
            "systemctl stop private.service",
            &["private.service", "PID", "mount namespace"],
        )?;
        refused(
            vm,
            "mkdir /tmp/a /mnt/b; mount --bind /tmp/a /mnt/b",
            "umount /mnt/b; rm -r /tmp/a /mnt/b",
            &["/mnt/b"],
        )?;
        refused(
            vm,
            "truncate -s 64M /tmp/image; losetup -f --show /tmp/image > /run/loop",
            "losetup -d $(cat /run/loop); rm /tmp/image",
            &["/tmp/image"],
        )?;
        // The early one is alive, and nobody is in the way.
        vm.ok(
            "systemctl is-active early.service; nvme-agent teardown --yes; systemctl is-active early.service
               systemctl stop early.service; [ -z \"$(systemctl --failed --no-legend)\" ]",
        )?;
        ensure!(vm.ok("findmnt -no FSTYPE /tmp; ls /sys/block")?.starts_with("tmpfs\n"));
        vm.ok("[ ! -e /sys/block/md0 ]; ! ls -d /tmp/systemd-private-*-early.service-*")?;
        vm.ok("nvme-agent setup")?;
        ready(vm, "md0")
    })
}

/// After `start`, teardown is refused, names these (PID: what is in /run/pin), and has changed nothing; `stop` undoes it.
fn refused(vm: &mut Vm, start: &str, stop: &str, names: &[&str]) -> Result<()> {
    vm.ok(&format!("{start}\nsleep 0.5"))?;
    let output = changes_nothing(vm, 1, "nvme-agent teardown --yes")?;
    for name in names.iter().copied().chain(["nothing was changed"]) {
        let name = if name == "PID" { vm.ok("cat /run/pin")? } else { name.to_owned() };
        ensure!(output.err.contains(&name), "{name} is not named: {output:?}");
    }
    ensure!(!output.err.contains("early.service"), "that one pins nothing: {output:?}");
    status_is(vm, 0, "ready")?;
    vm.ok(&format!("{stop}\nsleep 0.3")).map(drop)
}

/// Where it cannot be done now: the next boot does it before anything uses the mount, and the one after sets up again.
fn at_next_boot(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let before = {
            vm.ok("nvme-agent install; systemctl daemon-reload")?;
            host(vm)?
        };
        let drives = vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        vm.ok("nvme-agent setup; echo data > /tmp/file; sync; (cd /tmp; exec sleep 3000) > /dev/null 2>&1 &")?;
        ready(vm, "md0")?;
        let bytes = vm.hashes()?;
        vm.fails(1, "nvme-agent teardown --yes")?;
        let left = vm.ok("nvme-agent teardown --yes --at-next-boot")?;
        ensure!(left.contains("the next boot tears down"), "{left}");
        vm.ok("cat /tmp/file; ! grep ' /tmp ' /etc/fstab; sync")?;
        ensure!(vm.hashes()?.len() == bytes.len());
        // A setup before that boot is the opposite wish.
        vm.ok("nvme-agent setup; grep ' /tmp ' /etc/fstab; journalctl -t nvme-agent | grep 'called off'; nvme-agent teardown --yes --at-next-boot")?;
        vm.boot_again(&[1, 0], BlankDrives::Keep)?.clean()?;
        blank(vm, &drives)?;
        ensure!(vm.ok("findmnt -no FSTYPE /tmp")? == "tmpfs");
        vm.ok("[ ! -e /sys/block/md0 ]; [ ! -e /tmp/file ]")?;
        let status = status_is(vm, 0, "absent (TornDown)")?;
        ensure!(status.contains("torn down at this boot"), "{status}");
        let files = |text: &str| text.lines().filter(|l| l.starts_with("etc/") || l.contains("  etc/")).map(str::to_owned).collect::<Vec<_>>().join("\n");
        same("/etc", &files(&before), &files(&host(vm)?))?;
        vm.ok("systemctl restart nvme-agent.service")?;
        ready(vm, "md0")
    })
}
