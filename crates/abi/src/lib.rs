//! What crosses between kernel, node and home, as data.

pub mod arch;
pub mod errno;
pub mod filter;
pub mod fuse;
pub mod siginfo;
pub mod sockets;
pub mod syscalls;
