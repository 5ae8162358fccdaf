//! The life of an array on a kernel that has md, with mdadm as the oracle.
//!
//! Needs root, loop, mdadm, losetup, and nothing on `/dev/md0` to `/dev/md2`: a VM. Ignored elsewhere; there,
//! `cargo lab test oracle-md-kernel` runs all of them.
#![allow(clippy::unwrap_used)] // all of it is tests

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nvme_agent::md::array::{AssembleSpec, CreateSpec, assemble, create, restart_rw, stop};
use nvme_agent::md::kernel::Shown;
use nvme_agent::md::lock::Holds;
use nvme_agent::md::notation::mdadm_uuid;
use nvme_agent::observe::blank::{self, Buffer, Device};
use nvme_agent::plan::MemberRef;
use nvme_agent::root::Root;
use uuid::Uuid;

const MD0: &str = "/dev/md0";

/// Runs a program that must succeed without a word on stderr; what it said on stdout.
fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn said(text: &str, key: &str) -> String {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key)?.trim().strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in {text}")).trim().to_owned()
}

/// Drives made of sparse files; arrays and drives go when it is dropped.
struct Lab {
    root: Root,
    dir: tempfile::TempDir,
    members: Vec<MemberRef>,
    uuid: Uuid,
}

impl Lab {
    fn new(count: usize) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let mut lab = Lab { root: Root::default(), dir, members: Vec::new(), uuid: Uuid::new_v4() };
        for index in 0..count {
            lab.add(index, 4 << 30);
        }
        lab
    }

    fn add(&mut self, index: usize, size: u64) {
        let image = self.dir.path().join(format!("{index}.img"));
        File::create(&image).unwrap().set_len(size).unwrap();
        let path = run("losetup", &["--show", "-f", image.to_str().unwrap()]).trim().to_owned();
        // Loop devices have no serial number.
        self.members.push(MemberRef { path: path.into(), serial: String::new(), sectors: size / 512 });
    }

    fn paths(&self) -> Vec<&str> {
        self.members.iter().map(|member| member.path.to_str().unwrap()).collect()
    }

    fn holds(&self) -> Holds {
        Holds::acquire(&self.root, self.paths(), Some("md0")).unwrap()
    }

    fn spec(&self) -> CreateSpec<'_> {
        CreateSpec {
            array: Path::new(MD0),
            uuid: self.uuid,
            name: "any:md0",
            chunk_bytes: 512 << 10,
            members: &self.members,
        }
    }

    fn create(&self) -> nvme_agent::error::Result<PathBuf> {
        create(&self.root, &self.spec(), &self.holds())
    }

    fn assemble(&self, read_only: bool) -> nvme_agent::error::Result<PathBuf> {
        let spec = AssembleSpec { array: Path::new(MD0), uuid: self.uuid, members: &self.members, read_only };
        assemble(&self.root, &spec, &self.holds())
    }

    fn stop(&self) {
        stop(&self.root, Path::new(MD0)).unwrap();
        assert_eq!(self.state("md0"), "");
        assert!(!Path::new("/sys/block/md0").exists(), "an empty array stays behind");
    }

    /// The array's state; empty where there is none.
    fn state(&self, name: &str) -> String {
        Shown::read(&self.root, name)
            .filter(|shown| !shown.is_empty())
            .map_or(String::new(), |shown| shown.state)
    }

    /// The first MiB of every drive.
    fn heads(&self) -> Vec<Vec<u8>> {
        // Past the page cache: md writes beneath it.
        let head = |member: &MemberRef| {
            let device = Device::open(&member.path, 1 << 20).unwrap();
            let mut buffer = Buffer::default();
            let mut chunk = |at: u64| blank::read(&device, at, 1 << 18, &mut buffer).unwrap().to_vec();
            [0, 1, 2, 3].map(|n| chunk(n << 18)).concat()
        };
        self.members.iter().map(head).collect()
    }

    fn mdadm_create(&mut self, level: &str, options: &[&str]) {
        let count = format!("--raid-devices={}", self.members.len());
        let uuid = format!("--uuid={}", mdadm_uuid(&self.uuid));
        let mut args = vec!["--create", MD0, "--run", "--quiet", "--metadata=1.2", level, &count, &uuid];
        args.extend(options);
        args.extend(self.paths());
        run("mdadm", &args);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in ["md0", "md1", "md2", "md127"] {
            let _ = stop(&self.root, &Path::new("/dev").join(name));
        }
        for path in self.paths() {
            let _ = Command::new("losetup").args(["-d", path]).status();
        }
    }
}

#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn what_we_create_mdadm_explains_without_complaint_and_assembles() {
    let lab = Lab::new(3);
    assert_eq!(lab.create().unwrap(), Path::new(MD0));
    assert_eq!(lab.state("md0"), "clean");

    for (role, path) in lab.paths().iter().enumerate() {
        let examine = run("mdadm", &["--examine", path]);
        assert_eq!(said(&examine, "Array UUID"), mdadm_uuid(&lab.uuid));
        assert!(said(&examine, "Checksum").ends_with("correct"), "{examine}");
        assert_eq!(said(&examine, "State"), "clean");
        assert_eq!(said(&examine, "Device Role"), format!("Active device {role}"));
    }
    let detail = run("mdadm", &["--detail", MD0]);
    assert_eq!((said(&detail, "State").as_str(), said(&detail, "Raid Level").as_str()), ("clean", "raid0"));
    assert_eq!(said(&detail, "Name").split_whitespace().next(), Some("any:md0"));
    assert_eq!(said(&detail, "Chunk Size"), "512K");

    run("mdadm", &["--stop", MD0]);
    let mut args = vec!["--assemble", "--quiet", MD0];
    args.extend(lab.paths());
    run("mdadm", &args);
    assert_eq!(lab.state("md0"), "clean");
}

#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn a_second_create_and_assemble_change_nothing() {
    let lab = Lab::new(2);
    lab.create().unwrap();
    let before = lab.heads();
    assert_eq!(lab.create().unwrap(), Path::new(MD0));
    assert_eq!(lab.assemble(true).unwrap(), Path::new(MD0));
    assert!(lab.heads() == before, "superblocks were written again");
    assert_eq!(lab.state("md0"), "clean");
}

#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn read_only_assembly_writes_nothing_and_becomes_writable() {
    let mut lab = Lab::new(3);
    lab.create().unwrap();
    fs::write(MD0, "data").unwrap();
    lab.stop();
    lab.stop();
    let before = lab.heads();
    lab.members.rotate_left(1);
    lab.assemble(true).unwrap();
    assert_eq!(lab.state("md0"), "readonly");
    assert!(OpenOptions::new().write(true).open(MD0).and_then(|f| f.write_all_at(b"x", 0)).is_err());
    lab.members.rotate_right(1);
    assert!(lab.heads() == before, "members were written");
    restart_rw(&lab.root, Path::new(MD0)).unwrap();
    restart_rw(&lab.root, Path::new(MD0)).unwrap();
    assert_eq!(lab.state("md0"), "clean");
    let mut data = [0; 4];
    File::open(MD0).unwrap().read_exact_at(&mut data, 0).unwrap();
    assert_eq!(&data, b"data");
    fs::write(MD0, "more").unwrap();
}

/// The old script's array: a host name that does not fit, so that mdadm stores a bare name.
#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn mdadms_arrays_are_assembled_also_where_udev_did_half_of_it() {
    let mut lab = Lab::new(2);
    lab.mdadm_create("--level=0", &["--name=md0", "--homehost=ip-10-0-0-1.eu-central-1.compute.internal"]);
    fs::write(MD0, "theirs").unwrap();
    run("mdadm", &["--quiet", "--stop", MD0]);
    lab.assemble(true).unwrap();
    lab.stop();

    run("mdadm", &["--quiet", "--incremental", lab.paths()[1]]);
    let half: Vec<_> = Shown::read_all(&lab.root).into_iter().filter(|shown| !shown.is_empty()).collect();
    assert_eq!((half.len(), half[0].state.as_str()), (1, "inactive"), "{half:?}");
    assert_eq!(half[0].set_uuid(&lab.root), Some(lab.uuid));
    lab.assemble(false).unwrap();
    assert_eq!(lab.state("md0"), "clean");
    let mut data = [0; 6];
    File::open(MD0).unwrap().read_exact_at(&mut data, 0).unwrap();
    assert_eq!(&data, b"theirs");
}

#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn an_interrupted_create_is_finished() {
    let lab = Lab::new(2);
    lab.create().unwrap();
    lab.stop();
    // Killed between two superblocks: one member has ours, the other nothing; and udev got hold of the one.
    let file = OpenOptions::new().write(true).open(lab.paths()[1]).unwrap();
    file.write_all_at(&[0; 4096], 4096).unwrap();
    drop(file);
    run("mdadm", &["--quiet", "--incremental", lab.paths()[0]]);
    lab.create().unwrap();
    assert_eq!(lab.state("md0"), "clean");
    assert_eq!(said(&run("mdadm", &["--detail", MD0]), "UUID"), mdadm_uuid(&lab.uuid));
}

#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn a_member_in_use_or_with_data_on_it_means_no_member_is_written() {
    let lab = Lab::new(3);
    let before = lab.heads();
    let exclusive = OpenOptions::new()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_EXCL.bits())
        .open(lab.paths()[2])
        .unwrap();
    let error = lab.create().unwrap_err().to_string();
    assert!(error.contains(lab.paths()[2]) && error.contains("in use"), "{error}");
    drop(exclusive);
    assert!(lab.heads() == before);

    let file = OpenOptions::new().write(true).open(lab.paths()[1]).unwrap();
    file.write_all_at(b"somebody's", 700_000).unwrap();
    drop(file);
    let before = lab.heads();
    let error = lab.create().unwrap_err().to_string();
    assert!(error.contains(lab.paths()[1]) && error.contains("data at byte 700000"), "{error}");
    assert!(lab.heads() == before);
    assert_eq!(lab.state("md0"), "");
}

#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn a_name_that_is_taken_is_refused_and_another_works() {
    let mut theirs = Lab::new(2);
    theirs.mdadm_create("--level=0", &["--homehost=any", "--name=md0"]);
    let ours = Lab::new(2);
    let error = ours.create().unwrap_err().to_string();
    assert!(error.contains("/dev/md0 is taken by another array"), "{error}");
    let spec = CreateSpec { array: Path::new("/dev/md1"), ..ours.spec() };
    assert_eq!(create(&ours.root, &spec, &ours.holds()).unwrap(), Path::new("/dev/md1"));
    assert_eq!((ours.state("md0").as_str(), ours.state("md1").as_str()), ("clean", "clean"));
    // Asked for as md0, found as md1.
    assert_eq!(ours.assemble(true).unwrap(), Path::new("/dev/md1"));
}

#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn a_mirror_is_started_without_a_write_to_it() {
    let mut lab = Lab::new(2);
    lab.mdadm_create("--level=1", &["--name=x", "--homehost=h", "--bitmap=none"]);
    run("mdadm", &["--quiet", "--stop", MD0]);
    let before = lab.heads();
    lab.assemble(true).unwrap();
    assert_eq!(lab.state("md0"), "readonly");
    lab.stop();
    assert!(lab.heads() == before, "a mirror's superblocks were written: it resyncs");
}

#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn a_set_without_one_member_is_not_started() {
    let mut lab = Lab::new(3);
    lab.create().unwrap();
    lab.stop();
    let hidden = lab.members.remove(1);
    let error = lab.assemble(true).unwrap_err().to_string();
    assert!(error.contains("lacks the member with role 1 of 3"), "{error}");
    assert_eq!(lab.state("md0"), "");
    lab.members.push(hidden);
}

#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn members_may_be_of_unequal_size() {
    let mut lab = Lab::new(1);
    lab.add(1, 6 << 30);
    lab.add(2, 5 << 30);
    lab.create().unwrap();
    assert_eq!(said(&run("mdadm", &["--detail", MD0]), "Raid Devices"), "3");
}

#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn an_array_in_use_is_not_stopped() {
    let lab = Lab::new(2);
    lab.create().unwrap();
    let user = File::open(MD0).unwrap();
    let error = stop(&lab.root, Path::new(MD0)).unwrap_err().to_string();
    assert!(error.contains("/dev/md0 is in use"), "{error}");
    assert_eq!(lab.state("md0"), "clean");
    drop(user);
    lab.stop();
}

/// As a hardened image may have it: the module cannot be loaded, though it is there.
#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn without_raid0_nothing_stays_behind() {
    const MODPROBE: &str = "/proc/sys/kernel/modprobe";
    let lab = Lab::new(2);
    let before = lab.heads();
    // Not modprobe -r, which takes md_mod along.
    let _ = Command::new("rmmod").arg("raid0").status();
    let modprobe = fs::read_to_string(MODPROBE).unwrap();
    fs::write(MODPROBE, "/bin/false").unwrap();
    let error = lab.create();
    fs::write(MODPROBE, modprobe).unwrap();
    let error = error.unwrap_err();
    assert!(error.to_string().starts_with("raid0 module missing"), "{error}");
    assert_eq!(error.exit_code(), 5);
    assert!(lab.heads() == before, "superblocks stay behind");
    assert!(!Path::new("/sys/block/md0").exists());
    lab.create().unwrap();
}

/// Whatever is run while the agent works is run by the kernel (modprobe), not by us.
#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn md_is_loaded_by_the_kernels_own_request() {
    let lab = Lab::new(2);
    run("modprobe", &["-r", "raid0", "raid1", "md-mod"]);
    assert!(!Path::new("/proc/mdstat").exists());
    lab.create().unwrap();
    assert_eq!(lab.state("md0"), "clean");
    let left = fs::read_dir("/dev")
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(left.count(), 0, "a temporary node stays behind");
}

#[test]
#[ignore = "needs a VM: cargo lab test oracle-md-kernel (issue 2)"]
fn udevs_interest_in_the_new_array_does_not_keep_it_from_being_stopped() {
    let lab = Lab::new(2);
    lab.create().unwrap();
    let probe = File::open(MD0).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(300));
            drop(probe);
        });
        stop(&lab.root, Path::new(MD0)).unwrap();
    });
    assert_eq!(lab.state("md0"), "");
}
