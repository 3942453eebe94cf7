//! News of streams that are read and written ahead: the payload of a [`Streams`](crate::frame::Kind::Streams) frame, which goes
//! ahead of every other message of home's while there is any.
//!
//! A payload is any number of records, each a [`Head`] and the bytes that have come. What they say holds until the node asks home for
//! something about the stream, and until the next record.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::{self, WireError};

/// Most bytes of a stream that a node is told ahead of their being read: half of it is what is on its way to another machine and back at
/// a gigabit in a second and 32 milliseconds.
pub const WINDOW_BYTES: usize = 8 << 20;

/// A node that has no more than this to read of a stream is told what has come, if there is any more.
pub const EAGER_BYTES: usize = 256 << 10;

/// Most bytes of one write that need not be answered.
pub const WRITE_BYTES_MAX: usize = 64 << 10;

/// The record replaces what the node knows of the stream.
pub const WHOLE: u32 = 1;
/// More has come than what the node is told.
pub const MORE: u32 = 2;
/// The node knows nothing of the stream any more, and has to ask.
pub const UNKNOWN: u32 = 4;

/// Head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Head {
    /// Which stream.
    pub handle: U64,
    /// Frame id of the last thing that the node has asked about it, as far as home has heard: if it has asked since, the record is void.
    pub after: U64,
    /// Up to where the node may write without an answer, in the sum of all such writes' [`cost`].
    pub limit: U64,
    /// What it is ready for (`POLL*`).
    pub ready: U32,
    /// [`WHOLE`], [`MORE`], [`UNKNOWN`], [`EVENT`], [`HELD`], [`HERE`].
    pub flags: U32,
    /// Bytes that follow: those behind what the node has been told of already.
    pub length: U32,
}

/// Home's kernel has told that something has happened: who polls it is to look.
pub const EVENT: u32 = 8;

/// What has come is not told: nothing of it is on its way.
pub const HELD: u32 = 16;

/// Who reads has the connection itself, on this machine. The record's bytes are a number, of those that have come since the last
/// [`WHOLE`] record (and before it, if they had not been taken by then): he takes them from it, and no more.
pub const HERE: u32 = 32;

/// How a node says, in place of how much it has read, that it does not have the connection itself any more.
pub const NOT_HERE: u64 = u64::MAX;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News<'a> {
    /// What it says.
    pub head: Head,
    /// What has come.
    pub data: &'a [u8],
}

impl News<'_> {
    /// How much has come, for who takes it himself ([`HERE`]).
    #[must_use]
    pub fn here(&self) -> Option<u64> {
        let count = U64::read_from_bytes(self.data).ok()?;
        (self.head.flags.get() & HERE != 0).then_some(count.get())
    }
}

/// What a write takes of home's room at most, with what home's kernel needs to keep it.
pub fn cost(bytes: usize) -> u64 {
    const PACKET: u64 = 4096;
    let bytes = bytes as u64;
    PACKET + bytes + bytes / 4
}

/// Appends a record.
pub fn encode(payload: &mut Vec<u8>, head: Head, data: &[u8]) {
    let head = Head {
        length: (data.len() as u32).into(),
        ..head
    };
    payload.extend_from_slice(head.as_bytes());
    payload.extend_from_slice(data);
}

/// The records of a payload.
///
/// # Errors
/// If it is not made of whole records, or one has more than [`WINDOW_BYTES`].
pub fn decode(mut payload: &[u8]) -> Result<Vec<News<'_>>, WireError> {
    const WHAT: WireError = WireError::Malformed("news of streams");
    let mut records = Vec::new();
    while !payload.is_empty() {
        let (head, rest) = wire::split::<Head>(payload, "news of streams")?;
        let length = head.length.get() as usize;
        let flags = head.flags.get();
        let known = WHOLE | MORE | UNKNOWN | EVENT | HELD | HERE;
        let is_here = flags & HERE != 0;
        if length > WINDOW_BYTES || flags & !known != 0 || is_here && length != size_of::<U64>() {
            return Err(WHAT);
        }
        let (data, rest) = rest.split_at_checked(length).ok_or(WHAT)?;
        records.push(News { head: *head, data });
        payload = rest;
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(handle: u64, flags: u32) -> Head {
        Head {
            handle: handle.into(),
            after: 7.into(),
            limit: 1000.into(),
            ready: 5.into(),
            flags: flags.into(),
            length: 0.into(),
        }
    }

    #[test]
    fn records_round_trip() {
        let mut payload = Vec::new();
        encode(&mut payload, head(1, WHOLE | MORE), b"abc");
        encode(&mut payload, head(2, UNKNOWN), b"");
        let records = decode(&payload).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!((records[0].head.handle.get(), records[0].data), (1, &b"abc"[..]));
        assert_eq!(
            (records[1].head.flags.get(), records[1].data),
            (UNKNOWN, &b""[..])
        );
        for cut in 1..payload.len() {
            let whole = size_of::<Head>() + 3;
            assert_eq!(decode(&payload[..cut]).is_ok(), cut == whole, "{cut}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut payload = Vec::new();
        encode(&mut payload, head(1, 64), b"");
        assert!(decode(&payload).is_err());
        let mut payload = Vec::new();
        encode(&mut payload, head(1, HERE), b"1234567");
        assert!(decode(&payload).is_err());
        let mut payload = Vec::new();
        encode(&mut payload, head(1, WHOLE), &vec![0; WINDOW_BYTES + 1]);
        assert!(decode(&payload).is_err());
    }
}
