//! Making processes with properties that `fork` cannot give.

use std::io;
use std::time::{Duration, Instant};

/// Longest wait for threads that have ended.
const LEAVING_TIME_MAX: Duration = Duration::from_millis(200);

/// `struct clone_args` of clone3(2), version 2 (88 bytes).
#[derive(Debug, Clone, Copy, Default, zerocopy::IntoBytes, zerocopy::FromBytes, zerocopy::Immutable)]
#[repr(C)]
pub struct CloneArguments {
    /// `CLONE_*`.
    pub flags: u64,
    /// Where to put a pidfd.
    pub pidfd: u64,
    /// Where to put the child's tid in the child.
    pub child_tid: u64,
    /// Where to put the child's tid in the parent.
    pub parent_tid: u64,
    /// Signal to the parent at the child's end.
    pub exit_signal: u64,
    /// Lowest byte of the child's stack, 0 for the parent's.
    pub stack: u64,
    /// Bytes of the stack.
    pub stack_size: u64,
    /// Thread-local storage.
    pub tls: u64,
    /// Array of wished tids, innermost pid namespace first.
    pub set_tid: u64,
    /// Elements of it.
    pub set_tid_size: u64,
    /// Target cgroup.
    pub cgroup: u64,
}

/// Bytes of [`CloneArguments`].
pub const CLONE_ARGUMENTS_BYTES: usize = size_of::<CloneArguments>();

/// Forks with `flags` (no `CLONE_VM`), optionally with a chosen pid. Returns 0 in the child, its pid in the parent.
///
/// # Errors
/// Those of clone3(2); `EEXIST` if the pid is taken; `EBUSY` if the process has more than one thread, since the child would
/// find what the others were holding for ever held.
///
/// # References
/// clone(2)
pub fn fork_with(flags: u64, exit_signal: i32, pid: Option<u32>) -> io::Result<u32> {
    // A thread that has been joined may still be on its way out of the kernel, where it holds nothing any more.
    let deadline = Instant::now() + LEAVING_TIME_MAX;
    while !is_alone() {
        if Instant::now() >= deadline {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        std::thread::yield_now();
    }
    let wished = pid.unwrap_or(0) as libc::pid_t;
    let arguments = CloneArguments {
        flags: flags & !(libc::CLONE_VM as u64),
        exit_signal: exit_signal as u64,
        set_tid: if pid.is_some() {
            &raw const wished as u64
        } else {
            0
        },
        set_tid_size: u64::from(pid.is_some()),
        ..CloneArguments::default()
    };
    // SAFETY: the structure outlives the call and has the size that is passed; without CLONE_VM the child has a copy
    // of everything, its single thread continuing here.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, CLONE_ARGUMENTS_BYTES) };
    super::check(result).map(|pid| pid as u32)
}

/// Whether the calling thread is its process's only one. `/proc` is not asked: in a world that is home's, and far away.
///
/// # References
/// unshare(2): with this flag it does nothing, but that it fails in a process of several threads.
fn is_alone() -> bool {
    // SAFETY: takes no pointers, and changes nothing.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}
