//! setup: observe, plan, apply, verify, report. Written by the lead; this is the call site's shape.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::root::Root;
use crate::state::{State, Trigger};

/// The whole job.
///
/// # Errors
/// By class, see [`Error::exit_code`]; the state file has been written in every case.
pub fn run(_root: &Root, _config: &Config, _trigger: Trigger) -> Result<State> {
    Err(Error::Other("setup is not wired".into()))
}

/// What [`run`] would do. Changes nothing.
///
/// # Errors
/// [`Error::Refused`] where setup would refuse.
pub fn plan(_root: &Root, _config: &Config) -> Result<Plan> {
    Err(Error::Other("plan is not wired".into()))
}
