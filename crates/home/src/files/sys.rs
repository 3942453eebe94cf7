//! System calls that `rustix` does not offer, or not in the form needed.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use afield_link::sys::{Data, Room};
use rustix::io::{Errno, ReadWriteFlags};

type Result<T> = std::result::Result<T, Errno>;

/// The error of the libc call that just returned -1.
fn last_errno() -> Errno {
    Errno::from_raw_os_error(
        std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}

fn check(result: libc::c_long) -> Result<usize> {
    usize::try_from(result).map_err(|_| last_errno())
}

/// `pread` of at most `size` bytes, appended to `target`. Gives the count; 0 is the end of the file.
pub fn read_append(file: BorrowedFd<'_>, target: &mut Vec<u8>, size: usize, offset: u64) -> Result<usize> {
    target.reserve(size);
    let spare = &mut target.spare_capacity_mut()[..size];
    let (filled, _) = rustix::io::pread(file, spare, offset)?;
    let count = filled.len();
    // SAFETY: `pread` initialised `count` bytes from the vector's end on, within its capacity.
    unsafe { target.set_len(target.len() + count) };
    Ok(count)
}

/// `pread` of at most as much as the room has. Gives the count; 0 is the end of the file.
pub fn read_to(file: BorrowedFd<'_>, room: &Room<'_>, offset: u64) -> Result<usize> {
    // SAFETY: the kernel writes to the room, no more than its length.
    let count = unsafe {
        libc::pread(
            file.as_raw_fd(),
            room.start().cast(),
            room.length(),
            offset as i64,
        )
    };
    check(count as libc::c_long)
}

/// `pwrite`, or `pwritev2` with flags.
pub fn write(file: BorrowedFd<'_>, data: Data<'_>, offset: u64, how: ReadWriteFlags) -> Result<usize> {
    let piece = libc::iovec {
        iov_base: data.start().cast_mut().cast(),
        iov_len: data.length(),
    };
    let (number, offset) = (file.as_raw_fd(), offset as i64);
    let count = match how.is_empty() {
        // SAFETY: the kernel reads the data, no more than its length.
        true => unsafe { libc::pwrite(number, piece.iov_base, piece.iov_len, offset) },
        // SAFETY: the same, as the vector's one piece.
        false => unsafe { libc::pwritev2(number, &raw const piece, 1, offset, how.bits() as i32) },
    };
    check(count as libc::c_long)
}

/// `getdents64`: fills `buffer` with directory records and gives their bytes; 0 is the end.
pub fn directory_records(directory: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`.
    check(unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    })
}

/// `truncate` by path.
pub fn truncate(path: &CStr, size: u64) -> Result<()> {
    let size = i64::try_from(size).map_err(|_| Errno::INVAL)?;
    // SAFETY: `path` is a NUL-ended string.
    check(unsafe { libc::truncate(path.as_ptr(), size) }.into()).map(drop)
}

/// `close` with its error, which network file systems use to report failed writes.
pub fn close(file: OwnedFd) -> Result<()> {
    // SAFETY: the descriptor was owned and is given up here.
    check(unsafe { libc::close(file.into_raw_fd()) }.into()).map(drop)
}

/// Gives the calling thread its own umask, working directory and root.
pub fn unshare_file_context() -> Result<()> {
    // SAFETY: affects only what the calling thread shares with others; no memory is touched.
    check(unsafe { libc::unshare(libc::CLONE_FS) }.into()).map(drop)
}

/// `ioctl` whose argument points to memory of exactly the size that the command reads or writes, which the caller
/// guarantees by taking both from one table.
pub fn ioctl(file: impl AsFd, command: u32, memory: &mut [u8]) -> Result<i32> {
    // SAFETY: `memory` is valid for reads and writes of the command's size, as the contract says.
    let result = check(
        unsafe {
            libc::ioctl(
                file.as_fd().as_raw_fd(),
                libc::c_ulong::from(command),
                memory.as_mut_ptr(),
            )
        }
        .into(),
    )?;
    Ok(result as i32)
}

/// `fcntl` with one of the open-file-description lock commands.
pub fn description_lock(file: BorrowedFd<'_>, command: i32, lock: &mut libc::flock) -> Result<()> {
    assert!(matches!(
        command,
        libc::F_OFD_GETLK | libc::F_OFD_SETLK | libc::F_OFD_SETLKW
    ));
    // SAFETY: these commands take a pointer to a `struct flock`, which `lock` is.
    check(unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) }.into()).map(drop)
}

/// `struct if_dqblk`: limits, use and times.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Quota {
    block_hard_limit: u64,
    block_soft_limit: u64,
    others: [u64; 6],
    valid: u32,
    padding: u32,
}

/// `struct fsxattr`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct ExtendedFlags {
    flags: u32,
    extent_bytes: u32,
    extents: u32,
    project: u32,
    rest: [u32; 3],
}

/// Whether the space that a file may take is limited for its owner, group or project, as far as that can be seen; true if it
/// might be.
pub fn has_quota(file: BorrowedFd<'_>) -> bool {
    /// `Q_GETQUOTA`, above the kind of quota.
    const GET: u32 = 0x0080_0007 << 8;
    /// `FS_IOC_FSGETXATTR`.
    const GET_FLAGS: libc::c_ulong = 0x801c_581f;
    let Ok(status) = rustix::fs::fstat(file) else {
        return true;
    };
    for (kind, id) in [(0, status.st_uid), (1, status.st_gid)] {
        let mut quota = Quota::default();
        // SAFETY: the command fills one `struct if_dqblk`, which `quota` is.
        let got = check(unsafe {
            libc::syscall(
                libc::SYS_quotactl_fd,
                file.as_raw_fd(),
                GET | kind,
                id,
                &raw mut quota,
            )
        });
        match got {
            Ok(_) if quota.block_hard_limit == 0 && quota.block_soft_limit == 0 => {}
            // There is no such thing here, or nobody may use it.
            Err(Errno::SRCH | Errno::NOSYS | Errno::NOTTY | Errno::INVAL | Errno::OPNOTSUPP) => {}
            _ => return true,
        }
    }
    let mut flags = ExtendedFlags::default();
    // SAFETY: the command fills one `struct fsxattr`, which `flags` is.
    let got = check(unsafe { libc::ioctl(file.as_raw_fd(), GET_FLAGS, &raw mut flags) }.into());
    got.is_ok() && flags.project != 0
}

/// Sets the calling thread's file-system user id; an error if the kernel refused.
pub fn set_file_user(uid: u32) -> Result<()> {
    // SAFETY: plain numbers; the raw call changes the calling thread only.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsuid, uid);
        libc::syscall(libc::SYS_setfsuid, u32::MAX)
    };
    if now == libc::c_long::from(uid) {
        Ok(())
    } else {
        Err(Errno::PERM)
    }
}

/// Sets the calling thread's file-system group id; an error if the kernel refused.
pub fn set_file_group(gid: u32) -> Result<()> {
    // SAFETY: plain numbers; the raw call changes the calling thread only.
    let now = unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsgid, u32::MAX)
    };
    if now == libc::c_long::from(gid) {
        Ok(())
    } else {
        Err(Errno::PERM)
    }
}

/// Sets the calling thread's supplementary groups.
pub fn set_thread_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the kernel reads `groups.len()` numbers; the raw call changes the calling thread only.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// A thread's capability sets, as `capget` has them.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct CapabilitySets {
    sets: [[u32; 3]; 2],
}

impl CapabilitySets {
    /// The same sets with only these capabilities (bit numbers below 32) effective.
    pub fn with_effective(mut self, capabilities: u32) -> Self {
        self.sets[0][0] = capabilities & self.sets[0][1];
        self.sets[1][0] = 0;
        self
    }
}

/// `_LINUX_CAPABILITY_VERSION_3` and "the calling thread".
const CAPABILITY_HEADER: [u32; 2] = [0x2008_0522, 0];

/// Capabilities of the calling thread.
pub fn thread_capabilities() -> Result<CapabilitySets> {
    let mut header = CAPABILITY_HEADER;
    let mut sets = CapabilitySets::default();
    // SAFETY: version 3 has a header of two and data of two times three 32-bit numbers.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), &raw mut sets) })?;
    Ok(sets)
}

/// Sets the capabilities of the calling thread.
pub fn set_thread_capabilities(sets: &CapabilitySets) -> Result<()> {
    let mut header = CAPABILITY_HEADER;
    // SAFETY: version 3 has a header of two and data of two times three 32-bit numbers.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), std::ptr::from_ref(sets)) }).map(drop)
}

/// How often the calling thread has waited for something. That others had the processor meanwhile does not count.
pub fn waits() -> i64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills a structure of its own layout, for which zeros are values, too.
    unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init().ru_nvcsw
    }
}
