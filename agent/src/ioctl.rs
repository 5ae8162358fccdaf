//! The ioctls of md and NVMe, as safe functions over an open file. The only `unsafe` of the crate.
//!
//! Nothing here checks that the file is the right device: a driver that does not know a request answers `ENOTTY`,
//! and the kernel writes no more than the size that is part of the request number.
#![allow(unsafe_code)]

/// Requests to `/dev/mdN`: `include/uapi/linux/raid/md_u.h`. All need `CAP_SYS_ADMIN`.
pub mod md {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use nix::Result;

    /// `MD_MAJOR`: the block major of `/dev/mdN`, and the type of md's ioctls.
    pub const MAJOR: u8 = 9;

    /// `1 << MD_DISK_ACTIVE | 1 << MD_DISK_SYNC`: a member with data.
    pub const DISK_ACTIVE_SYNC: i32 = 1 << 1 | 1 << 2;

    /// `mdu_array_info_t`. All zero but the version means: take the rest from the members' superblocks.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ArrayInfo {
        pub major_version: i32,
        pub minor_version: i32,
        pub patch_version: i32,
        pub ctime: u32,
        pub level: i32,
        /// In KiB, cut to 31 bits: use sysfs `size` instead.
        pub size: i32,
        pub nr_disks: i32,
        pub raid_disks: i32,
        pub md_minor: i32,
        pub not_persistent: i32,
        pub utime: u32,
        /// Bit 0 `MD_SB_CLEAN`.
        pub state: i32,
        pub active_disks: i32,
        pub working_disks: i32,
        pub failed_disks: i32,
        pub spare_disks: i32,
        pub layout: i32,
        /// In bytes.
        pub chunk_size: i32,
    }

    /// `mdu_disk_info_t`.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct DiskInfo {
        pub number: i32,
        /// Device number of the member.
        pub major: i32,
        pub minor: i32,
        /// Role; -1 for none.
        pub raid_disk: i32,
        /// See [`DISK_ACTIVE_SYNC`].
        pub state: i32,
    }

    /// `mdu_param_t`: ignored by every kernel that this crate runs on.
    #[repr(C)]
    #[derive(Clone, Copy, Debug, Default)]
    struct Param {
        personality: i32,
        chunk_size: i32,
        max_fault: i32,
    }

    // The sizes are part of the request numbers; a slip would become another request.
    const _: () = assert!(size_of::<ArrayInfo>() == 0x48);
    const _: () = assert!(size_of::<DiskInfo>() == 0x14);
    const _: () = assert!(size_of::<Param>() == 0x0c);

    mod request {
        use super::{ArrayInfo, DiskInfo, MAJOR, Param};

        nix::ioctl_read!(get_array_info, MAJOR, 0x11, ArrayInfo);
        nix::ioctl_readwrite_bad!(
            get_disk_info,
            nix::request_code_read!(MAJOR, 0x12, size_of::<DiskInfo>()),
            DiskInfo
        );
        nix::ioctl_write_ptr!(add_new_disk, MAJOR, 0x21, DiskInfo);
        nix::ioctl_write_ptr!(set_array_info, MAJOR, 0x23, ArrayInfo);
        nix::ioctl_write_ptr!(run_array, MAJOR, 0x30, Param);
        nix::ioctl_none!(stop_array, MAJOR, 0x32);
        nix::ioctl_none!(restart_array_rw, MAJOR, 0x34);
    }

    /// `GET_ARRAY_INFO`. `ENODEV` where the array has neither members nor a shape.
    pub fn get_array_info(array: &File) -> Result<ArrayInfo> {
        let mut info = ArrayInfo::default();
        // SAFETY: the kernel writes one mdu_array_info_t (its size is in the request) to a live, exclusive `info`.
        unsafe { request::get_array_info(array.as_raw_fd(), &mut info) }?;
        Ok(info)
    }

    /// `GET_DISK_INFO` of the member with this number. Major and minor are 0 where there is none.
    pub fn get_disk_info(array: &File, number: i32) -> Result<DiskInfo> {
        let mut info = DiskInfo { number, ..Default::default() };
        // SAFETY: the kernel reads the number from, and writes one mdu_disk_info_t to, a live, exclusive `info`.
        unsafe { request::get_disk_info(array.as_raw_fd(), &mut info) }?;
        Ok(info)
    }

    /// `SET_ARRAY_INFO` with nothing but the superblock's version, 1.`minor`: the members say the rest.
    pub fn set_version(array: &File, minor: i32) -> Result<()> {
        let info = ArrayInfo { major_version: 1, minor_version: minor, ..Default::default() };
        // SAFETY: the kernel reads one mdu_array_info_t from a live `info` and keeps no pointer to it.
        unsafe { request::set_array_info(array.as_raw_fd(), &info) }.map(drop)
    }

    /// `ADD_NEW_DISK`. `EBUSY` where anybody holds the member exclusively.
    pub fn add_new_disk(array: &File, disk: &DiskInfo) -> Result<()> {
        // SAFETY: the kernel reads one mdu_disk_info_t from a live `disk` and keeps no pointer to it.
        unsafe { request::add_new_disk(array.as_raw_fd(), disk) }.map(drop)
    }

    /// `RUN_ARRAY`. The kernel itself requests the module of the level; `EINVAL` where there is none.
    pub fn run_array(array: &File) -> Result<()> {
        let param = Param::default();
        // SAFETY: the kernel at most reads one mdu_param_t from a live `param`.
        unsafe { request::run_array(array.as_raw_fd(), &param) }.map(drop)
    }

    /// `STOP_ARRAY`. `EBUSY` where anybody else has the array open.
    pub fn stop_array(array: &File) -> Result<()> {
        // SAFETY: no argument, so no memory is touched.
        unsafe { request::stop_array(array.as_raw_fd()) }.map(drop)
    }

    /// `RESTART_ARRAY_RW`. `EBUSY` where the array is writable already.
    pub fn restart_array_rw(array: &File) -> Result<()> {
        // SAFETY: no argument, so no memory is touched.
        unsafe { request::restart_array_rw(array.as_raw_fd()) }.map(drop)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// Numbers as the kernel's headers make them (measured with mdadm under strace).
        #[test]
        fn request_numbers_are_the_kernels() {
            assert_eq!(nix::request_code_read!(MAJOR, 0x11, size_of::<ArrayInfo>()) as u32, 0x8048_0911);
            assert_eq!(nix::request_code_read!(MAJOR, 0x12, size_of::<DiskInfo>()) as u32, 0x8014_0912);
            assert_eq!(nix::request_code_write!(MAJOR, 0x21, size_of::<DiskInfo>()) as u32, 0x4014_0921);
            assert_eq!(nix::request_code_write!(MAJOR, 0x23, size_of::<ArrayInfo>()) as u32, 0x4048_0923);
            assert_eq!(nix::request_code_write!(MAJOR, 0x30, size_of::<Param>()) as u32, 0x400c_0930);
            assert_eq!(nix::request_code_none!(MAJOR, 0x32) as u32, 0x932);
            assert_eq!(nix::request_code_none!(MAJOR, 0x34) as u32, 0x934);
        }

        #[test]
        fn a_file_that_is_no_array_is_an_error_not_an_answer() {
            let file = tempfile::tempfile().unwrap();
            assert_eq!(get_array_info(&file), Err(nix::errno::Errno::ENOTTY));
            assert_eq!(stop_array(&file), Err(nix::errno::Errno::ENOTTY));
        }
    }
}

/// Requests to any whole disk: `include/uapi/linux/fs.h`.
pub mod block {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use nix::Result;

    mod request {
        // BLKRRPART
        nix::ioctl_none_bad!(reread_partitions, nix::request_code_none!(0x12, 95));
    }

    /// `BLKRRPART`: the kernel reads the partition table again. `EBUSY` where a partition is open; `EINVAL` for a disk
    /// that has no partitions by its nature.
    pub fn reread_partitions(disk: &File) -> Result<()> {
        // SAFETY: no argument, so no memory is touched.
        unsafe { request::reread_partitions(disk.as_raw_fd()) }.map(drop)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_request_is_the_kernels_and_a_file_is_no_disk() {
            assert_eq!(nix::request_code_none!(0x12, 95) as u32, 0x125f);
            let file = tempfile::tempfile().unwrap();
            assert_eq!(reread_partitions(&file), Err(nix::errno::Errno::ENOTTY));
        }
    }
}

/// NVMe admin commands, by passthrough: NVM Express Base Specification 2.0, `include/uapi/linux/nvme_ioctl.h`.
pub mod nvme {
    use std::fs::File;
    use std::io::{Error, ErrorKind, Result};
    use std::os::fd::AsRawFd;

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
    pub fn identify_controller(device: &File) -> Result<[u8; IDENTIFY_LEN]> {
        let mut data = [0; IDENTIFY_LEN];
        admin(
            device,
            nvme_admin_cmd { opcode: IDENTIFY, cdw10: CNS_CONTROLLER, ..Default::default() },
            &mut data,
        )?;
        Ok(data)
    }

    /// `len` bytes of log page `lid`, from byte `offset`.
    ///
    /// A vendor's page (EC2's statistics, 0xd0) is asked of namespace 1, as amazon-ec2-utils does; the others of
    /// the whole controller, as `nvme smart-log` does.
    ///
    /// # Errors
    /// A length that is 0, no multiple of 4 or above 1 MiB; otherwise as [`identify_controller`].
    pub fn get_log_page(device: &File, lid: u8, len: usize, offset: u64) -> Result<Vec<u8>> {
        if len == 0 || !len.is_multiple_of(4) || len > MAX_LOG || !offset.is_multiple_of(4) {
            let message = format!("log page 0x{lid:02x}: {len} bytes at {offset} are no dwords up to 1 MiB");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let mut data = vec![0; len];
        admin(device, log_command(lid, len, offset), &mut data)?;
        Ok(data)
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

    /// One admin command that reads into `data`. The kernel's own timeout (60 s) holds: a shorter one of ours would
    /// make it reset a controller that is merely slow.
    fn admin(device: &File, mut command: nvme_admin_cmd, data: &mut [u8]) -> Result<()> {
        command.addr = data.as_mut_ptr() as u64;
        command.data_len = u32::try_from(data.len()).map_err(Error::other)?;
        // SAFETY: `command` is a live nvme_passthru_cmd; the kernel writes at most `data_len` bytes to `addr`, which
        // is the whole of `data`, borrowed exclusively until the call returns; opcodes here only read.
        let status = unsafe { nvme_ioctl_admin_cmd(device.as_raw_fd(), &mut command) }?;
        match status {
            0 => Ok(()),
            status => Err(Error::other(format!(
                "NVMe admin command 0x{:02x} failed with status 0x{status:x}",
                command.opcode
            ))),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_log_page_command_says_dwords_and_byte_offset() {
            let smart = log_command(0x02, 512, 0);
            assert_eq!(
                (smart.opcode, smart.nsid, smart.cdw10, smart.cdw11),
                (2, 0xffff_ffff, 0x007f_0002, 0)
            );
            let ec2 = log_command(0xd0, 4096, (1 << 32) + 4096);
            assert_eq!((ec2.nsid, ec2.cdw10, ec2.cdw12, ec2.cdw13), (1, 0x03ff_00d0, 4096, 1));
            assert_eq!(log_command(0x02, 1 << 20, 0).cdw11, 3);
        }

        #[test]
        fn lengths_that_are_no_dwords_are_refused_before_the_kernel_sees_them() {
            let file = tempfile::tempfile().unwrap();
            for len in [0, 3, 510, MAX_LOG + 4] {
                let error = get_log_page(&file, 0x02, len, 0).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{len}");
            }
        }

        #[test]
        fn a_file_that_is_no_nvme_device_is_an_error_not_an_answer() {
            let file = tempfile::tempfile().unwrap();
            assert_eq!(identify_controller(&file).unwrap_err().raw_os_error(), Some(25));
        }
    }
}
