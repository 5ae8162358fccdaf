//! What a report does to the Node, where nothing goes wrong on purpose.

use std::time::Duration;

use hyper::Method;
use lab::apiserver::auth::User;
use lab::apiserver::client::MERGE;
use lab::apiserver::cluster::Cluster;
use lab::apiserver::kubeconfig::{Authority, Exec, Login};
use nvme_agent::config::{Config, LabelMethod};
use nvme_agent::node::registration;
use serde_json::{Value, json};

use crate::node::{Node, said, text};

/// kubelet's own conditions, whole.
fn kubelets(node: &Value) -> Vec<Value> {
    let all = node["status"]["conditions"].as_array().unwrap();
    all.iter().filter(|condition| condition["message"] == "kubelet's own").cloned().collect()
}

/// Methods of what the node asked; empty, too, of a real server, of which nothing is known.
fn methods(node: &Node<'_>) -> Vec<Method> {
    node.requests().into_iter().map(|entry| entry.method).collect()
}

pub fn a_report_writes_labels_annotation_and_condition_beside_what_others_wrote(cluster: &Cluster) {
    let node = Node::registered(cluster);
    let person = json!({"metadata": {"labels": {"team": "query", "nvme-agent.e6data.com/mine": "x"}}});
    cluster.admin.patch(&format!("/api/v1/nodes/{}", node.name), MERGE, &person).unwrap();
    let before = node.seen();
    let ran = node.report(&[]).ok();
    assert!(
        ran.stdout.contains(&format!("{}: state none -> ready (SetupComplete)", node.name)),
        "{}",
        ran.stdout
    );
    assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
    let after = node.seen();
    for (label, value) in [
        ("state", "ready"),
        ("layout", "single"),
        ("drives", "1"),
        ("capacity-gib", "435"),
        ("version", env!("CARGO_PKG_VERSION")),
    ] {
        assert_eq!(node.label(label).as_deref(), Some(value), "{label}");
    }
    assert_eq!(node.condition(), Some(("True".into(), "SetupComplete".into())));
    let detail = after["metadata"]["annotations"]["nvme-agent.e6data.com/detail"].as_str().unwrap();
    let detail: Value = serde_json::from_str(detail).unwrap();
    assert_eq!(detail["reason"], "SetupComplete");
    assert_eq!(detail["serials"], json!(["AWS0006638E38E390087"]));
    assert_eq!(kubelets(&after), kubelets(&before));
    assert_eq!(kubelets(&after).len(), 4);
    assert_eq!(after["spec"], before["spec"]);
    for (key, value) in before["metadata"]["labels"].as_object().unwrap() {
        assert_eq!(&after["metadata"]["labels"][key], value, "{key}");
    }
    assert!(methods(&node).len() <= 3, "{:?}", methods(&node));
    // Nothing has changed: it was said for the first time.
    assert_eq!(cluster.events(&node.name).unwrap(), [] as [Value; 0]);
}

pub fn a_second_report_sends_no_patch(cluster: &Cluster) {
    let node = Node::registered(cluster);
    node.report(&[]).ok();
    let (version, asked) = (node.seen()["metadata"]["resourceVersion"].clone(), methods(&node).len());
    let ran = node.report(&[]).ok();
    assert!(ran.stdout.contains("nothing new"), "{}", ran.stdout);
    assert_eq!(node.seen()["metadata"]["resourceVersion"], version);
    if cluster.server().is_ok() {
        assert_eq!(methods(&node)[asked..], [Method::GET]);
    }
}

pub fn status_says_what_the_node_says_and_whether_that_is_so(cluster: &Cluster) {
    let (node, token) = Node::with_token(cluster);
    let (outside, own) = (node.file("token", &token), "/var/lib/kubelet/token");
    node.machine.file(own, &token);
    node.login(&Login::TokenFile(own.as_ref()));
    let kubeconfig = std::fs::read_to_string(node.kubeconfig_path()).unwrap();
    node.machine.file("/var/lib/kubelet/kubeconfig", &kubeconfig);
    node.login(&Login::TokenFile(&outside));
    let name = format!("NODEADM_KUBELET_ARGS=--hostname-override={}\n", node.name);
    node.machine.file("/etc/eks/kubelet/environment", &name);
    let look = |code: i32| {
        let ran = node.agent(&["status", "--node", "--output", "json"]);
        assert_eq!(ran.code, Some(code), "{}\n{}", ran.stdout, ran.stderr);
        let seen: Value = serde_json::from_str(&ran.stdout).unwrap();
        let there = seen["node"]["on_node"].clone();
        assert_eq!((&there["problem"], &there["node"]), (&Value::Null, &json!(node.name)), "{there}");
        there
    };
    let untold = look(0);
    assert_eq!((&untold["agrees"], &untold["state"]), (&json!(false), &Value::Null), "{untold}");
    node.report(&[]).ok();
    let told = look(0);
    let words = json!([told["agrees"], told["state"], told["condition"], told["reason"], told["tainted"]]);
    assert_eq!(words, json!([true, "ready", "True", "SetupComplete", false]), "{told}");
    node.unmount();
    let asked = methods(&node).len();
    let stale = look(11);
    assert_eq!((&stale["agrees"], &stale["state"]), (&json!(false), &json!("ready")), "{stale}");
    assert_eq!(stale["differs"][0], "the label ought to be failed");
    if cluster.server().is_ok() {
        assert_eq!(methods(&node)[asked..], [Method::GET], "it only looks");
    }
}

pub fn an_unchanged_tick_asks_nobody_and_starts_nothing(cluster: &Cluster) {
    let (node, token) = Node::with_token(cluster);
    node.login_by_script(&credential(&token, ""));
    node.report(&["--if-changed"]).ok();
    let asked = methods(&node).len();
    assert_eq!(node.calls(), 1, "one credential process for a changed tick");
    assert!(asked <= 3, "{:?}", methods(&node));
    // Nobody listens there: who asked would notice.
    *node.server.borrow_mut() = "https://127.0.0.1:1".into();
    node.login_by_script(&credential(&token, ""));
    let ran = node.report(&["--if-changed"]).ok();
    assert!(ran.time < Duration::from_secs(20), "{:?}", ran.time);
    assert_eq!((methods(&node).len(), node.calls()), (asked, 1));
}

pub fn a_node_without_drives_has_nothing_to_tell_at_a_tick(cluster: &Cluster) {
    let node = Node::registered(cluster);
    let root = node.machine.root();
    std::fs::remove_file(node.machine.path("/sys/block/nvme1n1")).unwrap();
    std::fs::remove_file(node.machine.path("/sys/class/nvme/nvme1")).unwrap();
    node.unmount();
    let absent = nvme_agent::state::Health::Absent;
    let mut state = nvme_agent::state::State::new(&root, absent, "NoDrives", "no drives");
    state.write(&root).unwrap();
    node.machine.file("/etc/eks/nodeadm.d/10-theirs.yaml", "");
    registration::update(&root, &Config::default(), &state);
    node.report(&["--if-changed"]).ok();
    assert_eq!(node.label("state"), None);
    assert_eq!(methods(&node), [] as [Method; 0]);
    // Where nothing that kubelet reads says so, the Node is told once.
    registration::update(&root, &Config { label_method: LabelMethod::Api, ..Config::default() }, &state);
    node.report(&["--if-changed"]).ok();
    assert_eq!(node.label("state").as_deref(), Some("absent"));
    let asked = methods(&node).len();
    node.report(&["--if-changed"]).ok();
    assert_eq!(methods(&node).len(), asked);
}

pub fn what_the_node_was_told_before_a_boot_is_taken_back_in_it(cluster: &Cluster) {
    let node = Node::registered(cluster);
    node.report(&["--if-changed"]).ok();
    assert_eq!(node.label("state").as_deref(), Some("ready"));
    // The instance comes back without drives, and nothing of its storage is left: a teardown was before that.
    node.machine.file("/proc/sys/kernel/random/boot_id", "another\n");
    std::fs::remove_dir_all(node.machine.path("/run/nvme-agent")).unwrap();
    std::fs::remove_file(node.machine.path("/sys/block/nvme1n1")).unwrap();
    std::fs::remove_file(node.machine.path("/sys/class/nvme/nvme1")).unwrap();
    node.unmount();
    let root = node.machine.root();
    let mut state =
        nvme_agent::state::State::new(&root, nvme_agent::state::Health::Absent, "NoDrives", "no drives");
    state.write(&root).unwrap();
    node.machine.file("/etc/eks/nodeadm.d/10-theirs.yaml", "");
    registration::update(&root, &Config::default(), &state);
    node.report(&["--if-changed"]).ok();
    assert_eq!(node.says(), said("absent", "Unknown", "NoDrives"));
}

pub fn what_happens_to_the_filesystem_is_on_the_node_with_the_next_tick_and_back(cluster: &Cluster) {
    let node = Node::registered(cluster);
    let tick = |expected: (String, String, String)| {
        let before = methods(&node).len();
        node.report(&["--if-changed"]).ok();
        assert_eq!(node.says(), expected);
        let asked = methods(&node).len() - before;
        assert!(asked <= 3, "{asked} requests for one change");
    };
    let good = "rw,noatime,nosuid,nodev";
    tick(said("ready", "True", "SetupComplete"));
    node.unmount();
    // What is seen then is AL2023's tmpfs, under it.
    tick(said("failed", "False", "MountReplaced"));
    assert_eq!(node.label("capacity-gib").as_deref(), Some("0"), "a label of the former state would lie");
    node.mount(good);
    tick(said("ready", "True", "SetupComplete"));
    node.mount("ro,noatime,nosuid,nodev");
    tick(said("failed", "False", "MountReadOnly"));
    node.mount(good);
    node.machine.file("/sys/fs/ext4/nvme1n1/errors_count", "2\n");
    tick(said("degraded", "True", "FilesystemErrors"));
    std::fs::remove_file(node.machine.path("/sys/fs/ext4/nvme1n1/errors_count")).unwrap();
    // What may pass by itself costs no node.
    node.drive_is("resetting");
    tick(said("degraded", "True", "DriveNotLive"));
    node.drive_is("dead");
    tick(said("failed", "False", "DriveLost"));
    let node_now = node.seen();
    let condition = node_now["status"]["conditions"].as_array().unwrap().iter();
    let message =
        condition.filter_map(|c| c["message"].as_str()).find(|m| m.contains("AWS0006638E38E390087"));
    assert!(message.is_some(), "the condition names the drive: {node_now}");
    node.drive_is("live");
    tick(said("ready", "True", "SetupComplete"));
    node.setup_failed("ForeignData", "nvme1n1 holds an ext4 filesystem");
    tick(said("failed", "False", "ForeignData"));
    assert_eq!(kubelets(&node.seen()).len(), 4);
    // One for each change, none for the first word.
    let events = cluster.events(&node.name).unwrap();
    let mut reasons: Vec<&str> = events.iter().filter_map(|event| event["reason"].as_str()).collect();
    reasons.sort_unstable();
    let all = [
        "DriveLost",
        "DriveNotLive",
        "FilesystemErrors",
        "ForeignData",
        "MountReadOnly",
        "MountReplaced",
        "SetupComplete",
        "SetupComplete",
    ];
    assert_eq!(reasons, all);
    let lost = events.iter().find(|event| event["reason"] == "DriveLost").unwrap();
    assert_eq!((&lost["type"], &lost["involvedObject"]["kind"]), (&json!("Warning"), &json!("Node")));
    assert!(lost["message"].as_str().unwrap().contains("AWS0006638E38E390087"), "{lost}");
}

pub fn keys_that_were_renamed_take_the_place_of_the_former_ones(cluster: &Cluster) {
    let node = Node::registered(cluster);
    let config = |text: &str| node.machine.file("/etc/nvme-agent/config.toml", text);
    config("profile = \"trino\"");
    node.report(&["--if-changed"]).ok();
    let own = |node: &Value| {
        let all = node["metadata"]["labels"].as_object().unwrap().clone();
        let mut keys: Vec<String> =
            all.keys().filter(|key| key.contains("nvme") || key.contains("e6")).cloned().collect();
        keys.sort();
        keys
    };
    let all = ["capacity-gib", "drives", "layout", "profile", "state", "version"];
    assert_eq!(own(&node.seen()), all.map(|name| format!("nvme-agent.e6data.com/{name}")));
    let before = methods(&node).len();
    config("label_domain = \"storage.e6.example\"\nlabel_keys = \"state=nvme\"");
    node.report(&["--if-changed"]).ok();
    assert!(methods(&node).len() - before <= 3, "{:?}", methods(&node));
    let seen = node.seen();
    assert_eq!(
        own(&seen),
        ["capacity-gib", "drives", "layout", "nvme", "version"]
            .map(|name| format!("storage.e6.example/{name}"))
    );
    let annotations: Vec<&String> = seen["metadata"]["annotations"].as_object().unwrap().keys().collect();
    assert!(annotations.iter().any(|key| *key == "storage.e6.example/detail"), "{annotations:?}");
    assert!(annotations.iter().all(|key| !key.contains("e6data")), "{annotations:?}");
    assert_eq!(node.condition(), None, "{seen}");
    let kinds: Vec<&Value> =
        seen["status"]["conditions"].as_array().unwrap().iter().map(|c| &c["type"]).collect();
    assert!(kinds.contains(&&json!("storage.e6.example/LocalStorageReady")), "{kinds:?}");
    assert_eq!(kubelets(&seen).len(), 4);
}

pub fn a_configuration_that_cannot_be_read_any_more_does_not_change_the_keys(cluster: &Cluster) {
    let node = Node::registered(cluster);
    let config = |text: &str| node.machine.file("/etc/nvme-agent/config.toml", text);
    config("label_domain = \"storage.example\"\nprofile = \"trino\"");
    node.report(&["--if-changed"]).ok();
    // The boot after: its setup fails by the same mistake.
    for (number, wrong) in ["not TOML", "label_domain = \"k8s.io\"\nprofile = \"a b\""].iter().enumerate() {
        config(wrong);
        std::fs::remove_file(node.machine.path(nvme_agent::node::report::MEMORY_PATH)).unwrap();
        node.setup_failed(&format!("BadConfiguration{number}"), "config.toml");
        let ran = node.report(&["--if-changed"]).fails(4, &["config.toml"]);
        assert!(ran.stderr.contains("told under storage.example, as it was told last"), "{}", ran.stderr);
        let labels = node.seen()["metadata"]["labels"].clone();
        assert_eq!(
            (&labels["storage.example/state"], &labels["storage.example/profile"]),
            (&json!("failed"), &json!("trino"))
        );
        assert_eq!(node.label("state"), None, "nothing under the default domain");
    }
}

pub fn what_somebody_took_away_comes_back_with_a_report(cluster: &Cluster) {
    let node = Node::registered(cluster);
    node.report(&[]).ok();
    let gone = json!({"metadata": {"labels": {"nvme-agent.e6data.com/state": null, "nvme-agent.e6data.com/drives": "7"}}});
    cluster.admin.patch(&format!("/api/v1/nodes/{}", node.name), MERGE, &gone).unwrap();
    node.report(&[]).ok();
    assert_eq!((node.label("state").as_deref(), node.label("drives").as_deref()), (Some("ready"), Some("1")));
}

/// The binary was replaced, and nothing else has happened: the storage is as the former one set it up and told it.
pub fn a_newer_agent_says_so_with_its_first_tick(cluster: &Cluster) {
    let node = Node::registered(cluster);
    node.report(&["--if-changed"]).ok();
    let path = node.machine.path(nvme_agent::node::report::MEMORY_PATH);
    let older = |text: String| text.replace(env!("CARGO_PKG_VERSION"), "0.0.1");
    std::fs::write(&path, older(std::fs::read_to_string(&path).unwrap())).unwrap();
    let label = json!({"metadata": {"labels": {"nvme-agent.e6data.com/version": "0.0.1"}}});
    cluster.admin.patch(&format!("/api/v1/nodes/{}", node.name), MERGE, &label).unwrap();
    let ran = node.report(&["--if-changed"]).ok();
    assert!(ran.stdout.contains("wrote labels"), "{}", ran.stdout);
    assert_eq!(node.label("version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(cluster.events(&node.name).unwrap(), [] as [Value; 0], "of the storage there is nothing new");
}

pub fn every_way_to_log_in(cluster: &Cluster) {
    let (node, token) = Node::with_token(cluster);
    let pair = cluster.pki().client(&User::node(&node.name)).unwrap();
    crate::node::secret_key(&pair.key);
    let ca = node.file("ca.crt", &cluster.ca);
    let (certificate, key) = (node.file("client.crt", &pair.certificate), node.file("client.key", &pair.key));
    let token_file = node.file("token", &format!("{token}\n"));
    let plugin = text(&node.script("plugin", &credential(&token, "")));
    // What a plugin may give besides a token; newlines as JSON has them.
    let identity = json!({
        "apiVersion": "client.authentication.k8s.io/v1beta1", "kind": "ExecCredential",
        "status": {"clientCertificateData": pair.certificate, "clientKeyData": pair.key},
    });
    let identity = text(&node.script("identity", &format!("cat <<'EOF'\n{identity}\nEOF")));
    let logins: [(&str, Login<'_>); 6] = [
        ("token", Login::Token(&token)),
        ("token file", Login::TokenFile(&token_file)),
        ("certificate", Login::Certificate(&pair)),
        ("certificate files", Login::CertificateFiles(&certificate, &key)),
        ("plugin", Login::Exec(Exec { command: &plugin, args: &["eks"], env: &[("A", "b")] })),
        ("plugin with a certificate", Login::Exec(Exec { command: &identity, args: &[], env: &[] })),
    ];
    for (number, (name, login)) in logins.iter().enumerate() {
        let authority = if number % 2 == 0 { Authority::Data(&cluster.ca) } else { Authority::File(&ca) };
        node.login_trusting(&authority, login);
        // Each time something else to say.
        let reason = format!("Case{number}");
        node.setup_failed(&reason, name);
        let ran = node.report(&[]);
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.stderr);
        assert_eq!(node.says(), said("failed", "False", &reason), "{name}");
    }
}

pub fn the_node_is_waited_for_only_where_that_is_asked(cluster: &Cluster) {
    let name = cluster.fresh_name();
    let node = Node::unregistered(cluster, &name);
    let pair = cluster.pki().client(&User::node(&name)).unwrap();
    node.login(&Login::Certificate(&pair));
    node.report(&[]).fails(1, &[&name, "does not exist", "--wait"]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(3));
            cluster.register_as(&name).unwrap();
        });
        node.report(&["--wait", "120s"]).ok();
    });
    assert_eq!(node.says(), said("ready", "True", "SetupComplete"));
}

pub fn another_node_is_refused_at_once(cluster: &Cluster) {
    let (other, node) = (cluster.register().unwrap().0, Node::registered(cluster));
    let path = text(&node.kubeconfig_path());
    let ran = node.agent(&["report", "--kubeconfig", &path, "--node-name", &other]);
    let ran = ran.fails(3, &[&other, "403", "forbid"]);
    assert!(ran.time < Duration::from_secs(20), "{:?}", ran.time);
    assert_eq!(cluster.node(&other).unwrap()["metadata"]["labels"].get("nvme-agent.e6data.com/state"), None);
}

pub fn a_bad_token_and_an_expired_certificate_are_refused_at_once(cluster: &Cluster) {
    let (node, _) = Node::with_token(cluster);
    let expired = cluster.pki().expired_client(&User::node(&node.name)).unwrap();
    crate::node::secret_token("no-such-token-0123456789");
    crate::node::secret_key(&expired.key);
    for login in [Login::Token("no-such-token-0123456789"), Login::Certificate(&expired)] {
        node.login(&login);
        let ran = node.report(&["--wait", "60s"]).fails(3, &["401", "credential"]);
        assert!(ran.time < Duration::from_secs(20), "{:?}", ran.time);
    }
    assert_eq!(node.label("state"), None);
}

pub fn a_label_domain_of_kubernetes_is_refused_before_anybody_is_asked(cluster: &Cluster) {
    let node = Node::registered(cluster);
    for domain in ["kubernetes.io", "x.k8s.io", "node-restriction.kubernetes.io", "Not A Domain"] {
        node.machine.file("/etc/nvme-agent/config.toml", &format!("label_domain = \"{domain}\""));
        node.report(&[]).fails(4, &["config.toml:1", "label_domain"]);
    }
    node.machine.file("/etc/nvme-agent/config.toml", "");
    *node.env.borrow_mut() = vec![("NVME_AGENT_LABEL_DOMAIN".into(), "kubernetes.io".into())];
    node.report(&[]).fails(4, &["NVME_AGENT_LABEL_DOMAIN", "kubernetes.io"]);
    node.env.borrow_mut().clear();
    assert_eq!(methods(&node), [] as [Method; 0]);
    assert!(!node.machine.path(nvme_agent::node::report::MEMORY_PATH).exists(), "nothing is written");
    node.machine
        .file("/etc/nvme-agent/config.toml", "label_domain = \"storage.example.com\"\nprofile = \"scratch\"");
    node.report(&[]).ok();
    let labels = node.seen()["metadata"]["labels"].clone();
    assert_eq!(labels["storage.example.com/state"], "ready");
    assert_eq!(labels["storage.example.com/profile"], "scratch");
    assert_eq!(labels["nvme-agent.e6data.com/state"], Value::Null);
}

pub fn bad_input_is_one_error_that_names_file_and_field_and_nobody_is_asked(cluster: &Cluster) {
    let (node, token) = Node::with_token(cluster);
    node.login(&Login::Token(&token));
    let path = node.kubeconfig_path();
    let good = std::fs::read_to_string(&path).unwrap();
    let (before, files) = (node.seen(), node.files());
    // What is read is root's, so that "unreadable" is something else than a file.
    let pair = cluster.pki().client(&User::node(&node.name)).unwrap();
    crate::node::secret_key(&pair.key);
    let certificate = text(&node.file("client.crt", &pair.certificate));
    for (name, bad, words) in [
        ("not YAML", "\t{".to_owned(), &["kubeconfig"][..]),
        ("a list", "- a\n- b\n".into(), &["kubeconfig"]),
        ("empty", String::new(), &["kubeconfig", "current-context"]),
        (
            "no such context",
            good.replace("current-context: kubelet", "current-context: other"),
            &["current-context", "other"],
        ),
        (
            "no server",
            good.replace(&format!("server: {}", cluster.url), "x: y"),
            &["clusters[kubernetes]", "server"],
        ),
        ("http", good.replace("https://", "http://"), &["clusters[kubernetes]", "server", "https"]),
        (
            "a token over two lines",
            good.replace(&token, &format!("\"{token}\\n{token}\"")),
            &["users[kubelet]", "token"],
        ),
        (
            "no such certificate",
            good.replace(
                &format!("token: {token}"),
                "client-certificate: /nonexistent/a\n      client-key: /nonexistent/b",
            ),
            &["users[kubelet].client-certificate:", "/nonexistent/a"],
        ),
        (
            "unreadable key",
            good.replace(
                &format!("token: {token}"),
                &format!("client-certificate: {certificate}\n      client-key: /proc"),
            ),
            &["users[kubelet].client-key:", "/proc"],
        ),
        (
            "key that is none",
            good.replace(
                &format!("token: {token}"),
                "client-certificate-data: YQ==\n      client-key-data: YQ==",
            ),
            &["users[kubelet]", "client-"],
        ),
        (
            "no such CA file",
            good.lines()
                .map(|l| {
                    if l.contains("authority") {
                        "      certificate-authority: /nonexistent/ca\n".into()
                    } else {
                        format!("{l}\n")
                    }
                })
                .collect(),
            &["clusters[kubernetes]", "certificate-authority", "/nonexistent/ca"],
        ),
    ] {
        assert_ne!(bad, good, "{name}");
        node.file("kubeconfig", &bad);
        let ran = node.report(&["--wait", "60s"]);
        assert_eq!(ran.code, Some(4), "{name}: {}", ran.stderr);
        ran.fails(4, &["kubeconfig"]).fails(4, words);
    }
    node.file("kubeconfig", &good);
    for name in ["", "Upper.Case", "a b", "a/../b", "x\u{1b}[31m", "-a", "ip-10-0-0-1..internal"] {
        let path = text(&path);
        let name = format!("--node-name={name}");
        let arguments = ["report", "--kubeconfig", &path, &name];
        node.agent(&arguments).fails(4, &["--node-name", "expected the name of a Node"]);
    }
    // Not a node (yet): neither kubelet's kubeconfig nor its name for the Node.
    node.agent(&["report", "--node-name", &node.name]).fails(5, &["/var/lib/kubelet/kubeconfig"]);
    node.agent(&["report", "--kubeconfig", &text(&path)]).fails(5, &["--node-name"]);
    assert_eq!(methods(&node), [] as [Method; 0]);
    assert_eq!(node.seen()["metadata"]["resourceVersion"], before["metadata"]["resourceVersion"]);
    assert_eq!(node.files(), files, "nothing is written");
}

/// The lines of a script that prints an ExecCredential with this token.
pub fn credential(token: &str, expires: &str) -> String {
    let mut credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1beta1",
        "kind": "ExecCredential",
        "spec": {},
        "status": {"token": token},
    });
    if !expires.is_empty() {
        credential["status"]["expirationTimestamp"] = json!(expires);
    }
    format!("echo '{credential}'")
}
