//! Looking at, reading and writing a TCP connection without waiting, for who does so in a guest's name.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Of `include/uapi/asm-generic/socket.h` and `linux/sock_diag.h`.
const SO_MEMINFO: i32 = 55;
const MEMINFO_COUNT: usize = 9;
const MEMINFO_RMEM_ALLOC: usize = 0;
const MEMINFO_RCVBUF: usize = 1;
const MEMINFO_SNDBUF: usize = 3;
const MEMINFO_WMEM_QUEUED: usize = 5;

fn outcome(count: isize) -> Result<usize, i32> {
    usize::try_from(count).map_err(|_| io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

fn option<T: Copy>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &mut T) -> Result<usize, i32> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: a live value of plain bytes and its size; the kernel writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_mut(value).cast(),
            &raw mut length,
        )
    };
    outcome(result as isize).map(|_| length as usize)
}

/// Bytes of the kernel's memory that the connection can take before it is no longer ready to be written.
pub fn room(socket: BorrowedFd<'_>) -> u64 {
    let mut info = [0u32; MEMINFO_COUNT];
    match option(socket, libc::SOL_SOCKET, SO_MEMINFO, &mut info) {
        // `sk_stream_is_writeable` wants a third of all to be free.
        Ok(_) => (u64::from(info[MEMINFO_SNDBUF]) * 2 / 3).saturating_sub(info[MEMINFO_WMEM_QUEUED].into()),
        Err(_) => 0,
    }
}

/// How much has come and has not been taken.
///
/// # Errors
/// The errno.
pub fn waiting(socket: BorrowedFd<'_>) -> Result<usize, i32> {
    let count = rustix::io::ioctl_fionread(socket).map_err(rustix::io::Errno::raw_os_error)?;
    usize::try_from(count).map_err(|_| libc::EIO)
}

/// Makes room for what a reader who is far away leaves waiting, up to `most` bytes, if more than half of the room there is is taken. Home's
/// kernel does so by itself for readers who take what comes: it measures how long that takes from the other end of the connection, which is
/// near.
pub fn grow(socket: BorrowedFd<'_>, most: usize) {
    let mut info = [0u32; MEMINFO_COUNT];
    if option(socket, libc::SOL_SOCKET, SO_MEMINFO, &mut info).is_err() {
        return;
    }
    let (taken, room) = (info[MEMINFO_RMEM_ALLOC], info[MEMINFO_RCVBUF]);
    if taken <= room / 2 || room as usize >= 2 * most {
        return;
    }
    // Wanting so much at once makes room for twice of it, but where it has been fixed. It is wanted for this moment only, in which
    // nobody reads: guests ask the agent first, and what others have is not told of.
    for wanted in [(room as usize).min(most) as i32, 1] {
        // SAFETY: reads the value.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                std::ptr::from_ref(&wanted).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        if result < 0 {
            return;
        }
    }
}

/// Whether its bytes are what comes and goes, and its readiness speaks of single ones.
pub fn is_plain(socket: BorrowedFd<'_>) -> bool {
    let number = |level, name, default| {
        let mut value = 0i32;
        option(socket, level, name, &mut value).map_or(default, |_| value)
    };
    let mut protocol = [0u8; 16];
    let upper = option(socket, libc::SOL_TCP, libc::TCP_ULP, &mut protocol).unwrap_or(0);
    number(libc::SOL_SOCKET, libc::SO_RCVLOWAT, 1) <= 1
        // Unset it is 0, or all ones.
        && matches!(number(libc::SOL_TCP, libc::TCP_NOTSENT_LOWAT, 0), 0 | -1)
        && (upper == 0 || protocol[0] == 0)
}

/// What has happened on a connection so far, to be compared: what was received, its state, what it is ready for.
pub type Course = (u64, u8, u16);

/// The connection's course so far.
pub fn course(socket: BorrowedFd<'_>, ready: u16) -> Course {
    let (received, state) = progress(socket).unwrap_or_default();
    (received, state, ready)
}

/// How much has come on the connection since it was made, and its state.
fn progress(socket: BorrowedFd<'_>) -> Result<(u64, u8), i32> {
    /// Of `struct tcp_info`: `tcpi_state` and `tcpi_bytes_received`.
    const STATE: usize = 0;
    const RECEIVED: usize = 128;
    let mut info = [0u8; RECEIVED + 8];
    // An older kernel fills less.
    option(socket, libc::SOL_TCP, libc::TCP_INFO, &mut info)?;
    let received = info[RECEIVED..].first_chunk().copied().unwrap_or_default();
    Ok((u64::from_ne_bytes(received), info[STATE]))
}

/// How much has come on the connection since it was made. The end counts, too.
///
/// # Errors
/// The errno.
pub fn received(socket: BorrowedFd<'_>) -> Result<u64, i32> {
    progress(socket).map(|(received, _)| received)
}

/// How much of that has been taken so far, if nobody takes anything now.
///
/// # Errors
/// The errno; `EAGAIN` if it comes too fast to tell.
pub fn taken(socket: BorrowedFd<'_>) -> Result<u64, i32> {
    const LOOKS: usize = 64;
    let mut before = received(socket)?;
    for _ in 0..LOOKS {
        let there = waiting(socket)?;
        let after = received(socket)?;
        if before == after {
            return before.checked_sub(there as u64).ok_or(libc::EIO);
        }
        before = after;
    }
    Err(libc::EAGAIN)
}

/// Whether neither end has shut it.
pub fn is_whole(socket: BorrowedFd<'_>) -> bool {
    const TCP_ESTABLISHED: u8 = 1;
    let mut state = 0u8;
    option(socket, libc::SOL_TCP, libc::TCP_INFO, &mut state).is_ok() && state == TCP_ESTABLISHED
}

/// Copies what has come, without taking it: nothing at the end.
///
/// # Errors
/// The errno; `EAGAIN` if there is nothing.
pub fn peek(socket: BorrowedFd<'_>, room: &mut [u8]) -> Result<usize, i32> {
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the kernel writes no more than the room's length there.
    outcome(unsafe { libc::recv(socket.as_raw_fd(), room.as_mut_ptr().cast(), room.len(), flags) })
}

/// Takes bytes that have come, without copying them.
///
/// # Errors
/// The errno.
pub fn consume(socket: BorrowedFd<'_>, count: usize) -> Result<usize, i32> {
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    let nowhere = std::ptr::dangling_mut();
    // SAFETY: TCP writes nothing with this flag, as tcp(7) says, and `is_plain` has seen that it is TCP alone.
    outcome(unsafe { libc::recv(socket.as_raw_fd(), nowhere, count, flags) })
}

/// Writes without waiting, and without a signal.
///
/// # Errors
/// The errno.
pub fn append(socket: BorrowedFd<'_>, data: &[u8]) -> Result<usize, i32> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: reads the data.
    outcome(unsafe { libc::send(socket.as_raw_fd(), data.as_ptr().cast(), data.len(), flags) })
}
