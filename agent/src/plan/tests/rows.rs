//! The rows of the decision table.

use super::*;

const CREATE: [&str; 7] =
    ["make-filesystem", "stage", "prepare", "clear-intent", "expose", "record-set", "fstab"];

#[test]
fn no_drive_is_absent_and_writes_nothing() {
    let plan = planned(&machine(&[]));
    assert_eq!(plan.outcome, Outcome::Absent);
    assert!(plan.steps.is_empty());
}

#[test]
fn fewer_drives_than_expected_is_missing_even_with_none() {
    for n in [0, 1] {
        let config = Config { expect_drives: 2, ..Config::default() };
        let refusal = plan(&machine(&vec![Content::Blank; n]), &config).unwrap_err();
        assert_eq!(refusal.reason, Reason::DriveMissing);
        assert!(refusal.found[0].contains("expected 2"), "{refusal}");
    }
}

#[test]
fn a_function_without_a_live_controller_is_waited_for() {
    let mut inventory = machine(&[Content::Blank]);
    inventory
        .pending
        .push(crate::observe::Pending { address: "0000:00:1f.0".into(), why: "no driver bound".into() });
    let refusal = refused(&inventory);
    assert_eq!(refusal.reason, Reason::DriveMissing);
    assert!(refusal.to_string().contains("0000:00:1f.0"));
}

#[test]
fn one_blank_drive_gets_a_filesystem_without_md() {
    let plan = planned(&machine(&[Content::Blank]));
    assert_eq!(plan.outcome, Outcome::Create);
    assert_eq!(names(&plan)[..2], ["record-intent", "make-filesystem"]);
    assert_eq!(plan.promise.unwrap().device, "nvme1n1");
}

#[test]
fn blank_drives_become_one_array_in_the_order_of_the_design() {
    let plan = planned(&machine(&[Content::Blank, Content::Blank, Content::Blank]));
    assert_eq!(plan.outcome, Outcome::Create);
    assert_eq!(names(&plan)[..2], ["record-intent", "create-array"]);
    assert_eq!(names(&plan)[2..9], CREATE);
    let Some(Step::CreateArray { members, name, .. }) = plan.steps.get(1) else { panic!("{:?}", plan.steps) };
    assert_eq!(name, "any:md0");
    assert_eq!(members.iter().map(|m| m.serial.as_str()).collect::<Vec<_>>(), ["AWS1", "AWS2", "AWS3"]);
    assert_eq!(made(&plan), (Some(Uuid::from_u128(0xa)), Some(Uuid::from_u128(0xb))));
}

#[test]
fn another_array_keeps_its_md0() {
    let mut inventory = machine(&[Content::Blank, Content::Blank]);
    inventory
        .arrays
        .push(Array { members: vec!["sda".into()], ..array("md0", "clean", 0, Content::Unexamined) });
    let plan = planned(&inventory);
    assert_eq!(plan.promise.unwrap().device, "md1");
}

/// What bringing the device up would refuse: the minor counts, not the name alone, and an array that is not `clear`.
#[test]
fn a_minor_that_is_taken_is_not_planned() {
    let others = [
        Array { name: "md_home".into(), ..array("md0", "clean", 0, Content::Unexamined) },
        array("md0", "inactive", 0, Content::Unexamined),
    ];
    for other in others {
        for contents in [[Content::Blank, Content::Blank], [member(0, 2), member(1, 2)]] {
            let mut inventory = machine(&contents);
            inventory.arrays.push(Array { uuid: None, ..other.clone() });
            let plan = planned(&inventory);
            let named = plan.steps.iter().find_map(|s| match s {
                Step::CreateArray { array, .. } | Step::AssembleArray { array, .. } => Some(array.as_path()),
                _ => None,
            });
            assert_eq!(named, Some(std::path::Path::new("/dev/md1")));
        }
    }
}

/// `md01` is a name that the kernel does not make.
#[test]
fn a_set_gets_the_name_that_it_carries_where_that_is_one() {
    for (carried, expected) in
        [("any:md7", "/dev/md7"), ("host:md01", "/dev/md0"), ("md1000", "/dev/md0"), ("data", "/dev/md0")]
    {
        let contents = [member(0, 2), member(1, 2)].map(|content| {
            let Content::Member(mut m) = content else { unreachable!() };
            m.set_name = carried.into();
            Content::Member(m)
        });
        let plan = planned(&machine(&contents));
        let Some(Step::AssembleArray { array, .. }) = plan.steps.first() else { panic!("{:?}", plan.steps) };
        assert_eq!(array, std::path::Path::new(expected), "{carried}");
    }
}

#[test]
fn unknown_data_is_blank_in_the_first_boot_only() {
    for contents in [vec![Content::Unknown], vec![Content::Blank, Content::Unknown]] {
        let mut inventory = machine(&contents);
        assert_eq!(refused(&inventory).reason, Reason::UnknownData);
        inventory.host.first_boot = true;
        let plan = planned(&inventory);
        assert_eq!(plan.outcome, Outcome::Create);
        let lazy = plan.steps.iter().any(|s| matches!(s, Step::MakeFilesystem { blank: true, .. }));
        assert!(!lazy, "old transactions may be replayed from a journal over unknown data");
    }
}

#[test]
fn a_complete_set_is_assembled_before_it_is_judged() {
    let plan = planned(&machine(&[member(1, 2), member(0, 2)]));
    assert_eq!((plan.outcome, plan.look_again), (Outcome::Assemble, true));
    let Some(Step::AssembleArray { members, uuid, .. }) = plan.steps.first() else {
        panic!("{:?}", plan.steps)
    };
    assert_eq!(*uuid, SET);
    assert_eq!(members.iter().map(|m| m.serial.as_str()).collect::<Vec<_>>(), ["AWS2", "AWS1"], "by role");
}

#[test]
fn an_array_that_udev_half_assembled_is_stopped_first() {
    let mut inventory = machine(&[member(0, 2), member(1, 2)]);
    inventory.arrays.push(array("md127", "inactive", 1, Content::Unexamined));
    inventory.drives[0].uses.push(Use::Holder { name: "md127".into() });
    assert_eq!(names(&planned(&inventory)), ["stop-array", "assemble-array"]);
}

#[test]
fn our_array_under_another_name_is_taken_as_it_is() {
    let plan = planned(&running(2, "md127", filesystem(Some("nvme-tmp"))));
    assert_eq!(plan.outcome, Outcome::Adopt);
    assert_eq!(names(&plan)[..2], ["read-write", "stage"]);
    assert_eq!(plan.promise.unwrap().device, "md127");
}

#[test]
fn a_missing_member_is_named_and_never_recreated() {
    let mut inventory = machine(&[member(0, 2)]);
    inventory.record = Some(identity(&["AWS1", "AWS9"], Some(SET)));
    let refusal = refused(&inventory);
    assert_eq!(refusal.reason, Reason::MemberMissing);
    assert!(refusal.to_string().contains("AWS9"), "{refusal}");
    assert!(refusal.to_string().contains("role 1 is missing"), "{refusal}");
}

#[test]
fn a_stripe_that_is_gone_is_rebuilt_only_with_evidence_that_it_is_ours() {
    let mut inventory = machine(&[member(0, 2), Content::Blank]);
    assert_eq!(refused(&inventory).reason, Reason::ForeignData);
    inventory.record = Some(identity(&["AWS1", "AWS9"], Some(SET)));
    let plan = planned(&inventory);
    assert_eq!(plan.outcome, Outcome::Recreate);
    assert!(plan.notes.iter().any(|n| n.starts_with("REBUILD")), "{:?}", plan.notes);
    assert_eq!(made(&plan), (Some(SET), Some(FS)), "systemd waits for the UUIDs that fstab names");
}

#[test]
fn a_member_with_unknown_data_beside_it_may_be_a_damaged_superblock() {
    let mut inventory = machine(&[member(0, 2), Content::Unknown]);
    inventory.record = Some(identity(&["AWS1", "AWS2"], Some(SET)));
    inventory.host.first_boot = true;
    assert_eq!(refused(&inventory).reason, Reason::ForeignData);
}

#[test]
fn inconsistent_sets_are_refused() {
    let other = |change: fn(&mut Member)| {
        let Content::Member(mut m) = member(1, 2) else { unreachable!() };
        change(&mut m);
        machine(&[member(0, 2), Content::Member(m)])
    };
    let cases = [
        other(|m| m.set_uuid = Uuid::from_u128(7)),
        other(|m| m.role = Some(0)),
        other(|m| m.role = None),
        other(|m| m.role = Some(900)),
        other(|m| m.raid_disks = 3),
        other(|m| m.chunk_sectors = 8),
    ];
    for inventory in cases {
        assert_eq!(refused(&inventory).reason, Reason::ArrayInconsistent);
        let wiped = plan(&inventory, &wiping()).unwrap();
        assert_eq!(names(&wiped)[..4], ["record-intent", "wipe", "record-intent", "create-array"]);
    }
}

#[test]
fn a_hostile_raid_disks_costs_no_memory() {
    let Content::Member(mut m) = member(0, 2) else { unreachable!() };
    m.raid_disks = u32::MAX;
    assert_eq!(refused(&machine(&[Content::Member(m)])).reason, Reason::ArrayInconsistent);
}

#[test]
fn a_filesystem_without_evidence_is_somebodys_data() {
    for inventory in [machine(&[filesystem(None)]), running(2, "md0", filesystem(Some("data")))] {
        let refusal = refused(&inventory);
        assert_eq!(refusal.reason, Reason::ForeignData);
        assert!(refusal.to_string().contains("--adopt"), "{refusal}");
        let config = Config { adopt: true, ..Config::default() };
        let plan = plan(&inventory, &config).unwrap();
        assert_eq!(plan.outcome, Outcome::Adopt);
        assert!(!names(&plan).contains(&"make-filesystem"));
    }
}

#[test]
fn each_evidence_adopts() {
    let fstab = |line: &str| {
        let line = format!("{line} /tmp ext4 defaults,noatime,nofail 0 2\n");
        move |i: &mut Inventory| i.files.fstab = Some(line.clone())
    };
    let adopts = |mut inventory: Inventory, change: &dyn Fn(&mut Inventory)| {
        change(&mut inventory);
        plan(&inventory, &Config::default()).is_ok_and(|p| p.outcome == Outcome::Adopt)
    };
    let single = || machine(&[filesystem(None)]);
    let array = || running(2, "md127", filesystem(None));
    assert!(adopts(machine(&[filesystem(Some("nvme-tmp"))]), &|_| {}));
    assert!(adopts(single(), &fstab(&format!("UUID={FS}"))));
    assert!(adopts(array(), &fstab(&format!("UUID={FS}"))));
    assert!(adopts(single(), &fstab("/dev/nvme4n1")), "numbers move, there is no other candidate");
    assert!(adopts(array(), &fstab("/dev/md0")), "md names move");
    assert!(adopts(array(), &fstab("/dev/md/ip-10-0-0-1:md0")));
    assert!(adopts(single(), &|i| i.record = Some(identity(&["AWS1"], None))));
    assert!(!adopts(single(), &fstab("UUID=dead-beef")));
    assert!(!adopts(array(), &fstab("/dev/nvme1n1")));
    let elsewhere = |i: &mut Inventory| i.files.fstab = Some(format!("UUID={FS} /data ext4 defaults 0 2\n"));
    assert!(!adopts(single(), &elsewhere));
}

#[test]
fn what_fstab_puts_elsewhere_is_not_taken_for_its_label() {
    let with = |fstab: String| {
        let mut inventory = machine(&[filesystem(Some("nvme-tmp"))]);
        inventory.record = Some(identity(&["AWS1"], None));
        inventory.files.fstab = Some(fstab);
        inventory
    };
    let moved = with(format!("# a comment\nUUID={FS} /data ext4 defaults 0 2\n"));
    let refusal = refused(&moved);
    assert_eq!(refusal.reason, Reason::ForeignData);
    assert!(refusal.to_string().contains("fstab, line 2, puts it at /data"), "{refusal}");
    // An EBS volume may have had this name when the line was written.
    assert_eq!(planned(&with("/dev/nvme1n1 /data ext4 defaults 0 2\n".into())).outcome, Outcome::Adopt);
    let both = with(format!("UUID={FS} /data ext4 defaults 0 2\nUUID={FS} /tmp ext4 defaults 0 2\n"));
    assert_eq!(planned(&both).outcome, Outcome::Adopt);
}

#[test]
fn a_label_for_another_target_is_no_evidence() {
    let config = Config { target: "/opt/data".into(), ..Config::default() };
    let mut inventory = machine(&[filesystem(Some("nvme-tmp"))]);
    inventory.target.path = "/opt/data".into();
    assert_eq!(plan(&inventory, &config).unwrap_err().reason, Reason::ForeignData);
}

#[test]
fn foreign_signatures_are_refused_by_device_and_name_and_wiped_on_demand() {
    for inventory in [machine(&[foreign("crypto_LUKS")]), machine(&[Content::Blank, foreign("crypto_LUKS")])]
    {
        let refusal = refused(&inventory);
        assert_eq!(refusal.reason, Reason::ForeignData);
        assert!(refusal.to_string().contains("crypto_LUKS"), "{refusal}");
        let plan = plan(&inventory, &wiping()).unwrap();
        let Some(Step::Wipe { devices, .. }) = plan.steps.iter().find(|s| s.name() == "wipe") else {
            panic!("no wipe")
        };
        assert_eq!(devices.len(), 1, "blank drives need none");
    }
    let array = running(2, "md0", foreign("LVM2_member"));
    assert!(refused(&array).to_string().contains("LVM2_member"));
    let plan = plan(&array, &wiping()).unwrap();
    let expected = ["record-intent", "stop-array", "wipe", "record-intent", "create-array"];
    assert_eq!(names(&plan)[..5], expected);
    // Or else the new array shows what was on the old one, which a next run had to refuse.
    let Some(Step::Wipe { data_offset, .. }) = plan.steps.get(2) else { panic!("{plan:?}") };
    let members =
        array.drives.iter().map(|drive| crate::md::geometry::data_offset(drive.sectors, 1024) * 512);
    assert!(
        members.clone().count() == 2 && members.clone().all(|offset| *data_offset == Some(offset)),
        "{plan:?}"
    );
}

#[test]
fn xfs_on_one_of_two_is_refused_even_with_our_label() {
    let inventory = machine(&[filesystem(Some("nvme-tmp")), Content::Blank]);
    assert_eq!(refused(&inventory).reason, Reason::ForeignData);
}

#[test]
fn in_use_unreadable_and_read_only_are_refused_even_under_wipe_foreign() {
    let with = |change: fn(&mut Drive)| {
        let mut inventory = machine(&[Content::Blank, foreign("swap")]);
        change(&mut inventory.drives[1]);
        inventory
    };
    let cases = [
        (with(|d| d.uses.push(Use::Mounted { at: "/data".into() })), Reason::DriveInUse, "/data"),
        (with(|d| d.uses.push(Use::Swap)), Reason::DriveInUse, "swap in use"),
        (with(|d| d.uses.push(Use::Holder { name: "dm-0".into() })), Reason::DriveInUse, "dm-0"),
        (with(|d| d.uses.push(Use::Exclusive)), Reason::DriveInUse, "exclusively"),
        (with(|d| d.read_only = true), Reason::DriveReadOnly, "read-only"),
        (with(|d| d.content = Content::Unreadable { error: "EIO".into() }), Reason::DriveUnreadable, "EIO"),
        (with(|d| d.content = Content::Unexamined), Reason::DriveUnreadable, "not looked into"),
    ];
    for (inventory, reason, words) in cases {
        for config in [Config::default(), wiping()] {
            let refusal = plan(&inventory, &config).unwrap_err();
            assert_eq!(refusal.reason, reason);
            let text = refusal.to_string();
            assert!(text.contains(words) && text.contains("/dev/nvme2n1"), "{text}");
        }
    }
}

#[test]
fn a_running_array_that_is_mounted_elsewhere_or_held_is_in_use() {
    for by in [Use::Mounted { at: "/data".into() }, Use::Holder { name: "dm-3".into() }] {
        let mut inventory = running(2, "md0", filesystem(Some("nvme-tmp")));
        inventory.arrays[0].uses.push(by);
        assert_eq!(plan(&inventory, &wiping()).unwrap_err().reason, Reason::DriveInUse);
    }
}

#[test]
fn an_array_with_a_member_that_is_no_candidate_is_in_use() {
    let mut inventory = running(2, "md0", filesystem(Some("nvme-tmp")));
    inventory.arrays[0].members.push("nvme9n1".into());
    assert_eq!(plan(&inventory, &wiping()).unwrap_err().reason, Reason::DriveInUse);
}

#[test]
fn an_intent_licenses_redoing_with_its_uuids() {
    let half = [
        machine(&[Content::Blank, Content::Blank]),
        machine(&[member(0, 2), Content::Blank]),
        machine(&[member(0, 2), Content::Unknown]),
        running(2, "md0", Content::Blank),
        running(2, "md0", Content::Unknown),
    ];
    for mut inventory in half {
        inventory.intent = Some(identity(&["AWS2", "AWS1"], Some(SET)));
        let plan = planned(&inventory);
        assert_eq!(plan.outcome, Outcome::Finish);
        assert_eq!(made(&plan).1, Some(FS));
        if let Some(array) = made(&plan).0 {
            assert_eq!(array, SET);
        }
    }
}

/// Since the kill somebody may have mounted it, by hand or by the fstab line that a rebuild's UUID comes from.
#[test]
fn an_interrupted_runs_filesystem_is_mounted_and_never_made_again() {
    let cases = [(running(2, "md0", filesystem(None)), Some(SET)), (machine(&[filesystem(None)]), None)];
    for (mut inventory, set) in cases {
        let serials: Vec<String> = inventory.drives.iter().map(|d| d.serial.clone()).collect();
        let serials: Vec<&str> = serials.iter().map(String::as_str).collect();
        inventory.intent = Some(identity(&serials, set));
        let plan = planned(&inventory);
        assert_eq!(plan.outcome, Outcome::Finish);
        assert_eq!(made(&plan), (None, None));
        let steps = names(&plan);
        let at = |name| steps.iter().position(|step| *step == name).unwrap();
        assert!(at("prepare") < at("clear-intent") && at("clear-intent") < at("expose"), "{steps:?}");
        assert!(!steps.contains(&"wipe"));
        assert_eq!(
            made(&super::super::plan(&inventory, &wiping()).unwrap()).1,
            Some(FS),
            "given up on demand"
        );
    }
}

/// blkid takes it for whole, and the UUID is the intent's; but nobody can have mounted it.
#[test]
fn a_half_made_filesystem_is_made_again_by_the_intent_and_by_nothing_else() {
    let half_made = |uuid: Uuid| {
        Content::HalfMade(Filesystem {
            kind: "xfs".into(),
            uuid: uuid.to_string(),
            label: Some("nvme-tmp".into()),
        })
    };
    let machines = |content: Content| {
        [machine(std::slice::from_ref(&content)), running(2, "md0", content)].map(|inventory| {
            let set = (inventory.drives.len() > 1).then_some(SET);
            let serials: Vec<&str> = ["AWS1", "AWS2"][..inventory.drives.len()].to_vec();
            let intent = identity(&serials, set);
            (inventory, intent)
        })
    };
    for (mut inventory, intent) in machines(half_made(FS)) {
        assert_eq!(plan(&inventory, &wiping()).unwrap().outcome, Outcome::Create);
        // Neither our label nor fstab make it whole.
        inventory.files.fstab = Some(format!("UUID={FS} /tmp xfs defaults 0 0\n"));
        for adopt in [false, true] {
            let config = Config { adopt, ..Config::default() };
            let refusal = plan(&inventory, &config).unwrap_err();
            assert_eq!(refusal.reason, Reason::ForeignData);
            assert!(refusal.to_string().contains("did not finish"), "{refusal}");
        }
        inventory.intent = Some(intent);
        inventory.files.fstab = None;
        let plan = planned(&inventory);
        assert_eq!((plan.outcome, made(&plan).1), (Outcome::Finish, Some(FS)));
        let lazy = plan.steps.iter().any(|s| matches!(s, Step::MakeFilesystem { blank: true, .. }));
        assert!(!lazy);
    }
    for (mut inventory, intent) in machines(half_made(Uuid::from_u128(9))) {
        inventory.intent = Some(intent);
        assert_eq!(refused(&inventory).reason, Reason::ForeignData, "somebody else's mkfs");
    }
}

/// What is on an array that does not run is anybody's guess: our half-made one may carry a filesystem by now.
#[test]
fn an_interrupted_runs_array_is_looked_into_before_anything_is_written() {
    let mut inventory = machine(&[member(0, 2), member(1, 2)]);
    inventory.intent = Some(identity(&["AWS1", "AWS2"], Some(SET)));
    let plan = planned(&inventory);
    assert!(plan.look_again);
    assert_eq!(names(&plan), ["assemble-array"]);
    for content in [foreign("LVM2_member"), Content::Filesystem(other_filesystem())] {
        let mut inventory = running(2, "md0", content);
        inventory.intent = Some(identity(&["AWS1", "AWS2"], Some(SET)));
        assert_eq!(refused(&inventory).reason, Reason::ForeignData);
    }
}

fn other_filesystem() -> Filesystem {
    Filesystem { kind: "ext4".into(), uuid: Uuid::from_u128(9).to_string(), label: None }
}

/// systemd mounted by fstab what a run that was killed had made: users see it, and the licence to redo it must go.
#[test]
fn an_intent_goes_when_its_filesystem_is_mounted_at_the_target() {
    let mut inventory = running(2, "md0", filesystem(Some("nvme-tmp")));
    inventory.mounts.push(mount("/dev/md0", inventory.arrays[0].dev, "/tmp", "ext4"));
    inventory.intent = Some(identity(&["AWS1", "AWS2"], Some(SET)));
    assert!(names(&planned(&inventory)).contains(&"clear-intent"));
}

fn intents<'a>(plan: &'a Plan) -> Vec<&'a Identity> {
    let intent = |step: &'a Step| match step {
        Step::RecordIntent { intent } => Some(intent),
        _ => None,
    };
    plan.steps.iter().filter_map(intent).collect()
}

#[test]
fn a_wipe_that_was_killed_goes_on_with_its_uuids() {
    let before = [foreign("gpt"), member(0, 2), filesystem(None), Content::Unknown];
    for (one, two) in before.iter().flat_map(|a| before.iter().map(move |b| (a, b))) {
        let first = plan(&machine(&[one.clone(), two.clone()]), &wiping());
        // Unknown data alone is refused, or the policy's business.
        let Ok(first) = first else { continue };
        let [wiping_first, then] = intents(&first)[..] else { panic!("{:?}", names(&first)) };
        assert!(wiping_first.wiping && !then.wiping);
        assert_eq!(*then, Identity { wiping: false, ..wiping_first.clone() });
        for (one, two) in [(one, two), (&Content::Blank, two), (one, &Content::Unknown)] {
            let mut inventory = machine(&[one.clone(), two.clone()]);
            inventory.intent = Some(wiping_first.clone());
            inventory.fresh.array = Uuid::from_u128(0xaa);
            inventory.fresh.filesystem = Uuid::from_u128(0xbb);
            let again = plan(&inventory, &wiping()).unwrap();
            assert_eq!(made(&again), made(&first), "{one:?} {two:?}");
            // Not by itself, where a signature is left.
            if [one, two].iter().any(|c| matches!(c, Content::Foreign { .. })) {
                assert_eq!(refused(&inventory).reason, Reason::ForeignData);
            }
        }
    }
}

/// Something may have been made with them, and lie below what is wiped now: found again, it would be taken for whole.
#[test]
fn a_wipe_uses_no_uuids_that_may_be_on_the_drives() {
    let contents = [foreign("gpt"), member(0, 2)];
    let cases = [
        identity(&["AWS1", "AWS2"], Some(SET)),
        Identity { wiping: true, target: "/data".into(), ..identity(&["AWS1", "AWS2"], Some(SET)) },
        Identity { wiping: true, ..identity(&["AWS1", "AWS8", "AWS9"], Some(SET)) },
    ];
    for intent in cases {
        let mut inventory = machine(&contents);
        inventory.intent = Some(intent);
        let plan = plan(&inventory, &wiping());
        assert!(plan.as_ref().is_ok_and(|p| made(p).1 != Some(FS)) || plan.is_err());
    }
}

#[test]
fn an_intent_licenses_nothing_else() {
    let mut inventory = machine(&[filesystem(None)]);
    inventory.intent = Some(Identity { fs_uuid: Uuid::from_u128(1), ..identity(&["AWS1"], None) });
    assert_eq!(refused(&inventory).reason, Reason::ForeignData, "another filesystem than the intent's");
    let mut inventory = machine(&[foreign("gpt"), Content::Blank]);
    inventory.intent = Some(identity(&["AWS1", "AWS2"], Some(SET)));
    assert_eq!(refused(&inventory).reason, Reason::ForeignData);
    let mut inventory = machine(&[filesystem(None)]);
    inventory.intent = Some(identity(&["AWS8"], None));
    assert_eq!(refused(&inventory).reason, Reason::ForeignData, "other drives");
}

#[test]
fn a_stale_intent_is_removed_and_an_incomplete_one_waits() {
    let mut inventory = machine(&[Content::Blank]);
    inventory.intent = Some(identity(&["AWS8"], None));
    let plan = planned(&inventory);
    assert_eq!(names(&plan)[..2], ["drop-stale-intent", "record-intent"]);
    assert_ne!(made(&plan).1, Some(FS), "its UUIDs are another instance's");
    inventory.intent = Some(identity(&["AWS1", "AWS2"], Some(SET)));
    assert_eq!(refused(&inventory).reason, Reason::MemberMissing);
}

#[test]
fn a_mounted_target_is_kept_and_never_made() {
    let mut inventory = running(2, "md127", filesystem(None));
    inventory.mounts.push(mount("/dev/md127", DevNum { major: 9, minor: 127 }, "/tmp", "ext4"));
    inventory.arrays[0].uses.push(Use::Mounted { at: "/tmp".into() });
    let plan = plan(&inventory, &wiping()).unwrap();
    assert_eq!(plan.outcome, Outcome::Keep);
    assert_eq!(names(&plan), ["record-set", "fstab", "tmpfiles", "reload-systemd"]);
}

#[test]
fn what_the_old_script_left_wrong_on_a_mounted_target_is_put_right() {
    let mut inventory = machine(&[filesystem(None)]);
    let mut old = mount("/dev/nvme1n1", DevNum { major: 259, minor: 1 }, "/tmp", "ext4");
    old.options = "rw,relatime".into();
    inventory.mounts.push(old);
    inventory.target.mode = Some(0o755);
    let plan = planned(&inventory);
    assert_eq!(names(&plan)[..2], ["remount", "directories"]);
}

#[test]
fn an_option_that_the_configuration_drops_goes_but_not_one_that_somebody_added_by_hand() {
    let mut inventory = machine(&[filesystem(None)]);
    let mut hardened = mount("/dev/nvme1n1", DevNum { major: 259, minor: 1 }, "/tmp", "ext4");
    hardened.options = "rw,noatime,nosuid,nodev,noexec".into();
    inventory.mounts.push(hardened);
    inventory.target.mode = Some(0o1777);
    let ours = |options: &str| {
        format!("UUID={FS} /tmp ext4 {options},nofail,x-systemd.device-timeout=90s,x-nvme-agent 0 0\n")
    };
    inventory.files.fstab = Some(ours("noatime,nosuid,nodev"));
    assert!(!names(&planned(&inventory)).contains(&"remount"));
    inventory.files.fstab = Some(ours("noatime,nosuid,nodev,noexec"));
    assert_eq!(names(&planned(&inventory))[0], "remount");
}

#[test]
fn another_mount_at_the_target_is_refused_but_the_distributions_tmpfs_is_covered() {
    let dev = DevNum { major: 259, minor: 77 };
    let mut inventory = machine(&[Content::Blank]);
    inventory.mounts.push(mount("/dev/nvme7n1", dev, "/tmp", "xfs"));
    let refusal = refused(&inventory);
    assert_eq!(refusal.reason, Reason::TargetUnsuitable);
    assert!(refusal.to_string().contains("/dev/nvme7n1"), "{refusal}");
    let mut inventory = machine(&[Content::Blank]);
    inventory.mounts.push(mount("tmpfs", DevNum::default(), "/tmp", "tmpfs"));
    assert_eq!(planned(&inventory).outcome, Outcome::Create);
    inventory.mounts.insert(0, mount("/dev/nvme1n1", DevNum { major: 259, minor: 1 }, "/tmp", "ext4"));
    assert_eq!(refused(&inventory).reason, Reason::TargetUnsuitable, "ours is hidden by somebody");
}

#[test]
fn a_target_that_is_a_file_or_a_link_is_refused_and_a_missing_one_is_made() {
    let mut inventory = machine(&[Content::Blank]);
    for kind in [TargetKind::File, TargetKind::Symlink, TargetKind::Other] {
        inventory.target.kind = kind;
        assert_eq!(refused(&inventory).reason, Reason::TargetUnsuitable);
    }
    inventory.target.kind = TargetKind::Missing;
    assert!(names(&planned(&inventory)).contains(&"create-target"));
}

#[test]
fn no_mkfs_no_intent() {
    let mut inventory = machine(&[Content::Blank]);
    inventory.host.mkfs = vec!["xfs".into()];
    let refusal = refused(&inventory);
    assert_eq!(refusal.reason, Reason::MkfsMissing);
    assert!(refusal.to_string().contains("e2fsprogs"), "{refusal}");
}

/// Else it would be noticed when the filesystem has been made, and drives and intent were left so.
#[test]
fn a_kernel_that_cannot_put_a_mount_in_place_is_refused_before_anything_is_written() {
    let machines = [
        machine(&[Content::Blank]),
        machine(&[member(0, 2), member(1, 2)]),
        running(2, "md0", filesystem(Some("nvme-tmp"))),
    ];
    for mut inventory in machines {
        for old in ["4.14.355-275.603.amzn2.x86_64", "5.1.21", "3.10.0"] {
            inventory.host.kernel = old.into();
            for config in [Config::default(), wiping()] {
                let refusal = plan(&inventory, &config).unwrap_err();
                assert_eq!(refusal.reason, Reason::KernelTooOld);
                let text = refusal.to_string();
                assert!(text.contains(old) && text.contains("expected 5.2"), "{text}");
            }
        }
        for new in ["5.2.0", "5.10.1", "6.12.48-cloud", "10.0", "", "unknown"] {
            inventory.host.kernel = new.into();
            planned(&inventory);
        }
    }
    // Nothing is to be put anywhere.
    let mut absent = machine(&[]);
    absent.host.kernel = "4.14.1".into();
    assert_eq!(planned(&absent).outcome, Outcome::Absent);
    let mut kept = running(2, "md0", filesystem(None));
    kept.mounts.push(mount("/dev/md0", kept.arrays[0].dev, "/tmp", "ext4"));
    kept.host.kernel = "4.14.1".into();
    assert_eq!(planned(&kept).outcome, Outcome::Keep);
}

#[test]
fn a_set_of_another_level_is_looked_into_and_never_rebuilt() {
    let raid10 = |role| {
        let Content::Member(mut m) = member(role, 2) else { unreachable!() };
        m.level = 10;
        Content::Member(m)
    };
    assert_eq!(planned(&machine(&[raid10(0), raid10(1)])).outcome, Outcome::Assemble);
    let mut inventory = machine(&[raid10(0), Content::Blank]);
    inventory.record = Some(identity(&["AWS1", "AWS2"], Some(SET)));
    assert_eq!(refused(&inventory).reason, Reason::ForeignData);
}

#[test]
fn a_partition_table_nobody_uses_is_a_signature_and_not_a_use() {
    let with = |content| {
        let mut inventory = machine(&[content, Content::Blank]);
        inventory.drives[0].uses.push(Use::Partitions { names: vec!["nvme1n1p1".into()] });
        inventory
    };
    let gpt = with(foreign("gpt"));
    let refusal = refused(&gpt);
    assert_eq!(refusal.reason, Reason::ForeignData);
    assert!(refusal.to_string().contains("`gpt`"), "{refusal}");
    assert!(names(&plan(&gpt, &wiping()).unwrap()).contains(&"wipe"));
    // Partitions without a table that we can see: somebody knows more than we do.
    assert_eq!(plan(&with(Content::Blank), &wiping()).unwrap_err().reason, Reason::DriveInUse);
    let mut mounted = gpt;
    mounted.drives[0].uses.push(Use::Mounted { at: "/data".into() });
    assert_eq!(plan(&mounted, &wiping()).unwrap_err().reason, Reason::DriveInUse);
}

#[test]
fn so_is_one_on_an_array_of_the_drives() {
    let mut inventory = running(2, "md9", foreign("gpt"));
    inventory.arrays[0].uses.push(Use::Partitions { names: vec!["md9p1".into()] });
    let refusal = refused(&inventory);
    assert_eq!(refusal.reason, Reason::ForeignData);
    assert!(refusal.to_string().contains("/dev/md9") && refusal.to_string().contains("`gpt`"), "{refusal}");
    let plan = plan(&inventory, &wiping()).unwrap();
    assert_eq!(names(&plan)[1..3], ["stop-array", "wipe"]);
    inventory.arrays[0].uses.push(Use::Mounted { at: "/data".into() });
    assert_eq!(super::plan(&inventory, &wiping()).unwrap_err().reason, Reason::DriveInUse);
}

#[test]
fn unknown_data_that_counts_as_blank_is_wiped_first() {
    for contents in [vec![Content::Unknown], vec![Content::Unknown, Content::Blank]] {
        let mut inventory = machine(&contents);
        inventory.host.first_boot = true;
        let plan = planned(&inventory);
        let Some(Step::Wipe { devices, .. }) = plan.steps.get(1) else { panic!("{:?}", names(&plan)) };
        assert_eq!(devices.len(), 1);
    }
}

#[test]
fn a_label_of_the_operators_choice_is_no_evidence() {
    let config = Config { label: "data".into(), ..Config::default() };
    let inventory = machine(&[filesystem(Some("data"))]);
    assert_eq!(plan(&inventory, &config).unwrap_err().reason, Reason::ForeignData);
}

#[test]
fn wipe_foreign_gives_up_a_broken_foreign_set_but_waits_for_a_member_of_ours() {
    let mut inventory = machine(&[member(0, 2)]);
    assert_eq!(plan(&inventory, &wiping()).unwrap().outcome, Outcome::Create);
    inventory.record = Some(identity(&["AWS1", "AWS9"], Some(SET)));
    assert_eq!(plan(&inventory, &wiping()).unwrap_err().reason, Reason::MemberMissing);
}

#[test]
fn an_empty_md_node_that_a_killed_run_left_is_used_again() {
    let mut inventory = machine(&[Content::Blank, Content::Blank]);
    inventory.arrays.push(Array { members: Vec::new(), ..array("md0", "clear", 0, Content::Unexamined) });
    assert_eq!(planned(&inventory).promise.unwrap().device, "md0");
}
