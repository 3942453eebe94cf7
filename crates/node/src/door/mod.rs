//! Where a guest's kernel requests come out, other than the file door ([`crate::fs`]).

mod affinity;
pub mod calls;
mod control;
pub mod descriptors;
mod forward;
mod limits;
pub mod looks;
pub mod notify;
mod paths;
pub mod promises;
mod signals;
mod sockets;
