//! How init finds what it mounts, when home has more than one file system.
//!
//! The roots of all connections but the first are directories that only init sees; the first has the hidden directory. Init looks a
//! place up in the tree as it is so far, and then the number of the node that it has found in such a root: that is the same name of
//! home's once more, by another connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use afield_abi::fuse::{Attributes, AttributesReply, Opcode, OpenReply, ROOT_NODE, RequestHeader};
use afield_link::wire::MountPoint;
use zerocopy::IntoBytes;

use super::connections::connection_of;
use super::{HIDDEN, INIT, Outcome, Request, data_reply, lock};
use crate::session::Shared;
use crate::world::mounts::Made;

/// The process besides init that looks for places, where that may take for ever.
pub const MAKER: u32 = 2;

/// What a name that is a node's number begins with.
pub const PLACE_PREFIX: &str = "place-";

/// Most names that are remembered: no world has more mounts with ways as long as that.
const PLACES_MAX: usize = 1 << 16;

/// A directory's node and a name in it.
type Entry = (u64, Box<[u8]>);

/// What init has found.
#[derive(Debug, Default)]
pub struct Places {
    /// By node.
    found: Mutex<HashMap<u64, Entry>>,
    /// Numbers of home's file systems, and of their connections.
    systems: Mutex<HashMap<u64, usize>>,
    made: Mutex<Made>,
    /// It is what it should be.
    is_made: AtomicBool,
    /// It has been that before.
    was_made: AtomicBool,
}

impl Places {
    /// There are mounts to be made.
    pub fn begin(&self, points: &[MountPoint]) {
        self.is_made.store(false, Ordering::Relaxed);
        lock(&self.found).clear();
        let systems = points
            .iter()
            .map(|point| (point.device, point.file_system as usize));
        *lock(&self.systems) = systems.collect();
    }

    /// They have been made, if it is known how.
    pub fn end(&self, made: Option<Made>) {
        if let Some(made) = made {
            *lock(&self.made) = made;
        }
        self.is_made.store(true, Ordering::Relaxed);
        self.was_made.store(true, Ordering::Relaxed);
    }

    /// True until the first mounts are made. Nobody is in the world yet but who makes them.
    pub fn is_building(&self) -> bool {
        !self.was_made.load(Ordering::Relaxed)
    }

    /// True for a mount of one of home's file systems.
    pub fn is_mount(&self, number: u64) -> bool {
        lock(&self.made).mounts.contains(&number)
    }

    /// The number here of a file system, other than the root's, by home's.
    pub fn device(&self, home: u64) -> Option<u64> {
        let connection = *lock(&self.systems).get(&home)?;
        lock(&self.made).devices.get(connection).copied()
    }

    /// True for a process, by its number in the world, that makes the world's mounts.
    pub fn is_maker(&self, inner: u32) -> bool {
        inner == INIT || inner == MAKER && !self.is_made.load(Ordering::Relaxed) || self.is_building()
    }

    /// True if a request is for a place, or on such a root.
    pub fn wants(&self, request: &Request<'_>) -> bool {
        match request.header.node {
            ROOT_NODE => connection_of(request.header.unique) != 0,
            HIDDEN => {
                request.opcode == Opcode::Lookup
                    && request.body().starts_with(PLACE_PREFIX.as_bytes())
                    && self.is_maker(request.header.pid)
            }
            _ => false,
        }
    }

    /// Init has found a node under this name.
    pub fn note(&self, directory: u64, name: &[u8], node: u64) {
        let mut found = lock(&self.found);
        if found.len() < PLACES_MAX {
            found.insert(node, (directory, name.into()));
        }
    }

    /// Where init has found a node, if the kernel had to ask for it.
    fn find(&self, node: u64) -> Option<Entry> {
        lock(&self.found).get(&node).cloned()
    }
}

/// A lookup of the place that the request names by its node's number.
fn again(shared: &Shared, request: &Request<'_>) -> Result<Vec<u8>, i32> {
    let node: u64 = std::str::from_utf8(request.name()?)
        .ok()
        .and_then(|name| name.strip_prefix(PLACE_PREFIX)?.parse().ok())
        .ok_or(libc::ENOENT)?;
    let found = shared.files.places.find(node);
    let known = || shared.files.coherent.place_of(node);
    let (directory, name) = found.or_else(known).ok_or(libc::ENOENT)?;
    let header = RequestHeader {
        length: (size_of::<RequestHeader>() + name.len() + 1) as u32,
        node: directory,
        ..request.header
    };
    Ok([header.as_bytes(), &name, &[0]].concat())
}

/// Serves a request on such a root.
///
/// # Errors
/// `EACCES` for all but init.
pub fn request(shared: &Arc<Shared>, request: Request<'_>) -> Result<Outcome, i32> {
    let Request { opcode, header, .. } = request;
    if !shared.files.places.is_maker(header.pid) {
        return Err(libc::EACCES);
    }
    match opcode {
        Opcode::Lookup => {
            let mut bytes = again(shared, &request)?;
            let header = super::header_of(&bytes).ok_or(libc::EIO)?;
            let request = Request {
                opcode,
                header,
                bytes: &mut bytes,
                data: None,
            };
            shared.files.home.relay(shared, request)
        }
        Opcode::GetAttributes => {
            let reply = AttributesReply {
                attributes: Attributes {
                    inode: header.node,
                    mode: libc::S_IFDIR | 0o700,
                    links: 2,
                    block_size: 4096,
                    ..Attributes::default()
                },
                ..AttributesReply::default()
            };
            Ok(Outcome::Reply(data_reply(header.unique, &[reply.as_bytes()])))
        }
        Opcode::Access => Ok(Outcome::Reply(super::error_reply(header.unique, 0))),
        // What was stored into mapped files is written out by a file of the mount.
        Opcode::OpenDirectory => Ok(Outcome::Reply(data_reply(
            header.unique,
            &[OpenReply::default().as_bytes()],
        ))),
        Opcode::Release | Opcode::ReleaseDirectory | Opcode::Flush => {
            Ok(Outcome::Reply(super::error_reply(header.unique, 0)))
        }
        _ => Err(libc::EACCES),
    }
}
