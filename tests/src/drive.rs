//! Drives: what a scenario asks for, and the sparse files behind them.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::unistd::{Whence, lseek64};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// 2^20 bytes.
pub const MIB: u64 = 1 << 20;
/// 2^30 bytes.
pub const GIB: u64 = 1 << 30;
/// 2^40 bytes.
pub const TIB: u64 = 1 << 40;

/// The model of an EC2 instance-store drive.
pub const INSTANCE_STORE: &str = "Amazon EC2 NVMe Instance Storage";
/// The model of an EBS volume.
pub const EBS: &str = "Amazon Elastic Block Store";

/// A drive to be plugged in. Blank unless something was written into its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriveSpec {
    /// Bytes.
    pub size: u64,
    /// None: `AWS` and 17 digits made from the drive's index.
    pub serial: Option<String>,
    /// As `/sys/class/nvme/nvmeN/model` shows it.
    pub model: String,
    /// Write-protected by the host.
    pub read_only: bool,
    /// A byte whose reading fails; `Some(None)`: any read fails.
    pub read_error: Option<Option<u64>>,
    /// 512, or 4096 as on some families.
    pub block_size: u32,
}

impl DriveSpec {
    /// An instance-store drive.
    pub fn new(size: u64) -> DriveSpec {
        let model = INSTANCE_STORE.to_owned();
        DriveSpec { size, serial: None, model, read_only: false, read_error: None, block_size: 512 }
    }

    /// An EBS volume: `vol` serials, the other model.
    pub fn ebs(size: u64, serial: &str) -> DriveSpec {
        DriveSpec::new(size).model(EBS).serial(serial)
    }

    /// Several alike.
    pub fn many(count: usize, size: u64) -> Vec<DriveSpec> {
        vec![DriveSpec::new(size); count]
    }

    /// With this serial (up to 20 characters).
    pub fn serial(mut self, serial: &str) -> DriveSpec {
        self.serial = Some(serial.to_owned());
        self
    }

    /// With this model (up to 40 characters).
    pub fn model(mut self, model: &str) -> DriveSpec {
        self.model = model.to_owned();
        self
    }

    /// Write-protected.
    pub fn read_only(mut self) -> DriveSpec {
        self.read_only = true;
        self
    }

    /// Every read fails.
    pub fn unreadable(mut self) -> DriveSpec {
        self.read_error = Some(None);
        self
    }

    /// Reads that touch this byte fail.
    pub fn read_error_at(mut self, byte: u64) -> DriveSpec {
        self.read_error = Some(Some(byte));
        self
    }

    /// With this logical block size.
    pub fn block_size(mut self, bytes: u32) -> DriveSpec {
        self.block_size = bytes;
        self
    }
}

/// A drive of a VM.
#[derive(Debug, Clone)]
pub struct Drive {
    /// What was asked for.
    pub spec: DriveSpec,
    /// The serial that it got.
    pub serial: String,
    /// The raw file behind it.
    pub file: PathBuf,
    /// Plugged in at the moment.
    pub plugged: bool,
    /// QEMU's id of the device; another at every plugging.
    pub(crate) id: String,
}

impl Drive {
    pub(crate) fn create(spec: &DriveSpec, index: usize, dir: &Path) -> Result<Drive> {
        let serial = spec
            .serial
            .clone()
            .unwrap_or_else(|| format!("AWS{:017X}", 0x2_2000_0000_0000_u64 + index as u64));
        let drive = Drive {
            spec: spec.clone(),
            serial,
            file: dir.join(format!("d{index}.img")),
            plugged: false,
            id: String::new(),
        };
        drive.blank()?;
        Ok(drive)
    }

    /// Makes it blank and trimmed, as an instance's stop and start does.
    pub fn blank(&self) -> Result<()> {
        File::create(&self.file)
            .and_then(|file| file.set_len(self.spec.size))
            .with_context(|| format!("create {}", self.file.display()))
    }

    /// Writes bytes into it from outside (before it is plugged in, or while the guest is down).
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        OpenOptions::new()
            .write(true)
            .open(&self.file)
            .and_then(|file| file.write_all_at(bytes, offset))
            .with_context(|| format!("write {} bytes at {offset} of {}", bytes.len(), self.file.display()))
    }

    /// A hash of every byte of it. See [`hash_sparse`].
    pub fn hash(&self) -> Result<String> {
        hash_sparse(&self.file)
    }

    /// Bytes that the host's disk spends on it.
    pub fn allocated(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(std::fs::metadata(&self.file).with_context(|| format!("stat {}", self.file.display()))?.blocks()
            * 512)
    }

    /// For QMP `blockdev-add` and `-blockdev`.
    pub(crate) fn block_node(&self, node: &str) -> Value {
        let file = json!({ "driver": "file", "filename": self.file, "discard": "unmap", "locking": "off" });
        let file = match self.spec.read_error {
            None => file,
            Some(at) => {
                let mut rule = json!({ "event": "none", "iotype": "read", "errno": 5, "immediately": false, "once": false });
                if let Some(byte) = at {
                    rule["sector"] = json!(byte / 512);
                }
                json!({ "driver": "blkdebug", "image": file, "inject-error": [rule] })
            }
        };
        json!({ "driver": "raw", "node-name": node, "discard": "unmap", "read-only": self.spec.read_only, "file": file })
    }

    /// For QMP `device_add` and `-device`.
    pub(crate) fn device(&self, node: &str, id: &str, bus: &str) -> Value {
        let block = self.spec.block_size;
        json!({ "driver": "nvme", "id": id, "drive": node, "serial": self.serial, "model": self.spec.model, "bus": bus,
                "logical_block_size": block, "physical_block_size": block })
    }
}

/// SHA-256 over the size and every byte that is not zero, with its place: equal for equal contents however holes lie, and as
/// quick for a sparse tebibyte as for its few megabytes of data.
pub fn hash_sparse(path: &Path) -> Result<String> {
    const BLOCK: usize = 4096;
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let size = file.metadata()?.len();
    let mut hash = Sha256::new();
    hash.update(size.to_le_bytes());
    let mut buffer = vec![0_u8; 256 * BLOCK];
    let mut at = 0_u64;
    while at < size {
        let data = match lseek64(&file, at as i64, Whence::SeekData) {
            Ok(data) => data as u64,
            // No data up to the end.
            Err(nix::errno::Errno::ENXIO) => break,
            Err(errno) => {
                return Err(errno)
                    .with_context(|| format!("seek in {} (fd {})", path.display(), file.as_raw_fd()));
            }
        };
        let hole = lseek64(&file, data as i64, Whence::SeekHole).context("seek a hole")? as u64;
        at = data - data % BLOCK as u64;
        while at < hole {
            let want = buffer.len().min((size - at) as usize);
            file.read_exact_at(&mut buffer[..want], at)
                .with_context(|| format!("read {}", path.display()))?;
            for (index, block) in buffer[..want].chunks(BLOCK).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    hash.update((at + (index * BLOCK) as u64).to_le_bytes());
                    hash.update(block);
                }
            }
            at += want as u64;
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_sees_bytes_and_not_holes() {
        let path = std::env::temp_dir().join(format!("lab-hash-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        file.set_len(64 * GIB).unwrap();
        let blank = hash_sparse(&path).unwrap();
        file.write_all_at(&[0; 8192], 40 * GIB).unwrap();
        assert_eq!(hash_sparse(&path).unwrap(), blank);
        file.write_all_at(&[1], 40 * GIB + 5).unwrap();
        let one = hash_sparse(&path).unwrap();
        assert_ne!(one, blank);
        file.write_all_at(&[0], 40 * GIB + 5).unwrap();
        file.write_all_at(&[1], 64 * GIB - 1).unwrap();
        assert_ne!(hash_sparse(&path).unwrap(), one);
        std::fs::remove_file(&path).unwrap();
    }
}
