use super::*;

fn fixture(boot: &str) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    fs::create_dir_all(root.join("/proc/sys/kernel/random")).unwrap();
    fs::write(root.join(BOOT_ID_PATH), format!("{boot}\n")).unwrap();
    (dir, root)
}

#[test]
fn times_are_rfc3339_in_utc() {
    let at = |s| rfc3339(UNIX_EPOCH + Duration::from_secs(s));
    assert_eq!(at(0), "1970-01-01T00:00:00Z");
    assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
    assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
    assert_eq!(at(1_709_251_200), "2024-03-01T00:00:00Z");
    assert_eq!(at(4_102_444_799), "2099-12-31T23:59:59Z");
}

#[test]
fn what_is_written_is_read_back_world_readable_and_nothing_is_left_over() {
    let (_dir, root) = fixture("one");
    let mut state = State::new(&root, Health::Ready, "SetupComplete", "done");
    state.serials = vec!["AWS1".into()];
    state.write(&root).unwrap();
    assert_eq!(State::load(&root).unwrap(), Some(state));
    let names: Vec<_> =
        fs::read_dir(root.join("/run/nvme-agent")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["state.json"]);
    let mode = fs::metadata(root.join(STATE_PATH)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn only_this_boots_state_counts() {
    let (_dir, root) = fixture("one");
    State::new(&root, Health::Ready, "SetupComplete", "").write(&root).unwrap();
    fs::write(root.join(BOOT_ID_PATH), "two\n").unwrap();
    assert_eq!(State::load(&root).unwrap(), None);
    // Where nobody knows which boot this is, it is neither.
    fs::remove_file(root.join(BOOT_ID_PATH)).unwrap();
    assert!(
        matches!(State::read(&root), StateFile::OfUnknownBoot(error) if error.to_string().contains("boot_id"))
    );
    fs::write(root.join(BOOT_ID_PATH), "two\n").unwrap();
    // Who asks why is told.
    assert!(matches!(State::read(&root), StateFile::OfAnotherBoot(state) if state.boot_id == "one"));
    fs::write(root.join(STATE_PATH), "{").unwrap();
    assert!(matches!(State::read(&root), StateFile::Unreadable(_)));
    fs::remove_file(root.join(STATE_PATH)).unwrap();
    assert!(matches!(State::read(&root), StateFile::Missing));
}

#[test]
fn since_stays_while_state_and_reason_stay() {
    let (_dir, root) = fixture("one");
    let mut first = State::new(&root, Health::Failed, "ForeignData", "");
    first.since = "2020-01-01T00:00:00Z".into();
    first.write(&root).unwrap();
    let mut same = State::new(&root, Health::Failed, "ForeignData", "again");
    same.write(&root).unwrap();
    assert_eq!(same.since, "2020-01-01T00:00:00Z");
    let mut other = State::new(&root, Health::Failed, "DriveInUse", "");
    other.write(&root).unwrap();
    assert_ne!(other.since, "2020-01-01T00:00:00Z");
}

#[test]
fn a_damaged_or_foreign_state_file_is_an_error_that_names_it() {
    let (_dir, root) = fixture("one");
    fs::create_dir_all(root.join("/run/nvme-agent")).unwrap();
    for text in ["", "{", "[]", "{\"version\": 2}", "\u{0}\u{0}"] {
        fs::write(root.join(STATE_PATH), text).unwrap();
        let error = State::load(&root).unwrap_err().to_string();
        assert!(error.contains("state.json"), "{error}");
    }
}
