//! nvme-agent: the local NVMe drives of an EC2 node as one fast filesystem, at every boot.

use std::process::ExitCode;

fn main() -> ExitCode {
    nvme_agent::cli::run()
}
