//! Open files and directories: handles, and the calls that make and end them.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use afield_abi::fuse::{
    ACCESS_BEGINS, AccessRequest, CreateRequest, FlushRequest, OPEN_FOR_EXECUTION, OPEN_PROMISED, Opcode,
    OpenReply, OpenRequest, ReleaseRequest, ReplyHeader, WriteRequest, open_reply_flag, release_flag,
    write_flag,
};
use rustix::fs::{Access, AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use zerocopy::FromBytes;

use super::credentials::apply_umask;
use super::decode::{Reply, Request};
use super::devices::Class;
use super::directory::OpenDirectory;
use super::hash::Mixing;
use super::nodes::{Identity, Node, Pin, stat_descriptor};
use super::validity::Standing;
use super::{FileService, Outcome, Result, behind, proc_path, sys};
use crate::coherence;

/// What of a request's flags home's `open` gets to see. Those that make files are decided by the operation, and those about
/// links have been dealt with by the node's kernel.
const OPEN_FLAGS: OFlags = OFlags::RWMODE
    .union(OFlags::APPEND)
    .union(OFlags::TRUNC)
    .union(OFlags::NONBLOCK)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC)
    .union(OFlags::DIRECT)
    .union(OFlags::LARGEFILE)
    .union(OFlags::NOATIME);

/// What of an open file's flags is needed to open it again as it was, if it can only be read.
const RESTING_FLAGS: OFlags = OFlags::NONBLOCK
    .union(OFlags::LARGEFILE)
    .union(OFlags::NOATIME)
    .union(OFlags::DIRECTORY);

/// Added to every open.
const OPEN_ALWAYS: OFlags = OFlags::CLOEXEC.union(OFlags::NOCTTY);

/// How often a file is tried to be made and opened in turn, while others make and remove it.
const CREATE_ATTEMPTS_MAX: usize = 100;

/// An open regular file.
#[derive(Debug)]
pub struct OpenFile {
    descriptor: OwnedFd,
    /// It was opened to append, whatever became of the flag at the node.
    pub appends: bool,
    /// It can be written through.
    writes: bool,
    /// What is read may be kept.
    pub cached: bool,
    /// A lock of the open file itself has been asked for: `flock`'s, or one of its description.
    pub locks: AtomicBool,
    /// Keeps the node reachable.
    pub node: Pin,
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl OpenFile {
    /// It can be written through.
    pub fn writes(&self) -> bool {
        self.writes
    }
}

/// An open file or directory.
#[derive(Debug, Clone)]
pub enum Open {
    /// A regular file.
    File(Arc<OpenFile>),
    /// A directory.
    Directory(Arc<OpenDirectory>),
}

impl Open {
    fn node(&self) -> u64 {
        match self {
            Self::File(file) => file.node.0.id,
            Self::Directory(directory) => directory.node.0.id,
        }
    }
}

impl Open {
    /// Nothing but the table and who asks has it, and no lock was asked for.
    fn is_at_rest(&self) -> bool {
        match self {
            Self::File(file) => Arc::strong_count(file) == 2 && !file.locks.load(Ordering::Relaxed),
            Self::Directory(directory) => {
                Arc::strong_count(directory) == 2 && !directory.locks.load(Ordering::Relaxed)
            }
        }
    }
}

impl AsFd for Open {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::File(file) => file.as_fd(),
            Self::Directory(directory) => directory.as_fd(),
        }
    }
}

/// The table of open files and directories. A handle is only good together with its node.
#[derive(Debug)]
pub struct Handles {
    table: RwLock<HashMap<u64, Slot, Mixing>>,
    next: AtomicU64,
}

/// What a handle stands for.
#[derive(Debug)]
enum Slot {
    Open(Open),
    Resting(Arc<Resting>),
}

impl Slot {
    fn node(&self) -> u64 {
        match self {
            Self::Open(open) => open.node(),
            Self::Resting(resting) => resting.node.0.id,
        }
    }
}

impl Handles {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            table: RwLock::default(),
            next: AtomicU64::new(1),
        }
    }

    /// The open file or directory with this handle, or what it was.
    fn find(&self, handle: u64, node: u64) -> Result<std::result::Result<Open, Arc<Resting>>> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        match table.get(&handle).filter(|slot| slot.node() == node) {
            Some(Slot::Open(open)) => Ok(Ok(open.clone())),
            Some(Slot::Resting(resting)) => Ok(Err(Arc::clone(resting))),
            None => Err(Errno::BADF),
        }
    }

    /// Handles that are in use, whether what they stand for is open or rests.
    pub fn count(&self) -> usize {
        self.table.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets them all.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.table.write().unwrap_or_else(PoisonError::into_inner));
        drop(all);
    }

    fn insert(&self, open: Open) -> u64 {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.insert(handle, Slot::Open(open));
        handle
    }

    fn remove(&self, handle: u64) -> Option<Slot> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(&handle)
    }

    /// An open file rests from now on, unless somebody besides the caller uses it at this moment, or has locked it: a lock ends with the
    /// open file. It is given to the caller, who closes it.
    fn rest(&self, handle: u64, open: &Open, resting: Resting) -> Result<Slot> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match table.get_mut(&handle) {
            Some(slot @ Slot::Open(_)) if open.is_at_rest() => {
                Ok(std::mem::replace(slot, Slot::Resting(Arc::new(resting))))
            }
            _ => Err(Errno::BUSY),
        }
    }

    /// What rested is open again, unless somebody else has been quicker. What the handle stands for is returned.
    fn wake(&self, handle: u64, resting: &Arc<Resting>, open: Open) -> Result<Open> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match table.get_mut(&handle) {
            Some(Slot::Resting(other)) if Arc::ptr_eq(other, resting) => {
                table.insert(handle, Slot::Open(open.clone()));
                Ok(open)
            }
            Some(Slot::Open(other)) if other.node() == open.node() => Ok(other.clone()),
            _ => Err(Errno::BADF),
        }
    }
}

/// How something was opened that nobody uses now: it is closed, and opened again when it is used.
#[derive(Debug)]
struct Resting {
    flags: OFlags,
    /// Keeps it within reach, whatever becomes of its name.
    node: Pin,
}

impl FileService {
    /// The open file or directory with this handle. If it rests it is opened again.
    pub(super) fn open_any(&self, handle: u64, node: u64) -> Result<Open> {
        let resting = match self.handles.find(handle, node)? {
            Ok(open) => return Ok(open),
            Err(resting) => resting,
        };
        let pin = resting.node.clone();
        let open = self.credentials.as_service(|| self.open_again(&resting, pin))?;
        self.handles.wake(handle, &resting, open)
    }

    /// Opens what rests. What it was said to be when it was opened first it is until something else is said.
    fn open_again(&self, resting: &Resting, pin: Pin) -> Result<Open> {
        let reached = self.nodes.descriptor(&resting.node.0, &self.credentials)?;
        let (path, flags) = (proc_path(&*reached), resting.flags);
        let open = || rustix::fs::openat(rustix::fs::CWD, &*path, flags | OPEN_ALWAYS, Mode::empty());
        if pin.0.is_directory() {
            return Ok(Open::Directory(Arc::new(OpenDirectory::new(open()?, pin, true))));
        }
        let file = Arc::new(OpenFile {
            descriptor: self.open_past_probes(flags, open)?,
            cached: true,
            appends: false,
            writes: false,
            locks: AtomicBool::new(false),
            node: pin,
        });
        file.node.0.set_reader(&file);
        Ok(Open::File(file))
    }

    /// The open regular file with this handle.
    pub(super) fn open_file(&self, handle: u64, node: u64) -> Result<Arc<OpenFile>> {
        match self.open_any(handle, node)? {
            Open::File(file) => Ok(file),
            Open::Directory(_) => Err(Errno::BADF),
        }
    }

    /// The open directory with this handle.
    pub(super) fn open_listing(&self, handle: u64, node: u64) -> Result<Arc<OpenDirectory>> {
        match self.open_any(handle, node)? {
            Open::Directory(directory) => Ok(directory),
            Open::File(_) => Err(Errno::BADF),
        }
    }

    /// Nobody uses an open file now, and somebody may: it is closed, but stays within reach. Not where that keeps others from
    /// unmounting what it is on, nor if it is more than something to read.
    fn rest(&self, handle: u64, node: u64) -> Result<()> {
        let Ok(open) = self.handles.find(handle, node)? else {
            return Ok(());
        };
        let (pin, is_plain) = match &open {
            Open::File(file) => (&file.node, !file.writes && file.cached),
            Open::Directory(directory) => (&directory.node, directory.cached),
        };
        let state = self.session.as_ref().map_or(0, coherence::Session::resets);
        let stays = self.mounts.stays(pin.0.identity.mount, state);
        if !is_plain || !stays || !self.nodes.has_room() {
            return Err(Errno::BUSY);
        }
        let resting = Resting {
            flags: rustix::fs::fcntl_getfl(&open)? & RESTING_FLAGS,
            node: pin.clone(),
        };
        let closed = self.handles.rest(handle, &open, resting)?;
        drop((open, closed));
        Ok(())
    }

    /// Completes an open: enters the file in the table.
    fn opened(&self, pin: Pin, descriptor: OwnedFd, flags: OFlags, fresh: bool) -> Result<OpenReply> {
        if flags.contains(OFlags::DIRECT) {
            // The node's kernel bypasses its cache, and home's has agreed to the flag; but the service's buffers are not
            // aligned as the flag demands.
            let now = rustix::fs::fcntl_getfl(&descriptor)?;
            rustix::fs::fcntl_setfl(&descriptor, now - OFlags::DIRECT)?;
        }
        let direct = match self.devices.class(pin.0.identity.device, &descriptor) {
            // The node's kernel does not know where the end is.
            Class::Real => flags.contains(OFlags::APPEND) && flags & OFlags::RWMODE == OFlags::WRONLY,
            Class::Made => true,
            Class::Unknown => !fresh && stat_descriptor(&descriptor)?.stx_size == 0,
        };
        let mut open_flags = if direct { open_reply_flag::DIRECT_IO } else { 0 };
        let waits = OFlags::SYNC | OFlags::DSYNC | OFlags::DIRECT;
        let writes = flags & OFlags::RWMODE != OFlags::RDONLY;
        if writes && !flags.intersects(waits) && behind::is_ample(&descriptor) {
            open_flags |= open_reply_flag::BEHIND;
        }
        // Before anything is read.
        let cached = !direct && self.standing_of_open(&pin.0, descriptor.as_fd(), flags).contents;
        if cached {
            open_flags |= open_reply_flag::KEEP_CACHE;
        }
        let file = Arc::new(OpenFile {
            descriptor,
            cached,
            appends: flags.contains(OFlags::APPEND),
            writes,
            locks: AtomicBool::new(false),
            node: pin,
        });
        if !writes {
            file.node.0.set_reader(&file);
        }
        Ok(OpenReply {
            handle: self.handles.insert(Open::File(file)),
            open_flags,
            backing: 0,
        })
    }

    /// Opens a node's file at home, whatever its name is now.
    fn open_node(&self, node: &Arc<Node>, flags: u32) -> Result<OpenReply> {
        match node.identity.kind {
            libc::S_IFREG => {}
            libc::S_IFDIR => return Err(Errno::ISDIR),
            libc::S_IFLNK => return Err(Errno::LOOP),
            // FIFOs and devices are opened by the caller's deputy; a socket cannot be.
            _ => return Err(Errno::NXIO),
        }
        let pin = node.pin();
        let reached = self.nodes.descriptor(node, &self.credentials)?;
        let path = proc_path(&*reached);
        if flags & OPEN_FOR_EXECUTION != 0 {
            rustix::fs::accessat(rustix::fs::CWD, &*path, Access::EXEC_OK, AtFlags::EACCESS)?;
        }
        let flags = OFlags::from_bits_retain(flags) & OPEN_FLAGS;
        let file = self.open_past_probes(flags, || {
            rustix::fs::openat(rustix::fs::CWD, &*path, flags | OPEN_ALWAYS, Mode::empty())
        })?;
        self.nodes.restore(node, &reached);
        self.opened(pin, file, flags, false)
    }

    pub(super) fn open(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: OpenRequest = request.record()?;
        let node = self.nodes.get(request.header.node)?;
        let mut flags = record.flags;
        if record.open_flags & OPEN_PROMISED != 0 {
            // Others wait behind it.
            flags |= libc::O_NONBLOCK as u32;
        }
        let open = self.open_node(&node, flags)?;
        if record.flags & OPEN_FOR_EXECUTION != 0 {
            self.hash_needed(node.id);
        }
        reply.record(&open);
        if record.open_flags & OPEN_PROMISED == 0
            && let Ok(file) = self.open_file(open.handle, node.id)
        {
            self.tell_contents(&node, &file, &open, reply);
        }
        Ok(())
    }

    /// The program that a refused request was about, if its caller may execute but not read it: natively the kernel reads it, afield
    /// nobody can.
    pub fn unreadable_program(&self, request: &[u8], reply: &[u8]) -> Option<PathBuf> {
        let (answer, _) = ReplyHeader::read_from_prefix(reply).ok()?;
        if answer.error != -libc::EACCES {
            return None;
        }
        let mut request = Request::new(request).ok()?;
        if Opcode::from_wire(request.header.opcode) != Some(Opcode::Open)
            || request.record::<OpenRequest>().ok()?.flags & OPEN_FOR_EXECUTION == 0
        {
            return None;
        }
        let header = request.header;
        let _assumed = self.credentials.assume(header.uid, header.gid, header.pid).ok()?;
        let reached = self.descriptor(header.node).ok()?;
        let path = proc_path(&*reached);
        rustix::fs::accessat(rustix::fs::CWD, &*path, Access::EXEC_OK, AtFlags::EACCESS).ok()?;
        let name = rustix::fs::readlink(&*path, Vec::new()).ok()?;
        Some(PathBuf::from(OsString::from_vec(name.into_bytes())))
    }

    pub(super) fn create(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: CreateRequest = request.record()?;
        let name = request.name()?;
        let parent = request.header.node;
        let directory = self.descriptor(parent)?;
        let asked = OFlags::from_bits_retain(record.flags);
        let flags = asked & OPEN_FLAGS;
        let mode = Mode::from_raw_mode(apply_umask(record.mode & 0o7777, record.umask));
        // Always exclusively: what turned up under this name in the meantime is opened like anything that was there,
        // so that a FIFO or link among it does no harm.
        let make = OPEN_ALWAYS | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        for _ in 0..CREATE_ATTEMPTS_MAX {
            match rustix::fs::openat(&*directory, name, flags | make, mode) {
                Ok(file) => return self.created(file, flags, Some((parent, name)), reply),
                Err(Errno::EXIST) if !asked.contains(OFlags::EXCL) => {}
                Err(errno) => return Err(errno),
            }
            let (node, stat, standing) = match self.find(parent, &directory, name) {
                Ok(found) => found,
                // Gone again.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            };
            let opened = match node.identity.kind {
                libc::S_IFREG => self.open_node(&node, record.flags),
                libc::S_IFDIR => Err(Errno::ISDIR),
                // The node's kernel looks the path up again, follows or opens what it finds.
                _ => Err(Errno::STALE),
            };
            match opened {
                Ok(open) => {
                    reply.record(&self.entry(node.id, &stat, standing, false));
                    reply.record(&open);
                    return Ok(());
                }
                Err(errno) => {
                    self.forget_node(node.id, 1);
                    return Err(errno);
                }
            }
        }
        Err(Errno::STALE)
    }

    pub(super) fn temporary_file(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: CreateRequest = request.record()?;
        let directory = self.descriptor(request.header.node)?;
        let asked = OFlags::from_bits_retain(record.flags);
        // Here `O_EXCL` says that the file may never get a name.
        let flags = asked & OPEN_FLAGS.difference(OFlags::TRUNC);
        let make = OPEN_ALWAYS | OFlags::TMPFILE | (asked & OFlags::EXCL);
        let mode = Mode::from_raw_mode(apply_umask(record.mode & 0o7777, record.umask));
        let file = rustix::fs::openat(&*directory, c".", flags | make, mode)?;
        self.created(file, flags, None, reply)
    }

    fn created(
        &self,
        file: OwnedFd,
        flags: OFlags,
        place: Option<(u64, &std::ffi::CStr)>,
        reply: &mut Reply<'_>,
    ) -> Result<()> {
        let stat = stat_descriptor(&file)?;
        let path_flags = OFlags::PATH | OFlags::CLOEXEC;
        let reached = rustix::fs::openat(rustix::fs::CWD, &*proc_path(&file), path_flags, Mode::empty())?;
        let node = self.nodes.enter(Identity::of(&stat), place);
        let pin = node.pin();
        let reached = self.nodes.keep(&node, reached);
        let opened = self.opened(pin, file, flags, true);
        let look = || {
            let named = match place {
                Some((parent, _)) if self.coherence().is_some() => {
                    let parent = self.nodes.get(parent)?;
                    let directory = self.nodes.descriptor(&parent, &self.credentials)?;
                    self.names_hold(&parent, &directory)
                }
                _ => false,
            };
            let (stat, standing) = self.look(&node, reached.as_fd(), stat, 0)?;
            Ok::<_, Errno>(self.entry(node.id, &stat, standing, named))
        };
        match opened {
            Ok(open) => {
                let entry = look().unwrap_or_else(|_| self.entry(node.id, &stat, Standing::default(), false));
                reply.record(&entry);
                reply.record(&open);
                Ok(())
            }
            Err(errno) => {
                self.forget_node(node.id, 1);
                Err(errno)
            }
        }
    }

    pub(super) fn open_directory(&self, request: &mut Request<'_>, reply: &mut Reply<'_>) -> Result<()> {
        let record: OpenRequest = request.record()?;
        let node = self.nodes.get(request.header.node)?;
        if !node.is_directory() {
            return Err(Errno::NOTDIR);
        }
        let pin = node.pin();
        let reached = self.nodes.descriptor(&node, &self.credentials)?;
        let flags = OFlags::from_bits_retain(record.flags) & OFlags::NOATIME;
        let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::openat(rustix::fs::CWD, &*proc_path(&*reached), flags, Mode::empty())?;
        self.nodes.restore(&node, &reached);
        let cached = self.standing(&node, Some(reached.as_fd())).contents;
        let directory = OpenDirectory::new(descriptor, pin, cached);
        reply.record(&OpenReply {
            handle: self.handles.insert(Open::Directory(Arc::new(directory))),
            open_flags: if cached { open_reply_flag::KEEP_CACHE } else { 0 },
            backing: 0,
        });
        Ok(())
    }

    /// Closes what nobody has been told of.
    pub(super) fn close_early(&self, handle: u64) {
        drop(self.handles.remove(handle));
    }

    pub(super) fn release(&self, request: &mut Request<'_>) -> Result<()> {
        let record: ReleaseRequest = request.record()?;
        if record.release_flags & release_flag::REST != 0 {
            return self.rest(record.handle, request.header.node);
        }
        let Ok(open) = self.handles.find(record.handle, request.header.node)? else {
            drop(self.handles.remove(record.handle));
            return Ok(());
        };
        // A deputy may hold the same open file for its record locks, so closing is not enough.
        if record.release_flags & release_flag::FLOCK_UNLOCK != 0 {
            let _ = rustix::fs::flock(open.as_fd(), FlockOperation::Unlock);
        }
        if let Open::File(file) = &open
            && file.locks.load(Ordering::Relaxed)
        {
            let mut all = libc::flock {
                l_type: libc::F_UNLCK as i16,
                l_whence: libc::SEEK_SET as i16,
                l_start: 0,
                l_len: 0,
                l_pid: 0,
            };
            let _ = sys::description_lock(file.as_fd(), libc::F_OFD_SETLK, &mut all);
        }
        drop(open);
        // Closing may write to a network file system; it happens here, outside of the table's lock.
        drop(self.handles.remove(record.handle));
        Ok(())
    }

    /// True for requests that are to be served in the order in which they came, although nobody waits for them: writes of which
    /// the caller has been told that they are done, the opening of a file of which it has been told that it is open, the closing of one that
    /// others may be waiting to see closed, and where a job begins.
    pub fn is_in_order(&self, request: &[u8]) -> bool {
        let Ok(mut request) = Request::new(request) else {
            return false;
        };
        match Opcode::from_wire(request.header.opcode) {
            Some(Opcode::Write) => request
                .record::<WriteRequest>()
                .is_ok_and(|record| record.write_flags & write_flag::BEHIND != 0),
            Some(Opcode::Release | Opcode::ReleaseDirectory) => self.closes_in_order(&mut request),
            Some(Opcode::Open) => request
                .record::<OpenRequest>()
                .is_ok_and(|record| record.open_flags & OPEN_PROMISED != 0),
            Some(Opcode::Access) => request
                .record::<AccessRequest>()
                .is_ok_and(|record| record.mask & ACCESS_BEGINS != 0),
            _ => false,
        }
    }

    /// True if the file holds a lock, or keeps others from executing it.
    fn closes_in_order(&self, request: &mut Request<'_>) -> bool {
        let Ok(record) = request.record::<ReleaseRequest>() else {
            return false;
        };
        let file = match self.handles.find(record.handle, request.header.node) {
            Ok(Ok(Open::File(file))) => file,
            Ok(Ok(Open::Directory(directory))) => return directory.locks.load(Ordering::Relaxed),
            Ok(Err(_)) | Err(_) => return false,
        };
        // One that has no name left can be large, and its blocks be freed now: that may take long, and nobody sees it.
        file.locks.load(Ordering::Relaxed)
            || file.writes && stat_descriptor(&file.descriptor).is_ok_and(|status| status.stx_nlink > 0)
    }

    pub(super) fn flush(&self, request: &mut Request<'_>) -> Result<Outcome> {
        let record: FlushRequest = request.record()?;
        if let Ok(Open::File(file)) = self.handles.find(record.handle, request.header.node)? {
            // Network file systems report failed writes when a descriptor is closed.
            let copy = rustix::io::fcntl_dupfd_cloexec(file.as_fd(), 0)?;
            sys::close(copy)?;
        }
        Ok(Outcome::Flush {
            pid: request.header.pid,
            owner: record.lock_owner,
            node: request.header.node,
        })
    }
}
