//! What agent, deputies and clients say to each other, as serde messages in control frames.
//!
//! A conversation begins with [`Greeting`] in both directions. A client then asks one [`Request`]. The connection of a
//! [`Request::Run`] becomes the channel of the job's root deputy: [`ToDeputy`] one way, [`FromDeputy`] the other, and
//! forwarded calls and operations as the link carries them.

use std::net::SocketAddr;

use afield_link::control::DescriptorChange;
use afield_link::wire::{Spawn, SpawnError, Usage};
use serde::{Deserialize, Serialize};

use crate::agent::client::{Link, Measured, Process, Status};
use crate::agent::explain::Explained;
use crate::place::Place;
use crate::sys::stream::Course;

/// Version of these messages.
pub const PROTOCOL: u32 = 6;

/// First message of both sides.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Greeting {
    /// [`PROTOCOL`]; first field, so that any version can read it.
    pub protocol: u32,
    /// The program's version.
    pub version: String,
}

impl Greeting {
    /// This program's.
    pub fn ours() -> Self {
        Self {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// True if the other side can be talked to.
    pub fn fits(&self) -> bool {
        let ours = Self::ours();
        (self.protocol, &self.version) == (ours.protocol, &ours.version)
    }
}

/// What a client wants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Run a job. The connection becomes its root deputy's channel.
    Run(Box<RunRequest>),
    /// Answered by [`Answer::Processes`].
    Ps,
    /// Answered by [`Answer::Explained`].
    Explain {
        /// Which process.
        pid: u32,
    },
    /// Answered by [`Answer::Links`].
    Links,
    /// Answered by [`Answer::Status`].
    Status,
    /// Make null calls to a node; answered by [`Answer::Measured`].
    Measure {
        /// Which.
        place: Place,
        /// Which, as the user said.
        place_name: String,
        /// How many.
        calls: u32,
    },
    /// End; answered by [`Answer::Ending`] or [`Answer::Busy`].
    Stop {
        /// Even if processes are afield.
        force: bool,
    },
}

/// Most sessions with one place.
pub const WORLDS_MAX: u32 = 4;

/// A job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunRequest {
    /// Where.
    pub place: Place,
    /// Where, as the user said.
    pub place_name: String,
    /// Which of the sessions with that place: 0, or a further one, for a job whose pid is taken in those before.
    pub world: u32,
    /// Report calls that are not supported.
    pub verbose: bool,
    /// No path leads to its working directory: a descriptor of it comes along.
    pub directory: bool,
    /// What. The pid is not looked at (the kernel says whose the socket is), and handles are numbered from zero; the
    /// agent puts real ones in their place.
    pub spawn: Spawn,
}

/// The agent's answer to a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// Processes that are afield.
    Processes(Vec<Process>),
    /// What a process and its job have waited for, if there is such a process.
    Explained(Option<Box<Explained>>),
    /// Links to nodes.
    Links(Vec<Link>),
    /// The agent itself.
    Status(Status),
    /// Where the time of each call went, or why there was none.
    Measured(Result<Vec<Measured>, String>),
    /// It ends now: the connection is closed when it has.
    Ending,
    /// It does not end: so many processes are afield.
    Busy(u32),
}

/// Agent to deputy. The frame's `id` is zero unless said otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToDeputy {
    /// The job is about to start on the node. Its handles are numbered from `handle_first`.
    Accepted {
        /// What handle zero of the request is now.
        handle_first: u64,
    },
    /// The job cannot be had; the text says why. Nothing follows.
    Refused(String),
    /// As [`Refused`](Self::Refused), and because ssh would have to ask the user something, which the agent cannot.
    Asks(String),
    /// The guest was started, or why not.
    Spawned(Result<(), SpawnError>),
    /// Fork; answered by [`FromDeputy::Forked`] (same `id`).
    Fork {
        /// Signal for the parent when the child ends.
        exit_signal: u32,
        /// The child becomes the caller's sibling.
        sibling: bool,
    },
    /// A child has made this one as its sibling.
    Born {
        /// The new child.
        pid: u32,
    },
    /// End that child without a trace.
    Unfork {
        /// The child.
        pid: u32,
    },
    /// The guest is another program now.
    Exec {
        /// Command name.
        name: Vec<u8>,
        /// NUL-separated arguments.
        arguments: Vec<u8>,
    },
    /// The guest ignores a signal from now on, or no longer does.
    Ignores {
        /// Which: one that stops.
        signal: u32,
        /// Whether it does.
        ignored: bool,
    },
    /// The guest changed its command name.
    Name(Vec<u8>),
    /// The guest has written over its arguments; they are NUL-separated.
    Title(Vec<u8>),
    /// Die like this (a wait status).
    Exit {
        /// As of `waitpid`.
        status: i32,
    },
    /// Stop with this signal; answered by [`FromDeputy::Released`].
    Stop {
        /// The signal.
        signal: u32,
    },
    /// What a child, which is about to end, has used with all whom it has waited for.
    ChildUsage {
        /// The child.
        pid: u32,
        /// Its use of resources.
        usage: Usage,
    },
    /// With a descriptor (`O_PATH`) of a file: open it; answered as the handle operation `id`.
    Open {
        /// What its handle is to be.
        handle: u64,
        /// Open flags.
        flags: u32,
        /// Where, unless it is negative.
        offset: i64,
    },
    /// With a descriptor: this is the guest's working directory now.
    Directory,
    /// With a descriptor: the memory that the node shares. Operations that have their contents there follow.
    Area,
    /// A record lock, answered by [`FromDeputy::Locked`] (same `id`). With the file's descriptor if it says so.
    Lock(LockRequest),
    /// The process closed a descriptor of that file: its record locks on it go. Answered by [`FromDeputy::Unlocked`]
    /// (same `id`).
    Unlock {
        /// The file.
        node: u64,
    },
    /// Give the agent a copy of this object; answered by [`FromDeputy::Shared`] (same `id`).
    Share {
        /// The object.
        handle: u64,
    },
    /// The same of a connection that the agent tells the node of from now on; answered by [`FromDeputy::Ahead`], or
    /// [`FromDeputy::Shared`] if it is closed.
    Ahead {
        /// The object.
        handle: u64,
    },
    /// With a descriptor: the guest has got this object from another one.
    Take {
        /// Its handle.
        handle: u64,
    },
    /// What the guest has open has changed.
    Descriptors(Vec<DescriptorChange>),
    /// Answer to [`FromDeputy::Reach`]: with a descriptor (`O_PATH`) of that file if there is one.
    Reached(bool),
    /// Tell the user.
    Notice(String),
    /// The session is over: say so and end. A job that has not been [`Spawned`](Self::Spawned) may be asked for again.
    Gone(String),
}

/// A POSIX record lock to take, test or drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRequest {
    /// The file, by the node id of the file service.
    pub node: u64,
    /// Its access mode (`O_ACCMODE`): a file may be open in several.
    pub access: u32,
    /// The descriptor comes along, because the deputy does not have it yet. (To close one more would drop all locks.)
    pub descriptor: bool,
    /// Test only.
    pub test: bool,
    /// Wait until it can be had.
    pub wait: bool,
    /// Which lock.
    pub record: LockRecord,
}

/// The fields of a `struct flock` of whence `SEEK_SET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockRecord {
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: i16,
    /// First byte.
    pub start: i64,
    /// Bytes; 0: to the end of the file.
    pub length: i64,
    /// Whose it is.
    pub pid: i32,
}

impl LockRecord {
    /// From the kernel's structure.
    pub fn from_kernel(record: &libc::flock) -> Self {
        Self {
            kind: record.l_type,
            start: record.l_start,
            length: record.l_len,
            pid: record.l_pid,
        }
    }

    /// The kernel's structure.
    pub fn to_kernel(self) -> libc::flock {
        libc::flock {
            l_type: self.kind,
            l_whence: libc::SEEK_SET as i16,
            l_start: self.start,
            l_len: self.length,
            l_pid: self.pid,
        }
    }
}

/// Deputy to agent. The frame's `id` is zero unless said otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromDeputy {
    /// Answer to [`ToDeputy::Fork`] (same `id`), on success with the agent's end of the child's channel.
    Forked(Result<u32, i32>),
    /// A signal arrived; the kernel's `siginfo_t`.
    Signal(Vec<u8>),
    /// It has been stopped and runs again.
    Released,
    /// A watched home object has become ready.
    Ready {
        /// The object.
        handle: u64,
        /// For what: `POLL*`.
        events: u32,
        /// At which look.
        look: u32,
    },
    /// Answer to [`ToDeputy::Share`] (same `id`), on success with the object's descriptor.
    Shared(Result<(), i32>),
    /// The guest has a TCP connection, or is making one; this goes ahead of the answer by which it learns of that.
    Connected {
        /// The object.
        handle: u64,
        /// Where it begins.
        local: SocketAddr,
        /// The guest has made it itself, so that nobody else has it.
        own: bool,
    },
    /// Answer to [`ToDeputy::Ahead`] (same `id`), with the connection's descriptor: what had happened when the deputy ceased to watch it.
    Ahead(Course),
    /// Answer to [`ToDeputy::Lock`] (same `id`): what was found, or the errno.
    Locked(Result<LockRecord, i32>),
    /// Answer to [`ToDeputy::Unlock`] (same `id`).
    Unlocked,
    /// Give a way to this file of the file service, which the guest has open; answered by [`ToDeputy::Reached`]. One at a time.
    Reach {
        /// The file.
        node: u64,
    },
    /// The guest has waited for this child, whose use of resources now counts as its own.
    Reaped {
        /// The child.
        pid: u32,
    },
    /// Something odd for the agent's log.
    Log(String),
}
