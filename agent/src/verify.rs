//! verify: compares what is observed after the steps with what the plan promised. Pure; `setup` and `status` use it alike.

use crate::error::{Error, Result};
use crate::observe::{Content, DevNum, Inventory, Mount, TargetKind};
use crate::plan::Promise;

/// What is short of the promise without making the storage unusable.
pub type Shortfall = String;

/// Compares the machine with the promise.
///
/// # Errors
/// [`Error::Verify`]: the target is not our filesystem as planned. Shortfalls are returned as values.
pub fn verify(inventory: &Inventory, promise: &Promise) -> Result<Vec<Shortfall>> {
    let fail = |what: String| Err(Error::Verify(format!("{what}; look with `findmnt {}`", promise.target)));
    let Some(dev) = device_number(inventory, &promise.device) else {
        return fail(format!("/dev/{} is gone", promise.device));
    };
    let here: Vec<&Mount> = inventory.mounts.iter().filter(|m| m.at == promise.target).collect();
    let Some(top) = here.last() else {
        return fail(format!("nothing is mounted at {}, expected /dev/{}", promise.target, promise.device));
    };
    if top.dev != dev || top.root != "/" {
        return fail(format!(
            "{} is mounted from {} ({}), expected /dev/{} ({dev})",
            promise.target, top.source, top.dev, promise.device
        ));
    }
    let ours = here.iter().filter(|m| m.dev == dev).count();
    if ours != 1 {
        return fail(format!("/dev/{} is mounted {ours} times at {}", promise.device, promise.target));
    }
    if let Some(under) = here.iter().find(|m| m.dev != dev && m.dev.major != 0) {
        return fail(format!("{} from {} lies under our mount", promise.target, under.source));
    }
    if top.fs_type != promise.filesystem {
        return fail(format!("{} is {}, expected {}", promise.target, top.fs_type, promise.filesystem));
    }
    if let Content::Filesystem(fs) = content(inventory, &promise.device)
        && !fs.uuid.eq_ignore_ascii_case(&promise.fs_uuid)
    {
        return fail(format!("the filesystem's UUID is {}, expected {}", fs.uuid, promise.fs_uuid));
    }
    if let Some(mode) = promise.mode
        && (inventory.target.kind != TargetKind::Directory || inventory.target.mode != Some(mode))
    {
        let found = inventory.target.mode.map_or("unknown".into(), |m| format!("{m:04o}"));
        return fail(format!("{} has mode {found}, expected {mode:04o}", promise.target));
    }
    let mut short = Vec::new();
    let has = |options: &str, wanted: &str| options.split(',').any(|o| o == wanted);
    for option in promise.options.iter().filter(|o| !has(&top.options, o)) {
        short.push(format!("{} is mounted without {option}", promise.target));
    }
    if has(&top.options, "ro") || has(&top.super_options, "ro") {
        return fail(format!("{} is read-only", promise.target));
    }
    for serial in &promise.serials {
        match inventory.drives.iter().find(|d| d.serial == *serial) {
            None => return fail(format!("drive {serial} is gone")),
            Some(drive) if drive.state != "live" && !drive.state.is_empty() => {
                short.push(format!("drive {serial} is {}", drive.state));
            }
            Some(_) => {}
        }
    }
    Ok(short)
}

fn device_number(inventory: &Inventory, name: &str) -> Option<DevNum> {
    let drive = inventory.drives.iter().find(|d| d.name == name).map(|d| d.dev);
    drive.or_else(|| inventory.arrays.iter().find(|a| a.name == name && a.is_running()).map(|a| a.dev))
}

fn content<'a>(inventory: &'a Inventory, name: &str) -> &'a Content {
    let drive = inventory.drives.iter().find(|d| d.name == name).map(|d| &d.content);
    drive
        .or_else(|| inventory.arrays.iter().find(|a| a.name == name).map(|a| &a.content))
        .unwrap_or(&Content::Unexamined)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Array, Drive, Filesystem, Target};

    fn machine() -> (Inventory, Promise) {
        let uuid = "11111111-2222-4333-8444-555555555555";
        let drive = |name: &str, serial: &str, minor| Drive {
            name: name.into(),
            serial: serial.into(),
            dev: DevNum { major: 259, minor },
            state: "live".into(),
            ..Drive::default()
        };
        let fs = Filesystem { kind: "ext4".into(), uuid: uuid.into(), label: None };
        let array = Array {
            name: "md0".into(),
            dev: DevNum { major: 9, minor: 0 },
            state: "clean".into(),
            content: Content::Filesystem(fs),
            ..Array::default()
        };
        let mount = Mount {
            dev: DevNum { major: 9, minor: 0 },
            root: "/".into(),
            at: "/tmp".into(),
            fs_type: "ext4".into(),
            source: "/dev/md0".into(),
            options: "rw,nosuid,nodev,noatime".into(),
            super_options: "rw,stripe=256".into(),
            ..Mount::default()
        };
        let inventory = Inventory {
            drives: vec![drive("nvme1n1", "A", 1), drive("nvme2n1", "B", 2)],
            arrays: vec![array],
            mounts: vec![mount],
            target: Target {
                path: "/tmp".into(),
                kind: TargetKind::Directory,
                mode: Some(0o1777),
                ..Target::default()
            },
            ..Inventory::default()
        };
        let promise = Promise {
            target: "/tmp".into(),
            device: "md0".into(),
            filesystem: "ext4".into(),
            fs_uuid: uuid.into(),
            array_uuid: None,
            serials: vec!["A".into(), "B".into()],
            layout: "raid0".into(),
            options: vec!["noatime".into(), "nosuid".into()],
            mode: Some(0o1777),
        };
        (inventory, promise)
    }

    fn refused(change: impl FnOnce(&mut Inventory)) -> String {
        let (mut inventory, promise) = machine();
        change(&mut inventory);
        verify(&inventory, &promise).expect_err("must not verify").to_string()
    }

    #[test]
    fn what_was_promised_verifies() {
        let (inventory, promise) = machine();
        assert_eq!(verify(&inventory, &promise).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_tmpfs_below_is_the_distributions_and_fine() {
        let (mut inventory, promise) = machine();
        inventory.mounts.insert(0, Mount { at: "/tmp".into(), fs_type: "tmpfs".into(), ..Mount::default() });
        assert_eq!(verify(&inventory, &promise).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn every_way_of_not_being_our_filesystem_is_told() {
        assert!(refused(|i| i.mounts.clear()).contains("nothing is mounted at /tmp"));
        assert!(refused(|i| i.arrays[0].state = "inactive".into()).contains("/dev/md0 is gone"));
        assert!(refused(|i| i.mounts[0].dev.minor = 7).contains("expected /dev/md0"));
        assert!(refused(|i| i.mounts.push(i.mounts[0].clone())).contains("2 times"));
        let ebs = |i: &mut Inventory| {
            let dev = DevNum { major: 259, minor: 9 };
            i.mounts.insert(0, Mount { dev, source: "/dev/nvme9n1".into(), ..i.mounts[0].clone() });
        };
        assert!(refused(ebs).contains("lies under our mount"));
        assert!(refused(|i| i.mounts[0].fs_type = "xfs".into()).contains("expected ext4"));
        assert!(refused(|i| i.target.mode = Some(0o755)).contains("mode 0755, expected 1777"));
        assert!(refused(|i| i.mounts[0].super_options = "ro".into()).contains("read-only"));
        assert!(refused(|i| i.drives.truncate(1)).contains("drive B is gone"));
        let other = Filesystem { kind: "ext4".into(), uuid: "ffff".into(), label: None };
        assert!(refused(|i| i.arrays[0].content = Content::Filesystem(other)).contains("UUID is ffff"));
    }

    #[test]
    fn what_is_only_short_of_it_is_a_value() {
        let (mut inventory, promise) = machine();
        inventory.mounts[0].options = "rw,nosuid,relatime".into();
        inventory.drives[1].state = "resetting".into();
        let short = verify(&inventory, &promise).unwrap();
        assert_eq!(short, ["/tmp is mounted without noatime", "drive B is resetting"]);
    }
}
