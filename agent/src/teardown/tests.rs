use std::cell::RefCell;

use super::judge::tests::node;
use super::*;

/// A machine that notes what is asked of it, and fails where it is told to.
#[derive(Default)]
struct Watched {
    calls: RefCell<Vec<String>>,
    pins: Vec<Pin>,
    fail_at: &'static str,
}

impl Watched {
    fn called(&self, what: String) -> std::io::Result<()> {
        let fails = !self.fail_at.is_empty() && what.starts_with(self.fail_at);
        self.calls.borrow_mut().push(what);
        if fails { Err(std::io::ErrorKind::ResourceBusy.into()) } else { Ok(()) }
    }
}

impl Machine for Watched {
    fn pins(&self, device: DevNum, targets: &[String]) -> Result<Vec<Pin>> {
        self.called(format!("pins {device} {}", targets.join(","))).map_err(Error::io("x", "y"))?;
        Ok(self.pins.clone())
    }
    fn unmount(&self, target: &str) -> std::io::Result<()> {
        self.called(format!("unmount {target}"))
    }
    fn stop(&self, array: &Path) -> Result<()> {
        self.called(format!("stop {}", array.display())).map_err(Error::io(array, "stop"))
    }
    fn wipe(&self, drives: &[(MemberRef, Expect)]) -> Result<Vec<String>> {
        self.called(format!("wipe {}", drives.len())).map_err(Error::io("drives", "wipe"))?;
        Ok(vec!["a note".into()])
    }
    fn reload(&self) -> Result<()> {
        self.called("reload".into()).map_err(Error::io("systemd", "reload"))
    }
}

/// A root directory as setup leaves it, and what there is to do.
fn machine() -> (tempfile::TempDir, Root, Work, Licence) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let inventory = node();
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("/etc/fstab", inventory.files.fstab.as_ref().unwrap());
    write("/etc/mdadm.conf", inventory.files.mdadm_conf.as_ref().unwrap());
    write("/etc/tmpfiles.d/tmp.conf", inventory.files.tmpfiles.as_ref().unwrap());
    write("/etc/hosts", "not ours\n");
    write(RECORD_PATH, "{}");
    write(STATE_PATH, "{}");
    write("/proc/sys/kernel/random/boot_id", "boot-1\n");
    let licence = Licence::of(&inventory, "/tmp");
    let work = judge(&inventory, &licence).unwrap();
    (dir, root, work, licence)
}

fn files(root: &Root, below: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![root.join(below)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.path() {
                path if path.is_dir() => dirs.push(path),
                path => found.push(path.strip_prefix(root.as_path()).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

#[test]
fn everything_of_ours_goes_in_order_and_nothing_else() {
    let (_dir, root, work, _) = machine();
    let watched = Watched::default();
    let done = act(&root, &work, &watched).unwrap();
    assert_eq!(
        *watched.calls.borrow(),
        ["pins 9:0 /tmp", "unmount /tmp", "stop /dev/md0", "wipe 2", "reload"]
    );
    assert_eq!(fs::read_to_string(root.join("/etc/fstab")).unwrap(), "UUID=1 / xfs defaults 1 1\n");
    assert_eq!(files(&root, "/etc"), ["etc/fstab", "etc/hosts"]);
    assert!(!root.join("/var/lib/nvme-agent").exists() && !root.join("/run/nvme-agent").exists());
    assert!(done.contains(&"wiped /dev/nvme1n1 (serial AWS1)".to_owned()), "{done:?}");
    assert!(done.contains(&"a note".to_owned()));
    // Nothing is there any more: nothing is done.
    let watched = Watched::default();
    assert_eq!(act(&root, &Work::default(), &watched).unwrap(), Vec::<String>::new());
    assert!(watched.calls.borrow().is_empty());
}

#[test]
fn a_pinned_mount_is_refused_with_names_and_nothing_is_changed() {
    let (_dir, root, work, _) = machine();
    let before = files(&root, "/");
    let pin = Pin {
        pid: 812,
        name: "dbus-broker".into(),
        unit: Some("dbus-broker.service".into()),
        how: vec!["working directory".into()],
    };
    let watched = Watched { pins: vec![pin], ..Watched::default() };
    let error = act(&root, &work, &watched).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let text = error.to_string();
    assert!(text.contains("nothing was changed"), "{text}");
    assert!(text.contains("dbus-broker (pid 812, dbus-broker.service): working directory"), "{text}");
    assert!(text.contains("--at-next-boot"), "{text}");
    assert_eq!(*watched.calls.borrow(), ["pins 9:0 /tmp"]);
    assert_eq!(files(&root, "/"), before);
}

#[test]
fn whatever_fails_the_evidence_stays_for_the_next_run() {
    for (fail_at, calls) in [("unmount", 3), ("stop", 3), ("wipe", 4)] {
        let (_dir, root, work, _) = machine();
        let watched = Watched { fail_at, ..Watched::default() };
        act(&root, &work, &watched).unwrap_err();
        assert_eq!(watched.calls.borrow().len(), calls, "{fail_at}");
        assert!(root.join(RECORD_PATH).exists(), "{fail_at}");
        assert!(fstab_is_ours(&root), "{fail_at}");
    }
    let (_dir, root, work, _) = machine();
    let done = act(&root, &work, &Watched { fail_at: "reload", ..Watched::default() }).unwrap();
    assert!(done.iter().any(|line| line.contains("systemctl daemon-reload")), "{done:?}");
    assert!(!root.join(RECORD_PATH).exists());
}

fn fstab_is_ours(root: &Root) -> bool {
    fs::read_to_string(root.join("/etc/fstab")).unwrap().contains("x-nvme-agent")
}

#[test]
fn a_file_that_somebody_changed_meanwhile_is_left() {
    let (_dir, root, work, _) = machine();
    fs::write(root.join("/etc/tmpfiles.d/tmp.conf"), "theirs\n").unwrap();
    let error = act(&root, &work, &Watched::default()).unwrap_err().to_string();
    assert!(error.contains("/etc/tmpfiles.d/tmp.conf") && error.contains("changed it meanwhile"), "{error}");
    assert_eq!(fs::read_to_string(root.join("/etc/tmpfiles.d/tmp.conf")).unwrap(), "theirs\n");
}

#[test]
fn what_else_is_in_our_directory_stays() {
    let (_dir, root, work, _) = machine();
    fs::write(root.join("/var/lib/nvme-agent/nvme-agent"), "the binary, fetched by userData").unwrap();
    act(&root, &work, &Watched::default()).unwrap();
    assert_eq!(files(&root, "/var"), ["var/lib/nvme-agent/nvme-agent"]);
}

#[test]
fn left_for_the_next_boot_only_the_fstab_line_goes_at_once() {
    let (_dir, root, work, licence) = machine();
    let watched = Watched::default();
    let done = postpone(&root, &work, licence.clone(), &watched).unwrap();
    assert_eq!(*watched.calls.borrow(), ["reload"]);
    assert_eq!(done.len(), 2, "{done:?}");
    assert!(!fstab_is_ours(&root));
    assert!(root.join(RECORD_PATH).exists() && root.join("/etc/mdadm.conf").exists());
    let left = mark(&root).unwrap().unwrap();
    assert_eq!((left.boot_id.as_str(), left.licence), ("boot-1", licence));
    // And again: the same.
    let mut rest = work.clone();
    rest.files.retain(|f| f.path != "/etc/fstab");
    assert_eq!(postpone(&root, &rest, Licence::default(), &watched).unwrap().len(), 1);
    // Done at that boot, the mark goes last of all.
    act(&root, &rest, &watched).unwrap();
    assert!(!root.join(MARK_PATH).exists());
}

#[test]
fn where_there_is_nothing_no_mark_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let done = postpone(&root, &Work::default(), Licence::default(), &Watched::default()).unwrap();
    assert_eq!((done, files(&root, "/")), (Vec::<String>::new(), Vec::new()));
}

#[test]
fn a_setup_in_the_same_boot_calls_it_off() {
    let (_dir, root, work, licence) = machine();
    assert_eq!(at_boot(&root, &Config::default()).unwrap(), None, "no mark");
    postpone(&root, &work, licence, &Watched::default()).unwrap();
    assert_eq!(at_boot(&root, &Config::default()).unwrap(), None);
    assert!(!root.join(MARK_PATH).exists());
    assert!(root.join(RECORD_PATH).exists());
}

#[test]
fn a_mark_that_makes_no_sense_is_an_error_that_names_it() {
    let (_dir, root, ..) = machine();
    for text in
        ["", "{}", r#"{"version":2,"boot_id":"","licence":{"sets":[],"filesystems":[],"targets":[]}}"#]
    {
        fs::write(root.join(MARK_PATH), text).unwrap();
        let error = at_boot(&root, &Config::default()).unwrap_err().to_string();
        assert!(error.contains("teardown.json") && error.contains("remove the file"), "{error}");
    }
}
