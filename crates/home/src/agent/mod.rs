//! The agent: one daemon per user at home.
//!
//! The main thread starts embedded nodes (a node dies with the thread that started it, which therefore must not end), and
//! decides when the agent ends. One thread accepts clients; each session has its own threads ([`session`]).

pub mod client;
mod deputies;
mod early;
pub mod explain;
mod incarnation;
mod listener;
mod making;
mod measure;
pub mod nodes;
mod record_locks;
mod requests;
mod server;
mod session;
mod shared;
pub mod ssh;
mod streams;
mod switchboard;
#[cfg(test)]
mod tests;
pub mod trips;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Child;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use afield_link::secure::{Fingerprint, Identity};
use afield_link::stream::{LinkError, Socket};
use rustix::fs::FlockOperation;
use thiserror::Error;

use crate::coherence::Coherence;
use crate::files::{self, early::Generosity};
use crate::messages::WORLDS_MAX;
use crate::place::Place;
use crate::runtime::{RuntimeDir, RuntimeError};
use crate::sys::{daemon, interrupt, process, signals};
use incarnation::Incarnation;
use making::Makings;
use nodes::{Connection, EmbeddedLink, NodeError, Reach};
use session::{Embedded, Session, SessionError};
use ssh::{Copying, Login, Refusal};

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
    /// The file with this home's key, which is made when it is first wanted.
    pub key: PathBuf,
    /// How long a session waits for a lost connection to be replaced.
    pub grace: Duration,
    /// Nodes keep what they know of home's files until they are told that it has changed.
    pub caches: bool,
    /// What nodes on other machines are told before they ask.
    pub generosity: Generosity,
    /// The file in which is kept what programs ask of files, so that nodes can be told before.
    pub asked: PathBuf,
}

/// Open files without which it could serve nobody.
const FILES_MIN: u64 = 256;

/// Why the agent could not start or go on.
#[derive(Debug, Error)]
pub enum AgentError {
    /// Its directory cannot be used.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// Another one serves this user.
    #[error("an agent is running already in {0}")]
    Running(String),
    /// It was started under a limit that is its own then, and cannot raise it.
    #[error(
        "an agent needs {FILES_MIN} open files, and may have {0}: start it under a higher limit (`ulimit -n`) first, with `afield run true`"
    )]
    Files(u64),
    /// The kernel refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What the main thread is told.
enum Event {
    /// Start an embedded node with this end of its link; its pid goes back.
    StartNode(OwnedFd, Sender<io::Result<u32>>),
    /// Start ssh; its pid goes back.
    StartSsh(Box<Login>, Sender<io::Result<(u32, Copying)>>),
    /// A session is over; the pid of its embedded node.
    SessionOver(Option<u32>),
    /// An ssh is not needed any more.
    EndSsh(u32),
    /// End.
    Stop,
}

/// A place's session, or the making of it, which the lock is held for.
type Slot = Arc<Mutex<Option<Arc<Session>>>>;

/// The whole.
struct Agent {
    options: Options,
    started_ms: u64,
    /// By place, and of several with one place by their number.
    slots: Mutex<HashMap<(Place, u32), Slot>>,
    events: Sender<Event>,
    state: Mutex<AgentState>,
    /// What nodes keep, made for the first session; none if it cannot be.
    coherence: OnceLock<Option<Arc<Coherence>>>,
    makings: Arc<Makings>,
    /// How many questions of programs have been kept.
    kept_asked: Mutex<u64>,
}

/// What changes all the time.
#[derive(Default)]
struct AgentState {
    /// Clients being served.
    clients: usize,
    /// Jobs being started.
    starting: usize,
    /// When there was a job last.
    used_ms: u64,
    /// Connections that are kept until the end, which is their answer.
    farewells: Vec<UnixStream>,
}

/// Serves until it is stopped or has been idle for long. The calling process should have one thread; standard
/// descriptors may be anything. Returns when it ended in an orderly way: the socket is gone then.
pub fn serve(options: Options) -> Result<(), AgentError> {
    let failed = |source| AgentError::Io {
        what: "the agent's thread".to_owned(),
        source,
    };
    daemon::out_of_sight(|| serve_here(options)).map_err(failed)?
}

fn serve_here(options: Options) -> Result<(), AgentError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| AgentError::Io { what, source }
    };
    let runtime = options.runtime.clone();
    runtime.prepare()?;
    process::frugal_memory();
    daemon::free_of_its_starter();
    let files = daemon::files_max();
    if files < FILES_MIN {
        return Err(AgentError::Files(files));
    }
    let lock_path = runtime.lock();
    let agent_lock = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(failed(&lock_path.display().to_string()))?;
    if rustix::fs::flock(&agent_lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        // Another one is just starting, whose starter did not live to see it: it will do.
        if crate::run::await_other(&runtime) {
            crate::run::report_ready();
            return Ok(());
        }
        return Err(AgentError::Running(runtime.path().display().to_string()));
    }
    Incarnation::become_next(runtime.path()).map_err(failed("the file with this home's incarnation"))?;
    runtime.remove_dumps();
    // Whoever had this one is dead: the lock says so.
    let socket_path = runtime.socket();
    let _ = std::fs::remove_file(&socket_path);
    let listener = UnixListener::bind(&socket_path).map_err(failed(&socket_path.display().to_string()))?;
    interrupt::install();
    let end_signals =
        signals::only(libc::SIGTERM) | signals::only(libc::SIGINT) | signals::only(libc::SIGHUP);
    signals::set_blocked(signals::blocked() | end_signals);
    let (events, received) = mpsc::channel();
    let agent = Arc::new(Agent {
        options,
        started_ms: now_ms(),
        slots: Mutex::default(),
        events: events.clone(),
        state: Mutex::new(AgentState {
            used_ms: now_ms(),
            ..AgentState::default()
        }),
        coherence: OnceLock::new(),
        makings: Arc::default(),
        kept_asked: Mutex::default(),
    });
    let asked = agent.options.asked.clone();
    if agent.options.generosity != Generosity::NONE
        && let Err(error) = files::early::recall(&asked)
    {
        tracing::warn!("{}: {error}", asked.display());
    }
    watch_signals(end_signals, events).map_err(failed("signals"))?;
    let acceptor = Arc::clone(&agent);
    spawn("clients", move || acceptor.accept(&listener)).map_err(failed("thread"))?;
    crate::run::report_ready();
    tracing::info!(directory = %runtime.path().display(), "agent ready");
    let mut nodes = agent.rule(&received);
    let _ = std::fs::remove_file(&socket_path);
    // Who waits for a process to be started waits no more.
    drop(received);
    let deadline = Instant::now() + 2 * switchboard::FAREWELL_MAX;
    agent.makings.end(deadline);
    let sessions = agent.sessions();
    for session in &sessions {
        session.end(&SessionError::Stopped);
    }
    // The farewells are the switchboards' to send: they are short, but on a busy machine they take their time.
    while agent.process_count() > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    for session in &sessions {
        session.writer.finish();
    }
    agent.keep_asked();
    // Not before: what nodes on other machines are told may go by ssh.
    nodes.values_mut().for_each(end_node);
    agent
        .options
        .runtime
        .ssh_connections()
        .iter()
        .for_each(|path| ssh::let_go(path));
    lock(&agent.state).farewells.clear();
    drop(agent_lock);
    Ok(())
}

/// A thread that turns signals into the agent's end.
fn watch_signals(set: signals::Set, events: Sender<Event>) -> io::Result<()> {
    let descriptor = signals::descriptor(set)?;
    spawn("signals", move || {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut polls = [PollFd::new(&descriptor, PollFlags::IN)];
        while !matches!(poll(&mut polls, None), Ok(count) if count > 0) {}
        let _ = events.send(Event::Stop);
    })
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(|_| ())
}

impl Agent {
    /// The main thread: until the end. Returns the children that are left: embedded nodes, and the ssh that others are reached by.
    fn rule(&self, events: &Receiver<Event>) -> HashMap<u32, Child> {
        let mut nodes: HashMap<u32, Child> = HashMap::new();
        loop {
            let event = match self.idle_left() {
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(Duration::ZERO) => {
                    tracing::info!("idle for long: the agent ends");
                    break;
                }
                Some(left) => events.recv_timeout(left),
            };
            match event {
                Ok(Event::StartNode(link, answer)) => {
                    let started = daemon::start_node(&self.options.node_arguments, link).map(|child| {
                        let pid = child.id();
                        nodes.insert(pid, child);
                        pid
                    });
                    let _ = answer.send(started);
                }
                Ok(Event::StartSsh(login, answer)) => {
                    let started = login.start().map(|(child, copying)| {
                        let pid = child.id();
                        nodes.insert(pid, child);
                        (pid, copying)
                    });
                    let _ = answer.send(started);
                }
                Ok(Event::SessionOver(pid)) => {
                    self.keep_asked();
                    lock(&self.state).used_ms = now_ms();
                    if let Some(mut node) = pid.and_then(|pid| nodes.remove(&pid)) {
                        end_node(&mut node);
                    }
                }
                Ok(Event::EndSsh(pid)) => {
                    if let Some(mut ssh) = nodes.remove(&pid) {
                        end_node(&mut ssh);
                    }
                }
                Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        nodes
    }

    /// Keeps what programs have asked, for the next agent.
    fn keep_asked(&self) {
        let mut kept = lock(&self.kept_asked);
        match files::early::keep(&self.options.asked, *kept) {
            Ok(additions) => *kept = additions,
            Err(error) => tracing::warn!("{}: {error}", self.options.asked.display()),
        }
    }

    /// How long it may still be idle; `None`: for ever.
    fn idle_left(&self) -> Option<Duration> {
        let idle = self.options.idle;
        if idle.is_zero() {
            return None;
        }
        let processes = self.process_count();
        let mut state = lock(&self.state);
        if processes > 0 || state.starting > 0 {
            state.used_ms = now_ms();
            // Somebody has to look again; there is no hurry.
            return Some(idle.clamp(Duration::from_millis(100), Duration::from_secs(10)));
        }
        let used = Duration::from_millis(now_ms().saturating_sub(state.used_ms));
        Some(idle.saturating_sub(used))
    }

    /// The session with a place, which is made if there is none. All jobs there are in the one whose number is 0, but those whose pids
    /// are taken in it.
    ///
    /// `environment` is the job's, which ssh gets.
    fn session(
        self: &Arc<Self>,
        place: &Place,
        world: u32,
        name: &str,
        environment: &[Vec<u8>],
    ) -> Result<Arc<Session>, NodeError> {
        let key = (place.clone(), world.min(WORLDS_MAX - 1));
        let slot = Arc::clone(lock(&self.slots).entry(key).or_default());
        // Held while the node is reached: others who want it wait for the outcome.
        let mut slot = lock(&slot);
        if let Some(session) = &*slot
            && !session.is_over()
        {
            return Ok(Arc::clone(session));
        }
        let (connection, embedded, making) = match place {
            Place::Tcp { address, key } => {
                let identity = Identity::load_or_make(&self.options.key)?;
                let reach = nodes::by_address(address, name, Some(*key));
                let connected = nodes::connect(reach, name, identity, self.options.grace, &self.makings);
                let (connection, making) = connected?;
                (connection, None, Some(making))
            }
            Place::Ssh(url) => {
                let identity = Identity::load_or_make(&self.options.key)?;
                let reach = self.by_ssh(url, name, environment, identity.fingerprint());
                let connected = nodes::connect(reach, name, identity, self.options.grace, &self.makings);
                let (connection, making) = connected?;
                (connection, None, Some(making))
            }
            Place::Embedded => {
                let (connection, embedded) = self.start_embedded(name)?;
                (connection, Some(embedded), None)
            }
        };
        let session =
            self.begin_session(connection, name, embedded)
                .map_err(|source| NodeError::Unreachable {
                    node: name.to_owned(),
                    source,
                })?;
        *slot = Some(Arc::clone(&session));
        // In this order: whatever is made can be seen.
        drop(slot);
        drop(making);
        Ok(session)
    }

    fn start_embedded(&self, name: &str) -> Result<(Connection, Embedded), NodeError> {
        let EmbeddedLink {
            ours,
            theirs,
            area,
            hatch,
        } = nodes::embedded_link().map_err(NodeError::Embedded)?;
        let (answer, answered) = mpsc::channel();
        let gone = || NodeError::Embedded(io::Error::other("the agent ends"));
        self.events
            .send(Event::StartNode(theirs, answer))
            .map_err(|_| gone())?;
        let pid = answered
            .recv()
            .map_err(|_| gone())?
            .map_err(NodeError::Embedded)?;
        nodes::greet(Socket::Unix(ours), name)
            .map(|connection| (connection, Embedded { pid, area, hatch }))
            .map_err(|error| {
                let _ = self.events.send(Event::SessionOver(Some(pid)));
                match error {
                    NodeError::Strange {
                        source: LinkError::Closed | LinkError::Unsendable | LinkError::Io(_),
                        ..
                    } => NodeError::EmbeddedEnded {
                        log: self.options.runtime.log().display().to_string(),
                    },
                    error => error,
                }
            })
    }

    /// The way by ssh. Of each session there is one ssh at a time.
    fn by_ssh(&self, url: &str, name: &str, environment: &[Vec<u8>], home: Fingerprint) -> Reach {
        let connection = self.options.runtime.ssh_connection(url);
        let (url, name) = (url.to_owned(), name.to_owned());
        let environment = environment.to_vec();
        let events = self.events.clone();
        let ssh = Ssh {
            events: self.events.clone(),
            pid: Mutex::new(None),
        };
        Box::new(move |_| {
            let refused = |Refusal { why, asks }| NodeError::Ssh {
                node: name.clone(),
                why,
                asks,
            };
            let failed = |why: String| refused(Refusal { why, asks: false });
            let gone = || failed("the agent ends".to_owned());
            ssh.replace(None);
            let login = Login::new(&url, &environment, &connection, home)
                .map_err(|error| failed(error.to_string()))?;
            let (answer, answered) = mpsc::channel();
            events
                .send(Event::StartSsh(Box::new(login), answer))
                .map_err(|_| gone())?;
            let (pid, copying) = answered
                .recv()
                .map_err(|_| gone())?
                .map_err(|error| failed(error.to_string()))?;
            ssh.replace(Some(pid));
            let (stream, key) = copying.finish().map_err(refused)?;
            Ok((stream, Some(key)))
        })
    }

    /// By which nodes are told what has changed; without it they keep nothing.
    fn coherence(&self) -> Option<&Arc<Coherence>> {
        let make = || {
            let made = self.options.caches.then(Coherence::start)?;
            made.inspect_err(|error| tracing::warn!("nodes keep nothing of files: {error}"))
                .ok()
        };
        self.coherence.get_or_init(make).as_ref()
    }

    fn begin_session(
        &self,
        connection: Connection,
        name: &str,
        embedded: Option<Embedded>,
    ) -> io::Result<Arc<Session>> {
        tracing::info!(node = name, its_name = connection.welcome.name, "session begins");
        let session = Arc::new(
            Session::new(
                name.to_owned(),
                self.options.runtime.clone(),
                connection,
                embedded,
                (self.coherence(), self.options.generosity),
            )
            .map_err(io::Error::other)?,
        );
        for _ in 0..self.options.readers.max(1) {
            let reading = Arc::clone(&session);
            spawn("link", move || {
                reading.read_link();
            })?;
        }
        let listening = Arc::clone(&session);
        let events = self.events.clone();
        spawn("switchboard", move || {
            listening.listen();
            tracing::info!(node = listening.name, "session is over");
            let _ = events.send(Event::SessionOver(listening.embedded_pid));
        })?;
        Ok(session)
    }

    /// Sessions that are not over.
    fn sessions(&self) -> Vec<Arc<Session>> {
        let slots: Vec<Slot> = lock(&self.slots).values().cloned().collect();
        slots
            .iter()
            // One that is being made has nothing to show yet, and its end is `makings`'.
            .filter_map(|slot| slot.try_lock().ok()?.clone())
            .filter(|session| !session.is_over() || session.deputy_count() > 0)
            .collect()
    }

    fn process_count(&self) -> u32 {
        let count: usize = self.sessions().iter().map(|session| session.deputy_count()).sum();
        count as u32
    }
}

/// The ssh that a session's connection goes by, which ends with the way.
struct Ssh {
    events: Sender<Event>,
    pid: Mutex<Option<u32>>,
}

impl Ssh {
    fn replace(&self, pid: Option<u32>) {
        if let Some(before) = std::mem::replace(&mut *lock(&self.pid), pid) {
            // An agent that ends does it by itself.
            let _ = self.events.send(Event::EndSsh(before));
        }
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.replace(None);
    }
}

/// Ends an embedded node, and with it its world.
fn end_node(node: &mut Child) {
    let _ = node.kill();
    let _ = node.wait();
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_millis() as u64)
}

/// Locks; what a thread that panicked left behind is as good as anything here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
