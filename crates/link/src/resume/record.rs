//! What is on the wire of a resumable link: records. Each is a head of [`HEAD_BYTES`], little-endian, and `length` bytes.
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0 | `kind` | a [`RecordKind`] |
//! | 1 | `flags` | of a piece: [`FIRST`], [`LAST`] |
//! | 2..4 | `length` | bytes that follow the head; zero but for pieces |
//! | 4..8 | `slot` | of a piece: which of the frames in progress it belongs to |
//! | 8..16 | `number` | of a piece: its number, from 0; else the kind's argument |
//! | 16..24 | `received` | how many pieces the sender of this record has received, cumulatively |

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ProtocolError;

/// Bytes of a record's head.
pub const HEAD_BYTES: usize = size_of::<Head>();

/// Most bytes of a frame in one piece.
pub const PIECE_BYTES_MAX: usize = 60 << 10;

/// The piece begins a frame: it starts with the frame's header.
pub const FIRST: u8 = 1;
/// The piece ends its frame.
pub const LAST: u8 = 2;

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RecordKind {
    /// Part of a frame. The only kind that is numbered and kept until it is acknowledged.
    Piece = 1,
    /// `number` bytes of frames have been taken by whom they are for, all in all.
    Credit = 2,
    /// To be answered by a [`RecordKind::Pong`] with the same number.
    Ping = 3,
    /// The answer to a ping.
    Pong = 4,
    /// Nothing more will come: the session ends in an orderly way.
    Close = 5,
}

/// A record's head as it is on the wire.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Head {
    kind: u8,
    flags: u8,
    length: U16,
    slot: U32,
    number: U64,
    received: U64,
}

impl Head {
    /// Of a piece of `length` bytes, at most [`PIECE_BYTES_MAX`].
    pub fn piece(flags: u8, length: usize, slot: u32, number: u64, received: u64) -> Self {
        Self {
            kind: RecordKind::Piece as u8,
            flags,
            length: U16::new(length as u16),
            slot: U32::new(slot),
            number: U64::new(number),
            received: U64::new(received),
        }
    }

    /// Of a record without bytes.
    pub fn other(kind: RecordKind, number: u64, received: u64) -> Self {
        Self {
            kind: kind as u8,
            ..Self::piece(0, 0, 0, number, received)
        }
    }

    /// The kind, once the head has been found to make sense by itself.
    pub fn check(&self) -> Result<RecordKind, ProtocolError> {
        let kind = match self.kind {
            1 => RecordKind::Piece,
            2 => RecordKind::Credit,
            3 => RecordKind::Ping,
            4 => RecordKind::Pong,
            5 => RecordKind::Close,
            _ => return Err(ProtocolError::Record("of unknown kind")),
        };
        let sound = match kind {
            RecordKind::Piece => {
                self.flags & !(FIRST | LAST) == 0 && (1..=PIECE_BYTES_MAX).contains(&self.length())
            }
            _ => self.flags == 0 && self.length() == 0 && self.slot.get() == 0,
        };
        match sound {
            true => Ok(kind),
            false => Err(ProtocolError::Record("with a head that makes no sense")),
        }
    }

    /// Bytes that follow.
    pub fn length(&self) -> usize {
        usize::from(self.length.get())
    }

    /// [`FIRST`] and [`LAST`].
    pub fn flags(&self) -> u8 {
        self.flags
    }

    /// The frame in progress.
    pub fn slot(&self) -> u32 {
        self.slot.get()
    }

    /// The piece's number, or the kind's argument.
    pub fn number(&self) -> u64 {
        self.number.get()
    }

    /// Pieces that the sender has received.
    pub fn received(&self) -> u64 {
        self.received.get()
    }
}
