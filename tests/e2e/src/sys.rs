//! What a child does between `fork` and `exec`: only system calls, nothing that allocates.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

/// The surroundings in which a child starts.
#[derive(Clone, Default)]
pub(crate) struct Surroundings {
    /// Become this user (and the group of the same number), without supplementary groups.
    pub user: Option<u32>,
    /// Enter these namespaces: `(clone flag, descriptor)`.
    pub namespaces: Vec<(i32, Arc<OwnedFd>)>,
    /// Make new namespaces, after those were entered.
    pub unshare: i32,
    /// Standard input is a terminal, which becomes the session's own.
    pub terminal: bool,
}

const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

/// Makes a command start in its own session, with nothing inherited but descriptors 0 to 2, default signals,
/// umask 022 and no core dumps.
pub(crate) fn prepare(command: &mut Command, surroundings: &Surroundings) {
    let surroundings = surroundings.clone();
    let enter = move || {
        check(i64::from(calls::setsid()))?;
        if surroundings.terminal {
            check(calls::own_terminal())?;
        }
        calls::umask_022();
        calls::default_signals();
        calls::no_core();
        check(calls::close_on_exec_from_3())?;
        for (flag, namespace) in &surroundings.namespaces {
            check(calls::setns(namespace.as_raw_fd(), *flag))?;
        }
        if let Some(user) = surroundings.user {
            check(calls::become_user(user))?;
        }
        if surroundings.unshare != 0 {
            let (uid, gid) = calls::ids();
            check(calls::unshare(surroundings.unshare))?;
            if surroundings.unshare & libc::CLONE_NEWUSER != 0 {
                map(c"/proc/self/setgroups", b"deny", None)?;
                map(c"/proc/self/uid_map", b"0 ", Some(uid))?;
                map(c"/proc/self/gid_map", b"0 ", Some(gid))?;
            }
        }
        Ok(())
    };
    // SAFETY: `enter` makes only system calls on memory that was allocated before the fork.
    unsafe { command.pre_exec(enter) };
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Writes `text` and, if there is an id, `ID 1` after it.
fn map(path: &std::ffi::CStr, text: &[u8], id: Option<u32>) -> io::Result<()> {
    let mut line = [0_u8; 32];
    let mut length = text.len();
    line[..length].copy_from_slice(text);
    if let Some(id) = id {
        let mut digits = [0_u8; 10];
        let mut count = 0;
        let mut rest = id;
        while rest > 0 || count == 0 {
            digits[count] = b'0' + (rest % 10) as u8;
            rest /= 10;
            count += 1;
        }
        for digit in digits[..count].iter().rev() {
            line[length] = *digit;
            length += 1;
        }
        line[length..length + 2].copy_from_slice(b" 1");
        length += 2;
    }
    calls::write_file(path, &line[..length])
}

/// The system calls themselves, each safe because its arguments are.
mod calls {
    use super::*;

    pub fn setsid() -> i32 {
        // SAFETY: no arguments.
        unsafe { libc::setsid() }
    }

    pub fn own_terminal() -> i64 {
        // SAFETY: takes numbers.
        i64::from(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })
    }

    pub fn umask_022() {
        // SAFETY: cannot fail, touches no memory.
        unsafe { libc::umask(0o022) };
    }

    /// Takes back what the suite was started with, also for the two signals that the C library keeps for itself.
    pub fn default_signals() {
        let action = [0_u64; 4];
        for signal in 1..=64 {
            // SAFETY: `action` is a kernel `sigaction` of zeros, that is `SIG_DFL`. `SIGKILL` and `SIGSTOP` fail.
            unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), 0, 8) };
        }
    }

    pub fn no_core() {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: `limit` lives across both calls.
        unsafe {
            libc::getrlimit(libc::RLIMIT_CORE, &mut limit);
            limit.rlim_cur = 0;
            libc::setrlimit(libc::RLIMIT_CORE, &limit);
        }
    }

    pub fn close_on_exec_from_3() -> i64 {
        // SAFETY: only marks descriptors; none is closed before the exec.
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) }
    }

    pub fn setns(descriptor: i32, flag: i32) -> i64 {
        // SAFETY: no memory is passed.
        i64::from(unsafe { libc::setns(descriptor, flag) })
    }

    pub fn unshare(flags: i32) -> i64 {
        // SAFETY: the child has one thread and shares nothing that the suite relies on.
        i64::from(unsafe { libc::unshare(flags) })
    }

    pub fn ids() -> (u32, u32) {
        // SAFETY: no arguments.
        unsafe { (libc::geteuid(), libc::getegid()) }
    }

    pub fn become_user(user: u32) -> i64 {
        // SAFETY: an empty list of groups needs no memory. Losing root makes a process undumpable, which would take its own
        // entries in `/proc` away from it.
        unsafe {
            let groups = libc::setgroups(0, std::ptr::null());
            let group = libc::setresgid(user, user, user);
            let user = libc::setresuid(user, user, user);
            libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
            i64::from(groups.min(group).min(user))
        }
    }

    pub fn write_file(path: &std::ffi::CStr, bytes: &[u8]) -> io::Result<()> {
        // SAFETY: the path is terminated, the buffer is as long as said, and the descriptor is closed again.
        unsafe {
            let descriptor = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            check(i64::from(descriptor))?;
            let written = libc::write(descriptor, bytes.as_ptr().cast(), bytes.len());
            let result = check(written as i64);
            libc::close(descriptor);
            result
        }
    }
}
