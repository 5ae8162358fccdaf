//! apply: executes steps in order; decides nothing.

pub mod directories;
pub mod mkfs;
pub mod stage;
pub mod systemd;
