//! Attributes of which home says all changes, the time of access among them: pure.
//!
//! The kernel asks for attributes whenever it has read something, since that may have changed the time of access. Where home says that no
//! reading does ([`ATTRIBUTES_SETTLED`]), what it has said before still holds.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use afield_abi::fuse::{ATTRIBUTES_SETTLED, Attributes};

/// Most nodes. With more of them, all are forgotten.
const NODES_MAX: usize = 1 << 16;

/// For how long home's word is taken: it holds for an hour.
const HOLDS: Duration = Duration::from_secs(50 * 60);

/// The attributes.
#[derive(Debug, Default)]
pub struct Settled {
    of: HashMap<u64, (Attributes, Instant)>,
}

impl Settled {
    /// Home has said what a node is; `lasting` if it says when that changes.
    pub fn learn(&mut self, node: u64, attributes: &Attributes, lasting: bool, now: Instant) {
        let Attributes { flags, .. } = *attributes;
        if !lasting || flags & ATTRIBUTES_SETTLED == 0 {
            self.of.remove(&node);
            return;
        }
        if self.of.len() >= NODES_MAX && !self.of.contains_key(&node) {
            self.of.clear();
        }
        let attributes = Attributes {
            flags: flags & !ATTRIBUTES_SETTLED,
            ..*attributes
        };
        self.of.insert(node, (attributes, now));
    }

    /// What a node is, if that is known.
    pub fn get(&self, node: u64, now: Instant) -> Option<Attributes> {
        let (attributes, since) = self.of.get(&node)?;
        (now.saturating_duration_since(*since) < HOLDS).then_some(*attributes)
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

    #[test]
    fn only_what_reading_does_not_change_is_known() {
        let mut settled = Settled::default();
        let now = Instant::now();
        let attributes = Attributes {
            size: 5,
            flags: ATTRIBUTES_SETTLED | 2,
            ..Attributes::default()
        };
        settled.learn(7, &attributes, false, now);
        assert_eq!(settled.get(7, now), None);
        settled.learn(7, &attributes, true, now);
        let known = settled.get(7, now + HOLDS / 2).unwrap();
        assert_eq!((known.size, known.flags), (5, 2));
        assert_eq!(settled.get(7, now + HOLDS), None);
        settled.forget(7);
        assert_eq!(settled.get(7, now), None);
        settled.learn(7, &attributes, true, now);
        // Home does not say it again.
        settled.learn(
            7,
            &Attributes {
                flags: 0,
                ..attributes
            },
            true,
            now,
        );
        assert_eq!(settled.get(7, now), None);
        for node in 0..=NODES_MAX as u64 {
            settled.learn(node, &attributes, true, now);
        }
        assert!(settled.of.len() <= NODES_MAX);
        settled.forget_all();
        assert!(settled.of.is_empty());
    }
}
