//! Debian as a source of parts: tools for the host, packages unpacked beside the system, whole userlands.
//!
//! The mirror and the keys are those that this machine's apt already uses, read when needed. On a host without a
//! Debian entry (Ubuntu) mmdebstrap's own default for the suite serves, with the keys of debian-archive-keyring.

use std::ffi::OsStr;
use std::fs;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::dist::target::Arch;
use crate::progress;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A command that runs as root: through sudo where we are not.
pub fn as_root(program: impl AsRef<OsStr>) -> Command {
    if nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    authorise();
    let mut command = Command::new("sudo");
    // apt and mmdebstrap need a proxy where one is set; sudo drops it otherwise.
    let kept = "--preserve-env=http_proxy,https_proxy,no_proxy,TMPDIR,DEBIAN_FRONTEND";
    command.args(["--non-interactive", kept]).arg("--").arg(program);
    command
}

/// Sees to it that sudo will ask nothing: if it wants a password it gets the terminal now, and not while a step that
/// counts seconds draws over its question. In a CI nobody could answer; there sudo itself says what is wrong.
fn authorise() {
    let silent = Command::new("sudo").args(["--non-interactive", "true"]).stdin(Stdio::null()).output();
    let settled = silent.is_ok_and(|output| output.status.success());
    if settled || std::env::var_os("CI").is_some() || !std::io::stderr().is_terminal() {
        return;
    }
    progress::aside(|| {
        eprintln!(
            "  sudo is needed: to install packages on this host and to build root filesystems of guests"
        );
        // Refused or not: the command that follows says so.
        let _ = Command::new("sudo").arg("--validate").status();
    });
}

/// Runs a command to its end. Its output is shown only if it fails, and is then part of the error.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let shown: String = shown.chars().take(400).collect();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {shown}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(100)..].join("\n");
        bail!("{shown}: {}\n{tail}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sees to it that each `(tool, package)` is there; installs the packages of those that are not, and says so.
pub fn ensure_host_tools(tools: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<&str> =
        tools.iter().filter(|(tool, _)| find_program(tool).is_none()).map(|(_, package)| *package).collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    if find_program("apt-get").is_none() {
        bail!("missing on this host: {} (no apt-get here to install them with)", missing.join(", "));
    }
    let sudo = if nix::unistd::geteuid().is_root() { "" } else { " with sudo" };
    let what = format!("Installing on this host{sudo}: {}", missing.join(" "));
    progress::step(&what, || {
        let install = |missing: &[&str]| {
            let mut command = as_root("apt-get");
            command.args(["install", "--yes", "--no-install-recommends"]).args(missing);
            run(command.env("DEBIAN_FRONTEND", "noninteractive")).map(drop)
        };
        // Package lists are usually there already; a fresh container has none.
        install(&missing).or_else(|_| {
            run(as_root("apt-get").arg("update"))?;
            install(&missing)
        })
    })?;
    match tools.iter().find(|(tool, _)| find_program(tool).is_none()) {
        Some((tool, package)) => bail!("{tool} is still not found after installing {package}"),
        None => Ok(()),
    }
}

/// The path of a program, looked for also where only root's PATH leads.
pub fn find_program(name: &str) -> Option<PathBuf> {
    if name.starts_with('/') {
        return Some(PathBuf::from(name)).filter(|path| path.exists());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

/// What mmdebstrap needs on the host, for [`ensure_host_tools`].
pub const MMDEBSTRAP_TOOLS: &[(&str, &str)] =
    &[("mmdebstrap", "mmdebstrap"), (KEYRING, "debian-archive-keyring"), ("tar", "tar")];

/// Downloads packages with all they depend on and unpacks them, without running or configuring anything, into a tar.
pub fn extract(suite: &str, packages: &[&str], tar: &Path) -> Result<()> {
    mmdebstrap(suite, "extract", packages, &[], tar)
}

/// The same for another kind of machine than this.
pub fn extract_for(arch: Arch, suite: &str, packages: &[&str], tar: &Path) -> Result<()> {
    let architecture = format!("--architectures={}", arch.debian());
    mmdebstrap(suite, "extract", packages, &[&architecture], tar)
}

/// Builds a whole userland into a tar. `options` are further options for mmdebstrap (hooks).
pub fn userland(suite: &str, packages: &[&str], options: &[&str], tar: &Path) -> Result<()> {
    let slim = [
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=force-unsafe-io",
    ];
    let options: Vec<&str> = slim.iter().chain(options).copied().collect();
    mmdebstrap(suite, "minbase", packages, &options, tar)
}

fn mmdebstrap(suite: &str, variant: &str, packages: &[&str], options: &[&str], tar: &Path) -> Result<()> {
    ensure_host_tools(MMDEBSTRAP_TOOLS)?;
    let mut command = as_root("mmdebstrap");
    command
        .arg(format!("--variant={variant}"))
        .arg(format!("--include={}", packages.join(",")))
        // A mirror that is some days behind still has valid signatures, which is what counts here.
        .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
        .args(host_apt_options().iter().map(|option| format!("--aptopt={option}")))
        .args(options)
        .arg(suite)
        .arg(tar)
        .args(host_mirror().map(|mirror| mirror.line(suite)));
    run(&mut command).with_context(|| format!("packages of Debian {suite}"))?;
    give_to_user(tar)
}

/// Makes a file that sudo wrote ours.
pub fn give_to_user(path: &Path) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let owner = format!("{}:{}", nix::unistd::geteuid(), nix::unistd::getegid());
    run(as_root("chown").arg("-R").arg(owner).arg(path)).map(drop)
}

/// Where this machine gets Debian from.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    uri: String,
    keyring: Option<String>,
}

impl Mirror {
    fn line(&self, suite: &str) -> String {
        let key = self.keyring.as_ref().map(|path| format!("[signed-by={path}] ")).unwrap_or_default();
        format!("deb {key}{} {suite} main", self.uri)
    }
}

/// The Debian archive in this machine's apt sources, if it has one.
fn host_mirror() -> Option<Mirror> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    let keyring = Path::new(KEYRING).exists().then(|| KEYRING.to_owned());
    files
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| debian_uri(&text))
        .map(|uri| Mirror { uri, keyring })
}

/// The first entry, in either of apt's two formats, whose address ends in `/debian` and that names a Debian suite.
fn debian_uri(text: &str) -> Option<String> {
    const SUITES: [&str; 9] =
        ["bullseye", "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable", "oldstable"];
    let fits = |uri: &str, suites: &[&str]| {
        uri.trim_end_matches('/').ends_with("/debian") && suites.iter().any(|suite| SUITES.contains(suite))
    };
    let one_line = text.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = if rest.starts_with('[') { rest.split_once(']')?.1 } else { rest };
        let mut words = rest.split_whitespace();
        let uri = words.next()?;
        fits(uri, &[words.next()?]).then(|| uri.to_owned())
    });
    let stanzas = text.split("\n\n").filter_map(|stanza| {
        let field = |name: &str| {
            stanza.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
        };
        let suites = field("Suites:")?;
        let suites: Vec<&str> = suites.split_whitespace().collect();
        field("URIs:")?.split_whitespace().find(|uri| fits(uri, &suites)).map(str::to_owned)
    });
    one_line.chain(stanzas).next()
}

/// Proxies and certificates of this machine's apt, which mmdebstrap's private apt would not know.
fn host_apt_options() -> Vec<String> {
    let Ok(text) = run(Command::new("apt-config").args(["dump", "--format", "%F \"%v\"%n", "Acquire"]))
    else {
        return Vec::new();
    };
    let wanted = ["::proxy ", "::cainfo ", "::proxy-auto-detect "];
    text.lines()
        .filter(|line| !line.ends_with("\"\"") && wanted.iter().any(|key| line.to_lowercase().contains(key)))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_from_either_format() {
        let stanza = "Types: deb\n# a comment\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n\
                      Components: main\n\nTypes: deb\nURIs: http://mirror.test/debian-security\nSuites: bookworm-security\n";
        assert_eq!(debian_uri(stanza).as_deref(), Some("http://mirror.test/debian"));
        let line = "# deb http://no.test/debian sid main\ndeb [arch=amd64 signed-by=/k] http://m.test/debian/ trixie main\n";
        assert_eq!(debian_uri(line).as_deref(), Some("http://m.test/debian/"));
        assert_eq!(debian_uri("deb http://m.test/ubuntu noble main\n"), None);
        assert_eq!(debian_uri("deb http://m.test/debian nodistro main\n"), None);
    }

    #[test]
    fn mirror_line_names_the_keyring() {
        let mirror = Mirror { uri: "http://m.test/debian".into(), keyring: Some("/k.gpg".into()) };
        assert_eq!(mirror.line("sid"), "deb [signed-by=/k.gpg] http://m.test/debian sid main");
    }
}
