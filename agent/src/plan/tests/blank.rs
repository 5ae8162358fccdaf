//! The rows of the decision table: no drives, blank ones, unknown data, what making needs.

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
fn an_empty_md_node_that_a_killed_run_left_is_used_again() {
    let mut inventory = machine(&[Content::Blank, Content::Blank]);
    inventory.arrays.push(Array { members: Vec::new(), ..array("md0", "clear", 0, Content::Unexamined) });
    assert_eq!(planned(&inventory).promise.unwrap().device, "md0");
}
