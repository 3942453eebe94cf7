//! fanotify, file handles and leases.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

type Result<T> = std::result::Result<T, Errno>;

/// Bytes of the largest file handle that Linux has.
pub const HANDLE_BYTES_MAX: usize = 128;

/// `AT_HANDLE_FID`: a handle that only has to be told from others, as events have them.
const AT_HANDLE_FID: libc::c_int = 0x200;

/// A file handle, as `name_to_handle_at` fills it.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; HANDLE_BYTES_MAX],
}

fn last_errno() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

fn check(result: libc::c_long) -> Result<i32> {
    if result < 0 {
        return Err(last_errno());
    }
    Ok(result as i32)
}

/// A group whose events say by handles and names what they are about.
pub fn new_group() -> Result<OwnedFd> {
    let flags =
        libc::FAN_CLASS_NOTIF | libc::FAN_NONBLOCK | libc::FAN_CLOEXEC | libc::FAN_REPORT_DFID_NAME_TARGET;
    // SAFETY: numbers only.
    let group = check(unsafe { libc::fanotify_init(flags, 0) }.into())?;
    // SAFETY: the call gave a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(group) })
}

fn change_mark(group: BorrowedFd<'_>, flags: libc::c_uint, mask: u64, path: &CStr) -> Result<()> {
    // SAFETY: `path` is a NUL-ended string.
    let result =
        unsafe { libc::fanotify_mark(group.as_raw_fd(), flags, mask, libc::AT_FDCWD, path.as_ptr()) };
    check(result.into()).map(drop)
}

/// Has events in `mask` on the inode at `path` (following links) come to the group.
pub fn add_mark(group: BorrowedFd<'_>, mask: u64, path: &CStr) -> Result<()> {
    change_mark(group, libc::FAN_MARK_ADD, mask, path)
}

/// The opposite.
pub fn remove_mark(group: BorrowedFd<'_>, mask: u64, path: &CStr) -> Result<()> {
    change_mark(group, libc::FAN_MARK_REMOVE, mask, path)
}

/// Takes all marks off.
pub fn remove_all_marks(group: BorrowedFd<'_>) -> Result<()> {
    change_mark(group, libc::FAN_MARK_FLUSH, 0, c"/")
}

/// The kind and the bytes of a file's handle, by any descriptor of it.
pub fn handle(file: BorrowedFd<'_>) -> Result<(i32, Vec<u8>)> {
    let mut raw = RawHandle {
        bytes: HANDLE_BYTES_MAX as u32,
        kind: 0,
        handle: [0; HANDLE_BYTES_MAX],
    };
    let mut mount: libc::c_int = 0;
    let mut ask = |flags: libc::c_int| {
        // SAFETY: the kernel reads an empty string, writes to the handle as many bytes as it is told that there are, and a number.
        check(unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                file.as_raw_fd(),
                c"".as_ptr(),
                &raw mut raw,
                &raw mut mount,
                flags,
            )
        })
    };
    match ask(libc::AT_EMPTY_PATH | AT_HANDLE_FID) {
        // Kernels before 6.5 know one kind only.
        Err(Errno::INVAL) => ask(libc::AT_EMPTY_PATH)?,
        other => other?,
    };
    let bytes = raw.handle.get(..raw.bytes as usize).ok_or(Errno::OVERFLOW)?;
    Ok((raw.kind, bytes.to_vec()))
}

/// The file system's kind (a magic number) and id, by any descriptor of a file on it.
pub fn file_system(file: BorrowedFd<'_>) -> Result<(u32, [u8; 8])> {
    let mut figures = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the kernel fills the record.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), figures.as_mut_ptr()) }.into())?;
    // SAFETY: the call succeeded.
    let figures = unsafe { figures.assume_init() };
    // SAFETY: the id is two plain numbers of 32 bits, whose fields are private.
    let id = unsafe { std::mem::transmute::<libc::fsid_t, [u8; 8]>(figures.f_fsid) };
    Ok((figures.f_type as u32, id))
}

/// Tries to get a lease, and gives it back at once.
fn try_lease(file: BorrowedFd<'_>, kind: libc::c_int) -> Result<()> {
    // SAFETY: numbers only.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) }.into())?;
    // SAFETY: numbers only.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) }.into()).map(drop)
}

/// Whether nobody has the file open for writing but perhaps through this descriptor, which then has to be the only one.
pub fn is_unwritten(file: BorrowedFd<'_>, writable: bool) -> Result<bool> {
    let kind = if writable { libc::F_WRLCK } else { libc::F_RDLCK };
    match try_lease(file, kind) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::BUSY) => Ok(false),
        Err(errno) => Err(errno),
    }
}

extern "C" fn nothing(_: libc::c_int) {}

/// Has the signal that a lease's holder gets mean nothing: leases are held for a moment only.
pub fn expect_lease_signals() {
    // SAFETY: the record is plain numbers; the handler does nothing, and programs that are executed do not inherit it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        libc::sigaction(libc::SIGIO, &raw const action, std::ptr::null_mut());
    }
}
