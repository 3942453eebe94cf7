//! Signals to guests, and what a guest's kernel state says about them.

use std::io;

/// Signal sets, bit `n - 1` for signal `n`.
pub const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

pub use afield_abi::siginfo::INFO_BYTES;

/// Offsets in the kernel's 128-byte `siginfo_t` on 64-bit machines.
pub mod info {
    /// `si_signo`.
    pub const SIGNAL: usize = 0;
    /// `si_code`.
    pub const CODE: usize = 8;
    /// `si_pid` of signals that a process sends.
    pub const PID: usize = 16;
    /// `si_value` of queued signals.
    pub const VALUE: usize = 24;
}

/// A siginfo of a queued signal with a value of ours.
pub fn queued_info(signal: i32, value: u64) -> [u8; 128] {
    let mut info = [0; 128];
    info[info::SIGNAL..info::SIGNAL + 4].copy_from_slice(&signal.to_ne_bytes());
    info[info::CODE..info::CODE + 4].copy_from_slice(&libc::SI_QUEUE.to_ne_bytes());
    info[info::VALUE..info::VALUE + 8].copy_from_slice(&value.to_ne_bytes());
    info
}

#[repr(C, align(8))]
struct Info([u8; INFO_BYTES]);

/// Queues a signal with a siginfo to a process.
pub fn queue(process: i32, signal: i32, siginfo: &[u8; INFO_BYTES]) -> io::Result<()> {
    let info = Info(*siginfo);
    // SAFETY: the siginfo is 128 bytes and alive during the call.
    let result = unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, process, signal, &raw const info) };
    super::check(result).map(drop)
}

/// Queues a signal with a siginfo to one thread.
pub fn queue_to_thread(process: i32, thread: i32, signal: i32, siginfo: &[u8; INFO_BYTES]) -> io::Result<()> {
    let info = Info(*siginfo);
    let call = libc::SYS_rt_tgsigqueueinfo;
    // SAFETY: the siginfo is 128 bytes and alive during the call.
    let result = unsafe { libc::syscall(call, process, thread, signal, &raw const info) };
    super::check(result).map(drop)
}

/// Sends a plain signal.
pub fn kill(process: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    super::check(unsafe { libc::kill(process, signal) }.into()).map(drop)
}

/// Blocks every signal in the calling thread (and those it makes): sessions take signals by descriptor.
pub fn block_all() -> io::Result<()> {
    // SAFETY: a set that sigfillset initialises, no old set wanted.
    let result = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&mut set);
        libc::pthread_sigmask(libc::SIG_SETMASK, &set, std::ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(result))
    }
}

/// The kernel's view of a thread's signals, from `/proc/TID/status`.
#[derive(Debug, Clone, Copy, Default)]
pub struct State {
    /// Pending for the thread or its process.
    pub pending: u64,
    /// Blocked by the thread.
    pub blocked: u64,
    /// Ignored by the process.
    pub ignored: u64,
    /// Handled by the process.
    pub caught: u64,
}

/// Signals whose default action is nothing.
const DEFAULT_NOTHING: u64 =
    bit(libc::SIGCHLD) | bit(libc::SIGCONT) | bit(libc::SIGURG) | bit(libc::SIGWINCH);

/// Signals whose default action is to stop.
pub const STOPS: u64 = bit(libc::SIGSTOP) | bit(libc::SIGTSTP) | bit(libc::SIGTTIN) | bit(libc::SIGTTOU);

impl State {
    /// Reads the state of a thread.
    pub fn of(tid: i32) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{tid}/status"))?;
        let mut state = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let set = match key {
                "SigPnd" | "ShdPnd" => &mut state.pending,
                "SigBlk" => &mut state.blocked,
                "SigIgn" => &mut state.ignored,
                "SigCgt" => &mut state.caught,
                _ => continue,
            };
            *set |= u64::from_str_radix(value.trim(), 16).unwrap_or(0);
        }
        Ok(state)
    }

    /// Those of `set` that would interrupt the thread in a system call.
    pub fn interrupting(&self, set: u64) -> u64 {
        set & !self.blocked & !self.ignored & (self.caught | !DEFAULT_NOTHING)
    }

    /// Whether the signal is dropped when it is sent: its action is nothing, and it is not blocked.
    pub fn drops(&self, signal: i32) -> bool {
        let bit = bit(signal);
        let nothing = self.ignored | DEFAULT_NOTHING & !self.caught;
        bit & nothing & !self.blocked != 0
    }

    /// True if the signal's action is the default.
    pub fn is_default(&self, signal: i32) -> bool {
        (self.ignored | self.caught) & bit(signal) == 0
    }
}

/// A non-blocking descriptor that is readable when a child or guest has stopped or ended. `SIGCHLD` must be blocked.
pub fn child_descriptor() -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: the set is initialised before use, and the descriptor is new and ours.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        let fd = libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        super::check(fd.into())?;
        Ok(std::os::fd::OwnedFd::from_raw_fd(fd))
    }
}

/// Blocks `SIGCHLD` in the calling thread and gives a descriptor that reports it.
pub fn block_and_watch_children() -> io::Result<std::os::fd::OwnedFd> {
    // SAFETY: the set is initialised before use.
    let result = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut())
    };
    if result != 0 {
        return Err(io::Error::from_raw_os_error(result));
    }
    child_descriptor()
}

/// Sends a plain signal to one thread.
pub fn kill_thread(process: i32, thread: i32, signal: i32) -> io::Result<()> {
    // SAFETY: integers only.
    super::check(unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal) }).map(drop)
}
