//! Home's side of afield: the processes whose user mode is elsewhere keep their kernel here.
//!
//! * [`run`]: what `afield run` does: describe the job to the agent, then become its root *deputy*.
//! * [`agent`]: one daemon per user: links to nodes, files for them, and the switchboard between links and deputies.
//! * [`coherence`]: what nodes keep of home's files, and what they are told when that changes.
//! * [`deputy`]: a process that stands for a guest: makes its system calls, holds its descriptors, gets its signals,
//!   and dies as it dies.
//! * [`runtime`]: the directory where agent and jobs meet.
//! * [`trust`]: the nodes that this home trusts, and the keys by which it knows them.

pub mod agent;
#[cfg(test)]
mod beside;
mod channel;
pub mod coherence;
pub mod deputy;
pub mod files;
mod messages;
mod mounts;
pub mod place;
mod proc;
pub mod run;
pub mod runtime;
mod sys;
pub mod trust;
