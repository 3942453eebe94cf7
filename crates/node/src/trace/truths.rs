//! The true siginfo of signals on their way to guests.
//!
//! The kernel lets nobody send another's siginfo. A signal from home is therefore queued under a mark, and whatever shows it
//! to the guest (its delivery, a wait for it, a read of a signal descriptor) puts the true one in the mark's place.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sys::signals::{INFO_BYTES, info};

/// Values of queued signals that stand for a siginfo which is kept here carry this; the rest is its key.
const MARK: u64 = 0xaf1e_1d00 << 32;

/// First real-time signal, as the kernel counts.
const FIRST_REAL_TIME: i32 = 32;

/// Most siginfos kept of one standard signal for one process, of which the kernel has at most one pending: the first since
/// one was last seen. Where the process has dropped that one unseen, it is a later one.
const STANDARD_MAX: usize = 8;

/// Most siginfos kept for one process; the kernel's own limit on queued signals is lower.
const TRUTHS_MAX: usize = 1 << 16;

/// What signals from home really say.
#[derive(Debug, Default)]
pub struct Truths {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// In the order in which they were sent.
    processes: HashMap<u32, VecDeque<Truth>>,
    last_key: u32,
}

#[derive(Debug)]
struct Truth {
    key: u32,
    signal: i32,
    siginfo: [u8; INFO_BYTES],
}

impl Truths {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a siginfo and gives the value to send in its place.
    pub(super) fn keep(&self, pid: u32, signal: i32, siginfo: &[u8; INFO_BYTES]) -> u64 {
        let mut kept = self.lock();
        kept.last_key = kept.last_key.wrapping_add(1);
        let key = kept.last_key;
        let truths = kept.processes.entry(pid).or_default();
        if signal < FIRST_REAL_TIME {
            let mut same = truths
                .iter()
                .enumerate()
                .filter(|(_, truth)| truth.signal == signal);
            // From the middle: the pending one is the first, or one of the last.
            if same.clone().count() >= STANDARD_MAX
                && let Some((index, _)) = same.nth(STANDARD_MAX / 2)
            {
                truths.remove(index);
            }
        }
        if truths.len() >= TRUTHS_MAX {
            truths.pop_front();
        }
        truths.push_back(Truth {
            key,
            signal,
            siginfo: *siginfo,
        });
        MARK | u64::from(key)
    }

    /// The signal under this value could not be sent.
    pub(super) fn drop_unsent(&self, pid: u32, value: u64) {
        if let Some(truths) = self.lock().processes.get_mut(&pid) {
            truths.retain(|truth| truth.key != value as u32);
        }
    }

    /// The true siginfo of one that a guest is about to see; `None` if it is true itself.
    pub(super) fn take(&self, pid: u32, shown: &[u8; INFO_BYTES]) -> Option<[u8; INFO_BYTES]> {
        let word = |at: usize| i32::from_ne_bytes([shown[at], shown[at + 1], shown[at + 2], shown[at + 3]]);
        let value = (info::VALUE..info::VALUE + 8)
            .rev()
            .fold(0u64, |value, at| value << 8 | u64::from(shown[at]));
        // Nobody in the world can send with pid 0, but to deceive themselves.
        if word(info::CODE) != libc::SI_QUEUE || word(info::PID) != 0 || value & !0xffff_ffff != MARK {
            return None;
        }
        let mut kept = self.lock();
        let truths = kept.processes.get_mut(&pid)?;
        let index = truths.iter().position(|truth| truth.key == value as u32)?;
        let truth = truths.remove(index)?;
        if truth.signal < FIRST_REAL_TIME {
            // Those before it the kernel has dropped.
            let mut position = 0;
            truths.retain(|other| {
                position += 1;
                position > index || other.signal != truth.signal
            });
        }
        Some(truth.siginfo)
    }

    /// A process has ended.
    pub(super) fn forget(&self, pid: u32) {
        self.lock().processes.remove(&pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::signals::queued_info;

    fn siginfo(signal: i32, number: u8) -> [u8; INFO_BYTES] {
        let mut siginfo = [number; INFO_BYTES];
        siginfo[..4].copy_from_slice(&signal.to_ne_bytes());
        siginfo
    }

    #[test]
    fn the_first_of_equal_signals_is_the_one_that_is_seen() {
        let truths = Truths::default();
        let values: Vec<u64> = (0..100)
            .map(|number| truths.keep(7, libc::SIGUSR1, &siginfo(libc::SIGUSR1, number)))
            .collect();
        let shown = queued_info(libc::SIGUSR1, values[0]);
        assert_eq!(truths.take(8, &shown), None);
        assert_eq!(truths.take(7, &shown), Some(siginfo(libc::SIGUSR1, 0)));
        assert_eq!(truths.take(7, &shown), None);
        // The process has ignored it for a while: a later one is pending.
        let shown = queued_info(libc::SIGUSR1, values[99]);
        assert_eq!(truths.take(7, &shown), Some(siginfo(libc::SIGUSR1, 99)));
        assert!(truths.lock().processes[&7].is_empty());
    }

    #[test]
    fn each_real_time_signal_has_its_own() {
        let truths = Truths::default();
        let values: Vec<u64> = (0..100)
            .map(|number| truths.keep(7, 40, &siginfo(40, number)))
            .collect();
        for (number, value) in values.iter().enumerate() {
            let shown = queued_info(40, *value);
            assert_eq!(truths.take(7, &shown), Some(siginfo(40, number as u8)));
        }
        // Signals of guests are their own.
        assert_eq!(truths.take(7, &queued_info(40, 12)), None);
        truths.keep(7, 40, &siginfo(40, 1));
        truths.forget(7);
        assert!(truths.lock().processes.is_empty());
    }
}
