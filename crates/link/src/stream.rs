//! The transport: a connected stream socket that carries frames.
//!
//! Reading and writing are independent halves. Any thread may write (whole frames, under a lock); one thread at a time
//! reads. The rule that keeps two peers from waiting on each other's full buffers: *a node's reader never writes to
//! the link*, so that home can always get rid of what it has.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use afield_rpc::stages::{Stage, mark};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use thiserror::Error;

use crate::byte_stream::ByteStream;
use crate::frame::{self, Frame, FrameError, HEADER_BYTES, Head, Kind};

/// Why the link is of no more use.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The peer closed it.
    #[error("the other side closed the link")]
    Closed,
    /// The transport failed.
    #[error("link: {0}")]
    Io(#[from] io::Error),
    /// The peer does not speak the protocol.
    #[error("link: {0}")]
    Frame(#[from] FrameError),
    /// A message could not be understood.
    #[error("link: {0}")]
    Wire(#[from] crate::wire::WireError),
    /// The first message was of another kind.
    #[error("link: expected {expected:?}, got {got:?}")]
    Unexpected {
        /// What the protocol says.
        expected: Kind,
        /// What came.
        got: Kind,
    },
}

/// A connection of either kind.
#[derive(Debug)]
pub enum Socket {
    /// Between machines (or network namespaces).
    Stream(Arc<dyn ByteStream>),
    /// Between home and its embedded node.
    Unix(UnixStream),
}

impl Socket {
    /// Adopts a descriptor that is a Unix stream socket, as an embedded node is handed.
    pub fn from_unix(descriptor: OwnedFd) -> Self {
        Self::Unix(UnixStream::from(descriptor))
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        rustix::net::sockopt::set_socket_timeout(self, rustix::net::sockopt::Timeout::Recv, timeout)?;
        Ok(())
    }

    fn shutdown(&self) {
        match self {
            Self::Stream(stream) => stream.shutdown(),
            // It may be closed already; there is nothing to do about any error.
            Self::Unix(socket) => drop(socket.shutdown(Shutdown::Both)),
        }
    }

    fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.read(bytes, true),
            Self::Unix(socket) => (&*socket).read(bytes),
        }
    }

    /// Reads what is there, without waiting.
    fn read_now(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => stream.read(bytes, false),
            Self::Unix(socket) => {
                Ok(rustix::net::recv(socket, bytes, RecvFlags::DONTWAIT).map(|(count, _)| count)?)
            }
        }
    }

    /// Whether the kernel's bytes are the link's, so that reading less than was asked for means that there was no more.
    fn is_plain(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Takes some bytes, and waits while there is no room.
    fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Stream(stream) => loop {
                match stream.write(slices) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => await_room(&**stream)?,
                    other => return other,
                }
            },
            Self::Unix(socket) => (&*socket).write_vectored(slices),
        }
    }

    /// Waits until the kernel has all that was taken.
    fn flush(&self) -> io::Result<()> {
        if let Self::Stream(stream) = self {
            while !stream.flush()? {
                await_room(&**stream)?;
            }
        }
        Ok(())
    }
}

fn await_room(stream: &dyn ByteStream) -> io::Result<()> {
    let mut polls = [PollFd::from_borrowed_fd(stream.socket(), PollFlags::OUT)];
    rustix::io::retry_on_intr(|| poll(&mut polls, None))?;
    Ok(())
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stream(stream) => stream.socket(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Splits a connected socket into its two halves.
pub fn split(socket: Socket) -> io::Result<(Reader, Writer)> {
    let socket = Arc::new(socket);
    let reader = Reader {
        socket: Arc::clone(&socket),
        buffer: vec![0; READ_BYTES].into_boxed_slice(),
        range: 0..0,
        drained: false,
    };
    let writer = Writer {
        shared: Arc::new(WriterShared {
            socket,
            turn: Mutex::new(()),
        }),
    };
    Ok((reader, writer))
}

/// Bytes asked of the kernel at once for small frames; larger payloads are read straight to their place.
const READ_BYTES: usize = 16 << 10;

/// The reading half.
#[derive(Debug)]
pub struct Reader {
    socket: Arc<Socket>,
    /// Read ahead of what has been taken.
    buffer: Box<[u8]>,
    /// The part of `buffer` not yet taken.
    range: std::ops::Range<usize>,
    /// The last read brought less than it asked for: there was no more.
    drained: bool,
}

impl Reader {
    /// The next frame; waits for it. `Closed` only between frames, an early end is an I/O error.
    pub fn read_frame(&mut self) -> Result<Frame, LinkError> {
        let mut head = [0; HEADER_BYTES];
        match self.fill(&mut head) {
            Ok(()) => {}
            Err((0, error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(LinkError::Closed),
            Err((_, error)) => return Err(error.into()),
        }
        let Head { kind, id, length } = frame::decode_head(&head)?;
        let payload = self.payload(length)?;
        Ok(Frame { kind, id, payload })
    }

    /// The next frame if any of it is here, for the rest of which it waits; `None` if nothing is. With `trusts` a read that brought less than it asked for
    /// counts as one that found nothing more: right for those who are told of everything that arrives later.
    pub fn read_frame_now(&mut self, trusts: bool) -> Result<Option<Frame>, LinkError> {
        if self.range.is_empty() {
            if std::mem::take(&mut self.drained) && trusts {
                return Ok(None);
            }
            match self.socket.read_now(&mut self.buffer) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(count) => self.hold(count),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.read_frame().map(Some)
    }

    /// True if everything that had come has been taken, so that what else there is arrives later.
    pub fn is_drained(&self) -> bool {
        self.range.is_empty() && self.drained
    }

    /// So many bytes have been read into the buffer.
    fn hold(&mut self, count: usize) {
        let plain = self.socket.is_plain();
        if plain {
            mark(Stage::Arrived);
        }
        self.range = 0..count;
        self.drained = count < self.buffer.len() && plain;
    }

    /// The payload of a frame whose header has been taken.
    fn payload(&mut self, length: usize) -> Result<Vec<u8>, LinkError> {
        let mut payload = Vec::with_capacity(length);
        let ahead = self.range.len().min(length);
        payload.extend_from_slice(&self.buffer[self.range.start..][..ahead]);
        self.range.start += ahead;
        // What is long is read straight to its place, which nobody has to clear before.
        while self.socket.is_plain()
            && length - payload.len() >= self.buffer.len()
            && payload.capacity() == length
        {
            let asked = length - payload.len();
            match rustix::io::read(&*self.socket, rustix::buffer::spare_capacity(&mut payload)) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => self.drained = count < asked,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        let done = payload.len();
        payload.resize(length, 0);
        self.fill(&mut payload[done..]).map_err(|(_, error)| error)?;
        Ok(payload)
    }

    /// Bounds each wait for the peer's bytes.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(timeout)
    }

    /// The socket, to wait on.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Fills `target` whole. An error comes with the count of bytes that had been placed.
    fn fill(&mut self, target: &mut [u8]) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        while done < target.len() {
            if self.range.is_empty() {
                let rest = &mut target[done..];
                let direct = rest.len() >= self.buffer.len();
                let got = if direct {
                    self.socket.read(rest)
                } else {
                    self.socket.read(&mut self.buffer)
                };
                match got {
                    Ok(0) => return Err((done, io::ErrorKind::UnexpectedEof.into())),
                    Ok(count) if direct => {
                        self.drained = count < target.len() - done && self.socket.is_plain();
                        done += count;
                    }
                    Ok(count) => self.hold(count),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err((done, error)),
                }
            } else {
                let count = self.range.len().min(target.len() - done);
                let from = self.range.start;
                target[done..done + count].copy_from_slice(&self.buffer[from..from + count]);
                self.range.start += count;
                done += count;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct WriterShared {
    socket: Arc<Socket>,
    /// Held while one frame is written, so that frames never mix.
    turn: Mutex<()>,
}

/// The writing half; clones write to the same link.
#[derive(Debug, Clone)]
pub struct Writer {
    shared: Arc<WriterShared>,
}

impl Writer {
    /// Writes one frame whose payload is the concatenation of `parts`. Waits while the peer's buffers are full.
    pub fn write_frame(&self, kind: Kind, id: u64, parts: &[&[u8]]) -> Result<(), LinkError> {
        let length = parts.iter().map(|part| part.len()).sum();
        let head = frame::encode_head(kind, id, length)?;
        let mut slices = [IoSlice::new(&[]); 6];
        let count = parts.len() + 1;
        assert!(
            count <= slices.len(),
            "a frame is written from at most five parts"
        );
        slices[0] = IoSlice::new(&head);
        for (slot, part) in slices[1..].iter_mut().zip(parts) {
            *slot = IoSlice::new(part);
        }
        let mut slices = &mut slices[..count];
        let _turn = self.shared.turn.lock().unwrap_or_else(PoisonError::into_inner);
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match self.shared.socket.write_vectored(slices) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Ok(written) => IoSlice::advance_slices(&mut slices, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.shared.socket.flush()?)
    }

    /// Ends the link in both directions: the peer's and this side's readers see its end.
    pub fn shutdown(&self) {
        self.shared.socket.shutdown();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_cross_a_socketpair() {
        let (left, right) = UnixStream::pair().unwrap();
        let (_, writer) = split(Socket::Unix(left)).unwrap();
        let (mut reader, _keep) = split(Socket::Unix(right)).unwrap();
        let big = vec![7u8; 3 << 20];
        let sender = std::thread::spawn(move || {
            for id in 0..100 {
                writer
                    .write_frame(Kind::Call, id, &[b"small", b"", b"er"])
                    .unwrap();
            }
            writer
                .write_frame(Kind::File, 100, &[&big[..1000], &big[1000..]])
                .unwrap();
            writer.shutdown();
        });
        for id in 0..100 {
            let frame = reader.read_frame().unwrap();
            assert_eq!((frame.id, frame.payload.as_slice()), (id, &b"smaller"[..]));
        }
        let frame = reader.read_frame().unwrap();
        assert_eq!(frame.payload, vec![7u8; 3 << 20]);
        assert!(matches!(reader.read_frame(), Err(LinkError::Closed)));
        sender.join().unwrap();
    }

    #[test]
    fn an_early_end_is_not_a_clean_one() {
        let (mut left, right) = UnixStream::pair().unwrap();
        let (mut reader, _writer) = split(Socket::Unix(right)).unwrap();
        let head = frame::encode_head(Kind::Call, 1, 10).unwrap();
        left.write_all(&head).unwrap();
        left.write_all(b"short").unwrap();
        drop(left);
        assert!(matches!(reader.read_frame(), Err(LinkError::Io(_))));
    }
}
