//! What goes wrong on the way: what passes is tried again, what does not ends it at once, and nothing lasts for ever.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use lab::apiserver::auth::User;
use lab::apiserver::client::STRATEGIC;
use lab::apiserver::cluster::{Cluster, kubelet_conditions};
use lab::apiserver::faults::{Fault, Rule};
use lab::apiserver::kubeconfig::{Authority, Login};
use lab::apiserver::pki::ServerCertificate;
use lab::apiserver::{Options, Server};
use nvme_agent::error::Error;
use nvme_agent::state::{Health, State};
use serde_json::json;

use crate::node::{Node, said, secret_token, text};

/// The agent's time for one request, as its message has it.
const REQUEST_TIME: Duration = Duration::from_secs(15);

fn cluster() -> Cluster {
    Cluster::test(Server::start().unwrap()).unwrap()
}

/// A rule for this node's requests only.
fn rule(node: &Node<'_>, fault: Fault) -> Rule {
    Rule::new(fault).path(&format!("/nodes/{}", node.name))
}

/// One fault on each of the requests that matter, once and twice; the Node is told all the same.
fn passes(fault: &Fault) {
    let cluster = cluster();
    let server = cluster.server().unwrap();
    for (method, times) in [(Method::GET, 1), (Method::GET, 2), (Method::PATCH, 1)] {
        let node = Node::registered(&cluster);
        server.inject(rule(&node, fault.clone()).on(method.clone()).times(times));
        let ran = node.report(&["--wait", "10s"]);
        let case = format!("{fault:?} on {method}, {times} times");
        assert_eq!(ran.code, Some(0), "{case}: {}", ran.stderr);
        assert_eq!(node.says(), said("ready", "True", "SetupComplete"), "{case}");
        assert!(ran.stderr.contains("trying again"), "{case}: it happened and was said: {}", ran.stderr);
        let conditions = node.seen()["status"]["conditions"].as_array().unwrap().len();
        assert_eq!(conditions, kubelet_conditions().as_array().unwrap().len() + 1, "{case}");
        // Each try begins with a look: what was done though its answer was lost is not done again. But for a patch that was
        // turned away undone: thousands of nodes that look again each time keep the server from answering any.
        let looks = node.requests().iter().filter(|entry| entry.method == Method::GET).count();
        let undone = matches!(fault, Fault::TooMany(_)) && method == Method::PATCH;
        assert_eq!(looks, if undone { 1 } else { times as usize + 1 }, "{case}");
        server.faults().clear();
    }
}

#[test]
fn a_node_that_is_not_there_yet() {
    passes(&Fault::NotFound);
}

#[test]
fn a_conflict() {
    passes(&Fault::Conflict);
}

#[test]
fn too_many_requests() {
    passes(&Fault::TooMany(1));
}

#[test]
fn what_is_written_is_what_is_true_when_the_server_answers_at_last() {
    let cluster = cluster();
    let node = Node::registered(&cluster);
    cluster.server().unwrap().inject(rule(&node, Fault::TooMany(4)).on(Method::GET).times(1));
    let root = node.machine.root();
    let ran = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_secs(1));
            State::new(&root, Health::Failed, "ForeignData", "nvme1n1 holds a filesystem")
                .write(&root)
                .unwrap();
        });
        node.report(&[]).ok()
    });
    assert_eq!(node.says(), said("failed", "False", "ForeignData"));
    assert!(ran.stdout.contains("state none -> failed (ForeignData)"), "{}", ran.stdout);
    // It is remembered, too: nothing is left to be said.
    let asked = node.requests().len();
    node.report(&["--if-changed"]).ok();
    assert_eq!(node.requests().len(), asked);
}

#[test]
fn another_node_of_the_same_name_is_not_told_what_was_meant_for_the_one_that_was_read() {
    let cluster = cluster();
    let node = Node::registered(&cluster);
    let server = cluster.server().unwrap();
    let first = node.seen()["metadata"]["uid"].clone();
    server.inject(rule(&node, Fault::Recreated).on(Method::PATCH).times(1));
    node.report(&[]).ok();
    assert_ne!(node.seen()["metadata"]["uid"], first);
    assert_eq!(node.says(), said("ready", "True", "SetupComplete"));
    let patches: Vec<_> = node.requests().into_iter().filter(|entry| entry.method == Method::PATCH).collect();
    assert_eq!(patches.iter().map(|entry| entry.status).collect::<Vec<_>>(), [Some(422), Some(200)]);
    assert_eq!(patches[0].body["metadata"]["uid"], first);
    let path = node.machine.path(nvme_agent::node::report::MEMORY_PATH);
    let memory: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(memory["uid"], node.seen()["metadata"]["uid"]);
}

#[test]
fn what_a_webhook_made_of_it_is_said_once_and_not_fought() {
    let cluster = cluster();
    let node = Node::registered(&cluster);
    let key = "nvme-agent.e6data.com/drives";
    cluster.server().unwrap().inject(rule(&node, Fault::Relabel(key, "7")).on(Method::PATCH));
    let ran = node.report(&["--if-changed"]).ok();
    assert!(ran.stdout.contains("the Node says otherwise (labels): did a webhook"), "{}", ran.stdout);
    assert_eq!((node.label("drives").as_deref(), node.label("state").as_deref()), (Some("7"), Some("ready")));
    let asked = node.requests().len();
    assert!(asked <= 3, "{:?}", node.requests());
    let ran = node.report(&["--if-changed"]).ok();
    assert!(!ran.stdout.contains("otherwise"), "{}", ran.stdout);
    assert_eq!(node.requests().len(), asked);
}

#[test]
fn an_event_that_is_turned_away_is_sent_again() {
    let cluster = cluster();
    let node = Node::registered(&cluster);
    node.report(&[]).ok();
    node.setup_failed("ForeignData", "nvme1n1 holds an ext4 filesystem");
    cluster.server().unwrap().inject(Rule::new(Fault::TooMany(1)).on(Method::POST).path("/events").times(2));
    node.report(&[]).ok();
    assert_eq!(cluster.events(&node.name).unwrap().len(), 1);
}

#[test]
fn errors_of_the_server() {
    passes(&Fault::Refuse(StatusCode::INTERNAL_SERVER_ERROR));
    passes(&Fault::Refuse(StatusCode::SERVICE_UNAVAILABLE));
}

#[test]
fn connections_that_are_closed_before_and_after_the_request_is_done() {
    passes(&Fault::CloseBefore);
    passes(&Fault::CloseAfter);
}

#[test]
fn a_change_whose_answer_was_lost_is_told_once() {
    let cluster = cluster();
    let node = Node::registered(&cluster);
    node.report(&[]).ok();
    node.setup_failed("ForeignData", "nvme1n1 holds an ext4 filesystem");
    cluster.server().unwrap().inject(rule(&node, Fault::CloseAfter).on(Method::PATCH).times(1));
    let ran = node.report(&[]).ok();
    assert!(ran.stdout.contains("state ready -> failed (ForeignData)"), "{}", ran.stdout);
    let events = cluster.events(&node.name).unwrap();
    assert_eq!(events.iter().map(|event| &event["reason"]).collect::<Vec<_>>(), ["ForeignData"]);
    let patches = node.requests().iter().filter(|entry| entry.method == Method::PATCH).count();
    assert_eq!(patches, 2, "one for each report: what was done is not done again");
}

#[test]
fn answers_that_are_cut_off_or_no_json() {
    passes(&Fault::Truncated);
    passes(&Fault::Malformed);
}

#[test]
fn an_answer_without_end() {
    passes(&Fault::Huge(64 << 20));
}

#[test]
fn an_answer_that_is_slow_is_waited_for() {
    let cluster = cluster();
    let node = Node::registered(&cluster);
    cluster.server().unwrap().inject(rule(&node, Fault::Slow(Duration::from_millis(1))));
    node.report(&[]).ok();
    assert_eq!(node.says(), said("ready", "True", "SetupComplete"));
}

#[test]
fn an_answer_that_is_too_slow_is_given_up_and_asked_for_again() {
    gives_up_and_asks_again(Fault::Slow(Duration::from_millis(100)));
}

#[test]
fn a_server_that_never_answers_is_given_up_and_asked_again() {
    gives_up_and_asks_again(Fault::Hang);
}

fn gives_up_and_asks_again(fault: Fault) {
    let cluster = cluster();
    let node = Node::registered(&cluster);
    cluster.server().unwrap().inject(rule(&node, fault).times(1));
    let ran = node.report(&[]).ok();
    assert!(ran.time >= REQUEST_TIME && ran.time < 4 * REQUEST_TIME, "{:?}", ran.time);
    assert!(ran.stderr.contains("no whole answer within 15.0 s"), "{}", ran.stderr);
    assert_eq!(node.says(), said("ready", "True", "SetupComplete"));
}

#[test]
fn retry_after_is_kept() {
    let cluster = cluster();
    let node = Node::registered(&cluster);
    cluster.server().unwrap().inject(rule(&node, Fault::TooMany(4)).times(1));
    node.report(&[]).ok();
    let requests = node.requests();
    let pause = requests[1].at - requests[0].at;
    assert!((Duration::from_secs(4)..Duration::from_secs(10)).contains(&pause), "{pause:?}");
}

#[test]
fn pauses_grow_and_are_never_the_same_twice() {
    let cluster = cluster();
    let nodes = [Node::registered(&cluster), Node::registered(&cluster)];
    let pauses = nodes.each_ref().map(|node| {
        let server = cluster.server().unwrap();
        server.inject(rule(node, Fault::Refuse(StatusCode::SERVICE_UNAVAILABLE)).times(4));
        node.report(&[]).ok();
        let times: Vec<Instant> = node.requests().iter().take(5).map(|entry| entry.at).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<Duration>>()
    });
    for pauses in &pauses {
        assert!(pauses[0] >= Duration::from_millis(200), "{pauses:?}");
        assert!(pauses[3] > pauses[0], "{pauses:?}");
        assert!(pauses.iter().sum::<Duration>() < Duration::from_secs(30), "{pauses:?}");
    }
    assert_ne!(pauses[0], pauses[1]);
}

#[test]
fn what_does_not_pass_ends_it_with_the_first_answer() {
    let cluster = cluster();
    let server = cluster.server().unwrap();
    for (code, words) in [
        (StatusCode::UNAUTHORIZED, &["401", "credential"][..]),
        (StatusCode::FORBIDDEN, &["403", "on demand of a test"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &["422", "on demand of a test"]),
    ] {
        for (method, requests) in [(Method::GET, 1), (Method::PATCH, 2)] {
            let node = Node::registered(&cluster);
            server.inject(rule(&node, Fault::Refuse(code)).on(method));
            let ran = node.report(&["--wait", "60s"]).fails(3, words).fails(3, &[&node.name]);
            assert!(ran.time < Duration::from_secs(20), "{:?}", ran.time);
            assert_eq!(node.requests().len(), requests, "{code}");
            server.faults().clear();
        }
    }
}

#[test]
fn a_certificate_that_cannot_be_trusted_ends_it_before_anything_is_sent() {
    for certificate in [ServerCertificate::OtherCa, ServerCertificate::Expired, ServerCertificate::WrongName]
    {
        let good = cluster();
        let node = Node::registered(&good);
        let bad = Server::with(Options { certificate, ..Options::default() }).unwrap();
        let pair = bad.pki().client(&User::node(&node.name)).unwrap();
        *node.server.borrow_mut() = bad.url();
        node.login_trusting(&Authority::Data(&bad.pki().ca), &Login::Certificate(&pair));
        let ran = node.report(&["--wait", "60s"]).fails(3, &["certificate"]);
        assert!(ran.time < Duration::from_secs(20), "{certificate:?}: {:?}", ran.time);
        assert_eq!(bad.requests().len(), 0, "{certificate:?}");
    }
}

#[test]
fn a_server_that_speaks_only_http1_does() {
    let cluster =
        Cluster::test(Server::with(Options { http1_only: true, ..Options::default() }).unwrap()).unwrap();
    // The tests' own client speaks HTTP/2 unless told otherwise.
    let name = cluster.fresh_name();
    let node = Node::unregistered(&cluster, &name);
    let server = cluster.server().unwrap();
    let created = server.store().create(&User::node(&name), json!({"metadata": {"name": name}}));
    assert!(created.is_ok(), "{created:?}");
    node.login(&Login::Certificate(&cluster.pki().client(&User::node(&name)).unwrap()));
    node.report(&[]).ok();
    let told = server.store().node(&name).unwrap();
    assert_eq!(told["metadata"]["labels"]["nvme-agent.e6data.com/state"], "ready");
    assert!(node.requests().iter().all(|entry| entry.version == hyper::Version::HTTP_11));
}

#[test]
fn a_token_file_is_read_anew_for_each_report() {
    let cluster = cluster();
    let server = cluster.server().unwrap();
    let (node, old) = Node::with_token(&cluster);
    let path = node.file("token", &old);
    node.login(&Login::TokenFile(&path));
    node.report(&[]).ok();
    // Rotated: from now on the old one is nobody's.
    let new = "t0ken-0f-n0de-r0tated-91be77ac5d20";
    secret_token(new);
    server.tokens().add(new, User::node(&node.name));
    server.tokens().revoke(&old);
    node.setup_failed("ForeignData", "something else to say");
    node.report(&[]).fails(3, &["401"]);
    assert_eq!(node.says(), said("ready", "True", "SetupComplete"));
    node.file("token", &format!("{new}\n"));
    node.report(&[]).ok();
    assert_eq!(node.says(), said("failed", "False", "ForeignData"));
    std::fs::remove_file(&path).unwrap();
    node.report(&[]).fails(4, &[&text(&path)]);
}

#[test]
fn kubelet_that_writes_at_the_same_time_loses_nothing() {
    let cluster = cluster();
    let (name, pair) = cluster.register().unwrap();
    let node = Node::unregistered(&cluster, &name);
    node.login(&Login::Certificate(&pair));
    let kubelet = cluster.client(lab::apiserver::client::Credential::Certificate(pair));
    std::thread::scope(|scope| {
        let beats = scope.spawn(|| {
            for second in 0..40 {
                let beat = format!("2026-02-03T04:05:{second:02}Z");
                let conditions = json!([{"type": "Ready", "status": "True", "lastHeartbeatTime": beat, "message": "kubelet's own"}]);
                let path = format!("/api/v1/nodes/{name}/status");
                let reply =
                    kubelet.patch(&path, STRATEGIC, &json!({"status": {"conditions": conditions}})).unwrap();
                assert_eq!(reply.code, 200);
            }
        });
        for number in 0..6 {
            node.setup_failed(&format!("Case{number}"), "again");
            node.report(&[]).ok();
        }
        beats.join().unwrap();
    });
    assert_eq!(node.says(), said("failed", "False", "Case5"));
    let seen = node.seen();
    let ready =
        seen["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap();
    assert_eq!(ready["lastHeartbeatTime"], "2026-02-03T04:05:39Z");
    assert_eq!(ready["reason"], "KubeletReady");
}

/// By the library, whose patience can be chosen: two minutes a case would be long.
#[test]
fn a_server_that_stays_ill_is_an_error_in_time_that_says_what_it_answered() {
    let cluster = cluster();
    let server = cluster.server().unwrap();
    for (fault, words) in [
        (Fault::Refuse(StatusCode::SERVICE_UNAVAILABLE), "503"),
        (Fault::Refuse(StatusCode::INTERNAL_SERVER_ERROR), "etcdserver: request timed out"),
        (Fault::TooMany(3600), "429"),
        (Fault::CloseBefore, "GET node"),
        (Fault::Hang, "no whole answer"),
        (Fault::Malformed, "JSON"),
        (Fault::Truncated, "broke off"),
    ] {
        let node = Node::registered(&cluster);
        server.inject(rule(&node, fault.clone()));
        let (result, time) = node.in_process(Duration::from_secs(3));
        server.faults().clear();
        let Err(error @ Error::Api(_)) = result else { panic!("{fault:?}: {result:?}") };
        let message = error.to_string();
        assert!(message.contains(words) && message.contains(&cluster.url), "{fault:?}: {message}");
        assert!(time < Duration::from_secs(6), "{fault:?}: {time:?}");
        assert_eq!(error.exit_code(), 1);
    }
    // Nobody there at all.
    let node = Node::registered(&cluster);
    *node.server.borrow_mut() = "https://127.0.0.1:1".into();
    node.login(&Login::Token("unused-token-000000000000"));
    let (result, time) = node.in_process(Duration::from_secs(3));
    let message = result.unwrap_err().to_string();
    assert!(message.contains("https://127.0.0.1:1") && message.contains("refused"), "{message}");
    assert!(time < Duration::from_secs(6), "{time:?}");
}
