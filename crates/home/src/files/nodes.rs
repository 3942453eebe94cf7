//! The inodes that a node's kernel knows, and how to reach them.
//!
//! An inode has one [`Node`] however many names lead to it, found by its [`Identity`]. It stays until the kernel forgets all
//! its lookups; its id is never used again. What reaches it is an `O_PATH` descriptor, so that a file that was looked up can be
//! opened whatever becomes of its name in between. Descriptors are bounded; those longest unused are closed, and opened again by
//! directory and name, where the identity must be the same (`ESTALE` if it is not, on which a kernel looks the path up
//! again). A node that is open, or whose last name the node itself removed, keeps its descriptor.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use afield_abi::fuse::ROOT_NODE;
use rustix::fs::{AtFlags, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::Result;
use super::credentials::Credentials;
use super::hash::Mixing;
use super::open::OpenFile;
use crate::coherence::{Mark, Ways};

/// Most directories that are opened again on the way to one node.
const DEPTH_MAX: usize = 4096;

/// What is asked of `statx` wherever a node's identity matters.
const STATX_WANTED: StatxFlags = StatxFlags::BASIC_STATS
    .union(StatxFlags::BTIME)
    .union(StatxFlags::MNT_ID);

/// What makes an inode the same one. The mount is part of it: what can be done with an inode, and what lies beneath a
/// directory, differs between mounts of one file system. The time of birth tells apart inodes that used the same number one
/// after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The mount's number.
    pub mount: u64,
    /// `st_dev`, major number in the high half.
    pub device: u64,
    inode: u64,
    birth_seconds: i64,
    birth_nanoseconds: u32,
    /// `S_IFMT` bits.
    pub kind: u32,
}

impl Identity {
    /// Takes what counts from a `statx`.
    pub fn of(stat: &Statx) -> Self {
        Self {
            mount: stat.stx_mnt_id,
            device: device_of(stat),
            inode: stat.stx_ino,
            birth_seconds: stat.stx_btime.tv_sec,
            birth_nanoseconds: stat.stx_btime.tv_nsec,
            kind: u32::from(stat.stx_mode) & libc::S_IFMT,
        }
    }
}

/// The device number as one number.
pub fn device_of(stat: &Statx) -> u64 {
    u64::from(stat.stx_dev_major) << 32 | u64::from(stat.stx_dev_minor)
}

/// `statx` of a descriptor.
pub fn stat_descriptor(file: impl AsFd) -> Result<Statx> {
    rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, STATX_WANTED)
}

/// `statx` of a name, without following a link or mounting anything.
pub fn stat_name(directory: impl AsFd, name: &CStr) -> Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(directory, name, flags, STATX_WANTED)
}

/// An `O_PATH` descriptor that counts against the budget.
#[derive(Debug)]
pub struct PathDescriptor {
    descriptor: OwnedFd,
    count: Arc<AtomicUsize>,
}

impl AsFd for PathDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for PathDescriptor {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Place {
    parent: u64,
    name: CString,
}

/// An inode that the node's kernel knows.
#[derive(Debug)]
pub struct Node {
    /// Its number between the two kernels.
    pub id: u64,
    /// What it is.
    pub identity: Identity,
    /// Where it was last found; `None` if it never had a name that we know.
    place: Mutex<Option<Place>>,
    /// The way to it, if there is one open.
    descriptor: Mutex<Option<Arc<PathDescriptor>>>,
    /// Lookups that the kernel has not forgotten. Changed only under the lock of its identity's shard.
    lookups: AtomicU64,
    /// Open files and directories of it: while there are any, the descriptor stays.
    pins: AtomicU32,
    /// Its last name may be gone, so that it could not be opened again.
    nameless: AtomicBool,
    /// The table's clock when it was last used.
    touched: AtomicU64,
    /// By which it is watched.
    mark: Mutex<Option<Arc<Mark>>>,
    /// Who has opened it last, only to read.
    reader: Mutex<Weak<OpenFile>>,
    /// It cannot be.
    unwatchable: AtomicBool,
    /// Which contents the node was told all hashes of; 0: none.
    pub told: AtomicU64,
}

impl Node {
    fn new(id: u64, identity: Identity, place: Option<Place>) -> Self {
        Self {
            id,
            identity,
            place: Mutex::new(place),
            descriptor: Mutex::new(None),
            lookups: AtomicU64::new(0),
            pins: AtomicU32::new(0),
            nameless: AtomicBool::new(false),
            touched: AtomicU64::new(0),
            mark: Mutex::new(None),
            reader: Mutex::default(),
            unwatchable: AtomicBool::new(false),
            told: AtomicU64::new(0),
        }
    }

    /// The mark by which it is, or was, watched.
    pub fn mark(&self) -> Option<Arc<Mark>> {
        lock(&self.mark).clone()
    }

    /// Somebody has it open, only to read.
    pub fn set_reader(&self, reader: &Arc<OpenFile>) {
        *lock(&self.reader) = Arc::downgrade(reader);
    }

    /// It is watched now.
    pub fn set_mark(&self, mark: &Arc<Mark>) {
        *lock(&self.mark) = Some(Arc::clone(mark));
    }

    /// It was found that it cannot be watched.
    pub fn is_unwatchable(&self) -> bool {
        self.unwatchable.load(Ordering::Relaxed)
    }

    /// It cannot be watched.
    pub fn set_unwatchable(&self) {
        self.unwatchable.store(true, Ordering::Relaxed);
    }

    /// True for directories.
    pub fn is_directory(&self) -> bool {
        self.identity.kind == libc::S_IFDIR
    }

    /// How often the kernel was told of it and has not forgotten it.
    pub fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }

    /// Keeps the descriptor until the guard is dropped.
    pub fn pin(self: &Arc<Self>) -> Pin {
        self.pins.fetch_add(1, Ordering::Relaxed);
        Pin(Arc::clone(self))
    }

    /// Whether it, or its listing, is open.
    pub fn is_open(&self) -> bool {
        self.pins.load(Ordering::Relaxed) > 0
    }

    /// The descriptor, if it is open.
    pub fn resident(&self) -> Option<Arc<PathDescriptor>> {
        lock(&self.descriptor).clone()
    }

    fn is_evictable(&self) -> bool {
        self.pins.load(Ordering::Relaxed) == 0 && !self.nameless.load(Ordering::Relaxed)
    }
}

/// Keeps a node's descriptor open.
#[derive(Debug)]
pub struct Pin(pub Arc<Node>);

impl Clone for Pin {
    fn clone(&self) -> Self {
        self.0.pin()
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.0.pins.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Parts that the index is cut into, so that threads rarely meet at a lock.
const SHARDS: usize = 16;

/// The table of nodes. Its locks are never held across a system call. An identity's shard is locked before an id's.
#[derive(Debug)]
pub struct Nodes {
    by_id: [RwLock<HashMap<u64, Arc<Node>, Mixing>>; SHARDS],
    by_identity: [Mutex<HashMap<Identity, Arc<Node>, Mixing>>; SHARDS],
    next_id: AtomicU64,
    /// Descriptors open now.
    open_count: Arc<AtomicUsize>,
    /// How many may be open.
    budget: usize,
    /// Advances with every descriptor opened and every [`trim`](Self::trim).
    clock: AtomicU64,
    /// The clock at the last two trims, older first.
    trimmed: Mutex<[u64; 2]>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nodes {
    /// A table that knows the root, and may hold about `budget` descriptors.
    pub fn new(root: OwnedFd, identity: Identity, budget: usize) -> Self {
        let nodes = Self {
            by_id: Default::default(),
            by_identity: Default::default(),
            next_id: AtomicU64::new(ROOT_NODE),
            open_count: Arc::default(),
            budget: budget.max(1),
            clock: AtomicU64::new(1),
            trimmed: Mutex::new([0; 2]),
        };
        let node = nodes.enter(identity, None);
        node.pins.store(1, Ordering::Relaxed);
        nodes.keep(&node, root);
        nodes
    }

    fn ids(&self, id: u64) -> &RwLock<HashMap<u64, Arc<Node>, Mixing>> {
        &self.by_id[id as usize % SHARDS]
    }

    fn identities(&self, identity: &Identity) -> MutexGuard<'_, HashMap<Identity, Arc<Node>, Mixing>> {
        lock(&self.by_identity[identity.inode as usize % SHARDS])
    }

    /// The node with this id.
    pub fn get(&self, id: u64) -> Result<Arc<Node>> {
        let shard = self.ids(id).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&id).cloned().ok_or(Errno::STALE)
    }

    /// The node with this identity, made if need be, with one more lookup. `place` is where it was found.
    pub fn enter(&self, identity: Identity, place: Option<(u64, &CStr)>) -> Arc<Node> {
        let mut shard = self.identities(&identity);
        let entry = match shard.entry(identity) {
            Entry::Occupied(entry) => {
                let node = Arc::clone(entry.get());
                node.lookups.fetch_add(1, Ordering::Relaxed);
                drop(shard);
                self.place(&node, place);
                return node;
            }
            Entry::Vacant(entry) => entry,
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let place = place.map(|(parent, name)| Place {
            parent,
            name: name.to_owned(),
        });
        let node = Arc::new(Node::new(id, identity, place));
        node.lookups.store(1, Ordering::Relaxed);
        let mut ids = self.ids(id).write().unwrap_or_else(PoisonError::into_inner);
        ids.insert(id, Arc::clone(&node));
        entry.insert(Arc::clone(&node));
        node
    }

    /// Counts one more lookup of a node that is known already.
    pub fn enter_again(&self, node: &Arc<Node>) {
        let mut shard = self.identities(&node.identity);
        let mut ids = self.ids(node.id).write().unwrap_or_else(PoisonError::into_inner);
        // It may have been forgotten since it was found.
        ids.entry(node.id).or_insert_with(|| Arc::clone(node));
        shard.entry(node.identity).or_insert_with(|| Arc::clone(node));
        node.lookups.fetch_add(1, Ordering::Relaxed);
    }

    /// The node with this identity, if there is one.
    pub fn find(&self, identity: &Identity) -> Option<Arc<Node>> {
        self.identities(identity).get(identity).cloned()
    }

    /// Makes room for a node that has taken over the number of one that is gone: where times of birth are not kept, as on
    /// the file system of pseudo-terminals, nothing else tells them apart. The former keeps its id.
    pub fn supersede(&self, identity: &Identity) {
        if (identity.birth_seconds, identity.birth_nanoseconds) != (0, 0) || identity.kind != libc::S_IFCHR {
            return;
        }
        let Some(node) = self.find(identity) else { return };
        let is_gone = node
            .resident()
            .is_some_and(|descriptor| stat_descriptor(&*descriptor).is_ok_and(|stat| stat.stx_nlink == 0));
        if is_gone {
            let mut shard = self.identities(identity);
            if shard.get(identity).is_some_and(|other| Arc::ptr_eq(other, &node)) {
                shard.remove(identity);
            }
        }
    }

    /// Counts a lookup of the node with this identity if it is known and can be reached without opening anything.
    pub fn enter_resident(&self, identity: &Identity, place: (u64, &CStr)) -> Option<Arc<Node>> {
        let shard = self.identities(identity);
        let node = Arc::clone(shard.get(identity)?);
        if lock(&node.descriptor).is_none() {
            return None;
        }
        node.lookups.fetch_add(1, Ordering::Relaxed);
        drop(shard);
        node.touched
            .store(self.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        self.place(&node, Some(place));
        Some(node)
    }

    /// Notes where a node is now.
    pub fn place(&self, node: &Node, place: Option<(u64, &CStr)>) {
        let Some((parent, name)) = place else { return };
        let mut current = lock(&node.place);
        if current
            .as_ref()
            .is_none_or(|place| place.parent != parent || *place.name != *name)
        {
            *current = Some(Place {
                parent,
                name: name.to_owned(),
            });
        }
        drop(current);
        // It has a name again, or another one.
        node.nameless.store(false, Ordering::Relaxed);
    }

    /// Takes off lookups; the node goes when none is left, and is given to the caller.
    pub fn forget(&self, id: u64, lookups: u64) -> Option<Arc<Node>> {
        let node = self.get(id).ok()?;
        let mut shard = self.identities(&node.identity);
        let left = node.lookups.load(Ordering::Relaxed).saturating_sub(lookups);
        node.lookups.store(left, Ordering::Relaxed);
        if left > 0 || id == ROOT_NODE {
            return None;
        }
        let mut ids = self.ids(id).write().unwrap_or_else(PoisonError::into_inner);
        let by_id = ids.remove(&id);
        let is_this = shard
            .get(&node.identity)
            .is_some_and(|other| Arc::ptr_eq(other, &node));
        let by_identity = if is_this {
            shard.remove(&node.identity)
        } else {
            None
        };
        drop(ids);
        drop(shard);
        // Closing the last way to a removed file frees its blocks, which may take long.
        drop((by_id, by_identity));
        Some(node)
    }

    /// A descriptor that reaches the node, opened again if need be.
    pub fn descriptor(&self, node: &Arc<Node>, credentials: &Credentials) -> Result<Arc<PathDescriptor>> {
        node.touched
            .store(self.clock.load(Ordering::Relaxed), Ordering::Relaxed);
        match node.resident() {
            Some(descriptor) => Ok(descriptor),
            None => credentials.as_service(|| self.reopen(node)),
        }
    }

    /// Attributes of a node, by its descriptor if there is one, else by its name.
    pub fn stat(&self, node: &Arc<Node>, credentials: &Credentials) -> Result<Statx> {
        if let Some(descriptor) = node.resident() {
            return stat_descriptor(&*descriptor);
        }
        let found = match &*lock(&node.place) {
            Some(place) => (place.parent, place.name.clone()),
            None => return Err(Errno::STALE),
        };
        let (parent, name) = found;
        let parent = self.get(parent)?;
        let directory = self.descriptor(&parent, credentials)?;
        let stat = credentials.as_service(|| stat_name(&*directory, &name).map_err(gone_is_stale))?;
        if Identity::of(&stat) == node.identity {
            return Ok(stat);
        }
        // Opened by another thread just before its name went?
        match node.resident() {
            Some(descriptor) => stat_descriptor(&*descriptor),
            None => Err(Errno::STALE),
        }
    }

    /// Gives a node its descriptor, unless it has one, and returns the one it has.
    pub fn keep(&self, node: &Node, descriptor: OwnedFd) -> Arc<PathDescriptor> {
        self.open_count.fetch_add(1, Ordering::Relaxed);
        let fresh = Arc::new(PathDescriptor {
            descriptor,
            count: Arc::clone(&self.open_count),
        });
        let clock = self.clock.fetch_add(1, Ordering::Relaxed);
        node.touched.store(clock, Ordering::Relaxed);
        let mut slot = lock(&node.descriptor);
        let kept = Arc::clone(slot.get_or_insert_with(|| Arc::clone(&fresh)));
        drop(slot);
        drop(fresh);
        if self.open_count.load(Ordering::Relaxed) > self.budget {
            self.evict(node);
        }
        kept
    }

    /// Puts a descriptor back that an eviction may have taken in the meantime; for nodes that were just pinned.
    pub fn restore(&self, node: &Node, descriptor: &Arc<PathDescriptor>) {
        lock(&node.descriptor).get_or_insert_with(|| Arc::clone(descriptor));
    }

    /// Makes sure that a node, if it is known, can be reached after a name of it is gone.
    pub fn survive_unlink(&self, identity: &Identity, credentials: &Credentials) -> Option<Arc<Node>> {
        let node = self.find(identity)?;
        self.descriptor(&node, credentials).ok()?;
        node.nameless.store(true, Ordering::Relaxed);
        Some(node)
    }

    /// Says that a name of the node is gone now. Somebody may have looked it up just before.
    pub fn unlinked(&self, node: &Node) {
        node.nameless.store(true, Ordering::Relaxed);
    }

    /// Closes descriptors that have not been used since the call before the last. To be called every few seconds, so
    /// that an idle session holds no file system and no removed file.
    pub fn trim(&self) {
        let mut trimmed = lock(&self.trimmed);
        let limit = trimmed[0];
        *trimmed = [trimmed[1], self.clock.fetch_add(1, Ordering::Relaxed)];
        drop(trimmed);
        for (_, node) in self.candidates(limit) {
            close(&node);
        }
    }

    /// A node that was only looked at does not keep its file system from being unmounted.
    pub fn let_go(&self, node: &Node) {
        close(node);
    }

    /// True if there is room for descriptors that are kept for good.
    pub fn has_room(&self) -> bool {
        self.open_count() < self.budget / 2
    }

    /// Descriptors open now.
    pub fn open_count(&self) -> usize {
        self.open_count.load(Ordering::Relaxed)
    }

    /// Nodes that the kernel has not forgotten, the root included.
    pub fn count(&self) -> usize {
        let shards = self.by_id.iter();
        shards
            .map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }

    /// Nodes whose descriptors may be closed and were last used before `limit`.
    fn candidates(&self, limit: u64) -> Vec<(u64, Arc<Node>)> {
        let mut all = Vec::new();
        for shard in &self.by_id {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            all.extend(shard.values().filter_map(|node| {
                let touched = node.touched.load(Ordering::Relaxed);
                let open = touched < limit && node.is_evictable() && lock(&node.descriptor).is_some();
                open.then(|| (touched, Arc::clone(node)))
            }));
        }
        all
    }

    /// Closes the quarter of all descriptors that was longest unused, but for `spared`.
    fn evict(&self, spared: &Node) {
        let mut candidates = self.candidates(u64::MAX);
        candidates.retain(|(_, node)| node.id != spared.id);
        let count = (self.budget / 4).max(1).min(candidates.len());
        if count == 0 {
            return;
        }
        candidates.select_nth_unstable_by_key(count - 1, |(touched, _)| *touched);
        for (_, node) in &candidates[..count] {
            close(node);
        }
    }

    fn reopen(&self, node: &Arc<Node>) -> Result<Arc<PathDescriptor>> {
        let mut chain = Vec::new();
        let mut current = Arc::clone(node);
        let mut descriptor = loop {
            if let Some(descriptor) = current.resident() {
                break descriptor;
            }
            let (parent, name) = match &*lock(&current.place) {
                Some(place) => (place.parent, place.name.clone()),
                None => return Err(Errno::STALE),
            };
            chain.push((current, name));
            if chain.len() > DEPTH_MAX {
                return Err(Errno::STALE);
            }
            current = self.get(parent)?;
        };
        while let Some((next, name)) = chain.pop() {
            let opened = open_path(&*descriptor, &name).map_err(gone_is_stale)?;
            if Identity::of(&stat_descriptor(&opened)?) != next.identity {
                return Err(Errno::STALE);
            }
            descriptor = self.keep(&next, opened);
        }
        Ok(descriptor)
    }
}

impl Ways for Nodes {
    fn lend(&self, node: u64, look: &mut dyn FnMut(BorrowedFd<'_>)) -> bool {
        let descriptor = self.get(node).ok().and_then(|node| node.resident());
        descriptor.map(|descriptor| look(descriptor.as_fd())).is_some()
    }

    fn lend_open(&self, node: u64, look: &mut dyn FnMut(BorrowedFd<'_>)) -> bool {
        let reader = self.get(node).ok().and_then(|node| lock(&node.reader).upgrade());
        reader.map(|reader| look((*reader).as_fd())).is_some()
    }
}

/// Closes a node's descriptor if that is still possible; not under the node's lock.
fn close(node: &Node) {
    let mut descriptor = lock(&node.descriptor);
    let taken = if node.is_evictable() {
        descriptor.take()
    } else {
        None
    };
    drop(descriptor);
    drop(taken);
}

/// An `O_PATH` descriptor of a name, not following a link.
pub fn open_path(directory: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

/// A node that is not at its place any more is stale, not missing: the kernel then looks the path up again.
fn gone_is_stale(errno: Errno) -> Errno {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Errno::STALE,
        other => other,
    }
}
