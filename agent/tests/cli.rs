//! The binary as a user meets it: exit codes, one line of error, nothing changed.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in tests, but not in what tests call

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command as Std, Stdio};
use std::time::Duration;

use assert_cmd::Command;
use tempfile::TempDir;

/// A machine of no drives, in a directory.
fn fixture() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for path in [
        "etc/nvme-agent",
        "proc/sys/kernel/random",
        "proc/1",
        "sys/block",
        "sys/bus/pci/devices",
        "tmp",
        "run",
    ] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    fs::write(dir.path().join("proc/sys/kernel/random/boot_id"), "boot\n").unwrap();
    let mounts = "22 1 259:1 / / rw,relatime shared:1 - xfs /dev/nvme0n1p1 rw\n";
    fs::write(dir.path().join("proc/1/mountinfo"), mounts).unwrap();
    fs::write(dir.path().join("etc/fstab"), "UUID=1 / xfs defaults 0 1\n").unwrap();
    dir
}

fn agent() -> Command {
    let mut command = Command::cargo_bin("nvme-agent").unwrap();
    command.env_clear();
    command
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs and demands exit code `code`, nothing on stdout, one line on stderr which has all of `words`, and that
/// nothing has changed.
fn fails(root: &TempDir, command: &mut Command, code: i32, words: &[&str]) {
    let before = tree(root.path());
    let output = command.output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(text(&output.stdout), "", "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(
        stderr.starts_with("nvme-agent: error: ")
            && stderr.trim_end().chars().all(|c| matches!(c, ' '..='~')),
        "{stderr}"
    );
    for word in words {
        assert!(stderr.contains(word), "no `{word}` in: {stderr}");
    }
    assert_eq!(tree(root.path()), before);
}

#[test]
fn a_fifo_in_the_place_of_a_file_of_the_host_holds_nobody() {
    for (path, named) in [
        ("etc/fstab", true),
        ("etc/mdadm.conf", true),
        ("etc/tmpfiles.d/tmp.conf", true),
        ("etc/os-release", false),
        ("run/eks/nodeadm/config.json", false),
        ("run/nvme-agent/state.json", false),
        ("run/nvme-agent/registration.json", false),
        ("var/lib/nvme-agent/record.json", true),
    ] {
        let root = fixture();
        let at = root.path().join(path);
        let _ = fs::remove_file(&at);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        nix::unistd::mkfifo(&at, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for command in ["plan", "status", "install"] {
            let mut run = agent();
            let output = run
                .args([command, "--root"])
                .arg(root.path())
                .timeout(Duration::from_secs(60))
                .output()
                .unwrap();
            assert!(output.status.code().is_some(), "{command} waits for {path}");
            let stderr = text(&output.stderr);
            if named && command == "plan" {
                assert!(stderr.contains(path) && stderr.contains("not a regular file"), "{path}: {stderr}");
            }
        }
    }
}

#[test]
fn a_bad_configuration_is_exit_4_and_one_line_for_every_command_that_acts_on_it() {
    let root = fixture();
    let file = root.path().join("etc/nvme-agent/config.toml");
    for (config, words) in [
        ("taget = '/x'", &["config.toml:1", "`taget`", "`target`"][..]),
        ("\nchunk = true", &["config.toml:2", "chunk", "expected"]),
        ("chunk = '5M'", &["config.toml:1", "chunk", "power of two", "`5M`"]),
        ("wipe_foreign = true", &["config.toml:1", "command line only", "--wipe-foreign"]),
        ("target = '/etc'", &["config.toml:1", "target"]),
        ("target = \"/\\u001b[31m\\u00e4\"", &["config.toml:1", "target", "\\u{1b}"]),
        ("a = \n", &["config.toml:1", "TOML"]),
    ] {
        fs::write(&file, config).unwrap();
        for command in ["plan", "install"] {
            fails(&root, agent().args([command, "--root"]).arg(root.path()), 4, words);
        }
    }
    fs::remove_file(&file).unwrap();
    fails(
        &root,
        agent().args(["plan", "--config", "/nowhere/x.toml"]),
        4,
        &["/nowhere/x.toml", "No such file"],
    );
    fails(&root, agent().args(["plan", "--chunk", "3K"]), 4, &["--chunk", "`3K`"]);
    fails(
        &root,
        agent().arg("plan").env("NVME_AGENT_FILESYSTEM", "zfs"),
        4,
        &["NVME_AGENT_FILESYSTEM", "`zfs`"],
    );
    fails(
        &root,
        agent().arg("plan").env("NVME_AGENT_ADOPT", "1"),
        4,
        &["NVME_AGENT_ADOPT", "command line only"],
    );
    fails(
        &root,
        agent().arg("plan").env("NVME_AGENT_LOG_LEVEL", "loud"),
        4,
        &["NVME_AGENT_LOG_LEVEL", "`loud`"],
    );
    fails(&root, agent().arg("plan").env("NVME_AGENT_CONFIG", "/nowhere"), 4, &["/nowhere"]);
}

#[test]
fn wrong_usage_is_exit_2() {
    for args in [
        &["frobnicate"][..],
        &[],
        &["setup", "--no-such-flag"],
        &["--root", "/x", "teardown"],
        &["status", "--output", "yaml"],
        &["--root", "/x", "setup"],
        &["--root", "/x", "teardown", "--yes"],
    ] {
        let output = agent().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn who_is_not_root_is_told_so_and_nothing_happens() {
    if !nix::unistd::geteuid().is_root() {
        return fails(&fixture(), agent().arg("setup"), 5, &["must run as root"]);
    }
    use std::os::unix::process::CommandExt;
    // Where `nobody` can run it.
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = dir.path().join("nvme-agent");
    // By a child: a file that this process has written cannot be executed while the fork of another test still has it.
    let copied =
        Std::new("cp").arg(assert_cmd::cargo::cargo_bin("nvme-agent")).arg(&binary).status().unwrap();
    assert!(copied.success());
    for args in [&["setup"][..], &["install"], &["teardown", "--yes"]] {
        let output = Std::new(&binary).args(args).env_clear().uid(65534).gid(65534).output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("must run as root"), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
    let output = Std::new(&binary).arg("plan").env_clear().uid(65534).gid(65534).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
    let output = Std::new(&binary).arg("status").env_clear().uid(65534).gid(65534).output().unwrap();
    assert!(output.stdout.starts_with(b"not-set-up"), "{}", text(&output.stdout));
    assert_eq!(output.status.code(), Some(12));
}

#[test]
fn help_documents_every_exit_code() {
    let output = agent().arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for code in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{code} "))),
            "{code}:\n{help}"
        );
    }
    assert!(help.is_ascii() && !help.contains('\u{1b}'));
}

#[test]
fn install_into_an_image_and_again() {
    let root = fixture();
    let install = || agent().args(["install", "--root"]).arg(root.path()).output().unwrap();
    let first = install();
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    assert!(
        text(&first.stdout).contains("wrote /etc/systemd/system/nvme-agent.service"),
        "{}",
        text(&first.stdout)
    );
    let before = tree(root.path());
    assert_eq!(text(&install().stdout), "nothing to do: everything is in place\n");
    assert_eq!(tree(root.path()), before);
    let installed = root.path().join("usr/local/bin/nvme-agent");
    assert_eq!(fs::read(installed).unwrap(), fs::read(assert_cmd::cargo::cargo_bin("nvme-agent")).unwrap());
}

#[test]
fn status_of_a_fixture_is_the_fixtures() {
    let root = fixture();
    let status =
        |args: &[&str]| agent().arg("--root").arg(root.path()).arg("status").args(args).output().unwrap();
    assert_eq!(status(&[]).status.code(), Some(12));
    fs::create_dir_all(root.path().join("run/nvme-agent")).unwrap();
    let state = root.path().join("run/nvme-agent/state.json");
    let write = |state_word: &str, boot: &str| {
        let json = format!(
            r#"{{"version":1,"state":"{state_word}","reason":"R","message":"caf\u00e9","boot_id":"{boot}","target":"/tmp","device":"md0"}}"#
        );
        fs::write(&state, json).unwrap();
    };
    write("absent", "boot");
    let output = status(&["--output", "json"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout.is_ascii());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&json["schema"], &json["state"], &json["message"]),
        (&1.into(), &"absent".into(), &"caf\u{e9}".into())
    );
    write("failed", "boot");
    assert_eq!(status(&[]).status.code(), Some(11));
    write("ready", "boot");
    assert_eq!(status(&[]).status.code(), Some(11), "nothing is mounted");
    write("ready", "another boot");
    let output = status(&[]);
    assert_eq!(output.status.code(), Some(12));
    assert!(output.stdout.starts_with(b"not-set-up (StateOfAnotherBoot)"), "{}", text(&output.stdout));
    fs::write(&state, "{").unwrap();
    fs::write(root.path().join("etc/nvme-agent/config.toml"), "x = 1").unwrap();
    fs::write(root.path().join("proc/1/mountinfo"), b"\xff\xff\n").unwrap();
    fs::remove_dir_all(root.path().join("sys")).unwrap();
    let output = status(&[]);
    assert_eq!(output.status.code(), Some(12), "{}", text(&output.stdout));
    let stdout = text(&output.stdout);
    for part in ["not-set-up (StateUnreadable)", "state.json", "config.toml:1", "mountinfo"] {
        assert!(stdout.contains(part), "{part} is not told of: {stdout}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let root = fixture();
    let mut child = Std::new(assert_cmd::cargo::cargo_bin("nvme-agent"))
        .args(["status", "--output", "json", "--root"])
        .arg(root.path())
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(12), ""));
}

/// ami/clean.sh knows our lines as the agent writes them.
#[test]
fn an_image_is_cleaned_of_what_a_setup_left_and_of_nothing_else() {
    let root = fixture();
    let path = |path: &str| root.path().join(path);
    for dir in ["etc/tmpfiles.d", "var/lib/nvme-agent"] {
        fs::create_dir_all(path(dir)).unwrap();
    }
    let others = "UUID=1 / xfs defaults 0 1\n# see x-nvme-agent\n# nvme-agent: replaced: /dev/md0 /tmp\nLABEL=x /x ext4 x-nvme-agent-not 0 0\n";
    let ours = "UUID=2 /tmp ext4 noatime,nofail,x-nvme-agent 0 0\n# nvme-agent: disabled, setup failed: UUID=2 /tmp ext4 x-nvme-agent 0 0\n";
    fs::write(path("etc/fstab"), format!("{others}{ours}")).unwrap();
    fs::write(path("etc/mdadm.conf"), "MAILADDR root\nARRAY /dev/md0 UUID=1:2:3:4 # nvme-agent\n").unwrap();
    fs::write(path("etc/tmpfiles.d/tmp.conf"), "# nvme-agent: this file\nq /tmp 1777 root root -\n").unwrap();
    fs::write(path("var/lib/nvme-agent/record.json"), "{}").unwrap();
    let features = "etc/kubernetes/node-feature-discovery/features.d";
    for dir in ["etc/eks/nodeadm.d", features] {
        fs::create_dir_all(path(dir)).unwrap();
    }
    for file in ["10-theirs.yaml", "50-nvme-agent.yaml", ".50-nvme-agent.yaml.nvme-agent.1.0"] {
        fs::write(path("etc/eks/nodeadm.d").join(file), "x").unwrap();
    }
    fs::write(path(features).join("nvme-agent"), "# nvme-agent: the local\n").unwrap();
    fs::write(path(features).join("theirs"), "x").unwrap();
    let config = path("etc/nvme-agent/config.toml");
    fs::create_dir_all(path("etc/nvme-agent")).unwrap();
    fs::write(&config, "# By userData\ntarget=\"/data\"\n").unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ami/clean.sh");
    let clean = || {
        let output = Std::new(&script).arg(root.path()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    clean();
    assert!(!config.exists());
    fs::write(&config, "target = \"/data\"\n").unwrap();
    clean();
    assert!(config.exists(), "the image's own");
    assert_eq!(fs::read_to_string(path("etc/fstab")).unwrap(), others);
    assert_eq!(fs::read_to_string(path("etc/mdadm.conf")).unwrap(), "MAILADDR root\n");
    assert!(!path("etc/tmpfiles.d/tmp.conf").exists() && !path("var/lib/nvme-agent").exists());
    let left = |dir: &str| {
        let entries = fs::read_dir(path(dir)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(
        (left("etc/eks/nodeadm.d"), left(features)),
        (vec!["10-theirs.yaml".into()], vec!["theirs".into()])
    );
}
