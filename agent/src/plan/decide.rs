//! The decision table, from the top.

use super::build;
use super::device::Device;
use super::evidence;
use super::make::{self, Make};
use super::owners::{drives_are_nobodys, drives_are_ours_to_take};
use super::set::Set;
use super::usable::{
    drives_are_there, drives_are_usable, kernel_can_stage, target_is_free, target_is_suitable,
};
use super::words::{Judgement, content_in_words, refuse, who};
use super::{Outcome, Plan, Reason, Step};
use crate::config::{Config, UnknownData};
use crate::observe::mounts::topmost;
use crate::observe::{Array, Content, Drive, Filesystem, Inventory};

/// What `setup` would do with this machine.
///
/// # Errors
/// A [`Refusal`]: nothing may be changed.
pub fn plan(inventory: &Inventory, config: &Config) -> Judgement<Plan> {
    target_is_suitable(inventory, config)?;
    if let Some(mount) = topmost(&inventory.mounts, &config.target)
        && let Some(device) = Device::mounted(inventory, mount)
    {
        return build::keep(inventory, config, mount, &device);
    }
    target_is_free(inventory, config)?;
    drives_are_ours_to_take(inventory)?;
    drives_are_nobodys(inventory, config.wipe_foreign)?;
    drives_are_there(inventory, config)?;
    if inventory.drives.is_empty() {
        return Ok(build::absent());
    }
    kernel_can_stage(inventory)?;
    drives_are_usable(inventory)?;
    judge(inventory, config)
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
        Err(_) if config.wipe_foreign => make::make(inventory, config, Make::wiping(everything(inventory))),
        Err(refusal) => Err(refusal),
    }
}

fn everything(inventory: &Inventory) -> Vec<&Drive> {
    inventory.drives.iter().filter(|d| d.content != Content::Blank).collect()
}

/// An interrupted run of ours is finished with the UUIDs of its intent. Only what that run can have left behind may be
/// there.
///
/// Its filesystem, where it is there, is mounted and not made again: mkfs makes it recognisable with its last write, and
/// somebody else may have mounted it since (systemd by fstab, which names the same UUID when a stripe is rebuilt; an
/// operator). A half-made one can have been mounted by nobody. What the kernel cannot show yet, an array that does not run, is looked into first, for the same reason.
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
    let its = |fs: &Filesystem| fs.uuid.eq_ignore_ascii_case(&intent.fs_uuid.to_string());
    let left_on_drive = |drive: &Drive| match &drive.content {
        Content::Blank | Content::Unknown => true,
        Content::Member(member) => Some(member.set_uuid) == intent.array_uuid,
        Content::Filesystem(fs) | Content::HalfMade(fs) => intent.array_uuid.is_none() && its(fs),
        _ => false,
    };
    if !inventory.drives.iter().all(left_on_drive) {
        return Ok(None);
    }
    // Members that disagree are superblocks of two attempts: that set has never run.
    let set = Set::of(inventory).ok().flatten().filter(Set::is_complete);
    let device = match (&set, inventory.drives.as_slice()) {
        (Some(set), _) if !set.others.is_empty() => return Ok(None),
        (Some(set), _) => match running(inventory, set) {
            Some(array) => Some(Device::array(array, set)),
            None if config.wipe_foreign => None,
            None => return Ok(Some(build::assemble(inventory, set))),
        },
        (None, [only]) => Some(Device::drive(only)),
        (None, _) => None,
    };
    match device.as_ref().map(|device| (device, device.content)) {
        Some((device, Content::Filesystem(fs))) if its(fs) && !config.wipe_foreign => {
            build::finish(inventory, config, device, fs).map(Some)
        }
        Some((_, Content::Filesystem(fs) | Content::HalfMade(fs))) if !its(fs) => Ok(None),
        None
        | Some((_, Content::Blank | Content::Unknown | Content::Filesystem(_) | Content::HalfMade(_))) => {
            make::make(inventory, config, Make::finishing(inventory, intent)).map(Some)
        }
        Some(_) => Ok(None),
    }
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
        return make::make(inventory, config, Make::over_unknown(inventory));
    }
    if config.wipe_foreign {
        return make::make(inventory, config, Make::wiping(everything(inventory)));
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
        return make::make(inventory, config, Make::wiping(everything(inventory)));
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
            return make::make(inventory, config, Make::rebuilding(set, why));
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
        return make::make(inventory, config, Make::wiping(everything(inventory)));
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

/// The array that runs this set.
fn running<'a>(inventory: &'a Inventory, set: &Set) -> Option<&'a Array> {
    let is_this = |a: &&Array| a.uuid == Some(set.uuid) || set.present().any(|d| a.members.contains(&d.name));
    inventory.arrays.iter().filter(is_this).find(|a| a.is_running())
}

/// All members of one set are here.
fn on_complete_set(inventory: &Inventory, config: &Config, set: &Set) -> Judgement<Plan> {
    match running(inventory, set) {
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
        Content::Blank => make::make(inventory, config, Make::creating()),
        Content::Unknown if unknown_is_licensed(inventory, config) => {
            make::make(inventory, config, Make::over_unknown(inventory))
        }
        Content::Filesystem(fs) => match evidence::of_filesystem(inventory, config, fs, device.carrier()) {
            Some(why) => build::adopt(inventory, config, device, fs, why),
            None if config.wipe_foreign => make::make(inventory, config, Make::wiping(drives)),
            None => foreign_filesystem(inventory, config, device, fs),
        },
        Content::Unreadable { error } => refuse(
            Reason::DriveUnreadable,
            vec![format!("{} cannot be read: {error}", device.path.display())],
            "The kernel log has the details.",
        ),
        _ if config.wipe_foreign => make::make(inventory, config, Make::wiping(drives)),
        content => foreign(vec![(device.in_words(), content)]),
    }
}

fn foreign_filesystem(
    inventory: &Inventory,
    config: &Config,
    device: &Device,
    fs: &Filesystem,
) -> Judgement<Plan> {
    let why = match evidence::elsewhere(inventory, config, fs, device.carrier()) {
        Some(entry) => format!("fstab, line {}, puts it at {}", entry.line_no, entry.file),
        None => format!("no label {}, no fstab line", config.fs_label()),
    };
    refuse(
        Reason::ForeignData,
        vec![format!("{} has {}", device.in_words(), content_in_words(&Content::Filesystem(fs.clone())))],
        format!(
            "Nothing says that it belongs at {t}: {why}. `setup --adopt` mounts it there as it is \
             (systemd-tmpfiles and every user may then delete what is in it), `setup --wipe-foreign` gives it up.",
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

impl Plan {
    /// Steps, and nothing else to be said or promised.
    pub fn of(outcome: Outcome, steps: Vec<Step>) -> Plan {
        let (notes, problems) = (Vec::new(), Vec::new());
        Plan { outcome, steps, look_again: false, notes, problems, promise: None }
    }

    /// True where nothing would change.
    pub fn is_idle(&self) -> bool {
        self.steps.is_empty() && matches!(self.outcome, Outcome::Keep | Outcome::Absent)
    }
}
