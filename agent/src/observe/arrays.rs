//! md arrays, as sysfs has them (Documentation/admin-guide/md.rst).

use uuid::Uuid;

use super::sysfs::{self, Dir, Sysfs};
use super::{Array, Content, Drive};
use crate::error::Result;

/// Every md array of the kernel, ordered by name; uses and content not filled in.
///
/// # Errors
/// A directory of sysfs, or an attribute, cannot be read.
pub fn find(sysfs: &Sysfs<'_>) -> Result<Vec<Array>> {
    let mut arrays = Vec::new();
    for name in sysfs.disks()? {
        if !name.starts_with("md") {
            continue;
        }
        let block = sysfs.open(&name)?;
        let md = block.dir("md")?;
        if !md.exists() {
            continue;
        }
        let state = md.text("array_state")?;
        let ro = block.attribute("ro")?.is_some_and(|ro| ro != "0");
        let (members, member_states) = members(&md)?;
        arrays.push(Array {
            dev: block.attribute("dev")?.and_then(|dev| sysfs::dev_num(&dev)).unwrap_or_default(),
            level: md.text("level")?,
            raid_disks: leading_number(&md.text("raid_disks")?),
            chunk_bytes: md.number("chunk_size")?.unwrap_or(0),
            sectors: block.number("size")?.unwrap_or(0),
            uuid: Uuid::try_parse(&md.text("uuid")?).ok().filter(|uuid| !uuid.is_nil()),
            members,
            member_states,
            read_only: ro || matches!(state.as_str(), "readonly" | "read-auto"),
            state,
            name,
            ..Array::default()
        });
    }
    Ok(arrays)
}

/// `4`, or `4 (2)` while the array is being reshaped.
fn leading_number(text: &str) -> u32 {
    text.split_ascii_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0)
}

/// Kernel names of the members and the state of each, by slot; those without one (`none`) last.
fn members(md: &Dir) -> Result<(Vec<String>, Vec<String>)> {
    let mut members = Vec::new();
    for entry in md.names()? {
        let Some(name) = entry.strip_prefix("dev-") else { continue };
        let member = md.dir(&entry)?;
        let slot = member.number("slot")?.unwrap_or(u64::MAX);
        let name = member.leads_to("block").unwrap_or_else(|| name.to_owned());
        members.push((slot, name, member.text("state")?));
    }
    members.sort_unstable();
    Ok(members.into_iter().map(|(_, name, state)| (name, state)).unzip())
}

/// Older kernels do not say the set's UUID: then it is what the members' superblocks agree on.
pub fn fill_uuid(array: &mut Array, drives: &[Drive]) {
    if array.uuid.is_some() || array.members.is_empty() {
        return;
    }
    let mut sets = array.members.iter().map(|name| {
        let drive = drives.iter().find(|drive| drive.name == *name);
        match drive.map(|drive| &drive.content) {
            Some(Content::Member(member)) => Some(member.set_uuid),
            _ => None,
        }
    });
    let first = sets.next().flatten();
    if sets.all(|set| set == first) {
        array.uuid = first;
    }
}

/// True where any member is a candidate drive, or a partition of one.
pub fn concerns(sysfs: &Sysfs<'_>, array: &Array, drives: &[Drive]) -> bool {
    array.members.iter().any(|member| {
        drives.iter().any(|drive| drive.name == *member)
            || sysfs.beneath(member).is_ok_and(|below| drives.iter().any(|drive| below.contains(&drive.name)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Member;

    fn member(name: &str, set: u128) -> Drive {
        let content = Content::Member(Member { set_uuid: Uuid::from_u128(set), ..Member::default() });
        Drive { name: name.into(), content, ..Drive::default() }
    }

    #[test]
    fn the_uuid_of_an_array_is_what_all_members_agree_on() {
        let array = Array { members: vec!["nvme1n1".into(), "nvme2n1".into()], ..Array::default() };
        let uuid = |drives: &[Drive]| {
            let mut array = array.clone();
            fill_uuid(&mut array, drives);
            array.uuid
        };
        assert_eq!(uuid(&[member("nvme1n1", 7), member("nvme2n1", 7)]), Some(Uuid::from_u128(7)));
        assert_eq!(uuid(&[member("nvme1n1", 7), member("nvme2n1", 8)]), None);
        assert_eq!(uuid(&[member("nvme1n1", 7)]), None);
    }

    #[test]
    fn raid_disks_while_reshaping() {
        assert_eq!(leading_number("4 (2)"), 4);
        assert_eq!(leading_number(""), 0);
    }
}
