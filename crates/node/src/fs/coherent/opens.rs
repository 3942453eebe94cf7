//! Files that guests open without asking home.
//!
//! Once home has opened a node for reading and said that its contents may be kept, that open file serves everybody who opens it
//! in the same way: whoever may is the same, what is read is the same, and there is no offset at home. Each open file of a guest has a
//! number of the session's own ([`LOCAL`]), which stands for home's until something needs an open file of its own (a lock).
//! What a change at home or a guest's own doing puts in doubt is not lent again; home's open file is closed with its last user.

use std::collections::HashMap;

/// Bit of the numbers of open files that are the session's own.
pub const LOCAL: u64 = 1 << 63;

/// Most open files of home's that are held for whoever comes.
const GRANTS_MAX: usize = 4096;

/// A way of opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Way {
    /// The node.
    pub node: u64,
    /// Flags of `open`.
    pub flags: u32,
    /// It is a directory's listing that is opened.
    pub directory: bool,
}

/// An open file of home's that can be closed: its number, and how it was opened.
pub type Closing = (u64, Way);

#[derive(Debug)]
struct Held {
    way: Way,
    users: u32,
    /// Nobody else gets it.
    ended: bool,
    /// When it was used last, in calls of [`Opens::trim`].
    used: u64,
}

#[derive(Debug)]
struct Local {
    home: u64,
    /// Nobody shares home's open file, nor will.
    own: bool,
}

/// What a lock is to be made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// This open file of home's.
    Ready(u64),
    /// One that has to be opened first, in this way.
    Wanted(Way),
}

/// The open files that are the session's.
#[derive(Debug, Default)]
pub struct Opens {
    ways: HashMap<Way, u64>,
    held: HashMap<u64, Held>,
    local: HashMap<u64, Local>,
    last: u64,
    now: u64,
}

impl Opens {
    fn add(&mut self, home: u64, own: bool) -> u64 {
        self.last += 1;
        let number = LOCAL | self.last;
        self.local.insert(number, Local { home, own });
        number
    }

    /// Opens what is held for this way of opening.
    pub fn open(&mut self, way: Way) -> Option<u64> {
        let home = *self.ways.get(&way)?;
        let held = self.held.get_mut(&home)?;
        held.users += 1;
        held.used = self.now;
        Some(self.add(home, false))
    }

    /// Home has opened a file that may be lent. The number under which the guest gets it; `None` if it is to be passed on as it is.
    pub fn hold(&mut self, way: Way, home: u64) -> Option<u64> {
        if self.held.len() >= GRANTS_MAX || self.ways.contains_key(&way) || self.held.contains_key(&home) {
            return None;
        }
        self.ways.insert(way, home);
        let held = Held {
            way,
            users: 1,
            ended: false,
            used: self.now,
        };
        self.held.insert(home, held);
        Some(self.add(home, false))
    }

    /// Home's number of an open file.
    pub fn home(&self, number: u64) -> Option<u64> {
        self.local.get(&number).map(|local| local.home)
    }

    /// The open file of home's on which locks of this one can be made.
    pub fn own(&mut self, number: u64) -> Option<Own> {
        let local = self.local.get_mut(&number)?;
        if local.own {
            return Some(Own::Ready(local.home));
        }
        let held = self.held.get_mut(&local.home)?;
        if held.users > 1 {
            return Some(Own::Wanted(held.way));
        }
        // Its only user keeps it.
        let (home, way) = (local.home, held.way);
        local.own = true;
        self.held.remove(&home);
        if self.ways.get(&way) == Some(&home) {
            self.ways.remove(&way);
        }
        Some(Own::Ready(home))
    }

    /// Home has opened the file once more, for this one alone. What can be closed now. If there is no such open file any more, it is the new one.
    pub fn set_own(&mut self, number: u64, home: u64, way: Way) -> Option<Closing> {
        let Some(local) = self.local.get_mut(&number).filter(|local| !local.own) else {
            return Some((home, way));
        };
        local.own = true;
        let before = std::mem::replace(&mut local.home, home);
        self.leave(before)
    }

    /// A user of a held file less.
    fn leave(&mut self, home: u64) -> Option<Closing> {
        let held = self.held.get_mut(&home)?;
        held.users -= 1;
        held.used = self.now;
        if held.users > 0 || !held.ended {
            return None;
        }
        let way = held.way;
        self.held.remove(&home);
        Some((home, way))
    }

    /// An open file is closed: `Err` with home's number if that is to be told as it is, else what can be closed now.
    pub fn release(&mut self, number: u64) -> Result<Option<Closing>, u64> {
        match self.local.remove(&number) {
            Some(local) if local.own => Err(local.home),
            Some(local) => Ok(self.leave(local.home)),
            None => Ok(None),
        }
    }

    fn end(&mut self, home: u64) -> Option<Closing> {
        let held = self.held.get_mut(&home)?;
        held.ended = true;
        if self.ways.get(&held.way) == Some(&home) {
            self.ways.remove(&held.way);
        }
        if held.users > 0 {
            return None;
        }
        let way = held.way;
        self.held.remove(&home);
        Some((home, way))
    }

    fn end_where(&mut self, ends: impl Fn(&Held) -> bool) -> Vec<Closing> {
        let ended: Vec<u64> = self
            .held
            .iter()
            .filter(|(_, held)| !held.ended && ends(held))
            .map(|(home, _)| *home)
            .collect();
        ended.into_iter().filter_map(|home| self.end(home)).collect()
    }

    /// What is known of a node is in doubt: what can be closed now.
    pub fn doubt(&mut self, node: u64) -> Vec<Closing> {
        if self.ways.is_empty() {
            return Vec::new();
        }
        self.end_where(|held| held.way.node == node)
    }

    /// What is known of everything is.
    pub fn doubt_all(&mut self) -> Vec<Closing> {
        self.end_where(|_| true)
    }

    /// To be called from time to time: what nobody has used for `most` calls.
    pub fn trim(&mut self, most: u64) -> Vec<Closing> {
        self.now += 1;
        let now = self.now;
        self.end_where(|held| held.users == 0 && now - held.used > most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way = Way {
        node: 7,
        flags: 0,
        directory: false,
    };

    #[test]
    fn a_held_file_is_lent_until_it_is_doubted() {
        let mut opens = Opens::default();
        assert_eq!(opens.open(WAY), None);
        let first = opens.hold(WAY, 40).unwrap();
        let second = opens.open(WAY).unwrap();
        assert_ne!(first, second);
        assert_eq!((opens.home(first), opens.home(second)), (Some(40), Some(40)));
        assert_eq!(opens.open(Way { flags: 1, ..WAY }), None);
        assert_eq!(opens.release(first), Ok(None));
        assert!(opens.doubt(8).is_empty());
        assert!(opens.doubt(7).is_empty());
        assert_eq!(opens.open(WAY), None);
        assert_eq!(opens.release(second), Ok(Some((40, WAY))));
        assert_eq!(opens.release(second), Ok(None));
        assert!(opens.held.is_empty() && opens.ways.is_empty() && opens.local.is_empty());
    }

    #[test]
    fn what_nobody_uses_is_closed_after_a_while() {
        let mut opens = Opens::default();
        let open = opens.hold(WAY, 40).unwrap();
        assert!(opens.trim(0).is_empty());
        assert_eq!(opens.release(open), Ok(None));
        assert!(opens.trim(1).is_empty());
        assert_eq!(opens.trim(1), [(40, WAY)]);
        let open = opens.hold(WAY, 41).unwrap();
        opens.release(open).unwrap();
        assert_eq!(opens.doubt_all(), [(41, WAY)]);
    }

    #[test]
    fn locks_have_open_files_of_their_own() {
        let mut opens = Opens::default();
        let one = opens.hold(WAY, 40).unwrap();
        let two = opens.open(WAY).unwrap();
        assert_eq!(opens.own(two), Some(Own::Wanted(WAY)));
        assert_eq!(opens.set_own(two, 50, WAY), None);
        assert_eq!(opens.own(two), Some(Own::Ready(50)));
        // The only user left claims it.
        assert_eq!(opens.own(one), Some(Own::Ready(40)));
        assert_eq!(opens.open(WAY), None);
        assert_eq!(opens.release(two), Err(50));
        assert_eq!(opens.release(one), Err(40));
        assert_eq!(opens.set_own(two, 60, WAY), Some((60, WAY)));
    }
}
