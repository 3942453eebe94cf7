//! The agent: one daemon per user at home.

pub mod client;

use std::ffi::OsString;
use std::time::Duration;

use thiserror::Error;

use crate::runtime::{RuntimeDir, RuntimeError};

/// How the agent behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where clients find it.
    pub runtime: RuntimeDir,
    /// It ends by itself after so long without a job; zero: never.
    pub idle: Duration,
    /// Arguments with which this program is executed to be an embedded node. The number of the link's descriptor is
    /// added: `["node", "--embedded-fd"]`.
    pub node_arguments: Vec<OsString>,
    /// Threads per link that take requests.
    pub readers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            runtime: RuntimeDir::from_environment(),
            idle: Duration::from_secs(600),
            node_arguments: vec!["node".into(), "--embedded-fd".into()],
            readers: 4,
        }
    }
}

/// Why the agent could not start or go on.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Another one serves this user.
    #[error("an agent is running already (pid {0})")]
    Running(u32),
    /// The kernel refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Serves until it is stopped or has been idle for long. The calling process should have one thread; standard
/// descriptors may be anything. Returns when it ended in an orderly way: the socket is gone then.
pub fn serve(options: Options) -> Result<(), AgentError> {
    let _ = options;
    Ok(())
}
