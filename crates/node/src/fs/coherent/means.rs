//! What a request means for what is kept, and what its reply tells the kernel to keep.

use afield_abi::fuse::{
    ATTRIBUTES_SETTLED, Attributes, CreateRequest, DirectoryEntryPlus, EntryReply, LinkRequest,
    MakeDirectoryRequest, MakeNodeRequest, Opcode, Rename2Request, RenameRequest, SetAttributesRequest,
    SetExtendedRequest, entry_bytes, set_flag,
};
use zerocopy::{FromBytes, IntoBytes};

use super::answers::{Asked, Question};
use super::kept::{Contents, Kept};
use super::opens::Way;
use crate::fs::{OWN, Request, dev};

/// What the reply to a request means for what is kept.
#[derive(Debug)]
pub(super) enum Means {
    Nothing,
    /// A node has this name (if it is given).
    Entry(Option<Box<[u8]>>),
    /// It has it no more.
    Removed(Box<[u8]>),
    Moved {
        old: Box<[u8]>,
        to: u64,
        new: Box<[u8]>,
        exchanged: bool,
    },
    Link,
    Listing,
    Attributes,
    Statx,
    Opened(Contents),
    /// Somebody may now do other things with the node.
    Rights,
    /// It is the answer to this.
    Answer(Question, Asked),
    /// Home has closed something.
    Closed,
    /// An open file may rest at home, or not.
    Rested(u64),
    /// An open file for locks on this one.
    Own(u64, Way),
}

pub(super) fn means(request: &Request<'_>) -> Means {
    let after = |record: usize| {
        let name = request
            .body()
            .get(record..)
            .and_then(|rest| rest.strip_suffix(&[0]));
        Means::Entry(name.map(Into::into))
    };
    let moved = |record: usize, to: u64, exchanged: bool| {
        let mut names = request
            .body()
            .get(record..)
            .unwrap_or_default()
            .split(|byte| *byte == 0);
        match (names.next(), names.next()) {
            (Some(old), Some(new)) => Means::Moved {
                old: old.into(),
                to,
                new: new.into(),
                exchanged,
            },
            _ => Means::Nothing,
        }
    };
    match request.opcode {
        Opcode::Lookup => after(0),
        Opcode::MakeNode => after(size_of::<MakeNodeRequest>()),
        Opcode::MakeDirectory => after(size_of::<MakeDirectoryRequest>()),
        Opcode::Link => after(size_of::<LinkRequest>()),
        Opcode::Create => after(size_of::<CreateRequest>()),
        Opcode::SymbolicLink => {
            let name = request.body().split(|byte| *byte == 0).next();
            Means::Entry(name.map(Into::into))
        }
        Opcode::TemporaryFile => Means::Entry(None),
        Opcode::Unlink | Opcode::RemoveDirectory => match request.name() {
            Ok(name) => Means::Removed(name.into()),
            Err(_) => Means::Nothing,
        },
        Opcode::Rename => match request.record::<RenameRequest>() {
            Ok(record) => moved(size_of::<RenameRequest>(), record.new_directory, false),
            Err(_) => Means::Nothing,
        },
        Opcode::Rename2 => match request.record::<Rename2Request>() {
            Ok(record) => moved(
                size_of::<Rename2Request>(),
                record.new_directory,
                record.flags & libc::RENAME_EXCHANGE != 0,
            ),
            Err(_) => Means::Nothing,
        },
        Opcode::ReadLink => Means::Link,
        Opcode::ReadDirectoryPlus => Means::Listing,
        Opcode::GetAttributes => Means::Attributes,
        Opcode::Statx => Means::Statx,
        Opcode::Open => Means::Opened(Contents::Pages),
        Opcode::OpenDirectory => Means::Opened(Contents::Listing),
        Opcode::SetAttributes => {
            let rights = set_flag::MODE | set_flag::UID | set_flag::GID;
            match request.record::<SetAttributesRequest>() {
                Ok(record) if record.valid & rights != 0 => Means::Rights,
                _ => Means::Attributes,
            }
        }
        Opcode::SetExtended | Opcode::RemoveExtended => {
            let record = match request.opcode {
                Opcode::SetExtended => size_of::<SetExtendedRequest>(),
                _ => 0,
            };
            let name = request.body().get(record..).unwrap_or_default();
            match name.starts_with(b"system.") {
                true => Means::Rights,
                false => Means::Nothing,
            }
        }
        _ => Means::Nothing,
    }
}

/// The kernel gets an entry, on which it is not to rely where it is `passing`.
pub(super) fn note_entry(
    kept: &mut Kept,
    directory: u64,
    name: Option<&[u8]>,
    entry: &mut EntryReply,
    passing: bool,
) {
    if entry.node & OWN != 0 {
        return;
    }
    let Attributes { mode, .. } = entry.attributes;
    entry.attributes.flags &= !ATTRIBUTES_SETTLED;
    // The kernel would open these by itself.
    let special = entry.node != 0 && dev::is_special(mode);
    if passing || special {
        (entry.entry_valid, entry.entry_valid_nanoseconds) = (0, 0);
        (entry.attributes_valid, entry.attributes_valid_nanoseconds) = (0, 0);
    }
    if entry.node != 0 {
        kept.count(entry.node, Some(directory), entry.attributes_valid > 0);
    }
    let named = name.filter(|name| !matches!(*name, b"." | b".."));
    if (entry.entry_valid, entry.entry_valid_nanoseconds) != (0, 0)
        && !named.is_some_and(|name| kept.rely(directory, name, entry.node))
    {
        (entry.entry_valid, entry.entry_valid_nanoseconds) = (0, 0);
    }
}

pub(super) fn note_listing(
    kept: &mut Kept,
    (directory, connection): (u64, usize),
    body: &mut [u8],
    passing: bool,
) {
    let mut rest = body;
    while let Ok((mut record, after)) = DirectoryEntryPlus::read_from_prefix(rest) {
        let length = record.directory.name_length as usize;
        let Some(name) = after.get(..length) else { return };
        // Without a node it says nothing but the name.
        if record.entry.node != 0 {
            note_entry(kept, directory, Some(name), &mut record.entry, passing);
            kept.reach(record.entry.node, connection);
            rest[..size_of::<DirectoryEntryPlus>()].copy_from_slice(record.as_bytes());
        }
        let Some(after) = rest.get_mut(entry_bytes(size_of::<DirectoryEntryPlus>(), length)..) else {
            return;
        };
        rest = after;
    }
}
