//! What programs have asked of home's files when nodes knew nothing: pure bookkeeping.
//!
//! A trace is an order of questions by path. It says nothing about what the answers are: those are found anew each time. So it need not be
//! right, only likely.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Programs that are remembered; the one that was executed longest ago goes.
const PROGRAMS_MAX: usize = 256;

/// Questions of one program. What comes later is not remembered.
const ASKS_MAX: usize = 4096;

/// Bytes of all names together.
const BYTES_MAX: usize = 16 << 20;

/// A program, by the path at which it was opened to be executed.
pub type Program = Arc<[u8]>;

/// What is asked of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum What {
    /// What its last name is, perhaps nothing.
    Name,
    /// Where the link leads to.
    Link,
    /// To open it for reading.
    Open {
        /// In order to execute it.
        executes: bool,
    },
    /// To open the directory's listing.
    Listing,
    /// Whether it may be read or executed.
    Access(u32),
    /// An extended attribute that was not there.
    Extended(Box<[u8]>),
    /// Pieces of its contents: the first, and the one after the last.
    Pieces(u32, u32),
    /// Which names there are in a directory. Nobody asks that: it is what questions about names were answered with.
    Names,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// Absolute; no name in it but the last is a link's.
    pub path: Box<[u8]>,
    /// What.
    pub what: What,
}

impl Ask {
    fn bytes(&self) -> usize {
        let more = match &self.what {
            What::Extended(name) => name.len(),
            _ => 0,
        };
        // Twice: it is in an order and in a set.
        2 * (size_of::<Self>() + self.path.len() + more)
    }
}

#[derive(Debug, Default)]
struct Trace {
    order: Vec<Arc<Ask>>,
    known: HashSet<Arc<Ask>>,
    bytes: usize,
    used: u64,
}

/// The traces of all programs.
#[derive(Debug, Default)]
pub struct Traces {
    of: HashMap<Program, Trace>,
    bytes: usize,
    /// Advances with each program that is executed.
    now: u64,
    /// How many questions have been added.
    pub additions: u64,
}

impl Traces {
    /// What a program has asked, in that order; nothing if it is not known.
    pub fn of(&mut self, program: &[u8]) -> Vec<Arc<Ask>> {
        self.now += 1;
        let Some(trace) = self.of.get_mut(program) else {
            return Vec::new();
        };
        trace.used = self.now;
        trace.order.clone()
    }

    /// All programs, by when they were executed, the last one last.
    pub fn all(&self) -> Vec<(Box<[u8]>, Vec<Ask>)> {
        let mut programs: Vec<_> = self.of.iter().collect();
        programs.sort_by_key(|(_, trace)| trace.used);
        let asks = |trace: &Trace| trace.order.iter().map(|ask| Ask::clone(ask)).collect();
        let programs = programs.into_iter();
        programs
            .map(|(program, trace)| ((**program).into(), asks(trace)))
            .collect()
    }

    /// A program has asked something.
    pub fn add(&mut self, program: &Program, ask: Ask) {
        let bytes = ask.bytes();
        let trace = match self.of.get_mut(program) {
            Some(trace) => trace,
            None => {
                self.make_room(PROGRAMS_MAX - 1, BYTES_MAX, program);
                let trace = self.of.entry(Arc::clone(program)).or_default();
                trace.used = self.now;
                trace
            }
        };
        if trace.order.len() >= ASKS_MAX || trace.known.contains(&ask) {
            return;
        }
        let ask = Arc::new(ask);
        trace.order.push(Arc::clone(&ask));
        trace.known.insert(ask);
        trace.bytes += bytes;
        self.bytes += bytes;
        self.additions += 1;
        self.make_room(PROGRAMS_MAX, BYTES_MAX, program);
    }

    /// A question has no answer that is worth anything any more.
    pub fn remove(&mut self, program: &[u8], asks: &HashSet<Arc<Ask>>) {
        let Some(trace) = self.of.get_mut(program) else {
            return;
        };
        trace.order.retain(|ask| !asks.contains(ask));
        let gone: usize = asks
            .iter()
            .filter(|ask| trace.known.remove(*ask))
            .map(|ask| ask.bytes())
            .sum();
        trace.bytes -= gone;
        self.bytes -= gone;
    }

    fn make_room(&mut self, programs: usize, bytes: usize, spared: &Program) {
        while self.of.len() > programs || self.bytes > bytes {
            let others = self.of.iter().filter(|(program, _)| *program != spared);
            let Some(oldest) = others.min_by_key(|(_, trace)| trace.used) else {
                return;
            };
            let oldest = Arc::clone(oldest.0);
            self.bytes -= self.of.remove(&oldest).map_or(0, |trace| trace.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &str) -> Ask {
        Ask {
            path: path.as_bytes().into(),
            what: What::Name,
        }
    }

    fn program(name: &str) -> Program {
        name.as_bytes().into()
    }

    #[test]
    fn questions_are_remembered_once_and_in_order() {
        let mut traces = Traces::default();
        assert!(traces.of(b"/p").is_empty());
        for path in ["/b", "/a", "/b"] {
            traces.add(&program("/p"), name(path));
        }
        let asked = traces.of(b"/p");
        let paths: Vec<_> = asked.iter().map(|ask| &*ask.path).collect();
        assert_eq!(paths, [b"/b", b"/a"]);
        traces.remove(b"/p", &asked[..1].iter().cloned().collect());
        assert_eq!(traces.of(b"/p").len(), 1);
        traces.add(&program("/p"), name("/b"));
        assert_eq!(*traces.of(b"/p")[1], name("/b"));
    }

    #[test]
    fn traces_are_bounded() {
        let mut traces = Traces::default();
        for number in 0..ASKS_MAX + 5 {
            traces.add(&program("/p"), name(&format!("/{number}")));
        }
        assert_eq!(traces.of(b"/p").len(), ASKS_MAX);
        for number in 0..PROGRAMS_MAX + 5 {
            let program = program(&format!("/p{number}"));
            traces.of(&program);
            traces.add(&program, name("/x"));
            traces.of(&program);
        }
        assert_eq!(traces.of.len(), PROGRAMS_MAX);
        // The first goes first.
        assert!(traces.of(b"/p").is_empty());
        let long = "x".repeat(4000);
        for number in 0..20_000 {
            traces.add(
                &program(&format!("/q{}", number % 40)),
                name(&format!("/{number}{long}")),
            );
        }
        assert!(traces.bytes <= BYTES_MAX);
        let sum: usize = traces.of.values().map(|trace| trace.bytes).sum();
        assert_eq!(sum, traces.bytes);
    }
}
