//! Keeping guests from computing: one while its deputy is stopped, all while home cannot be reached.

use std::time::Duration;

use super::{Resume, Tracer, resume};

/// How often is looked for threads that have woken up while all guests are frozen.
pub(super) const FROZEN_LOOK: Duration = Duration::from_millis(20);

impl Tracer {
    /// The guest must not compute until it is released.
    pub(super) fn hold(&mut self, pid: u32) {
        if let Some(process) = self.unborn.get_mut(&pid) {
            process.held = true;
        }
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        if std::mem::replace(&mut process.held, true) {
            return;
        }
        let threads: Vec<i32> = {
            let register = self.shared.guests.lock();
            register
                .process(pid)
                .map(|process| process.threads.clone())
                .unwrap_or_default()
        };
        for tid in threads {
            self.interrupt(tid);
        }
    }

    /// The guest may compute again.
    pub(super) fn release(&mut self, pid: u32) {
        if let Some(process) = self.unborn.get_mut(&pid) {
            process.held = false;
        }
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        process.held = false;
        self.resume_parked(Some(pid));
    }

    /// No guest must compute until all are thawed.
    pub(super) fn freeze(&mut self) {
        self.frozen = true;
        self.check_frozen();
    }

    /// Guests may compute again, but for those that are held.
    pub(super) fn thaw(&mut self) {
        self.frozen = false;
        self.resume_parked(None);
    }

    /// The kernel has been told of changed files.
    pub(super) fn unhush(&mut self) {
        self.hushed = false;
        self.resume_parked(None);
    }

    /// While all are frozen: stops threads that run. One that sleeps is left alone, because some calls end with `EINTR` when
    /// they are stopped; it burns nothing, and is stopped when it wakes up.
    pub(super) fn check_frozen(&self) {
        if !self.frozen {
            return;
        }
        for (&tid, thread) in &self.threads {
            if thread.parked.is_none() && tid > 0 && is_running(tid) {
                self.interrupt(tid);
            }
        }
    }

    fn resume_parked(&mut self, pid: Option<u32>) {
        if self.frozen || self.hushed {
            return;
        }
        let processes = &self.processes;
        let free = |of: u32| match pid {
            Some(pid) => of == pid,
            None => !processes.get(&of).is_some_and(|process| process.held),
        };
        let parked: Vec<(i32, Resume)> = self
            .threads
            .iter_mut()
            .filter(|(_, thread)| free(thread.pid))
            .filter_map(|(tid, thread)| thread.parked.take().map(|how| (*tid, how)))
            .collect();
        for (tid, how) in parked {
            resume(tid, how);
        }
    }
}

fn is_running(tid: i32) -> bool {
    let status = std::fs::read(format!("/proc/{tid}/stat")).unwrap_or_default();
    let end = status.iter().rposition(|&byte| byte == b')');
    end.and_then(|end| status.get(end + 2)) == Some(&b'R')
}
