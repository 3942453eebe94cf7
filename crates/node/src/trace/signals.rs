//! Signals on their way to guests.

use std::time::Duration;

use tracing::debug;

use super::{EARLY_SIGNALS_MAX, Order, Resume, Tracer, Within};
use crate::door::descriptors::current_call;
use crate::session::Shared;
use crate::sys::memory;
use crate::sys::ptrace;
use crate::sys::signals::{self, State, bit};

/// How often threads that wait at home are looked at while their process has a timer of its own armed: the kernel tells
/// nobody when the timer's signal becomes pending for a thread that waits in a notification.
const TIMER_POLL: Duration = Duration::from_millis(5);

const ERESTARTSYS: i64 = 512;

/// A signal arrived at the deputy. Runs on the link's reader, so that the signal is pending before any reply that home
/// sent after it is given to the guest.
pub fn deliver(shared: &Shared, pid: u32, siginfo: &[u8; 128]) {
    let signal = i32::from_ne_bytes([siginfo[0], siginfo[1], siginfo[2], siginfo[3]]);
    if !(1..=64).contains(&signal) || signal == libc::SIGKILL || signal == libc::SIGSTOP {
        return;
    }
    let leader = match shared.guests.lock().process(pid) {
        Some(process) if process.executed => process.leader,
        // Not yet there, or not yet a guest; or gone, as the tracer knows.
        _ => {
            let info = Box::new(*siginfo);
            return shared.orders.give(Order::EarlySignal { pid, info });
        }
    };
    if is_dropped(leader, signal) {
        return;
    }
    let value = shared.truths.keep(pid, signal, siginfo);
    let mark = signals::queued_info(signal, value);
    let code = i32::from_ne_bytes([siginfo[8], siginfo[9], siginfo[10], siginfo[11]]);
    // At home the process's only thread that can be signalled by itself stands for the first one here.
    let sent = match code {
        libc::SI_TKILL => signals::queue_to_thread(leader, leader, signal, &mark),
        _ => signals::queue(leader, signal, &mark),
    };
    let sent = sent.or_else(|_| {
        shared.truths.drop_unsent(pid, value);
        signals::kill(leader, signal)
    });
    match sent {
        Ok(()) => shared.orders.give(Order::Signalled { pid, signal }),
        Err(error) => debug!("signal {signal} to {pid}: {error}"),
    }
}

/// Whether the kernel would drop a signal at once, which it does not where somebody traces: there the signal would end calls
/// that nothing natively ends.
fn is_dropped(leader: i32, signal: i32) -> bool {
    // These also take back those of the other kind that are pending.
    if signal == libc::SIGCONT || bit(signal) & signals::STOPS != 0 {
        return false;
    }
    let drops = || State::of(leader).is_ok_and(|state| state.drops(signal));
    // What it waits for is blocked but while it waits.
    let waits = || current_call(leader).is_some_and(|call| call.number as i64 == libc::SYS_rt_sigtimedwait);
    drops() && !waits() && drops() && !waits()
}

impl Tracer {
    /// A signal came before the guest executed its program, or was there at all.
    pub(super) fn early_signal(&mut self, pid: u32, siginfo: &[u8; 128]) {
        let waiting = match self.processes.get_mut(&pid) {
            Some(process) if !process.executed => process,
            Some(_) => return deliver(&self.shared, pid, siginfo),
            None => match self.unborn.get_mut(&pid) {
                Some(process) => process,
                None => return,
            },
        };
        if waiting.early_signals.len() < EARLY_SIGNALS_MAX {
            waiting.early_signals.push(*siginfo);
        }
    }

    /// Interrupts the forwarded call of the thread that the kernel gives a new signal to, if that thread waits in one.
    pub(super) fn interrupt_waiting(&mut self, pid: u32, signal: i32) {
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
        let frozen = self.frozen.then_some(super::hold::FROZEN_LOOK);
        let timer = self.shared.waits_under_timer().then_some(TIMER_POLL);
        frozen.into_iter().chain(timer).min()
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
            self.tell(self.shared.home.stop(pid, signal as u32));
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
        if let Some(truth) = self.shared.truths.take(pid, &shown)
            && let Err(error) = ptrace::set_signal_info(tid, &truth)
        {
            debug!("siginfo of {tid}: {error}");
        }
    }

    /// A thread is about to wait for a signal: what it gets has to be looked at.
    pub(super) fn signal_wait(&mut self, tid: i32, place: u64) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.within = Some(Within::SignalWait(place));
        }
        self.go_on(tid, Resume::ToCallEnd);
    }

    /// The wait has ended.
    pub(super) fn signal_wait_ended(&mut self, tid: i32, pid: u32, place: u64) {
        let mut shown = [0; 128];
        let signalled = ptrace::registers(tid).is_ok_and(|registers| registers.rax as i64 > 0);
        if !signalled || place == 0 || memory::read(tid, place, &mut shown).is_err() {
            return;
        }
        if let Some(truth) = self.shared.truths.take(pid, &shown)
            && let Err(error) = memory::write(tid, place, &truth)
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
