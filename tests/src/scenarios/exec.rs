//! What is executed: mkfs, and nothing where there is nothing to make, nor by status. Proven with strace.

use anyhow::{Result, ensure};

use super::kit::{self, ensure_ready};
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[Scenario { name: "exec", tier: Tier::Normal, run: executes }];

/// The programs that a run of the agent executed, itself left out, in order; and what the kernel's own requests
/// (usermode helpers, not our children) do not show up in.
fn executed(vm: &mut Vm, arguments: &str, rc: i32) -> Result<Vec<String>> {
    vm.fails(
        rc,
        &format!("strace -f -qq --seccomp-bpf -e trace=execve,execveat -e signal=none -o /root/trace nvme-agent {arguments} > /root/out 2>&1"),
    )?;
    let trace = vm.ok("cat /root/trace")?;
    let mut programs: Vec<String> = trace
        .lines()
        .filter_map(|line| line.split_once("exec").map(|(_, call)| call))
        .filter_map(|call| call.split('"').nth(1).map(str::to_owned))
        .collect();
    ensure!(!programs.is_empty() && programs[0].ends_with("nvme-agent"), "{trace}");
    programs.remove(0);
    Ok(programs)
}

fn executes(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        kit::remember(vm)?;
        let nothing: [&str; 0] = [];
        ensure!(executed(vm, "setup", 0)? == nothing, "without drives");
        vm.plug(&DriveSpec::many(3, 4 * GIB))?;
        ensure!(executed(vm, "plan", 0)? == nothing, "plan on blank drives");
        // raid0 and xfs are loaded by the kernel's own request, not by a modprobe of ours.
        vm.ok("modprobe -r raid0; modprobe -r xfs; ! grep -E '^(raid0|xfs) ' /proc/modules")?;
        ensure!(executed(vm, "setup --filesystem xfs", 0)? == ["/usr/sbin/mkfs.xfs"], "a fresh xfs");
        vm.ok("grep -c -E '^(raid0|xfs) ' /proc/modules")?;
        ensure_ready(vm, "/tmp", "xfs", 3)?;
        for arguments in ["setup", "plan", "status", "status --output json"] {
            let programs = executed(vm, arguments, 0)?;
            ensure!(programs == nothing, "{arguments} on a node that is set up: {programs:?}");
        }
        kit::reset(vm)?;
        let programs = executed(vm, "setup", 0)?;
        ensure!(programs == ["/usr/sbin/mkfs.ext4"], "a fresh ext4: {programs:?}");
        ensure_ready(vm, "/tmp", "ext4", 3)?;
        // Assembling and adopting what is ours: nothing is executed for it, but blkid to see what is on it.
        vm.ok("umount /tmp; mdadm --stop /dev/md0")?;
        let programs = executed(vm, "setup", 0)?;
        ensure!(
            programs.iter().all(|p| p.ends_with("/blkid")) && programs.len() <= 2,
            "adoption: {programs:?}"
        );
        ensure_ready(vm, "/tmp", "ext4", 3)?;
        kit::reset(vm)?;
        // What is not blank is blkid's to name.
        vm.ok("mkfs.vfat /dev/nvme1n1 > /dev/null; sync")?;
        for (arguments, rc) in [("plan", 3), ("setup", 3), ("status", 11)] {
            let programs = executed(vm, arguments, rc)?;
            ensure!(
                programs.iter().all(|p| p.ends_with("/blkid")) && programs.len() <= 1,
                "{arguments}: {programs:?}"
            );
        }
        Ok(())
    })
}
