//! Who keeps a mounted filesystem from being unmounted: processes, mount namespaces, and the kernel itself.
//!
//! Nothing here touches a filesystem that it could hang on: descriptors are compared by the mount id in
//! `/proc/PID/fdinfo`, mapped files by the device number in `/proc/PID/maps`, and of a directory on a network
//! filesystem the device is not asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use procfs::process::{MountInfo, MountOptFields};

use crate::error::{Error, Result};
use crate::observe::mounts::unescape;
use crate::observe::{DevNum, sysfs};
use crate::root::Root;

/// So many ways in which one process uses the filesystem are told.
const TOLD: usize = 4;
/// A hung server must not hang us: where a working directory lies on one of these, it is not on our drive.
const NETWORK: [&str; 10] = ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "lustre", "afs", "autofs", "fuse"];

/// One holder of the filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pin {
    /// 0 for the kernel (a mount, a loop device, a swap file).
    pub pid: i32,
    /// Command name of the process, or what the kernel has.
    pub name: String,
    /// Its systemd unit, from the cgroup.
    pub unit: Option<String>,
    /// In plain words: `working directory`, `open file /tmp/x` ...
    pub how: Vec<String>,
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match (&self.unit, self.pid) {
            (_, 0) => {}
            (Some(unit), pid) => write!(f, " (pid {pid}, {unit})")?,
            (None, pid) => write!(f, " (pid {pid})")?,
        }
        write!(f, ": {}", self.how[..self.how.len().min(TOLD)].join(", "))?;
        if self.how.len() > TOLD {
            write!(f, " and {} more", self.how.len() - TOLD)?;
        }
        Ok(())
    }
}

/// Everything that pins the filesystem on `device`, which is to be unmounted from `targets` in PID 1's mount
/// namespace; ordered by pid.
///
/// In another namespace it pins unless it came there by propagation and goes the same way: that is so in every
/// service with a namespace of its own, and is no obstacle.
///
/// # Errors
/// PID 1's mount table cannot be read.
pub fn find(root: &Root, device: DevNum, targets: &[String]) -> Result<Vec<Pin>> {
    let scan = Scan { proc: root.join("/proc"), device, targets };
    let spaces = scan.namespaces()?;
    let mut pins = Vec::new();
    let host = spaces.iter().find(|space| space.is_host);
    let table = host.map(|space| space.mounts.as_slice()).unwrap_or_default();
    pins.extend(scan.kernel(root, table));
    let ids: BTreeSet<i32> =
        spaces.iter().flat_map(|s| &s.mounts).filter(|m| scan.is_ours(m)).map(|m| m.mnt_id).collect();
    for space in &spaces {
        let mut held = if space.is_host { Vec::new() } else { scan.held_by_namespace(space, table) };
        for &pid in &space.pids {
            let mut how = std::mem::take(&mut held);
            how.extend(scan.process(pid, &ids, space));
            if !how.is_empty() {
                let name = scan.text(pid, "comm").trim().to_owned();
                pins.push(Pin { pid, name, unit: unit(&scan.text(pid, "cgroup")), how });
            }
        }
    }
    pins.sort_by_key(|pin| pin.pid);
    Ok(pins)
}

/// The processes that share a mount namespace, and what is mounted in it.
struct Namespace {
    is_host: bool,
    /// Ascending.
    pids: Vec<i32>,
    mounts: Vec<MountInfo>,
}

struct Scan<'a> {
    proc: PathBuf,
    device: DevNum,
    targets: &'a [String],
}

impl Scan<'_> {
    fn of(&self, pid: i32, name: &str) -> PathBuf {
        self.proc.join(pid.to_string()).join(name)
    }

    /// Empty where the process has gone.
    fn text(&self, pid: i32, name: &str) -> String {
        let bytes = fs::read(self.of(pid, name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn is_ours(&self, mount: &MountInfo) -> bool {
        sysfs::dev_num(&mount.majmin) == Some(self.device)
    }

    fn namespaces(&self) -> Result<Vec<Namespace>> {
        let mut pids: Vec<i32> = fs::read_dir(&self.proc)
            .map_err(Error::io(&self.proc, "list the processes"))?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        let mut host = None;
        let mut groups: BTreeMap<PathBuf, Vec<i32>> = BTreeMap::new();
        for pid in pids {
            let link = self.of(pid, "ns/mnt");
            match fs::read_link(&link) {
                Ok(space) => {
                    if pid == 1 {
                        host = Some(space.clone());
                    }
                    groups.entry(space).or_default().push(pid);
                }
                // Who may not look (no CAP_SYS_PTRACE) must not take that for "nobody".
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return Err(Error::io(link, "read")(error));
                }
                Err(_) => {}
            }
        }
        let host = host.ok_or_else(|| {
            Error::Other(
                "/proc/1/ns/mnt: not there, so nobody can be told from the host; nothing was changed".into(),
            )
        })?;
        let mut spaces = Vec::new();
        for (space, pids) in groups {
            let is_host = space == host;
            let table = pids.iter().map(|pid| self.text(*pid, "mountinfo")).find(|text| !text.is_empty());
            if is_host && table.is_none() {
                return Err(Error::Other("/proc/1/mountinfo: cannot be read; nothing was changed".into()));
            }
            let table = table.unwrap_or_default();
            let mounts = table.lines().filter_map(|line| MountInfo::from_line(line).ok()).collect();
            spaces.push(Namespace { is_host, pids, mounts });
        }
        Ok(spaces)
    }

    /// How a namespace other than the host's holds the filesystem; nothing where it will be let go by propagation.
    fn held_by_namespace(&self, space: &Namespace, host: &[MountInfo]) -> Vec<String> {
        // A mount on P is unmounted wherever P is propagated to (mount_namespaces(7)): the one there must sit on a peer or a
        // slave of what ours sits on.
        let parents: BTreeSet<u32> = host
            .iter()
            .filter(|m| self.is_ours(m) && self.is_target(m))
            .filter_map(|ours| shared(host.iter().find(|m| m.mnt_id == ours.pid)?))
            .collect();
        let goes = |mount: &MountInfo| {
            mount.root == "/"
                && self.is_target(mount)
                && space
                    .mounts
                    .iter()
                    .find(|m| m.mnt_id == mount.pid)
                    .is_some_and(|parent| groups(parent).any(|group| parents.contains(&group)))
        };
        let mut how: Vec<String> = space
            .mounts
            .iter()
            .filter(|m| self.is_ours(m) && !goes(m))
            .map(|m| {
                let (root, at) = (unescape(&m.root), at(m));
                if root == "/" {
                    format!("its mount namespace has it at {at}")
                } else {
                    format!("its mount namespace has {root} of it at {at}")
                }
            })
            .collect();
        if !how.is_empty() && space.pids.len() > 1 {
            how.push(format!("{} more processes share that namespace", space.pids.len() - 1));
        }
        how
    }

    fn is_target(&self, mount: &MountInfo) -> bool {
        let at = at(mount);
        self.targets.contains(&at)
    }

    fn process(&self, pid: i32, ids: &BTreeSet<i32>, space: &Namespace) -> Vec<String> {
        let mut how = Vec::new();
        for (link, what) in [("cwd", "working directory"), ("root", "root directory")] {
            if self.leads_to_us(&self.of(pid, link), space) {
                how.push(what.to_owned());
            }
        }
        let exe = fs::read_link(self.of(pid, "exe")).unwrap_or_default();
        let mut mapped = BTreeSet::new();
        for line in self.text(pid, "maps").lines() {
            // address, permissions, offset, device (hexadecimal), inode, path: proc_pid_maps(5).
            let fields: Vec<&str> = line.split_ascii_whitespace().take(6).collect();
            if let [_, _, _, device, _, path] = fields[..]
                && hex_device(device) == Some(self.device)
                && mapped.insert(path.to_owned())
            {
                let what = if Path::new(path) == exe { "its binary" } else { "mapped file" };
                how.push(format!("{what} {path}"));
            }
        }
        let entries = fs::read_dir(self.of(pid, "fdinfo")).into_iter().flatten().flatten();
        for entry in entries {
            let info = fs::read_to_string(entry.path()).unwrap_or_default();
            let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
            if id.is_some_and(|id: i32| ids.contains(&id)) {
                let link = self.of(pid, "fd").join(entry.file_name());
                how.push(format!("open file {}", fs::read_link(link).unwrap_or_default().display()));
            }
        }
        how
    }

    /// The directory that a link of /proc leads to is on our device.
    fn leads_to_us(&self, link: &Path, space: &Namespace) -> bool {
        let Ok(path) = fs::read_link(link) else { return false };
        let on = space
            .mounts
            .iter()
            .filter(|m| path.starts_with(at(m)))
            .max_by_key(|m| m.mount_point.as_os_str().len());
        let kind = on.map(|m| m.fs_type.as_str()).unwrap_or_default();
        if NETWORK.iter().any(|network| kind == *network || kind.starts_with("fuse.")) {
            return false;
        }
        fs::metadata(link).is_ok_and(|status| {
            let (major, minor) = (rustix::fs::major(status.dev()), rustix::fs::minor(status.dev()));
            DevNum { major, minor } == self.device
        })
    }

    /// What the kernel itself holds in the host's namespace, for no process.
    fn kernel(&self, root: &Root, table: &[MountInfo]) -> Vec<Pin> {
        let ours: BTreeSet<i32> = table.iter().filter(|m| self.is_ours(m)).map(|m| m.mnt_id).collect();
        let below = |path: &str| {
            self.targets.iter().any(|target| Path::new(path).starts_with(target) && path != target)
        };
        let mut found: Vec<(String, String)> = Vec::new();
        for mount in table {
            let at = at(mount);
            if self.is_ours(mount) && !self.is_target(mount) {
                found.push((at, "the filesystem is mounted there as well".into()));
            } else if !self.is_ours(mount) && ours.contains(&mount.pid) {
                found.push((at, format!("{} is mounted on it", mount.fs_type)));
            } else if mount.fs_type == "overlay" {
                let dirs = ["lowerdir", "upperdir", "workdir"].into_iter();
                let dirs = dirs.filter_map(|key| mount.super_options.get(key)?.as_deref());
                if dirs.flat_map(|dirs| dirs.split(':')).any(|dir| below(&unescape(dir))) {
                    found.push((at, "an overlay has a layer on it".into()));
                }
            }
        }
        let blocks = fs::read_dir(root.join("/sys/block")).into_iter().flatten().flatten();
        for entry in blocks {
            let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
            let file = file.trim_end().trim_end_matches(" (deleted)");
            if below(file) {
                found.push((
                    entry.file_name().to_string_lossy().into_owned(),
                    format!("loop device of {file}"),
                ));
            }
        }
        let swaps = crate::observe::mounts::swaps(root).unwrap_or_default();
        found.extend(
            swaps.into_iter().filter(|path| below(path)).map(|path| (path, "swap file in use".into())),
        );
        found.into_iter().map(|(name, how)| Pin { name, how: vec![how], ..Pin::default() }).collect()
    }
}

fn at(mount: &MountInfo) -> String {
    unescape(&mount.mount_point.to_string_lossy())
}

fn shared(mount: &MountInfo) -> Option<u32> {
    mount.opt_fields.iter().find_map(|field| match field {
        MountOptFields::Shared(group) => Some(*group),
        _ => None,
    })
}

fn groups(mount: &MountInfo) -> impl Iterator<Item = u32> {
    mount.opt_fields.iter().filter_map(|field| match field {
        MountOptFields::Shared(group) | MountOptFields::Master(group) => Some(*group),
        _ => None,
    })
}

fn hex_device(text: &str) -> Option<DevNum> {
    let (major, minor) = text.split_once(':')?;
    let hex = |text| u32::from_str_radix(text, 16).ok();
    Some(DevNum { major: hex(major)?, minor: hex(minor)? })
}

/// The unit that a process belongs to: the last part of its cgroup path that is one (cgroup v2, or systemd's own
/// hierarchy of v1).
fn unit(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| {
        line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, p)| p))
    })?;
    let is_unit =
        |part: &&str| [".service", ".scope", ".socket", ".mount"].iter().any(|end| part.ends_with(end));
    path.split('/').rfind(is_unit).map(str::to_owned)
}

#[cfg(test)]
#[path = "pins_tests.rs"]
mod tests;
