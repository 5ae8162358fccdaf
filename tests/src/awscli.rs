//! The real `aws`, whose `eks get-token` is the credential plugin of AL2023's kubelet. It signs offline: with keys that
//! nobody has given out it prints a token that only STS would refuse.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::cache::{Artifact, Cache};
use crate::debian::{ensure_host_tools, run};
use crate::progress::step;

/// From PyPI; pinned, so that a new one breaks nothing on the day it comes out.
const REQUIREMENT: &str = "awscli==1.46.3";
/// Finds its modules beside itself, wherever that is: the directory can be copied, which a venv cannot.
const LAUNCHER: &str = "#!/bin/sh
here=$(dirname \"$(readlink -f \"$0\")\")
PYTHONPATH=$here/lib exec python3 -m awscli \"$@\"
";

/// `aws` and all that it needs but Python itself.
pub struct AwsCli(Artifact);

impl AwsCli {
    /// Installed into the user's cache directory once.
    ///
    /// # Errors
    /// PyPI cannot be reached, or there is no pip.
    pub fn get() -> Result<AwsCli> {
        let recipe = format!("1 {REQUIREMENT} {LAUNCHER}");
        let build = |dir: &std::path::Path| step(&format!("Installing {REQUIREMENT}"), || install(dir));
        Cache::open()?.get("awscli", &recipe, build).map(AwsCli)
    }

    /// The program.
    pub fn program(&self) -> PathBuf {
        self.0.path("awscli/aws")
    }

    /// `awscli/` as a compressed tar, for a guest: it needs Python 3.9 or later there. Where Python is another than this
    /// host's, `python3 -m compileall -q awscli/lib` after unpacking makes it start in a fraction of the time.
    pub fn tar(&self) -> PathBuf {
        self.0.path("awscli.tar.gz")
    }
}

fn install(dir: &std::path::Path) -> Result<()> {
    ensure_host_tools(&[("python3", "python3"), ("pip3", "python3-pip"), ("tar", "tar")])?;
    let home = dir.join("awscli");
    let lib = home.join("lib");
    fs::create_dir(&home).with_context(|| format!("create {}", home.display()))?;
    let quiet = ["--quiet", "--no-cache-dir", "--no-compile", "--disable-pip-version-check"];
    run(Command::new("pip3").arg("install").args(quiet).arg("--target").arg(&lib).arg(REQUIREMENT))
        .with_context(|| format!("install {REQUIREMENT} from PyPI"))?;
    // A fifth of the whole, and only for `aws help`.
    let examples = lib.join("awscli/examples");
    fs::remove_dir_all(&examples).with_context(|| format!("remove {}", examples.display()))?;
    // By the Python that the launcher will find: PATH of a plugin is the system's.
    run(Command::new("python3").env("PATH", "/usr/bin:/bin").args(["-m", "compileall", "-q"]).arg(&lib))
        .context("compile its modules")?;
    let launcher = home.join("aws");
    fs::write(&launcher, LAUNCHER)
        .and_then(|()| fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", launcher.display()))?;
    run(Command::new("tar").arg("-C").arg(dir).arg("-czf").arg(dir.join("awscli.tar.gz")).arg("awscli"))
        .context("pack it for guests")
        .map(drop)
}
