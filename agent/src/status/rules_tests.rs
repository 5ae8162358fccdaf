//! The table has every code that somebody can produce, and no other.

use std::collections::BTreeSet;

use super::*;

/// What stands between two texts in a source of this crate.
fn between<'a>(source: &'a str, start: &str, end: &str) -> &'a str {
    source.split_once(start).unwrap().1.split_once(end).unwrap().0
}

/// The string literals of it, in order.
fn quoted(source: &str) -> Vec<&str> {
    source.split('"').skip(1).step_by(2).collect()
}

/// Names of the variants of `enum Reason`.
fn refusals() -> Vec<String> {
    let source = between(include_str!("../plan/mod.rs"), "pub enum Reason {", "\n}");
    source.lines().filter_map(|line| line.trim().strip_suffix(',').map(str::to_owned)).collect()
}

/// Codes of the steps that end a setup where they fail: those that persist only degrade it.
fn failed_steps() -> Vec<String> {
    let source = include_str!("../plan/step.rs");
    let persistence = between(source, "pub fn is_persistence", "\n    }\n");
    let names = between(source, "pub fn name(", "\n    }\n");
    let rows = names.lines().filter(|line| line.contains("=> \""));
    let variant = |line: &str| line.trim().split([' ', ',']).next().unwrap().to_owned();
    rows.filter(|line| !persistence.contains(&variant(line)))
        .map(|line| {
            let cause = Box::new(crate::error::Error::Other(String::new()));
            crate::error::Error::Step { step: quoted(line)[0], cause }.reason()
        })
        .collect()
}

/// Codes that are spelled out where errors get theirs, but for what has its own list.
fn errors() -> Vec<String> {
    let source = between(include_str!("../error.rs"), "pub fn reason(", "#[cfg(test)]");
    quoted(source).into_iter().filter(|code| !code.contains('{')).map(str::to_owned).collect()
}

/// What a setup says that did not fail, and what is said of one that has not ended.
fn outcomes() -> Vec<String> {
    let told = between(include_str!("../setup/tell.rs"), "fn state(", "/// Writes the state file");
    let said: Vec<&str> = quoted(told).into_iter().filter(|code| find(code).is_some()).collect();
    assert_eq!(told.matches("State::new(").count(), 4, "one of them is torn down: {said:?}");
    assert_eq!(said.len(), 3, "{said:?}");
    let waiting = quoted(between(include_str!("../node/registration/mod.rs"), "fn expect_failure", "\n}"));
    let own = [crate::teardown::REASON, waiting[0], "InternalError"];
    assert!(include_str!("../cli/mod.rs").contains("reason: \"InternalError\""));
    said.into_iter().chain(own).map(str::to_owned).collect()
}

#[test]
fn every_code_of_a_setup_and_of_an_error_is_there_and_none_that_nobody_says() {
    let (refusals, steps, errors) = (refusals(), failed_steps(), errors());
    assert!(
        refusals.len() >= 15 && steps.len() >= 15 && errors.len() >= 7,
        "{refusals:?} {steps:?} {errors:?}"
    );
    let all: BTreeSet<String> = [refusals, steps, errors, outcomes()].concat().into_iter().collect();
    let missing: Vec<&String> = all.iter().filter(|code| find(code).is_none()).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
    // What only the live machine shows is tried in the tests of `judge`.
    let unsaid: Vec<&str> =
        setup::RULES.iter().map(|rule| rule.code).filter(|code| !all.contains(*code)).collect();
    assert!(unsaid.is_empty(), "nobody says {unsaid:?}");
}

#[test]
fn a_code_stands_once_and_says_what_to_do_wherever_something_is_wrong() {
    let codes: BTreeSet<&str> = all().map(|rule| rule.code).collect();
    assert_eq!(codes.len(), all().count());
    for rule in all() {
        let calm = matches!(rule.weight, Weight::Makes(Verdict::Ready | Verdict::Absent));
        assert_eq!(rule.next.is_empty(), calm, "{}", rule.code);
        assert!(rule.meaning.ends_with('.') && rule.look.starts_with('`'), "{}", rule.code);
        assert!(calm || rule.next.ends_with('.'), "{}", rule.code);
        assert!(!rule.meaning.contains('|'), "{}: it is a cell of a table", rule.code);
        for text in [rule.meaning, rule.next, rule.look] {
            // One line of a terminal that knows ASCII only.
            assert!(text.is_ascii() && !text.contains('\n'), "{}: {text}", rule.code);
            assert_eq!(text.matches('`').count() % 2, 0, "{}: {text}", rule.code);
        }
    }
}

#[test]
fn a_code_is_found_however_it_is_written_and_the_nearest_is_named() {
    assert_eq!(find("drivelost").unwrap().code, "DriveLost");
    assert_eq!(find("DriveLos"), None);
    assert_eq!((nearest("DriveLos"), nearest("mountreplace")), ("DriveLost", "MountReplaced"));
    assert!(!nearest(&"x".repeat(100_000)).is_empty());
}

#[test]
fn limits_are_told_as_they_are() {
    let waits = format!("{} s for `status`", crate::status::PATIENCE.as_secs_f64());
    let unattended = format!("{} s for the gate and `report`", crate::status::UNATTENDED_PATIENCE.as_secs());
    for rule in [live::DRIVE_SILENT, live::FILESYSTEM_FAILED] {
        assert!(rule.meaning.contains(&waits) && rule.meaning.contains(&unattended), "{}", rule.meaning);
    }
}

#[test]
fn a_state_of_another_version_says_what_to_do_too() {
    assert_eq!(next("SetupComplete", Verdict::Ready), None);
    assert_eq!(next("Incomplete", Verdict::Degraded).as_deref(), Some(setup::INCOMPLETE.next));
    assert_eq!(next("NobodyKnows", Verdict::Degraded).as_deref(), Some(setup::INCOMPLETE.next));
    assert_eq!(next("NobodyKnows", Verdict::Failed).as_deref(), Some(setup::SETUP_FAILED.next));
}
