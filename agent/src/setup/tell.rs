//! What a run of setup came to: the state file, and what the Node registers with.

use std::time::SystemTime;

use super::session::Session;
use crate::config::{Config, given};
use crate::error::{Error, Result};
use crate::node::{registration, report};
use crate::plan::{Outcome, Plan};
use crate::root::Root;
use crate::state::{self, Health, State};
use crate::teardown;

impl Session {
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
        match [self.problems.as_slice(), &self.shortfalls].concat().as_slice() {
            [] => State::new(root, Health::Ready, "SetupComplete", "mounted and verified"),
            all => State::new(root, Health::Degraded, "Incomplete", all.join("; ")),
        }
    }

    /// Writes the state file of a run that failed. Its own error is not to be hidden by one of telling it.
    pub(super) fn report_failure(&self, root: &Root, config: &Config, error: &Error) {
        if let Err(error) = self.report(root, config, Err(error)) {
            tracing::warn!("{error}");
        }
    }

    /// Writes the state file.
    pub(super) fn report(
        &self,
        root: &Root,
        config: &Config,
        result: Result<&Plan, &Error>,
    ) -> Result<State> {
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
        if let Ok(Some(before)) = State::load(root) {
            // Errors since the first setup of this boot are errors still.
            state.media_errors.extend(before.media_errors);
            // What the mount of an earlier run hides is hidden still.
            if state.hidden_files.is_none() && before.fs_uuid == state.fs_uuid {
                state.hidden_files = before.hidden_files;
            }
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
        state.hidden_files = self.hidden_files;
        if let Some(promise) = &self.promise {
            state.layout.clone_from(&promise.layout);
            state.device.clone_from(&promise.device);
            state.array_uuid = promise.array_uuid;
            state.fs_uuid.clone_from(&promise.fs_uuid);
            state.filesystem.clone_from(&promise.filesystem);
            state.serials.clone_from(&promise.serials);
            state.media_errors.clone_from(&self.media_errors);
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
pub(super) fn remember_given(root: &Root, config: &Config) {
    if let Err(error) = given::remember(root, &config.given) {
        tracing::warn!("{error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;

    #[test]
    fn what_the_mount_is_short_of_makes_it_degraded_and_is_nothing_that_the_next_boot_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let plan = Plan::of(Outcome::Create, vec![Step::Expose { target: "/tmp".into() }]);
        let mut session = Session::default();
        session.shortfalls = vec!["/tmp is mounted without noatime".into()];
        let state = session.report(&root, &Config::default(), Ok(&plan)).unwrap();
        assert_eq!(
            (state.state, state.message.as_str()),
            (Health::Degraded, "/tmp is mounted without noatime")
        );
        assert!(state.persistence.is_empty(), "{:?}", state.persistence);
        session.problems = vec!["/etc/fstab: line 3 is malformed".into()];
        let state = session.report(&root, &Config::default(), Ok(&plan)).unwrap();
        assert_eq!(state.persistence, session.problems);
        assert_eq!(state.message, "/etc/fstab: line 3 is malformed; /tmp is mounted without noatime");
    }

    #[test]
    fn what_the_mount_hides_is_told_by_the_run_that_mounted_and_by_those_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let expose = || Plan::of(Outcome::Create, vec![Step::Expose { target: "/tmp".into() }]);
        let told = |hidden_files, plan: Plan| {
            let mut session = Session::default();
            session.hidden_files = hidden_files;
            session.report(&root, &Config::default(), Ok(&plan)).unwrap().hidden_files
        };
        assert_eq!(told(Some(3), expose()), Some(3));
        assert_eq!(told(None, Plan::of(Outcome::Keep, vec![Step::ReloadSystemd])), Some(3));
        assert_eq!(told(None, Plan::of(Outcome::Keep, Vec::new())), Some(3));
        assert_eq!(told(Some(0), expose()), Some(0));
    }
}
