//! Signals: home is the authority on who may signal whom; delivery, masks and handlers are the node's.

use super::Arg::{In, None, Value};
use super::Class::{Both, Event, Home, Node};
use super::Door::{Notify, Trace};
use super::Len::Fixed;
use super::Test::Any;
use super::{Row, call, nr, rule};

/// Signals whose disposition home's kernel looks at: whether children become zombies, and whether a background
/// process may use its terminal.
const HOME_SIGNALS: &[u32] = &[
    libc::SIGCHLD as u32,
    libc::SIGTSTP as u32,
    libc::SIGTTIN as u32,
    libc::SIGTTOU as u32,
];

/// Where a thread is signalled.
const THREADS: &str = "on the node if it is a guest's, otherwise at home";

pub(super) const ROWS: &[Row] = &[
    call(nr::RT_SIGACTION, Node)
        .rules(&[rule(
            0,
            Any(HOME_SIGNALS),
            Both,
            "signum is SIGCHLD, SIGTSTP, SIGTTIN or SIGTTOU",
        )])
        // The old action is the node's to tell.
        .shaped([Value, In(Fixed(32)), None, Value]),
    call(nr::RT_SIGPROCMASK, Node),
    call(nr::RT_SIGRETURN, Node),
    call(nr::RT_SIGPENDING, Node),
    call(nr::RT_SIGTIMEDWAIT, Event(Trace)).note("who sent the signal is put right"),
    call(nr::RT_SIGSUSPEND, Node),
    call(nr::SIGALTSTACK, Node),
    call(nr::PAUSE, Node),
    call(nr::KILL, Home).shaped([Value, Value]),
    call(nr::RT_SIGQUEUEINFO, Home).shaped([Value, Value, In(Fixed(128))]),
    call(nr::TKILL, Event(Notify))
        .shaped([Value, Value])
        .note(THREADS),
    call(nr::TGKILL, Event(Notify))
        .shaped([Value, Value, Value])
        .note(THREADS),
    call(nr::RT_TGSIGQUEUEINFO, Event(Notify))
        .shaped([Value, Value, Value, In(Fixed(128))])
        .note(THREADS),
];
