//! What the session knows of each home object: what it is ready for, who polls it, how it is used.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use afield_abi::fuse::Attributes;
use afield_link::wire::{deaf, note};

use crate::fs::owners::Owner;
use crate::session::Asking;
use crate::sys::signals;

/// Most processes that are woken for one object.
pub(super) const POLLERS_MAX: usize = 64;

/// What the node knows of a home object.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// It has no offset.
    pub(super) stream: bool,
    /// Where the node's kernel believes the shared offset to be, after the last operation that moved it.
    pub(super) offset: i64,
    /// Job control applies to it.
    pub(super) terminal: bool,
    /// Open files of it in the world.
    pub(super) opens: u32,
    /// What it is ready for (`POLL*`); whatever is missing, home will tell. `None` if that has to be asked.
    pub(super) ready: Option<u32>,
    /// The process whose deputy tells.
    pub(super) watcher: u32,
    /// How often it has.
    pub(super) told: u32,
    /// Programs want to know of every arrival (`EPOLLET`), not only of the first.
    pub(super) edge: bool,
    /// The agent keeps a copy for guests who get it from others.
    pub(super) shared: bool,
}

/// The home objects of a session.
#[derive(Debug)]
pub struct Handles {
    /// Whom they are shown to belong to: one whom the world knows.
    owner: Owner,
    known: Mutex<HashMap<u64, Known>>,
    /// Polling open files, in the kernel's numbering, by handle.
    watchers: Mutex<HashMap<u64, Vec<u64>>>,
    /// Processes that have polled objects, by handle.
    pollers: Mutex<HashMap<u64, Vec<u32>>>,
}

impl Handles {
    /// No objects yet.
    pub fn new(owner: Owner) -> Self {
        Self {
            owner,
            known: Mutex::default(),
            watchers: Mutex::default(),
            pollers: Mutex::default(),
        }
    }

    /// Attributes under which the node's kernel sees an object; what guests see is corrected at the end of their call.
    pub(super) fn stand_in(&self, node: u64) -> Attributes {
        Attributes {
            inode: node,
            mode: libc::S_IFREG | 0o666,
            links: 1,
            block_size: 4096,
            uid: self.owner.0,
            gid: self.owner.1,
            ..Attributes::default()
        }
    }

    pub(super) fn known(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an object known.
    pub fn add(&self, handle: u64, stream: bool, offset: i64) {
        let known = Known {
            stream,
            offset,
            ..Known::default()
        };
        self.known().insert(handle, known);
    }

    /// An object is a terminal.
    pub fn mark_terminal(&self, handle: u64) {
        self.change(handle, |known| known.terminal = true);
    }

    /// What home has to know of a thread's signals for an operation on this object; see [`deaf`].
    pub fn deafness(&self, tid: i32, handle: u64) -> u32 {
        if !self.get(handle).is_some_and(|known| known.terminal) {
            return 0;
        }
        let Ok(state) = signals::State::of(tid) else {
            return 0;
        };
        let deaf_to = state.blocked | state.ignored;
        let mut flags = 0;
        for (signal, flag) in [(libc::SIGTTIN, deaf::TO_INPUT), (libc::SIGTTOU, deaf::TO_OUTPUT)] {
            if deaf_to & signals::bit(signal) != 0 {
                flags |= flag;
            }
        }
        flags
    }

    pub(super) fn get(&self, handle: u64) -> Option<Known> {
        self.known().get(&handle).copied()
    }

    pub(super) fn change<T>(&self, handle: u64, change: impl FnOnce(&mut Known) -> T) -> Option<T> {
        self.known().get_mut(&handle).map(change)
    }

    /// An object is no more.
    pub fn forget(&self, handle: u64) {
        self.known().remove(&handle);
        self.take_watchers(handle);
        self.pollers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&handle);
    }

    /// True if the object has an offset that is shared with home.
    pub fn is_seekable(&self, handle: u64) -> bool {
        self.get(handle).is_some_and(|known| !known.stream)
    }

    /// Sets where the node's kernel believes the offset to be.
    pub fn set_offset(&self, handle: u64, offset: i64) {
        self.change(handle, |known| known.offset = offset);
    }

    pub(super) fn advance(&self, handle: u64, count: i64) {
        self.change(handle, |known| known.offset += count);
    }

    /// How often home has told that the object is ready: goes with a question, for [`Self::learn`].
    pub fn ask(&self, handle: u64) -> Asking {
        let told = self.get(handle).map_or(0, |known| known.told);
        Asking { handle, told }
    }

    /// What a reply says of the object's readiness; without [`note::READY`] that it is not known any more.
    pub fn learn(&self, asking: Asking, pid: u32, ready: u32, notes: u32) {
        self.change(asking.handle, |known| {
            if notes & note::READY == 0 {
                known.ready = None;
                return;
            }
            // What home told since the question may be newer than the reply.
            let since = if known.told == asking.told {
                0
            } else {
                known.ready.unwrap_or_default()
            };
            known.ready = Some(ready | since);
            known.watcher = pid;
        });
    }

    /// Home tells that the object is ready.
    pub fn tell(&self, handle: u64, pid: u32, events: u32) {
        self.change(handle, |known| {
            known.told = known.told.wrapping_add(1);
            // Of a broken connection nothing more is told.
            let broken = events & (libc::POLLHUP | libc::POLLERR) as u32 != 0;
            known.ready = match known.ready {
                Some(ready) if known.watcher == pid && !broken => Some(ready | events),
                _ => None,
            };
        });
    }

    /// Programs want to know of every arrival from now on.
    pub fn want_edges(&self, handle: u64) {
        self.change(handle, |known| {
            if !std::mem::replace(&mut known.edge, true) {
                known.ready = None;
            }
        });
    }

    /// The agent keeps a copy of it.
    pub fn set_shared(&self, handle: u64) {
        self.change(handle, |known| known.shared = true);
    }

    /// Those who poll an object, who will have to ask again.
    pub fn take_watchers(&self, handle: u64) -> Vec<u64> {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.remove(&handle).unwrap_or_default()
    }

    /// How many processes are to be woken when an object is ready: each wake reaches one of those that wait exclusively
    /// (`EPOLLEXCLUSIVE`), and that may be one for which another has taken what there was.
    pub fn poller_count(&self, handle: u64) -> usize {
        let pollers = self.pollers.lock().unwrap_or_else(PoisonError::into_inner);
        pollers.get(&handle).map_or(1, Vec::len)
    }

    pub(super) fn note_poller(&self, handle: u64, pid: u32) {
        let mut pollers = self.pollers.lock().unwrap_or_else(PoisonError::into_inner);
        let list = pollers.entry(handle).or_default();
        if !list.contains(&pid) {
            if list.len() >= POLLERS_MAX {
                list.remove(0);
            }
            list.push(pid);
        }
    }

    pub(super) fn watch(&self, handle: u64, kernel_handle: u64) {
        let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        let list = watchers.entry(handle).or_default();
        if !list.contains(&kernel_handle) {
            list.push(kernel_handle);
        }
    }
}

/// The kernel has several bits for what is one thing here.
pub(super) fn poll_events(ready: u32) -> u32 {
    let mut events = ready;
    if ready & libc::POLLIN as u32 != 0 {
        events |= libc::POLLRDNORM as u32;
    }
    if ready & libc::POLLOUT as u32 != 0 {
        events |= libc::POLLWRNORM as u32;
    }
    events
}
