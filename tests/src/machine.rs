//! One QEMU process: its command line, its control socket, its command channel.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::channel::{self, Channel};
use crate::drive::{Drive, EBS};
use crate::image::ROOT_PARTUUID;
use crate::qemu::Qemu;
use crate::qmp::Qmp;

/// Root ports of a machine that may be plugged into: the root volume and up to 31 drives.
pub const PORTS: usize = 32;

/// Where the guest's memory lies.
#[derive(Debug, Clone)]
pub enum Memory {
    /// Ordinary.
    Plain,
    /// In this file, shared, so that the file is the memory's saved state.
    Save(PathBuf),
    /// A private view of such a file: pages are copied only when they are written to, and VMs share the rest.
    Restore(PathBuf),
}

/// What sits on the root ports, in PCI order.
#[derive(Debug, Clone, Copy)]
pub enum Slot<'a> {
    /// The root volume.
    Root,
    /// A drive; its block node and device are named by the number.
    Drive(&'a Drive, usize),
}

/// What the firmware says about the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// `/sys/class/dmi/id/board_asset_tag` on EC2.
    pub id: String,
    /// `product_name`.
    pub kind: String,
}

impl Default for Instance {
    fn default() -> Self {
        Instance { id: "i-0123456789abcdef0".into(), kind: "m6id.8xlarge".into() }
    }
}

impl Instance {
    /// The system UUID, of each instance its own, which begins with `ec2`. A guest without a machine id makes its own of it.
    fn uuid(&self) -> String {
        let digest = crate::cache::digest(self.id.as_bytes());
        let part = |from: usize, to: usize| digest.get(from..to).unwrap_or_default();
        format!("ec2{}-{}-4{}-a{}-{}", part(0, 5), part(5, 9), part(9, 12), part(12, 15), part(15, 27))
    }
}

/// Everything that decides a machine.
#[derive(Debug)]
pub struct Spec<'a> {
    /// Guest memory.
    pub memory_mib: u32,
    /// Where it lies.
    pub memory: Memory,
    /// Uncompressed kernel.
    pub kernel: &'a Path,
    /// More for the kernel command line.
    pub append: &'a str,
    /// qcow2 overlay of the root disk.
    pub root: &'a Path,
    /// Root ports in use, in PCI order.
    pub slots: &'a [Slot<'a>],
    /// Root ports altogether.
    pub ports: usize,
    /// What the firmware says.
    pub instance: &'a Instance,
    /// Further QEMU arguments (network).
    pub extra: &'a [String],
}

/// A QEMU that runs. Killed when dropped.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    dir: PathBuf,
    /// Control.
    pub qmp: Qmp,
    /// Commands in the guest.
    pub channel: Channel,
}

impl Machine {
    /// Starts QEMU in `dir` (sockets), with the guest's console appended to `console`. With [`Memory::Restore`] it
    /// waits for [`Machine::restore`].
    pub fn start(qemu: &Qemu, spec: &Spec, dir: &Path, console: &Path) -> Result<Machine> {
        for socket in ["qmp", "lab"] {
            let _ = fs::remove_file(dir.join(socket));
        }
        let errors = dir.join("qemu.err");
        let mut child = qemu
            .command()
            .args(arguments(spec, dir, console))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&errors).with_context(|| format!("create {}", errors.display()))?)
            .spawn()
            .context("start QEMU")?;
        let deadline = Duration::from_secs(60);
        let connected = Qmp::connect(&dir.join("qmp"), deadline)
            .and_then(|qmp| Ok((qmp, channel::connect(&dir.join("lab"), deadline)?)));
        match connected {
            Ok((qmp, channel)) => Ok(Machine { child, dir: dir.to_owned(), qmp, channel }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context(format!("QEMU says: {}", fs::read_to_string(&errors).unwrap_or_default())))
            }
        }
    }

    /// Saves the state beside memory ([`Memory::Save`]) and leaves the machine stopped.
    pub fn save(&mut self, state: &Path) -> Result<()> {
        self.qmp.call("stop", json!({}))?;
        self.leave_memory()?;
        self.qmp.call("migrate", json!({ "uri": format!("file:{}", state.display()) }))?;
        self.qmp.migrated(Duration::from_secs(120)).context("save the machine")
    }

    /// Takes over a saved state and goes on.
    pub fn restore(&mut self, state: &Path) -> Result<()> {
        self.leave_memory()?;
        self.qmp.call("migrate-incoming", json!({ "uri": format!("file:{}", state.display()) }))?;
        self.qmp.migrated(Duration::from_secs(60)).context("restore the machine")?;
        self.qmp.call("cont", json!({})).map(drop)
    }

    fn leave_memory(&mut self) -> Result<()> {
        let capabilities = json!([{ "capability": "x-ignore-shared", "state": true }]);
        self.qmp.call("migrate-set-capabilities", json!({ "capabilities": capabilities })).map(drop)
    }

    /// Plugs something into a root port of a machine that runs.
    pub fn plug(&mut self, port: usize, slot: &Slot, root: &Path) -> Result<()> {
        let (block, device) = slot_objects(slot, root, &format!("p{port}"));
        self.qmp.call("blockdev-add", block)?;
        self.qmp.call("device_add", device).map(drop)
    }

    /// Waits until QEMU has ended by itself.
    pub fn ended(&mut self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        while self.child.try_wait().context("wait for QEMU")?.is_none() {
            if Instant::now() > end {
                bail!("the VM has not gone off within {} s", deadline.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends it at once: a power cut, as far as the guest can tell (the host keeps what was written to it).
    pub fn kill(&mut self) -> Result<()> {
        // An error means that it has ended already.
        let _ = self.child.kill();
        self.child.wait().context("wait for QEMU")?;
        Ok(())
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What QEMU itself complained about.
    pub fn complaints(&self) -> String {
        fs::read_to_string(self.dir.join("qemu.err")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// A slot's block node and device, in the form that both the command line and QMP take.
fn slot_objects(slot: &Slot, root: &Path, bus: &str) -> (Value, Value) {
    match slot {
        Slot::Root => {
            let file = json!({ "driver": "file", "filename": root, "locking": "off" });
            let block = json!({ "driver": "qcow2", "node-name": "root", "discard": "unmap", "file": file });
            let device = json!({ "driver": "nvme", "id": "nroot", "drive": "root", "bus": bus, "model": EBS,
                                 "serial": "vol0a1b2c3d4e5f60718" });
            (block, device)
        }
        Slot::Drive(drive, number) => {
            let node = format!("f{number}");
            (drive.block_node(&node), drive.device(&node, &format!("n{number}"), bus))
        }
    }
}

fn arguments(spec: &Spec, dir: &Path, console: &Path) -> Vec<OsString> {
    let mut list: Vec<OsString> = Vec::new();
    let mut add = |option: &str, value: String| list.extend([option.into(), value.into()]);
    let size = format!("{}M", spec.memory_mib);
    add(
        "-machine",
        "q35,memory-backend=ram,vmport=off,usb=off,sata=off,smbus=off,dump-guest-core=off".into(),
    );
    add("-accel", "tcg,thread=multi".into());
    add("-cpu", "Haswell-noTSX".into());
    add("-smp", "2".into());
    add("-m", size.clone());
    add(
        "-object",
        match &spec.memory {
            Memory::Plain => format!("memory-backend-ram,id=ram,size={size}"),
            Memory::Save(path) => {
                format!("memory-backend-file,id=ram,size={size},share=on,mem-path={}", path.display())
            }
            Memory::Restore(path) => {
                format!(
                    "memory-backend-file,id=ram,size={size},share=off,readonly=on,rom=off,mem-path={}",
                    path.display()
                )
            }
        },
    );
    if matches!(spec.memory, Memory::Restore(_)) {
        add("-incoming", "defer".into());
    }
    for option in ["-nodefaults", "-no-user-config", "-no-reboot"] {
        add(option, String::new());
    }
    add("-display", "none".into());
    add("-chardev", format!("socket,id=qmp,path={},server=on,wait=off", dir.join("qmp").display()));
    add("-mon", "chardev=qmp,mode=control".into());
    add("-chardev", format!("file,id=console,append=on,path={}", console.display()));
    add("-serial", "chardev:console".into());
    add("-device", "virtio-serial-pci,addr=0x2".into());
    add("-chardev", format!("socket,id=lab,path={},server=on,wait=off", dir.join("lab").display()));
    add("-device", "virtserialport,chardev=lab,name=lab".into());
    add(
        "-smbios",
        format!(
            "type=1,manufacturer=Amazon EC2,product={},uuid={}",
            spec.instance.kind,
            spec.instance.uuid()
        ),
    );
    add("-smbios", format!("type=2,manufacturer=Amazon EC2,asset={}", spec.instance.id));
    add("-kernel", spec.kernel.display().to_string());
    add(
        "-append",
        format!(
            "root=PARTUUID={ROOT_PARTUUID} ro rootwait console=ttyS0 net.ifnames=0 8250.nr_uarts=1 pcie_ports=compat mitigations=off cryptomgr.notests \
         tsc=reliable no_timer_check audit=0 panic=1 systemd.getty_auto=no systemd.show_status=1 {}",
            spec.append
        ),
    );
    for port in 0..spec.ports {
        // Eight functions a slot; the first declares them. No I/O space: there is not enough, and NVMe wants none.
        let (slot, function) = (4 + port / 8, port % 8);
        let many = if function == 0 { ",multifunction=on" } else { "" };
        add(
            "-device",
            format!(
                "pcie-root-port,id=p{port},chassis={},addr={slot:#x}.{function}{many},io-reserve=0",
                port + 1
            ),
        );
    }
    for (port, slot) in spec.slots.iter().enumerate() {
        let bus = format!("p{port}");
        let (block, device) = slot_objects(slot, spec.root, &bus);
        add("-blockdev", block.to_string());
        add("-device", device.to_string());
    }
    list.extend(spec.extra.iter().map(OsString::from));
    list.retain(|argument| !argument.is_empty());
    list
}
