//! teardown: everything of ours goes, nothing else is touched. Written by the persist helper; this is the
//! call site's shape.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::root::Root;

/// Unmounts, stops, wipes what is ours, takes our lines out. Returns what was done, a line each.
///
/// # Errors
/// By class, see [`Error::exit_code`].
pub fn run(_root: &Root, _config: &Config, _at_next_boot: bool) -> Result<Vec<String>> {
    Err(Error::Other("teardown is not wired".into()))
}
