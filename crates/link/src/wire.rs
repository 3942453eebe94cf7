//! What frames say.
//!
//! Hot messages (forwarded calls, operations on home objects) have fixed little-endian headers; control messages are
//! serde types in postcard's format. Everything a peer sends is checked where it is decoded: lengths against the
//! frame, counts against the bounds named here.

use afield_rpc::Offer;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zerocopy::byteorder::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Most descriptors a job may bring along.
pub const DESCRIPTORS_MAX: usize = 4096;

/// Most file systems of home's that a world tells apart, the root's included.
pub const FILE_SYSTEMS_MAX: usize = 64;

/// Most mount points that home tells of.
pub const MOUNT_POINTS_MAX: usize = 1024;

/// Why a payload is not the message that its kind promises.
#[derive(Debug, Error)]
pub enum WireError {
    /// The payload ends early, or has bytes left over.
    #[error("malformed {0} from the peer")]
    Malformed(&'static str),
    /// Serde could not read it.
    #[error("unreadable control message from the peer: {0}")]
    Control(#[from] postcard::Error),
}

/// Encodes a control message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    Ok(postcard::to_stdvec(message)?)
}

/// Decodes a control message; bytes left over are an error.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, WireError> {
    let (message, rest) = postcard::take_from_bytes(bytes)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(WireError::Malformed("control message"))
    }
}

/// Home's first words.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Hello {
    /// [`crate::PROTOCOL`] of the home. First field, so that any version can read it.
    pub protocol: u32,
    /// Version of the program, for messages.
    pub version: String,
    /// Real user id at home.
    pub uid: u32,
    /// Real group id at home.
    pub gid: u32,
    /// Supplementary groups at home.
    pub groups: Vec<u32>,
    /// `uname` of home: system name, node name, release, version, machine, domain.
    pub uname: [String; 6],
    /// Home's `CLOCK_MONOTONIC` in nanoseconds when this was sent.
    pub monotonic_ns: u64,
    /// Home's `CLOCK_BOOTTIME` in nanoseconds when this was sent.
    pub boottime_ns: u64,
    /// Which of its user's homes this is.
    pub home: u64,
    /// Its incarnation: guests of earlier ones end.
    pub epoch: u64,
    /// Where home's file systems are mounted below the root: whatever contains a mount point comes before it. At most
    /// [`MOUNT_POINTS_MAX`].
    pub mounts: Vec<MountPoint>,
    /// What home can be asked to do.
    pub interfaces: Vec<Offer>,
}

/// Where another file system begins in home's tree.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct MountPoint {
    /// Absolute path of a directory or file, without links in it.
    pub path: Vec<u8>,
    /// Which file system: 0 is the root's, others count from 1 up, below [`FILE_SYSTEMS_MAX`].
    pub file_system: u32,
    /// Its number at home (`st_dev`).
    pub device: u64,
    /// Asking for anything there may take for ever: its server is elsewhere.
    pub may_hang: bool,
}

/// The node's first words.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Welcome {
    /// [`crate::PROTOCOL`] of the node. First field, so that any version can read it.
    pub protocol: u32,
    /// Version of the program, for messages.
    pub version: String,
    /// Why no session can be had; `None` if all is well.
    pub refusal: Option<String>,
    /// Node name, for `afield ps`.
    pub name: String,
    /// CPUs that guests may use.
    pub cpus: u32,
    /// It keeps contents of files, and wants to hear of them as [`contents`](crate::contents) has it.
    pub keeps_contents: bool,
    /// Guests tell apart as many of the file systems that home has told of, the first ones; at least the root's.
    pub file_systems: u32,
    /// What the node can be asked to do.
    pub interfaces: Vec<Offer>,
}

/// A peer's words as they can be shown to a user: on one line, without control characters, at most 500 characters.
pub fn presentable(text: &str) -> String {
    let shown = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.chars().take(500).map(shown).collect()
}

/// The same for several lines.
pub fn presentable_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(presentable).collect();
    lines.join("\n")
}

/// What an inherited descriptor is at home, and so what the guest gets on the node.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub enum Inherited {
    /// A home object, by its handle. `flags` are the open-file flags; `stream` means that it has no offset (a pipe,
    /// socket or terminal), otherwise it is a regular file of now `size` bytes, whose offset, now `offset`, is shared with home.
    Handle {
        handle: u64,
        flags: u32,
        stream: bool,
        offset: i64,
        size: u64,
        /// It is a terminal, to which job control applies.
        terminal: bool,
        /// It is a device. What is none can never be a terminal.
        device: bool,
    },
    /// One of the devices that are the node's own: `null`, `zero`, `full`, `random` or `urandom`.
    Device { name: String, flags: u32 },
    /// A directory (or `O_PATH` descriptor) of home, by its absolute path.
    Path { path: Vec<u8>, flags: u32 },
}

/// A descriptor that a job starts with.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Descriptor {
    /// Its number in the guest.
    pub number: u32,
    /// What it refers to.
    pub object: Inherited,
}

/// Start a guest.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Spawn {
    /// Home pid, which is also the guest's.
    pub pid: u32,
    /// Path of the program at home, as `execvp` would use it: absolute, or relative to `directory`.
    pub program: Vec<u8>,
    /// Arguments, from `argv[0]`.
    pub arguments: Vec<Vec<u8>>,
    /// Environment, as `NAME=value`.
    pub environment: Vec<Vec<u8>>,
    /// Absolute path of the working directory at home.
    pub directory: Vec<u8>,
    /// File mode creation mask.
    pub umask: u32,
    /// Soft and hard limits, indexed by `RLIMIT_*`.
    pub limits: Vec<(u64, u64)>,
    /// Signals whose disposition is "ignore", bit `n - 1` for signal `n`.
    pub ignored: u64,
    /// Signals blocked, bit `n - 1` for signal `n`.
    pub blocked: u64,
    /// Real, effective, saved user ids, then the same for groups.
    pub ids: [u32; 6],
    /// Inherited descriptors.
    pub descriptors: Vec<Descriptor>,
}

/// Resource use of a guest process, its own threads only.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Usage {
    /// Time in user mode, microseconds.
    pub user_us: u64,
    /// Time in the node's kernel, microseconds.
    pub system_us: u64,
    /// Largest resident set, KiB.
    pub resident_kib_max: u64,
    /// Page faults without and with input.
    pub faults: (u64, u64),
    /// Voluntary and involuntary context switches.
    pub switches: (u64, u64),
}

/// Why a guest could not be started.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, Error)]
#[error("{step}: {}", plain_error(*errno))]
pub struct SpawnError {
    /// What was being done, for example `chdir /home/me`. The step that executes the program is `execve`.
    pub step: String,
    /// The errno.
    pub errno: i32,
}

/// Begins the step that makes a process, which the pid ends.
const CLONE_STEP: &str = "clone3 with pid ";

impl SpawnError {
    /// The process could not be made.
    pub fn at_clone(pid: u32, errno: i32) -> Self {
        Self {
            step: format!("{CLONE_STEP}{pid}"),
            errno,
        }
    }

    /// Somebody else in the node's world has the job's pid.
    pub fn pid_is_taken(&self) -> bool {
        self.errno == libc::EEXIST && self.step.starts_with(CLONE_STEP)
    }
}

/// What an errno means, without its number.
pub fn plain_error(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    match text.rsplit_once(" (os error ") {
        Some((meaning, _)) => meaning.to_owned(),
        None => text,
    }
}

/// Head of a forwarded system call (frame kind `Call`), followed by `buffers` times a [`BufferHeader`], each of direction
/// in or in-out followed by its bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CallHeader {
    /// Home pid of the calling process.
    pub pid: U32,
    /// Calling thread, as the guest sees it.
    pub tid: U32,
    /// System call number, x86-64.
    pub number: U32,
    /// Count of buffers, at most six.
    pub buffers: U32,
    /// Argument registers. Those that a buffer covers mean nothing; descriptors of home objects are handles.
    pub arguments: [U64; 6],
    /// What the handle of the new home object is to be if the call's result is a descriptor (of a number with
    /// [`NODE_HANDLE`]); otherwise 0.
    pub result: U64,
}

/// Bit of the handles that the node gives: those of descriptors that guests open. The node sees to it that each is given
/// once in a session.
pub const NODE_HANDLE: u64 = 1 << 59;

/// One memory argument of a forwarded call.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct BufferHeader {
    /// Which argument it is, 0 to 5.
    pub argument: u8,
    /// 1: in, 2: out, 3: both.
    pub direction: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// Length in bytes.
    pub length: U32,
}

/// Head of a call's reply, followed by the bytes of all out and in-out buffers in the order of the call. On an error
/// (`result` negative) no buffers follow.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct CallReply {
    /// What the call returned: a value, or a negated errno.
    pub result: I64,
}

/// Operations on a home object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum HandleOp {
    /// Read up to `size` bytes; at the shared offset if `offset` is -1. Reply: count, bytes.
    Read = 1,
    /// Write the data; at the shared offset if `offset` is -1. With `size` 1 it was stored into a mapping, and what is beyond the file's end
    /// is not written. Reply: count.
    Write = 2,
    /// `poll` without waiting for the events in `argument`. If `size` is 1 and none is there, [`ready`](crate::control::Node::ready) follows
    /// once; see also [`note::READY`]. Reply: ready events.
    Poll = 3,
    /// `ioctl` with command `argument`, the data as input and `size` bytes of room. Reply: result, the memory after
    /// the call (`size` bytes). If `size` is 0 the argument is the number in `offset`.
    Ioctl = 4,
    /// `lseek` to `offset` with whence `argument`. Reply: position.
    Seek = 5,
    /// `fstat`. Reply: 0, the kernel's `struct stat` (144 bytes).
    Stat = 6,
    /// The process closed its last descriptor of this object: its deputy closes too. No reply.
    Close = 7,
    /// `fcntl(F_SETFL)` with `argument`; `offset` is the number of the guest's descriptor. Reply: 0.
    SetFlags = 8,
    /// `fcntl(F_GETFL)`. Reply: flags.
    GetFlags = 9,
    /// `fsync` (`argument` 0) or `fdatasync` (1). Reply: 0.
    Sync = 10,
    /// The data is a `fuse_setattr_in`: apply it to the open file. Reply: 0.
    SetAttributes = 11,
    /// `fallocate` with mode `argument`, `offset` and a length in the data (8 bytes). Reply: 0.
    Allocate = 12,
    /// Open the file that the file service knows as node `handle`, with flags `argument`, and at `offset` unless that is negative: a
    /// special file (FIFO or device), or anything that is to be passed on. Reply: a new handle, one byte that is 1 for a terminal, 2 for a regular file.
    Open = 13,
    /// The object's name, as the link in `/proc/PID/fd` has it at home. Reply: its length, the name.
    Name = 14,
    /// The data is a `fuse_lk_in`: test it (`argument` 0), set it (1), or set it and wait (2). Reply: 0, for a test the lock
    /// that is in the way (`fuse_file_lock`, 24 bytes).
    Lock = 15,
    /// `sendmsg`, or `sendmmsg` if `size` is 1, with flags `argument`. The data are [`Outgoing`] messages. Reply: bytes sent, or
    /// count of messages sent and for each its bytes (4).
    Send = 16,
    /// `recvmsg`, or `recvmmsg`, with flags `argument`. The data is a [`Room`] request. Reply: bytes received or count of
    /// messages, and [`Incoming`] messages.
    Receive = 17,
    /// The agent keeps a copy of the object for guests that get a descriptor of it from another guest, until
    /// [`released`](crate::control::Home::released). Reply: 0.
    Share = 18,
    /// `fcntl` with command `argument` (those about the receiver of signals) and the number in `offset`, or `size` bytes of
    /// memory which are the data. Reply: result, the memory.
    Control = 19,
    /// `setsockopt` of a packet filter: level in the upper and name in the lower half of `argument`; the data are the
    /// instructions. Reply: 0.
    Filter = 20,
    /// `getsockopt(SO_PEERPIDFD)`: the new object gets the handle in `argument`. Reply: 0.
    PeerProcess = 21,
    /// The guest has read so many bytes (`argument`) of what the node was told of a stream ahead ([`streams`](crate::streams)). No reply.
    Consume = 22,
    /// The guest has written the data to a stream for which the node knew of room. No reply.
    Append = 23,
}

impl HandleOp {
    /// Whether home answers it.
    pub fn is_answered(self) -> bool {
        !matches!(self, Self::Close | Self::Consume | Self::Append)
    }

    /// Reads the wire's number.
    pub fn from_wire(value: u32) -> Option<Self> {
        Some(match value {
            1 => Self::Read,
            2 => Self::Write,
            3 => Self::Poll,
            4 => Self::Ioctl,
            5 => Self::Seek,
            6 => Self::Stat,
            7 => Self::Close,
            8 => Self::SetFlags,
            9 => Self::GetFlags,
            10 => Self::Sync,
            11 => Self::SetAttributes,
            12 => Self::Allocate,
            13 => Self::Open,
            14 => Self::Name,
            15 => Self::Lock,
            16 => Self::Send,
            17 => Self::Receive,
            18 => Self::Share,
            19 => Self::Control,
            20 => Self::Filter,
            21 => Self::PeerProcess,
            22 => Self::Consume,
            23 => Self::Append,
            _ => return None,
        })
    }
}

/// Head of an operation on a home object (frame kind `Handle`), followed by its data.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct HandleHeader {
    /// Home pid of the calling process.
    pub pid: U32,
    /// A [`HandleOp`].
    pub op: U32,
    /// The object.
    pub handle: U64,
    /// File offset, -1 for the shared one; see [`HandleOp`].
    pub offset: I64,
    /// Depends on the operation.
    pub argument: U64,
    /// Bytes of room for the reply's data.
    pub size: U32,
    /// Flags of the guest's open file (`O_NONBLOCK`, `O_APPEND`), and those of [`deaf`].
    pub flags: U32,
    /// If `area_length` is not 0, where in the [memory](crate::sys) that an embedded node shares with its home the contents are, or are to be put:
    /// what is written or sent (as the only message, which has no data then), or what is read or received (as the only message, likewise).
    pub area_place: U32,
    /// Bytes there.
    pub area_length: U32,
}

/// In [`HandleHeader::flags`], above all flags of open files, for operations on terminals: what home's kernel has to know of
/// the caller's signals, to judge whether it may use its terminal from the background.
pub mod deaf {
    /// The caller blocks or ignores `SIGTTIN`.
    pub const TO_INPUT: u32 = 1 << 30;
    /// The caller blocks or ignores `SIGTTOU`.
    pub const TO_OUTPUT: u32 = 1 << 31;
}

/// Negated, the result of an operation that did nothing because of a signal, which has been sent ahead: the caller takes the
/// signal, and then makes its call again as the signal's action has it (`ERESTARTSYS`).
pub const RESTART: i32 = 512;

/// Head of the reply, followed by data.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct HandleReply {
    /// A value, or a negated errno.
    pub result: I64,
    /// `POLL*`: what the object is ready for, if [`note::READY`] is set.
    pub ready: U32,
    /// Bits of [`note`].
    pub notes: U32,
    /// When the deputy looked at the readiness: the number of its look, which wraps. News and replies may cross.
    pub look: U32,
}

/// What a [`HandleReply`] says besides its result.
pub mod note {
    /// The readiness is known, after the operation, and for every one of [`WATCHED`] that is not there
    /// [`ready`](crate::control::Node::ready) will follow when it comes.
    pub const READY: u32 = 1;
    /// Home's kernel raised `SIGPIPE`.
    pub const PIPE_SIGNAL: u32 = 2;
    /// The object has a time-out, so that the interrupted operation is not made again.
    pub const NO_RESTART: u32 = 4;
    /// Home's kernel raised `SIGXFSZ`.
    pub const SIZE_SIGNAL: u32 = 8;

    /// `POLLIN`, `POLLPRI`, `POLLOUT` and `POLLRDHUP`.
    pub const WATCHED: u32 = 0x1 | 0x2 | 0x4 | 0x2000;
}

/// Splits a fixed header from a payload.
pub fn split<'a, T>(payload: &'a [u8], what: &'static str) -> Result<(&'a T, &'a [u8]), WireError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    T::ref_from_prefix(payload).map_err(|_| WireError::Malformed(what))
}

/// A memory argument of a call, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer<'a> {
    /// Which argument.
    pub argument: u8,
    /// Data goes to the call.
    pub input: bool,
    /// Data comes from the call.
    pub output: bool,
    /// Bytes of memory.
    pub length: usize,
    /// The input; empty if it is output only.
    pub data: &'a [u8],
}

/// Decodes the buffers behind a [`CallHeader`]: at most six, each argument at most once, inputs complete, nothing
/// left over.
pub fn decode_buffers(count: u32, mut rest: &[u8]) -> Result<Vec<Buffer<'_>>, WireError> {
    const WHAT: WireError = WireError::Malformed("call");
    if count > 6 {
        return Err(WHAT);
    }
    let mut buffers = Vec::with_capacity(count as usize);
    let mut seen = 0u8;
    for _ in 0..count {
        let (header, after) = split::<BufferHeader>(rest, "call")?;
        let length = header.length.get() as usize;
        let (input, output) = (header.direction & 1 != 0, header.direction & 2 != 0);
        if header.argument > 5
            || seen & (1 << header.argument) != 0
            || !(1..=3).contains(&header.direction)
            || header.reserved != [0; 2]
            || length > crate::frame::PAYLOAD_BYTES_MAX
        {
            return Err(WHAT);
        }
        seen |= 1 << header.argument;
        let (data, after) = if input {
            after.split_at_checked(length).ok_or(WHAT)?
        } else {
            (&[][..], after)
        };
        buffers.push(Buffer {
            argument: header.argument,
            input,
            output,
            length,
            data,
        });
        rest = after;
    }
    if rest.is_empty() { Ok(buffers) } else { Err(WHAT) }
}

/// Appends one buffer in the form that [`decode_buffers`] reads.
pub fn encode_buffer(payload: &mut Vec<u8>, buffer: &Buffer<'_>) {
    let header = BufferHeader {
        argument: buffer.argument,
        direction: u8::from(buffer.input) | u8::from(buffer.output) << 1,
        reserved: [0; 2],
        length: U32::new(buffer.length as u32),
    };
    payload.extend_from_slice(header.as_bytes());
    if buffer.input {
        payload.extend_from_slice(buffer.data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_round_trip() {
        let buffers = [
            Buffer {
                argument: 1,
                input: true,
                output: false,
                length: 3,
                data: b"abc",
            },
            Buffer {
                argument: 3,
                input: false,
                output: true,
                length: 144,
                data: b"",
            },
        ];
        let mut payload = Vec::new();
        for buffer in &buffers {
            encode_buffer(&mut payload, buffer);
        }
        assert_eq!(decode_buffers(2, &payload).unwrap(), buffers);
        assert!(decode_buffers(1, &payload).is_err());
        assert!(decode_buffers(3, &payload).is_err());
        for cut in 0..payload.len() {
            assert!(decode_buffers(2, &payload[..cut]).is_err());
        }
    }

    #[test]
    fn control_messages_refuse_trailing_bytes() {
        let mut bytes = encode(&Usage::default()).unwrap();
        assert_eq!(decode::<Usage>(&bytes).unwrap(), Usage::default());
        bytes.push(0);
        assert!(decode::<Usage>(&bytes).is_err());
    }
}
