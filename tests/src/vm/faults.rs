//! What goes wrong with a drive that is plugged in: its health, its reads, its answers.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Vm;

impl Vm<'_> {
    /// Sets bits of `critical_warning` in the drive's SMART log.
    pub fn critical_warning(&mut self, index: usize, bits: u8) -> Result<()> {
        let (device, _) = self.names(index)?;
        let path = format!("/machine/peripheral/{device}");
        let arguments = json!({ "path": path, "property": "smart_critical_warning", "value": bits });
        self.call("qom-set", arguments).with_context(|| format!("drive {index}: critical warnings {bits:#b}"))
    }

    /// Every read of the drive fails from now on, as that of a broken medium.
    pub fn fail_reads(&mut self, index: usize) -> Result<()> {
        let (_, node) = self.names(index)?;
        let drive = &self.drives[index];
        let (file, bad) = (drive.file.clone(), format!("{node}-bad"));
        let read_only = drive.spec.read_only;
        let rule =
            json!({ "event": "none", "iotype": "read", "errno": 5, "immediately": false, "once": false });
        let file = json!({ "driver": "file", "filename": file, "discard": "unmap", "locking": "off" });
        self.call(
            "blockdev-add",
            json!({ "driver": "blkdebug", "node-name": bad, "image": file, "inject-error": [rule], "discard": "unmap" }),
        )?;
        let options = json!({ "driver": "raw", "node-name": node, "discard": "unmap", "read-only": read_only, "file": bad });
        self.call("blockdev-reopen", json!({ "options": [options] }))
            .with_context(|| format!("drive {index}: reads that fail"))
    }

    /// Reads of the drive are not answered until they are let go; what is asked of its controller is.
    pub fn hold_reads(&mut self, index: usize, hold: bool) -> Result<()> {
        let (device, _) = self.names(index)?;
        // A byte a second. The first read passes, and is paid for by those that follow.
        let limit = u8::from(hold);
        self.call(
            "block_set_io_throttle",
            json!({ "id": device, "bps": 0, "bps_rd": limit, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0 }),
        )
        .with_context(|| format!("drive {index}: reads that hang"))
    }

    /// Of a plugged drive in QEMU: its device and its node.
    fn names(&self, index: usize) -> Result<(String, String)> {
        let drive = self.drives.get(index).filter(|drive| drive.plugged);
        let number = drive.with_context(|| format!("drive {index} is not plugged in"))?.number;
        Ok((format!("n{number}"), format!("f{number}")))
    }

    fn call(&mut self, command: &str, arguments: Value) -> Result<()> {
        self.machine()?.qmp.call(command, arguments).map(drop)
    }
}
