//! Judgement about the host's files: what is taken over, and what refuses before anything is destroyed.

use super::*;

fn with_fstab(contents: &[Content], text: &str) -> Inventory {
    let mut inventory = machine(contents);
    inventory.files.fstab = Some(text.into());
    inventory
}

fn fstab_of(plan: &Plan) -> &str {
    plan.steps
        .iter()
        .find_map(|s| match s {
            Step::Fstab { text, .. } => Some(text.as_str()),
            _ => None,
        })
        .expect("fstab is written")
}

#[test]
fn the_old_scripts_line_is_taken_over_as_a_comment() {
    let inventory =
        with_fstab(&[Content::Blank, Content::Blank], "/dev/md0 /tmp ext4 defaults,noatime,nofail 0 2\n");
    let plan = planned(&inventory);
    let lines: Vec<&str> = fstab_of(&plan).lines().collect();
    assert!(lines[0].starts_with('#') && lines[0].contains("/dev/md0 /tmp"), "{lines:?}");
    let promise = plan.promise.as_ref().unwrap();
    assert!(lines[1].starts_with(&format!("UUID={} /tmp ext4 noatime,nosuid,nodev,nofail", promise.fs_uuid)));
    assert!(lines[1].ends_with(" 0 0"));
}

#[test]
fn another_device_on_the_target_and_a_malformed_line_refuse_before_anything_is_made() {
    let cases = [
        ("UUID=ebs-volume /tmp xfs defaults 0 2\n", "line 1"),
        ("# a comment\n/dev/nvme2n1 /tmp xfs defaults 0 2\n", "line 2"),
        ("UUID=0aa0 / ext4 defaults 0 1\n\nnonsense\n", "line 3"),
        ("tmpfs /tmp tmpfs defaults 0 0\n", "tmpfs"),
    ];
    for (text, words) in cases {
        let refusal = refused(&with_fstab(&[Content::Blank, Content::Blank], text));
        assert_eq!(refusal.reason, Reason::FstabConflict);
        assert!(refusal.to_string().contains(words), "{refusal}");
    }
}

#[test]
fn a_line_for_another_running_array_is_not_the_old_scripts() {
    let mut inventory = with_fstab(&[Content::Blank, Content::Blank], "/dev/md0 /tmp ext4 defaults 0 2\n");
    let other =
        Array { members: vec!["sda".into()], uuid: None, ..array("md0", "clean", 0, Content::Unexamined) };
    inventory.arrays.push(other);
    assert_eq!(refused(&inventory).reason, Reason::FstabConflict);
}

#[test]
fn a_rebuild_reuses_the_uuids_that_systemd_waits_for() {
    let line = format!("UUID={FS} /tmp ext4 noatime,nofail,x-nvme-agent 0 0\n");
    let mut inventory = with_fstab(&[Content::Blank, Content::Blank], &line);
    inventory.files.has_mdadm = true;
    let uuid = crate::md::notation::mdadm_uuid(&SET);
    inventory.files.mdadm_conf =
        Some(format!("ARRAY /dev/md0 metadata=1.2 name=any:md0 UUID={uuid} # nvme-agent\n"));
    assert_eq!(made(&planned(&inventory)), (Some(SET), Some(FS)));
}

#[test]
fn mdadm_conf_is_written_only_where_there_is_mdadm() {
    let mut inventory = machine(&[Content::Blank, Content::Blank]);
    assert!(!names(&planned(&inventory)).contains(&"mdadm-conf"));
    inventory.files.has_mdadm = true;
    let plan = planned(&inventory);
    let Some(Step::MdadmConf { text, .. }) = plan.steps.iter().find(|s| s.name() == "mdadm-conf") else {
        panic!("{:?}", names(&plan))
    };
    assert!(text.starts_with("ARRAY /dev/md0 metadata=1.2 name=any:md0 UUID="), "{text}");
    inventory.drives.truncate(1);
    assert!(!names(&planned(&inventory)).contains(&"mdadm-conf"), "a single drive is no array");
}

#[test]
fn an_adopted_set_keeps_its_name_and_gets_md0() {
    let mut inventory = running(2, "md127", filesystem(Some("nvme-tmp")));
    for drive in &mut inventory.drives {
        if let Content::Member(m) = &mut drive.content {
            m.set_name = "ip-10-0-0-1.eu-west-1.compute.internal:md0".into();
        }
    }
    inventory.files.has_mdadm = true;
    let plan = planned(&inventory);
    let Some(Step::MdadmConf { text, .. }) = plan.steps.iter().find(|s| s.name() == "mdadm-conf") else {
        panic!("{:?}", names(&plan))
    };
    assert!(text.starts_with("ARRAY /dev/md0 metadata=1.2 UUID="), "{text}");
}

#[test]
fn files_on_tmp_are_kept_from_tmpfiles_unless_the_operator_wants_the_distributions_rules() {
    let inventory = machine(&[Content::Blank]);
    assert!(names(&planned(&inventory)).contains(&"tmpfiles"));
    let config = Config { tmpfiles: crate::config::Tmpfiles::Distro, ..Config::default() };
    assert!(!names(&plan(&inventory, &config).unwrap()).contains(&"tmpfiles"));
    let mut inventory = machine(&[Content::Blank]);
    inventory.files.tmpfiles = Some("D /tmp 1777 root root 1d\n".into());
    assert_eq!(refused(&inventory).reason, Reason::FileConflict);
}

#[test]
fn a_finished_machine_has_nothing_left_to_do() {
    let mut inventory = running(2, "md0", filesystem(Some("nvme-tmp")));
    inventory.arrays[0].state = "clean".into();
    inventory.arrays[0].read_only = false;
    inventory.files.has_mdadm = true;
    inventory.files.tmpfiles_distro =
        Some("q /tmp 1777 root root 10d\nq /var/tmp 1777 root root 30d\n".into());
    let first = planned(&inventory);
    for step in first.steps {
        match step {
            Step::Fstab { text, .. } => inventory.files.fstab = Some(text),
            Step::MdadmConf { text, .. } => inventory.files.mdadm_conf = Some(text),
            Step::Tmpfiles { text, .. } => inventory.files.tmpfiles = Some(text),
            Step::RecordSet { record } => inventory.record = Some(record),
            _ => {}
        }
    }
    inventory.mounts.push(mount("/dev/md0", DevNum { major: 9, minor: 0 }, "/tmp", "ext4"));
    let second = planned(&inventory);
    assert!(second.is_idle(), "{:?}", second.steps);
}
