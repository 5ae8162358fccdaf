//! Tests of reading and merging the configuration.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{
    FeatureFile, FsKind, LabelMethod, Layout, Match, OnBootFailure, OnFailure, Tmpfiles, UnknownData,
};

/// Loads `text` as the default file, with `env`, `flags`.
fn with(text: &str, env: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Config> {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    std::fs::create_dir_all(root.join("/etc/nvme-agent")).unwrap();
    std::fs::write(root.join(CONFIG_PATH), text).unwrap();
    let overrides = Overrides {
        values: flags.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
        ..Overrides::default()
    };
    let env: Vec<(OsString, OsString)> =
        env.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))).collect();
    let result = load(&root, None, &overrides, env);
    // The place is a temporary directory: not in what tests compare.
    let prefix = format!("{}/etc/nvme-agent/", dir.path().display());
    result.map_err(|e| {
        assert_eq!(e.exit_code(), 4);
        Error::Config(e.to_string().replace(&prefix, ""))
    })
}

fn error(text: &str) -> String {
    with(text, &[], &[]).unwrap_err().to_string()
}

#[test]
fn nothing_anywhere_is_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load(&Root::new(dir.path()), None, &Overrides::default(), []).unwrap(), Config::default());
    assert_eq!(with("", &[("PATH", "/bin"), ("NVME_OTHER", "x")], &[]).unwrap(), Config::default());
}

#[test]
fn every_key_of_the_file_arrives() {
    let text = r#"
        target = "/opt/data/"
        layout = "raid0"
        filesystem = "xfs"
        label = "fast"
        mount_options = "noatime,nosuid,discard"
        chunk = "1M"
        expect_drives = 0x08
        drive_timeout = "1m"
        mkfs_timeout = 90
        lock_timeout = "30s"
        unknown_data = "refuse"
        tmpfiles = "distro"
        label_domain = "storage.example.com"
        label_keys = "state=nvme,LocalStorageReady=x.com/Nvme"
        label_method = "dropin"
        on_failure = "no-join"
        on_boot_failure = "no-join"
        profile = "nvme-raid0"
        feature_file = "nfd"
        [match]
        models = ["QEMU NVMe Ctrl", "nvme_card"]
        vendors = ["0x1b36", 0x1ae0]
        [[directory]]
        path = "spill//trino/"
        owner = "1000"
        group = 1000
        mode = "2770"
        selinux_type = "container_file_t"
        [[directory]]
        path = "cache"
    "#;
    let expected = Config {
        target: "/opt/data".into(),
        layout: Layout::Raid0,
        filesystem: FsKind::Xfs,
        label: "fast".into(),
        mount_options: "noatime,nosuid,discard".into(),
        chunk: 1 << 20,
        expect_drives: 8,
        drive_timeout: Duration::from_secs(60),
        mkfs_timeout: Duration::from_secs(90),
        lock_timeout: Duration::from_secs(30),
        unknown_data: UnknownData::Refuse,
        tmpfiles: Tmpfiles::Distro,
        label_domain: "storage.example.com".into(),
        label_keys: "state=nvme,LocalStorageReady=x.com/Nvme".into(),
        label_method: LabelMethod::DropIn,
        on_failure: OnFailure::NoJoin,
        on_boot_failure: OnBootFailure::NoJoin,
        profile: "nvme-raid0".into(),
        feature_file: FeatureFile::Nfd,
        matching: Match {
            models: vec!["QEMU NVMe Ctrl".into(), "nvme_card".into()],
            vendors: vec![0x1b36, 0x1ae0],
        },
        directories: vec![
            Directory {
                path: "spill/trino".into(),
                owner: "1000".into(),
                group: "1000".into(),
                mode: 0o2770,
                selinux_type: Some("container_file_t".into()),
            },
            Directory {
                path: "cache".into(),
                owner: "root".into(),
                group: "root".into(),
                mode: 0o755,
                selinux_type: None,
            },
        ],
        wipe_foreign: false,
        adopt: false,
        given: BTreeMap::new(),
    };
    assert_eq!(with(text, &[], &[]).unwrap(), expected);
    // What is logged as JSON reads back as the same configuration.
    let json = serde_json::to_string(&expected).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), expected);
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let file = "target = '/file'\nfilesystem = 'xfs'\nexpect_drives = 2";
    let env = [
        ("NVME_AGENT_TARGET", "/env"),
        ("NVME_AGENT_EXPECT_DRIVES", "3"),
        ("NVME_AGENT_MATCH_MODELS", "A b,C"),
    ];
    let config = with(file, &env, &[("target", "/flag"), ("match.vendors", "0x1d0f,1b36")]).unwrap();
    assert_eq!((config.target.as_str(), config.expect_drives, config.filesystem), ("/flag", 3, FsKind::Xfs));
    assert_eq!(
        config.matching,
        Match { models: vec!["A b".into(), "C".into()], vendors: vec![0x1d0f, 0x1b36] }
    );
}

#[test]
fn every_key_has_an_environment_variable() {
    let values = [
        "/data",
        "raid0",
        "xfs",
        "x",
        "noatime",
        "64K",
        "4",
        "9s",
        "9",
        "1m",
        "format",
        "distro",
        "x.com",
        "state=nvme",
        "api",
        "taint",
        "no-join",
        "fast",
        "nfd",
        "M",
        "0x1",
    ];
    let env: Vec<(String, &str)> = KEYS.into_iter().map(variable).zip(values).collect();
    let env: Vec<(&str, &str)> = env.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    let config = with("", &env, &[]).unwrap();
    let default = Config::default();
    assert_eq!((config.target.as_str(), config.label.as_str(), config.chunk), ("/data", "x", 64 << 10));
    assert!(config.matching != default.matching && config.tmpfiles != default.tmpfiles);
    assert_eq!(config.lock_timeout, Duration::from_secs(60));
    assert_eq!((config.label_domain.as_str(), config.profile.as_str()), ("x.com", "fast"));
    assert_eq!((config.label_method, config.on_failure), (LabelMethod::Api, OnFailure::Taint));
}

#[test]
fn two_keys_that_are_one_in_this_domain_are_told() {
    let text = "label_domain = 'a.com'\nlabel_keys = 'detail=b.com/x,state=a.com/layout'";
    assert!(
        error(text).starts_with("config.toml:2: label_keys: expected different keys, found a.com/layout")
    );
    assert!(error("label_keys = 'stat=x'").starts_with("config.toml:1: label_keys: expected NAME=KEY"));
}

#[test]
fn what_would_keep_kubelet_from_starting_is_no_configuration() {
    for domain in ["kubernetes.io", "x.k8s.io", "node-restriction.kubernetes.io", "Upper.com", "", "a b"] {
        let text = error(&format!("label_domain = '{domain}'"));
        assert!(text.starts_with("config.toml:1: label_domain: expected a"), "{text}");
        assert!(text.ends_with(&format!("found `{domain}`")), "{text}");
    }
    for profile in ["a b", "-a", "a=b", "a,b", &"x".repeat(64)] {
        let text = error(&format!("profile = '{profile}'"));
        assert!(text.contains("profile: expected a label value"), "{text}");
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one() {
    assert_eq!(
        error("\n\ntaget = 1"),
        "config.toml:3: unknown key `taget`; the nearest valid key is `target`"
    );
    assert_eq!(
        error("mount-option = 'x'"),
        "config.toml:1: unknown key `mount-option`; the nearest valid key is `mount_options`"
    );
    assert_eq!(
        error("[match]\nmodel = ['x']"),
        "config.toml:2: unknown key `match.model`; the nearest valid key is `match.models`"
    );
    assert_eq!(
        error("[[directory]]\npath = 'a'\n[[directory]]\npath = 'b'\nowned = 'x'"),
        "config.toml:5: unknown key `directory[1].owned`; the nearest valid key is `owner`"
    );
    assert_eq!(
        error("[directories]"),
        "config.toml:1: unknown key `directories`; the nearest valid key is `directory`"
    );
    let env = with("", &[("NVME_AGENT_CHUNKS", "1M")], &[]).unwrap_err().to_string();
    assert_eq!(
        env,
        "unknown environment variable NVME_AGENT_CHUNKS; the nearest valid one is NVME_AGENT_CHUNK"
    );
}

#[test]
fn what_holds_for_one_run_only_is_not_for_files_and_not_for_the_environment() {
    for (text, flag) in [("wipe_foreign = true", "--wipe-foreign"), ("a = 1\nadopt = false", "--adopt")] {
        let text = text.replace("a = 1\n", "");
        let error = error(&text);
        assert!(error.contains("on the command line only") && error.contains(flag), "{error}");
    }
    for name in ["NVME_AGENT_WIPE_FOREIGN", "NVME_AGENT_ADOPT"] {
        let error = with("", &[(name, "0")], &[]).unwrap_err().to_string();
        assert!(error.starts_with(name) && error.contains("on the command line only"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let overrides = Overrides { wipe_foreign: true, adopt: true, ..Overrides::default() };
    let config = load(&Root::new(dir.path()), None, &overrides, []).unwrap();
    assert!(config.wipe_foreign && config.adopt);
}

#[test]
fn a_wrong_value_is_one_line_that_names_place_key_and_what_is_expected() {
    let cases = [
        ("target = 3", "target: expected an absolute path as a string, found the integer 3"),
        ("chunk = '3K'", "chunk: expected a power of two from 4K to 16M, found `3K`"),
        ("chunk = '32M'", "chunk: expected a power of two from 4K to 16M, found `32M`"),
        ("chunk = 'big'", "chunk: `big` is not a size; expected bytes or a number with K, M or G"),
        ("chunk = '+4K'", "chunk: `+4K` is not a size; expected bytes or a number with K, M or G"),
        (
            "chunk = -4096",
            "chunk: expected a size in bytes, or a string such as \"512K\", found the integer -4096",
        ),
        ("chunk = 1.5", "chunk: expected a size in bytes, or a string such as \"512K\", found a float"),
        ("expect_drives = '2'", "expect_drives: expected a number of drives, 0 to 128, found `2`"),
        (
            "expect_drives = 129",
            "expect_drives: expected a number of drives, 0 to 128, found the integer 129",
        ),
        ("drive_timeout = 0", "drive_timeout: expected 1 s to 15 min, found the integer 0"),
        ("drive_timeout = '16m'", "drive_timeout: expected 1 s to 15 min, found `16m`"),
        (
            "mkfs_timeout = 'soon'",
            "mkfs_timeout: `soon` is not a duration; expected seconds, such as 90, 90s or 2m",
        ),
        ("filesystem = 'btrfs'", "filesystem: expected one of ext4, xfs, found `btrfs`"),
        ("layout = 'raid10'", "layout: expected one of raid0, found `raid10`"),
        (
            "unknown_data = true",
            "unknown_data: expected one of first-boot, format, refuse as a string, found a boolean",
        ),
        ("label = 'a b'", "label: expected letters, digits and . _ -, found `a b`"),
        (
            "filesystem = 'xfs'\nlabel = 'thirteenchars'",
            "label: expected at most 12 characters for xfs, found `thirteenchars`",
        ),
        ("match = 1", "match: expected a table, found integer"),
        ("match.models = []", "match.models: expected at least one of model prefixes, found an empty list"),
        (
            "match.models = ['']",
            "match.models: expected the start of a model, 1 to 40 ASCII characters, found ``",
        ),
        ("match.vendors = ['amazon']", "match.vendors: `amazon` is not a PCI vendor id such as 0x1d0f"),
        (
            "match.vendors = [65536]",
            "match.vendors: expected a PCI vendor id such as 0x1d0f, found the integer 65536",
        ),
        ("directory = 'x'", "directory: expected [[directory]] tables, found string"),
        ("directory = [1]", "directory[0]: expected a table, found integer"),
        ("[[directory]]\nmode = '0750'", "directory[0]: has no `path`"),
        (
            "[[directory]]\npath = 'a'\nmode = 750",
            "directory[0].mode: expected an octal mode such as \"0750\" as a string, found the integer 750",
        ),
        (
            "[[directory]]\npath = 'a'\nmode = '0888'",
            "directory[0].mode: expected an octal mode such as \"0750\", found `0888`",
        ),
        (
            "[[directory]]\npath = 'a'\nmode = '17777'",
            "directory[0].mode: expected an octal mode such as \"0750\", found `17777`",
        ),
        ("[[directory]]\npath = 'a'\n[[directory]]\npath = './a'", "directory: the path `a` is there twice"),
        (
            "[[directory]]\npath = 'a'\nowner = 'x y'",
            "directory[0].owner: expected a name or a number, found `x y`",
        ),
        (
            "[[directory]]\npath = 'a'\nowner = '4294967295'",
            "directory[0].owner: expected a name or a number, found `4294967295`",
        ),
        (
            "lock_timeout = 600\nmkfs_timeout = 180",
            "lock_timeout: expected lock_timeout + 2 x drive_timeout + mkfs_timeout to be at most 780 s, so that systemd does not end the unit first, found 840 s",
        ),
        ("target = '\\u001b[31m'", "not valid TOML"),
    ];
    for (text, expected) in cases {
        let error = error(text);
        let (place, rest) = error.split_once(": ").unwrap();
        assert!(
            rest.starts_with(expected.split(": ").next().unwrap()) || expected.starts_with("not"),
            "{text}: {error}"
        );
        if !expected.starts_with("not") {
            assert_eq!(rest, expected, "{text}");
        }
        let line: usize = place.strip_prefix("config.toml:").unwrap().parse().unwrap();
        assert!(line >= 1 && line <= text.lines().count(), "{error}");
        assert!(!error.contains('\n') && error.is_ascii(), "{error}");
    }
    let env = with("", &[("NVME_AGENT_CHUNK", "3K")], &[]).unwrap_err().to_string();
    assert_eq!(
        env,
        "environment variable NVME_AGENT_CHUNK: chunk: expected a power of two from 4K to 16M, found `3K`"
    );
    let flag = with("", &[], &[("chunk", "3K")]).unwrap_err().to_string();
    assert_eq!(flag, "--chunk: expected a power of two from 4K to 16M, found `3K`");
}

#[test]
fn a_value_that_a_stronger_source_replaces_must_still_be_right() {
    assert!(with("chunk = '3K'", &[], &[("chunk", "4K")]).is_err());
}

#[test]
fn targets_that_would_take_the_system_apart_are_refused() {
    for target in [
        "",
        "tmp",
        "/",
        "//",
        "/./",
        "/tmp/..",
        "/tmp/../etc",
        "/etc",
        "/etc/x",
        "/proc/x",
        "/sys",
        "/dev/shm",
        "/run/x",
        "/usr/local",
        "/boot",
        "/var",
        "/var/lib",
        "/var/run/x",
        "/var/lib/nvme-agent/x",
        "/home",
        "/opt",
        "/root",
        "/bin",
        "/lib64",
        "/a b",
        "/a\tb",
        "/a\\b",
        "/a\"b",
        "/a#b",
        "/a%b",
        "/\u{e4}",
        "/a\nb",
    ] {
        let error = with("", &[], &[("target", target)]).unwrap_err().to_string();
        assert!(
            error.starts_with("--target: ") && error.is_ascii() && !error.contains('\n'),
            "{target}: {error}"
        );
    }
    for (target, expected) in [
        ("/tmp", "/tmp"),
        ("/tmp/", "/tmp"),
        ("//opt//data/.", "/opt/data"),
        ("/etcetera", "/etcetera"),
        ("/var/lib/containerd", "/var/lib/containerd"),
        ("/var/tmp", "/var/tmp"),
        ("/mnt/k8s-disks/0", "/mnt/k8s-disks/0"),
    ] {
        assert_eq!(with("", &[], &[("target", target)]).unwrap().target, expected);
    }
}

#[test]
fn mount_options_that_are_not_for_a_writable_mount_of_ours_are_refused() {
    for options in [
        "ro",
        "noatime,ro",
        "bind",
        "remount",
        "defaults",
        "nofail",
        "x-systemd.automount",
        "loop",
        "noload",
        "user",
        "noatime nosuid",
        "a\"b",
        "a'b",
        "a\tb",
        "noatime,relatime",
        "nosuid,suid",
        "nodev,nodev",
        "offset=5",
    ] {
        let error = with("", &[], &[("mount_options", options)]).unwrap_err().to_string();
        assert!(error.starts_with("--mount-options: "), "{options}: {error}");
    }
    for options in [
        "",
        "noatime",
        "noexec,lazytime,errors=remount-ro",
        "context=system_u:object_r:tmp_t:s0",
        "discard,nobarrier",
    ] {
        assert_eq!(with("", &[], &[("mount_options", options)]).unwrap().mount_options, options);
    }
    assert_eq!(with("mount_options = ',noatime,,'", &[], &[]).unwrap().mount_options, "noatime");
}

#[test]
fn directories_stay_under_the_mount() {
    for path in ["", "/", "/a", "..", "a/../..", "a/..", ".", "a b", "a\\\\b"] {
        let error = error(&format!("[[directory]]\npath = \"{path}\""));
        assert!(error.contains("directory[0]"), "{path}: {error}");
    }
}

#[test]
fn the_default_timeouts_fit_into_the_units() {
    check::whole(&Config::default()).unwrap();
}

#[test]
fn a_file_that_is_not_there_is_an_error_only_where_it_was_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let named = dir.path().join("mine.toml");
    let error = load(&root, Some(&named), &Overrides::default(), []).unwrap_err();
    assert!(error.exit_code() == 4 && error.to_string().contains("mine.toml"), "{error}");
    std::fs::write(&named, "chunk = '4K'").unwrap();
    assert_eq!(load(&root, Some(&named), &Overrides::default(), []).unwrap().chunk, 4096);
}

#[test]
fn what_is_no_configuration_file_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let path = root.join(CONFIG_PATH);
    std::fs::create_dir_all(&path).unwrap();
    let load = || load(&root, None, &Overrides::default(), []).unwrap_err().to_string();
    assert!(load().contains("config.toml: cannot read the configuration: is a directory"), "{}", load());
    std::fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("nowhere", &path).unwrap();
    assert!(load().contains("is a symbolic link to nothing"), "{}", load());
    std::fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(load().contains("is not a regular file"), "{}", load());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"# one\nlabel = '\xff'\n").unwrap();
    assert!(load().ends_with("config.toml:2: is not UTF-8 text"), "{}", load());
    std::fs::write(&path, vec![b'#'; MAX_FILE as usize + 1]).unwrap();
    assert!(load().contains("is larger than 1048576 bytes"), "{}", load());
    std::fs::write(&path, "a = [\n1,\n").unwrap();
    assert!(load().contains("config.toml:") && load().contains("not valid TOML"), "{}", load());
    std::fs::write(&path, "chunk = 1\nchunk = 2\n").unwrap();
    assert!(load().contains("not valid TOML"), "{}", load());
}

proptest! {
    #[test]
    fn whatever_bytes_are_in_the_file_nothing_panics_and_errors_are_one_line(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        whatever(&bytes);
    }

    #[test]
    fn whatever_is_assigned_to_a_key_the_result_is_valid_or_an_error(key in 0..KEYS.len(), value in "[ -~\u{e4}\u{1b}]{0,40}") {
        let (table, key) = KEYS[key].split_once('.').unwrap_or(("", KEYS[key]));
        let table = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
        whatever(format!("{table}{key} = {value}").as_bytes());
        whatever(format!("{table}{key} = {}", toml::Value::String(value)).as_bytes());
    }
}

fn whatever(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, bytes).unwrap();
    match load(&Root::new(dir.path()), Some(&file), &Overrides::default(), []) {
        Ok(config) => {
            check::whole(&config).unwrap();
            assert!(config.target.starts_with('/') && config.target.len() > 1);
            assert!(!config.mount_options.contains([' ', '"', '\\', '\n']));
        }
        Err(error) => {
            assert_eq!(error.exit_code(), 4);
            assert!(error.to_string().contains("config.toml"), "{error}");
        }
    }
}
