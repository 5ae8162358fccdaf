//! What status looks at: each part by itself, so that one that cannot be read takes no other with it.
//!
//! sysfs, proc and fstab, which never wait for a device; the filesystem and the drives are asked by children, which may.

use std::collections::BTreeMap;
use std::time::Duration;

use sysinfo::{MemoryRefreshKind, Product, RefreshKind, System};

use super::HostPart;
use crate::config::{Config, Tmpfiles};
use crate::error::Result;
use crate::node::registration::Registration;
use crate::observe::sysfs::{self, Sysfs};
use crate::observe::{Array, Drive, Mount, Skipped, arrays, drives, files, mounts};
use crate::persist::{atomic, tmpfiles};
use crate::probe::filesystem::Usage;
use crate::probe::{self, Answer};
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
    /// What the drives say of themselves, by kernel name; none of another root's.
    pub health: BTreeMap<String, Answer<probe::drive::Said>>,
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
    /// Why there is no state of this boot, where there is none.
    pub no_state: NoState,
    /// Further files that setup keeps.
    pub kept: Kept,
    /// Not root's own eyes: what could not be read may be there.
    pub unprivileged: bool,
    pub problems: Vec<String>,
}

/// Why there is no state of this boot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoState {
    #[default]
    Missing,
    /// With the time that it says, RFC 3339, UTC.
    OfAnotherBoot { finished: String },
    /// With the error.
    Unreadable(String),
}

/// A file's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Text {
    /// It could not be read; `problems` says why.
    #[default]
    Unread,
    Missing,
    Is(String),
}

/// The host's files that setup keeps, besides fstab, and what decides whether this machine needs them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// Which of the two this host's mdadm reads.
    pub mdadm_conf_path: String,
    pub mdadm_conf: Text,
    pub tmpfiles: Text,
    /// systemd-tmpfiles is to be kept from the target.
    pub keeps_tmp: bool,
    /// What was written last for the Node's registration, in this boot.
    pub registration: Option<Registration>,
    /// The file that it was written to.
    pub registered: Text,
}

impl Live {
    /// Looks at the machine under `root`; `target` is where the filesystem ought to be. Who is asked by a child may take
    /// `patience` to answer, all of them together.
    pub fn look(root: &Root, config: &Config, target: &str, patience: Duration) -> Live {
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
        live.kept = live.kept(root, config);
        live.unprivileged = root.is_host() && !nix::unistd::geteuid().is_root();
        let mounted = mounts::topmost(&table, target);
        // A directory that is no mount would answer for the root filesystem; a network filesystem or FUSE, mounted there by
        // somebody, may never do so.
        let local = |mount: &Mount| !mounts::is_anonymous(mount.dev) || mount.fs_type == "tmpfs";
        if root.is_host() {
            live.ask(root, mounted.filter(|mount| local(mount)).map(|_| target), patience);
        }
        live.errors = mounted.and_then(|mount| errors(&sysfs, mount));
        if root.is_host() {
            let (host, problems) = host();
            live.host = Some(host);
            live.problems.extend(problems);
        }
        live
    }

    fn kept(&mut self, root: &Root, config: &Config) -> Kept {
        let mdadm_conf_path = files::mdadm_conf_path(root);
        let registration = Registration::load(root);
        let registered = registration.as_ref().and_then(|record| record.path.as_deref());
        Kept {
            mdadm_conf: self.text(root, mdadm_conf_path),
            mdadm_conf_path: mdadm_conf_path.into(),
            tmpfiles: self.text(root, tmpfiles::PATH),
            keeps_tmp: config.tmpfiles == Tmpfiles::Keep && root.join("/run/systemd/system").is_dir(),
            registered: registered.map_or(Text::Unread, |path| self.text(root, path)),
            registration,
        }
    }

    fn text(&mut self, root: &Root, path: &str) -> Text {
        match self.keep(atomic::read_text(&root.join(path))) {
            Some(Some(text)) => Text::Is(text),
            Some(None) => Text::Missing,
            None => Text::Unread,
        }
    }

    /// Asks the drives, and the filesystem at `target`.
    fn ask(&mut self, root: &Root, target: Option<&str>, patience: Duration) {
        let drives = self.drives.clone().unwrap_or_default();
        let answers = probe::ask(root, &drives, target, patience);
        for (drive, answer) in drives.iter().zip(answers.drives) {
            if let Some(answer) = self.keep(answer) {
                self.health.insert(drive.name.clone(), answer);
            }
        }
        if let Some(answer) = answers.filesystem.and_then(|answer| self.keep(answer)) {
            self.usage = answer.said.usage;
            // Counters that are late are no fault: xfs may have work to end before it gives them.
            self.broken = match answer.said.error {
                Some(_) => answer.said.broken(),
                None => answer.silent,
            };
        }
    }

    fn keep<T>(&mut self, part: Result<T>) -> Option<T> {
        match part {
            Ok(part) => Some(part),
            Err(error) => {
                let problem = error.to_string();
                // What is missing may be missed by more than one part.
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
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
        instance_type: Product::name().ok().and_then(|name| instance_type(&name)),
        kernel: System::kernel_version().map_err(|e| missing("kernel release", e)).ok(),
        uptime_s: System::uptime().map_err(|e| missing("uptime", e)).ok(),
        memory_bytes: system.as_ref().map(System::total_memory),
        memory_available_bytes: system.as_ref().map(System::available_memory),
    };
    (host, problems)
}

/// What Nitro says as the product's name, such as `m6id.large`; Xen and other machines say something else.
fn instance_type(product: &str) -> Option<String> {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let name = product.trim();
    let (family, size) = name.split_once('.')?;
    (part(family) && part(size)).then(|| name.to_owned())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_type_is_told_from_other_products() {
        assert_eq!(instance_type("m6id.large\n").as_deref(), Some("m6id.large"));
        assert_eq!(instance_type("u7i-12tb.224xlarge").as_deref(), Some("u7i-12tb.224xlarge"));
        for other in ["HVM domU", "Standard PC (Q35 + ICH9, 2009)", "", "a.", "1.2 b"] {
            assert_eq!(instance_type(other), None, "{other}");
        }
    }
}
