//! Which home objects are ready: told to the node ahead of being asked, so that polling costs no round trip.
//!
//! An object is *polled* once the guest has asked for its readiness. From then on, after every operation on it, its readiness goes
//! along with the reply, and what it is not ready for is watched: [`FromDeputy::Ready`](crate::messages::FromDeputy::Ready)
//! follows when it comes. So the node always knows. That holds for objects that guests have opened themselves; of others somebody
//! else at home may take what there was to read, so they are asked for every time.

use std::collections::{HashMap, HashSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, OnceLock};

use afield_link::wire::{NODE_HANDLE, note};
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::{lock, out_of_the_way};
use crate::messages::FromDeputy;
use crate::sys::stream::{self, Course};

/// Most objects watched for one guest. More are asked for every time and wait in vain only for what no program waits for
/// with so many descriptors.
const WATCHED_MAX: usize = 1 << 20;

const EVENTS: usize = 64;

/// What is watched.
#[derive(Debug, Default)]
pub struct Readiness {
    /// Made when the main thread first watches something: most guests poll nothing of home's.
    epoll: OnceLock<OwnedFd>,
    watched: Mutex<Watched>,
    /// What the agent watches.
    left: Mutex<HashSet<u64>>,
}

/// All that is watched. Whoever looks at a watched object holds this, so that looks have an order.
#[derive(Debug, Default)]
struct Watched {
    objects: HashMap<u64, Watch>,
    looks: u32,
}

#[derive(Debug, Clone, Copy)]
struct Watch {
    /// What will be told.
    armed: PollFlags,
    /// Everything is told, as often as it comes.
    edge: bool,
}

/// What one look at an object says to the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// `POLL*`.
    pub ready: u32,
    /// [`note::READY`] or nothing.
    pub notes: u32,
    /// The number of the look.
    pub look: u32,
}

fn watched_events() -> PollFlags {
    PollFlags::from_bits_truncate(note::WATCHED as u16)
}

fn broken() -> PollFlags {
    PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL
}

impl Readiness {
    /// Readable when there is something to tell.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.epoll.get().map(AsFd::as_fd)
    }

    fn epoll(&self) -> io::Result<&OwnedFd> {
        if let Some(epoll) = self.epoll.get() {
            return Ok(epoll);
        }
        let made = out_of_the_way(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        Ok(self.epoll.get_or_init(|| made))
    }

    /// The guest asks what the object is ready for, and wants to be told of `events` that are not there if `notify`; with
    /// `edge` of everything, from now on.
    pub fn ask(
        &self,
        handle: u64,
        file: BorrowedFd<'_>,
        events: PollFlags,
        notify: bool,
        edge: bool,
    ) -> (PollFlags, Known) {
        if !self.is_told(handle) {
            let ready = ready_for(file, events);
            if notify && !ready.intersects(events | broken()) {
                self.arm(&mut lock(&self.watched), handle, file, events, false);
            }
            return (ready, Known::default());
        }
        let mut watched = lock(&self.watched);
        if edge {
            self.arm(&mut watched, handle, file, watched_events(), true);
        }
        let ready = ready_for(file, events | watched_events());
        let known = if notify || watched.objects.contains_key(&handle) {
            self.settle(&mut watched, handle, file, ready)
        } else {
            Known::default()
        };
        (ready, known)
    }

    /// What goes along with the reply to an operation.
    pub fn after(&self, handle: u64, file: BorrowedFd<'_>) -> Known {
        if !self.is_told(handle) {
            return Known::default();
        }
        let mut watched = lock(&self.watched);
        if !watched.objects.contains_key(&handle) {
            return Known::default();
        }
        let ready = ready_for(file, watched_events());
        self.settle(&mut watched, handle, file, ready)
    }

    /// Has what is not there watched, after the look: what came in between is told at once.
    fn settle(&self, watched: &mut Watched, handle: u64, file: BorrowedFd<'_>, ready: PollFlags) -> Known {
        // Of a broken connection everything would be told for ever.
        if ready.intersects(broken()) || !self.arm(watched, handle, file, watched_events() - ready, false) {
            return Known::default();
        }
        watched.looks = watched.looks.wrapping_add(1);
        Known {
            ready: u32::from(ready.bits()),
            notes: note::READY,
            look: watched.looks,
        }
    }

    /// True if all `events` will be told.
    fn arm(
        &self,
        watched: &mut Watched,
        handle: u64,
        file: BorrowedFd<'_>,
        events: PollFlags,
        edge: bool,
    ) -> bool {
        let Ok(epoll) = self.epoll() else {
            return false;
        };
        let watched = &mut watched.objects;
        let data = epoll::EventData::new_u64(handle);
        match watched.get_mut(&handle) {
            Some(watch) if watch.edge => true,
            Some(watch) => {
                let armed = watch.armed | events;
                if armed == watch.armed && !edge {
                    return true;
                }
                if epoll::modify(epoll, file, data, flags(armed, edge)).is_err() {
                    return false;
                }
                *watch = Watch { armed, edge };
                true
            }
            None => {
                if watched.len() >= WATCHED_MAX || epoll::add(epoll, file, data, flags(events, edge)).is_err()
                {
                    return false;
                }
                watched.insert(handle, Watch { armed: events, edge });
                true
            }
        }
    }

    /// Whether the node is told of its readiness unasked.
    fn is_told(&self, handle: u64) -> bool {
        handle & NODE_HANDLE != 0 && !lock(&self.left).contains(&handle)
    }

    /// What has been left to the agent, for a child to know.
    pub fn left(&self) -> HashSet<u64> {
        lock(&self.left).clone()
    }

    /// The same in the child.
    pub fn inherit(&self, left: HashSet<u64>) {
        *lock(&self.left) = left;
    }

    /// Leaves a connection to the agent: only what is asked for is told from now on. Gives its course until then.
    pub fn leave(&self, handle: u64, file: BorrowedFd<'_>) -> Course {
        let course = course_of(file);
        self.forget(handle, file);
        lock(&self.left).insert(handle);
        course
    }

    /// The object is closed.
    pub fn forget(&self, handle: u64, file: BorrowedFd<'_>) {
        lock(&self.left).remove(&handle);
        if lock(&self.watched).objects.remove(&handle).is_some()
            && let Some(epoll) = self.epoll.get()
        {
            // Others may have the same open file: closing it here does not end the watching.
            let _ = epoll::delete(epoll, file);
        }
    }

    /// Another descriptor stands for the object from now on: what is watched is found by descriptors.
    pub fn moved(&self, handle: u64, from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
        let watched = lock(&self.watched);
        if let (Some(epoll), Some(watch)) = (self.epoll.get(), watched.objects.get(&handle)) {
            let data = epoll::EventData::new_u64(handle);
            // If that fails it goes on being told as it is.
            if epoll::add(epoll, to, data, flags(watch.armed, watch.edge)).is_ok() {
                let _ = epoll::delete(epoll, from);
            }
        }
    }

    /// Gives what there is to tell. `file` finds a handle's object.
    pub fn take(&self, file: impl Fn(u64) -> Option<std::sync::Arc<OwnedFd>>) -> Vec<FromDeputy> {
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let Some(epoll) = self.epoll.get() else {
            return Vec::new();
        };
        let Ok((events, _)) = epoll::wait(epoll, &mut events[..], Some(&now)) else {
            return Vec::new();
        };
        let mut told = Vec::with_capacity(events.len());
        for event in events.iter() {
            let handle = event.data.u64();
            let Some(file) = file(handle) else {
                continue;
            };
            let mut watched = lock(&self.watched);
            let Watched { objects, looks } = &mut *watched;
            let Some(watch) = objects.get_mut(&handle) else {
                continue;
            };
            // An operation may have taken what there was, and have said so.
            let known = self.is_told(handle);
            let asked = if known { watched_events() } else { watch.armed };
            let ready = ready_for(file.as_fd(), asked);
            let news = ready.intersects(watch.armed | broken());
            if !watch.edge {
                watch.armed = match (ready.intersects(broken()), known) {
                    (true, _) => PollFlags::empty(),
                    (false, true) => watched_events() - ready,
                    (false, false) => watch.armed - ready,
                };
                // It told once; what is still missing has to be asked for again.
                if !watch.armed.is_empty() {
                    let data = epoll::EventData::new_u64(handle);
                    let _ = epoll::modify(epoll, &*file, data, flags(watch.armed, false));
                }
            }
            if news {
                *looks = looks.wrapping_add(1);
                told.push(FromDeputy::Ready {
                    handle,
                    events: u32::from(ready.bits()),
                    look: *looks,
                });
            }
        }
        told
    }
}

fn flags(events: PollFlags, edge: bool) -> epoll::EventFlags {
    let mode = if edge {
        epoll::EventFlags::ET
    } else {
        epoll::EventFlags::ONESHOT
    };
    epoll::EventFlags::from_bits_retain(u32::from(events.bits())) | mode
}

/// A connection's course so far.
pub fn course_of(file: BorrowedFd<'_>) -> Course {
    stream::course(file, ready_for(file, watched_events()).bits())
}

/// What the object is ready for now.
pub fn ready_for(file: BorrowedFd<'_>, events: PollFlags) -> PollFlags {
    let mut polls = [PollFd::from_borrowed_fd(file, events)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    match poll(&mut polls, Some(&now)) {
        Ok(_) => polls[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}
