//! The SSM documents: the parts of schema 2.2 that they use, checked by types that know no others, and their scripts.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{StandIns, ended, read, shellcheck, write};

/// AWS Systems Manager user guide, "Data elements and parameters" and "Command document plugin reference".
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    schema_version: String,
    description: String,
    parameters: BTreeMap<String, Parameter>,
    main_steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Parameter {
    #[serde(rename = "type")]
    kind: String,
    description: String,
    default: String,
    #[serde(default)]
    allowed_values: Vec<String>,
    allowed_pattern: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    name: String,
    action: String,
    precondition: BTreeMap<String, Vec<String>>,
    inputs: Inputs,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Inputs {
    /// Seconds, as text.
    timeout_seconds: String,
    run_command: Vec<String>,
}

const DOCUMENTS: [&str; 2] =
    ["packaging/ssm/nvme-agent-status.yaml", "packaging/ssm/nvme-agent-support.yaml"];

fn document(path: &str) -> Document {
    serde_saphyr::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The script as the SSM agent runs it, with the defaults or other values.
fn script(document: &Document, values: &[(&str, &str)]) -> String {
    let mut text = document.main_steps[0].inputs.run_command.join("\n");
    for (name, parameter) in &document.parameters {
        let given = values.iter().find(|(given, _)| given == name).map(|(_, value)| *value);
        text = text.replace(&format!("{{{{ {name} }}}}"), given.unwrap_or(&parameter.default));
    }
    text
}

#[test]
fn they_are_documents_of_schema_2_2() {
    for path in DOCUMENTS {
        let document = document(path);
        assert_eq!(document.schema_version, "2.2", "{path}");
        assert!(!document.description.is_empty());
        let [step] = &document.main_steps[..] else { panic!("{path}: one step") };
        assert_eq!(step.action, "aws:runShellScript");
        assert!(
            !step.name.is_empty() && step.name.chars().all(|c| c.is_ascii_alphanumeric()),
            "{}",
            step.name
        );
        assert_eq!(step.precondition["StringEquals"], ["platformType", "Linux"]);
        assert!(step.inputs.timeout_seconds.parse::<u32>().is_ok_and(|seconds| seconds >= 5));
        let text = step.inputs.run_command.join("\n");
        for (name, parameter) in &document.parameters {
            assert_eq!(parameter.kind, "String");
            assert!(!parameter.description.is_empty());
            // SSM puts the value into a script that root runs: nothing that could end a quotation.
            match &parameter.allowed_pattern {
                Some(pattern) => assert_eq!(pattern, "^[1-9][0-9]{0,4}$"),
                None => assert!(parameter.allowed_values.contains(&parameter.default), "{name}"),
            }
            assert!(text.contains(&format!("{{{{ {name} }}}}")), "{path}: {name} is not used");
        }
        let left = script(&document, &[]);
        assert!(!left.contains("{{"), "{path}: a parameter is used that is not declared: {left}");
    }
}

#[test]
fn their_scripts_pass_shellcheck() {
    let dir = tempfile::tempdir().unwrap();
    for path in DOCUMENTS {
        let text = script(&document(path), &[]);
        assert!(text.starts_with("#!/bin/"), "the SSM agent's own choice of a shell is sh");
        shellcheck(&write(dir.path(), "script.sh", &text));
    }
}

#[test]
fn status_ends_as_the_agent_does() {
    let stand_ins = StandIns::new(&[("nvme-agent", "#!/bin/sh\necho \"degraded $*\"\nexit 10\n")]);
    let document = document(DOCUMENTS[0]);
    for (given, asked) in [("text", "status --output text"), ("json", "status --output json")] {
        let path = write(stand_ins.0.path(), "script.sh", &script(&document, &[("Output", given)]));
        let (code, said, error) = ended(stand_ins.command(path).output().unwrap());
        assert_eq!((code, said.trim()), (10, &*format!("degraded {asked}")), "{error}");
    }
    let none = StandIns::new(&[]);
    let path = write(none.0.path(), "script.sh", &script(&document, &[]));
    let (code, _, error) = ended(none.command("/bin/sh").arg(path).env("PATH", "/nowhere").output().unwrap());
    assert_eq!(code, 127);
    assert!(error.contains("not installed on this node"), "{error}");
}

/// Where everything hangs it still says so of each part, before SSM ends it: `timeout --kill-after=5 20`.
#[test]
fn supports_deadline_has_room_for_that_of_every_part() {
    const PART: u32 = 25;
    let document = document(DOCUMENTS[1]);
    let text = script(&document, &[]);
    assert!(text.contains("timeout --kill-after=5 20 "), "{text}");
    let (_, list) = text.rsplit_once("\n{\n").unwrap();
    let parts = list.lines().map(str::trim_start);
    let parts = parts.filter(|line| line.starts_with("part ") || line.starts_with("journal ")).count();
    let inputs = &document.main_steps[0].inputs;
    let seconds: u32 = inputs.timeout_seconds.parse().unwrap();
    assert!(parts > 10 && u32::try_from(parts).unwrap() * PART < seconds, "{parts} parts in {seconds} s");
}

/// One part that hangs or is missing costs its own deadline, not the others; what looks like a secret is not told.
#[test]
fn support_says_all_it_can_and_no_secret() {
    let talks = "#!/bin/sh\necho \"$(basename \"$0\") $*\"\n";
    let journal = "#!/bin/sh\necho \"journal $*\"\n\
                   echo 'mount failed: password=hunter2,ro token: \"hunter3\" AWS_SECRET_ACCESS_KEY=hunter4'\n";
    let stand_ins = StandIns::new(&[
        ("nvme-agent", talks),
        ("journalctl", journal),
        ("systemctl", talks),
        ("lsblk", "#!/bin/sh\necho 'a drive does not answer' >&2\nexit 32\n"),
    ]);
    let document = document(DOCUMENTS[1]);
    let path = write(stand_ins.0.path(), "script.sh", &script(&document, &[("Lines", "17")]));
    let (code, said, error) = ended(stand_ins.command(path).output().unwrap());
    assert_eq!((code, error.as_str()), (0, ""));
    for wanted in [
        "nvme-agent status --output json",
        "nvme-agent doctor",
        "nvme-agent plan",
        "--unit=nvme-agent.service",
        "--identifier=nvme-agent",
        "--lines=17",
        "a drive does not answer\n=== ended with 32",
        "=== cat /proc/mdstat",
        "=== grep -v /var/lib/kubelet/pods/ /proc/1/mountinfo",
        "password=***,ro token: \"***\" AWS_SECRET_ACCESS_KEY=***",
        "=== df -hT /tmp",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert!(!said.contains("hunter"), "{said}");
}
