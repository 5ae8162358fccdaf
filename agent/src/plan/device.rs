//! What carries, or will carry, the filesystem: a drive or an array.

use std::path::PathBuf;

use uuid::Uuid;

use super::evidence::Carrier;
use super::set::Set;
use crate::observe::{Array, Content, DevNum, Drive, Inventory, Mount};

/// What carries, or will carry, the filesystem.
pub struct Device<'a> {
    pub name: String,
    pub path: PathBuf,
    pub array: Option<&'a Array>,
    pub array_uuid: Option<Uuid>,
    pub serials: Vec<String>,
    pub content: &'a Content,
}

impl<'a> Device<'a> {
    pub fn drive(drive: &'a Drive) -> Self {
        Device {
            name: drive.name.clone(),
            path: drive.path(),
            array: None,
            array_uuid: None,
            serials: vec![drive.serial.clone()],
            content: &drive.content,
        }
    }

    pub fn array(array: &'a Array, set: &Set) -> Self {
        Device {
            name: array.name.clone(),
            path: array.path(),
            array: Some(array),
            array_uuid: Some(set.uuid),
            serials: sorted(set.present().map(|d| d.serial.clone())),
            content: &array.content,
        }
    }

    /// The drive or array of ours that a mount comes from.
    pub fn mounted(inventory: &'a Inventory, mount: &Mount) -> Option<Self> {
        let is_it = |dev: DevNum| dev == mount.dev && dev.major != 0;
        if let Some(drive) = inventory.drives.iter().find(|d| is_it(d.dev)) {
            return Some(Device::drive(drive));
        }
        let array = inventory.arrays.iter().find(|a| is_it(a.dev))?;
        let members: Option<Vec<&Drive>> =
            array.members.iter().map(|m| inventory.drives.iter().find(|d| d.name == *m)).collect();
        let members = members.filter(|m| !m.is_empty())?;
        Some(Device {
            name: array.name.clone(),
            path: array.path(),
            array: Some(array),
            array_uuid: array.uuid,
            serials: sorted(members.iter().map(|d| d.serial.clone())),
            content: &array.content,
        })
    }

    pub fn in_words(&self) -> String {
        match self.array {
            None => format!("{} ({})", self.path.display(), self.serials.join(", ")),
            Some(array) => format!("{} (array of {})", self.path.display(), array.members.join(", ")),
        }
    }

    pub fn layout(&self) -> String {
        match self.array {
            None => "single".into(),
            Some(array) if array.level.is_empty() => "raid0".into(),
            Some(array) => array.level.clone(),
        }
    }

    /// How evidence speaks of it.
    pub fn carrier(&self) -> Carrier<'_> {
        match (&self.array, self.serials.as_slice()) {
            (None, [serial]) => Carrier::OnlyDrive { name: &self.name, serial },
            _ => Carrier::Array { name: &self.name, uuid: self.array_uuid },
        }
    }
}

pub fn sorted(serials: impl Iterator<Item = String>) -> Vec<String> {
    let mut list: Vec<String> = serials.collect();
    list.sort_unstable();
    list
}
