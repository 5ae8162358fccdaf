//! rpm and deb: made, installed, upgraded and removed by the rpm and dpkg of this machine, each in a root of its own with nothing
//! in it but busybox and a systemctl that writes down what it is asked. No VM: scripts and files are all that a package is.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nvme_agent::install::hook::{KUBELET_HOOK, NODEADM_HOOK};
use nvme_agent::node::features::FEATURE_PATH;
use nvme_agent::node::registration::DROP_IN_PATH;

use crate::cache::Cache;
use crate::debian::{self, as_root, run};
use crate::dist::package::{self, Content};
use crate::dist::{manual, target::Arch};
use crate::runner::{Ctx, Scenario, Tier, agent_binary, workspace};

pub const SCENARIOS: &[Scenario] = &[Scenario { name: "packages", tier: Tier::Normal, run: packages }];

const TIME: i64 = 1_700_000_000;
/// What both have; manual pages and the licence besides.
const FILES: [&str; 12] = [
    "/etc/nvme-agent/config.toml",
    "/usr/bin/nvme-agent",
    "/usr/lib/systemd/system-preset/90-nvme-agent.preset",
    "/usr/lib/systemd/system/nvme-agent-metrics.service",
    "/usr/lib/systemd/system/nvme-agent-metrics.timer",
    "/usr/lib/systemd/system/nvme-agent-report.service",
    "/usr/lib/systemd/system/nvme-agent-report.timer",
    "/usr/lib/systemd/system/nvme-agent.service",
    "/usr/lib/udev/rules.d/64-nvme-agent-md.rules",
    "/usr/share/bash-completion/completions/nvme-agent",
    "/usr/share/fish/vendor_completions.d/nvme-agent.fish",
    "/usr/share/nvme-agent/status-1.json",
];
const UNITS: &str = "nvme-agent.service nvme-agent-report.service nvme-agent-report.timer nvme-agent-metrics.service \
                     nvme-agent-metrics.timer";
/// Who wants them; a service that its timer starts is wanted by nobody.
const WANTED_BY: [Option<&str>; 5] =
    [Some("basic.target"), Some("kubelet.service"), Some("timers.target"), None, Some("timers.target")];
const TEXTFILE: &str = "/var/lib/node_exporter/textfile_collector/nvme-agent.prom";
/// What the removal of the deb leaves for the next installation.
const MARK: &str = "/var/lib/nvme-agent/enabled-before-removal";

/// ROOT, BUSYBOX. A node's units, fstab and records of ours: what the package must not touch. Its systemctl says of every unit that it is
/// enabled, but for those named in /off.
const MAKE_ROOT: &str = r#"set -e
cd "$1"
mkdir -p bin dev off tmp usr/bin usr/lib/systemd/system etc/systemd/system etc/nvme-agent etc/eks/nodeadm.d \
    etc/kubernetes/node-feature-discovery/features.d etc/systemd/system/kubelet.service.d \
    var/lib/dpkg/info var/lib/dpkg/updates var/lib/nvme-agent var/lib/node_exporter/textfile_collector
cp "$2" bin/busybox
for applet in sh cat head tail sed sort tr mkdir rm rmdir printf echo; do ln -s busybox bin/$applet; done
cat >bin/systemctl <<'END'
#!/bin/sh
echo "$*" >>/systemctl.log
[ "$1" != is-enabled ] || if [ -e "/off/$2" ]; then echo disabled; else echo enabled; fi
END
chmod 755 bin/systemctl
mknod -m 666 dev/null c 1 3
touch var/lib/dpkg/status systemctl.log
printf '[Service]\nExecStart=/bin/true\n' >usr/lib/systemd/system/nodeadm-run.service
echo 'UUID=1 /tmp ext4 noatime,x-nvme-agent,nofail 0 0' >etc/fstab
echo '{}' >var/lib/nvme-agent/record.json
"#;

fn packages(_: &Ctx) -> Result<()> {
    debian::ensure_host_tools(&[("rpm", "rpm"), ("dpkg", "dpkg"), ("systemctl", "systemd")])?;
    let work = tempfile::tempdir().context("make a directory")?;
    let agent = agent_binary().context("no agent has been built")?;
    let dist = work.path().join("dist");
    manual::write(nvme_agent::cli::command(), &dist)?;
    let content =
        Content { workspace: &workspace(), dist: &dist, binary: &agent, arch: Arch::X86_64, time: TIME };
    let first = package::make(&content, "0.1.0", work.path())?;
    let before: Vec<Vec<u8>> = first.iter().map(fs::read).collect::<Result<_, _>>()?;
    // Written anew, at another time, in another directory.
    let elsewhere = work.path().join("elsewhere");
    manual::write(nvme_agent::cli::command(), &elsewhere)?;
    package::make(&Content { dist: &elsewhere, ..content }, "0.1.0", work.path())?;
    let again: Vec<Vec<u8>> = first.iter().map(fs::read).collect::<Result<_, _>>()?;
    ensure!(before == again, "the same content does not make the same packages");
    let second = package::make(&Content { time: TIME + 60, ..content }, "0.2.0", work.path())?;
    let busybox = busybox()?;
    for (kind, first, second) in [(Kind::Deb, &first[0], &second[0]), (Kind::Rpm, &first[1], &second[1])] {
        (|| {
            lists(kind, first)?;
            life(Root::new(kind, &busybox)?, &agent, first, second)?;
            amazon_linux_2(Root::new(kind, &busybox)?, first)
        })()
        .with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rpm,
    Deb,
}

fn lists(kind: Kind, file: &Path) -> Result<()> {
    let own = match kind {
        Kind::Rpm => ["/usr/share/licenses/nvme-agent/LICENSE", "/usr/share/zsh/site-functions/_nvme-agent"],
        Kind::Deb => ["/usr/share/doc/nvme-agent/copyright", "/usr/share/zsh/vendor-completions/_nvme-agent"],
    };
    let listed = match kind {
        Kind::Rpm => run(Command::new("rpm").args(["-qp", "--nosignature", "-lv"]).arg(file))?,
        Kind::Deb => run(Command::new("dpkg-deb").arg("--contents").arg(file))?,
    };
    let mut found: Vec<&str> = Vec::new();
    let mut pages = Vec::new();
    for line in listed.lines().filter(|line| line.starts_with('-')) {
        let path = line.rsplit(' ').next().unwrap_or_default().trim_start_matches('.');
        let mode = if path == "/usr/bin/nvme-agent" { "-rwxr-xr-x" } else { "-rw-r--r--" };
        ensure!(line.starts_with(mode) && line.contains("root"), "{line}");
        match path.strip_prefix("/usr/share/man/man8/") {
            Some(page) => pages.push(page),
            None => found.push(path),
        }
    }
    let mut wanted: Vec<&str> = FILES.into_iter().chain(own).collect();
    wanted.sort_unstable();
    found.sort_unstable();
    ensure!(found == wanted, "{found:?}");
    ensure!(pages.contains(&"nvme-agent-setup.8.gz") && pages.len() > 5, "{pages:?}");
    if kind == Kind::Rpm {
        // What the rpm 4.11 of Amazon Linux 2 knows; zstd would need a later one.
        let needs = run(Command::new("rpm").args(["-qp", "--nosignature", "--requires"]).arg(file))?;
        let rpmlib = ["CompressedFileNames", "FileDigests", "PayloadFilesHavePrefix"];
        let known = |line: &str| rpmlib.iter().any(|name| line.starts_with(&format!("rpmlib({name})")));
        ensure!(needs.lines().all(known), "{needs}");
    }
    Ok(())
}

/// A root to install into; whoever is no root removes it as root.
struct Root {
    kind: Kind,
    dir: PathBuf,
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = run(as_root("rm").arg("-rf").arg(&self.dir));
    }
}

impl Root {
    fn new(kind: Kind, busybox: &Path) -> Result<Root> {
        let dir = tempfile::Builder::new().prefix("nvme-agent-packages").tempdir()?.keep();
        let root = Root { kind, dir };
        run(as_root("sh").args(["-c", MAKE_ROOT, "make"]).arg(&root.dir).arg(busybox))?;
        Ok(root)
    }

    /// Installs or upgrades; gives back what systemctl was asked meanwhile.
    fn install(&self, file: &Path) -> Result<String> {
        self.package_tool(&["-U", "--nosignature", "--nodeps"], &["--force-depends", "--install"], file)
    }

    fn remove(&self) -> Result<String> {
        self.package_tool(&["-e", "--nodeps"], &["--remove"], Path::new("nvme-agent"))
    }

    /// With its configuration, and what it remembers; rpm knows no difference.
    fn purge(&self) -> Result<String> {
        self.package_tool(&["-e", "--nodeps"], &["--purge"], Path::new("nvme-agent"))
    }

    fn package_tool(&self, rpm: &[&str], dpkg: &[&str], what: &Path) -> Result<String> {
        self.sh(": >systemctl.log")?;
        match self.kind {
            Kind::Rpm => run(as_root("rpm").arg("--root").arg(&self.dir).args(rpm).arg(what))?,
            Kind::Deb => {
                let root = format!("--root={}", self.dir.display());
                // No question about the configuration that was changed: as cloud-init and unattended upgrades do it.
                run(as_root("dpkg")
                    .arg(root)
                    .args(["--force-confold", "--force-unsafe-io"])
                    .args(dpkg)
                    .arg(what))?
            }
        };
        self.sh("cat systemctl.log")
    }

    /// A script of this machine's, in the root's directory.
    fn sh(&self, script: &str) -> Result<String> {
        run(as_root("sh").args(["-ec", script]).current_dir(&self.dir))
    }

    fn has(&self, path: &str) -> bool {
        self.dir.join(path.trim_start_matches('/')).symlink_metadata().is_ok()
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let script = format!("cat >'.{path}' <<'END'\n{text}\nEND\n");
        self.sh(&script).map(drop)
    }
}

/// Over an earlier `nvme-agent install`, on a node whose policy is no-join; then an upgrade, then the end.
fn life(root: Root, agent: &Path, first: &Path, second: &Path) -> Result<()> {
    root.write("/etc/nvme-agent/config.toml", "on_failure = \"no-join\"\ntarget = \"/data\"")?;
    run(as_root(agent).arg("--root").arg(&root.dir).arg("install"))?;
    let shadows = ["/etc/systemd/system/nvme-agent.service", "/etc/udev/rules.d/64-nvme-agent-md.rules"];
    ensure!(shadows.iter().all(|path| root.has(path)), "nvme-agent install wrote no unit");

    let asked = root.install(first)?;
    ensure!(asked.trim() == format!("--no-reload preset {UNITS}"), "systemctl was asked: {asked}");
    ensure!(
        !shadows.iter().any(|path| root.has(path)),
        "an earlier install keeps the packaged unit out of force"
    );
    let target = "/etc/systemd/system/nvme-agent.service.d/50-target.conf";
    ensure!(root.has(target) && root.has(NODEADM_HOOK), "the drop-ins of the configuration are gone");
    ensure!(
        root.sh(&format!("cat .{NODEADM_HOOK}"))?.contains("=/usr/bin/nvme-agent gate"),
        "another binary"
    );
    let unit = root.sh("cat usr/lib/systemd/system/nvme-agent.service")?;
    ensure!(unit == nvme_agent::install::UNIT, "the packaged unit is not the one of `install`");
    // This machine's systemctl does what the root's was asked to.
    root.sh(&format!("rm -rf etc/systemd/system/*.wants; systemctl --root=. preset {UNITS} 2>&1"))?;
    for (wants, name) in WANTED_BY.iter().zip(UNITS.split(' ')) {
        let Some(wants) = wants else { continue };
        ensure!(root.has(&format!("/etc/systemd/system/{wants}.wants/{name}")), "{name} is not preset");
    }

    root.sh("mkdir -p run/systemd/system; systemctl --root=. disable nvme-agent-report.timer 2>&1
        touch off/nvme-agent-report.timer")?;
    let asked = root.install(second)?;
    ensure!(asked.lines().all(|line| line == "daemon-reload"), "an upgrade asked systemctl: {asked}");
    ensure!(
        !asked.is_empty() && !root.has("/etc/systemd/system/timers.target.wants/nvme-agent-report.timer")
    );
    let config = root.sh("cat etc/nvme-agent/config.toml")?;
    ensure!(config.starts_with("on_failure = \"no-join\""), "an upgrade changed the configuration: {config}");

    let theirs = "[Service]\nExecStartPre=/opt/theirs";
    root.write(KUBELET_HOOK, theirs)?;
    root.write(DROP_IN_PATH, "state: ready")?;
    root.write(FEATURE_PATH, "# nvme-agent: the local NVMe storage of this node. Rewritten at every boot.")?;
    root.write(TEXTFILE, "nvme_agent_state{state=\"ready\"} 1")?;
    let kept = "cat etc/fstab var/lib/nvme-agent/record.json";
    let before = root.sh(kept)?;
    let asked = root.remove()?;
    let lines: Vec<&str> = asked.lines().filter(|line| !line.starts_with("is-enabled ")).collect();
    let stopped = "stop nvme-agent-report.timer nvme-agent-metrics.timer".to_owned();
    let expected = [format!("--no-reload disable {UNITS}"), stopped];
    ensure!(lines[..2] == expected && lines[2..].iter().all(|l| *l == "daemon-reload"), "{asked}");
    for path in [NODEADM_HOOK, DROP_IN_PATH, FEATURE_PATH, TEXTFILE, target, "/usr/bin/nvme-agent"] {
        ensure!(!root.has(path), "{path} is left");
    }
    ensure!(root.sh(kept)? == before, "what is mounted was touched");
    ensure!(root.sh(&format!("cat .{KUBELET_HOOK}"))?.trim_end() == theirs, "another's file was touched");
    let saved = match root.kind {
        Kind::Rpm => "/etc/nvme-agent/config.toml.rpmsave",
        Kind::Deb => "/etc/nvme-agent/config.toml",
    };
    ensure!(root.sh(&format!("cat .{saved}"))? == config, "the configuration is lost");
    back(&root, second)
}

/// Installed again after a removal. dpkg calls it an upgrade of the version that was removed: what the removal disabled is enabled, what
/// the administrator had disabled is not. To rpm it is a first installation.
fn back(root: &Root, file: &Path) -> Result<()> {
    let asked = root.install(file)?;
    let asked: Vec<&str> = asked.lines().filter(|line| *line != "daemon-reload").collect();
    let expected = match root.kind {
        Kind::Rpm => format!("--no-reload preset {UNITS}"),
        Kind::Deb => format!("--no-reload enable {}", UNITS.replace("nvme-agent-report.timer ", "")),
    };
    ensure!(asked == [expected.as_str()], "installed again, systemctl was asked: {asked:?}");
    ensure!(!root.has(MARK), "{MARK} is left: the next upgrade would enable units");
    if root.kind == Kind::Deb {
        root.remove()?;
        ensure!(root.has(MARK), "a removal leaves no {MARK}");
        root.purge()?;
        ensure!(!root.has(MARK), "a purge leaves {MARK}");
        ensure!(root.has("/var/lib/nvme-agent/record.json"), "a purge takes our records");
        let asked = root.install(file)?;
        ensure!(asked.contains(&format!("--no-reload preset {UNITS}")), "after a purge: {asked}");
    }
    Ok(())
}

/// systemd 219 would forbid the agent every system call.
fn amazon_linux_2(root: Root, file: &Path) -> Result<()> {
    root.write("/etc/os-release", "NAME=\"Amazon Linux\"\nVERSION=\"2\"\nID=\"amzn\"\nVERSION_ID=\"2\"")?;
    root.install(file)?;
    let drop_ins = ["nvme-agent", "nvme-agent-report", "nvme-agent-metrics"]
        .map(|name| format!("/etc/systemd/system/{name}.service.d/10-systemd-219.conf"));
    for path in &drop_ins {
        ensure!(root.sh(&format!("cat .{path}"))?.ends_with("[Service]\nSystemCallFilter=\n"), "{path}");
    }
    root.remove()?;
    ensure!(!drop_ins.iter().any(|path| root.has(path)), "a drop-in is left");
    root.write("/etc/os-release", "ID=\"amzn\"\nVERSION_ID=\"2023\"")?;
    root.install(file)?;
    ensure!(!drop_ins.iter().any(|path| root.has(path)), "Amazon Linux 2023 knows the filter");
    Ok(())
}

/// A shell that needs nothing of the root that it is in.
fn busybox() -> Result<PathBuf> {
    const PACKAGE: &str = "busybox-static";
    let artifact = Cache::open()?.get("busybox", &format!("1 trixie {PACKAGE}"), |dir| {
        let tar = dir.join("busybox.tar");
        debian::extract("trixie", &[PACKAGE], &tar)?;
        let member = run(Command::new("tar").arg("-tf").arg(&tar))?;
        let member = member.lines().find(|line| line.ends_with("bin/busybox")).context("no busybox in it")?;
        run(Command::new("tar").arg("-C").arg(dir).arg("-xf").arg(&tar).arg(member))?;
        fs::rename(dir.join(member), dir.join("shell")).context("put busybox in its place")?;
        fs::remove_file(&tar).with_context(|| format!("remove {}", tar.display()))
    })?;
    Ok(artifact.path("shell"))
}
