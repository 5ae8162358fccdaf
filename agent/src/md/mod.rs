//! md v1.2 RAID0 without mdadm: superblocks, locks, the life of an array. The ioctls are in [`crate::ioctl::md`].

pub mod array;
mod device;
pub mod geometry;
pub mod guard;
pub mod kernel;
pub mod lock;
pub mod notation;
mod run;
pub mod superblock;

pub use kernel::{free_minor, is_taken, minor_of};
