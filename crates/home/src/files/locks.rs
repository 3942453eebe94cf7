//! Locks on files.
//!
//! A `flock` lock belongs to an open file, which home has one of per handle, so the service takes it itself; so does a
//! lock of an open file description, if the session says that it is one. A POSIX record lock belongs to a process: the
//! caller's deputy takes it, on a copy of the handle's descriptor, and drops it by closing that copy
//! ([`Outcome::Flush`]).

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use afield_abi::fuse::{FileLock, LOCK_FLOCK, LockReply, LockRequest, Opcode, ReplyHeader};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::decode::{Reply, Request};
use super::open::Open;
use super::{FileService, Outcome, Result, sys};

pub use afield_abi::fuse::LOCK_DESCRIPTION;

/// Bytes of a reply without a body.
const EMPTY_REPLY_BYTES: u32 = size_of::<ReplyHeader>() as u32;

/// What a deputy is to do for a record lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// `F_GETLK`; the reply is [`get_lock_reply`].
    Get,
    /// `F_SETLK`; the reply is [`status_reply`].
    Set,
    /// `F_SETLKW`; the reply is [`status_reply`].
    SetWait,
}

/// A lock that cannot be had at once.
#[derive(Debug)]
pub struct LockWait {
    unique: u64,
    open: Open,
    what: Waiting,
}

#[derive(Debug)]
enum Waiting {
    Flock(FlockOperation),
    Description(libc::flock),
}

impl LockWait {
    /// The request that waits.
    pub fn unique(&self) -> u64 {
        self.unique
    }

    /// Waits for the lock and appends the reply. For a thread of its own; a signal to that thread, handled without
    /// `SA_RESTART`, ends the wait with `EINTR`.
    pub fn run(mut self, reply: &mut Vec<u8>) {
        let result = match &mut self.what {
            Waiting::Flock(operation) => rustix::fs::flock(self.open.as_fd(), *operation),
            Waiting::Description(lock) => sys::description_lock(self.open.as_fd(), libc::F_OFD_SETLKW, lock),
        };
        Reply::new(reply, self.unique).finish(result);
    }
}

impl FileService {
    pub(super) fn lock(
        &self,
        request: &mut Request<'_>,
        opcode: Opcode,
        reply: &mut Reply<'_>,
    ) -> Result<Outcome> {
        let record: LockRequest = request.record()?;
        let node = request.header.node;
        let wait = opcode == Opcode::SetLockWait;
        if record.flags & LOCK_FLOCK != 0 {
            let open = self.open_any(record.handle, node)?;
            match &open {
                Open::File(file) => file.locks.store(true, Ordering::Relaxed),
                Open::Directory(directory) => directory.locks.store(true, Ordering::Relaxed),
            }
            return flock(request, &record, wait, open);
        }
        let file = self.open_file(record.handle, node)?;
        let mut lock = to_home(&record.lock)?;
        if record.flags & LOCK_DESCRIPTION == 0 {
            return Ok(Outcome::RecordLock {
                unique: request.header.unique,
                pid: request.header.pid,
                owner: record.owner,
                node,
                descriptor: rustix::io::fcntl_dupfd_cloexec(file.as_fd(), 0)?,
                kind: match opcode {
                    Opcode::GetLock => LockKind::Get,
                    Opcode::SetLock => LockKind::Set,
                    _ => LockKind::SetWait,
                },
                lock,
            });
        }
        file.locks.store(true, Ordering::Relaxed);
        // The kernel wants no process here.
        lock.l_pid = 0;
        if opcode == Opcode::GetLock {
            sys::description_lock(file.as_fd(), libc::F_OFD_GETLK, &mut lock)?;
            reply.record(&LockReply {
                lock: from_home(&lock),
            });
            return Ok(Outcome::Reply);
        }
        match sys::description_lock(file.as_fd(), libc::F_OFD_SETLK, &mut lock) {
            Err(Errno::AGAIN | Errno::ACCESS) if wait => Ok(Outcome::Wait(LockWait {
                unique: request.header.unique,
                open: Open::File(file),
                what: Waiting::Description(lock),
            })),
            result => result.map(|()| Outcome::Reply),
        }
    }
}

fn flock(request: &Request<'_>, record: &LockRequest, wait: bool, open: Open) -> Result<Outcome> {
    let (now, later) = match record.lock.kind as i32 {
        libc::F_RDLCK => (FlockOperation::NonBlockingLockShared, FlockOperation::LockShared),
        libc::F_WRLCK => (
            FlockOperation::NonBlockingLockExclusive,
            FlockOperation::LockExclusive,
        ),
        libc::F_UNLCK => (FlockOperation::NonBlockingUnlock, FlockOperation::Unlock),
        _ => return Err(Errno::INVAL),
    };
    match rustix::fs::flock(open.as_fd(), now) {
        Err(Errno::AGAIN) if wait => Ok(Outcome::Wait(LockWait {
            unique: request.header.unique,
            open,
            what: Waiting::Flock(later),
        })),
        result => result.map(|()| Outcome::Reply),
    }
}

/// FUSE's inclusive range as `struct flock` has it.
fn to_home(lock: &FileLock) -> Result<libc::flock> {
    if !matches!(lock.kind as i32, libc::F_RDLCK | libc::F_WRLCK | libc::F_UNLCK) {
        return Err(Errno::INVAL);
    }
    let start = i64::try_from(lock.start).map_err(|_| Errno::INVAL)?;
    let end = i64::try_from(lock.end).map_err(|_| Errno::INVAL)?;
    let length = match end {
        i64::MAX => 0,
        _ if end < start => return Err(Errno::INVAL),
        _ => end - start + 1,
    };
    Ok(libc::flock {
        l_type: lock.kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: length,
        l_pid: 0,
    })
}

fn from_home(lock: &libc::flock) -> FileLock {
    let end = match lock.l_len {
        0 => i64::MAX,
        length => lock.l_start.saturating_add(length - 1),
    };
    FileLock {
        start: lock.l_start as u64,
        end: end as u64,
        kind: lock.l_type as u32,
        // A lock of an open file description has -1 here.
        pid: lock.l_pid as u32,
    }
}

/// The reply to a [`LockKind::Get`]: what `F_GETLK` found, of whence `SEEK_SET`.
pub fn get_lock_reply(unique: u64, found: &libc::flock) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reply = Reply::new(&mut bytes, unique);
    reply.record(&LockReply {
        lock: from_home(found),
    });
    reply.finish(Ok(()));
    bytes
}

/// A reply that is only an errno, or 0 for success.
pub fn status_reply(unique: u64, errno: i32) -> [u8; size_of::<ReplyHeader>()] {
    let header = ReplyHeader {
        length: EMPTY_REPLY_BYTES,
        error: -errno,
        unique,
    };
    let mut bytes = [0; size_of::<ReplyHeader>()];
    bytes.copy_from_slice(header.as_bytes());
    bytes
}
