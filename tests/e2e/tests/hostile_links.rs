//! Homes and nodes that have a key that is trusted, and do not behave once the handshake is done: their own session ends with an
//! error, and others go on.

use std::io::{ErrorKind, IoSlice, Read as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use afield_e2e::{Arena, Mode, Place, Running};
use afield_link::byte_stream::ByteStream;
use afield_link::carrier::{Carrier, Dial, Redial};
use afield_link::control::{HOME_INTERFACE, NODE_INTERFACE, NodeClient};
use afield_link::frame::{FILE_ID, HEADER_BYTES, Kind, encode_head};
use afield_link::preamble::{self, Answer, PREAMBLE_BYTES, SessionId};
use afield_link::resume::greeting::{Greeting, Outcome};
use afield_link::resume::proof::Secret;
use afield_link::resume::{Limits, ProtocolError};
use afield_link::secure::{self, Identity, SecureStream};
use afield_link::stream::{self, Reader, Socket, Writer};
use afield_link::wire::{self, HandleHeader, HandleOp, Hello, Welcome};
use afield_rpc::endpoint::Endpoint;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// The machines of these tests share the loopback device.
const EMBEDDED: Mode = Mode {
    place: Place::Embedded,
    user: false,
};

/// For everything that should come soon.
const BOUND: Duration = Duration::from_secs(20);

fn soon() -> Instant {
    Instant::now() + BOUND
}

/// A node, and a job of a well-behaved home on it, which must not notice anything.
struct Scene {
    arena: Arena,
    address: String,
    job: Running,
    steps: usize,
}

impl Scene {
    fn new() -> Self {
        let mut arena = Arena::new(EMBEDDED);
        arena.set_grace("60");
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let address = format!("127.0.0.1:{port}");
        arena.start_node_at(&address, port);
        let script = "echo ready; i=0; until [ -e over ]; do if [ -e go$i ]; then echo went $i; i=$((i+1)); fi; sleep 0.01; done; exit 6";
        let mut job = arena.start(&arena.afield(&["run", "--on", &address, "sh", "-c", script]));
        job.until_output("ready");
        Self {
            arena,
            address,
            job,
            steps: 0,
        }
    }

    /// The job goes on.
    fn step(&mut self) {
        let step = self.steps;
        self.steps += 1;
        std::fs::write(self.arena.work().join(format!("go{step}")), "").unwrap();
        self.job.until_output(&format!("went {step}\n"));
    }

    fn end(mut self) {
        self.step();
        std::fs::write(self.arena.work().join("over"), "").unwrap();
        let outcome = self.job.wait();
        outcome.expect_exit(6);
        let steps: String = (0..self.steps).map(|step| format!("went {step}\n")).collect();
        assert_eq!(outcome.output(), format!("ready\n{steps}"));
        self.arena.expect_clean();
    }

    /// A key that the node admits, beside the home's own.
    fn admitted(&self) -> Identity {
        let identity = Identity::ephemeral().unwrap();
        let home = self.arena.fingerprint(self.arena.afield(&[]));
        self.arena.admit(&format!("{home}\n{}\n", identity.fingerprint()));
        identity
    }

    /// The processes of sessions on the node.
    fn sessions(&self) -> Vec<i32> {
        let node = self.arena.node_pid().unwrap();
        let processes = self.arena.watch().all().into_iter();
        processes
            .filter(|process| process.parent == node)
            .map(|process| process.pid)
            .collect()
    }
}

/// A link whose records this test makes itself.
struct Raw {
    stream: SecureStream,
}

impl Raw {
    fn new(stream: SecureStream) -> Self {
        set_socket_timeout(stream.socket(), Timeout::Recv, Some(BOUND)).unwrap();
        Self { stream }
    }

    /// Of a home, to a node.
    fn dial(address: &str, session: SessionId, identity: &Identity) -> std::io::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(BOUND))?;
        preamble::ask(&mut socket, session).map_err(std::io::Error::other)?;
        let secured = secure::connect(socket, identity, None, soon()).map_err(std::io::Error::other)?;
        Ok(Self::new(SecureStream::new(secured)?))
    }

    fn say(&self, bytes: &[u8]) {
        // What is said here fits into the socket's buffer; the other side may have heard enough before the end.
        let mut rest = bytes;
        while let Ok(count @ 1..) = self.stream.write(&[IoSlice::new(rest)]) {
            rest = &rest[count..];
            if rest.is_empty() {
                break;
            }
        }
    }

    fn hear(&self, mut bytes: &mut [u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.read(bytes, true)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => bytes = &mut bytes[count..],
            }
        }
        Ok(())
    }

    fn greet(&self, mut greeting: Greeting) -> std::io::Result<Outcome> {
        self.say(&greeting.begin());
        loop {
            let mut message = vec![0; greeting.wanted()];
            self.hear(&mut message)?;
            let step = greeting.hear(&message, 0).map_err(std::io::Error::other)?;
            self.say(&step.say);
            if let Some(outcome) = step.outcome {
                return Ok(outcome);
            }
        }
    }

    /// The other side answers.
    fn is_answered(&self, number: u64) -> bool {
        self.say(&record(PING, 0, 0, number, 0));
        loop {
            let mut head = [0; HEAD_BYTES];
            if self.hear(&mut head).is_err() {
                return false;
            }
            if head[0] == PONG && head[8..16] == number.to_le_bytes() {
                return true;
            }
            let length = u16::from_le_bytes([head[2], head[3]]);
            if self.hear(&mut vec![0; usize::from(length)]).is_err() {
                return false;
            }
        }
    }

    /// The other side closes the link.
    fn expect_end(&self, what: &str) {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer, true) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    assert_ne!(error.kind(), ErrorKind::WouldBlock, "{what}: the link stays open");
                    break;
                }
            }
        }
    }
}

const HEAD_BYTES: usize = 24;
const PIECE: u8 = 1;
const CREDIT: u8 = 2;
const PING: u8 = 3;
const PONG: u8 = 4;
const CLOSE: u8 = 5;
const FIRST: u8 = 1;
const LAST: u8 = 2;

/// The head of a record.
fn record(kind: u8, flags: u8, length: u16, number: u64, received: u64) -> Vec<u8> {
    slotted(kind, flags, length, 0, number, received)
}

fn slotted(kind: u8, flags: u8, length: u16, slot: u32, number: u64, received: u64) -> Vec<u8> {
    let mut bytes = vec![kind, flags];
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&slot.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&received.to_le_bytes());
    bytes
}

/// A piece with these bytes.
fn piece(number: u64, flags: u8, slot: u32, bytes: &[u8]) -> Vec<u8> {
    let mut record = slotted(PIECE, flags, bytes.len() as u16, slot, number, 0);
    record.extend_from_slice(bytes);
    record
}

/// The beginning of a frame that is to have so many bytes, as far as it is here.
fn begun(length: u32, payload: &[u8]) -> Vec<u8> {
    let mut head: [u8; HEADER_BYTES] = encode_head(Kind::File, FILE_ID | 1, 0).unwrap();
    head[..4].copy_from_slice(&length.to_le_bytes());
    [&head, payload].concat()
}

/// A whole frame as a piece.
fn whole(number: u64, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let head = encode_head(kind, 0, payload.len()).unwrap();
    piece(number, FIRST | LAST, 0, &[&head, payload].concat())
}

/// What no peer may send, when one piece has gone; and what is said about it.
fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let both = FIRST | LAST;
    vec![
        ("a record of unknown kind", record(9, 0, 0, 0, 0)),
        ("a head that makes no sense", record(PIECE, both, u16::MAX, 1, 0)),
        (
            "frame of 4294967295 bytes is over the limit",
            piece(1, both, 0, &begun(u32::MAX, b"x")),
        ),
        (
            "sent piece 2 where 1 was next",
            piece(2, both, 0, &begun(1, b"x")),
        ),
        ("acknowledges what was not sent", record(PING, 0, 0, 1, 1 << 40)),
        ("acknowledges what was not sent", record(CREDIT, 0, 0, 1 << 60, 0)),
        (
            "more than there is room for",
            (1..4)
                .flat_map(|slot| piece(slot, FIRST, slot as u32, &begun(8 << 20, b"x")))
                .collect(),
        ),
        ("a frame that was not begun", piece(1, 0, 5, b"x")),
        (
            "begins a frame within another",
            (1..3)
                .flat_map(|number| piece(number, FIRST, 3, &begun(9, b"x")))
                .collect(),
        ),
        (
            "does not end where its frame does",
            piece(1, both, 0, &begun(9, b"x")),
        ),
        ("without a frame's header", piece(1, both, 0, b"x")),
    ]
}

fn hello(home: u64, epoch: u64) -> Hello {
    Hello {
        protocol: afield_link::PROTOCOL,
        version: "test".into(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        uname: [const { String::new() }; 6],
        monotonic_ns: 1,
        boottime_ns: 1,
        home,
        epoch,
        interfaces: vec![HOME_INTERFACE.offer()],
    }
}

#[test]
fn homes_that_break_the_links_rules() {
    let mut scene = Scene::new();
    let identity = scene.admitted();
    let before = scene.sessions();
    let first = whole(0, Kind::Hello, &wire::encode(&hello(7, 1)).unwrap());
    let second_hello = whole(1, Kind::Hello, &wire::encode(&hello(7, 1)).unwrap());
    for (what, attack) in attacks().into_iter().chain([("a second hello", second_hello)]) {
        let raw = Raw::dial(&scene.address, SessionId::default(), &identity).unwrap();
        raw.greet(Greeting::home_new(Limits::default())).unwrap();
        raw.say(&first);
        // What has come before is not heard again.
        raw.say(&first);
        assert!(raw.is_answered(77), "{what}");
        raw.say(&attack);
        raw.expect_end(what);
        let left = scene.arena.watch().until_none(BOUND, |process| {
            Some(process.parent) == scene.arena.node_pid() && !before.contains(&process.pid)
        });
        assert!(left.is_empty(), "{what}: {left:?}");
        scene.step();
    }
    scene.end();
}

/// Who knows a session's id has nothing by it: neither with another key, nor without the secret, nor with an attempt that is an
/// earlier one.
#[test]
fn homes_that_come_for_a_session() {
    let mut scene = Scene::new();
    let thief = Identity::ephemeral().unwrap();
    let identity = scene.admitted();
    let home = scene.arena.fingerprint(scene.arena.afield(&[]));
    let keys = [
        home,
        identity.fingerprint().to_string(),
        thief.fingerprint().to_string(),
    ];
    scene.arena.admit(&(keys.join("\n") + "\n"));
    let limits = Limits::default;
    let raw = Raw::dial(&scene.address, SessionId::default(), &identity).unwrap();
    let outcome = raw.greet(Greeting::home_new(limits())).unwrap();
    let (session, secret) = outcome.made.unwrap();
    raw.say(&whole(0, Kind::Hello, &wire::encode(&hello(7, 1)).unwrap()));
    assert!(raw.is_answered(1));
    let address = scene.address.clone();
    let resume = |identity, secret, epoch| {
        let raw = Raw::dial(&address, session, identity).unwrap();
        let greeted = raw.greet(Greeting::home_resumes(limits(), secret, epoch, 0, [5; 32]));
        (raw, greeted)
    };
    let (other, greeted) = resume(&thief, secret, 9);
    assert!(greeted.is_err());
    other.expect_end("another home's key");
    let (_, greeted) = resume(&identity, Secret([0; 32]), 9);
    assert_eq!(
        greeted.unwrap_err().to_string(),
        ProtocolError::Secret.to_string()
    );
    let (other, greeted) = resume(&identity, secret, 1);
    greeted.unwrap();
    other.expect_end("an epoch that has been");
    assert!(raw.is_answered(2));
    // A good one takes over, and the one before it is of no more use.
    let (next, greeted) = resume(&identity, secret, 2);
    greeted.unwrap();
    assert!(next.is_answered(3));
    raw.expect_end("an earlier connection");
    let (other, greeted) = resume(&identity, secret, 2);
    greeted.unwrap();
    other.expect_end("the same epoch again");
    assert!(next.is_answered(4));
    drop((raw, next));
    scene.step();
    // Not known any more when its home has ended it.
    let (last, greeted) = resume(&identity, secret, 3);
    greeted.unwrap();
    last.say(&record(CLOSE, 0, 0, 0, 0));
    let until = soon();
    while Raw::dial(&scene.address, session, &identity).is_ok() {
        assert!(Instant::now() < until, "an ended session is still known");
    }
    scene.end();
}

/// A session as homes have them.
fn session(scene: &Scene, identity: &Identity, hello: &Hello) -> (Reader, Writer, Welcome) {
    let raw = Raw::dial(&scene.address, SessionId::default(), identity).unwrap();
    let dial: Dial = Box::new(|_, _| Err(Redial::Never("one connection is enough".to_owned())));
    let carrier = Carrier::begin_at_home(Arc::new(raw.stream), Limits::default(), dial, soon()).unwrap();
    carrier.keep().unwrap();
    let (mut reader, writer) = stream::split(Socket::Carried(carrier)).unwrap();
    reader.set_timeout(Some(BOUND)).unwrap();
    let hello = wire::encode(hello).unwrap();
    writer.write_frame(Kind::Hello, 0, &[&hello]).unwrap();
    let frame = reader.read_frame().unwrap();
    assert_eq!(frame.kind, Kind::Welcome);
    let welcome = wire::decode(&frame.payload).unwrap();
    (reader, writer, welcome)
}

/// What names another home's incarnation or guests means nothing in this home's session.
#[test]
fn homes_that_meddle_with_others() {
    let mut scene = Scene::new();
    let identity = scene.admitted();
    let incarnation = std::fs::read_to_string(scene.arena.runtime().join("incarnation")).unwrap();
    let (victim, _) = incarnation.split_once(' ').unwrap();
    let victim = u64::from_str_radix(victim, 16).unwrap();
    let (mut reader, writer, welcome) = session(&scene, &identity, &hello(victim, u64::MAX));
    assert_eq!(welcome.refusal, None);
    let calls = Endpoint::new(writer.clone(), &[], &[&NODE_INTERFACE], &welcome.interfaces).unwrap();
    let node = NodeClient::new(calls.remote(0));
    let pid = scene.job.pid() as u32;
    node.hold(pid).unwrap();
    node.signal(pid, vec![9; 128]).unwrap();
    node.kill(pid).unwrap();
    // Answered when all of that has been heard.
    let mut guests = node.begin_guests().unwrap();
    let answer = loop {
        let frame = reader.read_frame().unwrap();
        if frame.kind == Kind::Control {
            calls.receive(&frame.payload).unwrap();
        }
        if let Some(answer) = guests.poll() {
            break answer.unwrap();
        }
    };
    assert_eq!(answer, [0; 0]);
    scene.step();
    // An incarnation that is over has nothing to say.
    let (_, _, welcome) = session(&scene, &identity, &hello(8, 5));
    assert_eq!(welcome.refusal, None);
    let (_, _, welcome) = session(&scene, &identity, &hello(8, 4));
    let refusal = welcome.refusal.unwrap();
    assert!(refusal.contains("incarnation 4"), "{refusal}");
    writer.shutdown();
    scene.end();
}

/// A node that home trusts, played by the test.
struct Played {
    listener: TcpListener,
    identity: Identity,
    address: String,
}

impl Played {
    fn new(scene: &Scene) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let identity = Identity::ephemeral().unwrap();
        let key = identity.fingerprint().to_string();
        let trust = scene.arena.afield(&["trust", "add", "played", &address, &key]);
        scene.arena.run(&trust).expect_exit(0);
        Self {
            listener,
            identity,
            address,
        }
    }

    /// The next connection for a job, until it has ended: one that has not started when its session ends is tried again a few times.
    fn accept(&self, job: &Running) -> Option<Raw> {
        let until = soon();
        let mut socket = loop {
            match self.listener.accept() {
                Ok((socket, _)) => break socket,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            if !job.is_alive() {
                return None;
            }
            assert!(Instant::now() < until, "nobody comes, and the job does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        socket.read_exact(&mut [0; PREAMBLE_BYTES]).unwrap();
        Answer::Go.write(&mut socket).unwrap();
        let secured = secure::accept(socket, &self.identity, soon()).unwrap();
        Some(Raw::new(SecureStream::new(secured).unwrap()))
    }

    /// Starts a job there.
    fn job(&self, scene: &Scene) -> Running {
        let run = scene.arena.afield(&["run", "--on", &self.address, "true"]);
        scene.arena.start(&run)
    }
}

fn welcome() -> Vec<u8> {
    let welcome = Welcome {
        protocol: afield_link::PROTOCOL,
        version: "test".into(),
        refusal: None,
        name: "played".into(),
        cpus: 1,
        keeps_contents: false,
        interfaces: vec![NODE_INTERFACE.offer()],
    };
    wire::encode(&welcome).unwrap()
}

#[test]
fn nodes_that_break_the_links_rules() {
    let mut scene = Scene::new();
    let played = Played::new(&scene);
    let first = whole(0, Kind::Welcome, &welcome());
    let second_welcome = whole(1, Kind::Welcome, &welcome());
    for (why, attack) in attacks().into_iter().chain([("Welcome", second_welcome)]) {
        let job = played.job(&scene);
        while let Some(raw) = played.accept(&job) {
            let session = SessionId::random().unwrap();
            raw.greet(Greeting::node_new(Limits::default(), session, Secret([7; 32])))
                .unwrap();
            raw.say(&first);
            raw.say(&first);
            assert!(raw.is_answered(77), "{why}");
            raw.say(&attack);
            raw.expect_end(why);
        }
        let outcome = job.wait();
        outcome.expect_exit(125);
        let message = outcome.message();
        assert!(
            message.contains("is gone: ") && message.contains(why),
            "{message}"
        );
        scene.step();
    }
    scene.end();
}

/// A guest of another node means nothing in this node's session.
#[test]
fn nodes_that_meddle_with_others() {
    let scene = Scene::new();
    let played = Played::new(&scene);
    let job = played.job(&scene);
    let session = SessionId::random().unwrap();
    let stream = Arc::new(played.accept(&job).expect("the job waits").stream);
    let carrier = Carrier::begin_on_node(stream, Limits::default(), session, soon()).unwrap();
    carrier.keep().unwrap();
    let (mut reader, writer) = stream::split(Socket::Carried(carrier)).unwrap();
    reader.set_timeout(Some(BOUND)).unwrap();
    assert_eq!(reader.read_frame().unwrap().kind, Kind::Hello);
    writer.write_frame(Kind::Welcome, 0, &[&welcome()]).unwrap();
    let handles = 8;
    for handle in 0..handles {
        let mut head = [0; size_of::<HandleHeader>()];
        head[..4].copy_from_slice(&(scene.job.pid() as u32).to_le_bytes());
        head[4] = HandleOp::Write as u8;
        head[8] = handle;
        head[16..24].fill(0xff);
        let id = u64::from(handle) + 1;
        writer
            .write_frame(Kind::Handle, id, &[&head, b"meddled"])
            .unwrap();
    }
    for _ in 0..handles {
        let reply = loop {
            let frame = reader.read_frame().unwrap();
            if frame.kind == Kind::HandleReply {
                break frame;
            }
        };
        let result = i64::from_le_bytes(*reply.payload.first_chunk().unwrap());
        assert!(result < 0, "{result}");
    }
    // Nor does it keep its own.
    drop(played);
    writer.shutdown();
    job.wait().expect_exit(125);
    scene.end();
}
