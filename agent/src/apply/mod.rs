//! apply: executes steps in order; decides nothing.

pub mod mkfs;
