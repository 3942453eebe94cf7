//! Signals: from the kernel to the guest.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Mutex;

use afield_abi::siginfo;
use rustix::io::Errno;

use super::{lock, out_of_the_way};
use crate::sys::signals::{self, Disposition, INFO_BYTES, Set, only};

/// Signals taken at one look.
const BATCH: usize = 8;

/// `si_code` of signals that the kernel sends by itself.
const SI_KERNEL: i32 = 0x80;

/// Gives the signals that arrive.
#[derive(Debug)]
pub struct SignalDescriptor {
    descriptor: OwnedFd,
    /// Threads that have `SIGTTIN`, and that have `SIGTTOU`, unblocked; see [`SignalDescriptor::with_job_control`].
    job_control: Mutex<[u32; 2]>,
    /// The guest's numbers of descriptors of which signals tell (`O_ASYNC`), by the deputy's.
    names: Mutex<HashMap<RawFd, i32>>,
}

/// What signals say that the kernel sends when a descriptor is ready: `POLL_IN` to `POLL_HUP`.
const READY_CODES: std::ops::RangeInclusive<i32> = 1..=6;
/// For which of them these codes mean something else.
const OTHERS: Set = only(libc::SIGCHLD)
    | only(libc::SIGILL)
    | only(libc::SIGFPE)
    | only(libc::SIGSEGV)
    | only(libc::SIGBUS)
    | only(libc::SIGTRAP)
    | only(libc::SIGSYS);
/// Offset of `si_fd`.
const DESCRIPTOR: usize = 24;

/// What the kernel sends to a process that uses its terminal from the background.
const BACKGROUND: Set = 1 << (libc::SIGTTIN - 1) | 1 << (libc::SIGTTOU - 1);

impl SignalDescriptor {
    /// For the calling process.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            descriptor: out_of_the_way(signals::descriptor(signals::ALL)?),
            job_control: Mutex::new([0; 2]),
            names: Mutex::default(),
        })
    }

    /// The descriptor, to wait on.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// Takes all signals that are here for the calling thread or the process.
    pub fn take<E>(&self, mut each: impl FnMut(&[u8; INFO_BYTES]) -> Result<(), E>) -> Result<(), E> {
        let caught = signals::take_caught();
        for signal in 1..=64 {
            if caught & only(signal) != 0 {
                let mut info = [0u8; INFO_BYTES];
                info[..4].copy_from_slice(&signal.to_le_bytes());
                info[8..12].copy_from_slice(&SI_KERNEL.to_le_bytes());
                each(&info)?;
            }
        }
        let mut bytes = [0u8; BATCH * INFO_BYTES];
        loop {
            let count = match rustix::io::read(&self.descriptor, &mut bytes) {
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                // EAGAIN: no more.
                Err(_) => return Ok(()),
            };
            let (infos, _) = bytes[..count].as_chunks::<INFO_BYTES>();
            for info in infos {
                let mut info = siginfo::from_descriptor(info);
                self.put_guests_number(&mut info);
                each(&info)?;
            }
            if infos.len() < BATCH {
                return Ok(());
            }
        }
    }

    /// Signals will tell of this descriptor, which is the guest's of that number.
    pub fn name(&self, file: BorrowedFd<'_>, number: i32) {
        lock(&self.names).insert(file.as_raw_fd(), number);
    }

    /// Whether signals may tell of this descriptor: the kernel goes on doing so by its number.
    pub fn is_named(&self, file: BorrowedFd<'_>) -> bool {
        lock(&self.names).contains_key(&file.as_raw_fd())
    }

    fn put_guests_number(&self, info: &mut [u8; INFO_BYTES]) {
        let word = |at: usize| i32::from_le_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        if !READY_CODES.contains(&word(8)) || OTHERS & only(word(0)) != 0 {
            return;
        }
        if let Some(number) = lock(&self.names).get(&word(DESCRIPTOR)) {
            info[DESCRIPTOR..DESCRIPTOR + 4].copy_from_slice(&number.to_le_bytes());
        }
    }

    /// Does something with a terminal as a process that hears the signals of background access which `catch` has: the kernel
    /// judges by that whether such access is signalled, refused or allowed. They are caught meanwhile, not taken from the
    /// descriptor, so that the access ends when one comes.
    pub fn with_job_control<T>(&self, catch: Set, access: impl FnOnce() -> T) -> T {
        let catch = catch & BACKGROUND;
        if catch == 0 {
            return access();
        }
        self.count_users(catch, |users| *users += 1);
        let old = signals::unblock(catch);
        let result = access();
        signals::set_blocked(old);
        self.count_users(catch, |users| *users -= 1);
        result
    }

    /// Changes how many threads have each of these signals unblocked, and what becomes of the signals with it.
    fn count_users(&self, catch: Set, change: impl Fn(&mut u32)) {
        let mut users = lock(&self.job_control);
        let mut caught = 0;
        for (signal, users) in [libc::SIGTTIN, libc::SIGTTOU].into_iter().zip(users.iter_mut()) {
            let before = *users > 0;
            if catch & only(signal) != 0 {
                change(users);
            }
            let after = *users > 0;
            if before != after {
                let disposition = if after {
                    Disposition::Catch
                } else {
                    Disposition::Default
                };
                let _ = signals::set_disposition(signal, disposition, 0);
            }
            if after {
                caught |= only(signal);
            }
        }
        signals::set_descriptor(self.descriptor.as_fd(), signals::ALL & !caught);
    }
}

/// What the guest wants to become of signals whose disposition home's kernel looks at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dispositions {
    /// Those that it ignores.
    ignored: Set,
}

impl Dispositions {
    /// Ignored from the start.
    pub fn add_ignored(&mut self, ignored: Set) {
        self.ignored |= ignored;
    }

    /// Whether the guest ignores it.
    pub fn ignores(&self, signal: i32) -> bool {
        self.ignored & only(signal) != 0
    }

    /// `rt_sigaction` with the kernel's structure.
    pub fn set(&mut self, signal: i32, action: &[u8]) -> Result<(), i32> {
        let (Some((handler, rest)), true) = (action.split_first_chunk::<8>(), (1..=64).contains(&signal))
        else {
            return Err(libc::EINVAL);
        };
        let flags = rest
            .first_chunk::<8>()
            .map_or(0, |flags| u64::from_le_bytes(*flags));
        let ignore = u64::from_le_bytes(*handler) == libc::SIG_IGN as u64;
        let kept = flags as i32 & (libc::SA_NOCLDWAIT | libc::SA_NOCLDSTOP);
        self.set_ignored(signal, ignore, kept)
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
    }

    /// A signal is ignored from now on, or not; with these flags, as far as home's kernel looks at them.
    pub fn set_ignored(&mut self, signal: i32, ignore: bool, kept: i32) -> std::io::Result<()> {
        if ignore {
            self.ignored |= only(signal);
        } else {
            self.ignored &= !only(signal);
        }
        let disposition = if ignore {
            Disposition::Ignore
        } else {
            Disposition::Default
        };
        signals::set_disposition(signal, disposition, kept)
    }

    /// The guest is another program: what was handled has its default again; what was ignored still is.
    pub fn reset(&mut self) {
        if !self.ignores(libc::SIGCHLD) {
            let _ = signals::set_disposition(libc::SIGCHLD, Disposition::Default, 0);
        }
    }
}
