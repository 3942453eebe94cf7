//! Processes on their way to be something else: what they close, place, reset and execute.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

/// Ends the calling process without running anything of the process it was forked from.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Lets go of all children that have ended, of whatever kind.
pub fn reap_ended() {
    // SAFETY: no pointers.
    while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) } > 0 {}
}

/// Lets go of a child that has ended, of whatever kind, and says which.
pub fn reap_one() -> Option<u32> {
    // SAFETY: no pointers.
    let pid = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG | libc::__WALL) };
    (pid > 0).then_some(pid as u32)
}

/// Waits until a child, of whatever kind, has ended, and lets go of it.
pub fn wait_for_end(child: u32) {
    // SAFETY: no pointers.
    while unsafe { libc::waitpid(child as i32, std::ptr::null_mut(), libc::__WALL) } == -1
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Closes descriptors `first` to `last`. For a forked process that has no more use for what its maker had open: no
/// value that owns one of them may be used (or dropped) afterwards.
pub fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: integers only.
    super::check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Closes all descriptors but these. The same holds for values that own one.
pub fn close_all_but(mut keep: Vec<RawFd>) {
    keep.sort_unstable();
    let mut first = 0;
    for number in keep.into_iter().map(|number| number as u32).chain([u32::MAX]) {
        if number > first {
            // What cannot be closed is not open.
            let _ = close_range(first, number - 1);
        }
        first = number.saturating_add(1);
    }
}

/// Gives an open file another number, which will outlast `execve`. Whatever had that number is closed.
pub fn place(file: impl AsFd, number: RawFd) -> io::Result<()> {
    // SAFETY: integers only; the caller places descriptors of a process that is about to execute.
    super::check(unsafe { libc::dup2(file.as_fd().as_raw_fd(), number) }.into()).map(drop)
}

/// Every signal's default action, but for those that are ignored (bit `n - 1` for signal `n`).
pub fn set_dispositions(ignored: u64) {
    for signal in 1..=64 {
        let action = if ignored & super::signals::bit(signal) != 0 {
            libc::SIG_IGN
        } else {
            libc::SIG_DFL
        };
        // Fails for SIGKILL, SIGSTOP and the C library's own, for which there is nothing to do.
        // SAFETY: neither disposition is a function.
        unsafe { libc::signal(signal, action) };
    }
}

/// Sets the calling thread's signal mask.
pub fn set_blocked(blocked: u64) -> io::Result<()> {
    // SAFETY: the kernel's set is one 64-bit word.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const blocked,
            0usize,
            8usize,
        )
    };
    super::check(result).map(drop)
}

/// Executes a program; returns only why it could not.
pub fn execute(program: &[u8], arguments: &[Vec<u8>], environment: &[Vec<u8>]) -> io::Error {
    let strings = |list: &[Vec<u8>]| -> Result<Vec<CString>, _> {
        list.iter().map(|bytes| CString::new(bytes.as_slice())).collect()
    };
    let (Ok(program), Ok(arguments), Ok(environment)) =
        (CString::new(program), strings(arguments), strings(environment))
    else {
        return io::ErrorKind::InvalidInput.into();
    };
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (arguments, environment) = (pointers(&arguments), pointers(&environment));
    // SAFETY: NUL-terminated strings and NULL-terminated arrays of them, all alive.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Sets a process's priority, but none above the caller's own.
pub fn set_priority(process: i32, nice: i8) -> io::Result<()> {
    // SAFETY: integers only.
    let result = unsafe {
        // -1 is a priority as well as an error; the own one can always be had.
        let own = libc::getpriority(libc::PRIO_PROCESS, 0);
        let nice = libc::c_int::from(nice).clamp(own.min(19), 19);
        libc::setpriority(libc::PRIO_PROCESS, process as u32, nice)
    };
    super::check(result.into()).map(drop)
}

/// The processor time that a process has used, all its threads together, in nanoseconds; `None` if it is gone.
pub fn processor_time_ns(pid: i32) -> Option<i128> {
    const SCHEDULED: libc::clockid_t = 2;
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is the call's.
    let outcome = unsafe { libc::clock_gettime(!pid << 3 | SCHEDULED, &raw mut time) };
    (outcome == 0).then(|| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec))
}
