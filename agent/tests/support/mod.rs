//! Builds the whole-root tree of a machine (sysfs, proc, etc, dev) from a short description in
//! `tests/fixtures/NAME.toml`, with the symlinks that sysfs has. Devices are sparse files of the true size.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use nvme_agent::root::Root;
use serde::Deserialize;

pub const EC2: &str = "Amazon EC2 NVMe Instance Storage";

/// A machine, as a fixture file describes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Description {
    pub instance_id: String,
    /// mountinfo of PID 1.
    pub mounts: String,
    pub swaps: Option<String>,
    pub nvme: Vec<Nvme>,
    pub array: Vec<Md>,
    /// Further PCI functions, as `address = "class vendor driver"`.
    pub pci: std::collections::BTreeMap<String, String>,
    /// Further files, by path.
    pub files: std::collections::BTreeMap<String, String>,
}

/// One NVMe namespace and its controllers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nvme {
    pub name: String,
    /// PCI addresses of its controllers: one, or with multipath several.
    pub address: Vec<String>,
    /// Names of its controllers; from the namespace's where there is one.
    #[serde(default)]
    pub controllers: Vec<String>,
    pub model: String,
    pub serial: String,
    pub bytes: u64,
    /// Through a subsystem, with hidden paths.
    #[serde(default)]
    pub multipath: bool,
    #[serde(default = "pcie")]
    pub transport: String,
    #[serde(default = "amazon")]
    pub vendor: String,
    #[serde(default = "live")]
    pub state: String,
    #[serde(default)]
    pub partitions: u32,
    #[serde(default)]
    pub holders: Vec<String>,
    #[serde(default)]
    pub ro: bool,
}

fn pcie() -> String {
    "pcie".into()
}

fn amazon() -> String {
    "0x1d0f".into()
}

fn live() -> String {
    "live".into()
}

/// One md array.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Md {
    pub name: String,
    pub dev: String,
    #[serde(default)]
    pub level: String,
    pub state: String,
    pub raid_disks: u32,
    #[serde(default)]
    pub chunk: u64,
    #[serde(default)]
    pub bytes: u64,
    /// Empty: a kernel that does not say it.
    #[serde(default)]
    pub uuid: String,
    /// By slot.
    pub members: Vec<String>,
}

/// A machine that has been built.
pub struct Machine {
    dir: tempfile::TempDir,
    minor: u32,
}

impl Machine {
    /// The machine of `tests/fixtures/NAME.toml`.
    pub fn fixture(name: &str) -> Machine {
        Machine::build(&Machine::describe(name))
    }

    pub fn describe(name: &str) -> Description {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{name}.toml"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub fn build(description: &Description) -> Machine {
        let mut machine = Machine { dir: tempfile::tempdir().unwrap(), minor: 0 };
        machine.file("/sys/class/dmi/id/board_asset_tag", &description.instance_id);
        machine.file("/proc/1/mountinfo", &description.mounts);
        machine.file("/proc/sys/kernel/random/boot_id", "8d5a2a4e-0000-4000-8000-000000000001");
        machine.file("/proc/sys/kernel/osrelease", "6.12.48-fixture");
        fs::create_dir_all(machine.path("/sys/block")).unwrap();
        fs::create_dir_all(machine.path("/tmp")).unwrap();
        fs::set_permissions(machine.path("/tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777))
            .unwrap();
        if let Some(swaps) = &description.swaps {
            machine.file("/proc/swaps", swaps);
        }
        for (address, text) in &description.pci {
            let words: Vec<&str> = text.split(' ').collect();
            machine.pci(address, words[0], words[1], words.get(2).copied().unwrap_or_default());
        }
        for nvme in &description.nvme {
            machine.nvme(nvme);
        }
        for array in &description.array {
            machine.md(array);
        }
        for (path, text) in &description.files {
            machine.file(path, text);
        }
        machine
    }

    pub fn root(&self) -> Root {
        Root::new(self.dir.path())
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// A file; in sysfs and proc with the newline that attributes have.
    pub fn file(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let newline = if text.ends_with('\n') { "" } else { "\n" };
        fs::write(&path, format!("{text}{newline}")).unwrap();
    }

    /// A symlink within the tree, relative as in sysfs.
    pub fn link(&self, at: &str, to: &str) {
        let depth = at.matches('/').count() - 1;
        let target = format!("{}{}", "../".repeat(depth), to.trim_start_matches('/'));
        let at = self.path(at);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(target, at).unwrap();
    }

    /// Bytes on a device.
    pub fn put(&self, device: &str, offset: u64, bytes: &[u8]) {
        let file = fs::File::options().write(true).open(self.path(device)).unwrap();
        file.write_all_at(bytes, offset).unwrap();
    }

    fn pci(&self, address: &str, class: &str, vendor: &str, driver: &str) -> String {
        let dir = format!("/sys/devices/pci0000:00/{address}");
        self.file(&format!("{dir}/class"), class);
        self.file(&format!("{dir}/vendor"), vendor);
        self.link(&format!("/sys/bus/pci/devices/{address}"), &dir);
        if !driver.is_empty() {
            fs::create_dir_all(self.path(&format!("/sys/bus/pci/drivers/{driver}"))).unwrap();
            self.link(&format!("{dir}/driver"), &format!("/sys/bus/pci/drivers/{driver}"));
        }
        dir
    }

    /// Adds a namespace with its controllers.
    pub fn nvme(&mut self, nvme: &Nvme) {
        let head = nvme.name.rsplit_once('n').unwrap().0;
        let controllers =
            if nvme.controllers.is_empty() { vec![head.to_owned()] } else { nvme.controllers.clone() };
        let subsystem =
            format!("/sys/devices/virtual/nvme-subsystem/nvme-subsys{}", head.trim_start_matches("nvme"));
        let mut dirs = Vec::new();
        for (controller, address) in controllers.iter().zip(&nvme.address) {
            let dir = if nvme.transport == "pcie" {
                let function = self.pci(address, "0x010802", &nvme.vendor, "nvme");
                let dir = format!("{function}/nvme/{controller}");
                self.link(&format!("{dir}/device"), &function);
                dir
            } else {
                format!("/sys/devices/virtual/nvme-fabrics/ctl/{controller}")
            };
            self.file(&format!("{dir}/model"), &format!("{:40}", nvme.model));
            self.file(&format!("{dir}/serial"), &format!("{:20}", nvme.serial));
            self.file(&format!("{dir}/firmware_rev"), "1.0     ");
            self.file(&format!("{dir}/state"), &nvme.state);
            self.file(&format!("{dir}/transport"), &nvme.transport);
            self.link(&format!("/sys/class/nvme/{controller}"), &dir);
            if nvme.multipath {
                self.link(&format!("{subsystem}/{controller}"), &dir);
                let number = controller.trim_start_matches("nvme");
                let hidden = nvme.name.replacen(head, &format!("{head}c{number}"), 1);
                self.disk(&format!("{dir}/{hidden}"), nvme.bytes, false);
                self.file(&format!("{dir}/{hidden}/hidden"), "1");
                self.link(&format!("{dir}/{hidden}/device"), &dir);
            }
            dirs.push(dir);
        }
        let parent = if nvme.multipath { subsystem } else { dirs[0].clone() };
        let dir = format!("{parent}/{}", nvme.name);
        self.disk(&dir, nvme.bytes, nvme.ro);
        self.link(&format!("{dir}/device"), &parent);
        for holder in &nvme.holders {
            self.file(&format!("{dir}/holders/{holder}/dev"), "0:0");
        }
        for index in 1..=nvme.partitions {
            let partition = format!("{dir}/{}p{index}", nvme.name);
            self.block(&partition, 1 << 30, false);
            self.file(&format!("{partition}/partition"), &index.to_string());
        }
        let file = self.path(&format!("/dev/{}", nvme.name));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::File::create(file).unwrap().set_len(nvme.bytes).unwrap();
    }

    fn disk(&mut self, dir: &str, bytes: u64, ro: bool) {
        self.block(dir, bytes, ro);
        self.file(&format!("{dir}/hidden"), "0");
        self.file(&format!("{dir}/queue/logical_block_size"), "512");
        let name = dir.rsplit('/').next().unwrap();
        self.link(&format!("/sys/block/{name}"), dir);
    }

    fn block(&mut self, dir: &str, bytes: u64, ro: bool) {
        let name = dir.rsplit('/').next().unwrap();
        let dev = format!("259:{}", self.minor);
        self.minor += 1;
        self.numbered(dir, name, &dev, bytes, ro);
    }

    fn numbered(&self, dir: &str, name: &str, dev: &str, bytes: u64, ro: bool) {
        self.file(&format!("{dir}/dev"), dev);
        self.file(&format!("{dir}/size"), &(bytes / 512).to_string());
        self.file(&format!("{dir}/ro"), if ro { "1" } else { "0" });
        for list in ["holders", "slaves"] {
            fs::create_dir_all(self.path(&format!("{dir}/{list}"))).unwrap();
        }
        self.link(&format!("/sys/class/block/{name}"), dir);
        self.link(&format!("/sys/dev/block/{dev}"), dir);
    }

    /// Adds a device that stands on others: dm, or the frame of an md array.
    pub fn stacked(&self, name: &str, dev: &str, bytes: u64, slaves: &[&str]) -> String {
        let dir = format!("/sys/devices/virtual/block/{name}");
        self.numbered(&dir, name, dev, bytes, false);
        self.link(&format!("/sys/block/{name}"), &dir);
        for slave in slaves {
            let below = fs::canonicalize(self.path(&format!("/sys/class/block/{slave}"))).unwrap();
            let root = fs::canonicalize(self.dir.path()).unwrap();
            let below = format!("/{}", below.strip_prefix(root).unwrap().display());
            self.link(&format!("{dir}/slaves/{slave}"), &below);
            self.link(&format!("{below}/holders/{name}"), &dir);
        }
        dir
    }

    fn md(&self, md: &Md) {
        let slaves: Vec<&str> = md.members.iter().map(String::as_str).collect();
        let dir = self.stacked(&md.name, &md.dev, md.bytes, &slaves);
        self.file(&format!("{dir}/md/level"), &md.level);
        self.file(&format!("{dir}/md/array_state"), &md.state);
        self.file(&format!("{dir}/md/raid_disks"), &md.raid_disks.to_string());
        self.file(&format!("{dir}/md/chunk_size"), &md.chunk.to_string());
        if !md.uuid.is_empty() {
            self.file(&format!("{dir}/md/uuid"), &md.uuid);
        }
        for (slot, member) in md.members.iter().enumerate() {
            let slot = if md.state == "inactive" { "none".to_owned() } else { slot.to_string() };
            self.file(&format!("{dir}/md/dev-{member}/slot"), &slot);
            self.file(&format!("{dir}/md/dev-{member}/state"), "in_sync");
        }
        if md.bytes > 0 {
            fs::File::create(self.path(&format!("/dev/{}", md.name))).unwrap().set_len(md.bytes).unwrap();
        }
    }
}
