//! The registry of scenarios: one file a topic, each with a `SCENARIOS` list.

use crate::runner::Scenario;

mod adoption;
mod cloudinit;
mod company;
mod ebs;
mod fresh;
mod inuse;
mod journal;
mod kit;
mod machinery;
mod refusal;
mod rig;

/// All of them, in the order in which they run. One a line, so that branches merge.
#[rustfmt::skip]
pub fn all() -> Vec<Scenario> {
    [
        machinery::SCENARIOS,
        fresh::SCENARIOS,
        journal::SCENARIOS,
        cloudinit::SCENARIOS,
        company::SCENARIOS,
        refusal::SCENARIOS,
        inuse::SCENARIOS,
        adoption::SCENARIOS,
        ebs::SCENARIOS,
    ]
    .concat()
}
