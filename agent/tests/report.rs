//! `nvme-agent report` as its unit and an operator meet it, without an API server: what ends it before anything is
//! asked, and what a wrong configuration does not keep it from asking.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what tests call

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use assert_cmd::Command;
use tempfile::TempDir;

/// In every kubeconfig here; in no output.
const SECRET: &str = "hunter2hunter2";

/// A node whose setup failed in this boot, and a server that counts who comes. It speaks no TLS, so that whoever comes
/// goes at once.
struct Node {
    dir: TempDir,
    visits: Arc<AtomicUsize>,
}

impl Node {
    fn new() -> Node {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let visits = Arc::new(AtomicUsize::new(0));
        let count = visits.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }
        });
        let node = Node { dir, visits };
        node.file("proc/sys/kernel/random/boot_id", "boot\n");
        node.file("proc/1/mountinfo", "22 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw\n");
        node.file("proc/1/cmdline", "/sbin/init\0");
        fs::create_dir_all(node.dir.path().join("sys/block")).unwrap();
        fs::create_dir_all(node.dir.path().join("sys/bus/pci/devices")).unwrap();
        node.state("failed", "ForeignData");
        node.file(
            "etc/eks/kubelet/environment",
            "NODEADM_KUBELET_ARGS=\"--hostname-override=ip-10-0-0-1\"\n",
        );
        node.file(
            "var/lib/kubelet/kubeconfig",
            &format!(
                "kind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: b, user: c}}}}]\n\
                 clusters: [{{name: b, cluster: {{server: 'https://{server}'}}}}]\n\
                 users: [{{name: c, user: {{token: {SECRET}}}}}]\n"
            ),
        );
        node
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn state(&self, state: &str, reason: &str) {
        let text = format!(
            "{{\"version\": 1, \"state\": \"{state}\", \"reason\": \"{reason}\", \"boot_id\": \"boot\", \"target\": \"/tmp\"}}"
        );
        self.file("run/nvme-agent/state.json", &text);
    }

    /// By a drop-in.
    fn registers_absent(&self) {
        let text = "{\"boot_id\": \"boot\", \"way\": \"dropin\", \"path\": \"/etc/eks/nodeadm.d/50-nvme-agent.yaml\", \
                    \"state\": \"absent\"}";
        self.file("run/nvme-agent/registration.json", text);
    }

    /// Exit code, output, and how many connections it made. Where it fails, nothing is remembered as told.
    fn report(&self, args: &[&str]) -> (i32, String, usize) {
        let before = self.visits.load(Ordering::SeqCst);
        let mut command = Command::cargo_bin("nvme-agent").unwrap();
        command
            .env_clear()
            .args(["--log-level", "trace", "report", "--root"])
            .arg(self.dir.path())
            .args(args);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(!said.contains("hunter2"), "{said}");
        assert!(!self.dir.path().join("run/nvme-agent/reported.json").exists());
        (output.status.code().unwrap(), said, self.visits.load(Ordering::SeqCst) - before)
    }

    fn refuses(&self, args: &[&str], code: i32, words: &[&str]) {
        let (found, said, visits) = self.report(args);
        assert_eq!((found, visits), (code, 0), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        for word in words {
            assert!(said.contains(word), "expected {word} in {said}");
        }
    }
}

const TICK: &str = "--if-changed";

#[test]
fn a_server_that_is_none_is_asked_once_and_refused() {
    let node = Node::new();
    let (code, said, visits) = node.report(&[]);
    assert_eq!((code, visits), (3, 1), "{said}");
    assert!(said.contains("GET node ip-10-0-0-1: no trusted connection"), "{said}");
}

#[test]
fn a_second_report_waits_for_the_first_and_looks_only_then() {
    let node = Node::new();
    let path = node.dir.path().join("run/nvme-agent/report.lock");
    let lock = fs::File::create(&path).unwrap();
    lock.lock().unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| node.report(&[TICK]));
        std::thread::sleep(Duration::from_secs(2));
        assert!(!second.is_finished());
        assert_eq!(node.visits.load(Ordering::SeqCst), 0);
        // What has become true in the meantime.
        node.state("absent", "NoDrives");
        node.registers_absent();
        drop(lock);
        let (code, said, visits) = second.join().unwrap();
        assert_eq!((code, visits), (0, 0), "{said}");
        assert!(said.contains("waiting for another") && said.contains("no local drives"), "{said}");
    });
}

#[test]
fn a_machine_that_is_no_node_says_so_and_a_tick_there_is_no_failure() {
    let node = Node::new();
    fs::remove_file(node.dir.path().join("var/lib/kubelet/kubeconfig")).unwrap();
    node.refuses(&[], 5, &["var/lib/kubelet/kubeconfig", "--kubeconfig"]);
    node.refuses(&[TICK], 0, &["there is no kubeconfig"]);
}

#[test]
fn a_node_whose_name_is_not_known_or_none_is_refused() {
    let node = Node::new();
    for name in ["", "UPPER", "a b", "a/../b", "x\u{1b}[31m", "-a", "a..b"] {
        node.refuses(&[&format!("--node-name={name}")], 4, &["--node-name: expected the name of a Node"]);
    }
    node.file("etc/eks/kubelet/environment", "NODEADM_KUBELET_ARGS=\"--hostname-override=a%2fb\"\n");
    node.refuses(
        &[],
        4,
        &["/etc/eks/kubelet/environment: NODEADM_KUBELET_ARGS: --hostname-override", "a%2fb"],
    );
    node.file("etc/eks/kubelet/environment", "");
    node.refuses(&[], 5, &["--node-name"]);
}

#[test]
fn a_label_domain_that_is_reserved_or_none_is_refused_by_hand_and_not_used_at_a_tick() {
    let node = Node::new();
    for domain in ["kubernetes.io", "x.k8s.io", "node-restriction.kubernetes.io", "Not A Domain", ""] {
        node.file("etc/nvme-agent/config.toml", &format!("# ours\nlabel_domain = \"{domain}\"\n"));
        node.refuses(&[], 4, &["config.toml:2", "label_domain"]);
        let (code, said, visits) = node.report(&[TICK]);
        assert_eq!((code, visits), (3, 1), "{domain}: {said}");
        assert!(
            said.contains("the Node is told under nvme-agent.e6data.com, with what can be read"),
            "{said}"
        );
    }
}

#[test]
fn what_else_is_wrong_in_the_configuration_does_not_keep_a_tick_from_telling_the_node() {
    let node = Node::new();
    for text in ["drive_timeout = 'never'\n", "label_domain = 'a.example'\nnonsense = 1\n", "not TOML"] {
        node.file("etc/nvme-agent/config.toml", text);
        node.refuses(&[], 4, &["config.toml:"]);
        let (code, said, visits) = node.report(&[TICK]);
        assert_eq!((code, visits), (3, 1), "{text}: {said}");
    }
    // Where there is nothing to tell, the error is still one.
    node.file("etc/nvme-agent/config.toml", "label_method = 'none'\nnonsense = 1\n");
    let (code, said, visits) = node.report(&[TICK]);
    assert_eq!((code, visits), (4, 0), "{said}");
    assert!(said.contains("unknown key `nonsense`"), "{said}");
}

#[test]
fn a_node_without_drives_is_left_alone_unless_it_had_storage_once() {
    let node = Node::new();
    node.state("absent", "NoDrives");
    // Nothing that kubelet reads says so: the Node is told.
    assert_eq!(node.report(&[TICK]).2, 1);
    node.registers_absent();
    node.refuses(&[TICK], 0, &["no local drives"]);
    // A teardown left at the boot before: the Node still says ready.
    node.state("absent", "TornDown");
    assert_eq!(node.report(&[TICK]).2, 1);
    // The instance came back as a type without drives.
    node.state("absent", "NoDrives");
    node.file("var/lib/nvme-agent/record.json", "{}");
    assert_eq!(node.report(&[TICK]).2, 1);
    // After a teardown there is no record, but the Node was told something.
    fs::remove_file(node.dir.path().join("var/lib/nvme-agent/record.json")).unwrap();
    node.refuses(&[TICK], 0, &["no local drives"]);
    node.file(
        "var/lib/nvme-agent/reported.json",
        "{\"version\": 1, \"boot_id\": \"before\", \"state\": \"ready\"}",
    );
    assert_eq!(node.report(&[TICK]).2, 1);
}

#[test]
fn a_node_that_is_not_to_be_labelled_is_not() {
    let node = Node::new();
    node.file("etc/nvme-agent/config.toml", "label_method = 'none'\n");
    for args in [&[][..], &[TICK]] {
        node.refuses(args, 0, &["label_method is \"none\""]);
    }
}

#[test]
fn a_program_that_an_image_names_is_not_started_and_one_of_a_kubeconfig_named_by_hand_is() {
    let node = Node::new();
    let (outside, started) = (tempfile::tempdir().unwrap(), node.dir.path().join("started"));
    let at = node.dir.path().join("var/lib/kubelet/kubeconfig");
    let exec = format!(
        "exec: {{apiVersion: client.authentication.k8s.io/v1beta1, command: /bin/sh, args: [-c, ': >{}; {SECRET}']}}",
        started.display()
    );
    let text = fs::read_to_string(&at).unwrap().replace(&format!("token: {SECRET}"), &exec);
    fs::write(&at, &text).unwrap();
    let words = ["var/lib/kubelet/kubeconfig: users[c].exec", "`/bin/sh` was not", "--kubeconfig"];
    node.refuses(&[], 4, &words);
    let mut status = Command::cargo_bin("nvme-agent").unwrap();
    let said = status.args(["status", "--node", "--root"]).arg(node.dir.path()).output().unwrap().stdout;
    let said = String::from_utf8(said).unwrap();
    let line =
        said.lines().find(|line| line.starts_with("on node not known: ")).unwrap_or_else(|| panic!("{said}"));
    assert!(words.iter().all(|word| line.contains(word)) && !said.contains("hunter2"), "{said}");
    assert!(!started.exists());
    let named = outside.path().join("kubeconfig");
    fs::write(&named, text).unwrap();
    let (code, said, visits) = node.report(&["--kubeconfig", named.to_str().unwrap()]);
    assert!(started.exists() && said.contains("credential plugin /bin/sh failed"), "{code} {visits} {said}");
}
