//! Record locks: they belong to processes, so deputies take them.
//!
//! The kernel drops all record locks that a process has on a file when it closes any descriptor of that file. A
//! deputy therefore keeps what it was given until the guest closes one of its own descriptors of the file.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::workers::Worker;
use super::{Deputy, lock};
use crate::messages::{FromDeputy, LockRecord, LockRequest};
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
        let mut record = request.record.to_kernel();
        let command = if request.test {
            libc::F_GETLK
        } else {
            libc::F_SETLK
        };
        match object::record_lock(&Flag::default(), file.as_fd(), command, &mut record) {
            Err(libc::EAGAIN | libc::EACCES) if request.wait => {}
            outcome => return self.answer_lock(id, outcome, &record),
        }
        let work = move |worker: &mut Worker<'_>| {
            let mut record = request.record.to_kernel();
            let outcome = loop {
                let wait = |flag: &Flag| object::record_lock(flag, file.as_fd(), libc::F_SETLKW, &mut record);
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
        let found = outcome.map(|_| LockRecord::from_kernel(record));
        self.tell(id, &FromDeputy::Locked(found));
    }
}
