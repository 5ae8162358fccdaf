//! Drives that somebody uses: refused with every byte unchanged, under `--wipe-foreign` too.

use anyhow::{Context, Result};

use super::rig::Rig;
use crate::drive::{DriveSpec, GIB, MIB};
use crate::image::Guest;
use crate::runner::{Ctx, Scenario, Tier};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "refusal-in-use", tier: Tier::Full, run: in_use },
    Scenario { name: "refusal-failing", tier: Tier::Normal, run: failing },
];

/// Somebody's use of the drives, and how it ends.
struct Use {
    name: &'static str,
    begin: &'static str,
    says: &'static [&'static str],
    end: &'static str,
}

/// A process that holds `$1` exclusively until /run/held goes away, and has it when this returns.
const HOLD: &str = r#"hold() { mkfifo /run/held
    perl -MFcntl -e 'sysopen(F, $ARGV[0], O_RDONLY | O_EXCL) or die "$ARGV[0]: $!"; open(H, ">", "/run/held"); open(H, "<", "/run/held.end"); <H>' "$1" < /dev/null > /dev/null 2>&1 &
    read -r x < /run/held || :; }
mkfifo /run/held.end 2>/dev/null || :
"#;
const LET_GO: &str = "echo > /run/held.end; wait; rm /run/held";

const USES: &[Use] = &[
    Use {
        name: "a blank drive is opened exclusively",
        begin: "hold $b",
        says: &["$b", "exclusively"],
        end: LET_GO,
    },
    Use {
        name: "a drive with data is opened exclusively",
        begin: "mkswap -q $b; hold $b",
        says: &["$b"],
        end: LET_GO,
    },
    Use {
        name: "a partition is opened exclusively",
        begin: "echo , | sfdisk -q -X dos $b; udevadm settle; hold ${b}p1",
        says: &["$b"],
        end: LET_GO,
    },
    Use {
        name: "a filesystem is mounted elsewhere",
        begin: "mkfs.ext4 -q -E lazy_itable_init=0 $b; mount $b /mnt",
        says: &["$b", "mounted at /mnt"],
        end: "umount /mnt",
    },
    Use {
        name: "a partition is mounted",
        begin: "echo , | sfdisk -q $b; udevadm settle; mkfs.ext4 -q -E lazy_itable_init=0 ${b}p1; mount ${b}p1 /mnt",
        says: &["$b", "mounted at /mnt"],
        end: "umount /mnt",
    },
    Use {
        name: "swap is on",
        begin: "mkswap -q $b; swapon $b",
        says: &["$b", "is swap in use"],
        end: "swapoff $b",
    },
    Use {
        name: "a dm device is over it",
        begin: "dmsetup create held --table \"0 2048 linear $b 0\"",
        says: &["$b", "held by dm-0"],
        end: "dmsetup remove held",
    },
    Use {
        name: "a logical volume is active",
        begin: "pvcreate -q $b; vgcreate -q vg $b; lvcreate -qq -Wn -Zn -L 64M -n lv vg",
        says: &["$b", "held by dm-0"],
        end: "vgchange -qan vg",
    },
    Use {
        name: "an array of the drives is mounted elsewhere",
        begin: "mdadm -q --create /dev/md9 --run --level=0 --raid-devices=2 --homehost=any --name=md9 $a $b
                mkfs.ext4 -q -E lazy_itable_init=0 /dev/md9; mount /dev/md9 /mnt",
        says: &["/dev/md9", "mounted at /mnt"],
        end: "umount /mnt; mdadm -q --stop /dev/md9",
    },
    Use {
        name: "a logical volume on an array of the drives is active",
        begin: "mdadm -q --create /dev/md9 --run --level=0 --raid-devices=2 --homehost=any --name=md9 $a $b
                pvcreate -q /dev/md9; vgcreate -q vg /dev/md9; lvcreate -qq -Wn -Zn -L 64M -n lv vg",
        says: &["/dev/md9", "held by dm-0"],
        end: "vgchange -qan vg; mdadm -q --stop /dev/md9",
    },
    Use {
        name: "an array is over it and another kind of drive",
        begin: "mdadm -q --create /dev/md9 --run --level=1 --assume-clean --metadata=1.2 --raid-devices=2 $b $c",
        says: &["$b", "held by md9"],
        end: "mdadm -q --stop /dev/md9; mdadm -q --zero-superblock $c",
    },
    Use {
        name: "the kernel takes it for read-only",
        begin: "blockdev --setro $b",
        says: &["$b", "is read-only"],
        end: "blockdev --setrw $b",
    },
    Use {
        name: "a filesystem over both is mounted from the other",
        begin: "modprobe btrfs; mkfs.btrfs -q $a $b; mount $a /mnt",
        says: &["$a", "$b", "mounted at /mnt", "held by btrfs"],
        end: "umount /mnt",
    },
];

fn in_use(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut rig = Rig::new(vm)?;
        rig.vm.plug(&[
            DriveSpec::new(GIB),
            DriveSpec::new(GIB),
            DriveSpec::ebs(GIB, "vol00000000000000001"),
        ])?;
        for case in USES {
            rig.vm.note(&format!("\n=== {}", case.name));
            let result =
                rig.reset().and_then(|()| rig.prepare(&format!("{HOLD}{}", case.begin))).and_then(|_| {
                    let refused =
                        rig.refused(&["nvme-agent setup", "nvme-agent setup --wipe-foreign"], 3, case.says);
                    rig.ok(case.end).context("end the use")?;
                    refused
                });
            if let Err(error) = result.with_context(|| case.name) {
                ctx.note_failure(format!("{error:#}"));
            }
        }
        Ok(())
    })
}

/// A drive whose reads fail at the start, at the end, or everywhere; and one that refuses writes.
fn failing(ctx: &Ctx) -> Result<()> {
    ctx.vm(Guest::Trixie, |vm| {
        let mut rig = Rig::new(vm)?;
        let kinds = [
            ("every read fails", DriveSpec::new(GIB).unreadable(), "cannot be read"),
            ("reads fail in the first MiB", DriveSpec::new(GIB).read_error_at(300 << 10), "cannot be read"),
            ("reads fail in the last MiB", DriveSpec::new(GIB).read_error_at(GIB - 4096), "cannot be read"),
            (
                "reads fail at a backup superblock",
                DriveSpec::new(GIB).read_error_at(128 * MIB),
                "cannot be read",
            ),
        ];
        for (name, kind, says) in kinds {
            rig.vm.note(&format!("\n=== {name}"));
            rig.vm.unplug_all()?;
            rig.vm.plug(&[DriveSpec::new(GIB), kind])?;
            let result = rig.prepare("").and_then(|_| {
                rig.refused(&["nvme-agent setup", "nvme-agent setup --wipe-foreign"], 3, &["$b", says])
            });
            if let Err(error) = result.with_context(|| name) {
                ctx.note_failure(format!("{error:#}"));
            }
        }
        Ok(())
    })
}
