//! Home objects behind the file door: inherited descriptors, and special files opened at home.
//!
//! Every request becomes an operation of the deputy whose process asks, and completes when that answers.

mod hidden;
mod known;
mod open;
mod operations;
mod replies;
pub mod streams;

use std::sync::Arc;

use afield_abi::fuse::{
    AllocateRequest, AttributesReply, FileLock, FlushRequest, IoctlRequest, LockRequest, Opcode, OpenRequest,
    POLL_SCHEDULE_NOTIFY, PollReply, PollRequest, READ_LOCK_OWNER, ReadRequest, RequestHeader,
    SYNC_DATA_ONLY, SeekRequest, SetAttributesRequest, SyncRequest, WriteReply, WriteRequest, set_flag,
};
use afield_link::frame::FILE_ID;
use afield_link::wire::HandleOp;
use zerocopy::{FromBytes, IntoBytes};

pub use hidden::hidden_entry;
pub use known::{Handles, Look, look_of};
pub use operations::{send_operation, send_operation_lent, send_operation_with};
pub use replies::{raise_signals, replied};

use hidden::hidden;
use known::poll_events;
use open::{open_known, open_special, release, without_caller};
use operations::{Operation, follow_seek, is_positional};
use streams::{How, Read};

use super::terminal::{Transfer, legacy_transfer};
use super::{Driver, HANDLE, HIDDEN, Outcome, Pending, Request, TRANSFER_BYTES_MAX, data_reply, error_reply};
use crate::door::descriptors::{current_call, has_node};
use crate::leases::Lease;
use crate::session::Shared;
use crate::sys::memory;
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

impl What {
    /// By this programs find out whether something is a terminal.
    fn asks_for_terminal(&self) -> bool {
        matches!(
            self,
            Self::Ioctl {
                command: TERMINAL,
                ..
            }
        )
    }
}

/// Name, in the hidden directory, of the place where the world's own `/proc` is mounted.
pub const HIDDEN_PROC: &str = "proc";

/// The same of the roots of further FUSE connections.
pub const HIDDEN_ROOTS: &str = "roots";

impl Driver for Handles {
    fn request(&self, shared: &Arc<Shared>, request: Request<'_>) -> Result<Outcome, i32> {
        if request.header.node & HIDDEN != 0 {
            hidden(shared, &request)
        } else {
            object(shared, request.opcode, &request.header, request.body())
        }
    }
}

/// A place in shared memory for the contents of a read or write, which streams can have there.
fn lend(shared: &Shared, known: known::Known, length: usize) -> Option<Lease> {
    shared.leases.as_ref().filter(|_| known.stream)?.lend(length)
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
        files.expect(
            unique,
            Pending::Handle(Asked {
                pid,
                interrupted: false,
                tid,
                handle,
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
            // The kernel cuts longer reads up, and would wait for more after a full piece.
            let piece = if size == TRANSFER_BYTES_MAX {
                size - 1
            } else {
                size
            };
            let mut reply = Vec::new();
            let give = |bytes: &[u8]| {
                reply = data_reply(unique, &[bytes]);
                Ok(())
            };
            let who = (request.handle, pid);
            match files
                .handles
                .streams
                .read(shared, who, piece, How::default(), give)
            {
                Read::Some(_) => return Ok(Outcome::Reply(reply)),
                Read::Nothing if request.flags & libc::O_NONBLOCK as u32 != 0 => return Err(libc::EAGAIN),
                Read::Soon => {
                    let mut request = header.as_bytes().to_vec();
                    request.extend_from_slice(body);
                    let again =
                        Box::new(move |shared: &Arc<Shared>| super::serve_again(shared, &mut request));
                    files.handles.streams.park(shared, who.0, piece, again);
                    return Ok(Outcome::Later);
                }
                Read::Nothing | Read::Ask => {}
            }
            let known = files.handles.get(request.handle).ok_or(libc::EBADF)?;
            // The kernel reads into its cache for nobody.
            let mapped = !known.stream && request.read_flags & READ_LOCK_OWNER == 0;
            if mapped {
                files.handles.change(request.handle, |known| known.mapper = pid);
            }
            let shared_offset = known.stream || !mapped && !is_positional(tid);
            if shared_offset {
                follow_seek(shared, pid, request.handle, known, request.offset as i64)?;
            }
            let size = if known.stream { piece } else { size };
            let operation = Operation {
                offset: if shared_offset { -1 } else { request.offset as i64 },
                size,
                lease: lend(shared, known, size),
                flags: request.flags | files.handles.deafness(tid, request.handle),
                ..Operation::new(HandleOp::Read, request.handle)
            };
            ask(request.handle, What::Read { shared_offset, size }, operation)
        }
        Opcode::Write => {
            let request: WriteRequest = read(body)?;
            let data = body.get(size_of::<WriteRequest>()..).ok_or(libc::EINVAL)?;
            if files.handles.streams.write(shared, (request.handle, pid), data) {
                let reply = WriteReply {
                    size: data.len() as u32,
                    padding: 0,
                };
                return Ok(Outcome::Reply(data_reply(unique, &[reply.as_bytes()])));
            }
            let known = files.handles.get(request.handle).ok_or(libc::EBADF)?;
            let shared_offset = known.stream || !is_positional(tid);
            if shared_offset && request.flags & libc::O_APPEND as u32 == 0 {
                follow_seek(shared, pid, request.handle, known, request.offset as i64)?;
            }
            let lease = lend(shared, known, data.len());
            if let Some(lease) = &lease {
                lease.put(data);
            }
            let operation = Operation {
                offset: if shared_offset { -1 } else { request.offset as i64 },
                flags: request.flags | files.handles.deafness(tid, request.handle),
                data: if lease.is_some() { &[] } else { data },
                lease,
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
            if let Some(ready) = files.handles.streams.ready(request.handle) {
                let events = poll_events(ready) & request.events;
                return Ok(Outcome::Reply(poll_reply(unique, events)));
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
            let change: SetAttributesRequest = read(body)?;
            if change.valid & set_flag::SIZE != 0 {
                files.handles.set_size(handle, change.size);
            }
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

fn poll_reply(unique: u64, events: u32) -> Vec<u8> {
    let reply = PollReply { events, padding: 0 };
    data_reply(unique, &[reply.as_bytes()])
}

/// The attributes of a terminal.
const TERMINAL: u32 = libc::TCGETS as u32;

fn ioctl(
    shared: &Arc<Shared>,
    header: &RequestHeader,
    (tid, pid): (i32, u32),
    request: &IoctlRequest,
    input: &[u8],
) -> Result<Outcome, i32> {
    let known = shared.files.handles.get(request.handle);
    if request.command == TERMINAL && known.is_some_and(|known| known.no_terminal) {
        return Err(libc::ENOTTY);
    }
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
