//! Requests that no kernel would send. The service must answer or ignore them, stay whole, and touch nothing outside of its
//! root.

use afield_abi::fuse::{
    AccessRequest, AllocateRequest, BatchForgetRequest, CopyRangeRequest, CreateRequest, FlushRequest,
    GetAttributesRequest, GetExtendedRequest, IoctlRequest, LinkRequest, LockRequest, MakeDirectoryRequest,
    MakeNodeRequest, Opcode, OpenRequest, PollRequest, ROOT_NODE, ReadRequest, ReleaseRequest,
    Rename2Request, RenameRequest, ReplyHeader, RequestHeader, SeekRequest, SetAttributesRequest,
    SetExtendedRequest, StatxRequest, SyncRequest, WriteRequest,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Client, Outcome, encode, z};

/// A well-formed request of every kind.
fn samples(client: &Client) -> Vec<Vec<u8>> {
    let (entry, open) = client.create(ROOT_NODE, "sample", 0o644, 0).unwrap();
    let (node, handle) = (entry.node, open.handle);
    let directory = client.open_directory(ROOT_NODE).unwrap().handle;
    let name = z("name");
    let two = z("sample");
    let read = ReadRequest {
        handle,
        size: 100,
        ..Default::default()
    };
    let list = ReadRequest {
        handle: directory,
        size: 4096,
        ..Default::default()
    };
    let write = WriteRequest {
        handle,
        size: 4,
        ..Default::default()
    };
    let set_extended = SetExtendedRequest {
        size: 4,
        ..Default::default()
    };
    let lock = LockRequest {
        handle,
        ..Default::default()
    };
    let release = ReleaseRequest {
        handle: 12345,
        ..Default::default()
    };
    let sync = SyncRequest {
        handle,
        ..Default::default()
    };
    let mut samples = Vec::new();
    for &opcode in Opcode::ALL {
        let (node, parts): (u64, Vec<&[u8]>) = match opcode {
            Opcode::Lookup | Opcode::Unlink | Opcode::RemoveDirectory => (ROOT_NODE, vec![&name]),
            Opcode::Forget => (node, vec![&[0; 8]]),
            Opcode::GetAttributes => (node, vec![&[0; size_of::<GetAttributesRequest>()]]),
            Opcode::SetAttributes => (node, vec![&[0; size_of::<SetAttributesRequest>()]]),
            Opcode::SymbolicLink => (ROOT_NODE, vec![&name, &two]),
            Opcode::MakeNode => (ROOT_NODE, vec![&[0; size_of::<MakeNodeRequest>()], &name]),
            Opcode::MakeDirectory => (ROOT_NODE, vec![&[0; size_of::<MakeDirectoryRequest>()], &name]),
            Opcode::Rename => (ROOT_NODE, vec![&[0; size_of::<RenameRequest>()], &two, &name]),
            Opcode::Rename2 => (ROOT_NODE, vec![&[0; size_of::<Rename2Request>()], &two, &name]),
            Opcode::Link => (ROOT_NODE, vec![&[0; size_of::<LinkRequest>()], &name]),
            Opcode::Open => (node, vec![&[0; size_of::<OpenRequest>()]]),
            Opcode::OpenDirectory => (ROOT_NODE, vec![&[0; size_of::<OpenRequest>()]]),
            Opcode::Read => (node, vec![read.as_bytes()]),
            Opcode::Write => (node, vec![write.as_bytes(), b"data"]),
            Opcode::Release | Opcode::ReleaseDirectory => (node, vec![release.as_bytes()]),
            Opcode::Sync | Opcode::SyncDirectory => (node, vec![sync.as_bytes()]),
            Opcode::SetExtended => (node, vec![set_extended.as_bytes(), b"user.x\0", b"data"]),
            Opcode::GetExtended => (node, vec![&[0; size_of::<GetExtendedRequest>()], b"user.x\0"]),
            Opcode::ListExtended => (node, vec![&[0; size_of::<GetExtendedRequest>()]]),
            Opcode::RemoveExtended => (node, vec![b"user.x\0"]),
            Opcode::Flush => (node, vec![&[0; size_of::<FlushRequest>()]]),
            Opcode::ReadDirectory | Opcode::ReadDirectoryPlus => (ROOT_NODE, vec![list.as_bytes()]),
            Opcode::GetLock | Opcode::SetLock | Opcode::SetLockWait => (node, vec![lock.as_bytes()]),
            Opcode::Access => (node, vec![&[0; size_of::<AccessRequest>()]]),
            Opcode::Create | Opcode::TemporaryFile => {
                (ROOT_NODE, vec![&[0; size_of::<CreateRequest>()], &name])
            }
            Opcode::Ioctl => (node, vec![&[0; size_of::<IoctlRequest>()]]),
            Opcode::Poll => (node, vec![&[0; size_of::<PollRequest>()]]),
            Opcode::BatchForget => (0, vec![&[0; size_of::<BatchForgetRequest>()], &[0; 48]]),
            Opcode::Allocate => (node, vec![&[0; size_of::<AllocateRequest>()]]),
            Opcode::Seek => (node, vec![&[0; size_of::<SeekRequest>()]]),
            Opcode::CopyRange | Opcode::CopyRange64 => (node, vec![&[0; size_of::<CopyRangeRequest>()]]),
            Opcode::Statx => (node, vec![&[0; size_of::<StatxRequest>()]]),
            _ => (node, vec![]),
        };
        samples.push(encode(opcode as u32, node, (client.uid, client.gid), &parts));
    }
    samples
}

/// Serves a request and checks that the outcome makes sense.
fn serve(client: &Client, request: &[u8]) {
    let mut reply = Vec::new();
    match client.service.handle(request, &mut reply) {
        Outcome::Reply | Outcome::Flush { .. } | Outcome::Directory { .. } => {
            let header = ReplyHeader::read_from_prefix(&reply).unwrap().0;
            assert_eq!(header.length as usize, reply.len());
            assert!(header.error <= 0);
            assert!(reply.len() <= super::super::DATA_BYTES_MAX + 4096);
        }
        Outcome::NoReply | Outcome::RecordLock { .. } | Outcome::Begins { .. } | Outcome::Wait(_) => {
            assert!(reply.is_empty());
        }
    }
}

#[test]
fn requests_cut_at_every_length() {
    let client = Client::new();
    for sample in samples(&client) {
        for cut in 0..sample.len() {
            // With the length that it had, and with one that fits.
            serve(&client, &sample[..cut]);
            if cut >= size_of::<RequestHeader>() {
                let mut fitting = sample[..cut].to_vec();
                fitting[..4].copy_from_slice(&(cut as u32).to_ne_bytes());
                serve(&client, &fitting);
            }
        }
        serve(&client, &sample);
    }
    client.attributes(ROOT_NODE).unwrap();
}

#[test]
fn random_changes_do_no_harm() {
    let client = Client::with_budget(4);
    let samples = samples(&client);
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..40_000 {
        let mut request = samples[random() as usize % samples.len()].clone();
        for _ in 0..1 + random() % 5 {
            let at = 4 + random() as usize % (request.len() - 4);
            // The caller's ids stay, so that the service does not act for a thousand users.
            if !(24..32).contains(&at) {
                request[at] = match random() % 3 {
                    0 => random() as u8,
                    1 => 0,
                    _ => random() as u8 % 16,
                };
            }
        }
        // Sizes and offsets may ask for a terabyte, which only costs time.
        let allocates = [Opcode::Allocate, Opcode::SyncFileSystem].map(|opcode| opcode as u32);
        if !allocates.contains(&u32::from_ne_bytes([
            request[4], request[5], request[6], request[7],
        ])) {
            serve(&client, &request);
        }
    }
    client.attributes(ROOT_NODE).unwrap();
    assert!(client.service.counts().2 < 2000);
}

#[test]
fn noise_is_answered_or_ignored() {
    let client = Client::new();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for round in 0..2000usize {
        let mut bytes = vec![0u8; round % 200];
        for byte in &mut bytes {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            *byte = (state >> 33) as u8;
        }
        serve(&client, &bytes);
    }
    let unknown = encode(4096, ROOT_NODE, (client.uid, client.gid), &[]);
    let mut reply = Vec::new();
    client.service.handle(&unknown, &mut reply);
    assert_eq!(
        ReplyHeader::read_from_prefix(&reply).unwrap().0.error,
        -libc::ENOSYS
    );
    for opcode in [Opcode::Init, Opcode::BlockMap] {
        assert_eq!(client.call(opcode, ROOT_NODE, &[&[0; 64]]), Err(libc::ENOSYS));
    }
}

#[test]
fn an_extension_is_not_part_of_the_body() {
    let client = Client::new();
    std::fs::write(client.path("f"), "").unwrap();
    let mut request = encode(
        Opcode::Lookup as u32,
        ROOT_NODE,
        (client.uid, client.gid),
        &[b"f\0", &[9; 8]],
    );
    let mut send = |extension: u16| {
        request[36..38].copy_from_slice(&extension.to_ne_bytes());
        let mut reply = Vec::new();
        client.service.handle(&request, &mut reply);
        ReplyHeader::read_from_prefix(&reply).unwrap().0.error
    };
    assert_eq!(send(1), 0);
    assert_eq!(send(2), -libc::EINVAL);
    assert_eq!(send(u16::MAX), -libc::EINVAL);
}
