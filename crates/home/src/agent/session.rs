//! A session: one link to a node, for all jobs on it.
//!
//! Several threads read the link in turn: one at a time takes a frame, hands it to a deputy in the link's order, and lets
//! the next one read; file requests are then served outside the turn, so that several are in progress at once. One
//! thread, the switchboard, listens to all deputies and writes what they say to the link in the order in which each
//! said it.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use afield_link::control::{HOME_INTERFACE, NODE_INTERFACE, NodeClient};
use afield_link::frame::Kind;
use afield_link::hatch::Hatch;
use afield_link::stream::{LinkError, Writer};
use afield_link::sys::Area;
use afield_link::turns::Turns;
use afield_link::wire::{CallReply, DESCRIPTORS_MAX, HandleReply, Inherited, Welcome, plain_error};
use afield_rpc::endpoint::{Endpoint, ReceiveError, Remote};
use afield_rpc::{Answer, BindError, CallError, DispatchError};
use rustix::event::{EventfdFlags, epoll, eventfd};
use thiserror::Error;
use zerocopy::IntoBytes;

use super::client::{Link, Process, Transport};
use super::deputies::{DeputyEntry, SendError};
use super::explain::{EndedJobs, Job};
use super::lock;
use super::nodes::Connection;
use super::record_locks::Waiting;
use super::shared::SharedObjects;
use super::streams::{Streams, Teller};
use super::trips::Operation;
use crate::channel::{ChannelError, Incoming};
use crate::coherence::Coherence;
use crate::files::early::Generosity;
use crate::files::{FileService, status_reply};
use crate::messages::{RunRequest, ToDeputy};
use crate::mounts::Told;
use crate::runtime::RuntimeDir;

/// Why a session ended.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The link is at its end.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The node says what cannot be.
    #[error("protocol violation: {0}")]
    Violation(String),
    /// A message could not be understood.
    #[error("protocol violation: {0}")]
    Wire(#[from] afield_link::wire::WireError),
    /// A deputy could not be reached.
    #[error(transparent)]
    Send(#[from] SendError),
    /// A deputy's channel is not as it should be.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The node could not be asked.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The node has not what is needed.
    #[error("{0}: install the same version on both")]
    Interface(#[from] BindError),
    /// The kernel refused something.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The node has ended it, and says why.
    #[error("{0}")]
    Farewell(String),
    /// The agent ends.
    #[error("the agent was stopped")]
    Stopped,
}

impl SessionError {
    /// Whether it only says that nothing can be sent any more. What the node has said before is still to be read, such as that a
    /// guest has ended: only who reads knows when the session is over, and why.
    fn is_of_sending(&self) -> bool {
        matches!(
            self,
            Self::Link(LinkError::Unsendable) | Self::Call(CallError::Connection(_))
        )
    }
}

impl From<ReceiveError> for SessionError {
    fn from(error: ReceiveError) -> Self {
        Self::Violation(error.to_string())
    }
}

impl From<DispatchError<SessionError>> for SessionError {
    fn from(error: DispatchError<SessionError>) -> Self {
        match error {
            DispatchError::Fault(error) => error,
            DispatchError::Call(error) => error.into(),
            error @ DispatchError::Arguments { .. } => Self::Violation(error.to_string()),
        }
    }
}

impl From<rustix::io::Errno> for SessionError {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A request of the node that has not been answered.
#[derive(Debug)]
pub enum Outstanding {
    /// A call, with the deputy, and what it is to be counted as.
    Call(Arc<DeputyEntry>, Operation),
    /// An operation on a home object, with the same.
    Handle(Arc<DeputyEntry>, Operation),
    /// A fork, with the deputy.
    Fork {
        /// The parent's.
        deputy: Arc<DeputyEntry>,
        /// The child is to be its sibling.
        sibling: bool,
        /// Who wants to know.
        answer: Answer<Result<u32, i32>>,
    },
    /// A file request that waits for something else than a file.
    File(Waiting),
    /// A copy of this home object, with the deputy that has it.
    Share(Arc<DeputyEntry>, u64),
    /// The same of a connection that is to be told of ahead.
    Stream(Arc<DeputyEntry>, u64),
}

/// What home has of a node that it has started itself.
#[derive(Debug)]
pub struct Embedded {
    /// Its process.
    pub pid: u32,
    /// The memory that it shares.
    pub area: Option<OwnedFd>,
    /// Where it gets connections.
    pub hatch: Hatch,
}

/// The end of a session.
#[derive(Debug, Clone)]
struct Over {
    why: String,
    /// The agent ends.
    stopped: bool,
}

/// One link and what goes over it.
#[derive(Debug)]
pub struct Session {
    /// The node's name as the user gave it first.
    pub name: String,
    /// The agent's directory.
    pub runtime: RuntimeDir,
    /// What the node said of itself.
    pub welcome: Welcome,
    /// The node's process, if it is embedded.
    pub embedded_pid: Option<u32>,
    /// The memory that an embedded node shares.
    pub area: Option<OwnedFd>,
    /// To the node.
    pub writer: Writer,
    /// Calls of both sides.
    pub(super) calls: Arc<Endpoint<Writer>>,
    /// What the node can be asked to do.
    pub node: NodeClient<Remote<Writer>>,
    pub turns: Turns,
    /// What the node has been told of file systems.
    told: Mutex<Told>,
    /// Home's files.
    pub files: FileService,
    /// The switchboard's ears.
    pub epoll: OwnedFd,
    /// Wakes the switchboard when there is something else to see than what deputies say.
    pub wake: OwnedFd,
    deputies: Mutex<HashMap<u32, Arc<DeputyEntry>>>,
    pub(super) outstanding: Mutex<HashMap<u64, Outstanding>>,
    handle_next: AtomicU64,
    own_next: AtomicU64,
    /// Home objects that guests pass to each other.
    pub(super) shared: SharedObjects,
    /// Connections that guests use without asking.
    pub(super) streams: Arc<Streams>,
    /// Jobs that have ended last.
    pub(super) ended_jobs: Mutex<EndedJobs>,
    /// Why it is over, when it is.
    over: Mutex<Option<Over>>,
    /// File requests that have been taken from the link and are being executed.
    pub(super) serving: AtomicUsize,
}

/// Most requests that a node may have open at a time.
const OUTSTANDING_MAX: usize = 1 << 16;

/// What the switchboard hears of connections under.
pub(super) const STREAMS: u64 = u64::MAX - 1;

/// Bit of the ids under which deputies are asked for what the node has not numbered as it does its requests.
const OWN_ID: u64 = 1 << 62;

impl Session {
    /// A session on a link whose first words have been exchanged.
    pub fn new(
        name: String,
        runtime: RuntimeDir,
        connection: Connection,
        embedded: Option<Embedded>,
        (coherence, generosity): (Option<&Arc<Coherence>>, Generosity),
    ) -> Result<Self, SessionError> {
        let Connection {
            reader,
            writer,
            welcome,
            told,
        } = connection;
        let calls = Endpoint::new(
            writer.clone(),
            &[&HOME_INTERFACE],
            &[&NODE_INTERFACE],
            &welcome.interfaces,
        )?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(
            &epoll,
            &wake,
            epoll::EventData::new_u64(u64::MAX),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        // On this machine, everything is at hand already.
        let tells_contents = welcome.keeps_contents && embedded.is_none();
        if embedded.is_none() {
            // There contents come in frames.
            afield_link::sys::keep_freed_memory();
        }
        let generosity = match embedded {
            Some(_) => Generosity::NONE,
            None => generosity,
        };
        let area = embedded.as_ref().and_then(|embedded| embedded.area.as_ref());
        let files = FileService::new(Path::new("/"), coherence)?
            .sharing(area.map(|area| Area::map(area.as_fd())).transpose()?)
            .telling_contents(tells_contents)
            .answering_early(generosity);
        files.hear_of_mounts(told.told_apart(welcome.file_systems), told.names());
        let (embedded_pid, area, hatch) = match embedded {
            Some(Embedded { pid, area, hatch }) => (Some(pid), area, Some(hatch)),
            None => (None, None, None),
        };
        let streams = Arc::new(Streams::new(hatch)?);
        epoll::add(
            &epoll,
            streams.as_fd(),
            epoll::EventData::new_u64(STREAMS),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        writer.set_ahead(Arc::new(Teller {
            files: files.coherence().map(|session| session.ahead()),
            streams: Arc::clone(&streams),
        }));
        if let Some(session) = files.coherence() {
            let teller = writer.clone();
            // Errors show where frames are written.
            session.set_teller(move || drop(teller.write_ahead()));
        }
        Ok(Self {
            name,
            runtime,
            welcome,
            embedded_pid,
            area,
            writer,
            node: NodeClient::new(calls.remote(0)),
            calls,
            turns: Turns::new(reader)?,
            told: Mutex::new(told),
            files,
            epoll,
            wake,
            deputies: Mutex::default(),
            outstanding: Mutex::default(),
            handle_next: AtomicU64::new(1),
            own_next: AtomicU64::new(0),
            shared: SharedObjects::default(),
            streams,
            ended_jobs: Mutex::default(),
            over: Mutex::new(None),
            serving: AtomicUsize::new(0),
        })
    }

    /// Starts a job whose root deputy is at the other end of `channel`.
    pub fn start_job(
        self: &Arc<Self>,
        pid: u32,
        mut request: RunRequest,
        directory: Option<OwnedFd>,
        channel: OwnedFd,
        incoming: Incoming,
    ) -> Result<(), SessionError> {
        let mut entry = DeputyEntry::new(pid, Job::new(pid), None, channel, incoming);
        entry.verbose = request.verbose;
        let words: Vec<_> = request
            .spawn
            .arguments
            .iter()
            .map(|word| String::from_utf8_lossy(word))
            .collect();
        lock(&entry.status).command = words.join(" ");
        let entry = Arc::new(entry);
        request.spawn.pid = pid;
        let handle_first = self.new_handles(DESCRIPTORS_MAX as u64);
        if request.spawn.descriptors.len() > DESCRIPTORS_MAX {
            let _ = entry.tell(0, &ToDeputy::Refused("too many descriptors".to_owned()), None);
            return Ok(());
        }
        for descriptor in &mut request.spawn.descriptors {
            if let Inherited::Handle { handle, .. } = &mut descriptor.object {
                *handle = handle_first + (*handle).min(DESCRIPTORS_MAX as u64 - 1);
            }
        }
        if let Some(directory) = directory
            && let Err(errno) = self.files.begin_start(pid, directory, &request.spawn.directory)
        {
            let why = format!("working directory: {}", plain_error(errno));
            let _ = entry.tell(0, &ToDeputy::Refused(why), None);
            return Ok(());
        }
        match self.begin_ahead(&request.spawn) {
            Ok(program) => lock(&entry.status).program = program,
            // Why, this job is told like all others: once it is registered, or as it is.
            Err(error) => self.end(&error),
        }
        entry.tell(0, &ToDeputy::Accepted { handle_first }, None)?;
        if let Some(why) = self.register(&entry)? {
            self.files.end_start(pid);
            let _ = entry.tell(0, &ToDeputy::Gone(self.gone(&why)), None);
            return Ok(());
        }
        self.tell_of_mounts()?;
        let (session, deputy) = (Arc::downgrade(self), Arc::clone(&entry));
        let began = self.node.start_then(request.spawn, move |result| {
            if let Some(session) = session.upgrade()
                && let Err(error) = session.started(&deputy, result)
            {
                session.end(&error);
            }
        });
        match began {
            Err(error @ CallError::TooLarge(_)) => {
                self.unregister(pid);
                let _ = entry.tell(
                    0,
                    &ToDeputy::Refused(format!("the job is too large: {error}")),
                    None,
                );
                Ok(())
            }
            other => {
                other?;
                // It may have died since it was registered, and the news have gone ahead of the guest.
                if !self.has(&entry) {
                    self.node.kill(pid)?;
                }
                Ok(())
            }
        }
    }

    /// Tells the node where file systems are mounted now, if that is not as it was.
    fn tell_of_mounts(&self) -> Result<(), SessionError> {
        let mut told = lock(&self.told);
        if told.has_news() {
            self.files
                .hear_of_mounts(told.told_apart(self.welcome.file_systems), told.names());
            self.node.mounts(told.points().to_vec())?;
        }
        Ok(())
    }

    /// Numbers for handles; the first of them.
    pub fn new_handles(&self, count: u64) -> u64 {
        self.handle_next.fetch_add(count, Ordering::Relaxed)
    }

    /// Adds a deputy; if the session is over, why.
    pub fn register(&self, entry: &Arc<DeputyEntry>) -> Result<Option<String>, SessionError> {
        let old = {
            let mut deputies = lock(&self.deputies);
            if let Some(over) = &*lock(&self.over) {
                return Ok(Some(over.why.clone()));
            }
            let old = deputies.insert(entry.pid, Arc::clone(entry));
            if let Some(old) = &old {
                self.keep_tally(old, deputies.values().map(|other| other.job));
            }
            old
        };
        if let Some(old) = old {
            // The pid was given out again before the end of its last owner's channel was seen.
            let _ = epoll::delete(&self.epoll, old.channel());
            self.bury(&old)?;
        }
        epoll::add(
            &self.epoll,
            entry.channel(),
            epoll::EventData::new_u64(u64::from(entry.pid)),
            epoll::EventFlags::IN,
        )?;
        if self.deputy_count() == 1 {
            // It waits longer while there is none.
            self.wake_switchboard();
        }
        Ok(None)
    }

    fn wake_switchboard(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Takes a deputy out.
    pub fn unregister(&self, pid: u32) -> Option<Arc<DeputyEntry>> {
        let entry = self.take_out(&mut lock(&self.deputies), pid)?;
        self.files.end_start(pid);
        let _ = epoll::delete(&self.epoll, entry.channel());
        Some(entry)
    }

    /// Takes out a deputy whose channel has ended; not one that has its pid now (the same process, trying again).
    pub fn unregister_this(&self, entry: &Arc<DeputyEntry>) {
        {
            let mut deputies = lock(&self.deputies);
            if deputies
                .get(&entry.pid)
                .is_some_and(|other| Arc::ptr_eq(other, entry))
            {
                self.take_out(&mut deputies, entry.pid);
                self.files.end_start(entry.pid);
            }
        }
        let _ = epoll::delete(&self.epoll, entry.channel());
    }

    fn take_out(&self, deputies: &mut HashMap<u32, Arc<DeputyEntry>>, pid: u32) -> Option<Arc<DeputyEntry>> {
        let entry = deputies.remove(&pid)?;
        self.streams.left(pid);
        self.keep_tally(&entry, deputies.values().map(|other| other.job));
        Some(entry)
    }

    /// Looks at the deputies; none comes or goes meanwhile.
    pub(super) fn with_deputies<T>(&self, look: impl FnOnce(&HashMap<u32, Arc<DeputyEntry>>) -> T) -> T {
        look(&lock(&self.deputies))
    }

    /// The deputy of a pid.
    pub fn deputy(&self, pid: u32) -> Option<Arc<DeputyEntry>> {
        lock(&self.deputies).get(&pid).cloned()
    }

    /// Whether this deputy is still there.
    fn has(&self, entry: &Arc<DeputyEntry>) -> bool {
        let deputies = lock(&self.deputies);
        deputies
            .get(&entry.pid)
            .is_some_and(|other| Arc::ptr_eq(other, entry))
    }

    /// All deputies.
    pub fn all_deputies(&self) -> Vec<Arc<DeputyEntry>> {
        lock(&self.deputies).values().cloned().collect()
    }

    /// Count of deputies.
    pub fn deputy_count(&self) -> usize {
        lock(&self.deputies).len()
    }

    /// For `afield ps`.
    pub fn processes(&self) -> Vec<Process> {
        self.all_deputies()
            .iter()
            .filter_map(|entry| {
                let status = lock(&entry.status);
                (!status.hidden).then(|| Process {
                    pid: entry.pid,
                    job: entry.job,
                    command: status.command.clone(),
                    node: self.name.clone(),
                    state: status.state(),
                    trips: lock(&entry.tally).by_cause(),
                    started_ms: entry.started_ms,
                })
            })
            .collect()
    }

    /// For `afield ps --links`.
    pub fn link(&self) -> Link {
        Link {
            node: self.name.clone(),
            processes: self.deputy_count() as u32,
            transport: self.writer.status().map(|status| {
                let traffic = status.traffic;
                Transport {
                    down: status.down,
                    round_trip: status.round_trip,
                    bytes: (traffic.bytes_out, traffic.bytes_in),
                    frames: (traffic.frames_out, traffic.frames_in),
                    unacknowledged_bytes: (traffic.unacknowledged_bytes + traffic.waiting_bytes) as u64,
                    resumes: traffic.resumes,
                }
            }),
        }
    }

    /// Gives a deputy a frame; what its socket does not take now goes when it can.
    pub fn deliver(
        &self,
        entry: &DeputyEntry,
        kind: Kind,
        id: u64,
        payload: &[u8],
    ) -> Result<(), SessionError> {
        if !entry.send(kind, id, payload, None)? {
            self.want_writable(entry);
        }
        Ok(())
    }

    /// Gives a deputy a message.
    pub fn tell(
        &self,
        entry: &DeputyEntry,
        id: u64,
        message: &ToDeputy,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), SessionError> {
        if !entry.tell(id, message, descriptor)? {
            self.want_writable(entry);
        }
        Ok(())
    }

    fn want_writable(&self, entry: &DeputyEntry) {
        // It may be gone already.
        let _ = epoll::modify(
            &self.epoll,
            entry.channel(),
            epoll::EventData::new_u64(u64::from(entry.pid)),
            epoll::EventFlags::IN | epoll::EventFlags::OUT,
        );
    }

    /// Notes a request before it is handed on.
    pub fn expect(&self, id: u64, what: Outstanding) -> Result<(), SessionError> {
        let mut outstanding = lock(&self.outstanding);
        if outstanding.len() >= OUTSTANDING_MAX {
            return Err(SessionError::Violation("too many requests at a time".to_owned()));
        }
        if outstanding.insert(id, what).is_some() {
            return Err(SessionError::Violation(format!(
                "request {id:#x} was made before it was answered"
            )));
        }
        Ok(())
    }

    /// Takes note of a request that the node has not numbered; the number that it has now.
    pub fn expect_own(&self, what: Outstanding) -> Result<u64, SessionError> {
        let id = OWN_ID | self.own_next.fetch_add(1, Ordering::Relaxed);
        self.expect(id, what)?;
        Ok(id)
    }

    /// A request is about to be answered.
    pub fn answered(&self, id: u64) -> Option<Outstanding> {
        lock(&self.outstanding).remove(&id)
    }

    /// Looks at a request that has not been answered.
    pub fn with_outstanding<T>(&self, id: u64, look: impl FnOnce(Option<&mut Outstanding>) -> T) -> T {
        look(lock(&self.outstanding).get_mut(&id))
    }

    /// A deputy is no more: the guest follows, and what it had asked is answered.
    pub fn bury(&self, entry: &Arc<DeputyEntry>) -> Result<(), SessionError> {
        // It may have been told to take back a fork, and not have come to it.
        for child in self.all_deputies() {
            if child.parent == Some(entry.pid) && lock(&child.status).hidden {
                self.unregister(child.pid);
            }
        }
        if lock(&entry.status).dumps {
            let _ = std::fs::remove_dir_all(self.runtime.dump_of(entry.pid));
        }
        if !lock(&entry.status).ending {
            self.node.kill(entry.pid)?;
        }
        let of_this = |what: &mut Outstanding| match what {
            Outstanding::Call(deputy, _)
            | Outstanding::Handle(deputy, _)
            | Outstanding::Share(deputy, _)
            | Outstanding::Stream(deputy, _)
            | Outstanding::Fork { deputy, .. } => Arc::ptr_eq(deputy, entry),
            Outstanding::File(waiting) => waiting.deputy().is_some_and(|deputy| Arc::ptr_eq(deputy, entry)),
        };
        let left: Vec<(u64, Outstanding)> = lock(&self.outstanding)
            .extract_if(|_, what| of_this(what))
            .collect();
        for (id, what) in left {
            match what {
                Outstanding::Call(..) => self.fail_call(id, libc::EINTR)?,
                Outstanding::Handle(..) | Outstanding::Share(..) => self.fail_operation(id, libc::EINTR)?,
                Outstanding::Stream(..) => {}
                Outstanding::Fork { answer, .. } => {
                    self.streams.forked(id, None);
                    answer.send(&Err(libc::ESRCH))?;
                }
                Outstanding::File(waiting) => self.finish_waiting(id, waiting, libc::EINTR)?,
            }
        }
        Ok(())
    }

    /// Answers a call in a deputy's place.
    pub fn fail_call(&self, id: u64, errno: i32) -> Result<(), SessionError> {
        let head = CallReply {
            result: (-i64::from(errno)).into(),
        };
        self.streams.answered(id);
        Ok(self.writer.write_frame(Kind::CallReply, id, &[head.as_bytes()])?)
    }

    /// Answers an operation in a deputy's place.
    pub fn fail_operation(&self, id: u64, errno: i32) -> Result<(), SessionError> {
        let head = HandleReply {
            result: (-i64::from(errno)).into(),
            ready: 0.into(),
            notes: 0.into(),
            look: 0.into(),
        };
        self.streams.answered(id);
        Ok(self
            .writer
            .write_frame(Kind::HandleReply, id, &[head.as_bytes()])?)
    }

    /// Answers an operation that the agent has executed itself.
    pub fn complete_operation(&self, id: u64) -> Result<(), SessionError> {
        self.fail_operation(id, 0)
    }

    /// Answers a file request with a status.
    pub fn answer_file(&self, id: u64, unique: u64, errno: i32) -> Result<(), SessionError> {
        let reply = status_reply(unique, errno);
        Ok(self.writer.write_frame(Kind::FileReply, id, &[&reply])?)
    }

    /// What users are told when the session ends.
    pub fn gone(&self, why: &str) -> String {
        format!("node {} is gone: {why}", self.name)
    }

    /// Ends the session, once: the link is closed, and the switchboard sees to the rest. Not if nothing more can be sent: then
    /// those who read the link come to its end.
    pub fn end(&self, error: &SessionError) {
        if error.is_of_sending() {
            return;
        }
        let why = error.to_string();
        {
            // Whoever registers a deputy sees it.
            let _deputies = lock(&self.deputies);
            let mut over = lock(&self.over);
            if over.is_some() {
                return;
            }
            *over = Some(Over {
                stopped: matches!(error, SessionError::Stopped),
                why: why.clone(),
            });
        }
        self.writer.shutdown();
        self.calls.close(&why);
        self.wake_switchboard();
    }

    /// Tells a deputy that its guest is gone, or will never be.
    pub(super) fn dismiss(&self, entry: &DeputyEntry) {
        let Some(Over { why, stopped }) = lock(&self.over).clone() else {
            return;
        };
        let started = {
            let mut status = lock(&entry.status);
            status.ending = true;
            status.started
        };
        let text = self.gone(&why);
        let message = match stopped && !started {
            // It is not to try again.
            true => ToDeputy::Refused(text),
            false => ToDeputy::Gone(text),
        };
        let _ = self.tell(entry, 0, &message, None);
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        lock(&self.over).is_some()
    }
}
