//! Home objects behind the file door: inherited descriptors, and special files opened at home.
//!
//! Every request becomes an operation of the deputy whose process asks, and completes when that answers.

mod replies;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use afield_abi::fuse::{
    AllocateRequest, Attributes, AttributesReply, EntryReply, FileLock, FlushRequest, IoctlRequest,
    LockRequest, Opcode, OpenReply, OpenRequest, POLL_SCHEDULE_NOTIFY, PollReply, PollRequest, ReadRequest,
    ReleaseRequest, RequestHeader, SYNC_DATA_ONLY, SeekRequest, SyncRequest, WriteRequest, open_reply_flag,
};
use afield_link::frame::{FILE_ID, Kind};
use afield_link::wire::{HandleHeader, HandleOp, NODE_HANDLE, ToHome, deaf, note};
use tracing::debug;
use zerocopy::{FromBytes, IntoBytes};

pub use replies::{raise_broken_pipe, replied};

use super::owners::Owner;
use super::terminal::{Transfer, legacy_transfer};
use super::{Driver, HANDLE, HIDDEN, Outcome, Pending, Request, TRANSFER_BYTES_MAX, data_reply, error_reply};
use crate::door::descriptors::{current_call, has_node};
use crate::session::{Asking, Shared};
use crate::sys::{memory, signals};
use crate::trace::is_status_call;

/// A request that waits for the deputy.
#[derive(Debug)]
pub struct Asked {
    /// Home pid of the caller's process.
    pub pid: u32,
    /// The caller has a signal, and home has been asked to interrupt the operation.
    interrupted: bool,
    /// The calling thread in the session's pid namespace.
    tid: i32,
    /// The object.
    handle: u64,
    /// How often home had told that it is ready.
    told: u32,
    kind: What,
}

impl Asked {
    /// The caller has a signal. True if home is to be asked to interrupt the operation.
    pub fn interrupt(&mut self) -> bool {
        let may_wait = matches!(
            self.kind,
            What::Open { .. }
                | What::Read { .. }
                | What::Write { .. }
                | What::Ioctl { .. }
                | What::Lock { .. }
        );
        may_wait && !std::mem::replace(&mut self.interrupted, true)
    }
}

/// What was asked.
#[derive(Debug)]
enum What {
    Attributes {
        node: u64,
        correct: bool,
    },
    Statx {
        node: u64,
        correct: bool,
    },
    Open {
        node: u64,
    },
    Read {
        shared_offset: bool,
        size: usize,
    },
    Write {
        shared_offset: bool,
    },
    Poll,
    Ioctl {
        command: u32,
        encoded: bool,
        place: u64,
        output: usize,
    },
    Seek,
    Lock {
        test: bool,
    },
    Plain,
}

/// Most processes that are woken for one object.
const POLLERS_MAX: usize = 64;

/// Name, in the hidden directory, of the place where the world's own `/proc` is mounted.
pub const HIDDEN_PROC: &str = "proc";

const HIDDEN_PROC_NODE: u64 = HIDDEN | 1;

/// What the node knows of a home object.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// It has no offset.
    stream: bool,
    /// Where the node's kernel believes the shared offset to be, after the last operation that moved it.
    offset: i64,
    /// Job control applies to it.
    terminal: bool,
    /// Open files of it in the world.
    opens: u32,
    /// What it is ready for (`POLL*`); whatever is missing, home will tell. `None` if that has to be asked.
    ready: Option<u32>,
    /// The process whose deputy tells.
    watcher: u32,
    /// How often it has.
    told: u32,
    /// Programs want to know of every arrival (`EPOLLET`), not only of the first.
    edge: bool,
    /// The agent keeps a copy for guests who get it from others.
    shared: bool,
}

/// The home objects of a session.
#[derive(Debug)]
pub struct Handles {
    /// Whom they are shown to belong to: one whom the world knows.
    owner: Owner,
    known: Mutex<HashMap<u64, Known>>,
    /// Polling open files, in the kernel's numbering, by handle.
    watchers: Mutex<HashMap<u64, Vec<u64>>>,
    /// Processes that have polled objects, by handle.
    pollers: Mutex<HashMap<u64, Vec<u32>>>,
}

impl Handles {
    /// No objects yet.
    pub fn new(owner: Owner) -> Self {
        Self {
            owner,
            known: Mutex::default(),
            watchers: Mutex::default(),
            pollers: Mutex::default(),
        }
    }

    /// Attributes under which the node's kernel sees an object; what guests see is corrected at the end of their call.
    fn stand_in(&self, node: u64) -> Attributes {
        Attributes {
            inode: node,
            mode: libc::S_IFREG | 0o666,
            links: 1,
            block_size: 4096,
            uid: self.owner.0,
            gid: self.owner.1,
            ..Attributes::default()
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an object known.
    pub fn add(&self, handle: u64, stream: bool, offset: i64) {
        let known = Known {
            stream,
            offset,
            ..Known::default()
        };
        self.known().insert(handle, known);
    }

    /// An object is a terminal.
    pub fn mark_terminal(&self, handle: u64) {
        self.change(handle, |known| known.terminal = true);
    }

    /// What home has to know of a thread's signals for an operation on this object; see [`deaf`].
    pub fn deafness(&self, tid: i32, handle: u64) -> u32 {
        if !self.get(handle).is_some_and(|known| known.terminal) {
            return 0;
        }
        let Ok(state) = signals::State::of(tid) else {
            return 0;
        };
        let deaf_to = state.blocked | state.ignored;
        let mut flags = 0;
        for (signal, flag) in [(libc::SIGTTIN, deaf::TO_INPUT), (libc::SIGTTOU, deaf::TO_OUTPUT)] {
            if deaf_to & signals::bit(signal) != 0 {
                flags |= flag;
            }
        }
        flags
    }

    fn get(&self, handle: u64) -> Option<Known> {
        self.known().get(&handle).copied()
    }

    fn change<T>(&self, handle: u64, change: impl FnOnce(&mut Known) -> T) -> Option<T> {
        self.known().get_mut(&handle).map(change)
    }

    /// An object is no more.
    pub fn forget(&self, handle: u64) {
        self.known().remove(&handle);
        self.take_watchers(handle);
        self.pollers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&handle);
    }

    /// True if the object has an offset that is shared with home.
    pub fn is_seekable(&self, handle: u64) -> bool {
        self.get(handle).is_some_and(|known| !known.stream)
    }

    /// Sets where the node's kernel believes the offset to be.
    pub fn set_offset(&self, handle: u64, offset: i64) {
        self.change(handle, |known| known.offset = offset);
    }

    fn advance(&self, handle: u64, count: i64) {
        self.change(handle, |known| known.offset += count);
    }

    /// How often home has told that the object is ready: goes with a question, for [`Self::learn`].
    pub fn ask(&self, handle: u64) -> Asking {
        let told = self.get(handle).map_or(0, |known| known.told);
        Asking { handle, told }
    }

    /// What a reply says of the object's readiness; without [`note::READY`] that it is not known any more.
    pub fn learn(&self, asking: Asking, pid: u32, ready: u32, notes: u32) {
        self.change(asking.handle, |known| {
            if notes & note::READY == 0 {
                known.ready = None;
                return;
            }
            // What home told since the question may be newer than the reply.
            let since = if known.told == asking.told {
                0
            } else {
                known.ready.unwrap_or_default()
            };
            known.ready = Some(ready | since);
            known.watcher = pid;
        });
    }

    /// Home tells that the object is ready.
    pub fn tell(&self, handle: u64, pid: u32, events: u32) {
        self.change(handle, |known| {
            known.told = known.told.wrapping_add(1);
            // Of a broken connection nothing more is told.
            let broken = events & (libc::POLLHUP | libc::POLLERR) as u32 != 0;
            known.ready = match known.ready {
                Some(ready) if known.watcher == pid && !broken => Some(ready | events),
                _ => None,
            };
        });
    }

    /// Programs want to know of every arrival from now on.
    pub fn want_edges(&self, handle: u64) {
        self.change(handle, |known| {
            if !std::mem::replace(&mut known.edge, true) {
                known.ready = None;
            }
        });
    }

    /// The agent keeps a copy of it.
    pub fn set_shared(&self, handle: u64) {
        self.change(handle, |known| known.shared = true);
    }

    /// Those who poll an object, who will have to ask again.
    pub fn take_watchers(&self, handle: u64) -> Vec<u64> {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.remove(&handle).unwrap_or_default()
    }

    /// How many processes are to be woken when an object is ready: each wake reaches one of those that wait exclusively
    /// (`EPOLLEXCLUSIVE`), and that may be one for which another has taken what there was.
    pub fn poller_count(&self, handle: u64) -> usize {
        let pollers = self.pollers.lock().unwrap_or_else(PoisonError::into_inner);
        pollers.get(&handle).map_or(1, Vec::len)
    }

    fn note_poller(&self, handle: u64, pid: u32) {
        let mut pollers = self.pollers.lock().unwrap_or_else(PoisonError::into_inner);
        let list = pollers.entry(handle).or_default();
        if !list.contains(&pid) {
            if list.len() >= POLLERS_MAX {
                list.remove(0);
            }
            list.push(pid);
        }
    }

    fn watch(&self, handle: u64, kernel_handle: u64) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let list = watchers.entry(handle).or_default();
        if !list.contains(&kernel_handle) {
            list.push(kernel_handle);
        }
    }
}

/// Entries can be reached by those who know them, and are listed to nobody.
fn directory(node: u64) -> Attributes {
    Attributes {
        inode: node,
        mode: libc::S_IFDIR | 0o711,
        links: 2,
        block_size: 4096,
        ..Attributes::default()
    }
}

/// The hidden directory's entry in the root.
pub fn hidden_entry(unique: u64) -> Vec<u8> {
    directory_entry(unique, HIDDEN)
}

fn directory_entry(unique: u64, node: u64) -> Vec<u8> {
    let entry = EntryReply {
        node,
        attributes: directory(node),
        ..EntryReply::default()
    };
    data_reply(unique, &[entry.as_bytes()])
}

impl Driver for Handles {
    fn request(&self, shared: &Arc<Shared>, request: Request<'_>) -> Result<Outcome, i32> {
        if request.header.node & HIDDEN != 0 {
            hidden(shared, &request)
        } else {
            object(shared, request.opcode, &request.header, request.body())
        }
    }
}

/// The hidden directory, and in it the one on which init mounts the world's own `/proc`.
fn hidden(shared: &Shared, request: &Request<'_>) -> Result<Outcome, i32> {
    let Request { opcode, header, .. } = request;
    let reply = match opcode {
        Opcode::GetAttributes => {
            let reply = AttributesReply {
                attributes: directory(header.node),
                ..AttributesReply::default()
            };
            data_reply(header.unique, &[reply.as_bytes()])
        }
        Opcode::Lookup if header.node == HIDDEN => {
            let name = request.name()?;
            if name == HIDDEN_PROC.as_bytes() {
                directory_entry(header.unique, HIDDEN_PROC_NODE)
            } else {
                let handle: u64 = std::str::from_utf8(name)
                    .ok()
                    .and_then(|name| name.parse().ok())
                    .ok_or(libc::ENOENT)?;
                // Only a thread of init's making is not a guest yet. Others have their descriptors already.
                let stranger = shared.guests.process(header.pid).is_none_or(|executed| !executed);
                if shared.files.handles.get(handle).is_none() || !stranger {
                    return Err(libc::ENOENT);
                }
                let node = HANDLE | handle;
                let entry = EntryReply {
                    node,
                    attributes: shared.files.handles.stand_in(node),
                    ..EntryReply::default()
                };
                data_reply(header.unique, &[entry.as_bytes()])
            }
        }
        Opcode::Access => error_reply(header.unique, 0),
        _ => return Err(libc::EACCES),
    };
    Ok(Outcome::Reply(reply))
}

/// The reads and writes that name their offset.
fn is_positional(tid: i32) -> bool {
    match current_call(tid).map(|call| call.number as i64) {
        Some(libc::SYS_pread64 | libc::SYS_pwrite64 | libc::SYS_preadv | libc::SYS_pwritev) => true,
        Some(libc::SYS_preadv2 | libc::SYS_pwritev2) => {
            current_call(tid).is_some_and(|call| call.arguments[3] != u64::MAX)
        }
        Some(_) => false,
        // A page fault.
        None => true,
    }
}

struct Operation<'a> {
    op: HandleOp,
    handle: u64,
    offset: i64,
    argument: u64,
    size: usize,
    flags: u32,
    data: &'a [u8],
}

impl Operation<'_> {
    fn new(op: HandleOp, handle: u64) -> Self {
        Self {
            op,
            handle,
            offset: -1,
            argument: 0,
            size: 0,
            flags: 0,
            data: &[],
        }
    }

    fn send(&self, shared: &Shared, pid: u32, id: u64) -> Result<(), i32> {
        let header = HandleHeader {
            pid: pid.into(),
            op: (self.op as u32).into(),
            handle: self.handle.into(),
            offset: self.offset.into(),
            argument: self.argument.into(),
            size: (self.size as u32).into(),
            flags: self.flags.into(),
        };
        shared
            .writer
            .write_frame(Kind::Handle, id, &[header.as_bytes(), self.data])
            .map_err(|error| {
                debug!("{:?}: {error}", self.op);
                libc::EIO
            })
    }
}

/// Sends an operation of home's deputy `pid` that is not a file request, under a call's frame id.
pub fn send_operation(
    shared: &Shared,
    id: u64,
    pid: u32,
    op: HandleOp,
    handle: u64,
    what: (i64, u64, usize),
) -> Result<(), i32> {
    send_operation_with(shared, id, pid, (op, handle), what, (&[], 0))
}

/// The same with data and the flags of the guest's open file.
pub fn send_operation_with(
    shared: &Shared,
    id: u64,
    pid: u32,
    (op, handle): (HandleOp, u64),
    (offset, argument, size): (i64, u64, usize),
    (data, flags): (&[u8], u32),
) -> Result<(), i32> {
    Operation {
        offset,
        argument,
        size,
        flags,
        data,
        ..Operation::new(op, handle)
    }
    .send(shared, pid, id)
}

fn object(shared: &Arc<Shared>, opcode: Opcode, header: &RequestHeader, body: &[u8]) -> Result<Outcome, i32> {
    let files = &shared.files;
    let unique = header.unique;
    let node = header.node;
    let Some((tid, pid)) = shared.guests.find_inner(header.pid) else {
        return without_caller(shared, opcode, header, body);
    };
    fn read<T: FromBytes>(body: &[u8]) -> Result<T, i32> {
        T::read_from_prefix(body)
            .map(|(record, _)| record)
            .map_err(|_| libc::EINVAL)
    }
    let ask = |handle: u64, kind: What, operation: Operation<'_>| -> Result<Outcome, i32> {
        let told = files.handles.ask(handle).told;
        files.expect(
            unique,
            Pending::Handle(Asked {
                pid,
                interrupted: false,
                tid,
                handle,
                told,
                kind,
            }),
        );
        operation.send(shared, pid, unique | FILE_ID).inspect_err(|_| {
            files.take(unique);
        })?;
        Ok(Outcome::Later)
    };
    let by_node = || files.object_of(node).ok_or(libc::EBADF);
    match opcode {
        Opcode::GetAttributes | Opcode::Statx => {
            let Ok(handle) = by_node() else {
                // A special file that is just being opened.
                let reply = AttributesReply {
                    attributes: shared.files.handles.stand_in(node),
                    ..AttributesReply::default()
                };
                return Ok(Outcome::Reply(data_reply(unique, &[reply.as_bytes()])));
            };
            let correct = current_call(tid).is_some_and(|call| is_status_call(call.number));
            let kind = if opcode == Opcode::Statx {
                What::Statx { node, correct }
            } else {
                What::Attributes { node, correct }
            };
            ask(handle, kind, Operation::new(HandleOp::Stat, handle))
        }
        Opcode::Open => {
            let request: OpenRequest = read(body)?;
            if node & HANDLE != 0 {
                // Through `/proc`.
                if let Some(process) = shared.guests.lock().process_mut(pid) {
                    process.duplicates.add(node & !HANDLE);
                }
                return open_known(shared, header);
            }
            open_special(shared, header, (tid, pid), request.flags)
        }
        Opcode::Read => {
            let request: ReadRequest = read(body)?;
            let size = (request.size as usize).min(TRANSFER_BYTES_MAX);
            let known = files.handles.get(request.handle).ok_or(libc::EBADF)?;
            let shared_offset = known.stream || !is_positional(tid);
            if shared_offset {
                follow_seek(shared, pid, request.handle, known, request.offset as i64)?;
            }
            // The kernel cuts longer reads up, and would wait for more after a full piece.
            let size = if known.stream && size == TRANSFER_BYTES_MAX {
                size - 1
            } else {
                size
            };
            let operation = Operation {
                offset: if shared_offset { -1 } else { request.offset as i64 },
                size,
                flags: request.flags | files.handles.deafness(tid, request.handle),
                ..Operation::new(HandleOp::Read, request.handle)
            };
            ask(request.handle, What::Read { shared_offset, size }, operation)
        }
        Opcode::Write => {
            let request: WriteRequest = read(body)?;
            let data = body.get(size_of::<WriteRequest>()..).ok_or(libc::EINVAL)?;
            let known = files.handles.get(request.handle).ok_or(libc::EBADF)?;
            let shared_offset = known.stream || !is_positional(tid);
            if shared_offset && request.flags & libc::O_APPEND as u32 == 0 {
                follow_seek(shared, pid, request.handle, known, request.offset as i64)?;
            }
            let operation = Operation {
                offset: if shared_offset { -1 } else { request.offset as i64 },
                flags: request.flags | files.handles.deafness(tid, request.handle),
                data,
                ..Operation::new(HandleOp::Write, request.handle)
            };
            ask(request.handle, What::Write { shared_offset }, operation)
        }
        Opcode::Poll => {
            let request: PollRequest = read(body)?;
            let notify = request.flags & POLL_SCHEDULE_NOTIFY != 0;
            if notify {
                files.handles.note_poller(request.handle, pid);
                files.handles.watch(request.handle, request.kernel_handle);
            }
            let known = files.handles.get(request.handle).unwrap_or_default();
            if let Some(ready) = known.ready.filter(|_| known.watcher == pid) {
                let events = poll_events(ready) & request.events;
                return Ok(Outcome::Reply(poll_reply(unique, events)));
            }
            let operation = Operation {
                argument: u64::from(request.events),
                size: match (known.edge, notify) {
                    (true, _) => 2,
                    (false, notify) => usize::from(notify),
                },
                ..Operation::new(HandleOp::Poll, request.handle)
            };
            ask(request.handle, What::Poll, operation)
        }
        Opcode::Ioctl => {
            let request: IoctlRequest = read(body)?;
            let input = body.get(size_of::<IoctlRequest>()..).ok_or(libc::EINVAL)?;
            ioctl(shared, header, (tid, pid), &request, input)
        }
        Opcode::Flush => {
            let request: FlushRequest = read(body)?;
            let duplicates = shared
                .guests
                .lock()
                .process(pid)
                .is_some_and(|process| process.duplicates.may_have(request.handle));
            if !duplicates || !has_node(tid, node) {
                if let Some(process) = shared.guests.lock().process_mut(pid) {
                    process.duplicates.remove(request.handle);
                }
                Operation::new(HandleOp::Close, request.handle).send(shared, pid, 0)?;
            }
            Ok(Outcome::Reply(error_reply(unique, 0)))
        }
        Opcode::Sync => {
            let request: SyncRequest = read(body)?;
            let operation = Operation {
                argument: u64::from(request.flags & SYNC_DATA_ONLY),
                ..Operation::new(HandleOp::Sync, request.handle)
            };
            ask(request.handle, What::Plain, operation)
        }
        Opcode::SetAttributes => {
            let handle = by_node()?;
            let operation = Operation {
                data: body,
                ..Operation::new(HandleOp::SetAttributes, handle)
            };
            // The reply's attributes are the stand-in's.
            ask(handle, What::Attributes { node, correct: false }, operation)
        }
        Opcode::Allocate => {
            let request: AllocateRequest = read(body)?;
            let length = request.length.to_le_bytes();
            let operation = Operation {
                offset: request.offset as i64,
                argument: u64::from(request.mode),
                data: &length,
                ..Operation::new(HandleOp::Allocate, request.handle)
            };
            ask(request.handle, What::Plain, operation)
        }
        Opcode::Seek => {
            let request: SeekRequest = read(body)?;
            let operation = Operation {
                offset: request.offset as i64,
                argument: u64::from(request.whence),
                ..Operation::new(HandleOp::Seek, request.handle)
            };
            ask(request.handle, What::Seek, operation)
        }
        Opcode::Release => {
            release(shared, header, body);
            Ok(Outcome::Reply(error_reply(unique, 0)))
        }
        Opcode::Access => Ok(Outcome::Reply(error_reply(unique, 0))),
        Opcode::GetExtended | Opcode::SetExtended | Opcode::ListExtended | Opcode::RemoveExtended => {
            Err(libc::EOPNOTSUPP)
        }
        Opcode::GetLock | Opcode::SetLock | Opcode::SetLockWait => {
            let request: LockRequest = read(body)?;
            let operation = Operation {
                argument: match opcode {
                    Opcode::GetLock => 0,
                    Opcode::SetLock => 1,
                    _ => 2,
                },
                size: size_of::<FileLock>(),
                data: body,
                ..Operation::new(HandleOp::Lock, request.handle)
            };
            let kind = What::Lock {
                test: opcode == Opcode::GetLock,
            };
            ask(request.handle, kind, operation)
        }
        _ => Err(libc::EPERM),
    }
}

/// A request by nobody in particular, or by a thread of init on its way to become a guest.
fn without_caller(
    shared: &Shared,
    opcode: Opcode,
    header: &RequestHeader,
    body: &[u8],
) -> Result<Outcome, i32> {
    match opcode {
        Opcode::GetAttributes => {
            let reply = AttributesReply {
                attributes: shared.files.handles.stand_in(header.node),
                ..AttributesReply::default()
            };
            Ok(Outcome::Reply(data_reply(header.unique, &[reply.as_bytes()])))
        }
        Opcode::Open if header.node & HANDLE != 0 => open_known(shared, header),
        Opcode::Release => {
            release(shared, header, body);
            Ok(Outcome::Reply(error_reply(header.unique, 0)))
        }
        Opcode::Flush | Opcode::Access => Ok(Outcome::Reply(error_reply(header.unique, 0))),
        _ => Err(libc::EIO),
    }
}

/// Opens an object that is known.
fn open_known(shared: &Shared, header: &RequestHeader) -> Result<Outcome, i32> {
    let handle = header.node & !HANDLE;
    let opened = shared.files.handles.change(handle, |known| {
        known.opens += 1;
        known.stream
    });
    let stream = opened.ok_or(libc::ENOENT)?;
    Ok(Outcome::Reply(open_reply(header.unique, handle, stream)))
}

/// An open file is closed for good. What a job has inherited can be opened again, through `/proc`; what guests have opened
/// themselves is then no more.
fn release(shared: &Shared, header: &RequestHeader, body: &[u8]) {
    let Ok((release, _)) = ReleaseRequest::read_from_prefix(body) else {
        return;
    };
    let handles = &shared.files.handles;
    if header.node & HANDLE == 0 {
        return handles.forget(release.handle);
    }
    let last = handles.change(release.handle, |known| {
        known.opens = known.opens.saturating_sub(1);
        (known.opens == 0).then_some(known.shared)
    });
    let Some(Some(kept)) = last else {
        return;
    };
    if kept {
        handles.change(release.handle, |known| known.shared = false);
        let message = ToHome::Released {
            handle: release.handle,
        };
        if let Err(error) = shared.writer.write_control(0, &message) {
            debug!("telling home: {error}");
        }
    }
    if release.handle & NODE_HANDLE != 0 {
        handles.forget(release.handle);
    }
}

/// The kernel has several bits for what is one thing here.
fn poll_events(ready: u32) -> u32 {
    let mut events = ready;
    if ready & libc::POLLIN as u32 != 0 {
        events |= libc::POLLRDNORM as u32;
    }
    if ready & libc::POLLOUT as u32 != 0 {
        events |= libc::POLLWRNORM as u32;
    }
    events
}

fn poll_reply(unique: u64, events: u32) -> Vec<u8> {
    let reply = PollReply { events, padding: 0 };
    data_reply(unique, &[reply.as_bytes()])
}

fn open_reply(unique: u64, handle: u64, stream: bool) -> Vec<u8> {
    let kind = if stream { open_reply_flag::STREAM } else { 0 };
    let reply = OpenReply {
        handle,
        open_flags: open_reply_flag::DIRECT_IO | open_reply_flag::PARALLEL_DIRECT_WRITES | kind,
        backing: 0,
    };
    data_reply(unique, &[reply.as_bytes()])
}

/// If the guest has moved the offset on the node alone, moves it at home, ahead of the operation that relies on it.
fn follow_seek(shared: &Shared, pid: u32, handle: u64, known: Known, offset: i64) -> Result<(), i32> {
    if known.stream || known.offset == offset {
        return Ok(());
    }
    shared.files.handles.set_offset(handle, offset);
    Operation {
        offset,
        argument: libc::SEEK_SET as u64,
        ..Operation::new(HandleOp::Seek, handle)
    }
    .send(shared, pid, 0)
}

/// Opens a special file at home. FUSE does not pass `O_NOCTTY` on; the call in which the caller waits has it.
fn open_special(
    shared: &Arc<Shared>,
    header: &RequestHeader,
    (tid, pid): (i32, u32),
    flags: u32,
) -> Result<Outcome, i32> {
    let (unique, node) = (header.unique, header.node);
    let file = shared.files.special.node(node).ok_or(libc::ESTALE)?;
    let pending = Pending::Handle(Asked {
        pid,
        interrupted: false,
        tid,
        handle: 0,
        told: 0,
        kind: What::Open { node },
    });
    let send = move |shared: &Shared, asked: u64| {
        shared.files.expect(unique, pending);
        let operation = Operation {
            argument: u64::from(flags) | asked & libc::O_NOCTTY as u64,
            ..Operation::new(HandleOp::Open, file)
        };
        if let Err(errno) = operation.send(shared, pid, unique | FILE_ID) {
            shared.files.take(unique);
            shared.files.reply(&error_reply(unique, errno));
        }
    };
    let call = current_call(tid);
    let argument = |index: usize| call.map_or(0, |call| call.arguments[index]);
    match call.map(|call| call.number as i64) {
        Some(libc::SYS_open) => send(shared, argument(1)),
        Some(libc::SYS_openat) => send(shared, argument(2)),
        Some(libc::SYS_openat2) => {
            let place = argument(2);
            shared.with_memory(Box::new(move |shared| {
                let mut asked = [0; 8];
                match memory::read(tid, place, &mut asked) {
                    Ok(()) => send(shared, u64::from_ne_bytes(asked)),
                    Err(error) => shared
                        .files
                        .reply(&error_reply(unique, crate::sys::errno(&error))),
                }
            }));
        }
        _ => send(shared, 0),
    }
    Ok(Outcome::Later)
}

fn ioctl(
    shared: &Arc<Shared>,
    header: &RequestHeader,
    (tid, pid): (i32, u32),
    request: &IoctlRequest,
    input: &[u8],
) -> Result<Outcome, i32> {
    let encoded = request.in_size != 0 || request.out_size != 0;
    let legacy = if encoded {
        None
    } else {
        legacy_transfer(request.command)
    };
    let Transfer {
        input: wanted,
        output,
    } = legacy.unwrap_or(Transfer {
        input: 0,
        output: request.out_size as usize,
    });
    let size = if encoded {
        (request.out_size as usize).max(input.len())
    } else {
        wanted.max(output)
    };
    let (unique, handle, command, argument) =
        (header.unique, request.handle, request.command, request.argument);
    let flags = shared.files.handles.deafness(tid, handle);
    let pending = Pending::Handle(Asked {
        pid,
        interrupted: false,
        tid,
        handle,
        told: shared.files.handles.ask(handle).told,
        kind: What::Ioctl {
            command,
            encoded,
            place: argument,
            output: if encoded {
                request.out_size as usize
            } else {
                output
            },
        },
    });
    let send = move |shared: &Shared, data: &[u8]| {
        shared.files.expect(unique, pending);
        let operation = Operation {
            offset: argument as i64,
            argument: u64::from(command),
            size,
            flags,
            data,
            ..Operation::new(HandleOp::Ioctl, handle)
        };
        if let Err(errno) = operation.send(shared, pid, unique | FILE_ID) {
            shared.files.take(unique);
            shared.files.reply(&error_reply(unique, errno));
        }
    };
    if wanted == 0 {
        send(shared, input);
    } else {
        shared.with_memory(Box::new(move |shared| {
            let mut data = vec![0; wanted];
            match memory::read(tid, argument, &mut data) {
                Ok(()) => send(shared, &data),
                Err(error) => shared
                    .files
                    .reply(&error_reply(unique, crate::sys::errno(&error))),
            }
        }));
    }
    Ok(Outcome::Later)
}
