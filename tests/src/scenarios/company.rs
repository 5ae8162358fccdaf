//! Company: what else runs on the node while setup works. Services with a private /tmp, systemd and udev with our fstab line,
//! arrays of others, members that come late, namespaces in which nobody would see the mount.

use anyhow::{Result, ensure};

use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::{Output, Vm};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "company-private-tmp", tier: Tier::Normal, run: private_tmp },
    Scenario { name: "company-systemd-race", tier: Tier::Normal, run: systemd_race },
    Scenario { name: "company-md0-taken", tier: Tier::Normal, run: md0_taken },
    Scenario { name: "company-late-member", tier: Tier::Full, run: late_member },
    Scenario { name: "company-namespaces", tier: Tier::Full, run: namespaces },
];

/// All of the host that setup could change besides the drives, in one hash each: files with mode, owner, time and content,
/// mounts, arrays.
pub(super) fn fingerprint(vm: &mut Vm) -> Result<String> {
    vm.ok("find /etc /var/lib/nvme-agent /run/nvme-agent /run/mdadm ! -type d -printf '%p %m %U %G %T@ %s %l\\n' 2>/dev/null | sort || true
           cat /proc/1/mountinfo; sed '/^unused/d' /proc/mdstat; stat -c '%a %u %g' /tmp; ls -A /tmp")
}

/// `plan` ends with this code and leaves drives, files, mounts and arrays as they are; returns what it said.
pub(super) fn plan_changes_nothing(vm: &mut Vm, code: i32) -> Result<String> {
    let output = changes_nothing(vm, code, "nvme-agent plan")?;
    Ok(output.out + &output.err)
}

/// This script ends with this code and leaves drives, files, mounts and arrays as they are.
pub(super) fn changes_nothing(vm: &mut Vm, code: i32, script: &str) -> Result<Output> {
    // A filesystem that is mounted is written to by the kernel itself (inode tables, journal): not while it is frozen.
    const EACH: &str = "for t in /tmp /opt/data; do ! findmnt --real --mountpoint $t > /dev/null || fsfreeze";
    vm.ok(&format!("udevadm settle; sync; {EACH} -f $t; done"))?;
    let before = (vm.hashes()?, fingerprint(vm)?);
    let output = vm.fails(code, script);
    let after = (vm.hashes()?, fingerprint(vm)?);
    vm.ok(&format!("{EACH} -u $t; done"))?;
    ensure!(after.0 == before.0, "{script} wrote to a drive");
    ensure!(after.1 == before.1, "{script} changed the host:\n{}\n--- now\n{}", before.1, after.1);
    output
}

/// What status says in its first line, and with which exit code.
pub(super) fn status_is(vm: &mut Vm, code: i32, head: &str) -> Result<String> {
    let text = vm.fails(code, "nvme-agent status")?.out;
    ensure!(text.starts_with(head), "status, expected {head:?}:\n{text}");
    Ok(text)
}

/// Ready: one mount of the device at /tmp, seen by PID 1, writable by everyone; systemd has soon nothing pending (5 s on an
/// idle host) and shows no failed unit.
pub(super) fn ready(vm: &mut Vm, device: &str) -> Result<()> {
    vm.ok(&format!(
        "[ $(grep -c ' /tmp [^-]* - ext4 /dev/{device} ' /proc/1/mountinfo) = 1 ]
         [ $(grep -c ' /tmp .* - ext4 ' /proc/1/mountinfo) = 1 ]
         [ \"$(stat -c '%a %u %g' /tmp)\" = '1777 0 0' ]
         findmnt -no OPTIONS /tmp | grep -q noatime
         setpriv --reuid 1000 --regid 1000 --clear-groups sh -c 'echo mine > /tmp/mine.$$; rm /tmp/mine.$$'"
    ))?;
    vm.ok("for n in 1 2 3 4 5 6 7 8 9; do
               jobs=$(systemctl list-jobs --no-legend)
               [ -n \"$jobs\" ] || break
               sleep 1
           done
           [ -z \"$jobs\" ] || { echo \"pending: $jobs\"; exit 1; }
           findmnt --verify >&2
           [ -z \"$(systemctl --failed --no-legend | tee /dev/stderr)\" ]
           systemctl is-active tmp.mount")?;
    status_is(vm, 0, "ready").map(drop)
}

/// The mount and the array go, as they do when an instance stops; drives and records stay as they are.
pub(super) fn put_down(vm: &mut Vm) -> Result<()> {
    vm.ok("udevadm settle; sync; while findmnt -no FSTYPE /tmp | grep -q ext4; do umount /tmp; done
           for md in /sys/block/md*; do [ ! -e $md ] || mdadm --quiet --stop /dev/${md##*/}; done; udevadm settle")
        .map(drop)
}

/// Kernel name of what is seen at /tmp.
fn source(vm: &mut Vm) -> Result<String> {
    Ok(vm.ok("findmnt -no SOURCE /tmp | tail -n 1")?.replace("/dev/", ""))
}

fn uuids(vm: &mut Vm, device: &str) -> Result<String> {
    vm.ok(&format!("blkid -o value -s UUID /dev/{device}; cat /sys/block/{device}/md/uuid"))
}

/// Services that were started when /tmp was something else: on trixie a tmpfs, on bookworm a directory of the root.
fn private_tmp(ctx: &Ctx) -> Result<()> {
    for (guest, before) in [(Guest::Trixie, "tmpfs"), (Guest::Bookworm, "ext4")] {
        ctx.case(guest.name(), guest, |vm| {
            vm.plug(&DriveSpec::many(2, 4 * GIB))?;
            ensure!(vm.ok("findmnt -no FSTYPE -T /tmp")? == before);
            vm.write("/etc/systemd/system/demo.service", 0o644, DEMO)?;
            vm.write("/etc/systemd/system/joins.service", 0o644, JOINS)?;
            vm.ok("systemctl daemon-reload; systemctl start demo.service
                   for n in 1 2 3 4 5 6 7 8 9; do [ -e /run/demo-started ] || sleep 0.3; done
                   cat /tmp/systemd-private-*-demo.service-*/tmp/secret")?;
            // Somebody works in what gets covered, and goes on to.
            vm.ok("mkdir /tmp/.X11-unix -p; chmod 1777 /tmp/.X11-unix")?;
            vm.ok("(cd /tmp; exec sleep 600) & echo $! > /run/sleeper")?;
            let plan = plan_changes_nothing(vm, 0)?;
            ensure!(plan.contains("/dev/md0"), "{plan}");
            status_is(vm, 12, "not-set-up")?;
            vm.ok("nvme-agent setup")?;
            ready(vm, "md0")?;
            plan_changes_nothing(vm, 0)?;
            vm.ok("[ \"$(stat -c %a /tmp/.X11-unix)\" = 1777 ]
                   dir=$(echo /tmp/systemd-private-*-demo.service-*)
                   [ \"$(stat -c '%a %u %g' $dir $dir/tmp)\" = $'700 0 0\\n1777 0 0' ]
                   systemctl is-active demo.service")?;
            vm.ok("systemctl reload demo.service; cat /run/demo-reloaded")?;
            vm.ok("systemctl start joins.service; systemctl is-active joins.service")?;
            // A joiner sees the private directory of the other, not the host's /tmp.
            vm.ok("touch /tmp/of-the-host
                   systemd-run --quiet --wait -p PrivateTmp=yes -p JoinsNamespaceOf=demo.service sh -c 'ls -A /tmp > /run/seen; touch /tmp/joined'
                   ! grep of-the-host /run/seen; ls /tmp/systemd-private-*-demo.service-*/tmp/joined
                   systemd-run --quiet --wait -p PrivateTmp=yes sh -c 'test ! -e /tmp/of-the-host; touch /tmp/own'")?;
            vm.ok("systemctl stop joins.service demo.service; cat /run/demo-stopped
                   [ \"$(systemctl show -P Result -P ActiveState demo.service | sort | xargs)\" = 'inactive success' ]
                   ! ls -d /tmp/systemd-private-*-demo.service-*
                   systemctl start demo.service; systemctl restart demo.service; systemctl stop demo.service")?;
            ready(vm, "md0")?;
            // The services that the distribution itself runs so.
            vm.ok("for unit in $(systemctl list-units --type=service --state=running --plain --no-legend | cut -d' ' -f1); do
                       case $(systemctl show -P PrivateTmp $unit) in no | '') ;; *) echo $unit; systemctl restart $unit;; esac
                   done; kill $(cat /run/sleeper)")?;
            ready(vm, "md0")
        });
    }
    Ok(())
}

const DEMO: &[u8] = b"[Service]
PrivateTmp=yes
ExecStart=/bin/sh -c 'echo kept > /tmp/secret; echo > /run/demo-started; exec sleep infinity'
ExecReload=/bin/sh -c 'touch /tmp/reloaded && date > /run/demo-reloaded'
ExecStop=/bin/sh -c 'touch /tmp/stopped && date > /run/demo-stopped'
";
const JOINS: &[u8] = b"[Unit]
JoinsNamespaceOf=demo.service
After=demo.service
[Service]
PrivateTmp=yes
ExecStart=/bin/sh -c 'touch /tmp/by-joiner && exec sleep infinity'
";

/// The boot after a stop and start, again and again: systemd has a job for our line's UUID and mounts it as soon as udev shows
/// it, while setup makes it.
fn systemd_race(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        // A tmpfs on /tmp would be tmp.mount as far as systemd is concerned, and no job would wait.
        vm.ok("umount -l /tmp; rm -f /etc/systemd/system/tmp.mount; systemctl daemon-reload")?;
        for drives in [2, 1] {
            vm.plug(&DriveSpec::many(drives, 4 * GIB))?;
            vm.ok("nvme-agent setup")?;
            let device = source(vm)?;
            ready(vm, &device)?;
            let first = vm.ok("blkid -o value -s UUID $(findmnt -no SOURCE /tmp | tail -n 1)")?;
            for round in 0..(1 + drives) {
                put_down(vm)?;
                for index in 0..vm.drives.len() {
                    if vm.drives[index].plugged {
                        let name = vm.device(index)?;
                        vm.ok(&format!("blkdiscard -f /dev/{name}"))?;
                    }
                }
                vm.ok("udevadm settle; systemctl start --no-block tmp.mount; systemctl list-jobs | grep tmp.mount")?;
                let trigger = if round % 2 == 0 { "boot" } else { "hand" };
                vm.ok(&format!("nvme-agent setup --trigger {trigger}"))?;
                ready(vm, &device)?;
                ensure!(vm.ok("grep -c ' /tmp ' /proc/1/mountinfo")? == "1", "something lies under our mount");
                ensure!(vm.ok("blkid -o value -s UUID $(findmnt -no SOURCE /tmp | tail -n 1)")? == first);
            }
            vm.ok("nvme-agent teardown --yes")?;
            vm.unplug_all()?;
        }
        Ok(())
    })
}

/// Somebody's array, of drives that are none of ours, has our name.
fn md0_taken(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&[DriveSpec::ebs(2 * GIB, "vol0aaaaaaaaaaaaaaa1"), DriveSpec::ebs(2 * GIB, "vol0aaaaaaaaaaaaaaa2")])?;
        let (first, second) = (vm.device(0)?, vm.device(1)?);
        vm.ok(&format!(
            "mdadm --create /dev/md0 --quiet --run --homehost=any --level=0 --raid-devices=2 /dev/{first} /dev/{second}
             mkfs.ext4 -q -O ^has_journal /dev/md0; mkdir -p /data; mount /dev/md0 /data; echo theirs > /data/file
             umount /data; mount -o ro /dev/md0 /data; cp /etc/fstab /run/fstab0; sync; udevadm settle"
        ))?;
        let theirs = [vm.drives[0].hash()?, vm.drives[1].hash()?];
        let unchanged = |vm: &mut Vm| -> Result<()> {
            vm.ok("sync; [ \"$(cat /data/file)\" = theirs ]; [ \"$(findmnt -no SOURCE /data)\" = /dev/md0 ]")?;
            ensure!([vm.drives[0].hash()?, vm.drives[1].hash()?] == theirs, "the other array was written to");
            Ok(())
        };
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        plan_changes_nothing(vm, 0)?;
        vm.ok("nvme-agent setup")?;
        ready(vm, "md1")?;
        let ours = uuids(vm, "md1")?;
        vm.ok("echo kept > /tmp/file")?;
        unchanged(vm)?;
        // Ours made as md0, then md0 is theirs: the next free name, the same filesystem.
        vm.ok("umount /tmp; mdadm --quiet --stop /dev/md1; umount /data; mdadm --quiet --stop /dev/md0; udevadm settle; nvme-agent setup")?;
        let name = source(vm)?;
        ensure!(uuids(vm, &name)? == ours);
        vm.ok("[ \"$(cat /tmp/file)\" = kept ]; nvme-agent teardown --yes")?;
        vm.ok("nvme-agent setup; echo kept > /tmp/file")?;
        ready(vm, "md0")?;
        let ours = uuids(vm, "md0")?;
        vm.ok(&format!("umount /tmp; mdadm --quiet --stop /dev/md0; udevadm settle
                        mdadm --assemble --quiet /dev/md0 /dev/{first} /dev/{second}; mount -o ro /dev/md0 /data"))?;
        plan_changes_nothing(vm, 0)?;
        vm.ok("nvme-agent setup")?;
        ready(vm, "md1")?;
        ensure!(uuids(vm, "md1")? == ours);
        ensure!(vm.ok("cat /tmp/file; nvme-agent setup; cat /run/nvme-agent/state.json")?.starts_with("kept"));
        unchanged(vm)?;
        vm.ok("nvme-agent teardown --yes; cmp /etc/fstab /run/fstab0; [ ! -e /sys/block/md1 ]")?;
        unchanged(vm)
    })
}

/// Counts the runs that said, to the journal, that they wait for a drive.
const WAITS: &str = "journalctl --no-pager -t nvme-agent | grep -c 'waiting: ' || true";

/// A member that is not there at first, or never, or comes back blank.
fn late_member(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let drives = vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        vm.ok("nvme-agent setup; echo kept > /tmp/file; sync")?;
        ready(vm, "md0")?;
        let ours = uuids(vm, "md0")?;
        let serial = vm.drives[drives[1]].serial.clone();
        put_down(vm)?;
        vm.unplug(drives[1])?;

        // Never: failed, by serial, after the deadline; our line is out of force, and nothing waits for it.
        plan_changes_nothing(vm, 6)?;
        let before = vm.hashes()?;
        let missing = vm.fails(6, "SECONDS=0; nvme-agent setup --drive-timeout 3s; rc=$?; [ $SECONDS -ge 3 ] || exit 99; exit $rc")?;
        ensure!(missing.err.contains(&serial) && missing.err.contains("MemberMissing"), "{missing:?}");
        ensure!(vm.hashes()? == before);
        let status = status_is(vm, 11, "failed (MemberMissing)")?;
        ensure!(status.contains(&serial), "{status}");
        vm.ok("[ -z \"$(systemctl list-jobs --no-legend)\" ]; findmnt --verify; ! grep -E '^UUID=.* /tmp ' /etc/fstab")?;

        // In time, and udev is first or second to it.
        for _ in 0..2 {
            let waits = vm.ok(WAITS)?;
            let setup = vm.spawn("nvme-agent setup --drive-timeout 60s")?;
            vm.ok(&format!("until [ $({WAITS}) -gt {waits} ]; do sleep 0.2; done"))?;
            vm.plug_again(&[drives[1]])?;
            let output = vm.wait(setup)?;
            ensure!(output.rc == 0, "{output:?}");
            let name = source(vm)?;
            ready(vm, &name)?;
            ensure!(uuids(vm, &name)? == ours && vm.ok("cat /tmp/file")? == "kept");
            put_down(vm)?;
            vm.unplug(drives[1])?;
        }

        // udev has half of it, under another name, and the other half comes without udev's taking it up.
        let here = vm.device(drives[0])?;
        let uuid = ours.lines().nth(1).unwrap_or_default().replace('-', "");
        vm.ok(&format!(
            "mkdir -p /run/udev/rules.d; ln -s /dev/null /run/udev/rules.d/64-md-raid-assembly.rules; udevadm control --reload
             echo 'ARRAY /dev/md127 UUID={}' > /run/mdadm.conf
             mdadm -I --config=/run/mdadm.conf /dev/{here} || true
             grep -q '^md127 : inactive' /proc/mdstat || {{ cat /proc/mdstat; exit 1; }}",
            [&uuid[..8], &uuid[8..16], &uuid[16..24], &uuid[24..]].join(":")
        ))?;
        let half = vm.fails(6, "nvme-agent setup --drive-timeout 1s")?;
        ensure!(half.err.contains(&serial), "{half:?}");
        vm.plug_again(&[drives[1]])?;
        vm.settled(&[drives[1]])?;
        vm.ok("grep '^md127 : inactive' /proc/mdstat")?;
        plan_changes_nothing(vm, 0)?;
        vm.ok("nvme-agent setup")?;
        let name = source(vm)?;
        ready(vm, &name)?;
        ensure!(uuids(vm, &name)? == ours && vm.ok("cat /tmp/file")? == "kept");
        vm.ok("rm /run/udev/rules.d/64-md-raid-assembly.rules; udevadm control --reload")?;

        // Blank: what was striped over it is gone for good. Made anew with the same UUIDs, and told everywhere.
        put_down(vm)?;
        let other = vm.device(drives[1])?;
        vm.ok(&format!("blkdiscard -f /dev/{other}; udevadm settle"))?;
        ensure!(plan_changes_nothing(vm, 0)?.contains("REBUILD"));
        let loud = vm.ok("nvme-agent setup 2>&1")?;
        ensure!(loud.contains("REBUILD") && loud.contains("1 of 2"), "{loud}");
        ready(vm, "md0")?;
        ensure!(uuids(vm, "md0")? == ours, "the same UUIDs");
        vm.ok("[ ! -e /tmp/file ]; grep REBUILD /run/nvme-agent/state.json; nvme-agent status | grep REBUILD")?;
        // In the journal when it is the unit's.
        put_down(vm)?;
        vm.ok(&format!("blkdiscard -f /dev/{other}; udevadm settle; nvme-agent install; systemctl daemon-reload
                        systemctl start nvme-agent.service; journalctl --no-pager -u nvme-agent.service | grep REBUILD"))?;
        ready(vm, "md0")?;
        ensure!(uuids(vm, "md0")? == ours);

        // Without evidence it may be anybody's stripe, and an operator may recover it.
        put_down(vm)?;
        vm.ok(&format!("blkdiscard -f /dev/{other}; rm -r /var/lib/nvme-agent; sed -i /nvme-agent/d /etc/fstab /etc/mdadm/mdadm.conf; udevadm settle"))?;
        plan_changes_nothing(vm, 3)?;
        let before = vm.hashes()?;
        let refused = vm.fails(3, "nvme-agent setup")?;
        ensure!(refused.err.contains("ForeignData") && refused.err.contains(&other), "{refused:?}");
        ensure!(vm.hashes()? == before);
        status_is(vm, 11, "failed (ForeignData)").map(drop)
    })
}

/// A mount that only we would see is refused, before and after the node is ready.
fn namespaces(ctx: &Ctx) -> Result<()> {
    const HIDING: [&str; 4] =
        ["PrivateTmp=yes", "ProtectSystem=yes", "ProtectKernelModules=yes", "PrivateDevices=yes"];
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        let refused = |vm: &mut Vm| -> Result<()> {
            let mut commands = vec![
                "unshare -m nvme-agent setup".to_owned(),
                "unshare -m nvme-agent teardown --yes".to_owned(),
            ];
            commands.extend(
                HIDING
                    .map(|p| format!("systemd-run --quiet --wait --collect --pipe -p {p} nvme-agent setup")),
            );
            for command in commands {
                // systemd makes a private directory on what is at /tmp, and would wait for a frozen one: only the host's side is
                // compared where something is mounted, and the bytes where nothing is.
                let mounted = vm.sh("findmnt --real --mountpoint /tmp")?.rc == 0;
                let output = if mounted {
                    let list = "find /etc /var/lib/nvme-agent /run/nvme-agent ! -type d -printf '%p %T@ %s\\n' | sort
                                grep ' /tmp ' /proc/1/mountinfo; sed '/^unused/d' /proc/mdstat";
                    let before = vm.ok(list)?;
                    let output = vm.fails(5, &command)?;
                    let after = vm.ok(list)?;
                    ensure!(after == before, "{command} changed the host:\n{before}\n--- now\n{after}");
                    output
                } else {
                    changes_nothing(vm, 5, &command)?
                };
                ensure!((output.out + &output.err).contains("mount namespace"), "{command} does not say why");
            }
            Ok(())
        };
        // The first tells in the state file why nothing is there.
        vm.fails(5, "unshare -m nvme-agent setup")?;
        status_is(vm, 11, "failed (UnsuitableEnvironment)")?;
        refused(vm)?;
        vm.ok("nvme-agent setup; sync")?;
        ready(vm, "md0")?;
        refused(vm)?;
        // The node is as ready as before: that somebody called us from a wrong place is not its state.
        ready(vm, "md0")
    })
}
