//! What a setup can leave in the state file, and what other commands end with.

use super::{ABSENT, DEGRADED, FAILED, READY, Rule, Weight};

const JOURNAL: &str = "`journalctl -b -t nvme-agent`; `nvme-agent plan`";
const KERNEL: &str = "`journalctl -b -t nvme-agent`; `journalctl -k -p warning`";
const CONTENT: &str = "`lsblk -f`; `blkid -p /dev/nvme1n1`; `mdadm --examine /dev/nvme1n1`";
const AGAIN: &str = "Mend what the message names, then run `nvme-agent setup`: it goes on from where it was.";
const SET_UP: &str = "Mend what the message names, then run `nvme-agent setup`.";
const WIPE: &str = "Look at what is on it. Data that nobody needs: `nvme-agent setup --wipe-foreign`; a filesystem that belongs at the \
                    target: `nvme-agent setup --adopt`; else select other drives.";
const API: &str = "Run `nvme-agent report` by hand and read what it says; the timer tries again.";

pub const INCOMPLETE: Rule = Rule::new(
    "Incomplete",
    DEGRADED,
    "Mounted and verified, but something could not be persisted or is short; the message says what.",
    "Mend what is named here, then run `nvme-agent setup` again.",
    JOURNAL,
);
pub const SETUP_FAILED: Rule = Rule::new(
    "SetupFailed",
    FAILED,
    "An error inside nvme-agent, or a system call that failed, outside of any step.",
    "Run `nvme-agent plan` to see what is found now; when it is mended, `nvme-agent setup`.",
    KERNEL,
);

/// A step that failed.
const fn step(code: &'static str, meaning: &'static str, look: &'static str) -> Rule {
    Rule::new(code, FAILED, meaning, AGAIN, look)
}

pub const RULES: &[Rule] = &[
    Rule::new("SetupComplete", READY, "Mounted and verified.", "", "`nvme-agent status`"),
    INCOMPLETE,
    Rule::new(
        "NoDrives",
        ABSENT,
        "No instance-store drive is here, and none is required.",
        "",
        "`lsblk -o NAME,MODEL,SERIAL`",
    ),
    Rule::new(
        "TornDown",
        ABSENT,
        "`teardown --at-next-boot` was done at this boot. The next boot, or `nvme-agent setup`, sets up again.",
        "",
        JOURNAL,
    ),
    Rule::new(
        "SettingUp",
        FAILED,
        "This boot's setup has not ended yet: what the Node would register with until then.",
        "Wait for it. Where it is not running, it was killed: look why, then run `nvme-agent setup`.",
        "`systemctl status nvme-agent`; `journalctl -b -t nvme-agent`",
    ),
    Rule::new(
        "BadConfiguration",
        FAILED,
        "A file, variable or flag is wrong; the message names it, and the nearest valid key. Nothing was set up.",
        "Correct it, then run `nvme-agent setup`.",
        "`nvme-agent plan`; `systemctl cat nvme-agent`",
    ),
    Rule::new(
        "UnsuitableEnvironment",
        FAILED,
        "Not root, not the host's mount namespace, or a program is missing: setup did not begin.",
        "Run it on the host as root, outside of any container; take what isolates mounts out of the unit.",
        "`systemctl cat nvme-agent`; `readlink /proc/self/ns/mnt /proc/1/ns/mnt`",
    ),
    Rule::new(
        "NodeadmLocalStorage",
        FAILED,
        "nodeadm is told to set up the drives itself, or has.",
        "Unset `localStorage.strategy` (Karpenter: `instanceStorePolicy`), or leave the drives to nodeadm and disable nvme-agent.",
        "`grep -rn -A2 localStorage /run/eks /etc/eks`; `cat /proc/mdstat`",
    ),
    Rule::new(
        "OwnerConflict",
        FAILED,
        "Another driver or provisioner for local drives is on the node, or holds them.",
        "Select the nodes apart, so that each has one owner of its drives.",
        "`lsblk`; `kubectl get daemonsets -A`",
    ),
    Rule::new(
        "DriveMissing",
        FAILED,
        "There are fewer drives than `expect_drives`, or a controller did not become live in time.",
        "Compare with the instance type. Where the number is right, correct `expect_drives`; else replace the node.",
        "`lspci -d 1d0f:`; `cat /sys/class/nvme/*/state`; `journalctl -k -g nvme`",
    ),
    Rule::new(
        "MemberMissing",
        FAILED,
        "Fewer drives are here than the array has members. It is never made anew by itself: the missing one may come back.",
        "Bring the drive back, or stop and start the instance, which gives it blank drives: what was on them is gone then.",
        CONTENT,
    ),
    Rule::new(
        "ForeignData",
        FAILED,
        "A drive has a signature, filesystem or array that is not ours. Nothing was changed.",
        WIPE,
        CONTENT,
    ),
    Rule::new(
        "UnknownData",
        FAILED,
        "A drive has bytes without any signature, and this is not the instance's first boot. Nothing was changed.",
        "Look at what is on it. Data that nobody needs: `nvme-agent setup --wipe-foreign`, or `unknown_data = \"format\"`.",
        "`dd if=/dev/nvme1n1 bs=1M count=1 | hexdump -C | head`",
    ),
    Rule::new(
        "DriveInUse",
        FAILED,
        "A drive is mounted elsewhere, swap, held, partitioned, or opened exclusively. Nothing was changed.",
        "Find out who uses it and end that, then run `nvme-agent setup`; or select other drives.",
        "`lsblk`; `findmnt`; `swapon`; `fuser -v /dev/nvme1n1`",
    ),
    Rule::new(
        "ArrayInconsistent",
        FAILED,
        "The members cannot be one array: roles twice, roles missing, or different sets. Nothing was changed.",
        "Look at the members. Where nobody needs what is on them: `nvme-agent setup --wipe-foreign`.",
        "`mdadm --examine /dev/nvme1n1`; `cat /proc/mdstat`",
    ),
    Rule::new(
        "FstabConflict",
        FAILED,
        "`/etc/fstab` puts another device at the target, or has a malformed line. Nothing was changed.",
        "Mend the line that the message names, then run `nvme-agent setup`.",
        "`findmnt --verify`; `cat -A /etc/fstab`",
    ),
    Rule::new(
        "FileConflict",
        FAILED,
        "mdadm's configuration or `/etc/tmpfiles.d/tmp.conf` cannot be edited safely. Nothing was changed.",
        "Mend the line that the message names, then run `nvme-agent setup`.",
        JOURNAL,
    ),
    Rule::new(
        "TargetUnsuitable",
        FAILED,
        "The target is a file or a symlink, or something that is not ours is mounted there. Nothing was changed.",
        "Remove or unmount what is there, or set another `target`, then run `nvme-agent setup`.",
        "`stat /tmp`; `findmnt /tmp`",
    ),
    Rule::new(
        "MkfsMissing",
        FAILED,
        "mkfs for the configured filesystem is not installed.",
        "Install e2fsprogs (ext4) or xfsprogs (xfs) in the image, or set `filesystem` to the other one.",
        "`command -v mkfs.ext4 mkfs.xfs`",
    ),
    Rule::new(
        "KernelTooOld",
        FAILED,
        "The kernel is older than 5.2, or lacks what is needed to put a mount in place.",
        "Boot a newer kernel, or an image with one: every EKS image has 5.10 or later.",
        "`uname -r`",
    ),
    Rule::new(
        "VerificationFailed",
        FAILED,
        "All steps were done, but what is there is not what was planned: somebody else works on the same drives or on the target.",
        SET_UP,
        "`findmnt`; `journalctl -b -t nvme-agent`; `journalctl -b -g systemd-tmpfiles`",
    ),
    SETUP_FAILED,
    step(
        "DropStaleIntentFailed",
        "The record of an interrupted run on other drives could not be removed.",
        JOURNAL,
    ),
    step(
        "RecordIntentFailed",
        "What is about to be made could not be recorded, so nothing was begun.",
        "`df -h /var/lib/nvme-agent`; `findmnt -T /var/lib/nvme-agent`",
    ),
    step("WipeFailed", "A drive that was to be wiped could not be, or not in full.", KERNEL),
    step(
        "StopArrayFailed",
        "An array that was to be made anew could not be stopped: somebody uses it.",
        "`cat /proc/mdstat`; `lsblk`; `journalctl -b -t nvme-agent`",
    ),
    step(
        "CreateArrayFailed",
        "The array could not be made.",
        "`cat /proc/mdstat`; `modprobe raid0`; `journalctl -k -g md`",
    ),
    step(
        "AssembleArrayFailed",
        "The array could not be put together from its members. Nothing on them was changed.",
        "`cat /proc/mdstat`; `mdadm --examine /dev/nvme1n1`; `journalctl -k -g md`",
    ),
    step(
        "ReadWriteFailed",
        "The array could not be made writable.",
        "`cat /sys/block/md*/md/array_state`; `journalctl -k -p warning`",
    ),
    step(
        "MakeFilesystemFailed",
        "mkfs failed, or was killed at `mkfs_timeout`; the message has what it said.",
        KERNEL,
    ),
    step(
        "CreateTargetFailed",
        "The directory of the target could not be made.",
        "`findmnt -T /tmp`; `journalctl -b -t nvme-agent`",
    ),
    step("StageFailed", "The filesystem could not be mounted where nobody sees it yet.", KERNEL),
    step(
        "PrepareFailed",
        "The new filesystem's root could not be given its mode, owner, label or directories.",
        KERNEL,
    ),
    step(
        "ClearIntentFailed",
        "The record of the run could not be removed, so the filesystem was not exposed.",
        "`df -h /var/lib/nvme-agent`; `findmnt -T /var/lib/nvme-agent`",
    ),
    step(
        "ExposeFailed",
        "The mount could not be put on the target.",
        "`findmnt /tmp`; `journalctl -b -t nvme-agent`",
    ),
    step(
        "RemountFailed",
        "The mount could not be given its options.",
        "`findmnt -o TARGET,OPTIONS /tmp`; `journalctl -b -t nvme-agent`",
    ),
    step(
        "DirectoriesFailed",
        "The target's mode could not be set.",
        "`stat /tmp`; `journalctl -b -t nvme-agent`",
    ),
    Rule::new(
        "AnotherRunIsActive",
        Weight::Command,
        "Another run holds the lock for longer than `lock_timeout`. What that one comes to is in the state file.",
        "Wait for it and look again.",
        "`systemctl status nvme-agent`; `fuser -v /run/nvme-agent/*`",
    ),
    Rule::new(
        "ApiRefused",
        Weight::Command,
        "`report`: the API server refuses it (401, 403, 422), or its certificate is not to be trusted. Trying again does not help.",
        "Look at the node's credentials and at what restricts labels (NodeRestriction, admission policies); docs/report.md.",
        "`journalctl -u nvme-agent-report`",
    ),
    Rule::new(
        "ApiUnavailable",
        Weight::Command,
        "`report`: the API server did not answer in time, there is no such Node, or the credential plugin failed.",
        API,
        "`journalctl -u nvme-agent-report`; `systemctl status kubelet`",
    ),
    Rule::new(
        "InternalError",
        Weight::Command,
        "An error inside nvme-agent that has no class of its own, such as output that cannot be written.",
        "Report it with the journal of the run.",
        "`journalctl -b -t nvme-agent`",
    ),
];
