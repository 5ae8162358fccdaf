//! Mounts for real, on loop devices in a mount namespace of its own.

use super::*;

/// Runs the ignored test `name` of this file as root in a mount namespace of its own, where /tmp, /var/lib and /run are
/// tmpfs: what it mounts and writes there is gone afterwards.
fn in_namespace(name: &str) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root, for mounts and loop devices");
        return;
    }
    let script =
        "mount -t tmpfs none /var/lib && mount -t tmpfs none /run && mount -t tmpfs none /tmp && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([&format!("apply::tests::loop_device::{name}"), "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    if text.contains("skipped:") {
        eprintln!("{text}");
    }
}

/// A loop device over a sparse file; detached when dropped.
struct Loop {
    device: String,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    fn new() -> Option<Loop> {
        let file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        file.as_file().set_len(SIZE).unwrap();
        let output = Command::new("losetup").args(["-f", "--show"]).arg(file.path()).output().ok()?;
        let device = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        if !output.status.success() || device.is_empty() {
            eprintln!("skipped: no loop device to be had");
            return None;
        }
        Some(Loop { device, _file: file })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

fn whole_job(device: &str, kind: FsKind, target: &str, options: &str) -> Vec<Step> {
    let directory = |path: &str| Directory {
        path: path.into(),
        owner: "1000".into(),
        group: "1000".into(),
        mode: 0o700,
        selinux_type: None,
    };
    vec![
        Step::RecordIntent { intent: identity() },
        make_step(device, kind),
        Step::Stage { device: device.into(), kind, options: vec![options.into()] },
        Step::Prepare {
            target: target.into(),
            mode: Some(0o1777),
            uid: 0,
            gid: 0,
            selinux: None,
            directories: vec![directory("spill"), directory("no/../way")],
        },
        Step::ClearIntent,
        Step::Expose { target: target.into() },
    ]
}

fn mounts_at(target: &str) -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter(|l| l.split(' ').nth(4) == Some(target)).map(str::to_owned).collect()
}

#[test]
fn the_whole_job_on_a_loop_device() {
    in_namespace("inside_the_whole_job");
}

#[test]
#[ignore = "run by the_whole_job_on_a_loop_device, in a namespace of its own (issue 2)"]
fn inside_the_whole_job() {
    for kind in [FsKind::Ext4, FsKind::Xfs] {
        let known = std::fs::read_to_string("/proc/filesystems").unwrap().contains(kind.as_str());
        if mkfs::program(&Root::default(), kind).is_err() || !known {
            eprintln!("skipped: no {kind} here");
            continue;
        }
        let Some(device) = Loop::new() else { return };
        let root = Root::default();
        let mut context = context(&root, Files::default());
        std::fs::create_dir_all("/tmp/systemd-private-1-x.service-y/tmp").unwrap();
        let covered = mounts_at("/tmp").len();
        let job = whole_job(&device.device, kind, "/tmp", "noatime,nosuid,nodev,nofail");
        let times = apply(&plan(job.clone()), &mut context).unwrap();
        println!("{times:#?}");

        let mounts = mounts_at("/tmp");
        assert_eq!(mounts.len(), covered + 1, "{mounts:?}");
        let line = mounts.last().unwrap();
        assert!(line.contains(" rw,nosuid,nodev,noatime ") && line.contains(&device.device), "{line}");
        let tmp = std::fs::metadata("/tmp").unwrap();
        assert_eq!((tmp.mode() & 0o7777, tmp.uid()), (0o1777, 0));
        let spill = std::fs::metadata("/tmp/spill").unwrap();
        assert_eq!((spill.mode() & 0o7777, spill.uid(), spill.gid()), (0o700, 1000, 1000));
        assert!(Path::new("/tmp/systemd-private-1-x.service-y/tmp").is_dir());
        // The directory that is wrong is noted, and kept nobody from the rest.
        let prepare = times.iter().find(|t| t.step == "prepare").unwrap();
        assert!(prepare.error.as_ref().unwrap().contains("no/../way"), "{prepare:?}");
        assert_eq!(context.problems().count(), 1);
        assert!(!Path::new(INTENT_PATH).exists());
        assert!(!Path::new("/dev").join(format!(".nvme-agent-{}", &device.device[5..])).exists());

        // Nobody can do it over: the device is busy, and the mount stays.
        std::fs::write("/tmp/data", "precious").unwrap();
        let error = apply(&plan(job), &mut context).unwrap_err().to_string();
        assert!(error.contains("make-filesystem"), "{error}");
        assert_eq!(std::fs::read_to_string("/tmp/data").unwrap(), "precious");
        assert_eq!(mounts_at("/tmp").len(), covered + 1);

        // Directories of a mounted target: only where it is the promised device.
        let promise = |device: &str| Promise {
            target: "/tmp".into(),
            device: device.into(),
            filesystem: kind.to_string(),
            fs_uuid: String::new(),
            array_uuid: None,
            serials: Vec::new(),
            layout: "single".into(),
            options: Vec::new(),
            mode: None,
        };
        let directories = vec![Directory {
            path: "late".into(),
            owner: "root".into(),
            group: "root".into(),
            mode: 0o711,
            selinux_type: None,
        }];
        let step = Step::Directories { target: "/tmp".into(), mode: None, directories };
        let with = |name: &str| Plan { promise: Some(promise(name)), ..plan(vec![step.clone()]) };
        apply(&with(&device.device[5..]), &mut context).unwrap();
        assert_eq!(std::fs::metadata("/tmp/late").unwrap().mode() & 0o7777, 0o711);
        std::fs::remove_dir("/tmp/late").unwrap();
        Command::new("umount").arg("/tmp").status().unwrap();
        let error = apply(&with(&device.device[5..]), &mut context).unwrap_err().to_string();
        assert!(error.contains("/tmp is on device"), "{error}");
        assert!(!Path::new("/tmp/late").exists());
    }
}

#[test]
fn a_mount_is_put_only_on_the_target_that_was_seen() {
    in_namespace("inside_only_on_the_target_that_was_seen");
}

#[test]
#[ignore = "run by a_mount_is_put_only_on_the_target_that_was_seen, in a namespace of its own (issue 2)"]
fn inside_only_on_the_target_that_was_seen() {
    let Some(device) = Loop::new() else { return };
    let root = Root::default();
    std::fs::create_dir("/tmp/target").unwrap();
    let stage = || Step::Stage {
        device: device.device.as_str().into(),
        kind: FsKind::Ext4,
        options: vec!["noatime".into()],
    };
    let expose = || Step::Expose { target: "/tmp/target".into() };
    let first =
        plan(vec![Step::RecordIntent { intent: identity() }, make_step(&device.device, FsKind::Ext4)]);
    apply(&first, &mut context(&root, Files::default())).unwrap();

    // Something else was mounted on it between the look and the step.
    let mut late = context(&root, Files::default());
    apply(&Plan { look_again: true, ..plan(vec![stage()]) }, &mut late).unwrap();
    assert_eq!(mounts_at("/tmp/target").len(), 0, "seen before it was exposed");
    late.covered = place_at(&root, "/tmp/target").unwrap();
    Command::new("mount").args(["-t", "tmpfs", "none", "/tmp/target"]).status().unwrap();
    let error = apply(&plan(vec![expose()]), &mut late).unwrap_err().to_string();
    assert!(error.contains("/tmp/target changed while the filesystem was made"), "{error}");
    assert_eq!(mounts_at("/tmp/target").len(), 1);
    Command::new("umount").arg("/tmp/target").status().unwrap();

    // systemd has mounted the very filesystem by fstab meanwhile.
    let mut late = context(&root, Files::default());
    apply(&Plan { look_again: true, ..plan(vec![stage()]) }, &mut late).unwrap();
    late.covered = place_at(&root, "/tmp/target").unwrap();
    Command::new("mount").args([&device.device, "/tmp/target"]).status().unwrap();
    let error = apply(&plan(vec![expose()]), &mut late).unwrap_err().to_string();
    assert!(error.contains("has our filesystem mounted already"), "{error}");
    assert_eq!(mounts_at("/tmp/target").len(), 1);
    Command::new("umount").arg("/tmp/target").status().unwrap();

    // A symlink is not followed, a file is none.
    std::os::unix::fs::symlink("/tmp/target", "/tmp/link").unwrap();
    let error = apply(
        &plan(vec![stage(), Step::Expose { target: "/tmp/link".into() }]),
        &mut context(&root, Files::default()),
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("/tmp/link"), "{error}");

    // What the kernel says about an option reaches the operator.
    let bad = Step::Stage {
        device: device.device.as_str().into(),
        kind: FsKind::Ext4,
        options: vec!["data=nonsense".into()],
    };
    let error = apply(&plan(vec![bad]), &mut context(&root, Files::default())).unwrap_err().to_string();
    assert!(error.contains(&device.device) && error.contains("data"), "{error}");

    // A target that is missing is made, and then it works.
    let steps = vec![
        Step::CreateTarget { path: "/tmp/new/deep".into() },
        stage(),
        Step::Expose { target: "/tmp/new/deep".into() },
    ];
    apply(&plan(steps), &mut context(&root, Files::default())).unwrap();
    assert_eq!(mounts_at("/tmp/new/deep").len(), 1);
    assert_eq!(std::fs::metadata("/tmp/new").unwrap().mode() & 0o7777, 0o755);
    Command::new("umount").arg("/tmp/new/deep").status().unwrap();
}
