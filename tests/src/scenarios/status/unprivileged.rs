//! Somebody who may not see all, and a machine that does not show all, still get an answer.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::Ctx;
use crate::vm::Vm;

pub fn partly(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        vm.ok("nvme-agent setup")?;
        const NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups nvme-agent status";
        let text = vm.ok(NOBODY)?;
        ensure!(text.starts_with("ready (SetupComplete)") && text.contains("needs root"), "{text}");
        let report: Value = serde_json::from_str(&vm.ok(&format!("{NOBODY} --output json"))?)?;
        for drive in report["drives"].as_array().context("drives")? {
            ensure!(drive["not_asked"] == "needs root" && drive["smart"].is_null(), "{drive:#}");
        }
        ensure!(
            report["mount"]["used_bytes"].is_u64() && report["findings"] == Value::Array(Vec::new()),
            "{report:#}"
        );
        missing(vm)
    })
}

/// Parts of the machine hidden, in a mount namespace of its own: it prints, and says what it could not read.
fn missing(vm: &mut Vm) -> Result<()> {
    // What is found wrong is what is hidden, and never what may well be there.
    for (hidden, code, reason, unread) in [
        ("/run/nvme-agent", 12, "NotSetUp", ""),
        ("/sys", 0, "SetupComplete", "/sys/block"),
        ("/sys/class/nvme", 0, "SetupComplete", ""),
        ("/sys/block", 0, "SetupComplete", "/sys/block"),
        ("/sys/fs", 0, "SetupComplete", ""),
        ("/proc/sys", 12, "StateUnreadable", "boot_id"),
        ("/dev", 0, "SetupComplete", ""),
        ("/etc", 10, "PersistenceMissing", ""),
    ] {
        let script = format!(
            "unshare -m sh -c 'cp -a /usr/bin/nvme-agent /root/agent; mount -t tmpfs none {hidden} && exec /root/agent status --output json'"
        );
        let output = vm.sh(&script)?;
        let report: Value =
            serde_json::from_str(&output.out).with_context(|| format!("without {hidden}: {output:?}"))?;
        ensure!(
            output.rc == code && report["reason"] == reason && !output.err.contains("panicked"),
            "without {hidden}: {output:?}"
        );
        let said = report["unreadable"].as_array().context("unreadable")?;
        let told = said.iter().any(|line| line.as_str().is_some_and(|line| line.contains(unread)));
        ensure!(unread.is_empty() || told, "without {hidden}: {said:?}");
    }
    Ok(())
}
