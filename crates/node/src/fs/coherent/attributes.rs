//! Attributes of which home says all changes: pure.
//!
//! The kernel asks for attributes more often than they change: whenever it has read something, since that may have changed the time of
//! access; of a directory, when a guest has made or removed something in it; of a file, when a guest has written to it. What home says
//! of them holds in these cases as follows.
//!
//! | [`Holds`] | until home tells a change, a guest makes one, or |
//! |---|---|
//! | `UntilTold` | (nothing else: home says that no reading changes them, [`ATTRIBUTES_SETTLED`]) |
//! | `UntilRead` | home is asked for contents |
//! | `Size` | the same. A guest has written since: only the size is as it is said, of which this keeps account |
//!
//! That is enough to read a file that is being written: the kernel asks each time whether the file is what its pages are of.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use afield_abi::fuse::{ATTRIBUTES_SETTLED, Attributes};

/// Most nodes. With more of them, all are forgotten.
const NODES_MAX: usize = 1 << 16;

/// For how long home's word is taken: it holds for an hour.
const HOLDS: Duration = Duration::from_secs(50 * 60);

/// How far attributes can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    UntilTold,
    UntilRead,
    Size,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    attributes: Attributes,
    holds: Holds,
    since: Instant,
}

/// The attributes.
#[derive(Debug, Default)]
pub struct Settled {
    of: HashMap<u64, Known>,
}

impl Settled {
    /// Home has said what a node is; `lasting` if it says when that changes.
    pub fn learn(&mut self, node: u64, attributes: &Attributes, lasting: bool, now: Instant) {
        let Attributes { flags, .. } = *attributes;
        if !lasting || flags & ATTRIBUTES_SETTLED == 0 {
            self.of.remove(&node);
            return;
        }
        self.insert(node, attributes, Holds::UntilTold, now);
    }

    /// Home has said what a change has left of a node, and that it says when that changes.
    pub fn learn_after(&mut self, node: u64, attributes: &Attributes, now: Instant) {
        let Attributes { flags, .. } = *attributes;
        let holds = match flags & ATTRIBUTES_SETTLED {
            0 => Holds::UntilRead,
            _ => Holds::UntilTold,
        };
        self.insert(node, attributes, holds, now);
    }

    fn insert(&mut self, node: u64, attributes: &Attributes, holds: Holds, since: Instant) {
        if self.of.len() >= NODES_MAX && !self.of.contains_key(&node) {
            self.of.clear();
        }
        let Attributes { flags, .. } = *attributes;
        let attributes = Attributes {
            flags: flags & !ATTRIBUTES_SETTLED,
            ..*attributes
        };
        let known = Known {
            attributes,
            holds,
            since,
        };
        self.of.insert(node, known);
    }

    /// What a node is, if that is known.
    pub fn get(&self, node: u64, now: Instant) -> Option<Attributes> {
        let known = self.of.get(&node)?;
        let holds = known.holds != Holds::Size && now.saturating_duration_since(known.since) < HOLDS;
        holds.then_some(known.attributes)
    }

    /// What the kernel has to know of a file to use its pages, if that is known: what has been said of it last, with its size as it is.
    pub fn of_pages(&self, node: u64, now: Instant) -> Option<Attributes> {
        let known = self.of.get(&node)?;
        (now.saturating_duration_since(known.since) < HOLDS).then_some(known.attributes)
    }

    /// Home is asked for contents.
    pub fn read(&mut self, node: u64) {
        if let Some(Known {
            holds: Holds::UntilRead,
            ..
        }) = self.of.get(&node)
        {
            self.of.remove(&node);
        }
    }

    /// A guest writes to a file, up to this place: to be told when home is asked to, and when it has.
    pub fn written(&mut self, node: u64, end: u64) {
        if let Some(known) = self.of.get_mut(&node) {
            known.holds = Holds::Size;
            known.attributes.size = end.max(known.attributes.size);
        }
    }

    /// A node is not as it was.
    pub fn forget(&mut self, node: u64) {
        self.of.remove(&node);
    }

    /// Nothing is.
    pub fn forget_all(&mut self) {
        self.of.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLED: Attributes = Attributes {
        inode: 0,
        size: 5,
        blocks: 0,
        atime: 0,
        mtime: 0,
        ctime: 0,
        atime_nanoseconds: 0,
        mtime_nanoseconds: 0,
        ctime_nanoseconds: 0,
        mode: 0,
        links: 0,
        uid: 0,
        gid: 0,
        device: 0,
        block_size: 0,
        flags: ATTRIBUTES_SETTLED | 2,
    };

    #[test]
    fn only_what_reading_does_not_change_is_known() {
        let mut settled = Settled::default();
        let now = Instant::now();
        settled.learn(7, &SETTLED, false, now);
        assert_eq!(settled.get(7, now), None);
        settled.learn(7, &SETTLED, true, now);
        let known = settled.get(7, now + HOLDS / 2).unwrap();
        assert_eq!((known.size, known.flags), (5, 2));
        assert_eq!(settled.get(7, now + HOLDS), None);
        settled.read(7);
        assert!(settled.get(7, now).is_some());
        settled.forget(7);
        assert_eq!(settled.get(7, now), None);
        settled.learn(7, &SETTLED, true, now);
        // Home does not say it again.
        settled.learn(7, &Attributes { flags: 0, ..SETTLED }, true, now);
        assert_eq!(settled.get(7, now), None);
        for node in 0..=NODES_MAX as u64 {
            settled.learn(node, &SETTLED, true, now);
        }
        assert!(settled.of.len() <= NODES_MAX);
        settled.forget_all();
        assert!(settled.of.is_empty());
    }

    #[test]
    fn what_a_change_has_left_is_known_until_it_is_read() {
        let mut settled = Settled::default();
        let now = Instant::now();
        let attributes = Attributes { flags: 0, ..SETTLED };
        settled.learn_after(7, &attributes, now);
        assert_eq!(settled.get(7, now), Some(attributes));
        settled.read(7);
        assert_eq!(settled.get(7, now), None);
        assert_eq!(settled.of_pages(7, now), None);
    }

    #[test]
    fn the_size_of_what_is_written_is_known() {
        let mut settled = Settled::default();
        let now = Instant::now();
        settled.written(7, 10);
        assert_eq!(settled.of_pages(7, now), None);
        settled.learn_after(7, &SETTLED, now);
        let size = |settled: &Settled| settled.of_pages(7, now).map(|attributes| attributes.size);
        assert_eq!(size(&settled), Some(5));
        settled.written(7, 3);
        assert_eq!((settled.get(7, now), size(&settled)), (None, Some(5)));
        settled.written(7, 12);
        settled.read(7);
        assert_eq!((settled.get(7, now), size(&settled)), (None, Some(12)));
        settled.forget(7);
        assert_eq!(size(&settled), None);
    }
}
