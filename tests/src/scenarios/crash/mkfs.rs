//! mkfs itself dies, at some of its writes, and the agent with it or without it.

use anyhow::{Context, Result, ensure};
use nvme_agent::intent::Identity;

use super::{facts, one, prepare, script, script_any};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[Scenario { name: "crash-mkfs", tier: Tier::Full, run: mkfs }];

/// Takes the place of mkfs: the real one runs until its write number `/run/mkfs.stop`, then what `/run/mkfs.then` says.
const STUB: &str = r#"#!/bin/bash
case $0 in *xfs) real=/usr/lib/lab/mkfs.xfs ;; *) real=/usr/lib/lab/mkfs.ext4 ;; esac
strace -f -qq -o /run/mkfs.trace -e trace=pwrite64 -e signal=none -e inject=pwrite64:signal=SIGKILL:when="$(< /run/mkfs.stop)" "$real" "$@"
. /run/mkfs.then
"#;

fn mkfs(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        // With systemd: so slow a mkfs lets it catch up with the array of the case before, and act on its mount.
        prepare(vm, 2, true)?;
        vm.write("/usr/lib/lab/mkfs.stub", 0o755, STUB.as_bytes())?;
        script(
            vm,
            "for kind in ext4 xfs; do
                 cp -L /usr/sbin/mkfs.$kind /usr/lib/lab/mkfs.$kind
                 rm /usr/sbin/mkfs.$kind
                 cp /usr/lib/lab/mkfs.stub /usr/sbin/mkfs.$kind
             done",
        )?;
        for filesystem in ["ext4", "xfs"] {
            // A whole run, to count.
            let text = format!(
                "reset; echo 65535 > /run/mkfs.stop; echo 'exit 0' > /run/mkfs.then
                 nvme-agent setup --filesystem {filesystem} > /run/said; grep -c pwrite64 /run/mkfs.trace"
            );
            let writes: u32 =
                script(vm, &text)?.lines().last().unwrap_or_default().parse().context("writes of mkfs")?;
            ensure!(writes > 10, "mkfs.{filesystem} writes {writes} times");
            for stop in [1, 2, writes / 2, writes - 2, writes - 1, writes] {
                let what = format!("mkfs.{filesystem} dies at write {stop} of {writes}");
                vm.note(&format!("=== {what}"));
                if let Err(error) = half_made(vm, filesystem, stop) {
                    ctx.note_failure(format!("{what}: {error:#}"));
                }
            }
        }
        orphan(vm)
    })
}

/// Agent and mkfs die at this write; then a run with a good mkfs.
fn half_made(vm: &mut Vm, filesystem: &str, stop: u32) -> Result<()> {
    let text = format!(
        "reset; echo {stop} > /run/mkfs.stop; echo 'kill -9 $PPID' > /run/mkfs.then
         rc=0; nvme-agent setup --filesystem {filesystem} > /run/said 2>&1 || rc=$?
         [ $rc = 137 ] || {{ cat /run/said >&2; exit 1; }}
         echo intent $(tr -d '\\n' < /var/lib/nvme-agent/intent.json)
         echo 65535 > /run/mkfs.stop; echo 'exit 0' > /run/mkfs.then"
    );
    let before = facts(&script(vm, &text)?);
    sound(vm, filesystem, one(&before, "intent").context("no intent")?)
}

/// The next run is ready, with the identities of the intent, and the filesystem is sound.
fn sound(vm: &mut Vm, filesystem: &str, intent: &str) -> Result<()> {
    let intent: Identity = serde_json::from_str(intent)?;
    let run = script_any(vm, &format!("nvme-agent setup --filesystem {filesystem}"))?;
    ensure!(run.rc == 0 && run.out.starts_with("ready"), "exit {}: {}{}", run.rc, run.out, run.err);
    let after = facts(&script(vm, "facts")?);
    ensure!(one(&after, "fs") == Some(&intent.fs_uuid.to_string()), "{after:?}, intent {intent:?}");
    ensure!(!after.contains_key("left"), "{after:?}");
    let check = if filesystem == "xfs" { "xfs_repair -n" } else { "e2fsck -fn" };
    script(vm, &format!("for i in 1 2 3; do echo data > /tmp/$i; done; forget; umount /tmp; {check} /dev/md0 > /run/said 2>&1 || {{ cat /run/said; exit 1; }}"))
        .context("the filesystem is not sound")
        .map(drop)
}

/// The agent alone is killed: its mkfs must not go on writing to what the next run makes and shows to users.
fn orphan(vm: &mut Vm) -> Result<()> {
    let text = "reset; echo 10 > /run/mkfs.stop; echo 'touch /run/mkfs.hangs; sleep 300' > /run/mkfs.then; rm -f /run/mkfs.hangs
         nvme-agent setup > /run/said 2>&1 & agent=$!
         until [ -e /run/mkfs.hangs ]; do sleep 0.1; done
         kill -9 $agent; wait $agent || true
         sleep 0.2
         ! pgrep -f '/mkfs.ext4 -q' || { echo 'mkfs lives on' >&2; exit 1; }
         echo intent $(tr -d '\\n' < /var/lib/nvme-agent/intent.json)
         echo 65535 > /run/mkfs.stop; echo 'exit 0' > /run/mkfs.then";
    let before = facts(&script(vm, text).context("the agent is killed while mkfs runs")?);
    sound(vm, "ext4", one(&before, "intent").context("no intent")?)
}
