//! What the service expects of the session's agreement with its kernel.

use afield_abi::fuse::init_flag;

/// Without these the service's answers would be wrong.
pub const FLAGS_NEEDED: u64 = init_flag::INIT_EXTENDED
    | init_flag::ATOMIC_O_TRUNC
    | init_flag::BIG_WRITES
    // The service applies the umask, since it depends on the directory's access control list.
    | init_flag::DONT_MASK
    | init_flag::POSIX_LOCKS
    | init_flag::FLOCK_LOCKS
    | init_flag::HAS_IOCTL_DIRECTORY
    // Cached pages go when a file turns out to have changed.
    | init_flag::AUTO_INVALIDATE_DATA
    | init_flag::MAX_PAGES
    // Home's kernel removes set-id bits by itself.
    | init_flag::HANDLE_KILLPRIV_V2
    // The long form of a request.
    | init_flag::SETXATTR_EXTENDED;

/// These make things faster.
pub const FLAGS_WANTED: u64 = init_flag::ASYNC_READ
    | init_flag::ASYNC_DIRECT_IO
    | init_flag::PARALLEL_DIRECTORY_OPERATIONS
    | init_flag::DO_READDIRPLUS
    | init_flag::READDIRPLUS_AUTO
    | init_flag::DIRECT_IO_ALLOW_MMAP;

/// With these the answers would be wrong: writes that home does not see, permissions decided by the node, or targets of links
/// remembered for good.
pub const FLAGS_EXCLUDED: u64 = init_flag::WRITEBACK_CACHE
    | init_flag::POSIX_ACL
    | init_flag::CACHE_SYMLINKS
    | init_flag::EXPLICIT_INVALIDATE_DATA
    | init_flag::SUBMOUNTS;

/// Pages of 4 KiB in one request: [`DATA_BYTES_MAX`](super::DATA_BYTES_MAX).
pub const PAGES_MAX: u16 = 256;

const _: () = assert!(PAGES_MAX as usize * 4096 == super::DATA_BYTES_MAX);
const _: () = assert!(FLAGS_NEEDED & FLAGS_EXCLUDED == 0);
