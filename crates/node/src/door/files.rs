//! The file door: the world's root file system, a FUSE server that relays.
//!
//! Requests on home's nodes go to home as they are, with the caller's home pid in place of its thread id; the replies
//! come back through [`Files::home_replied`]. Node ids of home are below [`SPECIAL`]; with that bit set, a node is a FIFO or
//! device of home, opened by the deputy; with [`HANDLE`], it is an inherited descriptor's object; [`HIDDEN`] is the
//! directory of these. Requests on them go to [`super::handles`].

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use afield_abi::fuse::{
    Attributes, AttributesReply, EntryReply, InitReply, InitRequest, Notification, NotifyPoll, Opcode,
    ROOT_NODE, ReplyHeader, RequestHeader, StatxReply, VERSION_MAJOR, VERSION_MINOR, init_flag,
};
use afield_link::frame::{FILE_ID, Kind};
use afield_link::stream::LinkError;
use afield_link::wire::WireError;
use tracing::{debug, warn};
use zerocopy::{FromBytes, IntoBytes};

use super::{handles, special};
use crate::session::Shared;
use crate::trace::Order;
use crate::world::{HIDDEN_DIRECTORY, Ids};

/// Largest read or write of one request.
pub const TRANSFER_BYTES_MAX: usize = 1 << 20;

/// Node-id bit of home objects.
pub const HANDLE: u64 = 1 << 63;
/// The directory of home objects.
pub const HIDDEN: u64 = 1 << 62;
/// Node-id bit of special files that are opened at home.
pub const SPECIAL: u64 = 1 << 61;

/// Room for the largest request.
const REQUEST_BYTES: usize = TRANSFER_BYTES_MAX + 4096;

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
    | init_flag::HANDLE_KILLPRIV
    | init_flag::MAX_PAGES
    | init_flag::SETXATTR_EXTENDED
    | init_flag::INIT_EXTENDED
    | init_flag::DIRECT_IO_ALLOW_MMAP;

/// Init's thread, as the world knows it.
const INIT: u32 = 1;

/// What is to be done with the reply to a request.
#[derive(Debug)]
pub(super) enum Pending {
    /// Home's reply to a lookup may name a special file.
    Lookup { inner: u32, directory: u64 },
    /// Home's reply carries attributes whose owner has to be remembered.
    Owner { opcode: Opcode },
    /// Home may wait long (a lock).
    Wait { inner: u32, interrupted: bool },
    /// The deputy's reply completes a request on a home object.
    Handle(handles::Request),
}

/// The file door's state.
#[derive(Debug)]
pub struct Files {
    device: OwnedFd,
    /// Requests that are more than relayed, by FUSE's number.
    pending: Mutex<HashMap<u64, Pending>>,
    pub(super) handles: handles::Handles,
    /// Special files that init has mounted something on: they must stay what they are.
    mounted: Mutex<HashSet<u64>>,
    /// True owners by inode, where the world cannot show them.
    owners: Option<Mutex<HashMap<u64, (u32, u32)>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Files {
    /// A door for the FUSE device of a world.
    pub fn new(device: OwnedFd, ids: Ids) -> Self {
        Self {
            device,
            pending: Mutex::default(),
            handles: handles::Handles::default(),
            mounted: Mutex::default(),
            owners: (ids == Ids::Single).then(Mutex::default),
        }
    }

    /// Gives a whole reply to the kernel.
    pub fn reply(&self, reply: &[u8]) {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.device, reply)) {
            Ok(_) => {}
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

    /// Remembers what is to be done with a reply.
    pub(super) fn expect(&self, unique: u64, pending: Pending) {
        lock(&self.pending).insert(unique, pending);
    }

    pub(super) fn take(&self, unique: u64) -> Option<Pending> {
        lock(&self.pending).remove(&unique)
    }

    /// An inherited open file that guests may be given.
    pub fn add_handle(&self, handle: u64, stream: bool, offset: i64) {
        self.handles.add(handle, stream, offset);
    }

    /// The true owner of a file that is shown with this inode number.
    pub fn owner_of(&self, inode: u64) -> Option<(u32, u32)> {
        lock(self.owners.as_ref()?).get(&inode).copied()
    }

    /// A home object may have become ready.
    pub fn ready(&self, handle: u64) {
        for kernel_handle in self.handles.take_watchers(handle) {
            let mut message = ReplyHeader {
                length: (size_of::<ReplyHeader>() + size_of::<NotifyPoll>()) as u32,
                error: Notification::Poll as i32,
                unique: 0,
            }
            .as_bytes()
            .to_vec();
            message.extend_from_slice(NotifyPoll { kernel_handle }.as_bytes());
            self.reply(&message);
        }
    }

    /// A process is being killed: what it waits for will not be needed.
    pub fn end_requests_of(&self, pid: u32) {
        let ended: Vec<u64> = {
            let mut pending = lock(&self.pending);
            let ended = pending
                .iter()
                .filter(|(_, pending)| matches!(pending, Pending::Handle(request) if request.pid == pid))
                .map(|(unique, _)| *unique)
                .collect();
            pending.retain(|_, pending| !matches!(pending, Pending::Handle(request) if request.pid == pid));
            ended
        };
        for unique in ended {
            self.reply(&error_reply(unique, libc::EINTR));
        }
    }

    /// Home has answered a relayed request.
    pub fn home_replied(
        &self,
        shared: &Arc<Shared>,
        unique: u64,
        mut reply: Vec<u8>,
    ) -> Result<(), LinkError> {
        let malformed = WireError::Malformed("file reply");
        let Ok((header, body)) = ReplyHeader::read_from_prefix(&reply) else {
            return Err(malformed.into());
        };
        if header.unique != unique || header.length as usize != reply.len() {
            return Err(malformed.into());
        }
        match self.take(unique) {
            Some(Pending::Lookup { inner, directory }) if header.error == 0 => {
                let Ok((mut entry, _)) = EntryReply::read_from_prefix(body) else {
                    return Err(malformed.into());
                };
                if entry.node & (HANDLE | HIDDEN | SPECIAL) != 0 {
                    return Err(malformed.into());
                }
                self.remember_owner(&entry.attributes);
                if special::is_special(entry.attributes.mode) {
                    if inner == INIT {
                        lock(&self.mounted).insert(entry.node);
                    } else if !lock(&self.mounted).contains(&entry.node) {
                        special::present(shared, inner, directory, &mut entry);
                    }
                    let at = size_of::<ReplyHeader>();
                    reply[at..at + size_of::<EntryReply>()].copy_from_slice(entry.as_bytes());
                }
            }
            Some(Pending::Owner { opcode }) if header.error == 0 => self.remember_owner_in(opcode, body),
            Some(Pending::Wait {
                inner,
                interrupted: true,
            }) if header.error == -libc::EINTR => {
                if let Some((tid, _)) = shared.guests.find_inner(inner) {
                    shared.orders.give(Order::ReplyInterrupted { tid, reply });
                    return Ok(());
                }
            }
            Some(Pending::Handle(_)) => return Err(malformed.into()),
            _ => {}
        }
        self.reply(&reply);
        Ok(())
    }

    /// The deputy has answered a request on a home object.
    pub fn handle_replied(&self, shared: &Arc<Shared>, unique: u64, payload: &[u8]) -> Result<(), LinkError> {
        match self.take(unique) {
            Some(Pending::Handle(request)) => handles::replied(shared, unique, request, payload),
            // Its process was killed in between.
            _ => Ok(()),
        }
    }

    fn remember_owner(&self, attributes: &Attributes) {
        if let Some(owners) = &self.owners {
            lock(owners).insert(attributes.inode, (attributes.uid, attributes.gid));
        }
    }

    fn remember_owner_in(&self, opcode: Opcode, body: &[u8]) {
        match opcode {
            Opcode::GetAttributes | Opcode::SetAttributes => {
                if let Ok((reply, _)) = AttributesReply::read_from_prefix(body) {
                    self.remember_owner(&reply.attributes);
                }
            }
            Opcode::Statx => {
                if let (Ok((reply, _)), Some(owners)) = (StatxReply::read_from_prefix(body), &self.owners) {
                    lock(owners).insert(reply.statx.inode, (reply.statx.uid, reply.statx.gid));
                }
            }
            _ => {
                if let Ok((reply, _)) = EntryReply::read_from_prefix(body) {
                    self.remember_owner(&reply.attributes);
                }
            }
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

/// Reads requests until the mount is gone.
pub fn serve(shared: &Arc<Shared>) {
    let mut buffer = vec![0; REQUEST_BYTES];
    loop {
        let count = match rustix::io::read(&shared.files.device, &mut buffer[..]) {
            Ok(0) => return,
            Ok(count) => count,
            // Interrupted, or the request was taken back before it was read.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::NOENT | rustix::io::Errno::AGAIN) => continue,
            Err(error) => return debug!("the file door closes: {error}"),
        };
        let request = &mut buffer[..count];
        let Ok((header, _)) = RequestHeader::read_from_prefix(request) else {
            continue;
        };
        match Opcode::from_wire(header.opcode) {
            Some(opcode) => serve_one(shared, opcode, &header, request),
            None => shared.files.reply(&error_reply(header.unique, libc::ENOSYS)),
        }
    }
}

fn serve_one(shared: &Arc<Shared>, opcode: Opcode, header: &RequestHeader, request: &mut [u8]) {
    let body = &request[size_of::<RequestHeader>()..];
    let own = header.node & (HANDLE | HIDDEN | SPECIAL) != 0;
    match opcode {
        Opcode::Init => initialise(&shared.files, header, body),
        Opcode::Interrupt => interrupt(shared, body),
        Opcode::Destroy => {}
        Opcode::Forget if own => special::forget(shared, header.node, body),
        Opcode::BatchForget => special::forget_many(shared, header, body),
        Opcode::Lookup
            if header.node == ROOT_NODE
                && header.pid == INIT
                && body.strip_suffix(&[0]) == Some(HIDDEN_DIRECTORY.as_bytes()) =>
        {
            handles::reply_hidden_entry(&shared.files, header.unique);
        }
        _ if own => handles::request(shared, opcode, header, body),
        _ => relay(shared, opcode, header, request),
    }
}

fn initialise(files: &Files, header: &RequestHeader, body: &[u8]) {
    let Ok((asked, _)) = InitRequest::read_from_prefix(body) else {
        return files.reply(&error_reply(header.unique, libc::EINVAL));
    };
    if asked.major != VERSION_MAJOR {
        return files.reply(&error_reply(header.unique, libc::EPROTO));
    }
    let offered = u64::from(asked.flags) | u64::from(asked.flags2) << 32;
    let flags = FLAGS & offered;
    let reply = InitReply {
        major: VERSION_MAJOR,
        minor: VERSION_MINOR.min(asked.minor),
        max_readahead: asked.max_readahead,
        flags: flags as u32,
        flags2: (flags >> 32) as u32,
        max_background: 64,
        congestion_threshold: 48,
        max_write: TRANSFER_BYTES_MAX as u32,
        max_pages: (TRANSFER_BYTES_MAX / 4096) as u16,
        time_granularity: 1,
        ..InitReply::default()
    };
    files.reply(&data_reply(header.unique, &[reply.as_bytes()]));
}

/// A caller has a signal while it waits: what can wait long is interrupted at home.
fn interrupt(shared: &Arc<Shared>, body: &[u8]) {
    let Ok((request, _)) = afield_abi::fuse::InterruptRequest::read_from_prefix(body) else {
        return;
    };
    let cancel = match lock(&shared.files.pending).get_mut(&request.unique) {
        Some(Pending::Wait { interrupted, .. }) => !std::mem::replace(interrupted, true),
        Some(Pending::Handle(request)) => !std::mem::replace(&mut request.interrupted, true),
        _ => false,
    };
    if cancel {
        shared.cancel(request.unique | FILE_ID);
    }
}

/// Hands a request on to home.
fn relay(shared: &Arc<Shared>, opcode: Opcode, header: &RequestHeader, request: &mut [u8]) {
    let files = &shared.files;
    match opcode {
        Opcode::Lookup => files.expect(
            header.unique,
            Pending::Lookup {
                inner: header.pid,
                directory: header.node,
            },
        ),
        Opcode::SetLockWait => files.expect(
            header.unique,
            Pending::Wait {
                inner: header.pid,
                interrupted: false,
            },
        ),
        Opcode::GetAttributes
        | Opcode::SetAttributes
        | Opcode::Statx
        | Opcode::Create
        | Opcode::TemporaryFile
        | Opcode::MakeNode
        | Opcode::MakeDirectory
        | Opcode::SymbolicLink
        | Opcode::Link
            if files.owners.is_some() =>
        {
            files.expect(header.unique, Pending::Owner { opcode });
        }
        _ => {}
    }
    let pid = shared.guests.find_inner(header.pid).map_or(0, |(_, pid)| pid);
    let at = std::mem::offset_of!(RequestHeader, pid);
    request[at..at + 4].copy_from_slice(&pid.to_ne_bytes());
    if let Err(error) = shared
        .writer
        .write_frame(Kind::File, header.unique | FILE_ID, &[request])
    {
        debug!("relaying {opcode:?}: {error}");
        files.take(header.unique);
        files.reply(&error_reply(header.unique, libc::EIO));
    }
}

/// Sends something to home's file service that has no reply.
pub(super) fn send_to_home(shared: &Shared, parts: &[&[u8]]) -> io::Result<()> {
    shared
        .writer
        .write_frame(Kind::File, FILE_ID, parts)
        .map_err(io::Error::other)
}
