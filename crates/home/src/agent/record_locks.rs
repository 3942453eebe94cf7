//! File requests that wait for locks.
//!
//! POSIX record locks belong to processes, so deputies take them, with a descriptor of the file that they get from here.
//! Locks of open files are the file service's own, but waiting for one takes a thread.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use afield_abi::fuse::ReplyHeader;
use afield_link::ahead::Answer;
use afield_link::frame::Kind;

use zerocopy::FromBytes;

use super::deputies::DeputyEntry;
use super::lock;
use super::session::{Outstanding, Session, SessionError};
use crate::files::{LockKind, LockWait, Outcome, Promise, get_lock_reply, status_reply};
use crate::messages::{LockRecord, LockRequest, ToDeputy};
use crate::sys::interrupt::Flag;
use crate::sys::process;

/// A file request that waits for something else than a file.
#[derive(Debug)]
pub enum Waiting {
    /// It is being looked at; true if it was cancelled meanwhile.
    Beginning(bool),
    /// A deputy takes the lock.
    Record {
        deputy: Arc<DeputyEntry>,
        unique: u64,
        test: bool,
    },
    /// A deputy drops its locks on a file; the reply is ready.
    Flush {
        deputy: Arc<DeputyEntry>,
        reply: Vec<u8>,
    },
    /// A thread waits for the lock.
    Thread(Arc<WaitingThread>),
}

impl Waiting {
    /// The deputy on which it depends.
    pub fn deputy(&self) -> Option<&Arc<DeputyEntry>> {
        match self {
            Self::Record { deputy, .. } | Self::Flush { deputy, .. } => Some(deputy),
            Self::Beginning(_) | Self::Thread(_) => None,
        }
    }

    /// Ends the wait, if it is the agent's own.
    pub fn interrupt(&self) {
        if let Self::Thread(thread) = self {
            thread.flag.interrupt(0);
            thread.interrupt();
        }
    }
}

/// A thread that waits for a lock of an open file.
#[derive(Debug, Default)]
pub struct WaitingThread {
    flag: Flag,
    /// Its id, while it waits.
    tid: Mutex<Option<i32>>,
}

impl WaitingThread {
    /// Ends the wait. Between looking and waiting there is a gap in which a signal is lost, so it is sent until it works.
    fn interrupt(self: &Arc<Self>) {
        let thread = Arc::clone(self);
        let insist = move || {
            loop {
                match &*lock(&thread.tid) {
                    // Under the lock, so that the thread is still there.
                    Some(tid) => thread.flag.interrupt(*tid),
                    None => break,
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let _ = std::thread::Builder::new().stack_size(64 << 10).spawn(insist);
    }
}

/// Stack of a thread that waits.
const STACK_BYTES: usize = 64 << 10;

impl Session {
    /// Sends a file reply, or sees to what has to be done before.
    pub(super) fn finish_file(
        self: &Arc<Self>,
        id: u64,
        asker: u32,
        outcome: Outcome,
        promise: Option<Promise>,
        reply: &mut Vec<u8>,
    ) -> Result<(), SessionError> {
        match outcome {
            Outcome::NoReply => {
                self.answered(id);
                Ok(())
            }
            Outcome::Reply => self.reply_then(id, asker, reply, promise),
            Outcome::RecordLock {
                unique,
                pid,
                node,
                descriptor,
                kind,
                lock: record,
                owner: _,
            } => {
                let Some(deputy) = self.deputy(pid) else {
                    self.answered(id);
                    return self.answer_file(id, unique, libc::ENOLCK);
                };
                let record = LockRecord::from_kernel(&record);
                self.begin_record_lock(id, &deputy, unique, node, descriptor, kind, record)
            }
            Outcome::Flush { pid, node, owner: _ } => {
                let Some(deputy) = self.deputy(pid) else {
                    return self.reply_then(id, asker, reply, promise);
                };
                let held = {
                    let mut status = lock(&deputy.status);
                    let before = status.lock_files.len();
                    status.lock_files.retain(|&(of, _)| of != node);
                    before != status.lock_files.len()
                };
                if !held {
                    return self.reply_then(id, asker, reply, promise);
                }
                self.answered(id);
                let waiting = Waiting::Flush {
                    deputy: Arc::clone(&deputy),
                    // What is left now may not be when the deputy has answered.
                    reply: without_aftermath(std::mem::take(reply)),
                };
                self.expect(id, Outstanding::File(waiting))?;
                self.tell(&deputy, id, &ToDeputy::Unlock { node }, None)
            }
            Outcome::Directory {
                pid,
                descriptor,
                occupied,
            } => {
                if let Some(deputy) = self.deputy(pid) {
                    let started = {
                        let mut status = lock(&deputy.status);
                        status.directory = vec![occupied];
                        status.started
                    };
                    // One that is starting is there already.
                    if started {
                        self.tell(&deputy, 0, &ToDeputy::Directory, Some(descriptor))?;
                    }
                }
                self.reply_file(id, reply)
            }
            Outcome::Begins { pid, occupied } => {
                if let Some(deputy) = self.deputy(pid) {
                    lock(&deputy.status).directory = vec![occupied];
                }
                self.answered(id);
                Ok(())
            }
            Outcome::Wait(wait) => self.begin_wait(id, wait),
        }
    }

    /// The reply, with what has changed while it was made.
    fn reply_then(
        &self,
        id: u64,
        asker: u32,
        reply: &[u8],
        promise: Option<Promise>,
    ) -> Result<(), SessionError> {
        self.answered(id);
        let answer = Answer {
            about: promise.and_then(|promise| promise.about()),
            behind: &mut |payload: &mut Vec<u8>| self.files.behind(promise, payload),
        };
        Ok(self
            .writer
            .write_data_then(asker, Kind::FileReply, id, &[reply], answer)?)
    }

    fn reply_file(&self, id: u64, reply: &[u8]) -> Result<(), SessionError> {
        self.answered(id);
        Ok(self.writer.write_frame(Kind::FileReply, id, &[reply])?)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the outcome")]
    fn begin_record_lock(
        &self,
        id: u64,
        deputy: &Arc<DeputyEntry>,
        unique: u64,
        node: u64,
        descriptor: OwnedFd,
        kind: LockKind,
        record: LockRecord,
    ) -> Result<(), SessionError> {
        let access = match rustix::fs::fcntl_getfl(&descriptor) {
            Ok(flags) => flags.bits() & libc::O_ACCMODE as u32,
            Err(errno) => {
                self.answered(id);
                return self.answer_file(id, unique, errno.raw_os_error());
            }
        };
        let test = kind == LockKind::Get;
        // Held until the message is sent: no other request may get ahead of the descriptor and rely on it, and no
        // cancellation ahead of what it cancels.
        let mut status = lock(&deputy.status);
        if self.replace_beginning(
            id,
            Waiting::Record {
                deputy: Arc::clone(deputy),
                unique,
                test,
            },
        )? {
            return self.answer_file(id, unique, libc::EINTR);
        }
        let is_new = status.lock_files.insert((node, access));
        let request = LockRequest {
            node,
            access,
            descriptor: is_new,
            test,
            wait: kind == LockKind::SetWait,
            record,
        };
        let message = ToDeputy::Lock(request);
        self.tell(deputy, id, &message, is_new.then_some(descriptor))
    }

    /// Puts what a request waits for in the place of its beginning. True if it was cancelled: it is forgotten then.
    fn replace_beginning(&self, id: u64, waiting: Waiting) -> Result<bool, SessionError> {
        if let Some(Outstanding::File(Waiting::Beginning(true))) = self.answered(id) {
            return Ok(true);
        }
        self.expect(id, Outstanding::File(waiting))?;
        Ok(false)
    }

    fn begin_wait(self: &Arc<Self>, id: u64, wait: LockWait) -> Result<(), SessionError> {
        let thread = Arc::new(WaitingThread::default());
        let unique = wait.unique();
        if self.replace_beginning(id, Waiting::Thread(Arc::clone(&thread)))? {
            return self.answer_file(id, unique, libc::EINTR);
        }
        let session = Arc::clone(self);
        let work = move || {
            *lock(&thread.tid) = Some(process::thread_id());
            let mut reply = Vec::new();
            if thread.flag.is_set() {
                reply.extend_from_slice(&status_reply(unique, libc::EINTR));
            } else {
                wait.run(&mut reply);
            }
            *lock(&thread.tid) = None;
            // A link that is at its end is its readers' to find.
            let _ = session.reply_file(id, &reply);
        };
        if std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(work)
            .is_err()
        {
            self.answered(id);
            return self.answer_file(id, unique, libc::ENOLCK);
        }
        Ok(())
    }

    /// A deputy answered.
    pub(super) fn finish_lock(&self, id: u64, result: Result<LockRecord, i32>) -> Result<(), SessionError> {
        let Some(Outstanding::File(Waiting::Record { unique, test, .. })) = self.answered(id) else {
            return Ok(());
        };
        match result {
            Ok(found) if test => {
                let reply = get_lock_reply(unique, &found.to_kernel());
                Ok(self.writer.write_frame(Kind::FileReply, id, &[&reply])?)
            }
            Ok(_) => self.answer_file(id, unique, 0),
            Err(errno) => self.answer_file(id, unique, errno),
        }
    }

    /// A deputy has dropped its locks on a file.
    pub(super) fn finish_unlock(&self, id: u64) -> Result<(), SessionError> {
        match self.answered(id) {
            Some(Outstanding::File(Waiting::Flush { reply, .. })) => self.reply_file(id, &reply),
            _ => Ok(()),
        }
    }

    /// The deputy that it depends on is no more.
    pub(super) fn finish_waiting(&self, id: u64, waiting: Waiting, errno: i32) -> Result<(), SessionError> {
        match waiting {
            Waiting::Record { unique, .. } => self.answer_file(id, unique, errno),
            Waiting::Flush { reply, .. } => self.reply_file(id, &reply),
            Waiting::Beginning(_) | Waiting::Thread(_) => Ok(()),
        }
    }

    /// The node cancels a request. It will be answered in any case.
    pub(super) fn cancel(&self, id: u64) -> Result<(), SessionError> {
        let deputy = self.with_outstanding(id, |what| match what {
            Some(
                Outstanding::Call(deputy, _)
                | Outstanding::Handle(deputy, _)
                | Outstanding::Share(deputy, _)
                | Outstanding::Stream(deputy, _),
            ) => Some(Arc::clone(deputy)),
            Some(Outstanding::File(waiting)) => match waiting {
                Waiting::Record { deputy, .. } => Some(Arc::clone(deputy)),
                Waiting::Beginning(cancelled) => {
                    *cancelled = true;
                    None
                }
                Waiting::Thread(_) => {
                    waiting.interrupt();
                    None
                }
                Waiting::Flush { .. } => None,
            },
            Some(Outstanding::Fork { .. }) | None => None,
        });
        match deputy {
            Some(deputy) => {
                let _sent = lock(&deputy.status);
                self.deliver(&deputy, Kind::Cancel, id, &[])
            }
            None => Ok(()),
        }
    }
}

fn without_aftermath(mut reply: Vec<u8>) -> Vec<u8> {
    let length = ReplyHeader::read_from_prefix(&reply).map_or(0, |(header, _)| header.length);
    reply.truncate(length as usize);
    reply
}
