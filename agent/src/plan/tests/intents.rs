//! The rows about runs that were interrupted.

use super::*;

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
