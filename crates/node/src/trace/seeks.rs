//! `lseek` on files whose offset is home's.
//!
//! The world's filter knows the numbers of those that a job has inherited. A process that has received one over a socket has it under any
//! number: it is given one more filter, by which its seeks stop here. One of such a file is made a call that comes out of the notify
//! door, as those on inherited files do; all others go on as they are.

use afield_abi::syscalls::{SEEK_AT_HOME, nr};
use tracing::debug;

use super::limits::is_free;
use super::{Resume, Tracer};
use crate::door::descriptors::look_up;
use crate::sys::ptrace::{self, Registers};

/// The calls for which there is such a filter.
pub(super) const SEEKS: [u32; 1] = [nr::LSEEK];

impl Tracer {
    /// A thread is to install the filter at its next stop, if its process has none and can. True if so.
    pub(super) fn watch_seeks(&mut self, tid: i32) -> bool {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return false;
        };
        let Some(process) = self.processes.get_mut(&thread.pid) else {
            return false;
        };
        if process.seeks_stop || !is_free(tid, process.own_filters()) {
            return false;
        }
        process.seeks_stop = true;
        thread.installs = Some(&SEEKS);
        true
    }

    /// A thread of such a process is about to move an offset.
    pub(super) fn seek_call(&mut self, tid: i32, registers: Registers) {
        let process = self.threads.get(&tid).map(|thread| thread.pid);
        if let Some(process) = process.and_then(|pid| self.processes.get_mut(&pid)) {
            // A child has the filter from its parent.
            process.seeks_stop = true;
        }
        let files = &self.shared.files;
        let is_home = look_up(tid, registers.rdi as u32)
            .and_then(|descriptor| files.object_of(descriptor.inode))
            .is_some_and(|handle| files.handles.is_seekable(handle));
        if is_home {
            let at_home = Registers {
                orig_rax: u64::from(SEEK_AT_HOME),
                ..registers
            };
            if let Err(error) = ptrace::set_registers(tid, &at_home) {
                debug!("registers of {tid}: {error}");
            }
        }
        self.go_on(tid, Resume::Run(0));
    }
}
