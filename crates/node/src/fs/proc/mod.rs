//! Driver of what in `/proc` depends on who looks, or where the process computes.
//!
//! `/proc` is home's: other processes' entries, and what says who the machine is. A guest's entry is its deputy's, which says
//! whose child it is, whose files' names these are, and what mounts there are; but what tells of its memory, its threads and
//! its descriptors is the node's kernel's: these names are links into a `/proc` of the world that is mounted in the hidden
//! directory, so that what is behind them (`fd/3`, `exe`) are the kernel's own. `stat` and `status` tell of both, and are made
//! of both ([`merge`]). What says how much CPU and memory there is, init mounts over home's ([`NODE_FACTS`]).

mod merge;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use afield_abi::fuse::{
    Attributes, AttributesReply, EntryReply, Opcode, ROOT_NODE, ReadRequest, RequestHeader,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Driver, Outcome, PROC, Request, data_reply, error_reply, lock};
use crate::door::descriptors::{CurrentCall, current_call};
use crate::session::Shared;
use crate::sys::memory;
use crate::world::HIDDEN_DIRECTORY;
pub use merge::Merged;

/// Files of `/proc` that tell of the node's processors and memory.
pub const NODE_FACTS: [&str; 6] = ["cpuinfo", "meminfo", "stat", "loadavg", "vmstat", "uptime"];

/// Names in a process's directory that are the node's kernel's. The first two are links natively; what `cwd` says, home knows
/// better, though it is the node's to follow.
const NODES: [&str; 32] = [
    "exe",
    "root",
    "cwd",
    "arch_status",
    "auxv",
    "clear_refs",
    "cmdline",
    "comm",
    "coredump_filter",
    "environ",
    "fd",
    "fdinfo",
    "io",
    "map_files",
    "maps",
    "mem",
    "numa_maps",
    "oom_adj",
    "oom_score",
    "oom_score_adj",
    "pagemap",
    "personality",
    "sched",
    "schedstat",
    "smaps",
    "smaps_rollup",
    "stack",
    "statm",
    "syscall",
    "task",
    "timers",
    "wchan",
];

/// How many of them say what the node's kernel says.
const LINKS: usize = 2;

/// The link `self`.
const SELF: u64 = PROC | 1 << 32;
/// The link `thread-self`.
const THREAD_SELF: u64 = PROC | 2 << 32;
/// The first of [`NODES`], of process 0.
const FIRST_NAME: u64 = 3;

/// Largest file that is merged, and most that is asked of home for it.
const MERGED_BYTES_MAX: u32 = 16 << 10;

/// Most directories of guests that are known at a time. Where there are more, the oldest knowledge goes, and these
/// processes look like their deputies.
const KNOWN_MAX: usize = 1 << 16;

/// Most merged files that are remembered while they are open. Where there are more, some are made anew as they are read on.
const TEXTS_MAX: usize = 4096;

/// The driver.
#[derive(Debug, Default)]
pub struct Proc {
    /// Home's node of `/proc`, once it has been looked up.
    root: AtomicU64,
    /// Home's nodes of guests' directories, and of files in them that are merged.
    known: Mutex<HashMap<u64, Known>>,
    /// What was read first of merged files, by home's handle of the open file: the rest is of the same moment.
    texts: Mutex<HashMap<u64, Vec<u8>>>,
}

/// What a node of home's is.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// The directory of a guest.
    Directory(u32),
    /// A file in it.
    File(u32, Merged),
}

/// What a lookup that is passed on to home will find.
#[derive(Debug, Clone, Copy)]
pub struct Sought(Target);

#[derive(Debug, Clone, Copy)]
enum Target {
    Root,
    Known(Known),
}

/// A read of a merged file.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    pid: u32,
    file: Merged,
    /// The process reads its own.
    own: bool,
    offset: u64,
    size: u32,
    /// Home's handle of the open file.
    handle: u64,
}

impl Reading {
    /// Its part of the whole.
    fn part<'a>(&self, whole: &'a [u8]) -> &'a [u8] {
        let start = usize::try_from(self.offset).map_or(whole.len(), |offset| offset.min(whole.len()));
        let end = start.saturating_add(self.size as usize).min(whole.len());
        &whole[start..end]
    }
}

/// How a read goes on.
#[derive(Debug)]
pub enum Read {
    /// Home has to say its half.
    Merge(Reading),
    /// It reads on in what is there.
    Rest(Vec<u8>),
}

/// A link of the driver's, by its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Own,
    OwnThread,
    /// The entry of a thread that is not listed.
    Thread(u32),
    /// One of [`NODES`] of a process.
    Name(usize, u32),
}

impl Link {
    fn node(self) -> u64 {
        match self {
            Self::Own => SELF,
            Self::OwnThread => THREAD_SELF,
            Self::Thread(tid) => PROC | u64::from(tid),
            Self::Name(index, pid) => PROC | (FIRST_NAME + index as u64) << 32 | u64::from(pid),
        }
    }

    fn of(node: u64) -> Option<Self> {
        let number = node as u32;
        match (node & !PROC) >> 32 {
            0 => Some(Self::Thread(number)),
            1 => Some(Self::Own),
            2 => Some(Self::OwnThread),
            index => {
                let index = (index - FIRST_NAME) as usize;
                (index < NODES.len()).then_some(Self::Name(index, number))
            }
        }
    }
}

impl Proc {
    /// What a lookup is for, if its answer matters here.
    pub fn sought(&self, shared: &Shared, request: &Request<'_>) -> Option<Sought> {
        let name = request.name().ok()?;
        let node = request.header.node;
        if node == ROOT_NODE {
            return (name == b"proc").then_some(Sought(Target::Root));
        }
        if node == self.root.load(Ordering::Relaxed) {
            let pid = std::str::from_utf8(name).ok()?.parse().ok()?;
            let is_guest = shared.guests.process(pid) == Some(true);
            return is_guest.then_some(Sought(Target::Known(Known::Directory(pid))));
        }
        let pid = self.process_of(shared, node)?;
        let file = Merged::named(name)?;
        Some(Sought(Target::Known(Known::File(pid, file))))
    }

    /// Home has found it.
    pub fn found(&self, sought: Sought, node: u64) {
        match sought.0 {
            Target::Root => self.root.store(node, Ordering::Relaxed),
            Target::Known(what) => {
                let mut known = lock(&self.known);
                if known.len() >= KNOWN_MAX {
                    known.clear();
                }
                known.insert(node, what);
            }
        }
    }

    /// Nodes of home's have been forgotten.
    pub fn forget(&self, nodes: impl Iterator<Item = u64>) {
        let mut known = lock(&self.known);
        if !known.is_empty() {
            nodes.for_each(|node| {
                known.remove(&node);
            });
        }
    }

    /// The guest whose directory a node is.
    fn process_of(&self, shared: &Shared, node: u64) -> Option<u32> {
        match lock(&self.known).get(&node) {
            Some(&Known::Directory(pid)) => (shared.guests.process(pid) == Some(true)).then_some(pid),
            _ => None,
        }
    }

    /// An open file has been closed.
    pub fn released(&self, handle: u64) {
        lock(&self.texts).remove(&handle);
    }

    /// Has a read of a merged file ask home for all of it; `None` for other files.
    pub fn reads(&self, shared: &Shared, request: &mut Request<'_>) -> Option<Read> {
        let (pid, file) = match lock(&self.known).get(&request.header.node) {
            Some(&Known::File(pid, file)) => (pid, file),
            _ => return None,
        };
        if shared.guests.process(pid) != Some(true) {
            return None;
        }
        let reader = request.header.pid;
        let body = request.bytes.get_mut(size_of::<RequestHeader>()..)?;
        let (read, _) = ReadRequest::mut_from_prefix(body).ok()?;
        let reading = Reading {
            pid,
            file,
            own: shared
                .guests
                .find_inner(reader)
                .is_some_and(|(_, own)| own == pid),
            offset: read.offset,
            size: read.size,
            handle: read.handle,
        };
        if reading.offset > 0
            && let Some(text) = lock(&self.texts).get(&reading.handle)
        {
            return Some(Read::Rest(reading.part(text).to_vec()));
        }
        read.offset = 0;
        read.size = MERGED_BYTES_MAX;
        Some(Read::Merge(reading))
    }

    /// True if a lookup is for a name that the driver has.
    pub fn wants(&self, shared: &Shared, request: &Request<'_>) -> bool {
        self.link_of(shared, request).is_some()
    }

    /// The link that a name is.
    fn link_of(&self, shared: &Shared, request: &Request<'_>) -> Option<Link> {
        let root = self.root.load(Ordering::Relaxed);
        let node = request.header.node;
        let name = request.name().ok()?;
        if root == 0 {
            return None;
        }
        if node == root {
            return match name {
                b"self" => Some(Link::Own),
                b"thread-self" => Some(Link::OwnThread),
                name => {
                    // Threads have entries as well, though none is listed.
                    let inner = std::str::from_utf8(name).ok()?.parse().ok()?;
                    if shared.guests.process(inner).is_some() {
                        return None;
                    }
                    let (_, own) = shared.guests.find_inner(request.header.pid)?;
                    let (_, owner) = shared.guests.find_inner(inner)?;
                    (owner == own).then_some(Link::Thread(inner))
                }
            };
        }
        let pid = self.process_of(shared, node)?;
        let index = NODES.iter().position(|known| known.as_bytes() == name)?;
        Some(Link::Name(index, pid))
    }
}

/// What the guest reads of a merged file, of which home says `text`.
pub fn merged(shared: &Shared, reading: Reading, text: &[u8]) -> Vec<u8> {
    let leader = {
        let register = shared.guests.lock();
        register.process(reading.pid).map(|process| process.leader)
    };
    let whole = match leader.and_then(|leader| reading.file.merge(leader, reading.own, text)) {
        Some(merged) => merged,
        None => text.to_vec(),
    };
    let part = reading.part(&whole).to_vec();
    let mut texts = lock(&shared.files.proc.texts);
    if texts.len() >= TEXTS_MAX {
        texts.clear();
    }
    texts.insert(reading.handle, whole);
    part
}

fn attributes(node: u64) -> Attributes {
    Attributes {
        inode: node,
        mode: libc::S_IFLNK | 0o777,
        links: 1,
        block_size: 1024,
        ..Attributes::default()
    }
}

impl Driver for Proc {
    fn request(&self, shared: &Arc<Shared>, request: Request<'_>) -> Result<Outcome, i32> {
        let header = &request.header;
        let (unique, node) = (header.unique, header.node);
        let reply = match request.opcode {
            Opcode::Lookup => {
                let link = self.link_of(shared, &request).ok_or(libc::ENOENT)?;
                if let Link::Name(name, _) = link
                    && let Some((tid, _)) = shared.guests.find_inner(header.pid)
                    && let Some(path) = path_not_followed(tid, name < LINKS)
                {
                    let request = (request.opcode, request.header, request.bytes.to_vec());
                    look_up_unfollowed(shared, request, link.node(), NODES[name], (tid, path));
                    return Ok(Outcome::Later);
                }
                entry(unique, link.node())
            }
            Opcode::GetAttributes => {
                let reply = AttributesReply {
                    attributes: attributes(node),
                    ..AttributesReply::default()
                };
                data_reply(unique, &[reply.as_bytes()])
            }
            Opcode::ReadLink => return read_link(shared, unique, node, header.pid),
            Opcode::Access => error_reply(unique, 0),
            Opcode::GetExtended | Opcode::SetExtended | Opcode::ListExtended | Opcode::RemoveExtended => {
                return Err(libc::EOPNOTSUPP);
            }
            _ => return Err(libc::EPERM),
        };
        Ok(Outcome::Reply(reply))
    }
}

fn entry(unique: u64, node: u64) -> Vec<u8> {
    let entry = EntryReply {
        node,
        attributes: attributes(node),
        ..EntryReply::default()
    };
    data_reply(unique, &[entry.as_bytes()])
}

/// Where the path is of a call that does not follow a link at its end; what a call reads that `is_link` natively, the driver
/// says.
fn path_not_followed(tid: i32, is_link: bool) -> Option<u64> {
    let CurrentCall { number, arguments } = current_call(tid)?;
    let keeps = |flags: u64| flags & libc::AT_SYMLINK_NOFOLLOW as u64 != 0;
    match number as i64 {
        libc::SYS_readlink if !is_link => Some(arguments[0]),
        libc::SYS_readlinkat if !is_link => Some(arguments[1]),
        libc::SYS_lstat | libc::SYS_lgetxattr | libc::SYS_llistxattr => Some(arguments[0]),
        libc::SYS_newfstatat if keeps(arguments[3]) => Some(arguments[1]),
        libc::SYS_statx if keeps(arguments[2]) => Some(arguments[1]),
        _ => None,
    }
}

/// Looks up a name in a guest's directory for a call that does not follow a link: if the name is the path's last, the call
/// sees what home has there, which is of the right kind.
fn look_up_unfollowed(
    shared: &Arc<Shared>,
    (opcode, header, mut bytes): (Opcode, RequestHeader, Vec<u8>),
    node: u64,
    name: &'static str,
    (tid, path): (i32, u64),
) {
    let door = Arc::clone(shared);
    shared.with_memory(Box::new(move |_| {
        let path = memory::read_string(tid, path, libc::PATH_MAX as usize).unwrap_or_default();
        let is_last = path.rsplit(|byte| *byte == b'/').next() == Some(name.as_bytes());
        let reply = match is_last {
            false => entry(header.unique, node),
            true => {
                let request = Request {
                    opcode,
                    header,
                    bytes: &mut bytes,
                    data: None,
                };
                match door.files.home.request(&door, request) {
                    Ok(Outcome::Reply(reply)) => reply,
                    Ok(Outcome::Later | Outcome::Instead(_) | Outcome::Promised { .. }) => return,
                    Err(errno) => error_reply(header.unique, errno),
                }
            }
        };
        door.files.reply(&reply);
    }));
}

/// A link that is followed leads where the driver wants it; one that is read by name says what it says natively.
fn read_link(shared: &Arc<Shared>, unique: u64, node: u64, inner: u32) -> Result<Outcome, i32> {
    let (tid, own) = shared.guests.find_inner(inner).ok_or(libc::ENOENT)?;
    let hidden = format!("/{HIDDEN_DIRECTORY}/{}", super::handles::HIDDEN_PROC);
    let (name, pid, followed) = match Link::of(node).ok_or(libc::ENOENT)? {
        Link::Own => return Ok(answer(unique, &format!("{own}"))),
        Link::OwnThread => return Ok(answer(unique, &format!("{own}/task/{inner}"))),
        Link::Thread(thread) => return Ok(answer(unique, &format!("{hidden}/{thread}"))),
        Link::Name(index, pid) => (index, pid, format!("{hidden}/{pid}/{}", NODES[index])),
    };
    let path = match current_call(tid) {
        Some(CurrentCall { number, arguments }) => match number as i64 {
            libc::SYS_readlink => Some(arguments[0]),
            libc::SYS_readlinkat => Some(arguments[1]),
            _ => None,
        },
        None => None,
    };
    let Some(address) = path else {
        return Ok(answer(unique, &followed));
    };
    shared.with_memory(Box::new(move |shared| {
        let path = memory::read_string(tid, address, libc::PATH_MAX as usize).unwrap_or_default();
        let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let reply = if last != NODES[name].as_bytes() {
            data_reply(unique, &[followed.as_bytes()])
        } else {
            match shown(shared, pid, NODES[name]) {
                Ok(target) => data_reply(unique, &[&target]),
                Err(error) => error_reply(unique, crate::sys::errno(&error)),
            }
        };
        shared.files.reply(&reply);
    }));
    Ok(Outcome::Later)
}

fn answer(unique: u64, target: &str) -> Outcome {
    Outcome::Reply(data_reply(unique, &[target.as_bytes()]))
}

/// What one of the links of a process says.
fn shown(shared: &Shared, pid: u32, name: &str) -> std::io::Result<Vec<u8>> {
    use std::os::unix::ffi::OsStringExt;
    let leader = {
        let register = shared.guests.lock();
        register.process(pid).map(|process| process.leader)
    };
    let leader = leader.ok_or_else(|| std::io::Error::from_raw_os_error(libc::ESRCH))?;
    let target = std::fs::read_link(format!("/proc/{leader}/{name}"))?;
    Ok(target.into_os_string().into_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_name_their_links() {
        let links = [
            Link::Own,
            Link::OwnThread,
            Link::Thread(4_194_304),
            Link::Name(0, 1),
            Link::Name(NODES.len() - 1, 4_194_304),
        ];
        for link in links {
            assert_eq!(Link::of(link.node()), Some(link));
        }
        assert_eq!(Link::of(PROC | 1000 << 32 | 1), None);
    }
}
