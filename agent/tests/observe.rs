//! What observe sees on whole fixture trees (`tests/fixtures`).
#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write;
use std::time::{Duration, Instant};

use nvme_agent::config::Config;
use nvme_agent::md::geometry;
use nvme_agent::md::superblock::{NewSet, Superblock};
use nvme_agent::observe::sysfs::Sysfs;
use nvme_agent::observe::{Content, Examine, How, Inventory, Use, observe, wait};
use support::{EC2, Machine, Nvme};
use uuid::Uuid;

const LOOK: How = How { examine: Examine::Everything, wait: false };

fn look(machine: &Machine) -> Inventory {
    observe(&machine.root(), &Config::default(), LOOK).unwrap()
}

/// One line of JSON for each thing that was seen.
fn summary(inventory: &Inventory) -> String {
    let mut text = String::new();
    let mut line = |what: &str, json: String| writeln!(text, "{what} {json}").unwrap();
    for drive in &inventory.drives {
        line("drive", serde_json::to_string(drive).unwrap());
    }
    for skipped in &inventory.skipped {
        line("skipped", serde_json::to_string(skipped).unwrap());
    }
    for pending in &inventory.pending {
        line("pending", serde_json::to_string(pending).unwrap());
    }
    for array in &inventory.arrays {
        line("array", serde_json::to_string(array).unwrap());
    }
    for mount in inventory.mounts.iter().filter(|mount| mount.at == inventory.target.path) {
        line("target", serde_json::to_string(mount).unwrap());
    }
    for note in &inventory.notes {
        line("note", note.clone());
    }
    text
}

fn member(machine: &Machine, device: &str, set: u128, role: u32, raid_disks: u32) {
    let sectors = std::fs::metadata(machine.path(device)).unwrap().len() / 512;
    let set = NewSet {
        set_uuid: Uuid::from_u128(set),
        name: "any:md0".into(),
        ctime: 1_700_000_000,
        chunk_sectors: 1024,
        raid_disks,
        data_offset: geometry::data_offset(sectors, 1024),
    };
    let device_uuid = Uuid::from_u128(set.set_uuid.as_u128() << 8 | u128::from(role));
    let superblock = Superblock::new_raid0(&set, role, device_uuid, sectors).unwrap();
    machine.put(device, geometry::SUPER_OFFSET_BYTES, &superblock.encode());
}

fn ext4(machine: &Machine, device: &str, uuid: u128) {
    machine.put(device, 1080, &[0x53, 0xef]);
    machine.put(device, 1128, Uuid::from_u128(uuid).as_bytes());
    machine.put(device, 1144, b"nvme-tmp");
}

#[test]
fn instance_types() {
    for (name, drives) in
        [("i4i.large", 1), ("m6id.8xlarge", 2), ("i3en.24xlarge", 8), ("i7ie.48xlarge", 16), ("m5.large", 0)]
    {
        let inventory = look(&Machine::fixture(name));
        assert_eq!(inventory.drives.len(), drives, "{name}");
        assert!(inventory.drives.iter().all(|d| d.content == Content::Blank && d.uses.is_empty()), "{name}");
        assert!(inventory.drives.is_sorted_by_key(|drive| &drive.serial), "{name}");
        assert_eq!(inventory.host.instance_id, "i-0123456789abcdef0");
        insta::assert_snapshot!(name, summary(&inventory));
    }
}

#[test]
fn a_multipath_drive_is_counted_once_and_fabrics_drives_not_at_all() {
    let inventory = look(&Machine::fixture("multipath"));
    let names: Vec<_> = inventory.drives.iter().map(|drive| drive.name.as_str()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.contains(&"nvme1n1") && names.contains(&"nvme3n1"));
    insta::assert_snapshot!(summary(&inventory));
}

#[test]
fn the_drive_under_the_root_filesystem_is_never_a_candidate() {
    let inventory = look(&Machine::fixture("root-on-instance-store"));
    assert_eq!(inventory.drives.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["nvme2n1"]);
    insta::assert_snapshot!(summary(&inventory));
}

#[test]
fn the_root_filesystem_is_followed_through_dm_md_btrfs_and_overlay() {
    let skipped = |machine: &Machine| -> Vec<String> {
        let inventory = look(machine);
        let root = inventory.skipped.iter().filter(|s| s.why == "holds the root filesystem");
        root.map(|skipped| skipped.name.clone()).collect()
    };
    let mut description = Machine::describe("m6id.8xlarge");
    let on = |root: &str| format!("27 1 {root} rw\n");

    // LVM on md on both drives.
    description.mounts = on("253:0 / / rw - ext4 /dev/mapper/vg-root");
    let machine = Machine::build(&description);
    machine.stacked("md9", "9:9", 1 << 40, &["nvme1n1", "nvme2n1"]);
    machine.stacked("dm-0", "253:0", 1 << 40, &["md9"]);
    assert_eq!(skipped(&machine), ["nvme1n1", "nvme2n1"]);

    // btrfs of two devices: mountinfo names one.
    description.mounts = on("0:33 /@ / rw - btrfs /dev/nvme2n1");
    let machine = Machine::build(&description);
    machine.file("/sys/fs/btrfs/11111111/devices/nvme2n1/dev", "0:0");
    machine.file("/sys/fs/btrfs/11111111/devices/nvme1n1/dev", "0:0");
    assert_eq!(skipped(&machine), ["nvme1n1", "nvme2n1"]);

    // overlay, its upper directory on a drive.
    description.mounts = format!(
        "26 1 259:4 / /cow rw - ext4 /dev/nvme2n1 rw\n{}",
        on("0:34 / / rw - overlay overlay")
            .replace(" rw\n", " rw,lowerdir=/sq,upperdir=/cow/up,workdir=/cow/w\n")
    );
    assert_eq!(skipped(&Machine::build(&description)), ["nvme2n1"]);
}

#[test]
fn an_ebs_data_volume_is_skipped_whatever_its_number() {
    let inventory = look(&Machine::fixture("ebs-data"));
    insta::assert_snapshot!(summary(&inventory));
    assert!(inventory.drives.iter().all(|drive| drive.model == EC2));
}

#[test]
fn a_half_assembled_array_is_shown_as_it_is() {
    let machine = Machine::fixture("half-assembled");
    member(&machine, "/dev/nvme1n1", 7, 0, 2);
    member(&machine, "/dev/nvme2n1", 7, 1, 2);
    let inventory = look(&machine);
    insta::assert_snapshot!(summary(&inventory));
    let [array] = inventory.arrays.as_slice() else { panic!() };
    assert!(!array.is_running());
    assert_eq!(array.uuid, Some(Uuid::from_u128(7)), "from the member's superblock");
    assert_eq!(array.content, Content::Unexamined);
}

#[test]
fn a_node_that_is_set_up() {
    let machine = Machine::fixture("active");
    member(&machine, "/dev/nvme2n1", 7, 0, 2);
    member(&machine, "/dev/nvme1n1", 7, 1, 2);
    ext4(&machine, "/dev/md0", 9);
    let inventory = look(&machine);
    insta::assert_snapshot!(summary(&inventory));
    let [array] = inventory.arrays.as_slice() else { panic!() };
    assert_eq!(array.members, ["nvme2n1", "nvme1n1"]);
    assert_eq!(array.uses, [Use::Mounted { at: "/tmp".into() }]);
    let Content::Filesystem(filesystem) = &array.content else { panic!("{:?}", array.content) };
    assert_eq!(filesystem.label.as_deref(), Some("nvme-tmp"));
    assert_eq!(inventory.intent, None);
    assert!(inventory.notes[0].contains("intent.json"), "a torn intent licenses nothing and is said");
}

#[test]
fn who_uses_a_drive_is_seen() {
    let mut description = Machine::describe("i3en.24xlarge");
    description.nvme[1].partitions = 1;
    description.nvme[2].ro = true;
    description.nvme[5].partitions = 1;
    description.swaps = Some("Filename Type Size Used Priority\n/dev/nvme3n1 partition 1 0 -2\n".into());
    let mut machine = Machine::build(&description);
    machine.stacked("dm-3", "253:3", 1 << 30, &["nvme4n1"]);
    machine.stacked("dm-4", "253:4", 1 << 30, &["nvme5n1p1"]);
    machine.file("/sys/fs/btrfs/2222/devices/nvme6n1/dev", "0:0");
    let dev = std::fs::read_to_string(machine.path("/sys/class/block/nvme1n1p1/dev")).unwrap();
    description.mounts += &format!("70 27 {} / /data rw - ext4 /dev/nvme1n1p1 rw\n", dev.trim());
    machine.file("/proc/1/mountinfo", &description.mounts);
    let inventory = look(&machine);
    let uses = |name: &str| {
        let drive = inventory.drives.iter().find(|drive| drive.name == name).unwrap();
        (drive.uses.clone(), drive.read_only)
    };
    let partitions = |name: &str| Use::Partitions { names: vec![name.into()] };
    let holder = |name: &str| Use::Holder { name: name.into() };
    assert_eq!(uses("nvme1n1").0, [Use::Mounted { at: "/data".into() }, partitions("nvme1n1p1")]);
    assert_eq!(uses("nvme2n1"), (vec![], true));
    assert_eq!(uses("nvme3n1").0, [Use::Swap]);
    assert_eq!(uses("nvme4n1").0, [holder("dm-3")]);
    assert_eq!(uses("nvme5n1").0, [holder("dm-4"), partitions("nvme5n1p1")]);
    assert_eq!(uses("nvme6n1").0, [holder("btrfs")]);
    assert_eq!(uses("nvme7n1"), (vec![], false));
    machine.nvme(&drive("nvme20n1", "0000:00:0a.0", "AWS9"));
    assert_eq!(look(&machine).drives.len(), 9);
}

fn drive(name: &str, address: &str, serial: &str) -> Nvme {
    Nvme {
        name: name.into(),
        address: vec![address.into()],
        controllers: Vec::new(),
        model: EC2.into(),
        serial: serial.into(),
        bytes: 1 << 30,
        multipath: false,
        transport: "pcie".into(),
        vendor: "0x1d0f".into(),
        state: "live".into(),
        partitions: 0,
        holders: Vec::new(),
        ro: false,
    }
}

#[test]
fn drives_that_cannot_be_told_apart_are_not_taken_and_nothing_must_be_built() {
    let mut machine = Machine::fixture("i4i.large");
    machine.nvme(&drive("nvme5n1", "0000:00:0a.0", "AWSTWIN"));
    machine.nvme(&drive("nvme6n1", "0000:00:0b.0", "AWSTWIN"));
    machine.nvme(&drive("nvme7n1", "0000:00:0c.0", ""));
    let inventory = look(&machine);
    assert_eq!(inventory.drives.len(), 1);
    let pending: Vec<_> = inventory.pending.iter().map(|p| (p.address.as_str(), p.why.as_str())).collect();
    assert_eq!(pending[0].0, "0000:00:0c.0");
    assert_eq!(pending[1], ("0000:00:0a.0", "serial number AWSTWIN is on nvme5n1 and nvme6n1"));
    assert_eq!(pending.len(), 3);
}

#[test]
fn vendor_model_and_capacity_are_demanded_and_what_is_wrong_is_named() {
    let mut machine = Machine::fixture("m5.large");
    machine.nvme(&Nvme { vendor: "0x8086".into(), ..drive("nvme5n1", "0000:00:0a.0", "A") });
    machine.nvme(&Nvme { bytes: 0, ..drive("nvme6n1", "0000:00:0b.0", "B") });
    machine.nvme(&Nvme {
        model: "Fake Amazon EC2 NVMe Instance Storage".into(),
        ..drive("nvme7n1", "0000:00:0c.0", "C")
    });
    let inventory = look(&machine);
    assert!(inventory.drives.is_empty());
    let why = |name: &str| inventory.skipped.iter().find(|s| s.name == name).unwrap().why.clone();
    assert!(why("nvme5n1").contains("0x8086") && why("nvme5n1").contains("0x1d0f"));
    assert_eq!(why("nvme6n1"), "has no capacity");
    assert_eq!(why("nvme7n1"), "model is not matched");
}

#[test]
fn waiting_costs_nothing_when_all_is_there_and_names_what_is_not() {
    let machine = Machine::fixture("i7ie.48xlarge");
    let root = machine.root();
    let config = Config { drive_timeout: Duration::from_secs(20), expect_drives: 16, ..Config::default() };
    let start = Instant::now();
    let functions = wait::settle(&Sysfs::new(&root), &config).unwrap();
    assert!(functions.pending.is_empty() && start.elapsed() < Duration::from_secs(2));

    let mut description = Machine::describe("m6id.8xlarge");
    description.nvme[0].state = "resetting".into(); // EBS: none of our business
    description.nvme[1].state = "connecting".into();
    let pci = [
        ("0000:00:06.0", "0x010802 0x1d0f"),
        ("0000:00:07.0", "0x010802 0x1d0f nvme"),
        ("0000:00:08.0", "0x010802 0x1d0f vfio-pci"),
        ("0000:00:09.0", "0x020000 0x1d0f ena"),
        ("0000:00:0a.0", "0x010802 0x144d"),
    ];
    description.pci = pci.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    let machine = Machine::build(&description);
    let config = Config { drive_timeout: Duration::from_millis(80), ..Config::default() };
    let inventory = observe(&machine.root(), &config, How { examine: Examine::Nothing, wait: true }).unwrap();
    let pending: Vec<_> = inventory.pending.iter().map(|p| format!("{} {}", p.address, p.why)).collect();
    assert_eq!(
        pending,
        [
            "0000:00:06.0 no driver bound",
            "0000:00:07.0 no controller yet",
            "0000:00:1e.0 controller nvme1 is connecting"
        ]
    );
    assert!(inventory.skipped.iter().any(|s| s.name == "0000:00:08.0" && s.why.contains("vfio-pci")));
    assert!(inventory.drives.iter().all(|drive| drive.content == Content::Unexamined));
}

#[test]
fn a_drive_that_appears_late_is_waited_for() {
    let mut machine = Machine::fixture("i4i.large");
    let root = machine.root();
    let config = Config { drive_timeout: Duration::from_secs(20), expect_drives: 2, ..Config::default() };
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        machine.nvme(&drive("nvme9n1", "0000:00:0a.0", "AWSLATE"));
        machine
    });
    let start = Instant::now();
    let inventory = observe(&root, &config, How { examine: Examine::Nothing, wait: true }).unwrap();
    assert!(start.elapsed() > Duration::from_millis(140));
    assert_eq!(inventory.drives.len(), 2);
    drop(late.join().unwrap());

    let alone = Machine::fixture("i4i.large");
    let config = Config { drive_timeout: Duration::from_millis(80), ..config };
    let inventory = observe(&alone.root(), &config, How { examine: Examine::Nothing, wait: true }).unwrap();
    assert_eq!(inventory.drives.len(), 1, "plan says that one is missing");
}

#[test]
fn a_record_of_these_drives_ends_the_first_boot() {
    let mut description = Machine::describe("i4i.large");
    description.files.insert("/usr/bin/cloud-init".into(), String::new());
    description.files.insert("/proc/stat".into(), "btime 1".into());
    assert!(look(&Machine::build(&description)).host.first_boot);
    let record = |serial: &str| {
        format!(
            r#"{{"version":1,"serials":["{serial}"],"array_uuid":null,"fs_uuid":"{}","filesystem":"ext4","target":"/tmp"}}"#,
            Uuid::from_u128(1)
        )
    };
    let serial = description.nvme[1].serial.clone();
    description.files.insert("/var/lib/nvme-agent/record.json".into(), record(&serial));
    assert!(!look(&Machine::build(&description)).host.first_boot);
    description.files.insert("/var/lib/nvme-agent/record.json".into(), record("AWS-of-the-image"));
    assert!(look(&Machine::build(&description)).host.first_boot, "a record that came with the image");
}

#[test]
fn a_set_that_lacks_a_member_makes_us_look_harder_at_blank_drives() {
    let machine = Machine::fixture("m6id.8xlarge");
    // Data behind the start of the member's data area, between the usual samples.
    let sectors = 950_000_000_000 / 512;
    let data = geometry::data_offset(sectors, 1024) * 512;
    machine.put("/dev/nvme2n1", data + (9 << 20), b"somebody's file");
    let content = |machine: &Machine| {
        let inventory = look(machine);
        inventory.drives.iter().find(|drive| drive.name == "nvme2n1").unwrap().content.clone()
    };
    assert_eq!(content(&machine), Content::Blank);
    member(&machine, "/dev/nvme1n1", 6, 0, 1);
    assert_eq!(content(&machine), Content::Blank, "that set is complete");
    member(&machine, "/dev/nvme1n1", 7, 0, 2);
    assert_eq!(content(&machine), Content::Unknown, "a superblock that was lost, not a fresh drive");
}

#[test]
fn no_mount_table_is_an_error_not_an_empty_one() {
    let machine = Machine::fixture("i4i.large");
    std::fs::remove_file(machine.path("/proc/1/mountinfo")).unwrap();
    let error = observe(&machine.root(), &Config::default(), LOOK).unwrap_err();
    assert!(error.to_string().contains("/proc/1/mountinfo"), "{error}");
}

#[test]
fn two_looks_see_the_same_and_nothing_is_written() {
    let machine = Machine::fixture("active");
    let before = listing(&machine.path("/"));
    let mut first = look(&machine);
    let second = look(&machine);
    assert_ne!(first.fresh, second.fresh);
    first.fresh = second.fresh.clone();
    assert_eq!(first, second);
    assert_eq!(listing(&machine.path("/")), before);
}

/// Every path of the tree with its size and modification time.
fn listing(dir: &std::path::Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let status = path.symlink_metadata().unwrap();
            lines.push(format!("{} {} {:?}", path.display(), status.len(), status.modified().unwrap()));
            if status.is_dir() {
                todo.push(path);
            }
        }
    }
    lines.sort();
    lines
}

mod garbage {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn in_any_attribute_never_panics_and_never_makes_a_candidate_of_another_drive(
            attribute in prop::sample::select(vec![
                "class/nvme/nvme0/model", "class/nvme/nvme0/serial", "class/nvme/nvme0/transport",
                "class/nvme/nvme1/model", "class/nvme/nvme1/serial", "class/nvme/nvme1/state",
                "class/block/nvme1n1/size", "class/block/nvme1n1/dev", "class/block/nvme1n1/ro",
                "class/block/nvme1n1/queue/logical_block_size", "class/block/nvme1n1/hidden",
                "class/block/md0/md/uuid", "class/block/md0/md/raid_disks", "class/block/md0/md/array_state",
                "class/block/md0/md/dev-nvme1n1/slot", "class/dmi/id/board_asset_tag",
                "bus/pci/devices/0000:00:1e.0/class", "bus/pci/devices/0000:00:1e.0/vendor",
            ]),
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let machine = Machine::fixture("active");
            std::fs::write(machine.path("/sys").join(attribute), &bytes).unwrap();
            let inventory = look(&machine);
            prop_assert!(inventory.drives.iter().all(|d| d.name != "nvme0n1" && d.model.starts_with(EC2)));
            prop_assert!(inventory.drives.len() <= 2);
        }
    }
}

#[test]
fn status_with_a_wrong_configuration_tells_of_the_drives_that_it_names_all_the_same() {
    let machine = Machine::fixture("i4i.large");
    let drives = |config: &str| {
        machine.file("/etc/nvme-agent/config.toml", config);
        let mut status = assert_cmd::Command::cargo_bin("nvme-agent").unwrap();
        status.env_clear().arg("--root").arg(machine.path("/")).args(["status", "--output", "json"]);
        let report: serde_json::Value = serde_json::from_slice(&status.output().unwrap().stdout).unwrap();
        let wrong = report["unreadable"].to_string().contains("targett");
        (report["drives"].as_array().unwrap().len(), wrong)
    };
    assert_eq!(drives(""), (1, false));
    assert_eq!(drives("targett = \"/data\"\n"), (1, true));
    assert_eq!(drives("targett = \"/data\"\n[match]\nmodels = [\"Another model\"]\n"), (0, true));
}
