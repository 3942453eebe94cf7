//! Messages of sockets, as [`HandleOp::Send`](crate::wire::HandleOp::Send) and
//! [`HandleOp::Receive`](crate::wire::HandleOp::Receive) carry them.
//!
//! Ancillary data is passed on as the kernel has it, except that a descriptor in it (`SCM_RIGHTS`) is an index into the list of
//! home objects that goes along.

use zerocopy::byteorder::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::{self, WireError};

/// Most messages of one operation, as of one `sendmmsg` (`UIO_MAXIOV`).
pub const MESSAGES_MAX: usize = 1024;
/// Most bytes of data in all messages of one operation.
pub const DATA_BYTES_MAX: usize = 4 << 20;
/// Longest ancillary data of a message.
pub const CONTROL_BYTES_MAX: usize = 64 << 10;
/// Longest address, `sockaddr_storage`.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest path of a file that is passed along.
pub const PATH_BYTES_MAX: usize = 4096;
/// Most descriptors that one operation passes.
pub const OBJECTS_MAX: usize = 1024;

const NONE: u32 = u32::MAX;
const WHAT: WireError = WireError::Malformed("message");

/// What is passed along with messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// A home object.
    Handle(u64),
    /// A file of home's tree: it is opened again, with these open flags and at this offset.
    File {
        /// Absolute path.
        path: Vec<u8>,
        /// Open flags.
        flags: u32,
        /// Offset.
        offset: i64,
    },
    /// Something of the node's own, which it keeps under this number for the guest that gets it. At home it is [`stand_in_name`].
    Promise(u64),
}

/// Name of the memory file that stands for something of the node's own while it is at home.
pub fn stand_in_name(promise: u64) -> String {
    format!("afield:{promise:016x}")
}

/// The number in such a name, as a link in `/proc/PID/fd` shows it.
pub fn promise_of(link: &[u8]) -> Option<u64> {
    let number = link.strip_prefix(b"/memfd:afield:")?.get(..16)?;
    u64::from_str_radix(std::str::from_utf8(number).ok()?, 16).ok()
}

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outgoing<'a> {
    /// Address; `None` for NULL.
    pub name: Option<&'a [u8]>,
    /// Ancillary data.
    pub control: &'a [u8],
    /// Contents.
    pub data: &'a [u8],
}

/// Room for a message that is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Bytes for an address; `None` for NULL.
    pub name: Option<usize>,
    /// Bytes for ancillary data.
    pub control: usize,
    /// Bytes for contents.
    pub data: usize,
}

/// What is to be received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// For every message.
    pub rooms: Vec<Room>,
    /// Handles for descriptors that come with the messages.
    pub handles: Vec<u64>,
    /// `recvmmsg`'s time-out: seconds and nanoseconds.
    pub timeout: Option<(i64, i64)>,
    /// It is `recvmmsg`.
    pub many: bool,
}

/// A file of home's tree, by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Home's number of its file system.
    pub device: u64,
    /// Its inode number there.
    pub inode: u64,
    /// Absolute path, which may mean something else by now.
    pub path: Vec<u8>,
}

/// A descriptor that came with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// One of [`Wanted::handles`]; of a promise its number.
    pub handle: u64,
    /// It is something of the node's own.
    pub promise: bool,
    /// Open-file flags.
    pub flags: u32,
    /// It has an offset.
    pub seekable: bool,
    /// The offset.
    pub offset: i64,
    /// Its size, if it has an offset.
    pub size: u64,
    /// Job control applies to it.
    pub terminal: bool,
    /// It is a directory, or opened as a way only (`O_PATH`): where it is, if it has a name.
    pub place: Option<Place>,
}

/// A message that was received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Incoming<'a> {
    /// Length of the address, which may be more than there was room for.
    pub name_length: u32,
    /// The address, as far as there was room.
    pub name: &'a [u8],
    /// Ancillary data.
    pub control: &'a [u8],
    /// Contents, as far as there was room.
    pub data: &'a [u8],
    /// `MSG_*`.
    pub flags: u32,
    /// What the call says of its length.
    pub count: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SendHead {
    messages: U32,
    objects: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Lengths {
    name: U32,
    control: U32,
    data: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct WantedHead {
    messages: U32,
    handles: U32,
    /// 1: a time-out; 2: it is `recvmmsg`.
    flags: U32,
    seconds: I64,
    nanoseconds: I64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct ObjectHead {
    handle: U64,
    flags: U32,
    /// 1: it has an offset; 2: a promise; 4: a terminal; 8: it has a place.
    kind: U32,
    offset: I64,
    size: U64,
    device: U64,
    inode: U64,
    /// Bytes of the path that follows.
    path: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct PassedHead {
    /// 0: a handle, 1: a file, 2: a promise.
    kind: U32,
    /// The handle or promise.
    number: U64,
    offset: I64,
    flags: U32,
    /// Bytes of the path that follows.
    path: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct IncomingHead {
    name_length: U32,
    flags: U32,
    count: U32,
    lengths: Lengths,
}

/// Encodes messages to be sent, with what goes along.
pub fn encode_outgoing(messages: &[Outgoing<'_>], objects: &[Passed]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let head = SendHead {
        messages: U32::new(messages.len() as u32),
        objects: U32::new(objects.len() as u32),
    };
    bytes.extend_from_slice(head.as_bytes());
    for object in objects {
        let (kind, number, offset, flags, path) = match object {
            Passed::Handle(handle) => (0, *handle, 0, 0, &[][..]),
            Passed::File { path, flags, offset } => (1, 0, *offset, *flags, &path[..]),
            Passed::Promise(promise) => (2, *promise, 0, 0, &[][..]),
        };
        let head = PassedHead {
            kind: U32::new(kind),
            number: U64::new(number),
            offset: I64::new(offset),
            flags: U32::new(flags),
            path: U32::new(path.len() as u32),
        };
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(path);
    }
    for message in messages {
        let lengths = Lengths {
            name: U32::new(message.name.map_or(NONE, |name| name.len() as u32)),
            control: U32::new(message.control.len() as u32),
            data: U32::new(message.data.len() as u32),
        };
        bytes.extend_from_slice(lengths.as_bytes());
        bytes.extend_from_slice(message.name.unwrap_or_default());
        bytes.extend_from_slice(message.control);
        bytes.extend_from_slice(message.data);
    }
    bytes
}

/// Decodes them: nothing left over, everything within the bounds named here.
pub fn decode_outgoing(bytes: &[u8]) -> Result<(Vec<Outgoing<'_>>, Vec<Passed>), WireError> {
    let (head, mut rest) = wire::split::<SendHead>(bytes, "message")?;
    let count = bounded(head.objects.get(), OBJECTS_MAX)?;
    let mut objects = Vec::with_capacity(count);
    for _ in 0..count {
        let (head, after) = wire::split::<PassedHead>(rest, "message")?;
        let (path, after) = take(after, bounded(head.path.get(), PATH_BYTES_MAX)?)?;
        objects.push(match (head.kind.get(), path) {
            (0, []) => Passed::Handle(head.number.get()),
            (1, _) => Passed::File {
                path: path.to_vec(),
                flags: head.flags.get(),
                offset: head.offset.get(),
            },
            (2, []) => Passed::Promise(head.number.get()),
            _ => return Err(WHAT),
        });
        rest = after;
    }
    let count = bounded(head.messages.get(), MESSAGES_MAX)?;
    let mut messages = Vec::with_capacity(count);
    for _ in 0..count {
        let (lengths, after) = wire::split::<Lengths>(rest, "message")?;
        let (name, after) = match lengths.name.get() {
            NONE => (None, after),
            length => {
                let (name, after) = take(after, bounded(length, NAME_BYTES_MAX)?)?;
                (Some(name), after)
            }
        };
        let (control, after) = take(after, bounded(lengths.control.get(), CONTROL_BYTES_MAX)?)?;
        let (data, after) = take(after, bounded(lengths.data.get(), DATA_BYTES_MAX)?)?;
        messages.push(Outgoing { name, control, data });
        rest = after;
    }
    if rest.is_empty() {
        Ok((messages, objects))
    } else {
        Err(WHAT)
    }
}

/// Encodes a wish to receive.
pub fn encode_wanted(wanted: &Wanted) -> Vec<u8> {
    let (seconds, nanoseconds) = wanted.timeout.unwrap_or_default();
    let head = WantedHead {
        messages: U32::new(wanted.rooms.len() as u32),
        handles: U32::new(wanted.handles.len() as u32),
        flags: U32::new(u32::from(wanted.timeout.is_some()) | u32::from(wanted.many) << 1),
        seconds: I64::new(seconds),
        nanoseconds: I64::new(nanoseconds),
    };
    let mut bytes = head.as_bytes().to_vec();
    for handle in &wanted.handles {
        bytes.extend_from_slice(&handle.to_le_bytes());
    }
    for room in &wanted.rooms {
        let lengths = Lengths {
            name: U32::new(room.name.map_or(NONE, |name| name as u32)),
            control: U32::new(room.control as u32),
            data: U32::new(room.data as u32),
        };
        bytes.extend_from_slice(lengths.as_bytes());
    }
    bytes
}

/// Decodes it, within the bounds named here.
pub fn decode_wanted(bytes: &[u8]) -> Result<Wanted, WireError> {
    let (head, rest) = wire::split::<WantedHead>(bytes, "message")?;
    let (handles, mut rest) = decode_handles(rest, head.handles.get())?;
    let count = bounded(head.messages.get(), MESSAGES_MAX)?;
    let mut rooms = Vec::with_capacity(count);
    let mut total = 0;
    for _ in 0..count {
        let (lengths, after) = wire::split::<Lengths>(rest, "message")?;
        let room = Room {
            name: match lengths.name.get() {
                NONE => None,
                length => Some(bounded(length, NAME_BYTES_MAX)?),
            },
            control: bounded(lengths.control.get(), CONTROL_BYTES_MAX)?,
            data: bounded(lengths.data.get(), DATA_BYTES_MAX)?,
        };
        total += room.data + room.control;
        if total > DATA_BYTES_MAX + CONTROL_BYTES_MAX {
            return Err(WHAT);
        }
        rooms.push(room);
        rest = after;
    }
    if !rest.is_empty() || head.flags.get() > 3 {
        return Err(WHAT);
    }
    Ok(Wanted {
        rooms,
        handles,
        timeout: (head.flags.get() & 1 != 0).then(|| (head.seconds.get(), head.nanoseconds.get())),
        many: head.flags.get() & 2 != 0,
    })
}

/// Encodes messages that were received.
pub fn encode_incoming(messages: &[Incoming<'_>], objects: &[Object]) -> Vec<u8> {
    let head = SendHead {
        messages: U32::new(messages.len() as u32),
        objects: U32::new(objects.len() as u32),
    };
    let mut bytes = head.as_bytes().to_vec();
    for object in objects {
        let place = object.place.as_ref();
        let path = place.map_or(&[][..], |place| &place.path);
        let head = ObjectHead {
            handle: U64::new(object.handle),
            flags: U32::new(object.flags),
            kind: U32::new(
                u32::from(object.seekable)
                    | u32::from(object.promise) << 1
                    | u32::from(object.terminal) << 2
                    | u32::from(place.is_some()) << 3,
            ),
            offset: I64::new(object.offset),
            size: U64::new(object.size),
            device: U64::new(place.map_or(0, |place| place.device)),
            inode: U64::new(place.map_or(0, |place| place.inode)),
            path: U32::new(path.len() as u32),
        };
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(path);
    }
    for message in messages {
        let head = IncomingHead {
            name_length: U32::new(message.name_length),
            flags: U32::new(message.flags),
            count: U32::new(message.count),
            lengths: Lengths {
                name: U32::new(message.name.len() as u32),
                control: U32::new(message.control.len() as u32),
                data: U32::new(message.data.len() as u32),
            },
        };
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(message.name);
        bytes.extend_from_slice(message.control);
        bytes.extend_from_slice(message.data);
    }
    bytes
}

/// Decodes them, against what was asked for: no more messages, no longer parts, no other handles, each handle once.
pub fn decode_incoming<'a>(
    bytes: &'a [u8],
    wanted: &Wanted,
) -> Result<(Vec<Incoming<'a>>, Vec<Object>), WireError> {
    let (head, mut rest) = wire::split::<SendHead>(bytes, "message")?;
    let count = bounded(head.objects.get(), wanted.handles.len())?;
    let mut objects: Vec<Object> = Vec::with_capacity(count);
    for _ in 0..count {
        let (head, after) = wire::split::<ObjectHead>(rest, "message")?;
        let (path, after) = take(after, bounded(head.path.get(), PATH_BYTES_MAX)?)?;
        let place = (head.kind.get() & 8 != 0).then(|| Place {
            device: head.device.get(),
            inode: head.inode.get(),
            path: path.to_vec(),
        });
        let object = Object {
            place,
            handle: head.handle.get(),
            flags: head.flags.get(),
            seekable: head.kind.get() & 1 != 0,
            promise: head.kind.get() & 2 != 0,
            terminal: head.kind.get() & 4 != 0,
            offset: head.offset.get(),
            size: head.size.get(),
        };
        if !object.promise && !wanted.handles.contains(&object.handle)
            || objects
                .iter()
                .any(|other| (other.promise, other.handle) == (object.promise, object.handle))
        {
            return Err(WHAT);
        }
        objects.push(object);
        rest = after;
    }
    let count = bounded(head.messages.get(), wanted.rooms.len())?;
    let mut messages = Vec::with_capacity(count);
    for room in &wanted.rooms[..count] {
        let (head, after) = wire::split::<IncomingHead>(rest, "message")?;
        let (name, after) = take(
            after,
            bounded(head.lengths.name.get(), room.name.unwrap_or_default())?,
        )?;
        let (control, after) = take(after, bounded(head.lengths.control.get(), room.control)?)?;
        let (data, after) = take(after, bounded(head.lengths.data.get(), room.data)?)?;
        messages.push(Incoming {
            name_length: head.name_length.get(),
            name,
            control,
            data,
            flags: head.flags.get(),
            count: head.count.get(),
        });
        rest = after;
    }
    if rest.is_empty() {
        Ok((messages, objects))
    } else {
        Err(WHAT)
    }
}

fn decode_handles(bytes: &[u8], count: u32) -> Result<(Vec<u64>, &[u8]), WireError> {
    let count = bounded(count, OBJECTS_MAX)?;
    let (handles, rest) = take(bytes, count * 8)?;
    let (handles, _) = handles.as_chunks::<8>();
    Ok((
        handles.iter().map(|handle| u64::from_le_bytes(*handle)).collect(),
        rest,
    ))
}

fn bounded(length: u32, max: usize) -> Result<usize, WireError> {
    let length = length as usize;
    if length <= max { Ok(length) } else { Err(WHAT) }
}

fn take(bytes: &[u8], length: usize) -> Result<(&[u8], &[u8]), WireError> {
    bytes.split_at_checked(length).ok_or(WHAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_to_send_round_trip_and_nothing_else_is_read() {
        let messages = [
            Outgoing {
                name: Some(b"to"),
                control: b"control!",
                data: b"hello",
            },
            Outgoing::default(),
            Outgoing {
                name: Some(b""),
                ..Outgoing::default()
            },
        ];
        let objects = [
            Passed::Handle(7),
            Passed::File {
                path: b"/a/b".to_vec(),
                flags: 2,
                offset: 11,
            },
            Passed::Promise(3),
        ];
        let bytes = encode_outgoing(&messages, &objects);
        assert_eq!(
            decode_outgoing(&bytes).unwrap(),
            (messages.to_vec(), objects.to_vec())
        );
        for cut in 0..bytes.len() {
            assert!(decode_outgoing(&bytes[..cut]).is_err(), "{cut}");
        }
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[place] ^= 1 << bit;
                // Whatever it is now, it is within bounds.
                if let Ok((messages, objects)) = decode_outgoing(&damaged) {
                    assert!(messages.len() <= MESSAGES_MAX && objects.len() <= OBJECTS_MAX);
                }
            }
        }
    }

    #[test]
    fn stand_ins_are_recognised() {
        let link = format!("/memfd:{} (deleted)", stand_in_name(0xabc));
        assert_eq!(promise_of(link.as_bytes()), Some(0xabc));
        assert_eq!(promise_of(b"/memfd:afield:12"), None);
        assert_eq!(promise_of(b"/memfd:other"), None);
    }

    #[test]
    fn what_was_not_asked_for_is_refused() {
        let wanted = Wanted {
            rooms: vec![
                Room {
                    name: Some(16),
                    control: 24,
                    data: 10,
                },
                Room::default(),
            ],
            handles: vec![5, 6],
            timeout: Some((1, 2)),
            many: true,
        };
        let asked = encode_wanted(&wanted);
        assert_eq!(decode_wanted(&asked).unwrap(), wanted);
        for cut in 0..asked.len() {
            assert!(decode_wanted(&asked[..cut]).is_err());
        }
        let object = |handle| Object {
            handle,
            flags: 2,
            promise: false,
            seekable: true,
            offset: 3,
            size: 5,
            terminal: handle == 1,
            place: (handle == 6).then(|| Place {
                device: 7,
                inode: 8,
                path: b"/a".to_vec(),
            }),
        };
        let message = Incoming {
            name_length: 110,
            name: b"from",
            control: b"",
            data: b"0123456789",
            flags: 32,
            count: 11,
        };
        let good = encode_incoming(std::slice::from_ref(&message), &[object(6)]);
        assert_eq!(
            decode_incoming(&good, &wanted).unwrap(),
            (vec![message.clone()], vec![object(6)])
        );
        let refused = |messages: &[Incoming<'_>], objects: &[Object]| {
            decode_incoming(&encode_incoming(messages, objects), &wanted).is_err()
        };
        assert!(refused(std::slice::from_ref(&message), &[object(4)]));
        assert!(refused(&[], &[object(6), object(6)]));
        assert!(refused(&[message.clone(), message.clone()], &[]));
        let long = Incoming {
            data: b"01234567890",
            ..message.clone()
        };
        assert!(refused(&[long], &[]));
        assert!(refused(
            &[Incoming::default(), Incoming::default(), Incoming::default()],
            &[]
        ));
    }
}
