//! A guest that has booted once, with what scenarios need loaded, saved whole. Restoring it takes a second or two, booting
//! one most of a minute.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cache::Artifact;
use crate::debian::run;
use crate::image::{Guest, Image};
use crate::kernel::Kernel;
use crate::lab::Lab;
use crate::machine::{Instance, Machine, Memory, PORTS, Slot, Spec};
use crate::progress::step;

/// Guest memory of every VM. 24 drives of 1 TiB with ext4 fit well.
pub const MEMORY_MIB: u32 = 1024;

/// Run in the guest before it is saved: modules that take seconds to load under emulation, and the page cache warm.
const WARM_UP: &str = "
    systemctl is-system-running --wait
    [ -z \"$(systemctl --failed --no-legend --plain)\" ]
    modprobe -a raid0 xfs dm_mod
    for tool in mdadm mkfs.ext4 mkfs.xfs mount blkid lsblk findmnt strace; do $tool --version || $tool -V || true; done
    truncate -s 64M /run/warm && mkfs.ext4 -q /run/warm && rm /run/warm
    udevadm settle
    sync
    fstrim / || true
";

/// A saved machine and what is needed to boot its like.
#[derive(Debug, Clone)]
pub struct Snapshot {
    artifact: Artifact,
    kernel: Kernel,
}

impl Snapshot {
    /// Finds or makes it.
    pub fn get(lab: &Lab, guest: Guest) -> Result<Snapshot> {
        let kernel = Kernel::get(&lab.cache, guest.kernel())?;
        let image = Image::get(&lab.cache, guest, &kernel)?;
        // What the machine is made of is code: its hash stands for it, so that a changed machine is never restored into.
        let code = concat!(include_str!("snapshot.rs"), include_str!("machine.rs"));
        let recipe = format!("{} {} {} {code}", lab.qemu.id(), kernel.id(), image.id());
        let artifact = lab.cache.get(&format!("snapshot-{}", guest.name()), &recipe, |dir| {
            step(&format!("Booting {} once and saving it", guest.name()), || save(lab, &kernel, &image, dir))
        })?;
        Ok(Snapshot { artifact, kernel })
    }

    /// The kernel that it runs.
    pub fn kernel(&self) -> PathBuf {
        self.kernel.vmlinux()
    }

    /// Memory to restore from.
    pub fn memory(&self) -> PathBuf {
        self.artifact.path("memory")
    }

    /// The devices' state.
    pub fn state(&self) -> PathBuf {
        self.artifact.path("state")
    }

    /// Makes an overlay of the root disk as it was when saved.
    pub fn overlay(&self, lab: &Lab, path: &Path) -> Result<()> {
        overlay(lab, &self.artifact.path("root.qcow2"), "qcow2", path)
    }
}

fn overlay(lab: &Lab, base: &Path, format: &str, path: &Path) -> Result<()> {
    run(lab.qemu.img().args(["create", "-q", "-f", "qcow2", "-F", format, "-b"]).arg(base).arg(path))
        .with_context(|| format!("make an overlay of {}", base.display()))
        .map(drop)
}

fn save(lab: &Lab, kernel: &Kernel, image: &Image, dir: &Path) -> Result<()> {
    let scratch = lab.run_dir()?;
    let root = dir.join("root.qcow2");
    overlay(lab, &image.path(), "raw", &root)?;
    let (vmlinux, console, instance) = (kernel.vmlinux(), dir.join("console.log"), Instance::default());
    let spec = Spec {
        memory_mib: MEMORY_MIB,
        memory: Memory::Save(dir.join("memory")),
        kernel: &vmlinux,
        append: "",
        root: &root,
        slots: &[Slot::Root],
        ports: PORTS,
        instance: &instance,
        extra: &[],
    };
    let booted = Machine::start(&lab.qemu, &spec, scratch.path(), &console).and_then(|mut machine| {
        machine.channel.ready(Duration::from_secs(240))?;
        let id = machine.channel.start(WARM_UP, "-e,-x")?;
        let output = machine.channel.wait(id, Duration::from_secs(300))?;
        if output.rc != 0 {
            bail!("warming up failed ({}): {}{}", output.rc, output.out, output.err);
        }
        machine.save(&dir.join("state"))
    });
    booted.with_context(|| {
        let log = fs::read_to_string(&console).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("the console ends with:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
    })
}
