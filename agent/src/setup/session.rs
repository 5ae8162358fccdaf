//! One run of setup on its way from what is there to what was promised, and back where it fails.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::tell::remember_given;
use crate::apply::{self, Context, rest, systemd};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::install::hook;
use crate::node::registration;
use crate::observe::sysfs::Sysfs;
use crate::observe::{self, Examine, How, Inventory, mounts};
use crate::persist::{FSTAB_PATH, atomic, fstab};
use crate::plan::{self, Outcome, Plan, Promise, Step};
use crate::probe::{self, Answer, drive::Said};
use crate::root::Root;
use crate::state::{State, StepTime, Trigger};
use crate::teardown;
use crate::verify::verify;

/// Between two looks for a member that is missing.
const PAUSE: Duration = Duration::from_millis(250);
/// How long the drives may take to say what they count.
const PROBE_TIME: Duration = Duration::from_secs(1);
/// Assemble, look, make: more rounds than three mean that something undoes what we do.
const ROUNDS: usize = 3;

/// What a run gathers on its way.
#[derive(Default)]
pub(super) struct Session {
    pub(super) trigger: Trigger,
    pub(super) started: Option<Instant>,
    pub(super) steps: Vec<StepTime>,
    /// What could not be persisted.
    pub(super) problems: Vec<String>,
    /// What the mounted filesystem is short of.
    pub(super) shortfalls: Vec<String>,
    pub(super) notes: Vec<String>,
    /// Arrays that this run assembled to look into.
    assembled: Vec<PathBuf>,
    pub(super) promise: Option<Promise>,
    pub(super) capacity: u64,
    /// Entries of the target that this run's mount hides.
    pub(super) hidden_files: Option<u64>,
    /// Media errors that the drives count, by serial number.
    pub(super) media_errors: BTreeMap<String, u64>,
    /// `teardown --at-next-boot` was left for this run, which did that and nothing else.
    pub(super) torn_down: bool,
}

impl Session {
    pub(super) fn start(trigger: Trigger) -> Session {
        Session { trigger, started: Some(Instant::now()), ..Session::default() }
    }

    /// Before anything can go wrong or take time: nothing of an earlier boot is left for the Node to say, and the gate is
    /// where the configuration wants it.
    pub(super) fn before(&self, root: &Root, config: &Config) {
        remember_given(root, config);
        // Whoever started it: where nothing has run in this boot, what is there was left by another one, or by the machine
        // that the image was made of.
        if self.trigger == Trigger::Boot || !matches!(State::load(root), Ok(Some(_))) {
            registration::expect_failure(root, config);
        }
        let changed = hook::ensure(root, config).unwrap_or_else(|error| {
            tracing::warn!("the gate: {error}");
            Vec::new()
        });
        for line in &changed {
            tracing::info!("{line}");
        }
        // The unit may be waiting for its start already, as it was before.
        if changed.iter().any(|line| !line.starts_with("note: "))
            && let Err(error) = systemd::reload(root)
        {
            tracing::warn!("{error}");
        }
    }

    fn torn_down(&mut self, done: Vec<String>) -> Plan {
        for line in &done {
            tracing::warn!("teardown, as asked for in an earlier boot: {line}");
        }
        self.torn_down = true;
        self.notes.extend(done);
        Plan::of(Outcome::Absent, Vec::new())
    }

    pub(super) fn work(&mut self, root: &Root, config: &Config) -> Result<Plan> {
        match teardown::at_boot(root, config)? {
            Some(done) => Ok(self.torn_down(done)),
            None => self.converge(root, config),
        }
    }

    fn converge(&mut self, root: &Root, config: &Config) -> Result<Plan> {
        let deadline = Instant::now() + config.drive_timeout;
        // What an earlier run of this boot mounted may have gone a moment ago.
        let again = matches!(State::load(root), Ok(Some(state)) if !state.fs_uuid.is_empty());
        let mut context: Option<Context> = None;
        for _ in 0..ROUNDS {
            let (inventory, plan) = observe_and_plan(root, config, deadline)?;
            for note in inventory.notes.iter().chain(&plan.notes) {
                if !self.notes.contains(note) {
                    tracing::warn!(outcome = ?plan.outcome, "{note}");
                    self.notes.push(note.clone());
                }
            }
            let exposes = plan.steps.iter().any(|step| matches!(step, Step::Expose { .. }));
            if exposes {
                self.hidden_files = Some(inventory.target.entries);
            }
            let context = match &mut context {
                Some(context) => {
                    context.observed(&inventory);
                    context
                }
                none => none.insert(Context::new(root.clone(), config, &inventory)),
            };
            let applied = apply::apply(&plan, context);
            self.assembled.extend(plan.steps.iter().filter_map(|step| match step {
                Step::AssembleArray { array, .. } => Some(array.clone()),
                _ => None,
            }));
            self.steps = context.times().iter().map(step_time).collect();
            applied?;
            if plan.look_again {
                continue;
            }
            for problem in &plan.problems {
                tracing::warn!(outcome = ?plan.outcome, "{problem}");
            }
            self.problems = plan.problems.iter().cloned().chain(context.problems()).collect();
            self.shortfalls.clear();
            self.promise = plan.promise.clone();
            let verified = match &plan.promise {
                Some(promise) => self.verify(root, config, &plan, promise),
                None => Ok(()),
            };
            // Also where verify found fault. Only at boot are there jobs (tmp.mount) that wait for us and must find systemd
            // with the new fstab.
            if let Err(error) = context.finish(self.trigger == Trigger::Boot) {
                self.problems.push(error.to_string());
            }
            verified?;
            if again
                && exposes
                && let Some(promise) = &plan.promise
                && !stays(root, promise)?
            {
                tracing::warn!(
                    "{}: systemd, late, unmounted what was just mounted there; once more",
                    promise.target
                );
                continue;
            }
            self.assembled.clear();
            return Ok(plan);
        }
        Err(Error::Other(format!(
            "after {ROUNDS} rounds the arrays, or what is mounted, are still not what they were made to be; look into the kernel log, at udev rules for md and at `journalctl -b _PID=1`"
        )))
    }

    fn verify(&mut self, root: &Root, config: &Config, plan: &Plan, promise: &Promise) -> Result<()> {
        let after = observe::observe(root, config, How { examine: Examine::Target, wait: false })?;
        self.capacity = capacity(&after, promise);
        // Where nothing was done, what an earlier run noted stays.
        if !plan.is_idle() {
            self.media_errors = media_errors(root, &after);
        }
        self.shortfalls = verify(&after, promise)?;
        Ok(())
    }

    /// A run that failed leaves nothing in the way of the boot: an array that was only looked into is stopped again, and
    /// our fstab line is put out of force, so that the distribution's own directory comes and nothing waits.
    pub(super) fn step_back(&mut self, root: &Root, config: &Config, error: &Error) {
        tracing::debug!("stepping back: {error}");
        for array in self.assembled.drain(..) {
            if let Err(error) = crate::md::array::stop(root, &array) {
                tracing::warn!(device = %array.display(), "{error}");
            }
        }
        if let Err(error) = disable_fstab(root, config) {
            tracing::warn!("{error}");
            self.problems.push(error.to_string());
        }
    }
}

/// Observes and plans; waits for drives that ought to be there, until the deadline.
fn observe_and_plan(root: &Root, config: &Config, deadline: Instant) -> Result<(Inventory, Plan)> {
    let mut told = false;
    loop {
        let inventory = observe::observe(root, config, How { examine: Examine::Everything, wait: true })?;
        match plan::plan(&inventory, config) {
            Ok(plan) => return Ok((inventory, plan)),
            Err(refusal) if refusal.reason.is_missing() && Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(reason = %refusal.reason, "waiting: {}", refusal.found.join("; "));
                }
                std::thread::sleep(PAUSE);
            }
            Err(refusal) => return Err(Error::Refused(refusal)),
        }
    }
}

/// True where what was mounted is still there when systemd is through with what was there before.
fn stays(root: &Root, promise: &Promise) -> Result<bool> {
    rest::wait(root);
    let table = mounts::read(root)?;
    let device = Sysfs::new(root).dev(&promise.device);
    Ok(mounts::topmost(&table, &promise.target).is_some_and(|mount| Some(mount.dev) == device))
}

fn step_time(time: &apply::StepTime) -> StepTime {
    StepTime { name: time.step.into(), what: time.what.clone(), millis: time.millis }
}

/// Size of what carries the filesystem, in bytes.
fn capacity(inventory: &Inventory, promise: &Promise) -> u64 {
    let array = inventory.arrays.iter().find(|a| a.name == promise.device).map(|a| a.sectors);
    let drive = || inventory.drives.iter().find(|d| d.name == promise.device).map(|d| d.sectors);
    array.or_else(drive).unwrap_or_default() * 512
}

/// What the drives count by now, so that `status` sees more of them. By the way: who does not answer is left out.
fn media_errors(root: &Root, inventory: &Inventory) -> BTreeMap<String, u64> {
    let answers = probe::ask(root, &inventory.drives, None, PROBE_TIME).drives;
    let errors = |answer: Result<Answer<Said>>| Some(answer.ok()?.said.smart?.media_errors);
    let counted = inventory.drives.iter().zip(answers);
    counted.filter_map(|(drive, answer)| Some((drive.serial.clone(), errors(answer)?))).collect()
}

/// Comments our fstab line out and has systemd read it, unless something is mounted from a device at the target.
fn disable_fstab(root: &Root, config: &Config) -> Result<()> {
    let path = root.join(FSTAB_PATH);
    let Some(text) = atomic::read_text(&path)? else { return Ok(()) };
    // Also where our line mounts, which the configuration may have left since.
    let owned = fstab::owned(&text);
    let ours = |at: &str| at == config.target || owned.iter().any(|line| line.is_at(at));
    if mounts::read(root)?.iter().any(|m| m.dev.major != 0 && ours(&m.at)) {
        return Ok(());
    }
    let Some(without) = fstab::disable(&text) else { return Ok(()) };
    atomic::replace_if(&path, Some(&text), &without)?;
    tracing::warn!("{FSTAB_PATH}: our line for {} is commented out until setup works again", config.target);
    systemd::reload(root)
}
