//! Signals on their way to guests.

use std::time::Duration;

use afield_link::wire::ToHome;
use tracing::debug;

use super::{Resume, Tracer};
use crate::sys::ptrace;
use crate::sys::signals::{self, State, bit, info};

/// Values of queued signals that stand for a siginfo which is kept here carry this; the rest is its key: the signal's
/// number for standard signals (of which one can be pending), a counter from [`FIRST_QUEUED`] for the others.
const MARK: u64 = 0xaf1e_1d00 << 32;

/// First key that is not a signal number.
pub(super) const FIRST_QUEUED: u64 = 65;

/// How often threads that wait at home are looked at while their process has a timer of its own armed: the kernel tells
/// nobody when the timer's signal becomes pending for a thread that waits in a notification.
const TIMER_POLL: Duration = Duration::from_millis(5);

const ERESTARTSYS: i64 = 512;

impl Tracer {
    /// A signal arrived at the deputy.
    pub(super) fn signal(&mut self, pid: u32, siginfo: &[u8; 128]) {
        let signal = i32::from_ne_bytes([siginfo[0], siginfo[1], siginfo[2], siginfo[3]]);
        if !(1..=64).contains(&signal) || signal == libc::SIGKILL || signal == libc::SIGSTOP {
            return;
        }
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        if !process.executed {
            process.early_signals.push(*siginfo);
            return;
        }
        let key = if signal < 32 {
            signal as u64
        } else {
            self.next_info += 1;
            self.next_info
        };
        // What cannot be sent as it is goes under a mark, and is replaced when it is delivered.
        let sent = if signals::can_be_sent(siginfo) {
            *siginfo
        } else {
            process.infos.insert(key, *siginfo);
            signals::queued_info(signal, MARK | key)
        };
        let leader = self
            .shared
            .guests
            .lock()
            .process(pid)
            .map(|process| process.leader);
        let Some(leader) = leader else { return };
        let queued = signals::queue(leader, signal, &sent).or_else(|_| signals::kill(leader, signal));
        if let Err(error) = queued {
            return debug!("signal {signal} to {pid}: {error}");
        }
        self.interrupt_waiting(pid, signal);
    }

    /// Interrupts the forwarded call of the thread that the kernel gives a new signal to, if that thread waits in one.
    fn interrupt_waiting(&mut self, pid: u32, signal: i32) {
        let threads: Vec<(i32, Option<u64>)> = {
            let register = self.shared.guests.lock();
            let Some(process) = register.process(pid) else {
                return;
            };
            let threads = process.threads.iter();
            threads
                .filter_map(|tid| register.thread(*tid).map(|thread| (*tid, thread.call)))
                .collect()
        };
        if threads.iter().all(|(_, call)| call.is_none()) {
            return;
        }
        for (tid, call) in threads {
            let Ok(state) = State::of(tid) else { continue };
            if state.blocked & bit(signal) != 0 {
                continue;
            }
            if let (Some(call), true) = (call, state.interrupting(bit(signal)) != 0) {
                self.shared.cancel_call(call);
            }
            // A thread that does not wait at home takes the signal by itself.
            return;
        }
    }

    /// Interrupts a thread's forwarded call if a signal is pending for it.
    pub(super) fn look_for_interruption(&mut self, tid: i32) {
        let call = self
            .shared
            .guests
            .lock()
            .thread(tid)
            .and_then(|thread| thread.call);
        let Some(call) = call else { return };
        if State::of(tid).is_ok_and(|state| state.interrupting(state.pending) != 0) {
            self.shared.cancel_call(call);
        }
    }

    /// How long the tracer may sleep.
    pub(super) fn poll_interval(&self) -> Option<Duration> {
        self.shared.waits_under_timer().then_some(TIMER_POLL)
    }

    /// Looks at threads whose call a timer of their own process may have to interrupt.
    pub(super) fn check_timers(&mut self) {
        for tid in self.shared.threads_under_timer() {
            self.look_for_interruption(tid);
        }
    }

    /// A signal is about to be delivered.
    pub(super) fn signal_stop(&mut self, tid: i32, signal: i32) {
        self.correct_result(tid);
        let Some(thread) = self.threads.get(&tid) else {
            return;
        };
        let pid = thread.pid;
        if bit(signal) & signals::STOPS != 0 && self.stops_by_default(tid, signal) {
            self.hold(pid);
            self.tell(
                0,
                &ToHome::Stop {
                    pid,
                    signal: signal as u32,
                },
            );
            return self.go_on(tid, Resume::Run(0));
        }
        self.give_true_info(tid, pid);
        self.go_on(tid, Resume::Run(signal));
    }

    fn stops_by_default(&self, tid: i32, signal: i32) -> bool {
        signal == libc::SIGSTOP || State::of(tid).is_ok_and(|state| state.is_default(signal))
    }

    /// Replaces the siginfo of a signal that stands for one from home.
    fn give_true_info(&mut self, tid: i32, pid: u32) {
        let Ok(shown) = ptrace::signal_info(tid) else {
            return;
        };
        let word = |at: usize| i32::from_ne_bytes([shown[at], shown[at + 1], shown[at + 2], shown[at + 3]]);
        let mut value = [0; 8];
        value.copy_from_slice(&shown[info::VALUE..info::VALUE + 8]);
        let value = u64::from_ne_bytes(value);
        // Nobody in the world can send with pid 0.
        if word(info::CODE) != libc::SI_QUEUE || word(info::PID) != 0 || value & !0xffff_ffff != MARK {
            return;
        }
        let truth = self
            .processes
            .get_mut(&pid)
            .and_then(|process| process.infos.remove(&(value & 0xffff_ffff)));
        if let Some(truth) = truth
            && let Err(error) = ptrace::set_signal_info(tid, &truth)
        {
            debug!("siginfo of {tid}: {error}");
        }
    }

    /// Turns the `EINTR` that the file door had to give into the restart that the call would have had.
    pub(super) fn restart_if_interrupted(&mut self, tid: i32) {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return;
        };
        if !std::mem::take(&mut thread.restart) {
            return;
        }
        let result = ptrace::registers(tid).and_then(|mut registers| {
            if registers.rax as i64 == -i64::from(libc::EINTR) && registers.orig_rax as i64 >= 0 {
                registers.rax = -ERESTARTSYS as u64;
                ptrace::set_registers(tid, &registers)?;
            }
            Ok(())
        });
        if let Err(error) = result {
            debug!("registers of {tid}: {error}");
        }
    }
}
