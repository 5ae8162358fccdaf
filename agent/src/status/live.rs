//! What status looks at: each part by itself, so that one that cannot be read takes no other with it.
//!
//! sysfs, proc and fstab, which never wait for a device; the filesystem itself is asked by a child, which may. Drives
//! are not asked who they are.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::HostPart;
use super::answer::{self, Answer};
use crate::config::Config;
use crate::error::Result;
use crate::exec;
use crate::observe::sysfs::{self, Sysfs};
use crate::observe::{Array, Drive, Mount, Skipped, arrays, drives, mounts};
use crate::persist::atomic;
use crate::root::Root;

/// The parts; none where one could not be read, and then `problems` says why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Live {
    pub mounts: Option<Vec<Mount>>,
    pub drives: Option<Vec<Drive>>,
    /// NVMe namespaces that this configuration does not match.
    pub others: Vec<Skipped>,
    pub arrays: Option<Vec<Array>>,
    /// Text of fstab; empty where there is none.
    pub fstab: Option<String>,
    /// Of what is mounted on the target.
    pub usage: Option<Usage>,
    /// Why what is mounted on the target cannot be used, such as `says "Input/output error"`; none where it answers, or
    /// was not asked.
    pub broken: Option<String>,
    /// How many errors the kernel has found in what is mounted on the target since it was last checked; none where it
    /// does not count them (ext4 does).
    pub errors: Option<u64>,
    /// None under another root.
    pub host: Option<HostPart>,
    pub problems: Vec<String>,
}

/// Space of a filesystem, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub size: u64,
    pub used: u64,
    /// For unprivileged users.
    pub available: u64,
}

impl Live {
    /// Looks at the machine under `root`; `target` is where the filesystem ought to be.
    pub fn look(root: &Root, config: &Config, target: &str) -> Live {
        let mut live = Live::default();
        let sysfs = Sysfs::new(root);
        live.mounts = live.keep(mounts::read(root));
        let table = live.mounts.clone().unwrap_or_default();
        let found = live.keep(drives::find(&sysfs, &config.matching, &table, &|_| Ok(None)));
        if let Some(found) = found {
            live.drives = Some(found.drives);
            live.others = found.skipped;
            live.problems
                .extend(found.pending.into_iter().map(|p| format!("drive at {}: {}", p.address, p.why)));
        }
        live.arrays = live.keep(arrays::find(&sysfs));
        live.fstab = live.keep(atomic::read_text(&root.join("/etc/fstab"))).map(Option::unwrap_or_default);
        let mounted = mounts::topmost(&table, target);
        // A directory that is no mount would answer for the root filesystem; a network filesystem or FUSE, mounted there by
        // somebody, may never do so.
        let local = |mount: &Mount| !mounts::is_anonymous(mount.dev) || mount.fs_type == "tmpfs";
        if root.is_host() && mounted.is_some_and(local) {
            let stat = exec::find_program(root, "stat").ok_or_else(answer::nobody);
            match live.keep(stat.and_then(|stat| answer::ask(&stat, target))) {
                Some(Answer::Alive(usage)) => live.usage = usage,
                Some(Answer::Broken(why)) => live.broken = Some(why),
                None => {}
            }
        }
        live.errors = mounted.and_then(|mount| errors(&sysfs, mount));
        if root.is_host() {
            let (host, problems) = host();
            live.host = Some(host);
            live.problems.extend(problems);
        }
        live
    }

    fn keep<T>(&mut self, part: Result<T>) -> Option<T> {
        match part {
            Ok(part) => Some(part),
            Err(error) => {
                self.problems.push(error.to_string());
                None
            }
        }
    }
}

/// Facts of this machine, whatever the root, and what could not be read of them.
fn host() -> (HostPart, Vec<String>) {
    let mut problems = Vec::new();
    let mut missing = |part: &str, error: sysinfo::Error| problems.push(format!("host: no {part}: {error}"));
    let ram = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(ram).map_err(|e| missing("memory", e)).ok();
    let host = HostPart {
        kernel: System::kernel_version().map_err(|e| missing("kernel release", e)).ok(),
        uptime_s: System::uptime().map_err(|e| missing("uptime", e)).ok(),
        memory_bytes: system.as_ref().map(System::total_memory),
        memory_available_bytes: system.as_ref().map(System::available_memory),
    };
    (host, problems)
}

/// `errors_count` of ext4 (Documentation/ABI/testing/sysfs-fs-ext4). The kernel keeps it in the superblock: only a check
/// of the filesystem makes it 0 again.
fn errors(sysfs: &Sysfs<'_>, mount: &Mount) -> Option<u64> {
    if mount.fs_type != "ext4" {
        return None;
    }
    let name = sysfs.name_of(mount.dev)?;
    sysfs::number(sysfs.root().join("/sys/fs/ext4").join(name).join("errors_count"))
}
