//! The hidden directory itself, in which the objects are files.

use afield_abi::fuse::{Attributes, AttributesReply, EntryReply, Opcode, OpenReply};
use zerocopy::IntoBytes;

use super::{HIDDEN_PROC, HIDDEN_ROOTS};
use crate::fs::{HANDLE, HIDDEN, INIT, Outcome, Request, data_reply, error_reply};
use crate::session::Shared;

const HIDDEN_PROC_NODE: u64 = HIDDEN | 1;
const HIDDEN_ROOTS_NODE: u64 = HIDDEN | 2;

/// Entries can be reached by those who know them, and are listed to nobody.
pub(super) fn directory(node: u64) -> Attributes {
    Attributes {
        inode: node,
        mode: libc::S_IFDIR | 0o711,
        links: 2,
        block_size: 4096,
        ..Attributes::default()
    }
}

/// The hidden directory's entry in the root.
pub fn hidden_entry(unique: u64) -> Vec<u8> {
    directory_entry(unique, HIDDEN)
}

pub(super) fn directory_entry(unique: u64, node: u64) -> Vec<u8> {
    let entry = EntryReply {
        node,
        attributes: directory(node),
        ..EntryReply::default()
    };
    data_reply(unique, &[entry.as_bytes()])
}

/// The hidden directory, and in it those on which init mounts the world's own `/proc` and the roots of connections.
pub(super) fn hidden(shared: &Shared, request: &Request<'_>) -> Result<Outcome, i32> {
    let Request { opcode, header, .. } = request;
    let reply = match opcode {
        Opcode::GetAttributes => {
            let reply = AttributesReply {
                attributes: directory(header.node),
                ..AttributesReply::default()
            };
            data_reply(header.unique, &[reply.as_bytes()])
        }
        Opcode::Lookup if header.node == HIDDEN => {
            let name = request.name()?;
            if name == HIDDEN_PROC.as_bytes() {
                directory_entry(header.unique, HIDDEN_PROC_NODE)
            } else if name == HIDDEN_ROOTS.as_bytes() {
                directory_entry(header.unique, HIDDEN_ROOTS_NODE)
            } else {
                let handle: u64 = std::str::from_utf8(name)
                    .ok()
                    .and_then(|name| name.parse().ok())
                    .ok_or(libc::ENOENT)?;
                // Only a thread of init's making is not a guest yet. Others have their descriptors already.
                let stranger = shared.guests.process(header.pid).is_none_or(|executed| !executed);
                if shared.files.handles.get(handle).is_none() || !stranger {
                    return Err(libc::ENOENT);
                }
                let node = HANDLE | handle;
                let entry = EntryReply {
                    node,
                    attributes: shared.files.handles.stand_in(node),
                    ..EntryReply::default()
                };
                data_reply(header.unique, &[entry.as_bytes()])
            }
        }
        Opcode::Access => error_reply(header.unique, 0),
        // Init needs a file of the mount to have what was stored into mapped files written out.
        Opcode::OpenDirectory if header.pid == INIT && header.node == HIDDEN => {
            data_reply(header.unique, &[OpenReply::default().as_bytes()])
        }
        _ => return Err(libc::EACCES),
    };
    Ok(Outcome::Reply(reply))
}
