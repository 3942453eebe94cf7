//! Keeping a guest from computing while its deputy is stopped.

use super::{Resume, Tracer, resume};

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
        let parked: Vec<(i32, Resume)> = self
            .threads
            .iter_mut()
            .filter(|(_, thread)| thread.pid == pid)
            .filter_map(|(tid, thread)| thread.parked.take().map(|how| (*tid, how)))
            .collect();
        for (tid, how) in parked {
            resume(tid, how);
        }
    }
}
