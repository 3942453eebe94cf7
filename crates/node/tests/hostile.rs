//! Homes that do not behave, against real sessions: each attack ends its own session with an error, and never otherwise.

mod common;

use std::time::{Duration, Instant};

use afield_link::control::{NODE_INTERFACE, NodeClient};
use afield_link::frame::{FILE_ID, Kind, encode_head};
use afield_link::stream::{LinkError, Reader, Writer};
use afield_link::wire::{self, Welcome};
use afield_rpc::endpoint::{Connection, Endpoint, Remote};
use afield_rpc::envelope::Envelope;

use common::{answer, hello, session_in_this_process, spawn, start, welcome};

/// The session's process, see [`common`].
#[test]
fn session_process() {
    session_in_this_process();
}

struct Attacked {
    child: std::process::Child,
    reader: Reader,
    writer: Writer,
    welcome: Welcome,
}

impl Attacked {
    fn new() -> Self {
        let (child, mut reader, writer) = start();
        writer
            .write_frame(Kind::Hello, 0, &[&wire::encode(&hello()).unwrap()])
            .unwrap();
        let welcome = welcome(&mut reader);
        assert_eq!(welcome.refusal, None);
        reader.set_timeout(Some(Duration::from_secs(20))).unwrap();
        Self {
            child,
            reader,
            writer,
            welcome,
        }
    }

    fn node(&self) -> NodeClient<Remote<Writer>> {
        let imports = [&NODE_INTERFACE];
        let calls = Endpoint::new(self.writer.clone(), &[], &imports, &self.welcome.interfaces).unwrap();
        NodeClient::new(calls.remote(0))
    }

    /// The link is closed, and the session ended with an error: not by a panic, nor by a signal.
    fn expect_end(mut self, what: &str) {
        let error = loop {
            if let Err(error) = self.reader.read_frame() {
                break error;
            }
        };
        if matches!(&error, LinkError::Io(error) if error.kind() == std::io::ErrorKind::WouldBlock) {
            self.writer.shutdown();
            panic!("{what}: the link stays open");
        }
        let status = self.child.wait().unwrap();
        assert_eq!(status.code(), Some(1), "{what}: {status:?}");
    }
}

#[test]
fn a_hostile_home_loses_its_session_and_no_more() {
    // A well-behaved home's session, which must not notice.
    let mut other = Attacked::new();

    type Attack = fn(&Attacked);
    let attacks: [(&str, Attack); 12] = [
        ("a second hello", |it| {
            let again = wire::encode(&hello()).unwrap();
            it.writer.write_frame(Kind::Hello, 0, &[&again]).unwrap();
        }),
        ("a call, which only nodes make", |it| {
            it.writer.write_frame(Kind::Call, 1, &[&[0; 72]]).unwrap();
        }),
        ("a file request, which only nodes make", |it| {
            it.writer.write_frame(Kind::File, FILE_ID, &[&[0; 40]]).unwrap();
        }),
        ("a short file reply", |it| {
            it.writer.write_frame(Kind::FileReply, FILE_ID, &[b"x"]).unwrap();
        }),
        ("a short reply to an operation", |it| {
            it.writer
                .write_frame(Kind::HandleReply, FILE_ID | 1, &[b"x"])
                .unwrap();
        }),
        ("noise in place of a call", |it| {
            it.writer.write_frame(Kind::Control, 0, &[&[0xff; 40]]).unwrap();
        }),
        ("a call of an operation that there is not", |it| {
            let message = Envelope::Request {
                binding: 0,
                number: 1,
                floor: 1,
                operation: 999,
                arguments: &[],
            };
            it.writer.send(&message.encode()).unwrap();
        }),
        ("a call under a binding that there is not", |it| {
            let message = Envelope::Notice {
                binding: 7,
                number: 1,
                operation: 2,
                arguments: &[1],
            };
            it.writer.send(&message.encode()).unwrap();
        }),
        ("arguments that are others", |it| {
            let message = Envelope::Notice {
                binding: 0,
                number: 1,
                operation: 1,
                arguments: &[0xff, 0xff, 0xff],
            };
            it.writer.send(&message.encode()).unwrap();
        }),
        ("a call that comes again", |it| {
            let message = Envelope::Notice {
                binding: 0,
                number: 1,
                operation: 2,
                arguments: &[5],
            };
            for _ in 0..2 {
                it.writer.send(&message.encode()).unwrap();
            }
        }),
        ("a siginfo that is none", |it| {
            it.node().signal(4321, vec![1; 127]).unwrap();
        }),
        ("a binding where there is nothing to bind", |it| {
            let message = Envelope::Bind {
                client: 1,
                epoch: 1,
                name: "afield.node",
                version: 1,
            };
            it.writer.send(&message.encode()).unwrap();
        }),
    ];
    for (what, attack) in attacks {
        let attacked = Attacked::new();
        attack(&attacked);
        attacked.expect_end(what);
    }
    // A home that says nothing true about pids it does not have hurts nobody.
    let node = other.node();
    for pid in [0, 1, 2, u32::MAX, i32::MAX as u32, std::process::id()] {
        node.kill(pid).unwrap();
        node.hold(pid).unwrap();
        node.release(pid).unwrap();
        node.priority(pid, -20).unwrap();
        node.ready(pid, u64::MAX, u32::MAX, 1).unwrap();
        node.signal(pid, vec![9; 128]).unwrap();
    }
    other.expect_start_of("execve");
}

impl Attacked {
    /// The session still does what it is for: with this home's empty tree, that a program is not found.
    fn expect_start_of(&mut self, step: &str) {
        let imports = [&NODE_INTERFACE];
        // Numbers go on where the client above has left off.
        let calls = Endpoint::new(self.writer.clone(), &[], &imports, &self.welcome.interfaces).unwrap();
        let node = NodeClient::new(calls.remote(0));
        let mut started = node.begin_start(spawn()).unwrap();
        let error = loop {
            let frame = self.reader.read_frame().unwrap();
            match frame.kind {
                Kind::File if frame.id & !FILE_ID != 0 => {
                    let reply = answer(&frame.payload);
                    self.writer
                        .write_frame(Kind::FileReply, frame.id, &[&reply])
                        .unwrap();
                }
                Kind::Control => {
                    calls.receive(&frame.payload).unwrap();
                    if let Some(result) = started.poll() {
                        break result.unwrap().unwrap_err();
                    }
                }
                _ => {}
            }
        };
        assert_eq!(error.step, step);
        self.writer.shutdown();
        assert!(self.child.wait().unwrap().success());
    }
}

#[test]
fn an_announced_length_is_bounded() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    let (mut raw, child) = common::start_raw();
    let mut head = encode_head(Kind::Hello, 0, 0).unwrap();
    head[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    raw.write_all(&head).unwrap();
    let closed = |mut raw: UnixStream| {
        use std::io::Read;
        raw.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        matches!(raw.read(&mut [0; 16]), Ok(0))
    };
    assert!(closed(raw));
    let mut child = child;
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

/// Replies to the requests of a real kernel, damaged: the session goes on or ends, but it does not panic.
#[test]
fn damaged_file_replies() {
    let seconds = std::env::var("AFIELD_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(4));
    let mut random = afield_fuzz::Random::new(3);
    let (mut sessions, mut damaged) = (0, 0);
    while Instant::now() < end {
        let mut it = Attacked::new();
        it.reader.set_timeout(Some(Duration::from_millis(300))).unwrap();
        let node = it.node();
        let started = node.begin_start(spawn()).unwrap();
        sessions += 1;
        let mut left = 200;
        while let Ok(frame) = it.reader.read_frame() {
            left -= 1;
            if left == 0 {
                break;
            }
            if frame.kind != Kind::File || frame.id & !FILE_ID == 0 {
                continue;
            }
            let mut reply = answer(&frame.payload);
            if random.below(3) == 0 {
                afield_fuzz::mutate(&mut random, &mut reply, &[]);
                damaged += 1;
            }
            if it
                .writer
                .write_frame(Kind::FileReply, frame.id, &[&reply])
                .is_err()
            {
                break;
            }
        }
        it.writer.shutdown();
        std::mem::forget(started);
        let status = it.child.wait().unwrap();
        assert!(
            matches!(status.code(), Some(0 | 1)),
            "session {sessions}: {status:?}"
        );
    }
    assert!(damaged > 0);
}
