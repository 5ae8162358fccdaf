//! `nvme-agent report`: the Node is told how its local storage is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Context;
use crate::config::{Config, LabelMethod, Overrides, parse_duration};
use crate::error::Error;
use crate::node::Keys;
use crate::node::report::{self, Access, LONGEST_WAIT, Options, Outcome};
use crate::root::Root;
use crate::setup::lock;
use crate::state::State;

/// Put labels, annotation and condition on this machine's Kubernetes Node
///
/// Looks again, as `status` does, and writes to the Node only what differs, with kubelet's own credential. Prints one
/// line that says what changed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How to reach the API server [default: /var/lib/kubelet/kubeconfig]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The Node's name [default: kubelet's --hostname-override]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Wait so long for the Node to exist [default: do not wait]
    #[arg(long, value_name = "TIME", value_parser = wait)]
    wait: Option<Duration>,
    /// Ask nobody where the Node was told the same within the hour, or where there is nothing to tell
    #[arg(long)]
    if_changed: bool,
}

/// What was seen so long ago is true.
const AT_ONCE: Duration = Duration::from_millis(20);
fn wait(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time <= LONGEST_WAIT => Ok(time),
        _ => Err(format!("expected at most {} s", LONGEST_WAIT.as_secs())),
    }
}

pub fn run(context: &Context, args: &Args) -> Result<u8> {
    let (config, wrong) = match context.load(&Overrides::as_set_up()) {
        Ok(config) => (config, None),
        // The setup of this boot has failed by it: the Node must not go on to say what it said before.
        Err(error) if args.if_changed => {
            let (config, how) = report::recall(&context.root, context.salvage(&Overrides::as_set_up()));
            if let Some(how) = how {
                tracing::warn!("{how}");
            }
            (config, Some(error))
        }
        Err(error) => return Err(error.into()),
    };
    let outcome = outcome(context, args, &config)?;
    if args.if_changed && !outcome.changed && context.logging.stdout_is_journal {
        // Not a line in the journal every four minutes.
        tracing::debug!("{}", outcome.line);
    } else {
        context.tell(std::slice::from_ref(&outcome.line), &format!("{}\n", outcome.line))?;
    }
    wrong.map_or(Ok(0), |error| Err(error.into()))
}

fn outcome(context: &Context, args: &Args, config: &Config) -> Result<Outcome, Error> {
    let quiet = |line: &str| Ok(Outcome { line: line.into(), changed: false, requests: 0, processes: 0 });
    let root = &context.root;
    if config.label_method == LabelMethod::None {
        return quiet("nothing is said on the Node: label_method is \"none\"");
    }
    if args.if_changed && args.kubeconfig.is_none() && !has_kubeconfig(root) {
        // The timer ticks before kubelet is set up, and on hosts that never become nodes.
        return quiet("nothing to report: there is no kubeconfig of kubelet's (yet)");
    }
    let memory = root.join(report::MEMORY_PATH);
    let look = {
        let (root, config, memory) = (root.clone(), config.clone(), memory.clone());
        move || report::observe(&root, &config, &memory)
    };
    let mut state = look();
    if args.if_changed && report::is_idle(root, &state) {
        report::mark_idle(root, &state);
        return quiet(report::IDLE);
    }
    let mut options = options(context, args, config, memory)?;
    let (begun, all) = (Instant::now(), report::PATIENCE + args.wait.unwrap_or_default());
    let _lock = lock::take_at(root, report::LOCK_PATH, all)?;
    let waited = begun.elapsed();
    if waited > AT_ONCE {
        state = look();
        if args.if_changed && report::is_idle(root, &state) {
            return quiet(report::IDLE);
        }
        // Whoever waited for another report has waited for the Node with it, and ends in the same time.
        options.wait = options.wait.map(|wait| wait.saturating_sub(waited));
        options.patience =
            all.saturating_sub(waited + options.wait.unwrap_or_default()).min(report::PATIENCE);
    }
    options.look = Some(Arc::new(look));
    let outcome = tell(&options, &state)?;
    report::mark_idle(root, &state);
    Ok(outcome)
}

fn has_kubeconfig(root: &Root) -> bool {
    root.join(report::KUBECONFIG_PATH).symlink_metadata().is_ok()
}

fn options(context: &Context, args: &Args, config: &Config, memory: PathBuf) -> Result<Options, Error> {
    let node = report::node_name(&context.root, args.node_name.as_deref())?;
    let access = Access::read(&context.root, args.kubeconfig.as_deref())?;
    Ok(Options {
        keys: Keys::of(config),
        profile: config.profile.clone(),
        if_changed: args.if_changed,
        kubelet: report::kubelet(&context.root),
        lasting: Some(context.root.join(report::LASTING_PATH)),
        wait: args.wait,
        ..Options::new(access, node, memory)
    })
}

fn tell(options: &Options, state: &State) -> Result<Outcome, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("/proc/self", "start the network client in"))?;
    let outcome = runtime.block_on(report::report(options, state));
    // A look-up of a name that hangs in libc holds a thread of its own, which nobody waits for.
    runtime.shutdown_background();
    let outcome = outcome?;
    tracing::debug!(requests = outcome.requests, processes = outcome.processes, "reported");
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_has_an_end() {
        assert_eq!(wait("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(wait("60m"), Ok(LONGEST_WAIT));
        assert!(wait("61m").is_err() && wait("-1").is_err() && wait("forever").is_err());
    }
}
