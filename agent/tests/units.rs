//! The installed unit through systemd's own eyes. Needs `systemd-analyze`, which every systemd machine has;
//! elsewhere the tests say that they were not run.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what tests call

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use assert_cmd::cargo::cargo_bin;
use nvme_agent::config::{Config, FeatureFile, OnFailure};
use nvme_agent::node::features::FEATURE_PATH;
use nvme_agent::node::registration::{self, DROP_IN_DIR, DROP_IN_PATH};
use nvme_agent::root::Root;
use nvme_agent::state::{Health, State};
use tempfile::TempDir;

const UNITS: &str = "/usr/lib/systemd/system";
const UNITS_OF_OURS: [&str; 5] = [
    "nvme-agent.service",
    "nvme-agent-report.service",
    "nvme-agent-report.timer",
    "nvme-agent-metrics.service",
    "nvme-agent-metrics.timer",
];

/// An image with this machine's units, those of an EKS node, a static /tmp, and what `install` puts there.
fn image(config: &str) -> Option<TempDir> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("NOT RUN: there is no systemd-analyze on this machine");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |path: &str| dir.path().join(path.trim_start_matches('/'));
    fs::create_dir_all(path("/usr/lib/systemd")).unwrap();
    fs::create_dir_all(path("/etc/nvme-agent")).unwrap();
    fs::write(path("/etc/nvme-agent/config.toml"), config).unwrap();
    assert!(Command::new("cp").args(["-a", UNITS]).arg(path("/usr/lib/systemd")).status().unwrap().success());
    for name in UNITS_OF_OURS {
        let _ = fs::remove_file(path(UNITS).join(name));
    }
    let unit = |name: &str, text: &str| {
        let at = path(UNITS).join(name);
        let _ = fs::remove_file(&at);
        fs::write(at, text).unwrap();
    };
    // As systemd ships it (units/tmp.mount), also where a distribution keeps it elsewhere.
    unit(
        "tmp.mount",
        "[Unit]\nDefaultDependencies=no\nConflicts=umount.target\nBefore=local-fs.target umount.target\n\
         After=swap.target\n[Mount]\nWhat=tmpfs\nWhere=/tmp\nType=tmpfs\n",
    );
    // Shaped like nodeadm's and dbus-broker's.
    let exec = "[Service]\nType=oneshot\nExecStart=/bin/true\n";
    fs::create_dir_all(path("/bin")).unwrap();
    fs::create_dir_all(path("/usr/bin")).unwrap();
    for program in ["/bin/true", "/bin/sh", "/usr/bin/timeout"] {
        fs::copy(program, path(program)).unwrap();
    }
    unit("nodeadm-config.service", &format!("[Unit]\nBefore=nodeadm-run.service\n{exec}"));
    unit("nodeadm-run.service", &format!("[Unit]\nAfter=nodeadm-config.service\n{exec}"));
    unit("containerd.service", &format!("[Unit]\nAfter=network.target\n{exec}"));
    unit("kubelet.service", &format!("[Unit]\nAfter=containerd.service\n{exec}"));
    unit(
        "bus.service",
        &format!(
            "[Unit]\nDefaultDependencies=no\nBefore=basic.target\nAfter=tmp.mount\nRequires=tmp.mount\n{exec}"
        ),
    );
    for (target, name) in [
        ("local-fs.target", "tmp.mount"),
        ("basic.target", "bus.service"),
        ("multi-user.target", "nodeadm-config.service"),
        ("multi-user.target", "nodeadm-run.service"),
        ("multi-user.target", "kubelet.service"),
        ("multi-user.target", "containerd.service"),
    ] {
        let wants = path(&format!("/etc/systemd/system/{target}.wants"));
        fs::create_dir_all(&wants).unwrap();
        symlink(format!("{UNITS}/{name}"), wants.join(name)).unwrap();
    }
    let install =
        Command::new(cargo_bin("nvme-agent")).args(["install", "--root"]).arg(dir.path()).output().unwrap();
    assert!(install.status.success(), "{}", String::from_utf8_lossy(&install.stderr));
    Some(dir)
}

fn analyze(root: &Path, args: &[&str]) -> (Output, String) {
    let output = Command::new("systemd-analyze")
        .arg(format!("--root={}", root.display()))
        .args(args)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
    (output, said)
}

#[test]
fn verify_has_nothing_to_say_about_the_units() {
    for config in ["", "target = '/opt/my-data'"] {
        let Some(image) = image(config) else { return };
        for unit in UNITS_OF_OURS {
            let (output, said) = analyze(image.path(), &["verify", unit]);
            assert!(output.status.success() && !said.contains("nvme-agent"), "{unit}: {said}");
        }
    }
}

/// What systemd would have the shell do, below a root.
fn before_the_agent(root: &Path) {
    let unit = include_str!("../../systemd/nvme-agent.service");
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStartPre=-")).unwrap();
    assert!(!command.contains(['\\', '%']), "systemd has a meaning for it: {command}");
    let command = command.replace("$$", "$").replace("/etc/", &format!("{}/etc/", root.display()));
    assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
}

#[test]
fn without_an_agent_nothing_of_an_earlier_boot_says_ready() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    before_the_agent(dir.path());
    fs::create_dir_all(root.join(DROP_IN_DIR)).unwrap();
    let tainting =
        Config { on_failure: OnFailure::Taint, feature_file: FeatureFile::Nfd, ..Config::default() };
    let keys = Config { label_keys: "state=x.com/nvme".into(), ..tainting.clone() };
    for config in [tainting, keys] {
        for (health, stays) in [
            (Health::Ready, false),
            (Health::Degraded, false),
            (Health::Absent, false),
            (Health::Failed, true),
        ] {
            registration::update(&root, &config, &State::new(&root, health, "X", ""));
            assert!([DROP_IN_PATH, FEATURE_PATH].iter().all(|path| root.join(path).is_file()));
            before_the_agent(dir.path());
            for path in [DROP_IN_PATH, FEATURE_PATH] {
                assert_eq!(root.join(path).exists(), stays, "{path} {health}");
            }
        }
    }
    // Neither waited for nor removed.
    assert!(
        Command::new("mkfifo").arg(root.join(FEATURE_PATH).with_extension("x")).status().unwrap().success()
    );
    fs::rename(root.join(FEATURE_PATH).with_extension("x"), root.join(FEATURE_PATH)).unwrap();
    before_the_agent(dir.path());
    assert!(root.join(FEATURE_PATH).exists());
}

#[test]
fn there_is_no_ordering_cycle() {
    for config in ["", "target = '/opt/my-data'"] {
        let Some(image) = image(config) else { return };
        for target in ["default.target", "multi-user.target", "timers.target", "shutdown.target"] {
            let (_, said) = analyze(image.path(), &["verify", "--man=no", target]);
            assert!(!said.contains("cycle"), "{said}");
        }
        // The test would see one: this is the one that facts.md 4b warns of.
        let unit = image.path().join("etc/systemd/system/nvme-agent.service");
        let text = fs::read_to_string(&unit).unwrap();
        fs::write(&unit, text.replace("[Service]", "After=local-fs.target\n[Service]")).unwrap();
        let (_, said) = analyze(image.path(), &["verify", "--man=no", "multi-user.target"]);
        assert!(said.contains("cycle"), "{said}");
    }
}

/// `aws eks get-token` with a role writes ~/.aws/cli/cache, and its directory where there is none; a home that is read-only
/// makes it fail, and the Node is told nothing.
#[test]
fn the_credential_plugin_can_write_into_roots_home() {
    let Some(image) = image("") else { return };
    let path = image.path().join("etc/systemd/system/nvme-agent-report.service");
    let text = fs::read_to_string(path).unwrap();
    let set = |line: &str| text.lines().any(|found| found == line);
    assert!(!set("ProtectHome=yes") && !set("ProtectHome=tmpfs"), "it reads ~/.aws");
    assert!(!set("ProtectHome=read-only") || set("ReadWritePaths=-/root"));
}

#[test]
fn the_security_score_is_at_most_5_and_where_nothing_is_mounted_4() {
    let Some(image) = image("") else { return };
    for (unit, threshold) in
        [("nvme-agent.service", 50), ("nvme-agent-report.service", 40), ("nvme-agent-metrics.service", 40)]
    {
        let threshold = format!("--threshold={threshold}");
        let (output, said) =
            analyze(image.path(), &["security", "--offline=true", &threshold, "--no-pager", unit]);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("Overall exposure level"), "{said}");
    }
}

/// systemd.exec(5), systemd.resource-control(5): what keeps devices from a unit, or gives it others.
#[test]
fn setup_may_open_every_device_the_console_too() {
    let unit = include_str!("../../systemd/nvme-agent.service");
    let keeps =
        ["DeviceAllow=", "DevicePolicy=", "PrivateDevices=", "ProtectClock=", "RootDirectory=", "BindPaths="];
    let settings = unit.lines().filter(|line| !line.starts_with('#'));
    let found: Vec<&str> = settings.filter(|line| keeps.iter().any(|key| line.starts_with(key))).collect();
    assert_eq!(found, [] as [&str; 0]);
}
