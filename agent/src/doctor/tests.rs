//! A machine in a directory, for the tests of every check: one on which all is well, and setup has not run.

use std::fs;
use std::os::unix::fs::symlink;

use super::subject::Subject;
use super::*;
use crate::install;
use crate::stand_in;
use crate::state::{Health, State};

#[allow(dead_code)] // much of it is for the tests of the whole agent
#[path = "../../tests/support/mod.rs"]
pub mod support;

use support::{Description, Md, Nvme};

pub struct Machine {
    pub inner: support::Machine,
    pub root: Root,
    pub config: Config,
}

/// The UUID of the filesystem that [`Machine::set_up`] has.
pub const UUID: &str = "3f8b3e9c-6c1a-4d5e-9f20-5a1b2c3d4e5f";
/// What [`Machine::set_up`] mounts.
pub const MOUNT: &str = "90 22 9:0 / /tmp rw,noatime,nosuid,nodev shared:90 - ext4 /dev/md0 rw\n";

impl Machine {
    /// Without a drive.
    pub fn new() -> Machine {
        Machine::of(&Description::default())
    }

    /// With two, and an array of them.
    pub fn with_array() -> Machine {
        let nvme = ["1", "2"].map(drive).to_vec();
        let members = vec!["nvme1n1".into(), "nvme2n1".into()];
        let array = Md {
            name: "md0".into(),
            dev: "9:0".into(),
            level: "raid0".into(),
            state: "clean".into(),
            raid_disks: 2,
            chunk: 524_288,
            bytes: 2 << 30,
            uuid: String::new(),
            members,
        };
        Machine::of(&Description { nvme, array: vec![array], ..Description::default() })
    }

    fn of(description: &Description) -> Machine {
        let inner = support::Machine::build(description);
        let machine = Machine { root: inner.root(), inner, config: Config::default() };
        fs::create_dir_all(machine.root.join("/usr/sbin")).unwrap();
        for program in ["mkfs.ext4", "blkid"] {
            stand_in::program(&machine.root.join("/usr/sbin").join(program), "exit 0");
        }
        machine.write("/proc/sys/kernel/osrelease", "6.12.1");
        machine.write("/proc/filesystems", "nodev\ttmpfs\n\text4");
        machine.write(
            "/usr/lib/modules/6.12.1/modules.dep",
            "kernel/drivers/md/raid0.ko.xz: kernel/x/md-mod.ko.xz",
        );
        machine.write("/etc/fstab", "UUID=1 / xfs defaults 0 1");
        fs::create_dir_all(machine.root.join("/sys/bus/pci/devices")).unwrap();
        machine.mounts("");
        machine
    }

    /// Setup of this boot has made a filesystem on [`Machine::with_array`]'s array and mounted it.
    pub fn set_up() -> Machine {
        let machine = Machine::with_array();
        machine.mounts(MOUNT);
        let mut state = State::new(&machine.root, Health::Ready, "SetupComplete", "");
        state.target = "/tmp".into();
        state.device = "md0".into();
        state.fs_uuid = UUID.into();
        state.filesystem = "ext4".into();
        state.serials = vec!["AWS1".into(), "AWS2".into()];
        state.write(&machine.root).unwrap();
        machine.write(
            "/etc/fstab",
            &format!("UUID=1 / xfs defaults 0 1\nUUID={UUID} /tmp ext4 noatime,nofail,x-nvme-agent 0 0"),
        );
        machine
    }

    /// Adds a drive `nvmeNn1`.
    pub fn drive(&mut self, number: &str) {
        self.inner.nvme(&drive(number));
    }

    pub fn write(&self, path: &str, text: &str) {
        self.inner.file(path, text);
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.root.join(path)).unwrap();
    }

    /// A symbolic link, as it is.
    pub fn link(&self, at: &str, to: &str) {
        let at = self.root.join(at);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&at);
        symlink(to, at).unwrap();
    }

    /// The mount table: the root volume, then these lines.
    pub fn mounts(&self, lines: &str) {
        let root = "22 1 259:90 / / rw,relatime shared:1 - xfs /dev/nvme0n1p1 rw\n";
        self.write("/proc/1/mountinfo", &format!("{root}{lines}"));
    }

    /// What a check says of it, as of a machine that runs.
    pub fn check(&self, check: impl FnOnce(&Subject<'_>) -> Check) -> Check {
        check(&Subject::with(&self.root, &self.config, true, true))
    }

    /// Of the same directory as an image.
    pub fn image(&self, check: impl FnOnce(&Subject<'_>) -> Check) -> Check {
        check(&Subject::with(&self.root, &self.config, false, true))
    }
}

fn drive(number: &str) -> Nvme {
    Nvme {
        name: format!("nvme{number}n1"),
        address: vec![format!("0000:00:1{number}.0")],
        controllers: Vec::new(),
        model: support::EC2.into(),
        serial: format!("AWS{number}"),
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

/// All of them, offline, as of a machine that runs.
fn all(machine: &Machine) -> Report {
    let options =
        Options { config: &machine.config, wrong: None, offline: true, kubeconfig: None, node_name: None };
    checks(&Subject::with(&machine.root, &machine.config, true, true), &options)
}

/// An EKS node with an agent installed.
fn equip(machine: &Machine) {
    machine.write(
        "/etc/systemd/system/nodeadm-run.service",
        "[Service]\nExecStart=/usr/bin/nodeadm init --config-source file:///etc/eks/nodeadm.d/\n",
    );
    for dir in ["/etc/eks/nodeadm.d", "/run", "/var/lib"] {
        fs::create_dir_all(machine.root.join(dir)).unwrap();
    }
    let options =
        install::Options { config: machine.config.clone(), enable: true, binary: "/bin/true".into() };
    install::install(&machine.root, &options).unwrap();
}

#[test]
fn a_node_that_is_in_order_has_nothing_to_do_before_setup_and_after() {
    let fresh = Machine::new();
    equip(&fresh);
    let ready = Machine::set_up();
    equip(&ready);
    ready.link(&format!("/dev/disk/by-uuid/{UUID}"), "../../md0");
    for machine in [fresh, ready] {
        let report = all(&machine);
        let other: Vec<&Check> = report.checks.iter().filter(|check| check.verdict != Verdict::Ok).collect();
        assert!(other.is_empty(), "{other:#?}");
        let text = report.to_string();
        assert!(text.ends_with("\nok: 0 problems, 0 warnings, 0 unknown, 26 ok\n"), "{text}");
        assert!(text.len() <= 2500, "{}: {text}", text.len());
    }
}

#[test]
fn with_nothing_to_be_read_every_check_still_has_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let (root, config) = (Root::new(dir.path()), Config::default());
    let options = Options { config: &config, wrong: None, offline: false, kubeconfig: None, node_name: None };
    for (running, privileged) in [(true, true), (true, false), (false, true)] {
        let report = checks(&Subject::with(&root, &config, running, privileged), &options);
        assert_eq!(report.checks.len(), 27);
        assert!(report.checks.iter().all(|check| !check.found.is_empty()), "{report:#?}");
        assert!(report.unknown >= 7, "{report:#?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "it makes nothing");
}

/// A path of a machine's, and a text that a check has a word about.
const TELLING: [(&str, &str); 12] = [
    ("/etc/fstab", "/dev/x\n"),
    ("/etc/mdadm.conf", "ARRAY /dev/md0 UUID=nonsense\n"),
    ("/etc/tmpfiles.d/x.conf", "e /tmp - - - 1d\n"),
    ("/etc/cron.d/x", "@reboot root mkfs.ext4 /dev/nvme1n1\n"),
    ("/etc/systemd/system/x.service", "[Service]\nExecStart=/usr/bin/setup-local-disks\n"),
    ("/etc/systemd/system/nvme-agent.service", "[Service]\nExecStart=/nowhere\n"),
    ("/etc/systemd/system/nvme-agent.service.d/90-x.conf", "[Unit]\nAfter=local-fs.target\n"),
    (
        "/etc/systemd/system/nodeadm-run.service.d/50-nvme-agent.conf",
        "[Service]\nExecStartPre=/x/nvme-agent gate\n",
    ),
    (
        "/etc/systemd/system/nodeadm-run.service.d/90-x.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/nodeadm init\n",
    ),
    ("/etc/eks/nodeadm.d/10-x.yaml", "nonsense"),
    ("/run/nvme-agent/state.json", "[]"),
    ("/var/lib/nvme-agent/intent.json", "{"),
];

/// What is said of an image with this at `path`; its own file elsewhere goes by that name.
fn words(path: &str, prepare: impl FnOnce(&Machine)) -> Vec<Check> {
    let machine = Machine::new();
    equip(&machine);
    prepare(&machine);
    let options =
        Options { config: &machine.config, wrong: None, offline: true, kubeconfig: None, node_name: None };
    let mut said = checks(&Subject::with(&machine.root, &machine.config, false, true), &options).checks;
    for check in &mut said {
        let place = machine.root.as_path().display().to_string();
        check.found = check.found.replace(&place, "").replace("/elsewhere/file", path);
        // Free space changes by itself.
        if check.name.starts_with("space-") {
            check.found.clear();
        }
    }
    said
}

#[test]
fn an_images_links_lead_to_its_own_files_and_never_to_the_hosts() {
    for (path, text) in TELLING {
        let is_there = words(path, |machine| machine.write(path, text));
        let own = words(path, |machine| {
            machine.write("/elsewhere/file", text);
            machine.link(path, "/elsewhere/file");
        });
        assert_eq!(own, is_there, "{path}");
        let to_nothing = words(path, |machine| machine.link(path, "/elsewhere/file"));
        assert_ne!(own, to_nothing, "{path}: it is read");
        let host = tempfile::tempdir().unwrap();
        let file = host.path().join("file");
        fs::write(&file, text).unwrap();
        let out = words(path, |machine| machine.link(path, file.to_str().unwrap()));
        assert_eq!(out, to_nothing, "{path}");
    }
}

#[test]
fn what_is_on_a_filesystem_that_may_not_answer_is_not_asked_and_is_unknown() {
    let nfs = "40 22 0:40 / /nfs rw - nfs4 server:/ rw\n";
    let unasked = |path: &str| {
        let machine = Machine::new();
        equip(&machine);
        machine.mounts(nfs);
        machine.write("/nfs/file", "nonsense");
        let up = "../".repeat(path.matches('/').count() - 1);
        machine.link(path, &format!("{up}nfs/file"));
        let said = all(&machine).checks.into_iter().filter(|check| check.found.contains("may not answer"));
        said.map(|check| (check.name, check.verdict)).collect::<Vec<_>>()
    };
    for (path, names) in [
        ("/etc/fstab", &["fstab"][..]),
        ("/etc/mdadm.conf", &["mdadm-conf"]),
        ("/etc/tmpfiles.d/x.conf", &["tmpfiles"]),
        ("/etc/systemd/system/nvme-agent.service", &["unit"]),
        ("/etc/eks/nodeadm.d/10-x.yaml", &["nodeadm-storage", "nodeadm-drop-ins"]),
        ("/var/lib/nvme-agent", &["records", "space-var-lib"]),
        ("/var/lib/kubelet", &["other-owners"]),
        ("/var/lib/cloud/instance", &["nodeadm-storage"]),
    ] {
        let unknown: Vec<_> = names.iter().map(|name| ((*name).to_owned(), Verdict::Unknown)).collect();
        assert_eq!(unasked(path), unknown, "{path}");
    }
}

impl Check {
    /// A problem that says all of `words`.
    #[track_caller]
    pub fn is_problem(&self, words: &[&str]) {
        self.is(Verdict::Problem, words);
    }

    /// Of this verdict, and says all of `words` in what was found or is to be done.
    #[track_caller]
    pub fn is(&self, verdict: Verdict, words: &[&str]) {
        assert_eq!(self.verdict, verdict, "{self:?}");
        let said = format!("{} {}", self.found, self.next.clone().unwrap_or_default());
        for word in words {
            assert!(said.contains(word), "no `{word}` in {self:?}");
        }
    }
}
