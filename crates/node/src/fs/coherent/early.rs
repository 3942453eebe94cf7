//! What home has answered before anybody has asked: pure bookkeeping.
//!
//! An answer is as true as what the kernel keeps: it goes as soon as home says that something of what it is about has changed, or a guest
//! changes it. It is used once, by a question that asks just that, as if home had answered now. Answers that nobody wants are given
//! back: what was looked up is forgotten, what is open is closed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use afield_abi::fuse::{OPEN_FOR_EXECUTION, Opcode};
use afield_link::early;
use afield_link::invalidation::Change;
use zerocopy::IntoBytes;

use super::answers;
use super::listing::Listing;
use super::opens::Way;
use crate::fs::Request;

/// Most answers.
const ANSWERS_MAX: usize = 1 << 14;

/// Most bytes of them.
const BYTES_MAX: usize = 16 << 20;

/// Longest listing that new names are added to.
const LISTING_BYTES_MAX: usize = 1 << 20;

/// For how many looks (one per second) an answer waits for its question.
const LOOKS_MAX: u64 = 30;

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Question {
    /// What a name in a directory is.
    Name(u64, Box<[u8]>),
    /// Where a link leads to.
    Link(u64),
    /// Opening to read.
    Open {
        /// The file or directory.
        node: u64,
        /// In order to execute it.
        executes: bool,
        /// It is a directory's listing.
        directory: bool,
    },
    /// Something that is asked of a node.
    Of(u64, answers::Question),
    /// All names in a directory.
    Names(u64),
}

impl Question {
    /// What home has answered.
    pub fn heard(question: &early::Question<'_>) -> Self {
        match *question {
            early::Question::Name { directory, name } => Self::Name(directory, name.into()),
            early::Question::Link { node } => Self::Link(node),
            early::Question::Open {
                node,
                executes,
                directory,
            } => Self::Open {
                node,
                executes,
                directory,
            },
            early::Question::Access { node, mask } => Self::Of(node, answers::Question::Access(mask)),
            early::Question::Extended { node, name } => {
                Self::Of(node, answers::Question::Extended(name.into()))
            }
        }
    }

    /// What a request asks, if it is something that may have been answered. `way`: how it opens something, if others may share that.
    pub fn of(request: &Request<'_>, way: Option<Way>) -> Option<Self> {
        let node = request.header.node;
        match request.opcode {
            Opcode::Lookup => Some(Self::Name(node, request.name().ok()?.into())),
            Opcode::ReadLink => Some(Self::Link(node)),
            Opcode::Open | Opcode::OpenDirectory => way.map(|way| Self::Open {
                node,
                executes: way.flags & OPEN_FOR_EXECUTION != 0,
                directory: way.directory,
            }),
            _ => answers::Question::of(request).map(|question| Self::Of(node, question)),
        }
    }

    /// Whom it is about.
    pub fn node(&self) -> u64 {
        match self {
            Self::Name(node, _)
            | Self::Link(node)
            | Self::Open { node, .. }
            | Self::Of(node, _)
            | Self::Names(node) => *node,
        }
    }

    fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Name(_, name) => name.len(),
                _ => 0,
            }
    }
}

/// What an answer has brought with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Brought {
    /// Nothing that has to be given back.
    Nothing,
    /// A node, looked up once.
    Node(u64),
    /// An open file or directory.
    Open {
        /// Home's number of it.
        handle: u64,
        /// The node.
        node: u64,
        /// It is a directory's listing.
        directory: bool,
    },
}

impl Brought {
    fn node(self) -> Option<u64> {
        match self {
            Self::Node(node) => Some(node),
            _ => None,
        }
    }
}

/// An errno, or the body of a reply.
pub type Answer = Result<Vec<u8>, i32>;

/// What home has said.
#[derive(Debug)]
pub enum Said {
    /// An answer.
    Answer(Answer),
    /// What is in a directory.
    Listing(Listing),
}

impl Said {
    fn bytes(&self) -> usize {
        match self {
            Self::Answer(answer) => answer.as_ref().map_or(0, Vec::len),
            Self::Listing(listing) => listing.bytes(),
        }
    }
}

#[derive(Debug)]
struct Held {
    question: Question,
    said: Said,
    brought: Brought,
    /// When it came, in calls of [`Early::trim`].
    since: u64,
}

impl Held {
    /// Whom it is about, each once.
    fn nodes(&self) -> HashSet<u64> {
        let mut nodes = HashSet::from([self.question.node()]);
        nodes.extend(self.brought.node());
        if let Said::Listing(listing) = &self.said {
            nodes.extend(listing.nodes());
        }
        nodes
    }

    /// What is to be given back.
    fn into_brought(self) -> Vec<Brought> {
        match &self.said {
            Said::Answer(_) => vec![self.brought],
            Said::Listing(listing) => listing.nodes().map(Brought::Node).collect(),
        }
    }

    fn bytes(&self) -> usize {
        2 * self.question.bytes() + size_of::<Self>() + self.said.bytes()
    }
}

/// The answers.
#[derive(Debug, Default)]
pub struct Early {
    /// By the order in which they came.
    held: BTreeMap<u64, Held>,
    numbers: HashMap<Question, u64>,
    /// Answers that are about a node.
    about: HashMap<u64, BTreeSet<u64>>,
    bytes: usize,
    /// Files and directories that guests change by requests of which home's word may not know yet. Nothing is believed of them for as long
    /// as the kernel knows them.
    own: HashSet<u64>,
    next: u64,
    now: u64,
}

impl Early {
    /// Home has answered. What is to be given back is returned.
    pub fn hold(&mut self, question: Question, answer: Answer, brought: Brought) -> Vec<Brought> {
        self.enter(Held {
            question,
            said: Said::Answer(answer),
            brought,
            since: self.now,
        })
    }

    /// Home has said what is in a directory. What is to be given back is returned.
    pub fn hold_listing(&mut self, directory: u64, mut listing: Listing) -> Vec<Brought> {
        let own: Vec<u64> = listing.nodes().filter(|node| self.own.contains(node)).collect();
        for node in &own {
            listing.doubt(*node);
        }
        let mut back = self.enter(Held {
            question: Question::Names(directory),
            said: Said::Listing(listing),
            brought: Brought::Nothing,
            since: self.now,
        });
        back.extend(own.into_iter().map(Brought::Node));
        back
    }

    fn enter(&mut self, held: Held) -> Vec<Brought> {
        let is_own = |node: &u64| self.own.contains(node);
        if is_own(&held.question.node()) || held.brought.node().as_ref().is_some_and(is_own) {
            return held.into_brought();
        }
        let mut back = Vec::new();
        if let Some(number) = self.numbers.get(&held.question) {
            back.extend(self.give_back(*number));
        }
        self.insert(held);
        while (self.bytes > BYTES_MAX || self.held.len() > ANSWERS_MAX)
            && let Some((oldest, _)) = self.held.first_key_value()
        {
            back.extend(self.give_back(*oldest));
        }
        back
    }

    fn insert(&mut self, held: Held) {
        self.next += 1;
        let number = self.next;
        self.numbers.insert(held.question.clone(), number);
        for node in held.nodes() {
            self.about.entry(node).or_default().insert(number);
        }
        self.bytes += held.bytes();
        self.held.insert(number, held);
    }

    fn remove(&mut self, number: u64) -> Option<Held> {
        let held = self.held.remove(&number)?;
        self.bytes -= held.bytes();
        self.numbers.remove(&held.question);
        for node in held.nodes() {
            self.is_not_about(node, number);
        }
        Some(held)
    }

    fn give_back(&mut self, number: u64) -> Vec<Brought> {
        self.remove(number).map_or_else(Vec::new, Held::into_brought)
    }

    /// An answer says nothing about a node any more.
    fn is_not_about(&mut self, node: u64, number: u64) {
        if let Some(about) = self.about.get_mut(&node) {
            about.remove(&number);
            if about.is_empty() {
                self.about.remove(&node);
            }
        }
    }

    /// The answer to a question, which counts as given from now on.
    pub fn take(&mut self, question: &Question) -> Option<Answer> {
        let number = match (self.numbers.get(question), question) {
            (Some(number), _) => *number,
            // Who may execute and read it may read it.
            (
                None,
                Question::Open {
                    node,
                    executes: false,
                    directory: false,
                },
            ) => *self.numbers.get(&Question::Open {
                node: *node,
                executes: true,
                directory: false,
            })?,
            (None, Question::Name(directory, name)) => return self.take_listed(*directory, name),
            _ => return None,
        };
        match self.remove(number)?.said {
            Said::Answer(answer) => Some(answer),
            Said::Listing(_) => None,
        }
    }

    /// The listing of a directory, which is wanted for longer then.
    fn listing(&mut self, directory: u64) -> Option<(u64, &mut Listing)> {
        let number = *self.numbers.get(&Question::Names(directory))?;
        if self.held.get(&number)?.since != self.now
            && let Some(mut held) = self.remove(number)
        {
            held.since = self.now;
            self.insert(held);
        }
        let number = *self.numbers.get(&Question::Names(directory))?;
        match &mut self.held.get_mut(&number)?.said {
            Said::Listing(listing) => Some((number, listing)),
            Said::Answer(_) => None,
        }
    }

    fn take_listed(&mut self, directory: u64, name: &[u8]) -> Option<Answer> {
        let (number, listing) = self.listing(directory)?;
        let entry = listing.take(name)?;
        let others = listing.nodes().any(|node| node == entry.node);
        if entry.node != directory && !others {
            self.is_not_about(entry.node, number);
        }
        Some(Ok(entry.as_bytes().to_vec()))
    }

    /// What a listing gives from a cookie on, at most `size` bytes; with (`plus`) or without nodes. Those count as given.
    pub fn list(&mut self, directory: u64, offset: u64, size: usize, plus: bool) -> Option<Vec<u8>> {
        let (number, listing) = self.listing(directory)?;
        let (body, given) = listing.give(offset, size, plus)?;
        let left: HashSet<u64> = listing.nodes().collect();
        for node in given {
            if node != directory && !left.contains(&node) {
                self.is_not_about(node, number);
            }
        }
        Some(body)
    }

    /// Home's number of a file that is open for whoever will ask.
    pub fn open_file(&self, node: u64) -> Option<u64> {
        let numbers = self.about.get(&node)?;
        numbers
            .iter()
            .find_map(|number| match self.held.get(number)?.brought {
                Brought::Open {
                    handle,
                    directory: false,
                    ..
                } => Some(handle),
                _ => None,
            })
    }

    fn drop_where(&mut self, node: u64, goes: impl Fn(&Question) -> bool) -> Vec<Brought> {
        let Some(about) = self.about.get(&node) else {
            return Vec::new();
        };
        let held = &self.held;
        let numbers: Vec<u64> = about
            .iter()
            .filter(|number| held.get(number).is_some_and(|held| goes(&held.question)))
            .copied()
            .collect();
        let mut back = Vec::new();
        for number in numbers {
            let held = self.held.get_mut(&number);
            match held.map(|held| (held.question.node(), &mut held.said)) {
                // Only an entry goes; the names are what they were.
                Some((directory, Said::Listing(listing))) if directory != node => {
                    let count = listing.doubt(node);
                    back.extend(std::iter::repeat_n(Brought::Node(node), count));
                    self.is_not_about(node, number);
                }
                _ => back.extend(self.give_back(number)),
            }
        }
        back
    }

    /// Something of a node is not as it was.
    pub fn doubt(&mut self, node: u64) -> Vec<Brought> {
        self.drop_where(node, |_| true)
    }

    /// A name in a directory is not, nor are the directory's attributes; what other names in it are is known as before.
    pub fn doubt_name(&mut self, directory: u64, name: &[u8]) -> Vec<Brought> {
        let mut back = self.drop_where(directory, |question| match question {
            Question::Name(of, other) => *of != directory || **other == *name,
            Question::Names(of) => *of != directory,
            _ => true,
        });
        let Some(number) = self.numbers.get(&Question::Names(directory)).copied() else {
            return back;
        };
        let Some(held) = self.held.get_mut(&number) else {
            return back;
        };
        let before = held.bytes();
        let Said::Listing(listing) = &mut held.said else {
            return back;
        };
        let node = listing.doubt_name(name);
        let is_left =
            node.is_some_and(|node| node == directory || listing.nodes().any(|other| other == node));
        let is_long = listing.bytes() > LISTING_BYTES_MAX;
        self.bytes += held.bytes().saturating_sub(before);
        back.extend(node.map(Brought::Node));
        if let Some(node) = node
            && !is_left
        {
            self.is_not_about(node, number);
        }
        if is_long {
            back.extend(self.give_back(number));
        }
        back
    }

    /// Nothing is.
    pub fn doubt_all(&mut self) -> Vec<Brought> {
        self.numbers.clear();
        self.about.clear();
        self.bytes = 0;
        let held = std::mem::take(&mut self.held);
        held.into_values().flat_map(Held::into_brought).collect()
    }

    /// Home says that something has changed.
    pub fn changed(&mut self, change: &Change<'_>) -> Vec<Brought> {
        match change {
            Change::Everything => self.doubt_all(),
            Change::Name { directory, name } => self.doubt_name(*directory, name),
            Change::Attributes { node } | Change::Contents { node } => self.doubt(*node),
        }
    }

    /// Guests change a file from now on, without waiting for home.
    pub fn own(&mut self, node: u64) -> Vec<Brought> {
        self.own.insert(node);
        self.doubt(node)
    }

    /// The kernel does not know a node any more.
    pub fn forgotten(&mut self, node: u64) {
        self.own.remove(&node);
    }

    /// To be called every second: what nobody has wanted.
    pub fn trim(&mut self) -> Vec<Brought> {
        self.now += 1;
        let mut back = Vec::new();
        while let Some((oldest, held)) = self.held.first_key_value()
            && self.now - held.since > LOOKS_MAX
        {
            back.extend(self.give_back(*oldest));
        }
        back
    }
}

#[cfg(test)]
mod tests {
    use afield_abi::fuse::EntryReply;
    use zerocopy::FromBytes;

    use super::super::listing;
    use super::*;

    fn name(directory: u64, name: &str) -> Question {
        Question::Name(directory, name.as_bytes().into())
    }

    fn open(node: u64, executes: bool) -> Question {
        Question::Open {
            node,
            executes,
            directory: false,
        }
    }

    fn file(node: u64, handle: u64) -> Brought {
        Brought::Open {
            handle,
            node,
            directory: false,
        }
    }

    #[test]
    fn an_answer_is_used_once() {
        let mut early = Early::default();
        assert!(early.hold(name(1, "a"), Ok(vec![1]), Brought::Node(7)).is_empty());
        assert_eq!(early.take(&name(1, "b")), None);
        assert_eq!(early.take(&name(1, "a")), Some(Ok(vec![1])));
        assert_eq!(early.take(&name(1, "a")), None);
        assert!(early.about.is_empty() && early.bytes == 0);
        // The one before is given back.
        assert!(early.hold(open(7, true), Ok(vec![]), file(7, 40)).is_empty());
        assert_eq!(early.hold(open(7, true), Ok(vec![]), file(7, 41)), [file(7, 40)]);
        assert_eq!(early.open_file(7), Some(41));
        assert_eq!(early.take(&open(7, false)), Some(Ok(vec![])));
        early.hold(open(7, false), Ok(vec![]), file(7, 42));
        assert_eq!(early.take(&open(7, true)), None);
    }

    #[test]
    fn what_changes_is_not_believed() {
        let fill = || {
            let mut early = Early::default();
            early.hold(name(1, "a"), Ok(vec![]), Brought::Node(7));
            early.hold(name(1, "b"), Ok(vec![]), Brought::Nothing);
            early.hold(name(7, "c"), Ok(vec![]), Brought::Node(8));
            early.hold(open(8, false), Ok(vec![]), file(8, 40));
            early
        };
        let left = |early: &Early| early.held.len();
        let mut one = fill();
        let change = Change::Name {
            directory: 1,
            name: b"b",
        };
        assert_eq!(one.changed(&change), [Brought::Nothing]);
        assert_eq!(left(&one), 3);
        // An entry has its node's attributes, and a directory's say who may use names in it.
        assert_eq!(
            one.changed(&Change::Attributes { node: 7 }),
            [Brought::Node(7), Brought::Node(8)]
        );
        assert_eq!(one.changed(&Change::Contents { node: 8 }), [file(8, 40)]);
        assert_eq!(left(&one), 0);
        assert_eq!(fill().changed(&Change::Everything).len(), 4);
        let mut early = fill();
        assert_eq!(early.own(8).len(), 2);
        assert_eq!(early.hold(open(8, false), Ok(vec![]), file(8, 41)), [file(8, 41)]);
        assert_eq!(
            early.hold(name(7, "d"), Ok(vec![]), Brought::Node(8)),
            [Brought::Node(8)]
        );
        early.forgotten(8);
        assert!(early.hold(open(8, false), Ok(vec![]), file(8, 41)).is_empty());
    }

    #[test]
    fn what_nobody_wants_is_given_back() {
        let mut early = Early::default();
        early.hold(name(1, "a"), Ok(vec![]), Brought::Node(7));
        for _ in 0..LOOKS_MAX {
            assert!(early.trim().is_empty());
        }
        early.hold(name(1, "b"), Ok(vec![]), Brought::Nothing);
        assert_eq!(early.trim(), [Brought::Node(7)]);
        assert_eq!(early.held.len(), 1);
        let mut back = 0;
        for number in 0..ANSWERS_MAX {
            back += early
                .hold(name(1, &number.to_string()), Ok(vec![]), Brought::Nothing)
                .len();
        }
        assert_eq!((early.held.len(), back), (ANSWERS_MAX, 1));
        for number in 0..100 {
            early.hold(
                name(2, &number.to_string()),
                Ok(vec![0; 1 << 20]),
                Brought::Nothing,
            );
        }
        assert!(early.bytes <= BYTES_MAX && early.held.len() < 17);
    }

    /// Answers come, are used, and go, at random. What home has counted is given or given back, each once, and nothing is used that has changed
    /// since it came.
    #[test]
    fn random_histories_keep_count() {
        for seed in 1..300u64 {
            history(seed);
        }
    }

    /// The versions of a small tree at home: nodes 1 to 4 are directories, 5 to 12 files.
    struct Home {
        random: u64,
        /// Of each node's attributes and contents, and of each name.
        versions: HashMap<u64, u64>,
        names: HashMap<(u64, u64), u64>,
        /// Lookups of nodes, and open files.
        counted: HashMap<u64, i64>,
        open: HashSet<u64>,
        handles: u64,
    }

    impl Home {
        fn random(&mut self, below: u64) -> u64 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random % below
        }

        fn give(&mut self, seed: u64, back: Vec<Brought>) {
            for brought in back {
                match brought {
                    Brought::Nothing => {}
                    Brought::Node(node) => {
                        let count = self.counted.entry(node).or_default();
                        *count -= 1;
                        assert!(*count >= 0, "seed {seed}: {node} given back too often");
                    }
                    Brought::Open { handle, .. } => {
                        assert!(self.open.remove(&handle), "seed {seed}: {handle} closed twice");
                    }
                }
            }
        }

        fn version(&self, node: u64) -> u64 {
            self.versions.get(&node).copied().unwrap_or(0)
        }

        fn name_version(&self, directory: u64, name: u64) -> u64 {
            self.names.get(&(directory, name)).copied().unwrap_or(0)
        }
    }

    fn history(seed: u64) {
        let mut home = Home {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            versions: HashMap::new(),
            names: HashMap::new(),
            counted: HashMap::new(),
            open: HashSet::new(),
            handles: 0,
        };
        let mut early = Early::default();
        // What is answered says which versions it is of: of its name, its directory's rights and its node.
        for _ in 0..400 {
            let directory = 1 + home.random(4);
            let (number, node) = (home.random(6), 5 + home.random(8));
            let text = number.to_string();
            match home.random(9) {
                0 | 1 => {
                    let said = [
                        node,
                        home.name_version(directory, number),
                        home.version(directory),
                        home.version(node),
                    ];
                    *home.counted.entry(node).or_default() += 1;
                    let back = early.hold(
                        name(directory, &text),
                        Ok(said.as_bytes().to_vec()),
                        Brought::Node(node),
                    );
                    home.give(seed, back);
                }
                2 => {
                    home.handles += 1;
                    let handle = home.handles;
                    home.open.insert(handle);
                    let said = [handle, home.version(node)];
                    let back = early.hold(
                        open(node, false),
                        Ok(said.as_bytes().to_vec()),
                        file(node, handle),
                    );
                    home.give(seed, back);
                }
                3 => {
                    let entries: Vec<(String, u64)> =
                        (0..number).map(|each| (each.to_string(), 5 + each)).collect();
                    for (_, node) in &entries {
                        *home.counted.entry(*node).or_default() += 1;
                    }
                    let entries: Vec<(&str, u64)> =
                        entries.iter().map(|(name, node)| (&**name, *node)).collect();
                    let listing = Listing::parse(&listing::tests::said(&entries), true).unwrap();
                    let back = early.hold_listing(directory, listing);
                    home.give(seed, back);
                }
                4 | 5 => match early.take(&name(directory, &text)) {
                    Some(Ok(body)) if body.len() == 32 => {
                        let said: Vec<u64> = body
                            .chunks(8)
                            .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
                            .collect();
                        let now = [
                            said[0],
                            home.name_version(directory, number),
                            home.version(directory),
                            home.version(said[0]),
                        ];
                        assert_eq!(said, now, "seed {seed}");
                        home.give(seed, vec![Brought::Node(said[0])]);
                    }
                    Some(Ok(body)) => {
                        let entry = EntryReply::read_from_bytes(&body).unwrap();
                        let given = (entry.node != 0).then_some(Brought::Node(entry.node));
                        home.give(seed, given.into_iter().collect());
                    }
                    Some(Err(_)) => unreachable!(),
                    None => {}
                },
                6 => {
                    if let Some(Ok(body)) = early.take(&open(node, false)) {
                        let word = |at: usize| u64::from_ne_bytes(body[at..][..8].try_into().unwrap());
                        assert_eq!(word(8), home.version(node), "seed {seed}");
                        assert!(home.open.remove(&word(0)));
                    }
                }
                7 => {
                    let change = match home.random(8) {
                        0 => Change::Everything,
                        1..4 => Change::Name {
                            directory,
                            name: text.as_bytes(),
                        },
                        4 | 5 => Change::Contents { node },
                        _ => Change::Attributes { node: directory },
                    };
                    match change {
                        Change::Everything => {
                            (1..=12).for_each(|node| *home.versions.entry(node).or_default() += 1);
                        }
                        Change::Name { .. } => *home.names.entry((directory, number)).or_default() += 1,
                        Change::Contents { node } | Change::Attributes { node } => {
                            *home.versions.entry(node).or_default() += 1;
                        }
                    }
                    let back = early.changed(&change);
                    home.give(seed, back);
                }
                _ => {
                    let back = match home.random(3) {
                        0 => early.own(node),
                        1 => {
                            early.forgotten(node);
                            early.trim()
                        }
                        _ => early.trim(),
                    };
                    home.give(seed, back);
                }
            }
            let listed: u64 = early.held.values().map(|held| held.bytes() as u64).sum();
            assert_eq!(listed, early.bytes as u64, "seed {seed}");
        }
        let back = early.doubt_all();
        home.give(seed, back);
        assert!(home.open.is_empty(), "seed {seed}");
        assert!(home.counted.values().all(|count| *count == 0), "seed {seed}");
        assert!(early.about.is_empty() && early.numbers.is_empty() && early.bytes == 0);
    }
}
