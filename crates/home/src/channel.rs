//! Frames over a Unix socket between the agent and a deputy or client, some of them with a descriptor.
//!
//! The framing is the link's ([`afield_link::frame`]). Descriptors travel as `SCM_RIGHTS` with the first byte of their
//! frame; the kernel keeps their order, so that the receiver takes the next one whenever a message says it has one.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use afield_link::frame::{self, Frame, FrameError, HEADER_BYTES, Head, Kind};
use afield_link::wire;
use rustix::buffer::spare_capacity;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::Serialize;
use thiserror::Error;

/// Bytes asked of the kernel at once.
const READ_BYTES: usize = 16 << 10;

/// Descriptors that may wait for the message which they belong to. A peer that sends more is no peer of ours.
const DESCRIPTORS_PENDING_MAX: usize = 64;

/// Why a channel is of no more use.
#[derive(Debug, Error)]
pub enum ChannelError {
    /// The other side closed it.
    #[error("the other side closed the channel")]
    Closed,
    /// The socket failed.
    #[error("channel: {0}")]
    Io(#[from] io::Error),
    /// The bytes are not frames.
    #[error("channel: {0}")]
    Frame(#[from] FrameError),
    /// A message could not be understood.
    #[error("channel: {0}")]
    Wire(#[from] wire::WireError),
    /// More descriptors than messages.
    #[error("channel: descriptors without their messages")]
    Descriptors,
    /// A message came without the descriptor that it announces.
    #[error("channel: a message came without its descriptor")]
    Missing,
}

impl From<Errno> for ChannelError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// What one look at the socket brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Bytes.
    Some,
    /// Nothing yet.
    Nothing,
    /// The end.
    End,
}

/// The receiving half: call [`receive`](Self::receive), then [`next_frame`](Self::next_frame) until it gives `None`.
#[derive(Debug, Default)]
pub struct Incoming {
    /// Bytes as they came, made with the first.
    buffer: Box<[u8]>,
    /// The part of `buffer` that is not spent.
    range: Range<usize>,
    /// A frame longer than the buffer, as far as it has come: it is read straight to its place.
    long: Option<(Head, Vec<u8>)>,
    /// Received and not yet taken, oldest first.
    descriptors: VecDeque<OwnedFd>,
}

impl Incoming {
    /// Takes what the socket has. With `wait` it sleeps until there is something.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, wait: bool) -> Result<Received, ChannelError> {
        let mut flags = RecvFlags::CMSG_CLOEXEC;
        if !wait {
            flags |= RecvFlags::DONTWAIT;
        }
        if let Some((head, payload)) = &mut self.long
            && payload.capacity() == head.length
        {
            // Descriptors come with a frame's first byte, which is here.
            let got = retry_on_intr(|| rustix::net::recv(socket, spare_capacity(payload), flags));
            return match got {
                Ok((0, _)) | Err(Errno::CONNRESET) => Ok(Received::End),
                Ok(_) => Ok(Received::Some),
                Err(Errno::AGAIN) => Ok(Received::Nothing),
                Err(errno) => Err(errno.into()),
            };
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; READ_BYTES].into_boxed_slice();
        }
        // What is left is the beginning of a frame.
        self.buffer.copy_within(self.range.clone(), 0);
        self.range = 0..self.range.len();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut room = [IoSliceMut::new(&mut self.buffer[self.range.end..])];
        let got = retry_on_intr(|| rustix::net::recvmsg(socket, &mut room, &mut control, flags));
        let count = match got {
            Ok(message) => message.bytes,
            Err(Errno::AGAIN) => return Ok(Received::Nothing),
            Err(Errno::CONNRESET) => 0,
            Err(errno) => return Err(errno.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        if self.descriptors.len() > DESCRIPTORS_PENDING_MAX {
            return Err(ChannelError::Descriptors);
        }
        if count == 0 {
            return Ok(Received::End);
        }
        self.range.end += count;
        Ok(Received::Some)
    }

    /// The next whole frame, if it is here.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ChannelError> {
        if let Some((head, mut payload)) = self.long.take() {
            let missing = (head.length - payload.len()).min(self.range.len());
            payload.extend_from_slice(&self.buffer[self.range.start..][..missing]);
            self.range.start += missing;
            if payload.len() < head.length {
                self.long = Some((head, payload));
                return Ok(None);
            }
            return Ok(Some(frame_of(head, payload)));
        }
        let unspent = &self.buffer[self.range.clone()];
        let Some((head, rest)) = unspent.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let head = frame::decode_head(head)?;
        if let Some(payload) = rest.get(..head.length) {
            let payload = payload.to_vec();
            self.range.start += HEADER_BYTES + head.length;
            return Ok(Some(frame_of(head, payload)));
        }
        if HEADER_BYTES + head.length > self.buffer.len() {
            let mut payload = Vec::with_capacity(head.length);
            payload.extend_from_slice(rest);
            self.range = 0..0;
            self.long = Some((head, payload));
        }
        Ok(None)
    }

    /// Waits for a whole frame.
    pub fn wait_frame(&mut self, socket: BorrowedFd<'_>) -> Result<Frame, ChannelError> {
        loop {
            if let Some(frame) = self.next_frame()? {
                return Ok(frame);
            }
            match self.receive(socket, true)? {
                Received::Some => {}
                // A receive timeout on the socket looks like this.
                Received::Nothing => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                Received::End => return Err(ChannelError::Closed),
            }
        }
    }

    /// Descriptors whose messages have not been taken yet.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.descriptors.iter().map(AsFd::as_fd)
    }

    /// The descriptor of the message just taken, whose contents say that it has one.
    pub fn take_descriptor(&mut self) -> Result<OwnedFd, ChannelError> {
        self.descriptors.pop_front().ok_or(ChannelError::Missing)
    }
}

fn frame_of(head: Head, payload: Vec<u8>) -> Frame {
    Frame {
        kind: head.kind,
        id: head.id,
        payload,
    }
}

/// Sends a whole frame whose payload is the concatenation of `parts`; waits while the peer's buffer is full. Frames
/// of several threads mix unless the caller holds a lock.
pub fn send(
    socket: BorrowedFd<'_>,
    kind: Kind,
    id: u64,
    parts: &[&[u8]],
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<(), ChannelError> {
    let length = parts.iter().map(|part| part.len()).sum();
    let head = frame::encode_head(kind, id, length)?;
    let mut slices = Vec::with_capacity(parts.len() + 1);
    slices.push(IoSlice::new(&head));
    slices.extend(parts.iter().map(|part| IoSlice::new(part)));
    let mut slices = &mut slices[..];
    let mut descriptor = descriptor;
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match send_some(socket, slices, descriptor, SendFlags::empty()) {
            Ok(count) => {
                descriptor = None;
                IoSlice::advance_slices(&mut slices, count);
            }
            Err(Errno::INTR) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::Closed),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Sends a serde message as a control frame.
pub fn send_control<T: Serialize>(
    socket: BorrowedFd<'_>,
    id: u64,
    message: &T,
    descriptor: Option<BorrowedFd<'_>>,
) -> Result<(), ChannelError> {
    let payload = wire::encode(message)?;
    send(socket, Kind::Control, id, &[&payload], descriptor)
}

/// Sends a few bytes, which are no frame, with a descriptor.
pub fn send_bytes(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    send_some(socket, &[IoSlice::new(bytes)], descriptor, SendFlags::empty())?;
    Ok(())
}

/// One `sendmsg`, without `SIGPIPE`.
fn send_some(
    socket: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    descriptor: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors {
        // There is room: the space is made for one.
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    rustix::net::sendmsg(socket, slices, &mut control, flags | SendFlags::NOSIGNAL)
}

/// The agent's sending half: never waits, keeps what the socket does not take.
#[derive(Debug, Default)]
pub struct Outgoing {
    /// What is left, oldest first. A descriptor goes with the first byte of its piece.
    pieces: VecDeque<Piece>,
    /// Bytes in `pieces`.
    pending_bytes: usize,
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    /// Bytes of it that are gone.
    start: usize,
    descriptor: Option<OwnedFd>,
}

impl Outgoing {
    /// Takes a frame. Call [`flush`](Self::flush) then.
    pub fn push(
        &mut self,
        kind: Kind,
        id: u64,
        payload: &[u8],
        descriptor: Option<OwnedFd>,
    ) -> Result<(), FrameError> {
        let head = frame::encode_head(kind, id, payload.len())?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(payload);
        self.pending_bytes += bytes.len();
        self.pieces.push_back(Piece {
            bytes,
            start: 0,
            descriptor,
        });
        Ok(())
    }

    /// Sends a frame at once if the socket takes it and nothing is ahead of it; otherwise keeps what it does not take.
    pub fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        kind: Kind,
        id: u64,
        payload: &[u8],
        descriptor: Option<OwnedFd>,
    ) -> Result<(), ChannelError> {
        if self.pieces.is_empty() && descriptor.is_none() {
            let head = frame::encode_head(kind, id, payload.len())?;
            let slices = [IoSlice::new(&head), IoSlice::new(payload)];
            let sent = match send_some(socket, &slices, None, SendFlags::DONTWAIT) {
                Ok(count) => count,
                Err(Errno::AGAIN | Errno::INTR) => 0,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(errno) => return Err(errno.into()),
            };
            if sent < HEADER_BYTES + payload.len() {
                self.push(kind, id, payload, None)?;
                if let Some(piece) = self.pieces.back_mut() {
                    piece.start = sent;
                    self.pending_bytes -= sent;
                }
            }
            return Ok(());
        }
        self.push(kind, id, payload, descriptor)?;
        self.flush(socket).map(|_| ())
    }

    /// Sends what the socket takes; true if nothing is left.
    pub fn flush(&mut self, socket: BorrowedFd<'_>) -> Result<bool, ChannelError> {
        while let Some(piece) = self.pieces.front_mut() {
            let slices = [IoSlice::new(&piece.bytes[piece.start..])];
            let descriptor = piece.descriptor.as_ref().map(AsFd::as_fd);
            match send_some(socket, &slices, descriptor, SendFlags::DONTWAIT) {
                Ok(count) => {
                    piece.descriptor = None;
                    piece.start += count;
                    self.pending_bytes -= count;
                    if piece.start == piece.bytes.len() {
                        self.pieces.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(ChannelError::Closed),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    /// Bytes that wait.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_stay_with_their_frames() {
        let (left, right) = UnixStream::pair().unwrap();
        let pipes: Vec<_> = (0..6).map(|_| rustix::pipe::pipe().unwrap()).collect();
        for (id, (reader, _)) in pipes.iter().enumerate() {
            send(left.as_fd(), Kind::Call, 100, &[b"none"], None).unwrap();
            send(
                left.as_fd(),
                Kind::Control,
                id as u64,
                &[b"wi", b"th"],
                Some(reader.as_fd()),
            )
            .unwrap();
        }
        drop(left);
        let mut incoming = Incoming::default();
        let mut seen = 0;
        while seen < 6 {
            let frame = incoming.wait_frame(right.as_fd()).unwrap();
            if frame.kind == Kind::Control {
                assert_eq!((frame.id, &frame.payload[..]), (seen, &b"with"[..]));
                let descriptor = incoming.take_descriptor().unwrap();
                rustix::io::write(&pipes[seen as usize].1, &[seen as u8]).unwrap();
                let mut byte = [0];
                rustix::io::read(&descriptor, &mut byte).unwrap();
                assert_eq!(byte[0], seen as u8);
                seen += 1;
            }
        }
        assert!(matches!(
            incoming.wait_frame(right.as_fd()),
            Err(ChannelError::Closed)
        ));
    }

    #[test]
    fn what_the_socket_does_not_take_is_kept_in_order() {
        let (left, right) = UnixStream::pair().unwrap();
        let mut outgoing = Outgoing::default();
        let big = vec![5u8; 300_000];
        for id in 0..20 {
            outgoing.send(left.as_fd(), Kind::Call, id, &big, None).unwrap();
        }
        assert!(outgoing.pending_bytes() > 1_000_000);
        let reader = std::thread::spawn(move || {
            let mut incoming = Incoming::default();
            for id in 0..20 {
                let frame = incoming.wait_frame(right.as_fd()).unwrap();
                assert_eq!((frame.id, frame.payload.len()), (id, 300_000));
            }
        });
        while !outgoing.flush(left.as_fd()).unwrap() {
            std::thread::yield_now();
        }
        assert_eq!(outgoing.pending_bytes(), 0);
        reader.join().unwrap();
    }
}
