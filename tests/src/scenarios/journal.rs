//! What is said, where, and how often: the journal with its fields, stderr without one, never twice; a terminal shows which step
//! runs; and a journald that does not read holds nobody up.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::screen;
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] =
    &[Scenario { name: "journal-and-stderr", tier: Tier::Normal, run: journal_and_stderr }];

/// A configuration that is wrong: the shortest way to an error.
const WRONG: &str = "setup --config /nowhere/config.toml";

fn journal_and_stderr(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        fields(vm)?;
        error_by_hand(vm)?;
        error_in_a_unit(vm)?;
        journald_that_does_not_read(vm)?;
        without_journald(vm)?;
        a_terminal(vm)
    })
}

/// Runs a script and returns its output and what nvme-agent put into the journal meanwhile.
fn journal(vm: &mut Vm, rc: i32, script: &str) -> Result<(String, String, Vec<Value>)> {
    vm.ok("journalctl --sync; journalctl -n 0 --show-cursor -q | sed 's/^-- cursor: //' > /run/cursor")?;
    let output = vm.fails(rc, script)?;
    let text = vm.ok("journalctl --sync; journalctl --after-cursor=\"$(cat /run/cursor)\" -o json -q | grep -F nvme-agent || true")?;
    let records = text.lines().map(|line| serde_json::from_str(line).context("a record of the journal"));
    let records: Result<Vec<Value>> = records.collect();
    let ours = records?.into_iter().filter(|record| record["SYSLOG_IDENTIFIER"] == "nvme-agent");
    Ok((output.out, output.err, ours.collect()))
}

/// The records as a person reads them.
fn told(records: &[Value]) -> String {
    let lines = records.iter().map(|record| format!("{} {}", record["PRIORITY"], record["MESSAGE"]));
    lines.collect::<Vec<_>>().join("\n")
}

fn count(records: &[Value], words: &str) -> usize {
    records.iter().filter(|record| record["MESSAGE"].as_str().is_some_and(|m| m.contains(words))).count()
}

fn fields(vm: &mut Vm) -> Result<()> {
    let serials: Vec<String> = vm.drives.iter().map(|drive| drive.serial.clone()).collect();
    let (out, err, records) = journal(vm, 0, "nvme-agent setup")?;
    ensure!(err.is_empty() && out.starts_with("ready "), "a person sees the result, and no log: {err}{out}");
    for step in ["create-array", "make-filesystem", "stage", "expose", "fstab"] {
        let found: Vec<&Value> = records.iter().filter(|record| record["STEP"] == step).collect();
        ensure!(found.len() == 1, "{step} is there {} times in {}", found.len(), told(&records));
        let record = found[0];
        let millis = record["DURATION_MS"].as_str().and_then(|ms| ms.parse::<u64>().ok());
        ensure!(millis.is_some() && record["PRIORITY"] == "6", "{record}");
        match step {
            "create-array" => {
                ensure!(record["DEVICE"] == "/dev/md0", "{record}");
                let said = record["SERIAL"].as_str().unwrap_or_default();
                ensure!(serials.iter().all(|serial| said.contains(serial.as_str())), "{record}");
            }
            "make-filesystem" => ensure!(record["DEVICE"] == "/dev/md0", "{record}"),
            _ => {}
        }
    }
    ensure!(
        count(&records, "setup starts") == 1 && count(&records, "setup ends: ready") == 1,
        "{}",
        told(&records)
    );
    // For people, who read messages only.
    ensure!(records.iter().all(|r| r["MESSAGE"].as_str().is_some_and(|m| m.len() > 8)), "{}", told(&records));
    Ok(())
}

fn is_the_error(records: &[Value]) -> Result<()> {
    let errors: Vec<&Value> = records.iter().filter(|record| record["PRIORITY"] == "3").collect();
    ensure!(errors.len() == 1 && count(records, "/nowhere/config.toml") == 1, "{}", told(records));
    ensure!(errors[0]["EXIT_CODE"] == "4" && errors[0]["REASON"] == "BadConfiguration", "{}", told(records));
    Ok(())
}

fn error_by_hand(vm: &mut Vm) -> Result<()> {
    let (out, err, records) = journal(vm, 4, &format!("nvme-agent {WRONG}"))?;
    ensure!(out.is_empty() && err.lines().count() == 1 && err.contains("/nowhere/config.toml"), "{out}{err}");
    is_the_error(&records)
}

fn error_in_a_unit(vm: &mut Vm) -> Result<()> {
    let (_, _, records) = journal(vm, 4, &format!("systemd-run -q --wait /usr/bin/nvme-agent {WRONG}"))?;
    is_the_error(&records)?;
    let (_, _, records) = journal(vm, 0, "systemd-run -q --wait /usr/bin/nvme-agent setup")?;
    ensure!(count(&records, "setup ends: ready") == 1, "{}", told(&records));
    // What is written to stdout would be told again.
    ensure!(count(&records, "ready (") == 1, "{}", told(&records));
    Ok(())
}

/// Fills a datagram socket's queue with records for journald until there is no room; says how many.
const FILL: &str = r#"perl -MSocket -MFcntl -e '
    my $n = 0;
    for (1 .. 20) {
        socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
        fcntl($s, F_SETFL, O_NONBLOCK) or die "fcntl: $!";
        $n++ while send($s, "MESSAGE=filler\n", 0, sockaddr_un("/run/systemd/journal/socket"));
    }
    print "$n: $!\n"'"#;

fn journald_that_does_not_read(vm: &mut Vm) -> Result<()> {
    vm.ok("systemctl kill -s STOP systemd-journald")?;
    let filled = vm.sh(FILL);
    // Its own deadline, so that a hang is told of by this test and not by the lab's.
    let hand = vm.sh("timeout 60 nvme-agent setup");
    // In a unit stderr leads to the same journald.
    let unit = vm.sh("timeout 60 systemd-run -q --wait /usr/bin/nvme-agent setup");
    vm.ok("systemctl kill -s CONT systemd-journald; journalctl --sync")?;
    let (filled, hand, unit) = (filled?, hand?, unit?);
    ensure!(filled.out.contains("temporarily unavailable"), "not full: {}{}", filled.out, filled.err);
    ensure!(hand.rc == 0 && hand.out.starts_with("ready "), "by hand: {} {}", hand.rc, hand.err);
    ensure!(hand.err.contains("nvme-agent: info: setup starts"), "stderr stands in: {}", hand.err);
    ensure!(unit.rc == 0, "in a unit: {} {}", unit.rc, unit.err);
    Ok(())
}

fn without_journald(vm: &mut Vm) -> Result<()> {
    vm.ok("mount --bind /dev/null /run/systemd/journal/socket")?;
    let output = vm.sh("nvme-agent setup");
    let wrong = vm.sh(&format!("nvme-agent {WRONG}"));
    vm.ok("umount /run/systemd/journal/socket")?;
    let (output, wrong) = (output?, wrong?);
    ensure!(output.rc == 0, "{}", output.err);
    ensure!(output.err.matches("nvme-agent: info: setup starts").count() == 1, "{}", output.err);
    ensure!(wrong.rc == 4 && wrong.err.lines().count() == 1, "said once: {}", wrong.err);
    Ok(())
}

/// mkfs that takes its time, so that its step is seen for more than a moment.
const SLOW: &str = "#!/bin/bash\nsleep 1.5\nexec -a mkfs.ext4 /root/mke2fs \"$@\"\n";
/// mkfs that does not end well.
const FAILS: &str = "#!/bin/sh\nsleep 0.5\necho cannot >&2\nexit 1\n";
/// What the line begins with, each time that it is drawn.
const DRAWN: &str = "\r\u{1b}[K";
const COLUMNS: usize = 72;
/// Not on /tmp, whose tmpfs systemd may be about to take down when ours has gone from it.
const SETUP: &str = "nvme-agent setup --target /opt/data";

/// Which step runs and for how long is on a terminal's last line until it is done, and nowhere else.
fn a_terminal(vm: &mut Vm) -> Result<()> {
    vm.ok("nvme-agent teardown --yes; mv /usr/sbin/mke2fs /root/")?;
    vm.write("/usr/sbin/mke2fs", 0o755, FAILS.as_bytes())?;
    let script = format!("TERM=xterm script -qec 'stty cols {COLUMNS} rows 24; {SETUP}' /dev/null");
    let (out, _, records) = journal(vm, 7, &script)?;
    ensure!(
        out.contains(&format!("{DRAWN}nvme-agent: step 2 of ")) && out.contains("create RAID0"),
        "{out:?}"
    );
    let shown = screen::shown(&out);
    ensure!(
        shown.len() == 2 && shown[0].starts_with("nvme-agent: error: ") && shown[1].is_empty(),
        "{shown:#?}"
    );
    plain(&records)?;

    // As of userData: into a pipe, whatever the terminal is called.
    let (out, err, records) =
        journal(vm, 7, &format!("TERM=xterm {SETUP} 2>&1 | cat; exit ${{PIPESTATUS[0]}}"))?;
    ensure!(is_plain(&out) && out.lines().count() == 1 && err.is_empty(), "{out:?}{err:?}");
    plain(&records)?;

    vm.write("/usr/sbin/mke2fs", 0o755, SLOW.as_bytes())?;
    let (out, _, records) = journal(vm, 0, &script)?;
    let drawn: Vec<&str> = out.split(DRAWN).filter(|text| text.starts_with("nvme-agent: step ")).collect();
    let mut of_mkfs = Vec::new();
    for line in &drawn {
        // `nvme-agent: step 3 of 9, 0.4 s: make ext4 on /dev/md0`
        ensure!(line.len() < COLUMNS && !line.contains(char::is_control), "{line:?}");
        let seconds = line.split(", ").nth(1).and_then(|rest| rest.split(" s: ").next());
        let seconds: f64 = seconds.and_then(|s| s.parse().ok()).with_context(|| format!("{line:?}"))?;
        if line.contains("make ext4") {
            of_mkfs.push(seconds);
        }
    }
    ensure!(of_mkfs.len() >= 3 && of_mkfs.is_sorted() && of_mkfs.last() >= Some(&1.0), "{of_mkfs:?}");
    ensure!(drawn.iter().any(|line| line.contains("/etc/fstab")), "{drawn:#?}");
    let shown = screen::shown(&out);
    ensure!(shown[0].starts_with("ready (SetupComplete)"), "{shown:#?}");
    ensure!(!shown.iter().any(|line| line.contains("nvme-agent: step ")), "{shown:#?}");
    ensure!(shown.last().is_some_and(String::is_empty), "the prompt comes on a line of its own: {shown:#?}");
    plain(&records)?;
    vm.ok("mv /root/mke2fs /usr/sbin/mke2fs").map(drop)
}

/// Nothing that was drawn, nothing that a terminal would obey.
fn is_plain(text: &str) -> bool {
    !text.contains("nvme-agent: step ") && !text.contains(|c: char| c.is_control() && c != '\n')
}

fn plain(records: &[Value]) -> Result<()> {
    // The journal has bytes, not a string, where there is a control character among them.
    let is_fine = |record: &Value| record["MESSAGE"].as_str().is_some_and(is_plain);
    ensure!(records.iter().all(is_fine), "{records:#?}");
    ensure!(count(records, "setup starts") == 1, "{}", told(records));
    Ok(())
}
