//! A second run: changes nothing, waits for the first, and takes a changed configuration without touching data.

use anyhow::{Result, ensure};

use super::kit::{self, Picture, differences, ensure_ready, files, refuses, state_is};
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "again-nothing", tier: Tier::Normal, run: nothing },
    Scenario { name: "again-put-back", tier: Tier::Normal, run: put_back },
    Scenario { name: "again-two-at-once", tier: Tier::Normal, run: at_once },
    Scenario { name: "again-configured", tier: Tier::Full, run: configured },
];

/// All that a run may leave on the root volume, and what it told.
const OURS: &str =
    "/etc /var/lib/nvme-agent /run/nvme-agent/state.json /run/systemd/systemd-units-load /run/mdadm";

/// What identifies the storage: superblocks of md by member (8 KiB from byte 4096), mounts with their ids, UUIDs.
fn storage(vm: &mut Vm) -> Result<String> {
    vm.ok("for drive in /dev/nvme[1-9]n1; do dd if=$drive bs=4096 skip=1 count=2 iflag=direct status=none | sha256sum; done
         cat /proc/1/mountinfo; ls -lai --time-style=full-iso /tmp; blkid -p -o value -s UUID /dev/md0
         cat /sys/block/md0/md/uuid /sys/block/md0/md/array_state")
}

/// What is mounted goes, and setup comes at once, while so much is mounted elsewhere that systemd looks once a second only.
fn put_back(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        vm.ok("nvme-agent setup; echo kept > /tmp/file
             mkdir /run/churn
             systemd-run --quiet --unit churn sh -c 'while :; do mount -t tmpfs none /run/churn; umount /run/churn; done'")?;
        for _ in 0..3 {
            vm.ok("sync; umount /tmp; mdadm --quiet --stop /dev/md0; nvme-agent setup; sleep 3")?;
            ensure_ready(vm, "/tmp", "ext4", 2)?;
            ensure!(vm.ok("cat /tmp/file; systemctl is-active tmp.mount")? == "kept\nactive");
        }
        vm.ok("nvme-agent teardown --yes; nvme-agent setup; sleep 3")?;
        ensure_ready(vm, "/tmp", "ext4", 2).map(drop)
    })
}

/// The second run, by hand and as the unit does it, finds everything done.
fn nothing(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        vm.ok("nvme-agent setup")?;
        let state = ensure_ready(vm, "/tmp", "ext4", 2)?;
        vm.ok("echo kept > /tmp/file; sync; sleep 1")?;
        let (etc, before) = (files(vm, OURS)?, storage(vm)?);
        ensure!(etc.keys().any(|path| path.ends_with("/record.json")) || etc.len() > 100, "{}", etc.len());
        for run in ["nvme-agent setup", "nvme-agent setup --trigger boot", "systemd-run --quiet --wait -p Type=oneshot nvme-agent setup --trigger boot"] {
            let plan = vm.ok("nvme-agent plan --output json")?;
            let plan: serde_json::Value = serde_json::from_str(&plan)?;
            ensure!(plan["outcome"] == "keep" && plan["steps"] == serde_json::json!([]), "{plan:#}");
            vm.ok(run)?;
            let changed = differences(&etc, &files(vm, OURS)?);
            ensure!(changed.is_empty(), "{run} changed {changed:#?}");
            let after = storage(vm)?;
            ensure!(before == after, "{run} changed\n{before}\nto\n{after}");
        }
        ensure!(kit::state(vm)? == state, "the first run's state stays");
        ensure!(vm.ok("cat /tmp/file; systemctl list-jobs --no-legend; systemctl --failed --no-legend")? == "kept");

        // What is out of order is repaired, and nothing else is touched.
        vm.ok("sed -i '/ \\/tmp /d' /etc/fstab; rm /etc/tmpfiles.d/tmp.conf; chmod 755 /tmp; mount -o remount,relatime /tmp; nvme-agent setup")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        let changed: Vec<String> = differences(&etc, &files(vm, "/etc")?)
            .into_iter()
            .filter(|line| line.starts_with("/etc/") && !["/etc/fstab", "/etc/tmpfiles.d"].iter().any(|p| line.starts_with(p)))
            .collect();
        ensure!(changed.is_empty(), "{changed:#?}");
        ensure!(vm.ok("cat /tmp/file; blkid -p -o value -s UUID /dev/md0")? == format!("kept\n{}", state["fs_uuid"].as_str().unwrap_or_default()));
        Ok(())
    })
}

/// Two runs at once: one works, the other waits and then finds it done. One that must not wait says so.
fn at_once(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        let before = Picture::take(vm)?;
        vm.ok("flock -x /run/nvme-agent.test true; mkdir -p /run/nvme-agent; setsid flock -x /run/nvme-agent/lock sleep 600 & echo $! > /run/holder; until [ -e /run/nvme-agent/lock ] && ! flock -n /run/nvme-agent/lock true; do sleep 0.1; done")?;
        refuses(vm, "nvme-agent setup --lock-timeout 1s", 9, &["another nvme-agent run", "/run/nvme-agent/lock", "1 s"])?;
        before.ensure_same(vm)?;
        ensure!(vm.sh("cat /run/nvme-agent/state.json")?.rc == 1, "the state is the other run's to tell");
        let runs = [vm.spawn("nvme-agent setup")?, vm.spawn("nvme-agent setup --trigger boot")?, vm.spawn("nvme-agent setup")?];
        vm.ok("sleep 1; pkill -s $(cat /run/holder) || kill $(cat /run/holder)")?;
        for run in runs {
            let output = vm.wait(run)?;
            ensure!(output.rc == 0, "{output:?}");
            ensure!(output.out.starts_with("ready (SetupComplete)"), "{output:?}");
        }
        let state = ensure_ready(vm, "/tmp", "ext4", 2)?;
        ensure!(state["steps"].as_array().is_some_and(|steps| steps.len() > 9), "who did the work told it: {state:#}");
        let journal = vm.ok("journalctl --sync; journalctl -t nvme-agent -o cat")?;
        let count = |text: &str| journal.lines().filter(|line| line.starts_with(text)).count();
        ensure!(count("make ext4 on /dev/md0") == 1 && count("create RAID0") == 1, "{journal}");
        ensure!(count("waiting for another nvme-agent run") == 4, "{journal}");
        ensure!(vm.kernel_log()?.matches("EXT4-fs (md0): mounted").count() == 1);
        Ok(())
    })
}

/// Another configuration on a node that is set up: what can be had without a rebuild is done, data stay.
fn configured(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        vm.ok("nvme-agent setup; echo kept > /tmp/file")?;
        let first = ensure_ready(vm, "/tmp", "ext4", 2)?;
        let ids = vm.ok("blkid -p -o value -s UUID -s LABEL /dev/md0; cat /sys/block/md0/md/uuid")?;
        let config = |vm: &mut Vm, text: &str| vm.write("/etc/nvme-agent/config.toml", 0o644, text.as_bytes());

        // Options: the mount and the line follow. A directory is made.
        config(vm, "mount_options = \"noatime,nosuid,nodev,noexec\"\n[[directory]]\npath = \"cache\"\nowner = 1000\n")?;
        vm.ok("nvme-agent setup")?;
        let state = ensure_ready(vm, "/tmp", "ext4", 2)?;
        ensure!(state["fs_uuid"] == first["fs_uuid"] && state["array_uuid"] == first["array_uuid"], "{state:#}");
        vm.ok("grep ' /tmp ext4 noatime,nosuid,nodev,noexec,nofail,' /etc/fstab; [[ $(findmnt -no OPTIONS -t ext4 /tmp) = *noexec* ]]; [ $(stat -c %u /tmp/cache) = 1000 ]")?;
        // And back: an option that is not wanted any more goes.
        config(vm, "")?;
        vm.ok("nvme-agent setup")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        vm.ok("[[ $(findmnt -no OPTIONS -t ext4 /tmp) != *noexec* ]]")?;
        vm.fails(1, "grep noexec /etc/fstab")?;

        // What would need a rebuild is not done, on a mounted filesystem or an unmounted one.
        let wishes = "filesystem = \"xfs\"\nchunk = \"64K\"\nlabel = \"other\"\n";
        config(vm, wishes)?;
        vm.ok("nvme-agent setup")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        vm.ok("umount /tmp; nvme-agent setup")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        ensure!(vm.ok("cat /tmp/file; cat /sys/block/md0/md/chunk_size")? == "kept\n524288");

        // Another target while this one is mounted: the drives are in use, and everything stays.
        config(vm, "target = \"/opt/data\"\n")?;
        let before = (files(vm, "/etc /opt")?, storage(vm)?);
        refuses(vm, "nvme-agent setup", 3, &["DriveInUse", "/dev/md0 is mounted at /tmp", "unmount"])?;
        state_is(vm, "failed", "DriveInUse")?;
        let changed = differences(&before.0, &files(vm, "/etc /opt")?);
        ensure!(changed.is_empty() && storage(vm)? == before.1, "{changed:#?}");
        ensure!(vm.ok("blkid -p -o value -s UUID -s LABEL /dev/md0; cat /sys/block/md0/md/uuid")? == ids);
        // Unmounted: our filesystem of another target is nobody's evidence for this one.
        vm.ok("umount /tmp")?;
        refuses(vm, "nvme-agent setup", 3, &["ForeignData", "/dev/md0", "ext4", "--adopt"])?;
        config(vm, "")?;
        vm.ok("nvme-agent setup")?;
        ensure_ready(vm, "/tmp", "ext4", 2)?;
        ensure!(vm.ok("cat /tmp/file")? == "kept");
        Ok(())
    })
}
