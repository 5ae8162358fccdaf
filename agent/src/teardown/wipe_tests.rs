use uuid::Uuid;

use super::*;
use crate::md::superblock::NewSet;

const SECTORS: u64 = 64 << 11;
const DATA: u64 = 8 << 20;

struct Machine {
    dir: tempfile::TempDir,
    set: Uuid,
}

impl Machine {
    /// Two drives of 64 MiB, members of one set, full of data.
    fn new() -> Machine {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let set = Uuid::from_u128(0x1234);
        let machine = Machine { dir, set };
        std::fs::create_dir(machine.dir.path().join("dev")).unwrap();
        for n in 1..=2 {
            let sys = machine.dir.path().join(format!("sys/block/nvme{n}n1/device"));
            std::fs::create_dir_all(&sys).unwrap();
            std::fs::write(sys.join("serial"), format!("AWS{n}\n")).unwrap();
            std::fs::write(sys.join("../size"), format!("{SECTORS}\n")).unwrap();
            machine.fill(n, set);
        }
        machine
    }

    fn root(&self) -> Root {
        Root::new(self.dir.path())
    }

    fn path(&self, n: u32) -> std::path::PathBuf {
        self.dir.path().join(format!("dev/nvme{n}n1"))
    }

    fn fill(&self, n: u32, set: Uuid) {
        let mut bytes = vec![0xa5; (SECTORS * 512) as usize];
        bytes[..4096].fill(0);
        let new = NewSet {
            set_uuid: set,
            name: "any:md0".into(),
            ctime: 1,
            chunk_sectors: 1024,
            raid_disks: 2,
            data_offset: DATA / 512,
        };
        let superblock =
            Superblock::new_raid0(&new, n - 1, Uuid::from_u128(n.into()), SECTORS).unwrap().encode();
        bytes[4096..4096 + superblock.len()].copy_from_slice(&superblock);
        std::fs::write(self.path(n), bytes).unwrap();
    }

    fn drives(&self) -> Vec<(MemberRef, Expect)> {
        (1..=2)
            .map(|n| {
                let path = format!("/dev/nvme{n}n1").into();
                (MemberRef { path, serial: format!("AWS{n}"), sectors: SECTORS }, Expect::Set(self.set))
            })
            .collect()
    }
}

#[test]
fn members_of_our_set_become_blank() {
    let machine = Machine::new();
    let notes = wipe(&machine.root(), &machine.drives()).unwrap();
    for n in 1..=2 {
        let bytes = std::fs::read(machine.path(n)).unwrap();
        assert_eq!(bytes.len() as u64, SECTORS * 512);
        // Where the filesystem below cannot punch holes, that is what the notes are for.
        if notes.is_empty() {
            assert!(blank::is_zero(&bytes));
        }
        let mib = 1 << 20;
        for start in [0, DATA as usize, bytes.len() - mib] {
            assert!(blank::is_zero(&bytes[start..start + mib]), "drive {n}, byte {start}");
        }
    }
}

#[test]
fn nothing_is_wiped_where_one_drive_is_not_what_was_expected() {
    let check = |words: &[&str], change: &dyn Fn(&Machine)| {
        let machine = Machine::new();
        change(&machine);
        let before = std::fs::read(machine.path(1)).unwrap();
        let error = wipe(&machine.root(), &machine.drives()).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert!(std::fs::read(machine.path(1)).unwrap() == before);
    };
    check(&["nvme2n1", "AWS2", "00000000-0000-0000-0000-000000000099"], &|m| {
        m.fill(2, Uuid::from_u128(0x99))
    });
    check(&["nvme2n1", "no md superblock"], &|m| {
        std::fs::write(m.path(2), vec![0; (SECTORS * 512) as usize]).unwrap();
    });
    check(&["nvme2n1", "other drive"], &|m| {
        std::fs::write(m.dir.path().join("sys/block/nvme2n1/device/serial"), "other drive").unwrap();
    });
}

#[test]
fn a_single_drive_is_known_by_its_filesystem() {
    let machine = Machine::new();
    let uuid = Uuid::from_u128(0x77);
    let mut bytes = vec![0xa5; (SECTORS * 512) as usize];
    bytes[1080..1082].copy_from_slice(&[0x53, 0xef]);
    bytes[1128..1144].copy_from_slice(uuid.as_bytes());
    std::fs::write(machine.path(1), &bytes).unwrap();
    let drive = machine.drives().remove(0).0;
    let expect = |uuid: Uuid| Expect::Filesystem { kind: "ext4".into(), uuid: uuid.to_string() };
    assert!(wipe(&machine.root(), &[(drive.clone(), expect(Uuid::from_u128(0x78)))]).is_err());
    assert!(std::fs::read(machine.path(1)).unwrap() == bytes);
    wipe(&machine.root(), &[(drive, expect(uuid))]).unwrap();
    assert!(blank::is_zero(&std::fs::read(machine.path(1)).unwrap()[..1 << 20]));
}
