//! Everything unsafe of the command: its entry point, and calls that no library wraps.

pub mod child;
#[cfg(not(test))]
mod entry;
pub mod fuse;
pub mod namespaces;
pub mod notify;
pub mod process;
pub mod trace;

use std::io;

/// Turns the kernel's convention (-1 and errno, through the C library) into a result.
pub(crate) fn check(result: impl Into<i64>) -> io::Result<i64> {
    match result.into() {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}
