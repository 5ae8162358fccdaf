//! What the state file says against what is there: a pure function.

use crate::config::Config;
use crate::state::{Health, State};

use super::live::{Live, NoState};
use super::parts::{array, array_part, drives, mount_part, setup_part, top};
use super::persistence::persistence;
use super::rules::{self, live as found};
use super::{Finding, Report, SCHEMA, Verdict, findings};

/// The report on `live`, given what the last setup of this boot said; without one, `live` says why there is none.
pub fn judge(config: &Config, state: Option<&State>, live: &Live, time: &str) -> Report {
    let target = state.map(|s| s.target.as_str()).filter(|t| !t.is_empty()).unwrap_or(&config.target);
    let mut report = Report {
        schema: SCHEMA,
        agent: env!("CARGO_PKG_VERSION").into(),
        time: time.into(),
        target: target.into(),
        layout: state.map(|s| s.layout.clone()).unwrap_or_default(),
        mount: top(live, target).map(|mount| mount_part(mount, state, live)),
        array: array(state, target, live).map(array_part),
        drives: drives(state, live),
        last_setup: state.map(setup_part),
        notes: state.map(|s| s.notes.clone()).unwrap_or_default(),
        host: live.host.clone(),
        unreadable: live.problems.clone(),
        persistence: persistence(state, target, live),
        ..Report::default()
    };
    report.warnings = match state {
        Some(state) if is_in_place(state) => findings::warnings(live, &report),
        _ => Vec::new(),
    };
    let live_says = match state {
        None => vec![not_set_up(live)],
        Some(state) => live_findings(state, live, &report),
    };
    // Where the machine says nothing else, the last setup's word stands, for as long as it has.
    if let Some(state) = state.filter(|_| live_says.is_empty()) {
        report.state = verdict(state.state);
        report.reason = state.reason.clone();
        report.message = state.message.clone();
        report.since = Some(state.since.clone());
    }
    report.findings = in_order(live_says, state.and_then(word));
    if let Some(first) = report.findings.first().cloned() {
        (report.state, report.reason, report.message) = (first.state, first.reason, first.message);
        report.next = Some(first.next);
    }
    report
}

/// Setup left something in place that can be judged.
fn is_in_place(state: &State) -> bool {
    matches!(state.state, Health::Ready | Health::Degraded)
}

/// Where the live machine overrules the last setup's word.
fn live_findings(state: &State, live: &Live, report: &Report) -> Vec<Finding> {
    match state.state {
        Health::Ready | Health::Degraded => findings::all(state, live, report),
        // What it said of what it found is more than could be seen of what it did not make.
        Health::Failed => Vec::new(),
        // A boot that tore down leaves its drives there, and does nothing with them on purpose.
        Health::Absent if state.reason == crate::teardown::REASON => Vec::new(),
        Health::Absent => match live.drives.as_deref() {
            Some([first, ..]) => vec![found::DRIVES_APPEARED.finding(format!(
                "setup found no drives, but there are some now, such as {} ({})",
                first.name, first.serial
            ))],
            _ => Vec::new(),
        },
    }
}

/// The last setup's own word, where it is that something is wrong.
fn word(state: &State) -> Option<Finding> {
    let verdict = verdict(state.state);
    Some(Finding {
        reason: state.reason.clone(),
        state: verdict,
        message: state.message.clone(),
        next: rules::next(&state.reason, verdict)?,
    })
}

fn verdict(health: Health) -> Verdict {
    match health {
        Health::Ready => Verdict::Ready,
        Health::Degraded => Verdict::Degraded,
        Health::Failed => Verdict::Failed,
        Health::Absent => Verdict::Absent,
    }
}

fn not_set_up(live: &Live) -> Finding {
    match &live.no_state {
        NoState::Missing => found::NOT_SET_UP_YET.finding(match &live.drives {
            Some(drives) => format!("setup has not run in this boot; drives found: {}", drives.len()),
            None => "setup has not run in this boot".into(),
        }),
        NoState::OfAnotherBoot { finished } => found::STATE_OF_ANOTHER_BOOT.finding(format!(
            "setup has not run in this boot; the state file is of another one, written {finished}"
        )),
        NoState::Unreadable(why) => {
            found::STATE_UNREADABLE.finding(format!("it is not known what setup came to: {why}"))
        }
    }
}

/// By what they make of the verdict, then by cause; setup's own word after all that weighs as much as it does.
fn in_order(live_says: Vec<Finding>, word: Option<Finding>) -> Vec<Finding> {
    let mut all = live_says;
    all.sort_by_key(|finding| rules::rank(&finding.reason));
    all.extend(word);
    all.sort_by_key(|finding| match finding.state {
        Verdict::NotSetUp | Verdict::Failed => 0,
        Verdict::Degraded => 1,
        Verdict::Ready | Verdict::Absent => 2,
    });
    all
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
