//! The rows about what is somebody's: signatures, and drives in use.

use super::*;

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
