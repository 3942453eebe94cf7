//! The node's side of afield: lends this machine's CPUs to the user mode of other machines' processes.
//!
//! * [`daemon`]: accepts homes.
//! * [`session`]: serves one home, in a process of its own.
//! * `world`: the namespaces and mounts a session's guests live in, and its init.
//! * `door`: where guests' kernel requests come out: the file door and the notify door.
//! * `trace`: the trace door: process events, signals and stops.

pub mod daemon;
mod door;
mod guests;
pub mod session;
mod spawner;
mod sys;
mod trace;
mod world;
