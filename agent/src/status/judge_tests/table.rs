//! The table of rules against what the tests of each subject produce.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use super::{array, drives, mount, persistence};

fn cases() -> impl Iterator<Item = &'static Case> {
    [drives::CASES, array::CASES, mount::CASES, persistence::CASES].into_iter().flatten()
}

/// What needs more than a change to a machine that is ready: tried in `setup`, and the warnings by their subjects.
const ELSEWHERE: [&str; 8] = [
    "NotSetUp",
    "StateOfAnotherBoot",
    "StateUnreadable",
    "DrivesAppeared",
    "SpaceLow",
    "InodesLow",
    "DriveWorn",
    "RegistrationChanged",
];

#[test]
fn every_rule_of_the_live_machine_is_made_by_a_fact_and_every_fact_has_a_rule() {
    let made: BTreeSet<&str> = cases().flat_map(|Case(_, _, _, codes, _)| codes.iter().copied()).collect();
    let tried: BTreeSet<&str> = made.iter().copied().chain(ELSEWHERE).collect();
    assert_eq!(tried.len(), made.len() + ELSEWHERE.len());
    assert_eq!(tried, rules::live::RULES.iter().map(|rule| rule.code).collect());
}

proptest! {
    /// Whatever comes together: no panic, the worst is first, and nothing that is wrong is called ready.
    #[test]
    fn facts_that_come_together_are_all_judged(
        n in 1_usize..4,
        chosen in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        degraded in any::<bool>(),
    ) {
        let (mut state, mut live) = machine(n);
        if degraded {
            (state.state, state.reason) = (Health::Degraded, "Incomplete".into());
        }
        let all: Vec<&Case> = cases().filter(|Case(_, needs, ..)| *needs <= n).collect();
        let mut applied = 0;
        for Case(.., change) in chosen.iter().map(|index| *index.get(&all)) {
            // What one takes away another cannot change.
            let (mut state_then, mut live_then) = (state.clone(), live.clone());
            let done = std::panic::catch_unwind(move || {
                change(&mut state_then, &mut live_then);
                (state_then, live_then)
            });
            if let Ok(then) = done {
                (state, live) = then;
                applied += 1;
            }
        }
        let report = report(&state, &live);
        let states: Vec<u8> = report.findings.iter().map(|finding| finding.state.exit_code()).collect();
        prop_assert!(states.is_sorted_by(|a, b| a >= b), "{states:?}");
        // Of several, one may undo what another did.
        match applied {
            0 => prop_assert_eq!(report.state == Verdict::Ready, !degraded, "{:?}", report),
            1 => prop_assert!(report.state != Verdict::Ready, "{:?}", report),
            _ => {}
        }
        for finding in &report.findings {
            prop_assert!(rules::find(&finding.reason).is_some() && !finding.next.is_empty());
        }
    }
}
