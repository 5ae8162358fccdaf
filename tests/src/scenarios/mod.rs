//! The registry of scenarios: one file a topic, each with a `SCENARIOS` list.

use crate::runner::Scenario;

mod fresh;
mod machinery;
mod oracle;

/// All of them, in the order in which they run.
pub fn all() -> Vec<Scenario> {
    [machinery::SCENARIOS, fresh::SCENARIOS, oracle::SCENARIOS].concat()
}
