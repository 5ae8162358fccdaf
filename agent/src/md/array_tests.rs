//! What can be judged without a kernel that has md; the rest is `tests/md_kernel.rs`.

use std::fs;

use super::*;

fn member(name: &str) -> MemberRef {
    MemberRef { path: format!("/dev/{name}").into(), serial: format!("AWS-{name}"), sectors: 1 << 23 }
}

fn members() -> Vec<MemberRef> {
    vec![member("nvme1n1"), member("nvme2n1"), member("nvme3n1")]
}

const SET: Uuid = Uuid::from_u128(0x1717);

fn spec(members: &[MemberRef]) -> CreateSpec<'_> {
    CreateSpec { array: Path::new("/dev/md0"), uuid: SET, name: "any:md0", chunk_bytes: 512 << 10, members }
}

fn found() -> Vec<(Superblock, MemberRef)> {
    let members = members();
    superblocks(&spec(&members)).unwrap().into_iter().zip(members).collect()
}

#[test]
fn each_member_gets_its_own_role_and_device_uuid_and_the_first_ones_data_offset() {
    let mut members = members();
    members[1].sectors = 1 << 30;
    let made: Vec<_> = superblocks(&spec(&members)).unwrap().iter().map(Superblock::to_member).collect();
    assert_eq!(made.iter().map(|m| m.role).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    assert_eq!(made.iter().map(|m| m.data_offset).collect::<Vec<_>>(), [10240; 3]);
    assert!(made[0].device_uuid != made[1].device_uuid && made[1].device_uuid != made[2].device_uuid);
}

#[test]
fn a_set_that_cannot_be_is_refused_with_the_drive_named() {
    let mut members = members();
    let error = |spec: &CreateSpec<'_>| superblocks(spec).unwrap_err().to_string();
    assert!(error(&CreateSpec { chunk_bytes: 1000, ..spec(&members) }).contains("chunk of 1000 bytes"));
    members[2].sectors = 10_000;
    let text = error(&spec(&members));
    assert!(text.contains("nvme3n1") && text.contains("AWS-nvme3n1"), "{text}");
}

#[test]
fn a_complete_set_is_accepted_in_any_order() {
    let mut found = found();
    found.rotate_left(1);
    assert_eq!(check_set(SET, &found).unwrap(), 0);
}

#[test]
fn an_incomplete_or_mixed_set_is_refused_with_the_reason() {
    let mut missing = found();
    missing.remove(1);
    let error = check_set(SET, &missing).unwrap_err().to_string();
    assert!(error.contains("lacks the member with role 1 of 3"), "{error}");

    let mut twice = found();
    twice[2].0 = twice[1].0.clone();
    let error = check_set(SET, &twice).unwrap_err().to_string();
    assert!(error.contains("AWS-nvme3n1") && error.contains("role 1, as has serial AWS-nvme2n1"), "{error}");

    let error = check_set(Uuid::from_u128(2), &found()).unwrap_err().to_string();
    assert!(error.contains("AWS-nvme1n1") && error.contains(&SET.to_string()), "{error}");

    let mut short = found();
    short[0].1.sectors -= 1;
    assert!(check_set(SET, &short).unwrap_err().to_string().contains("beyond"));

    let two = members();
    let mut unlike = found();
    unlike[2].0 = superblocks(&spec(&two[..2])).unwrap().remove(1);
    assert!(check_set(SET, &unlike).unwrap_err().to_string().contains("unlike the others"));

    assert!(check_set(SET, &[]).is_err());
}

/// A machine of files: three drives, one array as sysfs would show it.
fn machine(array: &str, state: &str, held: &[&str], uuid: Uuid) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let md = dir.path().join("sys/block").join(array).join("md");
    for name in held {
        fs::create_dir_all(md.join(format!("dev-{name}"))).unwrap();
    }
    fs::write(md.join("array_state"), state).unwrap();
    fs::write(md.join("uuid"), uuid.to_string()).unwrap();
    for member in members() {
        let sys = dir.path().join("sys/block").join(kernel_name(&member.path));
        fs::create_dir_all(sys.join("device")).unwrap();
        fs::write(sys.join("device/serial"), &member.serial).unwrap();
        fs::write(sys.join("size"), member.sectors.to_string()).unwrap();
    }
    let root = Root::new(dir.path());
    (dir, root)
}

const ALL: [&str; 3] = ["nvme1n1", "nvme2n1", "nvme3n1"];

#[test]
fn a_set_that_runs_is_accepted_under_whatever_name() {
    let (_dir, root) = machine("md127", "clean\n", &ALL, SET);
    assert_eq!(settle(&root, SET, &members()).unwrap(), Some("/dev/md127".into()));
}

#[test]
fn another_array_of_other_drives_is_none_of_our_business() {
    let (_dir, root) = machine("md127", "clean\n", &["sda", "sdb"], Uuid::from_u128(9));
    assert_eq!(settle(&root, SET, &members()).unwrap(), None);
}

#[test]
fn an_array_that_does_not_fit_the_plan_stops_us() {
    let check = |held: &[&str], uuid| {
        let (_dir, root) = machine("md5", "clean\n", held, uuid);
        settle(&root, SET, &members()).unwrap_err().to_string()
    };
    assert!(check(&["nvme2n1", "sda"], Uuid::from_u128(9)).contains("is another set"));
    assert!(check(&["nvme1n1", "nvme2n1", "sda"], SET).contains("has the set's UUID"));
    assert!(check(&ALL[..2], SET).contains("expected members nvme1n1, nvme2n1, nvme3n1"));
}

#[test]
fn a_running_set_on_exchanged_drives_is_noticed() {
    let (dir, root) = machine("md0", "clean\n", &ALL, SET);
    fs::write(dir.path().join("sys/block/nvme2n1/device/serial"), "AWS-other").unwrap();
    assert!(settle(&root, SET, &members()).unwrap_err().to_string().contains("AWS-other"));
}

#[test]
fn drives_that_are_not_locked_are_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    let holds = Holds::acquire(&root, None::<&Path>, None).unwrap();
    let members = members();
    assert!(create(&root, &spec(&members), &holds).unwrap_err().to_string().contains("not locked"));
    assert!(create(&root, &spec(&members[..1]), &holds).unwrap_err().to_string().contains("two or more"));
}

#[test]
fn the_first_error_of_parallel_work_is_the_one_reported() {
    let work = |n: &u32| if *n > 1 { Err(Error::Other(format!("drive {n}"))) } else { Ok(*n) };
    assert_eq!(in_parallel(&[0, 1], work).unwrap(), [0, 1]);
    assert_eq!(in_parallel(&[0, 1, 2, 3], work).unwrap_err().to_string(), "drive 2");
}
