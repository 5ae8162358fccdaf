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

pub mod device;
pub mod directories;
pub mod mkfs;
pub mod stage;
mod steps;
pub mod systemd;
mod uevents;
pub mod view;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::logging::progress;
use crate::md::lock::{CreatingMark, Holds};
use crate::observe::{Files, Inventory};
use crate::plan::{Plan, Step};
use crate::root::Root;

use stage::{Place, Staged};
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

/// What apply needs to know, and what it holds.
#[derive(Debug)]
pub struct Context {
    root: Root,
    mkfs_timeout: Duration,
    kernel: String,
    /// Texts that the new ones were made from: a file that changed since is not overwritten.
    files: Files,
    /// Locks and mark that keep udev and systemd off, while there is something half-ready.
    holds: Option<Holds>,
    /// Kernel name of the array that the mark is for.
    marked: Option<String>,
    /// Devices that udev has to look at when the holds are gone.
    touched: Vec<PathBuf>,
    staged: Option<Staged>,
    /// Begun when the filesystem was there and waited for before it is exposed; then again when the array was let go,
    /// and waited for before systemd reads fstab again.
    settling: Option<uevents::Settling>,
    /// The target as it was when this run began to work on it.
    covered: Option<Place>,
    /// systemd has to read fstab again.
    reload: bool,
    times: Vec<StepTime>,
}

impl Context {
    pub fn new(root: Root, config: &Config, inventory: &Inventory) -> Context {
        Context {
            root,
            mkfs_timeout: config.mkfs_timeout,
            kernel: inventory.host.kernel.clone(),
            files: inventory.files.clone(),
            holds: None,
            marked: None,
            touched: Vec::new(),
            staged: None,
            settling: None,
            covered: None,
            reload: false,
            times: Vec::new(),
        }
    }

    /// To be told what was seen when looking again.
    pub fn observed(&mut self, inventory: &Inventory) {
        self.files = inventory.files.clone();
    }

    /// Every step so far, of every plan, the failed one too.
    pub fn times(&self) -> &[StepTime] {
        &self.times
    }

    /// What did not work without ending the run.
    pub fn problems(&self) -> impl Iterator<Item = String> + '_ {
        self.times.iter().filter_map(|t| t.error.as_ref().map(|e| format!("{}: {e}", t.step)))
    }

    /// Has systemd read fstab again where that is due, and waits for it if told to. To be called after verify, so that
    /// udev has time for the device meanwhile: a line of fstab whose device systemd does not know yet has it unmount
    /// what is there. An error means `degraded`, not `failed`.
    ///
    /// # Errors
    /// Where udev, or systemd, did not come to an end in time.
    pub fn finish(&mut self, wait: bool) -> Result<()> {
        self.release();
        let reloaded = self.reload(wait);
        self.announce();
        reloaded
    }

    fn reload(&mut self, wait: bool) -> Result<()> {
        if !std::mem::take(&mut self.reload) {
            return Ok(());
        }
        if let Some(settling) = self.settling.take() {
            settling.wait(&self.root)?;
        }
        match systemd::request_reload(&self.root)? {
            Some(reload) if wait => reload.wait(systemd::RELOAD_TIME),
            _ => Ok(()),
        }
    }

    /// Unmounts what is staged, lets go of locks and marks, and has udev look at what carries the filesystem.
    fn release(&mut self) {
        self.staged = None;
        let array = self.marked.take().is_some();
        // Of an array udev is told by the mark's end; of its members when all is done, for nobody waits for that, and
        // among 24 drives' events those of the array would be late.
        if self.holds.take().is_some() && !array {
            self.announce();
        }
    }

    /// The kernel keeps the members of a running array from everybody else. So udev may look at them while mkfs works, and
    /// is through with them when it is to look at the array.
    fn members_are_taken(&mut self) {
        if let Some(holds) = &mut self.holds {
            holds.release_drives();
        }
        self.announce();
    }

    /// Has udev look at what we had locked.
    fn announce(&mut self) {
        for device in std::mem::take(&mut self.touched) {
            device::announce(&self.root, &device);
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        self.release();
        self.announce();
    }
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
