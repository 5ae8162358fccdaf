//! Cold boots of a [`Vm`]: orderly and otherwise, with drives in another order, blank or kept.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::machine::{Machine, Memory, PORTS, Slot, Spec};
use crate::snapshot::MEMORY_MIB;
use crate::vm::Vm;

/// How long a boot may take until nothing is left to be started: jobs that hang for 90 s are a result, not an error.
const BOOT_DEADLINE: Duration = Duration::from_secs(240);

/// The position of the root volume in an order of [`Boot`].
pub const ROOT: usize = usize::MAX;

/// A boot without systemd and udev: the kernel, and bash as its first process, which mounts what the agent cannot do without
/// and becomes the lab's channel. No `=` in it, which the kernel would take for the end of a parameter's name.
const MINI: &str = "init=/bin/bash -- -c \"mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; \
    mount -t tmpfs run /run; mount -t tmpfs tmp /tmp; mount -o remount,rw /; exec perl /usr/lib/lab/channel.pl\"";

/// What the drives hold at the next boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlankDrives {
    /// What they held: a reboot.
    Keep,
    /// Nothing: an instance's stop and start.
    Blank,
    /// Nothing, and they are other drives, with other serials: a start on another host.
    Replaced,
}

/// How a boot went.
#[derive(Debug, Clone)]
pub struct Boot {
    /// `systemctl is-system-running`: `running`, `degraded`, `maintenance` (emergency mode), `starting` if it never ended.
    pub state: String,
    /// Failed units.
    pub failed: Vec<String>,
    /// `systemctl list-jobs`, where the boot did not end.
    pub jobs: String,
    /// Seconds from the kernel's start until default.target was reached (systemd-analyze).
    pub seconds: Option<f64>,
    /// Seconds of the host's clock from QEMU's start to the end of the boot.
    pub wall: f64,
}

impl Boot {
    /// An error unless the system runs and no unit failed.
    pub fn clean(&self) -> Result<()> {
        anyhow::ensure!(self.state == "running" && self.failed.is_empty(), "not a clean boot: {self:?}");
        Ok(())
    }
}

impl Vm<'_> {
    /// Orderly power-off, then a cold boot of the same root disk with these drives in this PCI order; [`ROOT`] in the
    /// order is the root volume (first where it is not named). Drives left out are absent.
    ///
    /// The kernel probes drives in parallel, so that order alone decides no NVMe number. Where [`ROOT`] is not the first they
    /// are made to follow it exactly: each is plugged in when the one before it has its number, the root volume too,
    /// which the kernel waits for; those after it come within the second in which systemd starts.
    pub fn boot_again(&mut self, order: &[usize], drives: BlankDrives) -> Result<Boot> {
        self.power_off()?;
        self.power_on(order, drives)
    }

    /// Switches the guest off through systemd and waits for it.
    pub fn power_off(&mut self) -> Result<()> {
        if self.machine.is_some() {
            let started = Instant::now();
            let machine = self.machine()?;
            machine.channel.start("systemctl poweroff", "")?;
            machine.ended(Duration::from_secs(150)).context("orderly power-off")?;
            self.note(&format!("powered off in {:.1} s", started.elapsed().as_secs_f64()));
        }
        self.gone();
        Ok(())
    }

    /// Cuts the power (kill -9 of QEMU). What the guest had written but not synced may be lost from its root disk.
    pub fn crash(&mut self) -> Result<()> {
        self.machine()?.kill()?;
        self.note("power cut");
        self.gone();
        Ok(())
    }

    /// Boots a VM that is off, and waits for the end of the boot.
    pub fn power_on(&mut self, order: &[usize], drives: BlankDrives) -> Result<Boot> {
        let started = Instant::now();
        self.power_on_without_waiting(order, drives)?;
        self.booted(started)
    }

    /// Boots a VM that is off without systemd and udev, in a fifth of the time: same kernel, same root disk, /proc, /sys, /dev,
    /// and a tmpfs on /run and /tmp. Nothing is started, nothing is assembled, nothing is mounted by fstab. The drives
    /// keep what they hold. Returns the seconds that it took. Only [`Vm::crash`] ends it.
    pub fn power_on_mini(&mut self, order: &[usize]) -> Result<f64> {
        let started = Instant::now();
        let append = format!("{} {MINI}", self.append);
        let usual = std::mem::replace(&mut self.append, append);
        let result = self.power_on_without_waiting(order, BlankDrives::Keep);
        self.append = usual;
        result?;
        let wall = started.elapsed().as_secs_f64();
        self.note(&format!("booted without systemd in {wall:.1} s"));
        Ok(wall)
    }

    /// Boots a VM that is off; returns as soon as scripts can be run, early in the boot.
    pub fn power_on_without_waiting(&mut self, order: &[usize], drives: BlankDrives) -> Result<()> {
        let mut order = order.to_vec();
        if !order.contains(&ROOT) {
            order.insert(0, ROOT);
        }
        for (port, &index) in order.iter().enumerate() {
            if index == ROOT {
                self.root_port = port;
                continue;
            }
            self.serial_number += 1;
            let number = self.serial_number;
            let drive = self.drives.get_mut(index).with_context(|| format!("no drive {index}"))?;
            drive.plugged = true;
            drive.number = number;
            if drives != BlankDrives::Keep {
                drive.blank()?;
            }
            if drives == BlankDrives::Replaced {
                drive.serial = other_serial(&drive.serial);
            }
            self.ports.insert(index, port);
        }
        let slots: Vec<Slot> = order
            .iter()
            .map(|&index| match self.drives.get(index) {
                Some(drive) => Slot::Drive(drive, drive.number),
                None => Slot::Root,
            })
            .collect();
        // Each port costs the boot some uevents: a few to spare for drives that come later.
        let ports = PORTS.min(slots.len() + 4);
        let cold = if order.first() == Some(&ROOT) { slots.len() } else { 1 };
        let (kernel, root) = (self.snapshot.kernel(), self.root());
        let spec = Spec {
            memory_mib: MEMORY_MIB,
            memory: Memory::Plain,
            kernel: &kernel,
            append: &self.append,
            root: &root,
            slots: &slots[..cold],
            ports,
            instance: &self.instance,
            extra: &self.extra,
        };
        let console = self.logs().join("console.log");
        self.printed = std::fs::metadata(&console).map_or(0, |meta| meta.len() as usize);
        let mut machine = Machine::start(&self.lab.qemu, &spec, self.dir.path(), &console)?;
        for (port, slot) in slots.iter().enumerate().skip(cold) {
            wait_for_number(&console, self.printed, port - 1)?;
            machine.plug(port, slot, &root)?;
        }
        self.machine = Some(machine);
        self.port_count = ports;
        self.machine()?
            .channel
            .ready(Duration::from_secs(120))
            .context("the guest does not get as far as its command channel")
    }

    pub(crate) fn booted(&mut self, started: Instant) -> Result<Boot> {
        let script = format!("timeout {} systemctl is-system-running --wait", BOOT_DEADLINE.as_secs());
        let state = self.sh_within(BOOT_DEADLINE + Duration::from_secs(30), &script)?;
        let state = state.out.lines().last().unwrap_or("starting").trim().to_owned();
        let wall = started.elapsed().as_secs_f64();
        let failed = self.ok("systemctl --failed --no-legend --plain | cut -d' ' -f1")?;
        let jobs =
            if state == "starting" { self.ok("systemctl list-jobs --no-legend")? } else { String::new() };
        let times =
            self.ok("systemctl show --property=ActiveEnterTimestampMonotonic --value default.target")?;
        let microseconds = times.trim().parse::<u64>().ok().filter(|time| *time > 0);
        let boot = Boot {
            state,
            failed: failed.lines().map(str::to_owned).collect(),
            jobs,
            seconds: microseconds.map(|time| time as f64 / 1e6),
            wall,
        };
        self.note(&format!("booted: {boot:?}"));
        Ok(boot)
    }

    fn gone(&mut self) {
        self.machine = None;
        self.ports.clear();
        for drive in &mut self.drives {
            drive.plugged = false;
        }
    }

    /// What the console has had since the last cold boot: what `aws ec2 get-console-output` would print.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.logs().join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.printed..).unwrap_or_default()).into_owned()
    }

    /// QEMU's own view, for debugging (`info pci` and the like).
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        let answer = self.machine()?.qmp.call("human-monitor-command", json!({ "command-line": command }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }
}

/// A serial as of another drive of the same kind: the digit before the last four counts up.
fn other_serial(serial: &str) -> String {
    let at = serial.len().saturating_sub(5);
    serial
        .char_indices()
        .map(|(index, c)| match c.to_digit(16) {
            Some(digit) if index == at => {
                char::from_digit((digit + 1) % 16, 16).unwrap_or(c).to_ascii_uppercase()
            }
            _ => c,
        })
        .collect()
}

/// Waits until the console, from this byte on, shows that NVMe controller `number` has been found.
fn wait_for_number(console: &Path, from: usize, number: usize) -> Result<()> {
    let line = format!("nvme nvme{number}: pci function");
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        let bytes = std::fs::read(console).with_context(|| format!("read {}", console.display()))?;
        let new = bytes.get(from..).unwrap_or_default();
        if String::from_utf8_lossy(new).contains(&line) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < end, "the console does not show {line:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::other_serial;

    #[test]
    fn another_drive_has_another_serial() {
        assert_eq!(other_serial("AWS00002200000000001"), "AWS00002200000010001");
        assert_eq!(other_serial("AWS000022000000F0001"), "AWS00002200000000001");
        assert_eq!(other_serial("x"), "x");
    }
}
