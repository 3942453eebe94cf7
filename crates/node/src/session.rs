//! A session: everything a node does for one home, in one process.
//!
//! | thread | does |
//! |---|---|
//! | main | waits for the link's end |
//! | link (several) | read the link in turn; in its turn none touches guest memory or writes to the link |
//! | file door | reads the FUSE device |
//! | notify door (one per job) | takes notified calls |
//! | tracer | all ptrace |
//! | memory | completes calls that touch guest memory, where the link's readers are too few |
//! | titles | looks what guests call themselves, and what they have open |
//! | spawner | starts first guests, with init |
//! | notifier | tells the kernel of changed files |
//! | gate | delivers what has waited for that |

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use afield_abi::syscalls::Restart;
use afield_link::carrier::{GreetingError, LinkEvent};
use afield_link::control::{HOME_INTERFACE, HomeClient, NODE_INTERFACE};
use afield_link::frame::Kind;
use afield_link::hatch::Hatch;
use afield_link::secure::{Fingerprint, SecureError};
use afield_link::stream::{self, LinkError, Reader, Socket, Writer};
use afield_link::wire::{self, HandleOp, Hello, SpawnError, Welcome};
use afield_rpc::endpoint::{self, Endpoint, ReceiveError, Remote};
use afield_rpc::{Answer, BindError, DispatchError};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use thiserror::Error;
use tracing::{debug, warn};

use crate::admission::{self, Limits, Quota};
use crate::delivery;
use crate::door::looks;
use crate::door::promises::Promises;
use crate::fs::connections::Connections;
use crate::fs::{self, Files, handles};
use crate::guests::Guests;
use crate::installer::{Gift, Installer};
use crate::journal::{self, JournalError};
use crate::leases::{Lease, Leases};
use crate::server::Server;
use crate::spawner::{Spawner, Task};
use crate::store::{self, Store};
use crate::sys;
use crate::sys::seccomp::Listener;
use crate::sys::signals::State;
use crate::trace::{Order, Orders, Tracer, Truths};
use crate::world::{World, WorldError};

/// How long a peer may take for its first words.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(20);

/// Stack of the helper threads; none of them recurses.
const STACK_BYTES: usize = 256 << 10;

/// Why a session ended.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The home speaks another version.
    #[error("the home speaks protocol {home} (version {version}), this node {node}")]
    Version {
        /// Its protocol.
        home: u32,
        /// Its version.
        version: String,
        /// Ours.
        node: u32,
    },
    /// The home has not what is needed.
    #[error("{0}: install the same version on both")]
    Interface(#[from] BindError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It asks for what cannot be.
    #[error("protocol violation: {0}")]
    Violation(String),
    /// No secured link.
    #[error("{0}")]
    Secure(#[from] SecureError),
    /// The link's first words.
    #[error("{0}")]
    Greeting(#[from] GreetingError),
    /// Nobody knows the home.
    #[error("a home with the key {0} was not admitted")]
    NotAdmitted(Fingerprint),
    /// No world could be made.
    #[error("no world for this session: {0}")]
    World(#[from] WorldError),
    /// The kernel refused something basic.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A forwarded call whose reply is awaited.
#[derive(Debug)]
pub struct Call {
    /// Home pid of the caller's process.
    pub pid: u32,
    /// The waiting thread.
    pub tid: i32,
    /// Who answers it.
    pub listener: Arc<Listener>,
    /// Its notification.
    pub notification: u64,
    /// Guest memory that the reply fills: address and length.
    pub outputs: Vec<(u64, usize)>,
    /// The output that is cut, and the one whose `int` says how many bytes of it there are.
    pub measured: Option<(usize, usize)>,
    /// The call.
    pub number: u32,
    /// What follows when home has answered.
    pub then: Then,
    /// What becomes of it if it is interrupted at home.
    pub restart: Restart,
    /// It has been cancelled.
    pub cancelled: bool,
    /// The home object that it is about.
    pub object: Option<u64>,
}

/// A call that could not be sent.
#[derive(Debug)]
pub struct Unsent {
    /// Why.
    pub errno: i32,
    /// The call, if nobody else has taken it.
    pub call: Option<Box<Call>>,
}

/// What follows on home's answer.
pub enum Then {
    /// The guest gets it.
    Answer,
    /// If home succeeded, the node's kernel executes the call too.
    Execute,
    /// If home succeeded, the guest gets this descriptor.
    Install(Gift),
    /// This is done with the reply.
    Continue(Continuation),
}

/// What is done with the reply to a call, by the memory thread: the call is its to answer.
pub type Continuation = Box<dyn FnOnce(&Arc<Shared>, Call, Reply) + Send>;

/// Home's reply to an operation.
#[derive(Debug)]
pub struct Reply {
    /// A value or a negated errno.
    pub result: i64,
    /// Bits of [`afield_link::wire::note`].
    pub notes: u32,
    /// The data.
    pub data: Vec<u8>,
    /// Where the contents are instead.
    pub lease: Option<Lease>,
}

impl std::fmt::Debug for Then {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Answer => "Answer",
            Self::Execute => "Execute",
            Self::Install(..) => "Install",
            Self::Continue(_) => "Continue",
        })
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
            error => Self::Violation(error.to_string()),
        }
    }
}

/// Work that touches guest memory.
pub type MemoryTask = Box<dyn FnOnce(&Arc<Shared>) + Send>;

/// What the threads of a session share.
#[derive(Debug)]
pub struct Shared {
    /// To home.
    pub writer: Writer,
    /// What home can be asked to do.
    pub home: HomeClient<Remote<Writer>>,
    /// Guests that are being started, by pid: who wants to know.
    starting: Mutex<HashMap<u32, Answer<Result<(), SpawnError>>>>,
    /// Who is in the world.
    pub guests: Guests,
    /// To the tracer.
    pub orders: Orders,
    /// What signals from home really say.
    pub truths: Truths,
    /// The file door.
    pub files: Files,
    /// Gives guests descriptors.
    pub installer: Installer,
    /// What guests pass to each other over home's sockets.
    pub promises: Promises,
    /// What this home may have.
    pub limits: Limits,
    /// How many guests of it there may be.
    pub quota: Quota,
    /// Places in memory that is shared with home, if this node is embedded.
    pub leases: Option<Arc<Leases>>,
    /// Forwarded calls by frame id.
    calls: Mutex<HashMap<u64, Call>>,
    next_id: AtomicU64,
    /// Some process has armed a timer of its own.
    timers: AtomicBool,
    /// To the memory thread.
    memory: Mutex<Sender<MemoryTask>>,
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, HashMap<u64, Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a call and gives its frame id.
    pub fn add_call(&self, call: Call) -> u64 {
        let id = self.next_id();
        self.calls().insert(id, call);
        id
    }

    /// Registers a call and has it sent under its frame id; `waits` if it may wait at home, where a signal has to interrupt it.
    ///
    /// # Errors
    /// The errno of `send`, with the call, which is then not registered.
    pub fn begin(
        &self,
        call: Call,
        waits: bool,
        send: impl FnOnce(u64) -> Result<(), i32>,
    ) -> Result<(), Unsent> {
        let (pid, tid) = (call.pid, call.tid);
        let id = self.add_call(call);
        if waits && let Some(thread) = self.guests.lock().thread_mut(tid) {
            thread.call = Some(id);
        }
        send(id).map_err(|errno| Unsent {
            errno,
            call: self.take_call(id).map(Box::new),
        })?;
        if waits && self.has_timer(pid) {
            // From now on the tracer has to look at this thread from time to time.
            self.orders.give(Order::Look { tid });
        }
        // A signal that came before the thread was known to wait at home has woken nobody.
        if waits && !looks::note(id) {
            self.look_at_call(id);
        }
        Ok(())
    }

    /// Whether a call has not been answered yet.
    pub fn has_call(&self, id: u64) -> bool {
        self.calls().contains_key(&id)
    }

    /// Interrupts a call if a signal is pending for its thread.
    pub fn look_at_call(&self, id: u64) {
        let tid = self.calls().get(&id).map(|call| call.tid);
        if let Some(tid) = tid
            && State::of(tid).is_ok_and(|state| state.interrupting(state.pending) != 0)
        {
            self.cancel_call(id);
        }
    }

    /// A new frame id. Requests of every kind share them.
    pub fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// A call in which a guest waits for home: thread, listener and notification.
    pub fn waiting_call(&self, pid: u32) -> Option<(i32, Arc<Listener>, u64)> {
        let calls = self.calls();
        let call = calls.values().find(|call| call.pid == pid)?;
        Some((call.tid, Arc::clone(&call.listener), call.notification))
    }

    /// Takes a call whose reply has come.
    pub fn take_call(&self, id: u64) -> Option<Call> {
        self.calls().remove(&id)
    }

    /// A signal wants the call's thread: interrupt it at home. Its reply says what came of it.
    pub fn cancel_call(&self, id: u64) {
        let first = match self.calls().get_mut(&id) {
            Some(call) => !std::mem::replace(&mut call.cancelled, true),
            None => false,
        };
        if first {
            self.cancel(id);
        }
    }

    /// The call's thread is gone: let home know, and forget it.
    pub fn abandon_call(&self, id: u64) {
        let call = self.calls().remove(&id);
        if let Some(call) = call {
            self.cancel(id);
            if let Then::Install(gift) = call.then {
                // Home may have made the object already.
                self.files.handles.forget(gift.handle);
                self.close_object(call.pid, gift.handle);
            }
        }
    }

    /// Has a deputy close an object that its guest will not get.
    pub fn close_object(&self, pid: u32, handle: u64) {
        if let Err(errno) = handles::send_operation(self, 0, pid, HandleOp::Close, handle, (0, 0, 0)) {
            debug!("closing object {handle}: errno {errno}");
        }
    }

    /// A process is being killed.
    pub fn abandon_calls_of(&self, pid: u32) {
        let ids: Vec<u64> = {
            let calls = self.calls();
            calls
                .iter()
                .filter(|(_, call)| call.pid == pid)
                .map(|(id, _)| *id)
                .collect()
        };
        for id in ids {
            self.abandon_call(id);
        }
        self.files.end_requests_of(pid);
    }

    /// Asks home to interrupt a request.
    pub fn cancel(&self, id: u64) {
        if let Err(error) = self.writer.write_frame(Kind::Cancel, id, &[]) {
            debug!("cancelling: {error}");
        }
    }

    /// A process has armed a timer of its own.
    pub fn note_timer(&self, pid: u32) {
        if let Some(process) = self.guests.lock().process_mut(pid) {
            process.timers = true;
        }
        self.timers.store(true, Ordering::Relaxed);
    }

    /// Whether a process has ever armed a timer of its own.
    pub fn has_timer(&self, pid: u32) -> bool {
        self.timers.load(Ordering::Relaxed)
            && self
                .guests
                .lock()
                .process(pid)
                .is_some_and(|process| process.timers)
    }

    /// Threads that wait at home while their process has a timer.
    pub fn threads_under_timer(&self) -> Vec<i32> {
        if !self.timers.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let register = self.guests.lock();
        let mut threads = Vec::new();
        for pid in register.pids() {
            let Some(process) = register.process(pid).filter(|process| process.timers) else {
                continue;
            };
            let waiting = |tid: &&i32| register.thread(**tid).is_some_and(|thread| thread.call.is_some());
            threads.extend(process.threads.iter().filter(waiting));
        }
        threads
    }

    /// Whether [`Shared::threads_under_timer`] has any.
    pub fn waits_under_timer(&self) -> bool {
        !self.threads_under_timer().is_empty()
    }

    /// Tells home how the start of a guest has gone.
    pub fn started(&self, pid: u32, result: Result<(), SpawnError>) {
        let answer = self.starting().remove(&pid);
        if let Some(answer) = answer
            && let Err(error) = answer.send(&result)
        {
            debug!("telling home: {error}");
        }
    }

    fn starting(&self) -> MutexGuard<'_, HashMap<u32, Answer<Result<(), SpawnError>>>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that home wants to know how a guest's start goes.
    pub fn note_start(&self, pid: u32, answer: Answer<Result<(), SpawnError>>) {
        let earlier = self.starting().insert(pid, answer);
        // Home has given the pid to another job. To let go of an answer is to say something, which is not for this thread.
        if earlier.is_some() {
            self.with_memory(Box::new(|_| drop(earlier)));
        }
    }

    /// Calls that wait for home.
    pub fn call_count(&self) -> usize {
        self.calls().len()
    }

    /// The place in shared memory that the operation under this frame id had, which is over.
    pub fn take_lease(&self, id: u64) -> Option<Lease> {
        self.leases.as_ref()?.take(id)
    }

    /// Has the memory thread do something.
    pub fn with_memory(&self, task: MemoryTask) {
        // The thread lives as long as the session.
        let _ = self
            .memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .send(task);
    }
}

/// On what terms a home is served. The default: it may have everything, for as long as it likes.
#[derive(Default)]
pub struct Terms {
    /// What it may have.
    pub limits: Limits,
    /// How many guests.
    pub quota: Quota,
    /// When the other end says something and closes, the session ends for that reason.
    pub control: Option<UnixStream>,
    /// The home's key, if it has shown one.
    pub key: Option<Fingerprint>,
    /// What is kept of its files.
    pub keeping: Option<store::Policy>,
    /// Places in memory that home shares.
    pub(crate) leases: Option<Arc<Leases>>,
    /// Where a home on this machine hands over connections.
    pub(crate) hatch: Option<Hatch>,
    /// What a thread does for further connections of this home.
    pub arrivals: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Terms {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Terms")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Tells a home that it is not served, without listening to it.
pub fn refuse(link: Socket, name: &str, why: &str, limit: Duration) -> Result<(), SessionError> {
    let (mut reader, writer) = stream::split(link)?;
    refuse_home(&writer, name, why)?;
    // Were the connection closed while something of home's is unread, the words would be lost on the way.
    reader.set_timeout(Some(limit))?;
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline && reader.read_frame().is_ok() {}
    writer.shutdown();
    Ok(())
}

/// Serves one home until it goes. The process must have one thread; afterwards it should end.
pub fn serve(reader: Reader, writer: Writer, name: &str, terms: Terms) -> Result<(), SessionError> {
    let last = writer.clone();
    serve_until_end(reader, writer, name, terms).inspect_err(|_| end_link(&last))
}

/// Home hears of everything before the process ends. For a thread that has the link's descriptors.
fn end_link(writer: &Writer) {
    writer.shutdown();
    writer.finish();
}

fn serve_until_end(mut reader: Reader, writer: Writer, name: &str, terms: Terms) -> Result<(), SessionError> {
    sys::signals::block_all()?;
    reader.set_timeout(Some(HANDSHAKE_LIMIT))?;
    let hello = match greet(&mut reader) {
        Ok(hello) => hello,
        Err(error) => {
            if let SessionError::Version { .. } | SessionError::Interface(_) = &error {
                refuse_home(&writer, name, &error.to_string())?;
            }
            return Err(error);
        }
    };
    let mut registration = match journal::enter(hello.home, hello.epoch) {
        Ok(registration) => registration,
        Err(error) => {
            refuse_home(&writer, name, &error.to_string())?;
            return Err(error.into());
        }
    };
    let world = match World::create(&hello) {
        Ok(world) => world,
        Err(error) => {
            refuse_home(&writer, name, &error.to_string())?;
            return Err(error.into());
        }
    };
    if let Some(registration) = &mut registration {
        registration.note_init(world.init)?;
    }
    let is_near = terms.hatch.is_some();
    let serve = move || {
        let served = serve_world((reader, writer.clone()), name, terms, &hello, world);
        end_link(&writer);
        drop(registration);
        served
    };
    match is_near {
        true => out_of_sight(serve)?,
        false => serve(),
    }
}

/// Does the work in another thread, with descriptors that are not among the process's as others see them, which are those of its first
/// thread (`/proc/PID/fd`): connections are their guests', and who ends all who have one (`fuser -k`) means the guests.
fn out_of_sight<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("session".to_owned())
            .spawn_scoped(scope, work)?;
        // This thread does nothing but wait. If it keeps its descriptors, they are seen.
        let _ = sys::namespaces::keep_only(&[]);
        worker.join().map_err(|_| io::Error::other("it has failed"))
    })
}

/// Serves a home whose guests' world is made.
fn serve_world(
    (mut reader, writer): (Reader, Writer),
    name: &str,
    terms: Terms,
    hello: &Hello,
    mut world: World,
) -> Result<(), SessionError> {
    let notices = world.notices.take().ok_or(WorldError::Died)?;
    let connections = Connections::new(std::mem::take(&mut world.devices))?;
    let store = open_store(&terms);
    let (memory, tasks) = channel::<MemoryTask>();
    let endpoint = Endpoint::new(
        writer.clone(),
        &[&NODE_INTERFACE],
        &[&HOME_INTERFACE],
        &hello.interfaces,
    )?;
    let shared = Arc::new(Shared {
        writer: writer.clone(),
        home: HomeClient::new(endpoint.remote(0)),
        starting: Mutex::default(),
        guests: Guests::default(),
        orders: Orders::new()?,
        truths: Truths::default(),
        files: Files::new(
            connections,
            world.ids,
            (hello.uid, hello.gid),
            store,
            (terms.leases.clone(), terms.hatch),
        ),
        installer: Installer::default(),
        promises: Promises::default(),
        limits: terms.limits,
        quota: terms.quota,
        leases: terms.leases,
        calls: Mutex::default(),
        next_id: AtomicU64::new(1),
        timers: AtomicBool::new(false),
        memory: Mutex::new(memory),
    });
    shared.files.places.begin(&hello.mounts);
    writer.keep()?;
    writer.start_holding()?;
    let freezing = Arc::clone(&shared);
    writer.on_event(move |event| match event {
        LinkEvent::Down => freezing.orders.give(Order::Freeze),
        LinkEvent::Up => freezing.orders.give(Order::Thaw),
        // Guests end with the session.
        LinkEvent::Dead => {}
    });
    let keeps = (shared.files.contents.is_some(), shared.files.connections.count());
    welcome(&writer, name, None, keeps)?;
    reader.set_timeout(None)?;

    if let Some(arrivals) = terms.arrivals {
        start("arrivals", arrivals)?;
    }
    if let Some(control) = terms.control {
        let ending = Arc::clone(&shared);
        start("control", move || end_when_told(&ending, control))?;
    }
    if let Some(most_bytes) = shared.limits.memory_bytes {
        let watching = Arc::clone(&shared);
        start("memory limit", move || {
            admission::watch_memory(&watching, most_bytes)
        })?;
    }
    let tracer = Arc::clone(&shared);
    start("tracer", move || Tracer::new(tracer).run())?;
    let completer = Arc::clone(&shared);
    start("memory", move || {
        for task in tasks {
            task(&completer);
        }
    })?;
    let door = Arc::clone(&shared);
    start("files", move || fs::serve(&door))?;
    fs::contents::start(&shared)?;
    let titles = Arc::clone(&shared);
    start("titles", move || crate::titles::watch(&titles))?;
    let init = rustix::process::Pid::from_raw(world.init as i32)
        .and_then(|init| pidfd_open(init, PidfdFlags::empty()).ok());
    let (spawner, tasks) = channel::<Task>();
    let spawning = Arc::clone(&shared);
    start("spawner", move || {
        let ready = world.wait_until_mounted();
        let ready = ready.map(|made| spawning.files.places.end(Some(made)));
        if ready.is_ok() {
            watch_init(&spawning, world.init);
            if let Err(error) = install_through_init(&spawning, &world) {
                warn!("nobody gives guests descriptors: {error}");
            }
        }
        let spawner = Spawner::new(spawning, world, ready);
        for task in tasks {
            spawner.run(task);
        }
    })?;
    let server = Server {
        shared: Arc::clone(&shared),
        spawner,
    };
    let kept = Arc::clone(&shared);
    let ended = delivery::read(reader, &endpoint, server, notices);
    if let (Some(contents), Some(init)) = (&kept.files.contents, init)
        && contents.is_busy()
    {
        // Guests do not go on meanwhile.
        let _ = pidfd_send_signal(init, Signal::KILL);
        contents.finish();
    }
    ended
}

/// What is kept of a home's files. A home on this machine has them itself.
fn open_store(terms: &Terms) -> Option<Store> {
    let policy = terms.keeping.as_ref().filter(|policy| policy.most_bytes > 0)?;
    let home: String = terms
        .key?
        .bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    match Store::open(policy, &home) {
        Ok(store) => Some(store),
        Err(error) => {
            warn!("no contents are kept: {error}");
            None
        }
    }
}

/// Ends the session when the daemon says why.
fn end_when_told(shared: &Shared, mut control: UnixStream) {
    let mut why = String::new();
    // If the daemon is gone, so is this process.
    if control.read_to_string(&mut why).is_ok() && !why.is_empty() {
        let _ = shared.home.farewell(why);
        shared.writer.shutdown();
    }
}

fn install_through_init(shared: &Shared, world: &World) -> io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    world.help_with(&theirs)?;
    shared.installer.set_channel(ours);
    Ok(())
}

/// Ends the session when init ends.
fn watch_init(shared: &Arc<Shared>, init: u32) {
    let watcher = Arc::clone(shared);
    let watch = move || {
        sys::process::wait_for_end(init);
        // All guests have ended before it, and the kernel has told the tracer.
        watcher.orders.give(Order::End);
    };
    if let Err(error) = start("init", watch) {
        warn!("nobody watches init: {error}");
    }
}

/// Starts a thread of the session.
pub fn start(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(body)
        .map(drop)
}

fn greet(reader: &mut Reader) -> Result<Hello, SessionError> {
    let frame = reader.read_frame()?;
    if frame.kind != Kind::Hello {
        return Err(LinkError::Unexpected {
            expected: Kind::Hello,
            got: frame.kind,
        }
        .into());
    }
    // Any version's hello begins with its protocol.
    let protocol = u32::from(*frame.payload.first().unwrap_or(&0) & 0x7f);
    let hello: Hello = match wire::decode(&frame.payload) {
        Ok(hello) => hello,
        Err(_) if protocol != afield_link::PROTOCOL => {
            return Err(SessionError::Version {
                home: protocol,
                version: "unknown".to_owned(),
                node: afield_link::PROTOCOL,
            });
        }
        Err(error) => return Err(LinkError::from(error).into()),
    };
    if hello.protocol != afield_link::PROTOCOL {
        return Err(SessionError::Version {
            home: hello.protocol,
            version: hello.version,
            node: afield_link::PROTOCOL,
        });
    }
    endpoint::agree(&[&HOME_INTERFACE], &hello.interfaces)?;
    Ok(hello)
}

fn refuse_home(writer: &Writer, name: &str, why: &str) -> Result<(), LinkError> {
    welcome(writer, name, Some(why.to_owned()), (false, 0))
}

fn welcome(
    writer: &Writer,
    name: &str,
    refusal: Option<String>,
    (keeps_contents, file_systems): (bool, usize),
) -> Result<(), LinkError> {
    let message = Welcome {
        protocol: afield_link::PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        refusal,
        name: name.to_owned(),
        cpus: thread::available_parallelism().map_or(1, |count| count.get() as u32),
        keeps_contents,
        file_systems: file_systems as u32,
        interfaces: vec![NODE_INTERFACE.offer()],
    };
    writer.write_frame(Kind::Welcome, 0, &[&wire::encode(&message)?])
}

/// Serves a home over a socketpair whose end was inherited. First of all come the memory that home shares, and where it hands over
/// connections.
pub fn serve_embedded(descriptor: OwnedFd) -> Result<(), SessionError> {
    sys::namespaces::die_with_parent(None)?;
    let socket = UnixStream::from(descriptor);
    let area = sys::sockets::receive_with(&socket, &mut [0])?.descriptor;
    let hatch = sys::sockets::receive_with(&socket, &mut [0])?.descriptor;
    let terms = Terms {
        hatch: hatch.map(Hatch::from),
        leases: area.map(|area| Leases::new(area.as_fd())).transpose()?,
        ..Terms::default()
    };
    let (reader, writer) = stream::split(Socket::Unix(socket))?;
    serve(reader, writer, "embedded", terms)
}
