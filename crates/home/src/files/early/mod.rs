//! Answers to what a node has not asked yet, but is going to: what a program has asked before, on whatever node, or what can be
//! seen to be needed to start it ([`program`]). They are put together in a [`round`].
//!
//! Each answer is that of an ordinary request, made in the service's own name; so all that holds of those holds of it: what is looked up is
//! counted, what is open is open, what is said to be valid is watched. Only what is valid until further notice is sent. What of it the node
//! does not use it gives back.
//!
//! The session's own changes are told to nobody at its node. The node takes care of those that it knows of; if one is executed while
//! answers are put together, what they are about is said to have changed, right behind them.

mod kept;
mod program;
mod round;
mod traces;

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use afield_abi::fuse::{
    AccessRequest, EntryReply, GetExtendedRequest, OPEN_FOR_EXECUTION, Opcode, OpenRequest, ReadRequest,
    ReplyHeader, RequestHeader,
};
use afield_link::contents::PIECE_BYTES;
use afield_link::invalidation::{self, Change};
use rustix::fs::OFlags;
use tracing::{debug, trace};
use zerocopy::FromBytes;

use super::decode::Request;
use super::{FileService, proc_path};
use crate::coherence::Begun;
use round::{Round, together};
pub use traces::Program;
use traces::{Ask, Traces, What};

/// A payload is sent when it has this much.
const PAYLOAD_BYTES: usize = 12 << 10;

/// Between two times at which answers for the same program go to a session.
const AGAIN: Duration = Duration::from_secs(10);

/// Programs for which answers have gone to a session lately.
const LATELY_MAX: usize = 1024;

/// Files that a session has opened, and for which program.
const OPENED_MAX: usize = 4096;

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
