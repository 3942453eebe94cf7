//! Forks, names, descriptors.

use std::collections::BTreeMap;

use afield_abi::syscalls::nr;

use super::*;

#[test]
fn a_fork_is_a_child_with_the_same_objects() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut parent = Fake::start(&[&reader, &writer]);
    let mut child = parent.fork();
    assert_ne!(child.pid, parent.pid);
    assert_eq!(child.simple(nr::GETPPID, [0; 6]), i64::from(parent.pid));
    let id = parent.operate(HandleOp::Write, 2, (-1, 0, 0), 0, b"to the child");
    assert_eq!(parent.operation_answer(id).0, 12);
    let id = child.operate(HandleOp::Read, 1, (-1, 0, 100), 0, &[]);
    assert_eq!(child.operation_answer(id), (12, b"to the child".to_vec()));
    // Closing in one leaves the other's.
    child.operate(HandleOp::Close, 1, (0, 0, 0), 0, &[]);
    let id = child.operate(HandleOp::Read, 1, (-1, 0, 100), 0, &[]);
    assert_eq!(child.operation_answer(id).0, -i64::from(libc::EBADF));
    let id = parent.operate(HandleOp::Read, 1, (-1, 0, 100), libc::O_NONBLOCK, &[]);
    assert_eq!(parent.operation_answer(id).0, -i64::from(libc::EAGAIN));
}

#[test]
fn generations_and_descriptors_do_not_pile_up() {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut deputy = Fake::start(&[&reader, &writer]);
    // By now it has closed what it does not need.
    deputy.simple(nr::GETPPID, [0; 6]);
    let first = deputy.descriptors();
    assert_eq!(first.len(), 4, "two objects, channel, signals: {first:?}");
    let mut line = Vec::new();
    for _ in 0..60 {
        // Something waits in the parent while it forks.
        deputy.operate(HandleOp::Read, 1, (-1, 0, 10), 0, &[]);
        let child = deputy.fork();
        let parent = std::mem::replace(&mut deputy, child);
        assert_eq!(deputy.simple(nr::GETPPID, [0; 6]), i64::from(parent.pid));
        line.push(parent);
    }
    let last = deputy.descriptors();
    assert_eq!(last.len(), 4, "{last:?}");
    // Objects stay where they are; the others are new, and out of a guest's way.
    let apart = |of: BTreeMap<i32, String>| -> (BTreeMap<_, _>, BTreeMap<_, _>) {
        of.into_iter().partition(|(_, what)| what.starts_with("pipe:"))
    };
    let ((objects, _), (same, own)) = (apart(first), apart(last));
    assert_eq!(objects.len(), 2, "{objects:?}");
    assert_eq!(objects, same);
    assert!(own.keys().all(|&number| number >= 220), "{own:?}");
    let process = format!("/proc/{}/smaps_rollup", deputy.pid);
    let memory = std::fs::read_to_string(process).unwrap();
    let private = memory
        .lines()
        .find_map(|line| line.strip_prefix("Private_Dirty:"))
        .unwrap();
    let kib: u64 = private.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 1536, "{kib} KiB");
    for member in &line {
        let _ = process::kill(member.pid, libc::SIGKILL);
    }
    let _ = process::kill(deputy.pid, libc::SIGKILL);
}

#[test]
fn forks_of_other_kinds() {
    let mut parent = Fake::start(&[]);
    // No signal for the parent: only __WALL or __WCLONE finds it.
    let mut child = parent.fork_as(0, false);
    assert_eq!(child.simple(nr::GETPPID, [0; 6]), i64::from(parent.pid));
    // It works on like any other, with workers and children of its own.
    let grandchild = child.fork();
    let id = child.call(nr::WAIT4, [-1i64 as u64, 0, 0, 0, 0, 0], &[]);
    process::kill(grandchild.pid, libc::SIGKILL).unwrap();
    loop {
        if let Said::Call {
            id: answered, result, ..
        } = child.hear()
        {
            assert_eq!((answered, result), (id, i64::from(grandchild.pid)));
            break;
        }
    }
    child.tell(&ToDeputy::Exit { status: 0 }, None);
    let all = libc::__WALL as u32 as u64;
    let id = parent.call(nr::WAIT4, [-1i64 as u64, 0, all, 0, 0, 0], &[]);
    assert!(matches!(parent.message(), (_, FromDeputy::Reaped { .. })));
    assert_eq!(parent.call_answer(id).0, i64::from(child.pid));
    // A sibling is the test's child.
    let mut sibling = parent.fork_as(libc::SIGCHLD as u32, true);
    assert_eq!(sibling.simple(nr::GETPPID, [0; 6]), i64::from(std::process::id()));
    assert_eq!(sibling.exit(5 << 8), 5 << 8);
}

/// A fork that is taken back leaves nothing: no signal, no zombie, no answer to somebody who waits.
#[test]
fn an_unfork_is_not_seen() {
    let mut parent = Fake::start(&[]);
    let mut kept = parent.fork();
    let any = -1i64 as u64;
    let waiting = parent.call(nr::WAIT4, [any, 0, 0, 0, 0, 0], &[]);
    // A channel that ends is the end of its deputy, too.
    let mut channels = Vec::new();
    for _ in 0..200 {
        let child = parent.fork();
        parent.tell(&ToDeputy::Unfork { pid: child.pid }, None);
        channels.push(child);
    }
    // Nothing was said but this.
    assert_eq!(parent.simple(nr::GETPPID, [0; 6]), i64::from(std::process::id()));
    kept.tell(&ToDeputy::Exit { status: 0 }, None);
    loop {
        match parent.hear() {
            Said::Call { id, result, .. } => {
                assert_eq!((id, result), (waiting, i64::from(kept.pid)));
                break;
            }
            Said::Message {
                message: FromDeputy::Signal(info),
                ..
            } => assert_eq!(info[16..20], kept.pid.to_le_bytes()),
            Said::Message {
                message: FromDeputy::Reaped { pid },
                ..
            } => assert_eq!(pid, kept.pid),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn forks_race_with_waiting_and_cancelling() {
    let mut deputy = Fake::start(&[]);
    let keep = deputy.fork();
    let arguments = [u64::from(keep.pid), 0, 0, 0, 0, 0];
    let mut channels = Vec::new();
    for round in 0..300u32 {
        let waiting = deputy.call(nr::WAIT4, arguments, &[]);
        let signal = if round % 2 == 0 { libc::SIGCHLD as u32 } else { 0 };
        let mut child = deputy.fork_as(signal, false);
        // The child has nothing of the parent's calls.
        let own = child.call(nr::WAIT4, arguments, &[]);
        assert_eq!(child.call_answer(own).0, -i64::from(libc::ECHILD));
        deputy.cancel(waiting);
        assert_eq!(deputy.call_answer(waiting).0, -i64::from(libc::EINTR));
        deputy.tell(&ToDeputy::Unfork { pid: child.pid }, None);
        channels.push(child);
    }
}

#[test]
fn it_has_the_guests_name() {
    let mut deputy = Fake::start(&[]);
    let long = [b"a-long-program-name\0".as_slice(), &[b'x'; 9000], b"\0"].concat();
    for (name, arguments) in [
        (&b"cc1"[..], &b"/usr/lib/cc1\0-O2\0x.c\0"[..]),
        (b"a-long-program-", &long),
        (b"sh", b"sh\0"),
    ] {
        deputy.tell(
            &ToDeputy::Exec {
                name: name.to_vec(),
                arguments: arguments.to_vec(),
            },
            None,
        );
        deputy.simple(nr::GETPPID, [0; 6]);
        let read = |file: &str| std::fs::read(format!("/proc/{}/{file}", deputy.pid)).unwrap();
        assert_eq!(read("comm").trim_ascii_end(), name);
        assert_eq!(read("cmdline"), arguments);
    }
    let mut child = deputy.fork();
    child.tell(&ToDeputy::Name(b"thread".to_vec()), None);
    child.simple(nr::GETPPID, [0; 6]);
    let read = |pid: u32, file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
    assert_eq!(read(child.pid, "comm").trim_ascii_end(), b"thread");
    assert_eq!(read(child.pid, "cmdline"), b"sh\0");
    assert_eq!(read(deputy.pid, "comm").trim_ascii_end(), b"sh");
}

#[test]
fn it_ends_with_its_agent() {
    let mut deputy = Fake::start(&[]);
    let (other, _) = UnixStream::pair().unwrap();
    let pid = deputy.pid;
    deputy.channel = other.into();
    deputy.is_child = false;
    assert_eq!(process::reap(pid), Some(125 << 8));
}
