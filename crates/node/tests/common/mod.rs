//! Real sessions for tests that are their homes.

// Each test program uses some of it.
#![allow(dead_code)]

use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use afield_abi::fuse::{Attributes, AttributesReply, Opcode, ROOT_NODE, ReplyHeader, RequestHeader};
use afield_link::control::HOME_INTERFACE;
use afield_link::frame::Kind;
use afield_link::stream::{self, Reader, Socket, Writer};
use afield_link::wire::{self, Hello, Spawn, Welcome};
use zerocopy::{FromBytes, IntoBytes};

/// Set in the process that is to be the session, to the descriptor of its link.
const SESSION: &str = "AFIELD_TEST_SESSION";

pub fn hello() -> Hello {
    Hello {
        protocol: afield_link::PROTOCOL,
        version: "test".into(),
        uid: 1000,
        gid: 1000,
        groups: vec![],
        uname: ["Linux", "home", "1", "1", "x86_64", ""].map(str::to_owned),
        monotonic_ns: 5_000_000_000,
        boottime_ns: 7_000_000_000,
        home: 1,
        epoch: 1,
        mounts: vec![],
        interfaces: vec![HOME_INTERFACE.offer()],
    }
}

/// Starts a session process: this test program again, at its test `session_process`.
pub fn start() -> (Child, Reader, Writer) {
    let (ours, child) = start_raw();
    let (reader, writer) = stream::split(Socket::Unix(ours)).unwrap();
    (child, reader, writer)
}

/// The same, with the link as it is.
pub fn start_raw() -> (UnixStream, Child) {
    use std::os::fd::AsRawFd;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let theirs = rustix::io::dup(&theirs).unwrap();
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "session_process", "--test-threads=1", "--nocapture"])
        .env(SESSION, theirs.as_raw_fd().to_string())
        .spawn()
        .unwrap();
    // The bytes that shared memory and the hatch come with, of which there are none here.
    assert_eq!(rustix::io::write(&ours, &[0, 0]), Ok(2));
    (ours, child)
}

pub fn welcome(reader: &mut Reader) -> Welcome {
    let frame = reader.read_frame().unwrap();
    assert_eq!(frame.kind, Kind::Welcome);
    wire::decode(&frame.payload).unwrap()
}

/// The body of the session process. The test runner has threads, the session must have one, so it
/// is forked.
pub fn session_in_this_process() {
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
pub fn answer(request: &[u8]) -> Vec<u8> {
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

/// A program to start.
pub fn spawn() -> Spawn {
    Spawn {
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
    }
}
