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
//! | [`early`] | what home has answered before it was asked; pure |
//! | `listing` | all names in a directory; pure |
//! | `touched` | what of that a guest changes; pure |
//! | `notifier` | what the kernel is told |
//! | [`barrier`] | what is delivered when |

pub mod answers;
mod attributes;
pub mod barrier;
pub mod early;
pub mod kept;
pub mod listing;
mod notifier;
pub mod opens;
mod touched;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use afield_abi::fuse::{
    ATTRIBUTES_SETTLED, Attributes, AttributesReply, DirectoryEntryPlus, EntryReply, GET_HANDLE,
    LOCK_DESCRIPTION, LOCK_FLOCK, LinkRequest, LockRequest, MakeDirectoryRequest, MakeNodeRequest, Opcode,
    OpenReply, OpenRequest, ReleaseRequest, Rename2Request, RenameRequest, ReplyHeader, RequestHeader,
    SetAttributesRequest, SetExtendedRequest, StatxReply, entry_bytes, open_reply_flag, set_flag,
};
use afield_abi::fuse::{CreateRequest, GetAttributesRequest};
use afield_link::aftermath::{After, NAMES, PLAIN};
use afield_link::frame::{FILE_ID, Kind};
use afield_link::invalidation::{self, FOREVER_SECONDS};
use afield_link::stream::LinkError;
use tracing::debug;
use zerocopy::{FromBytes, IntoBytes};

use super::connections::{self, ConnectionSet, connection_of};
use super::early as early_answers;
use super::owners::Owner;
use super::{Files, OWN, Outcome, Request, data_reply, dev, error_reply, lock};
use crate::session::Shared;
use answers::{Answers, Asked, Question};
use attributes::Settled;
use early::{Answer, Brought, Early};
use kept::{Contents, Kept, Notice};
use notifier::Kernel;
use opens::{Closing, LOCAL, Opens, Own, Way};
use touched::Touched;

/// Bit of the numbers of requests that are the session's own.
const OWN_REQUEST: u64 = 1 << 62;

/// Flags of `open` that do not change what is opened.
const PLAIN_FLAGS: u32 = (libc::O_NONBLOCK | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC) as u32
    | LARGE_FILE
    | EXECUTION;
const LARGE_FILE: u32 = 0o100000;
const EXECUTION: u32 = afield_abi::fuse::OPEN_FOR_EXECUTION;

/// For how many looks (one per second) a file that nobody has open is held open at home: it keeps its file system from being unmounted.
const IDLE_LOOKS_MAX: u64 = 5;

/// The same on the file system that is home's root, which is not unmounted: who goes through a tree again after a while asks for none of its
/// files.
const IDLE_LOOKS_OF_ROOT_MAX: u64 = 600;

/// Most bytes of links that are remembered.
const LINKS_BYTES_MAX: usize = 8 << 20;

/// Most nodes of which it is remembered when guests changed them.
const CHANGED_MAX: usize = 1 << 14;

/// Where what a program may do is kept, for which the kernel asks before it writes to a file.
const CAPABILITIES: &[u8] = b"security.capability";

/// A request that home has been asked.
#[derive(Debug)]
struct Sent {
    /// The asking thread, as the world knows it.
    inner: u32,
    opcode: Opcode,
    node: u64,
    means: Means,
    /// What it changes.
    touched: Touched,
    /// How many changes had been asked for or made.
    changes: u64,
}

/// What the reply to a request means for what is kept.
#[derive(Debug)]
enum Means {
    Nothing,
    /// A node has this name (if it is given).
    Entry(Option<Box<[u8]>>),
    /// It has it no more.
    Removed(Box<[u8]>),
    Moved {
        old: Box<[u8]>,
        to: u64,
        new: Box<[u8]>,
        exchanged: bool,
    },
    Link,
    Listing,
    Attributes,
    Statx,
    Opened(Contents),
    /// Somebody may now do other things with the node.
    Rights,
    /// It is the answer to this.
    Answer(Question, Asked),
    /// Home has closed something.
    Closed,
    /// An open file for locks on this one.
    Own(u64, Way),
}

#[derive(Debug, Default)]
struct State {
    kept: Kept,
    opens: Opens,
    answers: Answers,
    early: Early,
    settled: Settled,
    /// Changes that guests have asked for, and those that home has made.
    changes: u64,
    /// The last of them, by node; of all others it was before `changed_before`.
    changed: HashMap<u64, u64>,
    changed_before: u64,
    /// Targets of links, by node, and the sum of their lengths.
    links: HashMap<u64, Box<[u8]>>,
    links_bytes: usize,
    sent: HashMap<u64, Sent>,
    /// Lock requests that wait for an open file of their own.
    locks: HashMap<u64, Vec<(Opcode, Vec<u8>)>>,
}

impl State {
    /// A guest changes something: when home is asked to, and when it has answered.
    fn touch(&mut self, touched: &Touched) -> Vec<Brought> {
        if !touched.is_something() {
            return Vec::new();
        }
        self.changes += 1;
        for node in touched.nodes() {
            self.changed.insert(node, self.changes);
        }
        if touched.is_all() || self.changed.len() > CHANGED_MAX {
            self.changed.clear();
            self.changed_before = self.changes;
        }
        touched.doubt(&mut self.early, &mut self.settled)
    }

    /// Whether no guest has changed a node, nor has home done it for one, since a request that was made at this number of changes.
    fn is_fresh(&self, node: u64, changes: u64) -> bool {
        let last = self.changed.get(&node).copied().unwrap_or(self.changed_before);
        last <= changes
    }

    /// Home has said what a node is, to a request that was made at this number of changes.
    fn learn(&mut self, node: u64, attributes: &mut Attributes, lasting: bool, changes: u64) {
        // What guests change meanwhile home tells others, and it may have looked before.
        let lasting = lasting && self.is_fresh(node, changes);
        self.settled.learn(node, attributes, lasting, Instant::now());
        attributes.flags &= !ATTRIBUTES_SETTLED;
    }

    /// Home has said what a change has left of a node, and that it says when that changes.
    fn learn_after(&mut self, after: &After) {
        if !self.kept.is_known(after.node) {
            return;
        }
        self.settled
            .learn_after(after.node, &after.attributes, Instant::now());
        self.kept.looked_at(after.node, true);
        if after.flags & PLAIN != 0 {
            let asked = self.answers.now();
            let question = Question::Extended(CAPABILITIES.into());
            self.answers.learn(after.node, question, libc::ENODATA, asked);
        }
    }

    /// A guest has removed a name, and home says when there is one again.
    fn is_gone(&mut self, directory: u64, name: Box<[u8]>) {
        let nothing = EntryReply {
            entry_valid: FOREVER_SECONDS,
            ..EntryReply::default()
        };
        let question = early::Question::Name(directory, name);
        let answer = Ok(nothing.as_bytes().to_vec());
        // It takes the place of no other: the name was in doubt.
        let _ = self.early.hold(question, answer, Brought::Nothing);
    }

    fn forget_link(&mut self, node: u64) {
        if let Some(target) = self.links.remove(&node) {
            self.links_bytes -= target.len();
        }
    }
}

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
        match request.opcode {
            Opcode::Open | Opcode::OpenDirectory => {
                let Some(way) = self.way(request) else {
                    return Ok(None);
                };
                let Some(handle) = state.opens.open(way) else {
                    return Ok(None);
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
                state.locks.remove(&release.handle);
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

    /// Has home open the file once more, for a lock that nobody else shares.
    fn lock_later(
        &self,
        state: &mut State,
        request: &mut Request<'_>,
        handle: u64,
        way: Way,
    ) -> Result<Option<Outcome>, i32> {
        let waiting = state.locks.entry(handle).or_default();
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
        Ok(Some(Outcome::Instead(open_request(&request.header, unique, way))))
    }

    /// Closes open files of home's. Not for those who deliver what comes from there.
    pub fn close(&self, shared: &Shared, closings: Vec<Closing>) {
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
                means: Means::Closed,
                touched: Touched::default(),
                changes: 0,
            };
            lock(&self.state).sent.insert(unique, sent);
            let record = ReleaseRequest {
                handle,
                flags: way.flags,
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
        let (closings, back) = {
            let mut state = lock(&self.state);
            let State {
                opens, kept, early, ..
            } = &mut *state;
            let most = |node| match kept.connections(node) == ConnectionSet::ROOT {
                true => IDLE_LOOKS_OF_ROOT_MAX,
                false => IDLE_LOOKS_MAX,
            };
            (opens.trim(most), early.trim())
        };
        self.close(shared, closings);
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

    /// Something has changed at home. What the kernel has to be told is returned.
    ///
    /// # Errors
    /// It is not what home may say.
    pub fn changed(&self, shared: &Shared, payload: &[u8]) -> Result<Vec<Notice>, LinkError> {
        let changes = invalidation::decode(payload)?;
        let mut notices = Vec::new();
        let mut closings = Vec::new();
        let mut back = Vec::new();
        {
            let mut state = lock(&self.state);
            for change in changes {
                back.extend(state.early.changed(&change));
                match (change, &shared.files.contents) {
                    (invalidation::Change::Everything, Some(contents)) => contents.all_changed(),
                    (invalidation::Change::Contents { node }, Some(contents)) => contents.changed(node),
                    _ => {}
                }
                match change {
                    invalidation::Change::Everything => {
                        closings.extend(state.opens.doubt_all());
                        state.answers.forget_all();
                        state.settled.forget_all();
                        state.links.clear();
                        state.links_bytes = 0;
                    }
                    invalidation::Change::Name { directory, .. } => {
                        closings.extend(state.opens.doubt(directory));
                        state.settled.forget(directory);
                    }
                    invalidation::Change::Attributes { node } | invalidation::Change::Contents { node } => {
                        closings.extend(state.opens.doubt(node));
                        state.forget_link(node);
                        state.answers.forget(node);
                        state.settled.forget(node);
                    }
                }
                state.kept.changed(change, &mut notices);
            }
        }
        self.close_later(shared, closings);
        early_answers::give_back_later(shared, back);
        Ok(notices)
    }

    /// A write of a guest, of which home's reply is not waited for, is in the stream: whatever home has said before does not know of it.
    pub fn sent_behind(&self, request: &Request<'_>) {
        let mut state = lock(&self.state);
        let touched = Touched::by(request, &Means::Nothing, &state.kept);
        let back = state.touch(&touched);
        debug_assert!(back.is_empty(), "nothing early is held of what guests write to");
    }

    /// What is known of a node's attributes is not so.
    pub fn forget_attributes(&self, node: u64) {
        lock(&self.state).settled.forget(node);
    }

    /// Home has answered, and said what it has left. The reply is made what the kernel is to get; with `passing` it is not to rely on it.
    pub fn replied(
        &self,
        shared: &Arc<Shared>,
        unique: u64,
        reply: &mut [u8],
        after: &[After],
        passing: bool,
    ) -> Delivery {
        let mut state = lock(&self.state);
        let Some(sent) = state.sent.remove(&unique) else {
            return match unique & OWN_REQUEST {
                0 => Delivery::Give(0),
                _ => Delivery::Drop,
            };
        };
        let fresh: Vec<&After> = after
            .iter()
            .filter(|after| !passing && state.is_fresh(after.node, sent.changes))
            .collect();
        let back = state.touch(&sent.touched);
        early_answers::give_back_later(shared, back);
        let Ok((header, body)) = ReplyHeader::mut_from_prefix(reply) else {
            return Delivery::Give(sent.inner);
        };
        if sent.opcode == Opcode::Write {
            // Not all may have been written.
            state.settled.forget(sent.node);
        }
        if let Means::Own(handle, way) = sent.means {
            self.locks_go_on(shared, state, (handle, way), header.error, body);
            return Delivery::Drop;
        }
        if let Means::Closed = sent.means {
            return Delivery::Drop;
        }
        state.answers.change_by(sent.opcode, sent.node);
        if let Means::Answer(question, asked) = sent.means {
            if !passing && state.kept.is_lasting(sent.node) {
                state
                    .answers
                    .learn(sent.node, question, header.error.saturating_neg(), asked);
            }
            return Delivery::Give(sent.inner);
        }
        if header.error != 0 {
            return Delivery::Give(sent.inner);
        }
        let mut notices = Vec::new();
        let mut closings = Vec::new();
        let directory = sent.node;
        let names_hold = |of: u64| {
            let directory = fresh.iter().find(|after| after.node == of);
            directory.is_some_and(|after| after.flags & NAMES != 0)
        };
        match sent.means {
            Means::Entry(name) => {
                if let Ok((entry, rest)) = EntryReply::mut_from_prefix(body) {
                    if sent.opcode == Opcode::Lookup
                        && shared.files.places.is_maker(sent.inner)
                        && let Some(name) = &name
                    {
                        state.kept.anchor(directory, name);
                        shared.files.places.note(directory, name, entry.node);
                    }
                    let lasting = !passing && sent.opcode == Opcode::Lookup && entry.attributes_valid > 0;
                    if entry.node != 0 {
                        state.learn(entry.node, &mut entry.attributes, lasting, sent.changes);
                    }
                    note_entry(&mut state.kept, directory, name.as_deref(), entry, passing);
                    state.kept.reach(entry.node, connection_of(unique));
                    if !rest.is_empty() {
                        state.kept.opened(entry.node, Contents::Pages);
                    }
                }
            }
            Means::Removed(name) => {
                state.kept.removed(directory, &name);
                if names_hold(directory) {
                    state.is_gone(directory, name);
                }
            }
            Means::Moved {
                old,
                to,
                new,
                exchanged,
            } => {
                state.kept.moved((directory, &old), (to, &new), exchanged);
                if names_hold(directory) && !exchanged && (directory, &old) != (to, &new) {
                    state.is_gone(directory, old);
                }
            }
            Means::Link => {
                let target: Box<[u8]> = (*body).into();
                if state.kept.is_lasting(sent.node) && state.links_bytes + target.len() <= LINKS_BYTES_MAX {
                    state.forget_link(sent.node);
                    state.links_bytes += target.len();
                    state.links.insert(sent.node, target);
                }
            }
            Means::Listing => {
                note_listing(&mut state.kept, (directory, connection_of(unique)), body, passing);
            }
            Means::Attributes if passing => {
                if let Ok((reply, _)) = AttributesReply::mut_from_prefix(body) {
                    (reply.valid, reply.valid_nanoseconds) = (0, 0);
                    reply.attributes.flags &= !ATTRIBUTES_SETTLED;
                }
            }
            Means::Statx if passing => {
                if let Ok((reply, _)) = StatxReply::mut_from_prefix(body) {
                    (reply.valid, reply.valid_nanoseconds) = (0, 0);
                }
            }
            Means::Opened(contents) => state.kept.opened(sent.node, contents),
            Means::Rights => {
                if let (true, Opcode::SetAttributes, Ok((reply, _))) =
                    (passing, sent.opcode, AttributesReply::mut_from_prefix(body))
                {
                    (reply.valid, reply.valid_nanoseconds) = (0, 0);
                }
                closings = state.opens.doubt(sent.node);
                state.kept.drop_names(sent.node, &mut notices);
            }
            Means::Attributes => {
                if let Ok((reply, _)) = AttributesReply::mut_from_prefix(body) {
                    let lasting = sent.opcode == Opcode::GetAttributes && reply.valid > 0;
                    state.learn(sent.node, &mut reply.attributes, lasting, sent.changes);
                    state.kept.looked_at(sent.node, reply.valid > 0);
                }
            }
            Means::Statx => {
                if let Ok((reply, _)) = StatxReply::read_from_prefix(body) {
                    state.kept.looked_at(sent.node, reply.valid > 0);
                }
            }
            Means::Nothing | Means::Closed | Means::Answer(..) | Means::Own(..) => {}
        }
        for after in fresh {
            state.learn_after(after);
        }
        drop(state);
        self.close_later(shared, closings);
        match notices.is_empty() {
            true => Delivery::Give(sent.inner),
            false => Delivery::GiveAndTell(sent.inner, notices),
        }
    }

    /// Home has opened a file for locks, or not.
    fn locks_go_on(
        &self,
        shared: &Arc<Shared>,
        mut state: std::sync::MutexGuard<'_, State>,
        (handle, way): (u64, Way),
        error: i32,
        body: &[u8],
    ) {
        let waiting = state.locks.remove(&handle).unwrap_or_default();
        let open = OpenReply::read_from_prefix(body).ok();
        let errno = match open {
            Some((open, _)) if error == 0 => {
                let closing = state.opens.set_own(handle, open.handle, way);
                drop(state);
                self.close_later(shared, closing.into_iter().collect());
                None
            }
            _ => Some(if error < 0 { -error } else { libc::EIO }),
        };
        shared.with_memory(Box::new(move |shared| {
            for (opcode, mut bytes) in waiting {
                let Ok((header, _)) = RequestHeader::read_from_prefix(&bytes) else {
                    continue;
                };
                let request = Request {
                    opcode,
                    header,
                    bytes: &mut bytes,
                };
                let outcome = match errno {
                    Some(errno) => Err(errno),
                    None => shared.files.home.relay(shared, request),
                };
                if let Err(errno) = outcome {
                    shared.files.take(header.unique);
                    shared.files.reply(&error_reply(header.unique, errno));
                }
            }
        }));
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

fn own_request(of: RequestHeader, opcode: Opcode, unique: u64, node: u64, record: &[u8]) -> Vec<u8> {
    let header = RequestHeader {
        length: (size_of::<RequestHeader>() + record.len()) as u32,
        opcode: opcode as u32,
        unique,
        node,
        ..of
    };
    [header.as_bytes(), record].concat()
}

fn open_request(of: &RequestHeader, unique: u64, way: Way) -> Vec<u8> {
    let record = OpenRequest {
        flags: way.flags,
        open_flags: 0,
    };
    let opcode = match way.directory {
        true => Opcode::OpenDirectory,
        false => Opcode::Open,
    };
    own_request(*of, opcode, unique, way.node, record.as_bytes())
}

/// Where in a request's body the number of the open file is that it is about.
fn handle_at(request: &Request<'_>) -> Option<usize> {
    match request.opcode {
        Opcode::Read
        | Opcode::ReadDirectory
        | Opcode::ReadDirectoryPlus
        | Opcode::Sync
        | Opcode::SyncDirectory
        | Opcode::Flush
        | Opcode::Seek
        | Opcode::Poll
        | Opcode::Allocate
        | Opcode::Write
        | Opcode::Ioctl
        | Opcode::CopyRange
        | Opcode::CopyRange64 => Some(0),
        Opcode::GetAttributes | Opcode::Statx => {
            let record: GetAttributesRequest = request.record().ok()?;
            (record.flags & GET_HANDLE != 0).then_some(8)
        }
        Opcode::SetAttributes => {
            let record: SetAttributesRequest = request.record().ok()?;
            (record.valid & set_flag::HANDLE != 0).then_some(8)
        }
        _ => None,
    }
}

fn put_handle(request: &mut Request<'_>, at: usize, handle: u64) -> Result<(), i32> {
    let place = request.bytes.get_mut(size_of::<RequestHeader>() + at..);
    let place = place.and_then(|place| place.get_mut(..8)).ok_or(libc::EINVAL)?;
    place.copy_from_slice(&handle.to_ne_bytes());
    Ok(())
}

/// Makes home's number of the session's own.
fn translate(state: &State, request: &mut Request<'_>) -> Result<(), i32> {
    let Some(at) = handle_at(request) else {
        return Ok(());
    };
    let number = request.body().get(at..).and_then(|rest| rest.first_chunk());
    let number = u64::from_ne_bytes(*number.ok_or(libc::EINVAL)?);
    if number & LOCAL == 0 {
        return Ok(());
    }
    put_handle(request, at, state.opens.home(number).ok_or(libc::EBADF)?)
}

fn means(request: &Request<'_>) -> Means {
    let after = |record: usize| {
        let name = request
            .body()
            .get(record..)
            .and_then(|rest| rest.strip_suffix(&[0]));
        Means::Entry(name.map(Into::into))
    };
    let moved = |record: usize, to: u64, exchanged: bool| {
        let mut names = request
            .body()
            .get(record..)
            .unwrap_or_default()
            .split(|byte| *byte == 0);
        match (names.next(), names.next()) {
            (Some(old), Some(new)) => Means::Moved {
                old: old.into(),
                to,
                new: new.into(),
                exchanged,
            },
            _ => Means::Nothing,
        }
    };
    match request.opcode {
        Opcode::Lookup => after(0),
        Opcode::MakeNode => after(size_of::<MakeNodeRequest>()),
        Opcode::MakeDirectory => after(size_of::<MakeDirectoryRequest>()),
        Opcode::Link => after(size_of::<LinkRequest>()),
        Opcode::Create => after(size_of::<CreateRequest>()),
        Opcode::SymbolicLink => {
            let name = request.body().split(|byte| *byte == 0).next();
            Means::Entry(name.map(Into::into))
        }
        Opcode::TemporaryFile => Means::Entry(None),
        Opcode::Unlink | Opcode::RemoveDirectory => match request.name() {
            Ok(name) => Means::Removed(name.into()),
            Err(_) => Means::Nothing,
        },
        Opcode::Rename => match request.record::<RenameRequest>() {
            Ok(record) => moved(size_of::<RenameRequest>(), record.new_directory, false),
            Err(_) => Means::Nothing,
        },
        Opcode::Rename2 => match request.record::<Rename2Request>() {
            Ok(record) => moved(
                size_of::<Rename2Request>(),
                record.new_directory,
                record.flags & libc::RENAME_EXCHANGE != 0,
            ),
            Err(_) => Means::Nothing,
        },
        Opcode::ReadLink => Means::Link,
        Opcode::ReadDirectoryPlus => Means::Listing,
        Opcode::GetAttributes => Means::Attributes,
        Opcode::Statx => Means::Statx,
        Opcode::Open => Means::Opened(Contents::Pages),
        Opcode::OpenDirectory => Means::Opened(Contents::Listing),
        Opcode::SetAttributes => {
            let rights = set_flag::MODE | set_flag::UID | set_flag::GID;
            match request.record::<SetAttributesRequest>() {
                Ok(record) if record.valid & rights != 0 => Means::Rights,
                _ => Means::Attributes,
            }
        }
        Opcode::SetExtended | Opcode::RemoveExtended => {
            let record = match request.opcode {
                Opcode::SetExtended => size_of::<SetExtendedRequest>(),
                _ => 0,
            };
            let name = request.body().get(record..).unwrap_or_default();
            match name.starts_with(b"system.") {
                true => Means::Rights,
                false => Means::Nothing,
            }
        }
        _ => Means::Nothing,
    }
}

/// The kernel gets an entry, on which it is not to rely where it is `passing`.
fn note_entry(kept: &mut Kept, directory: u64, name: Option<&[u8]>, entry: &mut EntryReply, passing: bool) {
    if entry.node & OWN != 0 {
        return;
    }
    let Attributes { mode, .. } = entry.attributes;
    entry.attributes.flags &= !ATTRIBUTES_SETTLED;
    // The kernel would open these by itself.
    let special = entry.node != 0 && dev::is_special(mode);
    if passing || special {
        (entry.entry_valid, entry.entry_valid_nanoseconds) = (0, 0);
        (entry.attributes_valid, entry.attributes_valid_nanoseconds) = (0, 0);
    }
    if entry.node != 0 {
        kept.count(entry.node, Some(directory), entry.attributes_valid > 0);
    }
    let named = name.filter(|name| !matches!(*name, b"." | b".."));
    if (entry.entry_valid, entry.entry_valid_nanoseconds) != (0, 0)
        && !named.is_some_and(|name| kept.rely(directory, name, entry.node))
    {
        (entry.entry_valid, entry.entry_valid_nanoseconds) = (0, 0);
    }
}

fn note_listing(kept: &mut Kept, (directory, connection): (u64, usize), body: &mut [u8], passing: bool) {
    let mut rest = body;
    while let Ok((mut record, after)) = DirectoryEntryPlus::read_from_prefix(rest) {
        let length = record.directory.name_length as usize;
        let Some(name) = after.get(..length) else { return };
        // Without a node it says nothing but the name.
        if record.entry.node != 0 {
            note_entry(kept, directory, Some(name), &mut record.entry, passing);
            kept.reach(record.entry.node, connection);
            rest[..size_of::<DirectoryEntryPlus>()].copy_from_slice(record.as_bytes());
        }
        let Some(after) = rest.get_mut(entry_bytes(size_of::<DirectoryEntryPlus>(), length)..) else {
            return;
        };
        rest = after;
    }
}
