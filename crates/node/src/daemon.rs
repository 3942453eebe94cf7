//! The node daemon: accepts homes over TCP, one session process each.
//!
//! A connection begins with a few bytes in clear, which say whether it is for a new session or for one that there is; the
//! session's process gets it then. The process of a session is made before it is known who has connected, so that strangers keep nobody but themselves
//! waiting. It does the handshake, looks whether the home's key is admitted, and tells the daemon; the daemon looks at the
//! file of admitted homes every second from then on, and ends sessions of those that stand there no more.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use afield_link::PROTOCOL;
use afield_link::carrier::Carrier;
use afield_link::preamble::{Answer, PREAMBLE_BYTES, Preamble, PreambleError, SessionId};
use afield_link::secure::{self, Fingerprint, Identity, SecureStream};
use afield_link::stream::{self, Socket};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::FlockOperation;
use tracing::{debug, info, warn};

use crate::admission::{AuthorizedHomes, Ledger, Limits, SESSIONS_MAX};
use crate::session::{self, SessionError, Terms};
use crate::store::Policy;
use crate::sys::process::{self, exit_now};
use crate::sys::sockets::{Received, receive_with, send_with};
use crate::sys::{clone, namespaces, signals, wall};

/// Longest time that a home may take to prove who it is.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest time that a connection may take to say what it is for.
const PREAMBLE_TIME_MAX: Duration = Duration::from_secs(5);

/// Connections at a time that have not proved who they are: of all addresses, and of one.
const STRANGERS_MAX: usize = 64;
const STRANGERS_PER_ADDRESS_MAX: usize = 16;

/// How often the daemon looks whether homes with sessions are still admitted.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// How long a session may take to say that it ends.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a refused home may take to hear why.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(2);

/// What a node is and whom it serves.
#[derive(Debug)]
pub struct Options {
    /// Its name, for homes to show.
    pub name: String,
    /// Its key.
    pub identity: Identity,
    /// The file with the homes that it admits.
    pub authorized_homes: PathBuf,
    /// The longest that a session waits for a lost connection.
    pub grace: Duration,
    /// When it ends by itself; `None`: never.
    pub idle: Option<Idle>,
    /// What is kept of homes' files.
    pub keeping: Policy,
}

/// When a daemon that nobody needs ends.
#[derive(Debug)]
pub struct Idle {
    /// After so long without a connection or session.
    pub time_max: Duration,
    /// Not while somebody holds the lock on this file, who is about to connect.
    pub lock: PathBuf,
}

/// Serves those that come to `listener` until it is killed, or nobody has needed it for long. `ready` is called with its address.
///
/// The process must have one thread. Sessions end when it does.
pub fn listen(listener: TcpListener, options: &Options, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut daemon = Daemon {
        options,
        children: signals::block_and_watch_children()?,
        ledger: Ledger::new()?,
        sessions: Vec::new(),
        arriving: Vec::new(),
        admitted: None,
        looked: Instant::now(),
        missed: false,
        needed: Instant::now(),
    };
    ready(listener.local_addr()?);
    loop {
        daemon.wait(&listener)?;
        daemon.bury();
        daemon.hear();
        daemon.look();
        daemon.listen_to_arriving(&listener);
        match listener.accept() {
            Ok((socket, peer)) => daemon.receive(socket, peer),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if daemon.is_done(&listener) {
                    return Ok(());
                }
            }
            Err(error) => {
                // Out of descriptors, say: others have to end first.
                warn!("accept: {error}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// A connection that has not said yet what it is for.
struct Arriving {
    socket: TcpStream,
    peer: SocketAddr,
    /// What it has said.
    said: Vec<u8>,
    until: Instant,
}

impl Arriving {
    /// What it is for, once that has come. An error if it is to be given up.
    fn hear(&mut self) -> Result<Option<Preamble>, PreambleError> {
        let mut bytes = [0; PREAMBLE_BYTES];
        // What follows is not the daemon's.
        let room = &mut bytes[self.said.len()..];
        match self.socket.read(room) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => self.said.extend_from_slice(&room[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        match <&[u8; PREAMBLE_BYTES]>::try_from(self.said.as_slice()) {
            Ok(whole) => Preamble::decode(whole).map(Some),
            Err(_) => Ok(None),
        }
    }
}

/// A session's process, as the daemon knows it.
struct Child {
    session: SessionId,
    /// To give it further connections.
    arrivals: UnixStream,
    pid: u32,
    peer: IpAddr,
    /// Its line in the ledger.
    place: usize,
    /// To tell it why it ends. It tells whose it is.
    control: UnixStream,
    /// Whose it is, once that is known.
    key: Option<Fingerprint>,
    /// When it was told to end.
    told: Option<Instant>,
}

struct Daemon<'a> {
    options: &'a Options,
    /// Readable when a child has ended.
    children: std::os::fd::OwnedFd,
    ledger: Ledger,
    sessions: Vec<Child>,
    arriving: Vec<Arriving>,
    /// The file of admitted homes, as it was last: when it was changed, its size and inode. `None`: not known.
    admitted: Option<(SystemTime, u64, u64)>,
    looked: Instant,
    /// The file was not there when the daemon looked last. An editor may be about to put it there anew.
    missed: bool,
    /// When somebody was there last.
    needed: Instant,
}

impl Daemon<'_> {
    /// Waits for a connection, the end of a session, or the time to look.
    fn wait(&self, listener: &TcpListener) -> io::Result<()> {
        let mut polls = vec![
            PollFd::new(listener, PollFlags::IN),
            PollFd::new(&self.children, PollFlags::IN),
        ];
        let strangers = self.sessions.iter().filter(|child| child.key.is_none());
        polls.extend(strangers.map(|child| PollFd::new(&child.control, PollFlags::IN)));
        polls.extend(
            self.arriving
                .iter()
                .map(|one| PollFd::new(&one.socket, PollFlags::IN)),
        );
        let has_homes = self.sessions.iter().any(|child| child.key.is_some())
            || !self.arriving.is_empty()
            || self.options.idle.is_some();
        let limit = Timespec {
            tv_sec: LOOK_PERIOD.as_secs() as i64,
            tv_nsec: 0,
        };
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut polls, has_homes.then_some(&limit)))?;
        let mut drain = [0; 1024];
        // Non-blocking; who it was does not matter.
        let _ = rustix::io::read(&self.children, &mut drain);
        Ok(())
    }

    /// Whether nobody has needed it for long, and nobody is about to.
    fn is_done(&mut self, listener: &TcpListener) -> bool {
        let Some(idle) = &self.options.idle else {
            return false;
        };
        if !self.sessions.is_empty() || !self.arriving.is_empty() {
            self.needed = Instant::now();
        }
        if self.needed.elapsed() < idle.time_max {
            return false;
        }
        let Ok(lock) = std::fs::File::open(&idle.lock) else {
            // Somebody has cleaned up: nobody finds the way here any more.
            return true;
        };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return false;
        }
        // Whoever had it before may have connected.
        let mut waiting = [PollFd::new(listener, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let done = rustix::event::poll(&mut waiting, Some(&now)) == Ok(0);
        if done {
            // Held until the process has ended, and its own lock with it.
            std::mem::forget(lock);
        }
        done
    }

    /// Lets go of sessions that have ended.
    fn bury(&mut self) {
        while let Some(pid) = process::reap_one() {
            if let Some(index) = self.sessions.iter().position(|child| child.pid == pid) {
                self.ledger.close(self.sessions.swap_remove(index).place);
            }
        }
    }

    /// Learns whose sessions are.
    fn hear(&mut self) {
        for child in self.sessions.iter_mut().filter(|child| child.key.is_none()) {
            let mut key = [0; 32];
            // Written at once, or not yet.
            if child.control.read_exact(&mut key).is_ok() {
                child.key = Some(Fingerprint::from_bytes(key));
                // The file may have changed since that session has read it.
                self.admitted = None;
            }
        }
    }

    /// Ends sessions whose homes are admitted no more.
    fn look(&mut self) {
        let now = Instant::now();
        for child in &self.sessions {
            if child.told.is_some_and(|told| now - told > FAREWELL_TIME_MAX) {
                let _ = signals::kill(child.pid as i32, libc::SIGKILL);
            }
        }
        if now - self.looked < LOOK_PERIOD && self.admitted.is_some()
            || self.sessions.iter().all(|child| child.key.is_none())
        {
            return;
        }
        self.looked = now;
        let state = state_of(&self.options.authorized_homes);
        let missed = std::mem::replace(&mut self.missed, state.is_none());
        if state.is_some() && state == self.admitted || state.is_none() && !missed {
            self.admitted = state.or(self.admitted);
            return;
        }
        let homes = match AuthorizedHomes::load(&self.options.authorized_homes) {
            Ok(homes) => homes,
            Err(error) => {
                // Nobody is admitted by a file that anybody may have written.
                warn!("{error}");
                AuthorizedHomes::none(&self.options.authorized_homes)
            }
        };
        self.admitted = state;
        for child in self.sessions.iter_mut().filter(|child| child.told.is_none()) {
            if let Some(key) = child.key
                && let Err(why) = homes.admit(key)
            {
                info!("the session of {} ends: {why}", child.peer);
                let _ = child.control.write_all(why.as_bytes());
                let _ = child.control.shutdown(std::net::Shutdown::Write);
                child.told = Some(now);
            }
        }
    }

    /// Takes a connection in, to hear what it is for.
    fn receive(&mut self, socket: TcpStream, peer: SocketAddr) {
        let strangers = self.sessions.iter().filter(|child| child.key.is_none());
        let all: Vec<IpAddr> = strangers
            .map(|child| child.peer)
            .chain(self.arriving.iter().map(|one| one.peer.ip()))
            .collect();
        let same = all.iter().filter(|other| **other == peer.ip()).count();
        if all.len() >= STRANGERS_MAX || same >= STRANGERS_PER_ADDRESS_MAX {
            debug!("too many connections at a time: {peer} is not answered");
            return;
        }
        if let Err(error) = socket.set_nonblocking(true) {
            return warn!("connection of {peer}: {error}");
        }
        self.arriving.push(Arriving {
            socket,
            peer,
            said: Vec::with_capacity(PREAMBLE_BYTES),
            until: Instant::now() + PREAMBLE_TIME_MAX,
        });
    }

    /// Hands over connections that have said what they are for.
    fn listen_to_arriving(&mut self, listener: &TcpListener) {
        let now = Instant::now();
        let mut index = 0;
        while index < self.arriving.len() {
            let one = &mut self.arriving[index];
            match one.hear() {
                Ok(None) if one.until > now => index += 1,
                Ok(None) => drop(self.arriving.swap_remove(index)),
                Err(error) => {
                    let one = self.arriving.swap_remove(index);
                    debug!("connection of {}: {error}", one.peer);
                }
                Ok(Some(preamble)) => {
                    let Arriving { mut socket, peer, .. } = self.arriving.swap_remove(index);
                    if let Some(refusal) = self.refusal(&preamble) {
                        // It fits into the socket's empty buffer.
                        let _ = refusal.write(&mut socket);
                    } else if let Err(error) = socket.set_nonblocking(false) {
                        warn!("connection of {peer}: {error}");
                    } else if preamble.session.is_none() {
                        self.begin(listener, socket, peer);
                    } else {
                        self.pass_on(preamble.session, &socket);
                    }
                }
            }
        }
    }

    fn refusal(&self, preamble: &Preamble) -> Option<Answer> {
        if preamble.protocol != PROTOCOL {
            return Some(Answer::Refused(env!("CARGO_PKG_VERSION").to_owned()));
        }
        let known = self
            .sessions
            .iter()
            .any(|child| child.session == preamble.session && child.told.is_none());
        (!preamble.session.is_none() && !known).then_some(Answer::Unknown)
    }

    /// Gives a session's process another connection.
    fn pass_on(&self, session: SessionId, socket: &TcpStream) {
        let child = self.sessions.iter().find(|child| child.session == session);
        if let Some(child) = child
            && let Err(error) = send_with(&child.arrivals, &[0], socket.as_fd())
        {
            // It takes none, or has had too many; whoever it is will try again.
            debug!("another connection for process {}: {error}", child.pid);
        }
    }

    /// Makes a process for a connection.
    fn begin(&mut self, listener: &TcpListener, socket: TcpStream, peer: SocketAddr) {
        let is_free = |place: &usize| self.sessions.iter().all(|child| child.place != *place);
        let Some(place) = (0..SESSIONS_MAX).find(is_free) else {
            warn!("there are {SESSIONS_MAX} sessions: {peer} is not answered");
            return;
        };
        let made = || {
            let (ours, control) = UnixStream::pair()?;
            let (our_arrivals, arrivals) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            our_arrivals.set_nonblocking(true)?;
            let session = SessionId::random()?;
            Ok::<_, io::Error>((ours, our_arrivals, session, control, arrivals))
        };
        let (ours, our_arrivals, session, control, arrivals) = match made() {
            Ok(made) => made,
            Err(error) => return warn!("session of {peer}: {error}"),
        };
        let daemon = std::process::id();
        match clone::fork_with(0, libc::SIGCHLD, None) {
            Ok(0) => {
                close_on_fork(listener);
                drop((ours, our_arrivals));
                // What the daemon has of other sessions is not for this one.
                self.sessions.clear();
                self.arriving.clear();
                let begun = Begun {
                    session,
                    place,
                    socket,
                    control,
                    arrivals,
                };
                let served = namespaces::die_with_parent(Some(daemon))
                    .map_err(SessionError::from)
                    .and_then(|()| serve(self.options, self.ledger, begun));
                if let Err(error) = &served {
                    warn!("session of {peer}: {error}");
                }
                exit_now(i32::from(served.is_err()));
            }
            Ok(pid) => {
                info!("session of {peer} is process {pid}");
                self.sessions.push(Child {
                    session,
                    arrivals: our_arrivals,
                    pid,
                    peer: peer.ip(),
                    place,
                    control: ours,
                    key: None,
                    told: None,
                });
            }
            Err(error) => warn!("session of {peer}: fork: {error}"),
        }
    }
}

/// In a session's process: the daemon alone listens.
fn close_on_fork(listener: &TcpListener) {
    use std::os::fd::AsRawFd;
    let number = listener.as_raw_fd() as u32;
    // The process ends without touching the listener again.
    let _ = process::close_range(number, number);
}

/// What tells one version of a file from another.
fn state_of(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::metadata(path).ok()?;
    // A change of permissions is one, too.
    let changed = Duration::new(found.ctime().max(0) as u64, found.ctime_nsec() as u32);
    Some((SystemTime::UNIX_EPOCH + changed, found.size(), found.ino()))
}

/// What a session's process is given.
struct Begun {
    session: SessionId,
    place: usize,
    socket: TcpStream,
    /// To the daemon and back.
    control: UnixStream,
    /// Brings further connections for this session.
    arrivals: UnixStream,
}

/// Serves whoever is at the other end of the socket, if it is admitted.
fn serve(options: &Options, ledger: Ledger, begun: Begun) -> Result<(), SessionError> {
    let Begun {
        session,
        place,
        mut socket,
        mut control,
        arrivals,
    } = begun;
    let deadline = Instant::now() + HANDSHAKE_TIME_MAX;
    Answer::Go.write(&mut socket)?;
    let secured = secure::accept(socket, &options.identity, deadline)?;
    let key = secured.peer;
    let stream = Arc::new(SecureStream::new(secured)?);
    let admitted = AuthorizedHomes::load(&options.authorized_homes)
        .map_err(|error| {
            // What it is about is nothing for strangers.
            warn!("{error}");
            "it cannot tell whom it admits; its log says why".to_owned()
        })
        .and_then(|homes| homes.admit(key))
        .and_then(|limits| match limits.closed(wall::moment()) {
            Some(why) => Err(why),
            None => Ok(limits),
        });
    let bounds = afield_link::resume::Limits {
        grace: options.grace,
        ..Default::default()
    };
    let carrier = Carrier::begin_on_node(stream, bounds, session, deadline)?;
    let link = Socket::Carried(carrier.clone());
    let limits = match admitted {
        Ok(limits) => limits,
        Err(why) => {
            session::refuse(link, &options.name, &why, REFUSAL_TIME_MAX)?;
            return Err(SessionError::NotAdmitted(key));
        }
    };
    control.write_all(key.bytes())?;
    crate::journal::known_as(&key.to_string());
    lend_cpus(&limits, ledger)?;
    afield_link::sys::keep_freed_memory();
    let identity = options.identity.clone();
    let terms = Terms {
        quota: ledger.open(place, key, limits.guests),
        limits,
        control: Some(control),
        key: Some(key),
        keeping: Some(options.keeping.clone()),
        leases: None,
        hatch: None,
        arrivals: Some(Box::new(move || {
            take_connections(&arrivals, &carrier, &identity, key)
        })),
    };
    let (reader, writer) = stream::split(link)?;
    session::serve(reader, writer, &options.name, terms)
}

/// Takes connections that the daemon passes on, as long as there is a daemon. Only the home that has the session may go on with it.
fn take_connections(arrivals: &UnixStream, carrier: &Carrier, identity: &Identity, key: Fingerprint) {
    while let Ok(Received {
        count: 1, descriptor, ..
    }) = receive_with(arrivals, &mut [0])
    {
        let Some(socket) = descriptor.map(TcpStream::from) else {
            continue;
        };
        let identity = identity.clone();
        carrier.offer(move |deadline| {
            let mut socket = socket;
            Answer::Go.write(&mut socket)?;
            let secured = secure::accept(socket, &identity, deadline)?;
            if secured.peer != key {
                return Err(io::Error::other("another home"));
            }
            Ok(Arc::new(SecureStream::new(secured)?))
        });
    }
}

/// Keeps this process, and what it will start, to as many CPUs as the home may have.
fn lend_cpus(limits: &Limits, ledger: Ledger) -> io::Result<()> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let Some(count) = limits.cpus else { return Ok(()) };
    let own = sched_getaffinity(None)?;
    let there: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| own.is_set(*cpu)).collect();
    let first = ledger.next_cpus(count) as usize;
    let mut lent = CpuSet::new();
    for step in 0..(count as usize).min(there.len()) {
        lent.set(there[(first + step) % there.len()]);
    }
    sched_setaffinity(None, &lent)?;
    Ok(())
}
