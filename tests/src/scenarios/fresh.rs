//! Fresh instances: blank drives in, one ready filesystem out.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::kit::{self, Picture, ensure_ready, refuses, state_is};
use crate::drive::{DriveSpec, GIB, MIB, TIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "fresh-two", tier: Tier::Normal, run: two },
    Scenario { name: "fresh-counts", tier: Tier::Normal, run: counts },
    Scenario { name: "fresh-shapes", tier: Tier::Normal, run: shapes },
    Scenario { name: "fresh-none", tier: Tier::Normal, run: none },
    Scenario { name: "fresh-late", tier: Tier::Normal, run: late },
    Scenario { name: "fresh-target", tier: Tier::Normal, run: target },
    Scenario { name: "fresh-directories", tier: Tier::Normal, run: directories },
];

/// Two drives, watched: what others see of the mount from its first moment on, and that systemd has nothing left to do.
fn two(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 64 * GIB))?;
        // Wakes up at every change of the mount table, and writes down each new line about /tmp, with the mode then.
        vm.write("/root/watch", 0o755, WATCH.as_bytes())?;
        vm.ok("setsid /root/watch > /root/seen 2>&1 & echo $! > /root/watch.pid; until grep -q ready /root/seen; do sleep 0.05; done")?;
        vm.ok("nvme-agent setup")?;
        vm.ok("sleep 5")?;
        let jobs = vm.ok("systemctl list-jobs --no-legend")?;
        ensure!(jobs.is_empty(), "systemd has jobs 5 s after setup: {jobs}");
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        let seen = vm.ok("kill $(cat /root/watch.pid); cat /root/seen")?;
        let of_md: Vec<&str> = seen.lines().filter(|line| line.contains("/dev/md0")).collect();
        ensure!(of_md.len() == 1, "the mount was changed after it appeared: {seen}");
        let all = ["noatime", "nosuid", "nodev", "mode=1777"].iter().all(|word| of_md[0].contains(word));
        ensure!(all && !of_md[0].contains("relatime"), "{seen}");
        // systemd took the mount for its own unit: no second one, and it stops cleanly.
        ensure!(vm.ok("systemctl show -P ActiveState -P What tmp.mount")? == "/dev/md0\nactive");
        let array = vm.ok("mdadm --detail /dev/md0; mdadm --detail --test /dev/md0")?;
        ensure!(array.contains("any:md0") && array.contains("Raid Devices : 2"), "{array}");
        ensure!(vm.ok("grep -c '^ARRAY /dev/md0 .*# nvme-agent$' /etc/mdadm/mdadm.conf")? == "1");
        Ok(())
    })
}

const WATCH: &str = r#"#!/usr/bin/perl
use IO::Poll qw(POLLPRI POLLERR);
$| = 1;
open my $m, '<', '/proc/self/mountinfo' or die;
my %seen;
print "ready\n";
while (1) {
    seek $m, 0, 0;
    while (<$m>) {
        next unless m{ /tmp [a-z]} and not $seen{$_}++;
        printf "%s mode=%o\n", $_ =~ s/\n//r, (stat '/tmp')[2] & 07777;
    }
    my $p = IO::Poll->new; $p->mask($m => POLLPRI | POLLERR); $p->poll(60);
}
"#;

/// 1, 4, 8 and 24 drives; over a tmpfs, and over a plain directory.
fn counts(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        kit::remember(vm)?;
        for (count, size) in [(1, TIB), (4, TIB), (8, 64 * GIB), (24, TIB)] {
            vm.unplug_all()?;
            vm.plug(&DriveSpec::many(count, size))?;
            kit::case(ctx, vm, &format!("{count} drives of {} GiB", size / GIB), |vm| {
                // /tmp is a plain directory on older systems.
                if count == 1 {
                    vm.ok("umount /tmp; echo hidden > /tmp/hidden")?;
                }
                vm.ok("nvme-agent setup")?;
                let state = ensure_ready(vm, "/tmp", "ext4", count)?;
                let kib: u64 = vm.ok("df --output=size /tmp | tail -n 1")?.trim().parse()?;
                let all = count as u64 * (size >> 10);
                ensure!(kib > all / 100 * 98, "{kib} of {all} KiB can be used");
                let written: u64 = vm.drives.iter().map(|d| d.allocated()).sum::<Result<u64>>()?;
                ensure!(written < 200 * MIB * count as u64, "{} MiB were written", written / MIB);
                if count == 1 {
                    let md = vm.ok(
                        "ls -d /sys/block/md* 2> /dev/null || :; grep -c ^ARRAY /etc/mdadm/mdadm.conf || :",
                    )?;
                    ensure!(md == "0", "a single drive needs no md: {md}");
                    ensure!(state["array_uuid"].is_null(), "{state:#}");
                    ensure!(state["notes"].to_string().contains("1 entries of /tmp"), "{state:#}");
                    ensure!(vm.ok("umount /tmp; cat /tmp/hidden; rm /tmp/hidden")? == "hidden");
                } else {
                    ensure!(vm.ok("cat /sys/block/md0/md/raid_disks")? == count.to_string());
                }
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// Unequal sizes, 4 KiB blocks, xfs.
fn shapes(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        kit::remember(vm)?;
        let large = |size| DriveSpec::new(size).block_size(4096);
        let cases: [(&str, &str, Vec<DriveSpec>); 5] = [
            ("unequal", "ext4", vec![DriveSpec::new(4 * GIB), DriveSpec::new(8 * GIB + 512 * 7), DriveSpec::new(6 * GIB)]),
            ("unequal xfs", "xfs", vec![DriveSpec::new(8 * GIB), DriveSpec::new(4 * GIB + 4096)]),
            ("xfs on one", "xfs", vec![DriveSpec::new(64 * GIB)]),
            ("4 KiB blocks", "ext4", vec![large(64 * GIB); 2]),
            ("4 KiB blocks, one, xfs", "xfs", vec![large(TIB)]),
        ];
        for (label, kind, specs) in cases {
            vm.unplug_all()?;
            let (count, all) = (specs.len(), specs.iter().map(|s| s.size >> 10).sum::<u64>());
            vm.plug(&specs)?;
            kit::case(ctx, vm, label, |vm| {
                vm.ok(&format!("nvme-agent setup --filesystem {kind}"))?;
                ensure_ready(vm, "/tmp", kind, count)?;
                let kib: u64 = vm.ok("df --output=size /tmp | tail -n 1")?.trim().parse()?;
                ensure!(kib > all / 100 * 96, "{kib} of {all} KiB can be used");
                // Data in every zone, read back from the drives.
                vm.ok("for n in 1 2 3 4; do mkdir /tmp/$n; done
                     dd if=/dev/urandom of=/root/data bs=1M count=24 status=none
                     size=$(df --output=avail -B1 /tmp | tail -n 1)
                     for n in 1 2 3 4; do fallocate -l $((size / 5)) /tmp/$n/gap; cp /root/data /tmp/$n/data; done
                     sync; echo 3 > /proc/sys/vm/drop_caches
                     for n in 1 2 3 4; do cmp /root/data /tmp/$n/data; done")?;
                let device = vm.ok("findmnt -no SOURCE /tmp | tail -n 1")?;
                let check = if kind == "xfs" { "xfs_repair -n" } else { "e2fsck -fn" };
                vm.ok(&format!("umount /tmp; {check} {device}"))?;
                let log = vm.kernel_log()?;
                let bad: Vec<&str> = log.lines().filter(|l| l.contains("md") && l.to_lowercase().contains("warn")).collect();
                ensure!(bad.is_empty(), "{bad:?}");
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// No instance-store drive: exit 0, and nothing is changed anywhere; an EBS data volume is none.
fn none(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        for ebs in [false, true] {
            if ebs {
                vm.plug(&[DriveSpec::ebs(8 * GIB, "vol0000000000000000b")])?;
            }
            let before = Picture::take(vm)?;
            let (root, plan) =
                (kit::files(vm, "/var/lib /root /usr/lib/tmpfiles.d")?, vm.ok("nvme-agent plan")?);
            let out = vm.ok("nvme-agent setup")?;
            ensure!(out.contains("absent (NoDrives)"), "{out}");
            state_is(vm, "absent", "NoDrives")?;
            before.ensure_same(vm)?;
            let changed = kit::differences(&root, &kit::files(vm, "/var/lib /root /usr/lib/tmpfiles.d")?);
            ensure!(changed.is_empty(), "{changed:?}");
            ensure!(
                vm.ok("ls /run/nvme-agent; nvme-agent status > /dev/null")?
                    == "lock\nregistration.json\nstate.json",
                "{plan}: {}",
                vm.ok("ls /run/nvme-agent")?
            );
            refuses(
                vm,
                "nvme-agent setup --expect-drives 1 --drive-timeout 1s",
                6,
                &["DriveMissing", "expected 1 drives, found 0", "expect_drives"],
            )?;
            before.ensure_same(vm)?;
            state_is(vm, "failed", "DriveMissing")?;
        }
        Ok(())
    })
}

/// Drives that appear 5 s after setup began: waited for, all of them taken.
fn late(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.add(&DriveSpec::many(3, 64 * GIB))?;
        vm.plug_again(&[0])?;
        vm.settled(&[0])?;
        let setup = vm.spawn("nvme-agent setup --expect-drives 3")?;
        std::thread::sleep(Duration::from_secs(3));
        vm.plug_again(&[1])?;
        std::thread::sleep(Duration::from_secs(2));
        vm.plug_again(&[2])?;
        let output = vm.wait(setup)?;
        ensure!(output.rc == 0, "{output:?}");
        let state = ensure_ready(vm, "/tmp", "ext4", 3)?;
        ensure!(state["duration_ms"].as_u64().is_some_and(|ms| ms >= 4000), "it did not wait: {state:#}");
        Ok(())
    })?;
    // One never comes: the run ends at its deadline and names what it has.
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        let before = Picture::take(vm)?;
        let started = Instant::now();
        let serials = [vm.drives[0].serial.clone(), vm.drives[1].serial.clone()];
        refuses(
            vm,
            "nvme-agent setup --expect-drives 3 --drive-timeout 3s",
            6,
            &["DriveMissing", "expected 3 drives, found 2", &serials[0], &serials[1]],
        )?;
        let took = started.elapsed();
        ensure!(took >= Duration::from_secs(3) && took < Duration::from_secs(20), "{took:?}");
        before.ensure_same(vm)
    })
}

/// Another directory: one that is missing, and one with a mode and an owner of its own. /tmp stays the distribution's.
fn target(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        kit::remember(vm)?;
        vm.plug(&DriveSpec::many(2, 64 * GIB))?;
        let cases = [
            ("missing", "umask 077", "755 0 0"),
            (
                "existing",
                "install -d -m 2770 -o 1000 -g 1001 /opt/data; echo old > /opt/data/old",
                "2770 1000 1001",
            ),
            ("deep", "rm -rf /opt/data", "755 0 0"),
        ];
        for (label, before, dressed) in cases {
            let target = if label == "deep" { "/opt/data/a/b-c" } else { "/opt/data" };
            kit::case(ctx, vm, label, |vm| {
                let tmp = vm.ok("findmnt -no FSTYPE,OPTIONS /tmp; stat -c '%a %Y' /tmp")?;
                vm.ok(&format!("{before}\nNVME_AGENT_TARGET={target} nvme-agent setup"))?;
                let state = ensure_ready(vm, target, "ext4", 2)?;
                ensure!(vm.ok(&format!("stat -c '%a %u %g' {target}"))? == dressed, "mode and owner");
                ensure!(vm.ok("findmnt -no FSTYPE,OPTIONS /tmp; stat -c '%a %Y' /tmp")? == tmp);
                ensure!(vm.ok("ls /etc/tmpfiles.d")?.is_empty(), "nobody cleans /opt/data");
                let hidden = state["notes"].to_string().contains("1 entries of /opt/data");
                ensure!(hidden == (label == "existing"), "{state:#}");
                vm.ok(&format!("umount {target}"))?;
                if label == "existing" {
                    ensure!(vm.ok("cat /opt/data/old")? == "old");
                } else {
                    ensure!(
                        vm.ok(&format!("stat -c '%a %u' $(dirname {target}) {target} | sort -u"))? == "755 0"
                    );
                }
                // fstab alone brings it back, as at boot.
                vm.ok(&format!("systemctl daemon-reload; mount {target}; findmnt --verify"))?;
                ensure!(vm.ok(&format!("stat -c '%a %u %g' {target}"))? == dressed);
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// `[[directory]]`: made with owner and mode, repaired, and never through what an unprivileged user put there.
fn directories(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        let config = |extra: &str| {
            format!(
                "[[directory]]\npath = \"spill/trino\"\nowner = 1000\ngroup = \"daemon\"\nmode = \"2750\"\n\
                 [[directory]]\npath = \"cache\"\nowner = \"1000\"\ngroup = 1000\nmode = \"0700\"\n{extra}"
            )
        };
        vm.write("/etc/nvme-agent/config.toml", 0o644, config("").as_bytes())?;
        vm.ok("umask 077; nvme-agent setup")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        let made = "2750 1000 1 /tmp/spill/trino\n700 1000 1000 /tmp/cache\n755 0 0 /tmp/spill";
        let stat = "stat -c '%a %u %g %n' /tmp/spill/trino /tmp/cache /tmp/spill";
        ensure!(vm.ok(stat)? == made);
        vm.ok("setpriv --reuid=1000 --regid=1000 --clear-groups touch /tmp/spill/trino/file /tmp/cache/file")?;

        // The workload changes them, and takes one away.
        vm.ok("chmod 777 /tmp/spill/trino; chown 7:7 /tmp/spill/trino; rm -rf /tmp/cache; nvme-agent setup")?;
        ensure!(vm.ok(stat)? == made && vm.ok("ls /tmp/spill/trino")? == "file");
        state_is(vm, "ready", "SetupComplete")?;

        // An unprivileged user puts symlinks where root will work.
        vm.ok("rm -rf /tmp/cache
             setpriv --reuid=1000 --regid=1000 --clear-groups sh -c 'ln -s /etc /tmp/cache; ln -s /root /tmp/evil; ln -s /etc /tmp/spill/trino/deep'")?;
        let extra = "[[directory]]\npath = \"evil/below\"\nowner = 1000\n[[directory]]\npath = \"spill/trino/deep\"\nowner = 1000\n[[directory]]\npath = \"good\"\nmode = \"1777\"\n";
        vm.write("/etc/nvme-agent/config.toml", 0o644, config(extra).as_bytes())?;
        let before = kit::files(vm, "/etc /root")?;
        let out = vm.ok("nvme-agent setup")?;
        let changed = kit::differences(&before, &kit::files(vm, "/etc /root")?);
        ensure!(changed.is_empty(), "changed through a symlink: {changed:#?}");
        let state = state_is(vm, "degraded", "Incomplete")?;
        let message = state["message"].as_str().unwrap_or_default();
        for path in ["/tmp/cache", "/tmp/evil", "/tmp/spill/trino/deep"] {
            ensure!(message.contains(path) && out.contains(path), "{path} is not named: {state:#}");
        }
        ensure!(vm.ok("stat -c '%a %u' /tmp/good; findmnt -no TARGET -S /dev/md0")? == "1777 0\n/tmp", "the others are made");
        vm.fails(10, "nvme-agent status")?;
        Ok(())
    })
}
