//! NVMe admin commands, by passthrough: NVM Express Base Specification 2.0, `include/uapi/linux/nvme_ioctl.h`.

use std::fs::File;
use std::io::Error;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nvme_cli_sys::{nvme_admin_cmd, nvme_ioctl_admin_cmd};

/// Opcode of Identify.
const IDENTIFY: u8 = 0x06;
/// Opcode of Get Log Page.
const GET_LOG_PAGE: u8 = 0x02;
/// CNS of Identify Controller.
const CNS_CONTROLLER: u32 = 1;
/// Every namespace: what the controller-wide logs want.
const ALL_NAMESPACES: u32 = 0xffff_ffff;
/// Log pages from here on are the vendor's.
const FIRST_VENDOR_LOG: u8 = 0xc0;
/// What one Get Log Page of ours may return.
const MAX_LOG: usize = 1 << 20;

const _: () = assert!(size_of::<nvme_admin_cmd>() == 72);

/// Length in bytes of an Identify data structure.
pub const IDENTIFY_LEN: usize = 4096;

/// Identify Controller of the controller behind `device`, a namespace block device or a controller node.
///
/// # Errors
/// The kernel's error (`ENOTTY` where it is no NVMe device, `EACCES` without root); a status of the controller.
pub fn identify_controller(device: &File) -> Result<[u8; IDENTIFY_LEN], Error> {
    let mut data = [0; IDENTIFY_LEN];
    let command = nvme_admin_cmd { opcode: IDENTIFY, cdw10: CNS_CONTROLLER, ..Default::default() };
    match admin(device, command, &mut data)? {
        0 => Ok(data),
        status => Err(Error::other(format!("Identify (0x{IDENTIFY:02x}) failed with status 0x{status:x}"))),
    }
}

/// Fills `data` from log page `lid`, from byte `offset`. Allocates nothing: for a child, see [`super::apart`].
///
/// A vendor's page (EC2's statistics, 0xd0) is asked of namespace 1, as amazon-ec2-utils does; the others of
/// the whole controller, as `nvme smart-log` does.
///
/// # Errors
/// `EINVAL`: a length that is 0, no multiple of 4 or above 1 MiB. `EREMOTEIO`: the controller has no such page, or
/// otherwise refuses. The kernel's own, as with [`identify_controller`].
pub fn get_log_page(device: &File, lid: u8, data: &mut [u8], offset: u64) -> Result<(), Errno> {
    let len = data.len();
    if len == 0 || !len.is_multiple_of(4) || len > MAX_LOG || !offset.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    match admin(device, log_command(lid, len, offset), data)? {
        0 => Ok(()),
        _ => Err(Errno::EREMOTEIO),
    }
}

/// Number of dwords, 0's based, in cdw10 and cdw11; byte offset in cdw12 and cdw13.
fn log_command(lid: u8, len: usize, offset: u64) -> nvme_admin_cmd {
    let dwords = (len / 4 - 1) as u32;
    nvme_admin_cmd {
        opcode: GET_LOG_PAGE,
        nsid: if lid >= FIRST_VENDOR_LOG { 1 } else { ALL_NAMESPACES },
        cdw10: u32::from(lid) | (dwords & 0xffff) << 16,
        cdw11: dwords >> 16,
        cdw12: offset as u32,
        cdw13: (offset >> 32) as u32,
        ..Default::default()
    }
}

/// One admin command that reads into `data`; returns the controller's status. The kernel's own timeout (60 s) holds: a
/// shorter one of ours would make it reset a controller that is merely slow.
fn admin(device: &File, mut command: nvme_admin_cmd, data: &mut [u8]) -> Result<i32, Errno> {
    command.addr = data.as_mut_ptr() as u64;
    command.data_len = u32::try_from(data.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `command` is a live nvme_passthru_cmd; the kernel writes at most `data_len` bytes to `addr`, which
    // is the whole of `data`, borrowed exclusively until the call returns; opcodes here only read.
    unsafe { nvme_ioctl_admin_cmd(device.as_raw_fd(), &mut command) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_page_command_says_dwords_and_byte_offset() {
        let smart = log_command(0x02, 512, 0);
        assert_eq!((smart.opcode, smart.nsid, smart.cdw10, smart.cdw11), (2, 0xffff_ffff, 0x007f_0002, 0));
        let ec2 = log_command(0xd0, 4096, (1 << 32) + 4096);
        assert_eq!((ec2.nsid, ec2.cdw10, ec2.cdw12, ec2.cdw13), (1, 0x03ff_00d0, 4096, 1));
        assert_eq!(log_command(0x02, 1 << 20, 0).cdw11, 3);
    }

    #[test]
    fn lengths_that_are_no_dwords_are_refused_before_the_kernel_sees_them() {
        let file = tempfile::tempfile().unwrap();
        for len in [0, 3, 510, MAX_LOG + 4] {
            assert_eq!(get_log_page(&file, 0x02, &mut vec![0; len], 0), Err(Errno::EINVAL), "{len}");
        }
    }

    #[test]
    fn a_file_that_is_no_nvme_device_is_an_error_not_an_answer() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(identify_controller(&file).unwrap_err().raw_os_error(), Some(25));
    }
}
