//! apply: executes steps in order; decides nothing.
//!
//! What outlives a step (locks, the mark that keeps systemd off the array, the staged mount, a reload of systemd that
//! is due) is in the [`Context`], which outlives an `apply`: after a plan that ends in "look again" the next one goes
//! on with it.
//!
//! ```text
//! let mut context = Context::new(root, &config, &inventory);
//! loop { plan; apply(&plan, &mut context)?; if !plan.look_again { break } observe; context.observed(&inventory) }
//! verify; context.finish(wait)
//! ```

mod context;
pub mod device;
pub mod directories;
pub mod mkfs;
pub mod rest;
pub mod stage;
mod steps;
pub mod systemd;
mod uevents;

use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::failpoint;
use crate::logging::progress;
use crate::md::lock::{CreatingMark, Holds};
use crate::plan::{Plan, Step};

pub use context::Context;
use steps::{about, execute, in_words, place_at};

/// Every failpoint of apply, in the order in which a fresh array meets them: the name of a step is hit before it.
pub const FAILPOINTS: [&str; 30] = [
    "drop-stale-intent",
    "record-intent",
    "record-intent-done",
    "wipe",
    "stop-array",
    "create-array",
    "md-superblock",
    "md-superblocks",
    "md-added",
    "create-array-done",
    "assemble-array",
    "assemble-array-done",
    "read-write",
    "make-filesystem",
    "make-filesystem-done",
    "create-target",
    "stage",
    "prepare",
    "prepare-done",
    "clear-intent",
    "clear-intent-done",
    "expose",
    "expose-done",
    "remount",
    "directories",
    "record-set",
    "fstab",
    "mdadm-conf",
    "tmpfiles",
    "reload-systemd",
];

/// How a step went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepTime {
    /// [`Step::name`].
    pub step: &'static str,
    /// The step in words.
    pub what: String,
    pub millis: u64,
    pub ok: bool,
    /// What did not work; where the run went on after it, the state is `degraded`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Executes the steps of `plan`, in order.
///
/// A persistence step that fails, and a directory that cannot be made, are noted in what is returned and do not end
/// the run. Locks stay held for a plan that ends in "look again".
///
/// # Errors
/// [`Error::Step`] for the first other step that fails. The staged mount is dropped, locks and marks are released, an
/// array that was made or assembled stays as it is; the intent stays too, so that the next run goes on from there.
pub fn apply(plan: &Plan, context: &mut Context) -> Result<Vec<StepTime>> {
    let before = context.times.len();
    let result = run(plan, context);
    if result.is_err() || !plan.look_again {
        context.release();
    }
    result?;
    Ok(context.times.get(before..).unwrap_or_default().to_vec())
}

fn run(plan: &Plan, context: &mut Context) -> Result<()> {
    if context.holds.is_none() {
        CreatingMark::remove_stale(&context.root);
    }
    for step in &plan.steps {
        if let Step::Expose { target } = step
            && context.covered.is_none()
        {
            context.covered = place_at(&context.root, target).map_err(|e| in_step(step, e))?;
        }
    }
    if let Some(step) = plan.steps.iter().find(|s| matches!(s, Step::CreateArray { .. })) {
        // Before the intent: a kernel without raid0 is no interrupted run.
        crate::md::kernel::require_raid0(&context.root).map_err(|e| in_step(step, e))?;
    }
    // A plan that is not the last does not know how many there will be.
    let all = (!plan.look_again).then(|| context.times.len() + plan.steps.len());
    for (at, step) in plan.steps.iter().enumerate() {
        let _shown = progress::step(context.times.len() + 1, all, &in_words(step));
        if needs_lock(step) {
            // All at once, at the first step that needs one: a later one must not find a drive changed by udev.
            hold(&plan.steps[at..], context).map_err(|e| in_step(step, e))?;
        } else if step.is_persistence() && context.staged.is_none() {
            // The target is in place: udev and systemd may see the device before fstab names it.
            context.release();
        }
        execute_timed(step, plan, context)?;
    }
    Ok(())
}

/// A field only where it says something.
fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn execute_timed(step: &Step, plan: &Plan, context: &mut Context) -> Result<()> {
    let name = step.name();
    let started = Instant::now();
    let result = hit(name).and_then(|()| execute(step, plan, context));
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let about = about(step);
    let (device, serial) = (filled(&about.0), filled(&about.1));
    let note = |ok, error: Option<String>| StepTime { step: name, what: step.to_string(), millis, ok, error };
    match result {
        Ok(problems) if problems.is_empty() => {
            tracing::info!(step = name, device, serial, duration_ms = millis, "{step}");
            context.times.push(note(true, None));
            Ok(())
        }
        Ok(problems) => {
            let error = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            tracing::warn!(
                step = name,
                device,
                serial,
                duration_ms = millis,
                error,
                "{step}: not all of it: {error}"
            );
            context.times.push(note(false, Some(error)));
            Ok(())
        }
        Err(error) => {
            let text = error.to_string();
            context.times.push(note(false, Some(text.clone())));
            if step.is_persistence() {
                tracing::warn!(
                    step = name,
                    device,
                    serial,
                    duration_ms = millis,
                    error = text,
                    "{step}: failed: {text}"
                );
                return Ok(());
            }
            // The run ends with this error and says it then.
            tracing::error!(
                step = name,
                device,
                serial,
                duration_ms = millis,
                error = text,
                "{step}: failed"
            );
            Err(in_step(step, error))
        }
    }
}

fn in_step(step: &Step, cause: Error) -> Error {
    Error::Step { step: step.name(), cause: Box::new(cause) }
}

fn hit(name: &str) -> Result<()> {
    failpoint::hit(name).map_err(|e| Error::Other(e.to_string()))
}

/// Steps during which udev, systemd and other programs must keep off the devices.
fn needs_lock(step: &Step) -> bool {
    matches!(
        step,
        Step::Wipe { .. }
            | Step::StopArray { .. }
            | Step::CreateArray { .. }
            | Step::AssembleArray { .. }
            | Step::ReadWrite { .. }
            | Step::MakeFilesystem { .. }
            | Step::Stage { .. }
    )
}

fn is_array(device: &Path) -> bool {
    device::kernel_name(device).starts_with("md")
}

/// Holds the drives that `steps` name, and marks the array that they make, start, or make a filesystem on.
fn hold(steps: &[Step], context: &mut Context) -> Result<()> {
    let mut drives: Vec<&Path> = Vec::new();
    let mut array: Option<&Path> = None;
    // udev does not heed a lock on an md device, and we would only be in our own way; the mark is for those.
    for step in steps {
        match step {
            Step::Wipe { devices, .. } => drives.extend(devices.iter().map(|m| m.path.as_path())),
            Step::CreateArray { array: made, members, .. }
            | Step::AssembleArray { array: made, members, .. } => {
                array = Some(made);
                drives.extend(members.iter().map(|m| m.path.as_path()));
            }
            Step::MakeFilesystem { device, .. } if is_array(device) => array = array.or(Some(device)),
            // An array that others have seen already is not marked: systemd would take it for gone.
            Step::Stage { device, .. } if is_array(device) => {}
            Step::MakeFilesystem { device, .. } | Step::Stage { device, .. } => drives.push(device),
            _ => {}
        }
    }
    drives.sort();
    drives.dedup();
    let root = &context.root;
    let name = array.map(device::kernel_name);
    let enough = context.holds.as_ref().is_some_and(|holds| {
        drives.iter().all(|d| holds.covers(&root.join(d))) && (name.is_none() || name == context.marked)
    });
    if !enough {
        // Let go first: a lock of ours on another descriptor would keep us off as well.
        context.holds = None;
        context.holds = Some(Holds::acquire(root, &drives, name.as_deref())?);
        context.touched.extend(drives.iter().map(|d| d.to_path_buf()));
        context.touched.sort();
        context.touched.dedup();
        context.marked = name;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
