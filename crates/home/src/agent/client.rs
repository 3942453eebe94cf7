//! Questions to the agent. None of them starts one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use afield_link::wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::PidfdFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::explain::Explained;
pub use super::measure::Measured;
use super::trips::Count;
use crate::channel::{self, ChannelError, Incoming};
use crate::messages::{Answer, Greeting, Request};
use crate::place::Place;
use crate::runtime::{RuntimeDir, RuntimeError};

/// Why the agent could not be asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The conversation failed.
    #[error("agent at {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is of another version.
    #[error("the running agent is afield {theirs}, this is {ours}: end it with `afield agent stop`")]
    Version {
        /// Its version.
        theirs: String,
        /// This program's.
        ours: String,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
    /// What it said is not an answer.
    #[error("agent at {}: unreadable answer", path.display())]
    Garbled {
        /// The socket.
        path: PathBuf,
    },
}

/// A process that is afield, as `afield ps` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Process id, of deputy and guest alike.
    pub pid: u32,
    /// Pid of the job's first process.
    pub job: u32,
    /// Arguments, joined by spaces.
    pub command: String,
    /// The node's name as the user gave it.
    pub node: String,
    /// What it does.
    pub state: State,
    /// Its round trips so far, for each of [`Cause::ALL`](super::trips::Cause::ALL).
    pub trips: [Count; 4],
    /// When it was started or forked, milliseconds since 1970.
    pub started_ms: u64,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// It is being set up on the node.
    Starting,
    /// It may compute.
    Running,
    /// It is stopped.
    Stopped,
}

/// A link to a node, as `afield ps --links` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The node's name as the user gave it.
    pub node: String,
    /// Processes on it.
    pub processes: u32,
    /// What there is to say of a link between machines; nothing of an embedded node's, which cannot be lost.
    pub transport: Option<Transport>,
}

/// A link between machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transport {
    /// For how long there has been no connection; `None`: there is one.
    pub down: Option<Duration>,
    /// Round trip, smoothed and the least.
    pub round_trip: Option<(Duration, Duration)>,
    /// Bytes sent and received.
    pub bytes: (u64, u64),
    /// Frames sent and received.
    pub frames: (u64, u64),
    /// Bytes that the node has not acknowledged, and that wait to be sent.
    pub unacknowledged_bytes: u64,
    /// How often a lost connection was replaced.
    pub resumes: u64,
}

/// The agent as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its pid.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// When it started, milliseconds since 1970.
    pub started_ms: u64,
    /// Processes that are afield.
    pub processes: u32,
    /// Nodes with a session: name as the user gave it, name it has itself, CPUs.
    pub nodes: Vec<(String, String, u32)>,
}

/// What [`stop`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stopped {
    /// There is no agent.
    None,
    /// It has ended.
    Ended,
    /// It goes on because so many processes are afield. With `force` they would be ended.
    Busy(u32),
}

/// The processes that are afield, by pid. No agent: none.
pub fn ps(runtime: &RuntimeDir) -> Result<Vec<Process>, ClientError> {
    let Some(mut conversation) = Conversation::begin(runtime)? else {
        return Ok(Vec::new());
    };
    match conversation.ask(&Request::Ps)? {
        Answer::Processes(processes) => Ok(processes),
        _ => Err(conversation.garbled()),
    }
}

/// The links to nodes. No agent: none.
pub fn links(runtime: &RuntimeDir) -> Result<Vec<Link>, ClientError> {
    let Some(mut conversation) = Conversation::begin(runtime)? else {
        return Ok(Vec::new());
    };
    match conversation.ask(&Request::Links)? {
        Answer::Links(links) => Ok(links),
        _ => Err(conversation.garbled()),
    }
}

/// What the process with this pid and its job have waited for; the pid may be that of a job which has ended. No agent, or no such
/// process: `None`.
pub fn explain(runtime: &RuntimeDir, pid: u32) -> Result<Option<Explained>, ClientError> {
    let Some(mut conversation) = Conversation::begin(runtime)? else {
        return Ok(None);
    };
    match conversation.ask(&Request::Explain { pid })? {
        Answer::Explained(explained) => Ok(explained.map(|explained| *explained)),
        _ => Err(conversation.garbled()),
    }
}

/// Ends the agent and waits until it has. It refuses while processes are afield unless `force` is set. An agent of
/// another version is ended too.
pub fn stop(runtime: &RuntimeDir, force: bool) -> Result<Stopped, ClientError> {
    let Some(mut conversation) = Conversation::begin(runtime)? else {
        return Ok(Stopped::None);
    };
    // Of an agent of another version this is all that must be understood.
    conversation.version = None;
    let process = conversation.process();
    match conversation.ask(&Request::Stop { force })? {
        Answer::Ending => {
            conversation.wait_end()?;
            // A process that ends closes its files first.
            if let Some(process) = process {
                wait_for(&process);
            }
            Ok(Stopped::Ended)
        }
        Answer::Busy(count) => Ok(Stopped::Busy(count)),
        _ => Err(conversation.garbled()),
    }
}

/// The agent's own state. No agent: `None`.
pub fn status(runtime: &RuntimeDir) -> Result<Option<Status>, ClientError> {
    let Some(mut conversation) = Conversation::begin(runtime)? else {
        return Ok(None);
    };
    match conversation.ask(&Request::Status)? {
        Answer::Status(status) => Ok(Some(status)),
        _ => Err(conversation.garbled()),
    }
}

/// Where the time of null calls to a node goes. There has to be an agent.
pub fn measure(
    runtime: &RuntimeDir,
    place: Place,
    name: &str,
    calls: u32,
) -> Result<Vec<Measured>, ClientError> {
    let Some(mut conversation) = Conversation::begin(runtime)? else {
        return Err(ClientError::Refused("no agent is running".to_owned()));
    };
    let request = Request::Measure {
        place,
        place_name: name.to_owned(),
        calls,
    };
    match conversation.ask(&request)? {
        Answer::Measured(measured) => measured.map_err(ClientError::Refused),
        _ => Err(conversation.garbled()),
    }
}

/// Waits for a process's end, as long as one may wait for its words.
fn wait_for(process: &OwnedFd) {
    let limit = Timespec {
        tv_sec: ANSWER_TIME_MAX.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut polls = [PollFd::new(process, PollFlags::IN)];
    // An end that is not seen in time comes all the same: it has closed all it had.
    let _ = rustix::io::retry_on_intr(|| poll(&mut polls, Some(&limit)));
}

/// Longest wait for the agent's words.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// A connection to the agent.
struct Conversation {
    path: PathBuf,
    socket: UnixStream,
    incoming: Incoming,
    /// The agent's version, if it is another.
    version: Option<String>,
}

impl Conversation {
    /// Greets the agent; `None` if there is none.
    fn begin(runtime: &RuntimeDir) -> Result<Option<Self>, ClientError> {
        let path = runtime.socket();
        match runtime.check() {
            Err(RuntimeError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            checked => checked?,
        }
        let socket = match UnixStream::connect(&path) {
            Ok(socket) => socket,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(source) => return Err(ClientError::Io { path, source }),
        };
        let mut conversation = Self {
            path,
            socket,
            incoming: Incoming::default(),
            version: None,
        };
        conversation
            .socket
            .set_read_timeout(Some(ANSWER_TIME_MAX))
            .map_err(|source| conversation.io(source))?;
        conversation.send(&Greeting::ours())?;
        let greeting: Greeting = conversation.receive()?;
        if !greeting.fits() {
            conversation.version = Some(greeting.version);
        }
        Ok(Some(conversation))
    }

    fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        if let Some(theirs) = self.version.take() {
            return Err(ClientError::Version {
                theirs,
                ours: env!("CARGO_PKG_VERSION").to_owned(),
            });
        }
        self.send(request)?;
        self.receive()
    }

    fn send<T: Serialize>(&mut self, message: &T) -> Result<(), ClientError> {
        channel::send_control(self.socket.as_fd(), 0, message, None).map_err(|error| self.failed(error))
    }

    fn receive<T: DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        let frame = self
            .incoming
            .wait_frame(self.socket.as_fd())
            .map_err(|error| self.failed(error))?;
        wire::decode(&frame.payload).map_err(|_| self.garbled())
    }

    /// Waits until the agent closes the connection.
    fn wait_end(&mut self) -> Result<(), ClientError> {
        match self.incoming.wait_frame(self.socket.as_fd()) {
            Err(ChannelError::Closed) => Ok(()),
            Err(error) => Err(self.failed(error)),
            Ok(_) => Err(self.garbled()),
        }
    }

    /// The agent's process, if it can be seen from here.
    fn process(&self) -> Option<OwnedFd> {
        let peer = rustix::net::sockopt::socket_peercred(&self.socket).ok()?;
        rustix::process::pidfd_open(peer.pid, PidfdFlags::empty()).ok()
    }

    fn io(&self, source: io::Error) -> ClientError {
        ClientError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn failed(&self, error: ChannelError) -> ClientError {
        match error {
            ChannelError::Io(source) => self.io(source),
            ChannelError::Closed => self.io(io::ErrorKind::UnexpectedEof.into()),
            _ => self.garbled(),
        }
    }

    fn garbled(&self) -> ClientError {
        ClientError::Garbled {
            path: self.path.clone(),
        }
    }
}
