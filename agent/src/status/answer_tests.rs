//! A filesystem that broke, for real where a loop device is to be had, and one that hangs, by a stand-in for stat(1).

use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::stand_in::program;

/// A stat(1) that does `script`.
fn stand_in(dir: &tempfile::TempDir, script: &str) -> PathBuf {
    let path = dir.path().join("stat");
    program(&path, script);
    path
}

const PLENTY: Duration = Duration::from_secs(20);

#[test]
fn a_directory_here_answers_with_its_space() {
    let Answer::Alive(Some(usage)) = ask(Path::new("/usr/bin/stat"), "/").unwrap() else { panic!() };
    let stat = rustix::fs::statvfs("/").unwrap();
    assert_eq!(usage.size, stat.f_blocks * stat.f_frsize);
    assert!(usage.used <= usage.size && usage.available <= usage.size, "{usage:?}");
}

#[test]
fn an_error_of_the_filesystem_is_told_from_one_of_asking() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |script: &str| ask_within(&stand_in(&dir, script), "/data", PLENTY);
    for error in ["Input/output error", "I/O error", "Structure needs cleaning"] {
        let answer = ask(&format!("echo \"stat: cannot statx '/data': {error}\" >&2; exit 1")).unwrap();
        assert_eq!(answer, Answer::Broken(format!("says \"{error}\"")));
    }
    let error = ask("echo \"stat: cannot statx '/data': Permission denied\" >&2; exit 1").unwrap_err();
    assert!(error.to_string().contains("Permission denied"), "{error}");
    assert!(ask_within(Path::new("/nonexistent/stat"), "/data", PLENTY).is_err());
    // No more than its space is missing.
    assert_eq!(ask("test $1 = -c || exit 1").unwrap(), Answer::Alive(None));
    assert_eq!(ask("test $1 = -c || echo what").unwrap(), Answer::Alive(None));
}

#[test]
fn one_that_hangs_is_left_and_called_broken_but_not_for_its_counters() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |script: &str| {
        let started = Instant::now();
        let answer = ask_within(&stand_in(&dir, script), "/data", Duration::from_secs(2)).unwrap();
        assert!(started.elapsed() < PLENTY, "{:?}", started.elapsed());
        answer
    };
    assert_eq!(ask("sleep 300"), Answer::Broken("does not answer within 2 s".into()));
    assert_eq!(ask("test $1 = -c || sleep 300"), Answer::Alive(None));
}

/// In a mount namespace of its own: what it mounts is gone afterwards, its loop device with it.
#[test]
fn an_xfs_that_was_shut_down_is_broken() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: needs root, for a mount");
    }
    let script = r#"mount -t tmpfs none /var/tmp && truncate -s 400M /var/tmp/x && mkfs.xfs -q /var/tmp/x && mkdir /var/tmp/on &&
        mount -o loop /var/tmp/x /var/tmp/on || { echo skipped: no xfs to be had; exit; }; exec "$@""#;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["status::answer::tests::within_the_namespace", "--exact", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if text.contains("skipped:") {
        return eprintln!("{text}");
    }
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
#[ignore = "run by an_xfs_that_was_shut_down_is_broken"]
fn within_the_namespace() {
    let (stat, at) = (Path::new("/usr/bin/stat"), "/var/tmp/on");
    assert!(matches!(ask(stat, at).unwrap(), Answer::Alive(Some(usage)) if usage.size > 0));
    // XFS_IOC_GOINGDOWN with XFS_FSOP_GOING_FLAGS_NOLOGFLUSH (fs/xfs/libxfs/xfs_fs.h).
    let shut_down =
        "open(F, '<', $ARGV[0]) or die; my $how = pack('L', 2); ioctl(F, 0x8004587d, $how) or die $!";
    assert!(Command::new("perl").args(["-e", shut_down, at]).status().unwrap().success());
    assert_eq!(ask(stat, at).unwrap(), Answer::Broken("says \"Input/output error\"".into()));
}
