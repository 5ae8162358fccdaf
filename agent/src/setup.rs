//! setup: observe → plan → apply → verify → report, with one run at a time.

pub(crate) mod lock;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use crate::apply::{self, Context, systemd};
use crate::config::{Config, given};
use crate::error::{Error, Result};
use crate::install::hook;
use crate::node::{registration, report};
use crate::observe::{self, Examine, How, Inventory};
use crate::persist::{FSTAB_PATH, atomic, fstab};
use crate::plan::{self, Outcome, Plan, Promise, Step};
use crate::root::Root;
use crate::state::{self, Health, State, StepTime, Trigger};
use crate::teardown;
use crate::verify::verify;

/// Between two looks for a member that is missing.
const PAUSE: Duration = Duration::from_millis(250);
/// Assemble, look, make: more rounds than three mean that something undoes what we do.
const ROUNDS: usize = 3;

/// The whole job. The state file has been written in every case but that of bad configuration.
///
/// # Errors
/// By class, see [`Error::exit_code`].
pub fn run(root: &Root, config: &Config, trigger: Trigger) -> Result<State> {
    let mut session = Session { trigger, started: Some(Instant::now()), ..Session::default() };
    let lock = suitable(root, &observe::host::read(root)).and_then(|()| {
        session.before(root, config);
        lock::take(root, config.lock_timeout)
    });
    match lock {
        // Whoever holds the lock reports.
        Err(busy @ Error::Busy { .. }) => Err(busy),
        // A call from a wrong place (a container, a unit with a namespace of its own) says nothing about the storage: what
        // this boot's last setup came to still holds.
        Err(unsuitable) if matches!(State::load(root), Ok(Some(_))) => Err(unsuitable),
        Err(error) => {
            session.report_failure(root, config, &error);
            Err(error)
        }
        Ok(_held) => match session.work(root, config) {
            Ok(plan) => session.report(root, config, Ok(&plan)),
            Err(error) => {
                session.step_back(root, config, &error);
                session.report_failure(root, config, &error);
                Err(error)
            }
        },
    }
}

/// A boot whose configuration is wrong: nothing is set up, and nothing of ours may keep the boot waiting. `config` is
/// what it says about the Node all the same ([`crate::node::policy`]).
pub fn give_up_boot(root: &Root, config: &Config, error: &Error) {
    let mut session = Session { trigger: Trigger::Boot, started: Some(Instant::now()), ..Session::default() };
    session.before(root, config);
    session.step_back(root, config, error);
    session.report_failure(root, config, error);
}

/// What [`run`] would do. Changes nothing.
///
/// # Errors
/// [`Error::Refused`] where setup would refuse.
pub fn plan(root: &Root, config: &Config) -> Result<Plan> {
    let inventory = observe::observe(root, config, How { examine: Examine::Everything, wait: false })?;
    plan::plan(&inventory, config).map_err(Error::Refused)
}

/// The machine is one that setup may work on.
pub(crate) fn suitable(root: &Root, host: &observe::Host) -> Result<()> {
    if !root.is_host() {
        return Err(Error::Environment(format!(
            "--root {}: setup and teardown work on the running host only; `plan` and `install` take another root",
            root.as_path().display()
        )));
    }
    if !host.effective_root {
        return Err(Error::Environment(
            "not root, which arrays, filesystems and mounts need; run it with sudo".into(),
        ));
    }
    if !host.host_mount_namespace {
        return Err(Error::Environment(
            "this is not the host's mount namespace (/proc/self/ns/mnt differs from /proc/1/ns/mnt), so nobody else would \
             see the mount; run it outside of the container, or take ProtectSystem=, PrivateTmp= and their like out of the unit"
                .into(),
        ));
    }
    Ok(())
}

/// What a run gathers on its way.
#[derive(Default)]
struct Session {
    trigger: Trigger,
    started: Option<Instant>,
    steps: Vec<StepTime>,
    /// What could not be persisted, and what verify found short.
    problems: Vec<String>,
    notes: Vec<String>,
    /// Arrays that this run assembled to look into.
    assembled: Vec<PathBuf>,
    promise: Option<Promise>,
    capacity: u64,
    /// `teardown --at-next-boot` was left for this run, which did that and nothing else.
    torn_down: bool,
}

impl Session {
    /// Before anything can go wrong or take time: nothing of an earlier boot is left for the Node to say, and the gate is
    /// where the configuration wants it.
    fn before(&self, root: &Root, config: &Config) {
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

    fn work(&mut self, root: &Root, config: &Config) -> Result<Plan> {
        match teardown::at_boot(root, config)? {
            Some(done) => Ok(self.torn_down(done)),
            None => self.converge(root, config),
        }
    }

    fn converge(&mut self, root: &Root, config: &Config) -> Result<Plan> {
        let deadline = Instant::now() + config.drive_timeout;
        let mut context: Option<Context> = None;
        for _ in 0..ROUNDS {
            let (inventory, plan) = observe_and_plan(root, config, deadline)?;
            for note in inventory.notes.iter().chain(&plan.notes) {
                if !self.notes.contains(note) {
                    tracing::warn!(outcome = ?plan.outcome, "{note}");
                    self.notes.push(note.clone());
                }
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
            self.promise = plan.promise.clone();
            let verified = match &plan.promise {
                Some(promise) => self.verify(root, config, promise),
                None => Ok(()),
            };
            // Also where verify found fault. Only at boot are there jobs (tmp.mount) that wait for us and must find systemd
            // with the new fstab.
            if let Err(error) = context.finish(self.trigger == Trigger::Boot) {
                self.problems.push(error.to_string());
            }
            verified?;
            self.assembled.clear();
            return Ok(plan);
        }
        Err(Error::Other(format!(
            "after {ROUNDS} rounds the arrays are still not what they were made to be; look into the kernel log and at udev rules for md"
        )))
    }

    fn verify(&mut self, root: &Root, config: &Config, promise: &Promise) -> Result<()> {
        let after = observe::observe(root, config, How { examine: Examine::Target, wait: false })?;
        self.capacity = capacity(&after, promise);
        self.problems.extend(verify(&after, promise)?);
        Ok(())
    }

    /// A run that failed leaves nothing in the way of the boot: an array that was only looked into is stopped again, and
    /// our fstab line is put out of force, so that the distribution's own directory comes and nothing waits.
    fn step_back(&mut self, root: &Root, config: &Config, error: &Error) {
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

    fn state(&self, root: &Root, plan: &Plan) -> State {
        if self.torn_down {
            let message =
                "torn down at this boot, as asked for; `nvme-agent setup` or the next boot sets up again";
            return State::new(root, Health::Absent, teardown::REASON, message);
        }
        if plan.outcome == Outcome::Absent {
            return State::new(
                root,
                Health::Absent,
                "NoDrives",
                "no instance-store drive is here, and none is required",
            );
        }
        match self.problems.as_slice() {
            [] => State::new(root, Health::Ready, "SetupComplete", "mounted and verified"),
            problems => State::new(root, Health::Degraded, "Incomplete", problems.join("; ")),
        }
    }

    /// Writes the state file of a run that failed. Its own error is not to be hidden by one of telling it.
    fn report_failure(&self, root: &Root, config: &Config, error: &Error) {
        if let Err(error) = self.report(root, config, Err(error)) {
            tracing::warn!("{error}");
        }
    }

    /// Writes the state file.
    fn report(&self, root: &Root, config: &Config, result: Result<&Plan, &Error>) -> Result<State> {
        let mut state = match result {
            Ok(plan) => self.state(root, plan),
            Err(error) => State::failed(root, error),
        };
        self.fill(&mut state, config);
        if result.is_ok_and(Plan::is_idle)
            && let Ok(Some(before)) = State::load(root)
            && (before.state, &before.reason, &before.fs_uuid) == (state.state, &state.reason, &state.fs_uuid)
            && before.message == state.message
        {
            // Nothing was done: what the run that did it told, its steps and times, stays.
            tell_node(root, config, &before);
            return Ok(before);
        }
        let written = state.write(root);
        tell_node(root, config, &state);
        written.map(|()| state)
    }

    fn fill(&self, state: &mut State, config: &Config) {
        let took = self.started.map(|s| s.elapsed()).unwrap_or_default();
        state.trigger = self.trigger;
        state.finished = state::rfc3339(SystemTime::now());
        state.duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let children = crate::exec::time_in_children();
        state.children_ms = u64::try_from(children.as_millis()).unwrap_or(u64::MAX);
        state.target.clone_from(&config.target);
        state.steps.clone_from(&self.steps);
        state.persistence.clone_from(&self.problems);
        state.notes.clone_from(&self.notes);
        state.capacity_gib = self.capacity >> 30;
        if let Some(promise) = &self.promise {
            state.layout.clone_from(&promise.layout);
            state.device.clone_from(&promise.device);
            state.array_uuid = promise.array_uuid;
            state.fs_uuid.clone_from(&promise.fs_uuid);
            state.filesystem.clone_from(&promise.filesystem);
            state.serials.clone_from(&promise.serials);
            state.drives = u32::try_from(promise.serials.len()).unwrap_or(u32::MAX);
        }
    }
}

/// What the Node is to say of it. The API server is not asked here: kubelet's start and a timer do that.
fn tell_node(root: &Root, config: &Config, state: &State) {
    remember_given(root, config);
    registration::update(root, config, state);
    report::mark_idle(root, state);
}

/// The gate, `report` and `status` go by what this run was given.
fn remember_given(root: &Root, config: &Config) {
    if let Err(error) = given::remember(root, &config.given) {
        tracing::warn!("{error}");
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

fn step_time(time: &apply::StepTime) -> StepTime {
    StepTime { name: time.step.into(), what: time.what.clone(), millis: time.millis }
}

/// Size of what carries the filesystem, in bytes.
fn capacity(inventory: &Inventory, promise: &Promise) -> u64 {
    let array = inventory.arrays.iter().find(|a| a.name == promise.device).map(|a| a.sectors);
    let drive = || inventory.drives.iter().find(|d| d.name == promise.device).map(|d| d.sectors);
    array.or_else(drive).unwrap_or_default() * 512
}

/// Comments our fstab line out and has systemd read it, unless something is mounted from a device at the target.
fn disable_fstab(root: &Root, config: &Config) -> Result<()> {
    let path = root.join(FSTAB_PATH);
    let Some(text) = atomic::read_text(&path)? else { return Ok(()) };
    // Also where our line mounts, which the configuration may have left since.
    let owned = fstab::owned(&text);
    let ours = |at: &str| at == config.target || owned.iter().any(|line| line.is_at(at));
    if observe::mounts::read(root)?.iter().any(|m| m.dev.major != 0 && ours(&m.at)) {
        return Ok(());
    }
    let Some(without) = fstab::disable(&text) else { return Ok(()) };
    atomic::replace_if(&path, Some(&text), &without)?;
    tracing::warn!("{FSTAB_PATH}: our line for {} is commented out until setup works again", config.target);
    systemd::reload(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_alike_whoever_tells_it_and_is_not_hidden_where_it_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        std::fs::create_dir_all(root.join(registration::DROP_IN_DIR)).unwrap();
        std::fs::create_dir_all(root.join("/etc/systemd/system")).unwrap();
        let unit = "[Service]\nExecStart=/usr/bin/nodeadm init --config-source file:///etc/eks/nodeadm.d/\n";
        std::fs::write(root.join("/etc/systemd/system/nodeadm-run.service"), unit).unwrap();
        let tainting = Config {
            on_failure: crate::config::OnFailure::Taint,
            given: [("on_failure".to_owned(), "taint".to_owned())].into(),
            ..Config::default()
        };
        give_up_boot(&root, &tainting, &Error::Config("key `x` is unknown".into()));
        let said = std::fs::read_to_string(root.join(registration::DROP_IN_PATH)).unwrap();
        assert!(said.contains("/state=failed,") && said.contains("registerWithTaints"), "{said}");
        assert_eq!(hook::shown(&root), tainting.on_failure, "the gate is in place");
        let later = crate::config::load(&root, None, &crate::config::Overrides::as_set_up(), []).unwrap();
        assert_eq!(later.on_failure, tainting.on_failure, "and goes by what setup was given");
        let state = State::load(&root).unwrap().unwrap();
        assert_eq!((state.state, state.trigger), (Health::Failed, Trigger::Boot));
        assert_eq!((state.reason.as_str(), state.target.as_str()), ("BadConfiguration", "/tmp"));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("run"), "a file").unwrap();
        let error = run(&Root::new(dir.path()), &Config::default(), Trigger::Hand).unwrap_err();
        assert_eq!(error.exit_code(), 5, "{error}");
    }

    #[test]
    fn a_call_from_an_unsuitable_place_is_the_state_only_where_there_is_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let call = || run(&root, &Config::default(), Trigger::Hand).unwrap_err().exit_code();
        assert_eq!(call(), 5);
        let first = State::load(&root).unwrap().unwrap();
        assert_eq!((first.state, first.reason.as_str()), (Health::Failed, "UnsuitableEnvironment"));
        State::new(&root, Health::Ready, "SetupComplete", "").write(&root).unwrap();
        assert_eq!(call(), 5);
        assert_eq!(State::load(&root).unwrap().unwrap().state, Health::Ready);
    }
}
