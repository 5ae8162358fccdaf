//! What all VMs of a run share: the cache, QEMU, and a place for files that live no longer than a VM.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::cache::Cache;
use crate::qemu::Qemu;

/// The lab on this machine.
#[derive(Debug)]
pub struct Lab {
    /// Artifacts.
    pub cache: Cache,
    /// The emulator.
    pub qemu: Qemu,
    scratch: PathBuf,
    next: AtomicU32,
}

/// A directory for one VM, removed with it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl Lab {
    /// Opens the cache, finds or makes QEMU, and clears away what killed runs left.
    pub fn open() -> Result<Lab> {
        let cache = Cache::open()?;
        let qemu = Qemu::get(&cache)?;
        let scratch = scratch_root()?;
        remove_orphans(&scratch);
        Ok(Lab { cache, qemu, scratch, next: AtomicU32::new(0) })
    }

    /// A fresh directory. Its path is short: Unix sockets go there.
    pub fn run_dir(&self) -> Result<RunDir> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.scratch.join(format!("{}.{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(RunDir { path })
    }
}

impl RunDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// In memory where there is room: every fsync of a guest would wait for a disk that nobody reads again.
fn scratch_root() -> Result<PathBuf> {
    const ENOUGH: u64 = 6 << 30;
    let room = |dir: &str| {
        nix::sys::statvfs::statvfs(dir)
            .is_ok_and(|stat| stat.blocks_available() * stat.fragment_size() > ENOUGH)
    };
    let base = match std::env::var_os("NVME_LAB_SCRATCH") {
        Some(dir) => PathBuf::from(dir),
        None if room("/dev/shm") && available_memory() > ENOUGH => PathBuf::from("/dev/shm"),
        None => std::env::temp_dir(),
    };
    let dir = base.join(format!("nvme-lab-{}", nix::unistd::geteuid()));
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    Ok(dir)
}

fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: u64 = line.and_then(|rest| rest.trim().split(' ').next()?.parse().ok()).unwrap_or(0);
    kib * 1024
}

/// Removes what a process of the lab left that has ended without cleaning up.
pub fn remove_scratch_of(pid: u32) {
    let pid = pid.to_string();
    if let Ok(scratch) = scratch_root() {
        remove_if(&scratch, |owner| owner == pid);
    }
}

/// Directories of labs that were killed: named by a process that is no more.
fn remove_orphans(scratch: &Path) {
    remove_if(scratch, |owner| !Path::new("/proc").join(owner).exists());
}

fn remove_if(scratch: &Path, gone: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(scratch).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if gone(name.split('.').next().unwrap_or_default()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
