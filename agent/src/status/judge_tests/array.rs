//! The array that carries the filesystem.

use super::*;
use Verdict::Failed;

fn md0(live: &mut Live) -> &mut Array {
    &mut live.arrays.as_mut().unwrap()[0]
}

pub(super) const CASES: &[Case] = &[
    Case("it is gone", 2, Failed, &["ArrayStopped"], |_, live| live.arrays.as_mut().unwrap().clear()),
    Case("it is inactive", 2, Failed, &["ArrayStopped"], |_, live| md0(live).state = "inactive".into()),
    Case("it has no state", 2, Failed, &["ArrayStopped"], |_, live| md0(live).state.clear()),
    Case("the kernel calls it broken", 2, Failed, &["ArrayBroken"], |_, live| {
        md0(live).state = "broken".into();
    }),
    Case("it lost a member", 2, Failed, &["ArrayBroken"], |_, live| {
        md0(live).members.pop();
    }),
    Case("a member is faulty", 2, Failed, &["ArrayBroken"], |_, live| {
        md0(live).member_states = vec!["in_sync".into(), "faulty,blocked".into()];
    }),
    Case("it went read-only", 2, Failed, &["ArrayReadOnly"], |_, live| md0(live).read_only = true),
    Case("another array took its name", 2, Failed, &["ArrayReplaced"], |_, live| {
        md0(live).uuid = Some(Uuid::from_u128(7));
    }),
    Case("a drive was pulled", 2, Failed, &["DriveLost", "ArrayBroken", "MountReadOnly"], |_, live| {
        live.drives.as_mut().unwrap().pop();
        md0(live).state = "broken".into();
        md0(live).members.pop();
        mounts(live)[2].super_options = "ro".into();
    }),
];

#[test]
fn each_fact_of_the_array_makes_its_verdict() {
    tried(CASES);
}

#[test]
fn a_faulty_member_is_named() {
    let (state, mut live) = machine(2);
    md0(&mut live).member_states = vec!["in_sync".into(), "faulty".into()];
    assert_eq!(report(&state, &live).message, "array md0 has faulty members: nvme2n1");
    md0(&mut live).member_states = vec!["in_sync".into(), "in_sync,write_mostly".into()];
    assert_eq!(verdict(&state, &live).0, Verdict::Ready);
}

#[test]
fn without_an_array_nobody_asks_for_one() {
    let (state, mut live) = machine(1);
    live.arrays = Some(vec![Array { name: "md0".into(), state: "broken".into(), ..Array::default() }]);
    assert_eq!(verdict(&state, &live).0, Verdict::Ready);
    let (state, mut live) = machine(2);
    live.arrays = None;
    assert_eq!(verdict(&state, &live).0, Verdict::Ready, "what cannot be read says nothing");
}
