//! A QEMU whose NVMe drives can be EC2's: `-device nvme,model=` (QEMU 11) and Amazon's PCI vendor.
//!
//! The system's own QEMU serves if it knows `model`; else Debian sid's is unpacked beside the system and started
//! through its own dynamic loader, touching nothing.
//!
//! QEMU's NVMe device has Red Hat's vendor id, 1b36:0010, in its PCI header and in Identify, and no property changes
//! it. nvme-agent rightly wants Amazon's, and the lab should test what ships, as it is configured when it ships: so the lab runs
//! a copy of the QEMU binary in which that one pair of constants is 1d0f:cd01, the instance store's. The copy is checked
//! by asking it (QMP `query-pci`) what it made, before anything relies on it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache::{Artifact, Cache, digest};
use crate::debian::{self, find_program, run};
use crate::dist::target::Arch;
use crate::progress::step;

/// `mov $0x1b36, %reg; mov $0x10, %reg`: Red Hat's vendor and the NVMe device id, as hw/nvme/ctrl.c passes them on.
const OLD_ID: (u32, u32) = (0x1b36, 0x0010);
/// Amazon's vendor id and the device id of an instance-store controller.
const NEW_ID: (u32, u32) = (0x1d0f, 0xcd01);

/// A QEMU that is ready to be started.
#[derive(Debug, Clone)]
pub struct Qemu {
    artifact: Artifact,
    unpacked: bool,
    arch: Arch,
    /// `QEMU emulator version …`
    pub version: String,
}

impl Qemu {
    /// Finds or makes the one that nearly all of the lab uses, for x86_64.
    pub fn get(cache: &Cache) -> Result<Qemu> {
        Qemu::get_for(cache, Arch::X86_64)
    }

    /// The same for one kind of machine.
    pub fn get_for(cache: &Cache, arch: Arch) -> Result<Qemu> {
        let (artifact, unpacked) = match system_qemu(arch) {
            Some(program) => (from_system(cache, arch, &program)?, false),
            None => (from_sid(cache, arch)?, true),
        };
        let mut qemu = Qemu { artifact, unpacked, arch, version: String::new() };
        qemu.version = run(qemu.command().arg("--version"))?.lines().next().unwrap_or_default().to_owned();
        Ok(qemu)
    }

    /// Which build this is, for recipes.
    pub fn id(&self) -> &str {
        &self.artifact.id
    }

    /// `qemu-system-x86_64` or its like, without arguments yet. It ends with the thread that starts it: a lab that is killed leaves no VM
    /// behind.
    pub fn command(&self) -> Command {
        let mut command = tied(self.program(&program_name(self.arch)));
        let share = if self.unpacked { self.artifact.path("usr/share") } else { PathBuf::from("/usr/share") };
        command.arg("-L").arg(share.join("qemu")).arg("-L").arg(share.join("seabios"));
        command
    }

    /// `qemu-img`, without arguments yet. Comes with x86_64's only.
    pub fn img(&self) -> Command {
        if self.unpacked { self.program("qemu-img") } else { Command::new("qemu-img") }
    }

    fn program(&self, name: &str) -> Command {
        program_in(&self.artifact.dir, self.unpacked, name)
    }
}

/// The same command under setpriv (util-linux), which gives it the signal and becomes it.
fn tied(command: Command) -> Command {
    let Some(setpriv) = find_program("setpriv") else { return command };
    let mut tied = Command::new(setpriv);
    tied.args(["--pdeathsig", "KILL"]).arg("--").arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(name, value),
            None => tied.env_remove(name),
        };
    }
    tied
}

fn program_in(dir: &Path, unpacked: bool, name: &str) -> Command {
    if !unpacked {
        return Command::new(dir.join(name));
    }
    let libraries = dir.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(dir.join("usr/lib64/ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(&libraries)
        .arg(dir.join("usr/bin").join(name))
        .env("QEMU_MODULE_DIR", libraries.join("qemu"));
    command
}

fn program_name(arch: Arch) -> String {
    format!("qemu-system-{}", arch.name())
}

/// The kind of board that has PCI Express and nothing odd.
fn board(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "q35",
        Arch::Aarch64 => "virt",
    }
}

/// What its artifacts are called.
fn artifact_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "qemu",
        Arch::Aarch64 => "qemu-aarch64",
    }
}

/// The machine's own QEMU, where it is new enough.
fn system_qemu(arch: Arch) -> Option<PathBuf> {
    let program = find_program(&program_name(arch))?;
    find_program("qemu-img")?;
    let help = run(Command::new(&program).args(["-M", board(arch), "-device", "nvme,help"])).ok()?;
    help.lines().any(|line| line.trim_start().starts_with("model=")).then_some(program)
}

fn from_system(cache: &Cache, arch: Arch, program: &Path) -> Result<Artifact> {
    let binary = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let recipe = format!("patched copy 1 of {} {}", program.display(), digest(&binary));
    cache.get(artifact_name(arch), &recipe, |dir| {
        fs::copy(program, dir.join(program_name(arch)))?;
        patch_and_check(dir, false, arch, &dir.join(program_name(arch)))
    })
}

fn from_sid(cache: &Cache, arch: Arch) -> Result<Artifact> {
    let (packages, parts): (&[&str], &[&str]) = match arch {
        Arch::X86_64 => (&["qemu-system-x86", "qemu-utils", "seabios"], &["bin/qemu-img", "share/seabios"]),
        Arch::Aarch64 => (&["qemu-system-arm"], &[]),
    };
    cache.get(artifact_name(arch), &format!("patched sid 2 {packages:?}"), |dir| {
        let what = format!("Unpacking QEMU for {} from Debian sid (nothing is installed)", arch.name());
        step(&what, || {
            let tar = dir.join("all.tar");
            debian::extract("sid", packages, &tar)?;
            let program = format!("bin/{}", program_name(arch));
            let always = [program.as_str(), "lib/x86_64-linux-gnu", "lib64", "share/qemu"];
            run(Command::new("tar")
                .arg("-C")
                .arg(dir)
                .arg("-xf")
                .arg(&tar)
                .args(always.iter().chain(parts).map(|part| format!("./usr/{part}"))))?;
            fs::remove_file(&tar)?;
            patch_and_check(dir, true, arch, &dir.join("usr").join(program))
        })
    })
}

fn patch_and_check(dir: &Path, unpacked: bool, arch: Arch, program: &Path) -> Result<()> {
    let mut binary = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    patch_ids(&mut binary).with_context(|| format!("give {} Amazon's NVMe vendor id", program.display()))?;
    // Never written in place: a copy that runs would say "text file busy", and a hard link would be changed everywhere.
    let fresh = program.with_extension("new");
    fs::write(&fresh, &binary)
        .and_then(|()| fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::rename(&fresh, program))
        .with_context(|| format!("write {}", program.display()))?;
    check_ids(program_in(dir, unpacked, &program_name(arch)), dir, unpacked, arch)
}

/// Replaces the one place where the binary loads both constants into registers.
fn patch_ids(binary: &mut [u8]) -> Result<()> {
    let loads = |at: usize, value: u32| {
        matches!(binary.get(at), Some(0xb8..=0xbf))
            && binary.get(at + 1..at + 5) == Some(&value.to_le_bytes())
    };
    let places: Vec<usize> = (0..binary.len().saturating_sub(10))
        .filter(|&at| loads(at, OLD_ID.0) && loads(at + 5, OLD_ID.1))
        .collect();
    let [at] = places[..] else {
        bail!("expected its constants once in the code, found them {} times", places.len());
    };
    binary[at + 1..at + 5].copy_from_slice(&NEW_ID.0.to_le_bytes());
    binary[at + 6..at + 10].copy_from_slice(&NEW_ID.1.to_le_bytes());
    Ok(())
}

/// Asks the patched binary for its NVMe device's ids.
fn check_ids(mut command: Command, dir: &Path, unpacked: bool, arch: Arch) -> Result<()> {
    let share = if unpacked { dir.join("usr/share") } else { PathBuf::from("/usr/share") };
    let questions = concat!(
        r#"{"execute":"qmp_capabilities"}"#,
        "\n",
        r#"{"execute":"query-pci"}"#,
        "\n",
        r#"{"execute":"quit"}"#,
        "\n"
    );
    let mut child = command
        .arg("-L")
        .arg(share.join("qemu"))
        .arg("-L")
        .arg(share.join("seabios"))
        .args([
            "-M",
            board(arch),
            "-accel",
            "tcg",
            "-m",
            "64",
            "-S",
            "-nodefaults",
            "-display",
            "none",
            "-qmp",
            "stdio",
        ])
        .args([
            "-blockdev",
            "null-co,node-name=d,size=1048576,read-zeroes=on",
            "-device",
            "nvme,drive=d,serial=s,model=m",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the patched QEMU")?;
    if let Some(mut input) = child.stdin.take() {
        std::io::Write::write_all(&mut input, questions.as_bytes()).context("ask the patched QEMU")?;
    }
    let output = child.wait_with_output().context("wait for the patched QEMU")?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let wanted = [format!("\"device\": {},", NEW_ID.1), format!("\"vendor\": {},", NEW_ID.0)];
    if !wanted.iter().all(|id| answer.contains(id)) {
        bail!(
            "the patched QEMU does not show {wanted:?}: {answer}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_only_an_unmistakable_place() {
        let code = [0xb9, 0x36, 0x1b, 0, 0, 0xba, 0x10, 0, 0, 0, 0xe9];
        let mut once = [&[0x90; 7][..], &code, &[0xb9, 0x36, 0x1b, 0, 0, 0xba, 0x11, 0, 0, 0, 0xe9]].concat();
        patch_ids(&mut once).unwrap();
        assert_eq!(&once[7..18], &[0xb9, 0x0f, 0x1d, 0, 0, 0xba, 0x01, 0xcd, 0, 0, 0xe9]);
        let mut twice = [code, code].concat();
        assert!(patch_ids(&mut twice).is_err());
        assert!(patch_ids(&mut once).is_err());
    }
}
