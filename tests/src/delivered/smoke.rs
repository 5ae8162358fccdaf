//! `packaging/ec2-smoke/smoke.sh` against a stand-in for the AWS CLI.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{StandIns, ended, read, write};
use crate::runner::workspace;

const TYPES: [&str; 3] = ["m6id.large", "i4i.large", "i8g.large"];
/// Prints a script that says what it was asked.
const AGENT: &str = "#!/bin/sh\necho '#!/bin/bash'\necho \"# $*\"\n";

struct Account {
    stand_ins: StandIns,
    dir: TempDir,
}

impl Account {
    fn new() -> Account {
        let account = Account {
            stand_ins: StandIns::new(&[("aws", &read("tests/fixtures/aws.sh"))]),
            dir: tempfile::tempdir().unwrap(),
        };
        // As the agent prints it of two drives.
        let recorded = read("agent/src/status/snapshots/nvme_agent__status__judge__tests__json_2.snap");
        let status = &recorded[recorded.find("\n{").unwrap() + 1..];
        account.put("status", status);
        for arch in ["x86_64", "aarch64"] {
            write(account.dir.path(), &format!("nvme-agent-{arch}"), AGENT);
        }
        account
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn smoke(&self, options: &[&str]) -> (i32, String, String) {
        let mut command = self.stand_ins.command(workspace().join("packaging/ec2-smoke/smoke.sh"));
        command.env("AWS_STAND_IN", self.dir.path()).env("SMOKE_PAUSE", "0").current_dir(self.dir.path());
        command.args(["--bucket", "my-bucket", "--subnet", "subnet-0abc", "--instance-profile", "smoke"]);
        command.args(["--binaries", ".", "--deadline", "30"]).args(options);
        ended(command.output().unwrap())
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.dir.path().join("calls")).unwrap_or_default()
    }

    fn instances(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("i-")).collect()
    }

    fn all_are_ended(&self) -> bool {
        self.instances().iter().all(|instance| instance.join("terminated").exists())
    }
}

#[test]
fn three_types_in_four_cases_and_nothing_is_left_running() {
    let account = Account::new();
    let (code, said, error) = account.smoke(&["--yes"]);
    assert_eq!((code, error.as_str()), (0, ""), "{said}");
    let table = fs::read_to_string(account.dir.path().join("ec2-smoke-out/table.md")).unwrap();
    assert!(said.ends_with(&table), "{said}");
    for instance_type in TYPES {
        for case in
            ["fresh | ready", "reboot | ready, kept", "stop/start | ready, gone", "S3 denied | no agent"]
        {
            let found = case.split(" | ").nth(1).unwrap();
            assert!(table.contains(&format!("| {instance_type} | {case} | {found} |")), "{table}");
        }
        let status = format!("ec2-smoke-out/{instance_type}-stop-start.json");
        let status = fs::read_to_string(account.dir.path().join(status)).unwrap();
        serde_json::from_str::<serde_json::Value>(&status).unwrap();
    }
    assert_eq!(account.instances().len(), 6);
    assert!(account.all_are_ended());
    // The image of the type's own architecture.
    let calls = account.calls();
    assert!(calls.contains("--image-id ami-00000000000000064 --instance-type i8g.large"), "{calls}");
    let data: Vec<String> = account
        .instances()
        .iter()
        .map(|instance| fs::read_to_string(instance.join("user-data")).unwrap())
        .collect();
    // The shim of both architectures, from where the instance may read, and from where it may not; both are there.
    for prefix in ["nvme-agent-smoke", "nvme-agent-smoke-denied"] {
        for arch in ["x86_64", "aarch64"] {
            let url = format!("s3://my-bucket/{prefix}/nvme-agent-{arch}");
            let asked = format!("--url-{} {url} --sha256-", arch.replace('_', "-"));
            assert_eq!(data.iter().filter(|data| data.contains(&asked)).count(), 3, "{asked}");
            let put = format!("s3 cp --only-show-errors ./nvme-agent-{arch} {url}\n");
            assert!(calls.contains(&put), "{calls}");
        }
    }
    // It is a command line that the agent takes.
    let words = data[0].lines().nth(1).unwrap().trim_start_matches("# ").split_whitespace();
    nvme_agent::cli::command().try_get_matches_from(std::iter::once("nvme-agent").chain(words)).unwrap();
}

#[test]
fn what_is_not_as_expected_is_said_and_the_rest_goes_on() {
    let account = Account::new();
    // The third boot is the one after the stop.
    account.put("broken", "3");
    account.put("nowhere", "i4i.large");
    let (code, said, error) = account.smoke(&["--yes"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("| i8g.large | stop/start | ready, gone | failed, gone |"), "{said}");
    assert!(said.contains("| i4i.large | fresh | ready | not started |"), "{said}");
    assert!(said.contains("| i8g.large | reboot | ready, kept | ready, kept |"), "{said}");
    assert!(error.contains("InsufficientInstanceCapacity"), "{error}");
    assert!(error.contains("4 not as expected"), "{error}");
    assert!(account.all_are_ended());
}

#[test]
fn nothing_is_started_unasked_or_with_a_value_that_a_shell_would_read() {
    let account = Account::new();
    let (code, _, error) = account.smoke(&[]);
    assert_ne!(code, 0, "{error}");
    assert!(!account.calls().contains("run-instances"));
    for (option, value) in [
        ("--bucket", "b;reboot"),
        ("--subnet", "vpc-1"),
        ("--instance-profile", "a b"),
        ("--deadline", "soon"),
        ("--binaries", "/nowhere"),
        ("--region", "eu west"),
        ("--agent", "/nowhere/nvme-agent"),
        ("--agent", "false"),
    ] {
        let account = Account::new();
        let (code, _, error) = account.smoke(&["--yes", option, value]);
        assert_eq!(code, 2, "{option}: {error}");
        assert!(error.contains(option), "{error}");
        assert_eq!(account.calls(), "", "{option}");
    }
}
