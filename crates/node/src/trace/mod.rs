//! The trace door: process events, signals, and everything else for which a guest has to be stopped.
//!
//! One thread traces all guests of a session. It takes stops from the kernel and [`Order`]s from the other threads;
//! it never waits for home: what has to be asked there leaves the guest stopped until the answer comes as an order.

mod correction;
mod descriptors;
mod exec;
mod fork;
mod handover;
mod hold;
mod limits;
mod locks;
mod orders;
mod seeks;
mod signals;
mod taking;
mod truths;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use afield_link::control::Statistics;
use afield_link::wire::Usage;
use afield_rpc::stages::{Served, Stage, mark};
use afield_rpc::{Answer, CallError};
use tracing::{debug, warn};

pub use correction::{Correction, STAT_BYTES, is_status_call};
pub use orders::{Answered, Order, Orders};
pub use signals::deliver;
pub use taking::Received;
pub use truths::Truths;

use crate::admission::Seat;
use crate::session::Shared;
use crate::spawner;
use crate::sys::ptrace::{self, Registers, Waited};

/// What the tracer knows of a thread.
#[derive(Debug)]
struct Thread {
    /// Home pid of its process.
    pid: u32,
    /// A fork that is under way.
    fork: Option<fork::Fork>,
    /// Registers to put right at its first stop, for the child of a rewritten fork.
    first: Option<Registers>,
    /// Its file operation was answered with `EINTR` where the call is to be restarted.
    restart: bool,
    /// What to put right in the result of the call it is in.
    correction: Option<Correction>,
    /// It is in a call whose end has to be looked at.
    within: Option<Within>,
    /// At its next stop it is to be given a filter for these calls.
    installs: Option<&'static [u32]>,
    /// At its next stop it is to take descriptors out of sockets.
    takes: Option<Received>,
    /// It is stopped because its process is held; this is how it goes on.
    parked: Option<Resume>,
}

impl Thread {
    fn new(pid: u32) -> Self {
        Self {
            pid,
            fork: None,
            first: None,
            restart: false,
            correction: None,
            within: None,
            installs: None,
            takes: None,
            parked: None,
        }
    }
}

/// A call that stops at its end.
#[derive(Debug)]
enum Within {
    /// It waits for a signal (`rt_sigtimedwait`), whose siginfo goes here.
    SignalWait(u64),
    /// It reads a signal descriptor.
    Read(descriptors::Read),
    /// It installs a filter, before the call that it was about to make.
    Installing(Registers),
    /// It gets home's descriptor of the child it has made.
    HandingOver(Box<handover::Handover>),
    /// It writes to a home object, to which the node's limit on the size of files does not apply.
    Exempt,
    /// It installs a filter for its writes.
    Limiting(Box<limits::Limiting>),
    /// It takes descriptors out of sockets.
    Taking(Box<taking::Taking>),
    /// It locks a directory; its registers at the call.
    Locking(Box<Registers>),
}

/// What the tracer knows of a process.
#[derive(Debug, Default)]
struct Process {
    /// It must not run.
    held: bool,
    /// It has executed its program; before that, its end is not a guest's end.
    executed: bool,
    /// Whoever has prepared it has nothing more to tell home of it.
    executing: bool,
    /// It is to be ended as soon as it is there.
    killed: bool,
    /// Signals that came before it had executed its program, or was there at all.
    early_signals: Vec<[u8; 128]>,
    /// Its reads stop, because it has had a signal descriptor.
    reads_stop: bool,
    /// Its writes stop, because there is a limit on the size of its files.
    writes_stop: bool,
    /// Its seeks stop, because it has received files whose offset is home's.
    seeks_stop: bool,
    /// Its threads that write to home objects.
    exempt: limits::Exempt,
    /// Its place among those that this home may have.
    seat: Seat,
}

impl Process {
    /// How many filters it has that are not its own.
    fn own_filters(&self) -> usize {
        1 + usize::from(self.reads_stop) + usize::from(self.writes_stop) + usize::from(self.seeks_stop)
    }
}

/// Most signals that are kept for a process that cannot take them yet.
const EARLY_SIGNALS_MAX: usize = 4096;

/// How a stopped thread goes on.
#[derive(Debug, Clone, Copy)]
enum Resume {
    /// Until something happens, with a signal (0 for none).
    Run(i32),
    /// Until its system call ends.
    ToCallEnd,
}

/// A new thread that stopped or ended before its maker's event told who it is.
#[derive(Debug, Clone, Copy)]
enum Early {
    Stopped,
    Ended(Waited),
}

/// The tracer's state; lives on its thread.
pub struct Tracer {
    shared: Arc<Shared>,
    threads: HashMap<i32, Thread>,
    processes: HashMap<u32, Process>,
    early: HashMap<i32, Early>,
    /// What came for guests whose deputies are there already, but which the node's kernel has not made yet.
    unborn: HashMap<u32, Process>,
    /// Children of forks whose caller was killed: the kernel may have made them, and then tells nobody.
    doomed: HashSet<u32>,
    /// Threads whose fork home has been asked for, by frame id.
    forks: HashMap<u64, i32>,
    /// No guest may compute.
    frozen: bool,
    /// No guest that stops may go on.
    hushed: bool,
}

impl Tracer {
    /// A tracer for a session. It must be run by the thread that calls [`Tracer::run`] and no other.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            threads: HashMap::new(),
            processes: HashMap::new(),
            early: HashMap::new(),
            unborn: HashMap::new(),
            doomed: HashSet::new(),
            forks: HashMap::new(),
            frozen: false,
            hushed: false,
        }
    }

    /// Traces until the session ends.
    pub fn run(mut self) {
        let orders = Arc::clone(&self.shared);
        let orders = &orders.orders;
        loop {
            let mut busy = false;
            loop {
                match ptrace::next_stop() {
                    Ok(Some(waited)) => {
                        busy = true;
                        self.waited(waited);
                    }
                    Ok(None) => break,
                    Err(error) => {
                        warn!("wait: {error}");
                        break;
                    }
                }
            }
            while let Some(order) = orders.next() {
                busy = true;
                if matches!(order, Order::End) {
                    self.shared.writer.shutdown();
                    return;
                }
                self.obey(order);
            }
            if !busy && orders.wait(self.poll_interval()).is_err() {
                return;
            }
            self.check_timers();
            self.check_frozen();
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Expect { pid } => {
                self.unborn.insert(pid, Process::default());
            }
            Order::Unexpect { pid } => {
                self.unborn.remove(&pid);
            }
            Order::Executing { pid } => match self.processes.get_mut(&pid) {
                Some(process) => process.executing = true,
                None => self.killed_at_its_start(pid),
            },
            Order::Seize {
                pid,
                tid,
                seat,
                answer,
            } => {
                let result = self.seize(pid, tid, seat);
                // The asker may have given up.
                let _ = answer.send(result);
            }
            Order::Forked { id, result } => self.forked(id, result),
            Order::EarlySignal { pid, info } => self.early_signal(pid, &info),
            Order::Signalled { pid, signal } => self.interrupt_waiting(pid, signal),
            Order::Kill { pid } => self.kill(pid),
            Order::Hold { pid } => self.hold(pid),
            Order::Release { pid } => self.release(pid),
            Order::AnswerInterrupted {
                tid,
                listener,
                notification,
                error,
            } => {
                self.interrupt(tid);
                if let Err(error) = listener.answer(notification, crate::sys::seccomp::Answer::Result(error))
                {
                    warn!("answering an interrupted call: {error}");
                }
            }
            Order::AnswerStopping {
                tid,
                listener,
                notification,
            } => {
                self.interrupt(tid);
                if let Some(thread) = self.threads.get_mut(&tid) {
                    thread.correction = Some(Correction::Owners);
                }
                if let Err(error) = listener.answer(notification, crate::sys::seccomp::Answer::Continue) {
                    warn!("answering a call: {error}");
                }
            }
            Order::ReplyInterrupted { tid, reply } => {
                self.interrupt(tid);
                if let Some(thread) = self.threads.get_mut(&tid) {
                    thread.restart = true;
                }
                self.shared.files.reply(&reply);
            }
            Order::Correct {
                tid,
                correction,
                reply,
            } => {
                self.interrupt(tid);
                if let Some(thread) = self.threads.get_mut(&tid) {
                    thread.correction = Some(correction);
                }
                self.shared.files.reply(&reply);
            }
            Order::LimitFiles {
                process,
                soft,
                answer,
            } => self.limit_files(process, soft, &answer),
            Order::WatchSeeks { tid } => {
                if self.watch_seeks(tid) {
                    self.interrupt(tid);
                }
            }
            Order::AnswerReceived { received, answer } => self.answer_received(received, &answer),
            Order::Look { tid } => self.look_for_interruption(tid),
            Order::Guests { answer } => {
                let executed = self.processes.iter().filter(|(_, process)| process.executed);
                let guests = executed.map(|(pid, _)| *pid).collect();
                self.tell(answer.send(&guests));
            }
            Order::Freeze => self.freeze(),
            Order::Thaw => self.thaw(),
            Order::Hush => self.hushed = true,
            Order::Unhush => self.unhush(),
            Order::ReplyHushed { tid, reply } => {
                self.interrupt(tid);
                self.shared.files.pass_on(&reply);
            }
            Order::Statistics { answer } => self.tell_statistics(answer),
            Order::End => {}
        }
    }

    fn tell_statistics(&mut self, answer: Answer<Statistics>) {
        // What has been noted since is the sending of the answer before.
        let before = Served::sent();
        mark(Stage::Begun);
        let held = self.processes.values().filter(|process| process.held).count();
        let mut statistics = Statistics {
            guests: self.processes.len() as u32,
            held: held as u32,
            calls: self.shared.call_count() as u32,
            served: Served::default(),
        };
        mark(Stage::Executed);
        statistics.served = Served::now(&before);
        self.tell(answer.send(&statistics));
    }

    fn seize(&mut self, pid: u32, tid: i32, seat: Seat) -> io::Result<()> {
        ptrace::seize(tid)?;
        self.shared.guests.lock().add_process(pid, tid, false, 0);
        self.threads.insert(tid, Thread::new(pid));
        let mut expected = self.unborn.remove(&pid).unwrap_or_default();
        expected.seat = seat;
        let killed = expected.killed;
        self.processes.insert(pid, expected);
        if killed {
            self.kill(pid);
        }
        Ok(())
    }

    /// A guest is to end at once; nobody at home waits for its status.
    fn kill(&mut self, pid: u32) {
        let leader = self
            .shared
            .guests
            .lock()
            .process(pid)
            .map(|process| process.leader);
        if let Some(leader) = leader {
            if let Err(error) = crate::sys::signals::kill(leader, libc::SIGKILL) {
                debug!("killing {pid}: {error}");
            }
            self.shared.abandon_calls_of(pid);
        } else if let Some(process) = self.unborn.get_mut(&pid) {
            process.killed = true;
        }
    }

    fn interrupt(&self, tid: i32) {
        // It may be gone, or stopped already: either way it will not go on unseen.
        if let Err(error) = ptrace::interrupt(tid) {
            debug!("interrupting {tid}: {error}");
        }
    }

    fn waited(&mut self, waited: Waited) {
        let Waited { tid, status, .. } = waited;
        if !self.threads.contains_key(&tid) {
            let early = if libc::WIFSTOPPED(status) {
                Early::Stopped
            } else {
                Early::Ended(waited)
            };
            self.early.insert(tid, early);
            self.end_if_doomed(tid);
            return;
        }
        if !libc::WIFSTOPPED(status) {
            self.ended(waited);
            return;
        }
        let signal = libc::WSTOPSIG(status);
        match status >> 16 {
            0 if signal == libc::SIGTRAP | 0x80 => self.call_ended(tid),
            0 => self.signal_stop(tid, signal),
            libc::PTRACE_EVENT_SECCOMP => self.process_call(tid),
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                self.made_child(tid)
            }
            libc::PTRACE_EVENT_EXEC => self.executed(tid),
            ptrace::EVENT_STOP => self.plain_stop(tid),
            event => {
                debug!("thread {tid} stopped for event {event}");
                self.go_on(tid, Resume::Run(0));
            }
        }
    }

    /// A stop that we asked for, or a new thread's first.
    fn plain_stop(&mut self, tid: i32) {
        if let Some(first) = self.threads.get_mut(&tid).and_then(|thread| thread.first.take()) {
            self.put_right_child(tid, &first);
        }
        self.correct_result(tid);
        if self.take_descriptors(tid) || self.install_filter(tid) {
            return;
        }
        self.go_on(tid, Resume::Run(0));
    }

    /// Lets a stopped thread go on, unless its process is held.
    fn go_on(&mut self, tid: i32, how: Resume) {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return;
        };
        if self.frozen
            || self.hushed
            || self
                .processes
                .get(&thread.pid)
                .is_some_and(|process| process.held)
        {
            thread.parked = Some(how);
            return;
        }
        resume(tid, how);
    }

    fn ended(&mut self, waited: Waited) {
        let Waited { tid, status, usage } = waited;
        let Some(thread) = self.threads.remove(&tid) else {
            return;
        };
        if let Some(fork) = thread.fork {
            self.abandon_fork(thread.pid, tid, fork);
        }
        if matches!(thread.within, Some(Within::Exempt)) {
            self.end_exemption(thread.pid, tid);
        }
        let (call, leader) = {
            let mut register = self.shared.guests.lock();
            let call = register.remove_thread(tid);
            (call, register.process(thread.pid).map(|process| process.leader))
        };
        if let Some(call) = call {
            self.shared.abandon_call(call);
        }
        if leader != Some(tid) {
            return;
        }
        self.shared.guests.lock().remove_process(thread.pid);
        self.shared.truths.forget(thread.pid);
        let pid = thread.pid;
        match self.processes.remove(&pid) {
            Some(process) if process.executed => {
                self.settle_files();
                self.tell(self.shared.home.exit(pid, status, usage_of(&usage)));
            }
            Some(process) if process.executing => self.killed_at_its_start(pid),
            _ => {}
        }
    }

    /// Somebody has killed a guest before it had executed its program. Not if home knows that it has.
    fn killed_at_its_start(&self, pid: u32) {
        self.shared.started(pid, Err(spawner::died()));
    }

    /// Home learns what guests have closed before it learns what the tracer has to say.
    fn settle_files(&self) {
        if let Err(error) = crate::fs::settle(&self.shared) {
            debug!("the file door: {error}");
        }
    }

    /// Takes note of whether home could be told. If the link is gone the session is about to end.
    fn tell(&self, told: Result<(), CallError>) {
        if let Err(error) = told {
            debug!("telling home: {error}");
        }
    }
}

fn resume(tid: i32, how: Resume) {
    let result = match how {
        Resume::Run(signal) => ptrace::resume(tid, signal),
        Resume::ToCallEnd => ptrace::resume_to_call_end(tid, 0),
    };
    // A thread that SIGKILL has taken out of its stop is reported as ended next.
    if let Err(error) = result {
        debug!("resuming {tid}: {error}");
    }
}

fn usage_of(usage: &libc::rusage) -> Usage {
    let microseconds =
        |time: libc::timeval| time.tv_sec.max(0) as u64 * 1_000_000 + time.tv_usec.max(0) as u64;
    Usage {
        user_us: microseconds(usage.ru_utime),
        system_us: microseconds(usage.ru_stime),
        resident_kib_max: usage.ru_maxrss.max(0) as u64,
        faults: (usage.ru_minflt.max(0) as u64, usage.ru_majflt.max(0) as u64),
        switches: (usage.ru_nvcsw.max(0) as u64, usage.ru_nivcsw.max(0) as u64),
    }
}
