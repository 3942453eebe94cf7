//! Reaching the agent; starting it if there is none.

use std::ffi::{CString, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use thiserror::Error;

use crate::runtime::{RuntimeDir, RuntimeError};
use crate::sys::process::{self, Forked};

/// Longest wait for an agent to listen.
const START_TIME_MAX: Duration = Duration::from_secs(10);

/// Tells an agent which descriptor to close when it listens.
pub const READY_VARIABLE: &str = "AFIELD_READY_FD";

/// Why there is no agent.
#[derive(Debug, Error)]
pub enum StartError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Something of the directory's cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// No process could be made for it.
    #[error("agent: {0}")]
    Process(io::Error),
    /// It ended instead of listening.
    #[error("the agent did not start: {said} (log: {})", log.display())]
    Ended {
        /// Its last line.
        said: String,
        /// Where there may be more.
        log: PathBuf,
    },
    /// It does not listen in time.
    #[error("the agent does not answer within {} s (log: {})", START_TIME_MAX.as_secs(), log.display())]
    Slow {
        /// Where it may say why.
        log: PathBuf,
    },
}

/// Connects to the agent, which is started if there is none.
pub fn connect(runtime: &RuntimeDir, agent_arguments: &[OsString]) -> Result<OwnedFd, StartError> {
    runtime.prepare()?;
    if let Some(socket) = try_connect(runtime)? {
        return Ok(socket);
    }
    // Whoever has this lock starts one; the others find it when they get the lock.
    let path = runtime.path().join("start.lock");
    let at = |source| StartError::Io {
        path: path.clone(),
        source,
    };
    let lock = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(at)?;
    loop {
        match rustix::fs::flock(&lock, FlockOperation::LockExclusive) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(at(errno.into())),
        }
    }
    if let Some(socket) = try_connect(runtime)? {
        return Ok(socket);
    }
    start(runtime, agent_arguments)?;
    try_connect(runtime)?.ok_or_else(|| ended(runtime))
}

/// A connection, or `None` if nobody listens.
fn try_connect(runtime: &RuntimeDir) -> Result<Option<OwnedFd>, StartError> {
    match UnixStream::connect(runtime.socket()) {
        Ok(socket) => Ok(Some(socket.into())),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(source) => Err(StartError::Io {
            path: runtime.socket(),
            source,
        }),
    }
}

/// Starts an agent that belongs to no terminal, session or process here, and waits until it listens.
fn start(runtime: &RuntimeDir, agent_arguments: &[OsString]) -> Result<(), StartError> {
    let log_path = runtime.log();
    let at = |source| StartError::Io {
        path: log_path.clone(),
        source,
    };
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(at)?;
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(StartError::Process)?;
    let (ready, agents_ready) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| StartError::Process(errno.into()))?;
    let strings = |words: Vec<Vec<u8>>| -> Vec<CString> {
        words
            .into_iter()
            .filter_map(|word| CString::new(word).ok())
            .collect()
    };
    let mut words = vec![b"afield".to_vec()];
    words.extend(agent_arguments.iter().map(|word| word.clone().into_vec()));
    let arguments = strings(words);
    let directory = runtime.path().as_os_str().to_owned().into_vec();
    let mut environment = process::environment();
    environment.retain(|entry| {
        !entry.to_bytes().starts_with(b"AFIELD_RUNTIME_DIR=")
            && !entry
                .to_bytes()
                .starts_with(format!("{READY_VARIABLE}=").as_bytes())
    });
    environment.extend(strings(vec![
        [b"AFIELD_RUNTIME_DIR=".to_vec(), directory].concat(),
        format!("{READY_VARIABLE}=3").into_bytes(),
    ]));
    // Without a signal for this process, which may have SIGCHLD blocked and would pass it on to the guest.
    match process::fork_raw(0, false) {
        Err(errno) => return Err(StartError::Process(io::Error::from_raw_os_error(errno))),
        Ok(Forked::Parent(child)) => {
            process::reap(child);
        }
        Ok(Forked::Child) => {
            process::new_session();
            match process::fork_raw(libc::SIGCHLD as u32, false) {
                Ok(Forked::Child) => {}
                Ok(Forked::Parent(_)) => process::exit(0),
                Err(_) => process::exit(1),
            }
            let targets = [
                null.as_raw_fd(),
                null.as_raw_fd(),
                log.as_raw_fd(),
                agents_ready.as_raw_fd(),
            ];
            process::only_descriptors(&targets);
            process::default_signals();
            process::set_umask(0o077);
            let _ = rustix::process::chdir("/");
            process::execute(c"/proc/self/exe", &arguments, &environment);
            process::exit(125);
        }
    }
    drop(agents_ready);
    await_ready(runtime, ready)
}

/// The agent writes a byte when it listens. The end without one is its death.
fn await_ready(runtime: &RuntimeDir, ready: OwnedFd) -> Result<(), StartError> {
    let deadline = Instant::now() + START_TIME_MAX;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let time = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        let mut polls = [PollFd::from_borrowed_fd(ready.as_fd(), PollFlags::IN)];
        match poll(&mut polls, Some(&time)) {
            Ok(0) => {
                return Err(StartError::Slow { log: runtime.log() });
            }
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(StartError::Process(errno.into())),
        }
    }
    let mut byte = [0];
    match rustix::io::read(&ready, &mut byte) {
        Ok(1) => Ok(()),
        _ => Err(ended(runtime)),
    }
}

fn ended(runtime: &RuntimeDir) -> StartError {
    let mut text = String::new();
    if let Ok(mut log) = std::fs::File::open(runtime.log()) {
        let _ = log.read_to_string(&mut text);
    }
    StartError::Ended {
        said: text.lines().last().unwrap_or("no message").to_owned(),
        log: runtime.log(),
    }
}

/// Where an agent that was started on demand tells that it listens.
fn ready_number() -> Option<i32> {
    std::env::var(READY_VARIABLE).ok()?.parse().ok()
}

/// For an agent that was started on demand while another one is there: waits until that listens. False if it does not in
/// time, or if nobody waits for this one.
pub fn await_other(runtime: &RuntimeDir) -> bool {
    let deadline = Instant::now() + START_TIME_MAX / 2;
    while ready_number().is_some() && Instant::now() < deadline {
        if matches!(try_connect(runtime), Ok(Some(_))) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// For the agent: tells whoever started it that it listens.
pub fn report_ready() {
    let Some(number) = ready_number() else { return };
    if number > 2 {
        let ready = process::adopt(number);
        let _ = rustix::io::write(&ready, b"1");
    }
}
