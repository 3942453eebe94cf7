//! Files that guests open without asking home.
//!
//! Once home has opened a node for reading and said that its contents may be kept, that open file serves everybody who opens it
//! in the same way: whoever may is the same, what is read is the same, and there is no offset at home. Each open file of a guest has a
//! number of the session's own ([`LOCAL`]), which stands for home's until something needs an open file of its own (a lock).
//! What a change at home or a guest's own doing puts in doubt is not lent again; home's open file is closed with its last user.
//!
//! What nobody has used for a while may rest: home closes it, opens it again when its number is used, and until something puts it
//! in doubt it is lent as before.

use std::collections::{HashMap, HashSet};

/// Bit of the numbers of open files that are the session's own.
pub const LOCAL: u64 = 1 << 63;

/// Stands for the number of a file that home has not opened yet.
const PROMISED: u64 = u64::MAX;

/// Most open files of home's that are held for whoever comes.
const GRANTS_MAX: usize = 1 << 16;

/// Most of them that home has open.
const AWAKE_MAX: usize = 4096;

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

/// What has become idle.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Idle {
    /// Home may close these until they are used again; it is to say whether it does.
    pub resting: Vec<Closing>,
    /// These are given up.
    pub closings: Vec<Closing>,
}

/// The open files that are the session's.
#[derive(Debug, Default)]
pub struct Opens {
    ways: HashMap<Way, u64>,
    held: HashMap<u64, Held>,
    /// Those held, by their nodes.
    nodes: HashMap<u64, Vec<u64>>,
    /// Those of them that do not rest.
    awake: HashSet<u64>,
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
        // Home opens it when it is asked to read from it.
        self.awake.insert(home);
        Some(self.add(home, false))
    }

    /// Home has opened a file that may be lent. The number under which the guest gets it; `None` if it is to be passed on as it is.
    pub fn hold(&mut self, way: Way, home: u64) -> Option<u64> {
        let is_full = self.held.len() >= GRANTS_MAX || self.awake.len() >= AWAKE_MAX;
        if is_full || self.ways.contains_key(&way) || self.held.contains_key(&home) {
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
        self.nodes.entry(way.node).or_default().push(home);
        self.awake.insert(home);
        Some(self.add(home, false))
    }

    /// A file that home is going to open, for one guest that goes on already. It is [its own](Self::set_own) when home has.
    pub fn promise(&mut self) -> u64 {
        self.add(PROMISED, false)
    }

    /// Whether home has still to say that a file is open, which is waited for no longer once it has said that it is not.
    pub fn is_promised(&self, number: u64) -> bool {
        self.local
            .get(&number)
            .is_some_and(|local| local.home == PROMISED && !local.own)
    }

    /// Home could not open what was promised.
    pub fn break_promise(&mut self, number: u64) {
        if let Some(local) = self.local.get_mut(&number).filter(|local| local.home == PROMISED) {
            local.own = true;
        }
    }

    /// Home's number of an open file.
    pub fn home(&self, number: u64) -> Option<u64> {
        let local = self.local.get(&number)?;
        (local.home != PROMISED).then_some(local.home)
    }

    /// The open file of home's on which locks of this one can be made.
    pub fn own(&mut self, number: u64) -> Option<Own> {
        let local = self.local.get_mut(&number)?;
        if local.home == PROMISED {
            return None;
        }
        if local.own {
            return Some(Own::Ready(local.home));
        }
        let held = self.held.get_mut(&local.home)?;
        if held.users > 1 {
            return Some(Own::Wanted(held.way));
        }
        // Its only user keeps it.
        let home = local.home;
        local.own = true;
        self.end(home);
        self.drop_held(home);
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

    fn drop_held(&mut self, home: u64) -> Option<Closing> {
        let way = self.held.remove(&home)?.way;
        self.awake.remove(&home);
        if let Some(all) = self.nodes.get_mut(&way.node) {
            all.retain(|other| *other != home);
            if all.is_empty() {
                self.nodes.remove(&way.node);
            }
        }
        Some((home, way))
    }

    /// A user of a held file less.
    fn leave(&mut self, home: u64) -> Option<Closing> {
        let held = self.held.get_mut(&home)?;
        held.users -= 1;
        held.used = self.now;
        if held.users > 0 || !held.ended {
            return None;
        }
        self.drop_held(home)
    }

    /// An open file is closed: `Err` with home's number if that is to be told as it is, else what can be closed now.
    pub fn release(&mut self, number: u64) -> Result<Option<Closing>, u64> {
        match self.local.remove(&number) {
            Some(local) if local.home == PROMISED => Ok(None),
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
        self.drop_held(home)
    }

    /// What is known of a node is in doubt: what can be closed now.
    pub fn doubt(&mut self, node: u64) -> Vec<Closing> {
        let all = self.nodes.get(&node).cloned().unwrap_or_default();
        all.into_iter().filter_map(|home| self.end(home)).collect()
    }

    /// What is known of everything is.
    pub fn doubt_all(&mut self) -> Vec<Closing> {
        let all: Vec<u64> = self.held.keys().copied().collect();
        all.into_iter().filter_map(|home| self.end(home)).collect()
    }

    /// To be called from time to time: what nobody has used for `most` calls. If much is held, it is called that sooner.
    pub fn trim(&mut self, most: u64) -> Idle {
        self.now += 1;
        let now = self.now;
        let most = if self.awake.len() > AWAKE_MAX / 2 { 0 } else { most };
        let is_idle = |held: &Held| !held.ended && held.users == 0 && now - held.used > most;
        let idle = self
            .awake
            .iter()
            .filter_map(|home| Some((*home, self.held.get(home)?)))
            .filter(|(_, held)| is_idle(held));
        let resting: Vec<Closing> = idle.map(|(home, held)| (home, held.way)).collect();
        for (home, _) in &resting {
            self.awake.remove(home);
        }
        let mut closings = Vec::new();
        if self.held.len() > GRANTS_MAX / 8 * 7 {
            let mut all: Vec<(u64, u64)> = self
                .held
                .iter()
                .filter(|(home, held)| held.users == 0 && !self.awake.contains(home))
                .map(|(home, held)| (held.used, *home))
                .collect();
            let count = all.len().min(GRANTS_MAX / 8);
            if count > 0 {
                all.select_nth_unstable(count - 1);
                closings = all[..count]
                    .iter()
                    .filter_map(|(_, home)| self.end(*home))
                    .collect();
            }
        }
        let mut resting = resting;
        resting.retain(|(home, _)| self.held.contains_key(home));
        Idle { resting, closings }
    }

    /// Home does not let an open file rest: it is given up. What can be closed now.
    pub fn refused(&mut self, home: u64) -> Option<Closing> {
        self.end(home)
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
    fn a_promise_is_kept_or_not() {
        let mut opens = Opens::default();
        let [kept, closed, broken] = [(); 3].map(|()| opens.promise());
        assert!(opens.is_promised(kept) && opens.home(kept).is_none() && opens.own(kept).is_none());
        assert_eq!(opens.set_own(kept, 40, WAY), None);
        assert!(!opens.is_promised(kept));
        assert_eq!(
            (opens.home(kept), opens.own(kept)),
            (Some(40), Some(Own::Ready(40)))
        );
        assert_eq!(opens.release(kept), Err(40));
        // What has been closed before home has opened it is closed then.
        assert_eq!(opens.release(closed), Ok(None));
        assert_eq!(opens.set_own(closed, 41, WAY), Some((41, WAY)));
        opens.break_promise(broken);
        assert!(!opens.is_promised(broken) && opens.home(broken).is_none() && opens.own(broken).is_none());
        assert_eq!(opens.release(broken), Ok(None));
        assert!(opens.local.is_empty());
    }

    #[test]
    fn what_nobody_uses_is_closed_after_a_while() {
        let mut opens = Opens::default();
        let open = opens.hold(WAY, 40).unwrap();
        assert_eq!(opens.trim(0), Idle::default());
        assert_eq!(opens.release(open), Ok(None));
        assert_eq!(opens.trim(1), Idle::default());
        assert_eq!(opens.trim(1).resting, [(40, WAY)]);
        assert_eq!(opens.trim(1), Idle::default());
        // Home does not, and somebody has come meanwhile.
        let open = opens.open(WAY).unwrap();
        assert_eq!(opens.refused(40), None);
        assert_eq!(opens.open(WAY), None);
        assert_eq!(opens.release(open), Ok(Some((40, WAY))));
        let open = opens.hold(WAY, 41).unwrap();
        opens.release(open).unwrap();
        assert_eq!(opens.doubt_all(), [(41, WAY)]);
    }

    #[test]
    fn what_rests_is_lent_until_it_is_doubted() {
        let mut opens = Opens::default();
        let open = opens.hold(WAY, 40).unwrap();
        opens.release(open).unwrap();
        opens.trim(0);
        assert_eq!(opens.trim(0), Idle::default());
        let open = opens.open(WAY).unwrap();
        assert_eq!(opens.home(open), Some(40));
        opens.release(open).unwrap();
        opens.trim(0);
        assert_eq!(opens.trim(0), Idle::default());
        assert_eq!(opens.doubt(7), [(40, WAY)]);
        assert_eq!(opens.open(WAY), None);
        assert!(opens.nodes.is_empty() && opens.awake.is_empty());
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut opens = Opens::default();
        let mut closed = 0;
        for node in 0..2 * GRANTS_MAX as u64 {
            let way = Way { node, ..WAY };
            match opens.hold(way, node + 1) {
                Some(open) => assert_eq!(opens.release(open), Ok(None)),
                None => {
                    let idle = opens.trim(5);
                    assert!(!idle.resting.is_empty() || !idle.closings.is_empty());
                    closed += idle.closings.len();
                }
            }
        }
        assert!(opens.held.len() <= GRANTS_MAX && opens.awake.len() <= AWAKE_MAX);
        assert!(closed >= GRANTS_MAX / 2);
        // Those that nobody has used for the longest time.
        assert_eq!(opens.open(Way { node: 0, ..WAY }), None);
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
