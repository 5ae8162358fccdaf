//! Facts of the host that the judgement rests on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Host;
use super::sysfs::attribute;
use crate::exec;
use crate::root::Root;

/// Files from an earlier boot are older than this boot by more than this, in seconds: boot time is only known
/// to the second, and the clock may be set a little while booting.
pub const SLACK: i64 = 5;

/// Reads the facts. What cannot be read gets the value that licenses least.
pub fn read(root: &Root) -> Host {
    let text = |path: &str| attribute(root.join(path)).unwrap_or_default();
    let dmi = Some(text("/sys/class/dmi/id/board_asset_tag")).filter(|tag| is_ec2_id(tag));
    let cloud_init = cloud_init_id(root);
    Host {
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        first_boot: first_boot(root, dmi.as_deref(), cloud_init.as_deref()),
        instance_id: dmi.or(cloud_init).unwrap_or_default(),
        selinux: root.join("/sys/fs/selinux/enforce").exists(),
        host_mount_namespace: host_mount_namespace(root),
        effective_root: !root.is_host() || nix::unistd::geteuid().is_root(),
        // As sd_booted(3) does it.
        systemd: root.join("/run/systemd/system").is_dir(),
        mkfs: ["ext4", "xfs"]
            .into_iter()
            .filter(|kind| exec::find_program(root, &format!("mkfs.{kind}")).is_some())
            .map(str::to_owned)
            .collect(),
        kernel: text("/proc/sys/kernel/osrelease"),
    }
}

/// Major and minor of `6.1.102-111.amzn2023.x86_64`.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Nitro's DMI says the instance id; Xen's does not, and elsewhere anything may be there.
fn is_ec2_id(tag: &str) -> bool {
    tag.strip_prefix("i-").is_some_and(|hex| hex.len() >= 8 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The instance id as cloud-init found it in *this* boot: /run is empty at boot, while what is under
/// /var/lib/cloud/data may have come with the image.
fn cloud_init_id(root: &Root) -> Option<String> {
    let id = attribute(root.join("/run/cloud-init/.instance-id"))?;
    let safe = !id.is_empty()
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    safe.then_some(id)
}

/// True where this is the first boot of this instance and cloud-init has not finished: only then are drives
/// fresh by definition. In doubt false.
fn first_boot(root: &Root, dmi: Option<&str>, cloud_init: Option<&str>) -> bool {
    let ids: Vec<&str> = dmi.into_iter().chain(cloud_init).collect();
    !ids.is_empty()
        && cloud_init_runs(root)
        && ids.iter().all(|id| {
            let instance = root.join("/var/lib/cloud/instances").join(id);
            !instance.join("boot-finished").exists() && !is_from_an_earlier_boot(root, &instance)
        })
}

/// cloud-init is installed and has not been switched off: else nobody would ever say that the first boot is over.
fn cloud_init_runs(root: &Root) -> bool {
    let exists = |path: &str| root.join(path).exists();
    let installed = ["/usr/bin/cloud-init", "/var/lib/cloud", "/run/cloud-init"].into_iter().any(exists);
    let disabled = ["/etc/cloud/cloud-init.disabled", "/run/cloud-init/disabled"].into_iter().any(exists)
        || attribute(root.join("/proc/cmdline"))
            .is_some_and(|line| line.split_ascii_whitespace().any(|word| word == "cloud-init=disabled"));
    installed && !disabled
}

/// cloud-init left something for this instance before this boot began: an earlier boot did not get to its end
/// (a script that reboots), and this is not the first.
fn is_from_an_earlier_boot(root: &Root, instance: &Path) -> bool {
    if !instance.exists() {
        return false;
    }
    let Some(boot) = boot_time(root) else { return true };
    let dirs = [instance.to_path_buf(), instance.join("sem")];
    dirs.iter()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .flatten()
        .any(|entry| entry.path().symlink_metadata().is_ok_and(|status| status.mtime() + SLACK < boot))
}

/// When this instance booted first, in seconds since 1970, by what cloud-init does once for an instance.
pub fn first_boot_time(root: &Root, instance: &str) -> Option<i64> {
    let done_once = root.join("/var/lib/cloud/instances").join(instance).join("sem");
    fs::read_dir(done_once)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.path().symlink_metadata().ok())
        .map(|status| status.mtime())
        .min()
}

/// When this boot began, in seconds since 1970: `btime` of proc_stat(5).
pub fn boot_time(root: &Root) -> Option<i64> {
    let stat = fs::read_to_string(root.join("/proc/stat")).ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// Our mount namespace is PID 1's; a fixture tree without /proc/self stands for a machine where it is.
fn host_mount_namespace(root: &Root) -> bool {
    let link = |path: &str| fs::read_link(root.join(path)).ok();
    match (link("/proc/self/ns/mnt"), link("/proc/1/ns/mnt")) {
        (Some(ours), Some(theirs)) => ours == theirs,
        (None, None) => !root.is_host(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    const ID: &str = "i-0123456789abcdef0";

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Machine {
            let machine = Machine(tempfile::tempdir().unwrap());
            machine.write("sys/class/dmi/id/board_asset_tag", &format!("{ID}\n"));
            machine.write("usr/bin/cloud-init", "");
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            machine.write("proc/stat", &format!("cpu 1 2\nbtime {}\n", now - 20));
            machine
        }

        fn write(&self, path: &str, text: &str) -> std::path::PathBuf {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }

        fn read(&self) -> Host {
            read(&Root::new(self.0.path()))
        }
    }

    #[test]
    fn first_boot_before_and_while_cloud_init_runs_but_not_after() {
        let machine = Machine::new();
        assert!(machine.read().first_boot, "before cloud-init has done anything");
        assert_eq!(machine.read().instance_id, ID);
        machine.write("var/lib/cloud/instances/i-00000000000000bad/boot-finished", "");
        machine.write(&format!("var/lib/cloud/instances/{ID}/sem/config_ssh"), "");
        assert!(
            machine.read().first_boot,
            "while its modules run; another instance's end counts for nothing"
        );
        machine.write(&format!("var/lib/cloud/instances/{ID}/boot-finished"), "");
        assert!(!machine.read().first_boot);
    }

    #[test]
    fn a_second_boot_is_not_the_first_although_cloud_init_never_finished() {
        let machine = Machine::new();
        let mark = machine.write(&format!("var/lib/cloud/instances/{ID}/sem/config_ssh"), "");
        let earlier = SystemTime::now() - Duration::from_secs(600);
        fs::File::options().write(true).open(mark).unwrap().set_modified(earlier).unwrap();
        assert!(!machine.read().first_boot);
    }

    #[test]
    fn in_doubt_it_is_not_the_first_boot() {
        let none = Machine(tempfile::tempdir().unwrap());
        assert!(!none.read().first_boot, "no instance id, no cloud-init");
        let machine = Machine::new();
        machine.write("etc/cloud/cloud-init.disabled", "");
        assert!(!machine.read().first_boot, "cloud-init is switched off by file");
        let machine = Machine::new();
        machine.write("proc/cmdline", "root=/dev/nvme0n1p1 cloud-init=disabled\n");
        assert!(!machine.read().first_boot, "cloud-init is switched off by the kernel command line");
        let machine = Machine::new();
        fs::remove_file(machine.0.path().join("usr/bin/cloud-init")).unwrap();
        assert!(!machine.read().first_boot, "cloud-init is not there");
        let machine = Machine::new();
        machine.write("sys/class/dmi/id/board_asset_tag", "Not Specified\n");
        assert!(!machine.read().first_boot, "an asset tag that is no instance id");
        machine.write("run/cloud-init/.instance-id", "../../etc\n");
        assert!(!machine.read().first_boot, "an instance id that is a path");
    }

    #[test]
    fn on_xen_the_id_is_what_cloud_init_found_in_this_boot() {
        let machine = Machine::new();
        machine.write("sys/class/dmi/id/board_asset_tag", "\n");
        machine.write("run/cloud-init/.instance-id", "i-nocloud.1\n");
        let host = machine.read();
        assert_eq!((host.instance_id.as_str(), host.first_boot), ("i-nocloud.1", true));
        machine.write("var/lib/cloud/instances/i-nocloud.1/boot-finished", "");
        assert!(!machine.read().first_boot);
    }

    #[test]
    fn programs_systemd_and_another_mount_namespace() {
        let machine = Machine::new();
        let plain = machine.read();
        assert!(plain.mkfs.is_empty() && !plain.systemd && !plain.selinux && plain.host_mount_namespace);
        let program = machine.write("sbin/mkfs.xfs", "");
        assert!(machine.read().mkfs.is_empty(), "not executable");
        fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        machine.write("run/systemd/system/x", "");
        machine.write("sys/fs/selinux/enforce", "1");
        for (who, namespace) in [("self", "mnt:[1]"), ("1", "mnt:[2]")] {
            let dir = machine.0.path().join("proc").join(who).join("ns");
            fs::create_dir_all(&dir).unwrap();
            std::os::unix::fs::symlink(namespace, dir.join("mnt")).unwrap();
        }
        let host = machine.read();
        assert_eq!(host.mkfs, ["xfs"]);
        assert!(host.systemd && host.selinux && !host.host_mount_namespace);
    }
}
