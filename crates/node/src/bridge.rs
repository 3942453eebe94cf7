//! The way from a login by ssh to a node daemon of that account's own, which is started when there is none.
//!
//! A session has to outlive the connection by which ssh leads to it, so it is not the remote command's: that only carries bytes
//! between its standard streams and a daemon, which listens on the loopback interface and ends when nobody has needed it
//! for a while. The login is what admits a home: its key is entered among those that this daemon admits, and it is told the node's.
//!
//! One directory, of the account's cache, belongs to one version of the program on one machine:
//!
//! | file | what |
//! |---|---|
//! | `lock` | held while a home's way is made, and when the daemon ends |
//! | `daemon` | locked while there is a daemon; its port |
//! | `authorized_homes` | who has logged in |
//! | `log` | the daemon's |

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use afield_link::secure::files::FileError;
use afield_link::secure::{Fingerprint, Identity};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use thiserror::Error;
use tracing::warn;

use crate::daemon::{self, Idle, Options};
use crate::session::start;
use crate::store::Policy;
use crate::sys::clone;
use crate::sys::process::{exit_now, place};
use crate::{admission, journal};

/// How long a daemon that nobody needs stays.
const IDLE_TIME_MAX: Duration = Duration::from_secs(1);

/// Bytes carried at once.
const PIECE_BYTES: usize = 64 << 10;

/// Why a login does not lead to a node.
#[derive(Debug, Error)]
pub enum BridgeError {
    /// A file of the directory, or the directory itself.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory could be somebody else's.
    #[error("{} is not a directory that only its owner may use: remove it", .0.display())]
    Unsafe(PathBuf),
    /// The keys that are admitted.
    #[error(transparent)]
    Keys(#[from] FileError),
    /// The record of its sessions.
    #[error(transparent)]
    Journal(#[from] journal::JournalError),
    /// Something else that is needed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It ended before it listened.
    #[error("the node's daemon did not start; {} may say why", .0.display())]
    NotStarted(PathBuf),
    /// The same, and it could still say why.
    #[error("the node's daemon did not start: {0}")]
    Daemon(String),
}

/// One end of the way.
#[derive(Debug)]
pub struct Bridge {
    directory: PathBuf,
    keeping: Policy,
}

impl Bridge {
    /// A bridge whose files are in `directory`, which is made if need be, to a daemon that does this about keeping contents.
    pub fn at(directory: PathBuf, keeping: Policy) -> Result<Self, BridgeError> {
        let at = |source| BridgeError::File {
            path: directory.clone(),
            source,
        };
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(at(error)),
            _ => {}
        }
        let found = std::fs::symlink_metadata(&directory).map_err(at)?;
        let uid = rustix::process::geteuid().as_raw();
        if !found.is_dir() || found.uid() != uid || found.mode() & 0o077 != 0 {
            return Err(BridgeError::Unsafe(directory));
        }
        Ok(Self { directory, keeping })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn open(&self, name: &str) -> Result<File, BridgeError> {
        let path = self.path(name);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        options
            .open(&path)
            .map_err(|source| BridgeError::File { path, source })
    }

    /// A connection to this account's daemon, which admits `home` from now on. The process must have one thread.
    pub fn reach(
        &self,
        identity: &Identity,
        name: &str,
        grace: Duration,
        home: Fingerprint,
    ) -> Result<TcpStream, BridgeError> {
        let io = |what| move |source: io::Error| BridgeError::Io { what, source };
        let lock = self.open("lock")?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|errno| io("lock")(errno.into()))?;
        admission::add(&self.path("authorized_homes"), "", home, "by ssh")?;
        let mut state = self.open("daemon")?;
        match rustix::fs::flock(&state, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => self.start(
                state.try_clone().map_err(io("daemon"))?,
                &lock,
                identity,
                name,
                grace,
            )?,
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(io("daemon")(errno.into())),
        }
        let mut port = String::new();
        state
            .rewind()
            .and_then(|()| state.read_to_string(&mut port))
            .map_err(io("daemon"))?;
        let port: u16 = port
            .trim()
            .parse()
            .map_err(|_| BridgeError::NotStarted(self.path("log")))?;
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(io("the node's daemon"))?;
        stream.set_nodelay(true).map_err(io("the node's daemon"))?;
        Ok(stream)
    }

    /// Starts the daemon, and waits until it listens. `state` is locked, and stays so with the daemon.
    fn start(
        &self,
        state: File,
        lock: &File,
        identity: &Identity,
        name: &str,
        grace: Duration,
    ) -> Result<(), BridgeError> {
        let io = |what| move |source: io::Error| BridgeError::Io { what, source };
        state.set_len(0).map_err(io("daemon"))?;
        let (ready, told) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|errno| io("pipe")(errno.into()))?;
        if clone::fork_with(0, libc::SIGCHLD, None).map_err(io("fork"))? == 0 {
            drop(ready);
            // What this one opened of the lock is the waiting process's, too.
            let number = std::os::fd::AsRawFd::as_raw_fd(lock) as u32;
            let _ = crate::sys::process::close_range(number, number);
            let told = Cell::new(Some(told));
            let served = self.serve(state, identity, name, grace, &told);
            if let Err(error) = &served {
                warn!("{error}");
                // There may be no room for a log.
                if let Some(told) = told.take() {
                    let _ = rustix::io::write(told, error.to_string().as_bytes());
                }
            }
            exit_now(i32::from(served.is_err()));
        }
        drop((state, told));
        let mut words = [0; 4096];
        match rustix::io::retry_on_intr(|| rustix::io::read(&ready, &mut words)) {
            Ok(1) => Ok(()),
            Ok(count @ 2..) => Err(BridgeError::Daemon(
                String::from_utf8_lossy(&words[..count]).into_owned(),
            )),
            _ => Err(BridgeError::NotStarted(self.path("log"))),
        }
    }

    /// The daemon, until nobody needs it.
    fn serve(
        &self,
        mut state: File,
        identity: &Identity,
        name: &str,
        grace: Duration,
        ready: &Cell<Option<std::os::fd::OwnedFd>>,
    ) -> Result<(), BridgeError> {
        let io = |what| move |source: io::Error| BridgeError::Io { what, source };
        let log = self.open("log")?;
        log.set_len(0).map_err(io("log"))?;
        let null = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .map_err(io("/dev/null"))?;
        for (file, number) in [(&null, 0), (&null, 1), (&log, 2)] {
            place(file, number).map_err(io("standard descriptors"))?;
        }
        rustix::process::setsid().map_err(|errno| io("setsid")(errno.into()))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(io("listen"))?;
        let ended = journal::keep(&self.path("sessions"))?;
        if ended > 0 {
            warn!(ended, "sessions were left over");
        }
        let options = Options {
            name: name.to_owned(),
            identity: identity.clone(),
            authorized_homes: self.path("authorized_homes"),
            grace,
            idle: Some(Idle {
                time_max: IDLE_TIME_MAX,
                lock: self.path("lock"),
            }),
            keeping: self.keeping.clone(),
        };
        daemon::listen(listener, &options, |address| {
            // If that fails, whoever waits finds no port.
            let _ = writeln!(state, "{}", address.port());
            if let Some(ready) = ready.take() {
                let _ = rustix::io::write(ready, b"1");
            }
        })
        .map_err(io("listen"))
    }
}

/// Carries bytes between the standard streams and `stream` until either is at its end.
pub fn carry(stream: &TcpStream) -> io::Result<()> {
    let (input, output) = (io::stdin(), io::stdout());
    let to_daemon = stream.try_clone()?;
    start("input", move || {
        pass(input.as_fd(), to_daemon.as_fd());
        // However it ends, nothing more comes.
        let _ = to_daemon.shutdown(Shutdown::Both);
    })?;
    pass(stream.as_fd(), output.as_fd());
    Ok(())
}

/// Until the end of one of them.
fn pass(from: impl AsFd, to: impl AsFd) {
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(count @ 1..) = rustix::io::retry_on_intr(|| rustix::io::read(&from, &mut piece)) {
        let mut rest = &piece[..count];
        while !rest.is_empty() {
            match rustix::io::retry_on_intr(|| rustix::io::write(&to, rest)) {
                Ok(written) => rest = &rest[written..],
                Err(_) => return,
            }
        }
    }
}

/// Where the program at `program` keeps what belongs to its bridge on this machine.
pub fn directory_of(program: &Path, machine: &str) -> PathBuf {
    let mut name = program.file_name().unwrap_or_default().to_owned();
    let machine: String = machine
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .collect();
    name.push(format!(".{machine}"));
    program.with_file_name(name)
}
