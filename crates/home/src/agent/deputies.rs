//! A deputy as the agent knows it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use afield_link::frame::Kind;
use afield_link::wire::Usage;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::client::State;
use super::early::Executed;
use super::explain::Job;
use super::trips::{Cause, Operation, Tally};
use super::{lock, now_ms};
use crate::channel::{ChannelError, Incoming, Outgoing};
use crate::files::Occupied;

/// Most bytes that may wait for a deputy which does not read. A node that sends more at once is not one of ours.
const PENDING_BYTES_MAX: usize = 64 << 20;

/// Of a job's process, or of one that was forked from it.
#[derive(Debug)]
pub struct DeputyEntry {
    /// Its pid, which is the guest's.
    pub pid: u32,
    /// The job's first process.
    pub job: u32,
    /// The same with all its processes.
    pub job_record: Arc<Job>,
    /// Who waits for it, if that is a deputy.
    pub parent: Option<u32>,
    /// Who forked it, as a child or as a sibling.
    pub maker: Option<u32>,
    /// When it was started or forked.
    pub started_ms: u64,
    /// Report calls that are not supported.
    pub verbose: bool,
    channel: OwnedFd,
    outgoing: Mutex<Outgoing>,
    /// The switchboard's.
    pub incoming: Mutex<Incoming>,
    /// What changes.
    pub status: Mutex<EntryStatus>,
    /// Its round trips so far.
    pub tally: Mutex<Tally>,
    /// `/proc/PID/stat`, kept open, so that it is this process's and no later one's.
    stat: Option<File>,
}

/// What changes about a deputy.
#[derive(Debug, Default)]
pub struct EntryStatus {
    /// Arguments, joined by spaces.
    pub command: String,
    /// The program, as far as home has seen it begin.
    pub program: Executed,
    /// The program has been executed.
    pub started: bool,
    /// Its deputy dumps core, as the guest has.
    pub dumps: bool,
    /// It will end by itself: its end needs no `Kill`.
    pub ending: bool,
    /// It was made for a fork that was taken back.
    pub hidden: bool,
    /// It was asked to stop itself, and has not told that it runs again.
    pub stopping: bool,
    /// It was found stopped by somebody else.
    pub held: bool,
    /// Its priority, as the node has been told.
    pub nice: i8,
    /// Files of which the deputy has a descriptor for record locks: node and access mode.
    pub lock_files: HashSet<(u64, u32)>,
    /// Its working directory, and at its start what is above that.
    pub directory: Vec<Occupied>,
    /// It has been given the memory that the node shares.
    pub has_area: bool,
    /// Shared objects that it has been given.
    pub lent: HashSet<u64>,
    /// What children have used for whom it has waited.
    pub children_usage: Usage,
    /// What children have used who have ended.
    pub ended_children: HashMap<u32, Usage>,
    /// Calls that the job's user was told of.
    pub told: HashSet<u32>,
    /// Words of the node that the job's user was told.
    pub noticed: HashSet<String>,
}

impl EntryStatus {
    /// For `afield ps`.
    pub fn state(&self) -> State {
        if !self.started {
            State::Starting
        } else if self.held || self.stopping {
            State::Stopped
        } else {
            State::Running
        }
    }
}

impl DeputyEntry {
    /// A deputy at the other end of `channel`, of which something may have been received already.
    pub fn new(pid: u32, job: Arc<Job>, parent: Option<u32>, channel: OwnedFd, incoming: Incoming) -> Self {
        Self {
            pid,
            job: job.pid,
            job_record: job,
            parent,
            maker: None,
            started_ms: now_ms(),
            verbose: false,
            channel,
            outgoing: Mutex::default(),
            incoming: Mutex::new(incoming),
            status: Mutex::default(),
            tally: Mutex::default(),
            stat: File::open(format!("/proc/{pid}/stat")).ok(),
        }
    }

    /// The channel, to wait on.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Gives it a frame without waiting. True if everything is gone; false if the rest has to wait for the socket.
    pub fn send(
        &self,
        kind: Kind,
        id: u64,
        payload: &[u8],
        descriptor: Option<OwnedFd>,
    ) -> Result<bool, SendError> {
        let mut outgoing = lock(&self.outgoing);
        match outgoing.send(self.channel.as_fd(), kind, id, payload, descriptor) {
            Ok(()) => {}
            // The switchboard will see its end.
            Err(ChannelError::Closed) => return Ok(true),
            Err(error) => return Err(SendError::Channel(error)),
        }
        match outgoing.pending_bytes() {
            0 => Ok(true),
            bytes if bytes <= PENDING_BYTES_MAX => Ok(false),
            _ => Err(SendError::Flood),
        }
    }

    /// Gives it a message.
    pub fn tell<T: Serialize>(
        &self,
        id: u64,
        message: &T,
        descriptor: Option<OwnedFd>,
    ) -> Result<bool, SendError> {
        let payload = afield_link::wire::encode(message).map_err(|error| SendError::Channel(error.into()))?;
        self.send(Kind::Control, id, &payload, descriptor)
    }

    /// Whether it ends by itself, or has ended, and only the switchboard has not come to it.
    pub fn is_leaving(&self) -> bool {
        if lock(&self.status).ending {
            return true;
        }
        let mut polls = [PollFd::new(&self.channel, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut polls, Some(&now)), Ok(count) if count > 0)
    }

    /// Sends what waits; true if nothing is left.
    pub fn flush(&self) -> Result<bool, ChannelError> {
        lock(&self.outgoing).flush(self.channel.as_fd())
    }

    /// Whether something waits to be sent.
    pub fn has_pending(&self) -> bool {
        lock(&self.outgoing).pending_bytes() > 0
    }

    /// The guest waits for this, which home does, and whose request has so many bytes.
    pub fn count_home_call(&self, operation: Operation, bytes: usize) {
        tracing::trace!(
            target: "afield_home::agent::requests",
            pid = self.pid,
            cause = ?Cause::HomeCall,
            "waits: {}",
            operation.name()
        );
        lock(&self.tally).add(Cause::HomeCall, operation, bytes);
    }

    /// The answer to that has so many bytes.
    pub fn count_answer(&self, operation: Operation, bytes: usize) {
        lock(&self.tally).add_answer(Cause::HomeCall, operation, bytes);
    }

    /// What home's kernel says of it now: whether it is stopped, and its priority.
    pub fn look(&self) -> Option<(bool, i8)> {
        let mut bytes = [0u8; 512];
        let count = self.stat.as_ref()?.read_at(&mut bytes, 0).ok()?;
        let text = &bytes[..count];
        // The command's name, before that, may hold anything.
        let end = text.iter().rposition(|&byte| byte == b')')?;
        let mut fields = str::from_utf8(text.get(end + 2..)?)
            .ok()?
            .split_ascii_whitespace();
        let stopped = fields.next()? == "T";
        // The nineteenth, of which the first was the third.
        let nice = fields.nth(15)?.parse().ok()?;
        Some((stopped, nice))
    }
}

/// Why a frame could not be given to a deputy.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The channel failed in a way that says something about this program.
    #[error(transparent)]
    Channel(ChannelError),
    /// More than a guest can have in flight.
    #[error("the node floods a deputy")]
    Flood,
}
