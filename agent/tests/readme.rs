//! README says what the code does: configuration, exit codes, commands.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use nvme_agent::config::{Config, KEYS, Overrides, flag, load, variable};
use nvme_agent::root::Root;

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap()
}

/// The rows of the table below the heading, each with its cells, without the table's own heading.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = readme();
    let section = text.split_once(heading).unwrap_or_else(|| panic!("no `{heading}`")).1;
    let lines =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.split('|').skip(1).map(|cell| cell.trim().to_owned()).collect();
    lines.skip(2).map(cells).collect()
}

fn bare(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}

#[test]
fn every_key_is_there_with_its_flag_its_variable_and_the_default_that_it_has() {
    let rows = table("\n## Configuration\n");
    let keys: Vec<&str> = rows.iter().map(|row| bare(&row[0]).unwrap()).collect();
    assert_eq!(keys, KEYS);
    let root = tempfile::tempdir().unwrap();
    for (key, row) in KEYS.into_iter().zip(&rows) {
        assert_eq!(bare(&row[1]), Some(flag(key).as_str()));
        assert_eq!(bare(&row[2]), Some(variable(key).as_str()));
        let Some(default) = bare(&row[3]) else {
            match key {
                "label" => {
                    assert_eq!(Config::default().fs_label(), "nvme-tmp");
                    assert!(row[3].contains("`nvme-tmp`"), "{row:?}");
                }
                "label_keys" => {
                    assert_eq!((row[3].as_str(), Config::default().label_keys), ("(none)", String::new()));
                }
                other => assert_eq!(
                    (other, row[3].as_str(), Config::default().profile),
                    ("profile", "(none)", String::new())
                ),
            }
            continue;
        };
        // Other than the default everywhere, so that what README says has something to put right.
        let other = other_than_default();
        let file = root.path().join("config.toml");
        fs::write(&file, toml::to_string(&other).unwrap()).unwrap();
        let set = |values| {
            let overrides = Overrides { values, ..Overrides::default() };
            let loaded = load(&Root::new("/"), Some(&file), &overrides, std::iter::empty()).unwrap();
            serde_json::to_value(loaded).unwrap()
        };
        let pointer = format!("/{}", key.replace('.', "/"));
        let normal = serde_json::to_value(Config::default()).unwrap();
        // There is one layout only, so far.
        assert_eq!(set(vec![]).pointer(&pointer) == normal.pointer(&pointer), key == "layout", "{key}");
        assert_eq!(set(vec![(key, default.to_owned())]).pointer(&pointer), normal.pointer(&pointer), "{key}");
    }
}

fn other_than_default() -> toml::Table {
    toml::toml! {
        target = "/data"
        filesystem = "xfs"
        mount_options = "noatime"
        chunk = "64K"
        expect_drives = 3
        drive_timeout = "31s"
        mkfs_timeout = "31s"
        lock_timeout = "31s"
        unknown_data = "refuse"
        tmpfiles = "distro"
        label_domain = "example.com"
        label_method = "api"
        on_failure = "taint"
        on_boot_failure = "no-join"
        feature_file = "nfd"
        match = { models = ["QEMU"], vendors = ["0x1b36"] }
    }
}

#[test]
fn the_example_configuration_is_valid() {
    let text = readme();
    let example = text.split_once("```toml\n").unwrap().1.split_once("```").unwrap().0;
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("config.toml");
    fs::write(&file, example).unwrap();
    let config = load(&Root::new("/"), Some(&file), &Overrides::default(), std::iter::empty()).unwrap();
    assert_eq!((config.directories.len(), config.directories[0].mode), (1, 0o770));
}

fn help(arguments: &[&str]) -> String {
    let output = Command::cargo_bin("nvme-agent").unwrap().env_clear().args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Codes and meanings of a section of `--help`.
fn codes(heading: &str) -> Vec<Vec<String>> {
    let help = help(&["--help"]);
    let section = help.split_once(heading).unwrap().1;
    let lines = section.lines().skip(1).take_while(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let (code, meaning) = line.trim().split_once(' ').unwrap();
            vec![code.to_owned(), meaning.trim().to_owned(), String::new()]
        })
        .collect()
}

#[test]
fn exit_codes_are_those_of_the_help() {
    assert_eq!(
        table("\nOf `setup`, `plan`, `teardown` and `install`:\n"),
        codes("Exit codes of setup, plan,")
    );
    assert_eq!(table("\nOf `gate`:\n"), codes("Exit codes of gate"));
    assert_eq!(table("\nOf `render`:\n"), codes("Exit codes of render"));
    assert_eq!(table("\nOf `status`:\n"), codes("Exit codes of status"));
    assert_eq!(table("\nOf `doctor`:\n"), codes("Exit codes of doctor"));
    assert_eq!(table("\nOf `report`:\n"), codes("Exit codes of report"));
}

#[test]
fn every_command_is_there() {
    let rows = table("\n## Commands\n");
    let help = help(&["--help"]);
    let section = help.split_once("Commands:\n").unwrap().1;
    let commands = section.lines().take_while(|line| !line.trim().is_empty());
    let commands: Vec<&str> = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_ascii_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    let listed: Vec<&str> =
        rows.iter().map(|row| bare(&row[0]).unwrap().split(' ').next().unwrap()).collect();
    assert_eq!(listed, commands);
}

#[test]
fn links_lead_somewhere() {
    let text = readme();
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        // The picture is made from a run of the demo.
        if !link.starts_with("http") {
            let file = link.split('#').next().unwrap();
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file).exists(), "{link}");
        }
    }
    assert!(text.contains("cargo lab test") && text.contains("cargo lab demo"));
}

#[test]
fn every_class_of_error_ends_with_a_code_that_is_there_with_its_meaning() {
    use nvme_agent::error::Error;
    use nvme_agent::plan::{Reason, Refusal};
    let refused = |reason| Error::Refused(Refusal { reason, found: vec![], next: String::new() });
    let rows = table("\nOf `setup`, `plan`, `teardown` and `install`:\n");
    for (error, words) in [
        (Error::Other(String::new()), "an error inside"),
        (io(), "a system call that failed"),
        (refused(Reason::ForeignData), "refused"),
        (Error::Config(String::new()), "configuration"),
        (Error::Environment(String::new()), "environment"),
        (refused(Reason::DriveMissing), "missing"),
        (Error::Step { step: "x", cause: Box::new(io()) }, "step"),
        (Error::Verify(String::new()), "not what was planned"),
        (Error::Busy { path: "/run".into(), seconds: 1 }, "another run"),
    ] {
        let row = rows.iter().find(|row| row[0] == error.exit_code().to_string());
        assert!(row.is_some_and(|row| row[1].contains(words)), "{error:?}: {row:?}");
    }
}

fn io() -> nvme_agent::error::Error {
    nvme_agent::error::Error::io("/dev/md0", "open")(std::io::Error::other("x"))
}
