//! The node's dealings with its kernel that no library wraps: one file per facility, everything unsafe is here.

pub mod clone;
pub mod credentials;
pub mod inodes;
pub mod memory;
pub mod namespaces;
pub mod process;
pub mod ptrace;
pub mod seccomp;
pub mod shared;
pub mod signals;
pub mod sockets;
pub mod wall;

use std::io;

/// Turns the kernel's convention (-1 and errno, through the C library) into a result.
pub(crate) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The errno of an I/O error; errors that did not come from the kernel count as `EIO`.
pub fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
