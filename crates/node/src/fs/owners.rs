//! Owners of files in a world that maps one user and one group.
//!
//! The node's kernel refuses to write to files whose owner it cannot name, long before it would ask home. So every file is shown
//! as the home user's own, and the true owners are kept here, by inode number, for the correction of what `stat` says.

use std::collections::HashMap;
use std::sync::Mutex;

use afield_abi::fuse::{
    Attributes, AttributesReply, DirectoryEntryPlus, EntryReply, Opcode, StatxReply, entry_bytes,
};
use zerocopy::{FromBytes, IntoBytes};

use super::lock;

/// A user and a group.
pub type Owner = (u32, u32);

/// The owners.
#[derive(Debug)]
pub struct Owners {
    /// The home user, whom the world knows.
    shown: Owner,
    /// True owners, of files that are shown as another's.
    truth: Mutex<HashMap<u64, Owner>>,
}

impl Owners {
    /// No files yet.
    pub fn new(shown: Owner) -> Self {
        Self {
            shown,
            truth: Mutex::default(),
        }
    }

    /// The true owner of a file that is shown with this inode number.
    pub fn of(&self, inode: u64) -> Option<Owner> {
        lock(&self.truth).get(&inode).copied()
    }

    /// Whether the world knows these ids; -1 stands for no change.
    pub fn are_known(&self, (uid, gid): Owner) -> bool {
        (uid == u32::MAX || uid == self.shown.0) && (gid == u32::MAX || gid == self.shown.1)
    }

    fn hide(&self, inode: u64, owner: Owner) -> Owner {
        let mut truth = lock(&self.truth);
        if owner == self.shown {
            truth.remove(&inode);
        } else {
            truth.insert(inode, owner);
        }
        self.shown
    }

    fn hide_in(&self, attributes: &mut Attributes) {
        (attributes.uid, attributes.gid) = self.hide(attributes.inode, (attributes.uid, attributes.gid));
    }

    /// True for requests whose replies show owners.
    pub fn concern(opcode: Opcode) -> bool {
        matches!(
            opcode,
            Opcode::Lookup
                | Opcode::GetAttributes
                | Opcode::SetAttributes
                | Opcode::Statx
                | Opcode::Create
                | Opcode::TemporaryFile
                | Opcode::MakeNode
                | Opcode::MakeDirectory
                | Opcode::SymbolicLink
                | Opcode::Link
                | Opcode::ReadDirectoryPlus
        )
    }

    /// Hides the owners that a reply's body shows. A body that is too short is left for the kernel to refuse.
    pub fn hide_in_reply(&self, opcode: Opcode, body: &mut [u8]) {
        match opcode {
            Opcode::GetAttributes | Opcode::SetAttributes => {
                if let Ok((reply, _)) = AttributesReply::mut_from_prefix(body) {
                    self.hide_in(&mut reply.attributes);
                }
            }
            Opcode::Statx => {
                if let Ok((reply, _)) = StatxReply::mut_from_prefix(body) {
                    let statx = &mut reply.statx;
                    (statx.uid, statx.gid) = self.hide(statx.inode, (statx.uid, statx.gid));
                }
            }
            Opcode::ReadDirectoryPlus => {
                let mut rest = body;
                while let Ok((mut record, _)) = DirectoryEntryPlus::read_from_prefix(rest) {
                    // Without a node the attributes mean nothing.
                    if record.entry.node != 0 {
                        self.hide_in(&mut record.entry.attributes);
                        rest[..size_of::<DirectoryEntryPlus>()].copy_from_slice(record.as_bytes());
                    }
                    let length = entry_bytes(
                        size_of::<DirectoryEntryPlus>(),
                        record.directory.name_length as usize,
                    );
                    let Some(after) = rest.get_mut(length..) else {
                        return;
                    };
                    rest = after;
                }
            }
            _ => {
                if let Ok((reply, _)) = EntryReply::mut_from_prefix(body) {
                    self.hide_in(&mut reply.attributes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_hidden_and_remembered() {
        let owners = Owners::new((1000, 100));
        let mut reply = EntryReply::default();
        reply.attributes.inode = 7;
        (reply.attributes.uid, reply.attributes.gid) = (0, 5);
        let mut body = reply.as_bytes().to_vec();
        owners.hide_in_reply(Opcode::Lookup, &mut body);
        let (shown, _) = EntryReply::read_from_prefix(&body).unwrap();
        assert_eq!((shown.attributes.uid, shown.attributes.gid), (1000, 100));
        assert_eq!(owners.of(7), Some((0, 5)));
        assert!(owners.are_known((u32::MAX, 100)));
        assert!(!owners.are_known((0, u32::MAX)));
    }

    #[test]
    fn listings_of_any_length_are_survived() {
        let owners = Owners::new((1, 1));
        let mut body = Vec::new();
        for node in 0..3u64 {
            let mut record = DirectoryEntryPlus::default();
            record.entry.node = node;
            record.entry.attributes.inode = 40 + node;
            record.directory.name_length = 3;
            body.extend_from_slice(record.as_bytes());
            body.extend_from_slice(b"abc\0\0\0\0\0");
        }
        for cut in 0..=body.len() {
            owners.hide_in_reply(Opcode::ReadDirectoryPlus, &mut body[..cut].to_vec());
        }
        owners.hide_in_reply(Opcode::ReadDirectoryPlus, &mut body);
        assert_eq!(owners.of(40), None);
        assert_eq!(owners.of(42), Some((0, 0)));
    }
}
