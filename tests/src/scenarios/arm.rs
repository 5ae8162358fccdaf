//! aarch64: the agent's own tests in an emulator of programs, and one machine from blank drives to ready.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::arm::{boot, emulated};
use crate::drive::{DriveSpec, GIB, INSTANCE_STORE};
use crate::progress::note;
use crate::runner::{Ctx, Scenario, Tier, agent_aarch64, watchdog};
use crate::status;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "arm-boot", tier: Tier::Full, run: boots },
    Scenario { name: "arm-unit-tests", tier: Tier::Full, run: unit_tests },
];

/// System calls and ioctls that the emulator of programs does not know: it says ENOSYS where the kernel would have answered. The VM of
/// `arm-boot` makes all of them.
const NOT_EMULATED: &[&str] = &[
    // fsopen(2), fsmount(2)
    "apply::tests::loop_device::a_mount_is_put_only_on_the_target_that_was_seen",
    "apply::tests::loop_device::the_whole_job_on_a_loop_device",
    // md's, NVMe's
    "ioctl::md::tests::a_file_that_is_no_array_is_an_error_not_an_answer",
    "ioctl::nvme::tests::a_file_that_is_no_nvme_device_is_an_error_not_an_answer",
];

/// What ships, on Graviton 2's core: two blank drives to a filesystem on /tmp, and a second run that changes nothing.
fn boots(ctx: &Ctx) -> Result<()> {
    let agent = agent_aarch64()?;
    let commands = [
        "uname -m",
        "nvme-agent setup",
        "nvme-agent status --output json",
        "cat /proc/mounts",
        "echo kept >/tmp/file; sync; nvme-agent setup",
        "cat /tmp/file",
        "nvme-agent status --output json",
        "cat /etc/fstab",
    ];
    let run = boot::run_in_vm(ctx.lab, &agent, &DriveSpec::many(2, 4 * GIB), &commands, &ctx.logs)?;
    let answers = run.answers;
    note(&format!("  aarch64 VM: on, two setups, off: {:.0} s", run.time.as_secs_f64()));
    let ok = |index: usize| -> Result<&str> { answers[index].ok().context(commands[index]) };

    ensure!(ok(0)?.trim() == "aarch64", "the machine is {:?}", answers[0]);
    ok(1)?;
    let status = status::parse(ok(2)?)?;
    ensure!(status["state"] == "ready" && status["target"] == "/tmp", "{status:#}");
    ensure!(status["mount"]["source"] == "/dev/md0" && status["mount"]["filesystem"] == "ext4", "{status:#}");
    ensure!(status["array"]["level"] == "raid0" && status["array"]["raid_disks"] == 2, "{status:#}");
    let drives = status["drives"].as_array().context("status names no drives")?;
    let serials: BTreeSet<&str> = drives.iter().filter_map(|drive| drive["serial"].as_str()).collect();
    ensure!(drives.len() == 2 && serials.len() == 2, "{drives:?}");
    ensure!(
        drives.iter().all(|drive| drive["model"] == INSTANCE_STORE && drive["used"] == true),
        "{drives:?}"
    );
    let mounted = |line: &&str| line.starts_with("/dev/md0 /tmp ext4 rw,nosuid,nodev,noatime");
    ensure!(ok(3)?.lines().filter(mounted).count() == 1, "{}", ok(3)?);

    ok(4)?;
    ensure!(ok(5)?.trim() == "kept", "the second run lost a file");
    let again = status::parse(ok(6)?).context("status after the second run")?;
    ensure!(again["state"] == "ready" && again["array"] == status["array"], "{again:#}");
    ensure!(ok(7)?.lines().filter(|line| line.contains(" /tmp ext4 ")).count() == 1, "{}", ok(7)?);
    Ok(())
}

/// All of the agent's tests that need no VM.
fn unit_tests(ctx: &Ctx) -> Result<()> {
    let tests = watchdog::exempt(emulated::build)?;
    let _emulation = emulated::Emulation::start(&tests.agent)?;
    let started = Instant::now();
    let mut passed = 0;
    for (name, program) in &tests.programs {
        match emulated::run_tests(&tests, program, NOT_EMULATED, &ctx.logs.join(format!("{name}.log"))) {
            Ok(result) => {
                passed += result.passed;
                for test in result.again {
                    note(&format!("  {name}: {test} passed only when it was run again, alone"));
                }
            }
            Err(error) => ctx.note_failure(format!("{name}: {error:#}")),
        }
    }
    // A test that was renamed would otherwise stay in the list, and be run.
    let known = emulated::names(&tests)?;
    let stale: Vec<&&str> = NOT_EMULATED.iter().filter(|name| !known.contains(**name)).collect();
    ensure!(stale.is_empty(), "no such tests: {stale:?}");
    note(&format!(
        "  aarch64 under qemu-user: {passed} tests passed, {} left out, in {:.0} s",
        NOT_EMULATED.len(),
        started.elapsed().as_secs_f64()
    ));
    Ok(())
}
