//! Forwarded calls, waiting, cancelling.

use afield_abi::syscalls::nr;
use afield_link::wire::Usage;

use super::*;

const EINTR: i64 = -(libc::EINTR as i64);

#[test]
fn calls_are_made_in_the_deputy() {
    let mut deputy = Fake::start(&[]);
    assert_eq!(deputy.simple(nr::GETPPID, [0; 6]), i64::from(std::process::id()));
    let id = deputy.call(nr::UNAME, [0; 6], &[output(0, 390)]);
    let (result, bytes) = deputy.call_answer(id);
    assert_eq!((result, bytes.len()), (0, 390));
    assert!(bytes.starts_with(b"Linux\0"));
    // Not home's, not as the table says, and unknown: answered, and told.
    for (number, buffers, errno) in [
        (nr::OPENAT, vec![], libc::EINVAL),
        (nr::UNAME, vec![output(0, 391)], libc::EFAULT),
        (99_999, vec![], libc::EINVAL),
    ] {
        let id = deputy.call(number, [0; 6], &buffers);
        assert!(matches!(deputy.message(), (_, FromDeputy::Log(_))));
        assert_eq!(deputy.call_answer(id), (-i64::from(errno), vec![]));
    }
}

#[test]
fn a_child_is_waited_for_with_what_its_guest_used() {
    let mut parent = Fake::start(&[]);
    let mut child = parent.fork();
    let usage = Usage {
        user_us: 1_500_000,
        system_us: 250_000,
        resident_kib_max: 777,
        faults: (5, 6),
        switches: (7, 8),
    };
    let any = -1i64 as u64;
    // Nothing yet, and asked not to wait.
    let id = parent.call(
        nr::WAIT4,
        [any, 1, libc::WNOHANG as u64, 0, 0, 0],
        &[in_out(1, &[9; 4])],
    );
    assert_eq!(parent.call_answer(id), (0, vec![9; 4]));
    let id = parent.call(
        nr::WAIT4,
        [any, 1, 0, 1, 0, 0],
        &[in_out(1, &[0; 4]), in_out(3, &[0; 144])],
    );
    // Others go on meanwhile.
    assert_eq!(parent.simple(nr::GETPPID, [0; 6]), i64::from(std::process::id()));
    parent.tell(
        &ToDeputy::ChildUsage {
            pid: child.pid,
            usage,
        },
        None,
    );
    child.tell(&ToDeputy::Exit { status: 7 << 8 }, None);
    let mut signalled = false;
    let (result, bytes) = loop {
        match parent.hear() {
            Said::Call {
                id: answered,
                result,
                output,
            } => {
                assert_eq!(answered, id);
                break (result, output);
            }
            Said::Message {
                message: FromDeputy::Signal(_),
                ..
            } => signalled = true,
            Said::Message {
                message: FromDeputy::Reaped { pid },
                ..
            } => assert_eq!(pid, child.pid),
            other => panic!("{other:?}"),
        }
    };
    assert!(signalled, "SIGCHLD comes before the answer");
    assert_eq!(result, i64::from(child.pid));
    assert_eq!(bytes[..4], (7i32 << 8).to_le_bytes());
    let word = |at: usize| u64::from_le_bytes(bytes[4 + at..12 + at].try_into().unwrap());
    assert_eq!(
        [word(0), word(8), word(16), word(24), word(32)],
        [1, 500_000, 0, 250_000, 777]
    );
    let children = libc::RUSAGE_CHILDREN as u32 as u64;
    let id = parent.call(nr::GETRUSAGE, [children, 1, 0, 0, 0, 0], &[output(1, 144)]);
    let (_, sum) = parent.call_answer(id);
    assert_eq!(sum[..], bytes[4..]);
    let id = parent.call(nr::TIMES, [1, 0, 0, 0, 0, 0], &[output(0, 32)]);
    let (_, times) = parent.call_answer(id);
    assert_eq!(times[16..24], 150u64.to_le_bytes());
}

#[test]
fn waitid_reports_and_leaves_alone() {
    let mut parent = Fake::start(&[]);
    let mut child = parent.fork();
    child.tell(&ToDeputy::Exit { status: 3 << 8 }, None);
    assert_eq!(parent.signal().0, libc::SIGCHLD);
    let all = libc::P_ALL as u64;
    let options = (libc::WEXITED | libc::WNOWAIT) as u64;
    let id = parent.call(nr::WAITID, [all, 0, 1, options, 0, 0], &[in_out(2, &[0; 128])]);
    let (result, info) = parent.call_answer(id);
    assert_eq!(result, 0);
    assert_eq!(info[16..20], child.pid.to_le_bytes());
    assert_eq!(info[24..28], 3i32.to_le_bytes());
    let options = libc::WEXITED as u64;
    let id = parent.call(nr::WAITID, [all, 0, 0, options, 0, 0], &[]);
    assert!(matches!(parent.message(), (_, FromDeputy::Reaped { .. })));
    assert_eq!(parent.call_answer(id), (0, vec![]));
    let id = parent.call(nr::WAITID, [all, 0, 0, options, 0, 0], &[]);
    assert_eq!(parent.call_answer(id).0, -i64::from(libc::ECHILD));
}

/// However a cancellation falls relative to the call's beginning and end, the call is answered, once.
#[test]
fn cancelled_calls_are_answered_once() {
    let mut deputy = Fake::start(&[]);
    let child = deputy.fork();
    for round in 0..4000u64 {
        let id = deputy.call(
            nr::WAIT4,
            [u64::from(child.pid), 1, 0, 0, 0, 0],
            &[in_out(1, &[0; 4])],
        );
        for _ in 0..(round % 50) * 40 {
            std::hint::spin_loop();
        }
        if round % 3 == 0 {
            // Of something unknown: without effect.
            deputy.cancel(id + 1000);
        }
        deputy.cancel(id);
        assert_eq!(deputy.call_answer(id), (EINTR, vec![]));
        // Too late: without effect.
        deputy.cancel(id);
    }
    assert_eq!(deputy.simple(nr::GETPPID, [0; 6]), i64::from(std::process::id()));
}

#[test]
fn many_calls_wait_at_once() {
    let mut deputy = Fake::start(&[]);
    let child = deputy.fork();
    let arguments = [u64::from(child.pid), 0, 0, 0, 0, 0];
    let mut waiting: Vec<u64> = (0..100).map(|_| deputy.call(nr::WAIT4, arguments, &[])).collect();
    for id in waiting.iter().rev().step_by(2) {
        deputy.cancel(*id);
    }
    for _ in 0..50 {
        match deputy.hear() {
            Said::Call { id, result, .. } => {
                assert_eq!(result, EINTR);
                let at = waiting.iter().position(|&wanted| wanted == id).unwrap();
                waiting.remove(at);
            }
            other => panic!("{other:?}"),
        }
    }
    process::kill(child.pid, libc::SIGKILL).unwrap();
    let mut reaped = 0;
    while !waiting.is_empty() {
        if let Said::Call { id, result, .. } = deputy.hear() {
            let at = waiting.iter().position(|&wanted| wanted == id).unwrap();
            waiting.remove(at);
            if result == i64::from(child.pid) {
                reaped += 1;
            } else {
                assert_eq!(result, -i64::from(libc::ECHILD));
            }
        }
    }
    assert_eq!(reaped, 1);
}

#[test]
fn groups_and_limits_are_the_deputys() {
    let mut deputy = Fake::start(&[]);
    assert_eq!(deputy.simple(nr::SETPGID, [0; 6]), 0);
    assert_eq!(deputy.simple(nr::GETPGRP, [0; 6]), i64::from(deputy.pid));
    let limit: Vec<u8> = [5000u64, 6000].iter().flat_map(|n| n.to_le_bytes()).collect();
    let processes = libc::RLIMIT_NPROC as u64;
    let id = deputy.call(nr::PRLIMIT64, [0, processes, 1, 0, 0, 0], &[input(2, &limit)]);
    assert_eq!(deputy.call_answer(id).0, 0);
    let id = deputy.call(nr::GETRLIMIT, [processes, 1, 0, 0, 0, 0], &[output(1, 16)]);
    assert_eq!(deputy.call_answer(id), (0, limit));
    assert_eq!(deputy.simple(nr::SETSID, [0; 6]), -i64::from(libc::EPERM));
}
