//! `nvme-agent setup`: the whole job.

use anyhow::Result;

use super::Context;
use super::args::ConfigArgs;
use crate::node::policy;
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
    let config = context.load(&args.config.overrides()).inspect_err(|error| {
        if args.trigger == Trigger::Boot {
            let salvaged = context.salvage(&args.config.overrides());
            let config = policy::in_doubt_as_shown(&context.root, salvaged);
            crate::setup::give_up_boot(&context.root, &config, error);
        }
    })?;
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
