use std::os::unix::fs::symlink;

use super::*;

const MD: DevNum = DevNum { major: 9, minor: 0 };
const HOST: &str = "\
27 1 259:2 / / rw shared:1 - ext4 /dev/nvme0n1p1 rw
60 27 9:0 / /tmp rw,noatime shared:30 - ext4 /dev/md0 rw
";
/// Propagated into a service with a namespace of its own: its root is a slave of the host's.
const SLAVE: &str = "\
127 101 259:2 / / rw shared:90 master:1 - ext4 /dev/nvme0n1p1 rw
160 127 9:0 / /tmp rw,noatime shared:91 master:30 - ext4 /dev/md0 rw
";
const PRIVATE_TMP: &str = "\
161 160 9:0 /systemd-private-abc-dbus-broker.service-x/tmp /tmp rw shared:92 master:30 - ext4 /dev/md0 rw
";
const CONTAINER: &str = "\
300 299 0:77 / / rw - overlay overlay rw,lowerdir=/var/lib/a
301 300 9:0 / /tmp rw master:30 - ext4 /dev/md0 rw
";

struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Machine(tempfile::tempdir().unwrap());
        machine.process(1, "systemd", 100, HOST);
        machine
    }

    fn root(&self) -> Root {
        Root::new(self.0.path())
    }

    fn process(&self, pid: i32, comm: &str, namespace: u32, mountinfo: &str) -> PathBuf {
        let dir = self.0.path().join("proc").join(pid.to_string());
        for sub in ["ns", "fd", "fdinfo"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        symlink(format!("mnt:[{namespace}]"), dir.join("ns/mnt")).unwrap();
        fs::write(dir.join("mountinfo"), mountinfo).unwrap();
        fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
        fs::write(dir.join("cgroup"), format!("0::/system.slice/{comm}.service\n")).unwrap();
        dir
    }

    fn pins(&self, device: DevNum) -> Vec<String> {
        find(&self.root(), device, &["/tmp".into()]).unwrap().iter().map(Pin::to_string).collect()
    }
}

#[test]
fn an_idle_mount_is_pinned_by_nobody() {
    let machine = Machine::new();
    machine.process(2, "sshd", 100, HOST);
    machine.process(3, "systemd-resolved", 200, SLAVE);
    assert_eq!(machine.pins(MD), Vec::<String>::new());
}

#[test]
fn a_service_with_private_tmp_and_a_container_hold_it_by_their_namespaces() {
    let machine = Machine::new();
    machine.process(812, "dbus-broker", 200, &format!("{SLAVE}{PRIVATE_TMP}"));
    machine.process(813, "child", 200, &format!("{SLAVE}{PRIVATE_TMP}"));
    machine.process(900, "pause", 300, CONTAINER);
    assert_eq!(
        machine.pins(MD),
        [
            "dbus-broker (pid 812, dbus-broker.service): its mount namespace has \
             /systemd-private-abc-dbus-broker.service-x/tmp of it at /tmp, 1 more processes share that namespace",
            "pause (pid 900, pause.service): its mount namespace has it at /tmp",
        ]
    );
}

#[test]
fn open_and_mapped_files_are_found_without_asking_the_filesystem() {
    let machine = Machine::new();
    let dir = machine.process(44, "java", 100, HOST);
    for (fd, id, to) in [(0, 27, "/dev/null"), (7, 60, "/tmp/spill"), (8, 9, "socket:[1]")] {
        fs::write(dir.join(format!("fdinfo/{fd}")), format!("pos:\t0\nflags:\t02\nmnt_id:\t{id}\nino:\t5\n"))
            .unwrap();
        symlink(to, dir.join(format!("fd/{fd}"))).unwrap();
    }
    fs::write(
        dir.join("maps"),
        "7f00-7f01 r-xp 00000000 09:00 12 /tmp/lib.so\n7f01-7f02 r--p 00001000 09:00 12 /tmp/lib.so\n\
         7f02-7f03 r--p 0 103:02 9 /usr/bin/java\n7f04-7f05 rw-p 00000000 00:00 0 \n",
    )
    .unwrap();
    symlink("/usr/bin/java", dir.join("exe")).unwrap();
    assert_eq!(
        machine.pins(MD),
        ["java (pid 44, java.service): mapped file /tmp/lib.so, open file /tmp/spill"]
    );
    let root = machine.pins(DevNum { major: 259, minor: 2 });
    assert!(root.contains(&"/: the filesystem is mounted there as well".to_owned()), "{root:?}");
    assert_eq!(
        root.last().unwrap(),
        "java (pid 44, java.service): its binary /usr/bin/java, open file /dev/null",
        "the device number in maps is hexadecimal"
    );
}

#[test]
fn working_and_root_directories_are_found_by_device() {
    let machine = Machine::new();
    let place = tempfile::tempdir().unwrap();
    let dir = machine.process(55, "bash", 100, HOST);
    symlink(place.path(), dir.join("cwd")).unwrap();
    symlink("/proc", dir.join("root")).unwrap();
    let dev = fs::metadata(place.path()).unwrap().dev();
    let dev = DevNum { major: rustix::fs::major(dev), minor: rustix::fs::minor(dev) };
    assert_eq!(machine.pins(dev), ["bash (pid 55, bash.service): working directory"]);
    // On a network filesystem the directory is not even asked.
    let nfs = format!("{HOST}70 27 0:50 / {} rw - nfs4 srv:/ rw\n", place.path().display());
    fs::write(machine.0.path().join("proc/1/mountinfo"), nfs).unwrap();
    assert_eq!(machine.pins(dev), Vec::<String>::new());
}

#[test]
fn what_the_kernel_holds_is_found_too() {
    let machine = Machine::new();
    let table = format!(
        "{HOST}61 60 0:50 / /tmp/sub rw - tmpfs tmpfs rw\n62 27 9:0 / /mnt rw - ext4 /dev/md0 rw\n\
         63 27 0:60 / /merged rw - overlay overlay rw,lowerdir=/usr:/tmp/layer,upperdir=/var/u\n\
         64 27 0:61 / /other rw - overlay overlay rw,lowerdir=/tmpfoo\n"
    );
    fs::write(machine.0.path().join("proc/1/mountinfo"), table).unwrap();
    fs::write(
        machine.0.path().join("proc/swaps"),
        "Filename Type Size Used Priority\n/tmp/swap file 1 0 -2\n",
    )
    .unwrap();
    let sys = machine.0.path().join("sys/block/loop3/loop");
    fs::create_dir_all(&sys).unwrap();
    fs::write(sys.join("backing_file"), "/tmp/disk.img (deleted)\n").unwrap();
    assert_eq!(
        machine.pins(MD),
        [
            "/tmp/sub: tmpfs is mounted on it",
            "/mnt: the filesystem is mounted there as well",
            "/merged: an overlay has a layer on it",
            "loop3: loop device of /tmp/disk.img",
            "/tmp/swap: swap file in use",
        ]
    );
}

#[test]
fn a_process_that_vanishes_meanwhile_is_no_error_but_a_missing_mount_table_is() {
    let machine = Machine::new();
    fs::create_dir_all(machine.0.path().join("proc/99")).unwrap();
    assert_eq!(machine.pins(MD), Vec::<String>::new());
    fs::remove_file(machine.0.path().join("proc/1/mountinfo")).unwrap();
    assert!(find(&machine.root(), MD, &["/tmp".into()]).is_err());
    fs::remove_file(machine.0.path().join("proc/1/ns/mnt")).unwrap();
    assert!(find(&machine.root(), MD, &["/tmp".into()]).is_err());
}

#[test]
fn units_are_taken_from_either_hierarchy() {
    assert_eq!(unit("0::/system.slice/dbus-broker.service\n").as_deref(), Some("dbus-broker.service"));
    assert_eq!(
        unit("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-abc.scope/init\n").as_deref(),
        Some("cri-containerd-abc.scope")
    );
    assert_eq!(
        unit("4:cpu:/x\n1:name=systemd:/system.slice/sshd.service\n").as_deref(),
        Some("sshd.service")
    );
    assert_eq!(unit("0::/\n"), None);
}
