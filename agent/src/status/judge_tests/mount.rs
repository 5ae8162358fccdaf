//! What is mounted on the target, and the filesystem on it.

use super::*;
use Verdict::{Degraded, Failed};

pub(super) const CASES: &[Case] = &[
    Case("unmounted, the tmpfs below shows", 2, Failed, &["MountReplaced"], |_, live| {
        mounts(live).pop();
    }),
    Case("unmounted", 2, Failed, &["MountGone"], |_, live| mounts(live).truncate(1)),
    Case("unmounted, and what is there now is broken", 2, Failed, &["MountReplaced"], |_, live| {
        mounts(live).pop();
        mounts(live)[1].options = "ro".into();
        (live.broken, live.errors) = (Some("says \"I/O error\"".into()), Some(2));
    }),
    Case("something mounted over it", 2, Failed, &["MountReplaced"], |_, live| {
        let over = mounts(live)[1].clone();
        mounts(live).push(over);
    }),
    Case("another device under the same name", 2, Failed, &["MountReplaced"], |_, live| {
        mounts(live)[2].dev = DevNum { major: 259, minor: 9 };
    }),
    Case("a bind of a part of it", 1, Failed, &["MountReplaced"], |_, live| {
        mounts(live)[2].root = "/sub".into();
    }),
    Case("another filesystem", 1, Failed, &["MountReplaced"], |_, live| {
        mounts(live)[2].fs_type = "xfs".into()
    }),
    Case("read-only mount", 2, Failed, &["MountReadOnly"], |_, live| {
        mounts(live)[2].options = "ro,noatime".into();
    }),
    Case("errors=remount-ro struck", 2, Failed, &["MountReadOnly", "FilesystemErrors"], |_, live| {
        mounts(live)[2].super_options = "ro,errors=remount-ro".into();
        live.errors = Some(1);
    }),
    Case(
        "something mounted over a directory above, which is asked instead",
        2,
        Failed,
        &["MountHidden"],
        |state, live| {
            state.target = "/opt/data".into();
            live.fstab = None;
            live.broken = Some("says \"I/O error\"".into());
            let mounts = mounts(live);
            mounts[1].at = "/opt".into();
            mounts[2].at = "/opt/data".into();
            for (mount, id) in mounts.iter_mut().zip([27, 61, 60]) {
                (mount.id, mount.parent) = (id, if id == 27 { 1 } else { 27 });
            }
        },
    ),
    Case("xfs was shut down", 2, Failed, &["MountReadOnly", "FilesystemFailed"], |_, live| {
        mounts(live)[2].super_options = "rw,shutdown".into();
        live.broken = Some("says \"I/O error\"".into());
        live.errors = None;
    }),
    Case("it gives errors for everything", 2, Failed, &["FilesystemFailed"], |_, live| {
        live.broken = Some("says \"I/O error\"".into());
    }),
    Case("it hangs, and has errors", 1, Failed, &["FilesystemFailed", "FilesystemErrors"], |_, live| {
        (live.broken, live.errors) = (Some("does not answer within 10 s".into()), Some(2));
    }),
    Case("ext4 has found errors", 2, Degraded, &["FilesystemErrors"], |_, live| live.errors = Some(3)),
    Case("mounts cannot be read", 2, Failed, &["MountsUnreadable"], |_, live| live.mounts = None),
];

#[test]
fn each_fact_of_the_mount_makes_its_verdict() {
    tried(CASES);
}

#[test]
fn what_struck_the_mount_is_told_with_the_device() {
    for (n, device) in [(1, "/dev/nvme1n1"), (2, "/dev/md0")] {
        let (state, live) = machine(n);
        let message = |change: fn(&mut Vec<Mount>)| {
            let mut live = live.clone();
            change(mounts(&mut live));
            report(&state, &live).message
        };
        for said in [
            message(|mounts| mounts[2].super_options = "ro,errors=remount-ro".into()),
            message(|mounts| mounts.truncate(1)),
            message(|mounts| mounts.truncate(2)),
        ] {
            assert!(said.contains(device), "{said}");
        }
    }
}

#[test]
fn a_filesystem_with_errors_is_degraded_whatever_setup_said_and_shows_how_many() {
    let (mut state, mut live) = machine(2);
    live.errors = Some(3);
    for (health, reason) in [(Health::Ready, "SetupComplete"), (Health::Degraded, "Incomplete")] {
        (state.state, state.reason) = (health, reason.into());
        assert_eq!(verdict(&state, &live), (Verdict::Degraded, "FilesystemErrors".into()), "{health}");
    }
    let report = report(&state, &live);
    assert!(
        report.message.contains("/dev/md0") && report.message.contains(": 3 since"),
        "{}",
        report.message
    );
    assert!(
        report.to_string().lines().any(|line| line.starts_with("mount") && line.ends_with(", 3 errors")),
        "{report}"
    );
}

/// An unprivileged user may not see the mount table of process 1, or not all of /dev.
#[test]
fn who_may_not_look_is_not_told_that_it_failed() {
    let (state, mut live) = machine(2);
    (live.mounts, live.unprivileged) = (None, true);
    live.health.values_mut().for_each(|answer| {
        answer.said = Said { closed: nix::errno::Errno::EACCES as i32, ..Said::default() };
    });
    live.fstab = None;
    (live.kept.mdadm_conf, live.kept.tmpfiles, live.kept.registered) =
        (Text::Unread, Text::Unread, Text::Unread);
    (live.usage, live.errors) = (None, None);
    live.problems = vec!["/proc/1/mountinfo: cannot read the mount table: Permission denied".into()];
    let report = report(&state, &live);
    assert_eq!((report.state, report.warnings.len()), (Verdict::Ready, 0), "{report:?}");
    assert_eq!(report.unreadable.len(), 1);
    assert!(report.drives.iter().all(|drive| drive.not_asked.as_deref() == Some("needs root")));
    // What such a user sees to be wrong is.
    live.drives.as_mut().unwrap().pop();
    assert_eq!(verdict(&state, &live), (Verdict::Failed, "DriveLost".into()));
}

#[test]
fn parts_that_cannot_be_read_do_not_hide_that_the_mount_is_there() {
    let (state, mut live) = machine(2);
    (live.drives, live.arrays) = (None, None);
    live.problems = vec!["/sys/block: cannot read".into()];
    let report = report(&state, &live);
    assert_eq!(report.state, Verdict::Ready);
    assert_eq!(report.unreadable, ["/sys/block: cannot read"]);
}

#[test]
fn a_full_filesystem_is_a_warning_as_df_counts_it() {
    let usage =
        |used, available, inodes, inodes_used| Usage { size: 1000, used, available, inodes, inodes_used };
    let cases: &[(Usage, &[&str])] = &[
        (usage(949, 51, 100, 94), &[]),
        (usage(950, 50, 100, 94), &["SpaceLow"]),
        // What is kept for root cannot be had.
        (usage(912, 48, 100, 0), &["SpaceLow"]),
        (usage(0, 1000, 100, 95), &["InodesLow"]),
        (usage(1000, 0, 100, 100), &["SpaceLow", "InodesLow"]),
        // xfs makes them as it goes; a filesystem without counters has no room that could be said.
        (usage(1, 999, 0, 0), &[]),
        (usage(0, 0, 0, 0), &[]),
        (usage(u64::MAX, u64::MAX, u64::MAX, u64::MAX), &["InodesLow"]),
    ];
    for (usage, expected) in cases {
        let (state, mut live) = machine(1);
        live.usage = Some(*usage);
        let said = report(&state, &live);
        let codes: Vec<&str> = said.warnings.iter().map(|warning| warning.reason.as_str()).collect();
        assert_eq!((said.state, codes.as_slice()), (Verdict::Ready, *expected), "{usage:?}");
        // Of what is mounted there instead nobody is warned.
        mounts(&mut live).pop();
        assert!(report(&state, &live).warnings.is_empty());
    }
}
