//! Whether target and drives may be worked on at all, whatever is on them.

use super::Reason;
use super::device::Device;
use super::words::{Judgement, refuse, use_in_words, who};
use crate::config::Config;
use crate::observe::{Array, Content, Drive, Inventory, TargetKind, Use};

pub fn target_is_suitable(inventory: &Inventory, config: &Config) -> Judgement<()> {
    let found = match inventory.target.kind {
        TargetKind::Directory | TargetKind::Missing => return Ok(()),
        TargetKind::File => "is a file",
        TargetKind::Symlink => "is a symbolic link",
        TargetKind::Other => "is neither a directory nor missing",
    };
    refuse(
        Reason::TargetUnsuitable,
        vec![format!("{} {found}; expected a directory", config.target)],
        "Remove it, or set `target` to another directory.",
    )
}

/// Nothing is mounted at the target but what an operating system puts there itself.
pub fn target_is_free(inventory: &Inventory, config: &Config) -> Judgement<()> {
    let here = || inventory.mounts.iter().filter(|m| m.at == config.target);
    if let Some(buried) = here().find(|m| Device::mounted(inventory, m).is_some()) {
        return refuse(
            Reason::TargetUnsuitable,
            vec![format!("{} from {} is hidden by another mount on top of it", config.target, buried.source)],
            "Unmount what covers it; `findmnt` shows both.",
        );
    }
    match here().find(|m| !matches!(m.fs_type.as_str(), "tmpfs" | "ramfs" | "autofs")) {
        None => Ok(()),
        Some(mount) => refuse(
            Reason::TargetUnsuitable,
            vec![format!("{} is mounted from {} ({})", config.target, mount.source, mount.fs_type)],
            "Unmount it and take its line out of fstab, or set `target` to another directory.",
        ),
    }
}

pub fn drives_are_there(inventory: &Inventory, config: &Config) -> Judgement<()> {
    if !inventory.pending.is_empty() {
        let found = inventory.pending.iter().map(|p| format!("PCI {}: {}", p.address, p.why)).collect();
        return refuse(
            Reason::DriveMissing,
            found,
            "An array without that drive would have to be made anew later; look into the kernel log, then run `nvme-agent setup` again.",
        );
    }
    let (have, want) = (inventory.drives.len(), config.expect_drives as usize);
    if have < want {
        let mut found = vec![format!("expected {want} drives, found {have}")];
        found.extend(inventory.drives.iter().map(who));
        found.extend(inventory.skipped.iter().map(|s| format!("{} ({}): {}", s.name, s.serial, s.why)));
        return refuse(Reason::DriveMissing, found, "Check the instance type and `expect_drives`.");
    }
    Ok(())
}

/// Whatever is found, its filesystem is to be mounted out of sight and moved: fsopen(2), fsmount(2), move_mount(2), since
/// Linux 5.2. A kernel that does not say its version is left to find out.
pub fn kernel_can_stage(inventory: &Inventory) -> Judgement<()> {
    const NEEDED: (u32, u32) = (5, 2);
    match inventory.host.kernel_version() {
        Some(version) if version < NEEDED => refuse(
            Reason::KernelTooOld,
            vec![format!(
                "the kernel is {}; expected {}.{} or later, for fsopen(2) and move_mount(2)",
                inventory.host.kernel, NEEDED.0, NEEDED.1
            )],
            "Boot a newer kernel, or an image with one: every EKS image has 5.10 or later.",
        ),
        _ => Ok(()),
    }
}

/// The array that holds a drive, where it is one of our candidates only and thus may be judged by what is on it.
pub fn own_array<'a>(inventory: &'a Inventory, name: &str) -> Option<&'a Array> {
    let array = inventory.arrays.iter().find(|a| a.name == name)?;
    let ours = |member: &String| inventory.drives.iter().any(|d| d.name == *member);
    (!array.members.is_empty() && array.members.iter().all(ours)).then_some(array)
}

/// No drive is in use, read-only or unreadable. Not even `--wipe-foreign` gets past this.
pub fn drives_are_usable(inventory: &Inventory) -> Judgement<()> {
    let mut busy = Vec::new();
    for drive in &inventory.drives {
        for by in &drive.uses {
            match by {
                Use::Holder { name } if own_array(inventory, name).is_some() => {}
                // The kernel holds members of an array exclusively: that is the holder, told twice.
                Use::Exclusive if drive.uses.iter().any(|u| matches!(u, Use::Holder { .. })) => {}
                by if is_only_a_table(by, &drive.content) => {}
                by => busy.push(format!("{} {}", who(drive), use_in_words(by))),
            }
        }
    }
    for array in inventory.arrays.iter().filter(|a| own_array(inventory, &a.name).is_some()) {
        let in_use = array.uses.iter().filter(|by| !is_only_a_table(by, &array.content));
        busy.extend(in_use.map(|by| format!("{} {}", array.path().display(), use_in_words(by))));
    }
    if !busy.is_empty() {
        return refuse(
            Reason::DriveInUse,
            busy,
            "Free the drives (unmount, swapoff, dmsetup remove, stop the program), or take them out of `[match]`.",
        );
    }
    let select = |test: fn(&Drive) -> Option<String>| -> Vec<String> {
        inventory.drives.iter().filter_map(|d| test(d).map(|what| format!("{} {what}", who(d)))).collect()
    };
    let unreadable = select(|d| match &d.content {
        Content::Unreadable { error } => Some(format!("cannot be read: {error}")),
        _ => None,
    });
    let unexamined = select(|d| {
        (d.content == Content::Unexamined).then(|| "has something on it that was not looked into".into())
    });
    if !unexamined.is_empty() {
        return refuse(
            Reason::DriveUnreadable,
            unexamined,
            "Under --root no blkid is run: ask on the machine itself.",
        );
    }
    if !unreadable.is_empty() {
        return refuse(
            Reason::DriveUnreadable,
            unreadable,
            "The drive is failing: stop and start the instance, or replace it; the kernel log has the details.",
        );
    }
    let read_only = select(|d| d.read_only.then(|| "is read-only".into()));
    if !read_only.is_empty() {
        return refuse(
            Reason::DriveReadOnly,
            read_only,
            "Make it writable (`blockdev --setrw`), or replace the instance.",
        );
    }
    Ok(())
}

/// A partition table that nobody uses is a signature like others, which may be wiped on demand.
fn is_only_a_table(by: &Use, content: &Content) -> bool {
    matches!((by, content), (Use::Partitions { .. }, Content::Foreign { .. }))
}
