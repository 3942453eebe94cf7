//! Places in the memory that an embedded node shares with its home, for the contents of large operations on home objects and files.
//!
//! The place of an operation is lent until home has answered it, whatever has become of the guest: until then a deputy may use it.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use afield_link::sys::{AREA_BYTES, Area, Data, Room};

use crate::sys::memory;

/// A place is a row of these.
const SLOT_BYTES: usize = 64 << 10;

/// How many there are.
const SLOTS: usize = AREA_BYTES / SLOT_BYTES;

/// Operations with less than that have their contents in their frames.
pub const LENGTH_MIN: usize = 8 << 10;

/// Longest place.
pub const LENGTH_MAX: usize = 16 * SLOT_BYTES;

/// The memory and what of it is lent.
#[derive(Debug)]
pub struct Leases {
    area: Area,
    /// Which slots are lent.
    lent: Mutex<[bool; SLOTS]>,
    /// By the frame that asked home.
    asked: Mutex<HashMap<u64, Lease>>,
}

/// A place that is lent; given back when it is dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    /// Its first slot, and how many it has.
    first: usize,
    count: usize,
    length: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leases {
    /// Of this memory.
    pub fn new(file: BorrowedFd<'_>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            area: Area::map(file)?,
            lent: Mutex::new([false; SLOTS]),
            asked: Mutex::default(),
        }))
    }

    /// A place for so many bytes. `None` if these are better sent, or all is lent.
    pub fn lend(self: &Arc<Self>, length: usize) -> Option<Lease> {
        if !(LENGTH_MIN..=LENGTH_MAX).contains(&length) {
            return None;
        }
        let count = length.div_ceil(SLOT_BYTES);
        let mut lent = lock(&self.lent);
        // The lowest, so that little of the memory is ever used.
        let first = lent.windows(count).position(|row| !row.contains(&true))?;
        lent[first..first + count].fill(true);
        Some(Lease {
            leases: Arc::clone(self),
            first,
            count,
            length,
        })
    }

    /// The operation under this frame id uses a place.
    pub fn keep(&self, id: u64, lease: Lease) {
        lock(&self.asked).insert(id, lease);
    }

    /// Home has answered that operation, or it could not be sent.
    pub fn take(&self, id: u64) -> Option<Lease> {
        lock(&self.asked).remove(&id)
    }
}

impl Lease {
    /// Where, and how many bytes.
    pub fn place(&self) -> (usize, usize) {
        (self.first * SLOT_BYTES, self.length)
    }

    /// Puts these bytes there, of which there must be no more than the place has.
    pub fn put(&self, bytes: &[u8]) {
        let fits = bytes.len() <= self.length && self.leases.area.put(self.first * SLOT_BYTES, bytes);
        debug_assert!(fits);
    }

    /// Copies as many of the first bytes that are there as `bytes` has, of which there must be no more than the place has.
    pub fn get(&self, bytes: &mut [u8]) {
        let fits = bytes.len() <= self.length && self.leases.area.get(self.first * SLOT_BYTES, bytes);
        debug_assert!(fits);
    }

    /// Gives back what lies behind so many bytes.
    pub fn shrink(&mut self, length: usize) {
        self.length = self.length.min(length);
        let count = self.length.div_ceil(SLOT_BYTES).clamp(1, self.count);
        lock(&self.leases.lent)[self.first + count..self.first + self.count].fill(false);
        self.count = count;
    }

    /// All of it, for a system call to write to.
    pub fn room(&self) -> Room<'_> {
        let room = self.leases.area.room(self.first * SLOT_BYTES, self.length);
        room.unwrap_or_else(|| (&mut [][..]).into())
    }

    /// The first `count` bytes that are there.
    pub fn data(&self, count: usize) -> Data<'_> {
        let data = self
            .leases
            .area
            .data(self.first * SLOT_BYTES, count.min(self.length));
        data.unwrap_or_else(|| (&[][..]).into())
    }

    /// Fills it, from `start`, with guest memory.
    pub fn read_guest(&self, tid: i32, address: u64, start: usize, length: usize) -> io::Result<()> {
        let length = length.min(self.length.saturating_sub(start));
        match self.leases.area.room(self.first * SLOT_BYTES + start, length) {
            Some(room) => memory::read_to(tid, address, &room),
            None => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.leases.lent)[self.first..self.first + self.count].fill(false);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn places_do_not_overlap_and_come_back() {
        let file = Area::create().unwrap();
        let leases = Leases::new(file.as_fd()).unwrap();
        assert!(leases.lend(LENGTH_MIN - 1).is_none());
        assert!(leases.lend(LENGTH_MAX + 1).is_none());
        let mut lent = Vec::new();
        while let Some(lease) = leases.lend(SLOT_BYTES + 1) {
            lent.push(lease);
        }
        let mut places: Vec<_> = lent.iter().map(|lease| lease.place().0).collect();
        places.dedup();
        assert_eq!(places.len(), SLOTS / 2);
        lent.swap_remove(3);
        lent.swap_remove(0);
        assert!(leases.lend(LENGTH_MAX).is_none());
        assert_eq!(leases.lend(LENGTH_MIN).map(|lease| lease.place().0), Some(0));
        lent.clear();
        let mut all: Vec<_> = (0..SLOTS).map_while(|_| leases.lend(LENGTH_MAX)).collect();
        assert_eq!(all.len(), SLOTS / 16);
        let mut last = all.pop().unwrap();
        assert!(leases.lend(LENGTH_MIN).is_none());
        last.shrink(SLOT_BYTES + 1);
        assert_eq!(last.place().1, SLOT_BYTES + 1);
        let rest = leases.lend(14 * SLOT_BYTES).unwrap();
        assert_eq!(rest.place().0, last.place().0 + 2 * SLOT_BYTES);
        drop((last, rest));
        assert!(leases.lend(LENGTH_MAX).is_some());
        leases.keep(7, all.into_iter().next().unwrap());
        assert!(leases.take(8).is_none());
        assert_eq!(leases.take(7).map(|lease| lease.place()), Some((0, LENGTH_MAX)));
    }
}
