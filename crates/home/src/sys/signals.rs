//! Signals of a deputy: masks, dispositions, and the descriptor by which they are taken.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

pub use afield_abi::siginfo::INFO_BYTES;

/// A set of signals, bit `n - 1` for signal `n`.
pub type Set = u64;

/// The set with just this signal.
pub const fn only(signal: i32) -> Set {
    1 << (signal - 1)
}

/// The two signals below the real-time range that are the C library's and [`super::interrupt`]'s: never blocked.
const INTERNAL: Set = 0b11 << 31;

/// What a deputy blocks: all that can be.
pub const ALL: Set = !INTERNAL;

fn mask_call(how: i32, set: Option<Set>) -> Set {
    let mut old: Set = 0;
    let new = set.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both point to sets of the kernel's size, or nowhere.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, new, &raw mut old, 8usize) };
    old
}

/// Signals that the calling thread blocks.
pub fn blocked() -> Set {
    mask_call(libc::SIG_BLOCK, None)
}

/// Sets the calling thread's mask; gives the old one. Threads made later inherit it.
pub fn set_blocked(set: Set) -> Set {
    mask_call(libc::SIG_SETMASK, Some(set))
}

/// Unblocks for the calling thread; gives the old mask.
pub fn unblock(set: Set) -> Set {
    mask_call(libc::SIG_UNBLOCK, Some(set))
}

/// What becomes of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Default.
    Default,
    /// Ignored.
    Ignore,
    /// The handler that keeps the signal for [`take_caught`].
    Catch,
}

/// Sets what becomes of a signal; of `flags` the kernel looks at `SA_NOCLDWAIT` and `SA_NOCLDSTOP` here.
pub fn set_disposition(signal: i32, disposition: Disposition, flags: i32) -> io::Result<()> {
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
        Disposition::Catch => on_caught as *const () as usize,
    };
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all zero is a value of it; `on_caught` has the type of a handler with `SA_SIGINFO`.
    let result = unsafe {
        let pointer = action.as_mut_ptr();
        (*pointer).sa_sigaction = handler;
        (*pointer).sa_flags = flags | libc::SA_SIGINFO;
        libc::sigfillset(&raw mut (*pointer).sa_mask);
        libc::sigaction(signal, pointer, std::ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Signals that the process ignores.
pub fn ignored() -> Set {
    let mut set = 0;
    for signal in 1..=64 {
        let mut action = [0u64; 4];
        // SAFETY: asks only; the kernel's structure has 32 bytes.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                std::ptr::null::<u64>(),
                action.as_mut_ptr(),
                8usize,
            )
        };
        if result == 0 && action[0] == libc::SIG_IGN as u64 {
            set |= only(signal);
        }
    }
    set
}

static CAUGHT: AtomicU64 = AtomicU64::new(0);
static CATCHES: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_caught(signal: i32, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    CAUGHT.fetch_or(only(signal), Ordering::SeqCst);
    CATCHES.fetch_add(1, Ordering::SeqCst);
}

/// How many signals were caught so far.
pub fn catches() -> u64 {
    CATCHES.load(Ordering::SeqCst)
}

/// Takes the signals that were caught since the last time.
pub fn take_caught() -> Set {
    CAUGHT.swap(0, Ordering::SeqCst)
}

/// Waits until something can be read, or a signal outside of `mask` has been taken.
pub fn wait_readable(file: BorrowedFd<'_>, mask: Set) {
    let mut poll = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd and a mask of the kernel's size, alive during the call. (The C library's function has a larger mask.)
    unsafe {
        libc::syscall(
            libc::SYS_ppoll,
            &raw mut poll,
            1,
            std::ptr::null::<libc::timespec>(),
            &raw const mask,
            size_of::<Set>(),
        )
    };
}

/// A descriptor that gives these signals; close-on-exec, never waits.
pub fn descriptor(set: Set) -> io::Result<OwnedFd> {
    // SAFETY: the set is of the kernel's size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const set,
            8usize,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// Changes what a descriptor gives.
pub fn set_descriptor(descriptor: BorrowedFd<'_>, set: Set) {
    // SAFETY: the set is of the kernel's size, the descriptor one of signals.
    unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            descriptor.as_raw_fd(),
            &raw const set,
            8usize,
            0,
        )
    };
}

/// Takes one signal of the set if it is pending for this thread (those sent to the thread come first).
pub fn take_pending(set: Set) -> Option<[u8; INFO_BYTES]> {
    let mut info = [0u8; INFO_BYTES];
    let timeout = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: set and information have the kernel's sizes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const set,
            info.as_mut_ptr(),
            &raw const timeout,
            8usize,
        )
    };
    (result > 0).then_some(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn information_is_kept() {
        // A thread's own signal, so that other tests' threads do not see it.
        let signal = libc::SIGRTMIN() + 3;
        let old = set_blocked(blocked() | only(signal));
        let mut sent = [0u8; INFO_BYTES];
        sent[..4].copy_from_slice(&signal.to_le_bytes());
        sent[8..12].copy_from_slice(&(-1i32).to_le_bytes());
        sent[16..20].copy_from_slice(&std::process::id().to_le_bytes());
        sent[20..24].copy_from_slice(&4321u32.to_le_bytes());
        sent[24..32].copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
        let descriptor = descriptor(only(signal)).unwrap();
        let send = || {
            // SAFETY: sends the calling thread a signal that it blocks.
            let result = unsafe {
                let (pid, tid) = (libc::getpid(), libc::gettid());
                libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, signal, sent.as_ptr())
            };
            assert_eq!(result, 0);
        };
        send();
        let direct = take_pending(only(signal)).unwrap();
        send();
        let mut raw = [0u8; INFO_BYTES];
        rustix::io::read(&descriptor, &mut raw).unwrap();
        assert_eq!(afield_abi::siginfo::from_descriptor(&raw), direct);
        assert_eq!(&direct[..32], &sent[..32]);
        set_blocked(old);
    }
}
