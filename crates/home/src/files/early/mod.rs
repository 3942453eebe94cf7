//! Answers to what a node has not asked yet, but is going to: what a program has asked before, on whatever node, or what can be
//! seen to be needed to start it ([`program`]).
//!
//! Each answer is that of an ordinary request, made in the service's own name; so all that holds of those holds of it: what is looked up is
//! counted, what is open is open, what is said to be valid is watched. Only what is valid until further notice is sent. What of it the node
//! does not use it gives back.
//!
//! The session's own changes are told to nobody at its node. The node takes care of those that it knows of; if one is executed while
//! answers are put together, what they are about is said to have changed, right behind them.

mod kept;
mod program;
mod traces;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use afield_abi::fuse::{
    AccessRequest, DirectoryEntry, DirectoryEntryPlus, EntryReply, GetExtendedRequest, OPEN_FOR_EXECUTION,
    Opcode, OpenReply, OpenRequest, ROOT_NODE, ReadRequest, ReplyHeader, RequestHeader, entry_bytes,
    open_reply_flag,
};
use afield_link::contents::{PIECE_BYTES, WHOLE_BYTES_MAX};
use afield_link::early::{self, Item, Question};
use afield_link::invalidation::{self, Change};
use rustix::fs::OFlags;
use tracing::{debug, trace};
use zerocopy::{FromBytes, IntoBytes};

use super::decode::Request;
use super::{FileService, Outcome, proc_path};
use crate::coherence::Begun;
pub use traces::Program;
use traces::{Ask, Traces, What};

/// A payload is sent when it has this much.
const PAYLOAD_BYTES: usize = 12 << 10;

/// Most time for the answers of one program: whoever has it executed waits for them.
const TIME_MAX: Duration = Duration::from_millis(250);

/// Between two times at which answers for the same program go to a session.
const AGAIN: Duration = Duration::from_secs(10);

/// Programs for which answers have gone to a session lately.
const LATELY_MAX: usize = 1024;

/// Files that a session has opened, and for which program.
const OPENED_MAX: usize = 4096;

/// Entries of a directory that are told with attributes; of one with more, the names are.
const ATTRIBUTES_MAX: usize = 192;

/// Most bytes of a listing.
const LISTING_BYTES_MAX: usize = 64 << 10;

/// Links that are followed one after the other, and links of a directory whose targets are told.
const LINKS_MAX: usize = 16;

/// Names on a path.
const DEPTH_MAX: usize = 64;

/// Longest path.
const PATH_BYTES_MAX: usize = 4096;

/// Flags of an open that others may share.
const SHARED_FLAGS: u32 = OFlags::NONBLOCK
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::LARGEFILE)
    .bits()
    | OPEN_FOR_EXECUTION;

/// What all sessions have asked.
static TRACES: LazyLock<Mutex<Traces>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Learns what programs have asked of an earlier agent, which kept it in this file.
///
/// # Errors
/// The file cannot be read, or makes no sense.
pub fn recall(path: &Path) -> io::Result<()> {
    *lock(&TRACES) = kept::read(path)?;
    Ok(())
}

/// Keeps it for a later one, if there is anything new since `known` additions, and says how many there have been.
///
/// # Errors
/// The file cannot be written.
pub fn keep(path: &Path, known: u64) -> io::Result<u64> {
    let traces = lock(&TRACES);
    let additions = traces.additions;
    match additions == known {
        true => Ok(known),
        false => kept::write(path, &traces).map(|()| additions),
    }
}

/// How generous a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generosity {
    /// Most answers for one program; 0: none at all.
    pub answers_max: usize,
    /// Most bytes of them.
    pub bytes_max: usize,
}

impl Generosity {
    /// Nothing is sent that was not asked for.
    pub const NONE: Self = Self {
        answers_max: 0,
        bytes_max: 0,
    };
}

/// A session's part.
#[derive(Debug)]
pub struct Early {
    generosity: Generosity,
    /// For which programs answers have been sent, and when.
    lately: Mutex<HashMap<Program, Instant>>,
    /// Directories whose listings have been sent, and when.
    listed: Mutex<HashMap<u64, Instant>>,
    /// Which program has opened a node last.
    opened: Mutex<HashMap<u64, Program>>,
    changes: Changes,
}

impl Early {
    /// Nothing has been asked yet.
    pub fn new(generosity: Generosity) -> Self {
        Self {
            generosity,
            lately: Mutex::default(),
            listed: Mutex::default(),
            opened: Mutex::default(),
            changes: Changes::default(),
        }
    }

    fn is_off(&self) -> bool {
        self.generosity.answers_max == 0
    }
}

/// Changes that the session's own requests make.
#[derive(Debug, Default)]
struct Changes {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// While it lives, a request changes something.
#[derive(Debug)]
pub struct Changing<'a>(&'a Changes);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl Changes {
    /// How many there have been, if none is being made.
    fn settled(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::SeqCst);
        (self.begun.load(Ordering::SeqCst) == ended).then_some(ended)
    }
}

/// Answers that can be sent.
#[derive(Debug)]
pub struct Answers {
    /// As [`early`] has it.
    pub payload: Vec<u8>,
    begun: Option<Begun>,
    changes: u64,
    /// Whom they are about.
    nodes: HashSet<u64>,
}

/// Answers as they are put together.
struct Round<'a> {
    files: &'a FileService,
    answers: Answers,
    count: usize,
    bytes: usize,
    until: Instant,
    /// Nodes by their paths; `None` where there is none.
    known: HashMap<Box<[u8]>, Option<u64>>,
    /// The program itself, if it is being executed.
    program: Option<u64>,
    /// Those that the session's node did not know before.
    fresh: HashSet<u64>,
    /// What needs no answer any more.
    useless: HashSet<Arc<Ask>>,
    reply: Vec<u8>,
}

impl FileService {
    /// Whether anything is answered early.
    pub(super) fn is_early(&self) -> bool {
        !self.early.is_off()
    }

    /// A request that changes something is about to be executed, if it is one.
    pub(super) fn changing(&self, opcode: Opcode, request: &Request<'_>) -> Option<Changing<'_>> {
        if self.early.is_off() || !changes(opcode, request) {
            return None;
        }
        self.early.changes.begun.fetch_add(1, Ordering::SeqCst);
        Some(Changing(&self.early.changes))
    }

    /// A program that a request opens to execute it, as it has been answered.
    pub fn executed(&self, request: &[u8], reply: &[u8]) -> Option<Program> {
        if self.early.is_off()
            || ReplyHeader::read_from_prefix(reply).is_ok_and(|(header, _)| header.error != 0)
        {
            return None;
        }
        let mut request = Request::new(request).ok()?;
        let opens = Opcode::from_wire(request.header.opcode) == Some(Opcode::Open);
        let flags = request.record::<OpenRequest>().ok().filter(|_| opens)?.flags;
        (flags & OPEN_FOR_EXECUTION != 0).then(|| self.path_of(request.header.node))?
    }

    /// Remembers what has been asked for a program, if it was anything that another node may ask as well. Who reads ahead asks for none.
    pub fn note_asked(&self, program: Option<&Program>, request: &[u8], reply: &[u8]) {
        if self.early.is_off() {
            return;
        }
        let node = RequestHeader::ref_from_prefix(request).map_or(0, |(header, _)| header.node);
        let opener = lock(&self.early.opened).get(&node).cloned();
        let Some(program) = program.or(opener.as_ref()) else {
            return;
        };
        let Some(ask) = self.ask_of(request, reply) else {
            return;
        };
        if let What::Open { .. } = ask.what {
            let mut opened = lock(&self.early.opened);
            if opened.len() >= OPENED_MAX {
                opened.clear();
            }
            opened.insert(node, Arc::clone(program));
        }
        trace!("{} asks {ask:?}", String::from_utf8_lossy(program));
        // By pieces, so that each is one question however it is asked for.
        match ask.what {
            What::Pieces(first, end) => {
                let mut traces = lock(&TRACES);
                for piece in first..end {
                    let what = What::Pieces(piece, piece + 1);
                    let path = ask.path.clone();
                    traces.add(program, Ask { path, what });
                }
            }
            _ => lock(&TRACES).add(program, ask),
        }
    }

    /// What a request has asked, by path.
    fn ask_of(&self, request: &[u8], reply: &[u8]) -> Option<Ask> {
        let mut request = Request::new(request).ok()?;
        let (header, body) = ReplyHeader::read_from_prefix(reply).ok()?;
        let errno = header.error.saturating_neg();
        let opcode = Opcode::from_wire(request.header.opcode)?;
        if errno != 0 && !matches!(opcode, Opcode::Access | Opcode::GetExtended) {
            return None;
        }
        let what = match opcode {
            Opcode::Lookup => What::Name,
            Opcode::ReadLink => What::Link,
            Opcode::Open => {
                let OpenRequest { flags, .. } = request.record().ok()?;
                if flags & !SHARED_FLAGS != 0 {
                    return None;
                }
                What::Open {
                    executes: flags & OPEN_FOR_EXECUTION != 0,
                }
            }
            Opcode::OpenDirectory => What::Listing,
            Opcode::Access => {
                let AccessRequest { mask, .. } = request.record().ok()?;
                let asks = mask & !(libc::R_OK | libc::X_OK) as u32 == 0;
                (asks && matches!(errno, 0 | libc::EACCES)).then_some(What::Access(mask))?
            }
            Opcode::GetExtended => {
                let _: GetExtendedRequest = request.record().ok()?;
                let name = request.text().ok()?;
                matches!(errno, libc::ENODATA | libc::EOPNOTSUPP)
                    .then(|| What::Extended(name.to_bytes().into()))?
            }
            Opcode::Read => {
                let ReadRequest { offset, .. } = request.record().ok()?;
                let end = offset.checked_add(body.len() as u64)?;
                let [first, end] = [offset / PIECE_BYTES as u64, end.div_ceil(PIECE_BYTES as u64)];
                let end = u32::try_from(end).ok()?;
                (first < u64::from(end)).then_some(What::Pieces(first as u32, end))?
            }
            _ => return None,
        };
        let mut path = self.path_of(request.header.node)?.to_vec();
        if let What::Name = what {
            let name = request.component().ok()?.to_bytes();
            if matches!(name, b"." | b"..") {
                return None;
            }
            if path.len() > 1 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        let path = path.into();
        Some(Ask { path, what })
    }

    /// Where a node is, if a way to it is at hand.
    fn path_of(&self, node: u64) -> Option<Program> {
        let way = self.nodes.get(node).ok()?.resident()?;
        let path = rustix::fs::readlinkat(rustix::fs::CWD, &*proc_path(&*way), Vec::new()).ok()?;
        let path = path.to_bytes();
        (path.starts_with(b"/") && path.len() < PATH_BYTES_MAX).then(|| path.into())
    }

    /// Answers all that a program is going to ask, as it seems, unless that has just been done. `send` is given them.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn answer_early<E>(
        &self,
        program: &Program,
        mut send: impl FnMut(Answers) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.early.is_off() || !self.is_due(program) {
            return Ok(());
        }
        let mut asks = lock(&TRACES).of(program);
        if asks.is_empty() {
            // What is used of this nobody will ask, so it is remembered now.
            let needed = program::asks(program);
            let mut traces = lock(&TRACES);
            needed.into_iter().for_each(|ask| traces.add(program, ask));
            asks = traces.of(program);
        }
        let Some(mut round) = Round::new(self) else {
            return Ok(());
        };
        let mut asks = asks.into_iter().peekable();
        while let Some(mut ask) = asks.next() {
            if round.is_over() {
                break;
            }
            if *ask.path == **program {
                round.program = round.node(program, DEPTH_MAX);
            }
            while let Some(next) = asks.peek()
                && let Some(both) = together(&ask, next)
            {
                ask = Arc::new(both);
                asks.next();
            }
            round.answer(&ask);
            if round.answers.payload.len() >= PAYLOAD_BYTES {
                send(round.cut())?;
            }
        }
        debug!(
            "{} early answers of {} bytes for {}",
            round.count,
            round.bytes,
            String::from_utf8_lossy(program)
        );
        lock(&TRACES).remove(program, &round.useless);
        match round.answers.payload.is_empty() {
            true => Ok(()),
            false => send(round.cut()),
        }
    }

    fn is_due(&self, program: &Program) -> bool {
        is_due(&self.early.lately, Arc::clone(program))
    }

    fn is_link(&self, node: u64) -> bool {
        node != 0
            && self
                .nodes
                .get(node)
                .is_ok_and(|node| node.identity.kind == libc::S_IFLNK)
    }

    /// After a name has been looked up, or a directory made: says where the link leads that was found, what else is in its directory, and what is in
    /// the one that was found, unless it has just done so. `send` is given that.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn list_early<E>(
        &self,
        program: Option<&Program>,
        request: &[u8],
        reply: &[u8],
        mut send: impl FnMut(Answers) -> Result<(), E>,
    ) -> Result<(), E> {
        let Ok((header, _)) = RequestHeader::read_from_prefix(request) else {
            return Ok(());
        };
        // In what has just been made there is nothing, which is worth knowing for who is going to fill it.
        let opcode = Opcode::from_wire(header.opcode);
        if self.early.is_off() || !matches!(opcode, Some(Opcode::Lookup | Opcode::MakeDirectory)) {
            return Ok(());
        }
        let found = reply.get(size_of::<ReplyHeader>()..).unwrap_or_default();
        let found = EntryReply::read_from_prefix(found).map_or(0, |(entry, _)| entry.node);
        let note = |node, what| {
            if let (Some(program), Some(path)) = (program, self.path_of(node)) {
                let path = (*path).into();
                lock(&TRACES).add(program, Ask { path, what });
            }
        };
        if self.is_link(found)
            && is_due(&self.early.listed, found)
            && let Some(mut round) = Round::new(self)
        {
            // What is told now nobody asks, and is not remembered for that.
            note(found, What::Link);
            round.follow(header.node, found);
            if !round.answers.payload.is_empty() {
                send(round.cut())?;
            }
        }
        for node in [header.node, found] {
            let is_directory = || self.nodes.get(node).is_ok_and(|node| node.is_directory());
            if node == 0 || !is_directory() || !is_due(&self.early.listed, node) {
                continue;
            }
            let Some(mut round) = Round::new(self) else {
                return Ok(());
            };
            round.list(node);
            if !round.answers.payload.is_empty() {
                note(node, What::Names);
                send(round.cut())?;
            }
        }
        Ok(())
    }

    /// Before a job is begun: what the names on the way to its directory are, if that is where they lead. `send` is given that.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn name_early<E>(
        &self,
        (pid, path): (u32, &[u8]),
        mut send: impl FnMut(Answers) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.early.is_off() || self.starts.is_astray(pid) {
            return Ok(());
        }
        let Some(mut round) = Round::new(self) else {
            return Ok(());
        };
        round.node(path, DEPTH_MAX);
        match round.answers.payload.is_empty() {
            true => Ok(()),
            false => send(round.cut()),
        }
    }

    /// Appends what follows answers at once.
    pub fn behind_early(&self, answers: &Answers, payload: &mut Vec<u8>) {
        if let (Some(session), Some(begun)) = (&self.session, answers.begun) {
            session.behind(begun, None, payload);
        }
        if self.early.changes.settled() == Some(answers.changes) {
            return;
        }
        let start = payload.len();
        let mut nodes = answers.nodes.iter();
        if !nodes.all(|node| invalidation::append(payload, Change::Contents { node: *node }).is_ok()) {
            payload.truncate(start);
            let _ = invalidation::append(payload, Change::Everything);
        }
    }
}

/// The directory that an absolute path is in.
fn parent(path: &[u8]) -> &[u8] {
    let at = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..at.max(1)]
}

/// Where a link leads that is in a directory with this path, on which there is no link. `None` where that cannot be said so.
fn joined(directory: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let mut path = match target.first()? {
        b'/' => Vec::new(),
        _ => directory.strip_suffix(b"/").unwrap_or(directory).to_vec(),
    };
    let mut is_plain = true;
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            // What is above something else may be somewhere else.
            b".." if !is_plain || target[0] == b'/' => return None,
            b".." => path.truncate(path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            name => {
                is_plain = false;
                path.push(b'/');
                path.extend_from_slice(name);
            }
        }
    }
    match path.len() {
        0 => Some(b"/".to_vec()),
        1..PATH_BYTES_MAX => Some(path),
        _ => None,
    }
}

/// Pieces that follow each other, as one question.
fn together(ask: &Ask, next: &Ask) -> Option<Ask> {
    match (&ask.what, &next.what) {
        (What::Pieces(first, end), What::Pieces(begin, until)) if end == begin && ask.path == next.path => {
            Some(Ask {
                path: ask.path.clone(),
                what: What::Pieces(*first, *until),
            })
        }
        _ => None,
    }
}

/// Whether something has not been done lately; it is being done now.
fn is_due<K: Eq + Hash>(lately: &Mutex<HashMap<K, Instant>>, what: K) -> bool {
    let mut lately = lock(lately);
    if lately.len() >= LATELY_MAX {
        lately.retain(|_, when| when.elapsed() < AGAIN);
    }
    let now = Instant::now();
    let is_due = match lately.get(&what) {
        Some(when) => now.duration_since(*when) >= AGAIN,
        None => lately.len() < LATELY_MAX,
    };
    if is_due {
        lately.insert(what, now);
    }
    is_due
}

impl<'a> Round<'a> {
    /// `None` if it is no good moment.
    fn new(files: &'a FileService) -> Option<Self> {
        files.session.as_ref()?;
        Some(Self {
            answers: Answers::new(files)?,
            files,
            count: 0,
            bytes: 0,
            until: Instant::now() + TIME_MAX,
            known: HashMap::new(),
            program: None,
            fresh: HashSet::new(),
            useless: HashSet::new(),
            reply: Vec::new(),
        })
    }

    fn is_over(&self) -> bool {
        let Generosity {
            answers_max,
            bytes_max,
        } = self.files.early.generosity;
        self.count >= answers_max || self.bytes >= bytes_max || Instant::now() > self.until
    }

    /// What can be sent.
    fn cut(&mut self) -> Answers {
        // Changes that have begun meanwhile are told behind it; those that follow it are not its concern.
        let next = Answers::begin(self.files);
        std::mem::replace(&mut self.answers, next)
    }

    fn push(&mut self, nodes: [u64; 2], item: &Item<'_>) {
        let before = self.answers.payload.len();
        early::append(&mut self.answers.payload, item);
        self.bytes += self.answers.payload.len() - before;
        self.count += 1;
        self.answers.nodes.extend(nodes.iter().filter(|node| **node != 0));
    }

    /// Executes a request in the service's own name: an errno, or the body of its reply.
    fn execute(&mut self, opcode: Opcode, node: u64, parts: [&[u8]; 3]) -> Result<Vec<u8>, i32> {
        let (uid, gid) = self.files.credentials.own();
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let header = RequestHeader {
            length: (size_of::<RequestHeader>() + length) as u32,
            opcode: opcode as u32,
            unique: 1,
            node,
            uid,
            gid,
            ..RequestHeader::default()
        };
        let request = [header.as_bytes(), parts[0], parts[1], parts[2]].concat();
        self.reply.clear();
        let outcome = self.files.handle(&request, &mut self.reply);
        match (outcome, ReplyHeader::read_from_prefix(&self.reply[..])) {
            (Outcome::Reply, Ok((header, body))) if header.error == 0 => Ok(body.to_vec()),
            (_, Ok((header, _))) if header.error != 0 => Err(header.error.saturating_neg()),
            _ => Err(libc::EIO),
        }
    }

    /// The node at a path, which is answered to be there, or not to be.
    fn node(&mut self, path: &[u8], depth: usize) -> Option<u64> {
        if path == b"/" {
            return Some(ROOT_NODE);
        }
        if let Some(known) = self.known.get(path) {
            return *known;
        }
        if depth == 0 || !path.starts_with(b"/") {
            return None;
        }
        let directory = parent(path);
        let name = &path[directory.len()..];
        let directory = self.node(directory, depth - 1)?;
        let found = self.look_up(directory, name.strip_prefix(b"/").unwrap_or(name));
        self.known.insert(path.into(), found);
        found
    }

    fn look_up(&mut self, directory: u64, name: &[u8]) -> Option<u64> {
        if self.files.may_hang(name) || self.files.starts.differs(directory) {
            return None;
        }
        let body = self.execute(Opcode::Lookup, directory, [name, &[0], &[]]).ok()?;
        let (entry, _) = EntryReply::read_from_prefix(&body).ok()?;
        let nothing = entry.node == 0;
        if entry.entry_valid == 0 || !nothing && entry.attributes_valid == 0 {
            if !nothing {
                self.files.forget_node(entry.node, 1);
            }
            return None;
        }
        if !nothing && self.files.is_known_again(entry.node) {
            // So it is known there, too.
            self.files.forget_node(entry.node, 1);
            return Some(entry.node);
        }
        let question = Question::Name { directory, name };
        let result = Ok(&body[..]);
        self.push([directory, entry.node], &Item::Answer { question, result });
        self.fresh.insert(entry.node);
        (!nothing).then_some(entry.node)
    }

    fn answer(&mut self, ask: &Arc<Ask>) {
        let found = self.node(&ask.path, DEPTH_MAX);
        let Some(node) = found else {
            if ask.what != What::Name {
                self.useless.insert(Arc::clone(ask));
            }
            return;
        };
        match &ask.what {
            What::Name => {}
            What::Link => {
                let directory = self.node(parent(&ask.path), DEPTH_MAX);
                if !directory.is_some_and(|directory| self.follow(directory, node)) {
                    self.useless.insert(Arc::clone(ask));
                }
            }
            // Who knows a directory knows its names, or does without.
            What::Names if !self.fresh.contains(&node) => {}
            What::Names => self.list(node),
            What::Access(mask) => {
                let record = AccessRequest {
                    mask: *mask,
                    ..AccessRequest::default()
                };
                let result = self.execute(Opcode::Access, node, [record.as_bytes(), &[], &[]]);
                if matches!(result, Ok(_) | Err(libc::EACCES)) {
                    let question = Question::Access { node, mask: *mask };
                    let result = result.as_deref().map_err(|errno| *errno);
                    self.push([node, 0], &Item::Answer { question, result });
                }
            }
            What::Extended(name) => {
                let record = GetExtendedRequest::default();
                let result = self.execute(Opcode::GetExtended, node, [record.as_bytes(), name, &[0]]);
                if let Err(errno @ (libc::ENODATA | libc::EOPNOTSUPP)) = result {
                    let question = Question::Extended { node, name };
                    let result = Err(errno);
                    self.push([node, 0], &Item::Answer { question, result });
                }
            }
            What::Open { executes } => self.open(node, Opcode::Open, *executes),
            What::Listing => {
                self.list(node);
                self.open(node, Opcode::OpenDirectory, false);
            }
            What::Pieces(first, end) => {
                let (first, end) = (*first, *end);
                self.push([node, 0], &Item::Pieces { node, first, end });
            }
        }
    }

    /// Where a link leads, if reading it changes nothing. Its target.
    fn read_link(&mut self, node: u64) -> Option<Vec<u8>> {
        let known = self.files.nodes.get(node).ok()?;
        if !self.files.is_settled_by_reading(&known) {
            return None;
        }
        let target = self.execute(Opcode::ReadLink, node, [&[]; 3]).ok()?;
        let question = Question::Link { node };
        let result = Ok(&target[..]);
        self.push([node, 0], &Item::Answer { question, result });
        Some(target)
    }

    /// Where a link in a directory leads, and all names on the way. False if that cannot be said.
    fn follow(&mut self, mut directory: u64, mut link: u64) -> bool {
        for is_first in [true].into_iter().chain([false; LINKS_MAX]) {
            let Some(target) = self.read_link(link) else {
                return !is_first;
            };
            let start = self.files.path_of(directory);
            let path = start.and_then(|start| joined(&start, &target));
            let Some(path) = path else { break };
            let Some(node) = self
                .node(&path, DEPTH_MAX)
                .filter(|node| self.files.is_link(*node))
            else {
                break;
            };
            let Some(next) = self.node(parent(&path), DEPTH_MAX) else {
                break;
            };
            (directory, link) = (next, node);
        }
        true
    }

    /// All names in a directory, if they can be relied on: with what they are if there are not many.
    fn list(&mut self, node: u64) {
        let files = self.files;
        let Ok(known) = files.nodes.get(node) else { return };
        let way = files.nodes.descriptor(&known, &files.credentials);
        if !known.is_directory()
            || files.starts.differs(node)
            || !way.is_ok_and(|way| files.names_hold(&known, &way))
        {
            return;
        }
        // Nobody has asked for the listing yet, so its time of access is not to tell of it.
        let quietly = OpenRequest {
            flags: OFlags::NOATIME.bits(),
            ..OpenRequest::default()
        };
        let mut opened = self.execute(Opcode::OpenDirectory, node, [quietly.as_bytes(), &[], &[]]);
        if let Err(libc::EPERM) = opened
            && files.is_settled_by_reading(&known)
        {
            let record = OpenRequest::default();
            opened = self.execute(Opcode::OpenDirectory, node, [record.as_bytes(), &[], &[]]);
        }
        let Ok(body) = opened else { return };
        let Ok((open, _)) = OpenReply::read_from_prefix(&body) else {
            return;
        };
        if open.open_flags & open_reply_flag::KEEP_CACHE != 0
            && let Ok(listing) = files.open_listing(open.handle, node)
        {
            listing.unasked.store(true, Ordering::Relaxed);
            self.list_open(node, open.handle);
        }
        files.close_early(open.handle);
    }

    fn list_open(&mut self, node: u64, handle: u64) {
        let Some((names, count)) = self.entries(Opcode::ReadDirectory, node, handle) else {
            return;
        };
        let mut entries = names;
        let full = count <= ATTRIBUTES_MAX;
        if full {
            match self.entries(Opcode::ReadDirectoryPlus, node, handle) {
                Some((plus, _)) => entries = plus,
                None => return,
            }
        }
        let entries = &entries[..];
        self.push([node, 0], &Item::Listing { node, full, entries });
        if full {
            let mut rest = entries;
            let mut links = 0;
            while let Ok((record, _)) = DirectoryEntryPlus::read_from_prefix(rest) {
                let node = record.entry.node;
                self.answers.nodes.extend((node != 0).then_some(node));
                if links < LINKS_MAX && self.files.is_link(node) {
                    links += 1;
                    self.read_link(node);
                }
                let bytes = entry_bytes(
                    size_of::<DirectoryEntryPlus>(),
                    record.directory.name_length as usize,
                );
                rest = rest.get(bytes..).unwrap_or_default();
            }
        }
    }

    /// All entries of an open directory, and how many; `None` if there are too many. What cannot be relied on is a name only.
    fn entries(&mut self, opcode: Opcode, node: u64, handle: u64) -> Option<(Vec<u8>, usize)> {
        let plus = opcode == Opcode::ReadDirectoryPlus;
        let (mut entries, mut count, mut offset) = (Vec::new(), 0, 0);
        loop {
            let record = ReadRequest {
                handle,
                offset,
                size: LISTING_BYTES_MAX as u32,
                ..ReadRequest::default()
            };
            let mut body = self.execute(opcode, node, [record.as_bytes(), &[], &[]]).ok();
            let is_last = body.as_ref().is_some_and(Vec::is_empty);
            let mut at = 0;
            while let Some(body) = &mut body
                && at < body.len()
            {
                let head = match plus {
                    true => size_of::<DirectoryEntryPlus>(),
                    false => size_of::<DirectoryEntry>(),
                };
                let directory_at = at + head - size_of::<DirectoryEntry>();
                let Ok((directory, _)) = DirectoryEntry::read_from_prefix(&body[directory_at..]) else {
                    break;
                };
                if plus && let Ok((entry, _)) = EntryReply::mut_from_prefix(&mut body[at..]) {
                    let lasts = entry.entry_valid != 0 && entry.attributes_valid != 0;
                    if entry.node != 0 && !lasts {
                        self.files.forget_node(entry.node, 1);
                        *entry = EntryReply::default();
                    }
                }
                offset = directory.offset;
                at += entry_bytes(head, directory.name_length as usize);
                count += 1;
            }
            entries.extend_from_slice(body.as_deref().unwrap_or_default());
            if is_last {
                return Some((entries, count));
            }
            if body.is_none() || entries.len() > LISTING_BYTES_MAX {
                if plus {
                    self.forget_entries(&entries);
                }
                return None;
            }
        }
    }

    /// Takes lookups back that nobody is told of.
    fn forget_entries(&self, mut rest: &[u8]) {
        while let Ok((record, _)) = DirectoryEntryPlus::read_from_prefix(rest) {
            if record.entry.node != 0 {
                self.files.forget_node(record.entry.node, 1);
            }
            let bytes = entry_bytes(
                size_of::<DirectoryEntryPlus>(),
                record.directory.name_length as usize,
            );
            rest = rest.get(bytes..).unwrap_or_default();
        }
    }

    fn open(&mut self, node: u64, opcode: Opcode, executes: bool) {
        // Who has it open there has it opened for the next one as well. The program itself is only being opened; with this its contents
        // are under way before it is.
        let is_open = self.files.nodes.get(node).is_ok_and(|node| node.is_open());
        if is_open && !(executes && Some(node) == self.program) {
            return;
        }
        if opcode == Opcode::Open {
            // That it takes a while once is no reason to say less.
            let begun = Instant::now();
            self.files.hash_needed(node);
            self.until += begun.elapsed();
        }
        let flags = match executes {
            true => OPEN_FOR_EXECUTION,
            false => 0,
        };
        let record = OpenRequest { flags, open_flags: 0 };
        let Ok(body) = self.execute(opcode, node, [record.as_bytes(), &[], &[]]) else {
            return;
        };
        let Ok((open, told)) = OpenReply::read_from_prefix(&body) else {
            return;
        };
        let kept = open_reply_flag::KEEP_CACHE | open_reply_flag::DIRECT_IO;
        if open.open_flags & kept != open_reply_flag::KEEP_CACHE {
            self.files.close_early(open.handle);
            return;
        }
        // The hashes of a small file say nothing yet of what is in it.
        let is_whole = told.len() > WHOLE_BYTES_MAX || told.is_empty();
        let question = Question::Open {
            node,
            executes,
            directory: opcode == Opcode::OpenDirectory,
        };
        let result = Ok(&body[..]);
        self.push([node, 0], &Item::Answer { question, result });
        if opcode == Opcode::Open && !is_whole {
            let (first, end) = (0, 1);
            self.push([node, 0], &Item::Pieces { node, first, end });
        }
    }
}

impl Answers {
    fn begin(files: &FileService) -> Self {
        Self {
            payload: Vec::new(),
            begun: files.session.as_ref().map(|session| session.begin()),
            changes: files.early.changes.settled().unwrap_or(u64::MAX),
            nodes: HashSet::new(),
        }
    }

    fn new(files: &FileService) -> Option<Self> {
        files.early.changes.settled()?;
        Some(Self::begin(files))
    }
}

/// Requests after which something is not as it was, and of which the node is told nothing but the reply.
fn changes(opcode: Opcode, request: &Request<'_>) -> bool {
    match opcode {
        Opcode::Open => {
            let mut request = request.clone();
            let flags = request
                .record::<OpenRequest>()
                .map_or(u32::MAX, |open| open.flags);
            flags & (libc::O_ACCMODE | libc::O_TRUNC) as u32 != libc::O_RDONLY as u32
        }
        Opcode::Release => false,
        _ => super::may_change(opcode),
    }
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn links_lead_where_they_lead() {
        let joined = |directory: &str, target: &str| {
            let path = joined(directory.as_bytes(), target.as_bytes());
            path.map(|path| String::from_utf8(path).unwrap())
        };
        let leads = |directory, target, path: &str| {
            assert_eq!(joined(directory, target).as_deref(), Some(path), "{target}");
        };
        leads("/usr/bin", "python3.11", "/usr/bin/python3.11");
        leads("/usr/bin", "/etc/alternatives/cc", "/etc/alternatives/cc");
        leads("/usr/share/a", "../../lib/./b/", "/usr/lib/b");
        leads("/", "usr/bin", "/usr/bin");
        leads("/", "../bin", "/bin");
        leads("/a", "..", "/");
        assert_eq!(joined("/a", "b/../c"), None);
        assert_eq!(joined("/a", "/b/../c"), None);
        assert_eq!(joined("/a", ""), None);
        assert_eq!(joined("/a", &"b/".repeat(4000)), None);
    }
}
