//! A guest has executed a program.

use tracing::debug;

use super::{Resume, Tracer, Within};
use crate::sys::ptrace;
use crate::titles;

impl Tracer {
    /// The stop of a successful `execve`. All other threads of the process are gone, and the caller is the leader
    /// now, whatever it was.
    pub(super) fn executed(&mut self, tid: i32) {
        let former = ptrace::event_message(tid).map_or(tid, |former| former as i32);
        let Some(pid) = self.threads.get(&tid).map(|thread| thread.pid) else {
            return;
        };
        let gone: Vec<i32> = {
            let register = self.shared.guests.lock();
            register
                .process(pid)
                .map(|process| {
                    process
                        .threads
                        .iter()
                        .copied()
                        .filter(|other| *other != tid)
                        .collect()
                })
                .unwrap_or_default()
        };
        for other in gone {
            let call = self.shared.guests.lock().remove_thread(other);
            if let Some(call) = call {
                self.shared.abandon_call(call);
            }
            let Some(thread) = self.threads.remove(&other) else {
                continue;
            };
            if matches!(thread.within, Some(Within::Exempt)) {
                self.end_exemption(pid, other);
            }
            if let Some(fork) = thread.fork {
                self.abandon_fork(pid, other, fork);
            }
        }
        if former != tid {
            // The leader's own state went with it.
            let call = {
                let mut register = self.shared.guests.lock();
                register.thread_mut(tid).and_then(|thread| thread.call.take())
            };
            if let Some(call) = call {
                self.shared.abandon_call(call);
            }
            let within = self.threads.get_mut(&tid).and_then(|thread| {
                let within = thread.within.take();
                *thread = super::Thread::new(pid);
                within
            });
            if matches!(within, Some(Within::Exempt)) {
                self.end_exemption(pid, tid);
            }
        }
        self.report_program(pid, tid);
        self.go_on(tid, Resume::Run(0));
    }

    fn report_program(&mut self, pid: u32, tid: i32) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let first = !process.executed;
        process.executed = true;
        if let Some(process) = self.shared.guests.lock().process_mut(pid) {
            process.executed = true;
            process.of_children.executed();
        }
        let early = std::mem::take(&mut process.early_signals);
        if first {
            self.shared.started(pid, Ok(()));
        }
        match program_of(tid) {
            Ok((name, arguments)) => {
                if let Some(process) = self.shared.guests.lock().process_mut(pid) {
                    process.title = titles::digest(&arguments);
                }
                self.tell(self.shared.home.exec(pid, name, arguments));
            }
            Err(error) => debug!("name of {pid}: {error}"),
        }
        for info in early {
            super::deliver(&self.shared, pid, &info);
        }
    }
}

fn program_of(tid: i32) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let mut name = std::fs::read(format!("/proc/{tid}/comm"))?;
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    name.truncate(15);
    Ok((name, titles::arguments_of(tid)?))
}
