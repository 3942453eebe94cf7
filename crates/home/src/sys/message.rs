//! Sending and receiving messages on sockets, as interruptible calls.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;

use afield_abi::sockets::{self, FILTER_INSTRUCTION_BYTES, FILTER_INSTRUCTIONS_MAX};
use afield_link::sys::{Data, Room};

use super::interrupt::{self, Flag};
use super::object::last_errno;

/// A message to be sent.
#[derive(Debug)]
pub struct Parcel<'a> {
    /// Address; `None` for NULL.
    pub name: Option<&'a [u8]>,
    /// Ancillary data in the kernel's form.
    pub control: &'a [u8],
    /// Contents.
    pub data: Data<'a>,
}

/// Room for a message, and after the call the message.
#[derive(Debug, Default)]
pub struct Letterbox {
    /// Room for the address, then the address; `None` for NULL.
    pub name: Option<Vec<u8>>,
    /// Length of the address, which may be more than the room.
    pub name_length: u32,
    /// Room for ancillary data, then what there is.
    pub control: Vec<u8>,
    /// Room for the contents; not cut.
    pub data: Vec<u8>,
    /// `MSG_*`.
    pub flags: u32,
}

fn result(value: i64) -> Result<usize, i32> {
    usize::try_from(value).map_err(|_| -value as i32)
}

/// `sendmsg`.
pub fn send(flag: &Flag, socket: BorrowedFd<'_>, parcel: &Parcel<'_>, flags: u32) -> Result<usize, i32> {
    let mut piece = libc::iovec {
        iov_base: parcel.data.start().cast_mut().cast(),
        iov_len: parcel.data.length(),
    };
    let name = parcel.name.unwrap_or_default();
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    if parcel.name.is_some() {
        message.msg_name = name.as_ptr().cast_mut().cast();
        message.msg_namelen = name.len() as u32;
    }
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    if !parcel.control.is_empty() {
        message.msg_control = parcel.control.as_ptr().cast_mut().cast();
        message.msg_controllen = parcel.control.len();
    }
    let arguments = [
        socket.as_raw_fd() as u64,
        &raw const message as u64,
        u64::from(flags),
        0,
        0,
        0,
    ];
    // SAFETY: the structure and everything that it points to live during the call, which only reads them.
    result(unsafe { interrupt::call(flag, libc::SYS_sendmsg, arguments) })
}

/// `recvmsg` into `room`, the contents to another place if there is one for them. Descriptors that come along are close-on-exec.
pub fn receive(
    flag: &Flag,
    socket: BorrowedFd<'_>,
    room: &mut Letterbox,
    contents: Option<Room<'_>>,
    flags: u32,
) -> Result<usize, i32> {
    let contents = contents.unwrap_or_else(|| room.data.as_mut_slice().into());
    let mut piece = libc::iovec {
        iov_base: contents.start().cast(),
        iov_len: contents.length(),
    };
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    if let Some(name) = &mut room.name {
        message.msg_name = name.as_mut_ptr().cast();
        message.msg_namelen = name.len() as u32;
    }
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = if room.control.is_empty() {
        null_mut()
    } else {
        room.control.as_mut_ptr().cast()
    };
    message.msg_controllen = room.control.len();
    // Only local sockets bring descriptors, and not all others know the flag.
    let is_local = !room.control.is_empty()
        && rustix::net::sockopt::socket_domain(socket)
            .is_ok_and(|domain| domain == rustix::net::AddressFamily::UNIX);
    let cloexec = if is_local {
        libc::MSG_CMSG_CLOEXEC as u32
    } else {
        0
    };
    let arguments = [
        socket.as_raw_fd() as u64,
        &raw mut message as u64,
        u64::from(flags | cloexec),
        0,
        0,
        0,
    ];
    // SAFETY: the structure and everything that it points to live during the call, with the lengths it says.
    let count = result(unsafe { interrupt::call(flag, libc::SYS_recvmsg, arguments) })?;
    room.name_length = message.msg_namelen;
    if let Some(name) = &mut room.name {
        name.truncate(message.msg_namelen as usize);
    }
    room.control.truncate(message.msg_controllen);
    room.flags = message.msg_flags as u32;
    if flags & libc::MSG_CMSG_CLOEXEC as u32 == 0 {
        room.flags &= !(libc::MSG_CMSG_CLOEXEC as u32);
    }
    Ok(count)
}

/// Takes the descriptors out of ancillary data that [`receive`] has brought, in order. In their places there are then their
/// indices, counted from `first`.
pub fn take_descriptors(control: &mut [u8], first: usize) -> Vec<OwnedFd> {
    let mut taken = Vec::new();
    // The kernel has written it.
    for piece in sockets::controls(control).unwrap_or_default() {
        if !piece.has_descriptors() {
            continue;
        }
        let (numbers, _) = control[piece.data()].as_chunks_mut::<4>();
        for number in numbers {
            let descriptor = RawFd::from_ne_bytes(*number);
            if descriptor < 0 {
                // `SCM_PIDFD` of a process that is gone.
                continue;
            }
            *number = ((first + taken.len()) as i32).to_ne_bytes();
            // SAFETY: the kernel has just made this descriptor for us, and nobody else has seen it.
            taken.push(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
    taken
}

/// Attaches a packet filter: `setsockopt` with these instructions.
pub fn attach_filter(socket: BorrowedFd<'_>, level: i32, name: i32, instructions: &[u8]) -> Result<i64, i32> {
    let count = instructions.len() / FILTER_INSTRUCTION_BYTES;
    if count > FILTER_INSTRUCTIONS_MAX || !instructions.len().is_multiple_of(FILTER_INSTRUCTION_BYTES) {
        return Err(libc::EINVAL);
    }
    // The kernel copies from any address, so alignment does not matter.
    let program = libc::sock_fprog {
        len: count as u16,
        filter: instructions.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the program's instructions live during the call and are only read.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const program).cast(),
            size_of_val(&program) as u32,
        )
    };
    if outcome < 0 { Err(last_errno()) } else { Ok(0) }
}

/// Whether the socket has a time-out for the direction (`SO_RCVTIMEO` or `SO_SNDTIMEO`).
pub fn has_timeout(socket: BorrowedFd<'_>, direction: i32) -> bool {
    let mut time = libc::timeval {
        tv_sec: 0,
        tv_usec: 0,
    };
    let mut length = size_of_val(&time) as u32;
    // SAFETY: the structure has the length that is said.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            direction,
            (&raw mut time).cast(),
            &raw mut length,
        )
    };
    outcome == 0 && (time.tv_sec, time.tv_usec) != (0, 0)
}

/// `fcntl` about the receiver of an open file's signals; `memory` is the structure of those commands that have one.
pub fn control(file: BorrowedFd<'_>, command: i32, number: i64, memory: &mut [u8; 8]) -> Result<i64, i32> {
    const F_SETSIG: i32 = 10;
    const F_GETSIG: i32 = 11;
    const F_SETOWN_EX: i32 = 15;
    const F_GETOWN_EX: i32 = 16;
    // SAFETY: the commands take a number, nothing, or a structure of two `int`s.
    let outcome = unsafe {
        match command {
            libc::F_SETOWN | libc::F_GETOWN | F_SETSIG | F_GETSIG => {
                libc::syscall(libc::SYS_fcntl, file.as_raw_fd(), command, number)
            }
            F_SETOWN_EX | F_GETOWN_EX => {
                libc::syscall(libc::SYS_fcntl, file.as_raw_fd(), command, memory.as_mut_ptr())
            }
            _ => return Err(libc::EINVAL),
        }
    };
    if outcome < 0 {
        Err(last_errno())
    } else {
        Ok(outcome)
    }
}
