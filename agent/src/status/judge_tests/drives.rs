//! Drives that setup used: gone, not as they were, or not well by their own word.

use super::*;
use crate::observe::Skipped;
use Verdict::{Degraded, Failed};

pub(super) const CASES: &[Case] = &[
    Case("a drive is gone", 2, Failed, &["DriveLost"], |_, live| {
        live.drives.as_mut().unwrap().pop();
    }),
    Case("a controller died", 1, Failed, &["DriveLost"], |_, live| {
        live.drives.as_mut().unwrap()[0].state = "dead".into();
    }),
    Case("a controller is being reset, and silent meanwhile", 2, Degraded, &["DriveNotLive"], |_, live| {
        live.drives.as_mut().unwrap()[0].state = "resetting".into();
        said(live).silent = Some("does not answer within 1.2 s".into());
    }),
    Case("a drive went read-only, and says so", 2, Failed, &["DriveReadOnly"], |_, live| {
        live.drives.as_mut().unwrap()[0].read_only = true;
        smart(live).critical_warnings = vec!["read-only".into()];
    }),
    Case("critical warning, bit 3", 2, Failed, &["DriveReadOnly"], |_, live| {
        smart(live).critical_warnings = vec!["read-only".into()];
    }),
    Case("its reads fail", 2, Failed, &["DriveUnreadable"], |_, live| {
        said(live).said.read = Some(nix::errno::Errno::EIO as i32);
    }),
    Case("it does not answer", 2, Degraded, &["DriveSilent"], |_, live| {
        *said(live) = Answer { said: Said::default(), silent: Some("does not answer within 1.2 s".into()) };
    }),
    Case("it is hot", 1, Degraded, &["DriveCriticalWarning"], |_, live| {
        smart(live).critical_warnings = vec!["temperature".into()];
    }),
    Case("critical warning, bit 0, without numbers", 1, Degraded, &["DriveCriticalWarning"], |_, live| {
        *smart(live) = Smart { critical_warnings: vec!["spare-low".into()], ..Smart::default() };
    }),
    Case("spare under its threshold", 2, Degraded, &["DriveSpareLow"], |_, live| {
        smart(live).spare_percent = 9;
    }),
    Case("no spare left", 2, Degraded, &["DriveSpareLow"], |_, live| {
        (smart(live).spare_percent, smart(live).critical_warnings) = (0, vec!["spare-low".into()]);
    }),
    Case("media errors rise", 2, Degraded, &["DriveMediaErrors"], |state, live| {
        state.media_errors.insert(serial(0), 5);
        smart(live).media_errors = 7;
    }),
    Case(
        "all at once, the worst first",
        2,
        Failed,
        &[
            "DriveLost",
            "DriveUnreadable",
            "DriveSilent",
            "DriveCriticalWarning",
            "DriveMediaErrors",
            "DriveSpareLow",
        ],
        |state, live| {
            live.drives.as_mut().unwrap().pop();
            state.media_errors.insert(serial(0), 0);
            said(live).silent = Some("does not answer within 1.2 s".into());
            said(live).said.read = Some(nix::errno::Errno::EIO as i32);
            *smart(live) = Smart {
                critical_warnings: vec!["spare-low".into(), "reliability-degraded".into()],
                spare_percent: 1,
                spare_threshold_percent: 10,
                media_errors: 1,
                ..Smart::default()
            };
        },
    ),
];

#[test]
fn each_fact_of_a_drive_makes_its_verdict() {
    tried(CASES);
}

#[test]
fn what_is_wrong_is_told_with_the_drive() {
    for Case(name, n, .., change) in CASES {
        let (mut state, mut live) = machine(*n);
        change(&mut state, &mut live);
        for finding in report(&state, &live).findings {
            assert!(finding.message.contains("AWS0000000"), "{name}: {finding:?}");
        }
    }
}

/// Facts of which none is a finding.
#[test]
fn what_a_drive_does_not_say_or_may_not_be_asked_is_no_fault() {
    let calm: &[(&str, Change)] = &[
        ("fields that it does not keep", |_, live| *smart(live) = Smart::default()),
        ("a threshold, but no spare, and no warning of it", |_, live| smart(live).spare_percent = 0),
        ("no such page", |_, live| said(live).said.smart = None),
        ("needs root", |_, live| {
            said(live).said = Said { closed: nix::errno::Errno::EACCES as i32, ..Said::default() };
        }),
        ("our own lack of memory", |_, live| said(live).said.read = Some(nix::errno::Errno::ENOMEM as i32)),
        ("not asked at all", |_, live| live.health.clear()),
        ("media errors as before", |state, live| {
            state.media_errors.insert(serial(0), 7);
            smart(live).media_errors = 7;
        }),
        ("media errors before the first setup", |_, live| smart(live).media_errors = 7),
        ("warm, not too warm", |_, live| smart(live).temperature_celsius = Some(85)),
        ("drives cannot be read", |_, live| live.drives = None),
    ];
    for (name, change) in calm {
        let (mut state, mut live) = machine(2);
        change(&mut state, &mut live);
        let report = report(&state, &live);
        assert_eq!((report.state, report.warnings.len()), (Verdict::Ready, 0), "{name}: {report:?}");
    }
}

#[test]
fn a_drive_that_setup_did_not_use_is_nobodys_fault() {
    let (mut state, mut live) = machine(2);
    state.serials.remove(0);
    live.drives.as_mut().unwrap()[0].state = "dead".into();
    smart(&mut live).critical_warnings = vec!["read-only".into(), "temperature".into()];
    smart(&mut live).wear_percent = 200;
    said(&mut live).silent = Some("does not answer within 1.2 s".into());
    said(&mut live).said.read = Some(5);
    let report = report(&state, &live);
    assert_eq!((report.state, report.warnings.len()), (Verdict::Ready, 0), "{report:?}");
}

#[test]
fn a_drive_that_setup_was_told_to_match_and_this_configuration_does_not_is_not_lost() {
    let (state, mut live) = machine(2);
    live.others = state
        .serials
        .iter()
        .map(|serial| Skipped {
            name: "nvme1n1".into(),
            serial: serial.clone(),
            model: "QEMU".into(),
            unmatched: true,
            why: "model is not matched".into(),
        })
        .collect();
    live.drives = Some(Vec::new());
    assert_eq!(verdict(&state, &live).0, Verdict::Ready);
    // One whose controller died has no size, and is no candidate either.
    live.others[0].unmatched = false;
    live.others[0].why = "has no capacity".into();
    assert_eq!(verdict(&state, &live), (Verdict::Failed, "DriveLost".into()));
}

#[test]
fn a_worn_drive_is_a_warning() {
    for (wear, warned) in [(99, 0), (100, 1), (255, 1)] {
        let (state, mut live) = machine(2);
        smart(&mut live).wear_percent = wear;
        let report = report(&state, &live);
        assert_eq!((report.state, report.warnings.len()), (Verdict::Ready, warned), "{wear}");
        for warning in report.warnings {
            assert_eq!((warning.reason.as_str(), warning.state), ("DriveWorn", Verdict::Ready));
            assert!(warning.message.contains("nvme1n1") && !warning.next.is_empty(), "{warning:?}");
        }
    }
}
