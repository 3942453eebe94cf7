//! Framing: a 16-byte little-endian header, then the payload.
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0..4 | `length` | payload bytes, at most [`PAYLOAD_BYTES_MAX`] |
//! | 4 | `kind` | a [`Kind`] |
//! | 5..8 | reserved | zero |
//! | 8..16 | `id` | pairs a request with its reply; meaning depends on the kind |

use thiserror::Error;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Largest payload of one frame: a 1 MiB file-system request with its headers, and an `execve` with the largest
/// argument list that Linux takes by default.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = size_of::<Header>();

/// Ids of requests that a node's file door makes carry this bit; the rest of the id is the kernel's `unique`.
pub const FILE_ID: u64 = 1 << 63;

/// A frame's header as it is on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Header {
    length: U32,
    kind: u8,
    reserved: [u8; 3],
    id: U64,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// First frame from home: a [`wire::Hello`](crate::wire::Hello).
    Hello = 1,
    /// First frame from the node: a [`wire::Welcome`](crate::wire::Welcome).
    Welcome = 2,
    /// A call of [`control`](crate::control), or what belongs to one.
    Control = 3,
    /// Node to home: a forwarded system call, [`wire::CallHeader`](crate::wire::CallHeader) and its buffers.
    Call = 4,
    /// Home to node: [`wire::CallReply`](crate::wire::CallReply) and the output buffers.
    CallReply = 5,
    /// Node to home: interrupt the request `id`. It is always answered, by its result or by `EINTR`.
    Cancel = 6,
    /// Node to home: a raw FUSE request, its header's `pid` being the home pid of the caller (0: unknown).
    File = 7,
    /// Home to node: a raw FUSE reply.
    FileReply = 8,
    /// Node to home: an operation on a home object, [`wire::HandleHeader`](crate::wire::HandleHeader) and data.
    Handle = 9,
    /// Home to node: [`wire::HandleReply`](crate::wire::HandleReply) and data.
    HandleReply = 10,
    /// Home to node: files that have changed, as [`invalidation`](crate::invalidation) has it.
    Invalidate = 11,
    /// Home to node: answers to what nobody has asked yet, as [`early`](crate::early) has it.
    Early = 12,
    /// Home to node: what has happened to streams, as [`streams`](crate::streams) has it.
    Streams = 13,
}

impl Kind {
    fn from_wire(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Control,
            4 => Self::Call,
            5 => Self::CallReply,
            6 => Self::Cancel,
            7 => Self::File,
            8 => Self::FileReply,
            9 => Self::Handle,
            10 => Self::HandleReply,
            11 => Self::Invalidate,
            12 => Self::Early,
            13 => Self::Streams,
            _ => return None,
        })
    }
}

/// Why bytes are not a frame.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum FrameError {
    /// The peer announced more than one frame may carry.
    #[error("frame of {0} bytes is over the limit of {PAYLOAD_BYTES_MAX}")]
    TooLong(usize),
    /// The kind is not one of [`Kind`].
    #[error("unknown frame kind {0}")]
    UnknownKind(u8),
    /// Reserved bytes are not zero.
    #[error("reserved bytes of a frame header are set")]
    Reserved,
}

/// A checked header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What the payload is.
    pub kind: Kind,
    /// Pairs requests with replies.
    pub id: u64,
    /// Payload bytes that follow.
    pub length: usize,
}

/// Encodes the header of a frame. `length` must be at most [`PAYLOAD_BYTES_MAX`].
pub fn encode_head(kind: Kind, id: u64, length: usize) -> Result<[u8; HEADER_BYTES], FrameError> {
    if length > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    let header = Header {
        length: U32::new(length as u32),
        kind: kind as u8,
        reserved: [0; 3],
        id: U64::new(id),
    };
    Ok(zerocopy::transmute!(header))
}

/// Checks a header that came from the peer.
pub fn decode_head(bytes: &[u8; HEADER_BYTES]) -> Result<Head, FrameError> {
    let header: Header = zerocopy::transmute!(*bytes);
    let length = header.length.get() as usize;
    if length > PAYLOAD_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    if header.reserved != [0; 3] {
        return Err(FrameError::Reserved);
    }
    let kind = Kind::from_wire(header.kind).ok_or(FrameError::UnknownKind(header.kind))?;
    Ok(Head {
        kind,
        id: header.id.get(),
        length,
    })
}

/// One whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the payload is.
    pub kind: Kind,
    /// Pairs requests with replies.
    pub id: u64,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Turns a stream of bytes, in pieces of any size, into frames. Pure: it never reads by itself.
///
/// Feed with [`Decoder::feed`], then take frames with [`Decoder::next_frame`] until it gives `None`. After an error the
/// stream has no defined position and has to be given up.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Bytes not yet turned into frames; those before `start` are spent.
    buffer: Vec<u8>,
    /// Offset of the first unspent byte.
    start: usize,
}

impl Decoder {
    /// Adds bytes as they came.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start * 2 >= self.buffer.len() {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if its bytes are here.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let unspent = &self.buffer[self.start..];
        let Some((head, rest)) = unspent.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let head = decode_head(head)?;
        let Some(payload) = rest.get(..head.length) else {
            return Ok(None);
        };
        let frame = Frame {
            kind: head.kind,
            id: head.id,
            payload: payload.to_vec(),
        };
        self.start += HEADER_BYTES + head.length;
        Ok(Some(frame))
    }

    /// Bytes that wait for the rest of their frame.
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len() - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(kind: Kind, id: u64, payload: &[u8]) -> Vec<u8> {
        let mut bytes = encode_head(kind, id, payload.len()).unwrap().to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn frames_survive_any_cut() {
        let mut stream = Vec::new();
        for id in 0..20u64 {
            stream.extend(encoded(Kind::Call, id, &vec![id as u8; id as usize * 7]));
        }
        for piece in [1, 2, 3, 15, 16, 17, 100, 10_000] {
            let mut decoder = Decoder::default();
            let mut seen = 0;
            for bytes in stream.chunks(piece) {
                decoder.feed(bytes);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    assert_eq!(frame.id, seen);
                    assert_eq!(frame.payload, vec![seen as u8; seen as usize * 7]);
                    seen += 1;
                }
            }
            assert_eq!(seen, 20);
            assert_eq!(decoder.pending_bytes(), 0);
        }
    }

    #[test]
    fn a_peer_cannot_announce_too_much() {
        let mut head = encode_head(Kind::Call, 1, 0).unwrap();
        head[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode_head(&head), Err(FrameError::TooLong(u32::MAX as usize)));
        let mut head = encode_head(Kind::Call, 1, 0).unwrap();
        head[4] = 200;
        assert_eq!(decode_head(&head), Err(FrameError::UnknownKind(200)));
        let mut head = encode_head(Kind::Call, 1, 0).unwrap();
        head[6] = 1;
        assert_eq!(decode_head(&head), Err(FrameError::Reserved));
    }

    /// Garbage from a peer: mutations of good streams and plain noise, from fixed seeds. The decoder must come to an
    /// end with frames or an error and never hold more than it was fed.
    #[test]
    fn garbage_is_an_error_or_a_frame() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let mut stream = Vec::new();
            for _ in 0..random() % 4 {
                let length = random() % 64;
                let payload: Vec<u8> = (0..length).map(|_| random() as u8).collect();
                stream.extend(encoded(Kind::File, random(), &payload));
            }
            for _ in 0..random() % 6 {
                if !stream.is_empty() {
                    let at = random() as usize % stream.len();
                    stream[at] = random() as u8;
                }
            }
            let mut decoder = Decoder::default();
            let piece = 1 + random() as usize % 40;
            'stream: for bytes in stream.chunks(piece) {
                decoder.feed(bytes);
                loop {
                    match decoder.next_frame() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'stream,
                    }
                }
                assert!(decoder.pending_bytes() <= stream.len());
            }
        }
    }
}
