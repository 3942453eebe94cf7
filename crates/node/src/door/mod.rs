//! Where a guest's kernel requests come out, other than the file door ([`crate::fs`]).

pub mod calls;
pub mod descriptors;
pub mod notify;
pub mod promises;
mod sockets;
