//! The notify door's kernel side: seccomp user notifications.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use afield_abi::filter::SockFilter;

/// `struct seccomp_notif`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Notification {
    /// Names the waiting call to the kernel.
    pub id: u64,
    /// The waiting thread, in the session's pid namespace.
    pub tid: u32,
    /// Zero.
    pub flags: u32,
    /// System call number.
    pub number: i32,
    /// `AUDIT_ARCH_*`.
    pub arch: u32,
    /// Where the call was made.
    pub instruction_pointer: u64,
    /// Argument registers.
    pub arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `AUDIT_ARCH_X86_64`.
pub const ARCH_X86_64: u32 = 0xc000_003e;

/// `SECCOMP_SET_MODE_FILTER`.
pub const SET_MODE_FILTER: u64 = 1;
/// `SECCOMP_FILTER_FLAG_TSYNC`.
pub const FLAG_ALL_THREADS: u64 = 1;
const FLAG_NEW_LISTENER: libc::c_ulong = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
const IOCTL_RECV: libc::c_ulong = 0xc050_2100;
const IOCTL_SEND: libc::c_ulong = 0xc018_2101;
const IOCTL_ID_VALID: libc::c_ulong = 0x4008_2102;
const IOCTL_ADD_DESCRIPTOR: libc::c_ulong = 0x4018_2103;
const IOCTL_SET_FLAGS: libc::c_ulong = 0x4008_2104;
const SYNC_WAKE_UP: libc::c_ulong = 1;
const RESPONSE_CONTINUE: u32 = 1;
const ADD_AT_NUMBER: u32 = 1;
const ADD_AND_ANSWER: u32 = 2;

/// How a notified call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The call returns this value, or this negated errno.
    Result(i64),
    /// The node's kernel executes the call.
    Continue,
}

/// What a wait for notifications brought.
#[derive(Debug, Clone, Copy)]
pub enum Received {
    /// A call.
    Call(Notification),
    /// None in time.
    Nothing,
    /// No process has the filter any more.
    End,
}

/// Installs a filter on the calling thread and returns its listener. The thread's kernel must let it: either
/// `CAP_SYS_ADMIN` in its user namespace or no-new-privileges.
pub fn install(filter: &[SockFilter]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const SockFilter,
    }
    let program = Program {
        length: u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: filter.as_ptr(),
    };
    // SAFETY: the program points to `length` instructions in the kernel's layout, alive during the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SET_MODE_FILTER,
            FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV,
            &raw const program,
        )
    };
    let listener = super::check(result)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as RawFd) })
}

/// The supervisor's end of a filter.
#[derive(Debug)]
pub struct Listener {
    descriptor: OwnedFd,
    /// Under which it is known, to init too.
    number: u32,
}

impl Listener {
    /// Adopts a listener descriptor.
    pub fn new(descriptor: OwnedFd, number: u32) -> Self {
        // Hand the CPU over to the guest at an answer. Older kernels do not know it and do without.
        // SAFETY: an ioctl on our descriptor with an integer argument.
        unsafe { libc::ioctl(descriptor.as_raw_fd(), IOCTL_SET_FLAGS, SYNC_WAKE_UP) };
        Self { descriptor, number }
    }

    /// Under which it is known.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Waits for the next notification, no longer than `limit`.
    pub fn receive(&self, limit: Option<Duration>) -> io::Result<Received> {
        loop {
            let mut poll = libc::pollfd {
                fd: self.descriptor.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            let limit = limit.map(|limit| libc::timespec {
                tv_sec: limit.as_secs() as libc::time_t,
                tv_nsec: limit.subsec_nanos().into(),
            });
            let limit = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
            // SAFETY: one pollfd and a time or none, alive during the call; no set of signals.
            let ready = unsafe { libc::ppoll(&mut poll, 1, limit, std::ptr::null()) };
            match super::check(libc::c_long::from(ready)) {
                Ok(0) => return Ok(Received::Nothing),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if poll.revents & libc::POLLIN == 0 {
                return Ok(Received::End);
            }
            let mut notification = Notification::default();
            // SAFETY: the structure is the kernel's, zeroed as it demands.
            let result =
                unsafe { libc::ioctl(self.descriptor.as_raw_fd(), IOCTL_RECV, &raw mut notification) };
            match super::check(libc::c_long::from(result)) {
                Ok(_) => return Ok(Received::Call(notification)),
                // The thread died, or was interrupted, between the two calls.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers a notification. False if its thread is gone.
    pub fn answer(&self, id: u64, answer: Answer) -> io::Result<bool> {
        let response = match answer {
            Answer::Result(value) if value < 0 => Response {
                id,
                value: 0,
                error: value as i32,
                flags: 0,
            },
            Answer::Result(value) => Response {
                id,
                value,
                error: 0,
                flags: 0,
            },
            Answer::Continue => Response {
                id,
                value: 0,
                error: 0,
                flags: RESPONSE_CONTINUE,
            },
        };
        // SAFETY: the structure is the kernel's and alive during the call.
        let result = unsafe { libc::ioctl(self.descriptor.as_raw_fd(), IOCTL_SEND, &raw const response) };
        match super::check(libc::c_long::from(result)) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the waiting process a copy of a descriptor, at its lowest free number; with `answer` the call returns that number.
    ///
    /// # Errors
    /// `EMFILE` if it has no room, `ENOENT` if it is gone.
    pub fn add_descriptor(
        &self,
        id: u64,
        descriptor: BorrowedFd<'_>,
        cloexec: bool,
        answer: bool,
    ) -> io::Result<i32> {
        self.add(
            id,
            descriptor,
            cloexec,
            if answer { ADD_AND_ANSWER } else { 0 },
            0,
        )
    }

    /// Puts a copy of a descriptor into the place of the one that the waiting process has under a number.
    ///
    /// # Errors
    /// `ENOENT` if it is gone.
    pub fn replace_descriptor(
        &self,
        id: u64,
        descriptor: BorrowedFd<'_>,
        cloexec: bool,
        number: u32,
    ) -> io::Result<()> {
        self.add(id, descriptor, cloexec, ADD_AT_NUMBER, number).map(drop)
    }

    fn add(
        &self,
        id: u64,
        descriptor: BorrowedFd<'_>,
        cloexec: bool,
        flags: u32,
        number: u32,
    ) -> io::Result<i32> {
        #[repr(C)]
        struct Addition {
            id: u64,
            flags: u32,
            source: u32,
            number: u32,
            number_flags: u32,
        }
        let addition = Addition {
            id,
            flags,
            source: descriptor.as_raw_fd() as u32,
            number,
            number_flags: if cloexec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // SAFETY: the structure is the kernel's and alive during the call.
        let result = unsafe {
            libc::ioctl(
                self.descriptor.as_raw_fd(),
                IOCTL_ADD_DESCRIPTOR,
                &raw const addition,
            )
        };
        super::check(libc::c_long::from(result)).map(|number| number as i32)
    }

    /// True while the call still waits, so that what was read of its thread's memory was really that thread's.
    pub fn is_waiting(&self, id: u64) -> bool {
        // SAFETY: a pointer to a live integer.
        unsafe { libc::ioctl(self.descriptor.as_raw_fd(), IOCTL_ID_VALID, &raw const id) == 0 }
    }
}

/// Whether descriptors of two processes are of the same open file.
pub fn same_open_file(one: (i32, u32), other: (i32, u32)) -> bool {
    const KCMP_FILE: i32 = 0;
    // SAFETY: integers only.
    unsafe { libc::syscall(libc::SYS_kcmp, one.0, other.0, KCMP_FILE, one.1, other.1) == 0 }
}

/// Copies descriptor `number` of the process behind `pidfd`.
pub fn steal_descriptor(pidfd: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) };
    let fd = super::check(result)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Copies descriptor `number` of a process. If it is a file of the world's root, only a process of the world may hold it.
pub fn descriptor_of(leader: i32, number: RawFd) -> io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(leader).ok_or(io::ErrorKind::InvalidInput)?;
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    steal_descriptor(std::os::fd::AsFd::as_fd(&pidfd), number)
}

/// Sets `O_DIRECT` on the open file behind descriptor `number` of a process: by a process of the world, which holds it meanwhile.
pub fn set_direct(leader: i32, number: RawFd) -> io::Result<()> {
    let file = descriptor_of(leader, number)?;
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags | rustix::fs::OFlags::DIRECT)?;
    Ok(())
}
