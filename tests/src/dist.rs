//! `cargo lab dist`: what ships, static binaries that need no libc of the host, with their manual pages and completions, in
//! `target/dist`. With `--all` for both kinds of machine, and as packages, with a bill of materials and checksums.
//!
//! musl and not static glibc: the latter crashes in its first name look-up wherever nsswitch.conf names a module of
//! another glibc. Where rustup has the musl target, the host's cargo builds; elsewhere, and for another kind of machine
//! than this, a Debian chroot does, see [`chroot`]. Both are asked every time, and cargo alone decides whether there is
//! anything to do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::cache::{Cache, digest};
use crate::debian;
use crate::progress::step;
use crate::runner::workspace;
use target::Arch;

mod all;
pub mod chroot;
mod elf;
pub mod manual;
pub mod package;
mod sbom;
pub mod target;

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
    /// All of a release: x86_64 and aarch64, rpm and deb, bills of materials, SHA256SUMS, a channel's directory
    #[arg(long, conflicts_with = "package")]
    all: bool,
    /// All of a release, made a second time from a clone of this commit elsewhere: every byte must be the same
    #[arg(long, conflicts_with_all = ["package", "all"])]
    twice: bool,
}

/// One binary to build.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    pub package: &'a str,
    pub bin: &'a str,
    pub features: &'a [&'a str],
    /// A profile of the workspace's Cargo.toml: `release`, or `failpoints`, which is quicker to build.
    pub profile: &'a str,
    pub arch: Arch,
}

impl<'a> Build<'a> {
    /// A binary as it would ship, for x86_64.
    pub fn new(package: &'a str, bin: &'a str) -> Build<'a> {
        Build { package, bin, features: &[], profile: "release", arch: Arch::X86_64 }
    }

    fn cargo_args(&self) -> Vec<String> {
        let mut args = ["build", "--locked", "--target", self.arch.target(), "--profile", self.profile]
            .map(str::to_owned)
            .to_vec();
        args.extend(["--package", self.package, "--bin", self.bin].map(str::to_owned));
        if !self.features.is_empty() {
            args.extend(["--features".to_owned(), self.features.join(",")]);
        }
        args
    }

    fn file_name(&self) -> String {
        let features: String = self.features.iter().map(|feature| format!("-{feature}")).collect();
        format!("{}-{}{features}", self.bin, self.arch.name())
    }
}

/// A checkout to build, and where to.
#[derive(Debug, Clone)]
pub struct Place {
    pub workspace: PathBuf,
    /// Intermediate files of its own; none: those that all checkouts share.
    pub intermediate: Option<PathBuf>,
}

impl Place {
    /// The checkout that this was compiled from.
    pub fn here() -> Place {
        Place { workspace: workspace(), intermediate: None }
    }

    /// Where what ships is put.
    pub fn dist(&self) -> PathBuf {
        self.workspace.join("target/dist")
    }
}

/// The command line's `dist`: what ships, all of it or for x86_64 only, or one binary of the caller's choice.
/// `agent_command` is the agent's command line, for its manual.
pub fn run(args: &Args, agent_command: clap::Command) -> Result<()> {
    if let (Some(package), Some(bin)) = (&args.package, &args.bin) {
        return describe(&build(&Build::new(package, bin))?);
    }
    let here = Place::here();
    if args.all || args.twice {
        let files = all::make(&here, &agent_command)?;
        if args.twice {
            all::make_again(&here, &files, &agent_command)?;
        }
        return files.iter().try_for_each(|path| describe(path));
    }
    for binary in [agent()?, agent_with_failpoints()?] {
        describe(&binary)?;
    }
    let pages = manual::write(agent_command, &here.dist())?;
    println!("{}: {pages} manual pages and completions", shown(&here.dist()));
    Ok(())
}

/// The binary that ships, up to date with the sources: `target/dist/nvme-agent-x86_64`.
pub fn agent() -> Result<PathBuf> {
    let binary = build(&Build::new("nvme-agent", "nvme-agent"))?;
    starts(&binary, Arch::X86_64)?;
    Ok(binary)
}

/// The same with failpoints, for the tests: `target/dist/nvme-agent-x86_64-failpoints`.
pub fn agent_with_failpoints() -> Result<PathBuf> {
    build(&Build { features: &[FAILPOINTS], profile: FAILPOINTS, ..Build::new("nvme-agent", "nvme-agent") })
}

/// Builds one static binary of this workspace, if it is not up to date, and puts it into `target/dist`.
pub fn build(build: &Build) -> Result<PathBuf> {
    build_at(&Place::here(), build)
}

fn build_at(place: &Place, build: &Build) -> Result<PathBuf> {
    let workspace = &place.workspace;
    let target_dir = workspace.join("target/dist-build");
    fs::create_dir_all(&target_dir).with_context(|| format!("create {}", target_dir.display()))?;
    let mut command = if rustup_builds(build.arch)? {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(build.cargo_args()).arg("--target-dir").arg(&target_dir);
        command.env("CARGO_ENCODED_RUSTFLAGS", remapped(workspace, &chroot::cargo_home()?));
        command
    } else {
        let chroot = chroot::Chroot::get(&Cache::open()?, build.arch)?;
        chroot.cargo(
            workspace,
            &target_dir,
            place.intermediate.as_deref(),
            &build.cargo_args(),
            chroot::STD,
        )?
    };
    step(&format!("Building {} (static, profile {})", build.file_name(), build.profile), || {
        debian::run(command.current_dir(workspace)).map(drop)
    })?;
    let made = target_dir.join(build.arch.target()).join(build.profile).join(build.bin);
    elf::check_static(&made, build.arch)?;
    if build.profile == "release" {
        tells_no_path(&made, workspace)?;
    }
    let dist = place.dist().join(build.file_name());
    install(&made, &dist)?;
    Ok(dist)
}

/// The flags that keep this machine's directories out of messages of a panic, and so out of the bytes of the binary. In
/// the chroot they are the same everywhere.
fn remapped(workspace: &Path, cargo_home: &Path) -> String {
    [(workspace, "/nvme-agent"), (cargo_home, "/cargo")]
        .map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()))
        .join("\x1f")
}

/// What is built from two directories is only then the same.
fn tells_no_path(binary: &Path, workspace: &Path) -> Result<()> {
    let bytes = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    let path = workspace.to_string_lossy();
    let found = bytes.windows(path.len()).any(|window| window == path.as_bytes());
    ensure!(
        !found,
        "{}: has the path of the checkout, {path}, in it: not reproducible elsewhere",
        binary.display()
    );
    Ok(())
}

/// Whether the host's toolchain can build for musl by itself: for this kind of machine only, since the other needs a C
/// compiler of its own, too. rustc names the directory whether it is there or not.
fn rustup_builds(arch: Arch) -> Result<bool> {
    if !arch.is_native() {
        return Ok(false);
    }
    let output = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", arch.target()])
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

/// A linker can make a static binary that dies before main, and one whose unwinder finds nothing and aborts: this one tells its
/// version, and an error of which a backtrace is wanted ends it with a code of its own. The other kind of machine's does so
/// in an emulator.
fn starts(binary: &Path, arch: Arch) -> Result<()> {
    const WRONG_CONFIGURATION: i32 = 4;
    let command = || {
        if arch.is_native() {
            return Ok(Command::new(binary));
        }
        let emulator = format!("qemu-{}-static", arch.name());
        debian::ensure_host_tools(&[(&emulator, "qemu-user-static")])?;
        let mut command = Command::new(emulator);
        command.arg(binary);
        anyhow::Ok(command)
    };
    debian::run(command()?.arg("--version"))
        .with_context(|| format!("{} does not start here", shown(binary)))?;
    let failed = command()?
        .args(["plan", "--config", "/nonexistent/config.toml"])
        .env("RUST_BACKTRACE", "1")
        .output()
        .with_context(|| format!("start {}", shown(binary)))?;
    ensure!(
        failed.status.code() == Some(WRONG_CONFIGURATION),
        "{}, with RUST_BACKTRACE=1 and without its configuration: expected exit code {WRONG_CONFIGURATION}, found {}",
        shown(binary),
        failed.status
    );
    Ok(())
}

fn describe(binary: &Path) -> Result<()> {
    let bytes = fs::read(binary).with_context(|| format!("read {}", binary.display()))?;
    let mebibytes = bytes.len() as f64 / f64::from(1 << 20);
    println!("{}: {mebibytes:.2} MiB, sha256 {}", shown(binary), digest(&bytes));
    Ok(())
}

fn shown(path: &Path) -> String {
    path.strip_prefix(workspace()).unwrap_or(path).display().to_string()
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
        let other = Build { arch: Arch::Aarch64, ..plain };
        assert_eq!(other.file_name(), "floor-aarch64");
        assert!(other.cargo_args().contains(&"aarch64-unknown-linux-musl".to_owned()));
        let failing = Build { features: &["failpoints"], profile: "failpoints", ..plain };
        assert_eq!(failing.file_name(), "floor-x86_64-failpoints");
        assert!(failing.cargo_args().join(" ").ends_with("--bin floor --features failpoints"));
    }

    #[test]
    fn a_path_of_this_machine_in_a_binary_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("binary");
        fs::write(&binary, "\x7fELF agent/src/main.rs").unwrap();
        tells_no_path(&binary, dir.path()).unwrap();
        fs::write(&binary, format!("\x7fELF {}/agent/src/main.rs", dir.path().display())).unwrap();
        let error = tells_no_path(&binary, dir.path()).unwrap_err();
        assert!(error.to_string().contains("not reproducible"), "{error}");
        let flags = remapped(Path::new("/home/me/agent"), Path::new("/home/me/.cargo"));
        let flags: Vec<&str> = flags.split('\x1f').collect();
        assert_eq!(
            flags,
            ["--remap-path-prefix=/home/me/agent=/nvme-agent", "--remap-path-prefix=/home/me/.cargo=/cargo"]
        );
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
