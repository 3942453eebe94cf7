//! A session against a home that is nothing but this test: handshake, an empty world, refusals.

mod common;

use std::os::unix::net::UnixStream;

use afield_link::control::{NODE_INTERFACE, NodeClient};
use afield_link::frame::{FILE_ID, Kind};
use afield_link::stream::LinkError;
use afield_link::wire::{self, Hello};
use afield_rpc::endpoint::Endpoint;

use common::{answer, hello, session_in_this_process, spawn, start, welcome};

/// The session's process, see [`common`].
#[test]
fn session_process() {
    session_in_this_process();
}

#[test]
fn an_empty_world_is_made_and_goes() {
    let (mut child, mut reader, writer) = start();
    writer
        .write_frame(Kind::Hello, 0, &[&wire::encode(&hello()).unwrap()])
        .unwrap();
    let welcome = welcome(&mut reader);
    assert_eq!(welcome.refusal, None);
    let calls = Endpoint::new(writer.clone(), &[], &[&NODE_INTERFACE], &welcome.interfaces).unwrap();
    let node = NodeClient::new(calls.remote(0));
    let mut start = node.begin_start(spawn()).unwrap();
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
        refusal.contains("the other side has version 4 of interface afield.home, this side needs version 3"),
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
