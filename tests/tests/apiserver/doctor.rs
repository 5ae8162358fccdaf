//! The credentials' check of `nvme-agent doctor`: a report as a dry run, of which nothing stays.

use std::time::Duration;

use hyper::{Method, StatusCode};
use lab::apiserver::Server;
use lab::apiserver::cluster::Cluster;
use lab::apiserver::faults::{Fault, Rule};
use lab::apiserver::kubeconfig::Login;
use serde_json::Value;

use crate::node::{Node, secret_token, text};
use crate::ran::Ran;

/// Verdict and what was found, and how the whole run went. Nothing is changed by it, neither there nor on the machine.
#[track_caller]
fn credentials(node: &Node<'_>, name: &str) -> (String, String, Ran) {
    let seen = node.seen();
    let result = ask(node, name);
    assert_eq!(node.seen(), seen, "nothing is written to the Node");
    result
}

/// The same while the server goes wrong, to whomever: the Node cannot be looked at.
#[track_caller]
fn ask(node: &Node<'_>, name: &str) -> (String, String, Ran) {
    let (files, before) = (node.files(), node.requests().len());
    let path = text(&node.kubeconfig_path());
    let ran = node.agent(&["doctor", "--kubeconfig", &path, "--node-name", name, "--output", "json"]);
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran:?}"));
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "credentials");
    let word = |key: &str| check.unwrap()[key].as_str().unwrap().to_owned();
    // A fixture is taken for an image that has nothing installed: its other checks find much to do.
    assert_eq!(ran.code, Some(11), "{ran:?}");
    assert_eq!(node.files(), files, "nothing is written on the machine");
    for entry in node.requests().into_iter().skip(before) {
        assert!(entry.method == Method::GET || entry.query.contains("dryRun=All"), "{entry:?}");
    }
    (word("verdict"), word("found"), ran)
}

pub fn a_dry_run_says_that_a_report_would_be_taken_and_changes_nothing(cluster: &Cluster) {
    let node = Node::registered(cluster);
    let (verdict, found, _) = credentials(&node, &node.name);
    assert_eq!(verdict, "ok", "{found}");
    assert!(found.contains(&format!("may patch node {} and its status", node.name)), "{found}");
    if cluster.server().is_ok() {
        let asked: Vec<(Method, String)> = node
            .requests()
            .into_iter()
            .map(|entry| (entry.method, entry.path.rsplit('/').next().unwrap().to_owned()))
            .collect();
        let name = node.name.clone();
        assert_eq!(
            asked,
            [(Method::GET, name.clone()), (Method::PATCH, "status".into()), (Method::PATCH, name)]
        );
        let condition = &node.requests()[1].body["status"]["conditions"][0]["type"];
        assert_eq!(condition, "nvme-agent.e6data.com/LocalStorageReady");
    }
    assert_eq!((node.label("state"), node.condition()), (None, None));
    // A Node that says it all already is tried all the same.
    node.report(&[]).ok();
    assert_eq!(credentials(&node, &node.name).0, "ok");
}

pub fn what_the_api_server_would_refuse_is_said_with_the_permission(cluster: &Cluster) {
    let (other, node) = (cluster.register().unwrap().0, Node::registered(cluster));
    let (verdict, found, _) = credentials(&node, &other);
    assert_eq!(verdict, "problem", "{found}");
    assert!(found.contains("may not get nodes") && found.contains("403"), "{found}");
    let (node, _) = Node::with_token(cluster);
    secret_token("no-such-token-9876543210");
    node.login(&Login::Token("no-such-token-9876543210"));
    let (verdict, found, _) = credentials(&node, &node.name);
    assert_eq!(verdict, "problem", "{found}");
    assert!(found.contains("401") && found.contains("credential"), "{found}");
}

fn cluster() -> Cluster {
    Cluster::test(Server::start().unwrap()).unwrap()
}

#[test]
fn the_permission_that_is_missing_is_named() {
    let cluster = cluster();
    let server = cluster.server().unwrap();
    let node = Node::registered(&cluster);
    let own = format!("/nodes/{}", node.name);
    for (path, code, words) in [
        (format!("{own}/status"), StatusCode::FORBIDDEN, ["may not patch nodes/status", "403"]),
        (own.clone(), StatusCode::FORBIDDEN, ["may not patch nodes", "403"]),
        (own.clone(), StatusCode::UNPROCESSABLE_ENTITY, ["may not patch nodes", "422"]),
        (own, StatusCode::UNAUTHORIZED, ["may not patch nodes", "401"]),
    ] {
        let rule = Rule::new(Fault::Refuse(code)).on(Method::PATCH).path(&path);
        // Of the Node itself, its status goes well.
        server.inject(if path.ends_with("status") { rule } else { rule.after(1) });
        let (verdict, found, _) = credentials(&node, &node.name);
        server.faults().clear();
        assert_eq!(verdict, "problem", "{found}");
        assert!(words.iter().all(|word| found.contains(word)), "{words:?}: {found}");
    }
}

#[test]
fn silence_and_what_may_pass_is_a_warning_in_time() {
    let cluster = cluster();
    let server = cluster.server().unwrap();
    let node = Node::registered(&cluster);
    for (method, fault, words) in [
        (Method::GET, Fault::Hang, "get nodes: GET node"),
        (Method::PATCH, Fault::Hang, "no whole answer within 5.0 s"),
        (Method::GET, Fault::Refuse(StatusCode::SERVICE_UNAVAILABLE), "503"),
        (Method::GET, Fault::NotFound, "does not exist"),
    ] {
        let seen = node.seen();
        server.inject(Rule::new(fault).on(method).path(&node.name));
        let (verdict, found, ran) = ask(&node, &node.name);
        server.faults().clear();
        assert_eq!(node.seen(), seen, "nothing is written to the Node");
        assert_eq!(verdict, "warning", "{found}");
        assert!(found.contains(words), "{found}");
        assert!(ran.time < Duration::from_secs(12), "{:?}", ran.time);
    }
}

#[test]
fn a_credential_plugin_that_hangs_is_ended() {
    let cluster = cluster();
    let node = Node::registered(&cluster);
    node.login_by_script("sleep 300");
    let (verdict, found, ran) = credentials(&node, &node.name);
    assert_eq!(verdict, "problem", "{found}");
    assert!(found.starts_with("log in: ") && found.contains("was not done within 15.0 s"), "{found}");
    assert!(ran.time < Duration::from_secs(25), "{:?}", ran.time);
}

#[test]
fn offline_asks_nobody_and_starts_nothing() {
    let cluster = cluster();
    let node = Node::registered(&cluster);
    let ran = node.agent(&["doctor", "--offline"]);
    assert!(!ran.stdout.contains("credentials"), "{}", ran.stdout);
    assert!(node.requests().is_empty());
    // Below another root kubelet's own kubeconfig would have us start what that image says.
    let calls = node.login_by_script("exit 1");
    let kubeconfig = std::fs::read_to_string(node.kubeconfig_path()).unwrap();
    node.machine.file("/var/lib/kubelet/kubeconfig", &kubeconfig);
    let ran = node.agent(&["doctor", "--node-name", &node.name]);
    assert!(ran.stdout.contains("credentials") && !calls.exists(), "{}", ran.stdout);
}
