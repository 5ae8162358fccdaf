//! The state file, `/run/nvme-agent/state.json`.
