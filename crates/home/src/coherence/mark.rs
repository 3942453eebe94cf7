//! A file or directory that is watched.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::event::Key;

/// How often it is asked in a while who has a file open because somebody unknown has opened it: that may be somebody who only
/// wanted to know the same.
const ASKED_MAX: u32 = 8;

/// The while, and for how long a file is left alone after that.
const REST: Duration = Duration::from_secs(5);

/// What is watched, and what is known of it beyond its being watched.
#[derive(Debug)]
pub struct Mark {
    pub(super) key: Key,
    /// It is a directory.
    pub(super) directory: bool,
    /// One in which a name has several spellings, of which events have one.
    pub(super) folds: bool,
    /// This process may ask who has it open.
    pub(super) askable: bool,
    /// How often that was asked since when, because somebody had opened it.
    asked: Mutex<(u32, Option<Instant>)>,
    /// Counts marks: what was looked at after this one was made is told when it changes.
    number: AtomicU64,
    /// It is in force.
    alive: AtomicBool,
    /// A [`Writers`], and how often that has been put in doubt.
    writers: AtomicU8,
    doubts: AtomicU64,
    /// A directory's [`Search`].
    search: AtomicU8,
    search_doubts: AtomicU64,
}

/// Whether others may store into a file without anybody being told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// It has to be found out.
    Unknown,
    /// Nobody else can write to it without opening it first, which is told.
    None,
    /// Somebody has it open and can write, or might have.
    Some,
}

/// Who may search a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// It has to be found out.
    Unknown,
    /// Every guest.
    All,
    /// Some, perhaps.
    Some,
}

impl Mark {
    pub(super) fn new(key: Key, directory: bool, folds: bool, askable: bool, number: u64) -> Self {
        Self {
            key,
            directory,
            folds,
            askable,
            asked: Mutex::default(),
            number: AtomicU64::new(number),
            alive: AtomicBool::new(true),
            writers: AtomicU8::new(0),
            doubts: AtomicU64::new(0),
            search: AtomicU8::new(0),
            search_doubts: AtomicU64::new(0),
        }
    }

    /// Whether it is in force.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::SeqCst)
    }

    /// Whether what is looked at from the moment `stamp` on is told when it changes.
    pub fn holds_since(&self, stamp: u64) -> bool {
        self.is_alive() && self.number.load(Ordering::SeqCst) < stamp
    }

    pub(super) fn end(&self) {
        self.alive.store(false, Ordering::SeqCst);
    }

    /// Before it is asked once more: false if that has been too often.
    pub(super) fn may_ask(&self) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.1.is_none_or(|since| since.elapsed() > REST) {
            *asked = (0, Some(Instant::now()));
        }
        asked.0 += 1;
        asked.0 <= ASKED_MAX
    }

    /// It was asked too often just now.
    pub(super) fn rests(&self) -> bool {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.0 > ASKED_MAX && asked.1.is_some_and(|since| since.elapsed() <= REST)
    }

    /// Who may store into it.
    pub fn writers(&self) -> Writers {
        match self.writers.load(Ordering::SeqCst) {
            0 => Writers::Unknown,
            1 => Writers::None,
            _ => Writers::Some,
        }
    }

    /// Before finding out who may.
    pub fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::SeqCst)
    }

    /// What was known of writers does not hold any more. Only for who holds the registry.
    pub(super) fn doubt_writers(&self) {
        self.doubts.fetch_add(1, Ordering::SeqCst);
        self.writers.store(0, Ordering::SeqCst);
    }

    pub(super) fn set_writers(&self, writers: Writers, doubts: u64) {
        if self.doubts() == doubts {
            self.writers.store(writers as u8, Ordering::SeqCst);
        }
    }

    /// Who may search it.
    pub fn search(&self) -> Search {
        match self.search.load(Ordering::SeqCst) {
            0 => Search::Unknown,
            1 => Search::All,
            _ => Search::Some,
        }
    }

    /// Before finding out who may search it.
    pub fn search_doubts(&self) -> u64 {
        self.search_doubts.load(Ordering::SeqCst)
    }

    pub(super) fn doubt_search(&self) {
        self.search_doubts.fetch_add(1, Ordering::SeqCst);
        self.search.store(0, Ordering::SeqCst);
    }

    pub(super) fn set_search(&self, search: Search, doubts: u64) {
        if self.search_doubts() == doubts {
            self.search.store(search as u8, Ordering::SeqCst);
        }
    }
}
