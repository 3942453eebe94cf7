//! Driver of what in `/proc` depends on who looks.
//!
//! `/proc` is home's: other processes' entries, and what says who the machine is. A guest's own entries are the node's
//! kernel's, from a `/proc` of the world that is mounted in the hidden directory: `self`, `thread-self` and the guest's
//! own id are links into it, so that what is behind (`fd/3`, `exe`) are the kernel's own. Another guest's entry is its
//! deputy's, as any process's: that one is stopped, or a zombie, when the process is. What says how much CPU and
//! memory there is, init mounts over home's ([`NODE_FACTS`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use afield_abi::fuse::{Attributes, AttributesReply, EntryReply, Opcode, ROOT_NODE};
use zerocopy::IntoBytes;

use super::{Driver, Outcome, PROC, Request, data_reply, error_reply};
use crate::door::descriptors::{CurrentCall, current_call};
use crate::session::Shared;
use crate::sys::memory;
use crate::world::HIDDEN_DIRECTORY;

/// Files of `/proc` that tell of the node's processors and memory.
pub const NODE_FACTS: [&str; 6] = ["cpuinfo", "meminfo", "stat", "loadavg", "vmstat", "uptime"];

/// The link `self`.
const SELF: u64 = PROC | 1 << 32;
/// The link `thread-self`.
const THREAD_SELF: u64 = PROC | 2 << 32;

/// The driver.
#[derive(Debug, Default)]
pub struct Proc {
    /// Home's node of `/proc`, once it has been looked up.
    root: AtomicU64,
}

/// True if this looks up `proc` in the root.
pub fn is_root_name(request: &Request<'_>) -> bool {
    request.header.node == ROOT_NODE && request.name() == Ok(b"proc")
}

impl Proc {
    /// Tells which node of home's is `/proc`.
    pub fn set_root(&self, node: u64) {
        self.root.store(node, Ordering::Relaxed);
    }

    /// True if a lookup is for a name that depends on who looks.
    pub fn wants(&self, shared: &Shared, request: &Request<'_>) -> bool {
        let root = self.root.load(Ordering::Relaxed);
        root != 0 && request.header.node == root && node_of(shared, request).is_some()
    }
}

/// The link that a name in `/proc` is.
fn node_of(shared: &Shared, request: &Request<'_>) -> Option<u64> {
    match request.name().ok()? {
        b"self" => Some(SELF),
        b"thread-self" => Some(THREAD_SELF),
        name => {
            let pid: u32 = std::str::from_utf8(name).ok()?.parse().ok()?;
            let (_, own) = shared.guests.find_inner(request.header.pid)?;
            // Threads have entries as well, though none is listed.
            let is_own = pid == own
                || shared
                    .guests
                    .find_inner(pid)
                    .is_some_and(|(_, owner)| owner == own);
            is_own.then_some(PROC | u64::from(pid))
        }
    }
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
                let node = node_of(shared, &request).ok_or(libc::ENOENT)?;
                let entry = EntryReply {
                    node,
                    attributes: attributes(node),
                    ..EntryReply::default()
                };
                data_reply(unique, &[entry.as_bytes()])
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

/// A link read by name says what it says natively; one that is followed leads to the world's own `/proc`.
fn read_link(shared: &Arc<Shared>, unique: u64, node: u64, inner: u32) -> Result<Outcome, i32> {
    let (tid, pid) = shared.guests.find_inner(inner).ok_or(libc::ENOENT)?;
    let (name, target) = match node {
        SELF => ("self", format!("{pid}")),
        THREAD_SELF => ("thread-self", format!("{pid}/task/{inner}")),
        _ => ("", format!("{}", node & !PROC)),
    };
    let followed = format!("/{HIDDEN_DIRECTORY}/{}/{target}", super::handles::HIDDEN_PROC);
    let path = match current_call(tid) {
        Some(CurrentCall { number, arguments }) => match number as i64 {
            libc::SYS_readlink => Some(arguments[0]),
            libc::SYS_readlinkat => Some(arguments[1]),
            _ => None,
        },
        None => None,
    };
    match path {
        Some(address) if !name.is_empty() => {
            shared.with_memory(Box::new(move |shared| {
                let path = memory::read_string(tid, address, libc::PATH_MAX as usize).unwrap_or_default();
                let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                let answer = if last == name.as_bytes() { target } else { followed };
                shared.files.reply(&data_reply(unique, &[answer.as_bytes()]));
            }));
            Ok(Outcome::Later)
        }
        _ => Ok(Outcome::Reply(data_reply(unique, &[followed.as_bytes()]))),
    }
}
