//! `afield run`: starts a job and becomes its root deputy.

use std::ffi::OsString;

use crate::place::Place;
use crate::runtime::RuntimeDir;

/// What to run, and where.
#[derive(Debug, Clone)]
pub struct Job {
    /// The command and its arguments; not empty.
    pub command: Vec<OsString>,
    /// Where it computes.
    pub place: Place,
    /// The place as the user named it, for messages and `afield ps`.
    pub place_name: String,
    /// Tell the user about calls that are not supported afield, once each.
    pub verbose: bool,
    /// Where the agent is found.
    pub runtime: RuntimeDir,
    /// Arguments with which this program is executed to be the agent if none runs yet, for example `["agent"]`.
    pub agent_arguments: Vec<OsString>,
}

/// Runs the job in this very process: it is described to the agent (which is started if there is none), and the process
/// then is the deputy of the guest: it ends when and as the guest ends.
///
/// Must be called while the process has one thread, with signal dispositions, mask and descriptors as they were
/// inherited (the caller must not have opened anything that is not close-on-exec, nor have ignored `SIGPIPE`). Does not
/// return: failures of afield's own are reported on standard error and exit with 125; a command that cannot be executed
/// exits with 126, one that is not found with 127.
pub fn run(job: Job) -> ! {
    let _ = job;
    std::process::exit(125)
}
