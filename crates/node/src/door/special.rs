//! FIFOs and devices in home's tree.
//!
//! The node's kernel would open them itself. So a lookup for `open` finds a regular file in their place, whose opening the
//! deputy does; all other calls see what they are. The session knows which call looks by asking the kernel what the
//! waiting thread is in. Such names are never cached.

use std::sync::Arc;

use afield_abi::fuse::{BatchForgetRequest, EntryReply, ForgetOne, ForgetRequest, Opcode, RequestHeader};
use tracing::debug;
use zerocopy::{FromBytes, IntoBytes};

use super::descriptors::current_call;
use super::files::{HANDLE, HIDDEN, SPECIAL, send_to_home};
use crate::session::Shared;

/// True for file types that the kernel opens without asking the file system.
pub fn is_special(mode: u32) -> bool {
    matches!(mode & libc::S_IFMT, libc::S_IFIFO | libc::S_IFCHR | libc::S_IFBLK)
}

/// Makes a lookup's reply what the caller's system call needs.
pub fn present(shared: &Arc<Shared>, inner: u32, directory: u64, entry: &mut EntryReply) {
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
        debug!("node {} in {directory} is opened at home", entry.node);
        entry.node |= SPECIAL;
        entry.attributes.mode = libc::S_IFREG | entry.attributes.mode & 0o7777;
        entry.attributes.inode = entry.node;
        entry.attributes.size = 0;
    }
}

/// The node of home that a lookup count belongs to; `None` if home does not count it.
fn home_node(node: u64) -> Option<u64> {
    (node & (HANDLE | HIDDEN) == 0).then_some(node & !SPECIAL)
}

/// Lookups of a node of ours are forgotten.
pub fn forget(shared: &Shared, node: u64, body: &[u8]) {
    if let (Some(node), Ok((request, _))) = (home_node(node), ForgetRequest::read_from_prefix(body)) {
        send_forgets(
            shared,
            &[ForgetOne {
                node,
                lookups: request.lookups,
            }],
        );
    }
}

/// Lookups of many nodes are forgotten.
pub fn forget_many(shared: &Shared, header: &RequestHeader, body: &[u8]) {
    let Ok((batch, mut rest)) = BatchForgetRequest::read_from_prefix(body) else {
        return;
    };
    debug!("{} forgets from {}", batch.count, header.pid);
    let mut forgets = Vec::new();
    while let Ok((one, after)) = ForgetOne::read_from_prefix(rest) {
        rest = after;
        if let Some(node) = home_node(one.node) {
            forgets.push(ForgetOne {
                node,
                lookups: one.lookups,
            });
        }
    }
    send_forgets(shared, &forgets);
}

fn send_forgets(shared: &Shared, forgets: &[ForgetOne]) {
    if forgets.is_empty() {
        return;
    }
    let batch = BatchForgetRequest {
        count: forgets.len() as u32,
        padding: 0,
    };
    let header = RequestHeader {
        length: (size_of::<RequestHeader>() + size_of::<BatchForgetRequest>() + size_of_val(forgets)) as u32,
        opcode: Opcode::BatchForget as u32,
        ..RequestHeader::default()
    };
    if let Err(error) = send_to_home(shared, &[header.as_bytes(), batch.as_bytes(), forgets.as_bytes()]) {
        debug!("forgetting: {error}");
    }
}
