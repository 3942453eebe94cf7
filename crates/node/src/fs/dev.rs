//! FIFOs and devices in home's tree.
//!
//! The node's kernel would open them itself. So a lookup for `open` finds a regular file in their place, whose opening the
//! deputy does; all other calls see what they are. The session knows which call looks by asking the kernel what the
//! waiting thread is in. Such names are never cached.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use afield_abi::fuse::EntryReply;
use tracing::debug;

use super::{SPECIAL, lock};
use crate::door::descriptors::current_call;
use crate::session::Shared;

/// Special files on their way to be opened, or open: each `open` has a node of its own, as it has a description of its
/// own at home.
#[derive(Debug, Default)]
pub struct Special {
    nodes: Mutex<Nodes>,
}

#[derive(Debug, Default)]
struct Nodes {
    last: u64,
    known: HashMap<u64, Opened>,
}

#[derive(Debug, Clone, Copy)]
struct Opened {
    /// Home's node of the file.
    node: u64,
    /// What the deputy has opened it as.
    handle: Option<u64>,
}

impl Special {
    fn add(&self, node: u64) -> u64 {
        let mut nodes = lock(&self.nodes);
        nodes.last += 1;
        let own = SPECIAL | nodes.last;
        nodes.known.insert(own, Opened { node, handle: None });
        own
    }

    /// Home's node of the file.
    pub fn node(&self, own: u64) -> Option<u64> {
        lock(&self.nodes).known.get(&own).map(|opened| opened.node)
    }

    /// What the deputy has opened it as.
    pub fn handle(&self, own: u64) -> Option<u64> {
        lock(&self.nodes).known.get(&own)?.handle
    }

    /// The deputy has opened it.
    pub fn opened(&self, own: u64, handle: u64) {
        if let Some(opened) = lock(&self.nodes).known.get_mut(&own) {
            opened.handle = Some(handle);
        }
    }

    /// The node's kernel has forgotten it. Gives home's node.
    pub fn forget(&self, own: u64) -> Option<u64> {
        lock(&self.nodes).known.remove(&own).map(|opened| opened.node)
    }
}

/// True for file types that the kernel opens without asking the file system.
pub fn is_special(mode: u32) -> bool {
    matches!(mode & libc::S_IFMT, libc::S_IFIFO | libc::S_IFCHR | libc::S_IFBLK)
}

/// Makes a lookup's reply what the caller's system call needs.
pub fn present(shared: &Arc<Shared>, inner: u32, entry: &mut EntryReply) {
    entry.entry_valid = 0;
    entry.entry_valid_nanoseconds = 0;
    entry.attributes_valid = 0;
    entry.attributes_valid_nanoseconds = 0;
    let call = shared
        .guests
        .find_inner(inner)
        .and_then(|(tid, _)| current_call(tid));
    let opens = call.is_some_and(|call| {
        let flags = match call.number as i64 {
            libc::SYS_open => call.arguments[1],
            libc::SYS_openat => call.arguments[2],
            libc::SYS_creat => 0,
            // Its flags are in memory that this thread must not touch; O_PATH is rare.
            libc::SYS_openat2 => 0,
            _ => return false,
        };
        flags & libc::O_PATH as u64 == 0
    });
    if opens {
        debug!("node {} is opened at home", entry.node);
        entry.node = shared.files.special.add(entry.node);
        entry.attributes.mode = libc::S_IFREG | entry.attributes.mode & 0o7777;
        entry.attributes.inode = entry.node;
        entry.attributes.size = 0;
    }
}
