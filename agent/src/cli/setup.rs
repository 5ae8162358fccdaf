//! `nvme-agent setup`: the whole job.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use tracing::level_filters::LevelFilter;

use super::args::ConfigArgs;
use super::{Command, Context};
use crate::config::{Overrides, Salvaged};
use crate::error::Error;
use crate::logging::{self, Kind};
use crate::node::policy;
use crate::root::Root;
use crate::setup::console;
use crate::state::{State, Trigger};

/// Make the drives one filesystem, mount it, keep it over reboots, verify
///
/// Safe to run again: where everything is in place it changes nothing. Refuses, and changes nothing, where a
/// drive holds data that nvme-agent did not put there.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// What starts this run; goes into the state file
    #[arg(long, value_name = "WHAT", default_value = "hand", hide = true)]
    trigger: Trigger,
}

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    context.require_host("setup");
    context.require_root("setup")?;
    let config =
        context.load(&args.config.overrides()).inspect_err(|error| not_begun(context, args, error))?;
    // Nothing in the configuration is a secret.
    let json = serde_json::to_string(&config).unwrap_or_default();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        trigger = %args.trigger,
        wipe_foreign = config.wipe_foreign,
        adopt = config.adopt,
        config = json,
        "setup starts: nvme-agent {}, {}",
        env!("CARGO_PKG_VERSION"),
        args.trigger
    );
    let state = crate::setup::run(&context.root, &config, args.trigger)?;
    let end = format!(
        "setup ends: {} ({}) after {} ms: {}",
        state.state, state.reason, state.duration_ms, state.message
    );
    context.tell(&[end], &summary(&state))?;
    Ok(0)
}

/// A boot that sets nothing up, by what is known of the configuration.
fn give_up(context: &Context, salvaged: Salvaged, error: &Error) {
    let config = policy::in_doubt_as_shown(&context.root, salvaged);
    crate::setup::give_up_boot(&context.root, &config, error);
}

/// A setup that does not get as far as to begin. Where it is the boot's, the Node is not to say what it said at an earlier
/// boot, or what the machine said that its image was made of.
fn not_begun(context: &Context, args: &Args, error: &Error) {
    match args.trigger {
        Trigger::Boot => give_up(context, context.salvage(&args.config.overrides()), error),
        // userData has written what the Node says where setup does not get to it.
        Trigger::UserData => console::tell(&context.root, args.trigger, error),
        Trigger::Hand => {}
    }
}

/// What went wrong before a command could run.
pub fn too_early(context: &Context, command: &Command, error: &Error) {
    if let Command::Setup(args) = command
        && context.require_root("setup").is_ok()
    {
        not_begun(context, args, error);
    }
}

/// The words are those of the unit, whatever else is among them.
pub fn is_boot(args: impl IntoIterator<Item = OsString>) -> bool {
    let args: Vec<OsString> = args.into_iter().skip(1).collect();
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let pair = args.windows(2).any(|pair| pair[0] == "--trigger" && pair[1] == "boot");
    let elsewhere = args.iter().any(|arg| arg.as_encoded_bytes().starts_with(b"--root"));
    has("setup") && (pair || has("--trigger=boot")) && !elsewhere
}

/// The same where the command line is wrong: a flag of another version in the unit.
pub fn give_up_unparsed(error: &clap::Error) {
    let root = Root::default();
    let logging = logging::init(&root, Kind::Acts, LevelFilter::INFO);
    let config = std::env::var_os("NVME_AGENT_CONFIG").map(PathBuf::from);
    let context = Context { root, config, logging };
    if context.require_root("setup").is_ok() {
        give_up(&context, unparsed(&context), &usage(error));
    }
}

/// What is known without the command line, which may have said more.
fn unparsed(context: &Context) -> Salvaged {
    Salvaged { unread: true, ..context.salvage(&Overrides::default()) }
}

fn usage(error: &clap::Error) -> Error {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    Error::Config(format!(
        "the command line of nvme-agent.service: {}; see `systemctl cat nvme-agent.service`",
        line.trim_start_matches("error: ")
    ))
}

/// What a person who typed the command wants to know.
fn summary(state: &State) -> String {
    let mut text = format!("{} ({}): {}\n", state.state, state.reason, state.message);
    for step in &state.steps {
        text.push_str(&format!(
            "  {:>6} ms  {}\n",
            step.millis,
            if step.what.is_empty() { &step.name } else { &step.what }
        ));
    }
    for note in state.notes.iter().chain(&state.persistence) {
        text.push_str(&format!("note: {note}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;
    use crate::config::{CONFIG_PATH, Config, OnFailure};
    use crate::install::hook::{self, NODEADM_HOOK};
    use crate::node::registration::{self, DROP_IN_DIR, DROP_IN_PATH};
    use crate::state::Health;

    #[test]
    fn the_boots_setup_is_known_by_its_words_whatever_is_among_them() {
        let is = |line: &str| is_boot(line.split(' ').map(OsString::from));
        assert!(is("nvme-agent setup --trigger boot --no-such-flag"));
        assert!(is("nvme-agent --colour setup --trigger=boot"));
        for other in [
            "nvme-agent setup --no-such-flag",
            "nvme-agent setup --trigger user-data --x",
            "nvme-agent plan --trigger boot",
            "nvme-agent setup --trigger boot --root /mnt",
            "nvme-agent setup --trigger boot --root=/mnt",
            "setup --trigger boot",
        ] {
            assert!(!is(other), "{other}");
        }
    }

    /// A node that an earlier boot left ready, by a flag of the unit's.
    fn ready() -> (tempfile::TempDir, Context) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (path, text) in [
            ("/proc/sys/kernel/random/boot_id", "one"),
            (
                "/etc/systemd/system/nodeadm-run.service",
                "[Service]\nExecStart=/usr/bin/nodeadm init --config-source file:///etc/eks/nodeadm.d/\n",
            ),
            (CONFIG_PATH, "label_domain = \"x.example.com\"\n"),
        ] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        }
        fs::create_dir_all(root.join(DROP_IN_DIR)).unwrap();
        let earlier = Config { on_failure: OnFailure::NoJoin, ..Config::default() };
        hook::ensure(&root, &earlier).unwrap();
        registration::update(&root, &earlier, &State::new(&root, Health::Ready, "SetupComplete", ""));
        (dir, Context { root, config: None, logging: logging::Logging::default() })
    }

    #[test]
    fn a_command_line_that_is_wrong_leaves_no_node_that_says_ready_and_no_weaker_gate() {
        let (_dir, context) = ready();
        let root = &context.root;
        let line = ["nvme-agent", "setup", "--trigger", "boot", "--on-failure", "no-join", "--colour"];
        let error = super::super::command().try_get_matches_from(line).unwrap_err();
        give_up(&context, unparsed(&context), &usage(&error));
        let said = fs::read_to_string(root.join(DROP_IN_PATH)).unwrap();
        assert!(said.contains("x.example.com/state=failed,"), "{said}");
        assert_eq!(fs::read_to_string(root.join(NODEADM_HOOK)).unwrap(), hook::GATE);
        let state = State::load(root).unwrap().unwrap();
        assert!(state.message.contains("--colour") && !state.message.contains('\n'), "{}", state.message);
    }

    #[test]
    fn what_ends_the_boots_setup_before_it_begins_brings_the_node_to_failed_and_only_the_boots() {
        let error = Error::Config("environment variable NVME_AGENT_LOG_LEVEL: expected error".into());
        for (line, failed) in [
            (&["nvme-agent", "setup", "--trigger", "boot", "--on-failure", "no-join"][..], true),
            (&["nvme-agent", "setup"], false),
            (&["nvme-agent", "status"], false),
        ] {
            let (_dir, context) = ready();
            let command = super::super::Cli::try_parse_from(line).unwrap().command;
            too_early(&context, &command, &error);
            let said = fs::read_to_string(context.root.join(DROP_IN_PATH)).unwrap();
            assert_eq!(said.contains("/state=failed,"), failed, "{line:?}: {said}");
            assert_eq!(hook::shown(&context.root), OnFailure::NoJoin);
        }
    }
}
