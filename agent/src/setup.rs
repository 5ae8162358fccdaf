//! setup: observe → plan → apply → verify → report, with one run at a time.

pub(crate) mod console;
pub(crate) mod lock;
mod session;
mod tell;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::observe::{self, Examine, How};
use crate::plan::{self, Plan};
use crate::root::Root;
use crate::state::{State, Trigger};

use session::Session;

/// The whole job. The state file has been written in every case but that of bad configuration.
///
/// # Errors
/// By class, see [`Error::exit_code`].
pub fn run(root: &Root, config: &Config, trigger: Trigger) -> Result<State> {
    let mut session = Session::start(trigger);
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
            console::tell(root, trigger, &error);
            Err(error)
        }
        Ok(_held) => match session.work(root, config) {
            Ok(plan) => session.report(root, config, Ok(&plan)),
            Err(error) => {
                session.step_back(root, config, &error);
                session.report_failure(root, config, &error);
                console::tell(root, trigger, &error);
                Err(error)
            }
        },
    }
}

/// A boot whose configuration is wrong: nothing is set up, and nothing of ours may keep the boot waiting. `config` is
/// what it says about the Node all the same ([`crate::node::policy`]).
pub fn give_up_boot(root: &Root, config: &Config, error: &Error) {
    let mut session = Session::start(Trigger::Boot);
    session.before(root, config);
    session.step_back(root, config, error);
    session.report_failure(root, config, error);
    console::tell(root, Trigger::Boot, error);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::hook;
    use crate::node::registration;
    use crate::state::Health;

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
