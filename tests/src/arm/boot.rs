//! An aarch64 machine that runs some commands and goes off: Debian's arm64 kernel on QEMU's `virt` board with Graviton 2's
//! core, and an initramfs with busybox, mkfs and blkid.
//!
//! No systemd and no channel as in the other guests: what is to be shown is that the agent, its system calls and ioctls, and the
//! format of what it writes are right on this architecture. An initramfs is up in seconds; a whole userland would take minutes.
//! The firmware is none, so that there is no DMI and the machine has no instance id.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cache::{Artifact, Cache};
use crate::debian::{self, ensure_host_tools, run};
use crate::dist::target::Arch;
use crate::drive::{Drive, DriveSpec};
use crate::kernel::{Kernel, KernelKind};
use crate::lab::Lab;
use crate::progress::step;
use crate::qemu::Qemu;
use crate::runner::watchdog;

/// From QEMU's start until it has ended; some seconds are usual.
const DEADLINE: Duration = Duration::from_secs(300);

const SUITE: &str = "trixie";
const PACKAGES: &[&str] = &["busybox-static", "e2fsprogs", "util-linux"];
/// What of these packages, and of what they depend on, is taken: mkfs.ext4 and blkid with their libraries.
const MEMBERS: &[&str] = &[
    "./etc/mke2fs.conf",
    "./usr/bin/busybox",
    "./usr/sbin/blkid",
    "./usr/sbin/mke2fs",
    "./usr/sbin/mkfs.ext4",
    "./usr/lib/ld-linux-aarch64.so.1",
    "./usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
    "./usr/lib/aarch64-linux-gnu/libblkid.so.*",
    "./usr/lib/aarch64-linux-gnu/libc.so.*",
    "./usr/lib/aarch64-linux-gnu/libcom_err.so.*",
    "./usr/lib/aarch64-linux-gnu/libe2p.so.*",
    "./usr/lib/aarch64-linux-gnu/libext2fs.so.*",
    "./usr/lib/aarch64-linux-gnu/libuuid.so.*",
];
/// The kernel has NVMe and ext4 built in, and asks for these by itself when an array is made.
const MODULES: &[&str] =
    &["*/modules.dep", "*/modules.alias", "*/modules.builtin", "*/md-mod.ko", "*/raid0.ko"];
const INIT: &str = include_str!("../../guest/arm-init.sh");
const LAYOUT: &str = "mkdir -p dev proc run sys tmp var/lib
ln -s usr/bin bin
ln -s usr/lib lib
ln -s usr/sbin sbin
for applet in cat dmesg mount poweroff sed sh sync uname; do ln -s busybox usr/bin/$applet; done
ln -s ../bin/busybox usr/sbin/modprobe
chmod 755 init";

/// What came of one command.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Answer {
    /// The standard output of a command that must have succeeded.
    pub fn ok(&self) -> Result<&str> {
        ensure!(self.code == 0, "it ended with {}:\n{}{}", self.code, self.out, self.err);
        Ok(&self.out)
    }
}

/// What came of all of them, in their order.
#[derive(Debug)]
pub struct Run {
    pub answers: Vec<Answer>,
    /// From power on to power off.
    pub time: Duration,
}

/// Boots a machine with these drives and this agent at `/usr/bin/nvme-agent`, runs the commands in busybox's shell, one after
/// the other, and gives back what came of each. What the console showed is in `console.log` in `logs`.
///
/// # Errors
/// The machine is not off within five minutes, or it did not get to the end of the commands.
pub fn run_in_vm(
    lab: &Lab,
    agent: &Path,
    drives: &[DriveSpec],
    commands: &[&str],
    logs: &Path,
) -> Result<Run> {
    let (qemu, kernel, base) = watchdog::exempt(|| -> Result<_> {
        let qemu = Qemu::get_for(&lab.cache, Arch::Aarch64)?;
        let kernel = Kernel::get(&lab.cache, KernelKind::TrixieArm64)?;
        let base = base(&lab.cache, &kernel)?;
        Ok((qemu, kernel, base))
    })?;
    let dir = lab.run_dir()?;
    let initrd = dir.path().join("initrd");
    add_to(&base.path("base.cpio"), agent, commands, &initrd)?;
    let drives: Vec<Drive> = drives
        .iter()
        .enumerate()
        .map(|(index, spec)| Drive::create(spec, index, dir.path()))
        .collect::<Result<_>>()?;
    let console = logs.join("console.log");
    let mut command = qemu.command();
    command.args(arguments(&kernel.vmlinux(), &initrd, &drives, &console));
    let started = Instant::now();
    until_off(command, &logs.join("qemu.err")).with_context(|| format!("see {}", console.display()))?;
    let time = started.elapsed();
    let text = fs::read(&console).with_context(|| format!("read {}", console.display()))?;
    let answers = answers(&String::from_utf8_lossy(&text));
    ensure!(
        answers.len() == commands.len(),
        "{} of {} commands have ended; see {}",
        answers.len(),
        commands.len(),
        console.display()
    );
    Ok(Run { answers, time })
}

/// The initramfs but for the agent and the commands.
fn base(cache: &Cache, kernel: &Kernel) -> Result<Artifact> {
    let recipe = format!("{SUITE} {PACKAGES:?} {MEMBERS:?} {} {MODULES:?}\n{INIT}\n{LAYOUT}", kernel.id());
    cache.get("initramfs-arm64", &recipe, |dir| {
        ensure_host_tools(&[("tar", "tar")])?;
        step("Making an initramfs for aarch64", || {
            let (root, tar) = (dir.join("root"), dir.join("all.tar"));
            fs::create_dir(&root).with_context(|| format!("create {}", root.display()))?;
            debian::extract_for(Arch::Aarch64, SUITE, PACKAGES, &tar)?;
            unpack(&tar, MEMBERS, &root)?;
            unpack(&kernel.modules(), MODULES, &root)?;
            fs::write(root.join("init"), INIT).context("write init")?;
            run(Command::new("sh").args(["-ec", LAYOUT]).current_dir(&root))?;
            archive(&root, &dir.join("base.cpio"))?;
            fs::remove_file(&tar).with_context(|| format!("remove {}", tar.display()))?;
            fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))
        })
    })
}

fn unpack(tar: &Path, members: &[&str], to: &Path) -> Result<()> {
    run(Command::new("tar")
        .arg("-C")
        .arg(to)
        .args(["--no-same-owner", "--wildcards", "-xf"])
        .arg(tar)
        .args(members))
    .map(drop)
}

/// As the kernel takes it: cpio(5), "newc".
fn archive(dir: &Path, to: &Path) -> Result<()> {
    ensure_host_tools(&[("cpio", "cpio")])?;
    const SCRIPT: &str = r#"find . -mindepth 1 | cpio --quiet --create --format=newc --owner=0:0 >"$1""#;
    run(Command::new("sh").args(["-ec", SCRIPT, "archive"]).arg(to).current_dir(dir)).map(drop)
}

/// The kernel unpacks one archive after the other.
fn add_to(base: &Path, agent: &Path, commands: &[&str], initrd: &Path) -> Result<()> {
    let more = tempfile::tempdir().context("make a directory for the agent")?;
    let bin = more.path().join("usr/bin");
    fs::create_dir_all(&bin).with_context(|| format!("create {}", bin.display()))?;
    fs::copy(agent, bin.join("nvme-agent")).with_context(|| format!("copy {}", agent.display()))?;
    let mut lines = commands.join("\n");
    lines.push('\n');
    fs::write(more.path().join("commands"), lines).context("write the commands")?;
    let second = initrd.with_extension("more");
    archive(more.path(), &second)?;
    let mut bytes = fs::read(base).with_context(|| format!("read {}", base.display()))?;
    bytes.extend(fs::read(&second).with_context(|| format!("read {}", second.display()))?);
    fs::write(initrd, bytes).with_context(|| format!("write {}", initrd.display()))
}

fn arguments(kernel: &Path, initrd: &Path, drives: &[Drive], console: &Path) -> Vec<String> {
    let path = |path: &Path| path.display().to_string();
    let mut list: Vec<String> = ["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned).into();
    let mut add = |option: &str, value: String| list.extend([option.to_owned(), value]);
    add("-machine", "virt".to_owned());
    add("-accel", "tcg,thread=multi".to_owned());
    // Graviton 2's.
    add("-cpu", "neoverse-n1".to_owned());
    add("-smp", "2".to_owned());
    add("-m", "512M".to_owned());
    add("-display", "none".to_owned());
    add("-chardev", format!("file,id=console,path={}", path(console)));
    add("-serial", "chardev:console".to_owned());
    add("-kernel", path(kernel));
    add("-initrd", path(initrd));
    add("-append", "console=ttyAMA0 mitigations=off cryptomgr.notests audit=0 panic=1".to_owned());
    for (number, drive) in drives.iter().enumerate() {
        let node = format!("f{number}");
        add("-blockdev", drive.block_node(&node).to_string());
        add("-device", drive.device(&node, &format!("n{number}"), "pcie.0").to_string());
    }
    list
}

/// Runs QEMU to its end, or ends it.
fn until_off(mut command: Command, errors: &Path) -> Result<()> {
    let file = fs::File::create(errors).with_context(|| format!("create {}", errors.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .context("start QEMU for aarch64")?;
    let end = Instant::now() + DEADLINE;
    loop {
        match child.try_wait().context("wait for QEMU")? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                bail!("QEMU: {status}: {}", fs::read_to_string(errors).unwrap_or_default())
            }
            None if Instant::now() > end => {
                // An error means that it has ended this moment.
                let _ = child.kill();
                child.wait().context("wait for QEMU")?;
                bail!("the machine has not gone off within {} s", DEADLINE.as_secs());
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// What `arm-init.sh` tells the console; a serial line's ends of line are CR LF.
fn answers(console: &str) -> Vec<Answer> {
    let (mut answers, mut answer) = (Vec::new(), Answer::default());
    for line in console.lines() {
        let Some((kind, text)) = line.strip_prefix("LAB ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        match kind {
            "out" => answer.out.extend([text, "\n"]),
            "err" => answer.err.extend([text, "\n"]),
            "end" => {
                answer.code = text.trim().parse().unwrap_or(-1);
                answers.push(std::mem::take(&mut answer));
            }
            _ => {}
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_the_kernels_messages() {
        let console = "[    0.1] Booting\r\nLAB out one\r\nLAB out  two\r\nLAB err odd\r\nLAB end 3\r\n\
                       [    5.0] md0: detected\r\nLAB end 0\r\nLAB out of an unfinished one\r\n";
        let answers = answers(console);
        assert_eq!(answers.len(), 2);
        assert_eq!((answers[0].code, answers[0].out.as_str()), (3, "one\n two\n"));
        assert!(answers[0].ok().unwrap_err().to_string().contains("odd"));
        assert_eq!(answers[1], Answer::default());
    }
}
