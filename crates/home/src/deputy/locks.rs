//! Record locks: they belong to processes, so deputies take them.
//!
//! The kernel drops all record locks that a process has on a file when it closes any descriptor of that file. A
//! deputy therefore keeps what it was given until the guest closes one of its own descriptors of the file.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::workers::Worker;
use super::{Deputy, lock};
use crate::messages::{FromDeputy, LockFound, LockRequest};
use crate::sys::interrupt::Flag;
use crate::sys::object;

/// The files on which the guest has, or had, record locks: by node and access mode.
#[derive(Debug, Default)]
pub struct LockFiles {
    files: HashMap<(u64, u32), Arc<OwnedFd>>,
}

impl LockFiles {
    /// The guest closed a descriptor of the file.
    pub fn remove(&mut self, node: u64) {
        self.files.retain(|&(of, _), _| of != node);
    }
}

impl Deputy {
    /// Takes, tests or drops a lock.
    pub(super) fn record_lock(self: &Arc<Self>, id: u64, request: LockRequest, file: Option<OwnedFd>) {
        let key = (request.node, request.access);
        let file = {
            let mut locks = lock(&self.locks);
            match file {
                Some(file) => {
                    let file = Arc::new(super::out_of_the_way(file));
                    if let Some(old) = locks.files.insert(key, Arc::clone(&file)) {
                        // The agent sends one only. Closing it now would drop the locks.
                        std::mem::forget(old);
                    }
                    file
                }
                None => match locks.files.get(&key) {
                    Some(file) => Arc::clone(file),
                    None => return self.tell(id, &FromDeputy::Locked(Err(libc::EBADF))),
                },
            }
        };
        let mut record = to_kernel(&request);
        let command = if request.test { libc::F_GETLK } else { libc::F_SETLK };
        match object::record_lock(&Flag::default(), file.as_fd(), command, &mut record) {
            Err(libc::EAGAIN | libc::EACCES) if request.wait => {}
            outcome => return self.answer_lock(id, outcome, &record),
        }
        let work = move |worker: &mut Worker<'_>| {
            let mut record = to_kernel(&request);
            let outcome = loop {
                let wait = |flag: &Flag| {
                    object::record_lock(flag, file.as_fd(), libc::F_SETLKW, &mut record)
                };
                match worker.wait(wait) {
                    Err(libc::EINTR) if !worker.cancelled() => {}
                    outcome => break outcome,
                }
            };
            worker.deputy.answer_lock(id, outcome, &record);
        };
        if let Err(errno) = self.employ(id, Box::new(work)) {
            self.tell(id, &FromDeputy::Locked(Err(errno)));
        }
    }

    fn answer_lock(&self, id: u64, outcome: Result<i64, i32>, record: &libc::flock) {
        let found = outcome.map(|_| from_kernel(record));
        self.tell(id, &FromDeputy::Locked(found));
    }
}

fn to_kernel(request: &LockRequest) -> libc::flock {
    let to_end = request.end >= i64::MAX as u64;
    libc::flock {
        l_type: request.kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: request.start as i64,
        l_len: match to_end {
            true => 0,
            false => request.end.saturating_sub(request.start).saturating_add(1) as i64,
        },
        l_pid: 0,
    }
}

fn from_kernel(record: &libc::flock) -> LockFound {
    let start = record.l_start as u64;
    LockFound {
        kind: i32::from(record.l_type),
        start,
        end: match record.l_len {
            0 => i64::MAX as u64,
            length => start.saturating_add(length as u64).saturating_sub(1),
        },
        pid: record.l_pid,
    }
}
