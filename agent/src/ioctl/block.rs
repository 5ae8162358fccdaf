//! Requests to any whole disk: `include/uapi/linux/fs.h`.

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
