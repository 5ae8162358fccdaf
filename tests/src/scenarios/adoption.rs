//! Nodes that somebody else set up, the old script above all: taken over with the filesystem and the files that are there,
//! where there is evidence that it belongs at the target; refused without.

use anyhow::{Context, Result, ensure};

use super::{kit, rig::Rig};
use crate::boot::{BlankDrives, ROOT};
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "adoption-arrays", tier: Tier::Normal, run: arrays },
    Scenario { name: "adoption-single", tier: Tier::Full, run: single },
    Scenario { name: "adoption-boot-single", tier: Tier::Full, run: boot_single },
    Scenario { name: "adoption-boot-array", tier: Tier::Full, run: boot_array },
];

/// What the old userData script did on a node with several drives, on a host with EC2's long name.
const OLD_ARRAY: &str = "hostname ip-10-0-12-34.eu-west-1.compute.internal
    mdadm -q --create /dev/md0 --run --level=0 --name=md0 --raid-devices=2 $a $b
    mkfs.ext4 -q -F /dev/md0; mount /dev/md0 /tmp
    echo '/dev/md0 /tmp ext4 defaults,noatime,nofail 0 2' >> /etc/fstab";
/// And its last line, in the path that Debian's mdadm reads.
const OLD_CONF: &str = "mdadm --detail --scan >> /etc/mdadm/mdadm.conf";
/// With one drive.
const OLD_SINGLE: &str = "mkfs.ext4 -q -F $a; mount $a /tmp
    echo \"$a /tmp ext4 defaults,noatime,nofail 0 2\" >> /etc/fstab";
/// Made with care, by hand.
const GOOD_ARRAY: &str =
    "mdadm -q --create /dev/md0 --run --level=0 --homehost=any --name=md0 --raid-devices=2 $a $b
    mkfs.ext4 -q -F /dev/md0; mount /dev/md0 /tmp
    echo \"UUID=$(blkid -p -s UUID -o value /dev/md0) /tmp ext4 noatime,nofail 0 2\" >> /etc/fstab";
const GOOD_XFS: &str = "mkfs.xfs -q -f $a; mount $a /tmp
    echo \"UUID=$(blkid -p -s UUID -o value $a) /tmp xfs noatime,nofail 0 2\" >> /etc/fstab";
/// Somebody's data on the mounted filesystem; prints its UUID.
const FILES: &str = "mkdir -p /tmp/job; dd if=/dev/urandom of=/tmp/job/data bs=1M count=3 status=none; chown 1000:1000 /tmp/job
    find /tmp -xdev -type f -exec sha256sum {} + > /run/sums; sync
    read -r source rest < <(grep ' /tmp ' /proc/self/mounts | tail -1); echo uuid $(blkid -p -s UUID -o value $source)";
/// The machine goes down and comes up, as far as the drives can tell.
const DOWN: &str = "umount /tmp; for md in /sys/block/md*; do [ ! -d $md/md ] || mdadm -q --stop /dev/${md##*/}; done; udevadm settle";

fn uuid_in(text: &str) -> Result<String> {
    text.lines().find_map(|line| line.strip_prefix("uuid ")).map(str::to_owned).context("no UUID")
}

/// setup takes the filesystem as it is.
fn is_adopted(rig: &mut Rig, uuid: &str, kind: &str, drives: usize, setup: &str) -> Result<()> {
    rig.vm.ok(setup)?;
    let state = kit::ensure_ready(rig.vm, "/tmp", kind, drives)?;
    ensure!(state["fs_uuid"] == uuid, "the filesystem was {uuid}: {state:#}");
    rig.vm.ok("sha256sum --quiet -c /run/sums; [ $(stat -c %u /tmp/job) = 1000 ]")?;
    let again = (rig.vm.ok("cat /etc/fstab /etc/mdadm/mdadm.conf")?, rig.vm.ok("nvme-agent setup")?);
    ensure!(rig.vm.ok("cat /etc/fstab /etc/mdadm/mdadm.conf")? == again.0, "a second run edits again");
    if drives > 1 {
        let lines = rig.vm.ok("grep -c ^ARRAY /etc/mdadm/mdadm.conf")?;
        ensure!(lines == "1", "{lines} ARRAY lines:\n{}", again.0);
    }
    Ok(())
}

fn case(ctx: &Ctx, rig: &mut Rig, name: &str, proof: impl FnOnce(&mut Rig) -> Result<()>) {
    rig.vm.note(&format!("\n=== {name}"));
    if let Err(error) = rig.reset().and_then(|()| proof(rig)).with_context(|| name.to_owned()) {
        ctx.note_failure(format!("{error:#}"));
    }
}

/// Pulls both drives out (nothing may use them) and plugs them in again one after the other, so that they swap their names.
fn swap_names(rig: &mut Rig) -> Result<()> {
    let before = [rig.vm.device(0)?, rig.vm.device(1)?];
    let order = if before[0] < before[1] { [1, 0] } else { [0, 1] };
    for index in order {
        rig.vm.unplug(index)?;
    }
    for index in order {
        rig.vm.plug_again(&[index])?;
        rig.vm.settled(&[index])?;
    }
    let after = [rig.vm.device(1)?, rig.vm.device(0)?];
    ensure!(after == before, "the names were {before:?} and are, the other way round, {after:?}");
    Ok(())
}

fn arrays(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut rig = Rig::new(vm)?;
        let rig = &mut rig;
        rig.vm.plug(&DriveSpec::many(2, GIB))?;
        for (name, made) in [
            ("the old script's array", format!("{OLD_ARRAY}\n{OLD_CONF}")),
            ("an array with homehost any and a UUID line", GOOD_ARRAY.to_owned()),
        ] {
            case(ctx, rig, &format!("{name}, other numbers"), |rig| {
                let uuid = uuid_in(&rig.prepare(&format!("{made}\n{FILES}\n{DOWN}"))?)?;
                swap_names(rig)?;
                is_adopted(rig, &uuid, "ext4", 2, "nvme-agent setup")
            });
            case(ctx, rig, &format!("{name}, mounted"), |rig| {
                let uuid = uuid_in(&rig.prepare(&format!("{made}\nchmod 755 /tmp\n{FILES}"))?)?;
                ensure!(rig.vm.ok("grep ' /tmp ext4 ' /proc/self/mounts")?.contains("relatime"));
                is_adopted(rig, &uuid, "ext4", 2, "nvme-agent setup")
            });
        }
        case(ctx, rig, "the old script's array, not in mdadm.conf: it is md127", |rig| {
            let uuid = uuid_in(&rig.prepare(&format!("{OLD_ARRAY}\n{FILES}\n{DOWN}"))?)?;
            swap_names(rig)?;
            let named = rig.vm.ok("echo /sys/block/md*")?;
            ensure!(named == "/sys/block/md127", "udev made {named}");
            rig.vm.ok("nvme-agent setup")?;
            let seen = rig.vm.ok("grep ' /tmp ' /proc/self/mounts | tail -1; grep ^ARRAY /etc/mdadm/mdadm.conf; grep -v ^# /etc/fstab
                                  findmnt --verify >&2; sha256sum --quiet -c /run/sums")?;
            ensure!(seen.contains("/dev/md127 /tmp ext4") && seen.contains("noatime"), "{seen}");
            ensure!(seen.contains("ARRAY /dev/md0 ") && seen.contains(&format!("UUID={uuid} /tmp ext4")), "{seen}");
            ensure!(!seen.contains("/dev/md0 /tmp"), "{seen}");
            // At the next boot mdadm.conf gives it md0, and everything is found again.
            rig.vm.ok(DOWN)?;
            swap_names(rig)?;
            is_adopted(rig, &uuid, "ext4", 2, "nvme-agent setup")
        });
        case(ctx, rig, "an array without evidence", |rig| {
            let made = format!("{OLD_ARRAY}\n{FILES}\n{DOWN}\ncp -a /run/rig/fstab /etc/fstab");
            let uuid = uuid_in(&rig.prepare(&made)?)?;
            rig.refused(&["nvme-agent setup"], 3, &["/dev/md", &uuid, "ext4", "--adopt"])?;
            is_adopted(rig, &uuid, "ext4", 2, "nvme-agent setup --adopt")
        });
        case(ctx, rig, "an array that udev runs, which fstab puts elsewhere", |rig| {
            let made = format!("{GOOD_ARRAY}\n{FILES}\n{DOWN}\nsed -i 's, /tmp , /data ,' /etc/fstab; mdadm -q --assemble /dev/md0 $a $b");
            let uuid = uuid_in(&rig.prepare(&made)?)?;
            rig.refused(&["nvme-agent setup"], 3, &["/dev/md0", &uuid, "ext4", "/data"])
        });
        Ok(())
    })
}

fn single(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut rig = Rig::new(vm)?;
        let rig = &mut rig;
        rig.vm.plug(&[DriveSpec::new(GIB)])?;
        case(ctx, rig, "the old script's drive, mounted", |rig| {
            let uuid = uuid_in(&rig.prepare(&format!("{OLD_SINGLE}\nchmod 755 /tmp\n{FILES}"))?)?;
            is_adopted(rig, &uuid, "ext4", 1, "nvme-agent setup")
        });
        case(ctx, rig, "an xfs with a UUID line", |rig| {
            let uuid = uuid_in(&rig.prepare(&format!("{GOOD_XFS}\n{FILES}\n{DOWN}"))?)?;
            is_adopted(rig, &uuid, "xfs", 1, "nvme-agent setup")
        });
        for (kind, made) in [("ext4", OLD_SINGLE), ("xfs", GOOD_XFS)] {
            case(ctx, rig, &format!("{kind} without evidence"), |rig| {
                let made = format!("{made}\n{FILES}\n{DOWN}\ncp -a /run/rig/fstab /etc/fstab");
                let uuid = uuid_in(&rig.prepare(&made)?)?;
                rig.refused(&["nvme-agent setup"], 3, &["$a", &uuid, kind, "--adopt"])?;
                is_adopted(rig, &uuid, kind, 1, "nvme-agent setup --adopt")
            });
            case(ctx, rig, &format!("{kind} that fstab puts elsewhere"), |rig| {
                let made = format!("{made}\n{FILES}\n{DOWN}\nsed -i 's, /tmp , /data ,' /etc/fstab");
                let uuid = uuid_in(&rig.prepare(&made)?)?;
                // A device node at another place may be any drive's; a UUID is this one's, and the message says so.
                let says = if kind == "xfs" { "puts it at /data" } else { "no fstab line" };
                rig.refused(&["nvme-agent setup"], 3, &["$a", &uuid, kind, says])
            });
        }
        case(ctx, rig, "the old script's drive, whose name an EBS volume has now", |rig| {
            let uuid = uuid_in(&rig.prepare(&format!("{OLD_SINGLE}\n{FILES}\n{DOWN}"))?)?;
            let was = rig.vm.device(0)?;
            rig.vm.unplug(0)?;
            let ebs = rig.vm.plug(&[DriveSpec::ebs(GIB, "vol00000000000000002")])?[0];
            rig.vm.plug_again(&[0])?;
            rig.vm.settled(&[0])?;
            ensure!(rig.vm.device(ebs)? == was, "the EBS volume is not {was}");
            rig.prepare("mkfs.ext4 -q -E lazy_itable_init=0 $b; sync")?;
            let volume = rig.vm.hashes()?[ebs].clone();
            is_adopted(rig, &uuid, "ext4", 1, "nvme-agent setup")?;
            rig.vm.ok("sync")?;
            ensure!(rig.vm.hashes()?[ebs] == volume, "the EBS volume was written to");
            Ok(())
        });
        Ok(())
    })
}

/// A real boot: fstab names `/dev/nvme1n1`, which is an EBS volume with a filesystem now. The old way mounts that on /tmp.
fn boot_single(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut rig = Rig::new(vm)?;
        // Small: the guest sums it up, without the superblock, for the old line has systemd check the volume at boot.
        let ebs = DriveSpec::ebs(GIB / 16, "vol00000000000000003");
        let sum = |rig: &mut Rig| {
            let device = rig.vm.device(1)?;
            rig.vm.ok(&format!("sync; blockdev --flushbufs /dev/{device}; tail -c +4097 /dev/{device} | sha256sum"))
        };
        rig.vm.plug(&[DriveSpec::new(GIB)])?;
        rig.vm.plug(&[ebs])?;
        let made = format!("{OLD_SINGLE}\n{FILES}\nmkfs.ext4 -q -E lazy_itable_init=0 $b; cp /run/sums /root; nvme-agent install; sync");
        let uuid = uuid_in(&rig.prepare(&made)?)?;
        ensure!(rig.vm.device(0)? == "nvme1n1");
        let volume = sum(&mut rig)?;
        rig.vm.boot_again(&[ROOT, 1, 0], BlankDrives::Keep)?.clean()?;
        ensure!(rig.vm.device(1)? == "nvme1n1", "the EBS volume has another name: {:?}", rig.vm.devices()?);
        boot_adopted(&mut rig, &uuid, 1)?;
        ensure!(sum(&mut rig)? == volume, "the EBS volume was written to");
        ensure!(!rig.vm.kernel_log()?.contains("EXT4-fs (nvme1n1)"), "the EBS volume was mounted");
        Ok(())
    })
}

/// A real boot of the old script's array, in another order.
fn boot_array(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut rig = Rig::new(vm)?;
        rig.vm.plug(&DriveSpec::many(2, GIB))?;
        let made = format!("{OLD_ARRAY}\n{OLD_CONF}\n{FILES}\ncp /run/sums /root; nvme-agent install; sync");
        let uuid = uuid_in(&rig.prepare(&made)?)?;
        rig.vm.boot_again(&[1, ROOT, 0], BlankDrives::Keep)?.clean()?;
        boot_adopted(&mut rig, &uuid, 2)
    })
}

/// What the boot left is ready, with the old filesystem and its files, and stays so over another boot.
fn boot_adopted(rig: &mut Rig, uuid: &str, drives: usize) -> Result<()> {
    let state = kit::ensure_ready(rig.vm, "/tmp", "ext4", drives)?;
    ensure!(state["fs_uuid"] == uuid, "the filesystem was {uuid}: {state:#}");
    rig.vm.ok("sha256sum --quiet -c /root/sums; sync").map(drop)
}
