//! md v1.2 RAID0 without mdadm: superblocks, ioctls, the life of an array.

pub mod geometry;
pub mod superblock;
