//! Namespaces and mounts, as the checks try them.

use std::ffi::CStr;
use std::fs;
use std::io;

use super::check;
use crate::failure::plain;

/// Leaves namespaces of the given `CLONE_NEW*` kinds for fresh ones.
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::unshare(flags) }).map(drop)
}

/// Enters a fresh user namespace in which the caller is root, and fresh namespaces of the kinds in `flags`.
pub fn enter(flags: i32) -> Result<(), String> {
    // SAFETY: no arguments.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let failed = |step: &str, error: io::Error| format!("user namespace: {step}: {}", plain(&error));
    unshare(libc::CLONE_NEWUSER).map_err(|error| failed("unshare", error))?;
    let write = |path: &str, text: String| fs::write(path, text).map_err(|error| failed(path, error));
    write("/proc/self/setgroups", "deny".to_owned())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    unshare(flags).map_err(|error| plain(&error))
}

/// Keeps mounts to this mount namespace.
pub fn make_mounts_private() -> io::Result<()> {
    mount(c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"")
}

/// mount(2).
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> io::Result<()> {
    // SAFETY: all are NUL-terminated strings that live across the call.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    check(result).map(drop)
}

/// `CLOCK_MONOTONIC` in seconds.
pub fn monotonic_seconds() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec
}
