//! What a request of a guest changes, as far as that puts in doubt what home has answered early: pure.

use afield_abi::fuse::{CopyRangeRequest, LinkRequest, Opcode, OpenRequest, WriteRequest, write_flag};

use super::Means;
use super::attributes::Settled;
use super::early::{Brought, Early};
use super::kept::Kept;
use crate::fs::Request;

/// What is changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Names, with their directories.
    names: Vec<(u64, Box<[u8]>)>,
    /// Attributes of these.
    nodes: Vec<u64>,
    /// Contents of these, perhaps without waiting for home.
    own: Vec<u64>,
    /// A file's contents, up to this place.
    written: Option<(u64, u64)>,
    /// It is not known what.
    all: bool,
}

impl Touched {
    /// By a request that means this.
    pub(super) fn by(request: &Request<'_>, means: &Means, kept: &Kept) -> Self {
        let node = request.header.node;
        let mut touched = Self::default();
        match (request.opcode, means) {
            (
                Opcode::SetAttributes
                | Opcode::SetExtended
                | Opcode::RemoveExtended
                | Opcode::Allocate
                | Opcode::Ioctl,
                _,
            ) => touched.own.push(node),
            (Opcode::Write, _) => {
                touched.own.push(node);
                if let Ok(write) = request.record::<WriteRequest>()
                    && write.flags & libc::O_APPEND as u32 == 0
                    // Home cuts off what is beyond the end.
                    && write.write_flags & write_flag::CACHE == 0
                    && let Some(end) = write.offset.checked_add(u64::from(write.size))
                {
                    touched.written = Some((node, end));
                }
            }
            (Opcode::CopyRange | Opcode::CopyRange64, _) => match request.record::<CopyRangeRequest>() {
                Ok(record) => touched.own.push(record.node_out),
                Err(_) => touched.all = true,
            },
            (Opcode::Open, _) => {
                let flags = request
                    .record::<OpenRequest>()
                    .map_or(u32::MAX, |open| open.flags);
                if flags & (libc::O_ACCMODE | libc::O_TRUNC) as u32 != libc::O_RDONLY as u32 {
                    touched.own.push(node);
                }
            }
            (
                Opcode::Create
                | Opcode::MakeNode
                | Opcode::MakeDirectory
                | Opcode::SymbolicLink
                | Opcode::Link,
                Means::Entry(Some(name)),
            ) => {
                touched.name(node, name, kept, false);
                if let (Opcode::Link, Ok(LinkRequest { old_node })) = (request.opcode, request.record()) {
                    touched.nodes.push(old_node);
                }
            }
            (Opcode::Unlink | Opcode::RemoveDirectory, Means::Removed(name)) => {
                touched.name(node, name, kept, true);
            }
            (Opcode::Rename | Opcode::Rename2, Means::Moved { old, to, new, .. }) => {
                touched.name(node, old, kept, true);
                touched.name(*to, new, kept, true);
            }
            (opcode, _) if opcode.changes_names() => touched.all = true,
            _ => {}
        }
        touched
    }

    /// A name; with `changes` what it means is changed as well.
    fn name(&mut self, directory: u64, name: &[u8], kept: &Kept, changes: bool) {
        self.names.push((directory, name.into()));
        match kept.meaning(directory, name) {
            Some(0) => {}
            Some(node) => self.nodes.push(node),
            None => self.all |= changes,
        }
    }

    /// Whether it is anything.
    pub fn is_something(&self) -> bool {
        *self != Self::default()
    }

    /// All whose attributes are not as they were, as far as that is known.
    pub fn nodes(&self) -> impl Iterator<Item = u64> {
        let directories = self.names.iter().map(|(directory, _)| directory);
        directories.chain(&self.nodes).chain(&self.own).copied()
    }

    /// Whether it is only written to, at a place that is known.
    pub fn writes(&self, node: u64) -> bool {
        self.written.is_some_and(|(written, _)| written == node)
    }

    /// Whether anything may be changed.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// Puts it in doubt: before home is asked, and when it has answered.
    pub fn doubt(&self, early: &mut Early, settled: &mut Settled) -> Vec<Brought> {
        for node in self.nodes() {
            match self.written {
                Some((written, end)) if written == node => settled.written(node, end),
                _ => settled.forget(node),
            }
        }
        if self.all {
            settled.forget_all();
            return early.doubt_all();
        }
        let mut back = Vec::new();
        for (directory, name) in &self.names {
            back.extend(early.doubt_name(*directory, name));
        }
        for node in &self.nodes {
            back.extend(early.doubt(*node));
        }
        for node in &self.own {
            back.extend(early.own(*node));
        }
        back
    }
}
