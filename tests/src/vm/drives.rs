//! Drives of a [`Vm`]: made, plugged in, found by the guest, pulled out, compared byte for byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::Vm;
use crate::drive::{Drive, DriveSpec};
use crate::machine::Slot;

impl Vm<'_> {
    /// Plugs in new drives and waits until the guest has them all live and udev is done with them. Returns their indices.
    pub fn plug(&mut self, specs: &[DriveSpec]) -> Result<Vec<usize>> {
        let indices = self.add(specs)?;
        self.plug_again(&indices)?;
        self.settled(&indices)?;
        Ok(indices)
    }

    /// Makes drives without plugging them in: their files can be written to first; then [`Vm::plug_again`].
    pub fn add(&mut self, specs: &[DriveSpec]) -> Result<Vec<usize>> {
        let first = self.drives.len();
        for (offset, spec) in specs.iter().enumerate() {
            let drive = Drive::create(spec, first + offset, self.dir.path())?;
            self.drives.push(drive);
        }
        Ok((first..self.drives.len()).collect())
    }

    /// Plugs in drives that are there but not plugged, contents as they are. Does not wait: see [`Vm::settled`].
    pub fn plug_again(&mut self, indices: &[usize]) -> Result<()> {
        for &index in indices {
            let port = (0..self.port_count)
                .find(|port| *port != self.root_port && !self.ports.values().any(|used| used == port))
                .context("no free root port")?;
            self.serial_number += 1;
            let root = self.root();
            let drive = self.drives.get_mut(index).with_context(|| format!("no drive {index}"))?;
            drive.plugged = true;
            drive.number = self.serial_number;
            let machine = self.machine.as_mut().context("the VM is off")?;
            machine.plug(port, &Slot::Drive(drive, drive.number), &root)?;
            self.ports.insert(index, port);
        }
        Ok(())
    }

    /// Waits until the guest shows these drives, live and with their block devices, and udev has settled.
    pub fn settled(&mut self, indices: &[usize]) -> Result<()> {
        let serials: Vec<&str> = indices.iter().map(|index| self.drives[*index].serial.as_str()).collect();
        let script = format!(
            "want='{}'; end=$((SECONDS + 60))
             exec {{pause}}<> <(:)
             for serial in $want; do
                 while :; do
                     for c in /sys/class/nvme/nvme*; do
                         read -r s < $c/serial && read -r state < $c/state || continue
                         [ \"$s\" = $serial ] && [ \"$state\" = live ] && compgen -G \"$c/nvme*n*\" > /dev/null && continue 3
                     done 2>/dev/null
                     [ $SECONDS -lt $end ] || {{ echo \"drive $serial never came\" >&2; exit 1; }}
                     read -r -t 0.02 -u $pause || :
                 done
             done
             udevadm settle",
            serials.join(" ")
        );
        self.ok(&script).map(drop)
    }

    /// Pulls a drive out and waits until the guest has let go of it. Its contents stay; see [`Vm::plug_again`].
    pub fn unplug(&mut self, index: usize) -> Result<()> {
        let drive = self.drives.get_mut(index).with_context(|| format!("no drive {index}"))?;
        let number = drive.number;
        drive.plugged = false;
        let device = format!("n{number}");
        let qmp = &mut self.machine()?.qmp;
        qmp.call("device_del", json!({ "id": device }))?;
        qmp.event(Duration::from_secs(30), |event| {
            event["event"] == "DEVICE_DELETED" && event["data"]["device"] == device.as_str()
        })
        .with_context(|| format!("pull out drive {index}"))?;
        qmp.call("blockdev-del", json!({ "node-name": format!("f{number}") }))?;
        self.ports.remove(&index);
        Ok(())
    }

    /// Unplugs every drive and forgets them: the VM is as it was restored, except for what the guest has written.
    pub fn unplug_all(&mut self) -> Result<()> {
        let plugged: Vec<usize> = self.ports.keys().copied().collect();
        for index in plugged {
            self.unplug(index)?;
        }
        self.drives.clear();
        Ok(())
    }

    /// The raw file behind a drive.
    pub fn host_image(&self, index: usize) -> &Path {
        &self.drives[index].file
    }

    /// A hash of every byte of every drive, to show that nothing was changed. The guest's writes are on their way to the
    /// file once the guest has synced; what nothing wrote needs no sync.
    pub fn hashes(&self) -> Result<Vec<String>> {
        self.drives.iter().map(Drive::hash).collect()
    }

    /// The guest's name of a drive now (`nvme3n1`).
    pub fn device(&mut self, index: usize) -> Result<String> {
        let names = self.devices()?;
        let serial = &self.drives.get(index).with_context(|| format!("no drive {index}"))?.serial;
        names.get(serial).cloned().with_context(|| format!("drive {index} ({serial}) is not in {names:?}"))
    }

    /// Serial to block device, for every NVMe drive that the guest has, the root volume included.
    pub fn devices(&mut self) -> Result<BTreeMap<String, String>> {
        let text = self.ok(
            "for c in /sys/class/nvme/nvme*; do read -r s < $c/serial; for n in $c/nvme*n*; do [ ! -e $n ] || echo $s ${n##*/}; done; done",
        )?;
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(serial, name)| (serial.into(), name.into()))
            .collect())
    }
}
