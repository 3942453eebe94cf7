//! Namespaces, mounts and names of a world.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// `_IOR(229, 0, uint32_t)`, as in `linux/fuse.h`.
const FUSE_DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;

/// Ends with its parent: `SIGKILL` when the parent's thread that made the caller ends. `parent` is who that is; if it
/// is gone already the call fails with `ESRCH`.
pub fn die_with_parent(parent: Option<u32>) -> io::Result<()> {
    // SAFETY: integers only.
    super::check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }.into())?;
    // SAFETY: no arguments.
    if parent.is_some_and(|parent| parent != unsafe { libc::getppid() } as u32) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

/// Leaves namespaces of the given `CLONE_NEW*` kinds for fresh ones.
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: integers only.
    super::check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Gives the calling thread descriptors of its own, of which it keeps only duplicates of these, in their order, and standard error.
pub fn keep_only(descriptors: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    unshare(libc::CLONE_FILES)?;
    let mut kept = Vec::with_capacity(descriptors.len());
    for descriptor in descriptors {
        // SAFETY: numbers; if nothing is open under it the call fails.
        kept.push(
            super::check(unsafe { libc::fcntl(*descriptor, libc::F_DUPFD_CLOEXEC, 3) }.into())? as RawFd,
        );
    }
    let error = [libc::STDERR_FILENO];
    super::process::close_all_but(kept.iter().copied().chain(error).collect());
    // SAFETY: just made, and nobody else's: no other thread has this table.
    Ok(kept
        .into_iter()
        .map(|kept| unsafe { OwnedFd::from_raw_fd(kept) })
        .collect())
}

/// Makes a freshly opened FUSE device another one of a connection that is mounted.
pub fn join_connection(device: BorrowedFd<'_>, mounted: BorrowedFd<'_>) -> io::Result<()> {
    let number = mounted.as_raw_fd() as u32;
    // SAFETY: the request reads one live number.
    super::check(unsafe { libc::ioctl(device.as_raw_fd(), FUSE_DEV_IOC_CLONE, &number) }.into()).map(drop)
}

/// mount(2). Empty strings stand for null pointers.
pub fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: u64, data: &CStr) -> io::Result<()> {
    let pointer = |text: &CStr| {
        if text.is_empty() {
            std::ptr::null()
        } else {
            text.as_ptr()
        }
    };
    // SAFETY: all pointers are null or NUL-terminated strings that live across the call.
    let result = unsafe {
        libc::mount(
            pointer(source),
            target.as_ptr(),
            pointer(kind),
            flags,
            pointer(data).cast(),
        )
    };
    super::check(result.into()).map(drop)
}

/// Makes the current directory the root and lets go of the old root.
pub fn pivot_here() -> io::Result<()> {
    // SAFETY: constant NUL-terminated strings.
    super::check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // The old root is stacked on the new one at ".".
    // SAFETY: as above.
    super::check(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }.into())?;
    // SAFETY: as above.
    super::check(unsafe { libc::chdir(c"/".as_ptr()) }.into()).map(drop)
}

/// Names the UTS namespace.
pub fn set_names(host: &str, domain: &str) -> io::Result<()> {
    // SAFETY: pointer and length of live strings.
    unsafe {
        super::check(libc::sethostname(host.as_ptr().cast(), host.len()).into())?;
        super::check(libc::setdomainname(domain.as_ptr().cast(), domain.len()).into())?;
    }
    Ok(())
}

/// A clock in nanoseconds.
pub fn clock_ns(clock: libc::clockid_t) -> i128 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live structure; the clocks used exist on every kernel.
    unsafe { libc::clock_gettime(clock, &mut time) };
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// Changes root-relative state of a guest to be: working directory.
pub fn change_directory(path: &Path) -> io::Result<()> {
    std::env::set_current_dir(path)
}
