//! Contents that are in memory shared with the node.

use std::os::fd::AsFd;

use afield_abi::fuse::{
    Opcode, READ_SHARED, ROOT_NODE, ReadRequest, SharedReadReply, WriteReply, WriteRequest, write_flag,
};
use afield_link::sys::{AREA_BYTES, Area};
use zerocopy::{FromBytes, IntoBytes};

use super::Client;
use crate::files::Outcome;

const PLACE: usize = 3 << 16;

fn read(handle: u64, offset: u64, size: u32, place: u32) -> ReadRequest {
    ReadRequest {
        handle,
        offset,
        size,
        read_flags: READ_SHARED,
        place,
        ..ReadRequest::default()
    }
}

fn write(handle: u64, size: u32, flags: u32, place: u32) -> WriteRequest {
    WriteRequest {
        handle,
        size,
        write_flags: write_flag::SHARED | flags,
        place,
        ..WriteRequest::default()
    }
}

#[test]
fn what_is_read_and_written_is_there() {
    let memory = Area::create().unwrap();
    let client = Client::sharing(Area::map(memory.as_fd()).unwrap());
    let contents: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
    let (entry, open) = client.create(ROOT_NODE, "f", 0o644, 0).unwrap();
    rustix::io::pwrite(&memory, &contents, PLACE as u64).unwrap();
    let size = contents.len() as u32;
    let request = write(open.handle, size, 0, PLACE as u32);
    let reply: WriteReply = client
        .ask(Opcode::Write, entry.node, &[request.as_bytes()])
        .unwrap();
    assert_eq!(reply.size, size);
    assert_eq!(std::fs::read(client.path("f")).unwrap(), contents);
    // Beyond the end there is nothing to be read.
    let request = read(open.handle, 100, 1 << 20, 70_000);
    let body = client
        .call(Opcode::Read, entry.node, &[request.as_bytes()])
        .unwrap();
    let reply = SharedReadReply::read_from_bytes(&body).unwrap();
    assert_eq!(reply.size, size - 100);
    let mut bytes = vec![0; contents.len() - 100];
    rustix::io::pread(&memory, &mut bytes, 70_000).unwrap();
    assert_eq!(bytes, contents[100..]);
    // Behind, nobody answers.
    let request = write(open.handle, 10, write_flag::BEHIND, 70_000);
    let (outcome, _, _) = client.change(Opcode::Write, entry.node, &[request.as_bytes()]);
    assert!(matches!(outcome, Outcome::NoReply), "{outcome:?}");
    assert_eq!(std::fs::read(client.path("f")).unwrap()[..10], contents[100..110]);
    // A page of a mapped file ends with the file.
    let request = write(open.handle, size + 4096, write_flag::CACHE, PLACE as u32);
    let reply: WriteReply = client
        .ask(Opcode::Write, entry.node, &[request.as_bytes()])
        .unwrap();
    assert_eq!(reply.size, size + 4096);
    assert_eq!(
        std::fs::metadata(client.path("f")).unwrap().len(),
        u64::from(size)
    );
}

#[test]
fn nothing_outside_is_touched() {
    let memory = Area::create().unwrap();
    let client = Client::sharing(Area::map(memory.as_fd()).unwrap());
    let alone = Client::new();
    for client in [&client, &alone] {
        let (entry, open) = client.create(ROOT_NODE, "f", 0o644, 0).unwrap();
        client.write(entry.node, open.handle, 0, b"text", 0).unwrap();
        for (size, place) in [
            (4096, AREA_BYTES as u32),
            (4096, AREA_BYTES as u32 - 4095),
            (1, u32::MAX),
            (u32::MAX, AREA_BYTES as u32 - 4096),
        ] {
            let request = read(open.handle, 0, size, place);
            let result = client.call(Opcode::Read, entry.node, &[request.as_bytes()]);
            assert_eq!(result, Err(libc::EINVAL), "{size} {place}");
            let request = write(open.handle, size, 0, place);
            let result = client.call(Opcode::Write, entry.node, &[request.as_bytes()]);
            assert_eq!(result, Err(libc::EINVAL), "{size} {place}");
        }
        // What is there does not follow as well.
        let request = write(open.handle, 4, 0, 0);
        let result = client.call(Opcode::Write, entry.node, &[request.as_bytes(), b"more"]);
        assert_eq!(result, Err(libc::EINVAL));
        assert_eq!(std::fs::read(client.path("f")).unwrap(), b"text");
    }
    // Nothing is shared with this one.
    let (entry, open) = alone.create(ROOT_NODE, "g", 0o644, 0).unwrap();
    let request = read(open.handle, 0, 4096, 0);
    let result = alone.call(Opcode::Read, entry.node, &[request.as_bytes()]);
    assert_eq!(result, Err(libc::EINVAL));
}
