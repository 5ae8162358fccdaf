//! The table of reason codes: what each makes of the verdict, what it means, what to do next, how to look further.
//!
//! All that can be the reason of a state, of a finding or of a warning is in it, by cause: of two findings that weigh the
//! same, the one that stands first is told first. `judge` takes the next action from here, `status --explain` all of it,
//! and docs/troubleshooting.md is made from it.
//!
//! What a verdict costs decides how it is given. The gate and `report` go by it: under `no-join` a `failed` keeps a node out of
//! the cluster, under `taint` it taints it; `degraded` joins, but is not what pods select by. So:
//!
//! - `failed` is what no program could use: a drive, array, mount or filesystem that is gone, read-only or gives errors. A
//!   read that fails is one, since it is of the first blocks, where the superblocks are; an error of our own (no memory, no
//!   permission) is none.
//! - What may pass by itself (a controller that is being reset, a drive that is slow to answer) is `degraded`: setup verifies by
//!   the same measure, and where it does stop the filesystem, the filesystem says so.
//! - What only the drive says of itself (critical warnings, media errors, spare) is `degraded`, but for "read-only", which is the
//!   end of the storage whoever says it. A field that is 0 may be one that the drive does not keep, and is no finding.
//! - What the next boot would lack is `degraded`: what is mounted now is whole. The registration file is a warning only: the
//!   gate and the next boot write it anew, kubelet has read it, and the gate, which looks before it writes, would else
//!   register the node by a fault that it is about to mend.
//! - What cannot be looked at because of who asks is nothing: it is listed as unread, and the last setup's word stands.
//! - Time throttled by EC2 is shown and makes nothing: that a workload reaches the instance's limits is no fault, and there is
//!   no share of a boot's time from which on it is one.

pub mod live;
pub mod setup;

use serde::{Serialize, Serializer};

use super::{Finding, Verdict};

/// What a code makes of the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    Makes(Verdict),
    /// Nothing: it may become a problem.
    Warning,
    /// Nothing: a command ended with it, which is in the journal, and the storage is as it was.
    Command,
}

impl Weight {
    pub fn as_str(self) -> &'static str {
        match self {
            Weight::Makes(verdict) => verdict.as_str(),
            Weight::Warning => "warning",
            Weight::Command => "command",
        }
    }
}

impl Serialize for Weight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// CamelCase.
    pub code: &'static str,
    pub weight: Weight,
    /// One or two sentences; as the next one, with program names and paths in backticks.
    pub meaning: &'static str,
    /// What to do; empty where nothing needs doing.
    pub next: &'static str,
    /// Commands, separated by `; `.
    pub look: &'static str,
}

impl Rule {
    const fn new(
        code: &'static str,
        weight: Weight,
        meaning: &'static str,
        next: &'static str,
        look: &'static str,
    ) -> Rule {
        Rule { code, weight, meaning, next, look }
    }

    /// This, found, in a sentence.
    pub fn finding(&self, message: impl Into<String>) -> Finding {
        let state = match self.weight {
            Weight::Makes(verdict) => verdict,
            Weight::Warning | Weight::Command => Verdict::Ready,
        };
        Finding { reason: self.code.into(), state, message: message.into(), next: self.next.into() }
    }
}

const READY: Weight = Weight::Makes(Verdict::Ready);
const ABSENT: Weight = Weight::Makes(Verdict::Absent);
const DEGRADED: Weight = Weight::Makes(Verdict::Degraded);
const FAILED: Weight = Weight::Makes(Verdict::Failed);
const NOT_SET_UP: Weight = Weight::Makes(Verdict::NotSetUp);

/// Every row, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    live::RULES.iter().chain(setup::RULES)
}

/// The row of a code, however its letters are written.
pub fn find(code: &str) -> Option<&'static Rule> {
    all().find(|rule| rule.code.eq_ignore_ascii_case(code))
}

/// The code that is spelled most like `word`.
pub fn nearest(word: &str) -> &'static str {
    // Only the head of a word counts: the distance costs the product of the lengths.
    let word: String = word.chars().take(64).collect::<String>().to_ascii_lowercase();
    let distance = |rule: &&Rule| strsim::osa_distance(&word, &rule.code.to_ascii_lowercase());
    all().min_by_key(distance).map(|rule| rule.code).unwrap_or_default()
}

/// What to do about a state that the state file says; none where nothing needs doing. A code that is not in the table is of another
/// version of the agent.
pub fn next(code: &str, verdict: Verdict) -> Option<String> {
    if matches!(verdict, Verdict::Ready | Verdict::Absent) {
        return None;
    }
    let next = match find(code) {
        Some(rule) if !rule.next.is_empty() => rule.next,
        _ if verdict == Verdict::Degraded => setup::INCOMPLETE.next,
        _ => setup::SETUP_FAILED.next,
    };
    Some(next.into())
}

/// Where a code stands in the table; what is not in it, last.
pub fn rank(code: &str) -> usize {
    all().position(|rule| rule.code == code).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
