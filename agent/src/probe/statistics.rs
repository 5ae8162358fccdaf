//! EC2's detailed performance statistics, log page 0xD0: "Amazon EBS/EC2 instance store detailed performance statistics",
//! as amazon-ec2-utils' `ebsnvme stats` reads it. All little-endian.
//!
//! The page of an instance store is 8192 bytes, read in pieces of 4096; all that is shown here is in the first.

use serde::{Deserialize, Serialize};

/// Log page identifier.
pub const PAGE: u8 = 0xd0;
/// Length in bytes of the piece that is read.
pub const LEN: usize = 4096;
/// First four bytes of the page of an EBS volume.
const MAGIC_EBS: u32 = 0x3c23_b510;
/// The same of an instance store drive.
const MAGIC_INSTANCE_STORE: u32 = 0xec2c_0d7e;
/// Offsets in bytes of the histograms: number of bins (u64), then the bins.
const READ_HISTOGRAM: usize = 512;
const WRITE_HISTOGRAM: usize = 2056;
/// Room for this many bins, whatever the page says.
const MAX_BINS: usize = 64;
/// A bin: lower and upper bound (u64, microseconds), count (u32), reserved (u32).
const BIN: usize = 24;

/// What the drive has counted since the instance was started. In operations, bytes and microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    pub read_ops: u64,
    pub write_ops: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    /// Time that all reads took together.
    pub read_us: u64,
    pub write_us: u64,
    /// For how long more operations were wanted than the instance type allows.
    pub iops_exceeded_us: u64,
    /// For how long more bytes were.
    pub throughput_exceeded_us: u64,
    /// Operations that wait now.
    pub queue_length: u64,
    /// None where nothing was read yet.
    pub read_latency: Option<Latency>,
    pub write_latency: Option<Latency>,
}

/// Of all operations since the start: upper bounds of the histogram's bins, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub p50_us: u64,
    pub p99_us: u64,
}

/// The page's fields; none of a page that is cut off or is not EC2's, such as one that a drive leaves zeroed.
pub fn decode(page: &[u8]) -> Option<Statistics> {
    let page: &[u8; LEN] = page.first_chunk()?;
    if !matches!(u32_at(page, 0), MAGIC_EBS | MAGIC_INSTANCE_STORE) {
        return None;
    }
    Some(Statistics {
        read_ops: u64_at(page, 8),
        write_ops: u64_at(page, 16),
        read_bytes: u64_at(page, 24),
        written_bytes: u64_at(page, 32),
        read_us: u64_at(page, 40),
        write_us: u64_at(page, 48),
        iops_exceeded_us: u64_at(page, 72),
        throughput_exceeded_us: u64_at(page, 80),
        queue_length: u64_at(page, 88),
        read_latency: latency(page, READ_HISTOGRAM),
        write_latency: latency(page, WRITE_HISTOGRAM),
    })
}

/// Folds the histogram at this offset.
fn latency(page: &[u8; LEN], at: usize) -> Option<Latency> {
    let bins = usize::try_from(u64_at(page, at)).unwrap_or(MAX_BINS).min(MAX_BINS);
    let bins: Vec<(u64, u64)> = (0..bins)
        .map(|bin| at + 8 + bin * BIN)
        .map(|bin| (u64_at(page, bin + 8), u64::from(u32_at(page, bin + 16))))
        .collect();
    let total: u64 = bins.iter().map(|(_, count)| count).sum();
    // The upper bound of the bin with the operation that so many percent do not exceed.
    let percentile = |percent: u64| {
        let rank = (total * percent).div_ceil(100);
        let mut seen = 0;
        let reached = |(_, count): &&(u64, u64)| {
            seen += count;
            seen >= rank
        };
        bins.iter().find(reached).map(|(upper, _)| *upper)
    };
    match total {
        0 => None,
        _ => Some(Latency { p50_us: percentile(50)?, p99_us: percentile(99)? }),
    }
}

fn u32_at(page: &[u8; LEN], at: usize) -> u32 {
    page[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(page: &[u8; LEN], at: usize) -> u64 {
    page[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
#[path = "statistics_tests.rs"]
mod tests;
