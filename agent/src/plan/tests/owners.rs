//! The rows about other owners of the drives.

use super::*;
use crate::observe::{Claim, Pending};

fn claimed(contents: &[Content], claim: Claim) -> Inventory {
    Inventory { claims: vec![claim], ..machine(contents) }
}

fn nodeadm() -> Claim {
    Claim::Nodeadm { strategy: "RAID0".into() }
}

fn csi() -> Claim {
    Claim::InstanceStoreCsi { trace: "/var/lib/kubelet/plugins/lis.csi.aws.com".into() }
}

#[test]
fn a_claim_is_refused_by_name_whatever_the_flags() {
    let provisioner =
        Claim::StaticProvisioner { trace: "/dev/disk/kubernetes/x leads to /dev/nvme1n1".into() };
    for (claim, reason, words) in [
        (nodeadm(), Reason::NodeadmLocalStorage, "spec.instance.localStorage.strategy is RAID0"),
        (csi(), Reason::OwnerConflict, "lis.csi.aws.com"),
        (provisioner, Reason::OwnerConflict, "/dev/disk/kubernetes/x"),
    ] {
        for config in [Config::default(), wiping(), Config { adopt: true, ..Config::default() }] {
            let inventory = claimed(&[Content::Blank, foreign("gpt")], claim.clone());
            let refusal = plan(&inventory, &config).unwrap_err();
            assert_eq!(refusal.reason, reason);
            assert!(refusal.to_string().contains(words), "{refusal}");
        }
    }
    let refusal = refused(&claimed(&[Content::Blank], nodeadm())).to_string();
    assert!(refusal.contains("instanceStorePolicy") && refusal.contains("not supported yet"), "{refusal}");
}

#[test]
fn a_claim_on_no_drives_is_none_and_one_on_what_is_ours_and_mounted_changes_nothing() {
    assert_eq!(planned(&claimed(&[], nodeadm())).outcome, Outcome::Absent);
    let mut ours = running(2, "md0", filesystem(Some("nvme-tmp")));
    let dev = ours.arrays[0].dev;
    ours.mounts.push(mount("/dev/md0", dev, "/tmp", "ext4"));
    assert_eq!(planned(&ours).outcome, Outcome::Keep);
    ours.claims = vec![nodeadm(), csi()];
    assert_eq!(planned(&ours).outcome, Outcome::Keep);
}

#[test]
fn controllers_whose_namespaces_the_csi_driver_deleted_are_its_own_and_not_missing_drives() {
    let mut inventory = claimed(&[], csi());
    let why = "controller nvme1 has no namespace".to_owned();
    inventory.pending.push(Pending { address: "0000:00:1e.0".into(), why });
    let refusal = refused(&inventory);
    assert_eq!(refusal.reason, Reason::OwnerConflict);
    assert!(refusal.to_string().contains("0000:00:1e.0"), "{refusal}");
}

#[test]
fn what_is_mounted_where_others_mount_names_them() {
    for (at, reason) in [
        ("/mnt/k8s-disks/1", Reason::NodeadmLocalStorage),
        ("/mnt/k8s-disks", Reason::NodeadmLocalStorage),
        ("/mnt/disks/vol1", Reason::OwnerConflict),
        ("/mnt/fast-disks/a", Reason::OwnerConflict),
        ("/pv-disks/0d7e", Reason::OwnerConflict),
        ("/var/lib/kubelet/pods/x/volumes/kubernetes.io~csi/pv/mount", Reason::OwnerConflict),
        ("/mnt/disks2", Reason::DriveInUse),
        ("/data", Reason::DriveInUse),
    ] {
        let mut drive = machine(&[filesystem(None), Content::Blank]);
        drive.drives[0].uses.push(Use::Mounted { at: at.into() });
        let mut array = running(2, "md127", filesystem(None));
        array.arrays[0].uses.push(Use::Mounted { at: at.into() });
        for inventory in [drive, array] {
            for config in [Config::default(), wiping()] {
                let refusal = plan(&inventory, &config).unwrap_err();
                assert_eq!(refusal.reason, reason, "{at}");
                assert!(refusal.to_string().contains(at), "{refusal}");
            }
        }
    }
}

#[test]
fn nodeadms_array_is_not_assembled_to_be_looked_into_and_wiped_only_on_demand() {
    for name in ["kubernetes", "any:kubernetes", "ip-10-0-0-1:kubernetes"] {
        let mut inventory = machine(&[member(0, 2), member(1, 2)]);
        for drive in &mut inventory.drives {
            let Content::Member(member) = &mut drive.content else { panic!("no member") };
            member.set_name = name.into();
        }
        let refusal = refused(&inventory);
        assert_eq!(refusal.reason, Reason::NodeadmLocalStorage, "{name}");
        assert!(refusal.to_string().contains(name), "{refusal}");
        assert!(plan(&inventory, &wiping()).is_ok());
    }
}
