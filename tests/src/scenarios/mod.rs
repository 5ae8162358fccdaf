//! The registry of scenarios: one file a topic, each with a `SCENARIOS` list.

use crate::runner::Scenario;

mod again;
mod boot;
mod cloudinit;
mod company;
mod crash;
mod errors;
mod exec;
mod fresh;
mod fstab;
mod guests;
mod journal;
pub(crate) mod kit;
mod machinery;
mod oracle;
mod refusal;
mod rig;
mod teardown;

/// All of them, in the order in which they run. One a line, so that branches merge.
#[rustfmt::skip]
pub fn all() -> Vec<Scenario> {
    [
        machinery::SCENARIOS,
        oracle::SCENARIOS,
        fresh::SCENARIOS,
        guests::SCENARIOS,
        journal::SCENARIOS,
        cloudinit::SCENARIOS,
        company::SCENARIOS,
        boot::SCENARIOS,
        again::SCENARIOS,
        errors::SCENARIOS,
        fstab::SCENARIOS,
        exec::SCENARIOS,
        refusal::SCENARIOS,
        teardown::SCENARIOS,
        crash::SCENARIOS,
    ]
    .concat()
}
