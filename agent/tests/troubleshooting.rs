//! docs/troubleshooting.md and `status --explain` say what the table of reason codes says.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use nvme_agent::status::Verdict;
use nvme_agent::status::rules::{self, Rule, Weight};

/// What is above it is written by hand.
const MARK: &str = "<!-- From here on it is made from agent/src/status/rules.rs: NVME_AGENT_EXAMPLES=write cargo test -p nvme-agent --test troubleshooting -->\n";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Columns: code, verdict, meaning.
fn table<'a>(rows: impl Iterator<Item = &'a Rule>) -> String {
    let mut text = String::from("| code | verdict | meaning |\n|---|---|---|\n");
    for rule in rows {
        let (code, weight) = (rule.code, rule.weight.as_str());
        writeln!(text, "| [`{code}`](#{}) | {weight} | {} |", code.to_ascii_lowercase(), rule.meaning)
            .unwrap();
    }
    text
}

fn made() -> String {
    let live = || rules::live::RULES.iter();
    let setup = || rules::setup::RULES.iter();
    let is = |weight: Weight| move |rule: &&Rule| rule.weight == weight;
    let other = |rule: &&Rule| !matches!(rule.weight, Weight::Warning | Weight::Command);
    let mut text = String::new();
    text.push_str("\n## What the machine shows\n\nBy cause: of several that make the same verdict, the first is told.\n\n");
    text.push_str(&table(live().filter(other)));
    text.push_str("\n## Warnings\n\nThey change no verdict.\n\n");
    text.push_str(&table(live().filter(is(Weight::Warning))));
    text.push_str("\n## What a setup leaves\n\n");
    text.push_str(&table(setup().filter(other)));
    text.push_str("\n## What only a command ends with\n\nIn its journal and on its terminal; the storage is as it was.\n\n");
    text.push_str(&table(setup().filter(is(Weight::Command))));
    text.push_str("\n## Each by itself\n");
    for rule in rules::all() {
        write!(text, "\n### {}\n\n{}: {}\n\n", rule.code, rule.weight.as_str(), rule.meaning).unwrap();
        if !rule.next.is_empty() {
            writeln!(text, "- What to do: {}", rule.next).unwrap();
        }
        writeln!(text, "- To look further: {}", rule.look).unwrap();
    }
    text
}

/// `NVME_AGENT_EXAMPLES=write cargo test -p nvme-agent --test troubleshooting` makes it anew.
#[test]
fn the_page_is_the_table() {
    let path = here("docs/troubleshooting.md");
    let there = fs::read_to_string(&path).unwrap();
    let (by_hand, generated) = there.split_once(MARK).expect("docs/troubleshooting.md has lost its mark");
    if std::env::var_os("NVME_AGENT_EXAMPLES").is_some() {
        // At once: the other test reads it, too.
        let new = path.with_extension("new");
        fs::write(&new, format!("{by_hand}{MARK}{}", made())).unwrap();
        return fs::rename(new, &path).unwrap();
    }
    assert_eq!(generated, made(), "NVME_AGENT_EXAMPLES=write makes it anew");
}

#[test]
fn what_is_written_by_hand_names_codes_that_there_are_and_readme_leads_there() {
    let there = fs::read_to_string(here("docs/troubleshooting.md")).unwrap();
    let by_hand = there.split_once(MARK).unwrap().0;
    let codes = by_hand.split('`').skip(1).step_by(2).filter(|word| {
        let capitals = word.chars().filter(char::is_ascii_uppercase).count();
        capitals >= 2
            && word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.chars().all(|c| c.is_ascii_alphabetic())
    });
    let codes: Vec<&str> = codes.filter(|word| !["SMART", "RAID"].contains(word)).collect();
    assert!(codes.len() >= 8, "{codes:?}");
    for code in codes {
        assert!(rules::find(code).is_some(), "{code}");
    }
    assert!(fs::read_to_string(here("README.md")).unwrap().contains("](docs/troubleshooting.md)"));
}

fn explain(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::cargo_bin("nvme-agent").unwrap();
    let output = command.env_clear().args(["status", "--explain"]).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_code_is_explained_however_it_is_written() {
    let (code, stdout, stderr) = explain(&["drivelost"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let rule = rules::find("DriveLost").unwrap();
    assert!(stdout.starts_with("DriveLost (failed)\nmeans   Since setup, a drive has gone"), "{stdout}");
    assert!(
        stdout.contains(&format!("next    {}", rule.next)) && stdout.contains("look    journalctl"),
        "{stdout}"
    );
    let (code, stdout, _) = explain(&["SetupComplete"]);
    assert!(code == Some(0) && !stdout.contains("next "), "{stdout}");
    let (_, json, _) = explain(&["SpaceLow", "--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json[0]["code"], &json[0]["weight"]), (&"SpaceLow".into(), &"warning".into()));
}

#[test]
fn without_a_code_all_are_listed_a_line_each() {
    let (code, stdout, _) = explain(&[]);
    assert_eq!((code, stdout.lines().count()), (Some(0), rules::all().count()));
    for (line, rule) in stdout.lines().zip(rules::all()) {
        let words: Vec<&str> = line.split_ascii_whitespace().take(2).collect();
        assert_eq!(words, [rule.code, rule.weight.as_str()]);
    }
}

#[test]
fn an_unknown_code_is_wrong_usage_that_names_the_nearest() {
    for code in ["DriveLots", "x\u{1b}[31m"] {
        let (exit, stdout, stderr) = explain(&[code]);
        assert_eq!((exit, stdout.as_str()), (Some(2), ""));
        assert!(!stderr.contains('\u{1b}'), "{stderr}");
    }
    assert!(explain(&["DriveLots"]).2.contains("the nearest one is `DriveLost`"));
}

#[test]
fn every_verdict_has_a_code_that_makes_it() {
    for verdict in [Verdict::Ready, Verdict::Degraded, Verdict::Failed, Verdict::Absent, Verdict::NotSetUp] {
        assert!(rules::all().any(|rule| rule.weight == Weight::Makes(verdict)), "{verdict:?}");
    }
}
