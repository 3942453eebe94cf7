//! What the node keeps of home's tree, and how it stays true.
//!
//! The node's kernel keeps names, attributes, contents and listings for as long as home says: until further notice. What changes at home,
//! home says ahead of anything by which a guest could learn that it has changed ([`afield_link::invalidation`]), and nothing that
//! comes later is delivered before the kernel has been told ([`barrier`]).
//!
//! The kernel asks even for what it could know when a file is opened or closed and when a link is read. The session answers such requests by
//! itself as long as what home has said before holds ([`opens`], [`answers`]).
//!
//! | module | what |
//! |---|---|
//! | [`kept`] | what the kernel knows; pure |
//! | [`opens`] | open files that home does not have to be asked for; pure |
//! | [`answers`] | what home does not have to be asked again of a node; pure |
//! | `attributes` | what home does not have to be asked for again after reading; pure |
//! | `drafts` | what guests have written to small files; pure |
//! | [`early`] | what home has answered before it was asked; pure |
//! | `listing` | all names in a directory; pure |
//! | `touched` | what of that a guest changes; pure |
//! | `state` | all of these together, and since when guests have changed something |
//! | `means` | what a request means for them |
//! | `numbers` | home's numbers of open files in place of the session's |
//! | `replies` | what home says |
//! | `notifier` | what the kernel is told |
//! | [`barrier`] | what is delivered when |

pub mod answers;
mod attributes;
pub mod barrier;
mod drafts;
pub mod early;
pub mod kept;
pub mod listing;
mod means;
mod notifier;
mod numbers;
pub mod opens;
mod replies;
mod state;
mod touched;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use afield_abi::fuse::{
    Attributes, AttributesReply, GET_HANDLE, GetAttributesRequest, LOCK_DESCRIPTION, LOCK_FLOCK, LockRequest,
    OPEN_PROMISED, Opcode, OpenReply, OpenRequest, ReadRequest, ReleaseRequest, RequestHeader,
    open_reply_flag, release_flag,
};
use afield_link::frame::{FILE_ID, Kind};
use afield_link::invalidation::FOREVER_SECONDS;
use tracing::debug;
use zerocopy::IntoBytes;

use super::connections::{self, ConnectionSet};
use super::early as early_answers;
use super::owners::Owner;
use super::{Files, Outcome, Request, data_reply, error_reply, lock};
use crate::session::Shared;
use answers::Question;
use early::{Answer, Brought};
use kept::Notice;
use means::{Means, means};
use notifier::Kernel;
use numbers::{number_in, open_request, own_request, put_handle, translate};
use opens::{Closing, LOCAL, Own, Way};
use state::{Sent, State};
use touched::Touched;

/// Bit of the numbers of requests that are the session's own.
const OWN_REQUEST: u64 = 1 << 62;

/// Flags of `open` that do not change what is opened.
const PLAIN_FLAGS: u32 = (libc::O_NONBLOCK | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC) as u32
    | LARGE_FILE
    | EXECUTION;
const LARGE_FILE: u32 = 0o100000;
const EXECUTION: u32 = afield_abi::fuse::OPEN_FOR_EXECUTION;

/// For how many looks (one per second) a file that nobody has open is held open at home: who watches it there sees that late that it
/// is closed.
const IDLE_LOOKS_MAX: u64 = 5;

/// What is kept, and how far.
#[derive(Debug)]
pub struct Coherent {
    state: Mutex<State>,
    next: AtomicU64,
    /// The home user.
    owner: Owner,
    /// What is delivered when.
    pub barrier: barrier::Barrier,
}

/// What becomes of a reply.
#[derive(Debug)]
pub enum Delivery {
    /// It is given to the thread that is known by this number in the world.
    Give(u32),
    /// The same; then the kernel is told of this before anything else is delivered.
    GiveAndTell(u32, Vec<Notice>),
    /// The kernel did not ask.
    Drop,
}

impl Coherent {
    /// Nothing is kept yet. `owner`: the home user.
    pub fn new(owner: Owner) -> Self {
        Self {
            state: Mutex::default(),
            next: AtomicU64::new(1),
            owner,
            barrier: barrier::Barrier::default(),
        }
    }

    /// Names that are relied on, and nodes that are known.
    pub fn counts(&self) -> (usize, usize) {
        lock(&self.state).kept.counts()
    }

    /// The kernel can ask for a name again without giving it up.
    pub fn set_expires(&self) {
        lock(&self.state).kept.set_expires();
    }

    /// A directory and a name in it that the kernel takes for a node.
    pub fn place_of(&self, node: u64) -> Option<(u64, Box<[u8]>)> {
        lock(&self.state).kept.place_of(node)
    }

    /// Whether this path, and no other one that is known, leads to this directory, and home says when it does not any more. Not while a guest is
    /// moving or removing something, which may be on the way.
    pub fn leads_to(&self, path: &[u8], node: u64) -> bool {
        let state = lock(&self.state);
        let moves =
            |sent: &Sent| sent.opcode == Opcode::RemoveDirectory || matches!(sent.means, Means::Moved { .. });
        state.kept.leads_to(path, node) && !state.sent.values().any(moves)
    }

    /// Where the kernel may know any of these nodes.
    pub fn connections_of(&self, nodes: &[u64]) -> ConnectionSet {
        let state = lock(&self.state);
        nodes.iter().map(|node| state.kept.connections(*node)).collect()
    }

    /// Where the kernel may know what a notice is about.
    fn connections(&self, notice: &Notice) -> ConnectionSet {
        lock(&self.state).kept.connections(notice.node())
    }

    /// True if home would say to this caller what it says to all others of whom this is true: they have its service's own rights.
    fn is_common(&self, header: &RequestHeader) -> bool {
        self.owner.0 != 0 || (header.uid, header.gid) == self.owner
    }

    /// How a request opens a node, if others may share what it gets.
    pub fn way(&self, request: &Request<'_>) -> Option<Way> {
        let directory = match request.opcode {
            Opcode::Open => false,
            Opcode::OpenDirectory => true,
            _ => return None,
        };
        let OpenRequest { flags, .. } = request.record().ok()?;
        let plain = flags & !PLAIN_FLAGS == libc::O_RDONLY as u32;
        (plain && self.is_common(&request.header)).then_some(Way {
            node: request.header.node,
            flags,
            directory,
        })
    }

    /// Home has opened a file whose contents may be kept: the number under which the guest gets it.
    pub fn hold(&self, way: Way, home: u64) -> Option<u64> {
        lock(&self.state).opens.hold(way, home)
    }

    /// Serves a request if home does not have to be asked. Otherwise it is made ready for home, and noted.
    ///
    /// # Errors
    /// A positive errno, which is the answer.
    pub fn request(&self, shared: &Arc<Shared>, request: &mut Request<'_>) -> Result<Option<Outcome>, i32> {
        let header = request.header;
        let mut closings = Vec::new();
        let mut back = Vec::new();
        let outcome = {
            let mut state = lock(&self.state);
            let outcome = self.serve(&mut state, request, &mut closings)?;
            if outcome.is_none() {
                let question = Question::of(request).filter(|_| self.is_common(&header));
                let asked = state.answers.now();
                let means =
                    question.map_or_else(|| means(request), |question| Means::Answer(question, asked));
                let touched = Touched::by(request, &means, &state.kept);
                back = state.touch(&touched);
                let opcode = match request.opcode {
                    // The lock of a directory, see `serve`.
                    Opcode::Ioctl if request.header.opcode != Opcode::Ioctl as u32 => Opcode::SetLockWait,
                    opcode => opcode,
                };
                let sent = Sent {
                    inner: header.pid,
                    opcode,
                    node: header.node,
                    means,
                    touched,
                    changes: state.changes,
                };
                state.sent.insert(header.unique, sent);
            }
            outcome
        };
        self.close(shared, closings);
        early_answers::give_back(shared, back);
        Ok(outcome)
    }

    fn serve(
        &self,
        state: &mut State,
        request: &mut Request<'_>,
        closings: &mut Vec<Closing>,
    ) -> Result<Option<Outcome>, i32> {
        let RequestHeader { unique, node, .. } = request.header;
        let is_known = match request.opcode {
            Opcode::Read => state.drafts.has(node),
            Opcode::GetAttributes => state.settled.of_pages(node, Instant::now()).is_some(),
            _ => false,
        };
        if let Some(number) = number_in(request).filter(|_| !is_known)
            && state.opens.is_promised(number)
        {
            let waiting = state.waiting.entry(number).or_default();
            waiting.push((request.opcode, request.bytes.to_vec()));
            return Ok(Some(Outcome::Later));
        }
        match request.opcode {
            Opcode::Open | Opcode::OpenDirectory => {
                let Some(way) = self.way(request) else {
                    return Ok(None);
                };
                let Some(handle) = state.opens.open(way) else {
                    return Ok(self.open_own(state, request, way));
                };
                let reply = OpenReply {
                    handle,
                    open_flags: kept_flags(way.directory),
                    backing: 0,
                };
                return Ok(Some(Outcome::Reply(data_reply(unique, &[reply.as_bytes()]))));
            }
            Opcode::Release | Opcode::ReleaseDirectory => {
                let release: ReleaseRequest = request.record()?;
                if release.handle & LOCAL == 0 {
                    return Ok(None);
                }
                state.waiting.remove(&release.handle);
                match state.opens.release(release.handle) {
                    Err(home) => put_handle(request, 0, home)?,
                    Ok(closing) => {
                        closings.extend(closing);
                        return Ok(Some(Outcome::Reply(error_reply(unique, 0))));
                    }
                }
            }
            Opcode::GetAttributes => {
                let record: GetAttributesRequest = request.record()?;
                let now = Instant::now();
                if record.flags & GET_HANDLE != 0
                    && let None = state.settled.get(node, now)
                    && let Some(attributes) = state.settled.of_pages(node, now)
                {
                    // By an open file the kernel asks only to read pages, or where the file ends.
                    let reply = AttributesReply {
                        valid: 0,
                        valid_nanoseconds: 0,
                        padding: 0,
                        attributes,
                    };
                    return Ok(Some(Outcome::Reply(data_reply(unique, &[reply.as_bytes()]))));
                }
                if let Some(attributes) = state.settled.get(node, now) {
                    let reply = AttributesReply {
                        valid: FOREVER_SECONDS,
                        valid_nanoseconds: 0,
                        padding: 0,
                        attributes,
                    };
                    return Ok(Some(Outcome::Reply(data_reply(unique, &[reply.as_bytes()]))));
                }
                translate(state, request)?;
            }
            Opcode::ReadLink => {
                if let Some(target) = state.links.get(&node) {
                    return Ok(Some(Outcome::Reply(data_reply(unique, &[target]))));
                }
                state.settled.read(node);
            }
            Opcode::Access | Opcode::GetExtended if self.is_common(&request.header) => {
                let known = Question::of(request).and_then(|question| state.answers.get(node, &question));
                if let Some(errno) = known {
                    return Ok(Some(Outcome::Reply(error_reply(unique, errno))));
                }
            }
            Opcode::Read | Opcode::ReadDirectory | Opcode::ReadDirectoryPlus => {
                if let (Opcode::Read, Ok(ReadRequest { offset, size, .. })) =
                    (request.opcode, request.record())
                    && let Some(bytes) = state.drafts.read(node, offset, size as usize)
                {
                    return Ok(Some(Outcome::Reply(data_reply(unique, &[bytes]))));
                }
                state.settled.read(node);
                translate(state, request)?;
            }
            // Device control of a directory is its lock by now, unless it is what it says.
            Opcode::Ioctl if request.header.opcode == Opcode::Ioctl as u32 => translate(state, request)?,
            Opcode::SetLock | Opcode::SetLockWait | Opcode::GetLock | Opcode::Ioctl => {
                let record: LockRequest = request.record()?;
                if record.handle & LOCAL == 0 {
                    return Ok(None);
                }
                // Locks of processes are their deputies' own.
                if record.flags & (LOCK_FLOCK | LOCK_DESCRIPTION) == 0 {
                    put_handle(request, 0, state.opens.home(record.handle).ok_or(libc::EBADF)?)?;
                    return Ok(None);
                }
                match state.opens.own(record.handle).ok_or(libc::EBADF)? {
                    Own::Ready(home) => put_handle(request, 0, home)?,
                    Own::Wanted(way) => return self.lock_later(state, request, record.handle, way),
                }
            }
            Opcode::SetAttributes | Opcode::SetExtended | Opcode::RemoveExtended => {
                closings.extend(state.opens.doubt(node));
                state.answers.change_by(request.opcode, node);
                translate(state, request)?;
            }
            Opcode::Unlink | Opcode::RemoveDirectory => {
                let gone = request
                    .name()
                    .ok()
                    .and_then(|name| state.kept.meaning(node, name));
                closings.extend(gone.into_iter().flat_map(|gone| state.opens.doubt(gone)));
            }
            Opcode::Rename | Opcode::Rename2 => {
                if let Means::Moved { to, new, .. } = means(request) {
                    let gone = state.kept.meaning(to, &new);
                    closings.extend(gone.into_iter().flat_map(|gone| state.opens.doubt(gone)));
                }
            }
            _ => translate(state, request)?,
        }
        Ok(None)
    }

    /// Opens a file to read what guests have written, of which everything is known that is in it, and that its caller may read it: home is told, and not
    /// waited for.
    fn open_own(&self, state: &mut State, request: &Request<'_>, way: Way) -> Option<Outcome> {
        let RequestHeader {
            unique, node, uid, ..
        } = request.header;
        let Attributes { mode, uid: owner, .. } = state.settled.get(node, Instant::now())?;
        let may = mode & libc::S_IFMT == libc::S_IFREG && mode & libc::S_IRUSR != 0 && uid == owner;
        if !may || !state.drafts.has(node) || way.flags & EXECUTION != 0 {
            return None;
        }
        let handle = state.opens.promise();
        let own = OWN_REQUEST | self.next.fetch_add(1, Ordering::Relaxed);
        let sent = Sent {
            inner: 0,
            opcode: Opcode::Open,
            node,
            means: Means::Own(handle, way),
            touched: Touched::default(),
            changes: state.changes,
        };
        state.sent.insert(own, sent);
        let reply = OpenReply {
            handle,
            open_flags: kept_flags(false),
            backing: 0,
        };
        Some(Outcome::Promised {
            request: open_request(&request.header, own, way, OPEN_PROMISED),
            reply: data_reply(unique, &[reply.as_bytes()]),
        })
    }

    /// Has home open the file once more, for a lock that nobody else shares.
    fn lock_later(
        &self,
        state: &mut State,
        request: &mut Request<'_>,
        handle: u64,
        way: Way,
    ) -> Result<Option<Outcome>, i32> {
        let waiting = state.waiting.entry(handle).or_default();
        waiting.push((request.opcode, request.bytes.to_vec()));
        if waiting.len() > 1 {
            return Ok(Some(Outcome::Later));
        }
        let unique = OWN_REQUEST | self.next.fetch_add(1, Ordering::Relaxed);
        let sent = Sent {
            inner: 0,
            opcode: Opcode::Open,
            node: way.node,
            means: Means::Own(handle, way),
            touched: Touched::default(),
            changes: state.changes,
        };
        state.sent.insert(unique, sent);
        // It is sent in the place of the lock.
        Ok(Some(Outcome::Instead(open_request(
            &request.header,
            unique,
            way,
            0,
        ))))
    }

    /// Closes open files of home's. Not for those who deliver what comes from there.
    pub fn close(&self, shared: &Shared, closings: Vec<Closing>) {
        self.release(shared, closings, 0);
    }

    /// Tells home that open files are not used any more, with these flags.
    fn release(&self, shared: &Shared, closings: Vec<Closing>, release_flags: u32) {
        for (handle, way) in closings {
            let unique = OWN_REQUEST | self.next.fetch_add(1, Ordering::Relaxed);
            let opcode = match way.directory {
                true => Opcode::ReleaseDirectory,
                false => Opcode::Release,
            };
            let sent = Sent {
                inner: 0,
                opcode,
                node: way.node,
                means: match release_flags & release_flag::REST {
                    0 => Means::Closed,
                    _ => Means::Rested(handle),
                },
                touched: Touched::default(),
                changes: 0,
            };
            lock(&self.state).sent.insert(unique, sent);
            let record = ReleaseRequest {
                handle,
                flags: way.flags,
                release_flags,
                ..ReleaseRequest::default()
            };
            let request = own_request(
                RequestHeader::default(),
                opcode,
                unique,
                way.node,
                record.as_bytes(),
            );
            if let Err(error) = shared
                .writer
                .write_frame(Kind::File, unique | FILE_ID, &[&request])
            {
                debug!("closing: {error}");
            }
        }
    }

    fn close_later(&self, shared: &Shared, closings: Vec<Closing>) {
        if !closings.is_empty() {
            shared.with_memory(Box::new(|shared| shared.files.coherent.close(shared, closings)));
        }
    }

    /// A request could not be sent.
    pub fn unsent(&self, unique: u64) {
        lock(&self.state).sent.remove(&unique);
    }

    /// Closes what nobody has used for a while; to be called every second.
    pub fn trim(&self, shared: &Shared) {
        let (idle, back) = {
            let mut state = lock(&self.state);
            (state.opens.trim(IDLE_LOOKS_MAX), state.early.trim())
        };
        self.close(shared, idle.closings);
        self.release(shared, idle.resting, release_flag::REST);
        early_answers::give_back(shared, back);
    }

    /// Whether a request may get an answer that was given to nobody in particular.
    pub fn may_be_early(&self, request: &Request<'_>) -> bool {
        self.is_common(&request.header)
    }

    /// Home has answered a question early. What is to be given back is returned.
    pub fn hold_early(&self, question: early::Question, answer: Answer, brought: Brought) -> Vec<Brought> {
        lock(&self.state).early.hold(question, answer, brought)
    }

    /// Home has said what is in a directory. What is to be given back is returned.
    pub fn hold_early_listing(&self, directory: u64, listing: listing::Listing) -> Vec<Brought> {
        lock(&self.state).early.hold_listing(directory, listing)
    }

    /// The answer to a question, if home has given it.
    pub fn take_early(&self, question: &early::Question) -> Option<Answer> {
        lock(&self.state).early.take(question)
    }

    /// What a listing gives, if home has told it.
    pub fn list_early(&self, node: u64, offset: u64, size: usize, plus: bool) -> Option<Vec<u8>> {
        lock(&self.state).early.list(node, offset, size, plus)
    }

    /// Home's number of a file that is open for whoever will ask.
    pub fn open_early(&self, node: u64) -> Option<u64> {
        lock(&self.state).early.open_file(node)
    }

    /// The kernel has forgotten a node so many times.
    pub fn forget(&self, shared: &Shared, node: u64, lookups: u64) {
        let closings = {
            let mut state = lock(&self.state);
            if !state.kept.forget(node, lookups) {
                return;
            }
            state.forget_link(node);
            state.answers.forget(node);
            state.early.forgotten(node);
            state.settled.forget(node);
            state.drafts.forget(node);
            state.opens.doubt(node)
        };
        self.close(shared, closings);
    }

    /// True if a reply is one that locks in the kernel may wait for. A wait for a file lock holds none, and is not to be disturbed.
    pub fn may_pass(&self, unique: u64) -> bool {
        lock(&self.state)
            .sent
            .get(&unique)
            .is_none_or(|sent| sent.opcode != Opcode::SetLockWait)
    }

    /// Requests that home has not answered.
    pub fn take_unanswered(&self) -> Vec<u64> {
        lock(&self.state).sent.drain().map(|(unique, _)| unique).collect()
    }

    /// A guest is going to watch what becomes of files: home's kernel tells it of what is done there.
    pub fn watches(&self) {
        lock(&self.state).drafts.end();
    }

    /// A guest writes to a file, and waits for home: in which order with others is not known.
    pub fn written_at_home(&self, node: u64) {
        lock(&self.state).drafts.forget(node);
    }

    /// What is known of a node's attributes is not so, nor what was written to it.
    pub fn forget_attributes(&self, node: u64) {
        let mut state = lock(&self.state);
        state.settled.forget(node);
        state.drafts.forget(node);
    }
}

impl Files {
    /// Tells the kernel, over these devices of the connections, whatever there is to tell as long as the session lasts. When a gate
    /// that was closed is to be opened, says so on `open`.
    pub fn keep_true(&self, devices: &[OwnedFd], open: &Sender<()>) {
        let tell = |notice: Notice| {
            for device in connections::some(devices, self.coherent.connections(&notice)) {
                Kernel(device).tell(&notice);
            }
        };
        // If nobody listens the session is ending.
        let open = || {
            let _ = open.send(());
        };
        self.coherent.barrier.run(tell, open);
    }

    /// Tells it what can be told without waiting for anybody; the rest is left.
    pub fn tell_at_once(&self, notices: &mut Vec<Notice>) {
        notices.retain(|notice| {
            let mut devices = self.connections.some(self.coherent.connections(notice));
            !devices.all(|device| Kernel(device).tell_now(notice))
        });
    }
}

/// Flags of an open file of which home has said that the contents may be kept.
pub fn kept_flags(directory: bool) -> u32 {
    open_reply_flag::KEEP_CACHE
        | if directory {
            open_reply_flag::CACHE_DIRECTORY
        } else {
            0
        }
}
