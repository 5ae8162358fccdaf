use super::*;
use crate::observe::{Array, Filesystem, Member, Mount};

const SET: Uuid = Uuid::from_u128(0x0a1b_2c3d_4e5f_6071_8293_a4b5_c6d7_e8f9);
const FS: &str = "6a3c8f5e-11aa-4b7e-9c7d-0123456789ab";

fn drive(n: u32, content: Content) -> Drive {
    let dev = DevNum { major: 259, minor: n };
    Drive {
        name: format!("nvme{n}n1"),
        serial: format!("AWS{n}"),
        sectors: 8192,
        dev,
        content,
        ..Drive::default()
    }
}

fn member(set: Uuid) -> Content {
    Content::Member(Member { set_uuid: set, raid_disks: 2, ..Member::default() })
}

fn filesystem(uuid: &str) -> Content {
    Content::Filesystem(Filesystem { kind: "ext4".into(), uuid: uuid.into(), label: None })
}

fn mount(dev: DevNum, at: &str, source: &str) -> Mount {
    Mount {
        dev,
        at: at.into(),
        root: "/".into(),
        source: source.into(),
        fs_type: "ext4".into(),
        ..Mount::default()
    }
}

#[test]
fn what_an_interrupted_mkfs_left_is_ours_as_the_whole_would_be() {
    let half_made = |uuid: &str| {
        let found = Filesystem { kind: "xfs".into(), uuid: uuid.into(), label: None };
        Inventory { drives: vec![drive(1, Content::HalfMade(found))], ..Inventory::default() }
    };
    let licence = Licence { filesystems: [FS.to_owned()].into(), ..Licence::default() };
    let expect = Expect::Filesystem { kind: "xfs".into(), uuid: FS.into() };
    assert_eq!(judge(&half_made(FS), &licence).unwrap().wipe[0].1, expect);
    assert!(judge(&half_made("ffff"), &licence).unwrap().is_empty());
}

/// A node as setup leaves it: two drives, /dev/md0 on /tmp, our lines.
pub(in crate::teardown) fn node() -> Inventory {
    let md = DevNum { major: 9, minor: 0 };
    let mut drives = vec![drive(1, member(SET)), drive(2, member(SET))];
    for drive in &mut drives {
        drive.uses = vec![Use::Holder { name: "md0".into() }];
    }
    let array = Array {
        name: "md0".into(),
        dev: md,
        state: "clean".into(),
        uuid: Some(SET),
        content: filesystem(FS),
        uses: vec![Use::Mounted { at: "/tmp".into() }],
        ..Array::default()
    };
    Inventory {
        drives,
        arrays: vec![array],
        mounts: vec![mount(DevNum { major: 0, minor: 40 }, "/tmp", "tmpfs"), mount(md, "/tmp", "/dev/md0")],
        files: Files {
            fstab: Some(format!(
                "UUID=1 / xfs defaults 1 1\nUUID={FS} /tmp ext4 noatime,nofail,x-nvme-agent 0 0\n"
            )),
            mdadm_conf_path: "/etc/mdadm.conf".into(),
            mdadm_conf: Some(format!(
                "ARRAY /dev/md0 UUID={} # nvme-agent\n",
                crate::md::notation::mdadm_uuid(&SET)
            )),
            tmpfiles: Some("# nvme-agent: ours\n".into()),
            ..Files::default()
        },
        record: Some(Identity {
            version: 1,
            serials: vec!["AWS1".into(), "AWS2".into()],
            array_uuid: Some(SET),
            fs_uuid: Uuid::parse_str(FS).unwrap(),
            filesystem: "ext4".into(),
            target: "/tmp".into(),
            wiping: false,
        }),
        ..Inventory::default()
    }
}

fn judged(inventory: &Inventory) -> Result<Work, Vec<String>> {
    judge(inventory, &Licence::of(inventory, "/tmp"))
}

#[test]
fn all_of_ours_goes_in_order() {
    let work = judged(&node()).unwrap();
    assert_eq!(
        work.lines(),
        [
            "unmount /tmp",
            "stop /dev/md0",
            "wipe /dev/nvme1n1 (serial AWS1), member of md set 0a1b2c3d:4e5f6071:8293a4b5:c6d7e8f9: ITS DATA IS GONE THEN",
            "wipe /dev/nvme2n1 (serial AWS2), member of md set 0a1b2c3d:4e5f6071:8293a4b5:c6d7e8f9: ITS DATA IS GONE THEN",
            "take our line out of /etc/fstab",
            "remove /etc/mdadm.conf",
            "remove /etc/tmpfiles.d/tmp.conf",
        ]
    );
    assert_eq!(work.mounted, Some(DevNum { major: 9, minor: 0 }));
    assert_eq!(work.files[0].after.as_deref(), Some("UUID=1 / xfs defaults 1 1\n"));
}

#[test]
fn each_of_our_records_alone_is_enough_and_none_is_none() {
    let mut bare = node();
    bare.files = Files::default();
    let full = judged(&bare).unwrap();
    assert_eq!((full.stop.len(), full.wipe.len(), full.unmount.len()), (1, 2, 1), "the record");

    let mut lines = node();
    lines.record = None;
    assert_eq!(judged(&lines).unwrap().wipe.len(), 2, "fstab and mdadm.conf");

    let mut nothing = node();
    nothing.record = None;
    nothing.files = Files::default();
    assert!(judged(&nothing).unwrap().is_empty(), "no record: nobody says that it is ours");

    let mut line = node();
    line.record = None;
    line.files.mdadm_conf = None;
    assert_eq!(
        judged(&line).unwrap().wipe.len(),
        2,
        "the array that carries the filesystem of our fstab line"
    );
}

#[test]
fn other_peoples_sets_filesystems_and_lines_stay() {
    let mut inventory = node();
    inventory.drives.push(drive(3, member(Uuid::from_u128(7))));
    inventory.drives.push(drive(4, filesystem("00000000-1111-2222-3333-444444444444")));
    inventory.drives.push(drive(5, Content::Blank));
    inventory.arrays.push(Array { name: "md1".into(), uuid: Some(Uuid::from_u128(7)), ..Array::default() });
    inventory.files.tmpfiles = Some("q /tmp 1777 root root 5d\n".into());
    let work = judged(&inventory).unwrap();
    assert_eq!(work.wipe.len(), 2);
    assert_eq!(work.stop, [PathBuf::from("/dev/md0")]);
    assert!(work.files.iter().all(|f| f.path != tmpfiles::PATH));
}

#[test]
fn a_single_drive_goes_by_its_filesystem() {
    let mut inventory = node();
    inventory.arrays.clear();
    inventory.drives = vec![drive(1, filesystem(FS))];
    inventory.drives[0].uses = vec![Use::Mounted { at: "/tmp".into() }];
    inventory.mounts[1].dev = inventory.drives[0].dev;
    let work = judged(&inventory).unwrap();
    assert_eq!(work.unmount, ["/tmp"]);
    assert!(work.stop.is_empty());
    assert_eq!(work.wipe[0].1, Expect::Filesystem { kind: "ext4".into(), uuid: FS.into() });
}

#[test]
fn the_directory_on_record_counts_where_the_configuration_names_another_now() {
    let inventory = node();
    let work = judge(&inventory, &Licence::of(&inventory, "/data")).unwrap();
    assert_eq!(work.unmount, ["/tmp"]);
}

#[test]
fn ours_in_use_for_what_is_not_ours_is_refused_and_said() {
    let refused = |change: &dyn Fn(&mut Inventory), words: &[&str]| {
        let mut inventory = node();
        change(&mut inventory);
        let problems = judged(&inventory).unwrap_err().join("\n");
        assert!(words.iter().all(|word| problems.contains(word)), "{problems}");
    };
    let md = DevNum { major: 9, minor: 0 };
    refused(&|i| i.mounts.push(mount(md, "/data", "/dev/md0")), &["mounted at /data"]);
    refused(&|i| i.mounts[1].root = "/sub".into(), &["/sub of it is mounted at /tmp"]);
    refused(
        &|i| i.mounts.push(mount(DevNum::default(), "/tmp", "/dev/sdb")),
        &["/dev/sdb", "over it at /tmp"],
    );
    refused(
        &|i| i.arrays[0].content = filesystem("00000000-1111-2222-3333-444444444444"),
        &["/dev/md0", "00000000-"],
    );
    refused(
        &|i| i.arrays[0].content = Content::Foreign { signature: "LVM2_member".into() },
        &["LVM2_member"],
    );
    refused(&|i| i.arrays[0].uses.push(Use::Holder { name: "dm-0".into() }), &["/dev/md0 is held by dm-0"]);
    refused(&|i| i.drives[0].uses.push(Use::Swap), &["/dev/nvme1n1 is swap in use"]);
    refused(&|i| i.drives[1].uses.push(Use::Root), &["/dev/nvme2n1 carries the root filesystem"]);
    refused(&|i| i.drives[1].read_only = true, &["/dev/nvme2n1 (AWS2) is read-only"]);
}

#[test]
fn a_drive_that_cannot_be_looked_at_is_said() {
    let mut inventory = node();
    inventory.drives[1].content = Content::Unreadable { error: "I/O error".into() };
    inventory.drives[1].uses.clear();
    let work = judged(&inventory).unwrap();
    assert_eq!(work.wipe.len(), 1);
    assert_eq!(work.lines()[0], "not looked at: /dev/nvme2n1 (AWS2) cannot be read: I/O error");
}

#[test]
fn what_an_interrupted_teardown_left_goes_the_next_time() {
    // Stopped and half wiped.
    let mut inventory = node();
    inventory.arrays.clear();
    inventory.mounts.truncate(1);
    inventory.drives = vec![drive(1, Content::Blank), drive(2, member(SET))];
    let work = judged(&inventory).unwrap();
    assert_eq!((work.unmount.len(), work.stop.len(), work.wipe.len(), work.files.len()), (0, 0, 1, 3));
    assert!(judged(&Inventory::default()).unwrap().is_empty());
}
