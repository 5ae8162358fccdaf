//! `nvme-agent status` as people meet it: on a terminal (colours, `--watch`), in a pipe, over SSM; and the Node that it
//! reads for them.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what tests call

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::tcgetattr;
use nix::unistd::Pid;
use tempfile::TempDir;

/// Longer than any machine is busy.
const SOON: Duration = Duration::from_secs(60);

/// A machine of no drives on which setup has not run, in a directory.
fn machine() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for path in ["proc/1", "sys/block", "sys/bus/pci/devices", "run/nvme-agent", "proc/sys/kernel/random"] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    fs::write(dir.path().join("proc/1/mountinfo"), "22 1 259:1 / / rw - xfs /dev/nvme0n1p1 rw\n").unwrap();
    fs::write(dir.path().join("proc/sys/kernel/random/boot_id"), "boot\n").unwrap();
    dir
}

fn state(root: &Path, reason: &str) {
    let text = format!(
        "{{\"version\": 1, \"state\": \"failed\", \"reason\": \"{reason}\", \"boot_id\": \"boot\", \"target\": \"/tmp\"}}"
    );
    // In one piece, as setup does it: status looks while it is written.
    fs::write(root.join("run/nvme-agent/new"), text).unwrap();
    fs::rename(root.join("run/nvme-agent/new"), root.join("run/nvme-agent/state.json")).unwrap();
}

fn status(root: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("nvme-agent"));
    command.env_clear().env("TERM", "xterm").arg("status").args(args).arg("--root").arg(root);
    command.stdin(Stdio::null());
    command
}

/// A terminal of 30 rows, and what is drawn on it.
struct Terminal {
    slave: OwnedFd,
    drawn: Arc<Mutex<String>>,
}

impl Terminal {
    fn new() -> Terminal {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        let drawn = Arc::new(Mutex::new(String::new()));
        let (mut master, kept) = (File::from(pair.master), drawn.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = master.read(&mut bytes) {
                kept.lock().unwrap().push_str(std::str::from_utf8(&bytes[..n]).unwrap());
            }
        });
        Terminal { slave: pair.slave, drawn }
    }

    /// As a shell on that terminal would: signals do what they do by default, whoever runs this test in the background.
    fn start(&self, command: Command) -> Child {
        let mut of_a_shell = Command::new("env");
        of_a_shell.arg("--default-signal=INT,QUIT").arg(command.get_program()).args(command.get_args());
        of_a_shell.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        of_a_shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut command = of_a_shell;
        command.stdout(self.slave.try_clone().unwrap()).stderr(self.slave.try_clone().unwrap());
        command.spawn().unwrap()
    }

    fn waits_for(&self, what: &str, seen: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let drawn = self.drawn.lock().unwrap().clone();
            if seen(&drawn) {
                return drawn;
            }
            assert!(begun.elapsed() < SOON, "no {what}: {drawn:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn the_verdict_is_coloured_on_a_terminal_and_nowhere_else() {
    let root = machine();
    let coloured = "\u{1b}[33mnot-set-up\u{1b}[0m (NotSetUp)";
    for (variable, expected) in
        [(None, true), (Some(("NO_COLOR", "1")), false), (Some(("TERM", "dumb")), false)]
    {
        let terminal = Terminal::new();
        let mut command = status(root.path(), &[]);
        command.envs(variable);
        assert_eq!(terminal.start(command).wait().unwrap().code(), Some(12));
        let drawn = terminal.waits_for("verdict", |drawn| drawn.contains("\r\nagent "));
        assert_eq!(drawn.contains(coloured), expected, "{variable:?}: {drawn:?}");
        assert_eq!(drawn.contains('\u{1b}'), expected, "{variable:?}: {drawn:?}");
    }
    let output = status(root.path(), &[]).output().unwrap();
    assert!(output.stdout.starts_with(b"not-set-up (NotSetUp)\n") && !output.stdout.contains(&0x1b));
}

#[test]
fn a_watch_looks_again_until_it_is_interrupted_and_leaves_the_terminal_as_it_was() {
    let root = machine();
    state(root.path(), "FirstReason");
    let terminal = Terminal::new();
    let before = tcgetattr(&terminal.slave).unwrap();
    let mut watching = terminal.start(status(root.path(), &["--watch", "1"]));
    let first = terminal.waits_for("first look", |drawn| drawn.contains("again every 1 s"));
    assert!(first.contains("failed\u{1b}[0m (FirstReason)"), "{first:?}");
    state(root.path(), "SecondReason");
    let both = terminal.waits_for("second look", |drawn| {
        drawn.contains("(SecondReason)") && drawn.ends_with("\u{1b}[J\r\n")
    });
    assert!(both.matches("\u{1b}[H").count() >= 2, "{both:?}");
    assert!(watching.try_wait().unwrap().is_none(), "it goes on");
    kill(Pid::from_raw(watching.id() as i32), Signal::SIGINT).unwrap();
    let ended = watching.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&ended),
        Some(2),
        "as a shell expects of Ctrl-C"
    );
    let drawn = terminal.waits_for("end of the last look", |drawn| drawn.ends_with("\u{1b}[J\r\n"));
    // Neither another screen nor a hidden cursor.
    assert!(!drawn.contains("\u{1b}[?"), "{drawn:?}");
    assert_eq!(before, tcgetattr(&terminal.slave).unwrap());
}

#[test]
fn a_watch_without_a_terminal_or_of_what_is_not_for_people_is_wrong_usage() {
    let root = machine();
    let said = |output: std::process::Output| {
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said(status(root.path(), &["--watch"]).output().unwrap()).contains("stdout is none"));
    let json = said(status(root.path(), &["--watch", "--output", "json"]).output().unwrap());
    assert!(json.contains("cannot be used with --output"), "{json}");
    for seconds in ["0", "3601", "-1", "soon"] {
        said(status(root.path(), &[&format!("--watch={seconds}")]).output().unwrap());
    }
}

/// A kubelet's kubeconfig and name, for a server.
fn node(root: &Path, server: &str) -> PathBuf {
    let kubeconfig = root.join("var/lib/kubelet/kubeconfig");
    let environment = root.join("etc/eks/kubelet/environment");
    for file in [&kubeconfig, &environment] {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
    }
    fs::write(environment, "NODEADM_KUBELET_ARGS=\"--hostname-override=ip-10-0-0-1\"\n").unwrap();
    let text = format!(
        "kind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: b, user: c}}}}]\n\
         clusters: [{{name: b, cluster: {{server: 'https://{server}'}}}}]\n\
         users: [{{name: c, user: {{token: hunter2hunter2}}}}]\n"
    );
    fs::write(&kubeconfig, text).unwrap();
    kubeconfig
}

#[test]
fn a_node_that_cannot_be_read_is_said_and_never_fails_status_nor_holds_it_up() {
    let root = machine();
    let look = |words: &[&str]| {
        let begun = Instant::now();
        let output = status(root.path(), &["--node"]).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(12), "{text}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        let line = text
            .lines()
            .find(|line| line.starts_with("on node not known: "))
            .unwrap_or_else(|| panic!("{text}"));
        for word in words {
            assert!(line.contains(word), "no {word}: {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    };
    look(&["the name of this Node is not known"]);
    // Who listens and says nothing, not even of TLS.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let kubeconfig = node(root.path(), &silent.local_addr().unwrap().to_string());
    look(&["GET node ip-10-0-0-1: no whole answer within "]);
    fs::write(kubeconfig, "kind: nonsense").unwrap();
    look(&["var/lib/kubelet/kubeconfig"]);
    let output = status(root.path(), &["--node", "--output", "json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["node"]["on_node"]["problem"].is_string(), "{json}");
    assert!(json["node"]["on_node"]["agrees"].is_null(), "{json}");
    let output = status(root.path(), &["--output", "json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["node"]["on_node"].is_null(), "nobody asked: {json}");
}

/// The script of a command document, which is its last part.
fn ssm_script(output: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/ssm/nvme-agent-status.yaml");
    let document = fs::read_to_string(path).unwrap();
    let (_, script) = document.split_once("- |\n").unwrap();
    let lines: Vec<&str> = script.lines().map(str::trim_start).collect();
    lines.join("\n").replace("{{ Output }}", output)
}

/// The SSM console, and what the API answers without a bucket, end after 2,500 characters.
#[test]
fn what_ssm_shows_of_it_has_the_verdict_and_the_next_action() {
    let root = machine();
    let message = "something long and sad happened to /etc/somewhere, ".repeat(200);
    let text = format!(
        "{{\"version\": 1, \"state\": \"failed\", \"reason\": \"ForeignData\", \"boot_id\": \"boot\", \"target\": \"/tmp\", \
         \"message\": \"{message}\"}}"
    );
    fs::write(root.path().join("run/nvme-agent/state.json"), text).unwrap();
    let bin = root.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let agent = assert_cmd::cargo::cargo_bin("nvme-agent");
    // By a child: a file that this process has written cannot be executed while the fork of another test still has it.
    let wrapper = format!(
        "printf '#!/bin/sh\\nexec %s \"$@\" --root %s\\n' {} {} >{1}/bin/nvme-agent; chmod 755 {1}/bin/nvme-agent",
        agent.display(),
        root.path().display()
    );
    assert!(Command::new("sh").args(["-c", &wrapper]).status().unwrap().success());
    for output in ["text", "json"] {
        let mut script = Command::new("sh");
        script.args(["-c", &ssm_script(output)]).env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        let output = script.output().unwrap();
        assert_eq!(output.status.code(), Some(11), "{}", String::from_utf8_lossy(&output.stderr));
        let shown = String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(2500)]).into_owned();
        let next = nvme_agent::status::rules::find("ForeignData").unwrap().next;
        for word in ["failed", "ForeignData", next] {
            assert!(shown.contains(word), "no {word}: {shown}");
        }
    }
}

#[test]
fn a_machine_of_which_nothing_can_be_read_has_a_screen_all_the_same() {
    let root = tempfile::tempdir().unwrap();
    for args in [&[][..], &["--output", "json"], &["--node"]] {
        let output = status(root.path(), args).output().unwrap();
        assert_eq!(output.status.code(), Some(12), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("not-set-up") && text.contains("/proc/1/mountinfo"), "{text}");
    }
}
