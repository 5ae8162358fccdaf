//! A Debian sid with rustc, the sources of std and musl, for machines whose toolchain has no musl target.
//!
//! No distribution packages std for musl, so cargo builds it from source (`-Zbuild-std`, hence RUSTC_BOOTSTRAP). The
//! checkout and the user's cargo home are bound into the chroot, in a mount namespace that ends with the command: no
//! download is repeated and nothing stays mounted. The user's own id builds, so that no file of theirs becomes root's.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Artifact, Cache};
use crate::{debian, progress};

use super::target::Arch;

const SUITE: &str = "sid";
const PACKAGES: &[&str] =
    &["rustc", "cargo", "rust-src", "gcc", "libc6-dev", "musl-tools", "ca-certificates"];
/// On top of these, where the binary is for another machine than the one that builds it.
const AARCH64_PACKAGES: &[&str] = &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "musl-dev:arm64"];

/// What a binary that ships is made of.
pub const STD: &str = "std,panic_abort";
/// A test that fails unwinds.
pub const STD_FOR_TESTS: &str = "std,panic_unwind,test";

/// Run in the new root. std for musl links libunwind, which Debian does not build for musl; gcc's own unwinder serves, but for
/// one function of glibc's loader that it relies on. Most of rust-src is the compiler's own source, which nobody builds here.
const PREPARE: &str = "mkdir -p /opt/unwind /opt/cargo /opt/build
cp \"$(gcc -print-file-name=libgcc_eh.a)\" /opt/unwind/libunwind.a
musl-gcc -O2 -c /opt/unwind/find_object.c -o /tmp/find_object.o
ar rD /opt/unwind/libunwind.a /tmp/find_object.o
rm -rf /tmp/find_object.o /usr/src/rustc-*/compiler /usr/src/rustc-*/src
touch /etc/hosts /etc/resolv.conf";

/// The same with a cross compiler, for which musl brings a specification but no musl-gcc.
const PREPARE_AARCH64: &str = "mkdir -p /opt/unwind /opt/cargo /opt/build
cp \"$(aarch64-linux-gnu-gcc -print-file-name=libgcc_eh.a)\" /opt/unwind/libunwind.a
cat >/opt/unwind/musl-gcc <<'END'
#!/bin/sh
exec aarch64-linux-gnu-gcc \"$@\" -specs /usr/lib/aarch64-linux-musl/musl-gcc.specs
END
chmod 755 /opt/unwind/musl-gcc
/opt/unwind/musl-gcc -O2 -c /opt/unwind/find_object.c -o /tmp/find_object.o
aarch64-linux-gnu-ar rD /opt/unwind/libunwind.a /tmp/find_object.o
rm -rf /tmp/find_object.o /usr/src/rustc-*/compiler /usr/src/rustc-*/src
touch /etc/hosts /etc/resolv.conf";

const FIND_OBJECT: &str = include_str!("find_object.c");

/// Where the intermediate files are in there.
const BUILD: &str = "/opt/build";

/// Mounts and enters: ROOT, WORKSPACE, CARGO_HOME, BUILD, CERTIFICATES, UID:GID, then the command. The host's resolver and
/// certificates, because cargo may have to fetch something, through whatever this network needs.
const ENTER: &str = r#"set -e
root=$1; workspace=$2; home=$3; build=$4; certificates=$5; user=$6; shift 6
mount --bind "$workspace" "$root$workspace"
mount --bind "$home" "$root/opt/cargo"
mount --bind "$build" "$root/opt/build"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
for file in /etc/resolv.conf /etc/hosts; do
  if [ -e "$file" ]; then mount --bind "$file" "$root$file"; fi
done
if [ -e "$certificates" ]; then mount --bind "$certificates" "$root/etc/ssl/certs/ca-certificates.crt"; fi
exec chroot --userspec="$user" "$root" "$@"
"#;

/// Environment that a network or an impatient user may need; all else stays outside.
const PASSED: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "TERM",
    "CARGO_BUILD_JOBS",
    "CARGO_NET_OFFLINE",
    "CARGO_TERM_COLOR",
    "CARGO_TERM_PROGRESS_WHEN",
];

/// A chroot that is ready to build in, for one kind of machine: who builds for one needs no compiler for the other.
pub struct Chroot {
    artifact: Artifact,
    arch: Arch,
}

impl Chroot {
    /// The chroot of this machine, made now (some minutes, once) if it is not there.
    pub fn get(cache: &Cache, arch: Arch) -> Result<Chroot> {
        let (name, more, prepare) = match arch {
            Arch::X86_64 => ("dist-chroot", &[][..], PREPARE),
            Arch::Aarch64 => ("dist-chroot-aarch64", AARCH64_PACKAGES, PREPARE_AARCH64),
        };
        let packages = [PACKAGES, more].concat();
        let recipe = format!("{SUITE} {packages:?}\n{prepare}\n{FIND_OBJECT}");
        let artifact = cache.get(name, &recipe, |dir| {
            debian::ensure_host_tools(debian::MMDEBSTRAP_TOOLS)?;
            progress::step(
                "Making a chroot of Debian sid to build for musl in (no rustup target here)",
                || {
                    let source = dir.join("find_object.c");
                    fs::write(&source, FIND_OBJECT).with_context(|| format!("write {}", source.display()))?;
                    let copy = format!(
                        "--customize-hook=install -D -m 644 '{}' \"$1/opt/unwind/find_object.c\"",
                        source.display()
                    );
                    let hook =
                        format!("--customize-hook=chroot \"$1\" sh -ec '{}'", prepare.replace('\'', r"'\''"));
                    let mut options = vec![copy.as_str(), hook.as_str()];
                    if arch == Arch::Aarch64 {
                        options.push("--architectures=amd64,arm64");
                    }
                    debian::userland(SUITE, &packages, &options, &dir.join("root"))?;
                    // Intermediate files of all checkouts, beside their compiler: neither is of use without the other.
                    fs::create_dir(dir.join("build")).context("create the directory of intermediate files")
                },
            )
        })?;
        Ok(Chroot { artifact, arch })
    }

    /// A command that runs cargo in there, on this checkout at its own path: cargo then tells checkouts apart in the
    /// intermediate files that they share, and the names in its messages are true outside. `intermediate` is another place
    /// for these files, for a build that shares nothing.
    /// `std` are the parts of Rust's library that are built: [`STD`] or [`STD_FOR_TESTS`].
    pub fn cargo(
        &self,
        workspace: &Path,
        target_dir: &Path,
        intermediate: Option<&Path>,
        args: &[String],
        std: &str,
    ) -> Result<Command> {
        let root = self.artifact.path("root");
        let inside = root.join(workspace.strip_prefix("/").context("the checkout's path is not absolute")?);
        fs::create_dir_all(&inside).with_context(|| format!("create {}", inside.display()))?;
        let home = cargo_home()?;
        fs::create_dir_all(&home).with_context(|| format!("create {}", home.display()))?;
        let certificates = std::env::var_os("SSL_CERT_FILE")
            .unwrap_or_else(|| OsString::from("/etc/ssl/certs/ca-certificates.crt"));
        let shared = self.artifact.path("build");

        let mut command = debian::as_root("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c", ENTER, "enter"]);
        command.arg(&root).arg(workspace).arg(&home).arg(intermediate.unwrap_or(&shared)).arg(certificates);
        command.arg(format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid()));
        // Nothing of cargo's or rustup's environment may leak in from the `cargo lab` that runs this.
        command.args(["env", "-i", "-C"]).arg(workspace);
        command.args(environment(self.arch, target_dir, std));
        command
            .args(["cargo"])
            .args(args)
            .arg(format!("-Zbuild-std={std}"))
            .arg("-Zbuild-std-features=optimize_for_size");
        Ok(command)
    }

    /// Where a file is on this machine that cargo, in there, says is among the intermediate ones.
    pub fn outside(&self, inside: &Path) -> PathBuf {
        match inside.strip_prefix(BUILD) {
            Ok(relative) => self.artifact.path("build").join(relative),
            Err(_) => inside.to_owned(),
        }
    }

    /// What went into the binary besides crates: the versions of Rust's std and of musl.
    pub fn versions(&self) -> Result<Vec<(&'static str, String)>> {
        let root = self.artifact.path("root");
        let inside = |command: &[&str]| -> Result<String> {
            let text = debian::run(debian::as_root("chroot").arg(&root).args(command))?;
            Ok(text.trim().to_owned())
        };
        let rustc = inside(&["rustc", "--version"])?;
        let rust = rustc.split(' ').nth(1).with_context(|| format!("no version in {rustc:?}"))?;
        let package = format!("musl-dev:{}", self.arch.debian());
        let musl = inside(&["dpkg-query", "--show", "--showformat", "${source:Upstream-Version}", &package])?;
        Ok(vec![("rust-std", rust.to_owned()), ("musl", musl)])
    }
}

/// For rustc, but for what is for the machine that builds.
///
/// A sixth of the binary were tables by which a panic unwinds, which ours does not, and relocations at three times their
/// length: it is position-independent, and musl has understood the short form since 1.2.4.
fn flags(std: &str) -> String {
    let mut flags = String::from(
        "-C target-feature=+crt-static -C link-self-contained=no -L native=/opt/unwind \
         -C link-arg=-Wl,-z,pack-relative-relocs",
    );
    if std == STD {
        flags.push_str(" -C force-unwind-tables=no");
    }
    flags
}

fn environment(arch: Arch, target_dir: &Path, std: &str) -> Vec<OsString> {
    let variable = arch.target().replace('-', "_");
    let cc = match arch {
        Arch::X86_64 => "musl-gcc",
        Arch::Aarch64 => "/opt/unwind/musl-gcc",
    };
    let fixed = [
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOME", "/tmp".to_owned()),
        ("CARGO_HOME", "/opt/cargo".to_owned()),
        ("CARGO_BUILD_BUILD_DIR", BUILD.to_owned()),
        ("RUSTC_BOOTSTRAP", "1".to_owned()),
        ("RUSTFLAGS", flags(std)),
        ("CC", "gcc".to_owned()),
        (&*format!("CC_{variable}"), cc.to_owned()),
        (&*format!("CARGO_TARGET_{}_LINKER", variable.to_uppercase()), cc.to_owned()),
        // The user's cargo configuration may name tools that this chroot does not have.
        ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER", "gcc".to_owned()),
        ("RUSTC_WRAPPER", String::new()),
    ]
    .map(|(name, value)| OsString::from(format!("{name}={value}")));
    let mut target = OsString::from("CARGO_TARGET_DIR=");
    target.push(target_dir);
    let passed = PASSED.iter().filter_map(|name| {
        let mut pair = OsString::from(format!("{name}="));
        pair.push(std::env::var_os(name)?);
        Some(pair)
    });
    fixed.into_iter().chain([target]).chain(passed).collect()
}

/// The user's.
pub fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME").filter(|home: &OsString| home != OsStr::new("")) {
        return Ok(PathBuf::from(home));
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(Path::new(&home).join(".cargo"))
}
