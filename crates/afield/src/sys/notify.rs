//! The notify door's kernel features: seccomp user notifications.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use afield_abi::filter::SockFilter;

use super::check;

const IOCTL_RECV: libc::c_ulong = 0xc050_2100;
const IOCTL_SEND: libc::c_ulong = 0xc018_2101;
const IOCTL_ADD_DESCRIPTOR: libc::c_ulong = 0x4018_2103;
const FLAG_WAIT_KILLABLE_RECV: libc::c_ulong = 1 << 5;
const ADD_AND_SEND: u32 = 1 << 1;

/// `struct seccomp_notif`, as far as it matters.
#[derive(Default)]
#[repr(C)]
struct Notification {
    id: u64,
    rest: [u64; 9],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// `struct seccomp_notif_addfd`.
#[repr(C)]
struct AddDescriptor {
    id: u64,
    flags: u32,
    source: u32,
    target: u32,
    target_flags: u32,
}

/// Installs a filter on this process, without privilege, and returns its listener.
pub fn install(filter: &[SockFilter]) -> io::Result<RawFd> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the program points to `len` instructions, which the kernel only reads.
    let listener = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV,
            &raw const program,
        )
    })?;
    Ok(listener as RawFd)
}

/// A filter by which one call comes out.
pub fn filter_for(number: u32) -> [SockFilter; 4] {
    let instruction = |code: u32, jt, jf, k| SockFilter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

/// Takes descriptor `number` of another process.
pub fn take_descriptor(pidfd: &OwnedFd, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    let taken = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(taken as RawFd) })
}

/// Receives the next notification.
pub fn receive(listener: &OwnedFd) -> io::Result<u64> {
    let mut notification = Notification::default();
    // SAFETY: a structure of the kernel's size, zeroed as it demands.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_RECV, &raw mut notification) })?;
    let _ = notification.rest;
    Ok(notification.id)
}

/// Answers a notification with a value.
pub fn answer(listener: &OwnedFd, id: u64, value: i64) -> io::Result<()> {
    let response = Response {
        id,
        value,
        error: 0,
        flags: 0,
    };
    // SAFETY: a structure of the kernel's size, alive during the call.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_SEND, &raw const response) }).map(drop)
}

/// Answers a notification with a new descriptor for the caller.
pub fn answer_with_descriptor(listener: &OwnedFd, id: u64, source: &impl AsFd) -> io::Result<()> {
    let request = AddDescriptor {
        id,
        flags: ADD_AND_SEND,
        source: source.as_fd().as_raw_fd() as u32,
        target: 0,
        target_flags: 0,
    };
    // SAFETY: a structure of the kernel's size, alive during the call.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), IOCTL_ADD_DESCRIPTOR, &raw const request) }).map(drop)
}
