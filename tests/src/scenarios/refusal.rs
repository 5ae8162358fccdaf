//! Drives that hold somebody's data: refused with every byte unchanged, and taken with `--wipe-foreign`.

use anyhow::{Context, Result};

use super::rig::Rig;
use crate::drive::{DriveSpec, GIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "refusal-filesystems", tier: Tier::Full, run: filesystems },
    Scenario { name: "refusal-containers", tier: Tier::Full, run: containers },
    Scenario { name: "refusal-arrays", tier: Tier::Full, run: arrays },
];

/// What somebody left on the drives.
struct Case {
    name: &'static str,
    /// Run with `$a` and `$b` for the two drives.
    make: &'static str,
    /// What the message must say; `$b` is that drive's node and serial.
    says: &'static [&'static str],
}

/// On the only drive.
const FILESYSTEMS: &[Case] = &[
    Case { name: "ext2", make: "mkfs.ext2 -q $a", says: &["$a", "`ext2`"] },
    Case { name: "ext3", make: "mkfs.ext3 -q $a", says: &["$a", "`ext3`"] },
    Case { name: "ext4", make: "mkfs.ext4 -q -L mine $a", says: &["$a", "ext4", "`mine`", "--adopt"] },
    Case { name: "xfs", make: "mkfs.xfs -q $a", says: &["$a", "xfs", "--adopt"] },
    Case { name: "btrfs", make: "mkfs.btrfs -q $a", says: &["$a", "`btrfs`"] },
    Case { name: "swap", make: "mkswap $a", says: &["$a", "`swap`"] },
    Case { name: "vfat", make: "mkfs.vfat $a", says: &["$a", "`vfat`"] },
    Case { name: "ntfs", make: "mkntfs -F -Q -q $a", says: &["$a", "`ntfs`"] },
    Case {
        name: "iso9660",
        make: "xorriso -as mkisofs -quiet -o /run/iso /etc/systemd; dd if=/run/iso of=$a bs=1M status=none; rm /run/iso",
        says: &["$a", "`iso9660`"],
    },
    Case {
        name: "squashfs",
        make: "mksquashfs /etc/systemd /run/sq -quiet -no-progress -comp gzip; dd if=/run/sq of=$a bs=1M status=none; rm /run/sq",
        says: &["$a", "`squashfs`"],
    },
];

/// On one of two, or over both.
const PAIRS: &[Case] = &[
    Case { name: "xfs on one of two", make: "mkfs.xfs -q $b", says: &["$b", "xfs"] },
    Case { name: "ext4 on both", make: "mkfs.ext4 -q $a; mkfs.ext4 -q $b", says: &["$a", "$b", "ext4"] },
    Case {
        name: "ext4 with its journal on the other",
        make: "mke2fs -q -b 4096 -O journal_dev $a; mkfs.ext4 -q -b 4096 -J device=$a $b",
        says: &["$a", "`jbd`", "$b", "ext4"],
    },
    Case { name: "btrfs over both", make: "mkfs.btrfs -q $a $b", says: &["$a", "$b", "`btrfs`"] },
];

const CONTAINERS: &[Case] = &[
    Case {
        name: "ext2, ext3 and ext4 in GPT partitions",
        make: "printf '%s\\n' 'label: gpt' ,200M ,200M , | sfdisk -q $b; udevadm settle
               mkfs.ext2 -q ${b}p1; mkfs.ext3 -q ${b}p2; mkfs.ext4 -q ${b}p3",
        says: &["$b", "`gpt`"],
    },
    Case {
        name: "ext4 in an MBR partition",
        make: "echo , | sfdisk -q -X dos $b; udevadm settle; mkfs.ext4 -q ${b}p1",
        says: &["$b", "`dos`"],
    },
    Case { name: "GPT without partitions", make: "echo 'label: gpt' | sfdisk -q $b", says: &["$b", "`gpt`"] },
    Case { name: "MBR without partitions", make: "echo 'label: dos' | sfdisk -q $b", says: &["$b", "`dos`"] },
    Case {
        name: "GPT of which the backup is left",
        make: "echo 'label: gpt' | sfdisk -q $b; dd if=/dev/zero of=$b bs=1M count=1 status=none conv=fsync",
        says: &["$b"],
    },
    Case { name: "LVM2 physical volume", make: "pvcreate -q $b", says: &["$b", "`LVM2_member`"] },
    Case {
        name: "LVM2 volume group over both, inactive",
        make: "vgcreate -q --setautoactivation n vg $a $b; lvcreate -qq -an -Wn -Zn -L 64M -n lv vg",
        says: &["$a", "$b", "`LVM2_member`"],
    },
    Case {
        name: "LUKS1",
        make: "echo secret | cryptsetup -q luksFormat --type luks1 --pbkdf-force-iterations 1000 $b -",
        says: &["$b", "`crypto_LUKS`"],
    },
    Case {
        name: "LUKS2",
        make: "echo secret | cryptsetup -q luksFormat --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $b -",
        says: &["$b", "`crypto_LUKS`"],
    },
    // A vdev label is 256 KiB, twice at each end: at 16 KiB an nvlist in XDR (what blkid 2.39 and later reads), at 128 KiB
    // uberblocks of 1 KiB, which begin with 0x00bab10c (what older ones read): OpenZFS, include/sys/{vdev,uberblock}_impl.h.
    Case {
        name: "ZFS",
        make: r#"perl -e 'sub p { my ($n, $t, $v) = @_;
                     my $d = pack("N", length $n) . $n . "\0" x (-length($n) % 4) . pack("NN", $t, 1) . $v;
                     pack("NN", 8 + length $d, 8 + length $d) . $d }
                 $l = pack("CCCCNN", 1, 1, 0, 0, 0, 1) . p("version", 8, pack("Q>", 5000)) . p("name", 9, pack("N", 4) . "tank")
                     . p("state", 8, pack("Q>", 0)) . p("txg", 8, pack("Q>", 4)) . p("pool_guid", 8, pack("Q>", 77))
                     . p("guid", 8, pack("Q>", 99)) . pack("NN", 0, 0);
                 $u = join "", map pack("Q<5 x984", 0x00bab10c, 5000, $_, 99, 1700000000), 4..19;
                 open(F, "+<", $ARGV[0]) or die; $s = sysseek(F, 0, 2);
                 for (0, 262144, $s - 524288, $s - 262144) {
                     sysseek(F, $_ + 16384, 0); syswrite(F, $l); sysseek(F, $_ + 131072, 0); syswrite(F, $u) }' $b"#,
        says: &["$b", "`zfs_member`"],
    },
    Case { name: "bcache", make: "make-bcache -B $b", says: &["$b", "`bcache`"] },
    Case {
        name: "random bytes at the start",
        make: "dd if=/dev/urandom of=$b bs=64K count=1 status=none",
        says: &["$b", "without a known signature", "--wipe-foreign"],
    },
    Case {
        name: "one byte at the very end",
        make: "printf x | dd of=$b bs=1 seek=$(($(blockdev --getsize64 $b) - 1)) status=none conv=notrunc",
        says: &["$b", "without a known signature"],
    },
];

const ARRAYS: &[Case] = &[
    Case {
        name: "member of another set",
        make: "mdadm -q --create /dev/md9 --run --level=0 --raid-devices=2 --name=other $a $b; mdadm -q --stop /dev/md9; udevadm settle
               mdadm -q --stop /dev/md* || :; blkdiscard -f $a",
        says: &["$b", "other", "1 of 2"],
    },
    Case {
        name: "members of two sets",
        make: "for x in $a $b; do mdadm -q --create /dev/md9 --run --force --level=0 --raid-devices=1 --name=of${x##*/} $x
               mdadm -q --stop /dev/md9; done",
        says: &["$b", "of"],
    },
    Case {
        name: "complete array that holds LVM",
        make: "mdadm -q --create /dev/md9 --run --level=0 --raid-devices=2 --homehost=any --name=md9 $a $b
               pvcreate -q /dev/md9; vgcreate -q --setautoactivation n vg /dev/md9; lvcreate -qq -an -Wn -Zn -L 64M -n lv vg
               udevadm settle; mdadm -q --stop /dev/md9",
        says: &["/dev/md", "`LVM2_member`"],
    },
    Case {
        name: "complete array that holds an xfs",
        make: "mdadm -q --create /dev/md9 --run --level=0 --raid-devices=2 --homehost=any --name=md9 $a $b
               mkfs.xfs -q -f /dev/md9; udevadm settle; mdadm -q --stop /dev/md9",
        says: &["/dev/md", "xfs"],
    },
    Case {
        name: "complete array that holds a GPT with an ext4",
        make: "mdadm -q --create /dev/md9 --run --level=0 --raid-devices=2 --homehost=any --name=md9 $a $b
               printf '%s\\n' 'label: gpt' , | sfdisk -q /dev/md9; udevadm settle; mkfs.ext4 -q /dev/md9p1; mdadm -q --stop /dev/md9",
        says: &["/dev/md", "`gpt`"],
    },
    Case {
        name: "RAID1 that was never synced, with an ext4",
        make: "mdadm -q --create /dev/md9 --run --level=1 --metadata=1.2 --raid-devices=2 --homehost=any --name=md9 $a $b
               echo frozen > /sys/block/md9/md/sync_action; mkfs.ext4 -q /dev/md9; udevadm settle; mdadm -q --stop /dev/md9",
        says: &["/dev/md", "ext4"],
    },
    Case {
        name: "metadata 0.90",
        make: "mdadm -q --create /dev/md9 --run --level=1 --assume-clean --raid-devices=2 --metadata=0.90 $a $b; mdadm -q --stop /dev/md9",
        says: &["$a", "$b", "linux_raid_member"],
    },
    Case {
        name: "metadata 1.0",
        make: "mdadm -q --create /dev/md9 --run --level=0 --raid-devices=2 --metadata=1.0 $a $b; mdadm -q --stop /dev/md9",
        says: &["$a", "$b", "linux_raid_member"],
    },
    Case {
        name: "metadata 1.1",
        make: "mdadm -q --create /dev/md9 --run --level=0 --raid-devices=2 --metadata=1.1 $a $b; mdadm -q --stop /dev/md9",
        says: &["$a", "$b", "linux_raid_member"],
    },
    Case {
        name: "superblock of one member zeroed",
        make: "mdadm -q --create /dev/md9 --run --level=0 --raid-devices=2 --homehost=any --name=md9 $a $b
               mkfs.ext4 -q /dev/md9; mount /dev/md9 /mnt; dd if=/dev/urandom of=/mnt/f bs=1M count=4 status=none; umount /mnt
               mdadm -q --stop /dev/md9; udevadm settle; mdadm -q --stop /dev/md* || :; mdadm -q --zero-superblock $a",
        says: &["$a", "without a known signature", "1 of 2"],
    },
];

fn filesystems(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut rig = Rig::new(vm)?;
        rig.vm.plug(&DriveSpec::many(1, GIB))?;
        refused_then_wiped(ctx, &mut rig, FILESYSTEMS)?;
        rig.vm.plug(&DriveSpec::many(1, GIB))?;
        refused_then_wiped(ctx, &mut rig, PAIRS)
    })
}

fn containers(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut rig = Rig::new(vm)?;
        rig.vm.plug(&DriveSpec::many(2, GIB))?;
        refused_then_wiped(ctx, &mut rig, CONTAINERS)
    })
}

fn arrays(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut rig = Rig::new(vm)?;
        rig.vm.plug(&DriveSpec::many(2, GIB))?;
        refused_then_wiped(ctx, &mut rig, ARRAYS)
    })
}

fn refused_then_wiped(ctx: &Ctx, rig: &mut Rig, cases: &[Case]) -> Result<()> {
    for case in cases {
        rig.vm.note(&format!("\n=== {}", case.name));
        let result = rig.reset().and_then(|()| rig.prepare(case.make)).and_then(|_| {
            rig.refused(&["nvme-agent setup"], 3, case.says)?;
            rig.becomes_ours("--wipe-foreign")
        });
        if let Err(error) = result.with_context(|| case.name) {
            ctx.note_failure(format!("{error:#}"));
        }
    }
    Ok(())
}
