//! What an operator sees: each thing that goes wrong has its own reason and next action, and none keeps status from
//! answering.

mod doctor;
mod hangs;
mod reasons;
mod unprivileged;

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::runner::{Scenario, Tier};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "status-reasons", tier: Tier::Normal, run: reasons::each },
    Scenario { name: "status-hangs", tier: Tier::Normal, run: hangs::device },
    Scenario { name: "status-unprivileged", tier: Tier::Normal, run: unprivileged::partly },
    Scenario { name: "doctor", tier: Tier::Normal, run: doctor::checks },
];

/// `status --output json`, which must end with `rc`.
fn report(vm: &mut Vm, rc: i32) -> Result<Value> {
    let output = vm.fails(rc, "nvme-agent status --output json")?;
    ensure!(output.err.is_empty(), "on stderr: {}", output.err);
    serde_json::from_str(&output.out).with_context(|| format!("no JSON: {}", output.out))
}

/// The verdict and its reason, in JSON and at the head of the text; the text says what to do next.
fn is(vm: &mut Vm, state: &str, reason: &str) -> Result<Value> {
    let rc = match state {
        "degraded" => 10,
        "failed" => 11,
        "not-set-up" => 12,
        _ => 0,
    };
    let report = report(vm, rc)?;
    ensure!(
        report["state"] == state && report["reason"] == reason,
        "expected {state} ({reason}), found {report:#}"
    );
    let text = vm.fails(rc, "nvme-agent status")?.out;
    let head: Vec<&str> = text.lines().take(3).collect();
    ensure!(head.first().is_some_and(|line| line.starts_with(&format!("{state} ({reason})"))), "{text}");
    ensure!(text.is_ascii() && text.len() <= 2500, "{} characters: {text}", text.len());
    if rc == 0 {
        ensure!(report["next"].is_null(), "{report:#}");
    } else {
        ensure!(report["next"].as_str().is_some_and(|next| next.len() > 20), "{report:#}");
        ensure!(head.iter().any(|line| line.starts_with("next ")), "what to do comes early: {text}");
    }
    Ok(report)
}

/// The reasons of all findings, and of all warnings.
fn reasons<'a>(report: &'a Value, of: &str) -> BTreeSet<&'a str> {
    report[of].as_array().into_iter().flatten().filter_map(|finding| finding["reason"].as_str()).collect()
}

/// Nothing writes to two fresh drives any more: ext4 goes on with its inode tables after the first mount, unless it is told not to.
fn quiesce(vm: &mut Vm, target: &str) -> Result<()> {
    vm.ok(&format!("mount -o remount,noinit_itable {target}; sync; udevadm settle; sleep 2")).map(drop)
}

/// Writes and discards that were done to two drives and their array (Documentation/admin-guide/iostats.rst); the root volume
/// has a journal to write.
fn written(vm: &mut Vm) -> Result<String> {
    let devices = [vm.device(0)?, vm.device(1)?, "md0".to_owned()];
    let files = devices.map(|device| format!("/sys/block/{device}/stat")).join(" ");
    vm.ok(&format!("awk '{{ print $5, $7, $12, $14 }}' {files}"))
}
