//! Connections of which home tells ahead ([`afield_link::streams`]): reads of what has come, and writes for which home has room, ask
//! nobody.
//!
//! What home has said of a connection holds until it is asked anything about it: the answer may be about what home's kernel
//! had by then. So a connection is either asked about, or known. Everything that goes home about one goes in the order in which it
//! happened here.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use afield_link::hatch::{Connection, Hatch};
use afield_link::stream::LinkError;
use afield_link::streams::{
    self, EAGER_BYTES, EVENT, HELD, MORE, NOT_HERE, UNKNOWN, WHOLE, WINDOW_BYTES, WRITE_BYTES_MAX, cost,
};
use afield_link::wire::HandleOp;

use tracing::debug;

use super::operations::Operation;
use crate::session::{MemoryTask, Shared};
use crate::sys::sockets::{discard, peek};

/// Most bytes of all streams of a session that wait to be read here.
const AHEAD_BYTES_MAX: usize = 256 << 20;

/// Most bytes that are taken from a connection itself at once; and the buffers that are kept for that, and how large.
const TAKEN_BYTES_MAX: usize = 4 << 20;
const BUFFERS_MAX: usize = 4;
const BUFFER_BYTES_MAX: usize = 256 << 10;

const IN: u32 = libc::POLLIN as u32;
const BROKEN: u32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as u32;

/// The connections of a session.
#[derive(Debug, Default)]
pub struct Streams {
    flows: Mutex<HashMap<u64, Arc<Flow>>>,
    /// Bytes that wait to be read.
    waiting: Arc<AtomicUsize>,
    /// Where home hands over connections, if it is on this machine.
    hatch: Option<Mutex<Hatch>>,
    /// For reading from these.
    buffers: Mutex<Vec<Vec<u8>>>,
}

#[derive(Debug, Default)]
struct Flow {
    /// Held while something about it is sent home.
    order: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Home has told of it, and has not been asked since.
    known: bool,
    /// The frame id of the last that it was asked.
    last: u64,
    ahead: Come,
    /// In place of that: the connection itself, of which may be taken what home has said has come.
    here: Option<Here>,
    /// There is more of it at home.
    more: bool,
    /// And it does not come by itself.
    held: bool,
    /// `POLL*`.
    ready: u32,
    /// Cost of all that was written without an answer.
    spent: u64,
    limit: u64,
    /// Reads of so many bytes, which are on their way.
    parked: Vec<Parked>,
}

/// A read that waits for what home is about to tell, and what makes it again.
struct Parked {
    size: usize,
    again: MemoryTask,
}

impl std::fmt::Debug for Parked {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Parked({})", self.size)
    }
}

/// A connection that home has handed over.
#[derive(Debug)]
struct Here {
    connection: Arc<Connection>,
    /// How much has come and how much was taken since home told of all.
    come: u64,
    taken: u64,
}

/// What has come, in pieces.
#[derive(Debug, Default)]
struct Come {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that have been read.
    start: usize,
    length: usize,
    /// Those of all streams.
    all: Arc<AtomicUsize>,
}

impl Drop for Come {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Come {
    fn clear(&mut self) {
        self.all.fetch_sub(self.length, Ordering::Relaxed);
        (self.start, self.length) = (0, 0);
        self.pieces = VecDeque::new();
    }

    /// Whether there is room for so many more bytes.
    fn has_room(&self, bytes: usize) -> bool {
        self.length + bytes <= WINDOW_BYTES && self.all.load(Ordering::Relaxed) + bytes <= AHEAD_BYTES_MAX
    }

    fn push(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.all.fetch_add(bytes.len(), Ordering::Relaxed);
            self.length += bytes.len();
            self.pieces.push_back(bytes.to_vec());
        }
    }

    /// The first bytes, of which there must be so many; with `peek` they stay.
    fn take(&mut self, count: usize, peek: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        let (mut index, mut start) = (0, self.start);
        while let Some(piece) = self.pieces.get(index).filter(|_| bytes.len() < count) {
            let end = piece.len().min(start + count - bytes.len());
            bytes.extend_from_slice(&piece[start..end]);
            (index, start) = match end == piece.len() {
                true => (index + 1, 0),
                false => (index, end),
            };
        }
        if !peek {
            self.pieces.drain(..index);
            self.start = start;
            self.length -= bytes.len();
            self.all.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
        bytes
    }
}

impl State {
    /// Whether what is missing of so many bytes is on its way: home tells of so many whether they are read or not.
    fn expects(&self, size: usize) -> bool {
        self.known && self.more && !self.held && self.there() < size && size <= EAGER_BYTES
    }

    /// How much there is to be read without asking.
    fn there(&self) -> usize {
        match &self.here {
            Some(here) => usize::try_from(here.come.saturating_sub(here.taken)).unwrap_or(usize::MAX),
            None => self.ahead.length,
        }
    }

    /// Reads that need not wait any longer.
    fn unpark(&mut self) -> Vec<MemoryTask> {
        if self.parked.is_empty() {
            return Vec::new();
        }
        let parked = std::mem::take(&mut self.parked);
        let (stay, go): (Vec<_>, Vec<_>) = parked.into_iter().partition(|read| self.expects(read.size));
        self.parked = stay;
        go.into_iter().map(|read| read.again).collect()
    }

    fn forget(&mut self) {
        self.known = false;
        self.ahead.clear();
    }

    /// All that has come is read.
    fn note_empty(&mut self) {
        if self.there() == 0 && !self.more && self.ready & BROKEN == 0 {
            self.ready &= !IN;
        }
    }
}

/// What a read comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes.
    Some(usize),
    /// There is nothing yet.
    Nothing,
    /// There is more than what has come, and it comes without being asked for.
    Soon,
    /// Home has to be asked.
    Ask,
}

/// How bytes are read.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Nothing less will do.
    pub all: bool,
    /// They stay.
    pub peek: bool,
}

/// Home is to tell what has come.
fn not_here(shared: &Shared, handle: u64, pid: u32) {
    let operation = Operation {
        argument: NOT_HERE,
        ..Operation::new(HandleOp::Consume, handle)
    };
    // If the link is gone, the session is about to end.
    let _ = operation.send(shared, pid, 0);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Streams {
    /// For a session whose home hands over connections, if it does.
    pub fn new(hatch: Option<Hatch>) -> Self {
        Self {
            hatch: hatch.map(Mutex::new),
            ..Self::default()
        }
    }

    fn flow(&self, handle: u64) -> Option<Arc<Flow>> {
        lock(&self.flows).get(&handle).cloned()
    }

    /// An object that may be a connection is made.
    pub(super) fn opened(&self, handle: u64) {
        let flow = Arc::<Flow>::default();
        lock(&flow.state).ahead.all = Arc::clone(&self.waiting);
        lock(&self.flows).insert(handle, flow);
    }

    /// It is no more.
    pub(super) fn closed(&self, handle: u64) {
        // Who reads it has it open.
        lock(&self.flows).remove(&handle);
    }

    /// Has a read that found less than it wants made again when there is enough, or that is not to be expected any more.
    pub fn park(&self, shared: &Shared, handle: u64, size: usize, again: MemoryTask) {
        if let Some(flow) = self.flow(handle) {
            let mut state = lock(&flow.state);
            if state.expects(size) {
                return state.parked.push(Parked { size, again });
            }
        }
        shared.with_memory(again);
    }

    /// It gets out of the session's hands: nothing is known of it any more.
    pub fn give_away(&self, shared: &Shared, handle: u64) {
        let flow = lock(&self.flows).remove(&handle);
        if let Some(flow) = flow {
            let _order = lock(&flow.order);
            let mut state = lock(&flow.state);
            state.forget();
            state
                .unpark()
                .into_iter()
                .for_each(|task| shared.with_memory(task));
        }
    }

    /// Asks home something about an object, by a frame of this id that `send` sends.
    pub fn ask<T>(
        &self,
        shared: &Shared,
        handle: u64,
        id: u64,
        send: impl FnOnce() -> Result<T, i32>,
    ) -> Result<T, i32> {
        let Some(flow) = self.flow(handle) else {
            return send();
        };
        let _order = lock(&flow.order);
        {
            let mut state = lock(&flow.state);
            state.begin(id);
            state
                .unpark()
                .into_iter()
                .for_each(|task| shared.with_memory(task));
        }
        send()
    }

    /// Home has told those who poll it what it is ready for, in another way.
    pub(super) fn told(&self, handle: u64, ready: u32) {
        if let Some(flow) = self.flow(handle) {
            let mut state = lock(&flow.state);
            if !state.known {
                state.ready = ready;
            }
        }
    }

    /// What it is ready for, if that is known.
    pub(super) fn ready(&self, handle: u64) -> Option<u32> {
        let flow = self.flow(handle)?;
        let state = lock(&flow.state);
        state.known.then_some(state.ready)
    }

    /// Reads up to `size` bytes without asking. What `give` does not take stays.
    pub fn read(
        &self,
        shared: &Shared,
        (handle, pid): (u64, u32),
        size: usize,
        how: How,
        give: impl FnOnce(&[u8]) -> Result<(), i32>,
    ) -> Read {
        let Some(flow) = self.flow(handle) else {
            return Read::Ask;
        };
        let _order = lock(&flow.order);
        let count = {
            let mut state = lock(&flow.state);
            let there = state.there();
            if !state.known || size == 0 {
                return Read::Ask;
            }
            if state.expects(size) {
                return Read::Soon;
            }
            if there < size && (state.more || how.all && there > 0) {
                return Read::Ask;
            }
            if there == 0 {
                return match state.ready & (IN | BROKEN) {
                    0 => Read::Nothing,
                    _ => Read::Ask,
                };
            }
            if let Some(here) = &state.here {
                let connection = Arc::clone(&here.connection);
                drop(state);
                return self.take(&flow, &connection, (there.min(size), how), give);
            }
            let bytes = state.ahead.take(there.min(size), how.peek);
            state.note_empty();
            drop(state);
            if give(&bytes).is_err() {
                // Home says what comes of it, and still has everything.
                lock(&flow.state).forget();
                return Read::Ask;
            }
            bytes.len()
        };
        if !how.peek {
            let operation = Operation {
                argument: count as u64,
                ..Operation::new(HandleOp::Consume, handle)
            };
            // If the link is gone, the session is about to end.
            let _ = operation.send(shared, pid, 0);
        }
        Read::Some(count)
    }

    /// Takes bytes of which home has told from the connection itself, once `give` has had them.
    fn take(
        &self,
        flow: &Flow,
        connection: &Connection,
        (count, how): (usize, How),
        give: impl FnOnce(&[u8]) -> Result<(), i32>,
    ) -> Read {
        let socket = connection.socket().filter(|_| count <= TAKEN_BYTES_MAX);
        let Some(socket) = socket else {
            return Read::Ask;
        };
        let mut buffer = lock(&self.buffers).pop().unwrap_or_default();
        if buffer.len() < count {
            buffer.resize(count, 0);
        }
        // The end is told of as one byte more. At the end, and if less will not do, home says what comes of it.
        let there = peek(socket, &mut buffer[..count]).unwrap_or(0);
        let given = there > 0 && (there == count || !how.all) && give(&buffer[..there]).is_ok();
        let taken = match given && !how.peek {
            true => discard(socket, &mut buffer[..there]).unwrap_or(0),
            false => 0,
        };
        let mut buffers = lock(&self.buffers);
        if buffers.len() < BUFFERS_MAX && buffer.len() <= BUFFER_BYTES_MAX {
            buffers.push(buffer);
        }
        drop(buffers);
        let mut state = lock(&flow.state);
        if !given || !how.peek && taken != there {
            // What is to be known of it, home says.
            state.forget();
        }
        if let Some(here) = &mut state.here {
            here.taken += taken as u64;
        }
        state.note_empty();
        match given {
            true => Read::Some(there),
            false => Read::Ask,
        }
    }

    /// A guest lets go of it: nothing here is to keep it open. Of one that other guests have as well, home tells from now on what has come.
    pub(super) fn let_go(&self, shared: &Shared, (handle, pid): (u64, u32)) {
        let Some(flow) = self.flow(handle) else {
            return;
        };
        let _order = lock(&flow.order);
        let mut state = lock(&flow.state);
        if state.here.take().is_some() {
            state.forget();
            drop(state);
            not_here(shared, handle, pid);
        }
    }

    /// Takes what home has handed over.
    fn take_over(&self) {
        let Some(hatch) = &self.hatch else {
            return;
        };
        let hatch = lock(hatch);
        loop {
            match hatch.take() {
                Ok(Some((handle, Some(socket)))) => {
                    let Some(flow) = self.flow(handle) else {
                        continue;
                    };
                    lock(&flow.state).here = Some(Here {
                        connection: Arc::new(socket.into()),
                        come: 0,
                        taken: 0,
                    });
                }
                // There are too many already.
                Ok(Some((_, None))) => {}
                Ok(None) => return,
                Err(error) => return debug!("what home hands over: {error}"),
            }
        }
    }

    /// Writes without asking; false if home has to be asked.
    pub fn write(&self, shared: &Shared, (handle, pid): (u64, u32), data: &[u8]) -> bool {
        if data.is_empty() || data.len() > WRITE_BYTES_MAX {
            return false;
        }
        let Some(flow) = self.flow(handle) else {
            return false;
        };
        let _order = lock(&flow.order);
        if !lock(&flow.state).spend(data.len()) {
            return false;
        }
        let operation = Operation {
            data,
            ..Operation::new(HandleOp::Append, handle)
        };
        let _ = operation.send(shared, pid, 0);
        true
    }

    /// Whether so many bytes could be written without asking, as it is now.
    pub fn may_write(&self, handle: u64, bytes: usize) -> bool {
        bytes <= WRITE_BYTES_MAX
            && self
                .flow(handle)
                .is_some_and(|flow| lock(&flow.state).has_room(bytes))
    }

    /// Takes in what home says, in the link's order. Those who wait for it are woken.
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn hear(&self, shared: &Shared, payload: &[u8]) -> Result<(), LinkError> {
        for news in streams::decode(payload)? {
            let handle = news.head.handle.get();
            let flow = self.flow(handle);
            let lacks_it = |flow: &Arc<Flow>| lock(&flow.state).here.is_none();
            if news.here().is_some() && flow.as_ref().is_none_or(lacks_it) {
                self.take_over();
                if flow.as_ref().is_some_and(lacks_it) {
                    shared.with_memory(Box::new(move |shared: &Arc<Shared>| not_here(shared, handle, 0)));
                }
            }
            let Some(flow) = flow else {
                continue;
            };
            let (wakes, reads) = {
                let mut state = lock(&flow.state);
                (state.hear(&news), state.unpark())
            };
            reads.into_iter().for_each(|task| shared.with_memory(task));
            if wakes {
                shared.files.handles.change(handle, |known| known.ready = None);
                shared.files.wake(handle);
            }
        }
        Ok(())
    }
}

impl State {
    /// Home is asked something.
    fn begin(&mut self, id: u64) {
        self.forget();
        self.last = id;
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.known && self.ready & BROKEN == 0 && self.spent.saturating_add(cost(bytes)) <= self.limit
    }

    fn spend(&mut self, bytes: usize) -> bool {
        let has = self.has_room(bytes);
        if has {
            self.spent += cost(bytes);
        }
        has
    }

    /// True if somebody may have waited for that.
    fn hear(&mut self, news: &streams::News<'_>) -> bool {
        let flags = news.head.flags.get();
        // What was asked last is answered: by what comes right behind this.
        let current = self.last == news.head.after.get();
        if flags & UNKNOWN != 0 {
            if current {
                self.forget();
            }
            return true;
        }
        let whole = flags & WHOLE != 0;
        if !current || !(whole || self.known) {
            return false;
        }
        // Also what those who poll it have been told before home was asked: what has happened since is an event.
        let before = self.ready;
        if whole {
            self.ahead.clear();
        }
        if !self.ahead.has_room(news.data.len()) {
            // Home tells more than it may, or there is too much of all: it is asked.
            self.forget();
            return true;
        }
        match (news.here(), &mut self.here) {
            (Some(come), Some(here)) => {
                here.come = come;
                if whole {
                    here.taken = 0;
                }
            }
            (None, None) => self.ahead.push(news.data),
            // Home is asked.
            _ => {
                self.forget();
                return true;
            }
        }
        self.known = true;
        self.more = flags & MORE != 0;
        self.held = flags & HELD != 0;
        self.ready = news.head.ready.get();
        self.limit = news.head.limit.get();
        self.note_empty();
        self.ready & !before != 0 || flags & EVENT != 0
    }
}

#[cfg(test)]
mod tests {
    use afield_link::streams::HERE;

    use super::*;

    const OUT: u32 = libc::POLLOUT as u32;

    fn news(after: u64, flags: u32, ready: i16, data: &[u8]) -> Vec<u8> {
        let head = streams::Head {
            handle: 1.into(),
            after: after.into(),
            limit: 20_000.into(),
            ready: (ready as u32).into(),
            flags: flags.into(),
            length: 0.into(),
        };
        let mut payload = Vec::new();
        streams::encode(&mut payload, head, data);
        payload
    }

    #[test]
    fn what_has_come_is_taken_from_the_connection_itself() {
        use std::io::Write;
        let (home, hatch) = Hatch::pair().unwrap();
        let streams = Streams::new(Some(hatch));
        streams.opened(1);
        let flow = streams.flow(1).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (guest, _) = listener.accept().unwrap();
        let ready = libc::POLLIN | libc::POLLOUT;
        let come = |count: u64, flags| news(0, HERE | flags, ready, &count.to_le_bytes());
        // Without the connection, home has to be asked.
        assert!(hear(&mut lock(&flow.state), &come(5, WHOLE)));
        assert!(!lock(&flow.state).known);
        home.give(1, std::os::fd::AsFd::as_fd(&guest)).unwrap();
        home.give(2, std::os::fd::AsFd::as_fd(&guest)).unwrap();
        streams.take_over();
        assert!(hear(&mut lock(&flow.state), &come(0, WHOLE)));
        peer.write_all(b"hello").unwrap();
        guest.peek(&mut [0; 5]).unwrap();
        // Nothing is taken of which home has not told.
        assert_eq!(lock(&flow.state).there(), 0);
        assert!(hear(&mut lock(&flow.state), &come(4, EVENT)));
        let take = |count, how: How, wanted: &[u8], result| {
            let connection = lock(&flow.state)
                .here
                .as_ref()
                .map(|here| Arc::clone(&here.connection));
            streams.take(&flow, &connection.unwrap(), (count, how), |bytes| {
                assert_eq!(bytes, wanted);
                result
            })
        };
        let how = How::default();
        let (stays, all) = (How { peek: true, ..how }, How { all: true, ..how });
        assert_eq!(take(3, stays, b"hel", Ok(())), Read::Some(3));
        assert_eq!(take(3, all, b"hel", Ok(())), Read::Some(3));
        assert_eq!(lock(&flow.state).there(), 1);
        assert_eq!(take(1, how, b"l", Ok(())), Read::Some(1));
        let (there, left) = {
            let state = lock(&flow.state);
            (state.there(), state.ready)
        };
        assert_eq!((there, left), (0, OUT));
        // What its reader has no place for stays.
        assert!(hear(&mut lock(&flow.state), &come(5, EVENT)));
        assert_eq!(take(1, how, b"o", Err(libc::EFAULT)), Read::Ask);
        assert!(!lock(&flow.state).known);
        assert_eq!(guest.peek(&mut [0; 5]).unwrap(), 1);
        // The end counts as a byte.
        drop(peer);
        hear(&mut lock(&flow.state), &come(2, WHOLE));
        assert_eq!(take(2, all, b"", Ok(())), Read::Ask);
        assert!(!lock(&flow.state).known);
        hear(&mut lock(&flow.state), &come(2, WHOLE));
        assert_eq!(take(2, how, b"o", Ok(())), Read::Some(1));
        assert!(lock(&flow.state).known);
        assert_eq!(take(1, how, b"", Ok(())), Read::Ask);
        assert!(!lock(&flow.state).known);
        // One way or the other.
        assert!(hear(&mut lock(&flow.state), &news(0, WHOLE, ready, b"o")));
        assert!(!lock(&flow.state).known);
    }

    fn hear(state: &mut State, payload: &[u8]) -> bool {
        streams::decode(payload)
            .unwrap()
            .iter()
            .any(|news| state.hear(news))
    }

    #[test]
    fn what_is_asked_makes_void_what_is_known() {
        let streams = Streams::default();
        streams.opened(1);
        let flow = streams.flow(1).unwrap();
        let ask = |id| lock(&flow.state).begin(id);
        ask(5);
        // On its way while home was asked.
        assert!(!hear(&mut lock(&flow.state), &news(4, WHOLE, libc::POLLOUT, b"")));
        assert!(!hear(&mut lock(&flow.state), &news(4, WHOLE, libc::POLLOUT, b"")));
        assert!(!hear(&mut lock(&flow.state), &news(5, 0, libc::POLLOUT, b"")));
        assert!(hear(&mut lock(&flow.state), &news(5, WHOLE, libc::POLLOUT, b"")));
        assert!(streams.may_write(1, 1000));
        assert!(hear(
            &mut lock(&flow.state),
            &news(5, 0, libc::POLLIN | libc::POLLOUT, b"abc")
        ));
        assert_eq!(lock(&flow.state).ahead.take(3, true), b"abc");
        ask(6);
        assert!(!streams.may_write(1, 1));
        assert_eq!(lock(&flow.state).ahead.length, 0);
        ask(7);
        assert!(!hear(&mut lock(&flow.state), &news(6, WHOLE, libc::POLLOUT, b"")));
        // Who polls it has been told of that, but not of what has happened since.
        assert!(!hear(&mut lock(&flow.state), &news(7, WHOLE, libc::POLLOUT, b"")));
        assert!(hear(&mut lock(&flow.state), &news(7, EVENT, libc::POLLOUT, b"")));
    }

    #[test]
    fn room_is_not_spent_twice() {
        let mut state = State::default();
        assert!(!state.spend(1));
        assert!(hear(&mut state, &news(0, WHOLE, libc::POLLOUT, b"")));
        assert!(state.spend(1000) && state.spend(1000));
        assert!(!state.spend(10_000));
        // Home tells up to where, not how much more.
        hear(&mut state, &news(0, 0, libc::POLLOUT, b""));
        assert!(!state.spend(10_000));
        hear(&mut state, &news(0, 0, libc::POLLOUT | libc::POLLRDHUP, b""));
        assert!(!state.spend(1));
    }

    #[test]
    fn a_window_is_the_most() {
        let mut state = State::default();
        let much = vec![0; WINDOW_BYTES];
        assert!(hear(&mut state, &news(0, WHOLE, libc::POLLIN, &much)));
        assert!(state.known);
        assert!(hear(&mut state, &news(0, 0, libc::POLLIN, b"1")));
        assert!(!state.known && state.ahead.length == 0);
    }

    #[test]
    fn what_waits_on_all_streams_is_bounded() {
        let streams = Streams::default();
        let waiting = |streams: &Streams| streams.waiting.load(Ordering::Relaxed);
        let much = vec![0; WINDOW_BYTES];
        let most = (AHEAD_BYTES_MAX / WINDOW_BYTES) as u64;
        for handle in 0..=most {
            streams.opened(handle);
            let flow = streams.flow(handle).unwrap();
            let mut state = lock(&flow.state);
            assert!(hear(&mut state, &news(0, WHOLE, libc::POLLIN, &much)));
            assert_eq!(state.known, handle < most);
        }
        assert_eq!(waiting(&streams), AHEAD_BYTES_MAX);
        lock(&streams.flow(0).unwrap().state).ahead.take(10, true);
        assert_eq!(waiting(&streams), AHEAD_BYTES_MAX);
        lock(&streams.flow(0).unwrap().state).ahead.take(10, false);
        assert_eq!(waiting(&streams), AHEAD_BYTES_MAX - 10);
        for handle in 0..=most {
            streams.closed(handle);
        }
        assert_eq!(waiting(&streams), 0);
    }

    #[test]
    fn pieces_are_one_stream() {
        let mut come = Come::default();
        for piece in [&b"abc"[..], b"", b"de", b"fghij"] {
            come.push(piece);
        }
        assert_eq!((come.take(4, true), come.length), (b"abcd".to_vec(), 10));
        assert_eq!((come.take(4, false), come.length), (b"abcd".to_vec(), 6));
        assert_eq!(come.take(1, false), b"e");
        assert_eq!(come.take(2, true), b"fg");
        assert_eq!((come.take(5, false), come.length), (b"fghij".to_vec(), 0));
        assert_eq!(come.take(0, false), b"");
    }
}
