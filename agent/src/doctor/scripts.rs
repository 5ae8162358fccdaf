//! Scripts that format instance store: the old userData script and its like, where boots run them.
//!
//! Told by what they call, not by their names; in doubt a person is asked to look. Nothing of a text is quoted: scripts hold
//! secrets.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::subject::{ROOT_ONLY, Subject};
use super::{Check, userdata};
use crate::observe::sysfs;
use crate::persist::atomic;

/// A longer file is no script that somebody wrote, in bytes.
const LONGEST: u64 = 256 << 10;
/// So many files of a directory are looked at.
const MOST: usize = 200;

/// Files and directories whose scripts run at every boot, or by the clock.
const AT_BOOT: [&str; 8] = [
    "/etc/rc.local",
    "/etc/rc.d/rc.local",
    "/etc/crontab",
    "/etc/cron.d",
    "/var/spool/cron",
    "/var/spool/cron/crontabs",
    "/var/lib/cloud/scripts/per-boot",
    "/usr/local/lib/systemd/system",
];
/// Own units of a host; those that packages brought are elsewhere.
const UNITS: &str = "/etc/systemd/system";
/// Once for an instance: at its next launch again.
const AT_LAUNCH: [&str; 2] = ["/var/lib/cloud/scripts/per-instance", "/var/lib/cloud/scripts/per-once"];

pub fn scripts(subject: &Subject<'_>) -> Check {
    const NAME: &str = "other-scripts";
    // Without the mounts it is not known what may be asked.
    if subject.running
        && let Err(unknown) = subject.seen(NAME)
    {
        return unknown;
    }
    let mut look = Look { subject, unasked: None, denied: false, seen: BTreeSet::new() };
    let mut at_boot: Vec<String> = AT_BOOT.iter().flat_map(|path| look.below(path, &|_| true)).collect();
    at_boot.extend(look.below(UNITS, &|name| name.ends_with(".service") && !name.starts_with("nvme-agent")));
    if !at_boot.is_empty() {
        return Check::problem(
            NAME,
            format!("{}, at every boot or by the clock", at_boot.join("; ")),
            "Take it out, or disable it: whoever of the two comes first has the drives, and the other fails or formats them.",
        );
    }
    let mut at_launch: Vec<String> = AT_LAUNCH.iter().flat_map(|path| look.below(path, &|_| true)).collect();
    // An image has that of the machine that it was made on.
    if subject.running {
        match userdata::read(subject) {
            Ok(Some((path, parts))) => {
                let scripts = parts.iter().filter(|part| part.is_script());
                let found = scripts.filter_map(|part| does(&part.text));
                at_launch.extend(found.map(|what| format!("userData ({path}) {what}")));
            }
            Ok(None) => {}
            Err(_) => look.denied = true,
        }
    }
    if !at_launch.is_empty() {
        return Check::warning(
            NAME,
            format!("{}, once for an instance", at_launch.join("; ")),
            "Take it out of the launch template or EC2NodeClass before the next launch: docs/migration.md.",
        );
    }
    match look.unasked {
        _ if look.denied && !subject.privileged => Check::unknown(NAME, ROOT_ONLY),
        _ if look.denied => Check::unknown(NAME, "some of the scripts that run at boot cannot be read"),
        Some(why) => Check::unknown(NAME, why),
        None => Check::ok(
            NAME,
            "none in userData, units, cron or rc.local makes arrays or filesystems of NVMe drives",
        ),
    }
}

struct Look<'a> {
    subject: &'a Subject<'a>,
    /// Why one of the places was not looked at.
    unasked: Option<String>,
    denied: bool,
    /// A script that several call, or that has several names, is told once.
    seen: BTreeSet<PathBuf>,
}

impl Look<'_> {
    /// What the file, or the files in the directory, do to drives; each with its path.
    fn below(&mut self, path: &str, wanted: &dyn Fn(&str) -> bool) -> Vec<String> {
        let at = match self.subject.at(path) {
            Ok(at) => at,
            Err(why) => {
                self.unasked.get_or_insert(why);
                return Vec::new();
            }
        };
        if at.is_dir() {
            let names = sysfs::names(&at).unwrap_or_else(|_| {
                self.denied = true;
                Vec::new()
            });
            let files = names.into_iter().filter(|name| wanted(name)).take(MOST);
            return files.flat_map(|name| self.file(&format!("{path}/{name}"), true)).collect();
        }
        self.file(path, true)
    }

    /// `follow`: the scripts that it names as well.
    fn file(&mut self, path: &str, follow: bool) -> Vec<String> {
        // Nothing that is on the target is there at boot; another mount may hang like it.
        let Ok(at) = self.subject.at(path) else { return Vec::new() };
        if !self.seen.insert(at.clone()) {
            return Vec::new();
        }
        let Some(text) = self.text(&at) else { return Vec::new() };
        let mut found: Vec<String> = does(&text).map(|what| format!("{path} {what}")).into_iter().collect();
        if follow {
            for named in commands(&text) {
                found.extend(self.file(&named, false));
            }
        }
        found
    }

    /// The text of a file that is small, and is text.
    fn text(&mut self, at: &Path) -> Option<String> {
        // A directory is no script, nor is what a unit that is masked leads to.
        if !at.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= LONGEST) {
            return None;
        }
        let mut bytes = Vec::new();
        match atomic::open(at).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes)) {
            Ok(_) => String::from_utf8(bytes).ok(),
            Err(_) => {
                self.denied = true;
                None
            }
        }
    }
}

/// The absolute paths in the lines that are no comments: programs, among them scripts.
fn commands(text: &str) -> Vec<String> {
    let words =
        lines(text).flat_map(|line| line.split(|c: char| c.is_ascii_whitespace() || "\"';=|&()".contains(c)));
    let paths = words.map(|word| word.trim_start_matches(['-', '@', ':', '+', '!']));
    let plain = |path: &&str| {
        path.starts_with('/') && path.len() > 1 && !path.starts_with("/dev/") && !path.contains("..")
    };
    paths.filter(plain).map(str::to_owned).collect()
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with('#'))
}

/// What a script does to instance store, in words; none where it does nothing to it.
fn does(text: &str) -> Option<&'static str> {
    let has = |word: &str| lines(text).any(|line| line.contains(word));
    if has("setup-local-disks") {
        return Some("runs EKS's setup-local-disks");
    }
    if has("bootstrap.sh") && has("--local-disks") {
        return Some("runs EKS's bootstrap.sh with --local-disks");
    }
    let drives = ["/dev/nvme", "Instance Storage", "/dev/md", "by-id/nvme-Amazon_EC2_NVMe_Instance_Storage"];
    if !drives.iter().any(|word| has(word)) {
        return None;
    }
    let makes = |line: &str| line.contains("mdadm") && (line.contains("--create") || line.contains(" -C"));
    match () {
        () if lines(text).any(makes) => Some("makes an md array"),
        () if has("mkfs") => Some("makes filesystems on NVMe drives"),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use crate::doctor::tests::Machine;

    const OLD: &str = include_str!("../../../tests/fixtures/old-script.sh");
    const FORMATS: &str = "#!/bin/sh\nmkfs.xfs -f /dev/nvme1n1 # hunter2\n";

    fn with(files: &[(&str, &str)]) -> Check {
        let machine = Machine::new();
        for (path, text) in files {
            machine.write(path, text);
        }
        let check = machine.check(scripts);
        assert!(!format!("{check:?}").contains("hunter2"), "{check:?}");
        check
    }

    #[test]
    fn the_old_script_in_userdata_formats_at_the_next_launch() {
        with(&[]).is(Verdict::Ok, &[]);
        let check = with(&[(userdata::PATHS[1], OLD)]);
        check.is(
            Verdict::Warning,
            &["userData (/var/lib/cloud/instance/user-data.txt) makes an md array", "migration"],
        );
        with(&[("/var/lib/cloud/scripts/per-instance/x.sh", FORMATS)])
            .is(Verdict::Warning, &["x.sh makes filesystems"]);
    }

    #[test]
    fn what_runs_at_every_boot_is_a_problem_wherever_it_is_started_from() {
        for path in
            ["/etc/rc.local", "/var/lib/cloud/scripts/per-boot/a", "/etc/cron.d/x", "/var/spool/cron/root"]
        {
            with(&[(path, FORMATS)]).is_problem(&[path, "makes filesystems on NVMe drives"]);
        }
        let unit =
            ("/etc/systemd/system/disks.service", "[Service]\nExecStart=-/bin/bash /opt/disks.sh --now\n");
        with(&[unit, ("/opt/disks.sh", FORMATS)]).is_problem(&["/opt/disks.sh makes filesystems"]);
        with(&[unit, ("/opt/disks.sh", "#!/bin/sh\n# mkfs /dev/nvme1n1\n")]).is(Verdict::Ok, &[]);
        with(&[("/etc/cron.d/x", "@reboot root /opt/disks.sh\n"), ("/opt/disks.sh", OLD)])
            .is_problem(&["an md array"]);
        with(&[("/etc/systemd/system/x.service", "[Service]\nExecStart=/usr/bin/setup-local-disks raid0\n")])
            .is_problem(&["setup-local-disks"]);
    }

    #[test]
    fn eks_bootstrap_with_local_disks_takes_them() {
        let text = "#!/bin/bash\n/etc/eks/bootstrap.sh c --local-disks raid0\n";
        with(&[(userdata::PATHS[1], text)]).is(Verdict::Warning, &["bootstrap.sh with --local-disks"]);
        with(&[(userdata::PATHS[1], &text.replace("--local-disks raid0", ""))]).is(Verdict::Ok, &[]);
    }

    #[test]
    fn scripts_that_touch_no_nvme_drive_and_our_own_are_fine() {
        with(&[("/etc/rc.local", "#!/bin/sh\nmkfs.ext4 /srv/image\n")]).is(Verdict::Ok, &[]);
        let ours = include_str!("../../../packaging/userdata/userdata.sh");
        with(&[(userdata::PATHS[1], ours), ("/etc/systemd/system/nvme-agent.service", crate::install::UNIT)])
            .is(Verdict::Ok, &[]);
    }

    #[test]
    fn where_nothing_may_be_opened_nothing_is_known() {
        let machine = Machine::new();
        machine.remove("/proc/1/mountinfo");
        machine.check(scripts).is(Verdict::Unknown, &["mountinfo"]);
        machine.image(scripts).is(Verdict::Ok, &[]);
    }

    #[test]
    fn nothing_on_the_target_or_on_a_network_filesystem_is_opened() {
        let unit = |path: &str| format!("[Service]\nExecStart={path}\n");
        let at = "/etc/systemd/system/x.service";
        with(&[(at, &unit("/tmp/x.sh")), ("/tmp/x.sh", FORMATS)]).is(Verdict::Ok, &[]);
        let nfs = "22 1 259:90 / / rw - xfs /dev/nvme0n1p1 rw\n40 22 0:40 / /nfs rw - nfs4 server:/ rw\n";
        for (path, verdict) in [("/nfs/x.sh", Verdict::Ok), ("/opt/x.sh", Verdict::Problem)] {
            with(&[(at, &unit(path)), (path, FORMATS), ("/proc/1/mountinfo", nfs)]).is(verdict, &[]);
        }
    }

    #[test]
    fn a_place_that_may_not_answer_is_not_looked_into_and_that_is_said() {
        let nfs = "40 22 0:40 / /var/spool rw - nfs4 server:/ rw\n";
        let machine = Machine::new();
        machine.write("/var/spool/cron/root", FORMATS);
        machine.mounts(nfs);
        machine.check(scripts).is(Verdict::Unknown, &["/var/spool/cron is on", "may not answer"]);
        // What is found elsewhere is no less of a problem.
        machine.write("/etc/rc.local", FORMATS);
        machine.check(scripts).is_problem(&["/etc/rc.local makes filesystems"]);
    }

    #[test]
    fn links_lead_below_the_root_and_to_nothing_that_may_not_answer() {
        let unit = "[Service]\nExecStart=/opt/x.sh\n";
        let nfs = "40 22 0:40 / /nfs rw - nfs4 server:/ rw\n";
        for (to, at, verdict) in [
            ("srv/opt", "/srv/opt/x.sh", Verdict::Problem),
            ("/srv/opt", "/srv/opt/x.sh", Verdict::Problem),
            ("nfs/opt", "/nfs/opt/x.sh", Verdict::Ok),
            ("/srv/../nfs/opt", "/nfs/opt/x.sh", Verdict::Ok),
            ("tmp/opt", "/tmp/opt/x.sh", Verdict::Ok),
            ("opt", "/srv/opt/x.sh", Verdict::Ok),
        ] {
            let machine = Machine::new();
            machine.mounts(nfs);
            machine.link("/opt", to);
            machine.write(at, FORMATS);
            machine.write("/usr/lib/systemd/system/x.service", unit);
            // As `systemctl enable` leaves a unit of somewhere else.
            machine.link("/etc/systemd/system/x.service", "/usr/lib/systemd/system/x.service");
            machine.check(scripts).is(verdict, &[]);
        }
        // The directory itself, and one that is masked.
        let machine = Machine::new();
        machine.mounts(nfs);
        machine.link("/etc/systemd/system/x.service", "/dev/null");
        machine.check(scripts).is(Verdict::Ok, &[]);
        machine.write("/nfs/cron.d/x", FORMATS);
        machine.link("/etc/cron.d", "../nfs/cron.d");
        machine.check(scripts).is(Verdict::Unknown, &["/etc/cron.d is on"]);
    }
}
