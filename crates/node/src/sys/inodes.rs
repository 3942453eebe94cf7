//! What files are that other processes have open, without opening them.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Kind of the handles that FUSE gives out: a node id, high half first, and its generation.
const FUSE_KIND: i32 = 0x81;

/// The kernel's `struct file_handle`, with room for FUSE's.
#[derive(Debug, Default)]
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    words: [u32; 3],
}

/// The mount of the file to which a path leads, links followed, and its node id if it is FUSE's; `None` if it is not, or cannot be
/// reached. FUSE's server is not asked.
pub fn fuse_node(path: &CStr) -> Option<(u64, u64)> {
    fuse_node_at(libc::AT_FDCWD, path, libc::AT_SYMLINK_FOLLOW)
}

/// The same of an open file.
pub fn fuse_node_of(file: BorrowedFd<'_>) -> Option<(u64, u64)> {
    fuse_node_at(file.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
}

fn fuse_node_at(directory: RawFd, path: &CStr, flags: i32) -> Option<(u64, u64)> {
    let mut handle = Handle {
        bytes: size_of::<[u32; 3]>() as u32,
        ..Handle::default()
    };
    let mut mount = 0i32;
    // SAFETY: the path ends with NUL; the handle has room for as many bytes as it says, which the kernel does not exceed.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            directory,
            path.as_ptr(),
            &raw mut handle,
            &raw mut mount,
            flags,
        )
    };
    let is_fuse = outcome == 0 && handle.kind == FUSE_KIND && handle.bytes as usize == size_of::<[u32; 3]>();
    let node = u64::from(handle.words[0]) << 32 | u64::from(handle.words[1]);
    is_fuse.then_some((u64::from(mount.unsigned_abs()), node))
}
