//! Home's answers to forwarded calls.

use std::sync::Arc;

use afield_abi::syscalls::{Restart, nr};
use afield_link::stream::LinkError;
use afield_link::wire::{self, CallReply, HandleReply, WireError};
use tracing::warn;

use crate::session::{Call, Shared, Then};
use crate::sys::memory;
use crate::sys::seccomp::Answer;
use crate::trace::Order;

const ERESTARTSYS: i64 = 512;
const ERESTARTNOHAND: i64 = 514;

/// A forwarded call has been executed at home. Runs on the link's reader: guest memory is left to another thread.
pub fn reply(shared: &Arc<Shared>, id: u64, payload: Vec<u8>) -> Result<(), LinkError> {
    let (head, data) = wire::split::<CallReply>(&payload, "call reply")?;
    let mut result = head.result.get();
    let Some(mut call) = shared.take_call(id) else {
        return Ok(());
    };
    if result < 0 || call.outputs.is_empty() {
        settle(shared, &call, result);
        return Ok(());
    }
    if matches!(call.number, nr::READLINK | nr::READLINKAT) {
        // A name of any length, cut to the room there is.
        call.outputs[0].1 = call.outputs[0].1.min(data.len());
        result = call.outputs[0].1 as i64;
    } else if call.number == nr::GETCWD {
        // The kernel writes no more than the path.
        call.outputs[0].1 = call.outputs[0].1.min(data.len()).min(result as usize);
    } else if data.len() != call.outputs.iter().map(|(_, length)| length).sum::<usize>() {
        return Err(WireError::Malformed("call reply").into());
    }
    shared.with_memory(Box::new(move |shared| {
        let mut rest = &payload[size_of::<CallReply>()..];
        let mut outcome = result;
        for (address, length) in &call.outputs {
            let (data, after) = rest.split_at(*length);
            rest = after;
            let mut data = data.to_vec();
            if call.number == nr::TIMES {
                add_own_times(&call, &mut data);
            }
            if let Err(error) = memory::write(call.tid, *address, &data) {
                outcome = -i64::from(crate::sys::errno(&error));
            }
        }
        settle(shared, &call, outcome);
    }));
    Ok(())
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

/// An operation on a home object that a notified call asked for has been executed.
pub fn handle_reply(shared: &Arc<Shared>, id: u64, payload: &[u8]) -> Result<(), LinkError> {
    let (head, data) = wire::split::<HandleReply>(payload, "handle reply")?;
    let mut reply = head.result.get().to_le_bytes().to_vec();
    reply.extend_from_slice(data);
    self::reply(shared, id, reply)
}

/// Answers the notification.
fn settle(shared: &Shared, call: &Call, result: i64) {
    {
        let mut register = shared.guests.lock();
        if let Some(thread) = register.thread_mut(call.tid) {
            thread.call = None;
        }
    }
    if result == -i64::from(libc::EINTR) && call.cancelled {
        let error = match call.restart {
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
    let answer = if call.then == Then::Execute && result >= 0 {
        Answer::Continue
    } else {
        Answer::Result(result)
    };
    if let Err(error) = call.listener.answer(call.notification, answer) {
        warn!("answering a call of {}: {error}", call.pid);
    }
}
