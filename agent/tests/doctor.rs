//! `nvme-agent doctor` as an operator and a baker of images meet it: exit codes, what fits on a console, nothing changed,
//! and an answer whatever is in the way.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what tests call

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// What of an SSM command's output the console shows.
const SCREEN: usize = 2500;

fn agent(root: &Path, args: &[&str]) -> Output {
    let mut command = Command::cargo_bin("nvme-agent").unwrap();
    command.env_clear().timeout(Duration::from_secs(60)).arg("--root").arg(root).args(args);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn write(root: &Path, path: &str, bytes: &str, mode: u32) {
    let at = root.join(path);
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(&at, bytes).unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(mode)).unwrap();
}

/// An AL2023 image of EKS's with the agent installed by `nvme-agent install --root`.
fn image() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for program in ["mkfs.ext4", "blkid", "stat"] {
        write(root, &format!("usr/sbin/{program}"), "", 0o755);
    }
    write(root, "usr/lib/modules/6.12.1/modules.dep", "kernel/drivers/md/raid0.ko.xz:\n", 0o644);
    write(root, "usr/lib/modules/6.12.1/modules.builtin", "kernel/fs/ext4/ext4.ko\n", 0o644);
    write(root, "usr/lib/tmpfiles.d/tmp.conf", "q /tmp 1777 root root 10d\n", 0o644);
    write(root, "etc/fstab", "UUID=1 / xfs defaults 0 1\n", 0o644);
    write(
        root,
        "etc/systemd/system/nodeadm-run.service",
        "[Service]\nExecStart=/usr/bin/nodeadm init --config-source file:///etc/eks/nodeadm.d/\n",
        0o644,
    );
    fs::create_dir_all(root.join("etc/eks/nodeadm.d")).unwrap();
    let installed = agent(root, &["install"]);
    assert!(installed.status.success(), "{installed:?}");
    dir
}

/// Every file below, with its bytes and mode.
fn tree(dir: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut files = BTreeMap::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let meta = entry.path().symlink_metadata().unwrap();
            if meta.is_dir() {
                todo.push(entry.path());
            }
            let bytes = if meta.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
            files.insert(entry.path().display().to_string(), (meta.permissions().mode(), bytes));
        }
    }
    files
}

fn shows_well(text: &str) {
    assert!(text.len() <= SCREEN, "{} characters: {text}", text.len());
    assert!(text.chars().all(|c| c == '\n' || matches!(c, ' '..='~')), "{text}");
}

#[test]
fn an_image_that_is_in_order_ends_with_0_and_says_what_it_could_not_look_at() {
    let image = image();
    let before = tree(image.path());
    let output = agent(image.path(), &["doctor"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    shows_well(&said);
    assert_eq!(output.stderr, b"", "{output:?}");
    assert!(
        said.lines().last().unwrap().starts_with("unknown: 0 problems, 0 warnings, 7 unknown, "),
        "{said}"
    );
    assert!(said.starts_with("unknown  user mount-namespace drives "), "{said}");
    assert!(said.contains("about a running machine; --root is taken for an image"), "{said}");
    assert_eq!(tree(image.path()), before, "it changes nothing");
}

#[test]
fn a_warning_is_10_and_a_problem_11_and_comes_first_with_what_to_do() {
    let image = image();
    write(image.path(), "var/lib/cloud/scripts/per-instance/old.sh", "mkfs.ext4 -F /dev/nvme1n1\n", 0o755);
    let output = agent(image.path(), &["doctor"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(10), "{said}");
    assert!(said.starts_with("warning  other-scripts "), "{said}");
    write(image.path(), "etc/fstab", "UUID=1 / xfs defaults 0 1\n/dev/x\n", 0o644);
    let output = agent(image.path(), &["doctor"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(11), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("problem  fstab            /etc/fstab: line 2 is malformed"), "{said}");
    assert!(lines[1].trim_start().starts_with("do: Mend line 2 of /etc/fstab"), "{said}");
    assert!(lines[2].starts_with("warning  other-scripts "), "{said}");
    assert!(lines.last().unwrap().starts_with("problem: 1 problem, 1 warning, "), "{said}");
}

#[test]
fn a_wrong_configuration_is_one_of_the_problems_and_not_the_end() {
    let image = image();
    write(image.path(), "etc/nvme-agent/config.toml", "# x\nexpect_drive = 2\n", 0o644);
    let output = agent(image.path(), &["doctor", "--offline"]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(11), "{said}");
    assert!(said.starts_with("problem  configuration "), "{said}");
    assert!(said.contains("config.toml:2") && said.contains("expect_drives"), "{said}");
    assert!(said.contains("ok       fstab"), "{said}");
    assert!(!said.contains("credentials"), "--offline leaves it out: {said}");
    assert_eq!(agent(image.path(), &["doctor", "--offline", "--node-name", "x"]).status.code(), Some(2));
}

#[test]
fn programs_kernels_and_configuration_of_an_image_are_its_own_through_absolute_links() {
    let image = image();
    let root = image.path();
    fs::rename(root.join("usr"), root.join("system")).unwrap();
    symlink("/system", root.join("usr")).unwrap();
    fs::rename(root.join("system/sbin/mkfs.ext4"), root.join("mke2fs")).unwrap();
    symlink("/mke2fs", root.join("system/sbin/mkfs.ext4")).unwrap();
    write(root, "etc/own.toml", "filesystem = \"ext4\"\n", 0o644);
    fs::create_dir_all(root.join("etc/nvme-agent")).unwrap();
    let config = root.join("etc/nvme-agent/config.toml");
    let _ = fs::remove_file(&config);
    symlink("/etc/own.toml", &config).unwrap();
    let output = agent(root, &["doctor"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    // One of this host's would be wrong.
    let host = tempfile::tempdir().unwrap();
    write(host.path(), "config.toml", "hunter2 = 2\n", 0o644);
    fs::remove_file(&config).unwrap();
    symlink(host.path().join("config.toml"), &config).unwrap();
    let said = text(&agent(root, &["doctor"]));
    assert!(said.contains("is a symbolic link to nothing") && !said.contains("hunter2"), "{said}");
}

#[test]
fn json_says_the_same_with_every_check_once() {
    let image = image();
    let output = agent(image.path(), &["doctor", "--output", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let schema: Value = serde_json::from_str(include_str!("../schema/doctor.json")).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    assert_eq!(schema.iter_errors(&report).map(|error| error.to_string()).collect::<Vec<_>>(), [""; 0]);
    assert_eq!((&report["schema"], &report["verdict"]), (&1.into(), &"unknown".into()));
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<&str> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    // As docs/doctor.md lists them.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/doctor.md");
    let docs = fs::read_to_string(path).unwrap();
    let rows = docs.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.collect::<Vec<_>>(), names);
    for check in checks {
        let verdict = check["verdict"].as_str().unwrap();
        assert!(!check["found"].as_str().unwrap().is_empty(), "{check}");
        assert_eq!(check["next"].is_string(), matches!(verdict, "warning" | "problem"), "{check}");
    }
    let count = |verdict: &str| checks.iter().filter(|check| check["verdict"] == verdict).count();
    assert_eq!(report["unknown"], count("unknown"));
    assert_eq!(report["problems"], 0);
}

#[test]
fn a_fifo_a_directory_or_rubbish_in_the_place_of_any_file_holds_nobody() {
    let files = [
        "etc/fstab",
        "etc/mdadm.conf",
        "etc/tmpfiles.d/tmp.conf",
        "etc/tmpfiles.d/x.conf",
        "etc/crontab",
        "etc/cron.d/x",
        "etc/os-release",
        "etc/nvme-agent/config.toml",
        "etc/eks/nodeadm.d/10-x.yaml",
        "etc/systemd/system/x.service",
        "etc/systemd/system/kubelet.service",
        "etc/systemd/system/nvme-agent.service.d/90-x.conf",
        "etc/systemd/system/nodeadm-run.service.d/50-nvme-agent.conf",
        "run/nvme-agent/state.json",
        "var/lib/nvme-agent/record.json",
        "var/lib/nvme-agent/intent.json",
        "var/lib/cloud/scripts/per-boot/x",
    ];
    let image = image();
    for path in files {
        let at = image.path().join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        let before = fs::read(&at).ok();
        for what in ["fifo", "directory", "rubbish"] {
            let _ = fs::remove_file(&at);
            match what {
                "fifo" => nix::unistd::mkfifo(&at, nix::sys::stat::Mode::S_IRWXU).unwrap(),
                "directory" => fs::create_dir(&at).unwrap(),
                _ => fs::write(&at, b"\xff\x00{[=\n\x1b[31m").unwrap(),
            }
            let begun = Instant::now();
            let output = agent(image.path(), &["doctor"]);
            let said = text(&output);
            assert!(matches!(output.status.code(), Some(0 | 10 | 11)), "{what} at {path}: {output:?}");
            assert!(begun.elapsed() < Duration::from_secs(20), "{what} at {path}");
            assert_eq!(said.lines().last().unwrap().matches(',').count(), 3, "{said}");
            shows_well(&said);
            let _ = fs::remove_dir(&at);
        }
        let _ = fs::remove_file(&at);
        if let Some(before) = before {
            fs::write(&at, before).unwrap();
        }
    }
}

#[test]
fn as_somebody_else_than_root_it_says_what_it_may_not_see() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let binary = assert_cmd::cargo::cargo_bin("nvme-agent");
    // Where nobody may execute it.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.path().join("nvme-agent");
    fs::copy(binary, &copy).unwrap();
    let mut command = std::process::Command::new(copy);
    let output = command.args(["doctor", "--offline"]).env_clear().uid(65534).gid(65534).output().unwrap();
    let said = text(&output);
    assert!(matches!(output.status.code(), Some(0 | 10 | 11)), "{output:?}");
    assert!(said.contains("unknown  user             user id 65534"), "{said}");
    assert!(said.contains("mount-namespace") && said.contains("needs root"), "{said}");
    shows_well(&said);
}
