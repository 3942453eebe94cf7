//! Waiting for children, and what they have used.
//!
//! Home's kernel knows who is whose child and what became of it; of its use of resources it knows the deputy's. The
//! agent therefore tells a deputy what a child's guest has used before that child's deputy may end.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use afield_abi::syscalls::nr;
use afield_link::wire::Usage;

use super::workers::Worker;
use super::{Deputy, lock};
use crate::messages::FromDeputy;
use crate::sys::call::Prepared;
use crate::sys::interrupt::Flag;

/// Bytes of `siginfo_t`, and of `struct rusage`.
const INFO_BYTES: usize = 128;
const USAGE_BYTES: usize = 144;

/// Longest wait for the message that tells what a child has used. It was sent before the child could end; it does not
/// come if the deputy was killed from outside.
const USAGE_WAIT: Duration = Duration::from_millis(50);

const EINTR: i64 = -(libc::EINTR as i64);

/// The deputy's children that are deputies themselves.
#[derive(Debug, Default)]
pub struct Children {
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    /// Those that live or have not been waited for, with what they have used if they are about to end.
    usages: HashMap<u32, Option<Usage>>,
    /// Those of which the guest must not know. They stay here when they are gone, because a worker that has seen one may
    /// come late to ask.
    hidden: HashSet<u32>,
    /// What those have used who have been waited for.
    reaped: Usage,
}

impl Children {
    /// There is a new one. It may have the number of one that was hidden.
    pub fn born(&self, pid: u32) {
        let mut known = lock(&self.known);
        known.hidden.remove(&pid);
        known.usages.insert(pid, None);
    }

    /// Those that live or have not been waited for.
    pub fn known(&self) -> Vec<u32> {
        lock(&self.known).usages.keys().copied().collect()
    }

    /// One is about to end.
    pub fn ended(&self, pid: u32, usage: Usage) {
        let mut known = lock(&self.known);
        if let Some(slot) = known.usages.get_mut(&pid) {
            *slot = Some(usage);
        }
        drop(known);
        self.changed.notify_all();
    }

    /// The guest is not to know of this one; false if it is not a child.
    pub fn hide(&self, pid: u32) -> bool {
        let mut known = lock(&self.known);
        let is_child = known.usages.remove(&pid).is_some();
        if is_child {
            known.hidden.insert(pid);
        }
        is_child
    }

    fn is_hidden(&self, pid: u32) -> bool {
        lock(&self.known).hidden.contains(&pid)
    }

    /// It has been waited for: what it has used, if it was a deputy's guest.
    fn reap(&self, pid: u32) -> Option<Usage> {
        let known = lock(&self.known);
        if !known.usages.contains_key(&pid) {
            return None;
        }
        let waiting = |known: &mut Known| matches!(known.usages.get(&pid), Some(None));
        let (mut known, _) = self
            .changed
            .wait_timeout_while(known, USAGE_WAIT, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        let usage = known.usages.remove(&pid).flatten()?;
        add(&mut known.reaped, &usage);
        Some(usage)
    }

    /// Puts what all reaped children have used into a `struct rusage`.
    pub fn add_reaped_usage(&self, bytes: &mut [u8]) {
        put_usage(bytes, &lock(&self.known).reaped);
    }

    /// Puts it into a `struct tms`.
    pub fn put_reaped_times(&self, bytes: &mut [u8]) {
        let reaped = lock(&self.known).reaped;
        // Ticks are 1/100 s on x86-64.
        for (offset, micros) in [(16, reaped.user_us), (24, reaped.system_us)] {
            if let Some(place) = bytes.get_mut(offset..offset + 8) {
                place.copy_from_slice(&(micros / 10_000).to_le_bytes());
            }
        }
    }
}

/// Adds up, as the kernel does for the children of a process.
pub fn add(sum: &mut Usage, usage: &Usage) {
    sum.user_us = sum.user_us.saturating_add(usage.user_us);
    sum.system_us = sum.system_us.saturating_add(usage.system_us);
    sum.resident_kib_max = sum.resident_kib_max.max(usage.resident_kib_max);
    for (sum, part) in [
        (&mut sum.faults.0, usage.faults.0),
        (&mut sum.faults.1, usage.faults.1),
        (&mut sum.switches.0, usage.switches.0),
        (&mut sum.switches.1, usage.switches.1),
    ] {
        *sum = sum.saturating_add(part);
    }
}

/// Writes a `struct rusage`.
fn put_usage(bytes: &mut [u8], usage: &Usage) {
    if bytes.len() < USAGE_BYTES {
        return;
    }
    bytes[..USAGE_BYTES].fill(0);
    for (offset, value) in [
        (0, usage.user_us / 1_000_000),
        (8, usage.user_us % 1_000_000),
        (16, usage.system_us / 1_000_000),
        (24, usage.system_us % 1_000_000),
        (32, usage.resident_kib_max),
        (64, usage.faults.0),
        (72, usage.faults.1),
        (128, usage.switches.0),
        (136, usage.switches.1),
    ] {
        bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }
}

/// `wait4` or `waitid`.
struct Wait {
    call: Prepared,
    /// The options that the guest gave.
    options: u64,
    /// Index of the options, of the status or information, and of the usage.
    places: (usize, usize, usize),
}

/// What one try has found.
enum Found {
    /// Nothing to report yet.
    Nothing,
    /// A result.
    Result(i64),
    /// A child of which the guest must not know.
    Hidden,
}

impl Wait {
    fn new(mut call: Prepared) -> Self {
        let places = if call.number() == nr::WAIT4 {
            call.provide_memory(1, 4);
            (2, 1, 3)
        } else {
            call.provide_memory(2, INFO_BYTES);
            (3, 2, 4)
        };
        Self {
            options: call.register(places.0),
            places,
            call,
        }
    }

    /// Before a try with these options besides the guest's own.
    fn prepare(&mut self, more: i32) {
        self.call
            .set_register(self.places.0, self.options | more as u32 as u64);
        if let (nr::WAITID, Some(info)) = (self.call.number(), self.call.memory(2)) {
            info[16..20].fill(0);
        }
    }

    /// What a try's result means.
    fn judge(&mut self, deputy: &Deputy, result: i64) -> Found {
        if result < 0 {
            return Found::Result(result);
        }
        let pid = match self.call.number() {
            nr::WAIT4 => result as u32,
            _ => self.word(16),
        };
        if pid == 0 {
            return Found::Nothing;
        }
        if deputy.children.is_hidden(pid) {
            return Found::Hidden;
        }
        if self.ended() {
            // It is gone, and with it the claim to its number.
            let usage = deputy.children.reap(pid);
            deputy.tell(0, &FromDeputy::Reaped { pid });
            if let (Some(usage), Some(bytes)) = (usage, self.call.memory(self.places.2)) {
                put_usage(bytes, &usage);
            }
        }
        Found::Result(result)
    }

    fn word(&mut self, offset: usize) -> u32 {
        let bytes = self.call.memory(self.places.1);
        bytes
            .and_then(|bytes| bytes[offset..].first_chunk::<4>().copied())
            .map_or(0, u32::from_le_bytes)
    }

    /// Whether the child is no more: it has ended, and was not left to be waited for.
    fn ended(&mut self) -> bool {
        if self.call.number() == nr::WAIT4 {
            let status = self.word(0) as i32;
            return libc::WIFEXITED(status) || libc::WIFSIGNALED(status);
        }
        let code = self.word(8) as i32;
        self.options & libc::WNOWAIT as u64 == 0
            && [libc::CLD_EXITED, libc::CLD_KILLED, libc::CLD_DUMPED].contains(&code)
    }
}

impl Deputy {
    /// Waits for a child; if none has anything to report, in a worker.
    pub(super) fn begin_wait(self: &Arc<Self>, id: u64, call: Prepared) {
        let mut wait = Wait::new(call);
        wait.prepare(libc::WNOHANG);
        let result = wait.call.make(&Flag::default());
        match wait.judge(self, result) {
            Found::Result(result) => return self.answer_call(id, result, &wait.call),
            Found::Nothing if wait.options & libc::WNOHANG as u64 != 0 => {
                return self.answer_call(id, 0, &wait.call);
            }
            Found::Nothing | Found::Hidden => {}
        }
        let work = move |worker: &mut Worker<'_>| {
            let deputy = worker.deputy;
            let result = loop {
                wait.prepare(0);
                let result = worker.wait(|flag| wait.call.make(flag));
                match wait.judge(deputy, result) {
                    Found::Result(EINTR) if !worker.cancelled() => {}
                    Found::Result(result) => break result,
                    Found::Nothing => break 0,
                    Found::Hidden => std::thread::yield_now(),
                }
            };
            deputy.answer_call(id, result, &wait.call);
        };
        if let Err(errno) = self.employ(id, Box::new(work)) {
            self.fail_call(id, errno);
        }
    }
}
