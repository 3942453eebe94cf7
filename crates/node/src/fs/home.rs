//! Driver of home's tree: relays requests to home's file service and passes the replies on.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use afield_abi::fuse::{
    ACCESS_BEGINS, ACCESS_DIRECTORY, AccessRequest, BatchForgetRequest, CreateRequest, EntryReply,
    FLOCK_DIRECTORY, FileControl, FileLock, FlushRequest, ForgetOne, ForgetRequest, IoctlReply, IoctlRequest,
    LOCK_DESCRIPTION, LOCK_FLOCK, LockRequest, Opcode, OpenReply, OpenRequest, READ_SHARED, ReadRequest,
    ReleaseRequest, ReplyHeader, RequestHeader, WriteRequest, init_flag, ioctl_flag, open_reply_flag,
    write_flag,
};
use afield_link::frame::{FILE_ID, Kind};
use afield_link::stream::LinkError;
use afield_link::wire::WireError;
use tracing::debug;
use zerocopy::{FromBytes, IntoBytes};

use super::behind::{Behind, Course, Settling};
use super::coherent::kept_flags;
use super::coherent::opens::{LOCAL, Way};
use super::owners::{Owner, Owners};
use super::{
    Driver, Files, HANDLE, HIDDEN, INIT, OWN, Outcome, PROC, Pending, Request, SPECIAL, contents, dev, early,
    lock, proc,
};
use crate::door::descriptors::{CurrentCall, current_call};
use crate::holdings;
use crate::leases::Lease;
use crate::session::Shared;
use crate::trace::Order;
use crate::world::Ids;

/// A relayed request whose reply is more than passed on.
#[derive(Debug)]
pub enum Asked {
    /// A lookup may find a special file, or `/proc`.
    Lookup {
        /// The looking thread, as the world knows it.
        inner: u32,
        /// What it means for `/proc`.
        proc: Option<proc::Sought>,
    },
    /// The reply shows owners that have to be hidden.
    Owner {
        /// What was asked.
        opcode: Opcode,
    },
    /// The reply says how the kernel is to treat an open file.
    Open(Opening),
    /// A write that its caller waits for.
    Write {
        /// What its reply says of those before it, if they are kept account of.
        settling: Option<Settling>,
        /// Where what is written is, until home has written it.
        _data: Option<Lease>,
    },
    /// The reply tells of failed writes before it, too.
    Settle(Settling),
    /// The reply has contents that can be kept.
    Read(contents::Reading),
    /// The reply has contents that nobody has asked for yet.
    Ahead(contents::Flight),
    /// The reply tells half of what is true of a guest.
    Merge(proc::Reading),
    /// Home may wait long (for a lock).
    Wait {
        /// The waiting thread, as the world knows it.
        inner: u32,
        /// It has a signal.
        interrupted: bool,
        /// To the kernel it is device control of a directory.
        controls: bool,
    },
}

/// How a file is opened.
#[derive(Debug, Clone, Copy)]
pub struct Opening {
    /// What was asked.
    opcode: Opcode,
    /// The node; that of a new file the reply tells.
    node: u64,
    /// The file cannot be written through it.
    read_only: bool,
    /// It can be read and written.
    is_mappable: bool,
    /// Its contents are not for the kernel's cache, whatever home says of them.
    uncached: bool,
    /// How it is opened, if others may share it.
    way: Option<Way>,
}

impl Opening {
    fn new(opcode: Opcode, node: u64, flags: u32, way: Option<Way>) -> Self {
        Self {
            opcode,
            node,
            read_only: opcode == Opcode::OpenDirectory
                || opcode == Opcode::Open && flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32,
            is_mappable: is_mappable(flags),
            // Where a file ends, and so where something is appended, only home knows.
            uncached: flags & (libc::O_APPEND | libc::O_DIRECT) as u32 != 0,
            way,
        }
    }
}

impl Asked {
    /// The caller has a signal. True if home is to be asked to interrupt the request.
    pub fn interrupt(&mut self) -> bool {
        match self {
            Self::Wait { interrupted, .. } => !std::mem::replace(interrupted, true),
            _ => false,
        }
    }
}

/// The driver.
#[derive(Debug)]
pub struct Home {
    /// Special files that init has mounted something on: they must stay what they are.
    mounted: Mutex<HashSet<u64>>,
    /// Owners, where the world cannot show them.
    owners: Option<Owners>,
    /// The home user is root.
    privileged: bool,
    /// The kernel can map files that it reads and writes past its cache.
    direct: AtomicBool,
    /// Open files through which nothing can be written: closing one tells home nothing.
    readers: Mutex<HashSet<u64>>,
    /// Nodes on which locks have been asked for: closing one of their files may drop a lock.
    locked: Mutex<HashSet<u64>>,
}

impl Home {
    /// A driver for a world that shows owners in this way, and knows at least this one.
    pub fn new(ids: Ids, owner: Owner) -> Self {
        Self {
            mounted: Mutex::default(),
            owners: match ids {
                Ids::Range => None,
                Ids::Below(below) => Some(Owners::new(owner, Some(below))),
                Ids::Single => Some(Owners::new(owner, None)),
            },
            privileged: owner.0 == 0,
            direct: AtomicBool::new(false),
            readers: Mutex::default(),
            locked: Mutex::default(),
        }
    }

    /// Tells what the kernel can do.
    pub fn set_flags(&self, flags: u64) {
        self.direct
            .store(flags & init_flag::DIRECT_IO_ALLOW_MMAP != 0, Ordering::Relaxed);
    }

    /// True for a close of which home has nothing to learn.
    fn closes_quietly(&self, behind: &Behind, request: &Request<'_>) -> bool {
        if request.opcode == Opcode::Flush && request.header.pid == INIT {
            // It only keeps files for guests, and must not wait for home.
            return true;
        }
        match (request.opcode, request.record::<FlushRequest>()) {
            (Opcode::Flush, Ok(flush)) => {
                (flush.handle & LOCAL != 0
                    || lock(&self.readers).contains(&flush.handle)
                    || behind.is_settled(flush.handle))
                    && !lock(&self.locked).contains(&request.header.node)
            }
            _ => false,
        }
    }

    /// Takes note of what requests mean for closing.
    fn note(&self, shared: &Shared, request: &Request<'_>) {
        if let Some(contents) = &shared.files.contents {
            contents.note(request);
        }
        match request.opcode {
            Opcode::Ioctl if request.header.opcode == Opcode::Ioctl as u32 => {}
            Opcode::SetLock | Opcode::SetLockWait | Opcode::Ioctl => {
                lock(&self.locked).insert(request.header.node);
            }
            Opcode::Release => {
                if let Ok(release) = request.record::<ReleaseRequest>() {
                    lock(&self.readers).remove(&release.handle);
                    if !shared.files.behind.released(release.handle) {
                        shared.files.mapped.end();
                    }
                    shared.files.proc.released(release.handle);
                }
            }
            _ => {}
        }
    }

    /// What home does not say the changes of is read and written past the node's cache: asking whether that is still valid costs as
    /// much as reading.
    fn opened(&self, files: &Files, node: u64, reply: &mut OpenReply, how: Opening) {
        let may = reply.open_flags & open_reply_flag::BEHIND != 0;
        reply.open_flags &= !open_reply_flag::BEHIND;
        let directory = how.opcode == Opcode::OpenDirectory;
        let kept = reply.open_flags & open_reply_flag::KEEP_CACHE != 0 && !how.uncached;
        if kept {
            reply.open_flags |= kept_flags(directory);
        } else {
            reply.open_flags &= !(open_reply_flag::KEEP_CACHE | open_reply_flag::CACHE_DIRECTORY);
            if !directory && self.direct.load(Ordering::Relaxed) {
                reply.open_flags |= open_reply_flag::DIRECT_IO;
            }
        }
        let way = how.way.filter(|_| kept);
        if let Some(handle) = way.and_then(|way| files.coherent.hold(way, reply.handle)) {
            reply.handle = handle;
        } else if how.read_only {
            lock(&self.readers).insert(reply.handle);
        } else if !directory {
            files
                .behind
                .opened(reply.handle, node, may, how.is_mappable, Instant::now());
        }
    }

    /// Whether a guest may hold a lock, so that home must learn of closed files in good time.
    pub fn has_locks(&self) -> bool {
        !lock(&self.locked).is_empty()
    }

    /// Whether the home user may do what the node's kernel refuses to everybody in a world.
    pub fn is_privileged(&self) -> bool {
        self.privileged
    }

    /// The owners, if they have to be corrected.
    pub fn owners(&self) -> Option<&Owners> {
        self.owners.as_ref()
    }

    /// What is to be remembered of a request.
    fn asked(&self, shared: &Shared, request: &Request<'_>) -> Option<Asked> {
        let inner = request.header.pid;
        match request.opcode {
            Opcode::Lookup => Some(Asked::Lookup {
                inner,
                proc: shared.files.proc.sought(shared, request),
            }),
            Opcode::SetLockWait => Some(Asked::Wait {
                inner,
                interrupted: false,
                controls: false,
            }),
            opcode @ (Opcode::Open | Opcode::OpenDirectory) => {
                let flags = request.record::<OpenRequest>().map_or(0, |open| open.flags);
                let way = shared.files.coherent.way(request);
                Some(Asked::Open(Opening::new(opcode, request.header.node, flags, way)))
            }
            opcode @ (Opcode::Create | Opcode::TemporaryFile) => {
                let flags = request.record::<CreateRequest>().map_or(0, |create| create.flags);
                Some(Asked::Open(Opening::new(opcode, 0, flags, None)))
            }
            Opcode::Flush | Opcode::Sync => {
                // Both records begin with the handle.
                let handle = request.record::<u64>().unwrap_or(0);
                let settling = shared.files.behind.settling(handle);
                Some(Asked::Settle(settling))
            }
            opcode => (self.owners.is_some() && Owners::concern(opcode)).then_some(Asked::Owner { opcode }),
        }
    }
}

impl Driver for Home {
    fn request(&self, shared: &Arc<Shared>, request: Request<'_>) -> Result<Outcome, i32> {
        let locks = match request.opcode {
            Opcode::Ioctl => directory_lock(&request)?,
            _ => None,
        };
        let Some(mut bytes) = locks else {
            return self.relay(shared, request);
        };
        let (header, _) = RequestHeader::read_from_prefix(&bytes).map_err(|_| libc::EINVAL)?;
        let asked = Asked::Wait {
            inner: header.pid,
            interrupted: false,
            controls: true,
        };
        shared.files.expect(header.unique, Pending::Home(asked));
        self.relay(
            shared,
            Request {
                opcode: request.opcode,
                header,
                bytes: &mut bytes,
                data: None,
            },
        )
    }
}

impl Home {
    /// Asks home, if the answer is not known here.
    pub(super) fn relay(&self, shared: &Arc<Shared>, mut request: Request<'_>) -> Result<Outcome, i32> {
        let unique = request.header.unique;
        if self.closes_quietly(&shared.files.behind, &request) {
            return Ok(Outcome::Reply(super::error_reply(unique, 0)));
        }
        if request.header.opcode == Opcode::Ioctl as u32
            && request
                .record()
                .is_ok_and(|control| FileControl::asked(&control).is_none())
        {
            return Ok(Outcome::Reply(super::error_reply(unique, libc::ENOTTY)));
        }
        if cuts_for_reading(&request) && holdings::is_executed(shared, request.header.node) {
            // The kernel looks after that only when home has cut it.
            return Err(libc::ETXTBSY);
        }
        self.note(shared, &request);
        let caller = shared.guests.find_inner(request.header.pid);
        if let (Some((tid, _)), Opcode::GetLock | Opcode::SetLock | Opcode::SetLockWait) =
            (caller, request.opcode)
        {
            mark_description_lock(tid, request.bytes);
        }
        if let (Some((tid, pid)), Opcode::Access) = (caller, request.opcode)
            && mark_directory(tid, request.bytes)
            && shared.guests.process(pid) == Some(false)
        {
            return begin_there(shared, pid, &mut request);
        }
        match shared.files.coherent.request(shared, &mut request)? {
            None => {}
            Some(Outcome::Instead(bytes)) => return self.send(shared, &request, &bytes),
            Some(Outcome::Promised {
                request: promised,
                reply,
            }) => {
                self.send(shared, &request, &promised)?;
                return Ok(Outcome::Reply(reply));
            }
            Some(outcome) => return Ok(outcome),
        }
        let mut is_merged = false;
        if request.opcode == Opcode::Read
            && let Some(read) = shared.files.proc.reads(shared, &mut request)
        {
            is_merged = true;
            match read {
                proc::Read::Merge(reading) => {
                    shared.files.expect(unique, Pending::Home(Asked::Merge(reading)))
                }
                proc::Read::Rest(text) => {
                    shared.files.coherent.unsent(unique);
                    return Ok(Outcome::Reply(super::data_reply(unique, &[&text])));
                }
            }
        }
        let mut answer = None;
        share_write(&mut request);
        if request.opcode == Opcode::Write {
            let course = shared.files.behind.write(&mut request, Instant::now());
            if !matches!(course, Ok(Some(Course::Wait(_)) | None)) {
                // Nobody waits for home's reply.
                shared.files.coherent.unsent(unique);
            }
            if course.is_err() {
                shared.files.coherent.forget_attributes(request.header.node);
            }
            match course? {
                Some(Course::Answer(reply)) => answer = Some(reply),
                course => {
                    shared.files.coherent.written_at_home(request.header.node);
                    let settling = match course {
                        Some(Course::Wait(settling)) => Some(settling),
                        _ => None,
                    };
                    let asked = Asked::Write {
                        settling,
                        _data: request.data.take(),
                    };
                    shared.files.expect(unique, Pending::Home(asked));
                }
            }
        } else if let Some(asked) = self.asked(shared, &request) {
            shared.files.expect(unique, Pending::Home(asked));
        }
        let pid = caller.map_or(0, |(_, pid)| pid);
        let at = std::mem::offset_of!(RequestHeader, pid);
        request.bytes[at..at + 4].copy_from_slice(&pid.to_ne_bytes());
        if request.opcode == Opcode::Read
            && let Some(contents) = &shared.files.contents
            && let Some(outcome) = self.read_kept(shared, contents, &mut request)
        {
            return outcome;
        }
        if answer.is_none()
            && let Some(outcome) = early::answer(shared, &request)
        {
            return Ok(outcome);
        }
        if request.opcode == Opcode::Read && !is_merged {
            share_read(shared, &mut request);
        }
        if let (Some(leases), Some(data)) = (&shared.leases, request.data.take()) {
            leases.keep(unique | FILE_ID, data);
        }
        let Some(answer) = answer else {
            return self.send(shared, &request, request.bytes);
        };
        let joined = shared
            .files
            .joined
            .send(&shared.writer, request.bytes, Instant::now());
        if !joined.map_err(|_| libc::EIO)? {
            self.send(shared, &request, request.bytes)?;
        }
        shared.files.coherent.sent_behind(&request);
        Ok(Outcome::Reply(answer))
    }

    /// Serves a read from what the node has kept, or asks home so that it can be kept.
    fn read_kept(
        &self,
        shared: &Arc<Shared>,
        contents: &contents::Contents,
        request: &mut Request<'_>,
    ) -> Option<Result<Outcome, i32>> {
        let unique = request.header.unique;
        let (step, flights) = contents.read(request);
        let outcome = match step {
            contents::Step::Pass => return None,
            contents::Step::Reply(reply) => {
                shared.files.coherent.unsent(unique);
                Ok(Outcome::Reply(reply))
            }
            contents::Step::Later => Ok(Outcome::Later),
            contents::Step::Ask(reading) => {
                shared.files.expect(unique, Pending::Home(Asked::Read(reading)));
                self.send(shared, request, request.bytes)
            }
        };
        contents::fly(shared, contents, flights, request.bytes);
        Some(outcome)
    }

    fn send(&self, shared: &Shared, request: &Request<'_>, bytes: &[u8]) -> Result<Outcome, i32> {
        let unique = RequestHeader::read_from_prefix(bytes).map_or(0, |(header, _)| header.unique);
        let sent = shared.writer.write_frame(Kind::File, unique | FILE_ID, &[bytes]);
        match sent {
            Ok(()) => Ok(Outcome::Later),
            Err(error) => {
                debug!("relaying {:?}: {error}", request.opcode);
                shared.files.take(unique);
                shared.take_lease(unique | FILE_ID);
                shared.files.coherent.unsent(unique);
                Err(libc::EIO)
            }
        }
    }
}

/// Says in a write where its data is, if that does not follow.
fn share_write(request: &mut Request<'_>) {
    let Some((place, _)) = request.data.as_ref().map(Lease::place) else {
        return;
    };
    let length = request.bytes.len() as u32;
    if let Ok((header, body)) = RequestHeader::mut_from_prefix(request.bytes)
        && let Ok((record, _)) = WriteRequest::mut_from_prefix(body)
    {
        header.length = length;
        record.write_flags |= write_flag::SHARED;
        record.place = place as u32;
    }
}

/// Lends home a place for what is read, if there is one.
fn share_read(shared: &Shared, request: &mut Request<'_>) {
    let body = request.bytes.get_mut(size_of::<RequestHeader>()..);
    let Some(Ok((record, _))) = body.map(ReadRequest::mut_from_prefix) else {
        return;
    };
    let lease = shared
        .leases
        .as_ref()
        .and_then(|leases| leases.lend(record.size as usize));
    if let Some(lease) = &lease {
        record.read_flags |= READ_SHARED;
        record.place = lease.place().0 as u32;
    }
    request.data = lease;
}

/// A directory's `flock`, as home takes it. The tracer has made it what it is (`trace::locks`).
/// `None` for any other command.
fn directory_lock(request: &Request<'_>) -> Result<Option<Vec<u8>>, i32> {
    let control: IoctlRequest = request.record()?;
    if control.command != FLOCK_DIRECTORY || control.flags & ioctl_flag::DIRECTORY == 0 {
        return Ok(None);
    }
    let operation = control.argument as i32;
    let kind = match operation & !libc::LOCK_NB {
        libc::LOCK_SH => libc::F_RDLCK,
        libc::LOCK_EX => libc::F_WRLCK,
        libc::LOCK_UN => libc::F_UNLCK,
        _ => return Err(libc::EINVAL),
    };
    let opcode = match operation & libc::LOCK_NB {
        0 => Opcode::SetLockWait,
        _ => Opcode::SetLock,
    };
    let header = RequestHeader {
        length: (size_of::<RequestHeader>() + size_of::<LockRequest>()) as u32,
        opcode: opcode as u32,
        ..request.header
    };
    let lock = LockRequest {
        handle: control.handle,
        lock: FileLock {
            end: i64::MAX as u64,
            kind: kind as u32,
            ..FileLock::default()
        },
        flags: LOCK_FLOCK,
        ..LockRequest::default()
    };
    Ok(Some([header.as_bytes(), lock.as_bytes()].concat()))
}

/// Whether a file is to be cut by who does not ask to write to it.
fn cuts_for_reading(request: &Request<'_>) -> bool {
    let flags = match (request.opcode, request.record::<OpenRequest>()) {
        (Opcode::Open, Ok(open)) => open.flags,
        _ => return false,
    };
    flags & libc::O_TRUNC as u32 != 0 && flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32
}

/// Whether a file opened with these flags can be mapped so that stores change it.
fn is_mappable(flags: u32) -> bool {
    flags & libc::O_ACCMODE as u32 == libc::O_RDWR as u32
}

/// FUSE does not tell locks of open descriptions from those of processes; the call that waits for it does.
fn mark_description_lock(tid: i32, request: &mut [u8]) {
    let commands = [libc::F_OFD_GETLK, libc::F_OFD_SETLK, libc::F_OFD_SETLKW];
    let by_description = current_call(tid).is_some_and(|call| {
        call.number as i64 == libc::SYS_fcntl && commands.contains(&(call.arguments[1] as i32))
    });
    let body = request.get_mut(size_of::<RequestHeader>()..);
    if let (true, Some(Ok((lock, _)))) = (by_description, body.map(LockRequest::mut_from_prefix)) {
        lock.flags |= LOCK_DESCRIPTION;
    }
}

/// Asking whether a directory may be searched is the last that `chdir` does before it changes the working directory, which
/// is the deputy's, too.
fn mark_directory(tid: i32, request: &mut [u8]) -> bool {
    let changes = |call: CurrentCall| matches!(call.number as i64, libc::SYS_chdir | libc::SYS_fchdir);
    let body = request.get_mut(size_of::<RequestHeader>()..);
    let Some(Ok((access, _))) = body.map(AccessRequest::mut_from_prefix) else {
        return false;
    };
    let changes = current_call(tid).is_some_and(changes);
    if changes {
        access.mask |= ACCESS_DIRECTORY;
    }
    changes
}

/// A job begins where its deputy is. Home is told, and has nothing to answer.
fn begin_there(shared: &Shared, pid: u32, request: &mut Request<'_>) -> Result<Outcome, i32> {
    let unique = request.header.unique;
    if let Ok((header, body)) = RequestHeader::mut_from_prefix(request.bytes)
        && let Ok((access, _)) = AccessRequest::mut_from_prefix(body)
    {
        header.pid = pid;
        access.mask |= ACCESS_BEGINS;
    }
    let sent = shared
        .writer
        .write_frame(Kind::File, unique | FILE_ID, &[request.bytes]);
    sent.map_err(|_| libc::EIO)?;
    Ok(Outcome::Reply(super::error_reply(unique, 0)))
}

/// Home's reply to a request that was remembered. What is to be done in place of passing it on is returned. With `passing`, it has
/// overtaken other news, and what it says is for the asker alone.
pub fn replied(
    shared: &Arc<Shared>,
    asked: Asked,
    error: i32,
    reply: &mut Vec<u8>,
    passing: bool,
) -> Result<Option<fn_order::Make>, LinkError> {
    let home = &shared.files.home;
    let body = &mut reply[size_of::<ReplyHeader>()..];
    match asked {
        Asked::Lookup { inner, proc } if error == 0 => {
            let malformed = || LinkError::from(WireError::Malformed("file reply"));
            if let Some(owners) = home.owners() {
                owners.hide_in_reply(Opcode::Lookup, body);
            }
            let (mut entry, _) = EntryReply::read_from_prefix(body).map_err(|_| malformed())?;
            if entry.node & OWN != 0 {
                return Err(malformed());
            }
            if let Some(sought) = proc {
                shared.files.proc.found(sought, entry.node);
                (entry.entry_valid, entry.entry_valid_nanoseconds) = (0, 0);
                body[..size_of::<EntryReply>()].copy_from_slice(entry.as_bytes());
            }
            if dev::is_special(entry.attributes.mode) {
                if shared.files.places.is_maker(inner) {
                    lock(&home.mounted).insert(entry.node);
                } else if !lock(&home.mounted).contains(&entry.node) {
                    dev::present(shared, inner, &mut entry);
                }
                body[..size_of::<EntryReply>()].copy_from_slice(entry.as_bytes());
            }
        }
        Asked::Owner { opcode } if error == 0 => {
            if let Some(owners) = home.owners() {
                owners.hide_in_reply(opcode, body);
            }
        }
        Asked::Open(how) if error == 0 => {
            let (mut at, mut node) = (0, how.node);
            if matches!(how.opcode, Opcode::Create | Opcode::TemporaryFile) {
                node = EntryReply::read_from_prefix(body).map_or(0, |(entry, _)| entry.node);
                if let Some(contents) = &shared.files.contents {
                    contents.written(node);
                }
                if let Some(owners) = home.owners() {
                    owners.hide_in_reply(how.opcode, body);
                }
                at = size_of::<EntryReply>();
            }
            if let Some(Ok((open, _))) = body.get_mut(at..).map(OpenReply::mut_from_prefix) {
                home.opened(&shared.files, node, open, how);
            }
            if let (Some(contents), Opcode::Open) = (&shared.files.contents, how.opcode) {
                contents.opened(how.node, reply, how.read_only && !passing)?;
            }
        }
        Asked::Write {
            settling: Some(settling),
            ..
        } => shared.files.behind.waited(settling, error, body, Instant::now()),
        Asked::Settle(settling) => {
            if let Some(errno) = shared.files.behind.settled(settling, error) {
                let unique = ReplyHeader::read_from_prefix(reply).map_or(0, |(header, _)| header.unique);
                *reply = super::error_reply(unique, errno);
            }
        }
        Asked::Read(reading) => {
            if let Some(contents) = &shared.files.contents {
                contents.came(reading, error, reply, passing);
            }
        }
        Asked::Ahead(flight) => {
            if let Some(contents) = &shared.files.contents {
                contents.came_ahead(flight, error, reply, passing);
            }
        }
        Asked::Merge(reading) if error == 0 => {
            let (head, text) = reply.split_at(size_of::<ReplyHeader>());
            let unique = ReplyHeader::read_from_bytes(head).map_or(0, |header| header.unique);
            *reply = super::data_reply(unique, &[&proc::merged(shared, reading, text)]);
        }
        Asked::Wait { controls: true, .. } if error == 0 => {
            reply.extend_from_slice(IoctlReply::default().as_bytes());
            let length = (reply.len() as u32).to_ne_bytes();
            reply[..length.len()].copy_from_slice(&length);
        }
        Asked::Wait {
            inner,
            interrupted: true,
            ..
        } if error == -libc::EINTR => {
            if let Some((tid, _)) = shared.guests.find_inner(inner) {
                return Ok(Some(Box::new(move |reply| Order::ReplyInterrupted {
                    tid,
                    reply,
                })));
            }
        }
        _ => {}
    }
    Ok(None)
}

mod fn_order {
    /// Makes an order of a reply.
    pub type Make = Box<dyn FnOnce(Vec<u8>) -> crate::trace::Order>;
}

/// The node of home that a lookup count belongs to; `None` if home does not count it.
fn counted(shared: &Shared, node: u64) -> Option<u64> {
    if node & SPECIAL != 0 {
        // It was looked up once.
        shared.files.special.forget(node)
    } else {
        (node & (HANDLE | HIDDEN | PROC) == 0).then_some(node)
    }
}

/// Lookups are forgotten: those of home's nodes are passed on.
pub fn forget(shared: &Shared, request: &Request<'_>) {
    let mut forgets = Vec::new();
    if request.opcode == Opcode::Forget {
        if let (Some(node), Ok(ForgetRequest { lookups })) =
            (counted(shared, request.header.node), request.record())
        {
            shared.files.coherent.forget(shared, request.header.node, lookups);
            forgets.push(ForgetOne { node, lookups });
        }
    } else if let Ok((_, mut rest)) = BatchForgetRequest::read_from_prefix(request.body()) {
        while let Ok((one, after)) = ForgetOne::read_from_prefix(rest) {
            rest = after;
            if let Some(node) = counted(shared, one.node) {
                let lookups = one.lookups;
                shared.files.coherent.forget(shared, one.node, lookups);
                forgets.push(ForgetOne { node, lookups });
            }
        }
    }
    if forgets.is_empty() {
        return;
    }
    shared.files.proc.forget(forgets.iter().map(|forget| forget.node));
    if let Some(contents) = &shared.files.contents {
        for forget in &forgets {
            contents.forget(forget.node);
        }
    }
    {
        let mut locked = lock(&shared.files.home.locked);
        if !locked.is_empty() {
            for forget in &forgets {
                locked.remove(&forget.node);
            }
        }
    }
    send_forgets(shared, &forgets);
}

/// Home is told of forgotten lookups.
pub fn send_forgets(shared: &Shared, forgets: &[ForgetOne]) {
    if forgets.is_empty() {
        return;
    }
    let batch = BatchForgetRequest {
        count: forgets.len() as u32,
        padding: 0,
    };
    let header = RequestHeader {
        length: (size_of::<RequestHeader>() + size_of::<BatchForgetRequest>() + size_of_val(forgets)) as u32,
        opcode: Opcode::BatchForget as u32,
        ..RequestHeader::default()
    };
    let parts = [header.as_bytes(), batch.as_bytes(), forgets.as_bytes()];
    if let Err(error) = shared.writer.write_frame(Kind::File, FILE_ID, &parts) {
        debug!("forgetting: {error}");
    }
}
