//! What is to be sent: frames that wait, the order in which they are cut into pieces, and the pieces that are kept until the
//! peer has acknowledged them.
//!
//! Frames wait in lanes. The *ordered* lane is a queue. *Data* frames wait in one queue per stream (the process they are for).
//! Pieces are cut from the lanes only as the connection takes them, so that a small frame never has more in front of it than
//! [`Limits::ahead_bytes_max`] of somebody's bulk. Between the ordered lane and the streams, and among the streams, it is deficit round robin:
//! each gets its quantum of bytes in turn.
//!
//! * A data frame is begun when every ordered frame that was there before it has been sent: it overtakes nothing.
//! * Ordered frames overtake data frames.
//! * A *fence* is an ordered frame that overtakes nothing either.
//!
//! A frame is begun when the peer has room for the whole of it, so every frame that was begun can be finished.

use std::collections::VecDeque;
use std::io::IoSlice;

use zerocopy::IntoBytes;

use super::kept::Kept;
use super::record::{FIRST, HEAD_BYTES, Head, LAST};
use super::{Class, Limits, ProtocolError};
use crate::frame::HEADER_BYTES;

/// A frame that has not been cut whole.
#[derive(Debug)]
struct Waiting {
    /// The frame with its header.
    bytes: Vec<u8>,
    /// How much of it has been cut.
    cut: usize,
    /// Where the peer puts its pieces together; 0 is the ordered lane's own.
    slot: u32,
    /// Of a data frame: ordered frames that have to be finished before it is begun, counted from the session's beginning.
    after: u64,
    /// It counts among the ordered frames.
    ordered: bool,
}

impl Waiting {
    fn rest(&self) -> usize {
        self.bytes.len() - self.cut
    }
}

/// Data frames for one receiver.
#[derive(Debug)]
struct Stream {
    key: u32,
    frames: VecDeque<Waiting>,
    /// Bytes it may still send in this round.
    deficit: usize,
}

/// Which lane the next piece is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Ordered,
    Data,
    /// Nothing may be cut now.
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    limits: Limits,
    ordered: VecDeque<Waiting>,
    ordered_bytes: usize,
    /// Bytes that the ordered lane may still send before a stream has its turn.
    ordered_deficit: usize,
    /// Streams that have frames, in the order of their turns.
    streams: VecDeque<Stream>,
    data_bytes: usize,
    /// Ordered frames that ever came in, and that were cut whole.
    ordered_in: u64,
    ordered_out: u64,
    slot_last: u32,
    /// Records of pieces: sent and not acknowledged, then not sent.
    kept: Kept,
    /// Their lengths.
    lengths: VecDeque<u32>,
    /// The number of the first of them.
    base: u64,
    /// How many of them were sent whole on this connection, and their bytes.
    sent: usize,
    sent_bytes: usize,
    /// How much of the next one was sent.
    sent_part: usize,
    /// The number after the last piece that was sent whole, on any connection.
    reached: u64,
    /// Bytes of frames begun, ever, and of those that the peer says have been taken.
    begun_bytes: u64,
    taken_bytes: u64,
    /// Bytes that the peer has room for.
    window: u64,
}

impl Outbox {
    pub fn new(limits: Limits) -> Self {
        Self {
            ordered: VecDeque::new(),
            ordered_bytes: 0,
            ordered_deficit: limits.quantum_bytes,
            streams: VecDeque::new(),
            data_bytes: 0,
            ordered_in: 0,
            ordered_out: 0,
            slot_last: 0,
            kept: Kept::default(),
            lengths: VecDeque::new(),
            base: 0,
            sent: 0,
            sent_bytes: 0,
            sent_part: 0,
            reached: 0,
            begun_bytes: 0,
            taken_bytes: 0,
            window: 0,
            limits,
        }
    }

    /// Whether a frame of so many bytes may come in now.
    pub fn has_room(&self, class: Class, length: usize) -> bool {
        let length = length + HEADER_BYTES;
        let (held, max) = match class {
            Class::Data { .. } => (self.data_bytes, self.limits.data_bytes_max),
            // A small frame need not wait for room behind large ones.
            _ if length <= self.limits.small_bytes_max => (
                self.ordered_bytes,
                self.limits.ordered_bytes_max + self.limits.small_reserve_bytes,
            ),
            // What has been cut and not sent counts too: who waits for its going has the next frame cut at once, and not copied twice.
            _ => (
                self.ordered_bytes + self.unsent_bytes(),
                self.limits.ordered_bytes_max,
            ),
        };
        held == 0 || held + length <= max
    }

    /// Takes a frame in, for which there is [room](Self::has_room).
    pub fn push(
        &mut self,
        class: Class,
        head: &[u8; HEADER_BYTES],
        parts: &[&[u8]],
        may_cut: bool,
        received: u64,
    ) {
        let length = HEADER_BYTES + parts.iter().map(|part| part.len()).sum::<usize>();
        let fits = self.unsent_bytes() + length <= self.limits.ordered_bytes_max;
        if !matches!(class, Class::Data { .. })
            && may_cut
            && self.is_idle()
            && fits
            && self.fits_window(length)
        {
            // The common case: it is cut at once, since nothing that comes later goes before it.
            self.ordered_in += 1;
            self.ordered_out += 1;
            self.begun_bytes += length as u64;
            self.keep_whole(length, head, parts, received);
            return;
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(head);
        for part in parts {
            bytes.extend_from_slice(part);
        }
        let mut frame = Waiting {
            bytes,
            cut: 0,
            slot: 0,
            after: self.ordered_in,
            ordered: true,
        };
        let Class::Data { stream } = class else {
            if class == Class::Fence {
                self.put_in_order();
            }
            self.ordered_in += 1;
            self.ordered_bytes += length;
            self.ordered.push_back(frame);
            return;
        };
        self.slot_last = self.slot_last.checked_add(1).unwrap_or(1);
        frame.slot = self.slot_last;
        frame.ordered = false;
        self.data_bytes += length;
        match self.streams.iter_mut().find(|other| other.key == stream) {
            Some(stream) => stream.frames.push_back(frame),
            None => self.streams.push_back(Stream {
                key: stream,
                frames: VecDeque::from([frame]),
                deficit: self.limits.quantum_bytes,
            }),
        }
    }

    /// All data frames become ordered ones.
    fn put_in_order(&mut self) {
        self.ordered_bytes += self.data_bytes;
        self.data_bytes = 0;
        for frame in self.streams.drain(..).flat_map(|stream| stream.frames) {
            match frame.cut {
                0 => self.ordered.push_back(frame),
                // Those that were begun go first: the room that they have at the peer may be what others wait for.
                _ => self.ordered.push_front(frame),
            }
        }
    }

    /// Nothing waits to be cut.
    pub fn is_idle(&self) -> bool {
        self.ordered.is_empty() && self.streams.is_empty()
    }

    /// Nothing waits to be cut or sent.
    pub fn is_flushed(&self) -> bool {
        self.is_idle() && self.unsent_bytes() == 0
    }

    /// Bytes kept for the peer's acknowledgement.
    pub fn kept_bytes(&self) -> usize {
        self.kept.len()
    }

    /// Bytes that wait to be cut.
    pub fn waiting_bytes(&self) -> usize {
        self.ordered_bytes + self.data_bytes
    }

    fn unsent_bytes(&self) -> usize {
        self.kept.len() - self.sent_bytes - self.sent_part
    }

    fn fits_window(&self, length: usize) -> bool {
        // What is longer than the whole window goes alone.
        let outstanding = self.begun_bytes - self.taken_bytes;
        outstanding == 0 || outstanding + length as u64 <= self.window
    }

    /// Cuts pieces, as many as are wanted ahead of the connection.
    pub fn cut(&mut self, received: u64) {
        while self.unsent_bytes() < self.limits.ahead_bytes_max {
            match self.next() {
                Next::Nothing => break,
                Next::Ordered => {
                    let Some(mut frame) = self.ordered.pop_front() else {
                        break;
                    };
                    let length = self.cut_piece(&mut frame, received);
                    self.ordered_bytes -= length;
                    self.ordered_deficit = self.ordered_deficit.saturating_sub(length);
                    if frame.rest() > 0 {
                        self.ordered.push_front(frame);
                    } else if frame.ordered {
                        self.ordered_out += 1;
                    }
                }
                Next::Data => {
                    // The stream in front, which `next` has seen to be able to.
                    let Some(mut stream) = self.streams.pop_front() else {
                        break;
                    };
                    let Some(mut frame) = stream.frames.pop_front() else {
                        continue;
                    };
                    let length = self.cut_piece(&mut frame, received);
                    self.data_bytes -= length;
                    if frame.rest() > 0 {
                        stream.frames.push_front(frame);
                    }
                    stream.deficit = stream.deficit.saturating_sub(length);
                    if stream.frames.is_empty() {
                        // Its turn is over, and so is its deficit.
                    } else if stream.deficit > 0 {
                        self.streams.push_front(stream);
                    } else {
                        stream.deficit = self.limits.quantum_bytes;
                        self.streams.push_back(stream);
                    }
                    self.ordered_deficit = (self.ordered_deficit + length).min(2 * self.limits.quantum_bytes);
                }
            }
        }
    }

    /// Whose turn it is. If it is the streams', the one in front can be cut.
    fn next(&mut self) -> Next {
        let ordered = match self.ordered.front() {
            None => Next::Nothing,
            Some(frame) if frame.cut > 0 || self.fits_window(frame.bytes.len()) => Next::Ordered,
            // The peer has to take something first. No other frame may be begun meanwhile, or this one would wait for ever.
            Some(_) => {
                return match self.find_stream(false) {
                    true => Next::Data,
                    false => Next::Nothing,
                };
            }
        };
        if ordered == Next::Ordered && self.ordered_deficit > 0 {
            return Next::Ordered;
        }
        match self.find_stream(true) {
            true => Next::Data,
            false => ordered,
        }
    }

    /// Brings a stream that can be cut to the front; with frames that have not been begun only if `may_begin`.
    fn find_stream(&mut self, may_begin: bool) -> bool {
        for _ in 0..self.streams.len() {
            let ready = self
                .streams
                .front()
                .and_then(|stream| stream.frames.front())
                .is_some_and(|frame| {
                    frame.cut > 0
                        || may_begin && frame.after <= self.ordered_out && self.fits_window(frame.bytes.len())
                });
            if ready {
                return true;
            }
            self.streams.rotate_left(1);
        }
        false
    }

    /// Cuts the next piece of a frame; its bytes.
    fn cut_piece(&mut self, frame: &mut Waiting, received: u64) -> usize {
        let length = frame.rest().min(self.limits.piece_bytes_max);
        let mut flags = 0;
        if frame.cut == 0 {
            flags |= FIRST;
            self.begun_bytes += frame.bytes.len() as u64;
        }
        if length == frame.rest() {
            flags |= LAST;
        }
        self.keep_head(flags, length, frame.slot, received);
        self.kept.extend(&frame.bytes[frame.cut..frame.cut + length]);
        frame.cut += length;
        length
    }

    /// Cuts a whole frame from its parts.
    fn keep_whole(&mut self, length: usize, head: &[u8; HEADER_BYTES], parts: &[&[u8]], received: u64) {
        let all = std::iter::once(&head[..]).chain(parts.iter().copied());
        let (mut left, mut room, mut flags) = (length, 0, FIRST);
        for mut part in all {
            while !part.is_empty() {
                if room == 0 {
                    room = left.min(self.limits.piece_bytes_max);
                    left -= room;
                    if left == 0 {
                        flags |= LAST;
                    }
                    self.keep_head(flags, room, 0, received);
                    flags = 0;
                }
                let (now, later) = part.split_at(part.len().min(room));
                self.kept.extend(now);
                room -= now.len();
                part = later;
            }
        }
    }

    /// Gives memory back. There is a time for that when nothing much goes on.
    pub fn trim(&mut self) {
        self.kept.trim();
    }

    fn keep_head(&mut self, flags: u8, length: usize, slot: u32, received: u64) {
        let number = self.base + self.lengths.len() as u64;
        self.lengths.push_back((HEAD_BYTES + length) as u32);
        self.kept
            .extend(Head::piece(flags, length, slot, number, received).as_bytes());
    }

    /// Whether the connection is between two records.
    pub fn at_boundary(&self) -> bool {
        self.sent_part == 0
    }

    /// The next bytes for the connection, as many as `slices` hold: of the record that it is within if `only_this`, else all.
    pub fn unsent<'a>(&'a self, only_this: bool, slices: &mut [IoSlice<'a>]) {
        let start = self.sent_bytes + self.sent_part;
        let end = match (only_this, self.lengths.get(self.sent)) {
            (true, Some(length)) => self.sent_bytes + *length as usize,
            _ => self.kept.len(),
        };
        self.kept.slices(start..end, slices);
    }

    /// The connection has taken so many of them.
    pub fn mark_sent(&mut self, mut count: usize) {
        while let Some(length) = self.lengths.get(self.sent) {
            let rest = *length as usize - self.sent_part;
            if count < rest {
                self.sent_part += count;
                return;
            }
            count -= rest;
            self.sent_part = 0;
            self.sent_bytes += *length as usize;
            self.sent += 1;
            self.reached = self.reached.max(self.base + self.sent as u64);
        }
        debug_assert_eq!(count, 0);
    }

    /// The peer has received this many pieces.
    pub fn acknowledged(&mut self, received: u64) -> Result<(), ProtocolError> {
        if received > self.reached {
            return Err(ProtocolError::Acknowledgement);
        }
        // It may have been said before what has been heard already, or be of pieces that are being sent again.
        let count = received.saturating_sub(self.base).min(self.sent as u64);
        self.forget(count as usize);
        Ok(())
    }

    fn forget(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let bytes: usize = self.lengths.drain(..count).map(|length| length as usize).sum();
        self.kept.forget(bytes);
        self.base += count as u64;
        self.sent -= count;
        self.sent_bytes -= bytes;
    }

    /// The peer says that so many bytes of frames have been taken.
    pub fn credited(&mut self, taken: u64) -> Result<(), ProtocolError> {
        if taken > self.begun_bytes {
            return Err(ProtocolError::Acknowledgement);
        }
        self.taken_bytes = self.taken_bytes.max(taken);
        Ok(())
    }

    /// A new connection, to a peer that has received so many pieces: what comes after them is sent again.
    pub fn restart(&mut self, received: u64, window: u64) -> Result<(), ProtocolError> {
        let count = received
            .checked_sub(self.base)
            .filter(|_| received <= self.reached)
            .ok_or(ProtocolError::Acknowledgement)?;
        self.sent = self.lengths.len();
        self.sent_bytes = self.kept.len();
        self.forget(count as usize);
        self.sent = 0;
        self.sent_bytes = 0;
        self.sent_part = 0;
        self.window = window.min(self.limits.window_bytes as u64);
        Ok(())
    }
}
