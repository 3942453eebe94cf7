//! What comes from the peer: records are numbered against what was received, pieces put together, and whole frames kept until
//! they are taken.

use std::collections::{HashMap, VecDeque};

use zerocopy::FromBytes;

use super::record::{FIRST, HEAD_BYTES, Head, LAST, RecordKind};
use super::{Limits, ProtocolError};
use crate::frame::{self, Frame, HEADER_BYTES};

/// Bytes of a frame for which memory is set aside before they have come: those of the largest read or write, with what is around them.
const AHEAD_BYTES: usize = (1 << 20) + (4 << 10);

/// A frame some of whose pieces have come.
#[derive(Debug)]
struct Partial {
    frame: Frame,
    /// Bytes of its payload when it is whole.
    length: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Inbox {
    /// Bytes of a record that is not whole.
    part: Vec<u8>,
    /// Pieces received.
    received: u64,
    /// Of them, how many the peer has been told of.
    told_received: u64,
    /// Frames in progress by slot; 0 is the ordered one.
    partial: HashMap<u32, Partial>,
    /// Whole frames that nobody has taken yet.
    ready: VecDeque<Frame>,
    /// Bytes of frames that were begun, ever; that have been taken; and of the latter, that the peer knows of.
    begun_bytes: u64,
    taken_bytes: u64,
    told_bytes: u64,
    /// Bytes of pieces since the peer was last told.
    untold_bytes: u64,
    window: u64,
}

/// What a record, other than a piece, asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Bytes of this side's frames were taken.
    Credit(u64),
    /// Wants a pong.
    Ping(u64),
    /// Is the answer to a ping.
    Pong(u64),
    /// The peer ends the session.
    Close,
}

impl Inbox {
    pub fn new(limits: &Limits) -> Self {
        Self {
            part: Vec::new(),
            received: 0,
            told_received: 0,
            partial: HashMap::new(),
            ready: VecDeque::new(),
            begun_bytes: 0,
            taken_bytes: 0,
            told_bytes: 0,
            untold_bytes: 0,
            window: limits.window_bytes as u64,
        }
    }

    /// Pieces received.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes of frames that have been taken.
    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> usize {
        let partial: usize = self
            .partial
            .values()
            .map(|partial| partial.frame.payload.len())
            .sum();
        let ready: usize = self.ready.iter().map(|frame| frame.payload.len()).sum();
        self.part.len() + partial + ready
    }

    /// The rest of a record that will not come.
    pub fn forget_part(&mut self) {
        self.part.clear();
    }

    /// Takes the next whole frame.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let frame = self.ready.pop_front()?;
        self.taken_bytes += (HEADER_BYTES + frame.payload.len()) as u64;
        Some(frame)
    }

    /// Whether there is one.
    pub fn has_frame(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether the peer should be told soon what was received and taken, or at leisure (`idle`).
    pub fn wants_telling(&self, idle: bool) -> bool {
        let taken = self.taken_bytes - self.told_bytes;
        if idle {
            return taken > 0 || self.received > self.told_received;
        }
        taken * 16 >= self.window || self.untold_bytes * 16 >= self.window
    }

    /// A record goes that tells the peer how many pieces were received.
    pub fn told_received(&mut self) {
        self.told_received = self.received;
        self.untold_bytes = 0;
    }

    /// A record goes that tells the peer how much has been taken.
    pub fn told_taken(&mut self) {
        self.told_received();
        self.told_bytes = self.taken_bytes;
    }

    /// Takes bytes as they came and gives for every record what its sender has received, and what it asks for. Stops at
    /// the first error, and at [`Heard::Close`].
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        mut hear: impl FnMut(u64, Option<Heard>) -> Result<(), ProtocolError>,
    ) -> Result<(), ProtocolError> {
        while !bytes.is_empty() {
            if self.part.is_empty() {
                match whole_record(bytes)? {
                    Some(length) => {
                        let (record, rest) = bytes.split_at(length);
                        bytes = rest;
                        self.take_record(record, &mut hear)?;
                    }
                    None => {
                        self.part.extend_from_slice(bytes);
                        return Ok(());
                    }
                }
                continue;
            }
            // The head first: it says how much more is wanted.
            let wanted = match self.part.len() < HEAD_BYTES {
                true => HEAD_BYTES,
                false => record_length(&self.part)?,
            };
            let (more, rest) = bytes.split_at((wanted - self.part.len()).min(bytes.len()));
            self.part.extend_from_slice(more);
            bytes = rest;
            if whole_record(&self.part)?.is_some() {
                let record = std::mem::take(&mut self.part);
                self.take_record(&record, &mut hear)?;
                self.part = record;
                self.part.clear();
            }
        }
        Ok(())
    }

    fn take_record(
        &mut self,
        record: &[u8],
        hear: &mut impl FnMut(u64, Option<Heard>) -> Result<(), ProtocolError>,
    ) -> Result<(), ProtocolError> {
        let (head, payload) =
            Head::ref_from_prefix(record).map_err(|_| ProtocolError::Record("that is too short"))?;
        let heard = match head.check()? {
            RecordKind::Piece => {
                self.take_piece(head, payload)?;
                None
            }
            RecordKind::Credit => Some(Heard::Credit(head.number())),
            RecordKind::Ping => Some(Heard::Ping(head.number())),
            RecordKind::Pong => Some(Heard::Pong(head.number())),
            RecordKind::Close => Some(Heard::Close),
        };
        hear(head.received(), heard)
    }

    fn take_piece(&mut self, head: &Head, bytes: &[u8]) -> Result<(), ProtocolError> {
        if head.number() < self.received {
            // Sent again on a new connection, though it had arrived.
            return Ok(());
        }
        if head.number() > self.received {
            return Err(ProtocolError::Gap {
                expected: self.received,
                got: head.number(),
            });
        }
        let mut partial = if head.flags() & FIRST != 0 {
            self.begin(head.slot(), bytes)?
        } else {
            let mut partial = self
                .partial
                .remove(&head.slot())
                .ok_or(ProtocolError::Record("of a frame that was not begun"))?;
            partial.frame.payload.extend_from_slice(bytes);
            partial
        };
        let whole = partial.frame.payload.len() == partial.length;
        if partial.frame.payload.len() > partial.length || whole != (head.flags() & LAST != 0) {
            return Err(ProtocolError::Record("that does not end where its frame does"));
        }
        if whole {
            partial.frame.payload.shrink_to(partial.length);
            self.ready.push_back(partial.frame);
        } else {
            self.partial.insert(head.slot(), partial);
        }
        self.received += 1;
        self.untold_bytes += bytes.len() as u64;
        Ok(())
    }

    fn begin(&mut self, slot: u32, bytes: &[u8]) -> Result<Partial, ProtocolError> {
        let (head, payload) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(ProtocolError::Record("without a frame's header"))?;
        let head = frame::decode_head(head)?;
        if self.partial.contains_key(&slot) {
            return Err(ProtocolError::Record("that begins a frame within another"));
        }
        let outstanding = self.begun_bytes - self.taken_bytes;
        let length = (HEADER_BYTES + head.length) as u64;
        if outstanding > 0 && outstanding + length > self.window {
            return Err(ProtocolError::Window);
        }
        self.begun_bytes += length;
        let mut data = Vec::with_capacity(head.length.min(payload.len().max(AHEAD_BYTES)));
        data.extend_from_slice(payload);
        Ok(Partial {
            frame: Frame {
                kind: head.kind,
                id: head.id,
                payload: data,
            },
            length: head.length,
        })
    }
}

fn record_length(bytes: &[u8]) -> Result<usize, ProtocolError> {
    let (head, _) = Head::ref_from_prefix(bytes).map_err(|_| ProtocolError::Record("that is too short"))?;
    head.check()?;
    Ok(HEAD_BYTES + head.length())
}

/// The length of the record that `bytes` begins with, if it is whole.
fn whole_record(bytes: &[u8]) -> Result<Option<usize>, ProtocolError> {
    if bytes.len() < HEAD_BYTES {
        return Ok(None);
    }
    let length = record_length(bytes)?;
    Ok((length <= bytes.len()).then_some(length))
}
