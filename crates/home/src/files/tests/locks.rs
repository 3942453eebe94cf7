//! Locks.

use std::os::fd::AsRawFd;

use afield_abi::fuse::{
    FileLock, FlushRequest, LOCK_FLOCK, LockReply, LockRequest, Opcode, ROOT_NODE, ReleaseRequest,
    ReplyHeader, release_flag,
};
use rustix::fs::FlockOperation;
use zerocopy::IntoBytes;

use super::super::{LOCK_DESCRIPTION, LockKind, Outcome, get_lock_reply, status_reply};
use super::{Client, record};

fn request(handle: u64, kind: i32, flags: u32) -> LockRequest {
    LockRequest {
        handle,
        owner: 5,
        lock: FileLock {
            start: 10,
            end: 19,
            kind: kind as u32,
            pid: 1,
        },
        flags,
        padding: 0,
    }
}

fn lock(client: &Client, opcode: Opcode, node: u64, request: LockRequest) -> (Outcome, Result<Vec<u8>, i32>) {
    client.send(opcode, node, &[request.as_bytes()])
}

#[test]
fn flock_belongs_to_the_open_file() {
    let client = Client::new();
    let (entry, first) = client.create(ROOT_NODE, "f", 0o644, 0).unwrap();
    let second = client.open(entry.node, libc::O_RDWR).unwrap();
    let flock = |handle, kind, opcode| lock(&client, opcode, entry.node, request(handle, kind, LOCK_FLOCK));
    flock(first.handle, libc::F_WRLCK, Opcode::SetLock).1.unwrap();
    let at_home = std::fs::File::open(client.path("f")).unwrap();
    assert_eq!(
        rustix::fs::flock(&at_home, FlockOperation::NonBlockingLockShared),
        Err(rustix::io::Errno::AGAIN)
    );
    assert_eq!(
        flock(second.handle, libc::F_RDLCK, Opcode::SetLock).1,
        Err(libc::EAGAIN)
    );
    let (Outcome::Wait(wait), _) = flock(second.handle, libc::F_RDLCK, Opcode::SetLockWait) else {
        panic!("it cannot be had");
    };
    assert_eq!(wait.unique(), 77);
    let waiting = std::thread::spawn(move || {
        let mut reply = Vec::new();
        wait.run(&mut reply);
        reply
    });
    let release = ReleaseRequest {
        handle: first.handle,
        release_flags: release_flag::FLOCK_UNLOCK,
        ..Default::default()
    };
    client.with(Opcode::Release, entry.node, &release).unwrap();
    let reply: ReplyHeader = record(&waiting.join().unwrap());
    assert_eq!((reply.error, reply.unique), (0, 77));
    rustix::fs::flock(&at_home, FlockOperation::NonBlockingLockShared).unwrap();
    flock(second.handle, libc::F_UNLCK, Opcode::SetLock).1.unwrap();
    assert_eq!(flock(second.handle, 77, Opcode::SetLock).1, Err(libc::EINVAL));
}

#[test]
fn record_locks_go_to_the_deputy() {
    let client = Client::new();
    let (entry, open) = client.create(ROOT_NODE, "f", 0o644, 0).unwrap();
    for (opcode, expected) in [
        (Opcode::GetLock, LockKind::Get),
        (Opcode::SetLock, LockKind::Set),
        (Opcode::SetLockWait, LockKind::SetWait),
    ] {
        let (outcome, _) = lock(
            &client,
            opcode,
            entry.node,
            request(open.handle, libc::F_WRLCK, 0),
        );
        let Outcome::RecordLock {
            unique,
            pid,
            owner,
            node,
            descriptor,
            kind,
            lock,
        } = outcome
        else {
            panic!("a record lock");
        };
        assert_eq!((unique, pid, owner), (77, std::process::id(), 5));
        assert_eq!((node, kind), (entry.node, expected));
        assert_eq!((lock.l_start, lock.l_len), (10, 10));
        assert_eq!(i32::from(lock.l_type), libc::F_WRLCK);
        assert!(descriptor.as_raw_fd() >= 0);
    }
    let mut odd = request(open.handle, libc::F_WRLCK, 0);
    odd.lock.end = 3;
    assert_eq!(
        lock(&client, Opcode::SetLock, entry.node, odd).1,
        Err(libc::EINVAL)
    );
    odd.lock.end = u64::MAX;
    assert_eq!(
        lock(&client, Opcode::SetLock, entry.node, odd).1,
        Err(libc::EINVAL)
    );
    let flush = FlushRequest {
        handle: open.handle,
        lock_owner: 5,
        ..Default::default()
    };
    let (outcome, reply) = client.send(Opcode::Flush, entry.node, &[flush.as_bytes()]);
    reply.unwrap();
    assert!(matches!(outcome, Outcome::Flush { owner: 5, node, .. } if node == entry.node));
}

#[test]
fn locks_of_descriptions_are_the_services() {
    let client = Client::new();
    let (entry, first) = client.create(ROOT_NODE, "f", 0o644, 0).unwrap();
    let second = client.open(entry.node, libc::O_RDWR).unwrap();
    let ask = |handle, kind, opcode| {
        lock(
            &client,
            opcode,
            entry.node,
            request(handle, kind, LOCK_DESCRIPTION),
        )
    };
    ask(first.handle, libc::F_WRLCK, Opcode::SetLock).1.unwrap();
    assert_eq!(
        ask(second.handle, libc::F_WRLCK, Opcode::SetLock).1,
        Err(libc::EAGAIN)
    );
    let found: LockReply = record(&ask(second.handle, libc::F_WRLCK, Opcode::GetLock).1.unwrap());
    assert_eq!((found.lock.start, found.lock.end), (10, 19));
    assert_eq!(found.lock.kind, libc::F_WRLCK as u32);
    let (Outcome::Wait(wait), _) = ask(second.handle, libc::F_WRLCK, Opcode::SetLockWait) else {
        panic!("it cannot be had");
    };
    client.release(entry.node, first.handle);
    let mut reply = Vec::new();
    wait.run(&mut reply);
    assert_eq!(record::<ReplyHeader>(&reply).error, 0);
}

#[test]
fn replies_for_deputies() {
    let lock = libc::flock {
        l_type: libc::F_RDLCK as i16,
        l_whence: 0,
        l_start: 100,
        l_len: 0,
        l_pid: 42,
    };
    let bytes = get_lock_reply(9, &lock);
    let header: ReplyHeader = record(&bytes);
    let reply: LockReply = record(&bytes[size_of::<ReplyHeader>()..]);
    assert_eq!((header.unique, header.length as usize), (9, bytes.len()));
    assert_eq!((reply.lock.start, reply.lock.end), (100, i64::MAX as u64));
    assert_eq!(reply.lock.pid, 42);
    let header: ReplyHeader = record(&status_reply(9, libc::EAGAIN));
    assert_eq!((header.error, header.length), (-libc::EAGAIN, 16));
}
