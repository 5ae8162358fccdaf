//! What the agent itself needs: a configuration, rights, programs, a kernel.

use super::Check;
use super::subject::Subject;
use crate::exec;
use crate::observe::host;
use crate::observe::sysfs;
use crate::persist::atomic;

/// The first kernel that puts a mount in place in one step (fsopen(2), move_mount(2)).
const OLDEST_KERNEL: (u32, u32) = (5, 2);
const MODULE_DIRS: [&str; 2] = ["/usr/lib/modules", "/lib/modules"];

pub fn configuration(subject: &Subject<'_>, wrong: Option<&str>) -> Check {
    const NAME: &str = "configuration";
    let config = subject.config;
    match wrong {
        None => {
            Check::ok(NAME, format!("valid: {}, {} at {}", layout(subject), config.filesystem, config.target))
        }
        Some(wrong) => Check::problem(
            NAME,
            wrong,
            "Correct it: with a wrong configuration setup sets nothing up (`nvme-agent plan` reads it, too). What follows \
             goes by what of it could be read.",
        ),
    }
}

fn layout(subject: &Subject<'_>) -> &'static str {
    match subject.seen.as_ref().map(|seen| seen.drives.len()) {
        Ok(1) => "a single drive",
        _ => "raid0",
    }
}

pub fn user(subject: &Subject<'_>) -> Check {
    const NAME: &str = "user";
    match () {
        () if !subject.running => subject.cannot(NAME).unwrap_or_default(),
        () if subject.privileged => Check::ok(NAME, "root"),
        () => Check::unknown(
            NAME,
            format!("user id {}: what only root may read is unknown; try sudo", nix::unistd::geteuid()),
        ),
    }
}

/// Of a container or a unit with a mount namespace of its own: what setup would mount there nobody else would see.
pub fn mount_namespace(subject: &Subject<'_>) -> Check {
    const NAME: &str = "mount-namespace";
    if let Some(unknown) = subject.cannot(NAME) {
        return unknown;
    }
    match host::read(subject.root).host_mount_namespace {
        true => Check::ok(NAME, "the host's"),
        false => Check::problem(
            NAME,
            "another one than that of PID 1: what setup mounts here the host does not see, and setup refuses",
            "Run nvme-agent on the host itself, or by `nsenter --target 1 --mount`.",
        ),
    }
}

pub fn programs(subject: &Subject<'_>) -> Check {
    const NAME: &str = "programs";
    let find = |name: &str| exec::find_program(subject.root, name);
    let mkfs = format!("mkfs.{}", subject.config.filesystem);
    let Some(found) = find(&mkfs) else {
        let package = if mkfs == "mkfs.xfs" { "xfsprogs" } else { "e2fsprogs" };
        return Check::problem(
            NAME,
            format!(
                "{mkfs} is not here: expected it in /usr/sbin, /usr/bin, /sbin or /bin; blank drives stay blank"
            ),
            format!("Install the package {package}, or choose another `filesystem`."),
        );
    };
    if find("blkid").is_none() {
        return Check::warning(
            NAME,
            "blkid is not here: setup fails on a drive that is neither blank nor a plain md member",
            "Install the package util-linux.",
        );
    }
    Check::ok(NAME, format!("{}, blkid; nothing else is needed", found.display()))
}

pub fn kernel(subject: &Subject<'_>) -> Check {
    const NAME: &str = "kernel";
    let releases = releases(subject);
    if releases.is_empty() {
        return Check::unknown(
            NAME,
            "which kernel is to run is not known: no /proc, and none in /usr/lib/modules",
        );
    }
    let old = |release: &&String| host::version(release).is_some_and(|version| version < OLDEST_KERNEL);
    match releases.iter().find(old) {
        Some(release) => Check::problem(
            NAME,
            format!("{release}: expected {}.{} or later; setup refuses", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
            "Take an image with a newer kernel (AL2023, or AL2 with 5.10).",
        ),
        None => Check::ok(NAME, releases.join(", ")),
    }
}

/// Of the kernel that runs; of an image, of those that it has modules for.
fn releases(subject: &Subject<'_>) -> Vec<String> {
    if subject.running {
        return sysfs::attribute(subject.root.join("/proc/sys/kernel/osrelease")).into_iter().collect();
    }
    let mut dirs = MODULE_DIRS.iter().map(|dir| subject.names(dir));
    dirs.find(|names| !names.is_empty()).unwrap_or_default()
}

/// raid0 and the filesystem: the kernel loads them by its own request, from files that an image may lack.
pub fn modules(subject: &Subject<'_>) -> Check {
    const NAME: &str = "kernel-modules";
    let filesystem = subject.config.filesystem.as_str();
    let single = matches!(&subject.seen, Ok(seen) if seen.drives.len() == 1);
    let wanted = if single { vec![filesystem] } else { vec!["raid0", filesystem] };
    let releases = releases(subject);
    let (mut missing, mut silent) = (Vec::new(), releases.is_empty());
    for release in &releases {
        for module in &wanted {
            match has_module(subject, release, module) {
                Some(true) => {}
                Some(false) => missing.push(format!("{module} for {release}")),
                None => silent = true,
            }
        }
    }
    match (missing.as_slice(), silent) {
        ([], false) => Check::ok(NAME, wanted.join(", ")),
        ([], true) => Check::unknown(NAME, "the kernel's modules are not listed in /usr/lib/modules"),
        (missing, _) => Check::problem(
            NAME,
            format!("not in this kernel, loaded, built in or as a module: {}", missing.join(", ")),
            "Install the kernel's modules (kernel-modules, kernel-modules-extra, linux-modules-extra) and run depmod.",
        ),
    }
}

/// None where nothing says so.
fn has_module(subject: &Subject<'_>, release: &str, module: &str) -> Option<bool> {
    let root = subject.root;
    if subject.running {
        let known = |path: &str, word: &str| {
            let text = atomic::read_text(&root.join(path)).ok().flatten().unwrap_or_default();
            text.split_ascii_whitespace().any(|found| found == word)
        };
        if root.join("/sys/module").join(module).is_dir()
            || known("/proc/filesystems", module)
            || known("/proc/mdstat", &format!("[{module}]"))
        {
            return Some(true);
        }
    }
    let mut listed = None;
    for dir in MODULE_DIRS {
        for list in ["modules.dep", "modules.builtin"] {
            let Some(text) = subject.text(&format!("{dir}/{release}/{list}")) else { continue };
            // `kernel/drivers/md/raid0.ko.xz: kernel/...`
            let is_it = |line: &str| {
                let file = line.split(':').next().and_then(|path| path.rsplit('/').next());
                file.and_then(|file| file.split(".ko").next()) == Some(module)
            };
            listed = Some(listed.unwrap_or(false) || text.lines().any(is_it));
        }
    }
    listed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, FsKind};
    use crate::doctor::Verdict;
    use crate::doctor::subject::{IMAGE, ROOT_ONLY};
    use crate::doctor::tests::Machine;
    use crate::stand_in;

    #[test]
    fn a_wrong_configuration_is_a_problem_in_its_own_words() {
        let machine = Machine::new();
        assert_eq!(machine.check(|s| configuration(s, None)).verdict, Verdict::Ok);
        let check = machine.check(|s| configuration(s, Some("config.toml:3: unknown key `x`")));
        assert_eq!(
            (check.verdict, check.found.as_str()),
            (Verdict::Problem, "config.toml:3: unknown key `x`")
        );
    }

    #[test]
    fn who_runs_it_and_where() {
        let machine = Machine::new();
        assert_eq!(machine.check(user).verdict, Verdict::Ok);
        let config = Config::default();
        let nobody = Subject::with(&machine.root, &config, true, false);
        assert_eq!(
            (user(&nobody).verdict, mount_namespace(&nobody).found.as_str()),
            (Verdict::Unknown, ROOT_ONLY)
        );
        let image = Subject::with(&machine.root, &config, false, true);
        assert_eq!((user(&image).found.as_str(), mount_namespace(&image).found.as_str()), (IMAGE, IMAGE));
        assert_eq!(machine.check(mount_namespace).verdict, Verdict::Ok);
        for (who, namespace) in [("self", "mnt:[2]"), ("1", "mnt:[1]")] {
            machine.link(&format!("/proc/{who}/ns/mnt"), namespace);
        }
        assert_eq!(machine.check(mount_namespace).verdict, Verdict::Problem);
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let mut machine = Machine::new();
        assert_eq!(machine.check(programs).verdict, Verdict::Ok);
        machine.config.filesystem = FsKind::Xfs;
        let check = machine.check(programs);
        assert_eq!(check.verdict, Verdict::Problem);
        assert!(
            check.found.contains("mkfs.xfs") && check.next.unwrap().contains("xfsprogs"),
            "{}",
            check.found
        );
        stand_in::program(&machine.root.join("/usr/sbin/mkfs.xfs"), "exit 0");
        assert_eq!(machine.check(programs).verdict, Verdict::Ok);
        std::fs::remove_file(machine.root.join("/usr/sbin/blkid")).unwrap();
        assert_eq!(machine.check(programs).verdict, Verdict::Warning);
    }

    #[test]
    fn an_old_kernel_is_a_problem() {
        let machine = Machine::new();
        assert_eq!(machine.check(kernel).verdict, Verdict::Ok);
        machine.write("/proc/sys/kernel/osrelease", "5.1.0-x\n");
        assert_eq!(machine.check(kernel).verdict, Verdict::Problem);
        machine.remove("/proc/sys/kernel/osrelease");
        assert_eq!(machine.check(kernel).verdict, Verdict::Unknown);
    }

    #[test]
    fn raid0_loaded_built_in_or_as_a_module_and_else_a_problem() {
        let machine = Machine::new();
        assert_eq!(machine.check(modules).verdict, Verdict::Ok, "as a module");
        let dep = "/usr/lib/modules/6.12.1/modules.dep";
        machine.write(
            dep,
            "kernel/drivers/md/raid10.ko.xz:\nkernel/drivers/md/md-raid0.ko: kernel/x/raid0.ko\n",
        );
        let check = machine.check(modules);
        assert_eq!(check.verdict, Verdict::Problem);
        assert!(check.found.ends_with("raid0 for 6.12.1"), "{}", check.found);
        machine.write("/proc/mdstat", "Personalities : [raid1] [raid0]\nunused devices: <none>\n");
        assert_eq!(machine.check(modules).verdict, Verdict::Ok, "loaded");
        machine.remove("/proc/mdstat");
        machine.write("/lib/modules/6.12.1/modules.builtin", "kernel/drivers/md/raid0.ko\n");
        assert_eq!(machine.check(modules).verdict, Verdict::Ok, "built in");
    }

    #[test]
    fn one_drive_needs_no_raid0() {
        let mut machine = Machine::new();
        machine.drive("1");
        machine.write("/usr/lib/modules/6.12.1/modules.dep", "");
        assert_eq!(machine.check(modules).verdict, Verdict::Ok);
        machine.drive("2");
        assert_eq!(machine.check(modules).verdict, Verdict::Problem);
    }

    #[test]
    fn every_kernel_of_an_image_counts() {
        let machine = Machine::new();
        machine.remove("/proc/sys/kernel/osrelease");
        let config = Config::default();
        let image = || Subject::with(&machine.root, &config, false, true);
        machine.write("/usr/lib/modules/6.12.1/modules.builtin", "kernel/fs/ext4/ext4.ko\n");
        assert_eq!((kernel(&image()).verdict, modules(&image()).verdict), (Verdict::Ok, Verdict::Ok));
        machine.write("/usr/lib/modules/6.1.5/modules.dep", "kernel/fs/ext4/ext4.ko:\n");
        assert!(modules(&image()).found.ends_with("raid0 for 6.1.5"));
        machine.write("/usr/lib/modules/4.14.5/modules.dep", "");
        assert!(kernel(&image()).found.starts_with("4.14.5"));
    }
}
