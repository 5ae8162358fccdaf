use std::os::unix::fs::symlink;

use rustix::fs::XattrFlags;

use super::*;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn keeps_mode_owner_and_attributes_and_leaves_nothing_beside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fstab");
    fs::write(&path, "old\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let root = nix::unistd::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
    }
    let file = File::open(&path).unwrap();
    let attributes = rustix::fs::fsetxattr(&file, "user.mark", b"kept", XattrFlags::empty()).is_ok();

    replace_if(&path, Some("old\n"), "new\n").unwrap();

    assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o640);
    if root {
        assert_eq!((meta.uid(), meta.gid()), (12, 34));
    }
    if attributes {
        let mut value = [0; 16];
        let size = rustix::fs::getxattr(&path, "user.mark", &mut value[..]).unwrap();
        assert_eq!(&value[..size], b"kept");
    }
    assert_eq!(names(dir.path()), ["fstab"]);
}

#[test]
fn what_is_no_regular_file_is_neither_waited_for_nor_read_and_a_mask_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fstab");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let paths = [fifo.clone(), "/dev/zero".into(), dir.path().into()];
    std::thread::spawn(move || send.send(paths.map(|path| read_text(&path).unwrap_err().to_string())));
    let errors = receive.recv_timeout(std::time::Duration::from_secs(20)).expect("it waits for a writer");
    for error in &errors[..2] {
        assert!(error.contains("is not a regular file"), "{error}");
    }
    assert!(errors[0].contains("fstab") && errors[2].contains("is a directory"), "{errors:?}");
    std::os::unix::fs::symlink("/dev/null", dir.path().join("mask")).unwrap();
    assert_eq!(read_text(&dir.path().join("mask")).unwrap().as_deref(), Some(""));
}

#[test]
fn a_new_file_is_readable_by_all_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mdadm.conf");
    replace_if(&path, None, "x\n").unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);
}

/// node_exporter reads whatever ends in `.prom`, and its directory may be its own user's, who must not have root write
/// where a link of his leads.
#[test]
fn what_is_published_follows_no_link_keeps_nothing_and_is_readable_by_all() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("nvme-agent.prom"), dir.path().join("shadow"));
    fs::write(&other, "theirs").unwrap();
    symlink(&other, &path).unwrap();
    let killed = dir.path().join(".nvme-agent.prom.nvme-agent.1.0");
    fs::write(&killed, "half").unwrap();
    for text in ["new\n", "newer\n"] {
        publish(&path, text).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(
            (fs::read_to_string(&path).unwrap().as_str(), fs::metadata(&path).unwrap().mode()),
            (text, 0o100_644)
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!((fs::read_to_string(&other).unwrap().as_str(), killed.exists()), ("theirs", false));
    let temp = Temp::create(&path).unwrap();
    assert_ne!(temp.path.extension().unwrap(), "prom");
    let missing = dir.path().join("missing/nvme-agent.prom");
    let error = publish(&missing, "").unwrap_err().to_string();
    assert!(error.contains(missing.to_str().unwrap()), "{error}");
}

#[test]
fn a_change_by_somebody_else_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fstab");
    fs::write(&path, "theirs\n").unwrap();
    for expected in [Some("planned on this\n"), None] {
        let error = replace_if(&path, expected, "ours\n").unwrap_err().to_string();
        assert!(error.contains("fstab") && error.contains("changed it meanwhile"), "{error}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "theirs\n");
    fs::remove_file(&path).unwrap();
    assert!(replace_if(&path, Some("theirs\n"), "ours\n").is_err(), "a file that vanished is a change too");
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn a_symlink_stays_one_and_its_file_is_replaced_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("fstab"), "old\n").unwrap();
    symlink("real/fstab", dir.path().join("one")).unwrap();
    symlink("one", dir.path().join("two")).unwrap();

    replace_if(&dir.path().join("two"), Some("old\n"), "new\n").unwrap();

    assert_eq!(fs::read_link(dir.path().join("two")).unwrap(), Path::new("one"));
    assert_eq!(fs::read_link(dir.path().join("one")).unwrap(), Path::new("real/fstab"));
    assert_eq!(fs::read_to_string(real.join("fstab")).unwrap(), "new\n");
    assert_eq!(names(dir.path()), ["one", "real", "two"]);
    assert_eq!(names(&real), ["fstab"]);
}

#[test]
fn a_dangling_symlink_gets_its_file_and_a_loop_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    symlink("file", &link).unwrap();
    replace_if(&link, None, "new\n").unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "new\n");
    symlink("loop", dir.path().join("loop")).unwrap();
    assert!(replace(&dir.path().join("loop"), "x").unwrap_err().to_string().contains("too many levels"));
}

#[test]
fn what_a_killed_run_left_is_removed_and_what_a_live_one_uses_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fstab");
    fs::write(&path, "old\n").unwrap();
    fs::write(dir.path().join(".fstab.nvme-agent.1.0"), "half").unwrap();
    fs::write(dir.path().join(".fstab.swp"), "an editor's").unwrap();
    let live = Temp::create(&path).unwrap();

    replace(&path, "new\n").unwrap();

    let live_name = live.path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut expected = vec![live_name, ".fstab.swp".into(), "fstab".into()];
    expected.sort();
    assert_eq!(names(dir.path()), expected);
}

#[test]
fn an_error_leaves_the_old_text_and_no_temporary_file() {
    let dir = tempfile::tempdir().unwrap();
    // A directory cannot be renamed over: everything before the rename works.
    let path = dir.path().join("fstab");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("inside"), "").unwrap();
    let error = replace(&path, "new\n").unwrap_err().to_string();
    assert!(error.contains("fstab"), "{error}");
    assert_eq!(names(dir.path()), ["fstab"]);
}

#[test]
fn json_is_private_and_its_directory_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("var/lib/nvme-agent/intent.json");
    write_json_durable(&path, &serde_json::json!({"version": 1})).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "{\n  \"version\": 1\n}\n");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
    assert!(remove_durable(&path).unwrap());
    assert!(!remove_durable(&path).unwrap());
}

#[test]
fn text_that_is_none_is_named_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fstab");
    assert_eq!(read_text(&path).unwrap(), None);
    fs::write(&path, b"fine\nfine\n# caf\xe9\n").unwrap();
    assert!(read_text(&path).unwrap_err().to_string().contains("line 3 is not UTF-8"));
}
