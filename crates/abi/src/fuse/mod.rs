//! The format of FUSE messages, as in the kernel's `include/uapi/linux/fuse.h`, major version 7.
//!
//! Everything is in native byte order: both ends of a link are x86-64. Records are plain data without implicit padding;
//! a request is a [`RequestHeader`], the record of its [`Opcode`] and then names (each ended by a NUL) or data. A reply is a
//! [`ReplyHeader`], the reply's record and then data. A notification is a [`ReplyHeader`] whose `unique` is zero and
//! whose `error` is a [`Notification`], with its record.
//!
//! In records, `handle` is the server's number of an open file or directory (`fh` in the kernel), `node` the server's
//! number of an inode (`nodeid`), and times are seconds since the epoch with nanoseconds apart.

mod records;

pub use records::*;

/// Major version of the protocol.
pub const VERSION_MAJOR: u32 = 7;

/// Minor version that these records follow. Later ones only add to it.
pub const VERSION_MINOR: u32 = 40;

/// The minor version since which a name can expire without being given up (`EXPIRE_ONLY`).
pub const MINOR_OF_EXPIRY: u32 = 38;

/// The node id of the mount's root directory.
pub const ROOT_NODE: u64 = 1;

/// Least size of a buffer to read requests into, in bytes.
pub const READ_BUFFER_BYTES_MIN: usize = 8192;

/// Longest name of a directory entry, in bytes without its NUL.
pub const NAME_BYTES_MAX: usize = 1024;

/// Directory entries are padded to a multiple of this many bytes.
pub const ENTRY_ALIGNMENT: usize = 8;

macro_rules! opcodes {
    ($($(#[$meta:meta])* $name:ident = $value:literal,)*) => {
        /// What a request asks for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Opcode {
            $($(#[$meta])* $name = $value,)*
        }

        impl Opcode {
            /// Every opcode, in ascending order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Reads the number in a [`RequestHeader`].
            pub fn from_wire(value: u32) -> Option<Self> {
                Some(match value {
                    $($value => Self::$name,)*
                    _ => return None,
                })
            }
        }
    };
}

opcodes! {
    /// Find a name in a directory: a name, reply [`EntryReply`].
    Lookup = 1,
    /// Lookups of a node are forgotten: [`ForgetRequest`], no reply.
    Forget = 2,
    /// Attributes of a node: [`GetAttributesRequest`], reply [`AttributesReply`].
    GetAttributes = 3,
    /// Change attributes: [`SetAttributesRequest`], reply [`AttributesReply`].
    SetAttributes = 4,
    /// Target of a symbolic link; the reply is the target without a NUL.
    ReadLink = 5,
    /// Make a symbolic link: its name, then its target, reply [`EntryReply`].
    SymbolicLink = 6,
    /// Make a file, FIFO, socket or device: [`MakeNodeRequest`] and a name, reply [`EntryReply`].
    MakeNode = 8,
    /// Make a directory: [`MakeDirectoryRequest`] and a name, reply [`EntryReply`].
    MakeDirectory = 9,
    /// Remove a name that is not a directory's: a name, no record in the reply.
    Unlink = 10,
    /// Remove an empty directory: a name, no record in the reply.
    RemoveDirectory = 11,
    /// [`RenameRequest`], old name, new name; no record in the reply.
    Rename = 12,
    /// Make a hard link: [`LinkRequest`] and a name, reply [`EntryReply`].
    Link = 13,
    /// Open a file: [`OpenRequest`], reply [`OpenReply`].
    Open = 14,
    /// [`ReadRequest`]; the reply is data.
    Read = 15,
    /// [`WriteRequest`] and data, reply [`WriteReply`].
    Write = 16,
    /// Figures of the file system, reply [`FileSystemReply`].
    FileSystem = 17,
    /// An open file's last reference is gone: [`ReleaseRequest`], no record in the reply.
    Release = 18,
    /// [`SyncRequest`], no record in the reply.
    Sync = 20,
    /// [`SetExtendedRequest`], name and value; no record in the reply.
    SetExtended = 21,
    /// [`GetExtendedRequest`] and a name; the reply is the value, or [`GetExtendedReply`] if the size was zero.
    GetExtended = 22,
    /// [`GetExtendedRequest`]; the reply is NUL-ended names, or [`GetExtendedReply`] if the size was zero.
    ListExtended = 23,
    /// A name; no record in the reply.
    RemoveExtended = 24,
    /// A process closed one of its descriptors: [`FlushRequest`], no record in the reply.
    Flush = 25,
    /// Start of the conversation: [`InitRequest`], reply [`InitReply`].
    Init = 26,
    /// Open a directory: [`OpenRequest`], reply [`OpenReply`].
    OpenDirectory = 27,
    /// [`ReadRequest`]; the reply is [`DirectoryEntry`] records with names, each padded.
    ReadDirectory = 28,
    /// As [`Opcode::Release`], for a directory.
    ReleaseDirectory = 29,
    /// As [`Opcode::Sync`], for a directory.
    SyncDirectory = 30,
    /// Who would conflict with a lock: [`LockRequest`], reply [`LockReply`].
    GetLock = 31,
    /// Take or drop a lock without waiting: [`LockRequest`], no record in the reply.
    SetLock = 32,
    /// Take or drop a lock and wait for it: [`LockRequest`], no record in the reply.
    SetLockWait = 33,
    /// May the caller access this node: [`AccessRequest`], no record in the reply.
    Access = 34,
    /// Make and open a file: [`CreateRequest`] and a name, reply [`EntryReply`] followed by [`OpenReply`].
    Create = 35,
    /// A request's caller has a signal: [`InterruptRequest`], no reply.
    Interrupt = 36,
    /// Map a block of a file (block-device mounts only): [`BlockMapRequest`].
    BlockMap = 37,
    /// The mount is gone.
    Destroy = 38,
    /// [`IoctlRequest`] and data, reply [`IoctlReply`] and data.
    Ioctl = 39,
    /// [`PollRequest`], reply [`PollReply`].
    Poll = 40,
    /// Data that a [`Notification::Retrieve`] asked for; no reply.
    NotifyReply = 41,
    /// Many lookups are forgotten: [`BatchForgetRequest`] and [`ForgetOne`] records, no reply.
    BatchForget = 42,
    /// [`AllocateRequest`], no record in the reply.
    Allocate = 43,
    /// [`ReadRequest`]; the reply is [`DirectoryEntryPlus`] records with names, each padded.
    ReadDirectoryPlus = 44,
    /// [`Rename2Request`], old name, new name; no record in the reply.
    Rename2 = 45,
    /// `SEEK_DATA` and `SEEK_HOLE`: [`SeekRequest`], reply [`SeekReply`].
    Seek = 46,
    /// [`CopyRangeRequest`], reply [`WriteReply`].
    CopyRange = 47,
    /// Map a file into a DAX window; not used here.
    SetupMapping = 48,
    /// Unmap from a DAX window; not used here.
    RemoveMapping = 49,
    /// Write out the whole file system: 8 bytes of nothing, no record in the reply.
    SyncFileSystem = 50,
    /// Make and open a file without a name: [`CreateRequest`], reply [`EntryReply`] followed by [`OpenReply`].
    TemporaryFile = 51,
    /// `statx` beyond plain attributes: [`StatxRequest`], reply [`StatxReply`].
    Statx = 52,
    /// [`CopyRangeRequest`], reply [`CopyRange64Reply`].
    CopyRange64 = 53,
}

impl Opcode {
    /// True for requests that give, take or move names in directories.
    pub fn changes_names(self) -> bool {
        matches!(
            self,
            Self::Create
                | Self::MakeNode
                | Self::MakeDirectory
                | Self::SymbolicLink
                | Self::Link
                | Self::Unlink
                | Self::RemoveDirectory
                | Self::Rename
                | Self::Rename2
        )
    }
}

/// What a server tells the kernel unasked; the number stands in [`ReplyHeader::error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Notification {
    /// A polled file may have become ready: [`NotifyPoll`].
    Poll = 1,
    /// Drop a node's cached attributes and data: [`NotifyInvalidateNode`].
    InvalidateNode = 2,
    /// Drop a cached name: [`NotifyInvalidateEntry`], name and NUL.
    InvalidateEntry = 3,
    /// Put data into a file's cache: [`NotifyStore`] and data.
    Store = 4,
    /// Ask for data in a file's cache: [`NotifyRetrieve`].
    Retrieve = 5,
    /// A name is gone, and its node with it if that is not in use: [`NotifyDelete`], name and NUL.
    Delete = 6,
    /// Send pending requests again.
    Resend = 7,
}

/// Bits of [`InitRequest::flags`] and [`InitReply::flags`] (low half) with `flags2` (high half).
pub mod init_flag {
    /// Several reads of a file at once.
    pub const ASYNC_READ: u64 = 1 << 0;
    /// POSIX record locks are the server's.
    pub const POSIX_LOCKS: u64 = 1 << 1;
    /// `O_TRUNC` is passed to the server's open.
    pub const ATOMIC_O_TRUNC: u64 = 1 << 3;
    /// The server looks up "." and "..".
    pub const EXPORT_SUPPORT: u64 = 1 << 4;
    /// Writes may exceed 4 KiB.
    pub const BIG_WRITES: u64 = 1 << 5;
    /// The server applies the caller's umask.
    pub const DONT_MASK: u64 = 1 << 6;
    /// `splice` to the device is possible.
    pub const SPLICE_WRITE: u64 = 1 << 7;
    /// `splice` may move pages.
    pub const SPLICE_MOVE: u64 = 1 << 8;
    /// `splice` from the device is possible.
    pub const SPLICE_READ: u64 = 1 << 9;
    /// `flock` is the server's.
    pub const FLOCK_LOCKS: u64 = 1 << 10;
    /// `ioctl` on directories is passed on.
    pub const HAS_IOCTL_DIRECTORY: u64 = 1 << 11;
    /// A changed time or size of modification drops cached pages.
    pub const AUTO_INVALIDATE_DATA: u64 = 1 << 12;
    /// `READDIRPLUS` is understood.
    pub const DO_READDIRPLUS: u64 = 1 << 13;
    /// The kernel chooses between `READDIR` and `READDIRPLUS`.
    pub const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Direct I/O in several requests at once.
    pub const ASYNC_DIRECT_IO: u64 = 1 << 15;
    /// Writes are gathered in the page cache.
    pub const WRITEBACK_CACHE: u64 = 1 << 16;
    /// `ENOSYS` to an open means that none are needed.
    pub const NO_OPEN_SUPPORT: u64 = 1 << 17;
    /// Lookups and listings of one directory at the same time.
    pub const PARALLEL_DIRECTORY_OPERATIONS: u64 = 1 << 18;
    /// The server removes set-id bits and capabilities on write, chown and truncate, always.
    pub const HANDLE_KILLPRIV: u64 = 1 << 19;
    /// The kernel evaluates POSIX access control lists.
    pub const POSIX_ACL: u64 = 1 << 20;
    /// Reading an aborted device gives `ECONNABORTED`.
    pub const ABORT_ERROR: u64 = 1 << 21;
    /// [`max_pages`](super::InitReply::max_pages) counts.
    pub const MAX_PAGES: u64 = 1 << 22;
    /// Targets of symbolic links are cached.
    pub const CACHE_SYMLINKS: u64 = 1 << 23;
    /// `ENOSYS` to an open of a directory means that none are needed.
    pub const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    /// Cached pages are only dropped by notification.
    pub const EXPLICIT_INVALIDATE_DATA: u64 = 1 << 25;
    /// [`map_alignment`](super::InitReply::map_alignment) counts.
    pub const MAP_ALIGNMENT: u64 = 1 << 26;
    /// Submounts are mounted by themselves.
    pub const SUBMOUNTS: u64 = 1 << 27;
    /// The server removes set-id bits as told by request flags.
    pub const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// [`SetExtendedRequest`](super::SetExtendedRequest) has its long form.
    pub const SETXATTR_EXTENDED: u64 = 1 << 29;
    /// `flags2` counts.
    pub const INIT_EXTENDED: u64 = 1 << 30;
    /// A security context follows requests that create.
    pub const SECURITY_CONTEXT: u64 = 1 << 32;
    /// DAX is chosen per node.
    pub const HAS_INODE_DAX: u64 = 1 << 33;
    /// A supplementary group follows requests that create.
    pub const CREATE_SUPPLEMENTARY_GROUP: u64 = 1 << 34;
    /// [`EXPIRE_ONLY`](super::EXPIRE_ONLY) is understood.
    pub const HAS_EXPIRE_ONLY: u64 = 1 << 35;
    /// Shared mappings of files opened with [`DIRECT_IO`](super::open_reply_flag::DIRECT_IO).
    pub const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    /// Files may be backed by descriptors of the server.
    pub const PASSTHROUGH: u64 = 1 << 37;
    /// The mount cannot be exported.
    pub const NO_EXPORT_SUPPORT: u64 = 1 << 38;
    /// [`Resend`](super::Notification::Resend) is understood.
    pub const HAS_RESEND: u64 = 1 << 39;
    /// The mount may be mapped to other ids.
    pub const ALLOW_IDMAP: u64 = 1 << 40;
    /// Requests may come over io_uring.
    pub const OVER_IO_URING: u64 = 1 << 41;
    /// [`request_timeout`](super::InitReply::request_timeout) counts.
    pub const REQUEST_TIMEOUT: u64 = 1 << 42;
}

/// Bits of [`OpenReply::open_flags`].
pub mod open_reply_flag {
    /// Bypass the page cache: every read and write is a request.
    pub const DIRECT_IO: u32 = 1 << 0;
    /// Keep what is cached of the file.
    pub const KEEP_CACHE: u32 = 1 << 1;
    /// The file cannot seek.
    pub const NON_SEEKABLE: u32 = 1 << 2;
    /// Cache the directory's entries.
    pub const CACHE_DIRECTORY: u32 = 1 << 3;
    /// The file has no position at all.
    pub const STREAM: u32 = 1 << 4;
    /// No `FLUSH` when a descriptor is closed.
    pub const NO_FLUSH: u32 = 1 << 5;
    /// Direct writes of one node may overlap in time.
    pub const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
    /// Reads and writes go to the backing file.
    pub const PASSTHROUGH: u32 = 1 << 7;
    /// Home's word to a session, which the kernel does not get to see: writes may be [behind](super::write_flag::BEHIND).
    pub const BEHIND: u32 = 1 << 31;
}

/// Bits of [`SetAttributesRequest::valid`]: which fields are to be set.
pub mod set_flag {
    /// `mode` is set.
    pub const MODE: u32 = 1 << 0;
    /// `uid` is set.
    pub const UID: u32 = 1 << 1;
    /// `gid` is set.
    pub const GID: u32 = 1 << 2;
    /// `size` is set: truncate.
    pub const SIZE: u32 = 1 << 3;
    /// `atime` is set.
    pub const ACCESS_TIME: u32 = 1 << 4;
    /// `mtime` is set.
    pub const MODIFY_TIME: u32 = 1 << 5;
    /// `handle` is the open file that the call was made on.
    pub const HANDLE: u32 = 1 << 6;
    /// `atime` is set to the server's current time.
    pub const ACCESS_TIME_NOW: u32 = 1 << 7;
    /// `mtime` is set to the server's current time.
    pub const MODIFY_TIME_NOW: u32 = 1 << 8;
    /// `lock_owner` is valid.
    pub const LOCK_OWNER: u32 = 1 << 9;
    /// `ctime` is set (a kernel with a write-back cache says so).
    pub const CHANGE_TIME: u32 = 1 << 10;
    /// Set-id bits go, as the caller may not keep them.
    pub const KILL_SUIDGID: u32 = 1 << 11;
}

/// Bit of [`GetAttributesRequest::flags`] and [`StatxRequest::flags`]: `handle` is valid.
pub const GET_HANDLE: u32 = 1 << 0;

/// Bits of [`ReleaseRequest::release_flags`].
pub mod release_flag {
    /// Flush as well.
    pub const FLUSH: u32 = 1 << 0;
    /// Drop the open file's `flock` lock.
    pub const FLOCK_UNLOCK: u32 = 1 << 1;
    /// A session's word to home, which a kernel never says: nobody uses it now. It is to be closed, and opened again when it is used
    /// by its number; an error says that it stays open.
    pub const REST: u32 = 1 << 31;
}

/// Bit of [`LockRequest::flags`]: a `flock` lock, not a POSIX record lock.
pub const LOCK_FLOCK: u32 = 1 << 0;

/// Bit of a [`LockRequest`]'s flags that a session adds to the kernel's: the caller used a lock of an open file description
/// (`F_OFD_SETLK` and its kin), which the kernel's request does not tell.
pub const LOCK_DESCRIPTION: u32 = 1 << 31;

/// Bit of an [`AccessRequest`]'s mask that a session adds to the kernel's: if it is permitted, the directory becomes the
/// caller's working directory.
pub const ACCESS_DIRECTORY: u32 = 1 << 31;

/// Another such bit, beside [`ACCESS_DIRECTORY`]: the caller's job begins there, where its deputy is already. It is not asked whether
/// that is permitted, which natively nobody asks either, and there is no reply.
pub const ACCESS_BEGINS: u32 = 1 << 30;

/// Bits of [`WriteRequest::write_flags`].
pub mod write_flag {
    /// A delayed write from the page cache; the handle is a guess.
    pub const CACHE: u32 = 1 << 0;
    /// `lock_owner` is valid.
    pub const LOCK_OWNER: u32 = 1 << 1;
    /// Set-id bits go, as the caller may not keep them.
    pub const KILL_SUIDGID: u32 = 1 << 2;
    /// A session's word to home: the caller has been told already that all of it is written. Home writes before it takes
    /// anything later from the node, and answers only what fails, takes long, or [asks](ASKS).
    pub const BEHIND: u32 = 1 << 31;
    /// A session's word to home: the answer is to say whether later writes may be [behind](BEHIND).
    pub const ASKS: u32 = 1 << 30;
    /// A session's word to home: the data does not follow, it is in shared memory.
    pub const SHARED: u32 = 1 << 29;
}

/// Bit of [`WriteReply::padding`], home's word to a session, which the kernel does not get to see: later writes may be
/// [behind](write_flag::BEHIND).
pub const WRITE_AMPLE: u32 = 1 << 0;

/// Bit of [`ReadRequest::read_flags`]: `lock_owner` is valid.
pub const READ_LOCK_OWNER: u32 = 1 << 1;

/// Bit of [`ReadRequest::read_flags`], a session's word to home: the data is to be put into shared memory, and the reply is a
/// [`SharedReadReply`].
pub const READ_SHARED: u32 = 1 << 31;

/// A command of `ioctl` on files that home executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileControl {
    /// Its number, as the caller has it.
    pub command: u32,
    /// How much memory it takes or gives.
    pub bytes: usize,
    /// It takes it: something is set.
    pub sets: bool,
}

impl FileControl {
    /// All there are. They are harmless, or subject to the owner's rights.
    pub const ALL: [Self; 5] = [
        // FS_IOC_GETFLAGS and FS_IOC_SETFLAGS say "long" in their numbers but mean "int".
        Self::new(0x8008_6601, 4, false),
        Self::new(0x4008_6602, 4, true),
        // FS_IOC_GETVERSION, the same.
        Self::new(0x8008_7601, 4, false),
        // FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR
        Self::new(0x801c_581f, 28, false),
        Self::new(0x401c_5820, 28, true),
    ];

    const fn new(command: u32, bytes: usize, sets: bool) -> Self {
        Self { command, bytes, sets }
    }

    /// What a request asks for. `None` for all that no file has: the answer is `ENOTTY`, by which programs find out that it is no terminal.
    pub fn asked(request: &IoctlRequest) -> Option<Self> {
        let other_sizes =
            ioctl_flag::COMPAT | ioctl_flag::BITS_32 | ioctl_flag::COMPAT_X32 | ioctl_flag::UNRESTRICTED;
        Self::ALL
            .into_iter()
            .find(|control| control.command == request.command && request.flags & other_sizes == 0)
    }
}

/// A request of device control that is a directory's `flock`, whose operation is the argument: the kernel keeps such locks to itself.
pub const FLOCK_DIRECTORY: u32 = 0xfa66;

/// Bits of [`IoctlRequest::flags`] and [`IoctlReply::flags`].
pub mod ioctl_flag {
    /// A 32-bit caller on a 64-bit machine.
    pub const COMPAT: u32 = 1 << 0;
    /// Not restricted to the sizes that the command's number tells.
    pub const UNRESTRICTED: u32 = 1 << 1;
    /// The kernel is to try again with the vectors in the reply.
    pub const RETRY: u32 = 1 << 2;
    /// A 32-bit command.
    pub const BITS_32: u32 = 1 << 3;
    /// The file is a directory.
    pub const DIRECTORY: u32 = 1 << 4;
    /// An x32 caller.
    pub const COMPAT_X32: u32 = 1 << 5;
}

/// Bit of [`PollRequest::flags`]: send [`Notification::Poll`] when the file becomes ready.
pub const POLL_SCHEDULE_NOTIFY: u32 = 1 << 0;

/// Bit of [`SyncRequest::flags`]: data only (`fdatasync`).
pub const SYNC_DATA_ONLY: u32 = 1 << 0;

/// Bits of [`Attributes::flags`].
pub mod attribute_flag {
    /// The root of a submount.
    pub const SUBMOUNT: u32 = 1 << 0;
    /// DAX is to be used.
    pub const DAX: u32 = 1 << 1;
}

/// Bit of [`OpenRequest::open_flags`] and [`CreateRequest::open_flags`]: set-id bits go if the file is truncated.
pub const OPEN_KILL_SUIDGID: u32 = 1 << 0;

/// Bit of [`SetExtendedRequest::extended_flags`]: the set-group-id bit goes with a new access control list.
pub const SET_EXTENDED_ACL_KILL_SGID: u32 = 1 << 0;

/// Bit of [`NotifyInvalidateEntry::flags`]: the name expires but is not dropped.
pub const EXPIRE_ONLY: u32 = 1 << 0;

/// Bytes of [`SetExtendedRequest`] if [`init_flag::SETXATTR_EXTENDED`] was not agreed on.
pub const SET_EXTENDED_SHORT_BYTES: usize = 8;

/// Flag that `execve` adds to an open file's flags when it opens a program (`__FMODE_EXEC`).
pub const OPEN_FOR_EXECUTION: u32 = 0x20;

/// Bit of an [`OpenRequest`]'s `open_flags` that a session sets: the caller has been told already that the file is open, so it is to be
/// opened before anything later is done, and nothing said of its contents.
pub const OPEN_PROMISED: u32 = 1 << 31;

/// Flag of [`Attributes`] that home adds for the session: reading does not change the time of access, for the next hour.
pub const ATTRIBUTES_SETTLED: u32 = 1 << 31;

/// A device number in the 32-bit encoding of [`Attributes::device`] and [`MakeNodeRequest::device`].
pub fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
}

/// Major and minor number from the encoding of [`device_number`].
pub fn device_parts(number: u32) -> (u32, u32) {
    (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & 0xfff00),
    )
}

/// Bytes that a directory entry with a head of `head` bytes and a name of `name` bytes takes with its padding.
pub fn entry_bytes(head: usize, name: usize) -> usize {
    (head + name).next_multiple_of(ENTRY_ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opcodes_round_trip() {
        for &opcode in Opcode::ALL {
            assert_eq!(Opcode::from_wire(opcode as u32), Some(opcode));
        }
        assert_eq!(Opcode::ALL.len(), 51);
        for gap in [0, 7, 19, 54, 4096, u32::MAX] {
            assert_eq!(Opcode::from_wire(gap), None);
        }
    }

    #[test]
    fn device_numbers_round_trip() {
        for (major, minor) in [
            (0, 0),
            (1, 3),
            (4, 64),
            (136, 255),
            (259, 0x12345),
            (0xfff, 0xfffff),
        ] {
            assert_eq!(device_parts(device_number(major, minor)), (major, minor));
        }
        assert_eq!(device_number(1, 3), 0x103);
    }

    #[test]
    fn entries_are_padded() {
        assert_eq!(entry_bytes(size_of::<DirectoryEntry>(), 1), 32);
        assert_eq!(entry_bytes(size_of::<DirectoryEntry>(), 8), 32);
        assert_eq!(entry_bytes(size_of::<DirectoryEntryPlus>(), 9), 168);
    }
}
