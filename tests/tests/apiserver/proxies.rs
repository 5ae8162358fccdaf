//! A proxy between the node and the API server, from the environment or the kubeconfig.

use std::time::Duration;

use lab::apiserver::Server;
use lab::apiserver::cluster::Cluster;
use lab::apiserver::proxy::Proxy;
use nvme_agent::error::Error;

use crate::node::{Node, said, secret_token};

/// The kubeconfig with a `proxy-url`.
fn with_proxy_url(node: &Node<'_>, url: &str) {
    let text = std::fs::read_to_string(node.kubeconfig_path()).unwrap();
    let with = text.replace("      server: ", &format!("      proxy-url: {url}\n      server: "));
    assert_ne!(with, text);
    node.file("kubeconfig", &with);
}

fn environment(node: &Node<'_>, variables: &[(&str, &str)]) {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    *node.env.borrow_mut() = variables.iter().map(owned).collect();
}

pub fn a_proxy_is_used_where_environment_or_kubeconfig_say_so(cluster: &Cluster) {
    let node = Node::registered(cluster);
    let (proxy, other) = (Proxy::start().unwrap(), Proxy::start().unwrap());
    let server = cluster.url.trim_start_matches("https://").to_owned();
    let url = format!("http://{}", proxy.address());
    // Each time something to write, and through what it went.
    let report = |case: &str| {
        let before = (proxy.tunnels().len(), other.tunnels().len());
        node.setup_failed(case, "-");
        node.report(&[]).ok();
        assert_eq!(node.says(), said("failed", "False", case));
        let tunnels = [&proxy.tunnels()[before.0..], &other.tunnels()[before.1..]].concat();
        assert!(tunnels.iter().all(|tunnel| *tunnel == server), "{case}: {tunnels:?}");
        (proxy.tunnels().len() > before.0, other.tunnels().len() > before.1)
    };
    assert_eq!(report("None"), (false, false));
    for (name, case) in [("HTTPS_PROXY", "Upper"), ("https_proxy", "Lower")] {
        environment(&node, &[(name, &url)]);
        assert_eq!(report(case), (true, false), "{name}");
    }
    environment(&node, &[("HTTP_PROXY", &url)]);
    assert_eq!(report("Http"), (false, false), "it is for other URLs");
    for (excepted, case) in [("127.0.0.1", "Address"), ("example.com,127.0.0.0/8", "Net")] {
        environment(&node, &[("HTTPS_PROXY", &url), ("NO_PROXY", excepted)]);
        assert_eq!(report(case), (false, false), "{excepted}");
    }
    environment(&node, &[("HTTPS_PROXY", &url), ("NO_PROXY", "10.0.0.0/8,.internal")]);
    assert_eq!(report("Other"), (true, false));
    with_proxy_url(&node, &format!("http://{}", other.address()));
    assert_eq!(report("ProxyUrl"), (false, true), "the kubeconfig's goes before the environment's");
}

pub fn a_proxy_that_asks_for_a_password_gets_it_and_nobody_else(cluster: &Cluster) {
    let node = Node::registered(cluster);
    let password = "pr0xy-passw0rd-6e2f";
    secret_token(password);
    secret_token(&format!("nodes:{password}"));
    let proxy = Proxy::with_login(&format!("nodes:{password}")).unwrap();
    environment(&node, &[("HTTPS_PROXY", &format!("http://nodes:{password}@{}", proxy.address()))]);
    node.report(&[]).ok();
    assert_eq!(node.says(), said("ready", "True", "SetupComplete"));
    assert!(!proxy.tunnels().is_empty());
}

pub fn an_address_of_a_proxy_that_is_none_is_one_error_that_names_it(cluster: &Cluster) {
    let node = Node::registered(cluster);
    for bad in ["http://", "ftp://127.0.0.1:1", "http://a b", "socks5://127.0.0.1:1"] {
        environment(&node, &[("HTTPS_PROXY", bad)]);
        node.report(&[]).fails(4, &["HTTPS_PROXY", "expected http://HOST:PORT"]);
    }
    environment(&node, &[]);
    with_proxy_url(&node, "ftp://127.0.0.1:1");
    node.report(&[]).fails(4, &["kubeconfig", "clusters[kubernetes].proxy-url"]);
}

/// By the library, for its patience.
#[test]
fn a_proxy_that_refuses_or_is_not_there_is_an_error_in_time_that_does_not_tell_its_password() {
    let cluster = Cluster::test(Server::start().unwrap()).unwrap();
    let password = "wr0ng-passw0rd-71aa";
    secret_token(password);
    let proxy = Proxy::with_login("nodes:another").unwrap();
    for (address, words) in [(proxy.address(), "proxy"), ("127.0.0.1:1".to_owned(), "refused")] {
        let node = Node::registered(&cluster);
        with_proxy_url(&node, &format!("http://nodes:{password}@{address}"));
        let (result, time) = node.in_process(Duration::from_secs(3));
        let Err(error @ (Error::Api(_) | Error::ApiRefused(_))) = result else { panic!("{result:?}") };
        let message = error.to_string();
        assert!(message.contains(words) && !message.contains(password), "{message}");
        assert!(time < Duration::from_secs(6), "{time:?}");
        assert_eq!(node.requests().len(), 0);
    }
}
