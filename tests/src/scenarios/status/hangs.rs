//! A device that hangs holds nobody who asks about it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::report;
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::Ctx;
use crate::vm::Vm;

/// What an operator is promised. Also in emulation, on a machine with other work.
const PROMISE: Duration = Duration::from_secs(2);
/// For the way into the guest and back.
const WAY: Duration = Duration::from_millis(500);

pub fn device(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        vm.ok("nvme-agent setup")?;
        answers(vm, 0)?;
        doctor_answers(vm)?;
        drive(vm)?;
        filesystem(vm)
    })
}

fn answers(vm: &mut Vm, rc: i32) -> Result<()> {
    asked(vm, "status", rc).map(drop)
}

/// doctor asks the devices and the target nothing. It has one thing to say here: the unit is not installed.
fn doctor_answers(vm: &mut Vm) -> Result<()> {
    let said = asked(vm, "doctor", 11)?;
    ensure!(said.starts_with("problem  unit "), "{said}");
    ensure!(said.lines().last().is_some_and(|line| line.starts_with("problem: 1 problem, ")), "{said}");
    Ok(())
}

/// Runs a command as somebody's shell does, and waits for the end of its output, which it returns; seconds by the guest's clock.
fn asked(vm: &mut Vm, command: &str, rc: i32) -> Result<String> {
    let begin = Instant::now();
    let output = vm.ok(&format!(
        "begin=$(date +%s%N); rc=0
         said=$(nvme-agent {command} 2>&1) || rc=$?
         echo $rc $((($(date +%s%N) - begin) / 1000000)); echo \"$said\""
    ))?;
    let (numbers, said) = output.split_once('\n').with_context(|| output.clone())?;
    let (found, millis) = numbers.split_once(' ').with_context(|| output.clone())?;
    ensure!(found == rc.to_string(), "exit code {found}, expected {rc}: {said}");
    let took = Duration::from_millis(millis.parse()?);
    vm.note(&format!("{command} answered in {millis} ms"));
    ensure!(took <= PROMISE && begin.elapsed() <= PROMISE + WAY, "it took {millis} ms: {said}");
    Ok(said.to_owned())
}

/// Children that hang in a device.
fn left_behind(vm: &mut Vm) -> Result<usize> {
    let text = vm.ok("pgrep -x -c nvme-agent || :")?;
    Ok(text.trim().parse()?)
}

/// A drive whose reads are not answered: some of others' hang in it already, buffered and not.
fn drive(vm: &mut Vm) -> Result<()> {
    let device = vm.device(1)?;
    vm.hold_reads(1, true)?;
    vm.ok(&format!(
        "for flag in direct nonblock; do
             setsid dd if=/dev/{device} of=/dev/null bs=1M count=1 skip=2000 iflag=$flag > /dev/null 2>&1 < /dev/null &
         done
         sleep 0.5; [ $(grep -l '^State:.D' $(pgrep -x dd | sed 's|.*|/proc/&/status|') | wc -l) = 2 ]"
    ))?;
    // The first who asks learns what the controller can still say; who comes later leaves the device in peace.
    let begin = Instant::now();
    let report = report(vm, 10)?;
    ensure!(begin.elapsed() <= PROMISE + WAY, "the first took {:?}", begin.elapsed());
    ensure!(report["reason"] == "DriveSilent", "{report:#}");
    ensure!(report["message"].as_str().is_some_and(|message| message.contains(&device)), "{report:#}");
    // What its controller could still say is there, and the other drive said all.
    for drive in report["drives"].as_array().into_iter().flatten() {
        ensure!(drive["smart"]["temperature_celsius"] == 50, "{drive:#}");
        ensure!(drive["not_asked"].is_null() == (drive["device"] != device.as_str()), "{drive:#}");
    }
    // However often one asks.
    for _ in 0..3 {
        answers(vm, 10)?;
    }
    doctor_answers(vm)?;
    let left = left_behind(vm)?;
    ensure!(left == 1, "{left} children hang in the device");
    vm.hold_reads(1, false)?;
    vm.ok("end=$((SECONDS + 60)); while pgrep -x nvme-agent > /dev/null || pgrep -x dd > /dev/null; do
               [ $SECONDS -lt $end ]; sleep 0.1; done")?;
    answers(vm, 0)?;
    ensure!(left_behind(vm)? == 0, "they end once the device answers");
    Ok(())
}

/// A filesystem over ours, on a device-mapper device that is suspended with writes under way.
fn filesystem(vm: &mut Vm) -> Result<()> {
    vm.ok("truncate -s 400M /var/tmp/below; loop=$(losetup -f --show /var/tmp/below)
           dmsetup create slow --table \"0 819200 linear $loop 0\"
           mkfs.xfs -q /dev/mapper/slow; mount /dev/mapper/slow /tmp
           seq 1 2000 | sed 's|^|/tmp/|' | xargs touch; sync
           seq 1 2000 | sed 's|^|/tmp/|' | xargs rm
           dmsetup suspend --nolockfs --noflush slow
           setsid dd if=/dev/mapper/slow of=/dev/null bs=1M count=1 iflag=direct > /dev/null 2>&1 < /dev/null &
           setsid sh -c 'echo x > /tmp/y; sync -f /tmp' > /dev/null 2>&1 < /dev/null & sleep 0.3")?;
    answers(vm, 11)?;
    let report = report(vm, 11)?;
    ensure!(report["reason"] == "MountReplaced", "{report:#}");
    answers(vm, 11)?;
    doctor_answers(vm)?;
    vm.ok("dmsetup resume slow; end=$((SECONDS + 60)); until umount /tmp; do [ $SECONDS -lt $end ]; sleep 0.1; done
           dmsetup remove slow")?;
    answers(vm, 0)
}
