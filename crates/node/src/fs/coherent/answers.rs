//! What home has said of nodes to questions that the kernel does not keep the answers to: whether somebody may read or execute
//! something, and that an extended attribute is not there. A shell asks the former of whatever it may execute, the kernel the latter of
//! whatever it executes.
//!
//! Both follow from what home tells the changes of. Whether something may be written does not: it depends on flags of files, of whose
//! changes the kernel there tells nobody.

use std::collections::HashMap;

use afield_abi::fuse::{AccessRequest, GetExtendedRequest, Opcode};

use crate::fs::Request;

/// Most nodes of which there are answers. With more of them, all are forgotten.
const NODES_MAX: usize = 1 << 14;

/// Most answers of a node.
const ANSWERS_MAX: usize = 8;

/// Longest name of an attribute.
const NAME_BYTES_MAX: usize = 64;

/// What was asked of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Question {
    /// May it be used in this way?
    Access(u32),
    /// Is there an extended attribute of this name?
    Extended(Box<[u8]>),
}

impl Question {
    /// The question that a request is, if it is one of these.
    pub fn of(request: &Request<'_>) -> Option<Self> {
        match request.opcode {
            Opcode::Access => {
                let AccessRequest { mask, .. } = request.record().ok()?;
                (mask & !((libc::R_OK | libc::X_OK) as u32) == 0).then_some(Self::Access(mask))
            }
            Opcode::GetExtended => {
                let name = request.body().get(size_of::<GetExtendedRequest>()..)?;
                let name = name.strip_suffix(&[0])?;
                (name.len() <= NAME_BYTES_MAX).then(|| Self::Extended(name.into()))
            }
            _ => None,
        }
    }

    /// Whether the answer, an errno or zero, is one that holds until home says otherwise.
    pub fn is_settled_by(&self, errno: i32) -> bool {
        match self {
            Self::Access(_) => matches!(errno, 0 | libc::EACCES),
            Self::Extended(_) => matches!(errno, libc::ENODATA | libc::EOPNOTSUPP),
        }
    }
}

/// The answers.
#[derive(Debug, Default)]
pub struct Answers {
    of: HashMap<u64, Vec<(Question, i32)>>,
    changes: u64,
}

/// When a question was put to home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked(u64);

impl Answers {
    /// What home has said: an errno, or zero.
    pub fn get(&self, node: u64, question: &Question) -> Option<i32> {
        let of = self.of.get(&node)?;
        of.iter()
            .find(|(known, _)| known == question)
            .map(|(_, errno)| *errno)
    }

    /// To be asked before a question goes to home.
    pub fn now(&self) -> Asked {
        Asked(self.changes)
    }

    /// Home has answered.
    pub fn learn(&mut self, node: u64, question: Question, errno: i32, asked: Asked) {
        // What guests change meanwhile home tells others, and it may have looked before.
        if asked != self.now() || !question.is_settled_by(errno) {
            return;
        }
        if self.of.len() >= NODES_MAX && !self.of.contains_key(&node) {
            self.of.clear();
        }
        let of = self.of.entry(node).or_default();
        of.retain(|(known, _)| *known != question);
        if of.len() < ANSWERS_MAX {
            of.push((question, errno));
        }
    }

    /// A guest changes something of a node, if that is what this request does: to be told when home is asked to, and when it has.
    pub fn change_by(&mut self, opcode: Opcode, node: u64) {
        match opcode {
            Opcode::SetExtended | Opcode::RemoveExtended => {
                self.of.remove(&node);
            }
            // Whose it is and what its mode is has to do with who may use it; attributes that are not there do not come by it.
            Opcode::SetAttributes => {
                if let Some(of) = self.of.get_mut(&node) {
                    of.retain(|(question, _)| matches!(question, Question::Extended(_)));
                }
            }
            _ => return,
        }
        self.changes += 1;
    }

    /// What home has said of a node does not hold any more.
    pub fn forget(&mut self, node: u64) {
        self.of.remove(&node);
    }

    /// Nothing does.
    pub fn forget_all(&mut self) {
        self.of.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absent(name: &str) -> Question {
        Question::Extended(name.as_bytes().into())
    }

    #[test]
    fn answers_hold_until_a_change() {
        let mut answers = Answers::default();
        let (readable, executable) = (Question::Access(4), Question::Access(1));
        let asked = answers.now();
        answers.learn(7, readable.clone(), 0, asked);
        answers.learn(7, executable.clone(), libc::EACCES, asked);
        answers.learn(7, absent("user.a"), libc::ENODATA, asked);
        answers.learn(8, readable.clone(), 0, asked);
        assert_eq!(answers.get(7, &readable), Some(0));
        assert_eq!(answers.get(7, &executable), Some(libc::EACCES));
        assert_eq!(answers.get(7, &absent("user.a")), Some(libc::ENODATA));
        assert_eq!(answers.get(7, &absent("user.b")), None);
        answers.forget(7);
        assert_eq!(answers.get(7, &readable), None);
        assert_eq!(answers.get(8, &readable), Some(0));
        answers.forget_all();
        assert_eq!(answers.get(8, &readable), None);
    }

    #[test]
    fn what_was_asked_before_a_change_is_not_learned_after_it() {
        let mut answers = Answers::default();
        let asked = answers.now();
        answers.change_by(Opcode::SetAttributes, 9);
        answers.learn(7, Question::Access(4), 0, asked);
        assert_eq!(answers.get(7, &Question::Access(4)), None);
        let asked = answers.now();
        answers.learn(7, Question::Access(4), 0, asked);
        answers.change_by(Opcode::SetExtended, 7);
        assert_eq!(answers.get(7, &Question::Access(4)), None);
    }

    #[test]
    fn what_a_change_has_to_do_with_is_forgotten() {
        let mut answers = Answers::default();
        let asked = answers.now();
        answers.learn(7, Question::Access(4), 0, asked);
        answers.learn(7, absent("user.a"), libc::ENODATA, asked);
        answers.change_by(Opcode::Write, 7);
        assert_eq!(answers.now(), asked);
        answers.change_by(Opcode::SetAttributes, 7);
        assert_eq!(answers.get(7, &Question::Access(4)), None);
        assert_eq!(answers.get(7, &absent("user.a")), Some(libc::ENODATA));
        answers.change_by(Opcode::RemoveExtended, 7);
        assert_eq!(answers.get(7, &absent("user.a")), None);
    }

    #[test]
    fn only_what_lasts_is_learned() {
        let mut answers = Answers::default();
        let asked = answers.now();
        answers.learn(7, Question::Access(4), libc::EIO, asked);
        answers.learn(7, absent("user.a"), 0, asked);
        answers.learn(7, absent("user.a"), libc::ERANGE, asked);
        assert!(answers.of.get(&7).is_none_or(Vec::is_empty));
        for number in 0..20 {
            answers.learn(7, absent(&format!("user.{number}")), libc::ENODATA, asked);
        }
        assert_eq!(answers.of[&7].len(), ANSWERS_MAX);
        for node in 0..=NODES_MAX as u64 {
            answers.learn(node, Question::Access(4), 0, asked);
        }
        assert!(answers.of.len() <= NODES_MAX);
    }
}
