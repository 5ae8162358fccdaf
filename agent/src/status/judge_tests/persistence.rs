//! The host's files that setup keeps.

use super::*;
use crate::node::registration::{DROP_IN_DIR, DROP_IN_PATH, update};
use crate::root::Root;
use crate::status;
use Verdict::Degraded;

/// Options of a line as setup leaves it.
const OURS: &str = "noatime,nofail,x-nvme-agent";

pub(super) const CASES: &[Case] = &[
    Case("fstab is empty", 2, Degraded, &["PersistenceMissing"], |_, live| live.fstab = Some(String::new())),
    Case("our line is a comment", 2, Degraded, &["PersistenceMissing"], |_, live| {
        live.fstab = Some(format!("# UUID={FS} /tmp\n"));
    }),
    Case("another filesystem is to be mounted", 2, Degraded, &["PersistenceMissing"], |_, live| {
        live.fstab = Some("UUID=other /tmp ext4 nofail 0 0\n".into());
    }),
    Case("two lines for the target", 1, Degraded, &["PersistenceMissing"], |_, live| {
        live.fstab = Some(format!("UUID={FS} /tmp ext4 {OURS} 0 0\ntmpfs /tmp tmpfs\n"));
    }),
    Case("fstab is malformed", 1, Degraded, &["PersistenceMissing"], |_, live| {
        live.fstab = Some("LABEL=x /tmp\n".into());
    }),
    Case("mdadm.conf names another set", 2, Degraded, &["MdadmConfChanged"], |_, live| {
        live.kept.mdadm_conf = Text::Is("ARRAY /dev/md0 UUID=1:2:3:4\n".into());
    }),
    Case("mdadm.conf is malformed", 2, Degraded, &["MdadmConfChanged"], |_, live| {
        live.kept.mdadm_conf = Text::Is("ARRAY /dev/md0 UUID=x\n".into());
    }),
    Case("tmp.conf is gone", 2, Degraded, &["TmpfilesChanged"], |_, live| live.kept.tmpfiles = Text::Missing),
    Case("tmp.conf ages files", 1, Degraded, &["TmpfilesChanged"], |_, live| {
        live.kept.tmpfiles = Text::Is("q /tmp 1777 root root 10d\n".into());
    }),
    Case(
        "all of them",
        2,
        Degraded,
        &["PersistenceMissing", "MdadmConfChanged", "TmpfilesChanged"],
        |_, live| {
            live.fstab = Some(String::new());
            (live.kept.mdadm_conf, live.kept.tmpfiles) = (Text::Is(String::new()), Text::Missing);
        },
    ),
];

#[test]
fn a_line_that_the_next_boot_would_not_mount_as_ours_is_no_line_of_ours() {
    let judged = |rest: &str| {
        let (state, mut live) = machine(2);
        live.fstab = Some(format!("UUID={FS} /tmp {rest}\n"));
        let report = report(&state, &live);
        (report.state, report.message)
    };
    for (rest, why) in [
        ("ext4 noatime,nofail", "no `x-nvme-agent`"),
        ("ext4 noatime,x-nvme-agent", "lacks `nofail`"),
        ("ext4 noatime,nofail,noauto,x-nvme-agent", "has `noauto`"),
        ("ext4 ro,nofail,x-nvme-agent", "has `ro`"),
        ("xfs noatime,nofail,x-nvme-agent", "is for xfs, but the filesystem is ext4"),
        ("ext4 noatime,nofail,x-nvme-agent 0 2", "pass 2"),
    ] {
        let (state, message) = judged(rest);
        assert!(state == Degraded && message.contains(why), "{rest}: {state:?} {message}");
    }
    // What tunes the mount is the administrator's.
    for rest in [&format!("ext4 {OURS}"), &format!("auto {OURS},discard 1 0")] {
        assert_eq!(judged(rest).0, Verdict::Ready, "{rest}");
    }
}

#[test]
fn what_setup_said_of_something_else_hides_no_file_and_one_that_failed_has_none() {
    let (mut state, mut live) = machine(2);
    (state.state, state.reason) = (Health::Degraded, "Incomplete".into());
    state.message = "/tmp is mounted without noatime".into();
    live.fstab = Some(String::new());
    let found = |state: &State| {
        let findings = report(state, &live).findings;
        findings.into_iter().map(|finding| finding.reason).collect::<Vec<_>>()
    };
    assert_eq!(found(&state), ["PersistenceMissing", "Incomplete"]);
    state.persistence = vec!["/etc/mdadm.conf: line 1 is malformed".into()];
    assert_eq!(found(&state), ["PersistenceMissing", "Incomplete"]);
    // Setup's own word on that very file says why.
    state.persistence =
        vec!["fstab: /etc/.fstab.nvme-agent.7.0: cannot write: No space left on device".into()];
    assert_eq!(found(&state), ["Incomplete"]);
    state.state = Health::Failed;
    assert!(!found(&state).contains(&"PersistenceMissing".to_owned()));
}

#[test]
fn each_file_that_is_not_as_setup_left_it_makes_its_verdict() {
    tried(CASES);
}

/// What, in order, what differs.
fn files(state: &State, live: &Live) -> Vec<(String, Option<bool>, bool)> {
    let files = report(state, live).persistence.files;
    files.into_iter().map(|file| (file.what, file.in_order, file.differs.is_some())).collect()
}

#[test]
fn every_file_is_told_of_and_what_does_not_apply_says_nothing() {
    let row = |what: &str, in_order| (what.to_owned(), in_order, in_order == Some(false));
    let (state, mut live) = machine(2);
    let all = ["fstab", "mdadm-conf", "tmpfiles", "registration"];
    assert_eq!(files(&state, &live), all.map(|what| row(what, Some(true))));
    // Without mdadm no file of its own was made; it may have been installed since.
    (live.kept.mdadm_conf, live.kept.keeps_tmp) = (Text::Missing, false);
    (live.fstab, live.kept.registered) = (None, Text::Unread);
    assert_eq!(files(&state, &live), all.map(|what| row(what, None)));
    live.kept.registration = None;
    assert_eq!(files(&state, &live).len(), 3);
    let (state, mut live) = machine(1);
    live.kept.mdadm_conf = Text::Is("ARRAY /dev/md7 UUID=1:2:3:4\n".into());
    assert_eq!(files(&state, &live)[1], row("mdadm-conf", None), "there is no array");
    assert_eq!(verdict(&state, &live).0, Verdict::Ready);
}

#[test]
fn another_target_needs_no_tmpfiles_and_its_own_line() {
    let (mut state, mut live) = machine(1);
    state.target = "/data".into();
    mounts(&mut live)[2].at = "/data".into();
    live.kept.tmpfiles = Text::Missing;
    live.fstab = Some(format!("UUID={FS} /data ext4 {OURS} 0 0\n"));
    assert_eq!(verdict(&state, &live).0, Verdict::Ready);
}

#[test]
fn what_setup_said_of_them_is_not_said_twice() {
    let (mut state, mut live) = machine(2);
    (state.state, state.reason) = (Health::Degraded, "Incomplete".into());
    state.persistence = vec!["/etc/fstab: line 3 is malformed".into()];
    live.fstab = Some("LABEL=x\n".into());
    let report = report(&state, &live);
    assert_eq!((report.reason.as_str(), report.findings.len()), ("Incomplete", 1));
    assert_eq!(report.persistence.problems, state.persistence);
    assert_eq!(report.persistence.files[0].in_order, Some(false));
    assert_eq!(report.since.as_deref(), Some(state.since.as_str()));
}

#[test]
fn nothing_is_said_of_the_hosts_files_where_nothing_is_set_up() {
    let (mut state, mut live) = machine(2);
    (state.state, state.fs_uuid) = (Health::Failed, String::new());
    (live.fstab, live.kept.registration) = (Some(String::new()), None);
    let report = report(&state, &live);
    assert!(report.persistence.files.is_empty() && report.persistence.in_order, "{report:?}");
}

/// The gate looks before it writes the file: a verdict would register the node by what it is about to mend.
#[test]
fn a_changed_registration_file_is_a_warning() {
    let warned = |way: Way, text: Text| {
        let (state, mut live) = machine(2);
        live.kept.registered = text;
        live.kept.registration.as_mut().unwrap().way = way;
        let report = report(&state, &live);
        assert_eq!((report.state, report.persistence.in_order), (Verdict::Ready, true));
        report.warnings.into_iter().map(|warning| warning.reason).collect::<Vec<_>>()
    };
    for text in [Text::Missing, Text::Is("flags: []\n".into())] {
        assert_eq!(warned(Way::DropIn, text.clone()), ["RegistrationChanged"]);
        assert!(warned(Way::Environment, text).is_empty(), "nodeadm writes that one at every boot");
    }
    assert!(warned(Way::DropIn, Text::Unread).is_empty());
}

#[test]
fn the_files_of_a_machine_are_read_and_judged() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for path in ["/sys/block", "/sys/bus/pci/devices", "/run/systemd/system", DROP_IN_DIR] {
        std::fs::create_dir_all(root.join(path)).unwrap();
    }
    write("/proc/sys/kernel/random/boot_id", "one");
    write("/proc/1/mountinfo", "22 1 9:0 / /tmp rw - ext4 /dev/md0 rw\n");
    let set = Uuid::from_u128(7);
    let mut state = State::new(&root, Health::Ready, "SetupComplete", "mounted and verified");
    (state.target, state.device, state.filesystem) = ("/tmp".into(), "md0".into(), "ext4".into());
    (state.fs_uuid, state.array_uuid) = (FS.into(), Some(set));
    state.write(&root).unwrap();
    update(&root, &Config::default(), &state);
    let line = mdadm_conf::Line { device: "/dev/md0".into(), name: None, uuid: set };
    write("/etc/fstab", &format!("UUID={FS} /tmp ext4 {OURS} 0 0\n"));
    write("/etc/mdadm.conf", &line.render());
    write("/etc/tmpfiles.d/tmp.conf", "q /tmp 1777 root root -\n");
    let look = || {
        let report = status::report(&root, &Config::default(), Vec::new(), std::time::Duration::from_secs(1));
        let of = |findings: &[Finding]| findings.iter().map(|f| f.reason.clone()).collect::<Vec<_>>();
        let in_order: Vec<_> = report.persistence.files.iter().map(|file| file.in_order).collect();
        (report.state, of(&report.findings), of(&report.warnings), in_order)
    };
    assert_eq!(look(), (Verdict::Ready, vec![], vec![], vec![Some(true); 4]));
    write("/etc/fstab", "");
    write("/etc/mdadm.conf", "ARRAY <ignore> UUID=1:2:3:4\n");
    std::fs::remove_file(root.join("/etc/tmpfiles.d/tmp.conf")).unwrap();
    write(DROP_IN_PATH, "kind: NodeConfig\n");
    let wrong = ["PersistenceMissing", "MdadmConfChanged", "TmpfilesChanged"].map(str::to_owned).to_vec();
    let warned = vec!["RegistrationChanged".to_owned()];
    assert_eq!(look(), (Verdict::Degraded, wrong, warned, vec![Some(false); 4]));
}
