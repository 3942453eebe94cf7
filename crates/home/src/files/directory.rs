//! Listing directories.
//!
//! Cookies are the home file system's own, so that any of them can be sought to at any time, however large the directory
//! is. What the kernel gave in one piece and did not fit in a reply is kept for the next request that goes on from there.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use afield_abi::fuse::{DirectoryEntry, DirectoryEntryPlus, EntryReply, ReadRequest, entry_bytes};
use rustix::fs::{SeekFrom, Statx, StatxAttributes};
use rustix::io::Errno;

use super::decode::{Reply, Request};
use super::nodes::{Identity, Node, Pin, open_path, stat_descriptor, stat_name};
use super::validity::Standing;
use super::{DATA_BYTES_MAX, FileService, Result, sys};
use crate::coherence::Begun;

/// Bytes of directory records asked of the kernel at once.
const RECORDS_BYTES: usize = 32 << 10;

/// Bytes of a `linux_dirent64` before its name.
const RECORD_HEAD_BYTES: usize = 19;

/// For how long after a change to it somebody may be at work with a file.
const AT_WORK_SECONDS: i64 = 2;

/// An open directory.
#[derive(Debug)]
pub struct OpenDirectory {
    descriptor: OwnedFd,
    /// A lock of it has been asked for.
    pub locks: AtomicBool,
    /// Keeps the node reachable.
    pub node: Pin,
    /// Its listing may be kept.
    pub cached: bool,
    /// Nobody has asked what is in it: what is being worked with is left alone.
    pub unasked: AtomicBool,
    listing: Mutex<Listing>,
}

impl OpenDirectory {
    /// Adopts a directory's descriptor, at its start.
    pub fn new(descriptor: OwnedFd, node: Pin, cached: bool) -> Self {
        Self {
            descriptor,
            locks: AtomicBool::new(false),
            node,
            cached,
            unasked: AtomicBool::new(false),
            listing: Mutex::default(),
        }
    }

    /// When the kernel was last asked.
    pub fn filled(&self) -> Option<Begun> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner).filled
    }
}

impl AsFd for OpenDirectory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Where a listing has got to.
#[derive(Debug, Default)]
struct Listing {
    /// Cookie of the next entry to be given.
    position: u64,
    /// The kernel's records; those before `start` are spent.
    records: Vec<u8>,
    start: usize,
    /// The kernel has said that there are no more after these.
    ended: bool,
    /// When it was asked for these.
    filled: Option<Begun>,
}

/// A directory record of the kernel.
#[derive(Debug, Clone, Copy)]
struct Record<'a> {
    inode: u64,
    /// Cookie of the entry after this one.
    next: u64,
    kind: u8,
    name: &'a CStr,
    /// All of the record, padding included.
    bytes: usize,
}

impl<'a> Record<'a> {
    /// Takes the first record of several.
    fn parse(records: &'a [u8]) -> Option<Self> {
        let (inode, rest) = records.split_first_chunk()?;
        let (next, rest) = rest.split_first_chunk()?;
        let (bytes, rest) = rest.split_first_chunk()?;
        let bytes = usize::from(u16::from_ne_bytes(*bytes));
        let (&kind, _) = rest.split_first()?;
        let name = records.get(RECORD_HEAD_BYTES..bytes)?;
        Some(Self {
            inode: u64::from_ne_bytes(*inode),
            next: u64::from_ne_bytes(*next),
            kind,
            name: CStr::from_bytes_until_nul(name).ok()?,
            bytes,
        })
    }
}

impl Listing {
    /// Goes to a cookie. The start is always read anew, which is what `rewinddir` is for.
    fn seek(&mut self, directory: BorrowedFd<'_>, position: u64) -> Result<()> {
        if position == self.position && position != 0 {
            return Ok(());
        }
        self.start = 0;
        self.records.clear();
        self.ended = false;
        rustix::fs::seek(directory, SeekFrom::Start(position))?;
        self.position = position;
        Ok(())
    }

    /// Gets records if none are left. False at the end of the directory.
    fn fill(&mut self, directory: BorrowedFd<'_>) -> Result<bool> {
        if self.start < self.records.len() {
            return Ok(true);
        }
        if self.ended {
            return Ok(false);
        }
        self.start = 0;
        self.records.resize(RECORDS_BYTES, 0);
        let result = sys::directory_records(directory, &mut self.records);
        self.records.truncate(*result.as_ref().unwrap_or(&0));
        if result? == 0 {
            self.ended = true;
            self.records = Vec::new();
        }
        Ok(!self.ended)
    }
}

impl FileService {
    /// Lists a directory, with or without (`plus`) the node of each entry.
    pub(super) fn read_directory(
        &self,
        request: &mut Request<'_>,
        reply: &mut Reply<'_>,
        plus: bool,
    ) -> Result<()> {
        let record: ReadRequest = request.record()?;
        let directory = self.open_listing(record.handle, request.header.node)?;
        let room = (record.size as usize).min(DATA_BYTES_MAX);
        let mut listing = directory.listing.lock().unwrap_or_else(PoisonError::into_inner);
        listing.seek(directory.as_fd(), record.offset)?;
        let head = if plus {
            size_of::<DirectoryEntryPlus>()
        } else {
            size_of::<DirectoryEntry>()
        };
        let named = plus
            && self
                .nodes
                .descriptor(&directory.node.0, &self.credentials)
                .is_ok_and(|file| self.names_hold(&directory.node.0, &file));
        loop {
            if listing.start >= listing.records.len() {
                listing.filled = self.coherence().map(|session| session.begin());
            }
            match listing.fill(directory.as_fd()) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                // What has been listed so far counts; the error comes again.
                Err(_) if reply.body_bytes() > 0 => return Ok(()),
                Err(errno) => return Err(errno),
            }
            let entry = Record::parse(&listing.records[listing.start..]).ok_or(Errno::IO)?;
            let name = entry.name.to_bytes();
            let bytes = entry_bytes(head, name.len());
            if reply.body_bytes() + bytes > room {
                // Nothing at all would be taken for the end.
                return if reply.body_bytes() > 0 {
                    Ok(())
                } else {
                    Err(Errno::INVAL)
                };
            }
            if plus {
                reply.record(&self.entry_of(&directory, entry.name, named));
            }
            reply.record(&DirectoryEntry {
                inode: self.devices.inode(directory.node.0.identity.device, entry.inode),
                offset: entry.next,
                name_length: name.len() as u32,
                kind: entry.kind.into(),
            });
            reply.bytes(name);
            let padding = bytes - head - name.len();
            reply.bytes(&[0; 8][..padding]);
            let (next, bytes) = (entry.next, entry.bytes);
            listing.position = next;
            listing.start += bytes;
        }
    }

    /// The node of a listed entry, with a lookup counted. Without one (id zero) for those that the kernel does not count, that
    /// cannot be examined, or that would have to be mounted first: it looks those up by itself when they are used.
    fn entry_of(&self, directory: &OpenDirectory, name: &CStr, named: bool) -> EntryReply {
        let nothing = EntryReply::default();
        if matches!(name.to_bytes(), b"." | b"..") || self.is_mount_point(name.to_bytes()) {
            return nothing;
        }
        let stamp = self.stamp();
        let Ok(stat) = stat_name(directory.as_fd(), name) else {
            return nothing;
        };
        // To find out who can write to a file is to open it, which whoever watches it at home would see: a guest's own question is
        // reason enough for that, a guess is not.
        let unasked = directory.unasked.load(Ordering::Relaxed);
        if stat.stx_attributes.contains(StatxAttributes::AUTOMOUNT) || unasked && is_at_work(&stat) {
            return nothing;
        }
        let place = Some((directory.node.0.id, name));
        let identity = Identity::of(&stat);
        self.nodes.supersede(&identity);
        let node = self.nodes.enter(identity, place);
        let (stat, standing) = self.look_by_name(directory, name, &node, stat, stamp);
        self.entry(node.id, &stat, standing, named)
    }

    /// As [`look`](Self::look): a node that is not watched is reached by its name, which must still lead to it.
    fn look_by_name(
        &self,
        directory: &OpenDirectory,
        name: &CStr,
        node: &Arc<Node>,
        stat: Statx,
        stamp: u64,
    ) -> (Statx, Standing) {
        if self.coherence().is_none() || node.is_unwatchable() {
            return (stat, Standing::default());
        }
        let resident = node.resident();
        let opened = match &resident {
            Some(_) => None,
            None => open_path(directory.as_fd(), name).ok(),
        };
        let file = match (&resident, &opened) {
            (Some(file), _) => file.as_fd(),
            (None, Some(file)) => file.as_fd(),
            (None, None) => return (stat, Standing::default()),
        };
        let same = |stat: &Statx| Identity::of(stat) == node.identity;
        if opened.is_some() && !stat_descriptor(file).is_ok_and(|stat| same(&stat)) {
            return (stat, Standing::default());
        }
        self.look(node, file, stat, stamp)
            .unwrap_or((stat, Standing::default()))
    }
}

/// Whether a file has been changed just now, or says so.
fn is_at_work(stat: &Statx) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = i64::try_from(now.as_secs())
        .unwrap_or(i64::MAX)
        .saturating_sub(stat.stx_ctime.tv_sec);
    age <= AT_WORK_SECONDS
}
