//! What a guest passes to a guest over a socket of home's: the open file itself.
//!
//! At home a stand-in travels in its place; the thing itself waits for the guest that gets the stand-in. Whoever else got it would have
//! nothing, so it is sent only to peers that are guests of this session.
//!
//! What is the node's own (a pipe, an event counter, a memory file) waits here. A file of home's tree waits with init: the
//! session must not hold one (see [`crate::installer`]).

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::installer::{Installer, Kept};
use crate::sys::errno;
use crate::sys::seccomp::Listener;

/// Most that wait at a time.
const WAITING_MAX: usize = 4096;

/// Descriptors by the numbers of their stand-ins.
#[derive(Debug, Default)]
pub struct Promises {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    places: HashMap<u64, Place>,
}

/// Where something waits.
#[derive(Debug)]
enum Place {
    Here(OwnedFd),
    Init {
        /// It is a way only (`O_PATH`).
        only_path: bool,
    },
}

/// A descriptor that a guest has been given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// Its number there.
    pub number: i32,
    /// It is a socket, out of which the guest has to take it.
    pub in_socket: bool,
}

impl Promises {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, place: Place) -> Result<u64, i32> {
        let mut waiting = self.waiting();
        if waiting.places.len() >= WAITING_MAX {
            return Err(libc::ETOOMANYREFS);
        }
        waiting.last += 1;
        let number = waiting.last;
        waiting.places.insert(number, place);
        Ok(number)
    }

    /// Keeps a descriptor. Its number.
    ///
    /// # Errors
    /// `ETOOMANYREFS` if too many have not been received.
    pub fn keep(&self, descriptor: OwnedFd) -> Result<u64, i32> {
        self.enter(Place::Here(descriptor))
    }

    /// Has init keep what a guest has under a number: of any file, also of home's tree. Waits for init.
    ///
    /// # Errors
    /// As above, or the errno with which init could not have it.
    pub fn keep_with_init(
        &self,
        installer: &Installer,
        (pid, descriptor): (u32, u32),
        only_path: bool,
    ) -> Result<u64, i32> {
        let number = self.enter(Place::Init { only_path })?;
        match installer.keep(number, pid, descriptor) {
            Ok(()) => Ok(number),
            Err(error) => {
                self.waiting().places.remove(&number);
                Err(errno(&error))
            }
        }
    }

    /// Gives it to the guest that waits in a notified call. With `peek` it can be had again. What cannot be given is gone.
    pub fn give(
        &self,
        installer: &Installer,
        (listener, notification): (&Listener, u64),
        promise: u64,
        (cloexec, peek): (bool, bool),
    ) -> Option<Given> {
        let place = {
            let mut waiting = self.waiting();
            match waiting.places.get(&promise)? {
                Place::Here(descriptor) if peek => Place::Here(descriptor.try_clone().ok()?),
                &Place::Init { only_path } if peek => Place::Init { only_path },
                _ => waiting.places.remove(&promise)?,
            }
        };
        let (number, in_socket) = match place {
            Place::Here(descriptor) => {
                let number = listener.add_descriptor(notification, descriptor.as_fd(), cloexec, false);
                (number, false)
            }
            Place::Init { only_path } => {
                let kept = Kept {
                    promise,
                    cloexec,
                    peek,
                };
                (installer.give_kept(listener, notification, kept), only_path)
            }
        };
        let number = number.ok()?;
        Some(Given { number, in_socket })
    }

    /// Nobody will get it.
    pub fn forget(&self, installer: &Installer, promise: u64) {
        let place = self.waiting().places.remove(&promise);
        if let Some(Place::Init { .. }) = place {
            installer.drop_kept(promise);
        }
    }
}
