//! A bounded queue to the threads that see to contents.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::lock;

#[derive(Debug)]
struct Inside<T> {
    waiting: VecDeque<(T, usize)>,
    weight: usize,
    /// Things that are being worked on.
    taken: usize,
}

impl<T> Inside<T> {
    fn is_busy(&self) -> bool {
        self.taken > 0 || !self.waiting.is_empty()
    }
}

/// A queue.
#[derive(Debug)]
pub struct Queue<T> {
    inside: Mutex<Inside<T>>,
    came: Condvar,
    done: Condvar,
    most: usize,
}

impl<T> Queue<T> {
    /// A queue for things that weigh no more than `most` together.
    pub fn new(most: usize) -> Self {
        let inside = Inside {
            waiting: VecDeque::new(),
            weight: 0,
            taken: 0,
        };
        Self {
            inside: Mutex::new(inside),
            came: Condvar::new(),
            done: Condvar::new(),
            most,
        }
    }

    /// Adds something of this weight; gives it back if there is no room.
    pub fn push(&self, thing: T, weight: usize) -> Result<(), T> {
        // Others may add something in between, which then is a little too much.
        if lock(&self.inside).weight + weight > self.most {
            return Err(thing);
        }
        self.push_always(thing, weight);
        Ok(())
    }

    /// Adds something that there has to be room for.
    pub fn push_always(&self, thing: T, weight: usize) {
        let mut inside = lock(&self.inside);
        inside.weight += weight;
        inside.waiting.push_back((thing, weight));
        drop(inside);
        self.came.notify_one();
    }

    /// Works on whatever comes.
    pub fn serve(&self, mut work: impl FnMut(T)) -> ! {
        loop {
            work(self.take());
            lock(&self.inside).taken -= 1;
            self.done.notify_all();
        }
    }

    /// Waits until there is nothing left to do, but not for ever.
    pub fn finish(&self, until: Instant) {
        let mut inside = lock(&self.inside);
        while inside.is_busy() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.done.wait_timeout(inside, left);
            inside = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether there is something left to do.
    pub fn is_busy(&self) -> bool {
        lock(&self.inside).is_busy()
    }

    fn take(&self) -> T {
        let mut inside = lock(&self.inside);
        loop {
            if let Some((thing, weight)) = inside.waiting.pop_front() {
                inside.weight -= weight;
                inside.taken += 1;
                return thing;
            }
            inside = self.came.wait(inside).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
