//! Exec plugins that misbehave. What they print is a secret, whatever else it is.

use std::path::Path;
use std::time::{Duration, Instant};

use lab::apiserver::Server;
use lab::apiserver::cluster::Cluster;
use lab::apiserver::kubeconfig::{Exec, Login};
use serde_json::json;

use crate::node::{Node, Ran, said, text};
use crate::reports::credential;

/// The agent's time for a plugin, as its message has it.
const PLUGIN_TIME: Duration = Duration::from_secs(40);

/// A report with this script for a plugin; `TOKEN` in it becomes a token that would do.
struct Case<'a> {
    node: Node<'a>,
}

impl<'a> Case<'a> {
    fn new(cluster: &'a Cluster, script: impl FnOnce(&str) -> String) -> Case<'a> {
        let (node, token) = Node::with_token(cluster);
        node.login_by_script(&script(&token));
        Case { node }
    }

    /// It fails with status 1, says these words, has asked nobody and tried once.
    #[track_caller]
    fn fails(&self, words: &[&str]) -> Ran {
        let ran = self.node.report(&["--wait", "60s"]).fails(1, &["plugin"]).fails(1, words);
        assert_eq!(self.node.requests().len(), 0);
        assert_eq!(self.node.calls(), 1);
        assert_eq!(self.node.label("state"), None);
        ran
    }
}

fn cluster() -> Cluster {
    Cluster::test(Server::start().unwrap()).unwrap()
}

/// The process has ended, or does within some seconds.
fn ends(pid_file: &Path) -> bool {
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        !(stat.is_empty() || stat.contains(") Z ") || stat.contains(") X "))
    };
    let end = Instant::now() + Duration::from_secs(10);
    while alive() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    !alive()
}

#[test]
fn one_that_fails_after_printing_a_token() {
    let cluster = cluster();
    Case::new(&cluster, |token| format!("{}; echo {token} >&2; exit 3", credential(token, "")))
        .fails(&["status 3"]);
    Case::new(&cluster, |token| format!("{}; kill -9 $$", credential(token, ""))).fails(&["signal 9"]);
}

#[test]
fn one_that_hangs_is_ended_with_all_that_it_started() {
    let cluster = cluster();
    let (node, token) = Node::with_token(&cluster);
    let (own, child) = (node.file("own.pid", ""), node.file("child.pid", ""));
    let print = credential(&token, "");
    let script = format!(
        "trap '' TERM HUP INT; {print}; echo $$ >{}; sleep 600 & echo $! >{}; wait; sleep 600",
        text(&own),
        text(&child)
    );
    node.login_by_script(&script);
    let case = Case { node };
    let ran = case.fails(&["was not done within 40.0 s and was killed"]);
    assert!(ran.time >= PLUGIN_TIME && ran.time < 3 * PLUGIN_TIME, "{:?}", ran.time);
    assert!(ends(&own) && ends(&child));
}

#[test]
fn one_that_leaves_a_child_behind_works_and_the_child_ends() {
    let cluster = cluster();
    let (node, token) = Node::with_token(&cluster);
    let child = node.file("child.pid", "");
    node.login_by_script(&format!("sleep 600 & echo $! >{}; {}", text(&child), credential(&token, "")));
    let ran = node.report(&[]).ok();
    assert!(ran.time < PLUGIN_TIME, "{:?}", ran.time);
    assert!(ends(&child));
    assert_eq!(node.says(), said("ready", "True", "SetupComplete"));
}

#[test]
fn one_that_says_much_else_on_stderr_works() {
    let cluster = cluster();
    let (node, token) = Node::with_token(&cluster);
    let noise = format!("i=0; while [ $i -lt 20000 ]; do echo debug {token}; i=$((i+1)); done >&2");
    node.login_by_script(&format!("{noise}; {}", credential(&token, "")));
    node.report(&[]).ok();
    assert_eq!(node.says(), said("ready", "True", "SetupComplete"));
}

#[test]
fn rubbish() {
    let cluster = cluster();
    for (name, script) in [
        ("nothing", "true".to_owned()),
        ("a bare TOKEN", "echo TOKEN".into()),
        ("no JSON", "echo '{\"status\": {\"token\": TOKEN'".into()),
        ("not UTF-8", "printf '\\377\\376 TOKEN'".into()),
        ("ten megabytes", "head -c 10000000 /dev/zero | tr '\\0' x; echo TOKEN".into()),
        ("a list", "echo '[\"TOKEN\"]'".into()),
        ("another kind", credential("TOKEN", "").replace("ExecCredential", "Secret")),
        ("another version", credential("TOKEN", "").replace("v1beta1", "v1")),
        ("no token", credential("", "")),
        ("a token over two lines", credential("TOKEN", "").replace("TOKEN", "TOKEN\\\\nTOKEN")),
        ("a number for a token", credential("TOKEN", "").replace("\"TOKEN\"", "4711")),
        ("no time", credential("TOKEN", "TOKEN")),
    ] {
        let case = Case::new(&cluster, |token| script.replace("TOKEN", token));
        let ran = case.fails(&["printed"]);
        assert!(ran.time < 2 * PLUGIN_TIME, "{name}: {:?}", ran.time);
    }
}

#[test]
fn an_expired_token_is_not_sent() {
    let cluster = cluster();
    Case::new(&cluster, |token| credential(token, "2020-01-02T03:04:05Z")).fails(&["expired", "clock"]);
    let (node, token) = Node::with_token(&cluster);
    node.login_by_script(&credential(&token, "2999-01-02T03:04:05Z"));
    node.report(&[]).ok();
    assert_eq!(node.calls(), 1);
}

#[test]
fn one_process_serves_all_tries_of_a_report() {
    let cluster = cluster();
    let server = cluster.server().unwrap();
    let (node, token) = Node::with_token(&cluster);
    node.login_by_script(&credential(&token, "2999-01-02T03:04:05Z"));
    let fault = lab::apiserver::faults::Fault::Conflict;
    server.inject(lab::apiserver::faults::Rule::new(fault).times(3));
    node.report(&[]).ok();
    assert!(node.requests().len() > 3);
    assert_eq!(node.calls(), 1);
}

#[test]
fn one_that_cannot_be_started_is_named() {
    let cluster = cluster();
    let (node, _) = Node::with_token(&cluster);
    let nothing = text(&node.file("not-executable", "#!/bin/sh\n"));
    let login = |command: &str| node.login(&Login::Exec(Exec { command, args: &[], env: &[] }));
    login(&nothing);
    node.report(&[]).fails(1, &["plugin", &nothing, "could not be started"]);
    login("no-such-program-anywhere");
    node.report(&[]).fails(4, &["kubeconfig", "users[kubelet]", "command", "no-such-program-anywhere"]);
    assert_eq!(node.requests().len(), 0);
}

/// What AL2023's kubelet logs in with; keys that nobody gave out sign as well as others.
#[test]
fn the_real_aws_eks_get_token() {
    let cluster = cluster();
    let (name, _) = cluster.register().unwrap();
    let node = Node::unregistered(&cluster, &name);
    let (id, other) = ("AKIDLABLABLABLABLAB0", "AKIDLABLABLABLABLAB1");
    let (key, session) = ("s3cret-key-of-the-lab-5f1d0b7c", "s3ssion-t0ken-of-the-lab-91ac");
    // All EKS tokens begin so: `https://sts` in base64.
    for secret in [key, session, "k8s-aws-v1.aHR0cHM6Ly9zdHMu"] {
        crate::node::secret_token(secret);
    }
    cluster.server().unwrap().tokens().add_access_key(id, lab::apiserver::auth::User::node(&name));
    let aws = text(&lab::awscli::AwsCli::get().unwrap().program());
    let args = ["--region", "eu-west-1", "eks", "get-token", "--cluster-name", "lab"];
    let login = |id: &str| {
        let env = [("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", key), ("AWS_SESSION_TOKEN", session)];
        node.login(&Login::Exec(Exec { command: &aws, args: &args, env: &env }));
    };
    login(id);
    node.report(&[]).ok();
    assert_eq!(node.says(), said("ready", "True", "SetupComplete"));
    node.setup_failed("ForeignData", "-");
    login(other);
    node.report(&[]).fails(3, &["401"]);
    // What it says of itself: no cluster.
    node.login(&Login::Exec(Exec { command: &aws, args: &["eks", "get-token"], env: &[] }));
    node.report(&[]).fails(1, &["plugin", &aws, "failed with status"]);
    assert_eq!(node.says(), said("ready", "True", "SetupComplete"));
}

#[test]
fn arguments_and_environment_reach_it_and_nothing_else_of_ours_does() {
    let cluster = cluster();
    let (node, token) = Node::with_token(&cluster);
    crate::node::secret_token("s3cret-of-the-environment-77");
    let seen = text(&node.file("seen", ""));
    let script =
        node.script("plugin", &format!("echo \"$@\" >{seen}; env >>{seen}; {}", credential(&token, "")));
    let env = [("AWS_SECRET_ACCESS_KEY", "s3cret-of-the-environment-77"), ("TZ", "UTC")];
    node.login(&Login::Exec(Exec { command: &text(&script), args: &["eks", "get-token"], env: &env }));
    *node.env.borrow_mut() = vec![("JOURNAL_STREAM".into(), "8:1".into()), ("OF_OURS".into(), "x".into())];
    node.report(&[]).ok();
    let seen = std::fs::read_to_string(seen).unwrap();
    assert_eq!(seen.lines().next(), Some("eks get-token"));
    for line in ["AWS_SECRET_ACCESS_KEY=s3cret-of-the-environment-77", "TZ=UTC"] {
        assert!(seen.lines().any(|l| l == line), "no {line} in {seen}");
    }
    let info = seen.lines().find_map(|line| line.strip_prefix("KUBERNETES_EXEC_INFO=")).unwrap();
    let info: serde_json::Value = serde_json::from_str(info).unwrap();
    assert_eq!(info["spec"], json!({"interactive": false}));
    assert!(!seen.contains("OF_OURS") && !seen.contains("JOURNAL_STREAM"), "{seen}");
}
