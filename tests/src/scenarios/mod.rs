//! The registry of scenarios: one file a topic, each with a `SCENARIOS` list.
//!
//! A scenario is in the normal tier once it has been seen to pass; until then, and where it is a long matrix, it is in the
//! full one. Issue 2 stays open until those that belong into the normal tier are there.

use crate::runner::Scenario;

mod adoption;
mod again;
mod arm;
mod boot;
mod cloudinit;
mod company;
mod console;
mod crash;
mod delivery;
mod ebs;
mod errors;
mod exec;
mod fresh;
mod fstab;
mod guests;
mod inuse;
mod journal;
pub(crate) mod kit;
mod machinery;
mod metrics;
mod node;
mod oracle;
mod packages;
mod refusal;
mod rig;
mod status;
mod teardown;

/// All of them, in the order in which they run. One a line, so that branches merge.
#[rustfmt::skip]
pub fn all() -> Vec<Scenario> {
    [
        machinery::SCENARIOS,
        packages::SCENARIOS,
        oracle::SCENARIOS,
        fresh::SCENARIOS,
        guests::SCENARIOS,
        journal::SCENARIOS,
        cloudinit::SCENARIOS,
        company::SCENARIOS,
        boot::SCENARIOS,
        console::SCENARIOS,
        again::SCENARIOS,
        errors::SCENARIOS,
        fstab::SCENARIOS,
        exec::SCENARIOS,
        status::SCENARIOS,
        refusal::SCENARIOS,
        teardown::SCENARIOS,
        crash::SCENARIOS,
        inuse::SCENARIOS,
        adoption::SCENARIOS,
        ebs::SCENARIOS,
        crash::foreign::SCENARIOS,
        crash::mkfs::SCENARIOS,
        crash::power::SCENARIOS,
        node::SCENARIOS,
        metrics::SCENARIOS,
        delivery::SCENARIOS,
        arm::SCENARIOS,
    ]
    .concat()
}
