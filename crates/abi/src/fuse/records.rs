//! The records of requests, replies and notifications, as `struct fuse_*` in `linux/fuse.h` has them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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
        /// An [`Opcode`](super::Opcode).
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
        /// Zero or a negated errno; in notifications a [`Notification`](super::Notification).
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
        /// Device number of a device, in the kernel's 32-bit encoding ([`device_number`](super::device_number)).
        device: u32,
        /// Preferred size of reads and writes, in bytes.
        block_size: u32,
        /// Bits of [`attribute_flag`](super::attribute_flag).
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
        /// [`GET_HANDLE`](super::GET_HANDLE) or zero.
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
        /// Device number, in the kernel's 32-bit encoding ([`device_number`](super::device_number)).
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
        /// Bits of [`set_flag`](super::set_flag).
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
        /// [`OPEN_KILL_SUIDGID`](super::OPEN_KILL_SUIDGID) or zero.
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
        /// [`OPEN_KILL_SUIDGID`](super::OPEN_KILL_SUIDGID) or zero.
        open_flags: u32,
    }

    /// A file or directory was opened.
    OpenReply, 16 {
        /// The server's number for it.
        handle: u64,
        /// Bits of [`open_reply_flag`](super::open_reply_flag).
        open_flags: u32,
        /// Descriptor of the backing file with [`open_reply_flag::PASSTHROUGH`](super::open_reply_flag::PASSTHROUGH), else zero.
        backing: i32,
    }

    /// The last reference to an open file is gone.
    ReleaseRequest, 24 {
        /// The open file.
        handle: u64,
        /// Flags of the open file.
        flags: u32,
        /// Bits of [`release_flag`](super::release_flag).
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
        /// [`READ_LOCK_OWNER`](super::READ_LOCK_OWNER) and [`READ_SHARED`](super::READ_SHARED).
        read_flags: u32,
        /// Owner of locks, if so flagged.
        lock_owner: u64,
        /// Flags of the open file.
        flags: u32,
        /// Zero to the kernel; where in shared memory, if so flagged.
        place: u32,
    }

    /// Writes to a file; the data follows.
    WriteRequest, 40 {
        /// The open file.
        handle: u64,
        /// Where, in bytes.
        offset: u64,
        /// Bytes of data.
        size: u32,
        /// Bits of [`write_flag`](super::write_flag).
        write_flags: u32,
        /// Owner of locks, if so flagged.
        lock_owner: u64,
        /// Flags of the open file.
        flags: u32,
        /// Zero to the kernel; where in shared memory, if so flagged.
        place: u32,
    }

    /// Data was read into shared memory: home's reply to a session, never the kernel's.
    SharedReadReply, 8 {
        /// So many bytes of it.
        size: u32,
        /// Zero.
        padding: u32,
    }

    /// Data was written.
    WriteReply, 8 {
        /// So many bytes of it.
        size: u32,
        /// Zero to the kernel; [`WRITE_AMPLE`](super::WRITE_AMPLE) between home and a session.
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
        /// [`SYNC_DATA_ONLY`](super::SYNC_DATA_ONLY) or zero.
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
        /// [`SET_EXTENDED_ACL_KILL_SGID`](super::SET_EXTENDED_ACL_KILL_SGID) or zero.
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
        /// [`LOCK_FLOCK`](super::LOCK_FLOCK) or zero.
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
        /// The kernel's [`VERSION_MAJOR`](super::VERSION_MAJOR).
        major: u32,
        /// The kernel's [`VERSION_MINOR`](super::VERSION_MINOR).
        minor: u32,
        /// Most bytes that the kernel would read ahead.
        max_readahead: u32,
        /// What the kernel can do: low half of [`init_flag`](super::init_flag).
        flags: u32,
        /// The high half of [`init_flag`](super::init_flag).
        flags2: u32,
        /// Zero.
        unused: [u32; 11],
    }

    /// Start of the conversation, the server's part.
    InitReply, 64 {
        /// The server's [`VERSION_MAJOR`](super::VERSION_MAJOR).
        major: u32,
        /// The server's [`VERSION_MINOR`](super::VERSION_MINOR).
        minor: u32,
        /// Most bytes to read ahead.
        max_readahead: u32,
        /// What is to be done: low half of [`init_flag`](super::init_flag).
        flags: u32,
        /// Most requests of the background kind (read-ahead, write-back) at a time.
        max_background: u16,
        /// Background requests from which the mount counts as congested.
        congestion_threshold: u16,
        /// Most bytes in a write.
        max_write: u32,
        /// Granularity of times, in nanoseconds.
        time_granularity: u32,
        /// Most pages in a request, with [`init_flag::MAX_PAGES`](super::init_flag::MAX_PAGES).
        max_pages: u16,
        /// Alignment of DAX mappings as a power of two.
        map_alignment: u16,
        /// The high half of [`init_flag`](super::init_flag).
        flags2: u32,
        /// How deep file systems may be stacked, with [`init_flag::PASSTHROUGH`](super::init_flag::PASSTHROUGH).
        max_stack_depth: u32,
        /// Seconds after which an unanswered request ends the mount, with [`init_flag::REQUEST_TIMEOUT`](super::init_flag::REQUEST_TIMEOUT).
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
        /// Bits of [`ioctl_flag`](super::ioctl_flag).
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
        /// Bits of [`ioctl_flag`](super::ioctl_flag).
        flags: u32,
        /// Input vectors, with [`ioctl_flag::RETRY`](super::ioctl_flag::RETRY).
        in_vectors: u32,
        /// Output vectors, with [`ioctl_flag::RETRY`](super::ioctl_flag::RETRY).
        out_vectors: u32,
    }

    /// Asks what an open file is ready for.
    PollRequest, 24 {
        /// The open file.
        handle: u64,
        /// The kernel's number for a [`NotifyPoll`].
        kernel_handle: u64,
        /// [`POLL_SCHEDULE_NOTIFY`](super::POLL_SCHEDULE_NOTIFY) or zero.
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

    /// Data was copied ([`Opcode::CopyRange64`](super::Opcode::CopyRange64)).
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
        /// [`GET_HANDLE`](super::GET_HANDLE) or zero.
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

    /// Head of a directory entry; its name follows, padded to [`ENTRY_ALIGNMENT`](super::ENTRY_ALIGNMENT).
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

    /// Head of a directory entry with its node; its name follows, padded to [`ENTRY_ALIGNMENT`](super::ENTRY_ALIGNMENT).
    DirectoryEntryPlus, 152 {
        /// The node, whose lookup count goes up; node zero says that it is not given.
        entry: EntryReply,
        /// The entry.
        directory: DirectoryEntry,
    }

    /// [`Notification::Poll`](super::Notification::Poll).
    NotifyPoll, 8 {
        /// As in the [`PollRequest`].
        kernel_handle: u64,
    }

    /// [`Notification::InvalidateNode`](super::Notification::InvalidateNode).
    NotifyInvalidateNode, 24 {
        /// The node.
        node: u64,
        /// First byte of data to drop; negative to drop only attributes.
        offset: i64,
        /// Bytes to drop; zero or less for all up to the end.
        length: i64,
    }

    /// [`Notification::InvalidateEntry`](super::Notification::InvalidateEntry); name and NUL follow.
    NotifyInvalidateEntry, 16 {
        /// The directory.
        parent: u64,
        /// Bytes of the name without its NUL.
        name_length: u32,
        /// [`EXPIRE_ONLY`](super::EXPIRE_ONLY) or zero.
        flags: u32,
    }

    /// [`Notification::Delete`](super::Notification::Delete); name and NUL follow.
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

    /// [`Notification::Store`](super::Notification::Store); data follows.
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

    /// [`Notification::Retrieve`](super::Notification::Retrieve).
    NotifyRetrieve, 32 {
        /// Comes back in the [`Opcode::NotifyReply`](super::Opcode::NotifyReply).
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
