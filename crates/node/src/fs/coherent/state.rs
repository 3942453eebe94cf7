//! What is known, in one place: what home has said, and since when guests have changed something of it.

use std::collections::HashMap;
use std::time::Instant;

use afield_abi::fuse::{ATTRIBUTES_SETTLED, Attributes, EntryReply, Opcode, OpenReply, open_reply_flag};
use afield_link::aftermath::{After, PLAIN};
use afield_link::invalidation::FOREVER_SECONDS;
use zerocopy::{FromBytes, IntoBytes};

use super::answers::{Answers, Question};
use super::attributes::Settled;
use super::drafts::Drafts;
use super::early::{self, Brought, Early};
use super::kept::Kept;
use super::means::Means;
use super::opens::Opens;
use super::touched::Touched;

/// Most bytes of links that are remembered.
pub(super) const LINKS_BYTES_MAX: usize = 8 << 20;

/// Most nodes of which it is remembered when guests changed them.
pub(super) const CHANGED_MAX: usize = 1 << 14;

/// Where what a program may do is kept, for which the kernel asks before it writes to a file.
pub(super) const CAPABILITIES: &[u8] = b"security.capability";

/// A request that home has been asked.
#[derive(Debug)]
pub(super) struct Sent {
    /// The asking thread, as the world knows it.
    pub(super) inner: u32,
    pub(super) opcode: Opcode,
    pub(super) node: u64,
    pub(super) means: Means,
    /// What it changes.
    pub(super) touched: Touched,
    /// How many changes had been asked for or made.
    pub(super) changes: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) kept: Kept,
    pub(super) opens: Opens,
    pub(super) answers: Answers,
    pub(super) early: Early,
    pub(super) settled: Settled,
    pub(super) drafts: Drafts,
    /// Changes that guests have asked for, and those that home has made.
    pub(super) changes: u64,
    /// The last of them, by node; of all others it was before `changed_before`.
    pub(super) changed: HashMap<u64, u64>,
    pub(super) changed_before: u64,
    /// Targets of links, by node, and the sum of their lengths.
    pub(super) links: HashMap<u64, Box<[u8]>>,
    pub(super) links_bytes: usize,
    pub(super) sent: HashMap<u64, Sent>,
    /// Requests that wait until home has opened a file, by the session's number of that: for locks, and what was promised.
    pub(super) waiting: HashMap<u64, Vec<(Opcode, Vec<u8>)>>,
}

impl State {
    /// A guest changes something: when home is asked to, and when it has answered.
    pub(super) fn touch(&mut self, touched: &Touched) -> Vec<Brought> {
        if !touched.is_something() {
            return Vec::new();
        }
        self.changes += 1;
        for node in touched.nodes() {
            self.changed.insert(node, self.changes);
            if !touched.writes(node) {
                self.drafts.forget(node);
            }
        }
        if touched.is_all() {
            self.drafts.forget_all();
        }
        if touched.is_all() || self.changed.len() > CHANGED_MAX {
            self.changed.clear();
            self.changed_before = self.changes;
        }
        touched.doubt(&mut self.early, &mut self.settled)
    }

    /// Whether no guest has changed a node, nor has home done it for one, since a request that was made at this number of changes.
    pub(super) fn is_fresh(&self, node: u64, changes: u64) -> bool {
        let last = self.changed.get(&node).copied().unwrap_or(self.changed_before);
        last <= changes
    }

    /// Home has said what a node is, to a request that was made at this number of changes.
    pub(super) fn learn(&mut self, node: u64, attributes: &mut Attributes, lasting: bool, changes: u64) {
        // What guests change meanwhile home tells others, and it may have looked before.
        let lasting = lasting && self.is_fresh(node, changes);
        self.settled.learn(node, attributes, lasting, Instant::now());
        attributes.flags &= !ATTRIBUTES_SETTLED;
    }

    /// Home has said what a change has left of a node, and that it says when that changes.
    pub(super) fn learn_after(&mut self, after: &After) {
        if !self.kept.is_known(after.node) {
            return;
        }
        self.settled
            .learn_after(after.node, &after.attributes, Instant::now());
        self.kept.looked_at(after.node, true);
        if after.flags & PLAIN != 0 {
            let asked = self.answers.now();
            let question = Question::Extended(CAPABILITIES.into());
            self.answers.learn(after.node, question, libc::ENODATA, asked);
        }
    }

    /// Home has opened a file; `reply` says how. If there is nothing in it, what guests write to it is all that there is, as long as home says that its
    /// contents may be kept. `fresh`: what the file is, as home has just seen it.
    pub(super) fn begin_draft(&mut self, node: u64, reply: &[u8], fresh: &[&After]) {
        let Ok((open, _)) = OpenReply::read_from_prefix(reply) else {
            return;
        };
        if open.open_flags & open_reply_flag::KEEP_CACHE == 0 {
            self.drafts.forget(node);
        } else if fresh.iter().any(|after| {
            let Attributes { mode, size, .. } = after.attributes;
            after.node == node && mode & libc::S_IFMT == libc::S_IFREG && size == 0
        }) {
            self.drafts.begin(node);
        }
    }

    /// A guest has removed a name, and home says when there is one again.
    pub(super) fn is_gone(&mut self, directory: u64, name: Box<[u8]>) {
        let nothing = EntryReply {
            entry_valid: FOREVER_SECONDS,
            ..EntryReply::default()
        };
        let question = early::Question::Name(directory, name);
        let answer = Ok(nothing.as_bytes().to_vec());
        // It takes the place of no other: the name was in doubt.
        let _ = self.early.hold(question, answer, Brought::Nothing);
    }

    pub(super) fn forget_link(&mut self, node: u64) {
        if let Some(target) = self.links.remove(&node) {
            self.links_bytes -= target.len();
        }
    }
}
