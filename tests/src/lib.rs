//! The lab: boots real VMs with real NVMe and md, and proves nvme-agent in them.

pub mod boot;
pub mod cache;
pub mod channel;
pub mod cli;
pub mod debian;
pub mod dist;
pub mod drive;
pub mod image;
pub mod kernel;
pub mod lab;
pub mod machine;
pub mod progress;
pub mod qemu;
pub mod qmp;
pub mod runner;
pub mod scenarios;
pub mod snapshot;
pub mod vm;
