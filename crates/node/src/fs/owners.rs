//! Owners of files in a world that does not know all of home's users and groups.
//!
//! The node's kernel refuses to write to files whose owner it cannot name, long before it would ask home. So where the world maps one user
//! and one group, every file is shown as the home user's own, and the true owners are kept here, by inode number, for the correction of
//! what `stat` says. Where it maps many, those that it does not are shown as nobody.

use std::collections::HashMap;
use std::sync::Mutex;

use afield_abi::fuse::{
    Attributes, AttributesReply, DirectoryEntryPlus, EntryReply, Opcode, StatxReply, entry_bytes,
};
use zerocopy::{FromBytes, IntoBytes};

use super::lock;

/// The user and the group that are nobody.
const NOBODY: u32 = 65534;

/// A user and a group.
pub type Owner = (u32, u32);

/// The owners.
#[derive(Debug)]
pub struct Owners {
    /// The home user, whom the world knows.
    shown: Owner,
    /// It knows these as well: all below. What is shown is not corrected then.
    below: Option<u32>,
    /// True owners, of files that are shown as another's.
    truth: Mutex<HashMap<u64, Owner>>,
}

impl Owners {
    /// No files yet. The world knows the home user, and all ids below `below` if that is given.
    pub fn new(shown: Owner, below: Option<u32>) -> Self {
        Self {
            shown,
            below,
            truth: Mutex::default(),
        }
    }

    /// The true owner of a file that is shown with this inode number.
    pub fn of(&self, inode: u64) -> Option<Owner> {
        lock(&self.truth).get(&inode).copied()
    }

    /// Whether the world knows these ids; -1 stands for no change.
    pub fn are_known(&self, (uid, gid): Owner) -> bool {
        let is_known =
            |id: u32, own: u32| id == u32::MAX || id == own || self.below.is_some_and(|below| id < below);
        is_known(uid, self.shown.0) && is_known(gid, self.shown.1)
    }

    fn hide(&self, inode: u64, owner: Owner) -> Owner {
        if let Some(below) = self.below {
            let or_nobody = |id: u32, own: u32| match id {
                _ if id < below || id == own => id,
                _ if NOBODY < below => NOBODY,
                _ => own,
            };
            return (or_nobody(owner.0, self.shown.0), or_nobody(owner.1, self.shown.1));
        }
        let mut truth = lock(&self.truth);
        if owner == self.shown {
            truth.remove(&inode);
        } else {
            truth.insert(inode, owner);
        }
        self.shown
    }

    /// Hides the owners that attributes show.
    pub fn hide_in(&self, attributes: &mut Attributes) {
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
        let owners = Owners::new((1000, 100), None);
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
    fn who_is_not_known_is_nobody() {
        let owners = Owners::new((100_000, 100), Some(65536));
        for (owner, shown) in [
            ((0, 5), (0, 5)),
            ((100_000, 65535), (100_000, 65535)),
            ((100_001, 1 << 31), (65534, 65534)),
        ] {
            assert_eq!(owners.hide(7, owner), shown);
            assert_eq!(owners.are_known(owner), owner == shown);
        }
        assert_eq!(owners.of(7), None);
        assert_eq!(Owners::new((9, 8), Some(5000)).hide(7, (1 << 20, 6000)), (9, 8));
    }

    #[test]
    fn listings_of_any_length_are_survived() {
        let owners = Owners::new((1, 1), None);
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
