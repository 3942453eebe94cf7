//! FIFOs and devices in home's tree.
//!
//! The node's kernel would open them itself. So a lookup for `open` finds a regular file in their place, whose opening the
//! deputy does; all other calls see what they are. The session knows which call looks by asking the kernel what the
//! waiting thread is in. Such names are never cached.

use std::sync::Arc;

use afield_abi::fuse::EntryReply;
use tracing::debug;

use super::SPECIAL;
use crate::door::descriptors::current_call;
use crate::session::Shared;

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
        entry.node |= SPECIAL;
        entry.attributes.mode = libc::S_IFREG | entry.attributes.mode & 0o7777;
        entry.attributes.inode = entry.node;
        entry.attributes.size = 0;
    }
}
