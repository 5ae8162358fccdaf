//! What the Node itself says, held against the verdict: `status --node`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Report, Verdict};
use crate::config::{Config, LabelMethod};
use crate::logging::one_line;
use crate::node::report::{self, Seen};
use crate::node::{Keys, Readiness};
use crate::root::Root;
use crate::state::{Health, State};

/// How long the API server and kubelet's credential may take, together.
const PATIENCE: Duration = Duration::from_secs(5);

/// The Node as the API server has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnNodePart {
    /// Why it could not be read; none where it was.
    pub problem: Option<String>,
    /// The Node's name; empty where it could not be read.
    pub node: String,
    /// Value of the label `<domain>/state`; none where the Node has none.
    pub state: Option<String>,
    /// Status of the condition, `True`, `False` or `Unknown`; none where the Node has none.
    pub condition: Option<String>,
    /// The condition's, CamelCase.
    pub reason: Option<String>,
    /// It has the taint of a failed node.
    pub tainted: bool,
    /// It says what this report does; none where it could not be read, or nothing is to be said there (`label_method`).
    pub agrees: Option<bool>,
    /// What it says otherwise, a phrase each.
    pub differs: Vec<String>,
}

impl OnNodePart {
    /// Reads the Node and holds it against `report`. What cannot be read is said and no error.
    pub fn read(root: &Root, config: &Config, report: &Report) -> OnNodePart {
        let keys = Keys::of(config);
        match report::look(root, &keys, PATIENCE) {
            Ok(seen) => OnNodePart::of(seen, report, &keys, config.label_method),
            Err(error) => OnNodePart { problem: Some(one_line(&error.to_string())), ..OnNodePart::default() },
        }
    }

    fn of(seen: Seen, report: &Report, keys: &Keys, method: LabelMethod) -> OnNodePart {
        let differs = differs(&seen, report, keys);
        let (condition, reason) = seen.condition.unzip();
        OnNodePart {
            problem: None,
            node: seen.node,
            state: seen.state,
            condition,
            reason,
            tainted: seen.tainted,
            agrees: (method != LabelMethod::None).then_some(differs.is_empty()),
            differs: if method == LabelMethod::None { Vec::new() } else { differs },
        }
    }

    /// For people.
    pub fn line(&self) -> String {
        if let Some(problem) = &self.problem {
            return format!("not known: {problem}");
        }
        let end = match self.agrees {
            None => "; label_method is \"none\", so nothing is said there".into(),
            Some(true) => "; as found here".into(),
            Some(false) => format!("; but {}", self.differs.join(", ")),
        };
        let reason = self.reason.iter().filter(|reason| !reason.is_empty());
        let reason: String = reason.map(|reason| format!(" ({reason})")).collect();
        format!(
            "{}: label {}, condition {}{reason}, {}{end}",
            self.node,
            self.state.as_deref().unwrap_or("none"),
            self.condition.as_deref().unwrap_or("none"),
            if self.tainted { "tainted" } else { "not tainted" },
        )
    }
}

/// What the Node ought to say instead.
fn differs(seen: &Seen, report: &Report, keys: &Keys) -> Vec<String> {
    let state = State { state: health(report.state), reason: report.reason.clone(), ..State::default() };
    let wanted = Readiness::of(&state, keys, "").condition;
    let mut differs = Vec::new();
    if seen.state.as_deref() != Some(state.state.as_str()) {
        differs.push(format!("the label ought to be {}", state.state));
    }
    let condition = seen.condition.as_ref().map(|(status, reason)| (status.as_str(), reason.as_str()));
    if condition != Some((wanted.status.as_str(), wanted.reason.as_str())) {
        differs.push(format!("the condition ought to be {} ({})", wanted.status.as_str(), wanted.reason));
    }
    if seen.tainted && state.state != Health::Failed {
        differs.push("the taint ought to be gone".into());
    }
    differs
}

/// As `report` tells the Node.
fn health(verdict: Verdict) -> Health {
    match verdict {
        Verdict::Ready => Health::Ready,
        Verdict::Degraded => Health::Degraded,
        Verdict::Failed | Verdict::NotSetUp => Health::Failed,
        Verdict::Absent => Health::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(state: Verdict, seen: Seen) -> (Option<bool>, String) {
        let report = Report { state, reason: "DriveLost".into(), ..Report::default() };
        let part = OnNodePart::of(seen, &report, &Keys::default(), LabelMethod::default());
        (part.agrees, part.line())
    }

    fn seen(state: &str, status: &str, tainted: bool) -> Seen {
        let condition = Some((status.to_owned(), "DriveLost".to_owned()));
        Seen { node: "n".into(), state: Some(state.into()), condition, tainted }
    }

    #[test]
    fn it_says_what_is_there_and_whether_that_is_so() {
        for tainted in [true, false] {
            let (agrees, said) = line(Verdict::Failed, seen("failed", "False", tainted));
            assert_eq!(agrees, Some(true), "whether a failed node is tainted is a policy: {said}");
        }
        let (_, said) = line(Verdict::NotSetUp, seen("failed", "False", false));
        assert_eq!(said, "n: label failed, condition False (DriveLost), not tainted; as found here");
        let (agrees, said) = line(Verdict::Failed, seen("ready", "True", false));
        assert_eq!(agrees, Some(false));
        assert!(
            said.ends_with("; but the label ought to be failed, the condition ought to be False (DriveLost)"),
            "{said}"
        );
        let (agrees, said) = line(Verdict::Degraded, seen("degraded", "True", true));
        assert_eq!(agrees, Some(false));
        assert!(said.ends_with("(DriveLost), tainted; but the taint ought to be gone"), "{said}");
        let (agrees, said) = line(Verdict::Ready, Seen { node: "n".into(), ..Seen::default() });
        assert_eq!(agrees, Some(false));
        assert!(said.starts_with("n: label none, condition none, not tainted; but the label"), "{said}");
    }

    #[test]
    fn where_nothing_is_to_be_said_nothing_is_amiss() {
        let report = Report { state: Verdict::Failed, ..Report::default() };
        let part = OnNodePart::of(Seen::default(), &report, &Keys::default(), LabelMethod::None);
        assert_eq!((part.agrees, part.differs.len()), (None, 0));
        assert!(part.line().contains("label_method is \"none\""), "{}", part.line());
    }
}
