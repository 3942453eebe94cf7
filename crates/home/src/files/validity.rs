//! What may be said to be valid until home says otherwise: what is watched ([`crate::coherence`]).
//!
//! First something is watched, then it is looked at: so whatever changes after the look is told.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use afield_abi::fuse::{Opcode, ReadRequest};
use afield_link::invalidation::FOREVER_SECONDS;
use rustix::fs::{OFlags, Statx};
use rustix::io::Errno;

use super::decode::Request;
use super::nodes::{Node, PathDescriptor, stat_descriptor};
use super::open::OpenFile;
use super::{FileService, Result};
use crate::coherence::{self, Begun, Mark, Writers};

/// For how long a node's kernel may believe what it is told.
pub(super) fn seconds(holds: bool) -> u64 {
    if holds { FOREVER_SECONDS } else { 0 }
}

/// What holds of a node until home says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Its attributes.
    pub attributes: bool,
    /// Its contents, or a directory's listing.
    pub contents: bool,
}

/// What is to follow the answer to a request.
#[derive(Debug, Clone, Copy)]
pub struct Promise {
    begun: Begun,
    hot: Option<u64>,
}

impl Promise {
    /// The file or directory of which the answer has what others may be changing.
    pub fn about(&self) -> Option<u64> {
        self.hot
    }
}

impl FileService {
    /// Its part in the agent's registry, if what nodes keep is watched.
    pub fn coherence(&self) -> Option<&coherence::Session> {
        self.session.as_ref()
    }

    /// To be asked before a request is executed, and to be kept until it is answered.
    pub fn begin(&self) -> Option<Promise> {
        let begun = self.session.as_ref()?.begin();
        Some(Promise { begun, hot: None })
    }

    /// To be asked when the request has been executed: what has to follow the answer.
    pub fn promised(&self, request: &[u8], promise: Option<Promise>) -> Option<Promise> {
        let mut promise = promise?;
        let Ok(mut request) = Request::new(request) else {
            return Some(promise);
        };
        let node = request.header.node;
        match Opcode::from_wire(request.header.opcode) {
            Some(Opcode::Read) => {
                let Ok(record) = request.record::<ReadRequest>() else {
                    return Some(promise);
                };
                if let Ok(file) = self.open_file(record.handle, node)
                    && file.cached
                    && !self.stays_quiet(&file)
                {
                    promise.hot = Some(node);
                }
            }
            Some(Opcode::ReadDirectory | Opcode::ReadDirectoryPlus) => {
                let Ok(record) = request.record::<ReadRequest>() else {
                    return Some(promise);
                };
                if let Ok(directory) = self.open_listing(record.handle, node) {
                    // What is listed may have been asked of the kernel by an earlier request.
                    promise.begun = promise.begun.min(directory.filled().unwrap_or(promise.begun));
                    if directory.cached && !self.is_watched(&directory.node.0) {
                        promise.hot = Some(node);
                    }
                }
            }
            _ => {}
        }
        Some(promise)
    }

    /// Appends what follows the answer.
    pub fn behind(&self, promise: Option<Promise>, payload: &mut Vec<u8>) {
        if let (Some(session), Some(promise)) = (&self.session, promise) {
            session.behind(promise.begun, promise.hot, payload);
        }
    }

    /// Attributes have been changed in a way of which the kernel tells nobody.
    pub(super) fn changed_silently(&self, node: u64) {
        let mark = self.nodes.get(node).ok().and_then(|node| node.mark());
        if let (Some(session), Some(mark)) = (&self.session, mark) {
            session.tell_attributes(&mark);
        }
    }

    /// Whether a file of which contents have been read is one that nobody else can store into unnoticed, and was when they were read:
    /// whoever could then and cannot now has closed it, which is told.
    fn stays_quiet(&self, file: &OpenFile) -> bool {
        let node = &file.node.0;
        if let (Some(mark), Some(session)) = (node.mark(), &self.session)
            && mark.is_alive()
        {
            let mut writers = Writers::Unknown;
            let settle = || {
                writers = match file.writes() {
                    true => session.settle_own_writer(&mark, file.as_fd()),
                    false => session.settle_reader(&mark, file.as_fd()),
                };
                Ok(())
            };
            if mark.writers() == Writers::None {
                return true;
            }
            let _ = self.credentials.as_service(settle);
            return writers == Writers::None;
        }
        // Watched anew for the next time.
        let _ = self.standing(node, None);
        false
    }

    fn is_watched(&self, node: &Arc<Node>) -> bool {
        node.mark().is_some_and(|mark| mark.is_alive())
    }

    /// Before something is looked at; see [`look`](Self::look).
    pub(super) fn stamp(&self) -> u64 {
        self.session.as_ref().map_or(0, coherence::Session::stamp)
    }

    /// Watches a node, if that can be.
    fn watched(&self, node: &Arc<Node>, file: Option<BorrowedFd<'_>>) -> Option<Arc<Mark>> {
        let session = self.session.as_ref()?;
        if let Some(mark) = node.mark()
            && mark.is_alive()
        {
            return Some(mark);
        }
        if node.is_unwatchable()
            || !matches!(node.identity.kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK)
        {
            return None;
        }
        let descriptor;
        let file = match file {
            Some(file) => file,
            None => {
                descriptor = self.nodes.descriptor(node, &self.credentials).ok()?;
                descriptor.as_fd()
            }
        };
        let Some(on) = self.devices.watchable(node.identity.device, file) else {
            node.set_unwatchable();
            return None;
        };
        let mut made = None;
        self.credentials
            .as_service(|| {
                made = session.watch(node.id, node.identity.kind, on, file);
                Ok(())
            })
            .ok()?;
        let Some(mark) = made else {
            node.set_unwatchable();
            return None;
        };
        node.set_mark(&mark);
        // Forgotten meanwhile, it would be watched for ever.
        if !self
            .nodes
            .get(node.id)
            .is_ok_and(|known| Arc::ptr_eq(&known, node))
        {
            session.unwatch(node.id, &mark, Some(file));
            return None;
        }
        Some(mark)
    }

    /// Watches a node and finds out what holds of it from now on. `file` is an `O_PATH` descriptor of it, if there is one at hand.
    pub(super) fn standing(&self, node: &Arc<Node>, file: Option<BorrowedFd<'_>>) -> Standing {
        let (Some(session), Some(mark)) = (&self.session, self.watched(node, file)) else {
            return Standing::default();
        };
        if node.identity.kind != libc::S_IFREG {
            return Standing {
                attributes: true,
                contents: true,
            };
        }
        if mark.writers() == Writers::Unknown {
            let settle = || {
                let descriptor;
                let file = match file {
                    Some(file) => file,
                    None => {
                        descriptor = self.nodes.descriptor(node, &self.credentials)?;
                        descriptor.as_fd()
                    }
                };
                session.settle_writers(&mark, file);
                Ok(())
            };
            let _ = self.credentials.as_service(settle);
        }
        let quiet = mark.is_alive() && mark.writers() == Writers::None;
        Standing {
            attributes: quiet,
            contents: quiet,
        }
    }

    /// The same for a file that has just been opened through `open`.
    pub(super) fn standing_of_open(&self, node: &Arc<Node>, open: BorrowedFd<'_>, flags: OFlags) -> Standing {
        let (Some(session), Some(mark)) = (&self.session, self.watched(node, None)) else {
            return Standing::default();
        };
        let writes = flags & OFlags::RWMODE != OFlags::RDONLY;
        let settle = || {
            if writes {
                session.settle_own_writer(&mark, open);
            } else {
                session.settle_reader(&mark, open);
            }
            Ok(())
        };
        if mark.writers() != Writers::None {
            let _ = self.credentials.as_service(settle);
        }
        let quiet = mark.is_alive() && mark.writers() == Writers::None;
        Standing {
            attributes: quiet,
            contents: quiet,
        }
    }

    /// Whether what names in a directory mean holds for all guests, if it is looked up from now on.
    pub(super) fn names_hold(&self, directory: &Arc<Node>, file: &PathDescriptor) -> bool {
        let (Some(session), Some(mark)) = (&self.session, self.watched(directory, Some(file.as_fd()))) else {
            return false;
        };
        directory.is_directory() && session.settle_search(&mark, file.as_fd())
    }

    /// What holds of a node that was looked at after `stamp`, with the result `stat`. It is looked at again if it was not
    /// watched then.
    pub(super) fn look(
        &self,
        node: &Arc<Node>,
        file: BorrowedFd<'_>,
        stat: Statx,
        stamp: u64,
    ) -> Result<(Statx, Standing)> {
        if self.session.is_none() {
            return Ok((stat, Standing::default()));
        }
        let held = node.mark().is_some_and(|mark| mark.holds_since(stamp));
        let standing = self.standing(node, Some(file));
        if held || !standing.attributes {
            return Ok((stat, standing));
        }
        Ok((stat_descriptor(file)?, standing))
    }

    /// The node's kernel has forgotten lookups of a node.
    pub(super) fn forget_node(&self, id: u64, lookups: u64) {
        let Some(node) = self.nodes.forget(id, lookups) else {
            return;
        };
        if let (Some(session), Some(mark)) = (&self.session, node.mark()) {
            let descriptor = node.resident();
            session.unwatch(
                id,
                &mark,
                descriptor.as_ref().map(|descriptor| descriptor.as_fd()),
            );
        }
    }

    /// A node opens files by itself with this user's rights, or with those of one that it names; the same goes for
    /// names. So it matters whether there is more than one.
    pub(super) fn note_caller(&self, uid: u32, gid: u32) {
        if let Some(session) = &self.session
            && (uid, gid) != self.credentials.own()
            && uid != u32::MAX
            && gid != u32::MAX
        {
            session.mix();
        }
    }

    /// Opens a file, of which a lease may be held for a moment that has nothing to do with the caller.
    pub(super) fn open_past_probes<T>(&self, flags: OFlags, open: impl Fn() -> Result<T>) -> Result<T> {
        match (open(), &self.session) {
            (Err(Errno::AGAIN), Some(session)) if flags.contains(OFlags::NONBLOCK) => {
                session.without_probes(open)
            }
            (result, _) => result,
        }
    }
}

/// Requests after which something may not be as it was.
pub(super) fn may_change(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::SetAttributes
            | Opcode::SymbolicLink
            | Opcode::MakeNode
            | Opcode::MakeDirectory
            | Opcode::Unlink
            | Opcode::RemoveDirectory
            | Opcode::Rename
            | Opcode::Rename2
            | Opcode::Link
            | Opcode::Open
            | Opcode::Create
            | Opcode::TemporaryFile
            | Opcode::Write
            | Opcode::Release
            | Opcode::SetExtended
            | Opcode::RemoveExtended
            | Opcode::Ioctl
            | Opcode::Allocate
            | Opcode::CopyRange
            | Opcode::CopyRange64
    )
}
