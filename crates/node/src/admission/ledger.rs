//! How many guests each home has, over all its sessions: counted in memory that the sessions' processes share.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use afield_link::secure::Fingerprint;

use crate::sys::shared::shared_slots;

/// Most sessions at a time.
pub const SESSIONS_MAX: usize = 1024;

/// A session's line. All zeros: no session.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Slot {
    /// First bytes of its home's key.
    key: AtomicU64,
    /// Its guests.
    guests: AtomicU32,
    /// Where the last home with fewer CPUs than there are has begun to take them. (Of the first line alone.)
    cpu_next: AtomicU32,
}

/// All sessions of a node. It is made before they are forked.
#[derive(Debug, Clone, Copy)]
pub struct Ledger {
    slots: &'static [Slot],
}

impl Ledger {
    /// An empty one, which lives as long as the process.
    pub fn new() -> std::io::Result<Self> {
        shared_slots(SESSIONS_MAX).map(|slots| Self { slots })
    }

    /// Begins the line of a session, which has no guests.
    pub fn open(self, place: usize, key: Fingerprint, most: Option<u32>) -> Quota {
        let mut first = [0; 8];
        first.copy_from_slice(&key.bytes()[..8]);
        let key = u64::from_le_bytes(first);
        self.slots[place].guests.store(0, Ordering::SeqCst);
        self.slots[place].key.store(key, Ordering::SeqCst);
        Quota {
            ledger: Some((self, place)),
            key,
            most,
        }
    }

    /// A session is over, however it ended.
    pub fn close(self, place: usize) {
        self.slots[place].key.store(0, Ordering::SeqCst);
        self.slots[place].guests.store(0, Ordering::SeqCst);
    }

    /// A number that differs by `count` from the one that the last caller got: so homes that get `count` CPUs each get
    /// different ones as long as there are any.
    pub fn next_cpus(self, count: u32) -> u32 {
        self.slots[0].cpu_next.fetch_add(count, Ordering::Relaxed)
    }
}

/// How many guests a session may have.
#[derive(Debug, Clone, Default)]
pub struct Quota {
    ledger: Option<(Ledger, usize)>,
    key: u64,
    most: Option<u32>,
}

/// A guest's place in the count, for as long as it lives.
#[derive(Debug, Default)]
pub struct Seat {
    quota: Option<(Ledger, usize)>,
}

impl Quota {
    /// One more guest.
    ///
    /// # Errors
    /// There are as many as there may be: how many that is.
    pub fn take(&self) -> Result<Seat, u32> {
        let (Some((ledger, place)), Some(most)) = (self.ledger, self.most) else {
            return Ok(Seat::default());
        };
        ledger.slots[place].guests.fetch_add(1, Ordering::SeqCst);
        let seat = Seat {
            quota: Some((ledger, place)),
        };
        let theirs = |slot: &&Slot| slot.key.load(Ordering::SeqCst) == self.key;
        let all: u64 = ledger
            .slots
            .iter()
            .filter(theirs)
            .map(|slot| u64::from(slot.guests.load(Ordering::SeqCst)))
            .sum();
        if all > u64::from(most) {
            Err(most)
        } else {
            Ok(seat)
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some((ledger, place)) = self.quota {
            ledger.slots[place].guests.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_its_guests_over_all_sessions() {
        let ledger = Ledger::new().unwrap();
        let (one, other) = (Fingerprint::from_bytes([1; 32]), Fingerprint::from_bytes([2; 32]));
        let first = ledger.open(0, one, Some(3));
        let second = ledger.open(1, one, Some(3));
        let others = ledger.open(2, other, Some(1));
        let free = ledger.open(3, other, None);
        let held = [
            first.take().unwrap(),
            first.take().unwrap(),
            second.take().unwrap(),
        ];
        assert_eq!(first.take().unwrap_err(), 3);
        assert_eq!(second.take().unwrap_err(), 3);
        let _seat = others.take().unwrap();
        assert!(free.take().is_ok());
        drop(held);
        assert!(second.take().is_ok());
        // A session that was killed has given nothing back.
        std::mem::forget([
            first.take().unwrap(),
            first.take().unwrap(),
            first.take().unwrap(),
        ]);
        assert!(second.take().is_err());
        ledger.close(0);
        assert!(second.take().is_ok());
        assert!(Quota::default().take().is_ok());
    }
}
