//! Answers as they are put together: each is executed as a request, and what can be relied on is kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use afield_abi::fuse::{
    AccessRequest, DirectoryEntry, DirectoryEntryPlus, EntryReply, GetExtendedRequest, OPEN_FOR_EXECUTION,
    Opcode, OpenReply, OpenRequest, ROOT_NODE, ReadRequest, ReplyHeader, RequestHeader, entry_bytes,
    open_reply_flag,
};
use afield_link::contents::WHOLE_BYTES_MAX;
use afield_link::early::{self, Item, Question};
use rustix::fs::OFlags;
use zerocopy::{FromBytes, IntoBytes};

use super::traces::{Ask, What};
use super::{Answers, DEPTH_MAX, Generosity, PATH_BYTES_MAX};
use crate::files::{FileService, Outcome};

/// Most time for the answers of one program: whoever has it executed waits for them.
const TIME_MAX: Duration = Duration::from_millis(250);

/// Entries of a directory that are told with attributes; of one with more, the names are.
const ATTRIBUTES_MAX: usize = 192;

/// Most bytes of a listing.
const LISTING_BYTES_MAX: usize = 64 << 10;

/// Links that are followed one after the other, and links of a directory whose targets are told.
const LINKS_MAX: usize = 16;

/// Answers as they are put together.
pub(super) struct Round<'a> {
    files: &'a FileService,
    pub(super) answers: Answers,
    pub(super) count: usize,
    pub(super) bytes: usize,
    until: Instant,
    /// Nodes by their paths; `None` where there is none.
    known: HashMap<Box<[u8]>, Option<u64>>,
    /// The program itself, if it is being executed.
    pub(super) program: Option<u64>,
    /// Those that the session's node did not know before.
    fresh: HashSet<u64>,
    /// What needs no answer any more.
    pub(super) useless: HashSet<Arc<Ask>>,
    reply: Vec<u8>,
}

impl<'a> Round<'a> {
    /// `None` if it is no good moment.
    pub(super) fn new(files: &'a FileService) -> Option<Self> {
        files.session.as_ref()?;
        Some(Self {
            answers: Answers::new(files)?,
            files,
            count: 0,
            bytes: 0,
            until: Instant::now() + TIME_MAX,
            known: HashMap::new(),
            program: None,
            fresh: HashSet::new(),
            useless: HashSet::new(),
            reply: Vec::new(),
        })
    }

    pub(super) fn is_over(&self) -> bool {
        let Generosity {
            answers_max,
            bytes_max,
        } = self.files.early.generosity;
        self.count >= answers_max || self.bytes >= bytes_max || Instant::now() > self.until
    }

    /// What can be sent.
    pub(super) fn cut(&mut self) -> Answers {
        // Changes that have begun meanwhile are told behind it; those that follow it are not its concern.
        let next = Answers::begin(self.files);
        std::mem::replace(&mut self.answers, next)
    }

    fn push(&mut self, nodes: [u64; 2], item: &Item<'_>) {
        let before = self.answers.payload.len();
        early::append(&mut self.answers.payload, item);
        self.bytes += self.answers.payload.len() - before;
        self.count += 1;
        self.answers.nodes.extend(nodes.iter().filter(|node| **node != 0));
    }

    /// Executes a request in the service's own name: an errno, or the body of its reply.
    fn execute(&mut self, opcode: Opcode, node: u64, parts: [&[u8]; 3]) -> Result<Vec<u8>, i32> {
        let (uid, gid) = self.files.credentials.own();
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let header = RequestHeader {
            length: (size_of::<RequestHeader>() + length) as u32,
            opcode: opcode as u32,
            unique: 1,
            node,
            uid,
            gid,
            ..RequestHeader::default()
        };
        let request = [header.as_bytes(), parts[0], parts[1], parts[2]].concat();
        self.reply.clear();
        let outcome = self.files.handle(&request, &mut self.reply);
        match (outcome, ReplyHeader::read_from_prefix(&self.reply[..])) {
            (Outcome::Reply, Ok((header, body))) if header.error == 0 => Ok(body.to_vec()),
            (_, Ok((header, _))) if header.error != 0 => Err(header.error.saturating_neg()),
            _ => Err(libc::EIO),
        }
    }

    /// The node at a path, which is answered to be there, or not to be.
    pub(super) fn node(&mut self, path: &[u8], depth: usize) -> Option<u64> {
        if path == b"/" {
            return Some(ROOT_NODE);
        }
        if let Some(known) = self.known.get(path) {
            return *known;
        }
        if depth == 0 || !path.starts_with(b"/") {
            return None;
        }
        let directory = parent(path);
        let name = &path[directory.len()..];
        let directory = self.node(directory, depth - 1)?;
        let found = self.look_up(directory, name.strip_prefix(b"/").unwrap_or(name));
        self.known.insert(path.into(), found);
        found
    }

    fn look_up(&mut self, directory: u64, name: &[u8]) -> Option<u64> {
        if self.files.may_hang(name) || self.files.starts.differs(directory) {
            return None;
        }
        let body = self.execute(Opcode::Lookup, directory, [name, &[0], &[]]).ok()?;
        let (entry, _) = EntryReply::read_from_prefix(&body).ok()?;
        let nothing = entry.node == 0;
        if entry.entry_valid == 0 || !nothing && entry.attributes_valid == 0 {
            if !nothing {
                self.files.forget_node(entry.node, 1);
            }
            return None;
        }
        if !nothing && self.files.is_known_again(entry.node) {
            // So it is known there, too.
            self.files.forget_node(entry.node, 1);
            return Some(entry.node);
        }
        let question = Question::Name { directory, name };
        let result = Ok(&body[..]);
        self.push([directory, entry.node], &Item::Answer { question, result });
        self.fresh.insert(entry.node);
        (!nothing).then_some(entry.node)
    }

    pub(super) fn answer(&mut self, ask: &Arc<Ask>) {
        let found = self.node(&ask.path, DEPTH_MAX);
        let Some(node) = found else {
            if ask.what != What::Name {
                self.useless.insert(Arc::clone(ask));
            }
            return;
        };
        match &ask.what {
            What::Name => {}
            What::Link => {
                let directory = self.node(parent(&ask.path), DEPTH_MAX);
                if !directory.is_some_and(|directory| self.follow(directory, node)) {
                    self.useless.insert(Arc::clone(ask));
                }
            }
            // Who knows a directory knows its names, or does without.
            What::Names if !self.fresh.contains(&node) => {}
            What::Names => self.list(node),
            What::Access(mask) => {
                let record = AccessRequest {
                    mask: *mask,
                    ..AccessRequest::default()
                };
                let result = self.execute(Opcode::Access, node, [record.as_bytes(), &[], &[]]);
                if matches!(result, Ok(_) | Err(libc::EACCES)) {
                    let question = Question::Access { node, mask: *mask };
                    let result = result.as_deref().map_err(|errno| *errno);
                    self.push([node, 0], &Item::Answer { question, result });
                }
            }
            What::Extended(name) => {
                let record = GetExtendedRequest::default();
                let result = self.execute(Opcode::GetExtended, node, [record.as_bytes(), name, &[0]]);
                if let Err(errno @ (libc::ENODATA | libc::EOPNOTSUPP)) = result {
                    let question = Question::Extended { node, name };
                    let result = Err(errno);
                    self.push([node, 0], &Item::Answer { question, result });
                }
            }
            What::Open { executes } => self.open(node, Opcode::Open, *executes),
            What::Listing => {
                self.list(node);
                self.open(node, Opcode::OpenDirectory, false);
            }
            What::Pieces(first, end) => {
                let (first, end) = (*first, *end);
                self.push([node, 0], &Item::Pieces { node, first, end });
            }
        }
    }

    /// Where a link leads, if reading it changes nothing. Its target.
    fn read_link(&mut self, node: u64) -> Option<Vec<u8>> {
        let known = self.files.nodes.get(node).ok()?;
        if !self.files.is_settled_by_reading(&known) {
            return None;
        }
        let target = self.execute(Opcode::ReadLink, node, [&[]; 3]).ok()?;
        let question = Question::Link { node };
        let result = Ok(&target[..]);
        self.push([node, 0], &Item::Answer { question, result });
        Some(target)
    }

    /// Where a link in a directory leads, and all names on the way. False if that cannot be said.
    pub(super) fn follow(&mut self, mut directory: u64, mut link: u64) -> bool {
        for hop in 0..=LINKS_MAX {
            let Some(target) = self.read_link(link) else {
                return hop > 0;
            };
            let start = self.files.path_of(directory);
            let path = start.and_then(|start| joined(&start, &target));
            let Some(path) = path else { break };
            let Some(node) = self
                .node(&path, DEPTH_MAX)
                .filter(|node| self.files.is_link(*node))
            else {
                break;
            };
            let Some(next) = self.node(parent(&path), DEPTH_MAX) else {
                break;
            };
            (directory, link) = (next, node);
        }
        true
    }

    /// All names in a directory, if they can be relied on: with what they are if there are not many.
    pub(super) fn list(&mut self, node: u64) {
        let files = self.files;
        let Ok(known) = files.nodes.get(node) else { return };
        let way = files.nodes.descriptor(&known, &files.credentials);
        if !known.is_directory()
            || files.starts.differs(node)
            || !way.is_ok_and(|way| files.names_hold(&known, &way))
        {
            return;
        }
        // Nobody has asked for the listing yet, so its time of access is not to tell of it.
        let quietly = OpenRequest {
            flags: OFlags::NOATIME.bits(),
            ..OpenRequest::default()
        };
        let mut opened = self.execute(Opcode::OpenDirectory, node, [quietly.as_bytes(), &[], &[]]);
        if let Err(libc::EPERM) = opened
            && files.is_settled_by_reading(&known)
        {
            let record = OpenRequest::default();
            opened = self.execute(Opcode::OpenDirectory, node, [record.as_bytes(), &[], &[]]);
        }
        let Ok(body) = opened else { return };
        let Ok((open, _)) = OpenReply::read_from_prefix(&body) else {
            return;
        };
        if open.open_flags & open_reply_flag::KEEP_CACHE != 0
            && let Ok(listing) = files.open_listing(open.handle, node)
        {
            listing.unasked.store(true, Ordering::Relaxed);
            self.list_open(node, open.handle);
        }
        files.close_early(open.handle);
    }

    fn list_open(&mut self, node: u64, handle: u64) {
        let Some((names, count)) = self.entries(Opcode::ReadDirectory, node, handle) else {
            return;
        };
        let mut entries = names;
        let full = count <= ATTRIBUTES_MAX;
        if full {
            match self.entries(Opcode::ReadDirectoryPlus, node, handle) {
                Some((plus, _)) => entries = plus,
                None => return,
            }
        }
        let entries = &entries[..];
        self.push([node, 0], &Item::Listing { node, full, entries });
        if full {
            let mut rest = entries;
            let mut links = 0;
            while let Ok((record, _)) = DirectoryEntryPlus::read_from_prefix(rest) {
                let node = record.entry.node;
                self.answers.nodes.extend((node != 0).then_some(node));
                if links < LINKS_MAX && self.files.is_link(node) {
                    links += 1;
                    self.read_link(node);
                }
                let bytes = entry_bytes(
                    size_of::<DirectoryEntryPlus>(),
                    record.directory.name_length as usize,
                );
                rest = rest.get(bytes..).unwrap_or_default();
            }
        }
    }

    /// All entries of an open directory, and how many; `None` if there are too many. What cannot be relied on is a name only.
    fn entries(&mut self, opcode: Opcode, node: u64, handle: u64) -> Option<(Vec<u8>, usize)> {
        let plus = opcode == Opcode::ReadDirectoryPlus;
        let (mut entries, mut count, mut offset) = (Vec::new(), 0, 0);
        loop {
            let record = ReadRequest {
                handle,
                offset,
                size: LISTING_BYTES_MAX as u32,
                ..ReadRequest::default()
            };
            let mut body = self.execute(opcode, node, [record.as_bytes(), &[], &[]]).ok();
            let is_last = body.as_ref().is_some_and(Vec::is_empty);
            let mut at = 0;
            while let Some(body) = &mut body
                && at < body.len()
            {
                let head = match plus {
                    true => size_of::<DirectoryEntryPlus>(),
                    false => size_of::<DirectoryEntry>(),
                };
                let directory_at = at + head - size_of::<DirectoryEntry>();
                let Ok((directory, _)) = DirectoryEntry::read_from_prefix(&body[directory_at..]) else {
                    break;
                };
                if plus && let Ok((entry, _)) = EntryReply::mut_from_prefix(&mut body[at..]) {
                    let lasts = entry.entry_valid != 0 && entry.attributes_valid != 0;
                    if entry.node != 0 && !lasts {
                        self.files.forget_node(entry.node, 1);
                        *entry = EntryReply::default();
                    }
                }
                offset = directory.offset;
                at += entry_bytes(head, directory.name_length as usize);
                count += 1;
            }
            entries.extend_from_slice(body.as_deref().unwrap_or_default());
            if is_last {
                return Some((entries, count));
            }
            if body.is_none() || entries.len() > LISTING_BYTES_MAX {
                if plus {
                    self.forget_entries(&entries);
                }
                return None;
            }
        }
    }

    /// Takes lookups back that nobody is told of.
    fn forget_entries(&self, mut rest: &[u8]) {
        while let Ok((record, _)) = DirectoryEntryPlus::read_from_prefix(rest) {
            if record.entry.node != 0 {
                self.files.forget_node(record.entry.node, 1);
            }
            let bytes = entry_bytes(
                size_of::<DirectoryEntryPlus>(),
                record.directory.name_length as usize,
            );
            rest = rest.get(bytes..).unwrap_or_default();
        }
    }

    fn open(&mut self, node: u64, opcode: Opcode, executes: bool) {
        // Who has it open there has it opened for the next one as well. The program itself is only being opened; with this its contents
        // are under way before it is.
        let is_open = self.files.nodes.get(node).is_ok_and(|node| node.is_open());
        if is_open && !(executes && Some(node) == self.program) {
            return;
        }
        if opcode == Opcode::Open {
            // That it takes a while once is no reason to say less.
            let begun = Instant::now();
            self.files.hash_needed(node);
            self.until += begun.elapsed();
        }
        let flags = match executes {
            true => OPEN_FOR_EXECUTION,
            false => 0,
        };
        let record = OpenRequest { flags, open_flags: 0 };
        let Ok(body) = self.execute(opcode, node, [record.as_bytes(), &[], &[]]) else {
            return;
        };
        let Ok((open, told)) = OpenReply::read_from_prefix(&body) else {
            return;
        };
        let kept = open_reply_flag::KEEP_CACHE | open_reply_flag::DIRECT_IO;
        if open.open_flags & kept != open_reply_flag::KEEP_CACHE {
            self.files.close_early(open.handle);
            return;
        }
        // The hashes of a small file say nothing yet of what is in it.
        let is_whole = told.len() > WHOLE_BYTES_MAX || told.is_empty();
        let question = Question::Open {
            node,
            executes,
            directory: opcode == Opcode::OpenDirectory,
        };
        let result = Ok(&body[..]);
        self.push([node, 0], &Item::Answer { question, result });
        if opcode == Opcode::Open && !is_whole {
            let (first, end) = (0, 1);
            self.push([node, 0], &Item::Pieces { node, first, end });
        }
    }
}

/// The directory that an absolute path is in.
fn parent(path: &[u8]) -> &[u8] {
    let at = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..at.max(1)]
}

/// Where a link leads that is in a directory with this path, on which there is no link. `None` where that cannot be said so.
fn joined(directory: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    let mut path = match target.first()? {
        b'/' => Vec::new(),
        _ => directory.strip_suffix(b"/").unwrap_or(directory).to_vec(),
    };
    let mut is_plain = true;
    for name in target.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            // What is above something else may be somewhere else.
            b".." if !is_plain || target[0] == b'/' => return None,
            b".." => path.truncate(path.iter().rposition(|byte| *byte == b'/').unwrap_or(0)),
            name => {
                is_plain = false;
                path.push(b'/');
                path.extend_from_slice(name);
            }
        }
    }
    match path.len() {
        0 => Some(b"/".to_vec()),
        1..PATH_BYTES_MAX => Some(path),
        _ => None,
    }
}

/// Pieces that follow each other, as one question.
pub(super) fn together(ask: &Ask, next: &Ask) -> Option<Ask> {
    match (&ask.what, &next.what) {
        (What::Pieces(first, end), What::Pieces(begin, until)) if end == begin && ask.path == next.path => {
            Some(Ask {
                path: ask.path.clone(),
                what: What::Pieces(*first, *until),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn links_lead_where_they_lead() {
        let joined = |directory: &str, target: &str| {
            let path = joined(directory.as_bytes(), target.as_bytes());
            path.map(|path| String::from_utf8(path).unwrap())
        };
        let leads = |directory, target, path: &str| {
            assert_eq!(joined(directory, target).as_deref(), Some(path), "{target}");
        };
        leads("/usr/bin", "python3.11", "/usr/bin/python3.11");
        leads("/usr/bin", "/etc/alternatives/cc", "/etc/alternatives/cc");
        leads("/usr/share/a", "../../lib/./b/", "/usr/lib/b");
        leads("/", "usr/bin", "/usr/bin");
        leads("/", "../bin", "/bin");
        leads("/a", "..", "/");
        assert_eq!(joined("/a", "b/../c"), None);
        assert_eq!(joined("/a", "/b/../c"), None);
        assert_eq!(joined("/a", ""), None);
        assert_eq!(joined("/a", &"b/".repeat(4000)), None);
    }
}
