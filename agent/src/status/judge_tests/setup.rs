//! The last setup's own word, and where there is none.

use super::*;

#[test]
fn a_machine_as_setup_left_it_is_what_setup_said() {
    for n in [1, 2, 8, 24] {
        let (mut state, live) = machine(n);
        assert_eq!(verdict(&state, &live), (Verdict::Ready, "SetupComplete".into()), "{n}");
        for (health, reason, expected) in [
            (Health::Degraded, "Incomplete", Verdict::Degraded),
            (Health::Degraded, "OfALaterVersion", Verdict::Degraded),
            (Health::Failed, "ForeignData", Verdict::Failed),
        ] {
            (state.state, state.reason) = (health, reason.into());
            let report = report(&state, &live);
            assert_eq!((report.state, report.reason.as_str()), (expected, reason), "{n}");
            assert_eq!(report.next, rules::next(reason, expected));
            assert_eq!((report.findings.len(), &report.findings[0].message), (1, &state.message));
            assert_eq!(report.since.as_deref(), Some(state.since.as_str()));
        }
    }
}

#[test]
fn without_a_state_of_this_boot_nothing_is_called_ready() {
    let other = NoState::OfAnotherBoot { finished: "2026-07-25T00:00:00Z".into() };
    let unreadable = NoState::Unreadable("/run/nvme-agent/state.json: not a state file".into());
    for (why, code, said) in [
        (NoState::Missing, "NotSetUp", "drives found: 2"),
        (other, "StateOfAnotherBoot", "written 2026-07-25T00:00:00Z"),
        (unreadable, "StateUnreadable", "not a state file"),
    ] {
        let (_, mut live) = machine(2);
        live.no_state = why;
        live.usage = Some(Usage { used: 99, available: 1, ..Usage::default() });
        let report = judge(&Config::default(), None, &live, TIME);
        assert_eq!((report.state, report.state.exit_code()), (Verdict::NotSetUp, 12));
        assert_eq!(
            (report.reason.as_str(), report.next.as_deref()),
            (code, Some(rules::find(code).unwrap().next))
        );
        assert!(report.message.contains(said) && report.next.unwrap().contains("nvme-agent setup"));
        assert_eq!((report.findings.len(), report.warnings.len()), (1, 0));
        assert!(!report.mount.unwrap().ours);
        assert_eq!(report.array.unwrap().device, "md0");
    }
}

#[test]
fn drives_that_came_after_an_absent_are_a_failure_and_without_them_it_stands() {
    let (mut state, mut live) = machine(2);
    (state.state, state.reason) = (Health::Absent, "NoDrives".into());
    let report = report(&state, &live);
    assert_eq!((report.state, report.reason.as_str()), (Verdict::Failed, "DrivesAppeared"));
    assert_eq!(report.next.as_deref(), Some(rules::find("DrivesAppeared").unwrap().next));
    for drives in [Some(Vec::new()), None] {
        live.drives = drives;
        assert_eq!(verdict(&state, &live), (Verdict::Absent, "NoDrives".into()));
    }
}

#[test]
fn after_a_teardown_at_boot_the_drives_that_are_there_are_no_failure() {
    let (mut state, live) = machine(2);
    (state.state, state.reason) = (Health::Absent, crate::teardown::REASON.into());
    assert_eq!(verdict(&state, &live), (Verdict::Absent, "TornDown".into()));
}

#[test]
fn what_weighs_more_is_told_first_and_setups_own_word_last_of_its_weight() {
    let (mut state, mut live) = machine(2);
    (state.state, state.reason) = (Health::Degraded, "Incomplete".into());
    live.errors = Some(1);
    smart(&mut live).critical_warnings = vec!["temperature".into()];
    mounts(&mut live)[2].options = "ro".into();
    live.arrays.as_mut().unwrap()[0].read_only = true;
    let report = report(&state, &live);
    let codes: Vec<&str> = report.findings.iter().map(|finding| finding.reason.as_str()).collect();
    let expected =
        ["ArrayReadOnly", "MountReadOnly", "FilesystemErrors", "DriveCriticalWarning", "Incomplete"];
    assert_eq!((codes.as_slice(), report.since), (expected.as_slice(), None));
}
