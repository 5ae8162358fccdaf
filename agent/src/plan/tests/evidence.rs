//! The rows about filesystems that are there: adopted with evidence, refused without.

use super::*;

#[test]
fn a_filesystem_without_evidence_is_somebodys_data() {
    for inventory in [machine(&[filesystem(None)]), running(2, "md0", filesystem(Some("data")))] {
        let refusal = refused(&inventory);
        assert_eq!(refusal.reason, Reason::ForeignData);
        assert!(refusal.to_string().contains("--adopt"), "{refusal}");
        let config = Config { adopt: true, ..Config::default() };
        let plan = plan(&inventory, &config).unwrap();
        assert_eq!(plan.outcome, Outcome::Adopt);
        assert!(!names(&plan).contains(&"make-filesystem"));
    }
}

#[test]
fn each_evidence_adopts() {
    let fstab = |line: &str| {
        let line = format!("{line} /tmp ext4 defaults,noatime,nofail 0 2\n");
        move |i: &mut Inventory| i.files.fstab = Some(line.clone())
    };
    let adopts = |mut inventory: Inventory, change: &dyn Fn(&mut Inventory)| {
        change(&mut inventory);
        plan(&inventory, &Config::default()).is_ok_and(|p| p.outcome == Outcome::Adopt)
    };
    let single = || machine(&[filesystem(None)]);
    let array = || running(2, "md127", filesystem(None));
    assert!(adopts(machine(&[filesystem(Some("nvme-tmp"))]), &|_| {}));
    assert!(adopts(single(), &fstab(&format!("UUID={FS}"))));
    assert!(adopts(array(), &fstab(&format!("UUID={FS}"))));
    assert!(adopts(single(), &fstab("/dev/nvme4n1")), "numbers move, there is no other candidate");
    assert!(adopts(array(), &fstab("/dev/md0")), "md names move");
    assert!(adopts(array(), &fstab("/dev/md/ip-10-0-0-1:md0")));
    assert!(adopts(single(), &|i| i.record = Some(identity(&["AWS1"], None))));
    assert!(!adopts(single(), &fstab("UUID=dead-beef")));
    assert!(!adopts(array(), &fstab("/dev/nvme1n1")));
    let elsewhere = |i: &mut Inventory| i.files.fstab = Some(format!("UUID={FS} /data ext4 defaults 0 2\n"));
    assert!(!adopts(single(), &elsewhere));
}

#[test]
fn what_fstab_puts_elsewhere_is_not_taken_for_its_label() {
    let with = |fstab: String| {
        let mut inventory = machine(&[filesystem(Some("nvme-tmp"))]);
        inventory.record = Some(identity(&["AWS1"], None));
        inventory.files.fstab = Some(fstab);
        inventory
    };
    let moved = with(format!("# a comment\nUUID={FS} /data ext4 defaults 0 2\n"));
    let refusal = refused(&moved);
    assert_eq!(refusal.reason, Reason::ForeignData);
    assert!(refusal.to_string().contains("fstab, line 2, puts it at /data"), "{refusal}");
    // An EBS volume may have had this name when the line was written.
    assert_eq!(planned(&with("/dev/nvme1n1 /data ext4 defaults 0 2\n".into())).outcome, Outcome::Adopt);
    let both = with(format!("UUID={FS} /data ext4 defaults 0 2\nUUID={FS} /tmp ext4 defaults 0 2\n"));
    assert_eq!(planned(&both).outcome, Outcome::Adopt);
}

#[test]
fn a_label_for_another_target_is_no_evidence() {
    let config = Config { target: "/opt/data".into(), ..Config::default() };
    let mut inventory = machine(&[filesystem(Some("nvme-tmp"))]);
    inventory.target.path = "/opt/data".into();
    assert_eq!(plan(&inventory, &config).unwrap_err().reason, Reason::ForeignData);
}

#[test]
fn a_label_of_the_operators_choice_is_no_evidence() {
    let config = Config { label: "data".into(), ..Config::default() };
    let inventory = machine(&[filesystem(Some("data"))]);
    assert_eq!(plan(&inventory, &config).unwrap_err().reason, Reason::ForeignData);
}
