//! The registry of scenarios: one file a topic, each with a `SCENARIOS` list.

use crate::runner::Scenario;

mod cloudinit;
mod company;
mod fresh;
mod guests;
mod journal;
mod kit;
mod machinery;

/// All of them, in the order in which they run. One a line, so that branches merge.
#[rustfmt::skip]
pub fn all() -> Vec<Scenario> {
    [
        machinery::SCENARIOS,
        fresh::SCENARIOS,
        guests::SCENARIOS,
        journal::SCENARIOS,
        cloudinit::SCENARIOS,
        company::SCENARIOS,
    ]
    .concat()
}
