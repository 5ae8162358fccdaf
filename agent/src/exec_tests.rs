use super::*;

fn sh(script: &str, deadline: Duration) -> Result<Output> {
    run(Path::new("/bin/sh"), &["-c".into(), script.into()], deadline)
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn returns_status_and_both_streams() {
    let before = count();
    let output = sh("echo to-out; echo to-err >&2; exit 3", LONG).unwrap();
    assert_eq!((output.status, output.signal), (Some(3), None));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"to-out\n"[..], &b"to-err\n"[..]));
    assert!(count() > before);
    let error = output.check(Path::new("/bin/sh")).unwrap_err().to_string();
    assert_eq!(error, "/bin/sh failed with status 3; it said: to-err\nto-out");
    let killed = sh("kill -TERM $$", LONG).unwrap();
    assert_eq!((killed.status, killed.signal), (None, Some(15)));
}

#[test]
fn the_child_sees_a_clean_environment_and_an_empty_stdin() {
    let output = sh("env | cut -d= -f1 | sort | tr '\\n' ' '; pwd; cat", LONG).unwrap();
    // PWD and _ are the shell's own.
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = text.split_whitespace().filter(|n| !["PWD", "OLDPWD", "_"].contains(n)).collect();
    assert_eq!(names, ["LC_ALL", "PATH", "/"]);
}

#[test]
fn more_output_than_is_kept_neither_blocks_nor_fails() {
    let output = sh("head -c 300000 /dev/zero; echo done >&2", LONG).unwrap();
    assert_eq!((output.stdout.len(), output.stderr.as_slice()), (OUTPUT_LIMIT, &b"done\n"[..]));
}

#[test]
fn at_the_deadline_the_whole_group_dies_and_the_output_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!(
        "echo $$ >{0}; sleep 300 & echo $! >>{0}; echo half of it; echo why >&2; wait",
        pids.display()
    );
    let started = Instant::now();
    let error = sh(&script, Duration::from_millis(500)).unwrap_err().to_string();
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(error, "/bin/sh was not done within 0.5 s and was killed; it said: why\nhalf of it");
    for pid in std::fs::read_to_string(&pids).unwrap().lines() {
        await_end(pid);
    }
}

/// A killed process is gone once it has been scheduled; on a busy machine that is not at once.
fn await_end(pid: &str) {
    let alive = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !(stat.is_empty() || stat.contains(") Z ") || stat.contains(") X "))
    };
    let end = Instant::now() + Duration::from_secs(10);
    while alive() {
        assert!(Instant::now() < end, "{pid} is alive");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_grandchild_that_keeps_the_pipe_does_not_keep_us() {
    let started = Instant::now();
    let output = sh("sleep 300 & echo $!", LONG).unwrap();
    assert!(started.elapsed() < Duration::from_secs(4), "waited {:?}", started.elapsed());
    await_end(std::str::from_utf8(&output.stdout).unwrap().trim());
}

#[test]
fn what_a_secret_child_says_is_in_no_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let call = |args: &[OsString], deadline| {
        let env = [("SECRET".into(), "hunter2".into())];
        let program = Path::new("/bin/sh");
        runtime.block_on(output(Call { program, args, env: &env, deadline, secret: true }))
    };
    let said = call(&["-c".into(), "echo $SECRET".into()], LONG).unwrap();
    assert_eq!(said.stdout, b"hunter2\n");
    let args = ["-c".into(), "echo $SECRET; echo $SECRET >&2; exec sleep 300".into()];
    let error = call(&args, Duration::from_millis(300)).unwrap_err().to_string();
    assert_eq!(error, "/bin/sh was not done within 0.3 s and was killed");
}

#[test]
fn a_missing_program_is_an_error_that_names_it() {
    let error = run(Path::new("/nonexistent/mkfs"), &[], LONG).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/mkfs could not be started: No such file"), "{error}");
}

#[test]
fn programs_are_found_under_the_root_and_only_if_executable() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    assert_eq!(find_program(&root, "mkfs.ext4"), None);
    std::fs::create_dir_all(dir.path().join("usr/sbin")).unwrap();
    std::fs::create_dir_all(dir.path().join("sbin")).unwrap();
    std::fs::write(dir.path().join("usr/sbin/mkfs.ext4"), "").unwrap();
    std::fs::write(dir.path().join("sbin/mkfs.ext4"), "").unwrap();
    let set = |p: &str| {
        std::fs::set_permissions(dir.path().join(p), std::fs::Permissions::from_mode(0o755)).unwrap()
    };
    set("sbin/mkfs.ext4");
    assert_eq!(find_program(&root, "mkfs.ext4"), Some("/sbin/mkfs.ext4".into()));
    set("usr/sbin/mkfs.ext4");
    assert_eq!(find_program(&root, "mkfs.ext4"), Some("/usr/sbin/mkfs.ext4".into()));
}
