//! Opening and closing.

use std::sync::Arc;

use afield_abi::fuse::{
    AttributesReply, Opcode, OpenReply, ReleaseRequest, RequestHeader, WriteRequest, open_reply_flag,
};
use afield_link::frame::FILE_ID;
use afield_link::wire::{HandleOp, NODE_HANDLE};
use tracing::debug;
use zerocopy::{FromBytes, IntoBytes};

use super::operations::Operation;
use super::{Asked, What};
use crate::door::descriptors::current_call;
use crate::fs::{HANDLE, Outcome, Pending, data_reply, error_reply};
use crate::session::Shared;
use crate::sys::memory;

/// A request by nobody in particular, or by a thread of init on its way to become a guest.
pub(super) fn without_caller(
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
        Opcode::Write if header.node & HANDLE != 0 => write_stored(shared, header, body),
        Opcode::Flush | Opcode::Access => Ok(Outcome::Reply(error_reply(header.unique, 0))),
        _ => Err(libc::EIO),
    }
}

/// Writes what was stored into a mapping, in the name of whoever has read through one: the kernel writes it in nobody's.
fn write_stored(shared: &Shared, header: &RequestHeader, body: &[u8]) -> Result<Outcome, i32> {
    let (request, data) = WriteRequest::read_from_prefix(body).map_err(|_| libc::EINVAL)?;
    let handle = header.node & !HANDLE;
    let pid = shared.files.handles.get(handle).map_or(0, |known| known.mapper);
    let leader = shared.guests.lock().process(pid).map(|process| process.leader);
    let tid = leader.ok_or(libc::EIO)?;
    let pending = Pending::Handle(Asked {
        pid,
        interrupted: false,
        tid,
        handle,
        kind: What::Write { shared_offset: false },
    });
    shared.files.expect(header.unique, pending);
    let operation = Operation {
        offset: request.offset as i64,
        size: 1,
        data,
        ..Operation::new(HandleOp::Write, handle)
    };
    operation
        .send(shared, pid, header.unique | FILE_ID)
        .inspect_err(|_| {
            shared.files.take(header.unique);
        })?;
    Ok(Outcome::Later)
}

/// Opens an object that is known.
pub(super) fn open_known(shared: &Shared, header: &RequestHeader) -> Result<Outcome, i32> {
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
pub(super) fn release(shared: &Shared, header: &RequestHeader, body: &[u8]) {
    let Ok((release, _)) = ReleaseRequest::read_from_prefix(body) else {
        return;
    };
    let handles = &shared.files.handles;
    if header.node & HANDLE == 0 {
        return handles.forget(release.handle);
    }
    let last = handles.change(release.handle, |known| {
        known.opens = known.opens.saturating_sub(1);
        (known.opens == 0).then_some((known.shared, known.passed))
    });
    let Some(Some((kept, passed))) = last else {
        return;
    };
    if kept {
        handles.change(release.handle, |known| known.shared = false);
        if let Err(error) = shared.home.released(release.handle) {
            debug!("telling home: {error}");
        }
    }
    if release.handle & NODE_HANDLE != 0 || passed {
        handles.forget(release.handle);
    }
}

pub(super) fn open_reply(unique: u64, handle: u64, stream: bool) -> Vec<u8> {
    let kind = if stream { open_reply_flag::STREAM } else { 0 };
    let reply = OpenReply {
        handle,
        open_flags: open_reply_flag::DIRECT_IO | open_reply_flag::PARALLEL_DIRECT_WRITES | kind,
        backing: 0,
    };
    data_reply(unique, &[reply.as_bytes()])
}

/// Opens a special file at home. FUSE does not pass `O_NOCTTY` on; the call in which the caller waits has it.
pub(super) fn open_special(
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
