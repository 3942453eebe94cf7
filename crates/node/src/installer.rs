//! Giving guests descriptors of new home objects.
//!
//! A descriptor is an open file of the world's root, which only a process of the world may open. It is also one that the session
//! must never hold: closing it is a request to the file door, and who dies closes everything when nobody serves the door any
//! more. So init does it: it opens the file, under the object's handle in the hidden directory, and puts it into the process that waits in
//! the notified call. For the same reason init changes the flags of such files.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use afield_link::wire::NODE_HANDLE;
use rustix::fs::{Mode, OFlags, ResolveFlags, SeekFrom};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::fs::connections::{self, ConnectionSet};
use crate::sys::seccomp::Listener;
use crate::sys::{errno, seccomp, sockets};
use crate::world::mounts::Places;

/// What init is asked to do, as bytes on a channel between session and init, which are the same program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Wish {
    /// One of the constants below.
    what: u32,
    /// Number of a listener.
    listener: u32,
    /// The waiting call.
    notification: u64,
    /// The object's handle.
    handle: u64,
    /// The file's offset; negative for none.
    offset: i64,
    /// Open flags.
    flags: u32,
    /// 1: the call returns the descriptor's number.
    answers: u32,
}

/// Answered by a number, or a negated errno, of four bytes.
const INSTALL: u32 = 1;
/// With the listener's descriptor.
const ADD_LISTENER: u32 = 2;
const REMOVE_LISTENER: u32 = 3;
/// Sets `O_DIRECT` on the file of descriptor `listener` of process `notification`, as the world knows it. Answered as [`INSTALL`].
const SET_DIRECT: u32 = 4;
/// Has the kernel write out what was stored into mapped files of the connections whose bits `handle` has. Answered as [`INSTALL`].
const WRITE_OUT: u32 = 5;

/// Keeps what process `notification`, as the world knows it, has as descriptor `listener`, under the number `handle`. Answered as
/// [`INSTALL`].
const KEEP: u32 = 6;
/// Gives what is kept under `handle` to the process that waits in a notified call; with `offset` 1 it is kept on. Answered as [`INSTALL`].
const GIVE_KEPT: u32 = 7;
/// Closes what is kept under `handle`.
const DROP_KEPT: u32 = 8;

/// Opens a path, which follows with `answers` bytes, with these flags, if it is the file with inode number `handle` (and, unless `offset` is
/// negative, of file system `offset`), and gives it to the process that waits in a notified call. Answered as [`INSTALL`].
const OPEN: u32 = 9;

/// Opens object `handle`, at `offset`, and puts that into the places of descriptors of waiting processes: `answers` [`Target`]s follow.
/// Answered by how many were replaced.
const REPLACE: u32 = 10;

/// A descriptor of a process that waits in a notified call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Target {
    /// The waiting call.
    pub notification: u64,
    /// Number of its listener.
    pub listener: u32,
    /// The descriptor.
    pub number: u32,
    /// 1: closed on `execve`.
    pub cloexec: u32,
    /// Zero.
    pub padding: u32,
}

/// Open flags that matter to a guest.
const KEPT: u32 = (libc::O_ACCMODE | libc::O_APPEND | libc::O_NONBLOCK | libc::O_CLOEXEC) as u32;

/// The session's side.
#[derive(Debug)]
pub struct Installer {
    /// To init; `None` before the world is mounted.
    channel: Mutex<Option<UnixStream>>,
    handle_next: AtomicU64,
    listener_next: AtomicU32,
}

/// A descriptor to be given to a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gift {
    /// Handle of the object, which the file door knows.
    pub handle: u64,
    /// Its open flags; of the descriptor's only `O_CLOEXEC`.
    pub flags: u32,
    /// Where its offset is, if it has one.
    pub offset: Option<i64>,
    /// The waiting call returns its number.
    pub answers: bool,
}

/// A file of home's tree that a guest is to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sought<'a> {
    /// Its inode number.
    pub inode: u64,
    /// The number that its file system has in the world, if that is known.
    pub device: Option<u64>,
    /// Where it should be.
    pub path: &'a [u8],
}

/// What init keeps for a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub promise: u64,
    /// How the guest gets it.
    pub cloexec: bool,
    /// It is kept on.
    pub peek: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Installer {
    fn default() -> Self {
        Self {
            channel: Mutex::default(),
            handle_next: AtomicU64::new(NODE_HANDLE | 1),
            listener_next: AtomicU32::new(1),
        }
    }
}

impl Installer {
    /// Init listens at the other end of this.
    pub fn set_channel(&self, channel: UnixStream) {
        *lock(&self.channel) = Some(channel);
    }

    /// Consecutive handles that are given to nothing else; the first of them.
    pub fn new_handles(&self, count: u64) -> u64 {
        self.handle_next.fetch_add(count, Ordering::Relaxed)
    }

    /// Makes a listener known to init. Its number.
    pub fn add_listener(&self, listener: OwnedFd) -> io::Result<u32> {
        let number = self.listener_next.fetch_add(1, Ordering::Relaxed);
        let wish = Wish {
            what: ADD_LISTENER,
            listener: number,
            ..Wish::default()
        };
        let channel = lock(&self.channel);
        let channel = channel.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        sockets::send_with(channel, wish.as_bytes(), listener.as_fd())?;
        Ok(number)
    }

    /// Nobody waits in its calls any more.
    pub fn remove_listener(&self, number: u32) {
        let wish = Wish {
            what: REMOVE_LISTENER,
            listener: number,
            ..Wish::default()
        };
        if let Some(channel) = &mut *lock(&self.channel) {
            // Without init nothing has to be removed.
            let _ = channel.write_all(wish.as_bytes());
        }
    }

    /// Gives a descriptor to the process that waits in a notified call: its number there. Waits for init and the file door, not for
    /// what these wait for.
    ///
    /// # Errors
    /// `EMFILE` if the process has no room, `ENOENT` if it is gone.
    pub fn install(&self, listener: &Listener, notification: u64, gift: Gift) -> io::Result<i32> {
        let wish = Wish {
            what: INSTALL,
            listener: listener.number(),
            notification,
            handle: gift.handle,
            offset: gift.offset.unwrap_or(-1),
            flags: gift.flags & KEPT,
            answers: u32::from(gift.answers),
        };
        self.ask(wish)
    }

    /// Sets `O_DIRECT` on the open file behind a guest's descriptor.
    pub fn set_direct(&self, pid: u32, number: u32) -> io::Result<()> {
        self.ask(Wish {
            what: SET_DIRECT,
            listener: number,
            notification: u64::from(pid),
            ..Wish::default()
        })
        .map(drop)
    }

    /// Has the kernel ask the file door, on these connections, to write what was stored into mapped files so far. Waits for init and
    /// the file door.
    pub fn write_out(&self, connections: ConnectionSet) -> io::Result<()> {
        self.ask(Wish {
            what: WRITE_OUT,
            handle: connections.into(),
            ..Wish::default()
        })
        .map(drop)
    }

    /// Has init keep what a guest has under a number: the open file, of whatever it is. Waits for init.
    ///
    /// # Errors
    /// `EBADF` if there is nothing under the number.
    pub fn keep(&self, promise: u64, pid: u32, number: u32) -> io::Result<()> {
        self.ask(Wish {
            what: KEEP,
            listener: number,
            notification: u64::from(pid),
            handle: promise,
            ..Wish::default()
        })
        .map(drop)
    }

    /// Gives what init keeps to the process that waits in a notified call: its number there. What is a way only (`O_PATH`) comes in a
    /// socket. Waits as [`Self::install`].
    ///
    /// # Errors
    /// As [`Self::install`]; it is not kept any more unless `peek` says so.
    pub fn give_kept(&self, listener: &Listener, notification: u64, kept: Kept) -> io::Result<i32> {
        self.ask(Wish {
            what: GIVE_KEPT,
            listener: listener.number(),
            notification,
            handle: kept.promise,
            offset: i64::from(kept.peek),
            flags: if kept.cloexec { libc::O_CLOEXEC as u32 } else { 0 },
            ..Wish::default()
        })
    }

    /// Nobody will get it.
    pub fn drop_kept(&self, promise: u64) {
        let wish = Wish {
            what: DROP_KEPT,
            handle: promise,
            ..Wish::default()
        };
        if let Some(channel) = &mut *lock(&self.channel) {
            // Without init nothing is kept.
            let _ = channel.write_all(wish.as_bytes());
        }
    }

    /// Opens a directory of home's tree, or anything there as a way only (`O_PATH`), and gives it to the process that waits in a notified
    /// call: its number there. What is a way only comes in a socket. Waits for init and home.
    ///
    /// # Errors
    /// `ESTALE` if the path leads to something else; as [`Self::install`].
    pub fn open(
        &self,
        listener: &Listener,
        notification: u64,
        sought: Sought<'_>,
        flags: u32,
    ) -> io::Result<i32> {
        let kept = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let wish = Wish {
            what: OPEN,
            listener: listener.number(),
            notification,
            handle: sought.inode,
            offset: sought.device.map_or(-1, |device| device as i64),
            flags: flags & kept as u32,
            answers: sought.path.len() as u32,
        };
        self.ask_with(wish, sought.path)
    }

    /// Has descriptors be of an object of home's instead of what they were of. How many now are. Waits for init, and for the closing of
    /// what they were of.
    ///
    /// # Errors
    /// The object cannot be opened.
    pub fn replace(&self, gift: Gift, targets: &[Target]) -> io::Result<usize> {
        let wish = Wish {
            what: REPLACE,
            handle: gift.handle,
            offset: gift.offset.unwrap_or(-1),
            flags: gift.flags & KEPT,
            answers: targets.len() as u32,
            ..Wish::default()
        };
        self.ask_with(wish, targets.as_bytes())
            .map(|count| count as usize)
    }

    fn ask(&self, wish: Wish) -> io::Result<i32> {
        self.ask_with(wish, &[])
    }

    fn ask_with(&self, wish: Wish, path: &[u8]) -> io::Result<i32> {
        let mut channel = lock(&self.channel);
        let channel = channel.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        channel.write_all(wish.as_bytes())?;
        channel.write_all(path)?;
        let mut answer = [0; 4];
        channel.read_exact(&mut answer)?;
        match i32::from_ne_bytes(answer) {
            number if number >= 0 => Ok(number),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}

/// Init's side.
#[derive(Debug)]
pub struct Helper {
    channel: UnixStream,
    listeners: HashMap<u32, Listener>,
    /// A file of each FUSE connection, when they are needed.
    roots: Vec<OwnedFd>,
    /// What guests pass to each other, by promise.
    kept: HashMap<u64, OwnedFd>,
}

impl AsFd for Helper {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Helper {
    /// For the session at the other end of `channel`.
    pub fn new(channel: UnixStream) -> Self {
        Self {
            channel,
            listeners: HashMap::new(),
            roots: Vec::new(),
            kept: HashMap::new(),
        }
    }

    /// Grants the next wish.
    ///
    /// # Errors
    /// The session is gone.
    pub fn serve(&mut self, places: &Places) -> io::Result<()> {
        let mut wish = Wish::default();
        let received = sockets::receive_with(&self.channel, wish.as_mut_bytes())?;
        if received.count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.channel
            .read_exact(&mut wish.as_mut_bytes()[received.count..])?;
        match (wish.what, received.descriptor) {
            (INSTALL, _) => {
                let result = self.install(&wish, &places.hidden);
                let (answer, file) = match result {
                    Ok((number, file)) => (number, Some(file)),
                    Err(error) => (-errno(&error), None),
                };
                self.channel.write_all(&answer.to_ne_bytes())?;
                // Nobody has to wait for this one's closing.
                drop(file);
            }
            (SET_DIRECT, _) => {
                let result = seccomp::set_direct(wish.notification as i32, wish.listener as i32);
                let answer = result.map_or_else(|error| -errno(&error), |()| 0);
                self.channel.write_all(&answer.to_ne_bytes())?;
            }
            (KEEP, _) => {
                let result = seccomp::descriptor_of(wish.notification as i32, wish.listener as i32);
                let answer = result.map_or_else(
                    |error| -errno(&error),
                    |file| {
                        self.kept.insert(wish.handle, file);
                        0
                    },
                );
                self.channel.write_all(&answer.to_ne_bytes())?;
            }
            (GIVE_KEPT, _) => {
                let answer = self.give_kept(&wish).unwrap_or_else(|error| -errno(&error));
                self.channel.write_all(&answer.to_ne_bytes())?;
                if wish.offset == 0 {
                    self.kept.remove(&wish.handle);
                }
            }
            (OPEN, _) => {
                let mut path = vec![0; wish.answers as usize];
                self.channel.read_exact(&mut path)?;
                let answer = self.open(&wish, &path).unwrap_or_else(|error| -errno(&error));
                self.channel.write_all(&answer.to_ne_bytes())?;
            }
            (REPLACE, _) => {
                let mut targets = vec![Target::default(); wish.answers as usize];
                self.channel.read_exact(targets.as_mut_bytes())?;
                let (answer, file) = match open_object(&wish, &places.hidden) {
                    Ok(file) => (self.replace(&targets, &file), Some(file)),
                    Err(error) => (-errno(&error), None),
                };
                self.channel.write_all(&answer.to_ne_bytes())?;
                drop(file);
            }
            (DROP_KEPT, _) => {
                self.kept.remove(&wish.handle);
            }
            (WRITE_OUT, _) => {
                let answer = self
                    .write_out(wish.handle.into(), places)
                    .map_or_else(|error| -errno(&error), |()| 0);
                self.channel.write_all(&answer.to_ne_bytes())?;
            }
            (ADD_LISTENER, Some(listener)) => {
                self.listeners
                    .insert(wish.listener, Listener::new(listener, wish.listener));
            }
            (REMOVE_LISTENER, _) => {
                self.listeners.remove(&wish.listener);
            }
            _ => {}
        }
        Ok(())
    }

    fn write_out(&mut self, connections: ConnectionSet, places: &Places) -> io::Result<()> {
        if self.roots.is_empty() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            for root in &places.roots {
                let root = rustix::fs::openat(root, c".", flags, Mode::empty())?;
                self.roots.push(root);
            }
        }
        for root in connections::some(&self.roots, connections) {
            rustix::fs::syncfs(root)?;
        }
        Ok(())
    }

    /// How many were replaced.
    fn replace(&self, targets: &[Target], file: &OwnedFd) -> i32 {
        let replaced = targets.iter().filter(|target| {
            let listener = self.listeners.get(&target.listener);
            listener.is_some_and(|listener| {
                let cloexec = target.cloexec != 0;
                listener
                    .replace_descriptor(target.notification, file.as_fd(), cloexec, target.number)
                    .is_ok()
            })
        });
        replaced.count() as i32
    }

    fn give_kept(&self, wish: &Wish) -> io::Result<i32> {
        let listener = self
            .listeners
            .get(&wish.listener)
            .ok_or(io::ErrorKind::NotFound)?;
        let file = self.kept.get(&wish.handle).ok_or(io::ErrorKind::NotFound)?;
        let only_path = rustix::fs::fcntl_getfl(file)?.contains(OFlags::PATH);
        give(listener, wish, file, only_path)
    }

    fn open(&self, wish: &Wish, path: &[u8]) -> io::Result<i32> {
        let listener = self
            .listeners
            .get(&wish.listener)
            .ok_or(io::ErrorKind::NotFound)?;
        let flags = OFlags::from_bits_retain(wish.flags) | OFlags::CLOEXEC;
        let only_path = flags.contains(OFlags::PATH);
        // Nothing that waits for a partner, or acts by being opened.
        let flags = flags
            | if only_path {
                OFlags::empty()
            } else {
                OFlags::DIRECTORY
            };
        // The name of an open file leads over no links. Those of `/proc` would lead out of the world.
        let file = rustix::fs::openat2(
            rustix::fs::CWD,
            path,
            flags,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS,
        )?;
        let status = rustix::fs::fstat(&file)?;
        if status.st_ino != wish.handle || wish.offset >= 0 && status.st_dev != wish.offset as u64 {
            return Err(io::Error::from_raw_os_error(libc::ESTALE));
        }
        give(listener, wish, &file, only_path)
    }

    fn install(&self, wish: &Wish, hidden: &OwnedFd) -> io::Result<(i32, OwnedFd)> {
        let listener = self
            .listeners
            .get(&wish.listener)
            .ok_or(io::ErrorKind::NotFound)?;
        let file = open_object(wish, hidden)?;
        let cloexec = wish.flags & libc::O_CLOEXEC as u32 != 0;
        let number = listener.add_descriptor(wish.notification, file.as_fd(), cloexec, wish.answers != 0)?;
        Ok((number, file))
    }
}

/// Opens an object of home's under its handle.
fn open_object(wish: &Wish, hidden: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(wish.flags) | OFlags::CLOEXEC;
    let file = rustix::fs::openat(hidden, wish.handle.to_string(), flags, Mode::empty())?;
    if wish.offset >= 0 {
        rustix::fs::seek(&file, SeekFrom::Start(wish.offset as u64))?;
    }
    Ok(file)
}

/// Gives a file to the process that waits in a call. The kernel gives no way to a file in this manner; it goes in a socket.
fn give(listener: &Listener, wish: &Wish, file: &OwnedFd, only_path: bool) -> io::Result<i32> {
    let cloexec = wish.flags & libc::O_CLOEXEC as u32 != 0;
    if only_path {
        let socket = sockets::holding(file.as_fd())?;
        return listener.add_descriptor(wish.notification, socket.as_fd(), cloexec, false);
    }
    listener.add_descriptor(wish.notification, file.as_fd(), cloexec, false)
}
