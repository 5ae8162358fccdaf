//! The agent's tests, unit tests and those of its command line, as aarch64 programs under qemu-aarch64-static.
//!
//! Built as what ships is built: static, against musl, in the chroot. The kernel is told to start aarch64 programs in the
//! emulator, so that a test which starts the agent starts the aarch64 one, by its own name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cache::Cache;
use crate::debian::{self, as_root, find_program, run};
use crate::dist::chroot::{Chroot, STD_FOR_TESTS};
use crate::dist::target::Arch;
use crate::progress::step;
use crate::runner::workspace;

const PACKAGE: &str = "nvme-agent";
const EMULATOR: &str = "qemu-aarch64-static";

/// Test programs and the agent that they start.
#[derive(Debug)]
pub struct Tests {
    /// By name: `nvme_agent` for the unit tests, else the file in `agent/tests`.
    pub programs: Vec<(String, PathBuf)>,
    pub agent: PathBuf,
}

/// Builds them, if they are not up to date.
pub fn build() -> Result<Tests> {
    let chroot = Chroot::get(&Cache::open()?, Arch::Aarch64)?;
    let target_dir = workspace().join("target/dist-build");
    fs::create_dir_all(&target_dir).with_context(|| format!("create {}", target_dir.display()))?;
    let args = ["test", "--no-run", "--locked", "--message-format=json-render-diagnostics", "--target"];
    let more = [Arch::Aarch64.target(), "--package", PACKAGE, "--lib", "--bins", "--tests"];
    let args: Vec<String> = args.iter().chain(&more).map(|arg| (*arg).to_owned()).collect();
    let mut command = chroot.cargo(&workspace(), &target_dir, None, &args, STD_FOR_TESTS)?;
    let told =
        step("Building the agent's tests for aarch64 (static)", || run(command.current_dir(workspace())))?;
    let (mut programs, mut agent) = (Vec::new(), None);
    for message in told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let Some(path) = message["executable"].as_str() else { continue };
        let path = chroot.outside(Path::new(path));
        match (message["profile"]["test"].as_bool(), message["target"]["name"].as_str()) {
            (Some(true), Some(name)) => programs.push((name.to_owned(), path)),
            (Some(false), Some(PACKAGE)) => agent = Some(path),
            _ => {}
        }
    }
    ensure!(!programs.is_empty(), "cargo has named no test program");
    Ok(Tests { programs, agent: agent.context("cargo has named no agent")? })
}

/// Lets the kernel start aarch64 programs in the emulator, until this is dropped. Nothing is changed where it does already, as on
/// most machines with Debian's package.
#[derive(Debug)]
pub struct Emulation {
    registered: Option<String>,
}

/// NAME, EMULATOR. The pattern is an ELF header: 64 bits, little-endian, executable or shared (static-pie), machine 183. `P` keeps the
/// program's own name, `F` opens the emulator now, so that it is found from other roots, too.
const REGISTER: &str = r#"set -e
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
printf ':%s:M::%s:%s:%s:PF' "$1" \
  '\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00' \
  '\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff' \
  "$2" >/proc/sys/fs/binfmt_misc/register
"#;

/// NAME.
const UNREGISTER: &str = r#"set -e
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
echo -1 >"/proc/sys/fs/binfmt_misc/$1"
"#;

impl Emulation {
    /// `program` is any for aarch64 that knows `--version`.
    pub fn start(program: &Path) -> Result<Emulation> {
        debian::ensure_host_tools(&[(EMULATOR, "qemu-user-static"), ("unshare", "util-linux")])?;
        let starts = || run(Command::new(program).arg("--version"));
        if starts().is_ok() {
            return Ok(Emulation { registered: None });
        }
        let emulator = find_program(EMULATOR).context("no emulator, though it was installed")?;
        let name = format!("nvme-lab-{}", std::process::id());
        step("Telling the kernel to start aarch64 programs in an emulator, while their tests run", || {
            script(REGISTER, &[&name, &emulator.to_string_lossy()])
        })?;
        let emulation = Emulation { registered: Some(name) };
        starts().with_context(|| format!("{} does not start under {EMULATOR}", program.display()))?;
        Ok(emulation)
    }
}

impl Drop for Emulation {
    fn drop(&mut self) {
        // A killed lab leaves the entry until the next boot of this machine: nothing but aarch64 programs meets it.
        if let Some(name) = &self.registered {
            let _ = script(UNREGISTER, &[name]);
        }
    }
}

/// In a mount namespace of its own, so that nothing stays mounted; the registration itself is the whole kernel's.
fn script(script: &str, args: &[&str]) -> Result<()> {
    run(as_root("unshare")
        .args(["--mount", "--propagation", "private", "--", "sh", "-c", script, "sh"])
        .args(args))
    .map(drop)
}

/// How many tests of a program passed, and what it was told to leave out.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    pub passed: usize,
    /// Marked in the source: they are run by others, or in a VM.
    pub ignored: usize,
}

/// Runs one test program as cargo would, without the tests named in `skip`. Its output goes to `log`.
pub fn run_tests(tests: &Tests, program: &Path, skip: &[&str], log: &Path) -> Result<Passed> {
    let file = fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
    let status = Command::new(program)
        .arg("--exact")
        .args(skip.iter().flat_map(|name| ["--skip", name]))
        .current_dir(workspace().join("agent"))
        .env(format!("CARGO_BIN_EXE_{PACKAGE}"), &tests.agent)
        .env("INSTA_WORKSPACE_ROOT", workspace())
        .env("INSTA_UPDATE", "no")
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share the log")?)
        .stderr(file)
        .status()
        .with_context(|| format!("start {}", program.display()))?;
    let text = fs::read(log).with_context(|| format!("read {}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    if !status.success() {
        let lines: Vec<&str> = text.lines().collect();
        bail!(
            "{status}; {} ends with:\n{}",
            log.display(),
            lines[lines.len().saturating_sub(60)..].join("\n")
        );
    }
    result(&text).with_context(|| format!("no result in {}", log.display()))
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; …`
fn result(text: &str) -> Option<Passed> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("test result: ok. "))?;
    let count = |what: &str| {
        line.split("; ").find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<usize>().ok())
    };
    Some(Passed { passed: count("passed")?, ignored: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_last_line() {
        let text = "running 4 tests\ntest a ... ok\n\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 \
                    filtered out; finished in 1.20s\n\n";
        assert_eq!(result(text), Some(Passed { passed: 3, ignored: 1 }));
        assert_eq!(result("test result: FAILED. 3 passed; 1 failed"), None);
        assert_eq!(result("killed"), None);
    }
}
