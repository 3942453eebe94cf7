//! Nodes that do not behave.

use std::io::{ErrorKind, Read as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use afield_e2e::Running;
use afield_link::carrier::Carrier;
use afield_link::control::NODE_INTERFACE;
use afield_link::frame::Kind;
use afield_link::preamble::{Answer, PREAMBLE_BYTES, SessionId};
use afield_link::resume::Limits;
use afield_link::resume::greeting::Greeting;
use afield_link::resume::proof::Secret;
use afield_link::secure::{self, Identity, SecureStream};
use afield_link::stream::{self, Socket};
use afield_link::wire::{self, HandleHeader, HandleOp, Welcome};

use super::raw::{Raw, attacks, whole};
use super::{BOUND, Scene, soon};

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
        file_systems: 1,
        interfaces: vec![NODE_INTERFACE.offer()],
    };
    wire::encode(&welcome).unwrap()
}

#[test]
fn break_the_links_rules() {
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
            raw.expect_more();
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
fn meddle_with_others() {
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
