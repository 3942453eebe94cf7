//! What is the node's own (a pipe, an event counter, a memory file) and is passed over a socket of home's.
//!
//! At home a stand-in travels in its place; the thing itself waits here for the guest that gets the stand-in. Whoever else got it
//! would have nothing, so it is sent only to peers that are guests of this session.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

/// Most that wait at a time.
const WAITING_MAX: usize = 4096;

/// Descriptors by the numbers of their stand-ins.
#[derive(Debug, Default)]
pub struct Promises {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    descriptors: HashMap<u64, OwnedFd>,
}

impl Promises {
    /// Keeps a descriptor. Its number.
    ///
    /// # Errors
    /// `ETOOMANYREFS` if too many have not been received.
    pub fn keep(&self, descriptor: OwnedFd) -> Result<u64, i32> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.descriptors.len() >= WAITING_MAX {
            return Err(libc::ETOOMANYREFS);
        }
        waiting.last += 1;
        let number = waiting.last;
        waiting.descriptors.insert(number, descriptor);
        Ok(number)
    }

    /// Gives it out; with `peek` it can be had again.
    pub fn take(&self, number: u64, peek: bool) -> Option<OwnedFd> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if peek {
            waiting.descriptors.get(&number)?.try_clone().ok()
        } else {
            waiting.descriptors.remove(&number)
        }
    }
}
