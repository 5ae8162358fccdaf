//! The VM is killed while the agent stands at a failpoint; then a boot without systemd and udev, where the agent runs again.
//!
//! What is lost is what the guest had not written out: its page cache, which holds all of mkfs.ext4's writes until it syncs. A
//! drive that forgets writes which it has acknowledged is not covered: QEMU's host keeps them, and an instance store
//! that loses power is blank.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nvme_agent::apply::FAILPOINTS;

use super::{AFTER_DEATH, AGENT, Way, again, at, discover, facts, moments, prepare, script, ways};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "crash-power-cut", tier: Tier::Full, run: telling },
    Scenario {
        name: "crash-power-fresh-two",
        tier: Tier::Full,
        run: |ctx| matrix(ctx, "fresh-two", &FAILPOINTS),
    },
    Scenario {
        name: "crash-power-fresh-one",
        tier: Tier::Full,
        run: |ctx| matrix(ctx, "fresh-one", &FAILPOINTS),
    },
    Scenario { name: "crash-power-wipe", tier: Tier::Full, run: |ctx| matrix(ctx, "wipe", &FAILPOINTS) },
    Scenario { name: "crash-power-adopt", tier: Tier::Full, run: |ctx| matrix(ctx, "adopt", &FAILPOINTS) },
    Scenario { name: "crash-power-keep", tier: Tier::Full, run: |ctx| matrix(ctx, "keep", &FAILPOINTS) },
    Scenario { name: "crash-power-boots", tier: Tier::Full, run: boots },
];

/// Where most is at stake: half the superblocks, a filesystem that nobody has seen, the moments around exposure.
fn telling(ctx: &Ctx) -> Result<()> {
    matrix(
        ctx,
        "fresh-two",
        &[
            "record-intent-done",
            "md-superblock",
            "make-filesystem-done",
            "clear-intent",
            "clear-intent-done",
            "expose-done",
            "fstab",
        ],
    )
}

fn matrix(ctx: &Ctx, name: &str, points: &[&str]) -> Result<()> {
    let way = ways().into_iter().find(|way| way.name == name).context("no such way")?;
    let mut reached = Vec::new();
    ctx.vm(Guest::Trixie, |vm| {
        prepare(vm, way.drives, false)?;
        reached = discover(vm, &way)?;
        Ok(())
    })?;
    for (name, nth, exposed) in moments(&way, &reached) {
        if points.contains(&name.as_str()) {
            ctx.case(&format!("{name} {nth}"), Guest::Trixie, |vm| {
                let started = Instant::now();
                prepare(vm, way.drives, false)?;
                cut(vm, &way, &name, nth, exposed)?;
                vm.note(&format!("=== {name} ({nth}): {:.1} s in all", started.elapsed().as_secs_f64()));
                Ok(())
            });
        }
    }
    Ok(())
}

/// Power is cut at this moment; the next boot's run is ready.
fn cut(vm: &mut Vm, way: &Way, name: &str, nth: usize, exposed: bool) -> Result<()> {
    let write = if exposed {
        format!("echo written > {0}/later; sync -f {0}/later", way.target)
    } else {
        String::new()
    };
    let text = format!(
        "{}\nuntil_hung '{}' {AGENT} setup {}\n{write}\n{AFTER_DEATH}",
        way.before,
        at(name, nth, "hang"),
        way.arguments
    );
    let before = facts(&script(vm, &text)?);
    vm.crash()?;
    vm.power_on_mini(&(0..way.drives).collect::<Vec<_>>())?;
    again(vm, way, &before, exposed)
}

/// One filesystem over many boots, each cut off at another failpoint: the first file is there to the end.
fn boots(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        prepare(vm, 2, false)?;
        script(vm, "reset; nvme-agent setup; echo kept > /tmp/kept; sync -f /tmp/kept; sync")?;
        let uuid = script(vm, "was")?;
        vm.crash()?;
        vm.power_on_mini(&[0, 1])?;
        let all: Vec<String> = FAILPOINTS.iter().map(|name| format!("{name}=return(say)")).collect();
        let said = script(vm, &format!("FAILPOINTS='{}' {AGENT} setup 2>&1", all.join(";")))?;
        let reached: Vec<String> = said
            .lines()
            .filter_map(|line| line.strip_prefix("failpoint ")?.strip_suffix(" reached"))
            .map(str::to_owned)
            .collect();
        ensure!(
            reached.iter().any(|name| name == "assemble-array")
                && reached.iter().any(|name| name == "expose"),
            "{said}"
        );
        for name in &reached {
            script(vm, "settle_down")?;
            script(vm, &format!("until_hung '{name}=return(hang)' {AGENT} setup"))?;
            vm.crash()?;
            vm.power_on_mini(&[1, 0])?;
            let said = script(vm, "nvme-agent setup; cat /tmp/kept; was")
                .with_context(|| format!("after {name}"))?;
            ensure!(
                said.starts_with("ready") && said.ends_with(&format!("kept\n{uuid}")),
                "after {name}: {said}"
            );
        }
        Ok(())
    })
}
