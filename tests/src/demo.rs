//! `cargo lab demo`: the main job in a VM, on a machine that has nothing but Rust yet. What is missing is made and said; then a
//! guest with an EBS root volume and two instance-store drives goes through an instance's life, and every claim on the
//! way is checked: the verdict at the end is about these checks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::boot::{BlankDrives, Boot, ROOT};
use crate::drive::{DriveSpec, TIB};
use crate::image::Guest;
use crate::lab::Lab;
use crate::progress::step;
use crate::runner::{agent_under_test, logs_root};
use crate::snapshot::Snapshot;
use crate::vm::Vm;

use transcript::{Kind, Transcript, minutes};

pub mod svg;
pub mod transcript;

const LSBLK: &str = "lsblk -o NAME,SIZE,FSTYPE,MOUNTPOINTS,MODEL,SERIAL";

/// What the command line says.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Draw what was shown as a picture of a terminal
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Runs it. False where something that was shown is not as it should be.
pub fn run(args: &Args) -> Result<bool> {
    let lab = Lab::open()?;
    let agent = agent_under_test()?;
    Snapshot::get(&lab, Guest::Trixie)?;
    let logs = logs_root().join("demo");
    let mut demo = Demo { show: Transcript::new(), good: 0, bad: 0 };
    let _ = fs::remove_dir_all(&logs);
    let mut vm = Vm::restore(&lab, Guest::Trixie, &logs)?;
    if let Err(error) = demo.life(&mut vm, &agent) {
        demo.bad += 1;
        demo.show.line(Kind::Bad, format!("stopped: {error:#}"));
    }
    if demo.bad > 0 {
        vm.autopsy();
    }
    demo.verdict(&logs);
    if let Some(file) = &args.svg {
        fs::write(file, svg::render("cargo lab demo", demo.show.lines()))
            .with_context(|| format!("write {}", file.display()))?;
        eprintln!("  picture: {}", file.display());
    }
    Ok(demo.bad == 0)
}

struct Demo {
    show: Transcript,
    good: usize,
    bad: usize,
}

impl Demo {
    fn life(&mut self, vm: &mut Vm, agent: &Path) -> Result<()> {
        self.show.heading("A fresh instance: an EBS root volume and two instance-store drives");
        vm.plug(&DriveSpec::many(2, TIB))?;
        vm.push(agent, "/usr/local/sbin/nvme-agent-download")?;
        self.guest(vm, LSBLK)?;
        self.guest(vm, "findmnt /tmp")?;

        self.show.heading("Install and set up, as userData does");
        vm.ok("mkdir -p /var/lib/nvme-agent; mv /usr/local/sbin/nvme-agent-download /var/lib/nvme-agent/nvme-agent")?;
        self.guest(vm, "/var/lib/nvme-agent/nvme-agent install")?;
        self.guest(vm, "nvme-agent setup")?;
        self.ready(vm)?;
        self.guest(
            vm,
            "setpriv --reuid=1000 --regid=1000 --clear-groups sh -c 'echo hello > /tmp/greeting'",
        )?;
        let made = identity(vm)?;
        vm.ok("sync")?;

        self.show.heading("Reboot; the kernel numbers the NVMe devices otherwise");
        let boot = step("Rebooting", || vm.boot_again(&[1, ROOT, 0], BlankDrives::Keep))?;
        self.booted(vm, &boot)?;
        self.guest(vm, LSBLK)?;
        let first = vm.device(0)?;
        self.check(first == "nvme2n1", &format!("the root volume is nvme1n1 now, the first drive {first}"));
        self.ready(vm)?;
        let kept = self.guest(vm, "cat /tmp/greeting")?;
        self.check(kept == "hello" && identity(vm)? == made, "the same filesystem, the file is kept");

        self.show.heading("Stop and start: other drives, blank; the root volume is the same");
        let boot = step("Stopping and starting", || vm.boot_again(&[0, 1], BlankDrives::Replaced))?;
        self.booted(vm, &boot)?;
        self.guest(vm, "nvme-agent status")?;
        self.ready(vm)?;
        self.check(vm.sh("test -e /tmp/greeting")?.rc == 1, "a new, empty filesystem on the new drives");
        Ok(())
    }

    /// Runs a command in the guest and shows it and what it printed; returns that.
    fn guest(&mut self, vm: &mut Vm, command: &str) -> Result<String> {
        self.show.line(Kind::Command, format!("# {command}"));
        let output = vm.sh(command)?;
        let text = output.out + &output.err;
        self.show.output(&text);
        if output.rc != 0 {
            bail!("{command}: exit code {}", output.rc);
        }
        Ok(text.trim_end().to_owned())
    }

    fn check(&mut self, good: bool, claim: &str) {
        if good {
            self.good += 1;
            self.show.line(Kind::Good, format!("ok: {claim}"));
        } else {
            self.bad += 1;
            self.show.line(Kind::Bad, format!("NOT SO: {claim}"));
        }
    }

    fn booted(&mut self, vm: &mut Vm, boot: &Boot) -> Result<()> {
        let seconds = boot
            .seconds
            .map_or("never".to_owned(), |seconds| format!("{seconds:.0} s after the kernel began"));
        self.show.line(Kind::Event, format!("(booted in {:.0} s; default.target {seconds})", boot.wall));
        let failed = if boot.failed.is_empty() { "none".to_owned() } else { boot.failed.join(", ") };
        let clean = boot.clean().is_ok() && vm.sh("systemctl is-active --quiet dbus")?.rc == 0;
        self.check(clean, &format!("the system is {}, failed units: {failed}", boot.state));
        Ok(())
    }

    /// The state that the agent reports, and what a program on the node would find.
    fn ready(&mut self, vm: &mut Vm) -> Result<()> {
        let status = vm.sh("nvme-agent status")?;
        let word = status.out.split_whitespace().next().unwrap_or_default().to_owned();
        let mount =
            vm.sh("findmnt -no SOURCE,FSTYPE,SIZE,OPTIONS --mountpoint /tmp -t ext4; stat -c %a /tmp")?.out;
        let mount = mount.split_whitespace().collect::<Vec<_>>().join(" ");
        let writable =
            vm.sh("setpriv --reuid=1000 --regid=1000 --clear-groups sh -c ': > /tmp/x && rm /tmp/x'")?.rc
                == 0;
        let good = status.rc == 0
            && word == "ready"
            && mount.contains("noatime")
            && mount.ends_with("1777")
            && writable;
        self.check(good, &format!("{word}: /tmp is {mount}"));
        Ok(())
    }

    fn verdict(&mut self, logs: &Path) {
        let took = minutes(self.show.elapsed());
        self.show.line(Kind::Output, "");
        if self.bad == 0 {
            let text = format!("PASSED: all {} checks hold. {took} minutes in the VM.", self.good);
            self.show.line(Kind::Good, text);
        } else {
            let text = format!("FAILED: {} of {} checks do not hold.", self.bad, self.good + self.bad);
            self.show.line(Kind::Bad, text);
            self.show.line(Kind::Event, format!("Logs: {}", logs.display()));
        }
    }
}

fn identity(vm: &mut Vm) -> Result<String> {
    vm.ok("findmnt -no UUID --mountpoint /tmp -t ext4; mdadm --detail --export /dev/md0 | grep MD_UUID")
}
