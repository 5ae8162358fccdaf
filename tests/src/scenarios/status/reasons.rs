//! Each reason code, brought about on a real machine.

use anyhow::{Result, ensure};

use super::{is, quiesce, reasons, report, written};
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::Ctx;
use crate::vm::Vm;

pub fn each(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        // With a directory beneath, and no tmpfs that systemd minds.
        vm.write("/etc/nvme-agent/config.toml", 0o644, b"target = \"/opt/data\"\n")?;
        // Nothing has run.
        is(vm, "not-set-up", "NotSetUp")?;
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        vm.ok("nvme-agent setup")?;
        healthy(vm)?;
        // A file that another boot left, as of an image that was made of a running machine.
        vm.ok("cp /run/nvme-agent/state.json /root/state.json
               sed -i 's/\"boot_id\": \"[^\"]*\"/\"boot_id\": \"0b0e1c9a-0000-4000-8000-000000000000\"/' /run/nvme-agent/state.json")?;
        is(vm, "not-set-up", "StateOfAnotherBoot")?;
        vm.ok("mv /root/state.json /run/nvme-agent/state.json")?;
        is(vm, "ready", "SetupComplete")?;
        health(vm)?;
        mount(vm)?;
        full(vm)?;
        array(vm)?;
        // The last: they do not come back from it.
        reads(vm)?;
        let serial = vm.drives[0].serial.clone();
        vm.unplug(0)?;
        let report = is(vm, "failed", "DriveLost")?;
        ensure!(report["message"].as_str().is_some_and(|message| message.contains(&serial)), "{report:#}");
        Ok(())
    })
}

/// What QEMU's drives say, and that looking wrote nothing.
fn healthy(vm: &mut Vm) -> Result<()> {
    quiesce(vm, "/opt/data")?;
    let before = written(vm)?;
    let report = is(vm, "ready", "SetupComplete")?;
    let after = written(vm)?;
    vm.ok("mount -o remount,init_itable /opt/data")?;
    ensure!(after == before, "status wrote to a drive, or trimmed it: {before} -> {after}");
    let drives = report["drives"].as_array().map_or(0, Vec::len);
    ensure!(drives == 2, "{report:#}");
    for drive in report["drives"].as_array().into_iter().flatten() {
        let smart = &drive["smart"];
        // QEMU says 323 Kelvin, and that all else is 0.
        ensure!(smart["temperature_celsius"] == 50, "{drive:#}");
        ensure!(smart["critical_warnings"] == serde_json::json!([]), "{drive:#}");
        ensure!(smart["written_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{drive:#}");
        ensure!(drive["statistics"].is_null() && drive["not_asked"].is_null(), "{drive:#}");
        ensure!(drive["read_error"].is_null() && drive["new_media_errors"] == 0, "{drive:#}");
    }
    let members = &report["array"]["members"];
    ensure!(members.as_array().is_some_and(|all| all.iter().all(|m| m["state"] == "in_sync")), "{members:#}");
    ensure!(report["mount"]["inodes"].as_u64().is_some_and(|inodes| inodes > 1000), "{report:#}");
    Ok(())
}

/// Critical warnings: that the medium is read-only is the end, the others are not yet.
fn health(vm: &mut Vm) -> Result<()> {
    let device = vm.device(1)?;
    for (bits, state, reason) in [
        (1, "degraded", "DriveCriticalWarning"),
        (4, "degraded", "DriveCriticalWarning"),
        (8, "failed", "DriveReadOnly"),
    ] {
        vm.critical_warning(1, bits)?;
        let report = is(vm, state, reason)?;
        ensure!(report["message"].as_str().is_some_and(|message| message.contains(&device)), "{report:#}");
    }
    vm.critical_warning(1, 0)?;
    is(vm, "ready", "SetupComplete").map(drop)
}

fn mount(vm: &mut Vm) -> Result<()> {
    vm.ok("mount -o remount,ro /opt/data")?;
    is(vm, "failed", "MountReadOnly")?;
    vm.ok("mount -o remount,rw /opt/data; umount /opt/data")?;
    is(vm, "failed", "MountGone")?;
    vm.ok("nvme-agent setup; mount -t tmpfs somebody /opt/data")?;
    let report = is(vm, "failed", "MountReplaced")?;
    ensure!(report["message"].as_str().is_some_and(|message| message.contains("somebody")), "{report:#}");
    vm.ok("umount /opt/data; sed -i '/x-nvme-agent/s/UUID=[^ ]*/UUID=00000000-0000-4000-8000-000000000000/' /etc/fstab")?;
    is(vm, "degraded", "PersistenceMissing")?;
    // It says how to mend it, and that does. So it does with a line that is not quite ours any more.
    vm.ok("nvme-agent setup")?;
    is(vm, "ready", "SetupComplete")?;
    for edit in ["s/,x-nvme-agent//", "s/,nofail//", "s/nofail/nofail,noauto/", "s/ 0 0$/ 0 2/"] {
        vm.ok(&format!("sed -i '/x-nvme-agent/{edit}' /etc/fstab"))?;
        let report = is(vm, "degraded", "PersistenceMissing")?;
        ensure!(
            report["message"].as_str().is_some_and(|message| message.contains("/etc/fstab: line ")),
            "{report:#}"
        );
        vm.ok("nvme-agent setup; [ $(grep -c x-nvme-agent /etc/fstab) = 1 ]")?;
        is(vm, "ready", "SetupComplete")?;
    }
    Ok(())
}

/// Nearly full is a warning, and no more than that.
fn full(vm: &mut Vm) -> Result<()> {
    vm.ok("fallocate -l $(($(stat -f -c '%a * %S' /opt/data) * 97 / 100)) /opt/data/large")?;
    let report = is(vm, "ready", "SetupComplete")?;
    ensure!(reasons(&report, "warnings").contains("SpaceLow"), "{report:#}");
    vm.ok("rm /opt/data/large")?;
    let report = is(vm, "ready", "SetupComplete")?;
    ensure!(reasons(&report, "warnings").is_empty(), "{report:#}");
    Ok(())
}

fn array(vm: &mut Vm) -> Result<()> {
    vm.ok("umount /opt/data; mdadm --quiet --stop /dev/md0")?;
    is(vm, "failed", "ArrayStopped")?;
    vm.ok("nvme-agent setup")?;
    is(vm, "ready", "SetupComplete").map(drop)
}

/// A drive whose reads fail, and nobody has read it yet.
fn reads(vm: &mut Vm) -> Result<()> {
    let device = vm.device(0)?;
    vm.fail_reads(0)?;
    let report = report(vm, 11)?;
    ensure!(report["reason"] == "DriveUnreadable", "{report:#}");
    ensure!(report["message"].as_str().is_some_and(|message| message.contains(&device)), "{report:#}");
    Ok(())
}
