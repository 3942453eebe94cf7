//! Home's answers to forwarded calls.

use std::sync::Arc;

use afield_abi::siginfo::INFO_BYTES;
use afield_abi::syscalls::{Restart, nr};
use afield_link::stream::LinkError;
use afield_link::wire::{self, CallReply, HandleReply, WireError, note};
use tracing::warn;

use crate::fs::handles::{self, look_of};
use crate::session::{Call, MemoryTask, Reply, Shared, Then};
use crate::sys::memory;
use crate::sys::seccomp::Answer;
use crate::trace::Order;

const ERESTARTSYS: i64 = 512;
const ERESTARTNOHAND: i64 = 514;

/// A forwarded call has been executed at home. What is left to do if it touches guest memory, which no reader of the link may do in its turn.
pub fn reply(shared: &Arc<Shared>, id: u64, payload: Vec<u8>) -> Result<Option<MemoryTask>, LinkError> {
    let (head, data) = wire::split::<CallReply>(&payload, "call reply")?;
    let (result, data) = (head.result.get(), data.to_vec());
    let Some(call) = shared.take_call(id) else {
        return Ok(None);
    };
    if let Some(handle) = call.object {
        // Connecting and the like change what the object is ready for.
        shared.files.handles.learn(handle, call.pid, None);
    }
    let reply = Reply {
        result,
        notes: 0,
        data,
        lease: None,
    };
    finish(shared, call, reply)
}

/// An operation on a home object that a notified call asked for has been executed.
pub fn handle_reply(
    shared: &Arc<Shared>,
    id: u64,
    mut payload: Vec<u8>,
) -> Result<Option<MemoryTask>, LinkError> {
    let (head, _) = wire::split::<HandleReply>(&payload, "handle reply")?;
    let head = *head;
    let lease = shared.take_lease(id);
    let Some(call) = shared.take_call(id) else {
        return Ok(None);
    };
    let notes = head.notes.get();
    if let Some(handle) = call.object {
        shared.files.handles.learn(handle, call.pid, look_of(&head));
    }
    payload.drain(..size_of::<HandleReply>());
    let reply = Reply {
        result: head.result.get(),
        notes,
        data: payload,
        lease,
    };
    finish(shared, call, reply)
}

fn finish(shared: &Arc<Shared>, mut call: Call, mut reply: Reply) -> Result<Option<MemoryTask>, LinkError> {
    if matches!(call.then, Then::Continue(_)) {
        let then = std::mem::replace(&mut call.then, Then::Answer);
        let Then::Continue(go_on) = then else {
            return Ok(None);
        };
        return Ok(Some(Box::new(move |shared| go_on(shared, call, reply))));
    }
    if let (nr::WAITID, true, Some(&(place, length))) = (call.number, reply.result < 0, call.outputs.first())
        && length == INFO_BYTES
    {
        return Ok(Some(Box::new(move |shared| {
            // The kernel fills these fields whether there is something to say or not.
            let cleared = memory::write(call.tid, place, &[0; 12])
                .and_then(|()| memory::write(call.tid, place + 16, &[0; 12]));
            if let Err(error) = cleared {
                reply.result = -i64::from(crate::sys::errno(&error));
            }
            settle(shared, call, &reply);
        })));
    }
    let installs = reply.result >= 0 && matches!(call.then, Then::Install(_));
    if (reply.result < 0 || call.outputs.is_empty()) && !installs {
        settle(shared, call, &reply);
        return Ok(None);
    }
    if matches!(call.number, nr::READLINK | nr::READLINKAT) {
        // A name of any length, cut to the room there is.
        call.outputs[0].1 = call.outputs[0].1.min(reply.data.len());
        reply.result = call.outputs[0].1 as i64;
    } else if matches!(call.number, nr::GETCWD | nr::GETXATTR | nr::LGETXATTR) {
        // The kernel writes no more than there is.
        call.outputs[0].1 = call.outputs[0].1.min(reply.data.len()).min(reply.result as usize);
    } else if reply.data.len() != call.outputs.iter().map(|(_, length)| length).sum::<usize>() {
        return Err(WireError::Malformed("call reply").into());
    }
    Ok(Some(Box::new(move |shared| {
        if call.number == nr::TIMES {
            add_own_times(&call, &mut reply.data);
        }
        if let Err(errno) = write_outputs(&call, &reply.data) {
            reply.result = -i64::from(errno);
        }
        settle(shared, call, &reply);
    })))
}

/// Writes what a call has brought to the guest's memory: no more than it asked for.
pub(super) fn write_outputs(call: &Call, data: &[u8]) -> Result<(), i32> {
    let mut starts = Vec::with_capacity(call.outputs.len());
    let mut start = 0;
    for (_, length) in &call.outputs {
        starts.push(start..start + length);
        start += length;
    }
    if let Some((cut, count)) = call.measured
        && let (Some(range), Some(count)) = (
            starts.get(cut).cloned(),
            starts
                .get(count)
                .and_then(|range| data[range.clone()].first_chunk::<4>()),
        )
    {
        let count = i32::from_ne_bytes(*count).max(0) as usize;
        starts[cut] = range.start..range.start + range.len().min(count);
    }
    if data.len() < start {
        return Err(libc::EIO);
    }
    let mut outcome = Ok(());
    for ((address, _), range) in call.outputs.iter().zip(starts) {
        if let Err(error) = memory::write(call.tid, *address, &data[range]) {
            outcome = Err(crate::sys::errno(&error));
        }
    }
    outcome
}

/// Home knows what its children have used; what the process itself has used is known here.
fn add_own_times(call: &Call, times: &mut [u8]) {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{}/stat", call.tid)) else {
        return;
    };
    // The command's name is in parentheses and may hold anything.
    let Some((_, fields)) = text.rsplit_once(')') else {
        return;
    };
    let own = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<i64>().ok());
    for (slot, ticks) in times.chunks_exact_mut(8).zip(own) {
        slot.copy_from_slice(&ticks.to_ne_bytes());
    }
}

/// Answers the notification.
pub fn settle(shared: &Shared, mut call: Call, reply: &Reply) {
    let result = reply.result;
    {
        let mut register = shared.guests.lock();
        if let Some(thread) = register.thread_mut(call.tid) {
            thread.call = None;
        }
    }
    let install = match std::mem::replace(&mut call.then, Then::Answer) {
        Then::Install(gift) if result >= 0 => Some(gift),
        Then::Install(gift) => {
            shared.files.handles.forget(gift.handle);
            None
        }
        then => {
            call.then = then;
            None
        }
    };
    handles::raise_signals(shared, (call.pid, call.tid), reply.notes);
    if result == -i64::from(libc::EINTR) && call.cancelled {
        let error = match call.restart {
            _ if reply.notes & note::NO_RESTART != 0 => -i64::from(libc::EINTR),
            Restart::Never => -i64::from(libc::EINTR),
            Restart::Restart => -ERESTARTSYS,
            Restart::NoHandler => -ERESTARTNOHAND,
        };
        shared.orders.give(Order::AnswerInterrupted {
            tid: call.tid,
            listener: Arc::clone(&call.listener),
            notification: call.notification,
            error,
        });
        return;
    }
    // A home must not make the guest's kernel see anything but results and errnos.
    let result = if (-4095..0).contains(&result) && result <= -512 {
        -i64::from(libc::EIO)
    } else {
        result
    };
    let answer = match (install, &call.then) {
        (Some(gift), _) => match shared.installer.install(&call.listener, call.notification, gift) {
            Ok(_) => return,
            Err(error) => {
                shared.close_object(call.pid, gift.handle);
                Answer::Result(-i64::from(crate::sys::errno(&error)))
            }
        },
        (None, Then::Execute) if result >= 0 => Answer::Continue,
        (None, _) => Answer::Result(result),
    };
    if let Err(error) = call.listener.answer(call.notification, answer) {
        warn!("answering a call of {}: {error}", call.pid);
    }
}
