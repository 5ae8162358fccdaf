//! `cargo lab dist`: what ships, static binaries for x86_64 that need no libc of the host, with their manual pages and
//! completions, in `target/dist`.
//!
//! musl and not static glibc: the latter crashes in its first name look-up wherever nsswitch.conf names a module of
//! another glibc. Where rustup has the musl target, the host's cargo builds; elsewhere a Debian chroot does, see
//! [`chroot`]. Both are asked every time, and cargo alone decides whether there is anything to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::cache::{Cache, digest};
use crate::debian;
use crate::progress::step;
use crate::runner::workspace;

mod chroot;
mod elf;
mod manual;

const TARGET: &str = "x86_64-unknown-linux-musl";

/// Named points at which the agent stops or dies, for the tests: never in what ships.
const FAILPOINTS: &str = "failpoints";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Build this package of the workspace instead of the agent (with --bin)
    #[arg(long, requires = "bin")]
    package: Option<String>,
    /// The binary of that package; the result is target/dist/BIN-x86_64
    #[arg(long, requires = "package")]
    bin: Option<String>,
}

/// One binary to build.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    pub package: &'a str,
    pub bin: &'a str,
    pub features: &'a [&'a str],
    /// A profile of the workspace's Cargo.toml: `release`, or `failpoints`, which is quicker to build.
    pub profile: &'a str,
}

impl<'a> Build<'a> {
    /// A binary as it would ship.
    pub fn new(package: &'a str, bin: &'a str) -> Build<'a> {
        Build { package, bin, features: &[], profile: "release" }
    }

    fn cargo_args(&self) -> Vec<String> {
        let mut args =
            ["build", "--locked", "--target", TARGET, "--profile", self.profile].map(str::to_owned).to_vec();
        args.extend(["--package", self.package, "--bin", self.bin].map(str::to_owned));
        if !self.features.is_empty() {
            args.extend(["--features".to_owned(), self.features.join(",")]);
        }
        args
    }

    fn file_name(&self) -> String {
        let features: String = self.features.iter().map(|feature| format!("-{feature}")).collect();
        format!("{}-x86_64{features}", self.bin)
    }
}

/// The command line's `dist`: everything that ships, or one binary of the caller's choice. `agent_command` is the agent's
/// command line, for its manual.
pub fn run(args: &Args, agent_command: clap::Command) -> Result<()> {
    if let (Some(package), Some(bin)) = (&args.package, &args.bin) {
        return describe(&build(&Build::new(package, bin))?);
    }
    for binary in [agent()?, agent_with_failpoints()?] {
        starts(&binary)?;
        describe(&binary)?;
    }
    let pages = manual::write(agent_command, &dist_dir())?;
    println!("{}: {pages} manual pages and completions", shown(&dist_dir()));
    Ok(())
}

/// The binary that ships, up to date with the sources: `target/dist/nvme-agent-x86_64`.
pub fn agent() -> Result<PathBuf> {
    build(&Build::new("nvme-agent", "nvme-agent"))
}

/// The same with failpoints, for the tests: `target/dist/nvme-agent-x86_64-failpoints`.
pub fn agent_with_failpoints() -> Result<PathBuf> {
    build(&Build { features: &[FAILPOINTS], profile: FAILPOINTS, ..Build::new("nvme-agent", "nvme-agent") })
}

/// Builds one static binary of this workspace, if it is not up to date, and puts it into `target/dist`.
pub fn build(build: &Build) -> Result<PathBuf> {
    let workspace = workspace();
    let target_dir = workspace.join("target/dist-build");
    fs::create_dir_all(&target_dir).with_context(|| format!("create {}", target_dir.display()))?;
    let mut command = if rustup_has_target()? {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(build.cargo_args()).arg("--target-dir").arg(&target_dir);
        command
    } else {
        chroot::Chroot::get(&Cache::open()?)?.cargo(&workspace, &target_dir, &build.cargo_args())?
    };
    step(&format!("Building {} (static, profile {})", build.file_name(), build.profile), || {
        debian::run(command.current_dir(&workspace)).map(drop)
    })?;
    let made = target_dir.join(TARGET).join(build.profile).join(build.bin);
    elf::check_static(&made)?;
    let dist = dist_dir().join(build.file_name());
    install(&made, &dist)?;
    Ok(dist)
}

/// Whether the host's toolchain can build for musl by itself. rustc names the directory whether it is there or not.
fn rustup_has_target() -> Result<bool> {
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", TARGET])
        .current_dir(workspace())
        .stderr(Stdio::inherit())
        .output()
        .context("ask rustc where its libraries are")?;
    let libdir = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    Ok(output.status.success() && libdir.is_dir())
}

/// Copies a binary beside its place and renames it there, unless it is there already: whoever runs the old one at this
/// moment keeps it, and an unchanged one keeps its time.
fn install(from: &Path, to: &Path) -> Result<()> {
    let new = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    fs::create_dir_all(to.parent().context("a place in target/dist")?).context("create target/dist")?;
    let beside = to.with_extension(format!("new{}", std::process::id()));
    fs::copy(from, &beside)
        .and_then(|_| fs::rename(&beside, to))
        .with_context(|| format!("put {} in its place", to.display()))
}

/// A linker can make a static binary that dies before main; this one at least tells its version.
fn starts(binary: &Path) -> Result<()> {
    debian::run(Command::new(binary).arg("--version"))
        .with_context(|| format!("{} does not start here", shown(binary)))
        .map(drop)
}

fn describe(binary: &Path) -> Result<()> {
    let bytes = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    let mebibytes = bytes.len() as f64 / f64::from(1 << 20);
    println!("{}: static, {mebibytes:.2} MiB, sha256 {}", shown(binary), digest(&bytes));
    Ok(())
}

fn shown(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap_or(path).display().to_string()
}

fn dist_dir() -> PathBuf {
    workspace().join("target/dist")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_arguments_follow_from_the_build() {
        let plain = Build::new("lab", "floor");
        assert_eq!(plain.file_name(), "floor-x86_64");
        assert_eq!(
            plain.cargo_args().join(" "),
            "build --locked --target x86_64-unknown-linux-musl --profile release --package lab --bin floor"
        );
        let failing = Build { features: &["failpoints"], profile: "failpoints", ..plain };
        assert_eq!(failing.file_name(), "floor-x86_64-failpoints");
        assert!(failing.cargo_args().join(" ").ends_with("--bin floor --features failpoints"));
    }

    #[test]
    fn install_leaves_an_equal_file_alone() {
        let dir = std::env::temp_dir().join(format!("lab-install-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::write(&from, "one").unwrap();
        install(&from, &to).unwrap();
        let modified = || fs::metadata(&to).unwrap().modified().unwrap();
        let first = modified();
        install(&from, &to).unwrap();
        assert_eq!(modified(), first);
        fs::write(&from, "two").unwrap();
        install(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        fs::remove_dir_all(&dir).unwrap();
    }
}
