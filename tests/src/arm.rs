//! aarch64, Graviton's kind of machine, on a host that is none: the agent's tests in an emulator of programs, and a machine that
//! boots, sets its drives up and goes off in an emulator of machines.

pub mod boot;
pub mod emulated;
