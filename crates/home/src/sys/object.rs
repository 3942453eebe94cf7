//! Reading, writing and controlling what a deputy has open, as interruptible calls.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use afield_link::sys::{Data, Room};

use super::interrupt::{self, Flag};

/// The kernel's result as a value.
fn result(value: i64) -> Result<i64, i32> {
    if value < 0 { Err(-value as i32) } else { Ok(value) }
}

/// `read`, or `pread` at an offset.
pub fn read(flag: &Flag, file: BorrowedFd<'_>, room: &Room<'_>, offset: Option<i64>) -> Result<usize, i32> {
    let mut arguments = [
        file.as_raw_fd() as u64,
        room.start() as u64,
        room.length() as u64,
        0,
        0,
        0,
    ];
    let number = match offset {
        Some(offset) => {
            arguments[3] = offset as u64;
            libc::SYS_pread64
        }
        None => libc::SYS_read,
    };
    // SAFETY: reads into the room, no more than its length.
    result(unsafe { interrupt::call(flag, number, arguments) }).map(|count| count as usize)
}

/// `write`, or `pwrite` at an offset.
pub fn write(flag: &Flag, file: BorrowedFd<'_>, data: Data<'_>, offset: Option<i64>) -> Result<usize, i32> {
    let mut arguments = [
        file.as_raw_fd() as u64,
        data.start() as u64,
        data.length() as u64,
        0,
        0,
        0,
    ];
    let number = match offset {
        Some(offset) => {
            arguments[3] = offset as u64;
            libc::SYS_pwrite64
        }
        None => libc::SYS_write,
    };
    // SAFETY: writes from the data, no more than its length.
    result(unsafe { interrupt::call(flag, number, arguments) }).map(|count| count as usize)
}

/// `preadv2` that never waits. `EOPNOTSUPP` where the file cannot promise that.
pub fn read_now(file: BorrowedFd<'_>, room: &Room<'_>, offset: Option<i64>) -> Result<usize, i32> {
    let piece = libc::iovec {
        iov_base: room.start().cast(),
        iov_len: room.length(),
    };
    // SAFETY: the vector's one piece is the room.
    let count = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            &raw const piece,
            1,
            offset.unwrap_or(-1),
            libc::RWF_NOWAIT,
        )
    };
    usize::try_from(count).map_err(|_| last_errno())
}

/// `pwritev2` that never waits. `EOPNOTSUPP` where the file cannot promise that.
pub fn write_now(file: BorrowedFd<'_>, data: Data<'_>, offset: Option<i64>) -> Result<usize, i32> {
    let piece = libc::iovec {
        iov_base: data.start().cast_mut().cast(),
        iov_len: data.length(),
    };
    // SAFETY: the vector's one piece is the data, which is only read.
    let count = unsafe {
        libc::pwritev2(
            file.as_raw_fd(),
            &raw const piece,
            1,
            offset.unwrap_or(-1),
            libc::RWF_NOWAIT,
        )
    };
    usize::try_from(count).map_err(|_| last_errno())
}

/// `flock`: shared (`F_RDLCK`), exclusive (`F_WRLCK`) or none (`F_UNLCK`).
pub fn flock(flag: &Flag, file: BorrowedFd<'_>, kind: u32, wait: bool) -> Result<i64, i32> {
    let operation = match kind as i32 {
        libc::F_RDLCK => libc::LOCK_SH,
        libc::F_WRLCK => libc::LOCK_EX,
        libc::F_UNLCK => libc::LOCK_UN,
        _ => return Err(libc::EINVAL),
    };
    let operation = operation | if wait { 0 } else { libc::LOCK_NB };
    let arguments = [file.as_raw_fd() as u64, operation as u64, 0, 0, 0, 0];
    // SAFETY: integers only.
    result(unsafe { interrupt::call(flag, libc::SYS_flock, arguments) })
}

/// The errno of the call just made.
pub fn last_errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// An `ioctl` with memory. The caller has looked up that the command uses no more of it than there is.
///
/// # Safety
///
/// The command must read and write at most `memory`, and its contents must not be pointers.
unsafe fn control_raw(flag: &Flag, file: BorrowedFd<'_>, command: u32, argument: u64) -> Result<i64, i32> {
    let arguments = [file.as_raw_fd() as u64, u64::from(command), argument, 0, 0, 0];
    // SAFETY: the caller vouches.
    result(unsafe { interrupt::call(flag, libc::SYS_ioctl, arguments) })
}

/// What the argument of an `ioctl` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// A number (or nothing).
    Number,
    /// Memory of that many bytes, which contains no pointers.
    Memory(usize),
}

/// Commands that are executed for a guest. All others could make the kernel follow pointers that a node chose.
const COMMANDS: &[(u64, Operand)] = &[
    (libc::TCGETS, Operand::Memory(36)),
    (libc::TCSETS, Operand::Memory(36)),
    (libc::TCSETSW, Operand::Memory(36)),
    (libc::TCSETSF, Operand::Memory(36)),
    (libc::TCGETS2, Operand::Memory(44)),
    (libc::TCSETS2, Operand::Memory(44)),
    (libc::TCSETSW2, Operand::Memory(44)),
    (libc::TCSETSF2, Operand::Memory(44)),
    (libc::TCGETA, Operand::Memory(18)),
    (libc::TCSETA, Operand::Memory(18)),
    (libc::TCSETAW, Operand::Memory(18)),
    (libc::TCSETAF, Operand::Memory(18)),
    (libc::TCSBRK, Operand::Number),
    (libc::TCSBRKP, Operand::Number),
    (libc::TCXONC, Operand::Number),
    (libc::TCFLSH, Operand::Number),
    (libc::TIOCSBRK, Operand::Number),
    (libc::TIOCCBRK, Operand::Number),
    (libc::TIOCEXCL, Operand::Number),
    (libc::TIOCNXCL, Operand::Number),
    (libc::TIOCGEXCL, Operand::Memory(4)),
    (libc::TIOCSCTTY, Operand::Number),
    (libc::TIOCNOTTY, Operand::Number),
    (libc::TIOCGPGRP, Operand::Memory(4)),
    (libc::TIOCSPGRP, Operand::Memory(4)),
    (libc::TIOCGSID, Operand::Memory(4)),
    (libc::TIOCOUTQ, Operand::Memory(4)),
    (libc::TIOCSTI, Operand::Memory(1)),
    (libc::TIOCGWINSZ, Operand::Memory(8)),
    (libc::TIOCSWINSZ, Operand::Memory(8)),
    (libc::TIOCMGET, Operand::Memory(4)),
    (libc::TIOCMSET, Operand::Memory(4)),
    (libc::TIOCMBIS, Operand::Memory(4)),
    (libc::TIOCMBIC, Operand::Memory(4)),
    (libc::TIOCGSOFTCAR, Operand::Memory(4)),
    (libc::TIOCSSOFTCAR, Operand::Memory(4)),
    (libc::TIOCGETD, Operand::Memory(4)),
    (libc::TIOCGPTN, Operand::Memory(4)),
    (libc::TIOCSPTLCK, Operand::Memory(4)),
    (libc::TIOCGPTLCK, Operand::Memory(4)),
    (libc::TIOCGPKT, Operand::Memory(4)),
    (libc::TIOCPKT, Operand::Memory(4)),
    (libc::TIOCGDEV, Operand::Memory(4)),
    (libc::TIOCSIG, Operand::Number),
    (libc::TIOCVHANGUP, Operand::Number),
    (libc::TIOCCONS, Operand::Number),
    (libc::TIOCSETD, Operand::Memory(4)),
    (libc::TIOCGLCKTRMIOS, Operand::Memory(36)),
    (libc::TIOCSLCKTRMIOS, Operand::Memory(36)),
    (libc::TIOCGICOUNT, Operand::Memory(80)),
    (libc::TIOCMIWAIT, Operand::Number),
    // What pointers there are in these are numbers to the kernel.
    (libc::TIOCGSERIAL, Operand::Memory(72)),
    (libc::TIOCSSERIAL, Operand::Memory(72)),
    (libc::TIOCGRS485, Operand::Memory(32)),
    (libc::TIOCSRS485, Operand::Memory(32)),
    (libc::FIONREAD, Operand::Memory(4)),
    (libc::FIONBIO, Operand::Memory(4)),
    (libc::FIOASYNC, Operand::Memory(4)),
    // FIOSETOWN, SIOCSPGRP, FIOGETOWN, SIOCGPGRP, SIOCATMARK, SIOCGSTAMP, SIOCGSTAMPNS, SIOCOUTQNSD.
    (0x8901, Operand::Memory(4)),
    (0x8902, Operand::Memory(4)),
    (0x8903, Operand::Memory(4)),
    (0x8904, Operand::Memory(4)),
    (0x8905, Operand::Memory(4)),
    (0x8906, Operand::Memory(16)),
    (0x8907, Operand::Memory(16)),
    (0x894b, Operand::Memory(4)),
    // SIOCGIFNAME, and of an interface flags, addresses, metric, MTU, hardware address, index, queue length and map.
    (0x8910, Operand::Memory(40)),
    (0x8913, Operand::Memory(40)),
    (0x8914, Operand::Memory(40)),
    (0x8915, Operand::Memory(40)),
    (0x8916, Operand::Memory(40)),
    (0x8917, Operand::Memory(40)),
    (0x8918, Operand::Memory(40)),
    (0x8919, Operand::Memory(40)),
    (0x891a, Operand::Memory(40)),
    (0x891b, Operand::Memory(40)),
    (0x891c, Operand::Memory(40)),
    (0x891d, Operand::Memory(40)),
    (0x891e, Operand::Memory(40)),
    (0x8921, Operand::Memory(40)),
    (0x8922, Operand::Memory(40)),
    (0x8923, Operand::Memory(40)),
    (0x8924, Operand::Memory(40)),
    (0x8927, Operand::Memory(40)),
    (0x8933, Operand::Memory(40)),
    (0x8942, Operand::Memory(40)),
    (0x8943, Operand::Memory(40)),
    (0x8970, Operand::Memory(40)),
    // SIOCDARP, SIOCGARP, SIOCSARP.
    (0x8953, Operand::Memory(68)),
    (0x8954, Operand::Memory(68)),
    (0x8955, Operand::Memory(68)),
    // FIOQSIZE.
    (0x5460, Operand::Memory(8)),
    // FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR.
    (0x4008_6602, Operand::Memory(4)),
    (0x801c_581f, Operand::Memory(28)),
    (0x401c_5820, Operand::Memory(28)),
    // FS_IOC_GETFLAGS, FS_IOC_GETVERSION, BLKGETSIZE64, BLKSSZGET, BLKROGET, RNDGETENTCNT.
    (0x8008_6601, Operand::Memory(8)),
    (0x8008_7601, Operand::Memory(8)),
    (0x8008_1272, Operand::Memory(8)),
    (0x1268, Operand::Memory(4)),
    (0x125e, Operand::Memory(4)),
    (0x8004_5200, Operand::Memory(4)),
];

/// The operand of a command, if it is one that can be executed for a guest.
pub fn operand(command: u32) -> Option<Operand> {
    COMMANDS
        .iter()
        .find(|(number, _)| *number as u32 == command)
        .map(|(_, operand)| *operand)
}

/// An `ioctl` of the commands that [`operand`] knows; others fail with `ENOTTY`, and too little memory with `EFAULT`. The
/// memory holds what the command left there afterwards.
pub fn control(
    flag: &Flag,
    file: BorrowedFd<'_>,
    command: u32,
    number: u64,
    memory: &mut [u8],
) -> Result<i64, i32> {
    match operand(command) {
        None => Err(libc::ENOTTY),
        // SAFETY: the command takes a number.
        Some(Operand::Number) => unsafe { control_raw(flag, file, command, number) },
        Some(Operand::Memory(bytes)) if memory.len() < bytes => Err(libc::EFAULT),
        // SAFETY: the memory is as large as the command's structure, which has no pointers.
        Some(Operand::Memory(_)) => unsafe { control_raw(flag, file, command, memory.as_mut_ptr() as u64) },
    }
}

/// Lists the network's interfaces and their addresses: as many of the kernel's `struct ifreq` as fit `room` bytes. Without room, how
/// many bytes there are.
pub fn interfaces(socket: BorrowedFd<'_>, room: usize) -> Result<(i64, Vec<u8>), i32> {
    #[repr(C)]
    struct List {
        length: i32,
        address: *mut u8,
    }
    let mut bytes = vec![0u8; room];
    let mut list = List {
        length: i32::try_from(room).map_err(|_| libc::EINVAL)?,
        address: if room == 0 {
            std::ptr::null_mut()
        } else {
            bytes.as_mut_ptr()
        },
    };
    // SAFETY: the structure is the kernel's `struct ifconf`; it writes at most `length` bytes to the address.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFCONF, &raw mut list) } < 0 {
        return Err(last_errno());
    }
    bytes.truncate(list.length as usize);
    Ok((i64::from(list.length), bytes))
}

/// `fsync` or `fdatasync`.
pub fn sync(flag: &Flag, file: BorrowedFd<'_>, data_only: bool) -> Result<i64, i32> {
    let number = if data_only {
        libc::SYS_fdatasync
    } else {
        libc::SYS_fsync
    };
    // SAFETY: takes a number.
    result(unsafe { interrupt::call(flag, number, [file.as_raw_fd() as u64, 0, 0, 0, 0, 0]) })
}

/// `fallocate`.
pub fn allocate(flag: &Flag, file: BorrowedFd<'_>, mode: u64, offset: i64, length: i64) -> Result<i64, i32> {
    let arguments = [file.as_raw_fd() as u64, mode, offset as u64, length as u64, 0, 0];
    // SAFETY: takes numbers.
    result(unsafe { interrupt::call(flag, libc::SYS_fallocate, arguments) })
}

/// Opens a file by its path from a directory; close-on-exec.
pub fn open(flag: &Flag, directory: BorrowedFd<'_>, path: &CStr, flags: u32) -> Result<OwnedFd, i32> {
    let refused = (libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW) as u32;
    let flags = (flags & !refused) | libc::O_CLOEXEC as u32;
    let arguments = [
        directory.as_raw_fd() as u64,
        path.as_ptr() as u64,
        u64::from(flags),
        0,
        0,
        0,
    ];
    // SAFETY: the path ends with NUL, as its type says.
    let opened = result(unsafe { interrupt::call(flag, libc::SYS_openat, arguments) })?;
    // SAFETY: the call made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(opened as RawFd) })
}

/// A descriptor of the process at the other end of a socket; close-on-exec.
pub fn peer_process(socket: BorrowedFd<'_>) -> Result<OwnedFd, i32> {
    const SO_PEERPIDFD: i32 = 77;
    let mut number: i32 = -1;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: a live integer and its size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PEERPIDFD,
            (&raw mut number).cast(),
            &raw mut length,
        )
    };
    if result != 0 || number < 0 {
        return Err(std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO));
    }
    // SAFETY: the call made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A record lock by `fcntl`: `F_GETLK`, `F_SETLK` or `F_SETLKW`.
pub fn record_lock(
    flag: &Flag,
    file: BorrowedFd<'_>,
    command: i32,
    lock: &mut libc::flock,
) -> Result<i64, i32> {
    let arguments = [
        file.as_raw_fd() as u64,
        command as u64,
        std::ptr::from_mut(lock) as u64,
        0,
        0,
        0,
    ];
    // SAFETY: the commands that are passed take a `struct flock`.
    result(unsafe { interrupt::call(flag, libc::SYS_fcntl, arguments) })
}

/// The kernel's `struct stat`.
pub fn status(file: BorrowedFd<'_>) -> Result<[u8; 144], i32> {
    let mut status = [0u8; 144];
    // SAFETY: the structure has 144 bytes on x86-64.
    let outcome = unsafe { libc::syscall(libc::SYS_fstat, file.as_raw_fd(), status.as_mut_ptr()) };
    if outcome < 0 {
        Err(last_errno())
    } else {
        Ok(status)
    }
}

/// Sets the open-file flags that can be set.
pub fn set_flags(file: BorrowedFd<'_>, flags: u64) -> Result<i64, i32> {
    // SAFETY: takes numbers.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags as i32) };
    if outcome < 0 {
        Err(last_errno())
    } else {
        Ok(i64::from(outcome))
    }
}

/// The open-file flags.
pub fn flags(file: BorrowedFd<'_>) -> Result<i64, i32> {
    // SAFETY: takes numbers.
    let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if outcome < 0 {
        Err(last_errno())
    } else {
        Ok(i64::from(outcome))
    }
}

/// `lseek`.
pub fn seek(file: BorrowedFd<'_>, offset: i64, whence: u64) -> Result<i64, i32> {
    // SAFETY: takes numbers.
    let outcome = unsafe { libc::lseek(file.as_raw_fd(), offset, whence as i32) };
    if outcome < 0 {
        Err(last_errno())
    } else {
        Ok(outcome)
    }
}
