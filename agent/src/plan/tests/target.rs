//! The rows about the target: mounted, taken, missing.

use super::*;

#[test]
fn a_mounted_target_is_kept_and_never_made() {
    let mut inventory = running(2, "md127", filesystem(None));
    inventory.mounts.push(mount("/dev/md127", DevNum { major: 9, minor: 127 }, "/tmp", "ext4"));
    inventory.arrays[0].uses.push(Use::Mounted { at: "/tmp".into() });
    let plan = plan(&inventory, &wiping()).unwrap();
    assert_eq!(plan.outcome, Outcome::Keep);
    assert_eq!(names(&plan), ["record-set", "fstab", "tmpfiles", "reload-systemd"]);
}

#[test]
fn what_the_old_script_left_wrong_on_a_mounted_target_is_put_right() {
    let mut inventory = machine(&[filesystem(None)]);
    let mut old = mount("/dev/nvme1n1", DevNum { major: 259, minor: 1 }, "/tmp", "ext4");
    old.options = "rw,relatime".into();
    inventory.mounts.push(old);
    inventory.target.mode = Some(0o755);
    let plan = planned(&inventory);
    assert_eq!(names(&plan)[..2], ["remount", "directories"]);
}

#[test]
fn an_option_that_the_configuration_drops_goes_but_not_one_that_somebody_added_by_hand() {
    let mut inventory = machine(&[filesystem(None)]);
    let mut hardened = mount("/dev/nvme1n1", DevNum { major: 259, minor: 1 }, "/tmp", "ext4");
    hardened.options = "rw,noatime,nosuid,nodev,noexec".into();
    inventory.mounts.push(hardened);
    inventory.target.mode = Some(0o1777);
    let ours = |options: &str| {
        format!("UUID={FS} /tmp ext4 {options},nofail,x-systemd.device-timeout=90s,x-nvme-agent 0 0\n")
    };
    inventory.files.fstab = Some(ours("noatime,nosuid,nodev"));
    assert!(!names(&planned(&inventory)).contains(&"remount"));
    inventory.files.fstab = Some(ours("noatime,nosuid,nodev,noexec"));
    assert_eq!(names(&planned(&inventory))[0], "remount");
}

#[test]
fn another_mount_at_the_target_is_refused_but_the_distributions_tmpfs_is_covered() {
    let dev = DevNum { major: 259, minor: 77 };
    let mut inventory = machine(&[Content::Blank]);
    inventory.mounts.push(mount("/dev/nvme7n1", dev, "/tmp", "xfs"));
    let refusal = refused(&inventory);
    assert_eq!(refusal.reason, Reason::TargetUnsuitable);
    assert!(refusal.to_string().contains("/dev/nvme7n1"), "{refusal}");
    let mut inventory = machine(&[Content::Blank]);
    inventory.mounts.push(mount("tmpfs", DevNum::default(), "/tmp", "tmpfs"));
    assert_eq!(planned(&inventory).outcome, Outcome::Create);
    inventory.mounts.insert(0, mount("/dev/nvme1n1", DevNum { major: 259, minor: 1 }, "/tmp", "ext4"));
    assert_eq!(refused(&inventory).reason, Reason::TargetUnsuitable, "ours is hidden by somebody");
}

#[test]
fn a_target_that_is_a_file_or_a_link_is_refused_and_a_missing_one_is_made() {
    let mut inventory = machine(&[Content::Blank]);
    for kind in [TargetKind::File, TargetKind::Symlink, TargetKind::Other] {
        inventory.target.kind = kind;
        assert_eq!(refused(&inventory).reason, Reason::TargetUnsuitable);
    }
    inventory.target.kind = TargetKind::Missing;
    assert!(names(&planned(&inventory)).contains(&"create-target"));
}
