//! A machine that reports: a fixture root, a kubeconfig, and the agent run on them. Every run's output, at the most
//! talkative level, and every file that it leaves is searched for every secret of the whole suite.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use lab::apiserver::audit::Entry;
use lab::apiserver::cluster::Cluster;
use lab::apiserver::kubeconfig::{Authority, Exec, Login, kubeconfig};
use lab::runner::{AGENT, logs_root};
use nvme_agent::error::Error;
use nvme_agent::node::report::{self, Access, Options, Outcome};
use nvme_agent::root::Root;
use nvme_agent::state::{Health, State};
use serde_json::Value;

pub use crate::ran::{Ran, secret_key, secret_token};
use crate::support::{Description, Machine};

/// For a run of the agent: more than it gives itself.
const DEADLINE: Duration = Duration::from_secs(300);
const DRIVE: &str = "AWS0006638E38E390087";

/// An i4i.large with its drive set up.
pub struct Node<'a> {
    pub cluster: &'a Cluster,
    pub name: String,
    pub machine: Machine,
    /// Credentials, scripts: what the agent reads but did not write.
    files: tempfile::TempDir,
    /// Of the kubeconfig; the cluster's unless a test points elsewhere.
    pub server: RefCell<String>,
    /// Environment of the agent, besides PATH.
    pub env: RefCell<Vec<(String, String)>>,
    runs: Cell<u32>,
}

impl<'a> Node<'a> {
    /// Registered, and logs in with kubelet's certificate.
    pub fn registered(cluster: &'a Cluster) -> Node<'a> {
        let (name, pair) = cluster.register().unwrap();
        let node = Node::unregistered(cluster, &name);
        node.login(&Login::Certificate(&pair));
        secret_key(&pair.key);
        node
    }

    /// Registered, with a token that is known but nowhere yet.
    pub fn with_token(cluster: &'a Cluster) -> (Node<'a>, String) {
        let (name, token) = cluster.with_token().unwrap();
        cluster.register_as(&name).unwrap();
        secret_token(&token);
        (Node::unregistered(cluster, &name), token)
    }

    /// Only the machine.
    pub fn unregistered(cluster: &'a Cluster, name: &str) -> Node<'a> {
        let text = include_str!("../../../agent/tests/fixtures/i4i.large.toml");
        let description: Description = toml::from_str(text).unwrap();
        let node = Node {
            cluster,
            name: name.into(),
            machine: Machine::build(&description),
            files: tempfile::tempdir().unwrap(),
            server: RefCell::new(cluster.url.clone()),
            env: RefCell::default(),
            runs: Cell::new(0),
        };
        node.mount("rw,noatime,nosuid,nodev");
        node.set_up();
        node
    }

    /// The state that a good setup leaves.
    fn set_up(&self) {
        let root = self.machine.root();
        let mut state = State::new(&root, Health::Ready, "SetupComplete", "/tmp is /dev/nvme1n1 (ext4)");
        state.layout = "single".into();
        state.target = "/tmp".into();
        state.device = "nvme1n1".into();
        state.fs_uuid = "3f8b3e9c-6c1a-4d5e-9f20-5a1b2c3d4e5f".into();
        state.filesystem = "ext4".into();
        state.serials = vec![DRIVE.into()];
        state.drives = 1;
        state.capacity_gib = 435;
        state.write(&root).unwrap();
        let fstab = format!("UUID={} /tmp ext4 noatime,nosuid,nodev,nofail,x-nvme-agent 0 0", state.fs_uuid);
        self.machine.file("/etc/fstab", &fstab);
    }

    /// What setup of this boot came to, instead.
    pub fn setup_failed(&self, reason: &str, message: &str) {
        let root = self.machine.root();
        State::new(&root, Health::Failed, reason, message).write(&root).unwrap();
    }

    /// The mount table with our filesystem in it, with these options.
    pub fn mount(&self, options: &str) {
        let rest = fs::read_to_string(self.machine.path("/proc/1/mountinfo")).unwrap();
        let rest: String = rest
            .lines()
            .filter(|line| !line.contains("/dev/nvme1n1"))
            .map(|line| format!("{line}\n"))
            .collect();
        let dev = fs::read_to_string(self.machine.path("/sys/class/block/nvme1n1/dev")).unwrap();
        let (mount, fs) = (options, if options.starts_with("ro") { "ro" } else { "rw" });
        let line = format!("90 34 {} / /tmp {mount} shared:90 - ext4 /dev/nvme1n1 {fs}\n", dev.trim());
        self.machine.file("/proc/1/mountinfo", &(rest + &line));
    }

    /// The mount table without it.
    pub fn unmount(&self) {
        let all = fs::read_to_string(self.machine.path("/proc/1/mountinfo")).unwrap();
        let rest: String = all
            .lines()
            .filter(|line| !line.contains("/dev/nvme1n1"))
            .map(|line| format!("{line}\n"))
            .collect();
        self.machine.file("/proc/1/mountinfo", &rest);
    }

    /// The controller of the drive is `live` or something else.
    pub fn drive_is(&self, state: &str) {
        self.machine.file("/sys/class/nvme/nvme1/state", state);
    }

    /// A file of its own beside the machine; 0600.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.files.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A script that a kubeconfig can name. Written by a child: a descriptor open for writing, inherited by another
    /// test's fork, would make it "text file busy".
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.files.path().join(name);
        let mut child = Command::new("sh")
            .args(["-c", "cat >\"$0\" && chmod 700 \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        path
    }

    pub fn kubeconfig_path(&self) -> PathBuf {
        self.files.path().join("kubeconfig")
    }

    /// Writes a kubeconfig that logs in so.
    pub fn login(&self, login: &Login<'_>) {
        self.login_trusting(&Authority::Data(&self.cluster.ca), login);
    }

    pub fn login_trusting(&self, authority: &Authority<'_>, login: &Login<'_>) {
        let text = kubeconfig(&self.server.borrow(), authority, login);
        self.file("kubeconfig", &text);
    }

    /// A kubeconfig with an exec plugin: a script, which is started with a file name in CALLS.
    pub fn login_by_script(&self, script: &str) -> PathBuf {
        let calls = self.files.path().join("calls");
        let text = format!("echo >>{}\n{script}", calls.display());
        let path = self.script("plugin", &text);
        let command = path.display().to_string();
        self.login(&Login::Exec(Exec { command: &command, args: &[], env: &[] }));
        calls
    }

    /// How often the plugin of [`Node::login_by_script`] was started.
    pub fn calls(&self) -> usize {
        fs::read_to_string(self.files.path().join("calls")).unwrap_or_default().lines().count()
    }

    /// `nvme-agent report`.
    pub fn report(&self, args: &[&str]) -> Ran {
        let mut all = vec!["report", "--node-name", &self.name];
        let path = self.kubeconfig_path().display().to_string();
        all.extend(["--kubeconfig", &path]);
        all.extend(args);
        self.agent(&all)
    }

    /// A report by the agent's library, with a patience of the caller's choice: two minutes a case would be long.
    pub fn in_process(&self, patience: Duration) -> (Result<Outcome, Error>, Duration) {
        let access = Access::read(&Root::default(), Some(&self.kubeconfig_path())).unwrap();
        let memory = self.machine.path(report::MEMORY_PATH);
        let options = Options { patience, ..Options::new(access, self.name.as_str(), memory) };
        let state = State::load(&self.machine.root()).unwrap().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let started = Instant::now();
        let result = runtime.block_on(report::report(&options, &state));
        (result, started.elapsed())
    }

    /// The agent with these arguments, at the most talkative level.
    pub fn agent(&self, args: &[&str]) -> Ran {
        let started = Instant::now();
        let mut command = match std::env::var_os(AGENT) {
            Some(path) => Command::new(path),
            None => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
                command.arg0("nvme-agent");
                command
            }
        };
        let root = self.machine.root();
        command
            .args(["--log-level", "trace", "--root"])
            .arg(root.as_path())
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .envs(self.env.borrow().iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let reader = std::thread::spawn(move || {
            let mut text = Vec::new();
            out.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned()).unwrap()
        });
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            err.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned()).unwrap()
        });
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if started.elapsed() > DEADLINE => {
                    child.kill().unwrap();
                    panic!("nvme-agent {args:?} did not end: {}", errors.join().unwrap());
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let time = started.elapsed();
        let ran =
            Ran { code: status.code(), stdout: reader.join().unwrap(), stderr: errors.join().unwrap(), time };
        self.log(args, &ran);
        ran.no_secret(self.machine.root().as_path());
        if args.contains(&self.name.as_str()) {
            self.only_what_is_allowed();
        }
        ran
    }

    /// `target/lab/logs/apiserver/TEST.log`.
    fn log(&self, args: &[&str], ran: &Ran) {
        let dir = logs_root().join("apiserver");
        fs::create_dir_all(&dir).unwrap();
        let test = std::thread::current().name().unwrap_or("test").replace("::", ".");
        let name = format!("{test}.{}.log", self.name);
        let again = self.runs.replace(self.runs.get() + 1) > 0;
        let mut file = fs::File::options()
            .create(true)
            .write(true)
            .append(again)
            .truncate(!again)
            .open(dir.join(name))
            .unwrap();
        writeln!(file, "$ nvme-agent {args:?} -> {:?}, {:?}", ran.code, ran.time).unwrap();
        writeln!(file, "{}\n{}", ran.stdout, ran.stderr).unwrap();
    }

    /// Never taints or anything else of spec, never a merge patch, never another Node.
    #[track_caller]
    fn only_what_is_allowed(&self) {
        for entry in self.requests() {
            if entry.method == "PATCH" {
                assert_eq!(entry.content_type, "application/strategic-merge-patch+json", "{entry:?}");
                assert_eq!(entry.body.get("spec"), None, "{entry:?}");
            }
            let own = entry.path.contains(&self.name) || entry.path.ends_with("/events");
            assert!(own || entry.query.contains(&self.name), "{entry:?}");
        }
    }

    /// Every file of the machine, its length and when it was last written.
    pub fn files(&self) -> BTreeMap<PathBuf, (u64, SystemTime)> {
        fn below(dir: &Path, all: &mut BTreeMap<PathBuf, (u64, SystemTime)>) {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = path.symlink_metadata().unwrap();
                if meta.is_dir() {
                    below(&path, all);
                }
                all.insert(path, (meta.len(), meta.modified().unwrap()));
            }
        }
        let mut all = BTreeMap::new();
        below(self.machine.root().as_path(), &mut all);
        all
    }

    /// What this node has asked of the test server; nothing is known of a real one.
    pub fn requests(&self) -> Vec<Entry> {
        let Ok(server) = self.cluster.server() else { return Vec::new() };
        let user = format!("system:node:{}", self.name);
        let agents = |entry: &Entry| entry.user == user && !self.is_kubelets(entry);
        server.requests().into_iter().filter(agents).collect()
    }

    /// Registration and kubelet's own conditions, which the tests send in its name.
    fn is_kubelets(&self, entry: &Entry) -> bool {
        let kubelets = || entry.body.to_string().contains("kubelet's own");
        (entry.method == "POST" && entry.path == "/api/v1/nodes") || (entry.method == "PATCH" && kubelets())
    }

    /// As the administrator sees it.
    pub fn seen(&self) -> Value {
        self.cluster.node(&self.name).unwrap()
    }

    pub fn label(&self, name: &str) -> Option<String> {
        let labels = &self.seen()["metadata"]["labels"];
        labels[format!("nvme-agent.e6data.com/{name}")].as_str().map(str::to_owned)
    }

    /// Status and reason of our condition.
    pub fn condition(&self) -> Option<(String, String)> {
        let node = self.seen();
        let condition = node["status"]["conditions"]
            .as_array()?
            .iter()
            .find(|condition| condition["type"] == "nvme-agent.e6data.com/LocalStorageReady")?;
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        Some((text("status"), text("reason")))
    }

    /// State label, condition status and reason.
    pub fn says(&self) -> (String, String, String) {
        let (status, reason) = self.condition().unwrap_or_default();
        (self.label("state").unwrap_or_default(), status, reason)
    }
}

/// [`Node::says`], to compare with.
pub fn said(state: &str, status: &str, reason: &str) -> (String, String, String) {
    (state.into(), status.into(), reason.into())
}

/// Where a path is, as text.
pub fn text(path: &Path) -> String {
    path.display().to_string()
}
