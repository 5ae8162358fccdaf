//! nvme-agent makes the local NVMe drives of an EC2 node one fast filesystem, at every boot.
//!
//! Data flows one way: [`observe`] reads the machine into an [`observe::Inventory`], [`plan`] turns
//! it and the [`config::Config`] into typed steps or a refusal without any I/O, [`apply`] executes
//! the steps, `verify` observes again, and [`state`] is what gets reported.

#![deny(unsafe_code)]

// What stands in for a machine in `tests/support` names the crate as those who use it do.
#[cfg(test)]
extern crate self as nvme_agent;

pub mod apply;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod error;
pub mod exec;
pub mod failpoint;
pub mod install;
pub mod intent;
pub mod ioctl;
pub mod logging;
pub mod md;
pub mod node;
pub mod observe;
pub mod persist;
pub mod plan;
pub mod probe;
pub mod render;
pub mod root;
pub mod setup;
#[cfg(test)]
mod stand_in;
pub mod state;
pub mod status;
pub mod teardown;
pub mod terminal;
pub mod verify;
