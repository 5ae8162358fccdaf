//! A VM as scenarios see it: restored in a second or two, drives plugged in and out, scripts, reboots, power cuts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use crate::channel::Output;
use crate::drive::Drive;
use crate::image::Guest;
use crate::lab::{Lab, RunDir};
use crate::machine::{Instance, Machine, Memory, PORTS, Slot, Spec};
use crate::snapshot::{MEMORY_MIB, Snapshot};

mod drives;
mod faults;

/// How long a script may take unless the scenario says otherwise: far above what any should, for a slow host.
pub const SCRIPT_DEADLINE: Duration = Duration::from_secs(120);

/// A script that runs while the scenario goes on; see [`Vm::spawn`].
#[derive(Debug)]
pub struct Running {
    id: u64,
    script: String,
    started: Instant,
}

/// A virtual machine. Ends, with all its files, when dropped.
#[derive(Debug)]
pub struct Vm<'lab> {
    pub(crate) lab: &'lab Lab,
    /// Which guest.
    pub guest: Guest,
    pub(crate) snapshot: Snapshot,
    pub(crate) machine: Option<Machine>,
    /// All drives that were ever plugged in, by index.
    pub drives: Vec<Drive>,
    /// What the firmware says from the next cold boot on.
    pub instance: Instance,
    /// More for the kernel command line of the next cold boot.
    pub append: String,
    /// More QEMU arguments for the next cold boot (network).
    pub extra: Vec<String>,
    /// Root port of each plugged drive, by drive index.
    pub(crate) ports: BTreeMap<usize, usize>,
    pub(crate) root_port: usize,
    pub(crate) port_count: usize,
    pub(crate) serial_number: usize,
    /// Bytes that the console had before the last cold boot.
    pub(crate) printed: usize,
    pub(crate) dir: RunDir,
    logs: PathBuf,
    log: File,
}

impl<'lab> Vm<'lab> {
    /// A guest that has just booted, with no drives. Logs (`commands.log`, `console.log`) go to `logs`.
    pub fn restore(lab: &'lab Lab, guest: Guest, logs: &Path) -> Result<Vm<'lab>> {
        let snapshot = Snapshot::get(lab, guest)?;
        let mut vm = Vm::new(lab, guest, snapshot, logs)?;
        let started = Instant::now();
        let (kernel, root) = (vm.snapshot.kernel(), vm.root());
        let (memory, console) = (Memory::Restore(vm.snapshot.memory()), vm.logs.join("console.log"));
        let spec = Spec {
            memory_mib: MEMORY_MIB,
            memory,
            kernel: &kernel,
            append: "",
            root: &root,
            slots: &[Slot::Root],
            ports: PORTS,
            instance: &vm.instance,
            extra: &[],
        };
        let mut machine = Machine::start(&lab.qemu, &spec, vm.dir.path(), &console)?;
        machine.restore(&vm.snapshot.state()).with_context(|| machine.complaints())?;
        machine.channel.ready(Duration::from_secs(60))?;
        machine.channel.stir()?;
        vm.machine = Some(machine);
        vm.note(&format!("restored {} in {:.2} s", guest.name(), started.elapsed().as_secs_f64()));
        Ok(vm)
    }

    pub(crate) fn new(lab: &'lab Lab, guest: Guest, snapshot: Snapshot, logs: &Path) -> Result<Vm<'lab>> {
        fs::create_dir_all(logs).with_context(|| format!("create {}", logs.display()))?;
        let log = OpenOptions::new().create(true).append(true).open(logs.join("commands.log"));
        let log = log.with_context(|| format!("open commands.log in {}", logs.display()))?;
        let dir = lab.run_dir()?;
        snapshot.overlay(lab, &dir.path().join("root.qcow2"))?;
        Ok(Vm {
            lab,
            guest,
            snapshot,
            machine: None,
            drives: Vec::new(),
            instance: Instance::default(),
            append: String::new(),
            extra: Vec::new(),
            ports: BTreeMap::new(),
            root_port: 0,
            port_count: PORTS,
            serial_number: 0,
            printed: 0,
            dir,
            logs: logs.to_owned(),
            log,
        })
    }

    /// Runs a bash script and returns whatever comes of it. An error only if there is no end within [`SCRIPT_DEADLINE`].
    pub fn sh(&mut self, script: &str) -> Result<Output> {
        self.sh_within(SCRIPT_DEADLINE, script)
    }

    /// The same with a deadline of its own.
    pub fn sh_within(&mut self, deadline: Duration, script: &str) -> Result<Output> {
        let running = self.start(script, "")?;
        self.wait_within(deadline, running)
    }

    /// Runs a script under `set -e -o pipefail` that must succeed; returns its standard output, trimmed at the end.
    pub fn ok(&mut self, script: &str) -> Result<String> {
        let running = self.start(script, "-e,-o,pipefail")?;
        let output = self.wait(running)?;
        if output.rc != 0 {
            bail!(
                "exit code {} from\n{}\n--- out\n{}--- err\n{}",
                output.rc,
                script.trim(),
                output.out,
                output.err
            );
        }
        Ok(output.out.trim_end().to_owned())
    }

    /// Runs a script that must fail with this exit code; returns its output.
    pub fn fails(&mut self, rc: i32, script: &str) -> Result<Output> {
        let output = self.sh(script)?;
        if output.rc != rc {
            bail!(
                "exit code {}, expected {rc}, from\n{}\n--- out\n{}--- err\n{}",
                output.rc,
                script.trim(),
                output.out,
                output.err
            );
        }
        Ok(output)
    }

    /// Starts a script and goes on at once; others may run meanwhile.
    pub fn spawn(&mut self, script: &str) -> Result<Running> {
        self.start(script, "")
    }

    /// Waits for a started script.
    pub fn wait(&mut self, running: Running) -> Result<Output> {
        self.wait_within(SCRIPT_DEADLINE, running)
    }

    /// The same with a deadline of its own.
    pub fn wait_within(&mut self, deadline: Duration, running: Running) -> Result<Output> {
        let result = self.machine()?.channel.wait(running.id, deadline);
        let took = running.started.elapsed().as_secs_f64();
        match &result {
            Ok(output) => {
                let text = format!(
                    "$ {}\n[{took:.2} s, exit {}]\n{}{}",
                    running.script.trim(),
                    output.rc,
                    output.out,
                    output.err
                );
                self.note(&text);
            }
            Err(error) => self.note(&format!("$ {}\n[{took:.2} s] {error:#}", running.script.trim())),
        }
        result.with_context(|| format!("in the guest: {}", running.script.trim()))
    }

    fn start(&mut self, script: &str, options: &str) -> Result<Running> {
        let id = self.machine()?.channel.start(script, options)?;
        Ok(Running { id, script: script.to_owned(), started: Instant::now() })
    }

    /// Copies a file of the host into the guest, executable.
    pub fn push(&mut self, from: &Path, to: &str) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.write(to, 0o755, &bytes)
    }

    /// Writes a file in the guest, creating its directories.
    pub fn write(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let started = Instant::now();
        self.machine()?.channel.put(path, mode, bytes)?;
        self.note(&format!(
            "wrote {path}, {} bytes, in {:.2} s",
            bytes.len(),
            started.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// The kernel's log of this boot.
    pub fn kernel_log(&mut self) -> Result<String> {
        self.ok("dmesg")
    }

    /// Puts a line into the VM's log.
    pub fn note(&mut self, text: &str) {
        let mut entry = String::new();
        let _ = writeln!(entry, "{}", text.trim_end());
        let _ = self.log.write_all(entry.as_bytes());
    }

    /// What helps to understand a failure, into the log directory: journal, kernel log, state of things. Never fails.
    pub fn autopsy(&mut self) {
        let script = "journalctl -b --no-pager -o short-monotonic | tail -n 3000; echo; systemctl list-jobs --no-pager; \
                      systemctl --failed --no-pager; cat /proc/self/mountinfo /proc/mdstat /etc/fstab; lsblk -o +FSTYPE,UUID,SERIAL,MODEL";
        let Ok(machine) = self.machine() else { return };
        let complaints = machine.complaints();
        let id = machine.channel.start(script, "");
        let text = match id.and_then(|id| machine.channel.wait(id, Duration::from_secs(40))) {
            Ok(output) => output.out + &output.err,
            Err(error) => format!("{error:#}"),
        };
        let _ = fs::write(self.logs.join("autopsy.log"), format!("{text}\nQEMU: {complaints}\n"));
    }

    /// Where this VM's logs are.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.dir.path().join("root.qcow2")
    }

    pub(crate) fn machine(&mut self) -> Result<&mut Machine> {
        self.machine.as_mut().context("the VM is off")
    }
}
