//! Processes: how they begin and end, who is whose, their limits.

use super::Arg::{Fd, In, InOut, Out, Value};
use super::Class::{Both, Event, Home, Never, Node};
use super::Door::{Notify, Trace};
use super::Len::Fixed;
use super::Test::{Any, Equal, MaskSet};
use super::{Restart, Row, call, nr, rule};

/// `struct rusage`.
const RUSAGE_BYTES: u32 = 144;
/// `siginfo_t`.
const SIGINFO_BYTES: u32 = 128;
/// `struct rlimit64`.
const RLIMIT_BYTES: u32 = 16;

/// `waitid` by process descriptor.
const P_PIDFD: u32 = 3;

/// Flags of `clone` that make namespaces. (`CLONE_NEWTIME` lies where `clone` has its signal, and only `clone3` knows it.)
const CLONE_NEW: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// What a filter of the tracer's own goes by: a sixth argument, which `seccomp` does not have.
pub const TRACERS_FILTER: u32 = 0x6166_6c64;

/// Limits on what only home can count or grant. That of files' size is in force at both ends.
pub const HOME_LIMITS: &[u32] = &[libc::RLIMIT_NPROC, libc::RLIMIT_NICE, libc::RLIMIT_FSIZE];

pub(super) const ROWS: &[Row] = &[
    call(nr::FORK, Event(Trace)),
    call(nr::VFORK, Event(Trace)),
    call(nr::CLONE, Event(Trace))
        .rules(&[
            rule(0, MaskSet(CLONE_NEW), Event(Trace), "flags ask for a namespace"),
            rule(
                0,
                MaskSet(libc::CLONE_THREAD as u32),
                Node,
                "flags have CLONE_THREAD",
            ),
        ])
        .note("threads are the node's"),
    call(nr::CLONE3, Event(Trace)).note("threads go on to the node's kernel"),
    call(nr::EXIT, Node),
    call(nr::EXIT_GROUP, Node),
    call(nr::WAIT4, Home)
        // Status and usage are written only if a child is reported.
        .shaped([Value, InOut(Fixed(4)), Value, InOut(Fixed(RUSAGE_BYTES))])
        .blocks(Restart::Restart),
    call(nr::WAITID, Home)
        // Padding of the information is left alone.
        .shaped([
            Value,
            Value,
            InOut(Fixed(SIGINFO_BYTES)),
            Value,
            InOut(Fixed(RUSAGE_BYTES)),
        ])
        .rules(&[rule(0, Equal(P_PIDFD), Home, "idtype is P_PIDFD").shaped([
            Value,
            Fd,
            InOut(Fixed(SIGINFO_BYTES)),
            Value,
            InOut(Fixed(RUSAGE_BYTES)),
        ])])
        .blocks(Restart::Restart)
        .note("a process descriptor of the node's (`CLONE_PIDFD`) is turned into its pid there"),
    call(nr::GETPID, Node).note("the same number at home and on the node"),
    call(nr::GETTID, Node),
    call(nr::SET_TID_ADDRESS, Node),
    call(nr::GETPPID, Home),
    call(nr::GETPGID, Home).shaped([Value]),
    call(nr::GETPGRP, Home),
    call(nr::GETSID, Home).shaped([Value]),
    call(nr::SETSID, Home),
    // The third is the session's own: the target has executed a program.
    call(nr::VHANGUP, Home).note("the terminal is home's"),
    call(nr::SETPGID, Home).shaped([Value, Value, Value]),
    call(nr::PIDFD_OPEN, Home)
        .shaped([Value, Value])
        .opens(Some(1), true),
    call(nr::PIDFD_SEND_SIGNAL, Home)
        .shaped([Fd, Value, In(Fixed(SIGINFO_BYTES)), Value])
        .note("by a process descriptor of the node's (`CLONE_PIDFD`) the node's kernel"),
    call(nr::PIDFD_GETFD, Never(libc::EPERM)).note("as where tracing is restricted"),
    call(nr::KCMP, Never(libc::ENOSYS)).note("kernel objects are partly home's and partly the node's"),
    call(nr::PTRACE, Never(libc::EPERM)).note("a guest is traced by afield already"),
    call(nr::PRCTL, Node).rules(&[
        rule(
            0,
            Equal(libc::PR_SET_NAME as u32),
            Event(Notify),
            "option is PR_SET_NAME",
        ),
        rule(
            0,
            Any(&[libc::PR_SET_PDEATHSIG as u32, libc::PR_SET_CHILD_SUBREAPER as u32]),
            Home,
            "option is PR_SET_PDEATHSIG or PR_SET_CHILD_SUBREAPER",
        )
        .shaped([Value, Value, Value, Value, Value]),
        rule(
            0,
            Any(&[libc::PR_GET_PDEATHSIG as u32, libc::PR_GET_CHILD_SUBREAPER as u32]),
            Home,
            "option is PR_GET_PDEATHSIG or PR_GET_CHILD_SUBREAPER",
        )
        .shaped([Value, Out(Fixed(4)), Value, Value, Value]),
        rule(
            0,
            Any(&[
                libc::PR_GET_KEEPCAPS as u32,
                libc::PR_SET_KEEPCAPS as u32,
                libc::PR_CAPBSET_READ as u32,
                libc::PR_CAPBSET_DROP as u32,
                libc::PR_GET_SECUREBITS as u32,
                libc::PR_SET_SECUREBITS as u32,
                libc::PR_CAP_AMBIENT as u32,
                libc::PR_GET_NO_NEW_PRIVS as u32,
            ]),
            Home,
            "option is about capabilities, or PR_GET_NO_NEW_PRIVS",
        )
        .shaped([Value, Value, Value, Value, Value]),
        rule(0, Equal(libc::PR_SET_SECCOMP as u32), Both, "option is PR_SET_SECCOMP").shaped([Value, Value]),
        rule(
            0,
            Equal(libc::PR_SET_NO_NEW_PRIVS as u32),
            Both,
            "option is PR_SET_NO_NEW_PRIVS",
        )
        .shaped([Value, Value, Value, Value, Value]),
    ]),
    call(nr::PERSONALITY, Both)
        .rules(&[rule(0, Equal(u32::MAX), Node, "it only asks")])
        .shaped([Value])
        .note("home's `uname` depends on it"),
    call(nr::GETRLIMIT, Node)
        .rules(&[rule(
            0,
            Any(HOME_LIMITS),
            Home,
            "resource is RLIMIT_NPROC, RLIMIT_NICE or RLIMIT_FSIZE",
        )])
        .shaped([Value, Out(Fixed(RLIMIT_BYTES))]),
    call(nr::SETRLIMIT, Node)
        .rules(&[rule(
            0,
            Any(HOME_LIMITS),
            Home,
            "resource is RLIMIT_NPROC, RLIMIT_NICE or RLIMIT_FSIZE",
        )])
        .shaped([Value, In(Fixed(RLIMIT_BYTES))]),
    call(nr::PRLIMIT64, Home)
        .rules(&[
            rule(
                1,
                Any(HOME_LIMITS),
                Home,
                "resource is RLIMIT_NPROC, RLIMIT_NICE or RLIMIT_FSIZE",
            ),
            rule(0, Equal(0), Node, "pid is 0"),
        ])
        .shaped([Value, Value, In(Fixed(RLIMIT_BYTES)), Out(Fixed(RLIMIT_BYTES))]),
    call(nr::GETRUSAGE, Node)
        .rules(&[rule(
            0,
            Equal(libc::RUSAGE_CHILDREN as u32),
            Home,
            "who is RUSAGE_CHILDREN",
        )])
        .shaped([Value, Out(Fixed(RUSAGE_BYTES))]),
    call(nr::TIMES, Home).shaped([Out(Fixed(32))]),
    call(nr::GETPRIORITY, Home).shaped([Value, Value]),
    call(nr::SETPRIORITY, Home).shaped([Value, Value, Value]),
    call(nr::IOPRIO_GET, Home).shaped([Value, Value]),
    call(nr::IOPRIO_SET, Home).shaped([Value, Value, Value]),
    call(nr::SECCOMP, Node)
        .rules(&[
            rule(
                5,
                Equal(TRACERS_FILTER),
                Node,
                "the tracer has a thread make the call",
            ),
            rule(
                0,
                Equal(libc::SECCOMP_SET_MODE_FILTER),
                Both,
                "operation is SECCOMP_SET_MODE_FILTER",
            )
            .shaped([Value]),
        ])
        .note("home is asked whether the process may; the stricter of the guest's filter and the world's decides"),
    call(nr::RESTART_SYSCALL, Node),
];
