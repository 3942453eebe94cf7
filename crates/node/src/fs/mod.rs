//! The file door: the world's root file system, as a switch over drivers.
//!
//! A request is for a node, and the node's id says whose it is:
//!
//! | ids | driver | what its nodes are |
//! |---|---|---|
//! | below [`PROC`] | [`home`] | home's tree; requests are relayed and answered there |
//! | [`PROC`] | [`proc`] | what in `/proc` depends on who looks |
//! | [`SPECIAL`] | [`handles`], made by [`dev`] | FIFOs and devices of home's tree, opened by the deputy |
//! | [`HANDLE`], [`HIDDEN`] | [`handles`] | inherited descriptors' objects, and their directory |
//!
//! Home has several file systems, and a mount of FUSE is one. So there are several mounts, whose requests are served here as one's
//! ([`connections`]).
//!
//! Drivers have one trait, so that layers can be put between the switch and them. What the node keeps of home's tree is [`coherent`]'s to
//! know.

pub mod behind;
pub mod coherent;
pub mod connections;
pub mod contents;
pub mod dev;
pub mod early;
pub mod handles;
pub mod home;
mod intake;
mod joined;
pub mod mapped;
pub mod owners;
pub mod places;
pub mod proc;
mod terminal;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use afield_abi::fuse::{
    InitReply, InitRequest, InterruptRequest, MINOR_OF_EXPIRY, Opcode, ROOT_NODE, ReplyHeader, RequestHeader,
    SharedReadReply, VERSION_MAJOR, VERSION_MINOR, init_flag,
};
use afield_link::aftermath;
use afield_link::frame::FILE_ID;
use afield_link::hatch::Hatch;
use afield_link::stream::LinkError;
use afield_link::sys::Data;
use afield_link::wire::{self, HandleReply, WireError};
use tracing::{debug, warn};
use zerocopy::{FromBytes, IntoBytes};

use crate::leases::{Lease, Leases};
use crate::session::Shared;
use crate::store::Store;
use crate::trace::Order;
use crate::world::{HIDDEN_DIRECTORY, Ids};
use behind::Word;
use coherent::Delivery;
use coherent::kept::Notice;
use connections::Connections;
use intake::Intake;

/// Largest read or write of one request.
pub const TRANSFER_BYTES_MAX: usize = 1 << 20;

/// Node-id bit of home objects.
pub const HANDLE: u64 = 1 << 63;
/// The directory of home objects.
pub const HIDDEN: u64 = 1 << 62;
/// Node-id bit of special files that are opened at home.
pub const SPECIAL: u64 = 1 << 61;
/// Node-id bit of `/proc` entries that depend on who looks.
pub const PROC: u64 = 1 << 60;
/// All bits that are not home's to use.
pub const OWN: u64 = HANDLE | HIDDEN | SPECIAL | PROC;

/// A request, checked as far as its header.
#[derive(Debug)]
pub struct Request<'a> {
    /// What is asked.
    pub opcode: Opcode,
    /// Of whom, by whom.
    pub header: RequestHeader,
    /// The whole request, but for [`data`](Self::data).
    pub bytes: &'a mut [u8],
    /// What is to be written, where that is in memory that home shares.
    pub data: Option<Lease>,
}

impl Request<'_> {
    /// What follows the header.
    pub fn body(&self) -> &[u8] {
        &self.bytes[size_of::<RequestHeader>()..]
    }

    /// The record that the body begins with.
    ///
    /// # Errors
    /// `EINVAL` if the body is shorter.
    pub fn record<T: FromBytes>(&self) -> Result<T, i32> {
        T::read_from_prefix(self.body())
            .map(|(record, _)| record)
            .map_err(|_| libc::EINVAL)
    }

    /// The whole request, by itself.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = self.bytes.to_vec();
        if let Some(data) = &self.data {
            let start = bytes.len();
            bytes.resize(start + data.place().1, 0);
            data.get(&mut bytes[start..]);
        }
        bytes
    }

    /// The body as a name.
    pub fn name(&self) -> Result<&[u8], i32> {
        self.body().strip_suffix(&[0]).ok_or(libc::EINVAL)
    }
}

/// What a driver has done with a request.
#[derive(Debug)]
pub enum Outcome {
    /// This whole reply is the answer.
    Reply(Vec<u8>),
    /// The answer comes later, or never, as the request has it.
    Later,
    /// Home is to be asked this in its place; the answer comes later.
    Instead(Vec<u8>),
    /// Home is to be told this, and then the reply is the answer.
    Promised {
        /// To home.
        request: Vec<u8>,
        /// To the kernel.
        reply: Vec<u8>,
    },
}

/// Serves the nodes of one region of ids.
pub trait Driver {
    /// Serves a request. It must not wait for home, nor touch guest memory.
    ///
    /// # Errors
    /// A positive errno, which is the answer.
    fn request(&self, shared: &Arc<Shared>, request: Request<'_>) -> Result<Outcome, i32>;
}

/// Room for the largest request.
pub const REQUEST_BYTES: usize = TRANSFER_BYTES_MAX + 4096;

/// Most requests served in a row: more than are queued at a time, and few enough for whoever has other work.
const SETTLED_MAX: usize = 4096;

/// What the kernel is asked for in return.
const FLAGS: u64 = init_flag::ASYNC_READ
    | init_flag::POSIX_LOCKS
    | init_flag::ATOMIC_O_TRUNC
    | init_flag::BIG_WRITES
    | init_flag::DONT_MASK
    | init_flag::FLOCK_LOCKS
    | init_flag::AUTO_INVALIDATE_DATA
    | init_flag::DO_READDIRPLUS
    | init_flag::READDIRPLUS_AUTO
    | init_flag::ASYNC_DIRECT_IO
    | init_flag::PARALLEL_DIRECTORY_OPERATIONS
    // Home's kernel drops set-id bits and capabilities of files. With the second the node's does not ask for a file's at each write.
    | init_flag::HANDLE_KILLPRIV
    | init_flag::HANDLE_KILLPRIV_V2
    | init_flag::MAX_PAGES
    | init_flag::SETXATTR_EXTENDED
    | init_flag::INIT_EXTENDED
    | init_flag::DIRECT_IO_ALLOW_MMAP;

/// Init's thread, as the world knows it.
pub const INIT: u32 = 1;

/// What is to be done with the reply to a request.
#[derive(Debug)]
enum Pending {
    /// Home's reply to a relayed request is more than passed on.
    Home(home::Asked),
    /// The deputy's reply completes a request on a home object.
    Handle(handles::Asked),
}

/// Home's reply to a request, as the kernel is to get it.
#[derive(Debug)]
pub enum HomeReply {
    /// All of it.
    Whole(Vec<u8>),
    /// Its data is in memory that home shares.
    Shared {
        /// Of the request.
        unique: u64,
        /// Where.
        data: Lease,
        /// How many bytes.
        count: usize,
    },
}

impl HomeReply {
    /// A reply as it came, to a read that lent home this place.
    fn new(reply: Vec<u8>, lease: Option<Lease>) -> Result<Self, LinkError> {
        let malformed = || WireError::Malformed("file reply");
        let (header, body) = ReplyHeader::read_from_prefix(&reply).map_err(|_| malformed())?;
        let Some(data) = lease.filter(|_| header.error == 0) else {
            return Ok(Self::Whole(reply));
        };
        match SharedReadReply::read_from_bytes(body) {
            Ok(SharedReadReply { size, .. }) if size as usize <= data.place().1 => Ok(Self::Shared {
                unique: header.unique,
                count: size as usize,
                data,
            }),
            _ => Err(malformed().into()),
        }
    }
}

/// The file door's state.
#[derive(Debug)]
pub struct Files {
    /// The world's FUSE connections.
    pub connections: Connections,
    /// Held from the reading of a request until it has been served, so that what the kernel had asked before goes home before.
    reading: Mutex<Intake>,
    /// Requests that are more than relayed, by FUSE's number.
    pending: Mutex<HashMap<u64, Pending>>,
    /// Driver of home's tree.
    pub home: home::Home,
    /// Where the world's mounts are in it.
    pub places: places::Places,
    /// Writes to home's tree that home has not confirmed.
    pub behind: behind::Behind,
    /// Those of them that can be part of another.
    joined: joined::Joined,
    /// Files that stores of guests change.
    pub mapped: mapped::Mapped,
    /// What is at hand of its files' contents, if the node keeps any.
    pub contents: Option<contents::Contents>,
    /// Driver of home objects.
    pub handles: handles::Handles,
    /// Special files that are opened at home.
    pub special: dev::Special,
    /// Driver of what in `/proc` depends on who looks.
    pub proc: proc::Proc,
    /// What the node keeps of home's tree.
    pub coherent: coherent::Coherent,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    /// A door for the FUSE connections of a world; `owner` is the home user, `store` has what is kept of home's files, `leases` are of
    /// memory that home shares.
    pub fn new(
        connections: Connections,
        ids: Ids,
        owner: owners::Owner,
        store: Option<Store>,
        (leases, hatch): (Option<Arc<Leases>>, Option<Hatch>),
    ) -> Self {
        Self {
            connections,
            reading: Mutex::new(Intake::new(leases)),
            pending: Mutex::default(),
            home: home::Home::new(ids, owner),
            places: places::Places::default(),
            behind: behind::Behind::default(),
            joined: joined::Joined::default(),
            mapped: mapped::Mapped::default(),
            contents: store.map(contents::Contents::new),
            handles: handles::Handles::new(owner, hatch),
            special: dev::Special::default(),
            proc: proc::Proc::default(),
            coherent: coherent::Coherent::new(owner),
        }
    }

    fn driver(&self, node: u64) -> &dyn Driver {
        if node & (HANDLE | HIDDEN | SPECIAL) != 0 {
            &self.handles
        } else if node & PROC != 0 {
            &self.proc
        } else {
            &self.home
        }
    }

    /// Gives a whole reply to the kernel.
    pub fn reply(&self, reply: &[u8]) {
        match self.connections.reply(reply) {
            Ok(()) => {}
            // The caller was killed, or the mount is gone.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV) => {}
            Err(error) => {
                warn!("reply of {} bytes to FUSE: {error}", reply.len());
                // Something else was wrong with it: the caller must not wait for ever.
                if let Ok((header, _)) = ReplyHeader::read_from_prefix(reply)
                    && header.error == 0
                    && header.unique != 0
                {
                    self.reply(&error_reply(header.unique, libc::EIO));
                }
            }
        }
    }

    /// Gives the kernel home's reply, which may have its data in shared memory.
    pub fn pass_on(&self, reply: &HomeReply) {
        match reply {
            HomeReply::Whole(reply) => self.reply(reply),
            HomeReply::Shared { unique, data, count } => self.reply_with(*unique, data.data(*count)),
        }
    }

    /// Gives the kernel a successful reply with data that is in shared memory.
    fn reply_with(&self, unique: u64, data: Data<'_>) {
        let header = ReplyHeader {
            length: (size_of::<ReplyHeader>() + data.length()) as u32,
            error: 0,
            unique,
        };
        match self.connections.reply_with(header, data) {
            Ok(()) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {}
            Err(error) => {
                warn!("reply of {} bytes to FUSE: {error}", data.length());
                self.reply(&error_reply(unique, libc::EIO));
            }
        }
    }

    /// The home object behind a node.
    pub fn object_of(&self, node: u64) -> Option<u64> {
        if node & HANDLE != 0 {
            Some(node & !HANDLE)
        } else {
            self.special.handle(node)
        }
    }

    fn expect(&self, unique: u64, pending: Pending) {
        lock(&self.pending).insert(unique, pending);
    }

    fn take(&self, unique: u64) -> Option<Pending> {
        lock(&self.pending).remove(&unique)
    }

    /// Home tells that an object has become ready.
    pub fn ready(&self, pid: u32, handle: u64, look: handles::Look) {
        self.handles.tell(handle, pid, look);
        self.wake(handle);
    }

    /// Those who poll a home object ask again.
    pub fn wake(&self, handle: u64) {
        for kernel_handle in self.handles.take_watchers(handle) {
            for _ in 0..self.handles.poller_count(handle) {
                self.connections.wake(kernel_handle);
            }
        }
    }

    /// A process is being killed: what it waits for will not be needed.
    pub fn end_requests_of(&self, pid: u32) {
        let ended: Vec<u64> = {
            let mut pending = lock(&self.pending);
            let ended = pending
                .iter()
                .filter(|(_, pending)| matches!(pending, Pending::Handle(asked) if asked.pid == pid))
                .map(|(unique, _)| *unique)
                .collect();
            pending.retain(|_, pending| !matches!(pending, Pending::Handle(asked) if asked.pid == pid));
            ended
        };
        for unique in ended {
            self.reply(&error_reply(unique, libc::EINTR));
        }
    }

    /// Home has answered a relayed request. While the gate is closed (`passing`), whoever gets the reply must not go on. What the kernel is to be told
    /// before anything else is delivered is returned.
    pub fn home_replied(
        &self,
        shared: &Arc<Shared>,
        unique: u64,
        mut reply: Vec<u8>,
        passing: bool,
    ) -> Result<Vec<Notice>, LinkError> {
        let malformed = WireError::Malformed("file reply");
        let Ok((header, _)) = ReplyHeader::read_from_prefix(&reply) else {
            return Err(malformed.into());
        };
        let length = header.length as usize;
        if header.unique != unique || !(size_of::<ReplyHeader>()..=reply.len()).contains(&length) {
            return Err(malformed.into());
        }
        let mut after = aftermath::decode(&reply[length..])?;
        if after.iter().any(|after| after.node & OWN != 0) {
            return Err(malformed.into());
        }
        if let Some(owners) = self.home.owners() {
            for after in &mut after {
                owners.hide_in(&mut after.attributes);
            }
        }
        reply.truncate(length);
        let lease = shared.take_lease(unique | FILE_ID);
        let word = self.behind.replied(
            unique,
            header.error,
            &reply[size_of::<ReplyHeader>()..],
            Instant::now(),
        );
        match word {
            None => {}
            Some(Word::Done) => return Ok(Vec::new()),
            Some(Word::Failed { node }) => {
                self.coherent.forget_attributes(node);
                let places = Vec::new();
                return Ok(vec![Notice::Contents { node, places }]);
            }
        }
        match self.take(unique) {
            Some(Pending::Home(asked)) => {
                if let Some(order) = home::replied(shared, asked, header.error, &mut reply, passing)? {
                    self.coherent.unsent(unique);
                    shared.orders.give(order(reply));
                    return Ok(Vec::new());
                }
            }
            Some(Pending::Handle(_)) => return Err(malformed.into()),
            None => {}
        }
        let (inner, notices) = match self.coherent.replied(shared, unique, &mut reply, &after, passing) {
            Delivery::Drop => return Ok(Vec::new()),
            Delivery::Give(inner) => (inner, Vec::new()),
            Delivery::GiveAndTell(inner, notices) => (inner, notices),
        };
        if !passing && !notices.is_empty() {
            shared.orders.give(Order::Hush);
        }
        let reply = HomeReply::new(reply, lease)?;
        match shared.guests.find_inner(inner) {
            Some((tid, _)) if passing || !notices.is_empty() => {
                shared.orders.give(Order::ReplyHushed { tid, reply })
            }
            _ => self.pass_on(&reply),
        }
        Ok(notices)
    }

    /// Nothing comes from home any more: whoever waits for it gets an error, so that the kernel lets go of what those hold for whom the
    /// session's threads wait.
    pub fn give_up(&self) {
        for unique in self.coherent.take_unanswered() {
            self.reply(&error_reply(unique, libc::EIO));
        }
    }

    /// The deputy has answered a request on a home object.
    pub fn handle_replied(&self, shared: &Arc<Shared>, unique: u64, payload: &[u8]) -> Result<(), LinkError> {
        wire::split::<HandleReply>(payload, "reply to an operation")?;
        let lease = shared.take_lease(unique | FILE_ID);
        match self.take(unique) {
            Some(Pending::Handle(asked)) => handles::replied(shared, unique, asked, payload, lease),
            // Its process was killed in between.
            _ => Ok(()),
        }
    }
}

/// A reply that is nothing but an error (a positive errno; 0 for success without data).
pub fn error_reply(unique: u64, errno: i32) -> Vec<u8> {
    ReplyHeader {
        length: size_of::<ReplyHeader>() as u32,
        error: -errno,
        unique,
    }
    .as_bytes()
    .to_vec()
}

/// A successful reply from its parts.
pub fn data_reply(unique: u64, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut reply = Vec::with_capacity(size_of::<ReplyHeader>() + length);
    let header = ReplyHeader {
        length: (size_of::<ReplyHeader>() + length) as u32,
        error: 0,
        unique,
    };
    reply.extend_from_slice(header.as_bytes());
    for part in parts {
        reply.extend_from_slice(part);
    }
    reply
}

/// Serves requests until the mount is gone.
pub fn serve(shared: &Arc<Shared>) {
    loop {
        if let Err(error) = shared.files.connections.wait() {
            return warn!("waiting at the file door: {error}");
        }
        if let Err(error) = settle(shared) {
            return debug!("the file door closes: {error}");
        }
    }
}

/// Serves what the kernel has asked so far.
///
/// It tells of a closed file without waiting for an answer. Whoever is about to tell home of something that the guest did
/// after closing one (its end, above all) calls this first, so that home learns of both in their order.
///
/// # Errors
/// The device's, when the mount is gone.
pub fn settle(shared: &Arc<Shared>) -> Result<(), rustix::io::Errno> {
    settle_some(shared).map(drop)
}

/// As [`settle`]; true if there was no more.
fn settle_some(shared: &Arc<Shared>) -> Result<bool, rustix::io::Errno> {
    let mut intake = lock(&shared.files.reading);
    let serve = |request: &mut [u8], data| serve_bytes(shared, request, data);
    shared.files.connections.drain(&mut intake, SETTLED_MAX, serve)
}

fn header_of(bytes: &[u8]) -> Option<RequestHeader> {
    RequestHeader::read_from_prefix(bytes)
        .ok()
        .map(|(header, _)| header)
}

fn serve_bytes(shared: &Arc<Shared>, bytes: &mut [u8], data: Option<Lease>) {
    let Some(header) = header_of(bytes) else {
        return;
    };
    let Some(opcode) = Opcode::from_wire(header.opcode) else {
        return shared.files.reply(&error_reply(header.unique, libc::ENOSYS));
    };
    let request = Request {
        opcode,
        header,
        bytes,
        data,
    };
    if !shared.files.mapped.hold(shared, &request) {
        answer(shared, request);
    }
}

/// Serves a request that was held.
fn serve_held(shared: &Arc<Shared>, bytes: &mut [u8]) {
    if let Some(header) = header_of(bytes)
        && let Some(opcode) = Opcode::from_wire(header.opcode)
    {
        answer(
            shared,
            Request {
                opcode,
                header,
                bytes,
                data: None,
            },
        );
    }
}

/// Serves a request once more, in its turn.
fn serve_again(shared: &Arc<Shared>, bytes: &mut [u8]) {
    let _reading = lock(&shared.files.reading);
    serve_held(shared, bytes);
}

fn answer(shared: &Arc<Shared>, request: Request<'_>) {
    let unique = request.header.unique;
    match serve_one(shared, request) {
        Ok(Outcome::Reply(reply)) => shared.files.reply(&reply),
        Ok(Outcome::Later | Outcome::Instead(_) | Outcome::Promised { .. }) => {}
        Err(errno) => shared.files.reply(&error_reply(unique, errno)),
    }
}

fn serve_one(shared: &Arc<Shared>, request: Request<'_>) -> Result<Outcome, i32> {
    let files = &shared.files;
    match request.opcode {
        Opcode::Init => initialise(files, &request),
        Opcode::Interrupt => {
            interrupt(shared, &request);
            Ok(Outcome::Later)
        }
        Opcode::Destroy => Ok(Outcome::Later),
        // Concerns the nodes of several drivers, but only home counts.
        Opcode::Forget | Opcode::BatchForget => {
            home::forget(shared, &request);
            Ok(Outcome::Later)
        }
        // The root of another connection is nobody's directory: init mounts what is found in it.
        _ if files.places.wants(&request) => places::request(shared, request),
        Opcode::Lookup
            if request.header.node == ROOT_NODE && request.name()? == HIDDEN_DIRECTORY.as_bytes() =>
        {
            Ok(Outcome::Reply(handles::hidden_entry(request.header.unique)))
        }
        Opcode::Lookup if files.proc.wants(shared, &request) => files.proc.request(shared, request),
        _ => files.driver(request.header.node).request(shared, request),
    }
}

fn initialise(files: &Files, request: &Request<'_>) -> Result<Outcome, i32> {
    let asked: InitRequest = request.record()?;
    if asked.major != VERSION_MAJOR {
        return Err(libc::EPROTO);
    }
    let offered = u64::from(asked.flags) | u64::from(asked.flags2) << 32;
    let flags = FLAGS & offered;
    files.home.set_flags(flags);
    if asked.minor >= MINOR_OF_EXPIRY {
        files.coherent.set_expires();
    }
    let reply = InitReply {
        major: VERSION_MAJOR,
        minor: VERSION_MINOR.min(asked.minor),
        max_readahead: asked.max_readahead,
        flags: flags as u32,
        flags2: (flags >> 32) as u32,
        // Closing a file is a background request, which must not be overtaken by what comes after it.
        max_background: u16::MAX,
        congestion_threshold: u16::MAX,
        max_write: TRANSFER_BYTES_MAX as u32,
        max_pages: (TRANSFER_BYTES_MAX / 4096) as u16,
        time_granularity: 1,
        ..InitReply::default()
    };
    Ok(Outcome::Reply(data_reply(
        request.header.unique,
        &[reply.as_bytes()],
    )))
}

/// A caller has a signal while it waits: what can wait long is interrupted at home.
fn interrupt(shared: &Arc<Shared>, request: &Request<'_>) {
    let Ok(InterruptRequest { unique }) = request.record() else {
        return;
    };
    let flag = |pending: &mut HashMap<u64, Pending>| match pending.get_mut(&unique) {
        Some(Pending::Home(asked)) => asked.interrupt(),
        Some(Pending::Handle(asked)) => asked.interrupt(),
        None => false,
    };
    if flag(&mut lock(&shared.files.pending)) {
        shared.cancel(unique | FILE_ID);
    }
}
