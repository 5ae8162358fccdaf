//! What the drives' md superblocks add up to.

use uuid::Uuid;

use super::{Reason, Refusal};
use crate::observe::{Content, Drive, Inventory, Member};

/// The one md set that drives belong to.
pub struct Set<'a> {
    pub uuid: Uuid,
    /// The set's own description, from its first member.
    pub first: &'a Member,
    /// Drives by role, role 0 first; none where no drive has the role.
    pub by_role: Vec<Option<&'a Drive>>,
    /// Drives that are no members of it.
    pub others: Vec<&'a Drive>,
}

impl<'a> Set<'a> {
    /// The set among the drives, or none where no drive is a member.
    ///
    /// # Errors
    /// `ArrayInconsistent` for two sets, a role that two drives claim, a member without a role, or members that disagree.
    pub fn of(inventory: &'a Inventory) -> Result<Option<Set<'a>>, Refusal> {
        let mut members = inventory.drives.iter().filter_map(|drive| match &drive.content {
            Content::Member(member) => Some((drive, member)),
            _ => None,
        });
        let Some((_, first)) = members.clone().next() else { return Ok(None) };
        // raid_disks is a number from the disk: a table of that size is only made once it is believable.
        if first.raid_disks == 0 || first.raid_disks > 384 {
            return Err(inconsistent(vec![format!("the superblock claims {} members", first.raid_disks)]));
        }
        let mut by_role: Vec<Option<&Drive>> = vec![None; first.raid_disks as usize];
        let mut wrong = Vec::new();
        for (drive, member) in members.by_ref() {
            let who = format!("{} ({})", drive.path().display(), drive.serial);
            if member.set_uuid != first.set_uuid {
                wrong.push(format!(
                    "{who} is a member of md set {} `{}`, another drive of {} `{}`",
                    member.set_uuid, member.set_name, first.set_uuid, first.set_name
                ));
            } else if (member.level, member.raid_disks, member.chunk_sectors)
                != (first.level, first.raid_disks, first.chunk_sectors)
            {
                wrong.push(format!("{who} describes its md set in another way than its companions"));
            } else {
                match member.role.and_then(|role| by_role.get_mut(role as usize)) {
                    None => wrong.push(format!("{who} has no role in md set {}", member.set_uuid)),
                    Some(Some(twin)) => {
                        wrong.push(format!(
                            "{who} and {} have the same role in the md set",
                            twin.path().display()
                        ));
                    }
                    Some(place) => *place = Some(drive),
                }
            }
        }
        if !wrong.is_empty() {
            return Err(inconsistent(wrong));
        }
        let others = inventory.drives.iter().filter(|d| !matches!(d.content, Content::Member(_))).collect();
        Ok(Some(Set { uuid: first.set_uuid, first, by_role, others }))
    }

    pub fn is_complete(&self) -> bool {
        self.by_role.iter().all(Option::is_some)
    }

    pub fn present(&self) -> impl Iterator<Item = &'a Drive> + '_ {
        self.by_role.iter().flatten().copied()
    }

    /// `any:md0`, level and size in words, for messages.
    pub fn describe(&self) -> String {
        format!(
            "md set {} `{}` (level {}, {} of {} members here)",
            self.uuid,
            self.first.set_name,
            self.first.level,
            self.present().count(),
            self.first.raid_disks
        )
    }
}

fn inconsistent(found: Vec<String>) -> Refusal {
    Refusal {
        reason: Reason::ArrayInconsistent,
        found,
        next: "Look with `mdadm --examine`; `setup --wipe-foreign` gives up what is on the drives.".into(),
    }
}
