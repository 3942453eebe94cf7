//! What the node's kernel is told: `FUSE_NOTIFY_*`.
//!
//! `FUSE_NOTIFY_INC_EPOCH` is not used: it would have the kernel give up names that the world's mounts are on.

use afield_abi::fuse::{EXPIRE_ONLY, Notification, NotifyInvalidateEntry, NotifyInvalidateNode, ReplyHeader};
use std::os::fd::BorrowedFd;

use tracing::debug;
use zerocopy::IntoBytes;

use super::kept::Notice;

/// A name that no lookup is for: to be told of it, the kernel waits for all lookups in its directory.
const ANY_NAME: &[u8] = b"\x7f";

/// The node's kernel, by a device of one of the world's FUSE connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel<'a>(pub BorrowedFd<'a>);

impl Kernel<'_> {
    /// Tells the kernel of something that it may know. False if it does not.
    fn notify(&self, what: Notification, parts: &[&[u8]]) -> bool {
        let length = parts.iter().map(|part| part.len()).sum::<usize>() + size_of::<ReplyHeader>();
        let mut message = Vec::with_capacity(length);
        let header = ReplyHeader {
            length: length as u32,
            error: what as i32,
            unique: 0,
        };
        message.extend_from_slice(header.as_bytes());
        parts.iter().for_each(|part| message.extend_from_slice(part));
        match rustix::io::retry_on_intr(|| rustix::io::write(self.0, &message)) {
            Ok(_) => true,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => false,
            Err(error) => {
                debug!("telling the kernel {what:?}: {error}");
                false
            }
        }
    }

    fn invalidate_node(&self, node: u64, offset: i64) -> bool {
        let record = NotifyInvalidateNode {
            node,
            offset,
            length: 0,
        };
        self.notify(Notification::InvalidateNode, &[record.as_bytes()])
    }

    fn invalidate_entry(&self, parent: u64, name: &[u8], flags: u32) {
        let record = NotifyInvalidateEntry {
            parent,
            name_length: name.len() as u32,
            flags,
        };
        self.notify(Notification::InvalidateEntry, &[record.as_bytes(), name, &[0]]);
    }

    /// Waits until whatever looks up or lists names in a directory has done so.
    fn wait_for_lookups(&self, directory: u64) {
        self.invalidate_entry(directory, ANY_NAME, EXPIRE_ONLY);
    }

    /// Tells the kernel, if that is possible without waiting for anybody.
    pub(super) fn tell_now(&self, notice: &Notice) -> bool {
        match notice {
            // One that is not there may be about to be: its directory's lock will tell.
            Notice::Attributes { node, places } => self.invalidate_node(*node, -1) || places.is_empty(),
            _ => false,
        }
    }

    /// Tells the kernel. It may have to wait for requests, whose replies must go on being delivered.
    pub(super) fn tell(&self, notice: &Notice) {
        let (node, places, offset) = match notice {
            Notice::Name { directory, name } => return self.invalidate_entry(*directory, name, 0),
            Notice::Anchor { directory, name } => {
                return self.invalidate_entry(*directory, name, EXPIRE_ONLY);
            }
            Notice::Attributes { node, places } => (*node, places, -1),
            Notice::Contents { node, places } => (*node, places, 0),
            Notice::Listing { node, places } => {
                self.wait_for_lookups(*node);
                (*node, places, 0)
            }
        };
        if self.invalidate_node(node, offset) {
            return;
        }
        for place in places {
            self.wait_for_lookups(*place);
        }
        self.invalidate_node(node, offset);
    }
}
