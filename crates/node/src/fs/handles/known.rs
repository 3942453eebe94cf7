//! What the session knows of each home object: what it is ready for, who polls it, how it is used.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use afield_abi::fuse::Attributes;
use afield_link::hatch::Hatch;
use afield_link::wire::{HandleReply, NODE_HANDLE, deaf, note};

use super::streams::Streams;
use crate::fs::HANDLE;
use crate::fs::owners::Owner;
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
    /// Its size when home last told, if it has an offset: the node's kernel lets nobody touch what is mapped beyond it.
    pub(super) size: u64,
    /// A process that has read it through a mapping: in its name what was stored there is written.
    pub(super) mapper: u32,
    /// Job control applies to it.
    pub(super) terminal: bool,
    /// Home has said that it is none, which it stays.
    pub(super) no_terminal: bool,
    /// Open files of it in the world.
    pub(super) opens: u32,
    /// What it is ready for (`POLL*`); whatever is missing, home will tell. `None` if that has to be asked.
    pub(super) ready: Option<u32>,
    /// The process whose deputy tells.
    pub(super) watcher: u32,
    /// The last look of its that is known here.
    pub(super) look: u32,
    /// Programs want to know of every arrival (`EPOLLET`), not only of the first.
    pub(super) edge: bool,
    /// The agent keeps a copy for guests who get it from others.
    pub(super) shared: bool,
    /// It was opened at home to be passed on: when it is closed here it is no more.
    pub(super) passed: bool,
}

/// What a deputy saw when it looked at an object's readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// `POLL*`.
    pub events: u32,
    /// Its looks are numbered, and wrap.
    pub number: u32,
}

impl Look {
    fn is_newer_than(self, number: u32) -> bool {
        (self.number.wrapping_sub(number) as i32) > 0
    }
}

/// What a reply says of its object's readiness.
pub fn look_of(reply: &HandleReply) -> Option<Look> {
    (reply.notes.get() & note::READY != 0).then(|| Look {
        events: reply.ready.get(),
        number: reply.look.get(),
    })
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
    /// Connections of which home tells ahead.
    pub streams: Streams,
}

impl Handles {
    /// No objects yet. By the hatch, a home on this machine hands over connections.
    pub fn new(owner: Owner, hatch: Option<Hatch>) -> Self {
        Self {
            owner,
            known: Mutex::default(),
            watchers: Mutex::default(),
            pollers: Mutex::default(),
            streams: Streams::new(hatch),
        }
    }

    /// Attributes under which the node's kernel sees an object; what guests see is corrected at the end of their call.
    pub(super) fn stand_in(&self, node: u64) -> Attributes {
        let known = self.get(node & !HANDLE).filter(|_| node & HANDLE != 0);
        Attributes {
            inode: node,
            size: known.map_or(0, |known| known.size),
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
        if stream && handle & NODE_HANDLE != 0 {
            self.streams.opened(handle);
        }
    }

    /// A file was opened at home to be passed on, and guests' descriptors of it are to be of that.
    pub fn add_passed(&self, handle: u64, offset: i64) {
        self.add(handle, false, offset);
        self.change(handle, |known| known.passed = true);
    }

    /// Home has told the size of a file.
    pub fn set_size(&self, handle: u64, size: u64) {
        self.change(handle, |known| {
            if !known.stream {
                known.size = size;
            }
        });
    }

    /// An object is a terminal.
    pub fn mark_terminal(&self, handle: u64) {
        self.change(handle, |known| known.terminal = true);
    }

    /// An object is none, and will never be one.
    pub fn mark_no_terminal(&self, handle: u64) {
        self.change(handle, |known| known.no_terminal = true);
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
        self.streams.closed(handle);
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

    /// What a reply says of the object's readiness; `None`: it is not known any more.
    pub fn learn(&self, handle: u64, pid: u32, look: Option<Look>) {
        if let Some(look) = look {
            self.streams.told(handle, look.events);
        }
        self.change(handle, |known| match look {
            // News that were sent later have come already.
            Some(look) if known.watcher == pid && !look.is_newer_than(known.look) => {}
            Some(look) => {
                known.ready = Some(look.events);
                known.look = look.number;
                known.watcher = pid;
            }
            None => known.ready = None,
        });
    }

    /// Home tells that the object is ready.
    pub fn tell(&self, handle: u64, pid: u32, look: Look) {
        self.streams.told(handle, look.events);
        self.change(handle, |known| {
            if known.watcher != pid {
                known.ready = None;
                return;
            }
            if !look.is_newer_than(known.look) {
                return;
            }
            known.look = look.number;
            // Of a broken connection nothing more is told.
            let broken = look.events & (libc::POLLHUP | libc::POLLERR) as u32 != 0;
            known.ready = known.ready.filter(|_| !broken).map(|_| look.events);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_last_counts() {
        let handles = Handles::new((0, 0), None);
        let look = |events, number| Look { events, number };
        let ready = || handles.get(1).unwrap().ready;
        handles.add(1, true, 0);
        handles.tell(1, 7, look(1, 1));
        assert_eq!(ready(), None);
        handles.learn(1, 7, Some(look(4, u32::MAX)));
        // Sent before the reply to the read that took what there was, and the other way round.
        handles.learn(1, 7, Some(look(4, 1)));
        handles.tell(1, 7, look(5, 0));
        assert_eq!(ready(), Some(4));
        handles.tell(1, 7, look(5, 3));
        handles.learn(1, 7, Some(look(4, 2)));
        assert_eq!(ready(), Some(5));
        // Another process's deputy counts for itself.
        handles.tell(1, 8, look(1, 9));
        assert_eq!(ready(), None);
        handles.learn(1, 8, Some(look(4, 1)));
        assert_eq!(ready(), Some(4));
        handles.tell(1, 8, look(libc::POLLHUP as u32, 2));
        assert_eq!(ready(), None);
    }
}
