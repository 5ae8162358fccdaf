//! Kernels for the guests: Debian's, unpacked to the ELF file that QEMU boots fastest, and their modules, decompressed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cache::{Artifact, Cache};
use crate::debian::{self, ensure_host_tools, run};
use crate::dist::target::Arch;
use crate::progress::step;

/// Which kernel: a suite's cloud flavour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelKind {
    /// 6.1, as on older AL2023.
    Bookworm,
    /// 6.12.
    Trixie,
    /// Debian's newest.
    Sid,
    /// 6.12 for aarch64.
    TrixieArm64,
}

impl KernelKind {
    fn suite(self) -> &'static str {
        match self {
            KernelKind::Bookworm => "bookworm",
            KernelKind::Trixie | KernelKind::TrixieArm64 => "trixie",
            KernelKind::Sid => "sid",
        }
    }

    fn arch(self) -> Arch {
        match self {
            KernelKind::TrixieArm64 => Arch::Aarch64,
            _ => Arch::X86_64,
        }
    }
}

/// A kernel ready to boot: `vmlinux` (for aarch64 the Image, which has no compression) and `modules.tar` (`usr/lib/modules/…`).
#[derive(Debug, Clone)]
pub struct Kernel {
    artifact: Artifact,
}

impl Kernel {
    /// Finds or makes it.
    pub fn get(cache: &Cache, kind: KernelKind) -> Result<Kernel> {
        let (suite, arch) = (kind.suite(), kind.arch());
        let package = format!("linux-image-cloud-{}", arch.debian());
        let name = match arch {
            Arch::X86_64 => format!("kernel-{suite}"),
            Arch::Aarch64 => format!("kernel-{suite}-{}", arch.debian()),
        };
        let artifact = cache.get(&name, &format!("{package} 2"), |dir| {
            ensure_host_tools(&[("depmod", "kmod"), ("xz", "xz-utils")])?;
            let what = format!("Unpacking the kernel of Debian {suite} for {}", arch.name());
            step(&what, || build(dir, suite, arch, &package))
        })?;
        Ok(Kernel { artifact })
    }

    /// Which build this is, for recipes.
    pub fn id(&self) -> &str {
        &self.artifact.id
    }

    /// The uncompressed kernel.
    pub fn vmlinux(&self) -> PathBuf {
        self.artifact.path("vmlinux")
    }

    /// Its modules.
    pub fn modules(&self) -> PathBuf {
        self.artifact.path("modules.tar")
    }
}

fn build(dir: &Path, suite: &str, arch: Arch, package: &str) -> Result<()> {
    let tar = dir.join("all.tar");
    debian::extract_for(arch, suite, &[package], &tar)?;
    let root = dir.join("root");
    fs::create_dir(&root)?;
    // Up to bookworm modules are under /lib, later under /usr/lib.
    let wanted = ["--wildcards", "*/vmlinuz*", "*/lib/modules/*"];
    run(Command::new("tar").arg("-C").arg(&root).arg("-xf").arg(&tar).args(wanted).arg("--no-same-owner"))?;
    fs::remove_file(&tar)?;
    if root.join("lib").is_dir() {
        fs::create_dir_all(root.join("usr"))?;
        fs::rename(root.join("lib"), root.join("usr/lib"))?;
    }
    let modules = only_entry(&root.join("usr/lib/modules"))?;
    // Newer kernels come beside their modules.
    let beside = modules.join("vmlinuz");
    let image = if beside.exists() { beside } else { only_entry(&root.join("boot"))? };
    match arch {
        Arch::X86_64 => vmlinux(&image, &dir.join("vmlinux"))?,
        Arch::Aarch64 => {
            check_image(&image)?;
            fs::rename(&image, dir.join("vmlinux")).context("put the kernel in its place")?;
        }
    }
    for unused in ["vmlinuz", "System.map"] {
        let _ = fs::remove_file(modules.join(unused));
    }
    let version = modules.file_name().context("a modules directory")?.to_string_lossy().into_owned();
    fs::write(dir.join("version"), &version)?;
    // The guest's modprobe is slow enough without xz.
    run(Command::new("find").arg(&modules).args([
        "-name",
        "*.ko.xz",
        "-exec",
        "xz",
        "--decompress",
        "--threads=1",
        "{}",
        "+",
    ]))?;
    run(Command::new(debian::find_program("depmod").context("depmod")?)
        .arg("-b")
        .arg(root.join("usr"))
        .arg(&version))?;
    run(Command::new("tar")
        .arg("-C")
        .arg(&root)
        .args(["--owner=0", "--group=0", "-cf"])
        .arg(dir.join("modules.tar"))
        .arg("usr"))?;
    fs::remove_dir_all(&root).context("remove the unpacked kernel")
}

fn only_entry(dir: &Path) -> Result<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(dir)
        .with_context(|| format!("list {}", dir.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    match &entries[..] {
        [one] => Ok(one.clone()),
        other => bail!("expected one entry in {}, found {other:?}", dir.display()),
    }
}

/// Debian's arm64 kernels are the Image itself, which QEMU takes; a compressed one would have to be unpacked first. The magic:
/// Documentation/arch/arm64/booting.rst.
fn check_image(image: &Path) -> Result<()> {
    let bytes = fs::read(image).with_context(|| format!("read {}", image.display()))?;
    ensure!(bytes.get(0x38..0x3c) == Some(b"ARM\x64"), "{}: not an arm64 Image", image.display());
    Ok(())
}

/// Takes the compressed ELF file out of a bzImage. Offsets: Documentation/arch/x86/boot.rst.
fn vmlinux(image: &Path, out: &Path) -> Result<()> {
    let bytes = fs::read(image).with_context(|| format!("read {}", image.display()))?;
    let word = |at: usize| -> Result<usize> {
        let field = bytes.get(at..at + 4).context("the kernel image is too short")?;
        Ok(u32::from_le_bytes(field.try_into()?) as usize)
    };
    let setup_sectors = usize::from(*bytes.get(0x1f1).context("the kernel image is too short")?);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    // The last four bytes are the uncompressed size, which decompressors take for garbage.
    let payload =
        bytes.get(start..start + word(0x24c)?.saturating_sub(4)).context("no payload in the kernel image")?;
    let (tool, arguments): (&str, &[&str]) = match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", &["-dc"]),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("xz", &["-dc", "--single-stream"]),
        [0x1f, 0x8b, ..] => ("gzip", &["-dc"]),
        [0x02, 0x21, 0x4c, 0x18, ..] => ("lz4", &["-dc"]),
        other => bail!("unknown compression of {}: {:02x?}", image.display(), &other[..other.len().min(6)]),
    };
    ensure_host_tools(&[("zstd", "zstd"), ("xz", "xz-utils"), ("lz4", "lz4")])?;
    let packed = out.with_extension("packed");
    fs::write(&packed, payload)?;
    let status = Command::new(tool)
        .args(arguments)
        .stdin(fs::File::open(&packed)?)
        .stdout(fs::File::create(out)?)
        .status()
        .with_context(|| format!("start {tool}"))?;
    fs::remove_file(&packed)?;
    if !status.success() {
        bail!("{tool} could not unpack {}: {status}", image.display());
    }
    Ok(())
}
