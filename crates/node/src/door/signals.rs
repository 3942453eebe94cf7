//! Signals and limits: which of them are for a guest, and which for a process of home.

use afield_abi::syscalls::{self, nr};

use super::notify::{Door, Verdict};
use crate::guests::OfChildren;
use crate::session::Then;
use crate::sys::seccomp::{Answer, Notification};
use crate::sys::{errno, memory};
use crate::trace::Order;

/// Signals that stop, continue or end a process whatever it does about them, or the terminal's: they are home's to send.
/// So is the question whether a process is there.
pub(super) fn is_homes(signal: i32) -> bool {
    [
        0,
        libc::SIGKILL,
        libc::SIGCONT,
        libc::SIGSTOP,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ]
    .contains(&signal)
}

/// The kernel's `struct sigaction`, which begins with the handler and the flags, and the set of signals in it.
const ACTION_BYTES: usize = 32;
const MASK_BYTES: u64 = 8;

impl Door {
    /// Whether a guest has executed a program of its own since it was forked, by the flags in `/proc/PID/stat`.
    pub(super) fn has_executed(&self, pid: u32) -> bool {
        const FORKED_WITHOUT_EXECUTING: u64 = 0x40;
        let leader = self
            .shared
            .guests
            .lock()
            .process(pid)
            .map(|process| process.leader);
        let stat = leader.and_then(|leader| std::fs::read_to_string(format!("/proc/{leader}/stat")).ok());
        // The command's name is in parentheses and may hold anything.
        stat.as_ref()
            .and_then(|stat| stat.rsplit_once(')'))
            .and_then(|(_, fields)| fields.split_whitespace().nth(6)?.parse::<u64>().ok())
            .is_some_and(|flags| flags & FORKED_WITHOUT_EXECUTING == 0)
    }

    /// `rt_sigaction` of a signal whose disposition home's kernel looks at. That it looks at something else than before is told; waiting for
    /// home makes a difference only where another process may look at once: the deputy of a child that ends or stops.
    pub(super) fn set_action(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        arguments: [u64; 6],
    ) -> Result<Verdict, i32> {
        const EXECUTE: Result<Verdict, i32> = Ok(Verdict::Answer(Answer::Continue));
        let [signal, action, _, mask_bytes, ..] = arguments;
        // It only asks, or the kernel refuses it.
        if action == 0 || mask_bytes != MASK_BYTES {
            return EXECUTE;
        }
        let mut bytes = [0; ACTION_BYTES];
        memory::read(tid, action, &mut bytes).map_err(|error| errno(&error))?;
        let word = |at: usize| {
            bytes[at..]
                .first_chunk()
                .map_or(0, |word| u64::from_ne_bytes(*word))
        };
        let [handler, flags] = [0, 8].map(word);
        let wanted = OfChildren::new(handler, flags);
        if signal as i32 != libc::SIGCHLD {
            let told = self.shared.home.ignores(pid, signal as u32, wanted.ignored);
            return told.map_err(|_| libc::EIO).and(EXECUTE);
        }
        let known = match self.shared.guests.lock().process_mut(pid) {
            Some(process) => std::mem::replace(&mut process.of_children, wanted),
            None => return EXECUTE,
        };
        match known == wanted {
            true => EXECUTE,
            false => self.forward(notification, tid, pid, nr::RT_SIGACTION, arguments, Then::Execute),
        }
    }

    /// A signal from a guest to a guest is the node's kernel's own, so that it says who sent it; true if this was one. What
    /// stops, continues or ends a process is home's, and so is every process that is not (or no longer) in the world.
    pub(super) fn signals_guest(&self, notification: &Notification, arguments: &[u64; 6]) -> bool {
        let (target, signal) = (arguments[0] as i32, arguments[1] as i32);
        if target <= 0 || is_homes(signal) || self.shared.guests.process(target as u32) != Some(true) {
            return false;
        }
        self.signal_natively(notification.id, target as u32);
        true
    }

    /// A signal to a thread: of a guest, or of a process that home has.
    pub(super) fn signal_thread(
        &mut self,
        notification: &Notification,
        tid: i32,
        pid: u32,
        number: u32,
        mut arguments: [u64; 6],
    ) -> Result<Verdict, i32> {
        let (target, signal) = match number {
            nr::TKILL => (arguments[0] as u32, arguments[1] as i32),
            _ => (arguments[1] as u32, arguments[2] as i32),
        };
        match self.shared.guests.find_inner(target) {
            Some((_, owner)) if number != nr::TKILL && owner != arguments[0] as u32 => Err(libc::ESRCH),
            Some((_, owner)) if owner == pid || !is_homes(signal) => {
                self.signal_natively(notification.id, owner);
                Ok(Verdict::Later)
            }
            Some((_, owner)) => {
                // Home knows each guest's first thread, and this is for the whole process whichever gets it.
                let place = if number == nr::TKILL { 0 } else { 1 };
                arguments[place] = u64::from(owner);
                self.forward(notification, tid, pid, number, arguments, Then::Answer)
            }
            None if number != nr::TKILL && arguments[0] as u32 == pid => Err(libc::ESRCH),
            None => self.forward(notification, tid, pid, number, arguments, Then::Answer),
        }
    }

    /// Has the node's kernel send a signal to a guest, and sees to it that it wakes a thread that waits at home.
    pub(super) fn signal_natively(&self, notification: u64, target: u32) {
        // The signal is pending some time after this answer.
        self.answer(notification, Answer::Continue);
        let waiting = {
            let register = self.shared.guests.lock();
            let threads = register
                .process(target)
                .map(|process| process.threads.as_slice())
                .unwrap_or_default();
            threads
                .iter()
                .copied()
                .find(|tid| register.thread(*tid).is_some_and(|thread| thread.call.is_some()))
        };
        if let Some(tid) = waiting {
            self.shared.note_timer(target);
            self.shared.orders.give(Order::Look { tid });
        }
    }

    /// Limits of a guest are its node's kernel's to hold, but for those that concern what is at home.
    pub(super) fn is_limit_of_guest(&self, arguments: &[u64; 6]) -> bool {
        let at_home = syscalls::HOME_LIMITS.contains(&(arguments[1] as u32));
        !at_home && self.shared.guests.process(arguments[0] as u32).is_some()
    }
}
