//! The rows about md sets: complete, half assembled, with members missing or blank.

use super::*;

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
fn wipe_foreign_gives_up_a_broken_foreign_set_but_waits_for_a_member_of_ours() {
    let mut inventory = machine(&[member(0, 2)]);
    assert_eq!(plan(&inventory, &wiping()).unwrap().outcome, Outcome::Create);
    inventory.record = Some(identity(&["AWS1", "AWS9"], Some(SET)));
    assert_eq!(plan(&inventory, &wiping()).unwrap_err().reason, Reason::MemberMissing);
}
