//! What the node's kernel keeps of home's tree, as far as it has to be told when that changes: which nodes it knows, and what
//! names mean to it.
//!
//! It may be said to keep more than it does, never less. Nodes are there until it forgets them; a name that has a node goes
//! with the last of its directory, at the latest.

use std::collections::{HashMap, HashSet};

use afield_abi::fuse::ROOT_NODE;
use afield_link::invalidation::Change;

use crate::fs::connections::ConnectionSet;

/// Most names that the kernel is allowed to rely on. Further ones it asks for each time.
const NAMES_MAX: usize = 1 << 20;

/// Most directories in which a node is known to have been found. With more of them, all of a node's places are doubtful.
const PLACES_MAX: usize = 8;

/// Most names of a directory that are searched for another one of the same node.
const NAMES_SEARCHED_MAX: usize = 4096;

/// Something that the kernel has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A node's attributes are not to be relied on. `places`: directories whose lookups may be bringing it just now.
    Attributes { node: u64, places: Vec<u64> },
    /// Nor its contents.
    Contents { node: u64, places: Vec<u64> },
    /// Nor a directory's attributes and listing.
    Listing { node: u64, places: Vec<u64> },
    /// Nor a name.
    Name { directory: u64, name: Box<[u8]> },
    /// Nor a name which mounts are on or below, and which is not to be given up before it means something else.
    Anchor { directory: u64, name: Box<[u8]> },
}

impl Notice {
    /// The node that the kernel has to know for it to matter.
    pub fn node(&self) -> u64 {
        match self {
            Self::Attributes { node, .. } | Self::Contents { node, .. } | Self::Listing { node, .. } => *node,
            Self::Name { directory, .. } | Self::Anchor { directory, .. } => *directory,
        }
    }
}

/// A node of home's.
#[derive(Debug, Default)]
struct Node {
    /// How often the kernel has been told of it, and has not forgotten it.
    lookups: u64,
    /// Directories in which it was found.
    places: Vec<u64>,
    /// What may be kept of its contents.
    contents: Contents,
    /// It stays what home says it is until home says otherwise.
    lasting: bool,
    /// The connections by which the kernel has been told of it.
    connections: ConnectionSet,
}

/// What the kernel may keep of a node's contents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Contents {
    /// It has not been opened.
    #[default]
    Nothing,
    /// Pages of a file.
    Pages,
    /// A directory's listing.
    Listing,
}

/// A directory in which names are relied on.
#[derive(Debug, Default)]
struct Directory {
    /// Names, and the nodes they mean; zero for none.
    names: HashMap<Box<[u8]>, u64>,
}

/// The bookkeeping.
#[derive(Debug, Default)]
pub struct Kept {
    nodes: HashMap<u64, Node>,
    directories: HashMap<u64, Directory>,
    /// Names in all directories.
    count: usize,
    /// Names on the way to what the world has mounted: given up, they would take the mounts with them.
    anchored: HashSet<(u64, Box<[u8]>)>,
    /// The kernel can ask for a name again without giving it up. If it cannot, it always asks for those.
    expires: bool,
}

impl Kept {
    /// What the world has mounted is, or is below, this name.
    pub fn anchor(&mut self, directory: u64, name: &[u8]) {
        self.anchored.insert((directory, name.into()));
    }

    /// The kernel can ask for a name again without giving it up.
    pub fn set_expires(&mut self) {
        self.expires = true;
    }

    /// The kernel is told of a node by this connection.
    pub fn reach(&mut self, node: u64, connection: usize) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.connections.add(connection);
        }
    }

    /// The connections by which the kernel may know a node.
    pub fn connections(&self, node: u64) -> ConnectionSet {
        match self.nodes.get(&node) {
            _ if node == ROOT_NODE => ConnectionSet::ROOT,
            Some(known) => known.connections,
            None => ConnectionSet::ALL,
        }
    }

    /// The kernel is told of a node: in this directory, if it is told where; `lasting` if it may rely on what it is told.
    pub fn count(&mut self, node: u64, directory: Option<u64>, lasting: bool) {
        let known = self.nodes.entry(node).or_default();
        known.lookups += 1;
        known.lasting = lasting;
        if let Some(directory) = directory
            && !known.places.contains(&directory)
            && known.places.len() <= PLACES_MAX
        {
            known.places.push(directory);
        }
    }

    /// The kernel wants to rely on a name, which means this node (zero: nothing). False: it must not.
    #[must_use]
    pub fn rely(&mut self, directory: u64, name: &[u8], node: u64) -> bool {
        if self.count >= NAMES_MAX || !self.expires && self.is_anchored(directory, name) {
            return false;
        }
        if directory != ROOT_NODE && !self.nodes.contains_key(&directory) {
            return false;
        }
        let names = &mut self.directories.entry(directory).or_default().names;
        if names.insert(name.into(), node).is_none() {
            self.count += 1;
        }
        true
    }

    fn is_anchored(&self, directory: u64, name: &[u8]) -> bool {
        self.anchored.contains(&(directory, name.into()))
    }

    /// That a name is not to be relied on any more.
    fn notice(&self, directory: u64, name: Box<[u8]>) -> Notice {
        match self.is_anchored(directory, &name) {
            true => Notice::Anchor { directory, name },
            false => Notice::Name { directory, name },
        }
    }

    /// The node that the kernel takes a name for, if it relies on it; zero if it takes it for nothing.
    pub fn meaning(&self, directory: u64, name: &[u8]) -> Option<u64> {
        self.directories.get(&directory)?.names.get(name).copied()
    }

    /// Whether a path leads to a node by names that are relied on, none of them being one of several for its node.
    pub fn leads_to(&self, path: &[u8], node: u64) -> bool {
        let Some(names) = path.strip_prefix(b"/") else {
            return false;
        };
        let mut at = ROOT_NODE;
        for name in names.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let Some(directory) = self.directories.get(&at) else {
                return false;
            };
            let Some(meaning) = directory.names.get(name).copied().filter(|meaning| *meaning != 0) else {
                return false;
            };
            let places = self.nodes.get(&meaning).map_or(0, |known| known.places.len());
            let is_only = || {
                directory
                    .names
                    .values()
                    .filter(|other| **other == meaning)
                    .count()
                    == 1
            };
            if places != 1 || directory.names.len() > NAMES_SEARCHED_MAX || !is_only() {
                return false;
            }
            at = meaning;
        }
        at == node
    }

    /// A directory and a name in it that the kernel takes for a node.
    pub fn place_of(&self, node: u64) -> Option<(u64, Box<[u8]>)> {
        self.places(node).into_iter().find_map(|place| {
            let names = &self.directories.get(&place)?.names;
            let (name, _) = names.iter().find(|(_, meaning)| **meaning == node)?;
            Some((place, name.clone()))
        })
    }

    /// A name has been removed by a guest: the kernel asks for it again.
    pub fn removed(&mut self, directory: u64, name: &[u8]) {
        if let Some(known) = self.directories.get_mut(&directory)
            && known.names.remove(name).is_some()
        {
            self.count -= 1;
        }
    }

    /// A guest has moved a name, on which the kernel relies as much as before.
    pub fn moved(&mut self, (from, old): (u64, &[u8]), (to, new): (u64, &[u8]), exchanged: bool) {
        let moved = self.meaning(from, old);
        let replaced = self.meaning(to, new);
        self.removed(from, old);
        if self.anchored.remove(&(from, old.into())) {
            self.anchor(to, new);
        }
        for (directory, name, node) in [(to, new, moved), (from, old, replaced.filter(|_| exchanged))] {
            let Some(node) = node else { continue };
            // At the limit it is one more: the kernel has it already.
            let names = &mut self.directories.entry(directory).or_default().names;
            if names.insert(name.into(), node).is_none() {
                self.count += 1;
            }
            if let Some(known) = self.nodes.get_mut(&node)
                && !known.places.contains(&directory)
                && known.places.len() <= PLACES_MAX
            {
                known.places.push(directory);
            }
        }
    }

    /// A node has been opened, so that such contents of it may be there.
    pub fn opened(&mut self, node: u64, contents: Contents) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.contents = contents;
        }
    }

    /// Home has said what the node is now; `lasting` if that can be relied on.
    pub fn looked_at(&mut self, node: u64, lasting: bool) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.lasting = lasting;
        }
    }

    /// True if the kernel knows the node.
    pub fn is_known(&self, node: u64) -> bool {
        self.nodes.contains_key(&node)
    }

    /// True if home says when the node changes.
    pub fn is_lasting(&self, node: u64) -> bool {
        self.nodes.get(&node).is_some_and(|known| known.lasting)
    }

    /// The kernel has forgotten a node so many times. True if it does not know it any more.
    pub fn forget(&mut self, node: u64, lookups: u64) -> bool {
        let Some(known) = self.nodes.get_mut(&node) else {
            return false;
        };
        known.lookups = known.lookups.saturating_sub(lookups);
        if known.lookups > 0 {
            return false;
        }
        let gone = self.nodes.remove(&node);
        // Whatever has no inode has no name that is relied on, and a directory without one no entries.
        for place in gone.into_iter().flat_map(|gone| gone.places) {
            if let Some(directory) = self.directories.get_mut(&place) {
                let before = directory.names.len();
                if before <= 64 {
                    directory.names.retain(|_, of| *of != node);
                }
                self.count -= before - directory.names.len();
            }
        }
        if let Some(directory) = self.directories.remove(&node) {
            self.count -= directory.names.len();
        }
        true
    }

    /// Names that are relied on, and nodes that are known.
    pub fn counts(&self) -> (usize, usize) {
        (self.count, self.nodes.len())
    }

    fn places(&self, node: u64) -> Vec<u64> {
        match self.nodes.get(&node) {
            Some(known) if known.places.len() > PLACES_MAX => self.directories.keys().copied().collect(),
            Some(known) => known.places.clone(),
            None => Vec::new(),
        }
    }

    /// Nothing is relied on in a directory any more: what the kernel has to be told.
    pub fn drop_names(&mut self, node: u64, notices: &mut Vec<Notice>) {
        if let Some(directory) = self.directories.remove(&node) {
            self.count -= directory.names.len();
            notices.extend(directory.names.into_keys().map(|name| self.notice(node, name)));
        }
    }

    fn knows(&self, node: u64) -> bool {
        node == ROOT_NODE || self.nodes.contains_key(&node)
    }

    fn node_changed(&mut self, node: u64, contents: bool, notices: &mut Vec<Notice>) {
        if !self.knows(node) {
            return;
        }
        // It may have been its last: home says so of what it is asked for again.
        self.looked_at(node, false);
        let places = self.places(node);
        let kept = match self.nodes.get(&node) {
            _ if !contents => Contents::Nothing,
            Some(known) => known.contents,
            // The root.
            None => Contents::Listing,
        };
        notices.push(match kept {
            Contents::Nothing => Notice::Attributes { node, places },
            Contents::Pages => Notice::Contents { node, places },
            Contents::Listing => Notice::Listing { node, places },
        });
    }

    /// Something has changed at home: what the kernel has to be told.
    pub fn changed(&mut self, change: Change<'_>, notices: &mut Vec<Notice>) {
        match change {
            Change::Everything => {
                let directories: Vec<u64> = self.directories.keys().copied().collect();
                for directory in directories {
                    self.drop_names(directory, notices);
                }
                self.node_changed(ROOT_NODE, true, notices);
                let nodes: Vec<u64> = self.nodes.keys().copied().collect();
                for node in nodes {
                    self.node_changed(node, true, notices);
                }
            }
            Change::Name { directory, name } => {
                if self.meaning(directory, name).is_some() {
                    self.removed(directory, name);
                    notices.push(self.notice(directory, name.into()));
                }
                self.node_changed(directory, true, notices);
            }
            Change::Attributes { node } => {
                // Who may search a directory is one of them.
                self.drop_names(node, notices);
                self.node_changed(node, false, notices);
            }
            Change::Contents { node } => {
                self.drop_names(node, notices);
                self.node_changed(node, true, notices);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(kept: &mut Kept, change: Change<'_>) -> Vec<Notice> {
        let mut notices = Vec::new();
        kept.changed(change, &mut notices);
        notices
    }

    fn name(directory: u64, name: &[u8]) -> Notice {
        Notice::Name {
            directory,
            name: name.into(),
        }
    }

    #[test]
    fn what_nobody_knows_is_told_nobody() {
        let mut kept = Kept::default();
        assert!(changed(&mut kept, Change::Attributes { node: 7 }).is_empty());
        let change = Change::Name {
            directory: 7,
            name: b"n",
        };
        assert!(changed(&mut kept, change).is_empty());
        kept.count(7, Some(ROOT_NODE), true);
        kept.opened(7, Contents::Listing);
        // The listing is no longer what it was, whether or not the name is known.
        let listing = Notice::Listing {
            node: 7,
            places: vec![ROOT_NODE],
        };
        assert_eq!(changed(&mut kept, change), vec![listing.clone()]);
        assert!(kept.rely(7, b"n", 0));
        assert_eq!(changed(&mut kept, change), [name(7, b"n"), listing]);
        assert_eq!(kept.counts(), (0, 1));
    }

    #[test]
    fn names_that_mounts_are_on_are_not_given_up() {
        let mut kept = Kept::default();
        kept.count(5, Some(ROOT_NODE), true);
        kept.anchor(ROOT_NODE, b"mnt");
        // Not every kernel can ask again.
        assert!(!kept.rely(ROOT_NODE, b"mnt", 5));
        kept.set_expires();
        assert!(kept.rely(ROOT_NODE, b"mnt", 5));
        assert_eq!(kept.place_of(5), Some((ROOT_NODE, (*b"mnt").into())));
        let change = Change::Name {
            directory: ROOT_NODE,
            name: b"mnt",
        };
        let anchor = |name: &[u8]| Notice::Anchor {
            directory: ROOT_NODE,
            name: name.into(),
        };
        assert_eq!(changed(&mut kept, change)[0], anchor(b"mnt"));
        // Moved, it takes them along.
        assert!(kept.rely(ROOT_NODE, b"mnt", 5));
        kept.moved((ROOT_NODE, b"mnt"), (ROOT_NODE, b"other"), false);
        let change = Change::Attributes { node: ROOT_NODE };
        assert_eq!(changed(&mut kept, change)[0], anchor(b"other"));
        assert_eq!(kept.place_of(5), None);
    }

    #[test]
    fn those_are_told_who_may_know() {
        let mut kept = Kept::default();
        assert_eq!(kept.connections(ROOT_NODE), ConnectionSet::ROOT);
        assert_eq!(kept.connections(5), ConnectionSet::ALL);
        kept.count(5, Some(ROOT_NODE), true);
        kept.reach(5, 0);
        assert_eq!(kept.connections(5), ConnectionSet::ROOT);
        // A place where something is mounted is known by two.
        kept.count(5, None, true);
        kept.reach(5, 3);
        assert!(!kept.forget(5, 1));
        assert!(kept.connections(5).has(0) && kept.connections(5).has(3) && !kept.connections(5).has(1));
    }

    #[test]
    fn names_live_as_long_as_their_directory() {
        let mut kept = Kept::default();
        assert!(!kept.rely(5, b"early", 0));
        kept.count(5, Some(ROOT_NODE), true);
        kept.count(5, Some(ROOT_NODE), true);
        kept.count(6, Some(5), true);
        assert!(kept.rely(5, b"a", 6));
        assert!(kept.rely(5, b"b", 0));
        assert!(!kept.forget(5, 1));
        assert_eq!(kept.counts().0, 2);
        assert!(kept.forget(6, 1));
        assert_eq!(kept.counts(), (1, 1));
        assert!(kept.forget(5, 1));
        assert_eq!(kept.counts(), (0, 0));
        assert!(!kept.forget(5, 1));
    }

    #[test]
    fn a_moved_name_is_relied_on_where_it_is() {
        let mut kept = Kept::default();
        for node in [2, 3] {
            kept.count(node, Some(ROOT_NODE), true);
        }
        kept.count(9, Some(2), true);
        assert!(kept.rely(2, b"x", 9));
        kept.moved((2, b"x"), (3, b"y"), false);
        assert_eq!((kept.meaning(2, b"x"), kept.meaning(3, b"y")), (None, Some(9)));
        kept.count(8, Some(2), true);
        assert!(kept.rely(2, b"z", 8));
        kept.moved((2, b"z"), (3, b"y"), true);
        assert_eq!((kept.meaning(2, b"z"), kept.meaning(3, b"y")), (Some(9), Some(8)));
        let notices = changed(&mut kept, Change::Attributes { node: 9 });
        assert_eq!(
            notices,
            [Notice::Attributes {
                node: 9,
                places: vec![2, 3]
            }]
        );
    }

    #[test]
    fn everything_is_everything_but_what_holds_mounts() {
        let mut kept = Kept::default();
        kept.anchor(ROOT_NODE, b"dev");
        assert!(!kept.rely(ROOT_NODE, b"dev", 4));
        kept.count(4, Some(ROOT_NODE), true);
        kept.count(5, Some(ROOT_NODE), true);
        assert!(kept.rely(ROOT_NODE, b"etc", 5));
        let notices = changed(&mut kept, Change::Everything);
        assert!(notices.contains(&name(ROOT_NODE, b"etc")));
        assert!(!notices.contains(&name(ROOT_NODE, b"dev")));
        assert_eq!(notices.len(), 4);
        // A directory that may be searched by others now.
        assert!(kept.rely(5, b"hosts", 0));
        let notices = changed(&mut kept, Change::Attributes { node: 5 });
        assert_eq!(notices[0], name(5, b"hosts"));
        assert_eq!(kept.counts().0, 0);
    }
}
