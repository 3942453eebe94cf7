//! A guest's limit on the size of files (`RLIMIT_FSIZE`): the deputy's, which home's kernel judges and shows, and of which the
//! node's kernel has what is in force (see [`crate::trace`]).

use std::sync::Arc;

use afield_abi::syscalls::nr;

use super::calls::{settle, write_outputs};
use super::notify::{Door, Verdict};
use crate::session::{Call, Reply, Shared, Then};
use crate::sys::seccomp::Notification;
use crate::sys::{errno, memory};
use crate::trace::{Answered, Order};

/// A new limit for files.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileLimit {
    /// Whose, by home pid.
    process: u32,
    /// The soft limit.
    soft: u64,
}

/// The limit that a call sets, if it sets one.
pub(super) fn of_files(
    tid: i32,
    pid: u32,
    number: u32,
    arguments: &[u64; 6],
) -> Result<Option<FileLimit>, i32> {
    let (process, resource, place) = match number {
        nr::SETRLIMIT => (pid, arguments[0], arguments[1]),
        nr::PRLIMIT64 if arguments[0] as u32 == 0 => (pid, arguments[1], arguments[2]),
        nr::PRLIMIT64 => (arguments[0] as u32, arguments[1], arguments[2]),
        _ => return Ok(None),
    };
    if resource as u32 != libc::RLIMIT_FSIZE || place == 0 {
        return Ok(None);
    }
    let mut soft = [0; 8];
    memory::read(tid, place, &mut soft).map_err(|error| errno(&error))?;
    let soft = u64::from_ne_bytes(soft);
    Ok(Some(FileLimit { process, soft }))
}

impl Door {
    /// Sets such a limit: at home, and if home's kernel allows it on the node.
    pub(super) fn limit_files(
        &mut self,
        notification: &Notification,
        (tid, pid): (i32, u32),
        arguments: [u64; 6],
        limit: FileLimit,
    ) -> Result<Verdict, i32> {
        let go_on = move |shared: &Arc<Shared>, call: Call, reply: Reply| finish(shared, call, reply, limit);
        let number = notification.number as u32;
        let then = Then::Continue(Box::new(go_on));
        self.forward(notification, tid, pid, number, arguments, then)
    }
}

fn finish(shared: &Arc<Shared>, call: Call, mut reply: Reply, limit: FileLimit) {
    if reply.result != 0 {
        return settle(shared, call, &reply);
    }
    if let Err(errno) = write_outputs(&call, &reply.data) {
        // It is set all the same.
        reply.result = -i64::from(errno);
    }
    shared.orders.give(Order::LimitFiles {
        process: limit.process,
        soft: limit.soft,
        answer: Answered {
            tid: call.tid,
            listener: call.listener,
            notification: call.notification,
            result: reply.result,
        },
    });
}
