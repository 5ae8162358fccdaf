//! The lab itself: what the other scenarios stand on.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::boot::{BlankDrives, ROOT};
use crate::drive::{DriveSpec, GIB, INSTANCE_STORE, TIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};
use crate::vm::Vm;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "lab-restore", tier: Tier::Normal, run: restore },
    Scenario { name: "lab-drives", tier: Tier::Normal, run: drives },
    Scenario { name: "lab-channel", tier: Tier::Normal, run: channel },
    Scenario { name: "lab-reboot", tier: Tier::Normal, run: reboot },
    Scenario { name: "lab-stop-start", tier: Tier::Normal, run: stop_start },
    Scenario { name: "lab-bookworm", tier: Tier::Normal, run: bookworm },
];

/// Restores, plugs, and finds exactly what EC2 would show.
fn restore(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let guest: u64 = vm.ok("date +%s")?.parse()?;
        ensure!(guest.abs_diff(now) < 30, "the guest's clock: {guest}, here {now}");
        let pair = vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        let device = vm.device(pair[0])?;
        let seen = vm.ok(&format!(
            "read -r m < /sys/block/{device}/device/model; echo \"$m\"; cat /sys/block/{device}/device/device/vendor
             nvme id-ctrl /dev/{device} | grep -E '^(vid|mn) '"
        ))?;
        ensure!(seen.lines().next() == Some(INSTANCE_STORE), "{seen}");
        ensure!(seen.contains("0x1d0f") && seen.contains("vid       : 0x1d0f"), "Amazon's vendor id: {seen}");
        ensure!(vm.ok("cat /sys/class/dmi/id/board_asset_tag")? == "i-0123456789abcdef0");
        vm.unplug_all()?;
        ensure!(vm.devices()?.len() == 1, "only the root volume is left");
        let many = vm.plug(&DriveSpec::many(24, TIB))?;
        ensure!(vm.devices()?.len() == 25);
        let blank = vm.hashes()?;
        let device = vm.device(many[7])?;
        vm.ok(&format!("echo hello > /dev/{device}; sync /dev/{device}"))?;
        let after = vm.hashes()?;
        let changed: Vec<usize> = (0..24).filter(|index| blank[*index] != after[*index]).collect();
        ensure!(changed == [7], "hashes: {changed:?}");
        Ok(())
    })
}

/// The odd ones: read-only, unreadable, 4 KiB blocks, EBS, contents from outside.
fn drives(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let odd = vm.add(&[
            DriveSpec::new(GIB).read_only(),
            DriveSpec::new(GIB).read_error_at(1 << 20),
            DriveSpec::new(GIB).unreadable(),
            DriveSpec::new(GIB).block_size(4096),
            DriveSpec::ebs(GIB, "vol00000000000000009"),
        ])?;
        vm.drives[3].write_at(8192, b"from outside")?;
        vm.plug_again(&odd)?;
        vm.settled(&odd)?;
        let names = odd.iter().map(|index| vm.device(*index)).collect::<Result<Vec<_>>>()?;
        // QEMU refuses the writes; whether the kernel knows beforehand is up to its version.
        vm.fails(1, &format!("dd if=/dev/zero of=/dev/{} bs=4096 count=1 oflag=direct", names[0]))?;
        vm.ok(&format!("dd if=/dev/{} of=/dev/null bs=4096 count=1 iflag=direct", names[1]))?;
        vm.fails(1, &format!("dd if=/dev/{} of=/dev/null bs=4096 skip=256 count=1 iflag=direct", names[1]))?;
        vm.fails(1, &format!("dd if=/dev/{} of=/dev/null bs=4096 count=1 iflag=direct", names[2]))?;
        ensure!(vm.ok(&format!("blockdev --getss /dev/{}", names[3]))? == "4096");
        ensure!(
            vm.ok(&format!("dd if=/dev/{} bs=4096 skip=2 count=1 status=none | head -c 12", names[3]))?
                == "from outside"
        );
        ensure!(vm.ok(&format!("cat /sys/block/{}/device/model", names[4]))?.trim() == crate::drive::EBS);
        Ok(())
    })
}

/// Commands beside a hanging one, deadlines, exit codes, big files (a third of a second on an idle host).
fn channel(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let slow = vm.spawn("sleep 2; echo late; exit 3")?;
        ensure!(
            vm.sh("echo out; echo err >&2; exit 7")?
                == crate::vm::Output { rc: 7, out: "out\n".into(), err: "err\n".into() }
        );
        let output = vm.wait(slow)?;
        ensure!(output.rc == 3 && output.out == "late\n", "{output:?}");
        let started = Instant::now();
        ensure!(vm.sh_within(Duration::from_secs(1), "echo begun; sleep 60").is_err());
        ensure!(started.elapsed() < Duration::from_secs(5));
        ensure!(vm.sh("sleep 300 & echo left behind")?.out == "left behind\n");
        ensure!(vm.sh("kill -9 $$")?.rc == 137);
        let bytes: Vec<u8> = (0..6_000_000_u32).map(|number| (number % 251) as u8).collect();
        let started = Instant::now();
        vm.write("/usr/local/bin/big", 0o755, &bytes)?;
        ensure!(started.elapsed() < Duration::from_secs(10), "pushing 6 MB took {:?}", started.elapsed());
        ensure!(vm.ok("sha256sum < /usr/local/bin/big")?.starts_with(&crate::cache::digest(&bytes)));
        Ok(())
    })
}

/// An array made by hand is there again after a boot in another order.
fn reboot(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        by_hand(vm, 90)?;
        let before = vm.devices()?;
        let boot = vm.boot_again(&[1, ROOT, 0], BlankDrives::Keep)?;
        boot.clean()?;
        let names = [vm.device(1)?, vm.device(0)?];
        ensure!(names == ["nvme0n1", "nvme2n1"], "before {before:?}, now {:?}", vm.devices()?);
        ensure!(vm.ok("cat /mnt/file; findmnt -no SOURCE /mnt")?.starts_with("kept\n/dev/md"));
        vm.crash()?;
        vm.power_on(&[0, 1], BlankDrives::Keep)?.clean()?;
        ensure!(vm.ok("cat /mnt/file")? == "kept");
        Ok(())
    })
}

/// After a stop and start the drives are blank and the root disk is what it was.
fn stop_start(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        by_hand(vm, 10)?;
        let blank = vm.boot_again(&[0, 1], BlankDrives::Blank)?;
        ensure!(vm.ok("ls /mnt; cat /etc/marker")? == "here", "{blank:?}");
        ensure!(vm.ok("grep ^md /proc/mdstat 2>/dev/null || true")?.is_empty());
        let drives = [vm.device(0)?, vm.device(1)?].map(|name| format!("/dev/{name}")).join(" ");
        ensure!(vm.ok(&format!("wipefs {drives}"))?.is_empty());
        Ok(())
    })
}

fn by_hand(vm: &mut Vm, timeout: u32) -> Result<()> {
    let (first, second) = (vm.device(0)?, vm.device(1)?);
    vm.ok(&format!(
        "mdadm --create /dev/md0 --run --homehost=any --level=0 --raid-devices=2 /dev/{first} /dev/{second}
         mkfs.ext4 -q /dev/md0; mount /dev/md0 /mnt; echo kept > /mnt/file
         echo \"UUID=$(blkid -o value -s UUID /dev/md0) /mnt ext4 nofail,x-systemd.device-timeout={timeout}s 0 0\" >> /etc/fstab
         echo here > /etc/marker; sync"
    ))
    .map(drop)
}

/// bookworm's userland by itself: what a scenario finds there is the agent's doing, not the lab's.
fn bookworm(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Bookworm, |vm| {
        vm.plug(&DriveSpec::many(2, 4 * GIB))?;
        by_hand(vm, 90)?;
        let boot = vm.boot_again(&[1, ROOT, 0], BlankDrives::Keep)?;
        boot.clean()?;
        ensure!(vm.ok("cat /mnt/file; findmnt -no SOURCE /mnt")?.starts_with("kept\n/dev/md"));
        ensure!(vm.ok("systemctl is-active dbus.service")? == "active");
        ensure!(vm.ok("systemctl --version | head -n 1")?.starts_with("systemd 252"));
        Ok(())
    })
}
