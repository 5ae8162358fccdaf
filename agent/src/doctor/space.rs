//! Room for the state: what is written at every boot is small, and a failed write of it fails setup.

use std::path::Path;

use rustix::fs::{StatVfsMountFlags, statvfs};

use super::Check;
use super::subject::Subject;

/// Where the agent writes: the name of the check, the directory, and the one to ask where that is not there yet.
const PLACES: [(&str, &str, &str); 3] = [
    ("space-run", "/run/nvme-agent", "/run"),
    ("space-var-lib", "/var/lib/nvme-agent", "/var/lib"),
    ("space-etc", "/etc", "/etc"),
];
/// Less than this and a write may fail: state, intent and record are a few KiB. In bytes.
const LEAST: u64 = 1 << 20;
/// Less than this and userData cannot fetch a new binary, nor an image's files be written beside the old. In bytes.
const ENOUGH: u64 = 16 << 20;
const LEAST_INODES: u64 = 16;

/// What statvfs(3) says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Room {
    /// For root, in bytes.
    free: u64,
    /// None where the filesystem makes them as it needs them.
    inodes: Option<u64>,
    read_only: bool,
}

pub fn places(subject: &Subject<'_>) -> Vec<Check> {
    let check = |(name, dir, above): &(&str, &str, &str)| place(subject, name, dir, above);
    PLACES.iter().map(check).collect()
}

fn place(subject: &Subject<'_>, name: &str, dir: &str, above: &str) -> Check {
    let found = match subject.at(dir) {
        Ok(at) if at.is_dir() => Some((dir, at)),
        Ok(_) => subject.at(above).ok().filter(|at| at.is_dir()).map(|at| (above, at)),
        Err(why) => return Check::unknown(name, why),
    };
    let Some((asked, at)) = found else {
        return if subject.running {
            Check::problem(name, format!("{above} is no directory"), format!("Make it: `mkdir -p {above}`."))
        } else {
            Check::ok(name, format!("{above} is not in the image yet"))
        };
    };
    match room(&at) {
        Ok(room) => judge(name, dir, room),
        Err(error) => Check::unknown(name, format!("{asked}: {error}")),
    }
}

fn room(path: &Path) -> Result<Room, rustix::io::Errno> {
    let said = statvfs(path)?;
    Ok(Room {
        // What is kept back for root is ours, too.
        free: said.f_bfree.saturating_mul(said.f_frsize),
        inodes: (said.f_files > 0).then_some(said.f_ffree),
        read_only: said.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}

fn judge(name: &str, dir: &str, room: Room) -> Check {
    let mib = room.free >> 20;
    match room {
        Room { read_only: true, .. } => Check::problem(
            name,
            format!("{dir} is on a filesystem that is mounted read-only"),
            "Mount it writable; setup cannot write its state, fstab or records.",
        ),
        Room { free, .. } if free < LEAST => Check::problem(
            name,
            format!("{dir}: {} KiB free; expected at least {} MiB", free >> 10, LEAST >> 20),
            "Make room: setup fails where it cannot write.",
        ),
        Room { inodes: Some(inodes), .. } if inodes < LEAST_INODES => Check::problem(
            name,
            format!("{dir}: {inodes} inodes free; expected at least {LEAST_INODES}"),
            "Remove files: setup fails where it cannot make one.",
        ),
        Room { free, .. } if free < ENOUGH => Check::warning(
            name,
            format!("{dir}: {mib} MiB free; a new binary needs {} MiB", ENOUGH >> 20),
            "Make room before it is full.",
        ),
        _ => Check::ok(name, format!("{dir}: {mib} MiB free, writable")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use crate::doctor::tests::Machine;

    const PLENTY: Room = Room { free: 1 << 30, inodes: Some(1000), read_only: false };

    #[test]
    fn bytes_inodes_and_whether_it_can_be_written() {
        let of = |room| judge("space-etc", "/etc", room);
        of(PLENTY).is(Verdict::Ok, &["/etc: 1024 MiB free, writable"]);
        of(Room { inodes: None, ..PLENTY }).is(Verdict::Ok, &[]);
        of(Room { read_only: true, ..PLENTY }).is_problem(&["read-only"]);
        of(Room { free: LEAST - 1, ..PLENTY }).is_problem(&["1023 KiB free"]);
        of(Room { inodes: Some(15), ..PLENTY }).is_problem(&["15 inodes free"]);
        of(Room { free: LEAST, ..PLENTY }).is(Verdict::Warning, &["1 MiB free"]);
    }

    #[test]
    fn each_place_is_asked_or_what_is_above_it() {
        let machine = Machine::new();
        let verdicts = || -> Vec<Verdict> {
            let subject = Subject::with(&machine.root, &machine.config, true, true);
            places(&subject).into_iter().map(|check| check.verdict).collect()
        };
        // A fixture has neither /run nor /var.
        assert_eq!(verdicts()[..2], [Verdict::Problem, Verdict::Problem]);
        for dir in ["/run", "/var/lib"] {
            std::fs::create_dir_all(machine.root.join(dir)).unwrap();
        }
        assert!(
            verdicts().iter().all(|verdict| !matches!(verdict, Verdict::Unknown | Verdict::Problem)),
            "{:?}",
            verdicts()
        );
    }

    #[test]
    fn what_may_not_answer_is_not_asked() {
        let mut machine = Machine::new();
        std::fs::create_dir_all(machine.root.join("/var/lib")).unwrap();
        let nfs = "40 22 0:40 / /var/lib rw - nfs4 server:/ rw\n";
        let of = |machine: &Machine| {
            machine.check(|s| place(s, "space-var-lib", "/var/lib/nvme-agent", "/var/lib"))
        };
        machine.mounts(nfs);
        of(&machine).is(Verdict::Unknown, &["may not answer"]);
        machine.mounts("");
        assert_ne!(of(&machine).verdict, Verdict::Unknown);
        machine.config.target = "/var/lib".into();
        of(&machine).is(Verdict::Unknown, &["on the target"]);
    }
}
