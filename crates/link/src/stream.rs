//! A link's two halves: over a socketpair, which carries frames as they are, or over a [`Carrier`] between machines.
//!
//! Any thread may write (whole frames, under a lock); one thread at a time reads. The rule that keeps two peers from waiting on each other's full buffers: *a node's reader never writes to
//! the link*, so that home can always get rid of what it has.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use afield_rpc::stages::{Stage, mark};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use thiserror::Error;

use crate::ahead::{Ahead, Answer, Around};
use crate::carrier::{Carrier, CarrierError, LinkEvent, Over, Status};
use crate::frame::{self, Frame, FrameError, HEADER_BYTES, Head, Kind};
use crate::held::Hold;
use crate::resume::{Class, ProtocolError};

/// Why the link is of no more use.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The peer closed it.
    #[error("the other side closed the link")]
    Closed,
    /// No connection could be made for the grace time, or can be made any more.
    #[error("{0}")]
    Dead(String),
    /// Nothing can be sent any more. The peer may have said things before that nobody has read yet, why it ends among them: the
    /// reading half says it when it comes to that.
    #[error("the link is at its end")]
    Unsendable,
    /// The transport failed.
    #[error("link: {0}")]
    Io(#[from] io::Error),
    /// The peer does not keep to the transport's protocol.
    #[error("link: {0}")]
    Protocol(#[from] ProtocolError),
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

impl From<CarrierError> for LinkError {
    fn from(error: CarrierError) -> Self {
        match error {
            CarrierError::Over(Over::Closed) => Self::Closed,
            CarrierError::Over(Over::Dead(why)) => Self::Dead(why),
            CarrierError::Over(Over::Protocol(error)) => Self::Protocol(error),
            CarrierError::Frame(error) => Self::Frame(error),
            CarrierError::Timeout => Self::Io(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Replies of more bytes than this may be overtaken by what is sent later.
const BULK_BYTES: usize = 16 << 10;

/// A link of either kind.
#[derive(Debug)]
pub enum Socket {
    /// Between machines (or network namespaces).
    Carried(Carrier),
    /// Between home and its embedded node.
    Unix(UnixStream),
}

impl Socket {
    /// Adopts a descriptor that is a Unix stream socket, as an embedded node is handed.
    pub fn from_unix(descriptor: OwnedFd) -> Self {
        Self::Unix(UnixStream::from(descriptor))
    }
}

/// A socketpair's end.
fn read_some(socket: &UnixStream, bytes: &mut [u8]) -> io::Result<usize> {
    let mut socket = socket;
    socket.read(bytes)
}

/// The two halves of a link.
pub fn split(socket: Socket) -> io::Result<(Reader, Writer)> {
    let socket = Arc::new(socket);
    let reader = Reader {
        half: match &*socket {
            Socket::Carried(carrier) => Half::Carried {
                carrier: carrier.clone(),
                timeout: None,
            },
            Socket::Unix(pair) => Half::Direct(Direct {
                socket: pair.try_clone()?,
                buffer: vec![0; READ_BYTES].into_boxed_slice(),
                range: 0..0,
                drained: false,
            }),
        },
    };
    let writer = Writer {
        shared: Arc::new(WriterShared {
            socket,
            turn: Mutex::new(()),
            ahead: OnceLock::new(),
            held: Arc::default(),
        }),
    };
    Ok((reader, writer))
}

/// Bytes asked of the kernel at once for small frames; larger payloads are read straight to their place.
const READ_BYTES: usize = 16 << 10;

/// The reading half.
#[derive(Debug)]
pub struct Reader {
    half: Half,
}

#[derive(Debug)]
enum Half {
    Direct(Direct),
    Carried {
        carrier: Carrier,
        /// Bounds each wait for a frame.
        timeout: Option<Duration>,
    },
}

impl Reader {
    /// The next frame; waits for it. `Closed` only between frames, an early end is an I/O error.
    pub fn read_frame(&mut self) -> Result<Frame, LinkError> {
        match &mut self.half {
            Half::Direct(direct) => direct.read_frame(),
            Half::Carried { carrier, timeout } => Ok(carrier.read_frame(*timeout)?),
        }
    }

    /// The next frame if any of it is here, for the rest of which it may wait; `None` if nothing is. With `trusts` a read that brought less than it asked for
    /// counts as one that found nothing more: right for those who are told of everything that arrives later.
    pub fn read_frame_now(&mut self, trusts: bool) -> Result<Option<Frame>, LinkError> {
        match &mut self.half {
            Half::Direct(direct) => direct.read_frame_now(trusts),
            Half::Carried { carrier, .. } => Ok(carrier.read_frame_now()?),
        }
    }

    /// True if everything that had come has been taken, so that what else there is arrives later.
    pub fn is_drained(&self) -> bool {
        match &self.half {
            Half::Direct(direct) => direct.range.is_empty() && direct.drained,
            Half::Carried { carrier, .. } => carrier.is_drained(),
        }
    }

    /// Bounds each wait for the peer's bytes.
    pub fn set_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        match &mut self.half {
            Half::Direct(direct) => direct.socket.set_read_timeout(limit)?,
            Half::Carried { timeout, .. } => *timeout = limit,
        }
        Ok(())
    }

    /// To wait on: readable when there may be something to read.
    pub fn socket(&self) -> BorrowedFd<'_> {
        match &self.half {
            Half::Direct(direct) => direct.socket.as_fd(),
            Half::Carried { carrier, .. } => carrier.socket(),
        }
    }
}

/// The reading half of a socketpair.
#[derive(Debug)]
struct Direct {
    socket: UnixStream,
    /// Read ahead of what has been taken.
    buffer: Box<[u8]>,
    /// The part of `buffer` not yet taken.
    range: std::ops::Range<usize>,
    /// The last read brought less than it asked for: there was no more.
    drained: bool,
}

impl Direct {
    /// The next frame; waits for it. `Closed` only between frames, an early end is an I/O error.
    fn read_frame(&mut self) -> Result<Frame, LinkError> {
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
    fn read_frame_now(&mut self, trusts: bool) -> Result<Option<Frame>, LinkError> {
        if self.range.is_empty() {
            if std::mem::take(&mut self.drained) && trusts {
                return Ok(None);
            }
            match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Err(LinkError::Closed),
                Ok((count, _)) => self.hold(count),
                Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
        self.read_frame().map(Some)
    }

    /// So many bytes have been read into the buffer.
    fn hold(&mut self, count: usize) {
        mark(Stage::Arrived);
        self.range = 0..count;
        self.drained = count < self.buffer.len();
    }

    /// The payload of a frame whose header has been taken.
    fn payload(&mut self, length: usize) -> Result<Vec<u8>, LinkError> {
        let mut payload = Vec::with_capacity(length);
        let ahead = self.range.len().min(length);
        payload.extend_from_slice(&self.buffer[self.range.start..][..ahead]);
        self.range.start += ahead;
        // What is long is read straight to its place, which nobody has to clear before.
        while length - payload.len() >= self.buffer.len() && payload.capacity() == length {
            let asked = length - payload.len();
            match rustix::io::read(&self.socket, rustix::buffer::spare_capacity(&mut payload)) {
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

    /// Fills `target` whole. An error comes with the count of bytes that had been placed.
    fn fill(&mut self, target: &mut [u8]) -> Result<(), (usize, io::Error)> {
        let mut done = 0;
        while done < target.len() {
            if self.range.is_empty() {
                let rest = &mut target[done..];
                let direct = rest.len() >= self.buffer.len();
                let got = if direct {
                    read_some(&self.socket, rest)
                } else {
                    read_some(&self.socket, &mut self.buffer)
                };
                match got {
                    Ok(0) => return Err((done, io::ErrorKind::UnexpectedEof.into())),
                    Ok(count) if direct => {
                        self.drained = count < target.len() - done;
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
    /// Asked before each frame.
    ahead: OnceLock<Arc<dyn Ahead>>,
    /// What goes before the next frame.
    held: Arc<Hold>,
}

impl Drop for WriterShared {
    fn drop(&mut self) {
        self.held.end();
    }
}

/// The writing half; clones write to the same link.
#[derive(Debug, Clone)]
pub struct Writer {
    shared: Arc<WriterShared>,
}

impl Writer {
    /// Writes one frame whose payload is the concatenation of `parts`. Waits while the peer's buffers are full, and while there is
    /// no connection.
    pub fn write_frame(&self, kind: Kind, id: u64, parts: &[&[u8]]) -> Result<(), LinkError> {
        self.write(Class::Ordered, kind, id, parts, None)
    }

    /// Writes a frame that `stream` (a process) waits for and that nothing sent later depends on, such as a file's data. If it is
    /// large, what is sent later may overtake it, and streams share the link evenly.
    pub fn write_data(&self, stream: u32, kind: Kind, id: u64, parts: &[&[u8]]) -> Result<(), LinkError> {
        self.write(data_class(stream, parts), kind, id, parts, None)
    }

    /// The same, and at once after it what `answer` says: neither overtakes the other.
    pub fn write_data_then<'a>(
        &'a self,
        stream: u32,
        kind: Kind,
        id: u64,
        parts: &[&[u8]],
        answer: Answer<'a>,
    ) -> Result<(), LinkError> {
        self.write(data_class(stream, parts), kind, id, parts, Some(answer))
    }

    /// Writes a frame in order with all others, however large it is, and at once after it what `answer` says.
    pub fn write_frame_then<'a>(
        &'a self,
        kind: Kind,
        id: u64,
        parts: &[&[u8]],
        answer: Answer<'a>,
    ) -> Result<(), LinkError> {
        self.write(Class::Ordered, kind, id, parts, Some(answer))
    }

    /// Writes a frame that may [be made longer](Self::extend_held) for a millisecond, unless something else is written before: to
    /// whoever hears of it, it is as if it had been written now. Whether that succeeds nobody is told, as of everything that is on its way.
    pub fn hold_frame(&self, frame: Frame) -> Result<(), LinkError> {
        match self.shared.held.hold(frame, |frame| self.write_held(&frame)) {
            Ok(()) => Ok(()),
            Err(Frame { kind, id, payload }) => self.write_frame(kind, id, &[&payload]),
        }
    }

    /// Lends the frame that is held; whether there is one and `extend` has made it longer.
    pub fn extend_held(&self, extend: impl FnOnce(&mut Frame) -> bool) -> bool {
        self.shared.held.extend(extend)
    }

    /// Has a thread see to it that what is held goes in good time. Before that nothing is.
    pub fn start_holding(&self) -> io::Result<()> {
        let shared = Arc::downgrade(&self.shared);
        self.shared.held.watch(move |frame| {
            let writer = shared.upgrade().map(|shared| Self { shared });
            if let Some(writer) = &writer {
                writer.write_held(&frame);
            }
            writer
        })
    }

    fn write_held(&self, frame: &Frame) {
        // If it cannot be sent nothing can, which whoever reads the link is told.
        let _ = self.write_now(Class::Ordered, frame.kind, frame.id, &[&frame.payload], None);
    }

    /// Has `ahead` asked before each frame from now on; once per link.
    pub fn set_ahead(&self, ahead: Arc<dyn Ahead>) {
        let _ = self.shared.ahead.set(ahead);
    }

    /// Writes what is to go ahead of the next frame although there is none, if that can be done without waiting. False if it cannot: nobody
    /// has been asked then.
    pub fn write_ahead(&self) -> Result<bool, LinkError> {
        let Some(ahead) = self.shared.ahead.get() else {
            return Ok(true);
        };
        let around = Around {
            ahead: Some(&**ahead),
            answer: None,
        };
        match &*self.shared.socket {
            Socket::Carried(carrier) => carrier.write_ahead(&around).map_err(unsent),
            Socket::Unix(pair) => {
                // Whoever has the turn may wait for the peer.
                let Ok(_turn) = self.shared.turn.try_lock() else {
                    return Ok(false);
                };
                let has_room = has_room(pair);
                if has_room {
                    for (kind, payload) in around.before().frames() {
                        write_pair(pair, kind, 0, &[payload])?;
                    }
                }
                Ok(has_room)
            }
        }
    }

    fn write<'a>(
        &'a self,
        class: Class,
        kind: Kind,
        id: u64,
        parts: &[&[u8]],
        answer: Option<Answer<'a>>,
    ) -> Result<(), LinkError> {
        self.shared.held.release(|frame| self.write_held(&frame));
        self.write_now(class, kind, id, parts, answer)
    }

    fn write_now<'a>(
        &'a self,
        class: Class,
        kind: Kind,
        id: u64,
        parts: &[&[u8]],
        answer: Option<Answer<'a>>,
    ) -> Result<(), LinkError> {
        let mut around = Around {
            ahead: self.shared.ahead.get().map(|ahead| &**ahead),
            answer,
        };
        let pair = match &*self.shared.socket {
            Socket::Carried(carrier) => {
                return carrier
                    .write_around(class, kind, id, parts, around)
                    .map_err(unsent);
            }
            Socket::Unix(pair) => pair,
        };
        let _turn = self.turn();
        for (kind, payload) in around.before().frames() {
            write_pair(pair, kind, 0, &[payload])?;
        }
        write_pair(pair, kind, id, parts)?;
        if let Some(payload) = around.after() {
            write_pair(pair, Kind::Invalidate, 0, &[&payload])?;
        }
        Ok(())
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.shared.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the link in both directions: the peer's and this side's readers see its end.
    pub fn shutdown(&self) {
        match &*self.shared.socket {
            Socket::Carried(carrier) => carrier.shutdown(),
            // It may be closed already; there is nothing to do about any error.
            Socket::Unix(pair) => drop(pair.shutdown(Shutdown::Both)),
        }
    }

    /// Waits, after [`shutdown`](Self::shutdown), until the peer has been told, as far as that can be; some seconds at most.
    pub fn finish(&self) {
        if let Socket::Carried(carrier) = &*self.shared.socket {
            carrier.finish();
        }
    }

    /// Has a thread keep the link alive. Until then a lost connection is not replaced.
    pub fn keep(&self) -> io::Result<()> {
        match &*self.shared.socket {
            Socket::Carried(carrier) => carrier.keep(),
            Socket::Unix(_) => Ok(()),
        }
    }

    /// Has `callback` told when the connection is lost, when there is a new one, and when the session is over: in order, by one
    /// thread that should not be kept long. A socketpair is never lost.
    pub fn on_event(&self, callback: impl FnMut(LinkEvent) + Send + 'static) {
        if let Socket::Carried(carrier) = &*self.shared.socket {
            carrier.on_event(callback);
        }
    }

    /// Where the link stands; `None` for a socketpair.
    pub fn status(&self) -> Option<Status> {
        match &*self.shared.socket {
            Socket::Carried(carrier) => Some(carrier.status()),
            Socket::Unix(_) => None,
        }
    }
}

/// How a frame of data is sent.
fn data_class(stream: u32, parts: &[&[u8]]) -> Class {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    match length > BULK_BYTES {
        true => Class::Data { stream },
        false => Class::Ordered,
    }
}

/// Whether a socketpair takes a list of changes at once: it says so when it has room for several.
fn has_room(pair: &UnixStream) -> bool {
    let mut polls = [PollFd::new(pair, PollFlags::OUT)];
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    matches!(poll(&mut polls, Some(&at_once)), Ok(1..)) && polls[0].revents() == PollFlags::OUT
}

/// Writes one whole frame to a socketpair; only for who has the turn.
fn write_pair(pair: &UnixStream, kind: Kind, id: u64, parts: &[&[u8]]) -> Result<(), LinkError> {
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
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match (&mut &*pair).write_vectored(slices) {
            Ok(written @ 1..) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => {
                // Whatever it was, half a frame may be out. What has come already stays to be read, and the end comes after it.
                let _ = pair.shutdown(Shutdown::Both);
                return Err(LinkError::Unsendable);
            }
        }
    }
    Ok(())
}

fn unsent(error: CarrierError) -> LinkError {
    match error {
        CarrierError::Over(_) => LinkError::Unsendable,
        error => error.into(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ahead::News;

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
    fn what_came_before_the_end_is_read_though_nothing_can_be_sent() {
        let (left, right) = UnixStream::pair().unwrap();
        let (_, peer) = split(Socket::Unix(left)).unwrap();
        let (mut reader, writer) = split(Socket::Unix(right)).unwrap();
        peer.write_frame(Kind::Call, 1, &[b"last words"]).unwrap();
        peer.shutdown();
        for _ in 0..2 {
            let sent = writer.write_frame(Kind::Call, 2, &[b"unheard"]);
            assert!(matches!(sent, Err(LinkError::Unsendable)), "{sent:?}");
        }
        assert_eq!(taken(&mut reader), (Kind::Call, 1, 10));
        assert!(matches!(reader.read_frame(), Err(LinkError::Closed)));
    }

    /// Says what it is told to say, once.
    #[derive(Debug, Default)]
    struct Teller(Mutex<Vec<u8>>);

    impl Ahead for Teller {
        fn ahead(&self, _about: Option<u64>, news: &mut News) {
            news.changes.append(&mut self.0.lock().unwrap());
        }
    }

    fn taken(reader: &mut Reader) -> (Kind, u64, usize) {
        let frame = reader.read_frame().unwrap();
        (frame.kind, frame.id, frame.payload.len())
    }

    /// The order of frames around which something is said.
    pub(crate) fn news_go_around(writer: &Writer, reader: &mut Reader) {
        let news = Arc::new(Teller::default());
        writer.set_ahead(Arc::clone(&news) as Arc<dyn Ahead>);
        let say = |text: &[u8]| news.0.lock().unwrap().extend_from_slice(text);
        writer.write_ahead().unwrap();
        writer.write_frame(Kind::Call, 1, &[b"frame"]).unwrap();
        say(b"12");
        writer.write_frame(Kind::Call, 2, &[b"frame"]).unwrap();
        say(b"123");
        let bulk = vec![1; 3 * BULK_BYTES];
        let mut behind = |payload: &mut Vec<u8>| payload.extend_from_slice(b"1234");
        let answer = Answer {
            about: None,
            behind: &mut behind,
        };
        writer
            .write_data_then(7, Kind::FileReply, 3, &[&bulk], answer)
            .unwrap();
        say(b"12345");
        writer.write_ahead().unwrap();
        writer.write_data(8, Kind::FileReply, 4, &[&bulk]).unwrap();
        writer.write_frame(Kind::Call, 5, &[]).unwrap();
        assert_eq!(taken(reader), (Kind::Call, 1, 5));
        assert_eq!(taken(reader), (Kind::Invalidate, 0, 2));
        assert_eq!(taken(reader), (Kind::Call, 2, 5));
        assert_eq!(taken(reader), (Kind::Invalidate, 0, 3));
        assert_eq!(taken(reader), (Kind::FileReply, 3, bulk.len()));
        assert_eq!(taken(reader), (Kind::Invalidate, 0, 4));
        assert_eq!(taken(reader), (Kind::Invalidate, 0, 5));
        let mut last = [taken(reader), taken(reader)];
        last.sort_by_key(|(_, id, _)| *id);
        assert_eq!(last, [(Kind::FileReply, 4, bulk.len()), (Kind::Call, 5, 0)]);
    }

    #[test]
    fn news_go_around_frames_of_a_socketpair() {
        let (left, right) = UnixStream::pair().unwrap();
        let (_, writer) = split(Socket::Unix(left)).unwrap();
        let (mut reader, _keep) = split(Socket::Unix(right)).unwrap();
        news_go_around(&writer, &mut reader);
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
