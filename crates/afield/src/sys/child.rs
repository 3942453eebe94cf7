//! Children and futexes for the benchmarks' work.

use std::io;
use std::sync::atomic::AtomicU32;

use super::{check, process};

/// A forked child.
#[derive(Debug)]
pub struct Child(i32);

impl Child {
    /// Waits for its end.
    pub fn reap(self) -> io::Result<()> {
        process::wait(self.0).map(drop)
    }

    /// Ends it.
    pub fn kill_and_reap(self) {
        process::kill(self.0);
        // It is ours and has been killed.
        let _ = process::wait(self.0);
    }
}

/// Runs `body` in a forked child, which then exits. The calling process must have one thread.
pub fn fork_child(body: impl FnOnce()) -> io::Result<Child> {
    // SAFETY: the work that is benchmarked has one thread where it forks.
    match unsafe { process::fork_alone() }? {
        None => {
            body();
            process::exit(0)
        }
        Some(pid) => Ok(Child(pid)),
    }
}

/// Waits while the word has this value.
pub fn futex_wait(word: &AtomicU32, value: u32) {
    // Spurious returns are the caller's to see.
    // SAFETY: the word is alive during the call, and there is no time-out.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            value,
            std::ptr::null::<libc::timespec>(),
        )
    };
}

/// Wakes one that waits on the word.
pub fn futex_wake(word: &AtomicU32) {
    // SAFETY: the word is alive during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
        )
    };
    debug_assert!(check(result).is_ok());
}
