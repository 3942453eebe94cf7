//! What a change has left, behind the reply to it ([`afield_link::aftermath`]).

use std::ffi::CStr;
use std::os::fd::AsFd;

use afield_abi::fuse::{
    CreateRequest, EntryReply, FlushRequest, LinkRequest, Opcode, OpenReply, OpenRequest, Rename2Request,
    RenameRequest, ReplyHeader,
};
use afield_link::aftermath::{After, NAMES, PLAIN};
use rustix::fs::OFlags;
use rustix::io::Errno;
use zerocopy::{FromBytes, IntoBytes};

use super::FileService;
use super::decode::Request;
use super::nodes::{Identity, stat_name};

/// Where what a file may do is kept.
const CAPABILITIES: &str = "security.capability";

impl FileService {
    /// Appends to the reply to a request what that has left, if it was one after which something is not as it was.
    pub(super) fn tell_aftermath(
        &self,
        opcode: Opcode,
        mut request: Request<'_>,
        reply: &mut Vec<u8>,
        start: usize,
    ) {
        if self.coherence().is_none() {
            return;
        }
        let node = request.header.node;
        let body = reply.get(start + size_of::<ReplyHeader>()..).unwrap_or_default();
        let mut after = Vec::new();
        match opcode {
            Opcode::Create => {
                after.extend(self.after_directory(node));
                if let (Ok((entry, rest)), Ok(create)) = (
                    EntryReply::read_from_prefix(body),
                    request.record::<CreateRequest>(),
                ) {
                    after.extend(self.after_open(entry.node, create.flags, rest));
                }
            }
            Opcode::Open => {
                if let Ok(open) = request.record::<OpenRequest>() {
                    after.extend(self.after_open(node, open.flags, body));
                }
            }
            Opcode::MakeNode | Opcode::MakeDirectory | Opcode::SymbolicLink => {
                after.extend(self.after_directory(node));
            }
            Opcode::Link => {
                after.extend(self.after_directory(node));
                if let Ok(link) = request.record::<LinkRequest>() {
                    after.extend(self.after(link.old_node, 0));
                }
            }
            Opcode::Unlink | Opcode::RemoveDirectory => after.extend(self.after_directory(node)),
            Opcode::Rename | Opcode::Rename2 => {
                let to = match opcode {
                    Opcode::Rename => request
                        .record::<RenameRequest>()
                        .map(|record| record.new_directory),
                    _ => request
                        .record::<Rename2Request>()
                        .map(|record| record.new_directory),
                };
                if let Ok(to) = to {
                    after.extend(self.after_move(&mut request, to));
                }
            }
            Opcode::Flush | Opcode::Sync => {
                // Both records begin with the handle.
                if let Ok(FlushRequest { handle, .. }) = request.record()
                    && self.open_file(handle, node).is_ok_and(|file| file.writes())
                {
                    after.extend(self.after(node, 0));
                }
            }
            Opcode::SetExtended | Opcode::RemoveExtended => after.extend(self.after(node, 0)),
            _ => {}
        }
        for record in &after {
            reply.extend_from_slice(record.as_bytes());
        }
    }

    /// What a node is now, if home says when that changes. First it is watched, then looked at.
    fn after(&self, node: u64, flags: u32) -> Option<After> {
        let node = self.nodes.get(node).ok()?;
        if !self.standing(&node, None).attributes {
            return None;
        }
        let stat = self.nodes.stat(&node, &self.credentials).ok()?;
        Some(After {
            node: node.id,
            flags,
            padding: 0,
            attributes: self.attributes(&stat),
        })
    }

    fn after_directory(&self, node: u64) -> Option<After> {
        let directory = self.nodes.get(node).ok()?;
        let descriptor = self.nodes.descriptor(&directory, &self.credentials).ok()?;
        let flags = match self.names_hold(&directory, &descriptor) {
            true => NAMES,
            false => 0,
        };
        self.after(node, flags)
    }

    /// Of a file that has been opened with these flags; `reply` begins with its number.
    fn after_open(&self, node: u64, flags: u32, reply: &[u8]) -> Option<After> {
        let flags = OFlags::from_bits_retain(flags);
        if flags & OFlags::RWMODE == OFlags::RDONLY && !flags.contains(OFlags::TRUNC) {
            return None;
        }
        let (open, _) = OpenReply::read_from_prefix(reply).ok()?;
        let file = self.open_file(open.handle, node).ok()?;
        let capabilities = rustix::fs::fgetxattr(file.as_fd(), CAPABILITIES, &mut [0_u8; 0][..]);
        let flags = match capabilities {
            Err(Errno::NODATA) => PLAIN,
            _ => 0,
        };
        self.after(node, flags)
    }

    /// Of both directories and of what has been moved from one to the other; the request goes on with its old name and the new one.
    fn after_move(&self, request: &mut Request<'_>, to: u64) -> impl Iterator<Item = After> + use<> {
        let node = request.header.node;
        let mut from = self.after_directory(node);
        let names = request.name().and_then(|old| Ok((old, request.name()?)));
        let Ok((old, new)) = names else {
            return [None; 3].into_iter().flatten();
        };
        let look = |directory: u64, name: &CStr| stat_name(&*self.descriptor(directory)?, name);
        if let Some(from) = &mut from
            && !matches!(look(node, old), Err(Errno::NOENT))
        {
            // Both names are the same file's, or they have been exchanged.
            from.flags &= !NAMES;
        }
        let moved = look(to, new)
            .ok()
            .and_then(|stat| self.nodes.find(&Identity::of(&stat)))
            .and_then(|moved| self.after(moved.id, 0));
        let to = (to != node).then(|| self.after_directory(to)).flatten();
        [from, to, moved].into_iter().flatten()
    }
}
