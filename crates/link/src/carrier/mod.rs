//! A session on connections that come and go: the transport around a [`Core`].
//!
//! Any thread writes: it hands its frame to the core, and gives the connection what the core has to say, without waiting. Any
//! thread reads, one at a time. A thread of its own, the *keeper*, does what is left: it goes on writing when the connection has room
//! again, reads acknowledgements when those who read frames are busy, sends pings, gives up lost connections, and at home makes new ones.
//!
//! A writer waits only for room in the core's lanes; it comes back with an error when the session is over.

mod greet;
mod keeper;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use rustix::event::{EventfdFlags, PollFd, PollFlags, epoll, eventfd, poll};
use thiserror::Error;

use crate::ahead::Around;
use crate::byte_stream::ByteStream;
use crate::frame::{Frame, FrameError, Kind};
use crate::invalidation;
use crate::preamble::SessionId;
use crate::resume::greeting::{Greeting, Outcome};
use crate::resume::proof::{Agreed, Nonce, Secret};
use crate::resume::{Class, Core, Limits, Phase, ProtocolError, Time, Traffic};
pub use greet::GreetingError;
use greet::{greet, timespec};

/// Bytes asked of a connection at once.
const READ_BYTES: usize = 256 << 10;

/// Frames of so many bytes are bulk for who writes them; and so many kept bytes are many.
const BULK_BYTES_MIN: usize = 32 << 10;
const KEPT_BYTES_MANY: usize = 1 << 20;

/// Longest time for the first words of a connection, and what is before them.
pub const GREETING_TIME_MAX: Duration = Duration::from_secs(5);

/// Connections that may try to resume a session at a time.
const CANDIDATES_MAX: usize = 8;

/// Why a session is over.
#[derive(Debug, Error, Clone)]
pub enum Over {
    /// One side has closed it.
    #[error("the other side closed the link")]
    Closed,
    /// There was no connection for the grace time, or there can be none any more.
    #[error("{0}")]
    Dead(String),
    /// The peer does not keep to the protocol.
    #[error("{0}")]
    Protocol(#[from] ProtocolError),
}

/// What becomes of a session's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// The connection is lost; nothing goes either way.
    Down,
    /// There is a new one, and everything goes on.
    Up,
    /// The session is over, in an orderly way or not.
    Dead,
}

/// Why no new connection was made.
#[derive(Debug, Error)]
pub enum Redial {
    /// It may work later.
    #[error("{0}")]
    Later(String),
    /// It never will.
    #[error("{0}")]
    Never(String),
}

/// Makes a new connection for a session, up to the stream on which the greeting goes, by a deadline.
pub type Dial = Box<dyn FnMut(SessionId, Instant) -> Result<Arc<dyn ByteStream>, Redial> + Send>;

/// Where a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// For how long there has been no connection; `None` if there is one.
    pub down: Option<Duration>,
    /// The smoothed and the least round trip.
    pub round_trip: Option<(Duration, Duration)>,
    /// Counts.
    pub traffic: Traffic,
}

/// One end of a session. Clones are the same end.
#[derive(Clone)]
pub struct Carrier {
    shared: Arc<Shared>,
}

impl fmt::Debug for Carrier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Carrier").finish_non_exhaustive()
    }
}

struct Shared {
    inner: Mutex<Inner>,
    /// Held while a connection is read and the core given what was read.
    turn: Mutex<Box<[u8]>>,
    /// Some room has come to be.
    room: Condvar,
    /// The keeper has nothing more to do.
    finished: Condvar,
    /// Readable when there may be something to read: the connection, and `arrived`.
    ready: OwnedFd,
    /// Readable when frames were read by a thread that does not take them, and when the session is over.
    arrived: OwnedFd,
    /// Wakes the keeper.
    wake: OwnedFd,
    /// Wakes the writer that does its work.
    help: OwnedFd,
    /// The core's time.
    began: Instant,
    session: SessionId,
    secret: Secret,
    candidates: AtomicUsize,
}

/// Called when something becomes of the connection, by the keeper.
type OnEvent = Box<dyn FnMut(LinkEvent) + Send>;

struct Inner {
    core: Core,
    stream: Option<Arc<dyn ByteStream>>,
    /// Counts connections.
    generation: u64,
    /// The connection has no room; the keeper waits for some.
    blocked: bool,
    /// A thread that waits for room in the lanes does the keeper's work with the connection.
    helped: bool,
    over: Option<Over>,
    /// `arrived` is readable.
    signalled: bool,
    /// What `on_event` has not been told; kept once there is one.
    events: VecDeque<LinkEvent>,
    on_event: Option<OnEvent>,
    listened: bool,
    /// This end closes: the keeper tells the peer until then.
    closing_until: Option<Instant>,
    /// For the keeper, until there is one.
    dial: Option<Dial>,
    /// There is a keeper, and it has ended.
    kept: bool,
    finished: bool,
    /// Why there is no connection.
    lost: String,
}

/// Longest time for telling the peer that the session is over.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

impl Carrier {
    /// Begins a session at home, on a connection whose stream is ready for the greeting. `dial` makes further ones.
    pub fn begin_at_home(
        stream: Arc<dyn ByteStream>,
        limits: Limits,
        dial: Dial,
        deadline: Instant,
    ) -> Result<Self, GreetingError> {
        let outcome = greet(&*stream, Greeting::home_new(limits.clone()), deadline, || 0)?;
        let (session, secret) = outcome.made.ok_or(ProtocolError::FirstWords)?;
        Ok(Self::start(
            limits,
            session,
            secret,
            stream,
            &outcome.agreed,
            Some(dial),
        )?)
    }

    /// Begins a session on a node, under an id that its daemon knows it by. It waits for a home that is away for as long
    /// as home wants, but no longer than `limits` say.
    pub fn begin_on_node(
        stream: Arc<dyn ByteStream>,
        mut limits: Limits,
        session: SessionId,
        deadline: Instant,
    ) -> Result<Self, GreetingError> {
        let secret = Secret(nonce()?);
        let greeting = Greeting::node_new(limits.clone(), session, secret);
        let outcome = greet(&*stream, greeting, deadline, || 0)?;
        limits.grace = limits.grace.min(outcome.grace.unwrap_or(limits.grace));
        Ok(Self::start(
            limits,
            session,
            secret,
            stream,
            &outcome.agreed,
            None,
        )?)
    }

    fn start(
        limits: Limits,
        session: SessionId,
        secret: Secret,
        stream: Arc<dyn ByteStream>,
        agreed: &Agreed,
        dial: Option<Dial>,
    ) -> io::Result<Self> {
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let (arrived, wake, help) = (eventfd(0, flags)?, eventfd(0, flags)?, eventfd(0, flags)?);
        let number = epoll::EventData::new_u64(0);
        epoll::add(&ready, &arrived, number, epoll::EventFlags::IN)?;
        let carrier = Self {
            shared: Arc::new(Shared {
                inner: Mutex::new(Inner {
                    core: Core::new(limits, Time::ZERO),
                    stream: None,
                    generation: 0,
                    blocked: false,
                    helped: false,
                    over: None,
                    signalled: false,
                    events: VecDeque::new(),
                    on_event: None,
                    listened: false,
                    closing_until: None,
                    dial,
                    kept: false,
                    finished: false,
                    lost: String::new(),
                }),
                turn: Mutex::new(vec![0; READ_BYTES].into_boxed_slice()),
                room: Condvar::new(),
                finished: Condvar::new(),
                ready,
                arrived,
                wake,
                help,
                began: Instant::now(),
                session,
                secret,
                candidates: AtomicUsize::new(0),
            }),
        };
        carrier.shared.adopt(stream, agreed)?;
        Ok(carrier)
    }

    /// Starts the keeper, once. Until then the process may have one thread; a connection that is lost is not replaced.
    pub fn keep(&self) -> io::Result<()> {
        let dial = {
            let mut inner = self.shared.lock();
            inner.kept = true;
            inner.dial.take()
        };
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new()
            .name("keeper".to_owned())
            .stack_size(256 << 10)
            .spawn(move || shared.keep(dial))?;
        Ok(())
    }

    /// The session's public id.
    pub fn session(&self) -> SessionId {
        self.shared.session
    }

    /// Has `callback` told what becomes of the connection, in order, by one thread that should not be kept long.
    pub fn on_event(&self, callback: impl FnMut(LinkEvent) + Send + 'static) {
        let mut inner = self.shared.lock();
        inner.on_event = Some(Box::new(callback));
        inner.listened = true;
        if inner.over.is_some() {
            inner.events.push_back(LinkEvent::Dead);
        } else if inner.stream.is_none() {
            inner.events.push_back(LinkEvent::Down);
        }
        self.shared.wake();
    }

    /// Where the link stands.
    pub fn status(&self) -> Status {
        let now = self.shared.now();
        let inner = self.shared.lock();
        Status {
            down: match inner.core.phase() {
                Phase::Down(since) => Some(now.saturating_sub(since)),
                Phase::Up | Phase::Closed | Phase::Dead => None,
            },
            round_trip: inner.core.round_trip(),
            traffic: inner.core.traffic(),
        }
    }

    /// Sends a frame whose payload is the concatenation of `parts`. Waits for room, as long as the session lives.
    pub fn write_frame(
        &self,
        class: Class,
        kind: Kind,
        id: u64,
        parts: &[&[u8]],
    ) -> Result<(), CarrierError> {
        let around = Around {
            ahead: None,
            answer: None,
        };
        self.write_around(class, kind, id, parts, around)
    }

    /// The same, with what goes around the frame, which needs no room.
    pub(crate) fn write_around(
        &self,
        class: Class,
        kind: Kind,
        id: u64,
        parts: &[&[u8]],
        mut around: Around<'_>,
    ) -> Result<(), CarrierError> {
        let length = parts.iter().map(|part| part.len()).sum();
        if length >= BULK_BYTES_MIN {
            self.shared.hear_in_passing();
        }
        let mut inner = self.shared.lock();
        let mut waited = false;
        loop {
            if let Some(over) = &inner.over {
                return Err(over.clone().into());
            }
            if inner.core.has_room(class, length) {
                break;
            }
            inner = self.shared.wait_for_room(inner);
            waited = true;
        }
        for (kind, payload) in around.before().frames() {
            inner.core.send(class_ahead(kind), kind, 0, &[payload])?;
        }
        inner.core.send(class, kind, id, parts)?;
        if let Some(payload) = around.after() {
            inner.core.send(Class::Fence, Kind::Invalidate, 0, &[&payload])?;
        }
        self.shared.pump(&mut inner);
        if waited && inner.blocked && !inner.helped {
            self.shared.wake();
        }
        Ok(())
    }

    /// Sends what is to go ahead of the next frame, if there is room; whether there was.
    pub(crate) fn write_ahead(&self, around: &Around<'_>) -> Result<bool, CarrierError> {
        let mut inner = self.shared.lock();
        if let Some(over) = &inner.over {
            return Err(over.clone().into());
        }
        let has_room = inner.core.has_room(Class::Fence, invalidation::BYTES_MAX);
        if has_room {
            for (kind, payload) in around.before().frames() {
                inner.core.send(class_ahead(kind), kind, 0, &[payload])?;
            }
            self.shared.pump(&mut inner);
        }
        Ok(has_room)
    }

    /// The next frame if it is here, without waiting.
    pub fn read_frame_now(&self) -> Result<Option<Frame>, CarrierError> {
        let mut turn = self.shared.turn();
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Some(frame));
            }
            if !self.shared.pull(&mut turn) {
                let mut inner = self.shared.lock();
                self.shared.settle(&mut inner);
                return Ok(None);
            }
        }
    }

    /// The next frame; waits for it, at most for so long.
    pub fn read_frame(&self, timeout: Option<Duration>) -> Result<Frame, CarrierError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 2];
        // Who waits for a frame mostly finds none at first: it is not looked for in the kernel before there is something.
        if let Some(frame) = self.take_frame()? {
            return Ok(frame);
        }
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // Any error shows in reading.
            let _ = epoll::wait(&self.shared.ready, &mut events, left.map(timespec).as_ref());
            if let Some(frame) = self.read_frame_now()? {
                return Ok(frame);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Err(CarrierError::Timeout);
            }
        }
    }

    /// The next frame if it has been read already.
    fn take_frame(&self) -> Result<Option<Frame>, CarrierError> {
        let mut inner = self.shared.lock();
        if let Some(frame) = inner.core.next_frame() {
            // The peer may have to be told that there is room again.
            self.shared.pump(&mut inner);
            self.shared.settle(&mut inner);
            return Ok(Some(frame));
        }
        match &inner.over {
            Some(over) => Err(over.clone().into()),
            None => Ok(None),
        }
    }

    /// True if everything that had come has been taken, so that what else there is arrives later.
    pub fn is_drained(&self) -> bool {
        let stream = {
            let inner = self.shared.lock();
            if inner.core.has_frame() || inner.over.is_some() {
                return false;
            }
            match &inner.stream {
                Some(stream) => Arc::clone(stream),
                None => return true,
            }
        };
        let mut polls = [PollFd::from_borrowed_fd(stream.socket(), PollFlags::IN)];
        !stream.has_buffered() && matches!(poll(&mut polls, Some(&timespec(Duration::ZERO))), Ok(0))
    }

    /// Becomes readable when there may be something to read. It stays the same while connections come and go.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.shared.ready.as_fd()
    }

    /// Ends the session in both directions: this side's readers and writers see its end now, the peer's when they have
    /// had everything that was sent before.
    pub fn shutdown(&self) {
        let mut inner = self.shared.lock();
        if inner.over.is_some() {
            return;
        }
        inner.core.close();
        inner.closing_until = Some(Instant::now() + FAREWELL_MAX);
        self.shared.pump(&mut inner);
        self.shared.end(&mut inner, Over::Closed);
    }

    /// Waits until the peer has been told of the end, as far as that can be; a second at most.
    pub fn finish(&self) {
        let inner = self.shared.lock();
        let waits = |inner: &mut Inner| inner.kept && !inner.finished;
        let _ = self
            .shared
            .finished
            .wait_timeout_while(inner, 2 * FAREWELL_MAX, waits);
    }

    /// On a node: somebody has come with a connection for this session. `secure` makes a stream of it, by the deadline that
    /// it is given. Whether it is home is found out by a thread of its own; the connection that there is is not touched before.
    pub fn offer(&self, secure: impl FnOnce(Instant) -> io::Result<Arc<dyn ByteStream>> + Send + 'static) {
        if self.shared.candidates.fetch_add(1, Ordering::SeqCst) >= CANDIDATES_MAX {
            self.shared.candidates.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        let shared = Arc::clone(&self.shared);
        let started = std::thread::Builder::new()
            .name("candidate".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                shared.try_candidate(secure);
                shared.candidates.fetch_sub(1, Ordering::SeqCst);
            });
        if started.is_err() {
            self.shared.candidates.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Why a frame could not be sent or received.
#[derive(Debug, Error)]
pub enum CarrierError {
    /// The session is over.
    #[error(transparent)]
    Over(#[from] Over),
    /// The frame is none.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Nothing came in time.
    #[error("nothing came in time")]
    Timeout,
}

/// News of files must not overtake what they are about; those of streams are about nothing that is sent as data.
fn class_ahead(kind: Kind) -> Class {
    match kind {
        Kind::Invalidate => Class::Fence,
        _ => Class::Ordered,
    }
}

fn nonce() -> io::Result<Nonce> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the kernel gives no random numbers"))?;
    Ok(bytes)
}

impl Inner {
    fn note(&mut self, event: LinkEvent) {
        if self.listened {
            self.events.push_back(event);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, Box<[u8]>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Time {
        self.began.elapsed()
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Something has changed for writers that wait for room.
    fn tell_writers(&self, inner: &Inner) {
        if inner.helped {
            let _ = rustix::io::write(&self.help, &1u64.to_ne_bytes());
        }
        self.room.notify_all();
    }

    /// Gives the connection what there is to say.
    fn pump(&self, inner: &mut Inner) {
        if inner.blocked {
            return;
        }
        let Some(stream) = inner.stream.clone() else {
            return;
        };
        let waiting = inner.core.waiting_bytes();
        loop {
            let slices = inner.core.transmit();
            let count = slices.iter().take_while(|slice| !slice.is_empty()).count();
            let wrote = match count {
                // What it has taken may still be on its way.
                0 => match stream.flush() {
                    Ok(true) => break,
                    Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
                    Err(error) => Err(error),
                },
                _ => stream.write(&slices[..count]),
            };
            match wrote {
                Ok(count) => inner.core.transmitted(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    inner.blocked = true;
                    if !inner.helped {
                        self.wake();
                    }
                    break;
                }
                Err(error) => {
                    self.lose(inner, error.to_string());
                    break;
                }
            }
        }
        if inner.helped && inner.core.waiting_bytes() < waiting {
            self.tell_writers(inner);
        }
    }

    /// Waits for something that may make room. One of those who wait does in the meantime what the keeper would have to be woken for.
    fn wait_for_room<'a>(&'a self, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        let stream = match &inner.stream {
            Some(stream) if !inner.helped => Arc::clone(stream),
            _ => return self.room.wait(inner).unwrap_or_else(PoisonError::into_inner),
        };
        inner.helped = true;
        let mut wanted = PollFlags::IN;
        if inner.blocked {
            wanted |= PollFlags::OUT;
        }
        drop(inner);
        let mut polls = [
            PollFd::from_borrowed_fd(stream.socket(), wanted),
            PollFd::new(&self.help, PollFlags::IN),
        ];
        // Interrupted or not, everything is looked at.
        let _ = poll(&mut polls, None);
        let found = polls[0].revents();
        if !polls[1].revents().is_empty() {
            let _ = rustix::io::read(&self.help, &mut [0; 8]);
        }
        if !(found - PollFlags::OUT).is_empty() {
            self.read_for_others();
        }
        let mut inner = self.lock();
        inner.helped = false;
        if found.contains(PollFlags::OUT) {
            inner.blocked = false;
        }
        self.pump(&mut inner);
        self.room.notify_all();
        inner
    }

    /// Who sends much hears by the way what has arrived of it, if nobody else does just now: what is kept for longer costs more
    /// memory, and the processor's caches forget it.
    fn hear_in_passing(&self) {
        if self.lock().core.kept_bytes() >= KEPT_BYTES_MANY
            && let Ok(turn) = self.turn.try_lock()
        {
            self.read_in(turn);
        }
    }

    /// Reads what is there. Those who take frames are told.
    fn read_for_others(&self) {
        self.read_in(self.turn());
    }

    fn read_in(&self, mut turn: MutexGuard<'_, Box<[u8]>>) {
        // However much a peer says: the window bounds it.
        while self.pull(&mut turn) {}
        let mut inner = self.lock();
        if inner.core.has_frame() {
            self.signal(&mut inner);
        }
    }

    /// Reads the connection once and gives the core what came. False if there was nothing. Only for who has the turn.
    fn pull(&self, buffer: &mut [u8]) -> bool {
        let (stream, generation) = {
            let inner = self.lock();
            match &inner.stream {
                Some(stream) => (Arc::clone(stream), inner.generation),
                None => return false,
            }
        };
        let got = stream.read(buffer, false);
        if matches!(&got, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            return false;
        }
        let mut inner = self.lock();
        if inner.generation != generation {
            // What a connection brings that has been replaced comes again.
            return true;
        }
        match got {
            Ok(0) => self.lose(&mut inner, "the connection was closed".to_owned()),
            Ok(count) => {
                let now = self.now();
                match inner.core.receive(now, &buffer[..count]) {
                    Err(error) => self.end(&mut inner, error.into()),
                    Ok(()) if inner.core.phase() == Phase::Closed => self.end(&mut inner, Over::Closed),
                    Ok(()) => self.pump(&mut inner),
                }
            }
            Err(error) => self.lose(&mut inner, error.to_string()),
        }
        true
    }

    /// Has `arrived` say whether there are frames for those who only look there.
    fn settle(&self, inner: &mut Inner) {
        if inner.signalled && !inner.core.has_frame() && inner.over.is_none() {
            let _ = rustix::io::read(&self.arrived, &mut [0; 8]);
            inner.signalled = false;
        }
    }

    fn signal(&self, inner: &mut Inner) {
        if !std::mem::replace(&mut inner.signalled, true) {
            let _ = rustix::io::write(&self.arrived, &1u64.to_ne_bytes());
        }
    }

    /// The connection is lost.
    fn lose(&self, inner: &mut Inner, why: String) {
        let Some(stream) = inner.stream.take() else {
            return;
        };
        stream.shutdown();
        let _ = epoll::delete(&self.ready, stream.socket());
        inner.generation += 1;
        inner.blocked = false;
        inner.lost = why;
        inner.core.down(self.now());
        inner.note(LinkEvent::Down);
        self.tell_writers(inner);
        self.wake();
    }

    /// The session is over; the first reason counts.
    fn end(&self, inner: &mut Inner, why: Over) {
        if inner.over.is_some() {
            return;
        }
        inner.over = Some(why);
        inner.note(LinkEvent::Dead);
        self.signal(inner);
        self.tell_writers(inner);
        self.wake();
    }

    /// Goes on with a new connection. False if it is not to be used.
    fn adopt(&self, stream: Arc<dyn ByteStream>, agreed: &Agreed) -> io::Result<bool> {
        let mut inner = self.lock();
        if inner.over.is_some() {
            return Ok(false);
        }
        match inner.core.up(self.now(), agreed) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => {
                self.end(&mut inner, error.into());
                return Ok(false);
            }
        }
        if let Some(old) = inner.stream.take() {
            // Home has come another way before this end noticed anything.
            old.shutdown();
            let _ = epoll::delete(&self.ready, old.socket());
            inner.note(LinkEvent::Down);
        }
        let number = epoll::EventData::new_u64(1);
        epoll::add(&self.ready, stream.socket(), number, epoll::EventFlags::IN)?;
        let buffered = stream.has_buffered();
        inner.stream = Some(stream);
        inner.generation += 1;
        inner.blocked = false;
        inner.note(LinkEvent::Up);
        if buffered {
            self.signal(&mut inner);
        }
        self.pump(&mut inner);
        self.tell_writers(&inner);
        self.wake();
        Ok(true)
    }

    fn try_candidate(&self, secure: impl FnOnce(Instant) -> io::Result<Arc<dyn ByteStream>>) {
        let deadline = Instant::now() + GREETING_TIME_MAX;
        let Ok((stream, nonce)) = secure(deadline).and_then(|stream| Ok((stream, nonce()?))) else {
            return;
        };
        let limits = self.lock().core.limits().clone();
        let greeting = Greeting::node_resumes(limits, self.secret, nonce);
        let greeted = greet(&*stream, greeting, deadline, || self.lock().core.received());
        let adopted = greeted
            .is_ok_and(|Outcome { agreed, .. }| self.adopt(Arc::clone(&stream), &agreed).unwrap_or(false));
        if !adopted {
            stream.shutdown();
        }
    }
}
