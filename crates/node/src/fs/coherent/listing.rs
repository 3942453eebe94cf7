//! All names in a directory, as home has told them before anybody asked: pure.

use std::collections::HashMap;

use afield_abi::fuse::{DirectoryEntry, DirectoryEntryPlus, EntryReply, entry_bytes};
use afield_link::invalidation::FOREVER_SECONDS;
use zerocopy::{FromBytes, IntoBytes};

use crate::fs::{OWN, dev};

/// Longest name that Linux has.
const NAME_BYTES_MAX: usize = 255;

#[derive(Debug)]
struct Entry {
    /// With node zero, the name is all that is known, or what it is has been given.
    record: DirectoryEntryPlus,
    name: Box<[u8]>,
}

/// A listing.
#[derive(Debug)]
pub struct Listing {
    entries: Vec<Entry>,
    names: HashMap<Box<[u8]>, usize>,
    /// Entries have attributes where they can have any.
    full: bool,
    /// A name has come to mean something else: what all others mean is known, but not what there is in which order.
    changed: bool,
    bytes: usize,
}

impl Listing {
    /// Takes entries apart: with (`full`) or without nodes. `None` if they are not what home may say.
    pub fn parse(mut rest: &[u8], full: bool) -> Option<Self> {
        let mut listing = Self {
            entries: Vec::new(),
            names: HashMap::new(),
            full,
            changed: false,
            bytes: 2 * rest.len(),
        };
        while !rest.is_empty() {
            let (record, head) = match full {
                true => (
                    DirectoryEntryPlus::read_from_prefix(rest).ok()?.0,
                    size_of::<DirectoryEntryPlus>(),
                ),
                false => {
                    let directory = DirectoryEntry::read_from_prefix(rest).ok()?.0;
                    let entry = EntryReply::default();
                    (
                        DirectoryEntryPlus { entry, directory },
                        size_of::<DirectoryEntry>(),
                    )
                }
            };
            let length = record.directory.name_length as usize;
            let name: Box<[u8]> = rest.get(head..)?.get(..length)?.into();
            let EntryReply {
                node,
                entry_valid,
                attributes_valid,
                attributes,
                ..
            } = record.entry;
            let is_name =
                (1..=NAME_BYTES_MAX).contains(&length) && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
            let lasts = entry_valid == FOREVER_SECONDS && attributes_valid == FOREVER_SECONDS;
            let is_own = matches!(&*name, b"." | b"..");
            if !is_name
                || node != 0 && (!lasts || is_own || node & OWN != 0 || dev::is_special(attributes.mode))
            {
                return None;
            }
            rest = rest.get(entry_bytes(head, length)..)?;
            listing.names.insert(name.clone(), listing.entries.len());
            listing.entries.push(Entry { record, name });
        }
        Some(listing)
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Nodes that nobody has been given, once for each lookup.
    pub fn nodes(&self) -> impl Iterator<Item = u64> {
        let nodes = self.entries.iter().map(|entry| entry.record.entry.node);
        nodes.filter(|node| *node != 0)
    }

    /// What a name is: an entry, which counts as given, perhaps of nothing. `None` if that is not known.
    pub fn take(&mut self, name: &[u8]) -> Option<EntryReply> {
        if matches!(name, b"." | b"..") {
            return None;
        }
        let Some(at) = self.names.get(name) else {
            return Some(EntryReply {
                entry_valid: FOREVER_SECONDS,
                ..EntryReply::default()
            });
        };
        let entry = &mut self.entries[*at].record.entry;
        (entry.node != 0).then(|| std::mem::take(entry))
    }

    /// A node is not as it was: what was said of it goes. How often it is to be given back.
    pub fn doubt(&mut self, node: u64) -> usize {
        let mut count = 0;
        for entry in &mut self.entries {
            if entry.record.entry.node == node {
                entry.record.entry = EntryReply::default();
                count += 1;
            }
        }
        count
    }

    /// A name is not what it was, and perhaps there where it was not. The node to be given back, if there is one.
    pub fn doubt_name(&mut self, name: &[u8]) -> Option<u64> {
        self.changed = true;
        let Some(at) = self.names.get(name) else {
            let record = DirectoryEntryPlus::default();
            self.bytes += 2 * (size_of::<Entry>() + name.len());
            self.names.insert(name.into(), self.entries.len());
            let name = name.into();
            self.entries.push(Entry { record, name });
            return None;
        };
        let entry = std::mem::take(&mut self.entries[*at].record.entry);
        (entry.node != 0).then_some(entry.node)
    }

    /// What a listing gives from a cookie on, at most `size` bytes, with (`plus`) or without nodes, and which nodes count as given. `None` if it cannot say.
    pub fn give(&mut self, offset: u64, size: usize, plus: bool) -> Option<(Vec<u8>, Vec<u64>)> {
        if plus && !self.full || self.changed {
            return None;
        }
        let start = match offset {
            0 => 0,
            _ => {
                let mut entries = self.entries.iter();
                entries.position(|entry| entry.record.directory.offset == offset)? + 1
            }
        };
        let head = match plus {
            true => size_of::<DirectoryEntryPlus>(),
            false => size_of::<DirectoryEntry>(),
        };
        let (mut body, mut given) = (Vec::new(), Vec::new());
        for entry in &mut self.entries[start..] {
            let bytes = entry_bytes(head, entry.name.len());
            if body.len() + bytes > size {
                // Nothing at all would be taken for the end.
                return (!body.is_empty()).then_some((body, given));
            }
            let end = body.len() + bytes;
            if plus {
                let entry = std::mem::take(&mut entry.record.entry);
                given.extend((entry.node != 0).then_some(entry.node));
                body.extend_from_slice(entry.as_bytes());
            }
            body.extend_from_slice(entry.record.directory.as_bytes());
            body.extend_from_slice(&entry.name);
            body.resize(end, 0);
        }
        Some((body, given))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Entries as home says them, with these nodes.
    pub fn said(entries: &[(&str, u64)]) -> Vec<u8> {
        let mut body = Vec::new();
        for (number, (name, node)) in entries.iter().enumerate() {
            let valid = if *node == 0 { 0 } else { FOREVER_SECONDS };
            let record = DirectoryEntryPlus {
                entry: EntryReply {
                    node: *node,
                    entry_valid: valid,
                    attributes_valid: valid,
                    ..EntryReply::default()
                },
                directory: DirectoryEntry {
                    inode: 7,
                    offset: 100 + number as u64,
                    name_length: name.len() as u32,
                    kind: 8,
                },
            };
            let end = body.len() + entry_bytes(size_of::<DirectoryEntryPlus>(), name.len());
            body.extend_from_slice(record.as_bytes());
            body.extend_from_slice(name.as_bytes());
            body.resize(end, 0);
        }
        body
    }

    #[test]
    fn names_are_answered() {
        let body = said(&[(".", 0), ("a", 7), ("fifo", 0), ("b", 8)]);
        let mut listing = Listing::parse(&body, true).unwrap();
        assert_eq!(listing.take(b"a").map(|entry| entry.node), Some(7));
        // Given already, and never known.
        assert_eq!((listing.take(b"a"), listing.take(b"fifo")), (None, None));
        assert_eq!((listing.take(b"."), listing.take(b"..")), (None, None));
        let nothing = listing.take(b"c").unwrap();
        assert_eq!((nothing.node, nothing.entry_valid), (0, FOREVER_SECONDS));
        assert_eq!(listing.doubt(8), 1);
        assert_eq!(listing.nodes().count(), 0);
    }

    #[test]
    fn names_that_change_are_not_known_and_others_are() {
        let mut listing = Listing::parse(&said(&[("a", 7), ("b", 8)]), true).unwrap();
        let before = listing.bytes();
        assert_eq!(listing.doubt_name(b"new"), None);
        assert!(listing.bytes() > before);
        assert_eq!(listing.take(b"new"), None);
        assert_eq!(listing.take(b"other").map(|entry| entry.node), Some(0));
        assert_eq!(listing.doubt_name(b"a"), Some(7));
        assert_eq!((listing.doubt_name(b"a"), listing.take(b"a")), (None, None));
        assert_eq!(listing.take(b"b").map(|entry| entry.node), Some(8));
        assert_eq!(
            (listing.give(0, 4096, false), listing.give(0, 4096, true)),
            (None, None)
        );
    }

    #[test]
    fn a_listing_is_given_in_parts() {
        let body = said(&[("a", 7), ("bb", 8), ("c", 9)]);
        let mut listing = Listing::parse(&body, true).unwrap();
        let each = entry_bytes(size_of::<DirectoryEntryPlus>(), 2);
        let (first, given) = listing.give(0, 2 * each, true).unwrap();
        assert_eq!((&first[..], &given[..]), (&body[..2 * each], &[7, 8][..]));
        let (last, given) = listing.give(101, 4096, true).unwrap();
        assert_eq!((&last[..], &given[..]), (&body[2 * each..], &[9][..]));
        assert_eq!(listing.give(102, 4096, true).unwrap(), (vec![], vec![]));
        assert_eq!(listing.give(0, 10, true), None);
        assert_eq!(listing.give(55, 4096, true), None);
        let (plain, given) = listing.give(0, 4096, false).unwrap();
        assert!(given.is_empty());
        let mut names = Listing::parse(&plain, false).unwrap();
        assert_eq!(names.give(0, 4096, false).unwrap().0, plain);
        assert_eq!(names.give(0, 4096, true), None);
        assert_eq!(names.take(b"a"), None);
        assert!(names.take(b"x").is_some());
    }

    #[test]
    fn nonsense_is_refused() {
        for entries in [&[("a/b", 0)][..], &[("", 0)], &[(".", 7)], &[("a", OWN)]] {
            assert!(Listing::parse(&said(entries), true).is_none());
        }
        let good = said(&[("a", 7)]);
        for length in 1..good.len() {
            assert!(Listing::parse(&good[..length], true).is_none(), "{length}");
        }
    }
}
