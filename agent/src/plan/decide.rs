//! The decision table, from the top.

use super::build::{self, Device, Make};
use super::evidence::{self, Carrier};
use super::set::Set;
use super::{Outcome, Plan, Reason, Refusal};
use crate::config::{Config, UnknownData};
use crate::observe::{Array, Content, Drive, Filesystem, Inventory, Mount, TargetKind, Use};

type Judgement<T> = Result<T, Refusal>;

/// What `setup` would do with this machine.
///
/// # Errors
/// A [`Refusal`]: nothing may be changed.
pub fn plan(inventory: &Inventory, config: &Config) -> Judgement<Plan> {
    target_is_suitable(inventory, config)?;
    if let Some(mount) = top_mount(inventory, &config.target)
        && let Some(device) = Device::mounted(inventory, mount)
    {
        return build::keep(inventory, config, mount, &device);
    }
    target_is_free(inventory, config)?;
    drives_are_there(inventory, config)?;
    if inventory.drives.is_empty() {
        return Ok(build::absent());
    }
    drives_are_usable(inventory)?;
    judge(inventory, config)
}

fn refuse<T>(reason: Reason, found: Vec<String>, next: impl Into<String>) -> Judgement<T> {
    Err(Refusal { reason, found, next: next.into() })
}

/// `/dev/nvme1n1 (AWS...)`.
pub fn who(drive: &Drive) -> String {
    format!("{} ({})", drive.path().display(), drive.serial)
}

fn target_is_suitable(inventory: &Inventory, config: &Config) -> Judgement<()> {
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

/// The mount that a process sees at `at`: the last one there.
pub fn top_mount<'a>(inventory: &'a Inventory, at: &str) -> Option<&'a Mount> {
    inventory.mounts.iter().rev().find(|m| m.at == at)
}

/// Nothing is mounted at the target but what an operating system puts there itself.
fn target_is_free(inventory: &Inventory, config: &Config) -> Judgement<()> {
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

fn drives_are_there(inventory: &Inventory, config: &Config) -> Judgement<()> {
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

/// The array that holds a drive, where it is one of our candidates only and thus may be judged by what is on it.
fn own_array<'a>(inventory: &'a Inventory, name: &str) -> Option<&'a Array> {
    let array = inventory.arrays.iter().find(|a| a.name == name)?;
    let ours = |member: &String| inventory.drives.iter().any(|d| d.name == *member);
    (!array.members.is_empty() && array.members.iter().all(ours)).then_some(array)
}

/// No drive is in use, read-only or unreadable. Not even `--wipe-foreign` gets past this.
fn drives_are_usable(inventory: &Inventory) -> Judgement<()> {
    let mut busy = Vec::new();
    for drive in &inventory.drives {
        for by in &drive.uses {
            match by {
                Use::Holder { name } if own_array(inventory, name).is_some() => {}
                // The kernel holds members of an array exclusively: that is the holder, told twice.
                Use::Exclusive if drive.uses.iter().any(|u| matches!(u, Use::Holder { .. })) => {}
                by if is_only_a_table(by, &drive.content) => {}
                by => busy.push(format!("{} {}", who(drive), in_words(by))),
            }
        }
    }
    for array in inventory.arrays.iter().filter(|a| own_array(inventory, &a.name).is_some()) {
        let in_use = array.uses.iter().filter(|by| !is_only_a_table(by, &array.content));
        busy.extend(in_use.map(|by| format!("{} {}", array.path().display(), in_words(by))));
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

fn in_words(by: &Use) -> String {
    match by {
        Use::Mounted { at } => format!("is mounted at {at}"),
        Use::Swap => "is swap in use".into(),
        Use::Holder { name } => format!("is held by {name}"),
        Use::Partitions { names } => format!("has partitions: {}", names.join(", ")),
        Use::Exclusive => "is opened exclusively by another program".into(),
        Use::Root => "carries the root filesystem".into(),
    }
}

/// True where unknown data may be taken for blank.
fn unknown_is_licensed(inventory: &Inventory, config: &Config) -> bool {
    match config.unknown_data {
        UnknownData::Format => true,
        UnknownData::FirstBoot => inventory.host.first_boot,
        UnknownData::Refuse => false,
    }
}

fn judge(inventory: &Inventory, config: &Config) -> Judgement<Plan> {
    if let Some(plan) = by_intent(inventory, config)? {
        return Ok(plan);
    }
    match Set::of(inventory) {
        Ok(None) => without_set(inventory, config),
        Ok(Some(set)) => with_set(inventory, config, &set),
        Err(_) if config.wipe_foreign => build::make(inventory, config, Make::wiping(everything(inventory))),
        Err(refusal) => Err(refusal),
    }
}

fn everything(inventory: &Inventory) -> Vec<&Drive> {
    inventory.drives.iter().filter(|d| d.content != Content::Blank).collect()
}

/// An interrupted run of ours: its filesystem was never exposed, so the job is done again from the start, with
/// the UUIDs of the intent. Only what that run can have left behind may be there.
fn by_intent(inventory: &Inventory, config: &Config) -> Judgement<Option<Plan>> {
    let Some(intent) = &inventory.intent else { return Ok(None) };
    if !intent.names_exactly(inventory.drives.iter().map(|d| d.serial.as_str())) {
        let some_are_here = inventory.drives.iter().any(|d| intent.serials.contains(&d.serial));
        let missing: Vec<String> = intent
            .serials
            .iter()
            .filter(|s| !inventory.drives.iter().any(|d| d.serial == **s))
            .map(|s| format!("drive {s} of an interrupted setup is not here"))
            .collect();
        if some_are_here && !missing.is_empty() {
            return refuse(
                Reason::MemberMissing,
                missing,
                "Wait for the drive, or remove /var/lib/nvme-agent/intent.json to start over.",
            );
        }
        return Ok(None);
    }
    if intent.target != config.target {
        return Ok(None);
    }
    let leftover = |content: &Content| match content {
        Content::Blank | Content::Unknown => true,
        Content::Member(member) => Some(member.set_uuid) == intent.array_uuid,
        Content::Filesystem(fs) => fs.uuid.eq_ignore_ascii_case(&intent.fs_uuid.to_string()),
        _ => false,
    };
    let arrays =
        inventory.arrays.iter().filter(|a| a.is_running() && own_array(inventory, &a.name).is_some());
    if !inventory.drives.iter().all(|d| leftover(&d.content)) || !arrays.clone().all(|a| leftover(&a.content))
    {
        return Ok(None);
    }
    build::make(inventory, config, Make::finishing(inventory, intent)).map(Some)
}

/// No drive is an md member.
fn without_set(inventory: &Inventory, config: &Config) -> Judgement<Plan> {
    if let [only] = inventory.drives.as_slice() {
        return on_device(inventory, config, &Device::drive(only), &only.content, vec![only]);
    }
    let unknown = unknown_is_licensed(inventory, config);
    let odd: Vec<&Drive> = inventory
        .drives
        .iter()
        .filter(|d| !(d.content == Content::Blank || (unknown && d.content == Content::Unknown)))
        .collect();
    if odd.is_empty() {
        return build::make(inventory, config, Make::over_unknown(inventory));
    }
    if config.wipe_foreign {
        return build::make(inventory, config, Make::wiping(everything(inventory)));
    }
    foreign(odd.iter().map(|d| (who(d), &d.content)).collect())
}

/// Some drives are members of one set.
fn with_set(inventory: &Inventory, config: &Config, set: &Set) -> Judgement<Plan> {
    let odd: Vec<&Drive> = set.others.iter().copied().filter(|d| d.content != Content::Blank).collect();
    if set.is_complete() {
        if !odd.is_empty() {
            return refuse_or_wipe_around(inventory, config, set, &odd);
        }
        return on_complete_set(inventory, config, set);
    }
    let (drives, wanted) = (inventory.drives.len(), set.first.raid_disks as usize);
    let ours = evidence::of_set(inventory, config, set.uuid);
    // A member of our own set that is away is no foreign signature.
    if config.wipe_foreign && !(drives < wanted && ours.is_some()) {
        return build::make(inventory, config, Make::wiping(everything(inventory)));
    }
    if drives < wanted {
        let mut found = vec![format!("{}, only {drives} drives are here", set.describe())];
        found.extend(roles(inventory, set));
        return refuse(
            Reason::MemberMissing,
            found,
            "It is never made anew by itself: bring the drive back, or stop and start the instance for blank drives.",
        );
    }
    if odd.is_empty() && drives == wanted && set.first.level == 0 {
        if let Some(why) = ours {
            return build::make(inventory, config, Make::rebuilding(set, why));
        }
        let mut found = vec![set.describe()];
        found.extend(roles(inventory, set));
        return refuse(
            Reason::ForeignData,
            found,
            "Nothing here says that the set is ours; an operator may still recover it. `setup --wipe-foreign` gives it up.",
        );
    }
    refuse_or_wipe_around(inventory, config, set, &odd)
}

/// One line a member and a gap: which serials are here, which role is missing, which serial it may have had.
fn roles(inventory: &Inventory, set: &Set) -> Vec<String> {
    let lost: Vec<&str> = inventory
        .record
        .iter()
        .filter(|r| r.array_uuid == Some(set.uuid))
        .flat_map(|r| &r.serials)
        .filter(|s| !inventory.drives.iter().any(|d| d.serial == **s))
        .map(String::as_str)
        .collect();
    let mut lines: Vec<String> = set
        .by_role
        .iter()
        .enumerate()
        .map(|(role, drive)| match drive {
            Some(drive) => format!("role {role} is {}", who(drive)),
            None => format!("role {role} is missing"),
        })
        .collect();
    if !lost.is_empty() {
        lines.push(format!("missing by serial: {}", lost.join(", ")));
    }
    lines.extend(set.others.iter().map(|d| format!("{} is blank", who(d))));
    lines
}

fn refuse_or_wipe_around(
    inventory: &Inventory,
    config: &Config,
    set: &Set,
    odd: &[&Drive],
) -> Judgement<Plan> {
    if config.wipe_foreign {
        return build::make(inventory, config, Make::wiping(everything(inventory)));
    }
    let set_line = set.describe();
    let mut found = vec![set_line];
    found.extend(odd.iter().map(|d| format!("{} has {}", who(d), content_in_words(&d.content))));
    refuse(
        Reason::ForeignData,
        found,
        "A damaged superblock can look like this, and an operator may still recover the set. `setup --wipe-foreign` gives it up.",
    )
}

/// All members of one set are here.
fn on_complete_set(inventory: &Inventory, config: &Config, set: &Set) -> Judgement<Plan> {
    let is_this = |a: &&Array| a.uuid == Some(set.uuid) || set.present().any(|d| a.members.contains(&d.name));
    let running = inventory.arrays.iter().filter(is_this).find(|a| a.is_running());
    match running {
        None => Ok(build::assemble(inventory, set)),
        Some(array) => {
            on_device(inventory, config, &Device::array(array, set), &array.content, set.present().collect())
        }
    }
}

/// What is on the one device (drive or running array) that is to carry the filesystem.
fn on_device(
    inventory: &Inventory,
    config: &Config,
    device: &Device,
    content: &Content,
    drives: Vec<&Drive>,
) -> Judgement<Plan> {
    match content {
        Content::Blank => build::make(inventory, config, Make::creating()),
        Content::Unknown if unknown_is_licensed(inventory, config) => {
            build::make(inventory, config, Make::over_unknown(inventory))
        }
        Content::Filesystem(fs) => match evidence::of_filesystem(inventory, config, fs, device.carrier()) {
            Some(why) => build::adopt(inventory, config, device, fs, why),
            None if config.wipe_foreign => build::make(inventory, config, Make::wiping(drives)),
            None => foreign_filesystem(config, device, fs),
        },
        Content::Unreadable { error } => refuse(
            Reason::DriveUnreadable,
            vec![format!("{} cannot be read: {error}", device.path.display())],
            "The kernel log has the details.",
        ),
        _ if config.wipe_foreign => build::make(inventory, config, Make::wiping(drives)),
        content => foreign(vec![(device.in_words(), content)]),
    }
}

fn foreign_filesystem(config: &Config, device: &Device, fs: &Filesystem) -> Judgement<Plan> {
    refuse(
        Reason::ForeignData,
        vec![format!("{} has {}", device.in_words(), content_in_words(&Content::Filesystem(fs.clone())))],
        format!(
            "Nothing says that it belongs at {t}: no label {}, no fstab line. `setup --adopt` mounts it there as it is \
             (systemd-tmpfiles and every user may then delete what is in it), `setup --wipe-foreign` gives it up.",
            config.fs_label(),
            t = config.target
        ),
    )
}

fn foreign(found: Vec<(String, &Content)>) -> Judgement<Plan> {
    let unknown_only = found.iter().all(|(_, c)| **c == Content::Unknown);
    let lines =
        found.iter().map(|(who, content)| format!("{who} has {}", content_in_words(content))).collect();
    if unknown_only {
        return refuse(
            Reason::UnknownData,
            lines,
            "This is not the instance's first boot, so somebody may have written it. `setup --wipe-foreign` gives it up for \
             once, `unknown_data = \"format\"` at every boot.",
        );
    }
    refuse(
        Reason::ForeignData,
        lines,
        "If nobody needs it, `setup --wipe-foreign` gives it up; else take the drive out of `[match]`.",
    )
}

fn content_in_words(content: &Content) -> String {
    match content {
        Content::Blank => "nothing on it".into(),
        Content::Unknown => "data without a known signature".into(),
        Content::Member(m) => format!("a superblock of md set {} `{}`", m.set_uuid, m.set_name),
        Content::Filesystem(fs) => format!(
            "an {} filesystem, UUID {}{}",
            fs.kind,
            fs.uuid,
            fs.label.as_ref().map(|l| format!(", label `{l}`")).unwrap_or_default()
        ),
        Content::Foreign { signature } => format!("the signature `{signature}`"),
        Content::Unreadable { error } => format!("a read error: {error}"),
        Content::Unexamined => "unexamined content".into(),
    }
}

impl Device<'_> {
    /// How evidence speaks of it.
    pub fn carrier(&self) -> Carrier<'_> {
        match (&self.array, self.serials.as_slice()) {
            (None, [serial]) => Carrier::OnlyDrive { name: &self.name, serial },
            _ => Carrier::Array { name: &self.name, uuid: self.array_uuid },
        }
    }
}

impl Plan {
    /// True where nothing would change.
    pub fn is_idle(&self) -> bool {
        self.steps.is_empty() && matches!(self.outcome, Outcome::Keep | Outcome::Absent)
    }
}
