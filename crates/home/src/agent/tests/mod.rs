//! A session with a node that is made up, and deputies that are played.

mod hostile;

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use afield_link::control::{
    HOME_INTERFACE, HomeClient, NODE_INTERFACE, Node as Asked, Statistics, dispatch_node,
};
use afield_link::frame::{FILE_ID, Frame, Kind};
use afield_link::stream::{Reader, Writer, split};
use afield_link::wire::{
    self, CallHeader, CallReply, Descriptor, HandleHeader, HandleOp, Inherited, MountPoint, Spawn,
    SpawnError, Usage, Welcome,
};
use afield_rpc::endpoint::{Endpoint, Remote};
use afield_rpc::{Answer, Pending};
use zerocopy::IntoBytes;

use super::*;
use crate::channel::{self, ChannelError, Incoming};
use crate::messages::{FromDeputy, RunRequest, ToDeputy};
use crate::mounts::Told;
use crate::runtime::RuntimeDir;

/// The node's end of a session.
struct Node {
    session: Arc<Session>,
    reader: Reader,
    writer: Writer,
    calls: Arc<Endpoint<Writer>>,
    home: HomeClient<Remote<Writer>>,
    heard: Heard,
}

/// What home asks for, as it comes; and the guests that there are.
#[derive(Default)]
struct Heard(Mutex<VecDeque<Said>>, Mutex<Vec<u32>>);

#[derive(Debug)]
enum Said {
    Start(Box<Spawn>, Answer<Result<(), SpawnError>>),
    Signal(u32, Vec<u8>),
    Kill(u32),
    /// What no test looks at closely.
    #[expect(dead_code, reason = "shown when a test fails")]
    Other(String),
}

impl Heard {
    fn add(&self, said: Said) -> Result<(), String> {
        lock(&self.0).push_back(said);
        Ok(())
    }
}

impl Asked for Heard {
    type Fault = String;

    fn start(&self, spawn: Spawn, answer: Answer<Result<(), SpawnError>>) -> Result<(), String> {
        self.add(Said::Start(Box::new(spawn), answer))
    }

    fn mounts(&self, points: Vec<MountPoint>) -> Result<(), String> {
        self.add(Said::Other(format!("mounts {points:?}")))
    }

    fn signal(&self, pid: u32, info: Vec<u8>) -> Result<(), String> {
        self.add(Said::Signal(pid, info))
    }

    fn kill(&self, pid: u32) -> Result<(), String> {
        self.add(Said::Kill(pid))
    }

    fn hold(&self, pid: u32) -> Result<(), String> {
        self.add(Said::Other(format!("hold {pid}")))
    }

    fn release(&self, pid: u32) -> Result<(), String> {
        self.add(Said::Other(format!("release {pid}")))
    }

    fn priority(&self, pid: u32, nice: i8) -> Result<(), String> {
        self.add(Said::Other(format!("priority {pid} {nice}")))
    }

    fn ready(&self, pid: u32, handle: u64, events: u32, look: u32) -> Result<(), String> {
        self.add(Said::Other(format!("ready {pid} {handle} {events} {look}")))
    }

    fn guests(&self, answer: Answer<Vec<u32>>) -> Result<(), String> {
        answer.send(&lock(&self.1)).map_err(|error| error.to_string())
    }

    fn statistics(&self, _: bool, answer: Answer<Statistics>) -> Result<(), String> {
        drop(answer);
        self.add(Said::Other("statistics".to_owned()))
    }
}

/// What the user of a job wants to be executed.
fn request(program: &str) -> RunRequest {
    let spawn = Spawn {
        pid: 1,
        program: program.into(),
        arguments: vec![b"x".to_vec(), b"y".to_vec()],
        environment: vec![],
        directory: b"/".to_vec(),
        umask: 0o22,
        limits: vec![],
        ignored: 0,
        blocked: 0,
        ids: [0; 6],
        descriptors: vec![Descriptor {
            number: 0,
            object: Inherited::Handle {
                handle: 0,
                flags: 0,
                stream: true,
                terminal: false,
                device: false,
                offset: 0,
                size: 0,
            },
        }],
    };
    RunRequest {
        world: 0,
        place: Place::Embedded,
        place_name: "test".to_owned(),
        verbose: true,
        directory: false,
        spawn,
    }
}

impl Node {
    fn new() -> Self {
        Self::with((None, Generosity::NONE))
    }

    fn with(files: (Option<&Arc<Coherence>>, Generosity)) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (home_reader, home_writer) = split(Socket::Unix(ours)).unwrap();
        let (mut reader, writer) = split(Socket::Unix(theirs)).unwrap();
        reader.set_timeout(Some(Duration::from_secs(20))).unwrap();
        let welcome = Welcome {
            protocol: afield_link::PROTOCOL,
            version: String::new(),
            refusal: None,
            name: "made up".to_owned(),
            cpus: 1,
            keeps_contents: false,
            file_systems: 1,
            interfaces: vec![NODE_INTERFACE.offer()],
        };
        let calls = Endpoint::new(
            writer.clone(),
            &[&NODE_INTERFACE],
            &[&HOME_INTERFACE],
            &[HOME_INTERFACE.offer()],
        )
        .unwrap();
        let session = Session::new(
            "test".to_owned(),
            RuntimeDir::at("/nonexistent"),
            Connection {
                reader: home_reader,
                writer: home_writer,
                welcome,
                told: Told::default(),
            },
            None,
            files,
        )
        .unwrap();
        let session = Arc::new(session);
        for _ in 0..3 {
            let reading = Arc::clone(&session);
            spawn("link", move || reading.read_link()).unwrap();
        }
        let listening = Arc::clone(&session);
        spawn("switchboard", move || listening.listen()).unwrap();
        Self {
            session,
            reader,
            writer,
            home: HomeClient::new(calls.remote(0)),
            calls,
            heard: Heard::default(),
        }
    }

    /// A job whose deputy is played by the test.
    fn start_job(&mut self, pid: u32) -> Played {
        self.start_job_that(pid, Ok(()))
    }

    /// One that starts, or fails, like this.
    fn start_job_that(&mut self, pid: u32, outcome: Result<(), SpawnError>) -> Played {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let request = request("/bin/x");
        self.session
            .start_job(pid, request, None, theirs.into(), Incoming::default())
            .unwrap();
        let mut played = Played::new(pid, ours);
        let ToDeputy::Accepted { handle_first } = played.told().1 else {
            panic!("not accepted");
        };
        let Said::Start(spawn, answer) = self.control() else {
            panic!("no spawn");
        };
        assert_eq!(spawn.pid, pid);
        assert!(matches!(
            spawn.descriptors[0].object,
            Inherited::Handle { handle, .. } if handle == handle_first
        ));
        answer.send(&outcome).unwrap();
        assert!(matches!(played.told().1, ToDeputy::Spawned(told) if told == outcome));
        played
    }

    /// Nothing has come that was not asked for, and everything has been heard.
    fn ping(&mut self) {
        let ping = self.home.begin_ping().unwrap();
        self.wait(ping);
        assert!(lock(&self.heard.0).is_empty());
    }

    fn fork(&self, pid: u32) -> Fork {
        self.home.begin_fork(pid, 17, false).unwrap()
    }

    /// Reads until an answer has come.
    fn wait<T: serde::de::DeserializeOwned>(&mut self, mut pending: Pending<T, Remote<Writer>>) -> T {
        loop {
            if let Some(result) = pending.poll() {
                return result.unwrap();
            }
            let frame = self.frame();
            assert_eq!(frame.kind, Kind::Control);
            self.take(&frame);
        }
    }

    fn take(&mut self, frame: &Frame) {
        if let Some(execution) = self.calls.receive(&frame.payload).unwrap() {
            dispatch_node(&self.heard, execution).unwrap();
        }
    }

    fn frame(&mut self) -> Frame {
        self.reader.read_frame().unwrap()
    }

    /// What home asks next.
    fn control(&mut self) -> Said {
        loop {
            if let Some(said) = lock(&self.heard.0).pop_front() {
                return said;
            }
            let frame = self.frame();
            assert_eq!(frame.kind, Kind::Control);
            self.take(&frame);
        }
    }

    fn call(&mut self, id: u64, pid: u32) {
        let header = CallHeader {
            pid: pid.into(),
            tid: pid.into(),
            number: 110.into(),
            buffers: 0.into(),
            arguments: [0.into(); 6],
            result: 0.into(),
        };
        self.writer
            .write_frame(Kind::Call, id, &[header.as_bytes()])
            .unwrap();
    }

    fn operate(&mut self, id: u64, pid: u32, op: HandleOp, data: &[u8]) {
        let header = HandleHeader {
            pid: pid.into(),
            op: (op as u32).into(),
            handle: 1.into(),
            offset: (-1).into(),
            argument: 0.into(),
            size: 0.into(),
            flags: 0.into(),
            area_place: 0.into(),
            area_length: 0.into(),
        };
        self.writer
            .write_frame(Kind::Handle, id, &[header.as_bytes(), data])
            .unwrap();
    }

    /// The result of the next frame, which answers `id`.
    fn result(&mut self, kind: Kind, id: u64) -> i64 {
        let frame = self.frame();
        assert_eq!((frame.kind, frame.id), (kind, id));
        // Both kinds of replies begin with it.
        i64::from_le_bytes(*frame.payload.first_chunk().unwrap())
    }

    /// The session ends, and its deputy is told.
    fn expect_refusal(mut self, mut deputy: Played, why: &str) {
        let mut message = deputy.told().1;
        // What was right about it may have been done before.
        while matches!(message, ToDeputy::Notice(_)) {
            message = deputy.told().1;
        }
        let ToDeputy::Gone(text) = message else {
            panic!("{message:?}");
        };
        assert!(text.contains(why), "{text}");
        while self.reader.read_frame().is_ok() {}
        assert!(self.session.is_over());
        let start = Instant::now();
        while self.session.deputy_count() > 0 {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

type Fork = Pending<Result<u32, i32>, Remote<Writer>>;

/// A deputy that the test plays.
struct Played {
    pid: u32,
    channel: UnixStream,
    incoming: Incoming,
}

impl Played {
    fn new(pid: u32, channel: UnixStream) -> Self {
        Self {
            pid,
            channel,
            incoming: Incoming::default(),
        }
    }

    fn frame(&mut self) -> Result<Frame, ChannelError> {
        self.incoming.wait_frame(self.channel.as_fd())
    }

    fn told(&mut self) -> (u64, ToDeputy) {
        let frame = self.frame().unwrap();
        assert_eq!(frame.kind, Kind::Control);
        (frame.id, wire::decode(&frame.payload).unwrap())
    }

    fn tell(&mut self, id: u64, message: &FromDeputy) {
        channel::send_control(self.channel.as_fd(), id, message, None).unwrap();
    }

    fn answer(&mut self, kind: Kind, id: u64, result: i64) {
        let head = CallReply {
            result: result.into(),
        };
        channel::send(self.channel.as_fd(), kind, id, &[head.as_bytes()], None).unwrap();
    }
}

#[test]
fn calls_and_signals_cross_in_order() {
    let mut node = Node::new();
    let mut deputy = node.start_job(4_000_001);
    for id in 1..200 {
        node.call(id, deputy.pid);
        let frame = deputy.frame().unwrap();
        assert_eq!((frame.kind, frame.id), (Kind::Call, id));
        deputy.tell(0, &FromDeputy::Signal(vec![id as u8; 128]));
        deputy.answer(Kind::CallReply, id, id as i64 * 3);
        let Said::Signal(pid, info) = node.control() else {
            panic!("no signal");
        };
        assert_eq!((pid, info), (deputy.pid, vec![id as u8; 128]));
        assert_eq!(node.result(Kind::CallReply, id), id as i64 * 3);
    }
    // What was not asked is not passed on.
    deputy.answer(Kind::CallReply, 999, 1);
    deputy.answer(Kind::HandleReply, 999, 1);
    node.ping();
    assert_eq!(
        node.session.processes()[0].trips.map(|count| count.trips),
        [0, 0, 0, 199]
    );
    assert_eq!(node.session.processes()[0].command, "x y");
}

#[test]
fn everything_outstanding_is_answered_when_a_deputy_dies() {
    let mut node = Node::new();
    let deputy = node.start_job(4_000_002);
    let pid = deputy.pid;
    node.call(1, pid);
    node.operate(2 | FILE_ID, pid, HandleOp::Read, &[]);
    let mut fork = node.fork(pid);
    node.ping();
    drop(deputy);
    assert!(matches!(node.control(), Said::Kill(killed) if killed == pid));
    let mut answered = Vec::new();
    for _ in 0..3 {
        let frame = node.frame();
        match frame.kind {
            Kind::Control => node.take(&frame),
            _ => answered.push(frame.id),
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, [1, 2 | FILE_ID]);
    assert_eq!(fork.poll(), Some(Ok(Err(libc::ESRCH))));
    // And so is what comes late.
    node.call(5, pid);
    assert_eq!(node.result(Kind::CallReply, 5), -i64::from(libc::EINTR));
    node.operate(6 | FILE_ID, pid, HandleOp::Read, &[]);
    assert_eq!(
        node.result(Kind::HandleReply, 6 | FILE_ID),
        -i64::from(libc::EINTR)
    );
    node.operate(7 | FILE_ID, pid, HandleOp::Close, &[]);
    let late = node.fork(pid);
    assert_eq!(node.wait(late), Err(libc::ESRCH));
}

#[test]
fn forks_exits_and_usage() {
    let mut node = Node::new();
    let mut parent = node.start_job(4_000_003);
    let (childs, agents) = UnixStream::pair().unwrap();
    let fork = node.fork(parent.pid);
    let (id, ToDeputy::Fork { exit_signal: 17, .. }) = parent.told() else {
        panic!("no fork");
    };
    let message = FromDeputy::Forked(Ok(4_000_004));
    channel::send_control(parent.channel.as_fd(), id, &message, Some(agents.as_fd())).unwrap();
    drop(agents);
    assert_eq!(node.wait(fork), Ok(4_000_004));
    let mut child = Played::new(4_000_004, childs);
    assert_eq!(node.session.processes().len(), 2);
    let usage = Usage {
        user_us: 5,
        ..Usage::default()
    };
    node.home.exit(child.pid, 256, usage).unwrap();
    let (_, message) = parent.told();
    assert!(
        matches!(message, ToDeputy::ChildUsage { pid: 4_000_004, usage: told } if told == usage),
        "{message:?}"
    );
    assert!(matches!(child.told().1, ToDeputy::Exit { status: 256 }));
    drop(child);
    parent.tell(0, &FromDeputy::Reaped { pid: 4_000_004 });
    // What the child used counts for the parent; and no `Kill` was sent for it.
    node.ping();
    let total = |node: &Node| {
        let entry = node.session.deputy(4_000_003).unwrap();
        lock(&entry.status).children_usage.user_us
    };
    let start = Instant::now();
    while total(&node) != 5 {
        assert!(start.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_fork_taken_back_keeps_its_channel_until_its_end() {
    let mut node = Node::new();
    let mut parent = node.start_job(4_000_005);
    let (childs, agents) = UnixStream::pair().unwrap();
    let pid = parent.pid;
    let fork = node.fork(pid);
    let (id, _) = parent.told();
    let message = FromDeputy::Forked(Ok(4_000_006));
    channel::send_control(parent.channel.as_fd(), id, &message, Some(agents.as_fd())).unwrap();
    drop(agents);
    assert_eq!(node.wait(fork), Ok(4_000_006));
    node.home.unfork(pid, 4_000_006).unwrap();
    assert!(matches!(parent.told().1, ToDeputy::Unfork { pid: 4_000_006 }));
    let mut child = Played::new(4_000_006, childs);
    assert_eq!(
        child.incoming.receive(child.channel.as_fd(), false).unwrap(),
        channel::Received::Nothing
    );
    assert_eq!(node.session.processes().len(), 1);
    drop(child);
    node.ping();
}

#[test]
fn a_program_that_cannot_be_executed_is_not_killed() {
    let mut node = Node::new();
    let error = SpawnError {
        step: "execve".to_owned(),
        errno: libc::ENOEXEC,
    };
    let deputy = node.start_job_that(4_000_007, Err(error));
    drop(deputy);
    let again = node.start_job(4_000_007);
    drop(again);
    assert!(matches!(node.control(), Said::Kill(4_000_007)));
}

#[test]
fn unsupported_calls_are_told_once() {
    let mut node = Node::new();
    let mut deputy = node.start_job(4_000_008);
    for _ in 0..3 {
        node.home.unsupported(deputy.pid, 101, libc::EPERM).unwrap();
    }
    node.call(1, deputy.pid);
    let (_, message) = deputy.told();
    let ToDeputy::Notice(text) = message else {
        panic!("{message:?}");
    };
    assert_eq!(
        text,
        "x (4000008): ptrace is not possible afield, it fails with EPERM"
    );
    assert_eq!(deputy.frame().unwrap().kind, Kind::Call);
}
