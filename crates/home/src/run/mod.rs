//! `afield run`: starts a job and becomes its root deputy.

mod descriptors;
mod program;
mod start;

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::Arc;

use afield_link::frame::Kind;
use afield_link::wire::{self, Spawn, SpawnError};
use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use crate::agent::ssh::connect_on_terminal;
use crate::channel::{self, ChannelError, Incoming, Received};
use crate::deputy::{Deputy, Lead, Parts, Root, Terminal, out_of_the_way};
use crate::messages::{Greeting, Request, RunRequest, ToDeputy, WORLDS_MAX};
use crate::place::Place;
use crate::runtime::RuntimeDir;
use crate::sys::{interrupt, process, signals};
use descriptors::Inventory;
pub use descriptors::device_named;
use program::ProgramError;
use start::StartError;
pub use start::{await_other, report_ready};

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

/// Why a job was not started.
#[derive(Debug, Error)]
enum RunError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("agent: {0}")]
    Channel(#[from] ChannelError),
    #[error("agent: {0}")]
    Wire(#[from] wire::WireError),
    #[error("agent: unexpected answer")]
    Answer,
    #[error("the running agent is afield {0}, this is {ours}: end it with `afield agent stop`", ours = env!("CARGO_PKG_VERSION"))]
    Version(String),
    #[error("{0}")]
    Refused(String),
    /// Ssh would have to ask the user something.
    #[error("{0}")]
    Asks(String),
    /// The session ended before the program was executed.
    #[error("{0}")]
    Gone(String),
    #[error("working directory: {0}")]
    Directory(io::Error),
    #[error("descriptors: {0}")]
    Descriptors(io::Error),
    #[error("node {node}: {error}")]
    Node { node: String, error: SpawnError },
    #[error("{program}: {}", io::Error::from_raw_os_error(*errno))]
    Execute { program: String, errno: i32 },
    #[error("signals: {0}")]
    Signals(io::Error),
}

impl RunError {
    /// Exit status, as `env(1)` has them.
    fn status(&self) -> i32 {
        match self {
            Self::Program(error) => error.status(),
            Self::Execute { errno, .. } if *errno == libc::ENOENT => 127,
            Self::Execute { .. } => 126,
            _ => 125,
        }
    }
}

/// Runs the job in this very process: it is described to the agent (which is started if there is none), and the process
/// then is the deputy of the guest: it ends when and as the guest ends.
///
/// Must be called while the process has one thread, with signal dispositions, mask and descriptors as they were
/// inherited (the caller must not have opened anything that is not close-on-exec, nor have ignored `SIGPIPE`). Does not
/// return: failures of afield's own are reported on standard error and exit with 125; a command that cannot be executed
/// exits with 126, one that is not found with 127.
pub fn run(job: Job) -> ! {
    process::frugal_memory();
    let error = start_job(&job).unwrap_err();
    let line = format!("afield: {}\n", without_numbers(&error.to_string()));
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
    process::exit(error.status())
}

/// The text without the numbers that Rust adds to the kernel's messages.
fn without_numbers(text: &str) -> String {
    let mut rest = text;
    let mut plain = String::with_capacity(text.len());
    while let Some(at) = rest.find(" (os error ") {
        plain.push_str(&rest[..at]);
        rest = rest[at..].split_once(')').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    plain
}

/// Comes back only with an error.
fn start_job(job: &Job) -> Result<std::convert::Infallible, RunError> {
    let mut snapshot = Snapshot::take()?;
    let command: Vec<Vec<u8>> = job.command.iter().map(|word| word.clone().into_vec()).collect();
    let name = command.first().cloned().unwrap_or_default();
    let program = program::find(&name, snapshot.variable(b"PATH"))?;
    let attempt = Attempt {
        job,
        name: String::from_utf8_lossy(&name).into_owned(),
    };
    let mut result = attempt.make(&mut snapshot, program.clone(), command.clone());
    if let (Err(RunError::Asks(_)), Place::Ssh(url)) = (&result, &job.place)
        && std::fs::File::open("/dev/tty").is_ok()
        && connect_on_terminal(url, &job.runtime.ssh_connection(url))
    {
        result = attempt.make(&mut snapshot, program.clone(), command.clone());
    }
    match result {
        // Not a program of any kind: the shell reads it, as `execvp` has it.
        Err(RunError::Execute {
            errno: libc::ENOEXEC, ..
        }) => {
            let mut arguments = vec![b"/bin/sh".to_vec(), program];
            arguments.extend_from_slice(&command[1..]);
            attempt.make(&mut snapshot, b"/bin/sh".to_vec(), arguments)
        }
        result => result,
    }
}

/// The process as the job finds it.
struct Snapshot {
    directory: Vec<u8>,
    /// The working directory, if its path does not lead to it.
    way: Option<OwnedFd>,
    umask: u32,
    limits: Vec<(u64, u64)>,
    ignored: u64,
    blocked: u64,
    ids: [u32; 6],
    environment: Vec<CString>,
    inventory: Inventory,
    terminal: Option<Terminal>,
}

impl Snapshot {
    fn take() -> Result<Self, RunError> {
        let inventory = Inventory::take().map_err(RunError::Descriptors)?;
        let (directory, way) = working_directory().map_err(|errno| RunError::Directory(errno.into()))?;
        Ok(Self {
            directory,
            way,
            umask: process::umask(),
            limits: (0..LIMITS).map(process::limit).collect(),
            ignored: signals::ignored(),
            blocked: signals::blocked(),
            ids: process::ids(),
            environment: process::environment(),
            inventory,
            terminal: Terminal::of_this_process(),
        })
    }

    fn variable(&self, name: &[u8]) -> Option<&[u8]> {
        self.environment.iter().find_map(|entry| {
            let value = entry.to_bytes().strip_prefix(name)?;
            value.strip_prefix(b"=")
        })
    }

    fn spawn(&self, program: Vec<u8>, arguments: Vec<Vec<u8>>) -> Spawn {
        Spawn {
            pid: std::process::id(),
            program,
            arguments,
            environment: self
                .environment
                .iter()
                .map(|entry| entry.to_bytes().to_vec())
                .collect(),
            directory: self.directory.clone(),
            umask: self.umask,
            limits: self.limits.clone(),
            ignored: self.ignored,
            blocked: self.blocked,
            ids: self.ids,
            descriptors: self.inventory.descriptors().to_vec(),
        }
    }
}

/// Path of the working directory, and the directory itself if that path does not lead there: it was removed, or something
/// above it may not be searched.
fn working_directory() -> rustix::io::Result<(Vec<u8>, Option<OwnedFd>)> {
    // This asks nobody's permission.
    let here = "/proc/self/cwd";
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(here, flags, Mode::empty())?;
    let status = rustix::fs::fstat(&directory)?;
    let mut path = rustix::fs::readlink(here, Vec::new())?.into_bytes();
    match rustix::fs::stat(path.as_slice()) {
        Ok(found) if (found.st_dev, found.st_ino) == (status.st_dev, status.st_ino) => {
            return Ok((path, None));
        }
        _ => {}
    }
    if let Some(former) = path.strip_suffix(b" (deleted)")
        && status.st_nlink == 0
    {
        path = former.to_vec();
    }
    Ok((path, Some(directory)))
}

/// How many sessions a job may outlive before its program is executed.
const ATTEMPTS_MAX: u32 = 3;

/// Count of `RLIMIT_*`.
const LIMITS: u32 = 16;

/// One try to start the program.
struct Attempt<'a> {
    job: &'a Job,
    /// As the user wrote it.
    name: String,
}

impl Attempt<'_> {
    /// Comes back only with an error. A session or an agent may end just as a job comes to it: the next try gets another. That
    /// the program has not been executed is certain then, since its node says so before the program can do anything. And where
    /// another guest has a thread of the job's pid, the next try gets another world.
    fn make(
        &self,
        snapshot: &mut Snapshot,
        program: Vec<u8>,
        arguments: Vec<Vec<u8>>,
    ) -> Result<std::convert::Infallible, RunError> {
        let (mut attempts, mut world) = (1, 0);
        loop {
            match self.make_once(snapshot, world, program.clone(), arguments.clone()) {
                Err(RunError::Gone(_)) if attempts < ATTEMPTS_MAX => attempts += 1,
                Err(RunError::Node { error, .. }) if error.pid_is_taken() && world + 1 < WORLDS_MAX => {
                    world += 1;
                }
                result => return result,
            }
        }
    }

    fn make_once(
        &self,
        snapshot: &mut Snapshot,
        world: u32,
        program: Vec<u8>,
        arguments: Vec<Vec<u8>>,
    ) -> Result<std::convert::Infallible, RunError> {
        let socket = start::connect(&self.job.runtime, &self.job.agent_arguments)?;
        let channel = out_of_the_way(socket);
        let mut incoming = Incoming::default();
        self.greet(&channel, &mut incoming).map_err(before_acceptance)?;
        let title = Title::new(&program, &arguments);
        let request = Request::Run(Box::new(RunRequest {
            place: self.job.place.clone(),
            place_name: self.job.place_name.clone(),
            world,
            verbose: self.job.verbose,
            directory: snapshot.way.is_some(),
            spawn: snapshot.spawn(program, arguments),
        }));
        let way = snapshot.way.as_ref().map(AsFd::as_fd);
        channel::send_control(channel.as_fd(), 0, &request, way)
            .map_err(|error| before_acceptance(error.into()))?;
        drop(request);
        let handle_first = match next(&channel, &mut incoming).map_err(before_acceptance)? {
            ToDeputy::Accepted { handle_first } => handle_first,
            ToDeputy::Refused(why) => return Err(RunError::Refused(why)),
            ToDeputy::Asks(why) => return Err(RunError::Asks(why)),
            _ => return Err(RunError::Answer),
        };
        // Once the program has been executed signals are the guest's; until then they do what they do before any `execve`.
        let mask = signals::set_blocked(signals::ALL);
        let outcome = loop {
            break match next_unless_killed(&channel, &mut incoming, mask) {
                Ok(ToDeputy::Notice(text)) => {
                    eprintln!("afield: {text}");
                    continue;
                }
                Ok(ToDeputy::Spawned(result)) => result.map_err(|error| self.spawn_error(error)),
                Ok(ToDeputy::Refused(why)) => Err(RunError::Refused(why)),
                Ok(ToDeputy::Gone(why)) => Err(RunError::Gone(why)),
                Ok(_) => Err(RunError::Answer),
                Err(error) => Err(error),
            };
        };
        if let Err(error) = outcome {
            signals::set_blocked(mask);
            return Err(error);
        }
        self.become_deputy(snapshot, channel, incoming, handle_first, title)
    }

    /// The process is the guest's deputy until its end.
    fn become_deputy(
        &self,
        snapshot: &mut Snapshot,
        channel: OwnedFd,
        incoming: Incoming,
        handle_first: u64,
        title: Title,
    ) -> Result<std::convert::Infallible, RunError> {
        interrupt::install();
        // The guest's own limit on descriptors is enforced on the node.
        process::raise_limit(libc::RLIMIT_NOFILE);
        snapshot.way = None;
        // The guest may be under way: what comes with messages for its deputy may be here.
        let own = std::iter::once(channel.as_fd()).chain(incoming.descriptors());
        let (handles, stderr) = snapshot.inventory.hand_over(handle_first, own);
        let dump_directory: PathBuf = self.job.runtime.path().to_owned();
        let deputy = Deputy::new(Parts {
            channel,
            handles,
            ignored: snapshot.ignored,
            root: Some(Root {
                name: self.name.clone(),
                stderr,
            }),
            terminal: snapshot.terminal.take().map(Arc::new),
            dump_directory: Arc::new(dump_directory),
        })
        .map_err(RunError::Signals)?;
        snapshot.environment = Vec::new();
        deputy.tell_of_inherited();
        let mut lead = Lead::new(incoming);
        lead.show(&deputy, &title.name, &title.arguments);
        lead.serve(deputy)
    }

    fn greet(&self, channel: &OwnedFd, incoming: &mut Incoming) -> Result<(), RunError> {
        channel::send_control(channel.as_fd(), 0, &Greeting::ours(), None)?;
        let frame = incoming.wait_frame(channel.as_fd())?;
        let greeting: Greeting = wire::decode(&frame.payload)?;
        if greeting.fits() {
            Ok(())
        } else {
            Err(RunError::Version(greeting.version))
        }
    }

    fn spawn_error(&self, error: SpawnError) -> RunError {
        if error.step == "execve" {
            RunError::Execute {
                program: self.name.clone(),
                errno: error.errno,
            }
        } else {
            RunError::Node {
                node: self.job.place_name.clone(),
                error,
            }
        }
    }
}

/// An agent that ends before it has accepted a job has asked no node to do anything for it.
fn before_acceptance(error: RunError) -> RunError {
    match error {
        RunError::Channel(ChannelError::Closed) => {
            RunError::Gone("the agent ended as the job came to it".to_owned())
        }
        error => error,
    }
}

/// The next message of the agent.
fn next(channel: &OwnedFd, incoming: &mut Incoming) -> Result<ToDeputy, RunError> {
    let frame = incoming.wait_frame(channel.as_fd())?;
    if frame.kind != Kind::Control {
        return Err(RunError::Answer);
    }
    Ok(wire::decode(&frame.payload)?)
}

/// The same, with signals blocked except for those that are not in `mask` while it waits.
fn next_unless_killed(
    channel: &OwnedFd,
    incoming: &mut Incoming,
    mask: signals::Set,
) -> Result<ToDeputy, RunError> {
    loop {
        if let Some(frame) = incoming.next_frame()? {
            // A guest that could not execute its program has closed its descriptors, and is heard of next.
            if frame.kind == Kind::Handle {
                continue;
            }
            if frame.kind != Kind::Control {
                return Err(RunError::Answer);
            }
            return Ok(wire::decode(&frame.payload)?);
        }
        signals::wait_readable(channel.as_fd(), mask);
        if incoming.receive(channel.as_fd(), false)? == Received::End {
            return Err(ChannelError::Closed.into());
        }
    }
}

/// What `ps` is to show.
struct Title {
    name: Vec<u8>,
    arguments: Vec<u8>,
}

impl Title {
    fn new(program: &[u8], arguments: &[Vec<u8>]) -> Self {
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(program));
        let name = path
            .file_name()
            .map_or_else(|| program.to_vec(), |name| name.as_bytes().to_vec());
        let mut joined = Vec::new();
        for argument in arguments {
            joined.extend_from_slice(argument);
            joined.push(0);
        }
        Self {
            name,
            arguments: joined,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_plain() {
        for (text, plain) in [
            (
                "x: No such file or directory (os error 2)",
                "x: No such file or directory",
            ),
            ("a (os error 2); b (os error 13) c", "a; b c"),
            ("a (os error 2", "a"),
            ("", ""),
        ] {
            assert_eq!(without_numbers(text), plain);
        }
    }
}
