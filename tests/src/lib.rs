//! The lab: boots real VMs with real NVMe and md, and proves nvme-agent in them.
//!
//! # Writing a scenario
//!
//! A file a topic in `src/scenarios/`, with a list that `scenarios::all` joins to the others:
//!
//! ```no_run
//! use anyhow::{Result, ensure};
//! use lab::boot::{BlankDrives, ROOT};
//! use lab::drive::{DriveSpec, GIB, TIB};
//! use lab::image::Guest;
//! use lab::runner::{Ctx, Scenario, Tier};
//!
//! pub const SCENARIOS: &[Scenario] = &[Scenario { name: "reboot-other-order", tier: Tier::Normal, run: other_order }];
//!
//! fn other_order(ctx: &Ctx) -> Result<()> {
//!     ctx.vm(Guest::Trixie, |vm| {
//!         vm.plug(&DriveSpec::many(2, TIB))?;                 // live, numbered, udev settled
//!         vm.ok("nvme-agent setup")?;                         // must succeed; returns stdout, trimmed
//!         vm.ok("echo kept > /tmp/file; sync")?;
//!         vm.boot_again(&[1, ROOT, 0], BlankDrives::Keep)?.clean()?; // drive 1 is nvme0, root nvme1, drive 0 nvme2
//!         ensure!(vm.ok("cat /tmp/file")? == "kept");
//!         Ok(())
//!     })
//! }
//! ```
//!
//! - [`runner::Ctx::vm`] restores a guest that has just booted (about half a second on an idle host), puts the agent at
//!   `/usr/bin/nvme-agent`, and keeps journal and state when the closure fails or panics (`assert!` is welcome).
//!   [`runner::Ctx::case`] does so for one of many cases and goes on after a failure. Restoring is so cheap that cases need not
//!   share a VM; [`vm::Vm::unplug_all`] is there for those that do.
//! - Drives have an index, in the order of plugging; the kernel numbers them as it likes. [`vm::Vm::device`] gives today's
//!   name (`nvme3n1`) of an index; [`vm::Vm::devices`] maps every serial to its name.
//! - [`vm::Vm::plug`] waits for the guest. Apart: [`vm::Vm::add`] makes drives (their files can be written to with
//!   [`drive::Drive::write_at`]), [`vm::Vm::plug_again`] plugs without waiting ("appears 5 s late"), [`vm::Vm::settled`] waits.
//!   [`vm::Vm::unplug`] pulls one out; its contents stay for `plug_again`.
//! - Odd drives: [`drive::DriveSpec`] `.serial() .model() .read_only() .unreadable() .read_error_at(byte) .block_size(4096)`,
//!   [`drive::DriveSpec::ebs`]. A read-only drive refuses writes, but the kernel does not know beforehand (`ro` is 0):
//!   `blockdev --setro` in the guest makes the other kind.
//! - Scripts: [`vm::Vm::ok`] (`set -e -o pipefail`, must succeed), [`vm::Vm::fails`] (must end with this code), [`vm::Vm::sh`]
//!   (whatever comes), [`vm::Vm::spawn`] and [`vm::Vm::wait`] (beside others), `_within` for other deadlines than 120 s.
//!   They run as root, stdin closed, in PID 1's mount namespace, with no journal variables: like an SSM command.
//! - Unchanged bytes: [`vm::Vm::hashes`] before and after, of every drive's every byte (sparse tebibytes take milliseconds).
//! - Boots: [`vm::Vm::boot_again`] (orderly, then cold), [`vm::Vm::power_off`], [`vm::Vm::crash`] (kill -9 of QEMU),
//!   [`vm::Vm::power_on`], [`vm::Vm::power_on_without_waiting`] (scripts run early in the boot). Each gives a [`boot::Boot`]:
//!   state, failed units, hanging jobs, seconds. `vm.instance.id`, `vm.append` (kernel command line) and `vm.extra`
//!   (QEMU arguments) count from the next cold boot on. The root volume keeps what the guest wrote.
//! - [`vm::Vm::push`] and [`vm::Vm::write`] put files into the guest (6 MB in a third of a second).
//! - Everything that ran, with output and time, is in `target/lab/logs/SCENARIO/commands.log`, beside `console.log` and after
//!   a failure `autopsy.log`.
//!
//! [`arm::boot::run_in_vm`] is another kind of VM, for aarch64: it boots an initramfs, runs commands and goes off.
//!
//! `scenarios::node` makes an EKS node of a guest, with stand-ins for nodeadm (`nodeadm`: this program, pushed there under
//! that name) and kubelet, and QEMU's user network to a test API server on this machine.
//!
//! The guest has no network otherwise, no cloud-init, 1 GiB, 2 processors, a volatile journal, a tmpfs on /tmp (trixie), vendor
//! 1d0f in PCI and Identify (see [`qemu`]) and EC2's DMI strings. Timers that go by the calendar are masked, and
//! bcache's udev rule is not there.

pub mod apiserver;
pub mod arm;
pub mod awscli;
pub mod bench;
pub mod boot;
pub mod cache;
pub mod channel;
pub mod cli;
pub mod debian;
#[cfg(test)]
mod delivered;
pub mod demo;
pub mod dist;
pub mod drive;
pub mod image;
pub mod kernel;
pub mod lab;
pub mod machine;
pub mod nodeadm;
pub mod progress;
pub mod qemu;
pub mod qmp;
pub mod runner;
pub mod scenarios;
pub mod screen;
pub mod shell;
pub mod snapshot;
pub mod status;
pub mod vm;
pub mod web;
