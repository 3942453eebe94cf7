//! Connections that guests read and write without asking home.
//!
//! A TCP connection that a guest has made or accepted, and used a few times, is told of *ahead*: before any message goes to the node, the
//! session looks at those where something has happened, and what has come on them, whether they have ended and for how much they have room
//! goes first ([`afield_link::streams`]). So a guest that can have heard of something from anybody at home can also see it. The node
//! gives guests what has come, and takes what they write, as far as it knows what home's kernel would say; it tells home of both, in the link's order, and
//! asks about everything else. Whatever it asks makes void what it was told.
//!
//! What a guest writes must be where its other end is before anybody hears of it. On the node that can be a guest, who hears of it at once. So
//! connections both ends of which guests of one node have are read ahead, but not written behind: home knows the addresses of all of them.

mod flow;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use afield_abi::syscalls::{self, Arg, nr};
use afield_link::ahead::{Ahead, News};
use afield_link::frame::Kind;
use afield_link::hatch::Hatch;
use afield_link::streams;
use afield_link::wire::{CallHeader, HandleOp};
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use tracing::debug;

use self::flow::{Flow, Notes, TooMuch, Waiting, unknown};
use super::deputies::DeputyEntry;
use super::lock;
use super::session::{Outstanding, Session, SessionError};
use crate::deputy::course_of;
use crate::messages::ToDeputy;
use crate::sys::stream::Course;

/// How often a connection is read or written before it is told of ahead: it takes some work to begin.
const MOVES_MIN: u32 = 3;

/// Most connections that are told of ahead for one node; and no more than this part of the descriptors that the agent may have.
const FLOWS_MAX: usize = 4096;
const DESCRIPTORS_PART: u64 = 4;

/// Most bytes of contents that go ahead of one message, to another machine and on this one. Of the rest is told that it is there.
const AHEAD_BYTES: usize = 60 << 10;
const AHEAD_BYTES_NEAR: usize = 128 << 10;

/// How often in a row is told what does not go at once.
const ROUNDS_MAX: usize = 16;

const EVENTS: usize = 64;

/// Who keeps a connection open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Holder {
    /// A guest.
    Guest(u32),
    /// The child of a fork that has been asked for under this id.
    Fork(u64),
    /// The agent, for guests who get it from others.
    Agent,
}

/// A guest's connection.
#[derive(Debug, Default)]
struct Entry {
    holders: HashSet<Holder>,
    local: Option<SocketAddr>,
    /// Nobody but guests has it.
    own: bool,
    moves: u32,
    /// What has been asked about it and not been answered.
    asked: u32,
    /// The last of that.
    after: u64,
    /// The deputy has been asked for it.
    wanted: bool,
    flow: Option<Box<Flow>>,
}

#[derive(Debug, Default)]
struct Known {
    entries: HashMap<u64, Entry>,
    /// Requests that have not been answered, and what they are about.
    asked: HashMap<u64, u64>,
    /// How many connections of guests begin at an address.
    locals: HashMap<SocketAddr, u32>,
    /// Those that are told of, by where they end.
    peers: HashMap<SocketAddr, Vec<u64>>,
    /// Where something may have happened; true if the kernel says so.
    news: HashMap<u64, bool>,
    /// Those where what had to wait may go on.
    free: VecDeque<u64>,
    scratch: Vec<u8>,
}

/// The connections of a session's guests.
#[derive(Debug)]
pub(super) struct Streams {
    known: Mutex<Known>,
    entries: AtomicUsize,
    flows: AtomicUsize,
    /// All that are told of, and what says that there is something to do.
    epoll: OwnedFd,
    wake: OwnedFd,
    unfinished: AtomicBool,
    /// Who goes on until nothing is left.
    telling: AtomicUsize,
    budget: usize,
    most_flows: usize,
    /// Where a node on this machine gets connections themselves.
    hatch: Option<Hatch>,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Passing {
    /// The deputy gets it.
    On,
    /// The same, and is asked for the connection.
    Begin,
    /// It waits here.
    Kept,
    /// More waits than can.
    TooMuch,
}

impl Streams {
    /// For a node that is on this machine, and gets connections there, or is not.
    pub fn new(hatch: Option<Hatch>) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(u64::MAX), flags)?;
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Ok(Self {
            known: Mutex::default(),
            entries: AtomicUsize::new(0),
            flows: AtomicUsize::new(0),
            epoll,
            wake,
            unfinished: AtomicBool::new(false),
            telling: AtomicUsize::new(0),
            budget: match hatch {
                Some(_) => AHEAD_BYTES_NEAR,
                None => AHEAD_BYTES,
            },
            most_flows: descriptors.map_or(FLOWS_MAX, |most| {
                FLOWS_MAX.min((most / DESCRIPTORS_PART) as usize)
            }),
            hatch,
        })
    }

    /// Readable when something has happened.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Whether no guest has a connection that matters here.
    pub fn is_empty(&self) -> bool {
        self.entries.load(Ordering::Acquire) == 0
    }

    /// Whether something is left to be told.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished.load(Ordering::Acquire)
    }

    /// A guest has a connection that begins at `local`; `own` if it has made or accepted it.
    pub fn connected(&self, pid: u32, handle: u64, local: SocketAddr, own: bool) {
        let mut known = lock(&self.known);
        let known = &mut *known;
        let entry = known.entries.entry(handle).or_default();
        entry.holders.insert(Holder::Guest(pid));
        entry.own = own;
        let before = entry.local.replace(local);
        *known.locals.entry(local).or_default() += 1;
        if let Some(before) = before {
            release(&mut known.locals, before);
        }
        // Its other end is a guest's from now on.
        for other in known.peers.get(&local).into_iter().flatten() {
            if let Some(flow) = known.entries.get_mut(other).and_then(|entry| entry.flow.as_mut()) {
                flow.writes = false;
                known.news.entry(*other).or_default();
            }
        }
        self.entries.store(known.entries.len(), Ordering::Release);
    }

    /// Somebody has it as well.
    pub fn hold(&self, handle: u64, holder: Holder) {
        if self.is_empty() {
            return;
        }
        if let Some(entry) = lock(&self.known).entries.get_mut(&handle) {
            entry.holders.insert(holder);
        }
    }

    /// Somebody has closed it.
    pub fn let_go(&self, handle: u64, holder: Holder) {
        if self.is_empty() {
            return;
        }
        let mut known = lock(&self.known);
        if let Some(entry) = known.entries.get_mut(&handle) {
            entry.holders.remove(&holder);
        }
        self.clear(&mut known, handle);
    }

    /// A guest has ended.
    pub fn left(&self, pid: u32) {
        if self.is_empty() {
            return;
        }
        self.replace(Holder::Guest(pid), None);
    }

    /// A guest is about to fork: its child will have all that it has.
    pub fn forking(&self, pid: u32, id: u64) {
        if self.is_empty() {
            return;
        }
        for entry in lock(&self.known).entries.values_mut() {
            if entry.holders.contains(&Holder::Guest(pid)) {
                entry.holders.insert(Holder::Fork(id));
            }
        }
    }

    /// It has forked, or has not.
    pub fn forked(&self, id: u64, child: Option<u32>) {
        if !self.is_empty() {
            self.replace(Holder::Fork(id), child.map(Holder::Guest));
        }
    }

    fn replace(&self, holder: Holder, by: Option<Holder>) {
        let mut known = lock(&self.known);
        let mut had = Vec::new();
        for (&handle, entry) in &mut known.entries {
            if entry.holders.remove(&holder) {
                entry.holders.extend(by);
                had.push(handle);
            }
        }
        for handle in had {
            self.clear(&mut known, handle);
        }
    }

    /// Forgets a connection that nobody has.
    fn clear(&self, known: &mut Known, handle: u64) {
        let stays = |entry: &Entry| {
            !entry.holders.is_empty() || entry.flow.as_ref().is_some_and(|flow| flow.keeps(u64::MAX))
        };
        if known.entries.get(&handle).is_none_or(stays) {
            return;
        }
        let Some(entry) = known.entries.remove(&handle) else {
            return;
        };
        if let Some(local) = entry.local {
            release(&mut known.locals, local);
        }
        known.news.remove(&handle);
        if let Some(flow) = entry.flow {
            if let Some(list) = flow.peer.and_then(|peer| known.peers.get_mut(&peer)) {
                list.retain(|other| *other != handle);
            }
            if let Some(peer) = flow.peer
                && known.peers.get(&peer).is_some_and(Vec::is_empty)
            {
                known.peers.remove(&peer);
            }
            // Somebody else at home may have it.
            let _ = epoll::delete(&self.epoll, &flow.file);
            flow.close();
            self.flows.fetch_sub(1, Ordering::AcqRel);
        }
        self.entries.store(known.entries.len(), Ordering::Release);
    }

    /// It gets out of guests' hands.
    pub fn give_away(&self, handle: u64) {
        if self.is_empty() {
            return;
        }
        let mut known = lock(&self.known);
        let known = &mut *known;
        if let Some(entry) = known.entries.get_mut(&handle) {
            entry.own = false;
            if let Some(flow) = &mut entry.flow {
                flow.give_up();
                known.news.entry(handle).or_default();
            }
        }
    }

    /// A call is about to go to a deputy.
    pub fn pass_call(&self, header: &CallHeader, id: u64, payload: &[u8]) -> Passing {
        if self.is_empty() {
            return Passing::On;
        }
        let number = header.number.get();
        let arguments = header.arguments.map(|argument| argument.get());
        let Some(row) = syscalls::row(number) else {
            return Passing::On;
        };
        let shape = row.shape(&arguments);
        let object = shape
            .iter()
            .zip(arguments)
            .find(|(argument, _)| **argument == Arg::Fd);
        let Some((_, handle)) = object else {
            return Passing::On;
        };
        self.pass(handle, (Kind::Call, id, payload), |entry| {
            if let Some(flow) = &mut entry.flow {
                match number {
                    nr::SETSOCKOPT => flow.doubtful = true,
                    nr::SHUTDOWN => flow.writes = false,
                    nr::CONNECT => flow.give_up(),
                    _ => {}
                }
            }
        })
    }

    /// An operation that is answered is about to go to a deputy.
    pub fn pass_operation(&self, op: HandleOp, handle: u64, id: u64, payload: &[u8]) -> Passing {
        if self.is_empty() {
            return Passing::On;
        }
        self.pass(handle, (Kind::Handle, id, payload), |entry| match op {
            HandleOp::Read | HandleOp::Write | HandleOp::Send | HandleOp::Receive => {
                entry.moves = entry.moves.saturating_add(1);
            }
            _ => {}
        })
    }

    fn pass(
        &self,
        handle: u64,
        (kind, id, payload): (Kind, u64, &[u8]),
        note: impl FnOnce(&mut Entry),
    ) -> Passing {
        let mut known = lock(&self.known);
        let known = &mut *known;
        let Some(entry) = known.entries.get_mut(&handle) else {
            return Passing::On;
        };
        if let Some(flow) = entry.flow.as_mut().filter(|flow| flow.keeps(id)) {
            return match flow.keep((kind, id, payload)) {
                true => Passing::Kept,
                false => Passing::TooMuch,
            };
        }
        note(entry);
        entry.asked += 1;
        entry.after = id;
        known.asked.insert(id, handle);
        if let Some(flow) = &mut entry.flow {
            flow.asked();
            return Passing::On;
        }
        let begins = entry.own
            && !entry.wanted
            && entry.moves >= MOVES_MIN
            && self.flows.load(Ordering::Acquire) < self.most_flows;
        if begins {
            entry.wanted = true;
            return Passing::Begin;
        }
        Passing::On
    }

    /// A deputy's last descriptor is about to be closed. True if that waits here.
    pub fn pass_close(&self, handle: u64, pid: u32, payload: &[u8]) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut known = lock(&self.known);
        let flow = known
            .entries
            .get_mut(&handle)
            .and_then(|entry| entry.flow.as_mut());
        if let Some(flow) = flow.filter(|flow| flow.keeps(0)) {
            // Of those there are few.
            return flow.keep((Kind::Handle, 0, payload));
        }
        if let Some(entry) = known.entries.get_mut(&handle) {
            entry.holders.remove(&Holder::Guest(pid));
        }
        self.clear(&mut known, handle);
        false
    }

    /// The answer to something is about to go to the node: what is to be told of the connection goes first.
    pub fn answered(&self, id: u64) {
        if self.is_empty() {
            return;
        }
        let mut known = lock(&self.known);
        let known = &mut *known;
        let Some(handle) = known.asked.remove(&id) else {
            return;
        };
        let Some(entry) = known.entries.get_mut(&handle) else {
            return;
        };
        entry.asked = entry.asked.saturating_sub(1);
        if entry.asked == 0 && entry.flow.is_some() {
            known.news.entry(handle).or_default();
        }
    }

    /// A deputy has given its connection, which it has not watched since that `course`.
    fn begin(&self, handle: u64, file: OwnedFd, course: Course) {
        let peer = rustix::net::getpeername(&file)
            .ok()
            .flatten()
            .and_then(|address| SocketAddr::try_from(address).ok())
            .map(canonical);
        let mut known = lock(&self.known);
        let known = &mut *known;
        if !known.entries.contains_key(&handle) {
            return;
        }
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::PRI
            | epoll::EventFlags::ET;
        if let Err(errno) = epoll::add(&self.epoll, &file, epoll::EventData::new_u64(handle), flags) {
            return debug!("a connection is not told of ahead: {errno}");
        }
        // What it is ready for is told of when it is added, and is no news.
        self.look(known);
        let happened = course_of(file.as_fd()) != course;
        let Some(entry) = known.entries.get_mut(&handle) else {
            return;
        };
        let guests = peer.is_some_and(|peer| known.locals.contains_key(&peer));
        if let Some(peer) = peer {
            known.peers.entry(peer).or_default().push(handle);
        }
        let mut flow = Flow::new(file, peer, !guests, self.hatch.is_some());
        if !entry.own {
            flow.give_up();
        }
        entry.flow = Some(Box::new(flow));
        known.news.insert(handle, happened);
        self.unfinished.store(true, Ordering::Release);
        self.flows.fetch_add(1, Ordering::AcqRel);
    }

    /// The guest has read what the node was told of. True if there may be something to tell.
    pub fn consume(&self, handle: u64, count: u64) -> bool {
        self.with_flow(handle, |flow| {
            if count == streams::NOT_HERE {
                return flow.leave();
            }
            let result = usize::try_from(count).map_err(|_| libc::EINVAL);
            result
                .and_then(|count| flow.consume(count))
                .unwrap_or_else(|errno| {
                    // The node is wrong, or somebody at home has read what is a guest's.
                    debug!(handle, errno, "what a guest has read is not there");
                    flow.give_up();
                    true
                })
        })
    }

    /// The guest has written. True if there may be something to tell.
    ///
    /// # Errors
    /// There cannot have been room.
    pub fn append(&self, handle: u64, data: &[u8]) -> Result<bool, TooMuch> {
        let mut result = Ok(());
        let tells = self.with_flow(handle, |flow| {
            flow.append(data).unwrap_or_else(|error| {
                result = Err(error);
                false
            })
        });
        result.map(|()| tells)
    }

    fn with_flow(&self, handle: u64, work: impl FnOnce(&mut Flow) -> bool) -> bool {
        let mut known = lock(&self.known);
        let known = &mut *known;
        let flow = known
            .entries
            .get_mut(&handle)
            .and_then(|entry| entry.flow.as_mut());
        let tells = flow.is_some_and(|flow| work(flow));
        if tells {
            known.news.entry(handle).or_default();
            self.unfinished.store(true, Ordering::Release);
        }
        tells
    }

    /// Appends what has happened.
    fn tell(&self, payload: &mut Vec<u8>) {
        if self.flows.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut known = lock(&self.known);
        let known = &mut *known;
        self.look(known);
        let mut notes = Notes {
            payload,
            budget: self.budget,
            scratch: &mut known.scratch,
            hatch: self.hatch.as_ref(),
        };
        let mut left = HashMap::new();
        for (handle, happened) in known.news.drain() {
            let Some(entry) = known.entries.get_mut(&handle) else {
                continue;
            };
            let Some(flow) = &mut entry.flow else {
                continue;
            };
            if !flow.is_clear() && flow.flush() {
                known.free.push_back(handle);
                // Whoever listens passes them on.
                self.call_listener();
            }
            if entry.asked > 0 {
                // Who polls it meanwhile has to ask again.
                if happened {
                    streams::encode(notes.payload, unknown(handle, entry.after), &[]);
                }
                continue;
            }
            if !flow.tell(handle, entry.after, happened, &mut notes) {
                left.insert(handle, false);
            }
        }
        self.unfinished.store(!left.is_empty(), Ordering::Release);
        if !left.is_empty() && self.telling.load(Ordering::Acquire) == 0 {
            self.call_listener();
        }
        known.news = left;
    }

    /// Whoever listens looks here.
    fn call_listener(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Has `tell` tell until nothing is left, or the others need a turn; false from it says that it cannot now. Whether something is left,
    /// which whoever listens has to tell.
    pub fn tell_on<E>(&self, mut tell: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
        self.telling.fetch_add(1, Ordering::AcqRel);
        let mut result = Ok(true);
        for _ in 0..ROUNDS_MAX {
            result = tell();
            if !matches!(result, Ok(true)) || !self.is_unfinished() {
                break;
            }
        }
        self.telling.fetch_sub(1, Ordering::AcqRel);
        if !result? {
            // What has happened meanwhile is said once.
            self.unfinished.store(true, Ordering::Release);
        }
        Ok(self.is_unfinished())
    }

    /// Asks the kernel what has happened.
    fn look(&self, known: &mut Known) {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        loop {
            let Ok((events, rest)) = epoll::wait(&self.epoll, &mut events[..], Some(&now)) else {
                return;
            };
            for event in events.iter() {
                let handle = event.data.u64();
                if known.entries.contains_key(&handle) {
                    known.news.insert(handle, true);
                }
            }
            if !rest.is_empty() {
                return;
            }
        }
    }

    /// The next frame that had to wait and may go on, now that the one before it has.
    fn next_free(&self) -> Option<Waiting> {
        let mut known = lock(&self.known);
        loop {
            let handle = *known.free.front()?;
            let flow = known
                .entries
                .get_mut(&handle)
                .and_then(|entry| entry.flow.as_mut());
            if let Some(flow) = flow.filter(|flow| flow.is_clear()) {
                let next = flow.free();
                if next.is_some() {
                    return next;
                }
            }
            known.free.pop_front();
            self.clear(&mut known, handle);
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        let entries = std::mem::take(&mut lock(&self.known).entries);
        entries
            .into_values()
            .filter_map(|entry| entry.flow)
            .for_each(|flow| flow.close());
    }
}

fn release(locals: &mut HashMap<SocketAddr, u32>, local: SocketAddr) {
    if let Some(count) = locals.get_mut(&local) {
        *count -= 1;
        if *count == 0 {
            locals.remove(&local);
        }
    }
}

/// The same address for the same place, whichever family it was asked in.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What the link asks before each frame.
#[derive(Debug)]
pub(super) struct Teller {
    pub files: Option<Arc<dyn Ahead>>,
    pub streams: Arc<Streams>,
}

impl Ahead for Teller {
    fn ahead(&self, about: Option<u64>, news: &mut News) {
        if let Some(files) = &self.files {
            files.ahead(about, news);
        }
        self.streams.tell(&mut news.streams);
    }
}

impl Session {
    /// Asks a deputy for a connection that is to be told of ahead.
    pub(super) fn want_stream(&self, deputy: &Arc<DeputyEntry>, handle: u64) -> Result<(), SessionError> {
        let id = self.expect_own(Outstanding::Stream(Arc::clone(deputy), handle))?;
        self.tell(deputy, id, &ToDeputy::Ahead { handle }, None)
    }

    /// It has come.
    pub(super) fn begin_stream(
        &self,
        deputy: &Arc<DeputyEntry>,
        id: u64,
        course: Course,
        file: Option<OwnedFd>,
    ) -> Result<(), SessionError> {
        let handle = self.with_outstanding(id, |what| match what {
            Some(Outstanding::Stream(of, handle)) if Arc::ptr_eq(of, deputy) => Some(*handle),
            _ => None,
        });
        let (Some(handle), Some(file)) = (handle, file) else {
            tracing::warn!(pid = deputy.pid, id, "a deputy shares what was not asked for");
            return Ok(());
        };
        self.answered(id);
        self.streams.begin(handle, file, course);
        self.tell_streams()
    }

    /// Tells the node what is new of connections.
    pub(super) fn tell_streams(&self) -> Result<(), SessionError> {
        if self.streams.tell_on(|| self.writer.write_ahead())? {
            self.streams.call_listener();
        }
        Ok(())
    }

    /// Something has happened to connections.
    pub(super) fn hear_streams(self: &Arc<Self>) -> Result<(), SessionError> {
        self.streams.tell_on(|| self.writer.write_ahead())?;
        while let Some(waiting) = self.streams.next_free() {
            self.pass_on(waiting.kind, waiting.id, waiting.payload)?;
        }
        Ok(())
    }
}
