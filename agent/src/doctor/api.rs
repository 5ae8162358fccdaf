//! The credential: whether the API server lets this machine tell its Node how it is, tried by a dry run of the report.

use std::path::Path;
use std::time::Duration;

use super::Check;
use super::subject::Subject;
use crate::config::LabelMethod;
use crate::error::{Error, Result};
use crate::node::Keys;
use crate::node::report::{self, Access, KUBECONFIG_PATH, Options, Patience, Setback};
use crate::state::{Health, State};

/// A person waits for it: shorter than a report's own deadlines, which are for a boot.
const PATIENCE: Patience = Patience { login: Duration::from_secs(15), answer: Duration::from_secs(5) };

pub fn credentials(subject: &Subject<'_>, kubeconfig: Option<&Path>, node_name: Option<&str>) -> Check {
    const NAME: &str = "credentials";
    if subject.config.label_method == LabelMethod::None {
        return Check::ok(NAME, "label_method = \"none\": the Node is told nothing");
    }
    // What a kubeconfig of an image's would have us start is not this machine's; one that is named by hand is.
    if kubeconfig.is_none() {
        if let Some(unknown) = subject.cannot(NAME) {
            return unknown;
        }
        if let Err(why) = subject.at(KUBECONFIG_PATH) {
            return Check::unknown(NAME, why);
        }
        if subject.root.join(KUBECONFIG_PATH).symlink_metadata().is_err() {
            return Check::unknown(
                NAME,
                format!("no {KUBECONFIG_PATH}: this machine is no Kubernetes node (yet)"),
            );
        }
    }
    let options = match options(subject, kubeconfig, node_name) {
        Ok(options) => options,
        Err(error @ Error::Environment(_)) => return Check::unknown(NAME, error.to_string()),
        Err(error) => {
            return Check::problem(
                NAME,
                error.to_string(),
                "Mend what is named; `report` cannot tell the Node.",
            );
        }
    };
    let state = subject.state.clone().unwrap_or_else(|| {
        State::new(subject.root, Health::Failed, "NotSetUp", "setup has not run in this boot")
    });
    match rehearse(&options, &state) {
        Ok(Ok(requests)) => Check::ok(
            NAME,
            format!("may patch node {} and its status (dry run, {requests} requests)", options.node),
        ),
        Ok(Err(setback)) => judge(NAME, setback),
        Err(error) => Check::unknown(NAME, error.to_string()),
    }
}

fn options(subject: &Subject<'_>, kubeconfig: Option<&Path>, node_name: Option<&str>) -> Result<Options> {
    let node = report::node_name(subject.root, node_name)?;
    let access = Access::read(subject.root, kubeconfig)?;
    Ok(Options {
        keys: Keys::of(subject.config),
        profile: subject.config.profile.clone(),
        ..Options::new(access, node, subject.root.join(report::MEMORY_PATH))
    })
}

fn rehearse(options: &Options, state: &State) -> Result<Result<u32, Setback>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("/proc/self", "start the network client in"))?;
    let outcome = runtime.block_on(report::rehearse(options, state, PATIENCE));
    // A look-up of a name that hangs in libc holds a thread of its own, which nobody waits for.
    runtime.shutdown_background();
    Ok(outcome)
}

fn judge(name: &str, setback: Setback) -> Check {
    match setback {
        Setback::Refused { during: during @ "log in", error } => Check::problem(
            name,
            format!("{during}: {error}"),
            "kubelet logs in the same way: mend the kubeconfig, or what it starts for a credential.",
        ),
        // The error says what was expected.
        Setback::Refused { during, error } => Check::problem(
            name,
            format!("may not {during}: {error}"),
            "Until then `report` cannot keep the Node's label and condition true.",
        ),
        Setback::Passing { during, why } => Check::warning(
            name,
            format!("{during}: {why}"),
            "It may pass: try again. Where it stays, look at the network's way to the API server.",
        ),
        Setback::NoNode { why } => Check::warning(
            name,
            why,
            "Has kubelet registered it? Else give the Node's name with --node-name.",
        ),
        Setback::NoDryRun { why } => Check::unknown(name, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use crate::doctor::tests::Machine;
    use crate::node::registration::ENVIRONMENT_PATH;

    const KUBECONFIG: &str = "kind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: b, user: c}}]\n\
        clusters: [{name: b, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: c, user: {token: hunter2}}]\n";

    fn of(machine: &Machine) -> Check {
        let check = machine.check(|subject| credentials(subject, None, None));
        assert!(!format!("{check:?}").contains("hunter2"), "{check:?}");
        check
    }

    #[test]
    fn a_machine_that_is_no_node_or_has_no_name_as_one_is_unknown() {
        let mut machine = Machine::new();
        of(&machine).is(Verdict::Unknown, &["/var/lib/kubelet/kubeconfig", "no Kubernetes node"]);
        machine.write(KUBECONFIG_PATH, KUBECONFIG);
        of(&machine).is(Verdict::Unknown, &["the name of this Node is not known"]);
        machine.image(|subject| credentials(subject, None, None)).is(Verdict::Unknown, &["image"]);
        let nobody = Subject::with(&machine.root, &machine.config, true, false);
        credentials(&nobody, None, None).is(Verdict::Unknown, &["needs root"]);
        machine.config.label_method = LabelMethod::None;
        of(&machine).is(Verdict::Ok, &["told nothing"]);
    }

    #[test]
    fn a_kubeconfig_that_is_wrong_is_a_problem_and_a_server_that_is_not_there_a_warning() {
        let machine = Machine::new();
        machine.write(ENVIRONMENT_PATH, "NODEADM_KUBELET_ARGS=\"--hostname-override=ip-10-0-0-1\"");
        machine.write(KUBECONFIG_PATH, KUBECONFIG);
        of(&machine).is(Verdict::Warning, &["get nodes: GET node ip-10-0-0-1", "try again"]);
        machine.write(KUBECONFIG_PATH, &KUBECONFIG.replace("server: 'https://127.0.0.1:1'", "x: hunter2"));
        of(&machine).is_problem(&["clusters[b]", "server", "`report` cannot tell"]);
        let plugin = "exec: {apiVersion: client.authentication.k8s.io/v1beta1, command: /nonexistent, args: [hunter2]}";
        // Below another root than the host's one that is named by hand.
        machine.write("/root/kubeconfig", &KUBECONFIG.replace("token: hunter2", plugin));
        let named = machine.root.join("/root/kubeconfig");
        let check = machine.check(|subject| credentials(subject, Some(&named), None));
        check.is_problem(&["log in: credential plugin /nonexistent", "kubelet logs in the same way"]);
        assert!(!format!("{check:?}").contains("hunter2"), "{check:?}");
    }
}
