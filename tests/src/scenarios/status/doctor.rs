//! `nvme-agent doctor` on a real machine: nothing to do where all is well, and the checks by name where it is not.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{quiesce, written};
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::Ctx;
use crate::scenarios::kit::{self, Picture};
use crate::vm::Vm;

const SCHEMA: &str = include_str!("../../../../agent/schema/doctor.json");
/// Where cloud-init keeps what the instance was launched with.
const USER_DATA: &str = "/var/lib/cloud/instance/user-data.txt";
const OLD_SCRIPT: &str = include_str!("../../../fixtures/old-script.sh");
/// Scripts hold secrets.
const SECRET: &str = "hunter2";

pub fn checks(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        kit::remember(vm)?;
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        let report = doctor(vm, 11)?;
        ensure!(with(&report, "problem").contains_key("unit"), "nothing is installed: {report:#}");
        vm.ok("nvme-agent install")?;
        doctor(vm, 0)?;
        the_old_script(vm)?;
        healthy(vm)?;
        somebody_else(vm)
    })
}

/// What the agent is to replace has run, and is to run at the next launch.
fn the_old_script(vm: &mut Vm) -> Result<()> {
    vm.write(USER_DATA, 0o600, format!("{OLD_SCRIPT}# token={SECRET}\n").as_bytes())?;
    vm.ok(&format!("bash -e {USER_DATA}"))?;
    quiesce(vm, "/tmp")?;
    let before = Picture::take(vm)?;
    let report = doctor(vm, 10)?;
    before.ensure_same(vm)?;
    let warnings = with(&report, "warning");
    ensure!(warnings.keys().copied().eq(["drives-in-use", "fstab", "other-scripts"]), "{report:#}");
    ensure!(warnings["drives-in-use"].contains("not by a setup of this boot"), "{warnings:#?}");
    ensure!(warnings["other-scripts"].contains(USER_DATA), "{warnings:#?}");
    ensure!(warnings["fstab"].contains("/dev/md0 on /tmp"), "{warnings:#?}");
    vm.ok(&format!("rm {USER_DATA}"))?;
    kit::reset(vm)
}

/// A node that is set up has nothing to do, and looking has changed nothing: no file, no byte of a drive.
fn healthy(vm: &mut Vm) -> Result<()> {
    vm.ok("nvme-agent setup")?;
    quiesce(vm, "/tmp")?;
    // systemd reads fstab again, as setup has asked for, and answers nobody until it has.
    vm.ok("systemctl show -P Version")?;
    let (picture, before) = (Picture::take(vm)?, written(vm)?);
    let report = doctor(vm, 0)?;
    let after = written(vm)?;
    ensure!(after == before, "doctor wrote to a drive, or trimmed it: {before} -> {after}");
    picture.ensure_same(vm)?;
    vm.ok("mount -o remount,init_itable /tmp")?;
    // No Kubernetes node, so that nobody can be asked; all else is known.
    ensure!(with(&report, "unknown").keys().copied().eq(["credentials"]), "{report:#}");
    for (name, words) in [
        ("drives", "2"),
        ("fstab", "is ours, by UUID"),
        ("uuid-links", "/dev/md0"),
        ("unit", "enabled, starts /usr/bin/nvme-agent"),
    ] {
        ensure!(
            with(&report, "ok").get(name).is_some_and(|found| found.contains(words)),
            "{name}: {report:#}"
        );
    }
    Ok(())
}

/// Somebody else's line for /tmp, and a script that formats the drives at every boot.
fn somebody_else(vm: &mut Vm) -> Result<()> {
    vm.write(
        "/opt/disks.sh",
        0o755,
        format!("#!/bin/sh\n# {SECRET}\nmkfs.xfs -f /dev/nvme1n1\n").as_bytes(),
    )?;
    let unit = b"[Service]\nType=oneshot\nExecStart=/opt/disks.sh\n[Install]\nWantedBy=multi-user.target\n";
    vm.write("/etc/systemd/system/disks.service", 0o644, unit)?;
    vm.ok("cp -p /etc/fstab /root/fstab.ours; echo 'none /tmp tmpfs size=2g 0 0' >> /etc/fstab")?;
    let report = doctor(vm, 11)?;
    let problems = with(&report, "problem");
    ensure!(problems.keys().copied().eq(["fstab", "other-scripts"]), "{report:#}");
    ensure!(problems["fstab"].contains("mounts none on /tmp"), "{problems:#?}");
    ensure!(problems["other-scripts"].contains("/opt/disks.sh"), "{problems:#?}");
    vm.ok("rm /opt/disks.sh /etc/systemd/system/disks.service; mv /root/fstab.ours /etc/fstab")?;
    doctor(vm, 0).map(drop)
}

/// `doctor --output json`, which must end with `rc` and be as its schema has it; the text must say the same and fit where SSM
/// shows it.
fn doctor(vm: &mut Vm, rc: i32) -> Result<Value> {
    let output = vm.fails(rc, "nvme-agent doctor --output json")?;
    ensure!(output.err.is_empty() && !output.out.contains(SECRET), "{output:?}");
    let report: Value =
        serde_json::from_str(&output.out).with_context(|| format!("no JSON: {}", output.out))?;
    let schema = jsonschema::draft202012::new(&serde_json::from_str(SCHEMA)?)?;
    let wrong: Vec<String> = schema.iter_errors(&report).map(|error| error.to_string()).collect();
    ensure!(wrong.is_empty(), "{wrong:#?}\n{report:#}");

    let output = vm.fails(rc, "nvme-agent doctor")?;
    let text = output.out;
    ensure!(text.is_ascii() && text.len() <= 2500, "{} characters: {text}", text.len());
    ensure!(!text.contains(SECRET), "{text}");
    for verdict in ["problem", "warning"] {
        for name in with(&report, verdict).keys() {
            let begin = format!("{verdict:<8} {name} ");
            ensure!(text.lines().any(|line| line.starts_with(&begin)), "no {name} in {text}");
        }
    }
    let last = text.lines().last().unwrap_or_default();
    ensure!(report["verdict"].as_str().is_some_and(|verdict| last.starts_with(verdict)), "{text}");
    Ok(report)
}

/// What the checks with this verdict found, by name.
fn with<'a>(report: &'a Value, verdict: &str) -> BTreeMap<&'a str, &'a str> {
    let checks = report["checks"].as_array().into_iter().flatten();
    checks
        .filter(|check| check["verdict"] == verdict)
        .filter_map(|check| Some((check["name"].as_str()?, check["found"].as_str()?)))
        .collect()
}
