//! Tests of the words on the Node.

use proptest::prelude::*;

use super::*;
use crate::root::Root;

fn state(health: Health) -> State {
    State {
        layout: "raid0".into(),
        drives: 2,
        capacity_gib: 6984,
        serials: vec!["AWS1".into(), "AWS2".into()],
        since: "2026-07-26T12:34:56Z".into(),
        agent: "0.1.0".into(),
        ..State::new(&Root::new("/nonexistent"), health, "SetupComplete", "mounted and verified")
    }
}

fn of(state: &State) -> Readiness {
    Readiness::of(state, &Keys::default(), "")
}

#[test]
fn what_a_ready_node_says() {
    let words = Readiness::of(&state(Health::Ready), &Keys::default(), "nvme-raid0");
    assert_eq!(
        words.node_labels(),
        "nvme-agent.e6data.com/state=ready,nvme-agent.e6data.com/layout=raid0,nvme-agent.e6data.com/drives=2,\
         nvme-agent.e6data.com/capacity-gib=6984,nvme-agent.e6data.com/profile=nvme-raid0,nvme-agent.e6data.com/version=VERSION"
            .replace("VERSION", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(
        words.annotation,
        (
            "nvme-agent.e6data.com/detail".into(),
            r#"{"reason":"SetupComplete","since":"2026-07-26T12:34:56Z","serials":["AWS1","AWS2"],"agent":"0.1.0"}"#
                .into()
        )
    );
    assert_eq!(words.condition.kind, "nvme-agent.e6data.com/LocalStorageReady");
    assert_eq!((words.condition.status, words.condition.reason.as_str()), (Status::True, "SetupComplete"));
    assert_eq!(words.condition.message, "mounted and verified");
}

#[test]
fn the_version_is_of_the_agent_that_speaks_and_there_is_none_before_one_does() {
    let said =
        |state: &State| of(state).labels.into_iter().find(|(key, _)| *key == Keys::default().version());
    let set_up_by = |agent: &str| said(&State { agent: agent.into(), ..state(Health::Ready) });
    assert_eq!(
        set_up_by("0.0.1"),
        Some(("nvme-agent.e6data.com/version".into(), env!("CARGO_PKG_VERSION").into()))
    );
    assert_eq!(set_up_by(""), None);
    // As Cargo allows it, and a label does not.
    assert_eq!(label_value("0.2.0-rc.1+abc"), "0.2.0-rc.1-abc");
}

#[test]
fn a_failed_node_says_the_same_however_far_its_setup_came() {
    let half_way = of(&state(Health::Failed));
    let at_once = of(&State::new(&Root::new("/nonexistent"), Health::Failed, "X", ""));
    assert_eq!(half_way.labels, at_once.labels);
    assert!(half_way.node_labels().contains("/state=failed,"), "{half_way:?}");
    assert!(half_way.node_labels().contains("/capacity-gib=0"), "{half_way:?}");
}

#[test]
fn usable_is_true_and_nothing_to_be_ready_is_unknown() {
    let status = |health| of(&state(health)).condition.status;
    assert_eq!(status(Health::Ready), Status::True);
    assert_eq!(status(Health::Degraded), Status::True);
    assert_eq!(status(Health::Failed), Status::False);
    assert_eq!(status(Health::Absent), Status::Unknown);
}

#[test]
fn a_domain_is_one_that_kubelet_starts_with() {
    for good in [
        "nvme-agent.e6data.com",
        "e6data.com",
        "a",
        "0.b-c.io",
        "notkubernetes.io",
        "kubernetes.io.example.com",
        "node.kubernetes.io",
        "nvme.node.kubernetes.io",
        "kubelet.kubernetes.io",
    ] {
        assert_eq!(domain_problem(good), None, "{good}");
        assert_eq!(Keys::new(good).unwrap().state(), format!("{good}/state"));
    }
    for bad in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a.com",
        "a-.com",
        "A.com",
        "a_b.com",
        "a/b",
        "a b",
        "a,b",
        "a\n",
        "kubernetes.io",
        "k8s.io",
        "x.k8s.io",
        "x.kubernetes.io",
        "node-restriction.kubernetes.io",
        "x.node-restriction.kubernetes.io",
        "xnode.kubernetes.io",
        &format!("{}.com", "a".repeat(250)),
    ] {
        let problem = Keys::new(bad).unwrap_err();
        assert!(problem.starts_with("expected a"), "{bad}: {problem}");
    }
}

#[test]
fn every_key_can_have_another_name_within_the_domain_or_with_another() {
    let text = "state=nvme, layout=a.b/layout,drives=n,capacity-gib=G,profile=p,version=v,detail=x.com/d,LocalStorageReady=c.d/Nvme,failed=bad";
    let keys = Keys::new("x.example.com").unwrap().renamed(text).unwrap();
    let words = Readiness::of(&state(Health::Ready), &keys, "fast");
    assert_eq!(
        words.node_labels(),
        "x.example.com/nvme=ready,a.b/layout=raid0,x.example.com/n=2,x.example.com/G=6984,x.example.com/p=fast,x.example.com/v=VERSION"
            .replace("VERSION", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!((words.annotation.0.as_str(), words.condition.kind.as_str()), ("x.com/d", "c.d/Nvme"));
    assert_eq!(keys.taint(), "x.example.com/bad");
    let one = Keys::default().renamed("detail=about").unwrap();
    assert_eq!((one.detail(), one.state()), ("nvme-agent.e6data.com/about".into(), Keys::default().state()));
    assert_eq!(Keys::default().renamed("").unwrap(), Keys::default());
}

#[test]
fn a_renamed_key_is_one_that_kubelet_starts_with() {
    for (text, words) in [
        ("stat=x", "with a NAME of state, layout, drives, capacity-gib, profile, version,"),
        ("state", "state: expected a key"),
        ("state=", "state: expected a key"),
        ("state=a b", "state: expected a key"),
        ("state=-a", "state: expected a key"),
        ("state=x.com/", "state: expected a key"),
        ("state=/x", "state: expected a DNS subdomain"),
        ("state=a.com/b/c", "state: expected a DNS subdomain"),
        ("state=kubernetes.io/x", "state: expected a domain of your own"),
        ("state=layout", "found nvme-agent.e6data.com/layout twice"),
        ("state=x,detail=nvme-agent.e6data.com/x", "found nvme-agent.e6data.com/x twice"),
    ] {
        let problem = Keys::default().renamed(text).unwrap_err();
        assert!(problem.contains(words), "{text}: {problem}");
    }
}

#[test]
fn the_annotation_has_room_for_a_large_instance_and_never_grows_without_end() {
    let many = |count: usize| State {
        serials: (0..count).map(|n| format!("AWS{n:017X}")).collect(),
        ..state(Health::Ready)
    };
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let real = parse(&of(&many(24)).annotation.1);
    assert_eq!((real["serials"].as_array().unwrap().len(), real.get("more")), (24, None));
    let absurd = of(&many(1000)).annotation.1;
    assert!(absurd.len() <= DETAIL_MAX && !absurd.contains('\n'));
    let absurd = parse(&absurd);
    let shown = absurd["serials"].as_array().unwrap().len();
    assert!(shown > 50 && absurd["more"] == 1000 - shown, "{absurd}");
}

#[test]
fn a_message_is_one_line_of_bounded_length() {
    let long = State { message: "\u{e9}\n".repeat(3000), ..state(Health::Failed) };
    let message = of(&long).condition.message;
    assert!(message.len() <= MESSAGE_MAX && message.ends_with("...") && !message.contains('\n'));
}

proptest! {
    #[test]
    fn every_value_is_a_label_value(text in "\\PC{0,90}", layout in ".{0,90}", health in 0..4_usize) {
        prop_assert!(is_label_value(&label_value(&text)), "{text:?}");
        let health = [Health::Ready, Health::Degraded, Health::Failed, Health::Absent][health];
        let words = Readiness::of(&State { layout, ..state(health) }, &Keys::default(), &text);
        for (key, value) in &words.labels {
            prop_assert!(is_label_value(value), "{key}={value}");
        }
        prop_assert!(!words.node_labels().contains([' ', '"', '\'', '\n', '$']));
    }
}
