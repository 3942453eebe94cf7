//! One end of a session that survives its connections: a pure state machine.
//!
//! Frames are cut into pieces, pieces are numbered in both directions, acknowledged cumulatively and kept until they are; a new
//! connection goes on where the peer says it got to. So every frame arrives exactly once, and in order. It never reads a
//! clock or a socket: [`Time`] is an argument, bytes go in and out.
//!
//! * Connections: [`Core::up`] when one has been made and the first words ([`proof`]) exchanged, [`Core::down`] when it is lost.
//! * Input: [`Core::receive`] for bytes, [`Core::handle_timeout`] at [`Core::next_timeout`], [`Core::send`] for a frame if [`Core::has_room`],
//!   [`Core::close`] for the end.
//! * Output: [`Core::transmit`] and [`Core::transmitted`] for bytes, [`Core::next_frame`] for frames, [`Core::phase`].
//!
//! After an error the session is dead: the peer does not keep to the protocol.
//!
//! **What overtakes what** is said in [`Class`], **bounds** in [`Limits`]. Kept pieces are bounded by the peer's window, since a frame
//! is begun only when the peer has room for it; so are the frames that wait to be taken here.

pub mod greeting;
mod inbox;
mod kept;
mod outbox;
pub mod proof;
mod pulse;
mod record;
#[cfg(test)]
mod tests;

use std::io::IoSlice;
use std::time::Duration;

use thiserror::Error;
use zerocopy::IntoBytes;

use crate::frame::{self, Frame, FrameError, Kind};
use inbox::{Heard, Inbox};
use outbox::Outbox;
use proof::Agreed;
use pulse::{Due, Pulse};
use record::{Head, RecordKind};

/// A time, since a moment that one end has chosen.
pub type Time = Duration;

/// Slices that the connection is given at a time.
pub const SLICES: usize = 8;

/// Bytes of records other than pieces that may wait for the connection.
const URGENT_BYTES_MAX: usize = 4 << 10;

/// How a frame may be reordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// In order with all others of this class; overtakes data frames. Everything but what the other two are for.
    Ordered,
    /// Bulk that somebody waits for and that nothing sent later depends on: a file's data that the node has asked for. What is sent
    /// later may overtake it; it overtakes no ordered frame, and no data frame of the same stream.
    Data {
        /// Whom it is for. Streams share the link evenly.
        stream: u32,
    },
    /// Ordered, and overtakes nothing: an invalidation of what data frames before it have brought.
    Fence,
}

/// Bounds and times of one end.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of frames that this end has room for, begun and not taken.
    pub window_bytes: usize,
    /// Bytes of ordered frames that wait to be sent.
    pub ordered_bytes_max: usize,
    /// Bytes of data frames that wait to be sent.
    pub data_bytes_max: usize,
    /// A frame of at most so many bytes may come in while larger ones have to wait...
    pub small_bytes_max: usize,
    /// ...as long as there are no more than so many bytes too many.
    pub small_reserve_bytes: usize,
    /// Bytes cut ahead of the connection.
    pub ahead_bytes_max: usize,
    /// Bytes of a piece, at most 60 KiB.
    pub piece_bytes_max: usize,
    /// Bytes that a lane or stream sends in its turn.
    pub quantum_bytes: usize,
    /// Between two pings.
    pub ping_interval: Duration,
    /// A connection on which nothing comes for so long is lost.
    pub silence_max: Duration,
    /// A session without a connection for so long is dead.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window_bytes: 16 << 20,
            ordered_bytes_max: 1 << 20,
            data_bytes_max: 16 << 20,
            small_bytes_max: 4 << 10,
            small_reserve_bytes: 256 << 10,
            ahead_bytes_max: 128 << 10,
            piece_bytes_max: record::PIECE_BYTES_MAX,
            quantum_bytes: record::PIECE_BYTES_MAX,
            ping_interval: Duration::from_secs(2),
            silence_max: Duration::from_secs(7),
            grace: Duration::from_secs(60),
        }
    }
}

/// What the peer did that it must not do.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum ProtocolError {
    /// A record.
    #[error("the other side sent a record {0}")]
    Record(&'static str),
    /// A frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A piece is missing.
    #[error("the other side sent piece {got} where {expected} was next")]
    Gap {
        /// The number that was next.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// It acknowledges what was not sent, or asks for what it has acknowledged.
    #[error("the other side acknowledges what was not sent, or has forgotten what it acknowledged")]
    Acknowledgement,
    /// It sends more than there is room for.
    #[error("the other side sent more than there is room for")]
    Window,
    /// The first words of a connection.
    #[error("the other side's first words make no sense")]
    FirstWords,
    /// It does not know the session's secret.
    #[error("the other side does not know the session's secret")]
    Secret,
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is no connection since then.
    Down(Time),
    /// There is one.
    Up,
    /// The peer has ended the session in an orderly way; what it sent before can still be taken.
    Closed,
    /// There was no connection for the grace time.
    Dead,
}

/// What [`Core::handle_timeout`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// Nothing that concerns others.
    Nothing,
    /// The connection is lost: give it up, and say [`Core::down`].
    Lost,
    /// The grace time is over.
    Dead,
}

/// What went over a link so far, and what is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames that this end was given to send.
    pub frames_out: u64,
    /// Bytes written to connections.
    pub bytes_out: u64,
    /// Frames that were taken at this end.
    pub frames_in: u64,
    /// Bytes read from connections.
    pub bytes_in: u64,
    /// Bytes sent or about to be, not acknowledged.
    pub unacknowledged_bytes: usize,
    /// Bytes of frames that wait to be sent.
    pub waiting_bytes: usize,
    /// How often the session went on with a new connection.
    pub resumes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    phase: Phase,
    /// The attempt that the connection is.
    epoch: u64,
    outbox: Outbox,
    inbox: Inbox,
    pulse: Pulse,
    /// Records that are not numbered, and how much of them was sent.
    urgent: Vec<u8>,
    urgent_sent: usize,
    /// This end closes: 1 it wants to, 2 the record is on its way.
    closing: u8,
    traffic: Traffic,
}

impl Core {
    /// An end of a new session, which has no connection yet.
    pub fn new(limits: Limits, now: Time) -> Self {
        Self {
            phase: Phase::Down(now),
            epoch: 0,
            outbox: Outbox::new(limits.clone()),
            inbox: Inbox::new(&limits),
            pulse: Pulse::new(&limits),
            urgent: Vec::new(),
            urgent_sent: 0,
            closing: 0,
            traffic: Traffic::default(),
            limits,
        }
    }

    /// The limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits for so long for the peer to come back, from now on.
    pub fn set_grace(&mut self, grace: Duration) {
        self.limits.grace = grace;
    }

    /// Where the session stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The attempt that the last good connection was.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Pieces received, for the first words of a new connection.
    pub fn received(&self) -> u64 {
        self.inbox.received()
    }

    /// Counts.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            unacknowledged_bytes: self.outbox.kept_bytes(),
            waiting_bytes: self.outbox.waiting_bytes(),
            ..self.traffic
        }
    }

    /// Bytes of frames that wait to be sent.
    pub fn waiting_bytes(&self) -> usize {
        self.outbox.waiting_bytes()
    }

    /// Bytes sent, or cut to be sent, that the peer has not acknowledged.
    pub fn kept_bytes(&self) -> usize {
        self.outbox.kept_bytes()
    }

    /// The smoothed and the least round trip.
    pub fn round_trip(&self) -> Option<(Duration, Duration)> {
        self.pulse.round_trip()
    }

    /// Bytes that this end holds, in both directions.
    pub fn held_bytes(&self) -> usize {
        self.outbox.kept_bytes() + self.outbox.waiting_bytes() + self.inbox.held_bytes() + self.urgent.len()
    }

    /// A connection has been made and the first words exchanged. One that there was is over with this. False if it is an
    /// older attempt than the one before, or the session has ended: it is not to be used.
    pub fn up(&mut self, now: Time, agreed: &Agreed) -> Result<bool, ProtocolError> {
        if self.is_over() || agreed.epoch <= self.epoch {
            return Ok(false);
        }
        self.stop(now);
        self.outbox.restart(agreed.received, agreed.window)?;
        self.pulse.start(now);
        self.phase = Phase::Up;
        self.epoch = agreed.epoch;
        if agreed.epoch > Agreed::EPOCH_FIRST {
            self.traffic.resumes += 1;
            // What was said of it may have been lost.
            self.tell_taken();
        }
        Ok(true)
    }

    /// The connection is lost.
    pub fn down(&mut self, now: Time) {
        if self.phase == Phase::Up {
            self.stop(now);
        }
    }

    fn stop(&mut self, now: Time) {
        self.phase = Phase::Down(now);
        self.inbox.forget_part();
        self.urgent.clear();
        self.urgent_sent = 0;
        self.closing = self.closing.min(1);
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Closed | Phase::Dead)
    }

    /// Whether a frame with a payload of so many bytes can be sent now; otherwise it can when the peer has taken others.
    pub fn has_room(&self, class: Class, length: usize) -> bool {
        self.outbox.has_room(class, length)
    }

    /// Sends a frame whose payload is the concatenation of `parts`, and for which there is [room](Self::has_room).
    pub fn send(&mut self, class: Class, kind: Kind, id: u64, parts: &[&[u8]]) -> Result<(), FrameError> {
        let length = parts.iter().map(|part| part.len()).sum();
        let head = frame::encode_head(kind, id, length)?;
        let received = self.inbox.received();
        self.outbox
            .push(class, &head, parts, self.phase == Phase::Up, received);
        self.traffic.frames_out += 1;
        Ok(())
    }

    /// Nothing more will be sent: the peer is told when all that was has gone.
    pub fn close(&mut self) {
        self.closing = self.closing.max(1);
    }

    /// Whether everything up to the peer's being told has been given to the connection.
    pub fn is_closed(&self) -> bool {
        self.closing == 2 && self.urgent.is_empty()
    }

    /// Takes bytes of the connection.
    pub fn receive(&mut self, now: Time, bytes: &[u8]) -> Result<(), ProtocolError> {
        if self.phase != Phase::Up {
            return Ok(());
        }
        self.traffic.bytes_in += bytes.len() as u64;
        self.pulse.heard(now);
        let Self {
            outbox, pulse, inbox, ..
        } = self;
        let mut closed = false;
        let mut ping = None;
        inbox.receive(bytes, |received, heard| {
            if closed {
                return Err(ProtocolError::Record("after its last"));
            }
            outbox.acknowledged(received)?;
            match heard {
                None => {}
                Some(Heard::Credit(taken)) => outbox.credited(taken)?,
                Some(Heard::Pong(number)) => pulse.answered(number, now),
                Some(Heard::Close) => closed = true,
                // If there are several, nobody waits for the earlier ones any more.
                Some(Heard::Ping(number)) => ping = Some(number),
            }
            Ok(())
        })?;
        if let Some(number) = ping {
            self.tell(RecordKind::Pong, number);
        }
        if closed {
            self.phase = Phase::Closed;
        } else if self.inbox.wants_telling(false) {
            self.tell_taken();
        }
        Ok(())
    }

    /// The next frame that has come.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let frame = self.inbox.next_frame()?;
        self.traffic.frames_in += 1;
        if self.phase == Phase::Up && self.inbox.wants_telling(false) {
            self.tell_taken();
        }
        Some(frame)
    }

    /// Whether a frame has come.
    pub fn has_frame(&self) -> bool {
        self.inbox.has_frame()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, if ever.
    pub fn next_timeout(&self) -> Option<Time> {
        match self.phase {
            Phase::Up => Some(self.pulse.next()),
            Phase::Down(since) => Some(since + self.limits.grace),
            Phase::Closed | Phase::Dead => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Time) -> Timeout {
        match self.phase {
            Phase::Up => match self.pulse.due(now) {
                Due::Nothing => {}
                Due::Lost => return Timeout::Lost,
                Due::Ping(number) => {
                    self.outbox.trim();
                    self.tell(RecordKind::Ping, number);
                    if self.inbox.wants_telling(true) {
                        self.tell_taken();
                    }
                }
            },
            Phase::Down(since) if now >= since + self.limits.grace => {
                self.phase = Phase::Dead;
                return Timeout::Dead;
            }
            Phase::Down(_) | Phase::Closed | Phase::Dead => {}
        }
        Timeout::Nothing
    }

    /// The next bytes for the connection, in the first of the slices; none if there is nothing to send. What of them was sent is to be told by
    /// [`transmitted`](Self::transmitted) before anything else is done.
    pub fn transmit(&mut self) -> [IoSlice<'_>; SLICES] {
        let mut slices = [IoSlice::new(&[]); SLICES];
        if self.phase != Phase::Up {
            return slices;
        }
        self.outbox.cut(self.inbox.received());
        if self.closing == 1 && self.outbox.is_flushed() {
            self.tell(RecordKind::Close, 0);
            self.closing = 2;
        }
        let mut count = 0;
        let boundary = self.outbox.at_boundary();
        if !self.urgent.is_empty() && boundary {
            slices[0] = IoSlice::new(&self.urgent[self.urgent_sent..]);
            count = 1;
        }
        let only_this = !self.urgent.is_empty() && !boundary;
        self.outbox.unsent(only_this, &mut slices[count..]);
        slices
    }

    /// The connection has taken so many of the bytes that [`transmit`](Self::transmit) gave.
    pub fn transmitted(&mut self, mut count: usize) {
        self.traffic.bytes_out += count as u64;
        if !self.urgent.is_empty() && self.outbox.at_boundary() {
            let urgent = count.min(self.urgent.len() - self.urgent_sent);
            self.urgent_sent += urgent;
            count -= urgent;
            if self.urgent_sent == self.urgent.len() {
                self.urgent.clear();
                self.urgent_sent = 0;
            }
        }
        self.outbox.mark_sent(count);
    }

    fn tell(&mut self, kind: RecordKind, number: u64) {
        let full = self.urgent.len() >= URGENT_BYTES_MAX && kind != RecordKind::Close;
        if full || self.closing == 2 {
            // The peer does not read, and will be told when it does; or it has been told all.
            return;
        }
        self.inbox.told_received();
        let head = Head::other(kind, number, self.inbox.received());
        self.urgent.extend_from_slice(head.as_bytes());
    }

    fn tell_taken(&mut self) {
        let taken = self.inbox.taken_bytes();
        if self.urgent.len() < URGENT_BYTES_MAX {
            self.tell(RecordKind::Credit, taken);
            self.inbox.told_taken();
        }
    }
}
