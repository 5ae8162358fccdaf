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

/// A node that is set up, by each way in which nothing is to be made.
fn with_a_filesystem() -> [(Outcome, Inventory); 3] {
    let adopted = running(2, "md0", filesystem(Some("nvme-tmp")));
    let mut kept = adopted.clone();
    kept.mounts.push(mount("/dev/md0", kept.arrays[0].dev, "/tmp", "ext4"));
    let mut finished = running(2, "md0", filesystem(None));
    finished.intent = Some(identity(&["AWS1", "AWS2"], Some(SET)));
    [(Outcome::Keep, kept), (Outcome::Adopt, adopted), (Outcome::Finish, finished)]
}

#[test]
fn a_malformed_line_does_not_keep_a_filesystem_from_its_users() {
    for (outcome, mut inventory) in with_a_filesystem() {
        inventory.files.fstab = Some("UUID=0aa0 / ext4 defaults 0 1\n\nnonsense\n".into());
        let plan = planned(&inventory);
        assert_eq!(plan.outcome, outcome);
        let steps = names(&plan);
        assert!(!steps.contains(&"fstab") && !steps.contains(&"reload-systemd"), "{steps:?}");
        assert_eq!(steps.contains(&"expose"), outcome != Outcome::Keep);
        let [problem] = plan.problems.as_slice() else { panic!("{:?}", plan.problems) };
        assert!(problem.contains("/etc/fstab: line 3") && problem.contains("nonsense"), "{problem}");
        // What the rest of the file says counts on.
        inventory.files.fstab = Some("/dev/sdb /tmp xfs defaults 0 2\nnonsense\n".into());
        let refusal = refused(&inventory);
        assert_eq!(refusal.reason, Reason::FstabConflict);
        assert!(refusal.to_string().contains("line 1"), "{refusal}");
    }
}

#[test]
fn a_malformed_line_is_no_evidence_but_a_doubt() {
    let with = |label, fstab: String| {
        let mut inventory = running(2, "md0", filesystem(label));
        inventory.files.fstab = Some(fstab);
        inventory
    };
    let at = |place| format!("UUID={FS} {place} ext4 noatime, nofail 0 2\n");
    assert_eq!(refused(&with(None, at("/tmp"))).reason, Reason::ForeignData);
    let refusal = refused(&with(Some("nvme-tmp"), at("/data")));
    assert!(refusal.to_string().contains("line 1, puts it at /data"), "{refusal}");
    // A good line is evidence whatever the others are.
    let good = format!("nonsense\nUUID={FS} /tmp ext4 defaults 0 2\n");
    assert_eq!(planned(&with(None, good)).outcome, Outcome::Adopt);
}

proptest::proptest! {
    #[test]
    fn wherever_the_malformed_line_is_fstab_is_left_and_nothing_is_made(before in 0..5_usize, after in 0..5_usize) {
        let text = format!("{}nonsense\n{}", "# a\n".repeat(before), "/dev/sdb /data xfs\n".repeat(after));
        let line = format!("line {} is malformed", before + 1);
        for (_, mut inventory) in with_a_filesystem() {
            inventory.files.fstab = Some(text.clone());
            let plan = planned(&inventory);
            proptest::prop_assert!(!names(&plan).contains(&"fstab"));
            proptest::prop_assert!(plan.problems[0].contains(&line));
        }
        let refusal = refused(&with_fstab(&[Content::Blank], &text));
        proptest::prop_assert!(refusal.to_string().contains(&line));
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
