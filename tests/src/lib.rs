//! The lab: boots real VMs with real NVMe and md, and proves nvme-agent in them.

pub mod cache;
pub mod debian;
pub mod progress;
