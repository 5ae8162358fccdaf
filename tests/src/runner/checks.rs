//! What is checked without a VM: format, shell scripts, unit tests, clippy. Cheapest first, and nothing more after the
//! first that fails: a broken unit test is known in a minute or two.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{logs_root, workspace};
use crate::debian::ensure_host_tools;
use crate::progress::say;

/// A check; what it gives back is the number of tests in it, where it has such.
pub struct Check {
    /// As it is printed.
    pub name: &'static str,
    run: fn(&Path) -> Result<Option<usize>>,
}

/// In the order in which they run.
pub const CHECKS: &[Check] = &[
    Check { name: "cargo fmt --check", run: |log| cargo(log, &["fmt", "--check"]).map(|_| None) },
    Check { name: "shellcheck", run: shellcheck },
    Check { name: "cargo test", run: unit_tests },
    Check { name: "cargo clippy", run: clippy },
];

impl Check {
    /// Runs it. All that it says is kept in the logs; an error has the end of it.
    pub fn run(&self) -> Result<Option<usize>> {
        let directory = logs_root().join("checks");
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        (self.run)(&directory.join(format!("{}.log", self.name.replace([' ', '-'], "_"))))
    }
}

fn unit_tests(log: &Path) -> Result<Option<usize>> {
    // What the agent's tests run of others, besides what every Debian has; what is for Prometheus is judged by its own tool.
    ensure_host_tools(&[
        ("curl", "curl"),
        ("minisign", "minisign"),
        ("openssl", "openssl"),
        ("promtool", "prometheus"),
    ])?;
    let text = cargo(log, &["test", "--workspace", "--no-fail-fast"])?;
    for line in skipped(&text) {
        say(line);
    }
    Ok(Some(passed(&text)))
}

/// What tests say that could not be run here, past libtest, which keeps what a test prints to itself.
fn skipped(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.find("SKIPPED ").map(|at| &line[at..])).collect()
}

fn clippy(log: &Path) -> Result<Option<usize>> {
    cargo(log, &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]).map(|_| None)
}

fn cargo(log: &Path, arguments: &[&str]) -> Result<String> {
    logged(super::cargo().args(arguments), log)
}

/// Runs a command with its output in a file; returns that.
fn logged(command: &mut Command, log: &Path) -> Result<String> {
    const SHOWN: usize = 60;
    let file = fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share the log")?)
        .stderr(file)
        .status()
        .with_context(|| format!("start {command:?}"))?;
    let text = String::from_utf8_lossy(&fs::read(log).context("read the log")?).into_owned();
    if status.success() {
        return Ok(text);
    }
    let lines: Vec<&str> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
    bail!("{status}; {} ends with:\n{end}", log.display());
}

/// The number of tests that cargo says have passed.
fn passed(text: &str) -> usize {
    text.lines()
        .filter_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<usize>().ok())
        .sum()
}

fn shellcheck(log: &Path) -> Result<Option<usize>> {
    ensure_host_tools(&[("shellcheck", "shellcheck"), ("git", "git")])?;
    let scripts = scripts()?;
    if scripts.is_empty() {
        bail!("no shell script found in {}", workspace().display());
    }
    logged(Command::new("shellcheck").args(&scripts).current_dir(workspace()), log).map(|_| None)
}

/// Every shell script that git knows, and those that it would take: by name or by first line.
fn scripts() -> Result<Vec<PathBuf>> {
    // A checkout that belongs to another user (a CI's volume) is as good.
    let listed = Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace())
        .stderr(Stdio::inherit())
        .output()
        .context("start git")?;
    if !listed.status.success() {
        bail!("git ls-files in {}: {}", workspace().display(), listed.status);
    }
    Ok(String::from_utf8_lossy(&listed.stdout)
        .split_terminator('\0')
        .map(PathBuf::from)
        .filter(|path| {
            let first = || fs::read(workspace().join(path)).is_ok_and(|bytes| is_shell(&bytes));
            path.extension().is_some_and(|extension| extension == "sh") || first()
        })
        .collect())
}

fn is_shell(bytes: &[u8]) -> bool {
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Some(interpreter) = first.strip_prefix(b"#!") else { return false };
    let text = String::from_utf8_lossy(interpreter).into_owned();
    let mut words = text.split_whitespace().map(|word| word.rsplit('/').next().unwrap_or(word));
    let program = match words.next() {
        Some("env") => words.find(|word| !word.starts_with('-')),
        other => other,
    };
    matches!(program, Some("sh" | "bash" | "dash"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_are_known_by_the_first_line() {
        for line in
            ["#!/bin/sh\n", "#! /usr/bin/env bash\nset -e", "#!/usr/bin/env -S bash -e", "#!/bin/dash"]
        {
            assert!(is_shell(line.as_bytes()), "{line}");
        }
        for line in ["#!/usr/bin/perl\n", "# /bin/sh", "", "echo\n#!/bin/sh", "\x7fELF"] {
            assert!(!is_shell(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn the_repository_has_shell_scripts() {
        let scripts = scripts().unwrap();
        for script in [".ci/run", "tests/guest/image.sh"] {
            assert!(scripts.contains(&PathBuf::from(script)), "{scripts:?}");
        }
    }

    #[test]
    fn what_was_skipped_is_found() {
        let text = "running 2 tests\ntest a ... SKIPPED a: X is not set\ntest a ... ok\nSKIPPED b: Y\n";
        assert_eq!(skipped(text), ["SKIPPED a: X is not set", "SKIPPED b: Y"]);
    }

    #[test]
    fn counts_what_cargo_test_says() {
        let text = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 1 ignored\n\
                    test result: ok. 40 passed; 0 failed\n";
        assert_eq!(passed(text), 42);
    }
}
