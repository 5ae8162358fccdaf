//! Tests of directories on the stage.
#![allow(clippy::unwrap_used)]

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

fn directory(path: &str, owner: &str, mode: u32) -> Directory {
    Directory { path: path.into(), owner: owner.into(), group: owner.into(), mode, selinux_type: None }
}

/// Chown needs root; without it the tests use their own ids.
fn me() -> String {
    nix::unistd::geteuid().to_string()
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

fn mode_of(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn directories_are_made_with_parents_and_repaired_without_loss() {
    let top = tempfile::tempdir().unwrap();
    let host = Root::default();
    let fd = open(top.path());
    let wanted = [directory("spill/trino", &me(), 0o2770), directory("/cache/", &me(), 0o1777)];
    let make = || make_all(&host, fd.as_fd(), top.path(), &wanted);
    assert!(make().is_empty());
    assert_eq!(mode_of(&top.path().join("spill")), 0o755);
    assert_eq!(mode_of(&top.path().join("spill/trino")), 0o2770);
    assert_eq!(mode_of(&top.path().join("cache")), 0o1777);
    // Again at the next boot: mode restored, content kept, a parent's own mode left alone.
    std::fs::write(top.path().join("spill/trino/data"), "kept").unwrap();
    let set = |p: &str, m| {
        std::fs::set_permissions(top.path().join(p), std::fs::Permissions::from_mode(m)).unwrap();
    };
    set("spill/trino", 0o700);
    set("spill", 0o711);
    assert!(make().is_empty());
    assert_eq!(mode_of(&top.path().join("spill/trino")), 0o2770);
    assert_eq!(mode_of(&top.path().join("spill")), 0o711);
    assert_eq!(std::fs::read_to_string(top.path().join("spill/trino/data")).unwrap(), "kept");
}

#[test]
fn nothing_is_changed_through_a_symlink_and_the_others_are_made() {
    let top = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::set_permissions(elsewhere.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    symlink(elsewhere.path(), top.path().join("link")).unwrap();
    std::fs::write(top.path().join("file"), "").unwrap();
    let wanted = ["link", "link/below", "file", "good"].map(|p| directory(p, &me(), 0o777));
    let errors = make_all(&Root::default(), open(top.path()).as_fd(), top.path(), &wanted);
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors[0].contains("/link is not a directory but a symlink or file"), "{errors:?}");
    assert_eq!(mode_of(elsewhere.path()), 0o700);
    assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    assert_eq!(mode_of(&top.path().join("good")), 0o777);
}

#[test]
fn a_path_never_leaves_the_mount() {
    let top = tempfile::tempdir().unwrap();
    let wanted = ["..", "a/../../b", "", "/"].map(|p| directory(p, "0", 0o755));
    let errors = make_all(&Root::default(), open(top.path()).as_fd(), top.path(), &wanted);
    assert_eq!(errors.len(), 4);
    assert_eq!(std::fs::read_dir(top.path()).unwrap().count(), 0);
}

#[test]
fn owners_are_names_of_the_hosts_own_files_or_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let host = Root::new(dir.path());
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    std::fs::write(
        dir.path().join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nbroken\ntrino:x:1234:55::/:/bin/false\nbad:x:many\n",
    )
    .unwrap();
    assert_eq!(id_of(&host, "/etc/passwd", "trino").unwrap(), 1234);
    assert_eq!(id_of(&host, "/etc/passwd", "4711").unwrap(), 4711);
    assert_eq!(id_of(&host, "/etc/group", "root").unwrap(), 0);
    for name in ["nobody", "broken", "bad"] {
        let error = id_of(&host, "/etc/passwd", name).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("/etc/passwd"), "{error}");
    }
}

#[test]
fn what_a_user_owns_is_not_walked_through_to_what_root_owns() {
    if !is_root() {
        return;
    }
    let top = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(top.path().join("users/cache")).unwrap();
    std::os::unix::fs::chown(top.path().join("users"), Some(1000), Some(1000)).unwrap();
    let fd = open(top.path());
    let errors =
        make_all(&Root::default(), fd.as_fd(), top.path(), &[directory("users/cache", "2000", 0o700)]);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].to_string().contains("is owned by uid 0 in a directory of uid 1000"), "{}", errors[0]);
    assert_eq!(std::fs::metadata(top.path().join("users/cache")).unwrap().uid(), 0);
    // The user's own below the user's own is fine, and an owner is repaired.
    std::os::unix::fs::chown(top.path().join("users/cache"), Some(1000), Some(7)).unwrap();
    let wanted = [directory("users/cache", "1000", 0o700)];
    assert!(make_all(&Root::default(), fd.as_fd(), top.path(), &wanted).is_empty());
    assert_eq!(std::fs::metadata(top.path().join("users/cache")).unwrap().gid(), 1000);
}

#[test]
fn running_services_find_their_private_directories_on_the_stage() {
    if !is_root() {
        return;
    }
    let old = tempfile::tempdir().unwrap();
    let new = tempfile::tempdir().unwrap();
    let set = |p: &str, m| {
        let path = old.path().join(p);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(m)).unwrap();
    };
    set("systemd-private-0123-dbus.service-abc", 0o700);
    set("systemd-private-0123-dbus.service-abc/tmp", 0o1777);
    set(".X11-unix", 0o1777);
    set("something-else", 0o755);
    // A user's: not taken for systemd's.
    set("systemd-private-fake", 0o777);
    std::os::unix::fs::chown(old.path().join("systemd-private-fake"), Some(1000), None).unwrap();
    symlink("/etc", old.path().join("systemd-private-link")).unwrap();
    std::fs::write(old.path().join("systemd-private-0123-dbus.service-abc/tmp/file"), "x").unwrap();
    for _ in 0..2 {
        let errors = carry_over(old.path(), open(new.path()).as_fd());
        assert!(errors.is_empty(), "{errors:?}");
        let mut names: Vec<String> = std::fs::read_dir(new.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, [".X11-unix", "systemd-private-0123-dbus.service-abc"]);
        let private = new.path().join("systemd-private-0123-dbus.service-abc");
        assert_eq!((mode_of(&private), mode_of(&private.join("tmp"))), (0o700, 0o1777));
        assert_eq!(mode_of(&new.path().join(".X11-unix")), 0o1777);
        assert_eq!(std::fs::read_dir(private.join("tmp")).unwrap().count(), 0);
    }
    assert!(carry_over(Path::new("/nonexistent/tmp"), open(new.path()).as_fd()).is_empty());
}

#[test]
fn an_selinux_type_replaces_only_the_type() {
    assert_eq!(
        with_type("system_u:object_r:tmp_t:s0", "container_file_t"),
        "system_u:object_r:container_file_t:s0"
    );
    assert_eq!(
        with_type("system_u:object_r:tmp_t:s0:c1,c2", "container_file_t"),
        "system_u:object_r:container_file_t:s0:c1,c2"
    );
}
