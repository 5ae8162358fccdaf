//! Root disks of the guests: a Debian userland, a kernel's modules and the lab's channel on one GPT partition.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache::{Artifact, Cache};
use crate::debian::{self, as_root, ensure_host_tools, give_to_user, run};
use crate::kernel::{Kernel, KernelKind};
use crate::progress::step;

/// The root partition, wherever its drive turns up: NVMe numbers move.
pub const ROOT_PARTUUID: &str = "5eb5a0a2-6c1f-4d5e-9a3b-0c5a5e6f7a01";
const ROOT_MIB: u32 = 6144;

/// Everything a scenario may want to put on a drive, or to look at one with.
const TOOLS: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "mdadm",
    "e2fsprogs",
    "xfsprogs",
    "util-linux",
    "mount",
    "kmod",
    "strace",
    "lvm2",
    "cryptsetup-bin",
    "btrfs-progs",
    "dosfstools",
    "ntfs-3g",
    "squashfs-tools",
    "xorriso",
    "bcache-tools",
    "gdisk",
    "fdisk",
    "parted",
    "nvme-cli",
    "dmsetup",
    "procps",
    "psmisc",
    "iproute2",
    "perl",
    "tar",
    "acl",
    "attr",
    "file",
    "lsof",
    "curl",
    "openssl",
];

/// The machine's DMI says EC2, and cloud-init would ask for its metadata service for minutes. With more than one entry it
/// looks for each, finds none and disables itself, unless the kernel command line names one.
const CLOUD_INIT_HOOK: &str = "--customize-hook=echo 'datasource_list: [ NoCloud, ConfigDrive ]' > \"$1/etc/cloud/cloud.cfg.d/99-lab.cfg\"";

/// A kind of guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// trixie: systemd 257, kernel 6.12. The one most scenarios use.
    Trixie,
    /// bookworm's userland (systemd 252) on trixie's kernel.
    Bookworm,
    /// bookworm's userland and its kernel, 6.1.
    Bookworm61,
    /// trixie's userland on Debian's newest kernel.
    TrixieNewest,
    /// trixie with cloud-init, which acts only where `ds=nocloud` is on the kernel command line.
    TrixieCloudInit,
}

impl Guest {
    /// All of them.
    pub const ALL: [Guest; 5] =
        [Guest::Trixie, Guest::Bookworm, Guest::Bookworm61, Guest::TrixieNewest, Guest::TrixieCloudInit];

    /// Those that are made ready before a run that is not `--full`. Another one is made when a scenario asks for it.
    pub const NORMAL: [Guest; 2] = [Guest::Trixie, Guest::Bookworm];

    /// The suite of the userland.
    pub fn suite(self) -> &'static str {
        match self {
            Guest::Bookworm | Guest::Bookworm61 => "bookworm",
            Guest::Trixie | Guest::TrixieNewest | Guest::TrixieCloudInit => "trixie",
        }
    }

    /// The kernel that it boots.
    pub fn kernel(self) -> KernelKind {
        match self {
            Guest::Bookworm61 => KernelKind::Bookworm,
            Guest::TrixieNewest => KernelKind::Sid,
            Guest::Trixie | Guest::Bookworm | Guest::TrixieCloudInit => KernelKind::Trixie,
        }
    }

    /// A name for files and logs.
    pub fn name(self) -> &'static str {
        match self {
            Guest::Trixie => "trixie",
            Guest::Bookworm => "bookworm",
            Guest::Bookworm61 => "bookworm-6.1",
            Guest::TrixieNewest => "trixie-newest",
            Guest::TrixieCloudInit => "trixie-cloud-init",
        }
    }

    fn extra(self) -> &'static [&'static str] {
        match self {
            Guest::TrixieCloudInit => {
                &["cloud-init", "cloud-guest-utils", "netplan.io", "ifupdown", "isc-dhcp-client"]
            }
            _ => &[],
        }
    }
}

/// A root disk, raw and sparse.
#[derive(Debug, Clone)]
pub struct Image {
    artifact: Artifact,
}

impl Image {
    /// Finds or makes it.
    pub fn get(cache: &Cache, guest: Guest, kernel: &Kernel) -> Result<Image> {
        let userland = userland(cache, guest)?;
        let (script, channel, service) = (
            include_str!("../guest/image.sh"),
            include_str!("../guest/channel.pl"),
            include_str!("../guest/lab.service"),
        );
        let recipe = format!(
            "{} {} {ROOT_PARTUUID} {ROOT_MIB} {script} {channel} {service}",
            userland.id,
            kernel.id()
        );
        let artifact = cache.get(&format!("image-{}", guest.name()), &recipe, |dir| {
            ensure_host_tools(&[("mkfs.ext4", "e2fsprogs"), ("sfdisk", "fdisk"), ("tar", "tar")])?;
            step(&format!("Making the root disk of {}", guest.name()), || {
                for (name, text) in [("image.sh", script), ("channel.pl", channel), ("lab.service", service)]
                {
                    fs::write(dir.join(name), text).with_context(|| format!("write {name}"))?;
                }
                let mut make = as_root("sh");
                make.arg(dir.join("image.sh"))
                    .arg(dir)
                    .arg(userland.path("userland.tar"))
                    .arg(kernel.modules());
                // sfdisk and mkfs live where only root's PATH leads.
                make.args([ROOT_PARTUUID, &ROOT_MIB.to_string()])
                    .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
                run(&mut make)?;
                give_to_user(dir)
            })
        })?;
        Ok(Image { artifact })
    }

    /// Which build this is, for recipes.
    pub fn id(&self) -> &str {
        &self.artifact.id
    }

    /// The raw image. Never written to: every VM has an overlay.
    pub fn path(&self) -> PathBuf {
        self.artifact.path("root.img")
    }
}

fn userland(cache: &Cache, guest: Guest) -> Result<Artifact> {
    let packages: Vec<&str> = TOOLS.iter().chain(guest.extra()).copied().collect();
    let suite = guest.suite();
    let name = if guest.extra().is_empty() { suite.to_owned() } else { guest.name().to_owned() };
    // Part of the recipe only where there is one: the other userlands are as they were.
    let hook = if guest.extra().is_empty() { "" } else { CLOUD_INIT_HOOK };
    cache.get(&format!("userland-{name}"), &format!("1 {packages:?}{hook}"), |dir| {
        step(
            &format!("Building a Debian {suite} userland of {} packages and what they need", packages.len()),
            || {
                let options: &[&str] = if hook.is_empty() { &[] } else { &[hook] };
                debian::userland(suite, &packages, options, &dir.join("userland.tar"))
            },
        )
    })
}
