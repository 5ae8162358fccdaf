//! What the live machine shows, by cause: a lost drive before the array that broke by it, that before the mount.

use super::{DEGRADED, FAILED, NOT_SET_UP, Rule, Weight};

const JOURNAL: &str = "`journalctl -k -p warning`; `nvme-agent status --output json`";
const REPLACE: &str = "Replace the node, or stop and start the instance, which gives it other drives: on EC2 a lost \
                       instance-store drive does not come back, and what was on it is gone.";
const SET_UP_AGAIN: &str =
    "Run `nvme-agent setup`; it says what it finds, and touches no data that it did not make.";
const WHO_MOUNTED: &str = "Find out who mounted it; `umount` it, then run `nvme-agent setup`.";
const FIRST_SETUP: &str = "Run `nvme-agent plan` to see what setup would do, then `nvme-agent setup`.";
const SICK_DRIVE: &str = "Plan to replace the node: drain it, then stop and start the instance or let Karpenter replace it. \
                          Nothing on it can be mended.";
const REPAIRED: &str = "Run `nvme-agent setup`, which repairs its own lines.";

pub const NOT_SET_UP_YET: Rule = Rule::new(
    "NotSetUp",
    NOT_SET_UP,
    "setup has not run in this boot: there is no state file. On the Node this is `failed`.",
    FIRST_SETUP,
    "`systemctl status nvme-agent`; `journalctl -b -t nvme-agent`",
);
pub const STATE_OF_ANOTHER_BOOT: Rule = Rule::new(
    "StateOfAnotherBoot",
    NOT_SET_UP,
    "The state file is one of an earlier boot or of another machine, and says nothing of this one. /run is usually memory: \
     something has kept or restored it. On the Node this is `failed`.",
    FIRST_SETUP,
    "`findmnt /run`; `grep boot_id /run/nvme-agent/state.json`; `cat /proc/sys/kernel/random/boot_id`",
);
pub const STATE_UNREADABLE: Rule = Rule::new(
    "StateUnreadable",
    NOT_SET_UP,
    "The state file is there, but cannot be read, is damaged, or is of another version of the agent. On the Node this is \
     `failed`.",
    "Run `nvme-agent setup`, which writes it anew and changes nothing that is in order.",
    "`ls -l /run/nvme-agent/state.json`; `nvme-agent --version`",
);
pub const DRIVES_APPEARED: Rule = Rule::new(
    "DrivesAppeared",
    FAILED,
    "setup found no drives, but there are some now.",
    SET_UP_AGAIN,
    "`nvme-agent plan`; `lsblk -o NAME,MODEL,SERIAL`",
);
pub const DRIVE_LOST: Rule = Rule::new(
    "DriveLost",
    FAILED,
    "Since setup, a drive has gone, or its controller is dead. What was on it is lost, and with it the whole filesystem.",
    REPLACE,
    "`journalctl -k -g nvme`; `cat /sys/class/nvme/*/state`",
);
pub const DRIVE_READ_ONLY: Rule = Rule::new(
    "DriveReadOnly",
    FAILED,
    "A drive cannot be written: setup found it so, the kernel has made it read-only since, or the drive itself says that it \
     is (critical warning, bit 3).",
    "Replace the node. Where somebody made it read-only by hand: `blockdev --setrw`, then `nvme-agent setup`.",
    "`blockdev --getro /dev/nvme1n1`; `journalctl -k -g nvme`",
);
pub const DRIVE_UNREADABLE: Rule = Rule::new(
    "DriveUnreadable",
    FAILED,
    "A drive cannot be read: its first blocks, where the superblocks are, give errors. setup changes nothing then.",
    "Replace the node; data that is still needed must be copied before anything is written.",
    "`journalctl -k -p err`; `dd if=/dev/nvme1n1 of=/dev/null bs=8k count=1 iflag=direct`",
);
pub const DRIVE_NOT_LIVE: Rule = Rule::new(
    "DriveNotLive",
    DEGRADED,
    "The controller of a drive is not live but being reset or connected. It comes back, or ends as `DriveLost`; until then \
     everything waits.",
    "Look again in a minute. Where it repeats, replace the node.",
    "`cat /sys/class/nvme/*/state`; `journalctl -k -g nvme`",
);
pub const DRIVE_SILENT: Rule = Rule::new(
    "DriveSilent",
    DEGRADED,
    "A drive that the filesystem needs has not answered in time (1.2 s for `status`, 10 s for the gate and `report`): it hangs, or is \
     very busy. Where the filesystem hangs too, that is said first.",
    "Look again in a minute. Where it repeats with little load, replace the node.",
    "`iostat -x 1`; `journalctl -k -g timeout`",
);
pub const ARRAY_STOPPED: Rule = Rule::new(
    "ArrayStopped",
    FAILED,
    "Since setup, the array has been stopped or taken apart; its drives are there. A filesystem that is still mounted can \
     reach none of its data.",
    "`umount` what is still mounted from it, then run `nvme-agent setup`, which assembles it again with all data.",
    "`cat /proc/mdstat`; `journalctl -k -g md`",
);
pub const ARRAY_BROKEN: Rule = Rule::new(
    "ArrayBroken",
    FAILED,
    "Since setup, the array has failed, lacks a member, or has a faulty one. RAID0 has no copy: what was on it is gone.",
    REPLACE,
    "`cat /proc/mdstat`; `grep . /sys/block/md*/md/dev-*/state`; `journalctl -k -g md`",
);
pub const ARRAY_READ_ONLY: Rule = Rule::new(
    "ArrayReadOnly",
    FAILED,
    "Since setup, the array has become read-only; its members are there.",
    "Run `nvme-agent setup`. Where it stays so, look into the kernel's log for the drive that gives errors.",
    "`cat /sys/block/md*/md/array_state`; `journalctl -k -p warning`",
);
pub const ARRAY_REPLACED: Rule = Rule::new(
    "ArrayReplaced",
    FAILED,
    "Another array has the name of the one that setup made.",
    "Find out who assembled it; stop it (`mdadm --stop`), then run `nvme-agent setup`.",
    "`mdadm --detail --scan`; `cat /proc/mdstat`",
);
pub const MOUNTS_UNREADABLE: Rule = Rule::new(
    "MountsUnreadable",
    FAILED,
    "The mount table (`/proc/1/mountinfo`) cannot be read although root asks, so nothing is certain.",
    "Find out what hides `/proc`; run `nvme-agent status` on the host, outside of any container.",
    "`cat /proc/1/mountinfo`; `findmnt /proc`",
);
pub const MOUNT_GONE: Rule = Rule::new(
    "MountGone",
    FAILED,
    "Since setup, the target was unmounted, and nothing is mounted there.",
    SET_UP_AGAIN,
    "`findmnt /tmp`; `journalctl -b -u tmp.mount`",
);
pub const MOUNT_REPLACED: Rule = Rule::new(
    "MountReplaced",
    FAILED,
    "What is mounted on the target is not the filesystem that setup put there: something was mounted over it, or ours was \
     unmounted and what lay under it shows.",
    WHO_MOUNTED,
    "`findmnt -o TARGET,SOURCE,FSTYPE,OPTIONS /tmp`; `grep /tmp /proc/1/mountinfo`",
);
pub const MOUNT_READ_ONLY: Rule = Rule::new(
    "MountReadOnly",
    FAILED,
    "Since setup, the mount or its filesystem has become read-only, or was shut down: by hand, or by the kernel after errors \
     (`errors=remount-ro`).",
    "Look into the kernel's log first. After errors replace the node; else `mount -o remount,rw` and look again.",
    "`findmnt -o TARGET,OPTIONS /tmp`; `journalctl -k -p warning`",
);
pub const MOUNT_HIDDEN: Rule = Rule::new(
    "MountHidden",
    FAILED,
    "Since setup, something else was mounted on a directory above the target: it cannot be reached.",
    WHO_MOUNTED,
    "`findmnt`; `grep -n . /proc/1/mountinfo`",
);
pub const FILESYSTEM_FAILED: Rule = Rule::new(
    "FilesystemFailed",
    FAILED,
    "Since setup, the filesystem on the target gives errors for everything (an xfs that shut itself down), or does not answer in time \
     (1.2 s for `status`, 10 s for the gate and `report`).",
    "Look into the kernel's log. Where a drive gives errors, replace the node; else unmount it and run `nvme-agent setup`.",
    JOURNAL,
);
pub const FILESYSTEM_ERRORS: Rule = Rule::new(
    "FilesystemErrors",
    DEGRADED,
    "ext4 has found errors in itself (`/sys/fs/ext4/DEVICE/errors_count`); it stays so until `e2fsck` or a new filesystem.",
    "Look into the journal (`journalctl -k -p warning`) and replace the node, or unmount the filesystem and check it with \
     `e2fsck -f`.",
    "`grep . /sys/fs/ext4/*/*error*`; `journalctl -k -g EXT4-fs`",
);
pub const DRIVE_CRITICAL_WARNING: Rule = Rule::new(
    "DriveCriticalWarning",
    DEGRADED,
    "A drive warns of itself (SMART, critical warning): its temperature, its reliability, its spare blocks, its backup of volatile memory.",
    SICK_DRIVE,
    "`nvme smart-log /dev/nvme1n1`; `nvme-agent status --output json`",
);
pub const DRIVE_MEDIA_ERRORS: Rule = Rule::new(
    "DriveMediaErrors",
    DEGRADED,
    "A drive counts more media errors than at the first setup of this boot: data could not be had back.",
    SICK_DRIVE,
    "`nvme smart-log /dev/nvme1n1`; `journalctl -k -p err`",
);
pub const DRIVE_SPARE_LOW: Rule = Rule::new(
    "DriveSpareLow",
    DEGRADED,
    "A drive has fewer spare blocks left than its own threshold: it will not last.",
    SICK_DRIVE,
    "`nvme smart-log /dev/nvme1n1`",
);
pub const PERSISTENCE_MISSING: Rule = Rule::new(
    "PersistenceMissing",
    DEGRADED,
    "All is mounted, but `/etc/fstab` does not have our line any more, has it otherwise (without `nofail` or `x-nvme-agent`, with \
     `noauto`, `ro`, another type or a pass of fsck), has another for the target, or has a malformed line: the next boot may not \
     mount it, or not as setup does.",
    "Take out a malformed line, or somebody else's for the target, which setup would refuse; then run `nvme-agent setup`, which \
     repairs its own.",
    "`findmnt --verify`; `grep x-nvme-agent /etc/fstab`",
);
pub const MDADM_CONF_CHANGED: Rule = Rule::new(
    "MdadmConfChanged",
    DEGRADED,
    "All is mounted, but mdadm's configuration does not name our array any more, or has a malformed line: the next boot may \
     give it another name, or mdadm's tools not know it.",
    REPAIRED,
    "`grep -n ARRAY /etc/mdadm.conf /etc/mdadm/mdadm.conf`; `mdadm --detail --scan`",
);
pub const TMPFILES_CHANGED: Rule = Rule::new(
    "TmpfilesChanged",
    DEGRADED,
    "All is mounted, but `/etc/tmpfiles.d/tmp.conf` is gone or deletes files on /tmp: systemd-tmpfiles will delete the workload's \
     files, by age or at the next boot.",
    "Run `nvme-agent setup`, which writes it again, or set `tmpfiles = \"distro\"` to accept that.",
    "`systemd-tmpfiles --cat-config | grep /tmp`",
);
pub const SPACE_LOW: Rule = Rule::new(
    "SpaceLow",
    Weight::Warning,
    "The filesystem is at least 95 % full.",
    "Delete what is not needed any more, or give the workload instances with larger drives.",
    "`df -h /tmp`; `du -xh --max-depth=2 /tmp | sort -h | tail`",
);
pub const INODES_LOW: Rule = Rule::new(
    "InodesLow",
    Weight::Warning,
    "At least 95 % of the filesystem's inodes are used: soon no file can be made, whatever the space.",
    "Delete small files that are not needed any more, or use `filesystem = \"xfs\"`, which makes inodes as it goes.",
    "`df -i /tmp`",
);
pub const DRIVE_WORN: Rule = Rule::new(
    "DriveWorn",
    Weight::Warning,
    "A drive has used up the life that its vendor expects (100 % or more). It works as long as it does not warn of itself.",
    "Nothing at once; replace the node when it suits.",
    "`nvme smart-log /dev/nvme1n1`",
);
pub const REGISTRATION_CHANGED: Rule = Rule::new(
    "RegistrationChanged",
    Weight::Warning,
    "The file by which the Node registers with our labels is gone or was changed. It matters only until kubelet has registered the \
     Node; the gate writes it again before that, and so does the next boot.",
    "Find out who changes it. To write it again now: `nvme-agent setup`.",
    "`cat /etc/eks/nodeadm.d/50-nvme-agent.yaml`; `cat /run/nvme-agent/registration.json`",
);

pub const RULES: &[Rule] = &[
    NOT_SET_UP_YET,
    STATE_OF_ANOTHER_BOOT,
    STATE_UNREADABLE,
    DRIVES_APPEARED,
    DRIVE_LOST,
    DRIVE_READ_ONLY,
    DRIVE_UNREADABLE,
    DRIVE_NOT_LIVE,
    DRIVE_SILENT,
    ARRAY_STOPPED,
    ARRAY_BROKEN,
    ARRAY_READ_ONLY,
    ARRAY_REPLACED,
    MOUNTS_UNREADABLE,
    MOUNT_GONE,
    MOUNT_REPLACED,
    MOUNT_READ_ONLY,
    MOUNT_HIDDEN,
    FILESYSTEM_FAILED,
    FILESYSTEM_ERRORS,
    DRIVE_CRITICAL_WARNING,
    DRIVE_MEDIA_ERRORS,
    DRIVE_SPARE_LOW,
    PERSISTENCE_MISSING,
    MDADM_CONF_CHANGED,
    TMPFILES_CHANGED,
    SPACE_LOW,
    INODES_LOW,
    DRIVE_WORN,
    REGISTRATION_CHANGED,
];
