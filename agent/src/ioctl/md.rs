//! Requests to `/dev/mdN`: `include/uapi/linux/raid/md_u.h`. All need `CAP_SYS_ADMIN`.

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
