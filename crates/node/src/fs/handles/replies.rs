//! What becomes of the deputy's answers.

use std::sync::Arc;

use afield_abi::fuse::{
    Attributes, AttributesReply, FileLock, IoctlReply, SeekReply, Statx, StatxReply, StatxTime, WriteReply,
};
use afield_link::stream::LinkError;
use afield_link::wire::{self, HandleReply, RESTART, WireError, note};
use tracing::debug;
use zerocopy::IntoBytes;

use super::super::{data_reply, error_reply};
use super::known::poll_events;
use super::open::open_reply;
use super::{Asked, What, look_of, poll_reply};
use crate::leases::Lease;
use crate::session::Shared;
use crate::sys::{memory, signals};
use crate::trace::{Correction, Order, STAT_BYTES};

/// The deputy's answer.
pub fn replied(
    shared: &Arc<Shared>,
    unique: u64,
    request: Asked,
    payload: &[u8],
    lease: Option<Lease>,
) -> Result<(), LinkError> {
    let (reply, data) = wire::split::<HandleReply>(payload, "handle reply")?;
    let (result, notes) = (reply.result.get(), reply.notes.get());
    let files = &shared.files;
    files.handles.learn(request.handle, request.pid, look_of(reply));
    if result == -i64::from(RESTART) {
        shared.orders.give(Order::ReplyInterrupted {
            tid: request.tid,
            reply: error_reply(unique, libc::EINTR),
        });
        return Ok(());
    }
    if result < 0 {
        let errno = i32::try_from(-result)
            .ok()
            .filter(|errno| *errno < 512)
            .unwrap_or(libc::EIO);
        if errno == libc::ENOTTY && request.kind.asks_for_terminal() {
            let handle = request.handle;
            files.handles.mark_no_terminal(handle);
        }
        let reply = error_reply(unique, errno);
        raise_signals(shared, (request.pid, request.tid), notes);
        // Waiting for output to be sent is not made again after a signal.
        let drains = matches!(
            request.kind,
            What::Ioctl { command, .. } if [libc::TCSBRK, libc::TCSBRKP].contains(&u64::from(command))
        );
        if errno == libc::EINTR && request.interrupted && !drains {
            let tid = request.tid;
            shared.orders.give(Order::ReplyInterrupted { tid, reply });
        } else {
            files.reply(&reply);
        }
        return Ok(());
    }
    let malformed = || LinkError::from(WireError::Malformed("handle reply"));
    let reply = match request.kind {
        What::Attributes { node, correct } => {
            learn_size(shared, request.handle, data);
            let attributes = AttributesReply {
                attributes: shared.files.handles.stand_in(node),
                ..AttributesReply::default()
            };
            let reply = data_reply(unique, &[attributes.as_bytes()]);
            if correct {
                return correct_status(shared, request.tid, data, reply);
            }
            reply
        }
        What::Statx { node, correct } => {
            learn_size(shared, request.handle, data);
            let reply = data_reply(
                unique,
                &[stand_in_statx(&files.handles.stand_in(node)).as_bytes()],
            );
            if correct {
                return correct_status(shared, request.tid, data, reply);
            }
            reply
        }
        What::Open { node } => {
            let handle = result as u64;
            files.handles.add(handle, true, 0);
            if data.first() == Some(&1) {
                files.handles.mark_terminal(handle);
            }
            files.special.opened(node, handle);
            open_reply(unique, handle, true)
        }
        What::Read { shared_offset, .. } if let Some(lease) = lease => {
            let count = usize::try_from(result).map_err(|_| malformed())?;
            if count > lease.place().1 || !data.is_empty() {
                return Err(malformed());
            }
            if shared_offset {
                files.handles.advance(request.handle, result);
            }
            files.reply_with(unique, lease.data(count));
            return Ok(());
        }
        What::Read { shared_offset, size } => {
            if data.len() as i64 != result || data.len() > size {
                return Err(malformed());
            }
            if shared_offset {
                files.handles.advance(request.handle, result);
            }
            data_reply(unique, &[data])
        }
        What::Write { shared_offset } => {
            if shared_offset {
                files.handles.advance(request.handle, result);
            }
            let reply = WriteReply {
                size: result as u32,
                padding: 0,
            };
            data_reply(unique, &[reply.as_bytes()])
        }
        What::Poll => poll_reply(unique, poll_events(result as u32)),
        What::Seek => data_reply(
            unique,
            &[SeekReply {
                offset: result as u64,
            }
            .as_bytes()],
        ),
        What::Lock { test: true } => {
            let found = data.get(..size_of::<FileLock>()).ok_or_else(malformed)?;
            data_reply(unique, &[found])
        }
        What::Lock { test: false } | What::Plain => error_reply(unique, 0),
        What::Ioctl {
            encoded,
            place,
            output,
            ..
        } => {
            let answer = IoctlReply {
                result: result as i32,
                ..IoctlReply::default()
            };
            if encoded {
                let data = data.get(..output.min(data.len())).unwrap_or_default();
                data_reply(unique, &[answer.as_bytes(), data])
            } else if output == 0 {
                data_reply(unique, &[answer.as_bytes()])
            } else {
                let data = data.get(..output).ok_or_else(malformed)?.to_vec();
                let tid = request.tid;
                shared.with_memory(Box::new(move |shared| {
                    let reply = match memory::write(tid, place, &data) {
                        Ok(()) => data_reply(unique, &[answer.as_bytes()]),
                        Err(error) => error_reply(unique, crate::sys::errno(&error)),
                    };
                    shared.files.reply(&reply);
                }));
                return Ok(());
            }
        }
    };
    files.reply(&reply);
    Ok(())
}

fn stand_in_statx(attributes: &Attributes) -> StatxReply {
    StatxReply {
        statx: Statx {
            // STATX_BASIC_STATS
            mask: 0x7ff,
            mode: attributes.mode as u16,
            links: 1,
            inode: attributes.inode,
            size: attributes.size,
            uid: attributes.uid,
            gid: attributes.gid,
            block_size: 4096,
            mtime: StatxTime::default(),
            ..Statx::default()
        },
        ..StatxReply::default()
    }
}

/// Home has sent a `struct stat`, or nothing.
fn learn_size(shared: &Shared, handle: u64, status: &[u8]) {
    const SIZE: usize = std::mem::offset_of!(libc::stat, st_size);
    if let Some(size) = status.get(SIZE..).and_then(|rest| rest.first_chunk::<8>()) {
        shared.files.handles.set_size(handle, u64::from_ne_bytes(*size));
    }
}

fn correct_status(shared: &Shared, tid: i32, data: &[u8], reply: Vec<u8>) -> Result<(), LinkError> {
    let status: [u8; STAT_BYTES] = data.try_into().map_err(|_| WireError::Malformed("file status"))?;
    shared.orders.give(Order::Correct {
        tid,
        correction: Correction::Status(Box::new(status)),
        reply,
    });
    Ok(())
}

/// Raises what home's kernel raised for a failing write; FUSE does not.
pub fn raise_signals(shared: &Shared, (pid, tid): (u32, i32), notes: u32) {
    for (signal, note) in [
        (libc::SIGPIPE, note::PIPE_SIGNAL),
        (libc::SIGXFSZ, note::SIZE_SIGNAL),
    ] {
        if notes & note == 0 {
            continue;
        }
        let leader = shared.guests.lock().process(pid).map(|process| process.leader);
        if let Some(leader) = leader
            && let Err(error) = signals::kill_thread(leader, tid, signal)
        {
            debug!("signal {signal}: {error}");
        }
    }
}
