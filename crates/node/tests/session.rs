//! A session against a home that is nothing but this test: handshake, an empty world, refusals.

use std::os::unix::net::UnixStream;
use std::process::Command;

use afield_abi::fuse::{Attributes, AttributesReply, Opcode, ROOT_NODE, ReplyHeader, RequestHeader};
use afield_link::control::{HOME_INTERFACE, NODE_INTERFACE, NodeClient};
use afield_link::frame::{FILE_ID, Kind};
use afield_link::stream::{self, LinkError, Reader, Socket, Writer};
use afield_link::wire::{self, Hello, Spawn, Welcome};
use afield_rpc::endpoint::Endpoint;
use zerocopy::{FromBytes, IntoBytes};

/// Set in the process that is to be the session, to the descriptor of its link.
const SESSION: &str = "AFIELD_TEST_SESSION";

fn hello() -> Hello {
    Hello {
        protocol: afield_link::PROTOCOL,
        version: "test".into(),
        uid: 1000,
        gid: 1000,
        groups: vec![],
        uname: ["Linux", "home", "1", "1", "x86_64", ""].map(str::to_owned),
        monotonic_ns: 5_000_000_000,
        boottime_ns: 7_000_000_000,
        interfaces: vec![HOME_INTERFACE.offer()],
    }
}

/// Starts a session process: this test program again, at [`session_process`].
fn start() -> (std::process::Child, Reader, Writer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = rustix::io::dup(&theirs).unwrap();
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    use std::os::fd::AsRawFd;
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "session_process", "--test-threads=1", "--nocapture"])
        .env(SESSION, theirs.as_raw_fd().to_string())
        .spawn()
        .unwrap();
    // The byte that shared memory comes with, of which there is none here.
    assert_eq!(rustix::io::write(&ours, &[0]), Ok(1));
    let (reader, writer) = stream::split(Socket::Unix(ours)).unwrap();
    (child, reader, writer)
}

fn welcome(reader: &mut Reader) -> Welcome {
    let frame = reader.read_frame().unwrap();
    assert_eq!(frame.kind, Kind::Welcome);
    wire::decode(&frame.payload).unwrap()
}

/// Not a test by itself: the body of the session process. The test runner has threads, the session must have one, so it
/// is forked.
#[test]
fn session_process() {
    let Ok(number) = std::env::var(SESSION) else {
        return;
    };
    use std::os::fd::{FromRawFd, OwnedFd};
    // SAFETY: the parent left it open for us; the fork's child uses it alone, and only then.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let link = OwnedFd::from_raw_fd(number.parse().unwrap());
            let result = afield_node::session::serve_embedded(link);
            if let Err(error) = &result {
                eprintln!("session: {error}");
            }
            libc::_exit(i32::from(result.is_err()));
        }
        libc::close(number.parse().unwrap());
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        libc::_exit(libc::WEXITSTATUS(status));
    }
}

/// Answers a file request: the root is a directory that may be entered, every name is missing.
fn answer(request: &[u8]) -> Vec<u8> {
    let (header, _) = RequestHeader::read_from_prefix(request).unwrap();
    let attributes = AttributesReply {
        attributes: Attributes {
            inode: ROOT_NODE,
            mode: libc::S_IFDIR | 0o755,
            links: 2,
            ..Attributes::default()
        },
        ..AttributesReply::default()
    };
    let (error, body) = match Opcode::from_wire(header.opcode).unwrap() {
        Opcode::GetAttributes => (0, attributes.as_bytes()),
        Opcode::Access => (0, &[][..]),
        _ => (-libc::ENOENT, &[][..]),
    };
    let reply = ReplyHeader {
        length: (size_of::<ReplyHeader>() + body.len()) as u32,
        error,
        unique: header.unique,
    };
    [reply.as_bytes(), body].concat()
}

#[test]
fn an_empty_world_is_made_and_goes() {
    let (mut child, mut reader, writer) = start();
    writer
        .write_frame(Kind::Hello, 0, &[&wire::encode(&hello()).unwrap()])
        .unwrap();
    let welcome = welcome(&mut reader);
    assert_eq!(welcome.refusal, None);
    let spawn = Spawn {
        pid: 4321,
        program: b"/bin/true".to_vec(),
        arguments: vec![b"true".to_vec()],
        environment: vec![],
        directory: b"/".to_vec(),
        umask: 0o22,
        limits: vec![],
        ignored: 0,
        blocked: 0,
        ids: [1000; 6],
        descriptors: vec![],
    };
    let calls = Endpoint::new(writer.clone(), &[], &[&NODE_INTERFACE], &welcome.interfaces).unwrap();
    let node = NodeClient::new(calls.remote(0));
    let mut start = node.begin_start(spawn).unwrap();
    // This home has a root directory and nothing in it.
    let error = loop {
        let frame = reader.read_frame().unwrap();
        match frame.kind {
            Kind::File => {
                if frame.id & !FILE_ID != 0 {
                    writer
                        .write_frame(Kind::FileReply, frame.id, &[&answer(&frame.payload)])
                        .unwrap();
                }
            }
            Kind::Control => {
                assert!(calls.receive(&frame.payload).unwrap().is_none());
                if let Some(result) = start.poll() {
                    break result.unwrap().unwrap_err();
                }
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((error.step.as_str(), error.errno), ("execve", libc::ENOENT));
    writer.shutdown();
    assert!(child.wait().unwrap().success());
}

#[test]
fn another_version_is_refused() {
    let (mut child, mut reader, writer) = start();
    let other = Hello {
        protocol: afield_link::PROTOCOL + 1,
        ..hello()
    };
    writer
        .write_frame(Kind::Hello, 0, &[&wire::encode(&other).unwrap()])
        .unwrap();
    let refusal = welcome(&mut reader).refusal.unwrap();
    let theirs = format!("protocol {}", other.protocol);
    assert!(refusal.contains(&theirs), "{refusal}");
    assert!(!child.wait().unwrap().success());
}

#[test]
fn another_interface_is_refused() {
    let (mut child, mut reader, writer) = start();
    let mut other = hello();
    other.interfaces[0].version += 1;
    writer
        .write_frame(Kind::Hello, 0, &[&wire::encode(&other).unwrap()])
        .unwrap();
    let refusal = welcome(&mut reader).refusal.unwrap();
    assert!(
        refusal.contains("the other side has version 2 of interface afield.home, this side needs version 1"),
        "{refusal}"
    );
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_peer_that_sends_garbage_is_left() {
    use std::io::Write;
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    drop(ours);
    let (mut child, mut reader, writer) = start();
    // A frame of a kind that no home begins with.
    writer.write_frame(Kind::FileReply, 3, &[b"noise"]).unwrap();
    assert!(matches!(
        reader.read_frame(),
        Err(LinkError::Closed | LinkError::Io(_))
    ));
    assert!(!child.wait().unwrap().success());
    std::io::stderr().flush().unwrap();
}
