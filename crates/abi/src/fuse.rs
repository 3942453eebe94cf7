//! The format of FUSE messages, as in the kernel's `include/uapi/linux/fuse.h`, major version 7.
//!
//! Everything is in native byte order: both ends of a link are x86-64. Records are plain data without implicit padding;
//! a request is a [`RequestHeader`], the record of its [`Opcode`] and then names (each ended by a NUL) or data. A reply is a
//! [`ReplyHeader`], the reply's record and then data. A notification is a [`ReplyHeader`] whose `unique` is zero and
//! whose `error` is a [`Notification`], with its record.
//!
//! In records, `handle` is the server's number of an open file or directory (`fh` in the kernel), `node` the server's
//! number of an inode (`nodeid`), and times are seconds since the epoch with nanoseconds apart.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Major version of the protocol.
pub const VERSION_MAJOR: u32 = 7;

/// Minor version that these records follow. Later ones only add to it.
pub const VERSION_MINOR: u32 = 40;

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
}

/// Bit of [`LockRequest::flags`]: a `flock` lock, not a POSIX record lock.
pub const LOCK_FLOCK: u32 = 1 << 0;

/// Bit of a [`LockRequest`]'s flags that a session adds to the kernel's: the caller used a lock of an open file description
/// (`F_OFD_SETLK` and its kin), which the kernel's request does not tell.
pub const LOCK_DESCRIPTION: u32 = 1 << 31;

/// Bit of an [`AccessRequest`]'s mask that a session adds to the kernel's: if it is permitted, the directory becomes the
/// caller's working directory.
pub const ACCESS_DIRECTORY: u32 = 1 << 31;

/// Bits of [`WriteRequest::write_flags`].
pub mod write_flag {
    /// A delayed write from the page cache; the handle is a guess.
    pub const CACHE: u32 = 1 << 0;
    /// `lock_owner` is valid.
    pub const LOCK_OWNER: u32 = 1 << 1;
    /// Set-id bits go, as the caller may not keep them.
    pub const KILL_SUIDGID: u32 = 1 << 2;
}

/// Bit of [`ReadRequest::read_flags`]: `lock_owner` is valid.
pub const READ_LOCK_OWNER: u32 = 1 << 1;

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

/// Defines records and holds each to its size in the kernel.
macro_rules! records {
    ($($(#[$meta:meta])* $name:ident, $bytes:literal {
        $($(#[$field_meta:meta])* $field:ident: $type:ty,)*
    })*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
            #[repr(C)]
            pub struct $name {
                $($(#[$field_meta])* pub $field: $type,)*
            }
            const _: () = assert!(size_of::<$name>() == $bytes);
        )*
    };
}

records! {
    /// Head of every request.
    RequestHeader, 40 {
        /// Bytes of the whole request, this header included.
        length: u32,
        /// An [`Opcode`].
        opcode: u32,
        /// Pairs the request with its reply.
        unique: u64,
        /// Node that the request is about.
        node: u64,
        /// File-system user id of the caller.
        uid: u32,
        /// File-system group id of the caller.
        gid: u32,
        /// Process id of the caller, zero if it is in another pid namespace.
        pid: u32,
        /// Extensions at the end of the request, in units of 8 bytes.
        extension_length: u16,
        /// Zero.
        padding: u16,
    }

    /// Head of every reply and notification.
    ReplyHeader, 16 {
        /// Bytes of the whole reply, this header included.
        length: u32,
        /// Zero or a negated errno; in notifications a [`Notification`].
        error: i32,
        /// As in the request; zero in notifications.
        unique: u64,
    }

    /// What `stat` shows.
    Attributes, 88 {
        /// Inode number.
        inode: u64,
        /// Size in bytes.
        size: u64,
        /// Allocated space in units of 512 bytes.
        blocks: u64,
        /// Last access, seconds.
        atime: u64,
        /// Last modification, seconds.
        mtime: u64,
        /// Last change of attributes, seconds.
        ctime: u64,
        /// Nanoseconds of `atime`.
        atime_nanoseconds: u32,
        /// Nanoseconds of `mtime`.
        mtime_nanoseconds: u32,
        /// Nanoseconds of `ctime`.
        ctime_nanoseconds: u32,
        /// File type and permissions.
        mode: u32,
        /// Count of hard links.
        links: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Device number of a device, in the kernel's 32-bit encoding ([`device_number`]).
        device: u32,
        /// Preferred size of reads and writes, in bytes.
        block_size: u32,
        /// Bits of [`attribute_flag`].
        flags: u32,
    }

    /// A name was found or made.
    EntryReply, 128 {
        /// Its node; zero says that there is no such name, for `entry_valid`.
        node: u64,
        /// Tells apart nodes that use the same id one after the other.
        generation: u64,
        /// How long the name may be cached, seconds.
        entry_valid: u64,
        /// How long the attributes may be cached, seconds.
        attributes_valid: u64,
        /// Nanoseconds of `entry_valid`.
        entry_valid_nanoseconds: u32,
        /// Nanoseconds of `attributes_valid`.
        attributes_valid_nanoseconds: u32,
        /// The node's attributes.
        attributes: Attributes,
    }

    /// One lookup count to take off, the header's node being the node.
    ForgetRequest, 8 {
        /// How many lookups are forgotten.
        lookups: u64,
    }

    /// One of many lookup counts to take off.
    ForgetOne, 16 {
        /// The node.
        node: u64,
        /// How many lookups are forgotten.
        lookups: u64,
    }

    /// Head of many lookup counts to take off.
    BatchForgetRequest, 8 {
        /// How many [`ForgetOne`] follow.
        count: u32,
        /// Zero.
        padding: u32,
    }

    /// Asks for attributes.
    GetAttributesRequest, 16 {
        /// [`GET_HANDLE`] or zero.
        flags: u32,
        /// Zero.
        padding: u32,
        /// The open file, if so flagged.
        handle: u64,
    }

    /// Attributes of a node.
    AttributesReply, 104 {
        /// How long they may be cached, seconds.
        valid: u64,
        /// Nanoseconds of `valid`.
        valid_nanoseconds: u32,
        /// Zero.
        padding: u32,
        /// The attributes.
        attributes: Attributes,
    }

    /// Makes a file of any type but a directory or link.
    MakeNodeRequest, 16 {
        /// File type and permissions.
        mode: u32,
        /// Device number, in the kernel's 32-bit encoding ([`device_number`]).
        device: u32,
        /// The caller's file mode creation mask.
        umask: u32,
        /// Zero.
        padding: u32,
    }

    /// Makes a directory.
    MakeDirectoryRequest, 8 {
        /// Permissions.
        mode: u32,
        /// The caller's file mode creation mask.
        umask: u32,
    }

    /// Renames; the header's node is the old directory.
    RenameRequest, 8 {
        /// Node of the new directory.
        new_directory: u64,
    }

    /// Renames with flags; the header's node is the old directory.
    Rename2Request, 16 {
        /// Node of the new directory.
        new_directory: u64,
        /// `RENAME_*` flags.
        flags: u32,
        /// Zero.
        padding: u32,
    }

    /// Makes a hard link; the header's node is the directory.
    LinkRequest, 8 {
        /// Node that gets another name.
        old_node: u64,
    }

    /// Changes attributes.
    SetAttributesRequest, 88 {
        /// Bits of [`set_flag`].
        valid: u32,
        /// Zero.
        padding: u32,
        /// The open file, if so flagged.
        handle: u64,
        /// Size in bytes.
        size: u64,
        /// Owner of locks, if so flagged.
        lock_owner: u64,
        /// Last access, seconds.
        atime: u64,
        /// Last modification, seconds.
        mtime: u64,
        /// Last change of attributes, seconds.
        ctime: u64,
        /// Nanoseconds of `atime`.
        atime_nanoseconds: u32,
        /// Nanoseconds of `mtime`.
        mtime_nanoseconds: u32,
        /// Nanoseconds of `ctime`.
        ctime_nanoseconds: u32,
        /// Permissions.
        mode: u32,
        /// Zero.
        unused4: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Zero.
        unused5: u32,
    }

    /// Opens a file or directory.
    OpenRequest, 8 {
        /// Flags of `open`, without those that make files.
        flags: u32,
        /// [`OPEN_KILL_SUIDGID`] or zero.
        open_flags: u32,
    }

    /// Makes and opens a file.
    CreateRequest, 16 {
        /// Flags of `open`.
        flags: u32,
        /// Permissions.
        mode: u32,
        /// The caller's file mode creation mask.
        umask: u32,
        /// [`OPEN_KILL_SUIDGID`] or zero.
        open_flags: u32,
    }

    /// A file or directory was opened.
    OpenReply, 16 {
        /// The server's number for it.
        handle: u64,
        /// Bits of [`open_reply_flag`].
        open_flags: u32,
        /// Descriptor of the backing file with [`open_reply_flag::PASSTHROUGH`], else zero.
        backing: i32,
    }

    /// The last reference to an open file is gone.
    ReleaseRequest, 24 {
        /// The open file.
        handle: u64,
        /// Flags of the open file.
        flags: u32,
        /// Bits of [`release_flag`].
        release_flags: u32,
        /// Owner of locks.
        lock_owner: u64,
    }

    /// A process closed a descriptor.
    FlushRequest, 24 {
        /// The open file.
        handle: u64,
        /// Zero.
        unused: u32,
        /// Zero.
        padding: u32,
        /// The closing process as owner of record locks.
        lock_owner: u64,
    }

    /// Reads a file or directory.
    ReadRequest, 40 {
        /// The open file.
        handle: u64,
        /// Where, in bytes; for directories the cookie of an entry.
        offset: u64,
        /// At most so many bytes.
        size: u32,
        /// [`READ_LOCK_OWNER`] or zero.
        read_flags: u32,
        /// Owner of locks, if so flagged.
        lock_owner: u64,
        /// Flags of the open file.
        flags: u32,
        /// Zero.
        padding: u32,
    }

    /// Writes to a file; the data follows.
    WriteRequest, 40 {
        /// The open file.
        handle: u64,
        /// Where, in bytes.
        offset: u64,
        /// Bytes of data.
        size: u32,
        /// Bits of [`write_flag`].
        write_flags: u32,
        /// Owner of locks, if so flagged.
        lock_owner: u64,
        /// Flags of the open file.
        flags: u32,
        /// Zero.
        padding: u32,
    }

    /// Data was written.
    WriteReply, 8 {
        /// So many bytes of it.
        size: u32,
        /// Zero.
        padding: u32,
    }

    /// Figures of a file system (`statfs`).
    FileSystemReply, 80 {
        /// Size in fragments.
        blocks: u64,
        /// Free fragments.
        blocks_free: u64,
        /// Fragments free for ordinary users.
        blocks_available: u64,
        /// Inodes.
        files: u64,
        /// Free inodes.
        files_free: u64,
        /// Preferred size of reads and writes, in bytes.
        block_size: u32,
        /// Longest name, in bytes.
        name_length: u32,
        /// Size of a fragment, in bytes.
        fragment_size: u32,
        /// Zero.
        padding: u32,
        /// Zero.
        spare: [u32; 6],
    }

    /// Writes a file out to its disk.
    SyncRequest, 16 {
        /// The open file.
        handle: u64,
        /// [`SYNC_DATA_ONLY`] or zero.
        flags: u32,
        /// Zero.
        padding: u32,
    }

    /// Sets an extended attribute; name, NUL and value follow.
    SetExtendedRequest, 16 {
        /// Bytes of the value.
        size: u32,
        /// `XATTR_*` flags.
        flags: u32,
        /// [`SET_EXTENDED_ACL_KILL_SGID`] or zero.
        extended_flags: u32,
        /// Zero.
        padding: u32,
    }

    /// Reads or lists extended attributes.
    GetExtendedRequest, 8 {
        /// Room for the value or list in bytes; zero asks only for its size.
        size: u32,
        /// Zero.
        padding: u32,
    }

    /// Size of a value or list of extended attributes.
    GetExtendedReply, 8 {
        /// Bytes.
        size: u32,
        /// Zero.
        padding: u32,
    }

    /// A range of a file and its lock.
    FileLock, 24 {
        /// First byte.
        start: u64,
        /// Last byte; `i64::MAX` for the end of the file.
        end: u64,
        /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
        kind: u32,
        /// Process that holds it.
        pid: u32,
    }

    /// Asks for or about a lock.
    LockRequest, 48 {
        /// The open file.
        handle: u64,
        /// Who wants it, as an opaque number.
        owner: u64,
        /// The lock.
        lock: FileLock,
        /// [`LOCK_FLOCK`] or zero.
        flags: u32,
        /// Zero.
        padding: u32,
    }

    /// The lock in the way, or one of kind `F_UNLCK`.
    LockReply, 24 {
        /// The lock.
        lock: FileLock,
    }

    /// Asks for permission.
    AccessRequest, 8 {
        /// `R_OK`, `W_OK`, `X_OK` or `F_OK`.
        mask: u32,
        /// Zero.
        padding: u32,
    }

    /// Start of the conversation, the kernel's part.
    InitRequest, 64 {
        /// The kernel's [`VERSION_MAJOR`].
        major: u32,
        /// The kernel's [`VERSION_MINOR`].
        minor: u32,
        /// Most bytes that the kernel would read ahead.
        max_readahead: u32,
        /// What the kernel can do: low half of [`init_flag`].
        flags: u32,
        /// The high half of [`init_flag`].
        flags2: u32,
        /// Zero.
        unused: [u32; 11],
    }

    /// Start of the conversation, the server's part.
    InitReply, 64 {
        /// The server's [`VERSION_MAJOR`].
        major: u32,
        /// The server's [`VERSION_MINOR`].
        minor: u32,
        /// Most bytes to read ahead.
        max_readahead: u32,
        /// What is to be done: low half of [`init_flag`].
        flags: u32,
        /// Most requests of the background kind (read-ahead, write-back) at a time.
        max_background: u16,
        /// Background requests from which the mount counts as congested.
        congestion_threshold: u16,
        /// Most bytes in a write.
        max_write: u32,
        /// Granularity of times, in nanoseconds.
        time_granularity: u32,
        /// Most pages in a request, with [`init_flag::MAX_PAGES`].
        max_pages: u16,
        /// Alignment of DAX mappings as a power of two.
        map_alignment: u16,
        /// The high half of [`init_flag`].
        flags2: u32,
        /// How deep file systems may be stacked, with [`init_flag::PASSTHROUGH`].
        max_stack_depth: u32,
        /// Seconds after which an unanswered request ends the mount, with [`init_flag::REQUEST_TIMEOUT`].
        request_timeout: u16,
        /// Zero.
        unused: [u16; 11],
    }

    /// The caller of a request has a signal.
    InterruptRequest, 8 {
        /// Which request.
        unique: u64,
    }

    /// Asks where a block of a file is on its device.
    BlockMapRequest, 16 {
        /// Block of the file.
        block: u64,
        /// Bytes of a block.
        block_size: u32,
        /// Zero.
        padding: u32,
    }

    /// Where a block of a file is on its device.
    BlockMapReply, 8 {
        /// Block of the device.
        block: u64,
    }

    /// Device control; `in_size` bytes follow.
    IoctlRequest, 32 {
        /// The open file.
        handle: u64,
        /// Bits of [`ioctl_flag`].
        flags: u32,
        /// The command.
        command: u32,
        /// The caller's argument: a number, or an address in its memory.
        argument: u64,
        /// Bytes of input.
        in_size: u32,
        /// Most bytes of output.
        out_size: u32,
    }

    /// A piece of the caller's memory.
    IoctlVector, 16 {
        /// Its address.
        base: u64,
        /// Its bytes.
        length: u64,
    }

    /// Result of device control; output, or vectors, follow.
    IoctlReply, 16 {
        /// What the call returns.
        result: i32,
        /// Bits of [`ioctl_flag`].
        flags: u32,
        /// Input vectors, with [`ioctl_flag::RETRY`].
        in_vectors: u32,
        /// Output vectors, with [`ioctl_flag::RETRY`].
        out_vectors: u32,
    }

    /// Asks what an open file is ready for.
    PollRequest, 24 {
        /// The open file.
        handle: u64,
        /// The kernel's number for a [`NotifyPoll`].
        kernel_handle: u64,
        /// [`POLL_SCHEDULE_NOTIFY`] or zero.
        flags: u32,
        /// `POLL*` events of interest.
        events: u32,
    }

    /// What an open file is ready for.
    PollReply, 8 {
        /// `POLL*` events.
        events: u32,
        /// Zero.
        padding: u32,
    }

    /// Allocates or frees space of a file.
    AllocateRequest, 32 {
        /// The open file.
        handle: u64,
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// `FALLOC_FL_*` flags.
        mode: u32,
        /// Zero.
        padding: u32,
    }

    /// Seeks data or a hole.
    SeekRequest, 24 {
        /// The open file.
        handle: u64,
        /// Where from, in bytes.
        offset: u64,
        /// `SEEK_*`.
        whence: u32,
        /// Zero.
        padding: u32,
    }

    /// Where data or a hole is.
    SeekReply, 8 {
        /// In bytes.
        offset: u64,
    }

    /// Copies between files; the header's node is the source.
    CopyRangeRequest, 56 {
        /// Open file to read.
        handle_in: u64,
        /// Where to read, in bytes.
        offset_in: u64,
        /// Node to write.
        node_out: u64,
        /// Open file to write.
        handle_out: u64,
        /// Where to write, in bytes.
        offset_out: u64,
        /// At most so many bytes.
        length: u64,
        /// Zero.
        flags: u64,
    }

    /// Data was copied ([`Opcode::CopyRange64`]).
    CopyRange64Reply, 8 {
        /// So many bytes of it.
        bytes: u64,
    }

    /// A time of [`Statx`].
    StatxTime, 16 {
        /// Seconds.
        seconds: i64,
        /// Nanoseconds.
        nanoseconds: u32,
        /// Zero.
        reserved: i32,
    }

    /// What `statx` shows.
    Statx, 256 {
        /// `STATX_*` bits of the fields that are filled in.
        mask: u32,
        /// Preferred size of reads and writes, in bytes.
        block_size: u32,
        /// `STATX_ATTR_*` bits.
        attributes: u64,
        /// Count of hard links.
        links: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// File type and permissions.
        mode: u16,
        /// Zero.
        spare0: u16,
        /// Inode number.
        inode: u64,
        /// Size in bytes.
        size: u64,
        /// Allocated space in units of 512 bytes.
        blocks: u64,
        /// Bits of `attributes` that mean something.
        attributes_mask: u64,
        /// Last access.
        atime: StatxTime,
        /// Birth.
        btime: StatxTime,
        /// Last change of attributes.
        ctime: StatxTime,
        /// Last modification.
        mtime: StatxTime,
        /// Major number of a device.
        device_major: u32,
        /// Minor number of a device.
        device_minor: u32,
        /// Major number of the file system (the kernel ignores it).
        file_system_major: u32,
        /// Minor number of the file system (the kernel ignores it).
        file_system_minor: u32,
        /// Zero.
        spare2: [u64; 14],
    }

    /// Asks for what `statx` shows.
    StatxRequest, 24 {
        /// [`GET_HANDLE`] or zero.
        flags: u32,
        /// Zero.
        reserved: u32,
        /// The open file, if so flagged.
        handle: u64,
        /// `AT_STATX_*` flags.
        statx_flags: u32,
        /// `STATX_*` bits that are wanted.
        mask: u32,
    }

    /// What `statx` shows of a node.
    StatxReply, 288 {
        /// How long it may be cached, seconds.
        valid: u64,
        /// Nanoseconds of `valid`.
        valid_nanoseconds: u32,
        /// Zero.
        flags: u32,
        /// Zero.
        spare: [u64; 2],
        /// The attributes.
        statx: Statx,
    }

    /// Head of a directory entry; its name follows, padded to [`ENTRY_ALIGNMENT`].
    DirectoryEntry, 24 {
        /// Inode number.
        inode: u64,
        /// Cookie: reading on from here gives the next entry.
        offset: u64,
        /// Bytes of the name.
        name_length: u32,
        /// `DT_*` type.
        kind: u32,
    }

    /// Head of a directory entry with its node; its name follows, padded to [`ENTRY_ALIGNMENT`].
    DirectoryEntryPlus, 152 {
        /// The node, whose lookup count goes up; node zero says that it is not given.
        entry: EntryReply,
        /// The entry.
        directory: DirectoryEntry,
    }

    /// [`Notification::Poll`].
    NotifyPoll, 8 {
        /// As in the [`PollRequest`].
        kernel_handle: u64,
    }

    /// [`Notification::InvalidateNode`].
    NotifyInvalidateNode, 24 {
        /// The node.
        node: u64,
        /// First byte of data to drop; negative to drop only attributes.
        offset: i64,
        /// Bytes to drop; zero or less for all up to the end.
        length: i64,
    }

    /// [`Notification::InvalidateEntry`]; name and NUL follow.
    NotifyInvalidateEntry, 16 {
        /// The directory.
        parent: u64,
        /// Bytes of the name without its NUL.
        name_length: u32,
        /// [`EXPIRE_ONLY`] or zero.
        flags: u32,
    }

    /// [`Notification::Delete`]; name and NUL follow.
    NotifyDelete, 24 {
        /// The directory.
        parent: u64,
        /// The node that the name must stand for.
        child: u64,
        /// Bytes of the name without its NUL.
        name_length: u32,
        /// Zero.
        padding: u32,
    }

    /// [`Notification::Store`]; data follows.
    NotifyStore, 24 {
        /// The node.
        node: u64,
        /// Where, in bytes.
        offset: u64,
        /// Bytes of data.
        size: u32,
        /// Zero.
        padding: u32,
    }

    /// [`Notification::Retrieve`].
    NotifyRetrieve, 32 {
        /// Comes back in the [`Opcode::NotifyReply`].
        notify_unique: u64,
        /// The node.
        node: u64,
        /// Where, in bytes.
        offset: u64,
        /// Most bytes of data.
        size: u32,
        /// Zero.
        padding: u32,
    }
}

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
