//! The agent's tests, unit tests and those of its command line, as aarch64 programs under qemu-aarch64-static.
//!
//! Built as what ships is built: static, against musl, in the chroot. The kernel is told to start aarch64 programs in the
//! emulator, so that a test which starts the agent starts the aarch64 one, by its own name.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cache::Cache;
use crate::debian::{self, as_root, find_program, run};
use crate::dist::chroot::{Chroot, STD_FOR_TESTS};
use crate::dist::target::Arch;
use crate::progress::{note, step};
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
    /// Ends, and takes the registration back, when nobody holds its standard input any more: also when the lab is killed.
    keeper: Option<Child>,
}

/// NAME, EMULATOR. In a mount namespace of its own, so that nothing stays mounted; the registration is the whole kernel's, and since Linux
/// 6.7 it lasts only as long as the mount. The pattern is an ELF header: 64 bits, little-endian, executable or shared (static-pie),
/// machine 183. `P` keeps the program's own name, `F` opens the emulator now, so that it is found from other roots, too.
const REGISTER: &str = r#"set -e
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
printf ':%s:M::%s:%s:%s:PF' "$1" \
  '\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00' \
  '\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff' \
  "$2" >/proc/sys/fs/binfmt_misc/register
echo registered
cat >/dev/null
echo -1 >"/proc/sys/fs/binfmt_misc/$1"
"#;

impl Emulation {
    /// `program` is any for aarch64 that knows `--version`.
    pub fn start(program: &Path) -> Result<Emulation> {
        // promtool is what some of the tests run.
        debian::ensure_host_tools(&[
            (EMULATOR, "qemu-user-static"),
            ("unshare", "util-linux"),
            ("promtool", "prometheus"),
        ])?;
        let starts = || run(Command::new(program).arg("--version"));
        if starts().is_ok() {
            return Ok(Emulation { keeper: None });
        }
        let emulator = find_program(EMULATOR).context("no emulator, though it was installed")?;
        note("  The kernel starts aarch64 programs in an emulator while their tests run");
        let mut keeper = as_root("unshare")
            .args(["--mount", "--propagation", "private", "--", "sh", "-c", REGISTER, "sh"])
            .arg(format!("nvme-lab-{}", std::process::id()))
            .arg(emulator)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start unshare")?;
        let mut said = String::new();
        // One line, or the end: the script does nothing that could hang.
        let read = keeper.stdout.take().map(|out| BufReader::new(out).read_line(&mut said));
        let emulation = Emulation { keeper: Some(keeper) };
        read.context("no pipe")?.context("hear whether it is registered")?;
        ensure!(said.trim() == "registered", "the kernel does not take the registration of {EMULATOR}");
        starts().with_context(|| format!("{} does not start under {EMULATOR}", program.display()))?;
        Ok(emulation)
    }
}

impl Drop for Emulation {
    fn drop(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

/// How a program's tests went.
#[derive(Debug, PartialEq, Eq)]
pub struct Passed {
    pub passed: usize,
    /// Those of them that failed first.
    pub again: Vec<String>,
}

/// Runs one test program as cargo would, without the tests named in `skip`. Its output goes to `log`. What fails is run once more,
/// alone: an emulated program beside other work may be too slow for a test that gives it two seconds.
pub fn run_tests(tests: &Tests, program: &Path, skip: &[&str], log: &Path) -> Result<Passed> {
    let skip = skip.iter().flat_map(|name| ["--skip", name]);
    let first = run_with(tests, program, skip, log)?;
    if let Some(passed) = passed(&first) {
        return Ok(Passed { passed, again: Vec::new() });
    }
    let again = failed(&first);
    ensure!(!again.is_empty(), "it names no test that failed; {} ends with:\n{}", log.display(), end(&first));
    let log = log.with_extension("again.log");
    let alone = ["--test-threads=1"].into_iter().chain(again.iter().map(String::as_str));
    let second = run_with(tests, program, alone, &log)?;
    ensure!(passed(&second) == Some(again.len()), "{} ends with:\n{}", log.display(), end(&second));
    Ok(Passed { passed: count(&first, "passed").unwrap_or(0) + again.len(), again })
}

fn run_with<'a>(
    tests: &Tests,
    program: &Path,
    args: impl Iterator<Item = &'a str>,
    log: &Path,
) -> Result<String> {
    let file = fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
    Command::new(program)
        .arg("--exact")
        .args(args)
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
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The names of all tests of all programs.
pub fn names(tests: &Tests) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for (_, program) in &tests.programs {
        let listed = run(Command::new(program).args(["--list", "--format=terse"]))?;
        names.extend(listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned));
    }
    Ok(names)
}

/// How many passed, if none failed: `test result: ok. 3 passed; 0 failed; 1 ignored; …`
fn passed(text: &str) -> Option<usize> {
    text.lines().find(|line| line.starts_with("test result: ok. "))?;
    count(text, "passed")
}

fn count(text: &str, what: &str) -> Option<usize> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("test result: "))?;
    let (_, counts) = line.split_once(". ")?;
    counts.split("; ").find_map(|part| part.strip_suffix(what)?.trim().parse().ok())
}

/// The list at the end.
fn failed(text: &str) -> Vec<String> {
    let Some((_, list)) = text.rsplit_once("\nfailures:\n") else { return Vec::new() };
    let names = list.lines().take_while(|line| line.starts_with("    "));
    names.map(|line| line.trim().to_owned()).collect()
}

fn end(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passed_and_what_failed_is_read_from_the_end() {
        let good = "running 4 tests\ntest a ... ok\n\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 \
                    filtered out; finished in 1.20s\n\n";
        assert_eq!(passed(good), Some(3));
        let bad = "test b::c ... FAILED\n\nfailures:\n\n---- b::c stdout ----\nfailures:\n\nfailures:\n    b::c\n    d\n\n\
                   test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2s\n";
        assert_eq!(passed(bad), None);
        assert_eq!(count(bad, "passed"), Some(7));
        assert_eq!(failed(bad), ["b::c", "d"]);
        assert_eq!((passed("killed"), failed("killed")), (None, Vec::new()));
    }
}
