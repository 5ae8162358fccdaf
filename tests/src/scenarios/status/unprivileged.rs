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
    for (hidden, codes) in [
        ("/run/nvme-agent", &[12][..]),
        ("/sys", &[0, 10, 11]),
        ("/sys/class/nvme", &[0, 10, 11]),
        ("/sys/block", &[0, 10, 11]),
        ("/sys/fs", &[0]),
        ("/proc/sys", &[0, 10, 11, 12]),
        ("/dev", &[0, 10]),
        ("/etc", &[0, 10]),
    ] {
        let script = format!(
            "unshare -m sh -c 'cp -a /usr/bin/nvme-agent /root/agent; mount -t tmpfs none {hidden} && exec /root/agent status --output json'"
        );
        let output = vm.sh(&script)?;
        ensure!(codes.contains(&output.rc), "without {hidden}: {output:?}");
        let report: Value =
            serde_json::from_str(&output.out).with_context(|| format!("without {hidden}: {output:?}"))?;
        ensure!(report["state"].is_string() && !output.err.contains("panicked"), "{output:?}");
    }
    Ok(())
}
