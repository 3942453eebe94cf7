//! Making processes: home forks the deputy first, then the guest is made with the pid that home's kernel chose.

use std::sync::Arc;

use tracing::{debug, warn};
use zerocopy::{FromBytes, IntoBytes};

use super::{Early, Order, Resume, Thread, Tracer, Within, descriptors, limits, resume};
use crate::admission::{Seat, too_many};
use crate::guests::read_inner;
use crate::sys::clone::{CLONE_ARGUMENTS_BYTES, CloneArguments};
use crate::sys::ptrace::{self, Registers};
use crate::sys::{errno, memory};

/// A fork between the guest's call and its end.
#[derive(Debug)]
pub(super) struct Fork {
    /// Registers at the call.
    registers: Registers,
    /// The call, in `clone3`'s terms.
    arguments: CloneArguments,
    /// The child's pid, once home has said it.
    child: Option<u32>,
    /// The guest's kernel has made the child.
    made: bool,
    /// The child's place among those that this home may have.
    seat: Seat,
}

impl Fork {
    /// The caller gets a descriptor of the child.
    fn gives_descriptor(&self) -> bool {
        self.arguments.flags & libc::CLONE_PIDFD as u64 != 0
    }
}

/// The stack's red zone of the x86-64 ABI, which a signal handler would leave alone as well.
const RED_ZONE_BYTES: u64 = 128;

/// What `clone` and `clone3` may ask for without leaving the world.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64
    | libc::CLONE_NEWTIME as u64;

const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

impl Tracer {
    /// A call that the filter sends here: a thread is about to make a process (or, by `clone3`, perhaps a thread), or to see
    /// a signal otherwise than by a handler.
    pub(super) fn process_call(&mut self, tid: i32) {
        let registers = match ptrace::registers(tid) {
            Ok(registers) => registers,
            Err(error) => return debug!("registers of {tid}: {error}"),
        };
        match registers.orig_rax as i64 {
            libc::SYS_rt_sigtimedwait => return self.signal_wait(tid, registers.rsi),
            libc::SYS_flock => return self.lock_call(tid, registers),
            libc::SYS_signalfd | libc::SYS_signalfd4 => return self.signal_descriptor(tid, registers),
            libc::SYS_lseek => return self.seek_call(tid, registers),
            _ if descriptors::is_read(registers.orig_rax) => return self.read_call(tid, registers),
            _ if limits::is_write(registers.orig_rax) => return self.write_call(tid, &registers),
            _ => {}
        }
        let arguments = match arguments_of(tid, &registers) {
            Ok(arguments) => arguments,
            Err(error) => return self.finish_call(tid, registers, -i64::from(error)),
        };
        if arguments.flags & libc::CLONE_THREAD as u64 != 0 && arguments.flags & NAMESPACES == 0 {
            return self.go_on(tid, Resume::Run(0));
        }
        if arguments.flags & (NAMESPACES | CLONE_INTO_CGROUP) != 0 || arguments.set_tid_size != 0 {
            if let Some(thread) = self.threads.get(&tid) {
                let (pid, call) = (thread.pid, registers.orig_rax as u32);
                self.tell(self.shared.home.unsupported(pid, call, libc::EPERM));
            }
            return self.finish_call(tid, registers, -i64::from(libc::EPERM));
        }
        self.ask_home(tid, registers, arguments);
    }

    fn ask_home(&mut self, tid: i32, registers: Registers, arguments: CloneArguments) {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return;
        };
        let pid = thread.pid;
        let seat = match self.shared.quota.take() {
            Ok(seat) => seat,
            Err(most) => {
                self.tell(self.shared.home.notice(pid, too_many(most)));
                return self.finish_call(tid, registers, -i64::from(libc::EAGAIN));
            }
        };
        thread.fork = Some(Fork {
            registers,
            arguments,
            child: None,
            made: false,
            seat,
        });
        let id = self.shared.next_id();
        self.forks.insert(id, tid);
        let shared = Arc::clone(&self.shared);
        let exit_signal = arguments.exit_signal as u32;
        let sibling = arguments.flags & libc::CLONE_PARENT as u64 != 0;
        self.tell(
            self.shared
                .home
                .fork_then(pid, exit_signal, sibling, move |result| {
                    // Without an answer the session is about to end.
                    let result = result.unwrap_or(Err(libc::EAGAIN));
                    shared.orders.give(Order::Forked { id, result });
                }),
        );
    }

    /// Home has forked the deputy, or could not.
    pub(super) fn forked(&mut self, id: u64, result: Result<u32, i32>) {
        let Some(tid) = self.forks.remove(&id) else { return };
        let Some(thread) = self.threads.get_mut(&tid) else {
            return;
        };
        let parent = thread.pid;
        let Some(fork) = thread.fork.as_mut() else {
            // The thread died, or was replaced by an `execve`, in between.
            if let Ok(pid) = result {
                self.tell(self.shared.home.unfork(parent, pid));
            }
            return;
        };
        let child = match result {
            Ok(child) => child,
            Err(error) => {
                let registers = fork.registers;
                thread.fork = None;
                return self.finish_call(tid, registers, -i64::from(error));
            }
        };
        fork.child = Some(child);
        let process = super::Process {
            seat: std::mem::take(&mut fork.seat),
            ..super::Process::default()
        };
        self.doomed.remove(&child);
        self.unborn.insert(child, process);
        if let Err(error) = rewrite(tid, fork, child) {
            let registers = fork.registers;
            thread.fork = None;
            self.unborn.remove(&child);
            self.tell(self.shared.home.unfork(parent, child));
            return self.finish_call(tid, registers, -i64::from(errno(&error)));
        }
        self.go_on(tid, Resume::ToCallEnd);
    }

    /// A thread has made a thread or a process, which is traced already.
    pub(super) fn made_child(&mut self, tid: i32) {
        let child = match ptrace::event_message(tid) {
            Ok(child) => child as i32,
            Err(error) => return debug!("event of {tid}: {error}"),
        };
        let Some(thread) = self.threads.get_mut(&tid) else {
            return;
        };
        let pid = thread.pid;
        let mut how = Resume::Run(0);
        let mut new = Thread::new(pid);
        let mut born = super::Process::default();
        match thread.fork.as_mut() {
            Some(fork) if fork.child.is_some() => {
                let home_pid = fork.child.unwrap_or_default();
                fork.made = true;
                new.pid = home_pid;
                new.first = Some(fork.registers);
                how = Resume::ToCallEnd;
                {
                    let mut register = self.shared.guests.lock();
                    let title = register.process(pid).map_or(0, |parent| parent.title);
                    register.add_process(home_pid, child, true, title);
                    register.inherit(pid, home_pid);
                    if fork.arguments.flags & libc::CLONE_FILES as u64 != 0 {
                        register.note_shared_descriptors([pid, home_pid]);
                    }
                }
                born = self.unborn.remove(&home_pid).unwrap_or_default();
                let parent = self.processes.get(&pid);
                let process = super::Process {
                    executed: true,
                    held: born.held,
                    reads_stop: parent.is_some_and(|parent| parent.reads_stop),
                    writes_stop: parent.is_some_and(|parent| parent.writes_stop),
                    seat: std::mem::take(&mut born.seat),
                    ..super::Process::default()
                };
                if let Some(parent) = parent {
                    parent.exempt.inherit(child);
                }
                self.processes.insert(home_pid, process);
            }
            _ => self.shared.guests.lock().add_thread(pid, child),
        }
        if self
            .threads
            .get(&tid)
            .and_then(|thread| thread.fork.as_ref())
            .is_some_and(Fork::gives_descriptor)
        {
            self.shared.guests.remember_descriptors_of(new.pid);
        }
        let born_pid = new.pid;
        self.threads.insert(child, new);
        if born.killed {
            self.kill(born_pid);
        }
        for info in born.early_signals {
            super::deliver(&self.shared, born_pid, &info);
        }
        match self.early.remove(&child) {
            Some(Early::Stopped) => self.plain_stop(child),
            Some(Early::Ended(waited)) => self.ended(waited),
            None => {}
        }
        self.go_on(tid, how);
    }

    /// The rewritten call has ended: give the caller its registers back, and handle what went wrong.
    pub(super) fn call_ended(&mut self, tid: i32) {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return;
        };
        let parent = thread.pid;
        if let Some(within) = thread.within.take() {
            match within {
                Within::SignalWait(place) => self.signal_wait_ended(tid, parent, place),
                Within::Read(read) => self.read_ended(tid, parent, &read),
                Within::Installing(registers) => self.make_again(tid, registers),
                Within::HandingOver(handover) => return self.handed_over(tid, handover),
                Within::Exempt => self.end_exemption(parent, tid),
                Within::Limiting(limiting) => return self.limited(tid, limiting),
                Within::Taking(taking) => return self.taken(tid, taking),
                Within::Locking(before) => self.lock_ended(tid, &before),
            }
            return self.go_on(tid, Resume::Run(0));
        }
        let Some(fork) = thread.fork.take() else {
            return self.go_on(tid, Resume::Run(0));
        };
        let result = match ptrace::registers(tid) {
            Ok(registers) => registers.rax as i64,
            Err(error) => return debug!("registers of {tid}: {error}"),
        };
        let mut registers = fork.registers;
        registers.rax = result as u64;
        if let (true, true, Some(child)) = (result > 0, fork.gives_descriptor(), fork.child)
            && self.hand_over(tid, registers, fork.arguments.pidfd, child)
        {
            return;
        }
        if result < 0 {
            if let (Some(pid), false) = (fork.child, fork.made) {
                self.unborn.remove(&pid);
                self.tell(self.shared.home.unfork(parent, pid));
            }
            if result == -i64::from(libc::EEXIST) {
                // A thread of the world has that pid: make the call again, home will choose another.
                registers.rax = registers.orig_rax;
                registers.rip -= 2;
                registers.orig_rax = u64::MAX;
            }
        }
        if let Err(error) = ptrace::set_registers(tid, &registers) {
            debug!("registers of {tid}: {error}");
        }
        self.go_on(tid, Resume::Run(0));
    }

    /// Gives the child of a rewritten call the registers it would have natively.
    pub(super) fn put_right_child(&mut self, tid: i32, original: &Registers) {
        let result = ptrace::registers(tid).and_then(|mut registers| {
            registers.rdi = original.rdi;
            registers.rsi = original.rsi;
            registers.orig_rax = original.orig_rax;
            ptrace::set_registers(tid, &registers)
        });
        if let Err(error) = result {
            debug!("registers of {tid}: {error}");
        }
    }

    /// The caller died in the middle of its fork.
    pub(super) fn abandon_fork(&mut self, parent: u32, tid: i32, fork: Fork) {
        match fork.child {
            Some(pid) if !fork.made => {
                self.unborn.remove(&pid);
                self.tell(self.shared.home.unfork(parent, pid));
                self.doomed.insert(pid);
                let early: Vec<i32> = self.early.keys().copied().collect();
                for tid in early {
                    self.end_if_doomed(tid);
                }
            }
            Some(_) => {}
            // Home's answer will find no thread; keep the parent's pid for it.
            None => {
                let id = self
                    .forks
                    .iter()
                    .find(|(_, asker)| **asker == tid)
                    .map(|(id, _)| *id);
                if let Some(id) = id {
                    let mut thread = Thread::new(parent);
                    thread.fork = None;
                    // Thread ids are positive, so this is nobody's.
                    let ghost = -(id as i32);
                    self.threads.insert(ghost, thread);
                    self.forks.insert(id, ghost);
                }
            }
        }
    }

    /// Ends a new process whose maker was killed before it could be told of, and whose deputy has been taken back.
    pub(super) fn end_if_doomed(&mut self, tid: i32) {
        if self.doomed.is_empty() {
            return;
        }
        match (self.early.get(&tid), read_inner(tid)) {
            (Some(Early::Stopped), Some(inner)) if self.doomed.remove(&inner) => {
                self.early.remove(&tid);
                if let Err(error) = crate::sys::signals::kill(tid, libc::SIGKILL) {
                    debug!("ending {tid}: {error}");
                }
            }
            (Some(Early::Ended(_)), _) => {
                self.early.remove(&tid);
            }
            _ => {}
        }
    }

    /// Ends a call at its seccomp stop without executing it.
    fn finish_call(&mut self, tid: i32, mut registers: Registers, result: i64) {
        registers.orig_rax = u64::MAX;
        registers.rax = result as u64;
        if let Err(error) = ptrace::set_registers(tid, &registers) {
            warn!("registers of {tid}: {error}");
            return resume(tid, Resume::Run(0));
        }
        self.go_on(tid, Resume::Run(0));
    }
}

/// The call's arguments in `clone3`'s terms.
fn arguments_of(tid: i32, registers: &Registers) -> Result<CloneArguments, i32> {
    let plain = |flags: i32| CloneArguments {
        flags: flags as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArguments::default()
    };
    match registers.orig_rax as i64 {
        libc::SYS_fork => Ok(plain(0)),
        libc::SYS_vfork => Ok(plain(libc::CLONE_VFORK | libc::CLONE_VM)),
        libc::SYS_clone => {
            let flags = registers.rdi & 0xffff_ffff;
            // The old call has a stack's top only; clone3 wants to know where it ends, and checks nothing more than
            // that this is an address.
            let stack_size = if registers.rsi == 0 {
                0
            } else {
                registers.rsi.min(4096)
            };
            // One argument served two flags.
            let parent_tid = registers.rdx;
            let pidfd = if flags & libc::CLONE_PIDFD as u64 != 0 {
                parent_tid
            } else {
                0
            };
            Ok(CloneArguments {
                flags: flags & !0xff,
                exit_signal: flags & 0xff,
                stack: registers.rsi - stack_size,
                stack_size,
                parent_tid,
                pidfd,
                child_tid: registers.r10,
                tls: registers.r8,
                ..CloneArguments::default()
            })
        }
        libc::SYS_clone3 => {
            let size = registers.rsi as usize;
            if size < 64 {
                return Err(libc::EINVAL);
            }
            if size > 4096 {
                return Err(libc::E2BIG);
            }
            let mut bytes = vec![0; size.max(CLONE_ARGUMENTS_BYTES)];
            memory::read(tid, registers.rdi, &mut bytes[..size]).map_err(|error| errno(&error))?;
            let (known, unknown) = bytes.split_at(CLONE_ARGUMENTS_BYTES);
            if unknown.iter().any(|&byte| byte != 0) {
                return Err(libc::E2BIG);
            }
            let arguments = CloneArguments::read_from_bytes(known).map_err(|_| libc::EINVAL)?;
            match is_sound(&arguments) {
                true => Ok(arguments),
                false => Err(libc::EINVAL),
            }
        }
        _ => Err(libc::ENOSYS),
    }
}

/// What the kernel refuses in a `clone3` before it makes anything: home would fork first, and the rewritten call has no signal any more.
fn is_sound(arguments: &CloneArguments) -> bool {
    let flag = |flag: i32| arguments.flags & flag as u64 != 0;
    let flags = u64::from(u32::MAX) & !(libc::CLONE_DETACHED as u64 | 0xff);
    arguments.flags & !(flags | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP | libc::CLONE_NEWTIME as u64) == 0
        && (!flag(libc::CLONE_SIGHAND) || arguments.flags & CLONE_CLEAR_SIGHAND == 0)
        && (!(flag(libc::CLONE_THREAD) || flag(libc::CLONE_PARENT)) || arguments.exit_signal == 0)
        && arguments.exit_signal <= SIGNALS
        && (arguments.stack == 0) == (arguments.stack_size == 0)
        && (arguments.set_tid == 0) == (arguments.set_tid_size == 0)
}

/// The highest signal.
const SIGNALS: u64 = 64;

/// Turns the stopped call into `clone3` with the wished pid. Its arguments go below the caller's stack.
fn rewrite(tid: i32, fork: &Fork, child: u32) -> std::io::Result<()> {
    let place = (fork.registers.rsp - RED_ZONE_BYTES - CLONE_ARGUMENTS_BYTES as u64 - 16) & !15;
    let pid_place = place + CLONE_ARGUMENTS_BYTES as u64;
    let arguments = CloneArguments {
        // Who is whose child is home's business: on the node, all are init's.
        flags: (fork.arguments.flags | libc::CLONE_PARENT as u64)
            & !(libc::CLONE_PTRACE as u64)
            & !(libc::CLONE_UNTRACED as u64)
            & (u64::from(u32::MAX) | CLONE_CLEAR_SIGHAND),
        exit_signal: 0,
        set_tid: pid_place,
        set_tid_size: 1,
        ..fork.arguments
    };
    let mut bytes = arguments.as_bytes().to_vec();
    bytes.extend_from_slice(&child.to_ne_bytes());
    memory::write(tid, place, &bytes)?;
    let mut registers = fork.registers;
    registers.orig_rax = libc::SYS_clone3 as u64;
    registers.rax = -i64::from(libc::ENOSYS) as u64;
    registers.rdi = place;
    registers.rsi = CLONE_ARGUMENTS_BYTES as u64;
    ptrace::set_registers(tid, &registers)
}
