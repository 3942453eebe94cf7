//! The node's side of afield: lends this machine's CPUs to the user mode of other machines' processes.
//!
//! * [`daemon`]: accepts homes.
//! * [`admission`]: which homes, and what they may have.
//! * [`bridge`]: from a login by ssh to a daemon.
//! * [`session`]: serves one home, in a process of its own.
//! * `delivery`: hands on what comes from home, in order.
//! * `world`: the namespaces and mounts a session's guests live in, and its init.
//! * `fs`: the file door: the world's root as a switch over drivers.
//! * `door`: the notify door, and what comes back through it.
//! * [`journal`]: which sessions there are, for when nobody is left who made them.
//! * `installer`: giving guests descriptors of new home objects.
//! * [`store`]: contents of homes' files, kept from session to session.
//! * `trace`: the trace door: process events, signals and stops.

pub mod admission;
pub mod bridge;
pub mod daemon;
mod delivery;
mod door;
mod fs;
mod guests;
mod holdings;
mod installer;
pub mod journal;
mod leases;
mod server;
pub mod session;
mod spawner;
pub mod store;
mod sys;
mod titles;
mod trace;
mod world;

pub use world::user_namespaces_wanted;
