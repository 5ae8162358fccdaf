//! What a stop and start costs, on a root volume that remembers filesystems that are gone.

use anyhow::{Result, ensure};

use super::{TMP, checks, fill, missing, stopped_and_started};
use crate::boot::{BlankDrives, Boot};
use crate::drive::{DriveSpec, TIB};
use crate::image::Guest;
use crate::runner::Ctx;
use crate::vm::Vm;

/// Seconds that a boot may take longer than without us, mkfs included.
const ALLOWANCE: f64 = 15.0;
/// A busy host can be this unlucky: the quickest of so many boots of either kind is compared.
const ROUNDS: usize = 3;

/// The boot of an image without us, then ours: set up by hand, stopped and started; then with a drive missing.
pub fn cost(ctx: &Ctx, guest: Guest) -> Result<()> {
    ctx.vm(guest, |vm| {
        checks::company(vm)?;
        vm.ok("cp -p /etc/fstab /root/fstab.without")?;
        vm.add(&DriveSpec::many(2, TIB))?;
        let mut without = Times::of(vm, BlankDrives::Keep)?.1;

        vm.ok("nvme-agent install; nvme-agent setup")?;
        fill(vm)?;
        let filesystem = vm.ok("blkid -o value -s UUID /dev/md0")?;
        let boot = stopped_and_started(vm)?;
        let made = checks::ready(vm, &boot, TMP)?;
        ensure!(made.filesystem == filesystem, "{filesystem} was in fstab, {made:?}");
        let mut with = Times::of_this(vm, &boot)?;
        for _ in 1..ROUNDS {
            if with.exceeds(&without).is_none() {
                break;
            }
            vm.ok("cp -p /etc/fstab /root/fstab.with; cp -p /root/fstab.without /etc/fstab
                   mv /etc/systemd/system/basic.target.wants/nvme-agent.service /root/")?;
            without = without.or_less(Times::of(vm, BlankDrives::Blank)?.1);
            vm.ok("cp -p /root/fstab.with /etc/fstab
                   mv /root/nvme-agent.service /etc/systemd/system/basic.target.wants/")?;
            let (boot, times) = Times::of(vm, BlankDrives::Blank)?;
            ensure!(checks::ready(vm, &boot, TMP)? == made);
            with = with.or_less(times);
        }
        vm.note(&format!("seconds of a boot without us: {without:?}, after a stop and start: {with:?}"));
        if let Some(excess) = with.exceeds(&without) {
            anyhow::bail!("a boot without us: {without:?}, after a stop and start: {with:?}; {excess}");
        }
        missing(vm, &boot)
    })
}

/// Seconds from the kernel's start.
#[derive(Debug, Clone, Copy)]
struct Times {
    default_target: f64,
    finished: f64,
}

impl Times {
    fn of(vm: &mut Vm, drives: BlankDrives) -> Result<(Boot, Times)> {
        let boot = vm.boot_again(&[0, 1], drives)?;
        let times = Times::of_this(vm, &boot)?;
        Ok((boot, times))
    }

    fn of_this(vm: &mut Vm, boot: &Boot) -> Result<Times> {
        boot.clean()?;
        Ok(Times { default_target: boot.seconds.unwrap_or(f64::INFINITY), finished: checks::finished(vm)? })
    }

    fn or_less(self, other: Times) -> Times {
        Times {
            default_target: self.default_target.min(other.default_target),
            finished: self.finished.min(other.finished),
        }
    }

    fn exceeds(&self, without: &Times) -> Option<String> {
        [
            ("default.target", self.default_target, without.default_target),
            ("the last job", self.finished, without.finished),
        ]
        .into_iter()
        .find(|(_, with, without)| with - without > ALLOWANCE)
        .map(|(what, with, without)| format!("{what} {:.1} s later", with - without))
    }
}
