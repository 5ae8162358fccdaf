//! Tests of install on directories that stand in for images, and of the unit itself.

use super::*;

fn options(target: &str) -> Options {
    let config = Config { target: target.into(), ..Config::default() };
    Options { config, enable: true, binary: "/bin/true".into() }
}

fn image() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    (dir, root)
}

/// `[section] key=value` lines, comments and continuations aside.
fn settings(unit: &str) -> Vec<(&str, &str)> {
    unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn an_image_gets_binary_unit_rule_and_link_and_a_second_run_changes_nothing() {
    let (_dir, root) = image();
    let done = install(&root, &options("/tmp")).unwrap();
    assert_eq!(
        done,
        [
            "wrote /usr/local/bin/nvme-agent",
            "wrote /etc/systemd/system/nvme-agent.service",
            "wrote /etc/udev/rules.d/64-nvme-agent-md.rules",
            "enabled by /etc/systemd/system/basic.target.wants/nvme-agent.service",
            "wrote /etc/systemd/system/nvme-agent-report.service",
            "enabled by /etc/systemd/system/kubelet.service.wants/nvme-agent-report.service",
            "wrote /etc/systemd/system/nvme-agent-report.timer",
            "enabled by /etc/systemd/system/timers.target.wants/nvme-agent-report.timer",
            "wrote /etc/systemd/system/nvme-agent-metrics.service",
            "wrote /etc/systemd/system/nvme-agent-metrics.timer",
            "enabled by /etc/systemd/system/timers.target.wants/nvme-agent-metrics.timer",
        ]
    );
    let unit = fs::read_to_string(root.join(UNIT_PATH)).unwrap();
    assert!(unit.contains("\nExecStart=/usr/local/bin/nvme-agent setup --trigger boot\n"), "{unit}");
    assert_eq!(fs::read_link(root.join(LINK_PATH)).unwrap(), Path::new(UNIT_PATH));
    let binary = root.join(OWN_BINARY);
    assert_eq!(fs::read(&binary).unwrap(), fs::read("/bin/true").unwrap());
    assert_eq!(fs::metadata(&binary).unwrap().mode() & 0o7777, 0o755);
    let inode = fs::metadata(&binary).unwrap().ino();
    assert_eq!(install(&root, &options("/tmp")).unwrap(), [""; 0]);
    assert_eq!(fs::metadata(&binary).unwrap().ino(), inode);
}

#[test]
fn another_target_gets_a_drop_in_which_goes_when_the_target_is_tmp_again() {
    let (_dir, root) = image();
    install(&root, &options("/opt/my-data")).unwrap();
    let drop_in = fs::read_to_string(root.join(DROP_IN_PATH)).unwrap();
    assert!(
        drop_in.ends_with("\n[Unit]\nBefore=opt-my\\x2ddata.mount\nRequiresMountsFor=/opt\n"),
        "{drop_in}"
    );
    let done = install(&root, &options("/tmp")).unwrap();
    assert_eq!(done, ["removed /etc/systemd/system/nvme-agent.service.d/50-target.conf: the target is /tmp"]);
    assert!(!root.join(DROP_IN_PATH).exists());
}

#[test]
fn a_package_is_not_shadowed() {
    let (_dir, root) = image();
    install(&root, &options("/tmp")).unwrap();
    fs::create_dir_all(root.join("/usr/lib/systemd/system")).unwrap();
    fs::write(root.join(PACKAGED_UNITS[0]), UNIT).unwrap();
    install(&root, &options("/data")).unwrap();
    assert!(!root.join(UNIT_PATH).exists() && !root.join(UDEV_RULE_PATH).exists());
    assert_eq!(fs::read_link(root.join(LINK_PATH)).unwrap(), Path::new(PACKAGED_UNITS[0]));
    assert!(root.join(DROP_IN_PATH).exists());
    for (name, link) in [
        ("nvme-agent-report.service", "kubelet.service.wants"),
        ("nvme-agent-report.timer", "timers.target.wants"),
        ("nvme-agent-metrics.timer", "timers.target.wants"),
    ] {
        let etc = root.join("/etc/systemd/system");
        assert!(!etc.join(name).exists(), "{name} would shadow the package's");
        let packaged = format!("/usr/lib/systemd/system/{name}");
        fs::write(root.join(&packaged), "").unwrap();
        install(&root, &options("/data")).unwrap();
        assert_eq!(fs::read_link(etc.join(link).join(name)).unwrap(), Path::new(&packaged));
    }
    // An operator's own copy of the unit is not ours to remove.
    fs::write(root.join(UNIT_PATH), "[Service]\n").unwrap();
    install(&root, &options("/data")).unwrap();
    assert_eq!(fs::read_to_string(root.join(UNIT_PATH)).unwrap(), "[Service]\n");
}

#[test]
fn amazon_linux_2_gets_no_filter_that_its_systemd_would_misread() {
    for (release, filtered) in [
        ("NAME=\"Amazon Linux\"\nVERSION=\"2\"\nID=\"amzn\"\nVERSION_ID=\"2\"\n", false),
        ("ID=\"amzn\"\nVERSION_ID=\"2023\"\n", true),
        ("ID=debian\nVERSION_ID=\"2\"\n", true),
    ] {
        let (_dir, root) = image();
        fs::create_dir_all(root.join("/etc")).unwrap();
        fs::write(root.join("/etc/os-release"), release).unwrap();
        install(&root, &options("/tmp")).unwrap();
        let unit = fs::read_to_string(root.join(UNIT_PATH)).unwrap();
        assert_eq!(unit.contains("SystemCallFilter="), filtered, "{release}");
        assert!(unit.contains("\nExecStart=") && unit.contains("\nNoNewPrivileges=yes"));
    }
}

#[test]
fn a_masked_unit_stays_masked() {
    let (_dir, root) = image();
    fs::create_dir_all(root.join("/etc/systemd/system")).unwrap();
    symlink("/dev/null", root.join(UNIT_PATH)).unwrap();
    let error = install(&root, &options("/tmp")).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("masked"), "{error}");
    assert!(!root.join(OWN_BINARY).exists());
}

#[test]
fn reports_that_are_masked_stay_so_and_all_else_is_installed() {
    let (_dir, root) = image();
    let timer = root.join("/etc/systemd/system/nvme-agent-report.timer");
    fs::create_dir_all(root.join("/etc/systemd/system")).unwrap();
    symlink("/dev/null", &timer).unwrap();
    install(&root, &options("/tmp")).unwrap();
    assert_eq!(fs::read_link(&timer).unwrap(), Path::new("/dev/null"));
    assert!(!root.join("/etc/systemd/system/timers.target.wants/nvme-agent-report.timer").exists());
    let service = fs::read_to_string(root.join("/etc/systemd/system/nvme-agent-report.service")).unwrap();
    assert!(service.contains("\nExecStart=/usr/local/bin/nvme-agent report "), "{service}");
}

#[test]
fn an_absolute_link_in_an_image_does_not_lead_to_the_build_host() {
    let (_dir, root) = image();
    let outside = tempfile::tempdir().unwrap();
    fs::create_dir(root.join("/usr")).unwrap();
    symlink(outside.path(), root.join("/usr/local")).unwrap();
    let error = install(&root, &options("/tmp")).unwrap_err();
    assert!(error.to_string().contains("outside of the root"), "{error}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn without_enable_there_is_no_link() {
    let (_dir, root) = image();
    install(&root, &Options { enable: false, ..options("/tmp") }).unwrap();
    assert!(root.join(UNIT_PATH).exists() && fs::symlink_metadata(root.join(LINK_PATH)).is_err());
}

/// facts.md 4b, measured, and the options of systemd.exec(5) that say so: with any of these the host would not
/// see what the unit mounts.
#[test]
fn the_unit_has_no_option_that_gives_it_a_mount_namespace() {
    let forbidden = [
        "ProtectHome",
        "ProtectSystem",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectProc",
        "ProcSubset",
        "PrivateTmp",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateUsers",
        "PrivateIPC",
        "PrivateNetwork",
        "PrivatePIDs",
        "ReadWritePaths",
        "ReadOnlyPaths",
        "InaccessiblePaths",
        "ExecPaths",
        "NoExecPaths",
        "BindPaths",
        "BindReadOnlyPaths",
        "TemporaryFileSystem",
        "RootDirectory",
        "RootImage",
        "MountImages",
        "ExtensionImages",
        "ExtensionDirectories",
        "MountFlags",
        "MountAPIVFS",
        "DynamicUser",
        "LoadCredential",
        "LoadCredentialEncrypted",
        "SetCredential",
        "ImportCredential",
        "LogNamespace",
        "NetworkNamespacePath",
        "IPCNamespacePath",
        "BindLogSockets",
    ];
    for (key, value) in settings(UNIT) {
        assert!(!forbidden.contains(&key), "{key}={value} hides our mount from the host");
    }
    assert!(settings(UNIT).len() > 20);
}

#[test]
fn the_unit_is_ordered_as_the_boot_needs_it() {
    let all = |key: &str| -> Vec<&str> {
        settings(UNIT)
            .into_iter()
            .filter(|(k, _)| *k == key)
            .flat_map(|(_, v)| v.split_whitespace())
            .collect()
    };
    assert_eq!(all("DefaultDependencies"), ["no"]);
    assert_eq!(
        all("After"),
        ["systemd-remount-fs.service", "systemd-udevd.service", "systemd-udev-trigger.service"]
    );
    assert_eq!(all("RequiresMountsFor"), ["/var/lib/nvme-agent", "/etc"]);
    for unit in [
        "tmp.mount",
        "systemd-tmpfiles-setup.service",
        "basic.target",
        "nodeadm-config.service",
        "nodeadm-run.service",
        "containerd.service",
        "kubelet.service",
        "shutdown.target",
    ] {
        assert!(all("Before").contains(&unit), "{unit}");
    }
    assert_eq!(all("Conflicts"), ["shutdown.target"]);
    assert_eq!(all("WantedBy"), ["basic.target"]);
    assert_eq!((all("Type"), all("RemainAfterExit")), (vec!["oneshot"], vec!["yes"]));
    for (key, _) in settings(UNIT) {
        assert!(!["Requires", "RequiredBy", "BindsTo", "OnFailure", "Restart"].contains(&key), "{key}");
    }
}

#[test]
fn the_unit_outlasts_the_agents_own_deadlines() {
    let timeout = settings(UNIT).into_iter().find(|(key, _)| *key == "TimeoutStartSec").unwrap().1;
    assert_eq!(timeout.parse(), Ok(crate::config::UNIT_TIMEOUT));
}

#[test]
fn an_image_says_nothing_of_the_build_hosts_drives() {
    use crate::config::FeatureFile;
    use crate::node::registration::{DROP_IN_PATH as LABEL, RECORD_PATH, update};
    use crate::state::{Health, State};
    let (_dir, root) = image();
    fs::create_dir_all(root.join("/etc/eks/nodeadm.d")).unwrap();
    let config = Config { feature_file: FeatureFile::Nfd, ..Config::default() };
    update(&root, &config, &State::new(&root, Health::Ready, "SetupComplete", ""));
    let left = [LABEL, crate::node::features::FEATURE_PATH, RECORD_PATH];
    assert!(left.iter().all(|path| root.join(path).exists()));
    let done = install(&root, &options("/tmp")).unwrap();
    assert!(done.contains(&format!("took our label out of {LABEL}")), "{done:?}");
    assert!(!left.iter().any(|path| root.join(path).exists()));
    // nodeadm needs the directory.
    assert!(root.join("/etc/eks/nodeadm.d").is_dir());
    assert_eq!(install(&root, &options("/tmp")).unwrap(), [""; 0]);
}

#[test]
fn a_label_beyond_a_link_out_of_the_image_is_the_build_hosts_own() {
    const LABEL: &str = "nodeadm.d/50-nvme-agent.yaml";
    // The directory is a link, or the file is.
    for link in ["nodeadm.d", LABEL] {
        let (_dir, root) = image();
        let (_other, host) = image();
        fs::create_dir_all(host.join("/nodeadm.d")).unwrap();
        fs::write(host.join(LABEL), "ready").unwrap();
        let at = root.join("/etc/eks").join(link);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(host.join(link), at).unwrap();
        let error = install(&root, &options("/tmp")).unwrap_err().to_string();
        assert!(error.contains("outside of the root"), "{error}");
        assert_eq!(fs::read_to_string(host.join(LABEL)).unwrap(), "ready");
    }
}
