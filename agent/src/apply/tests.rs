//! The executor on a fixture root.

#![allow(clippy::unwrap_used)]

mod loop_device;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use uuid::Uuid;

use super::*;
use crate::config::{Config, Directory, FsKind};
use crate::intent::{INTENT_PATH, Identity, RECORD_PATH};
use crate::observe::{Files, Inventory};
use crate::plan::{MemberRef, Outcome, Promise};
use crate::root::Root;

const SIZE: u64 = 512 << 20;

fn plan(steps: Vec<Step>) -> Plan {
    Plan::of(Outcome::Create, steps)
}

fn identity() -> Identity {
    Identity {
        version: 1,
        serials: vec!["AWS1".into()],
        array_uuid: None,
        fs_uuid: Uuid::from_u128(7),
        filesystem: "ext4".into(),
        target: "/tmp".into(),
        wiping: false,
    }
}

fn make_step(device: &str, kind: FsKind) -> Step {
    Step::MakeFilesystem {
        device: device.into(),
        kind,
        uuid: identity().fs_uuid,
        label: "nvme-tmp".into(),
        size: SIZE,
        stripe: None,
        blank: true,
    }
}

/// A root with one drive, a sparse file.
fn fixture() -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    for path in ["etc", "dev", "tmp", "sys/block/nvme1n1/device", "usr/sbin"] {
        std::fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    std::fs::File::create(dir.path().join("dev/nvme1n1")).unwrap().set_len(SIZE).unwrap();
    let sys = dir.path().join("sys/block/nvme1n1");
    std::fs::write(sys.join("size"), format!("{}\n", SIZE / 512)).unwrap();
    std::fs::write(sys.join("device/serial"), "AWS1\n").unwrap();
    std::fs::write(sys.join("uevent"), "").unwrap();
    for name in ["mkfs.ext4", "mkfs.xfs"] {
        let path = dir.path().join("usr/sbin").join(name);
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let root = Root::new(dir.path());
    (dir, root)
}

fn context(root: &Root, files: Files) -> Context {
    let inventory = Inventory { files, ..Inventory::default() };
    Context::new(root.clone(), &Config::default(), &inventory)
}

fn has_ext4() -> bool {
    let there = Path::new("/usr/sbin/mkfs.ext4").exists();
    if !there {
        eprintln!("skipped: no mkfs.ext4");
    }
    there
}

fn fstab(text: &str) -> Step {
    Step::Fstab { path: "/etc/fstab".into(), text: text.into(), change: "add our line".into() }
}

#[test]
fn persistence_that_fails_is_noted_and_the_rest_is_done() {
    let (dir, root) = fixture();
    std::fs::write(dir.path().join("etc/fstab"), "changed by somebody\n").unwrap();
    let mut context = context(&root, Files { fstab: Some("as planned\n".into()), ..Files::default() });
    let steps = vec![
        fstab("ours\n"),
        Step::MdadmConf { path: "/etc/mdadm.conf".into(), text: "ARRAY\n".into(), change: "new".into() },
        Step::Tmpfiles { path: "/etc/tmpfiles.d/tmp.conf".into(), text: "q /tmp\n".into() },
        Step::RecordSet { record: identity() },
        Step::ReloadSystemd,
    ];
    let times = apply(&plan(steps), &mut context).unwrap();
    let ok: Vec<(&str, bool)> = times.iter().map(|t| (t.step, t.ok)).collect();
    assert_eq!(
        ok,
        [
            ("fstab", false),
            ("mdadm-conf", true),
            ("tmpfiles", true),
            ("record-set", true),
            ("reload-systemd", true)
        ]
    );
    let problems: Vec<String> = context.problems().collect();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("fstab: ") && problems[0].contains("etc/fstab"), "{problems:?}");
    assert_eq!(std::fs::read_to_string(dir.path().join("etc/fstab")).unwrap(), "changed by somebody\n");
    assert_eq!(std::fs::read_to_string(dir.path().join("etc/mdadm.conf")).unwrap(), "ARRAY\n");
    assert_eq!(std::fs::read_to_string(dir.path().join("etc/tmpfiles.d/tmp.conf")).unwrap(), "q /tmp\n");
    let record = std::fs::read_to_string(root.join(RECORD_PATH)).unwrap();
    assert_eq!(serde_json::from_str::<Identity>(&record).unwrap(), identity());
    // A second edit goes on from the first one's text.
    let again =
        Step::MdadmConf { path: "/etc/mdadm.conf".into(), text: "ARRAY 2\n".into(), change: "x".into() };
    apply(&plan(vec![again]), &mut context).unwrap();
    assert_eq!(std::fs::read_to_string(dir.path().join("etc/mdadm.conf")).unwrap(), "ARRAY 2\n");
    assert_eq!(context.times().len(), 6);
}

#[test]
fn any_other_failure_ends_the_run_and_names_the_step() {
    let (dir, root) = fixture();
    let mut context = context(&root, Files { fstab: None, ..Files::default() });
    let prepare = Step::Prepare {
        target: "/tmp".into(),
        mode: Some(0o1777),
        uid: 0,
        gid: 0,
        selinux: None,
        directories: Vec::new(),
    };
    let steps = vec![Step::RecordIntent { intent: identity() }, prepare, Step::ClearIntent, fstab("ours\n")];
    let error = apply(&plan(steps), &mut context).unwrap_err();
    assert!(error.to_string().starts_with("step prepare failed: nothing is staged for /tmp"), "{error}");
    assert_eq!((error.exit_code(), error.reason().as_str()), (7, "PrepareFailed"));
    assert!(!dir.path().join("etc/fstab").exists(), "went on after a failure");
    assert!(root.join(INTENT_PATH).exists(), "the next run must find the intent");
    let times: Vec<(&str, bool)> = context.times().iter().map(|t| (t.step, t.ok)).collect();
    assert_eq!(times, [("record-intent", true), ("prepare", false)]);
}

#[test]
fn no_filesystem_and_no_array_is_made_without_its_intent() {
    if !has_ext4() {
        return;
    }
    let (dir, root) = fixture();
    let drive = dir.path().join("dev/nvme1n1");
    let member = MemberRef { path: "/dev/nvme1n1".into(), serial: "AWS1".into(), sectors: SIZE / 512 };
    let array = Step::CreateArray {
        array: "/dev/md0".into(),
        uuid: Uuid::from_u128(9),
        name: "any:md0".into(),
        chunk_bytes: 512 << 10,
        members: vec![member],
    };
    let other = Identity { fs_uuid: Uuid::from_u128(8), ..identity() };
    for before in [vec![], vec![Step::RecordIntent { intent: other }]] {
        for step in [make_step("/dev/nvme1n1", FsKind::Ext4), array.clone()] {
            let mut steps = before.clone();
            steps.push(step);
            let error = apply(&plan(steps), &mut context(&root, Files::default())).unwrap_err().to_string();
            assert!(error.contains("no intent record for what would be made"), "{error}");
            assert_eq!(std::fs::metadata(&drive).unwrap().blocks(), 0, "something was written");
        }
    }
    let steps = vec![Step::RecordIntent { intent: identity() }, make_step("/dev/nvme1n1", FsKind::Ext4)];
    apply(&plan(steps.clone()), &mut context(&root, Files::default())).unwrap();
    assert_ne!(std::fs::metadata(&drive).unwrap().blocks(), 0);
    assert_eq!(
        std::fs::read_to_string(dir.path().join("sys/block/nvme1n1/uevent")).unwrap(),
        "change\n",
        "udev was not told of the new filesystem"
    );
    // Not the size that was planned for.
    std::fs::write(dir.path().join("sys/block/nvme1n1/size"), "8\n").unwrap();
    let error = apply(&plan(steps), &mut context(&root, Files::default())).unwrap_err().to_string();
    assert!(error.contains("has 4096 bytes, the plan was made for"), "{error}");
}

#[test]
fn drives_stay_locked_over_a_second_look_and_no_longer() {
    let (dir, root) = fixture();
    let drive = dir.path().join("dev/nvme1n1");
    let free = || {
        let file = std::fs::File::open(&drive).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_ok()
    };
    let member = MemberRef { path: "/dev/nvme1n1".into(), serial: "AWS1".into(), sectors: SIZE / 512 };
    let wipe = Step::Wipe { devices: vec![member.clone()], data_offset: None, why: "a test".into() };
    let mut context = context(&root, Files::default());
    apply(&Plan { look_again: true, ..plan(vec![wipe.clone()]) }, &mut context).unwrap();
    assert!(!free());
    apply(&plan(vec![wipe.clone()]), &mut context).unwrap();
    assert!(free());
    // A failure lets go, also when it was to look again.
    let wrong = Step::Wipe {
        devices: vec![MemberRef { serial: "AWS2".into(), ..member }],
        data_offset: None,
        why: "a test".into(),
    };
    apply(&Plan { look_again: true, ..plan(vec![wipe, wrong]) }, &mut context).unwrap_err();
    assert!(free());
}

#[test]
fn systemd_is_kept_off_the_array_that_is_made_and_not_off_one_that_it_has_seen() {
    let (dir, root) = fixture();
    let md0 = dir.path().join("sys/block/md0");
    std::fs::create_dir_all(&md0).unwrap();
    std::fs::write(md0.join("uevent"), "").unwrap();
    let mark = |name: &str| dir.path().join(format!("run/mdadm/creating-{name}")).exists();
    let member = MemberRef { path: "/dev/nvme1n1".into(), serial: "AWS1".into(), sectors: SIZE / 512 };
    let stage = Step::Stage { device: "/dev/md0".into(), kind: FsKind::Ext4, options: Vec::new() };
    let assemble =
        Step::AssembleArray { array: "/dev/md0".into(), uuid: Uuid::from_u128(9), members: vec![member] };
    let mut context = context(&root, Files::default());

    hold(std::slice::from_ref(&stage), &mut context).unwrap();
    assert!(!mark("md0"));
    context.release();

    hold(&[Step::StopArray { array: "/dev/md127".into() }, assemble], &mut context).unwrap();
    assert!(mark("md0") && !mark("md127"));
    // The next plan goes on under the same mark, without a moment in which systemd would see the array.
    hold(&[stage], &mut context).unwrap();
    hold(&[make_step("/dev/md0", FsKind::Ext4)], &mut context).unwrap();
    assert!(mark("md0"));
    assert_eq!(std::fs::read_to_string(md0.join("uevent")).unwrap(), "");
    context.release();
    assert!(!mark("md0"));
    assert!(std::fs::read_to_string(md0.join("uevent")).unwrap().starts_with("change"));
}

/// The lab kills the agent at each of [`FAILPOINTS`]: one that is not listed would not be tested.
#[test]
fn every_failpoint_is_listed_and_every_listed_one_exists() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let source = |path: &str| std::fs::read_to_string(sources.join(path)).unwrap();
    let text: String = ["apply", "md"]
        .iter()
        .flat_map(|module| std::fs::read_dir(sources.join(module)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && path.file_name().is_some_and(|name| name != "tests.rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let mut hit: Vec<&str> = text.split("hit(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let steps = source("plan/step.rs");
    hit.extend(steps.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next()));
    hit.sort_unstable();
    let mut listed = FAILPOINTS.to_vec();
    listed.sort_unstable();
    assert_eq!(listed, hit);
}
