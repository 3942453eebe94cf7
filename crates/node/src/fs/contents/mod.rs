//! Reads of home's files that are answered without asking home: from what the node has kept, or has in its own system.
//!
//! Home says with its reply to an open what is in a file (its pieces' hashes, or all of it), if it watches the contents. Until it says
//! that they have changed, a read is answered here as far as the pieces are at hand. What has to be asked for is asked for in whole
//! pieces, and kept.
//!
//! A file that this session has opened for writing, or has cut, is home's alone from then on: what home says of its contents may have
//! been overtaken by what was written.
//!
//! Who reads a file from one end to the other has home asked for what follows before the kernel asks for it.
//!
//! | thread | does |
//! |---|---|
//! | file door | answers from memory, or hands on |
//! | contents (two) | answer from the disk |
//! | keeper | hashes what has come, and wakes who waits for it |
//! | disk | writes it to the disk |

mod ahead;
mod known;
mod pool;
mod queue;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use afield_abi::fuse::{
    Opcode, OpenReply, OpenRequest, ReadRequest, ReplyHeader, RequestHeader, SetAttributesRequest,
    open_reply_flag, set_flag,
};
use afield_link::contents::{self, Hash, PIECE_BYTES, Told, hash};
use afield_link::frame::{FILE_ID, Kind};
use afield_link::stream::LinkError;
use tracing::{debug, warn};
use zerocopy::{FromBytes, IntoBytes};

use super::home::Asked;
use super::{Pending, Request, TRANSFER_BYTES_MAX, data_reply, error_reply, lock};
use crate::session::{self, Shared};
use crate::store::Store;
use known::Known;
use pool::Pool;
use queue::Queue;

/// Threads that read the disk.
const READERS: usize = 2;

/// Most reads that wait for them; more go to home.
const READS_MAX: usize = 256;

/// Most bytes that wait to be kept; more are not kept.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// Most bytes that are asked for ahead at a time: less than the pool holds, or it would be for nothing.
const FLYING_BYTES_MAX: usize = 16 << 20;

/// The same for what will be needed to start a program: it is on the disk when the pool has no room for it.
const STARTING_BYTES_MAX: usize = 32 << 20;

/// How long a session's end waits for the disk. It is killed after two seconds if its home is not admitted any more.
const FINISH_TIME_MAX: Duration = Duration::from_secs(1);

/// Bits of the numbers of requests that nobody has made: they are the session's own, and this door's.
const OWN_REQUEST: u64 = 3 << 61;

/// Most hashes that are remembered, over all files.
const HASHES_MAX: usize = 1 << 20;

/// A read of less than this from a file of more than [`SMALL_BYTES`] is not made larger: whoever reads so seeks about.
const WIDENED_BYTES_MIN: usize = 16 << 10;
const SMALL_BYTES: u64 = 1 << 20;

/// What is known of a file.
#[derive(Debug)]
enum State {
    /// This session has written to it, or could have.
    Written,
    /// What home has said.
    Known(Arc<Known>),
}

#[derive(Debug, Default)]
struct Table {
    files: HashMap<u64, State>,
    /// Hashes of all files, of those that are gone as well.
    hashes: usize,
}

/// A read of a file whose contents are known.
#[derive(Debug)]
pub struct Reading {
    unique: u64,
    known: Arc<Known>,
    offset: u64,
    size: usize,
    /// Where what is asked of home begins.
    from: u64,
    /// The pieces that are asked for, if it is whole pieces.
    pieces: Range<u64>,
}

/// Pieces that are asked for ahead.
#[derive(Debug)]
pub struct Flight {
    known: Arc<Known>,
    pieces: Range<u64>,
}

/// A read that is to be answered from the disk or what is on its way, with the request for home if neither has it.
#[derive(Debug)]
pub struct Wanted {
    reading: Reading,
    request: Vec<u8>,
}

/// What has come from home: bytes of a file, after `head` others.
#[derive(Debug)]
struct Came {
    flight: Flight,
    from: u64,
    bytes: Vec<u8>,
    head: usize,
}

/// Pieces for the disk: where they are in these bytes.
#[derive(Debug)]
struct Kept {
    pieces: Vec<(Hash, Range<usize>)>,
    bytes: Vec<u8>,
}

/// What becomes of a read.
#[derive(Debug)]
pub enum Step {
    /// This is the reply.
    Reply(Vec<u8>),
    /// It is being answered.
    Later,
    /// Home is to be asked; what it says is for [`Contents::came`].
    Ask(Reading),
    /// It is nobody's concern here.
    Pass,
}

/// What is at hand of home's files.
#[derive(Debug)]
pub struct Contents {
    store: Store,
    table: Mutex<Table>,
    pool: Mutex<Pool>,
    wanted: Queue<Wanted>,
    came: Queue<Came>,
    kept: Queue<Kept>,
    /// Bytes that are asked for ahead.
    flying_bytes: AtomicUsize,
    next: AtomicU64,
    /// Nothing more can be kept.
    full: AtomicBool,
}

impl Contents {
    /// What a store has.
    pub fn new(store: Store) -> Self {
        Self {
            store,
            table: Mutex::default(),
            pool: Mutex::default(),
            wanted: Queue::new(READS_MAX),
            came: Queue::new(KEPT_BYTES_MAX),
            kept: Queue::new(KEPT_BYTES_MAX),
            flying_bytes: AtomicUsize::new(0),
            next: AtomicU64::new(1),
            full: AtomicBool::new(false),
        }
    }

    /// Takes note of a request that may change a file.
    pub fn note(&self, request: &Request<'_>) {
        let writes = match request.opcode {
            Opcode::Open => request.record::<OpenRequest>().is_ok_and(|open| {
                open.flags & (libc::O_ACCMODE | libc::O_TRUNC) as u32 != libc::O_RDONLY as u32
            }),
            Opcode::SetAttributes => request
                .record::<SetAttributesRequest>()
                .is_ok_and(|set| set.valid & set_flag::SIZE != 0),
            _ => false,
        };
        if writes {
            self.written(request.header.node);
        }
    }

    /// A file may be changed by this session from now on.
    pub fn written(&self, node: u64) {
        end(lock(&self.table).files.insert(node, State::Written));
    }

    /// The kernel forgets a file.
    pub fn forget(&self, node: u64) {
        end(lock(&self.table).files.remove(&node));
    }

    /// Home says that a file's contents are not what they were.
    pub fn changed(&self, node: u64) {
        let mut table = lock(&self.table);
        if let Some(State::Known(_)) = table.files.get(&node) {
            end(table.files.remove(&node));
        }
    }

    /// Home says that nothing is what it was.
    pub fn all_changed(&self) {
        lock(&self.table).forget_known();
    }

    /// Takes what home says of the contents out of its reply to an open (a body that begins with an [`OpenReply`]).
    pub fn opened(&self, node: u64, reply: &mut Vec<u8>, read_only: bool) -> Result<(), LinkError> {
        let at = size_of::<ReplyHeader>() + size_of::<OpenReply>();
        let Some((open, said)) = reply
            .get(size_of::<ReplyHeader>()..)
            .and_then(|body| OpenReply::read_from_prefix(body).ok())
        else {
            return Ok(());
        };
        let keeps = open.open_flags & open_reply_flag::KEEP_CACHE != 0;
        if said.is_empty() || !keeps || !read_only {
            if read_only {
                self.changed(node);
            }
        } else {
            let said = contents::decode(said)?;
            let mut table = lock(&self.table);
            match table.files.get(&node) {
                Some(State::Written) => {}
                Some(State::Known(known)) if known.is_as(&said) => {}
                _ => {
                    let known = Arc::new(Known::new(said.size, said.path));
                    match said.told {
                        Told::Nothing => {}
                        Told::Hashes(hashes) => known.told(hashes),
                        // At most half a piece: hashing it takes as long as handing it on.
                        Told::Whole(whole) => self.came_whole(&known, whole),
                    }
                    table.insert(node, known);
                }
            }
        }
        reply.truncate(at);
        let length = (reply.len() as u32).to_ne_bytes();
        reply[..length.len()].copy_from_slice(&length);
        Ok(())
    }

    fn came_whole(&self, known: &Arc<Known>, whole: &[u8]) {
        let hash = hash(whole);
        known.told(&[hash]);
        lock(&self.pool).add(hash, whole.into());
        let flight = Flight {
            known: Arc::clone(known),
            pieces: 0..0,
        };
        self.take_later(flight, 0, whole.to_vec(), 0);
    }

    /// Has what has come hashed and kept.
    fn take_later(&self, flight: Flight, from: u64, bytes: Vec<u8>, head: usize) {
        let weight = bytes.len();
        let came = Came {
            flight,
            from,
            bytes,
            head,
        };
        // If there is no room, it is fetched again some time.
        if let Err(Came { flight, .. }) = self.came.push(came, weight) {
            self.landed(&flight);
        }
    }

    /// Pieces have come, or will not: who has waited for them looks again.
    fn landed(&self, flight: &Flight) {
        if flight.pieces.is_empty() {
            return;
        }
        for wanted in lock(&flight.known.ahead).landed(flight.pieces.clone()) {
            self.wanted.push_always(wanted, 1);
        }
    }

    /// Looks at a read, which is about to be relayed as it is. What is to be asked of home ahead is returned as well.
    pub fn read(&self, request: &mut Request<'_>) -> (Step, Vec<Flight>) {
        let Ok(read) = request.record::<ReadRequest>() else {
            return (Step::Pass, Vec::new());
        };
        let known = match lock(&self.table).files.get(&request.header.node) {
            Some(State::Known(known)) => Arc::clone(known),
            _ => return (Step::Pass, Vec::new()),
        };
        let reading = Reading {
            unique: request.header.unique,
            offset: read.offset,
            size: (read.size as usize).min(TRANSFER_BYTES_MAX),
            from: read.offset,
            pieces: 0..0,
            known,
        };
        let flights = self.look_ahead(&reading);
        (self.step(reading, request), flights)
    }

    fn step(&self, reading: Reading, request: &mut Request<'_>) -> Step {
        let hashes = reading.known.hashes(reading.offset, reading.size);
        let held = hashes.as_ref().and_then(|hashes| lock(&self.pool).all(hashes));
        if let Some(pieces) = held {
            return Step::Reply(reading.reply(&pieces));
        }
        let (known, pieces) = (Arc::clone(&reading.known), reading.covered());
        let wanted = Wanted {
            request: request.bytes.to_vec(),
            reading,
        };
        let wanted = match pieces {
            Some(pieces) => match lock(&known.ahead).wait(pieces, wanted) {
                Ok(()) => return Step::Later,
                Err(wanted) => wanted,
            },
            None => wanted,
        };
        let unsent = match hashes {
            Some(_) => match self.wanted.push(wanted, 1) {
                Ok(()) => return Step::Later,
                Err(wanted) => wanted,
            },
            None => wanted,
        };
        Step::Ask(unsent.reading.widen(request.bytes))
    }

    /// What will be read next, as it seems.
    fn look_ahead(&self, reading: &Reading) -> Vec<Flight> {
        let known = &reading.known;
        let is_wanted = |piece| {
            let at_hand = known
                .hash_of(piece)
                .is_some_and(|hash| !known.is_absent() || lock(&self.pool).get(&hash).is_some());
            !at_hand && self.has_room(FLYING_BYTES_MAX)
        };
        let range = (reading.offset, reading.size as u64);
        let ranges = lock(&known.ahead).follow(range, known.size(), is_wanted);
        flights(known, ranges)
    }

    /// Pieces of a file that will be read, as it seems: who reads them from now on waits until they are fetched ([`absent`](Self::absent)).
    pub fn want(&self, node: u64, pieces: Range<u64>) -> Vec<Flight> {
        let known = match lock(&self.table).files.get(&node) {
            Some(State::Known(known)) => Arc::clone(known),
            _ => return Vec::new(),
        };
        let pieces = pieces.start..pieces.end.min(known.piece_count() as u64);
        let is_wanted = |piece| {
            let hash = known.hash_of(piece);
            let at_hand = hash.is_some_and(|hash| lock(&self.pool).get(&hash).is_some());
            !at_hand && self.has_room(STARTING_BYTES_MAX)
        };
        let ranges = lock(&known.ahead).reserve(pieces, is_wanted);
        flights(&known, ranges)
    }

    /// What of them home has to be asked for, since the disk has it not. Not in the reader's turn.
    pub fn absent(&self, wanted: Vec<Flight>) -> Vec<Flight> {
        let mut absent = Vec::new();
        for Flight { known, pieces } in wanted {
            let mut ranges: Vec<Range<u64>> = Vec::new();
            for index in pieces {
                let hash = known.hash_of(index);
                if hash.is_some_and(|hash| self.piece(&known, index, &hash).is_some()) {
                    let flight = Flight {
                        known: Arc::clone(&known),
                        pieces: index..index + 1,
                    };
                    self.flown(&flight);
                    self.landed(&flight);
                    continue;
                }
                match ranges.last_mut() {
                    Some(range) if range.end == index => range.end += 1,
                    _ => ranges.push(index..index + 1),
                }
            }
            absent.extend(flights(&known, ranges));
        }
        absent
    }

    /// Takes room for a piece that is asked for ahead, of so much.
    fn has_room(&self, most: usize) -> bool {
        let add = |bytes: usize| (bytes < most).then_some(bytes + PIECE_BYTES);
        let flying = &self.flying_bytes;
        flying
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .is_ok()
    }

    /// Home has answered a read: `reply` becomes what the kernel is to get. If it has overtaken other news, it may be of other contents.
    pub fn came(&self, reading: Reading, error: i32, reply: &mut Vec<u8>, passing: bool) {
        let Reading {
            known, from, pieces, ..
        } = reading;
        let flight = Flight { known, pieces };
        if error != 0 {
            return self.landed(&flight);
        }
        let head = size_of::<ReplyHeader>();
        let skipped = (reading.offset - from) as usize;
        let begin = (head + skipped).min(reply.len());
        let end = (begin + reading.size).min(reply.len());
        let answer = data_reply(reading.unique, &[&reply[begin..end]]);
        let bytes = std::mem::replace(reply, answer);
        match passing {
            true => self.landed(&flight),
            false => self.take_later(flight, from, bytes, head),
        }
    }

    /// What was asked for ahead has come, or has failed.
    pub fn came_ahead(&self, flight: Flight, error: i32, reply: &mut Vec<u8>, passing: bool) {
        self.flown(&flight);
        match error != 0 || passing {
            true => self.landed(&flight),
            false => {
                let from = flight.pieces.start * PIECE_BYTES as u64;
                self.take_later(flight, from, std::mem::take(reply), size_of::<ReplyHeader>());
            }
        }
    }

    fn flown(&self, flight: &Flight) {
        let bytes = (flight.pieces.end - flight.pieces.start) as usize * PIECE_BYTES;
        self.flying_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Answers a read from the disk, if it can.
    fn answer(&self, reading: &Reading) -> Option<Vec<u8>> {
        if reading.known.is_ended() {
            return None;
        }
        let hashes = reading.known.hashes(reading.offset, reading.size)?;
        // All of them, even if one is missing: what is damaged is found now, and makes room for what will come.
        let pieces: Vec<_> = hashes
            .iter()
            .map(|(index, hash)| self.piece(&reading.known, *index, hash))
            .collect();
        let pieces: Vec<_> = pieces.into_iter().collect::<Option<_>>()?;
        Some(reading.reply(&pieces))
    }

    /// A piece of a file, from wherever it is.
    fn piece(&self, known: &Known, index: u64, hash: &Hash) -> Option<Arc<[u8]>> {
        if let Some(piece) = lock(&self.pool).get(hash) {
            return Some(piece);
        }
        let Some(piece) = known.local(index, hash).or_else(|| self.store.read(hash)) else {
            known.note_absent();
            return None;
        };
        let piece: Arc<[u8]> = piece.into();
        // The kernel reads ahead, but not always up to a piece's end.
        lock(&self.pool).add(*hash, Arc::clone(&piece));
        Some(piece)
    }

    /// Whether something that has come is not on the disk yet.
    pub fn is_busy(&self) -> bool {
        self.came.is_busy() || self.kept.is_busy()
    }

    /// At the session's end, waits for a while until it is.
    pub fn finish(&self) {
        let until = Instant::now() + FINISH_TIME_MAX;
        self.came.finish(until);
        self.kept.finish(until);
    }

    /// Hashes what has come, wakes who waits for it, and has it kept.
    fn take_in(&self, came: Came) {
        let Came {
            flight,
            from,
            bytes,
            head,
        } = came;
        let known = &flight.known;
        let mut pieces = Vec::new();
        for (index, piece) in known.whole_pieces(from, &bytes[head..]) {
            let hash = hash(piece);
            if known.learn(index, &hash) {
                lock(&self.pool).add(hash, piece.into());
                let begin = head + (index * PIECE_BYTES as u64 - from) as usize;
                pieces.push((hash, begin..begin + piece.len()));
            }
        }
        self.landed(&flight);
        if pieces.is_empty() || known.is_local() || self.full.load(Ordering::Relaxed) {
            return;
        }
        let weight = bytes.len();
        // If there is no room, it is fetched again some time.
        let _ = self.kept.push(Kept { pieces, bytes }, weight);
    }

    /// Writes it to the disk.
    fn write(&self, kept: &Kept) {
        if self.full.load(Ordering::Relaxed) {
            return;
        }
        let pieces = kept.pieces.iter();
        let pieces = pieces.map(|(hash, range)| (*hash, &kept.bytes[range.clone()]));
        if let Err(error) = self.store.add(pieces) {
            warn!("no more contents are kept in this session: {error}");
            self.full.store(true, Ordering::Relaxed);
        }
    }
}

impl Table {
    fn insert(&mut self, node: u64, known: Arc<Known>) {
        self.hashes += known.piece_count();
        if self.hashes > HASHES_MAX {
            // It is rare, and what is needed is learnt again.
            self.forget_known();
            self.hashes = known.piece_count();
        }
        end(self.files.insert(node, State::Known(known)));
    }

    fn forget_known(&mut self) {
        let ended = self.files.extract_if(|_, state| matches!(state, State::Known(_)));
        ended.for_each(|(_, state)| end(Some(state)));
        self.hashes = 0;
    }
}

/// What was known of a file is so no more.
fn end(state: Option<State>) {
    if let Some(State::Known(known)) = state {
        known.end();
    }
}

impl Reading {
    /// The reply from pieces, the first of which has the first byte.
    fn reply(&self, pieces: &[Arc<[u8]>]) -> Vec<u8> {
        let mut skipped = (self.offset % PIECE_BYTES as u64) as usize;
        let mut left = self.size;
        let mut parts = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let begin = skipped.min(piece.len());
            let end = (begin + left).min(piece.len());
            parts.push(&piece[begin..end]);
            left -= end - begin;
            skipped = 0;
        }
        data_reply(self.unique, &parts)
    }

    /// The pieces that it is for.
    fn covered(&self) -> Option<Range<u64>> {
        let end = self.offset.checked_add(self.size as u64)?;
        Some(self.offset / PIECE_BYTES as u64..end.div_ceil(PIECE_BYTES as u64))
    }

    /// Makes the request one for whole pieces, if it is for more than a little.
    fn widen(mut self, request: &mut [u8]) -> Self {
        let piece = PIECE_BYTES as u64;
        let from = self.offset - self.offset % piece;
        let until = self
            .offset
            .checked_add(self.size as u64)
            .and_then(|end| end.checked_next_multiple_of(piece));
        let Some(until) = until else { return self };
        let small = self.size < WIDENED_BYTES_MIN && self.known.size() > SMALL_BYTES;
        if small || until - from > TRANSFER_BYTES_MAX as u64 {
            return self;
        }
        let body = request.get_mut(size_of::<RequestHeader>()..);
        if let Some(Ok((read, _))) = body.map(ReadRequest::mut_from_prefix) {
            read.offset = from;
            read.size = (until - from) as u32;
            self.from = from;
            self.pieces = from / piece..until / piece;
            lock(&self.known.ahead).fly(self.pieces.clone());
        }
        self
    }
}

/// Requests for ranges of pieces.
fn flights(known: &Arc<Known>, ranges: Vec<Range<u64>>) -> Vec<Flight> {
    let most = TRANSFER_BYTES_MAX / PIECE_BYTES;
    let cut = |range: Range<u64>| {
        let starts = range.clone().step_by(most);
        starts.map(move |start| start..(start + most as u64).min(range.end))
    };
    ranges
        .into_iter()
        .flat_map(cut)
        .map(|pieces| Flight {
            known: Arc::clone(known),
            pieces,
        })
        .collect()
}

/// Asks home for what is to be asked for ahead, by an open file of home's that is for everybody.
pub fn fly_with(shared: &Shared, contents: &Contents, flights: Vec<Flight>, node: u64, handle: u64) {
    if flights.is_empty() {
        return;
    }
    let header = RequestHeader {
        opcode: Opcode::Read as u32,
        node,
        ..RequestHeader::default()
    };
    let read = ReadRequest {
        handle,
        ..ReadRequest::default()
    };
    fly(
        shared,
        contents,
        flights,
        &[header.as_bytes(), read.as_bytes()].concat(),
    );
}

/// Asks home for what is to be asked for ahead, with the rights of the read in `request`.
pub fn fly(shared: &Shared, contents: &Contents, flights: Vec<Flight>, request: &[u8]) {
    let Ok((header, rest)) = RequestHeader::read_from_prefix(request) else {
        return;
    };
    let Ok((read, _)) = ReadRequest::read_from_prefix(rest) else {
        return;
    };
    for flight in flights {
        let unique = OWN_REQUEST | contents.next.fetch_add(1, Ordering::Relaxed);
        let read = ReadRequest {
            offset: flight.pieces.start * PIECE_BYTES as u64,
            size: ((flight.pieces.end - flight.pieces.start) as usize * PIECE_BYTES) as u32,
            read_flags: 0,
            ..read
        };
        let header = RequestHeader {
            length: (size_of::<RequestHeader>() + size_of::<ReadRequest>()) as u32,
            unique,
            // Nobody waits for it.
            pid: 0,
            extension_length: 0,
            ..header
        };
        shared.files.expect(unique, Pending::Home(Asked::Ahead(flight)));
        let parts = [header.as_bytes(), read.as_bytes()];
        if let Err(error) = shared.writer.write_frame(Kind::File, unique | FILE_ID, &parts) {
            debug!("reading ahead: {error}");
            if let Some(Pending::Home(Asked::Ahead(flight))) = shared.files.take(unique) {
                contents.flown(&flight);
                contents.landed(&flight);
            }
        }
    }
}

/// Asks home for what a read wants that the disk has not.
fn ask(shared: &Shared, reading: Reading, request: &[u8]) {
    let unique = reading.unique;
    shared.files.expect(unique, Pending::Home(Asked::Read(reading)));
    if let Err(error) = shared
        .writer
        .write_frame(Kind::File, unique | FILE_ID, &[request])
    {
        debug!("relaying a read: {error}");
        // The session is at its end: whoever waits for these pieces gets an error as well.
        shared.files.take(unique);
        shared.files.coherent.unsent(unique);
        shared.files.reply(&error_reply(unique, libc::EIO));
    }
}

/// Starts the threads, if there is anything for them to do.
pub fn start(shared: &Arc<Shared>) -> io::Result<()> {
    if shared.files.contents.is_none() {
        return Ok(());
    }
    for _ in 0..READERS {
        let shared = Arc::clone(shared);
        session::start("contents", move || read_disk(&shared))?;
    }
    let keeping = Arc::clone(shared);
    session::start("keeper", move || {
        let Some(contents) = &keeping.files.contents else {
            return;
        };
        contents.came.serve(|came| contents.take_in(came))
    })?;
    let shared = Arc::clone(shared);
    session::start("disk", move || {
        let Some(contents) = &shared.files.contents else {
            return;
        };
        // Guests go first, and what they wait for.
        afield_link::sys::give_way();
        contents.kept.serve(|kept| contents.write(&kept))
    })
}

fn read_disk(shared: &Arc<Shared>) {
    let Some(contents) = &shared.files.contents else {
        return;
    };
    contents.wanted.serve(|wanted| {
        let Wanted { reading, mut request } = wanted;
        if let Some(reply) = contents.answer(&reading) {
            shared.files.coherent.unsent(reading.unique);
            shared.files.reply(&reply);
        } else {
            ask(shared, reading.widen(&mut request), &request);
        }
    })
}

#[cfg(test)]
mod tests;
