//! The registry of scenarios: one file a topic, each with a `SCENARIOS` list.

use crate::runner::Scenario;

mod crash;
mod fresh;
mod machinery;

/// All of them, in the order in which they run.
pub fn all() -> Vec<Scenario> {
    [machinery::SCENARIOS, fresh::SCENARIOS, crash::SCENARIOS].concat()
}
