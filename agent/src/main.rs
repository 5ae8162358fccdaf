//! nvme-agent: the local NVMe drives of an EC2 node as one fast filesystem, at every boot.

use std::process::ExitCode;

/// musl's own asks the kernel for every few allocations, and gives each back at once: a third of all system calls of
/// `status`, and as many page faults.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    nvme_agent::cli::run()
}
