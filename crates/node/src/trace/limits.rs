//! The limit on the size of files (`RLIMIT_FSIZE`), as the node's kernel has it.
//!
//! It applies to the files of home's tree and to those of the node (memory files, shared memory) as natively. But to the node's kernel
//! home's sockets, pipes and terminals are files, too, and what a job has inherited has its offset at home, where the deputy has the
//! limit. So the writes of a process with such a limit stop here, by one more filter, and while one of its threads writes to a home
//! object the limit is lifted. Its hard limit is home's to hold: the node's stays as it is, so that the soft one can be lifted.

use afield_abi::filter::FILE_WRITES;
use tracing::debug;

use super::descriptors::filter_call;
use super::{Answered, Resume, Tracer, Within};
use crate::door::descriptors::look_up;
use crate::sys::credentials::{self, UNLIMITED};
use crate::sys::ptrace::{self, Registers};
use crate::sys::seccomp::Answer;

/// Threads of a process that write to home objects.
#[derive(Debug, Default)]
pub(super) struct Exempt {
    threads: Vec<i32>,
    /// The soft limit, which may be lifted meanwhile.
    soft: u64,
    lifted: bool,
}

impl Exempt {
    /// A child has the limit that its parent would have.
    pub(super) fn inherit(&self, child: i32) {
        if self.lifted {
            set(child, self.soft);
        }
    }
}

/// An installation under way: of a thread at the end of a call.
#[derive(Debug)]
pub(super) struct Limiting {
    /// What it goes on with.
    registers: Registers,
    blocked: u64,
    /// The call has begun.
    begun: bool,
}

/// True for calls that may be writes to home objects.
pub(super) fn is_write(number: u64) -> bool {
    FILE_WRITES.iter().any(|&call| u64::from(call) == number)
}

fn set(tid: i32, soft: u64) {
    if let Err(error) = credentials::set_file_limit(tid, soft) {
        debug!("the file size limit of {tid}: {error}");
    }
}

impl Tracer {
    /// Puts a new limit in force, and answers the call that has set it.
    pub(super) fn limit_files(&mut self, target: u32, soft: u64, answer: &Answered) {
        let leader = self
            .shared
            .guests
            .lock()
            .process(target)
            .map(|process| process.leader);
        if let (Some(process), Some(leader)) = (self.processes.get_mut(&target), leader) {
            process.exempt.soft = soft;
            if !process.exempt.lifted {
                set(leader, soft);
            }
            // Only a thread itself can install a filter: where another process sets the limit, it applies to all writes.
            if let Some(thread) = self.threads.get_mut(&answer.tid)
                && thread.pid == target
                && soft != UNLIMITED
                && !process.writes_stop
                && is_free(answer.tid, process.own_filters())
            {
                process.writes_stop = true;
                thread.installs = Some(&FILE_WRITES);
                self.interrupt(answer.tid);
            }
        }
        if let Err(error) = answer
            .listener
            .answer(answer.notification, Answer::Result(answer.result))
        {
            debug!("answering {}: {error}", answer.tid);
        }
    }

    /// Has a thread, at the end of a call, install the filter that it is to have. False: it has none to install, or cannot.
    pub(super) fn install_filter(&mut self, tid: i32) -> bool {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return false;
        };
        let Some(calls) = thread.installs.take() else {
            return false;
        };
        match begin(tid, calls) {
            Ok(limiting) => {
                thread.within = Some(Within::Limiting(Box::new(limiting)));
                self.go_on(tid, Resume::ToCallEnd);
                true
            }
            Err(error) => {
                debug!("a filter for {tid}: {error}");
                false
            }
        }
    }

    /// The installation begins or has ended.
    pub(super) fn limited(&mut self, tid: i32, mut limiting: Box<Limiting>) {
        if !limiting.begun {
            limiting.begun = true;
            if let Some(thread) = self.threads.get_mut(&tid) {
                thread.within = Some(Within::Limiting(limiting));
            }
            return self.go_on(tid, Resume::ToCallEnd);
        }
        let restored = ptrace::set_blocked(tid, limiting.blocked)
            .and_then(|()| ptrace::set_registers(tid, &limiting.registers));
        if let Err(error) = restored {
            debug!("registers of {tid}: {error}");
        }
        // -ERESTARTSYS to -ERESTART_RESTARTBLOCK: the kernel looks at these on the way out of a stop, and only there.
        if (-516..=-512).contains(&(limiting.registers.rax as i64)) {
            self.interrupt(tid);
        }
        self.go_on(tid, Resume::Run(0));
    }

    /// A thread of a process with a limit is about to write something.
    pub(super) fn write_call(&mut self, tid: i32, registers: &Registers) {
        let pid = self.threads.get(&tid).map(|thread| thread.pid);
        let of_home = look_up(tid, registers.rdi as u32)
            .is_some_and(|descriptor| self.shared.files.object_of(descriptor.inode).is_some());
        let process = pid.and_then(|pid| self.processes.get_mut(&pid));
        let how = match (process, self.threads.get_mut(&tid)) {
            (Some(process), Some(thread)) => {
                process.writes_stop = true;
                if of_home && lift(&mut process.exempt, tid) {
                    thread.within = Some(Within::Exempt);
                    Resume::ToCallEnd
                } else {
                    // The limit is looked at when a write begins: those that wait already do not need it lifted.
                    let exempt = &mut process.exempt;
                    if exempt.lifted && exempt.threads.iter().all(|&thread| is_asleep(thread)) {
                        exempt.lifted = false;
                        set(tid, exempt.soft);
                    }
                    Resume::Run(0)
                }
            }
            _ => Resume::Run(0),
        };
        self.go_on(tid, how);
    }

    /// A thread's write to a home object has ended, or the thread has.
    pub(super) fn end_exemption(&mut self, pid: u32, tid: i32) {
        let leader = self
            .shared
            .guests
            .lock()
            .process(pid)
            .map(|process| process.leader);
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let exempt = &mut process.exempt;
        exempt.threads.retain(|&other| other != tid);
        if exempt.threads.is_empty()
            && std::mem::take(&mut exempt.lifted)
            && let Some(leader) = leader
        {
            set(leader, exempt.soft);
        }
    }
}

/// Lifts the limit of a thread's process. False if there is none.
fn lift(exempt: &mut Exempt, tid: i32) -> bool {
    if !exempt.lifted {
        match credentials::file_limit(tid) {
            Ok(UNLIMITED) => return false,
            Ok(soft) => exempt.soft = soft,
            Err(error) => {
                debug!("the file size limit of {tid}: {error}");
                return false;
            }
        }
        set(tid, UNLIMITED);
        exempt.lifted = true;
    }
    exempt.threads.push(tid);
    true
}

/// True if a thread waits for something.
fn is_asleep(tid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, fields)| fields.starts_with(['S', 'D']))
}

/// True unless a thread has filters of its own, which could forbid it to install ours.
pub(super) fn is_free(tid: i32, ours: usize) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let count = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp_filters:"))
        .and_then(|count| count.trim().parse::<usize>().ok());
    count.is_none_or(|count| count <= ours)
}

/// Has a thread that has stopped at the end of a call make the one that installs the filter. No handler may run before that.
fn begin(tid: i32, calls: &[u32]) -> std::io::Result<Limiting> {
    let registers = ptrace::registers(tid)?;
    let blocked = ptrace::blocked(tid)?;
    let installing = filter_call(tid, &registers, calls)?;
    ptrace::set_blocked(tid, u64::MAX)?;
    ptrace::set_registers(
        tid,
        &Registers {
            rip: registers.rip - 2,
            rax: libc::SYS_seccomp as u64,
            orig_rax: u64::MAX,
            ..installing
        },
    )?;
    Ok(Limiting {
        registers,
        blocked,
        begun: false,
    })
}
