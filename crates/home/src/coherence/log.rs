//! What has changed for one session, in order: pure bookkeeping.
//!
//! Changes are numbered. Those that the node has not been told go ahead of the next frame. A reply whose request was begun
//! before a change may speak of what was before it; so it is followed by all changes since.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use afield_link::invalidation::{self, Change};

/// Changes kept for requests that have been begun; more than that are *everything*.
const KEPT_MAX: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Everything,
    Name { directory: u64, name: Box<[u8]> },
    Attributes { node: u64 },
    Contents { node: u64 },
}

impl Entry {
    fn of(change: Change<'_>) -> Self {
        match change {
            Change::Everything => Self::Everything,
            Change::Name { directory, name } => Self::Name {
                directory,
                name: name.into(),
            },
            Change::Attributes { node } => Self::Attributes { node },
            Change::Contents { node } => Self::Contents { node },
        }
    }

    fn as_change(&self) -> Change<'_> {
        match self {
            Self::Everything => Change::Everything,
            Self::Name { directory, name } => Change::Name {
                directory: *directory,
                name,
            },
            Self::Attributes { node } => Change::Attributes { node: *node },
            Self::Contents { node } => Change::Contents { node: *node },
        }
    }
}

/// See the module. Everything but [`end`](Self::end) is for who holds the registry.
#[derive(Debug, Default)]
pub struct Log {
    /// The last changes; the number of the first of them is `end` less their count.
    kept: VecDeque<Entry>,
    /// How many have been told.
    told: u64,
}

/// The number of the next change of a session, for those who begin a request.
#[derive(Debug, Default)]
pub struct End(AtomicU64);

impl End {
    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Log {
    /// Something has changed.
    pub fn push(&mut self, end: &End, change: Change<'_>) {
        let entry = Entry::of(change);
        let number = end.get();
        self.kept.push_back(entry);
        if self.kept.len() > KEPT_MAX {
            self.kept.pop_front();
        }
        end.0.store(number + 1, Ordering::SeqCst);
    }

    /// Whether there is something that has not been told.
    pub fn has_news(&self, end: &End) -> bool {
        self.told < end.get()
    }

    /// Appends what has not been told, which counts as told from now on.
    pub fn tell(&mut self, end: &End, payload: &mut Vec<u8>) {
        self.since(end, self.told, payload);
        self.told = end.get();
    }

    /// Appends all changes from the one with this number on.
    pub fn since(&self, end: &End, begin: u64, payload: &mut Vec<u8>) {
        self.between(end, begin, end.get(), payload);
    }

    /// Appends all changes from the one with this number on, to the one before the number `until`.
    pub fn between(&self, end: &End, begin: u64, until: u64, payload: &mut Vec<u8>) {
        let last = end.get();
        if until.min(last) <= begin {
            return;
        }
        let start = payload.len();
        let place = |number: u64| {
            let back = usize::try_from(last.saturating_sub(number)).ok()?;
            self.kept.len().checked_sub(back)
        };
        let fits = place(begin).zip(place(until)).is_some_and(|(first, behind)| {
            let mut last = None;
            self.kept.range(first..behind).all(|entry| {
                last.replace(entry) == Some(entry) || invalidation::append(payload, entry.as_change()).is_ok()
            })
        });
        if !fits {
            payload.truncate(start);
            let _ = invalidation::append(payload, Change::Everything);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(log: &mut Log, end: &End) -> Vec<u64> {
        let mut payload = Vec::new();
        log.tell(end, &mut payload);
        numbers(&payload)
    }

    fn since(log: &Log, end: &End, begin: u64) -> Vec<u64> {
        let mut payload = Vec::new();
        log.since(end, begin, &mut payload);
        numbers(&payload)
    }

    fn numbers(payload: &[u8]) -> Vec<u64> {
        let changes = invalidation::decode(payload).unwrap();
        let number = |change: &Change<'_>| match change {
            Change::Attributes { node } => *node,
            Change::Everything => 0,
            other => panic!("{other:?}"),
        };
        changes.iter().map(number).collect()
    }

    #[test]
    fn changes_are_told_once_and_again_to_those_who_began_before() {
        let (mut log, end) = (Log::default(), End::default());
        let change = |log: &mut Log, node| log.push(&end, Change::Attributes { node });
        assert!(!log.has_news(&end));
        change(&mut log, 1);
        let began = end.get();
        change(&mut log, 2);
        change(&mut log, 2);
        change(&mut log, 3);
        assert!(log.has_news(&end));
        assert_eq!(told(&mut log, &end), [1, 2, 3]);
        assert_eq!(told(&mut log, &end), [0; 0]);
        assert_eq!(since(&log, &end, began), [2, 3]);
        assert_eq!(since(&log, &end, end.get()), [0; 0]);
        change(&mut log, 3);
        assert_eq!(told(&mut log, &end), [3]);
        assert_eq!(since(&log, &end, began), [2, 3]);
    }

    #[test]
    fn too_many_changes_are_everything() {
        let (mut log, end) = (Log::default(), End::default());
        let began = end.get();
        for node in 1..=KEPT_MAX as u64 {
            log.push(&end, Change::Attributes { node });
        }
        assert_eq!(told(&mut log, &end).len(), KEPT_MAX);
        assert_eq!(since(&log, &end, began).len(), KEPT_MAX);
        log.push(&end, Change::Attributes { node: 9 });
        assert_eq!(told(&mut log, &end), [9]);
        assert_eq!(since(&log, &end, began), [0]);
        let name = [b'n'; 255];
        for directory in 0..KEPT_MAX as u64 {
            log.push(
                &end,
                Change::Name {
                    directory,
                    name: &name,
                },
            );
        }
        assert_eq!(told(&mut log, &end), [0]);
    }

    #[test]
    fn what_came_between_is_told_alone() {
        let (mut log, end) = (Log::default(), End::default());
        for node in 0..4 {
            log.push(&end, Change::Attributes { node });
        }
        let between = |begin, until| {
            let mut payload = Vec::new();
            log.between(&end, begin, until, &mut payload);
            numbers(&payload)
        };
        assert_eq!(between(1, 3), [1, 2]);
        assert_eq!(between(2, 9), [2, 3]);
        assert_eq!(between(3, 3), [0; 0]);
        assert_eq!(between(4, 2), [0; 0]);
    }
}
