//! The agent dies, by kill -9 or by an error, at every failpoint of every kind of plan; the next run finishes the job.
//!
//! Which failpoints a plan meets, and how often, is found by running it with all of them saying so; one that no plan meets
//! fails the scenario. From exposure on somebody writes a file before the kill, which must outlive everything.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use nvme_agent::apply::FAILPOINTS;
use nvme_agent::intent::Identity;

use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier, failpoints_binary};
use crate::vm::{Output, Vm};

pub mod foreign;
pub mod mkfs;
pub mod power;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "crash-coverage", tier: Tier::Full, run: coverage },
    Scenario {
        name: "crash-kill-fresh-two",
        tier: Tier::Normal,
        run: |ctx| each_moment(ctx, "fresh-two", kill),
    },
    Scenario {
        name: "crash-kill-fresh-one",
        tier: Tier::Full,
        run: |ctx| each_moment(ctx, "fresh-one", kill),
    },
    Scenario { name: "crash-kill-wipe", tier: Tier::Full, run: |ctx| each_moment(ctx, "wipe", kill) },
    Scenario { name: "crash-kill-adopt", tier: Tier::Full, run: |ctx| each_moment(ctx, "adopt", kill) },
    Scenario { name: "crash-kill-keep", tier: Tier::Full, run: |ctx| each_moment(ctx, "keep", kill) },
    Scenario {
        name: "crash-error-fresh-two",
        tier: Tier::Full,
        run: |ctx| each_moment(ctx, "fresh-two", error),
    },
    Scenario { name: "crash-error-systemd", tier: Tier::Full, run: |ctx| each_moment(ctx, "systemd", error) },
    Scenario { name: "crash-error-adopt", tier: Tier::Full, run: |ctx| each_moment(ctx, "adopt", error) },
    Scenario {
        name: "crash-error-fresh-one",
        tier: Tier::Full,
        run: |ctx| each_moment(ctx, "fresh-one", error),
    },
    Scenario { name: "crash-error-wipe", tier: Tier::Full, run: |ctx| each_moment(ctx, "wipe", error) },
    Scenario { name: "crash-error-keep", tier: Tier::Full, run: |ctx| each_moment(ctx, "keep", error) },
];

/// With failpoints; the one without is `nvme-agent`.
pub(super) const AGENT: &str = "/usr/local/bin/nvme-agent-failpoints";
const LIBRARY: &str = "/usr/lib/lab/crash.sh";

/// A way through the decision table, and what it starts from.
pub(super) struct Way {
    pub name: &'static str,
    pub drives: usize,
    /// Brings about what the run meets.
    pub before: &'static str,
    /// What `setup` is given, in the run that dies and in the next.
    pub arguments: &'static str,
    pub target: &'static str,
    /// The filesystem that is there before was exposed, and holds a file `kept`.
    pub exposed: bool,
    /// Without `--wipe-foreign` a run may refuse until the signatures are gone.
    pub wipes: bool,
    /// systemd is seen; only the failpoints from this one on are tried.
    pub systemd_from: Option<&'static str>,
}

pub(super) fn ways() -> Vec<Way> {
    let way = Way {
        name: "fresh-two",
        drives: 2,
        before: "reset",
        arguments: "",
        target: "/tmp",
        exposed: false,
        wipes: false,
        systemd_from: None,
    };
    vec![
        Way { ..way },
        Way { name: "systemd", systemd_from: Some("expose-done"), ..way },
        Way {
            name: "fresh-one",
            drives: 1,
            before: "reset; mkdir -p /var/lib/nvme-agent; cat > /var/lib/nvme-agent/intent.json <<< \
                '{\"version\": 1, \"serials\": [\"AWSBAKED\"], \"array_uuid\": null, \
                \"fs_uuid\": \"deadbeef-0000-4000-8000-000000000000\", \"filesystem\": \"ext4\", \"target\": \"/data\"}'",
            arguments: "--filesystem xfs --target /data",
            target: "/data",
            ..way
        },
        Way {
            name: "wipe",
            before: "reset; mdadm --create /dev/md0 --quiet --run --level=0 --raid-devices=2 $(drives); \
                mkfs.ext4 -q /dev/md0; udevadm settle",
            arguments: "--wipe-foreign",
            wipes: true,
            ..way
        },
        Way {
            name: "adopt",
            before: "in_use; echo was $(was); forget; settle_down; mdadm -I --quiet $(drives | head -n 1) || true",
            exposed: true,
            ..way
        },
        Way {
            name: "keep",
            before: "in_use; echo was $(was); forget; mount -o remount,strictatime,suid /tmp; chmod 755 /tmp",
            exposed: true,
            ..way
        },
    ]
}

/// What a script of the guest's library said, values by key.
pub(super) type Facts = BTreeMap<String, Vec<String>>;

pub(super) fn facts(text: &str) -> Facts {
    let mut facts = Facts::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        facts.entry(key.into()).or_default().push(value.into());
    }
    facts
}

pub(super) fn one<'a>(facts: &'a Facts, key: &str) -> Option<&'a str> {
    facts.get(key).and_then(|values| values.last()).map(String::as_str)
}

/// The library, both agents, and the drives; the agent does not see systemd unless it is part of the question.
pub(super) fn prepare(vm: &mut Vm, drives: usize, systemd: bool) -> Result<()> {
    vm.push(&failpoints_binary()?, AGENT)?;
    vm.write(LIBRARY, 0o644, include_bytes!("../../guest/crash.sh"))?;
    vm.plug(&DriveSpec::many(drives, 4 * GIB))?;
    if !systemd {
        script(vm, "without_systemd")?;
    }
    // What was pushed must outlive a power cut.
    vm.ok("sync").map(drop)
}

pub(super) fn script(vm: &mut Vm, text: &str) -> Result<String> {
    vm.ok(&format!(". {LIBRARY}\n{text}"))
}

/// The failpoints that this way meets, in order; a name that is met twice is there twice.
pub(super) fn discover(vm: &mut Vm, way: &Way) -> Result<Vec<String>> {
    let all: Vec<String> = FAILPOINTS.iter().map(|name| format!("{name}=return(say)")).collect();
    let said = script(
        vm,
        &format!("{}\nFAILPOINTS='{}' {AGENT} setup {} 2>&1", way.before, all.join(";"), way.arguments),
    )?;
    let reached = said.lines().filter_map(|line| line.strip_prefix("failpoint ")?.strip_suffix(" reached"));
    Ok(reached.map(str::to_owned).collect())
}

/// `FAILPOINTS` that acts at the `nth` time (from 0) that `name` is met.
pub(super) fn at(name: &str, nth: usize, action: &str) -> String {
    if nth == 0 {
        format!("{name}=1*return({action})")
    } else {
        format!("{name}={nth}*off->1*return({action})")
    }
}

/// Every moment of a way: name, how often it was met before, and whether users see the filesystem by then.
pub(super) fn moments(way: &Way, reached: &[String]) -> Vec<(String, usize, bool)> {
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    let mut exposed = way.exposed && !reached.iter().any(|name| name == "expose");
    let moment = |name: &String| {
        let nth = met.entry(name.clone()).or_default();
        exposed |= name == "expose-done";
        *nth += 1;
        (name.clone(), *nth - 1, exposed)
    };
    let all = reached.iter().map(moment);
    match way.systemd_from {
        None => all.collect(),
        Some(from) => all.skip_while(|(name, ..)| name != from).collect(),
    }
}

fn kill(vm: &mut Vm, way: &Way, name: &str, nth: usize, exposed: bool) -> Result<()> {
    let died = if exposed {
        // Somebody uses the mount at once.
        format!(
            "until_hung '{}' {AGENT} setup {}; echo written > {}/later; kill -9 $(< /run/hung); wait $(< /run/hung) || true",
            at(name, nth, "hang"),
            way.arguments,
            way.target
        )
    } else {
        format!(
            "rc=0; FAILPOINTS='{}' {AGENT} setup {} > /run/died 2>&1 || rc=$?
             [ $rc = 137 ] || {{ echo not killed: $rc >&2; cat /run/died >&2; exit 1; }}",
            at(name, nth, "kill"),
            way.arguments
        )
    };
    let text = script(vm, &format!("{}\n{died}\n{AFTER_DEATH}", way.before))?;
    again(vm, way, &facts(&text), exposed)
}

/// What the run that died left.
pub(super) const AFTER_DEATH: &str = "[ ! -e /var/lib/nvme-agent/intent.json ] || echo intent $(tr -d '\\n' < /var/lib/nvme-agent/intent.json)";

/// Runs every moment of a way; notes failures and goes on.
fn each_moment(ctx: &Ctx, name: &str, act: fn(&mut Vm, &Way, &str, usize, bool) -> Result<()>) -> Result<()> {
    let way = ways().into_iter().find(|way| way.name == name).context("no such way")?;
    ctx.vm(Guest::Trixie, |vm| {
        prepare(vm, way.drives, way.systemd_from.is_some())?;
        let reached = discover(vm, &way)?;
        vm.note(&format!("=== {}: {}", way.name, reached.join(" ")));
        for (name, nth, exposed) in moments(&way, &reached) {
            vm.note(&format!("=== {} at {name} ({nth})", way.name));
            if let Err(error) = act(vm, &way, &name, nth, exposed) {
                ctx.note_failure(format!("{name} ({nth}): {error:#}"));
            }
        }
        Ok(())
    })
}

/// Together the ways meet every failpoint: a new one that none of them meets would be untested.
fn coverage(ctx: &Ctx) -> Result<()> {
    let mut met = BTreeSet::new();
    for (drives, systemd) in [(1, false), (2, false), (2, true)] {
        ctx.vm(Guest::Trixie, |vm| {
            prepare(vm, drives, systemd)?;
            let here = |way: &&Way| way.drives == drives && way.systemd_from.is_some() == systemd;
            for way in ways().iter().filter(here) {
                met.extend(discover(vm, way).with_context(|| way.name)?);
            }
            Ok(())
        })?;
    }
    let never: Vec<&&str> = FAILPOINTS.iter().filter(|name| !met.contains(**name)).collect();
    ensure!(never.is_empty(), "no way meets the failpoints {never:?}");
    Ok(())
}

/// The next run: ready, with the identities that were meant or were there, and everything in place once.
pub(super) fn again(vm: &mut Vm, way: &Way, before: &Facts, written: bool) -> Result<()> {
    let mut run =
        script_any(vm, &format!("nvme-agent setup {}", way.arguments.replace("--wipe-foreign", "")))?;
    if way.wipes && run.rc == 3 {
        ensure!(run.err.contains("--wipe-foreign"), "refused, but not for what is to be wiped: {}", run.err);
        run = script_any(vm, &format!("nvme-agent setup {}", way.arguments))?;
    }
    ensure!(run.rc == 0, "the next run ends with {}: {}{}", run.rc, run.out, run.err);
    ensure!(run.out.starts_with("ready"), "the next run is not ready: {}{}", run.out, run.err);
    let after = facts(&script(vm, &format!("facts {}", way.target))?);
    let on_drives: Vec<&String> =
        after.get("source").into_iter().flatten().filter(|s| s.starts_with("/dev/")).collect();
    ensure!(on_drives.len() == 1, "mounted once: {after:?}");
    ensure!(!after.contains_key("left"), "left behind: {:?}", after.get("left"));
    let options = one(&after, "options").unwrap_or_default();
    ensure!(
        ["noatime", "nosuid", "nodev"].iter().all(|option| options.contains(option)),
        "options {options}"
    );
    ensure!(one(&after, "mode") == Some(if way.target == "/tmp" { "1777" } else { "755" }), "{after:?}");
    ensure!(one(&after, "fstab-lines") == Some("1"), "{after:?}");
    if way.drives > 1 {
        ensure!(one(&after, "mdadm-lines") == Some("1"), "{after:?}");
    }
    if let Some(intent) = one(before, "intent").filter(|text| !text.contains("AWSBAKED")) {
        let intent: Identity = serde_json::from_str(intent).context("the intent")?;
        ensure!(one(&after, "fs") == Some(&intent.fs_uuid.to_string()), "{after:?}, intent {intent:?}");
        let array = one(&after, "array").map(|uuid| uuid.replace(':', ""));
        ensure!(
            array == intent.array_uuid.map(|uuid| uuid.simple().to_string()),
            "{after:?}, intent {intent:?}"
        );
    }
    if way.exposed {
        ensure!(
            one(&after, "fs") == one(before, "was"),
            "another filesystem: before {before:?}, after {after:?}"
        );
        ensure!(script(vm, &format!("cat {}/kept", way.target))? == "kept", "the file is gone");
    }
    if written {
        let text = script(vm, &format!("cat {0}/later; rm {0}/later", way.target))?;
        ensure!(text == "written", "what was written after exposure: {text:?}");
    }
    Ok(())
}

pub(super) fn script_any(vm: &mut Vm, text: &str) -> Result<Output> {
    vm.sh(&format!(". {LIBRARY}\n{text}"))
}

fn error(vm: &mut Vm, way: &Way, name: &str, nth: usize, _: bool) -> Result<()> {
    let text = script(
        vm,
        &format!(
            "{}\nrc=0; FAILPOINTS='{}' {AGENT} setup {} > /run/out 2> /run/err || rc=$?
             echo rc $rc; sed 's/^/err /' /run/err; sed 's/^/out /' /run/out\n{AFTER_DEATH}",
            way.before,
            at(name, nth, "error"),
            way.arguments
        ),
    )?;
    let before = facts(&text);
    let said = |key: &str| before.get(key).cloned().unwrap_or_default().join("\n");
    let (rc, out, err) = (one(&before, "rc").unwrap_or_default(), said("out"), said("err"));
    let persistence = ["record-set", "fstab", "mdadm-conf", "tmpfiles", "reload-systemd"];
    if persistence.contains(&name) {
        // The storage is usable: that what persists is not in order is said, and is no failure.
        ensure!(rc == "0" && out.starts_with("degraded") && out.contains(name), "exit {rc}: {out}{err}");
    } else {
        let errors = err.lines().filter(|line| line.contains("error: ")).count();
        ensure!(
            rc != "0" && errors == 1 && err.contains(&format!("failpoint {name}")),
            "exit {rc}: {out}{err}"
        );
    }
    again(vm, way, &before, false)
}
