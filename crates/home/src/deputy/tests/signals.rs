//! Signals, stops and deaths.

use afield_abi::syscalls::nr;

use super::*;

#[test]
fn signals_come_before_what_is_said_later() {
    let mut deputy = Fake::start(&[]);
    // By now it blocks them.
    deputy.simple(nr::GETPPID, [0; 6]);
    for round in 0..500 {
        let signal = [libc::SIGUSR1, libc::SIGTERM, libc::SIGINT, libc::SIGRTMIN() + 4][round % 4];
        process::kill(deputy.pid, signal).unwrap();
        let id = deputy.call(nr::GETPPID, [0; 6], &[]);
        // SI_USER of the test.
        assert_eq!(deputy.signal(), (signal, 0, std::process::id()));
        assert_eq!(deputy.call_answer(id).0, i64::from(std::process::id()));
    }
}

#[test]
fn a_signal_to_oneself_is_there_when_the_call_returns() {
    let mut deputy = Fake::start(&[]);
    let pid = u64::from(deputy.pid);
    for _ in 0..200 {
        let id = deputy.call(nr::KILL, [pid, libc::SIGHUP as u64, 0, 0, 0, 0], &[]);
        assert_eq!(deputy.signal(), (libc::SIGHUP, 0, deputy.pid));
        assert_eq!(deputy.call_answer(id).0, 0);
        let id = deputy.call(nr::TGKILL, [pid, pid, libc::SIGUSR2 as u64, 0, 0, 0], &[]);
        assert_eq!(deputy.signal(), (libc::SIGUSR2, -6, deputy.pid));
        assert_eq!(deputy.call_answer(id).0, 0);
    }
}

#[test]
fn it_dies_as_the_guest_did() {
    for status in [
        0,
        42 << 8,
        libc::SIGKILL,
        libc::SIGTERM,
        libc::SIGSEGV,
        libc::SIGABRT,
        libc::SIGPIPE,
        libc::SIGRTMIN() + 1,
    ] {
        let deputy = Fake::start(&[]);
        assert_eq!(deputy.exit(status), status);
    }
}

#[test]
fn it_stops_and_goes_on() {
    let mut deputy = Fake::start(&[]);
    // Not in the test's group, which may be an orphaned one, but one that has a parent in its session.
    assert_eq!(deputy.simple(nr::SETPGID, [0; 6]), 0);
    for signal in [libc::SIGTSTP, libc::SIGSTOP, libc::SIGTTIN, libc::SIGTTOU] {
        deputy.tell(
            &ToDeputy::Stop {
                signal: signal as u32,
            },
            None,
        );
        let mut status = 0;
        eventually("it stops", || {
            status = stopped_status(deputy.pid);
            status != 0
        });
        assert_eq!((libc::WIFSTOPPED(status), libc::WSTOPSIG(status)), (true, signal));
        process::kill(deputy.pid, libc::SIGCONT).unwrap();
        let mut continued = false;
        let mut released = false;
        while !(continued && released) {
            match deputy.message() {
                (_, FromDeputy::Signal(info)) => {
                    assert_eq!(info[..4], libc::SIGCONT.to_le_bytes());
                    continued = true;
                }
                (_, FromDeputy::Released) => released = true,
                other => panic!("{other:?}"),
            }
        }
    }
    // A stop that home's kernel does not allow comes back at once.
    let mut orphan = deputy.fork();
    assert!(orphan.simple(nr::SETSID, [0; 6]) > 0);
    orphan.tell(
        &ToDeputy::Stop {
            signal: libc::SIGTSTP as u32,
        },
        None,
    );
    assert!(matches!(orphan.message(), (_, FromDeputy::Released)));
}

fn stopped_status(pid: u32) -> i32 {
    rustix::process::waitpid(
        rustix::process::Pid::from_raw(pid as i32),
        rustix::process::WaitOptions::UNTRACED | rustix::process::WaitOptions::NOHANG,
    )
    .unwrap()
    .map_or(0, |(_, status)| status.as_raw())
}

#[test]
fn ignored_children_leave_no_zombies() {
    let mut deputy = Fake::start(&[]);
    let mut action = [0u8; 32];
    action[0] = libc::SIG_IGN as u8;
    let child_signal = libc::SIGCHLD as u64;
    let id = deputy.call(
        nr::RT_SIGACTION,
        [child_signal, 1, 0, 8, 0, 0],
        &[input(1, &action)],
    );
    assert_eq!(deputy.call_answer(id).0, 0);
    let mut child = deputy.fork();
    child.tell(&ToDeputy::Exit { status: 0 }, None);
    let id = deputy.call(nr::WAIT4, [-1i64 as u64, 0, 0, 0, 0, 0], &[]);
    assert_eq!(deputy.call_answer(id).0, -i64::from(libc::ECHILD));
    // A handler with SA_NOCLDWAIT: a signal, but no zombie.
    let mut action = [0u8; 32];
    action[..8].copy_from_slice(&0x1234_5678u64.to_le_bytes());
    action[8..16].copy_from_slice(&(libc::SA_NOCLDWAIT as u64).to_le_bytes());
    let id = deputy.call(
        nr::RT_SIGACTION,
        [child_signal, 1, 0, 8, 0, 0],
        &[input(1, &action)],
    );
    assert_eq!(deputy.call_answer(id).0, 0);
    let mut child = deputy.fork();
    child.tell(&ToDeputy::Exit { status: 0 }, None);
    assert_eq!(deputy.signal().0, libc::SIGCHLD);
    let id = deputy.call(nr::WAIT4, [-1i64 as u64, 0, 0, 0, 0, 0], &[]);
    assert_eq!(deputy.call_answer(id).0, -i64::from(libc::ECHILD));
}
