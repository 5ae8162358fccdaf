//! nvme-agent
