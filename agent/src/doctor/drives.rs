//! The drives: whether they are there, and whether somebody else has them or is about to.

use super::subject::Subject;
use super::{Check, Verdict};
use crate::observe::{Array, Drive, Inventory, Use, mounts};
use crate::plan::{owners, words};

const PLAN: &str = "Run `nvme-agent plan`: it says what setup makes of it.";

pub fn present(subject: &Subject<'_>) -> Check {
    const NAME: &str = "drives";
    let seen = match subject.seen(NAME) {
        Ok(seen) => seen,
        Err(unknown) => return unknown,
    };
    if let Some(pending) = seen.pending.first() {
        let found: Vec<String> = seen.pending.iter().map(|p| format!("{}: {}", p.address, p.why)).collect();
        return Check::problem(
            NAME,
            format!("no live drive at {}", found.join("; ")),
            format!(
                "Look into the kernel's log for {} (`journalctl -k`). Setup waits for it and then fails; a drive that does not \
                 come back needs another instance.",
                pending.address
            ),
        );
    }
    let (there, wanted) = (seen.drives.len(), subject.config.expect_drives as usize);
    if there < wanted {
        return Check::problem(
            NAME,
            format!("{there} of the {wanted} that expect_drives wants; setup fails"),
            "Is it the right instance type, and are `match.models` those of its drives? Else correct expect_drives.",
        );
    }
    let read_only: Vec<&str> = seen.drives.iter().filter(|d| d.read_only).map(|d| d.name.as_str()).collect();
    if !read_only.is_empty() {
        return Check::problem(
            NAME,
            format!("read-only: {}; setup refuses", read_only.join(", ")),
            "Make them writable (`blockdev --setrw`), or replace the instance.",
        );
    }
    let names: Vec<&str> = seen.drives.iter().map(|drive| drive.name.as_str()).collect();
    match names.as_slice() {
        [] => Check::ok(NAME, "none matches; setup will say `absent`"),
        names => Check::ok(NAME, format!("{}: {}", names.len(), names.join(", "))),
    }
}

/// Mounts, arrays, swap, partitions and other holders that are not ours.
pub fn in_use(subject: &Subject<'_>) -> Check {
    const NAME: &str = "drives-in-use";
    let seen = match subject.seen(NAME) {
        Ok(seen) => seen,
        Err(unknown) => return unknown,
    };
    let mut finding = Finding::default();
    for drive in &seen.drives {
        let carries = |array: &&Array| array.members.contains(&drive.name);
        if let Some(array) = seen.arrays.iter().find(carries) {
            finding.array(subject, seen, array);
        }
        let uses: Vec<&Use> = drive.uses.iter().filter(|by| !is_array(seen, by)).collect();
        finding.device(subject, &words::who(drive), &uses, subject.is_our_drive(drive));
    }
    finding.check(NAME, seen)
}

fn is_array(seen: &Inventory, by: &Use) -> bool {
    matches!(by, Use::Holder { name } if seen.arrays.iter().any(|array| array.name == *name))
}

#[derive(Default)]
struct Finding {
    problems: Vec<String>,
    warnings: Vec<String>,
    /// What is ours, or what setup takes over.
    fine: Vec<String>,
}

impl Finding {
    fn array(&mut self, subject: &Subject<'_>, seen: &Inventory, array: &Array) {
        let name = array.path().display().to_string();
        if self.fine.iter().chain(&self.problems).chain(&self.warnings).any(|said| said.starts_with(&name)) {
            return;
        }
        let is_drive = |member: &&String| seen.drives.iter().any(|drive| drive.name == **member);
        let others: Vec<&str> = array.members.iter().filter(|m| !is_drive(m)).map(String::as_str).collect();
        if !others.is_empty() {
            let others = others.join(", ");
            return self
                .problems
                .push(format!("{name} is an array of drives and of {others}, which is none"));
        }
        let ours = subject.is_our_array(array);
        let uses: Vec<&Use> = array.uses.iter().collect();
        if uses.is_empty() {
            let running = if array.is_running() { "active" } else { "inactive" };
            let text = format!("{name} is {running} and not mounted");
            match ours {
                true => self.fine.push(format!("{text}, ours")),
                false => self.warnings.push(format!("{text}, and by no record ours")),
            }
            return;
        }
        self.device(subject, &name, &uses, ours);
    }

    fn device(&mut self, subject: &Subject<'_>, who: &str, uses: &[&Use], ours: bool) {
        let target = subject.target();
        let at_target = uses.iter().any(|by| matches!(by, Use::Mounted { at } if at == target));
        for by in uses {
            let text = format!("{who} {}", words::use_in_words(by));
            match by {
                // Of what is mounted at the target other places are binds: volumes of pods.
                Use::Mounted { at } if at == target && ours => self.fine.push(format!("{text}, ours")),
                Use::Mounted { at } if at == target => {
                    self.warnings.push(format!("{text}, and not by a setup of this boot"));
                }
                Use::Mounted { .. } if at_target => {}
                _ => self.problems.push(text),
            }
        }
    }

    fn check(mut self, name: &str, seen: &Inventory) -> Check {
        if !self.problems.is_empty() {
            return Check::problem(
                name,
                self.problems.join("; "),
                "Setup refuses drives in use, whatever its flags: unmount or stop that, and take out what starts it at boot \
                 (fstab, units, userData).",
            );
        }
        if !self.warnings.is_empty() {
            return Check::warning(name, self.warnings.join("; "), PLAN);
        }
        if self.fine.is_empty() {
            let nobody = if seen.drives.is_empty() { "no drives" } else { "nobody uses them" };
            self.fine.push(nobody.into());
        }
        Check::of(name, Verdict::Ok, self.fine.join("; "), None)
    }
}

/// Other software that sets up instance store, by what it leaves on a node: what plan refuses by name.
pub fn owners(subject: &Subject<'_>) -> Check {
    const NAME: &str = "other-owners";
    let seen = match subject.seen(NAME) {
        Ok(seen) => seen,
        Err(unknown) => return unknown,
    };
    if let Some(note) = seen.notes.first() {
        return Check::unknown(NAME, note);
    }
    let named = |drive: &Drive| seen.arrays.iter().any(|array| array.members.contains(&drive.name));
    // What is mounted there is kept, whoever could claim it: plan asks in that order, too.
    let top = mounts::topmost(&seen.mounts, subject.target());
    let kept = top.is_some_and(|mount| {
        seen.drives.iter().any(|drive| drive.dev == mount.dev)
            || seen.arrays.iter().any(|array| array.dev == mount.dev && seen.drives.iter().any(named))
    });
    let nobodys = || if kept { Ok(()) } else { owners::drives_are_nobodys(seen, false) };
    match owners::drives_are_ours_to_take(seen).and_then(|()| nobodys()) {
        Ok(()) => Check::ok(
            NAME,
            "no trace of nodeadm's localStorage, the EKS CSI driver, or the static provisioner",
        ),
        Err(refusal) => {
            Check::problem(NAME, format!("{}: {}", refusal.reason, refusal.found.join("; ")), refusal.next)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::{MOUNT, Machine};
    use crate::node::nodeadm::CACHE_PATH;

    #[test]
    fn drives_that_are_there_missing_or_dead() {
        let mut machine = Machine::new();
        machine.check(present).is(Verdict::Ok, &["absent"]);
        machine.config.expect_drives = 1;
        machine.check(present).is_problem(&["0 of the 1 that expect_drives wants"]);
        machine.drive("1");
        machine.check(present).is(Verdict::Ok, &["1: nvme1n1"]);
        machine.write("/sys/class/nvme/nvme1/state", "dead");
        machine.check(present).is_problem(&["0000:00:11.0", "controller nvme1 is dead"]);
        machine.write("/sys/class/nvme/nvme1/state", "live");
        machine.write("/sys/class/block/nvme1n1/ro", "1");
        machine.check(present).is_problem(&["read-only: nvme1n1"]);
    }

    #[test]
    fn our_own_use_is_fine_and_anybody_elses_is_not() {
        let machine = Machine::set_up();
        machine.check(in_use).is(Verdict::Ok, &["/dev/md0 is mounted at /tmp, ours"]);
        // A volume of a pod is a bind of it.
        let pod = "91 22 9:0 /spill /var/lib/kubelet/pods/x rw - ext4 /dev/md0 rw\n";
        machine.mounts(&format!("{MOUNT}{pod}"));
        machine.check(in_use).is(Verdict::Ok, &[]);
        machine.check(owners).is(Verdict::Ok, &[]);
        machine.mounts(pod);
        machine.check(in_use).is_problem(&["/dev/md0 is mounted at /var/lib/kubelet/pods/x", "unmount"]);
    }

    #[test]
    fn what_setup_has_not_mounted_is_for_plan_to_judge() {
        let machine = Machine::with_array();
        machine
            .check(in_use)
            .is(Verdict::Warning, &["/dev/md0 is active and not mounted", "nvme-agent plan"]);
        machine.mounts(MOUNT);
        machine.check(in_use).is(Verdict::Warning, &["/dev/md0 is mounted at /tmp, and not by a setup"]);
        machine.mounts("90 22 9:0 / /data rw - ext4 /dev/md0 rw\n");
        machine.check(in_use).is_problem(&["mounted at /data"]);
    }

    #[test]
    fn a_drive_that_is_held_mounted_or_swap() {
        let mut machine = Machine::new();
        machine.drive("1");
        machine.check(in_use).is(Verdict::Ok, &["nobody uses them"]);
        machine.inner.stacked("dm-0", "253:0", 1 << 30, &["nvme1n1"]);
        machine.check(in_use).is_problem(&["/dev/nvme1n1 (AWS1) is held by dm-0"]);
        let mut machine = Machine::new();
        machine.drive("1");
        machine.write("/proc/swaps", "Filename Type\n/dev/nvme1n1 partition 1 0 -2");
        machine.check(in_use).is_problem(&["is swap in use"]);
        machine.remove("/proc/swaps");
        let dev = std::fs::read_to_string(machine.root.join("/sys/class/block/nvme1n1/dev")).unwrap();
        machine.mounts(&format!("90 22 {} / /mnt/k8s-disks/0 rw - xfs /dev/nvme1n1 rw\n", dev.trim()));
        machine.check(in_use).is_problem(&["is mounted at /mnt/k8s-disks/0"]);
        machine.check(owners).is_problem(&["NodeadmLocalStorage", "instanceStorePolicy"]);
    }

    #[test]
    fn other_owners_are_named() {
        let mut machine = Machine::new();
        machine.drive("1");
        machine.check(owners).is(Verdict::Ok, &[]);
        machine.write(CACHE_PATH, r#"{"spec":{"instance":{"localStorage":{"strategy":"RAID0"}}}}"#);
        machine.check(owners).is_problem(&["NodeadmLocalStorage", "strategy is RAID0"]);
        machine.write(CACHE_PATH, "{ secret");
        let unknown = machine.check(owners);
        unknown.is(Verdict::Unknown, &["not valid JSON"]);
        assert!(!unknown.found.contains("secret"), "{unknown:?}");
        machine.write(CACHE_PATH, "{}");
        machine.write("/var/lib/kubelet/plugins/lis.csi.aws.com/csi.sock", "");
        machine.check(owners).is_problem(&["OwnerConflict", "lis.csi.aws.com"]);
    }

    #[test]
    fn a_mount_table_that_cannot_be_read_is_unknown_not_fine() {
        let machine = Machine::new();
        machine.remove("/proc/1/mountinfo");
        for check in [present, in_use, owners] {
            machine.check(check).is(Verdict::Unknown, &["mountinfo"]);
        }
        for check in [present, in_use, owners] {
            machine.image(check).is(Verdict::Unknown, &["image"]);
        }
    }
}
