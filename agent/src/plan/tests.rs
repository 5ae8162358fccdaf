//! Table tests of judgement: every row of the decision table, and what must never be planned.

mod blank;
mod evidence;
mod files;
mod foreign;
mod intents;
mod owners;
mod sets;
mod target;

use uuid::Uuid;

use super::{Outcome, Plan, Reason, Refusal, Step, plan};
use crate::config::Config;
use crate::intent::Identity;
use crate::observe::{Array, Content, DevNum, Drive, Filesystem, Inventory, Member, Mount, TargetKind, Use};

pub(super) const SET: Uuid = Uuid::from_u128(0x5e7);
pub(super) const FS: Uuid = Uuid::from_u128(0xf5);

/// A machine with these contents on its drives, in the order nvme1n1, nvme2n1, ...
pub(super) fn machine(contents: &[Content]) -> Inventory {
    let drives = contents.iter().zip(1_u32..).map(|(content, n)| Drive {
        name: format!("nvme{n}n1"),
        dev: DevNum { major: 259, minor: n },
        controller: format!("nvme{n}"),
        serial: format!("AWS{n}"),
        state: "live".into(),
        sectors: 1 << 23,
        logical_block: 512,
        content: content.clone(),
        ..Drive::default()
    });
    let mut inventory = Inventory { drives: drives.collect(), ..Inventory::default() };
    inventory.target.path = "/tmp".into();
    inventory.target.kind = TargetKind::Directory;
    inventory.target.mode = Some(0o1777);
    inventory.host.mkfs = vec!["ext4".into(), "xfs".into()];
    inventory.host.systemd = true;
    inventory.fresh.array = Uuid::from_u128(0xa);
    inventory.fresh.filesystem = Uuid::from_u128(0xb);
    inventory.files.mdadm_conf_path = "/etc/mdadm.conf".into();
    inventory.files.fstab = Some("UUID=0aa0 / ext4 defaults 0 1\n".into());
    inventory
}

pub(super) fn member(role: u32, of: u32) -> Content {
    Content::Member(Member {
        set_uuid: SET,
        device_uuid: Uuid::from_u128(u128::from(role) + 1),
        set_name: "any:md0".into(),
        level: 0,
        raid_disks: of,
        role: Some(role),
        chunk_sectors: 1024,
        events: 0,
        data_offset: 10240,
        data_size: (1 << 23) - 10240,
    })
}

pub(super) fn filesystem(label: Option<&str>) -> Content {
    Content::Filesystem(Filesystem {
        kind: "ext4".into(),
        uuid: FS.to_string(),
        label: label.map(str::to_owned),
    })
}

pub(super) fn foreign(signature: &str) -> Content {
    Content::Foreign { signature: signature.into() }
}

/// An array of the machine's first `members` drives.
pub(super) fn array(name: &str, state: &str, members: u32, content: Content) -> Array {
    Array {
        name: name.into(),
        dev: DevNum { major: 9, minor: name[2..].parse().unwrap_or(0) },
        level: "raid0".into(),
        state: state.into(),
        raid_disks: members,
        chunk_bytes: 512 << 10,
        sectors: 1 << 24,
        uuid: Some(SET),
        members: (1..=members).map(|n| format!("nvme{n}n1")).collect(),
        member_states: vec!["in_sync".into(); members as usize],
        read_only: state == "readonly",
        content,
        uses: Vec::new(),
    }
}

/// The machine with a complete set of `n` drives that runs as `name` and carries `content`.
pub(super) fn running(n: u32, name: &str, content: Content) -> Inventory {
    let members: Vec<Content> = (0..n).map(|role| member(role, n)).collect();
    let mut inventory = machine(&members);
    inventory.arrays.push(array(name, "readonly", n, content));
    for drive in &mut inventory.drives {
        drive.uses.push(Use::Holder { name: name.into() });
    }
    inventory
}

pub(super) fn mount(source: &str, dev: DevNum, at: &str, fs_type: &str) -> Mount {
    Mount {
        id: 100,
        parent: 1,
        dev,
        root: "/".into(),
        at: at.into(),
        fs_type: fs_type.into(),
        source: source.into(),
        options: "rw,nosuid,nodev,noatime".into(),
        super_options: "rw".into(),
    }
}

pub(super) fn identity(serials: &[&str], array_uuid: Option<Uuid>) -> Identity {
    Identity {
        version: 1,
        serials: serials.iter().map(|s| (*s).to_string()).collect(),
        array_uuid,
        fs_uuid: FS,
        filesystem: "ext4".into(),
        target: "/tmp".into(),
        wiping: false,
    }
}

pub(super) fn planned(inventory: &Inventory) -> Plan {
    plan(inventory, &Config::default()).unwrap_or_else(|refusal| panic!("refused: {refusal}"))
}

pub(super) fn refused(inventory: &Inventory) -> Refusal {
    plan(inventory, &Config::default()).expect_err("must be refused")
}

pub(super) fn names(plan: &Plan) -> Vec<&'static str> {
    plan.steps.iter().map(Step::name).collect()
}

/// The UUIDs that the plan makes: array, filesystem.
pub(super) fn made(plan: &Plan) -> (Option<Uuid>, Option<Uuid>) {
    let array = plan.steps.iter().find_map(|s| match s {
        Step::CreateArray { uuid, .. } => Some(*uuid),
        _ => None,
    });
    let fs = plan.steps.iter().find_map(|s| match s {
        Step::MakeFilesystem { uuid, .. } => Some(*uuid),
        _ => None,
    });
    (array, fs)
}

pub(super) fn wiping() -> Config {
    Config { wipe_foreign: true, ..Config::default() }
}
