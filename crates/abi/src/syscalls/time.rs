//! Clocks, timers and scheduling. Monotonic clocks of a world are aligned with home's.

use super::Arg::{In, Out, Value};
use super::Class::{Event, Home, Never, Node};
use super::Door::Notify;
use super::Len::Fixed;
use super::Test::Equal;
use super::{Row, call, nr, rule};

/// `struct itimerval`.
const TIMER_BYTES: u32 = 32;

const ITIMER_REAL: u32 = 0;

pub(super) const ROWS: &[Row] = &[
    call(nr::TIME, Node),
    call(nr::GETTIMEOFDAY, Node),
    call(nr::CLOCK_GETTIME, Node),
    call(nr::CLOCK_GETRES, Node),
    call(nr::CLOCK_NANOSLEEP, Node),
    call(nr::NANOSLEEP, Node),
    call(nr::ADJTIMEX, Node).note("reading; the node's kernel lets no guest change its clock"),
    call(nr::CLOCK_ADJTIME, Node).note("reading; the node's kernel lets no guest change its clock"),
    call(nr::SETTIMEOFDAY, Never(libc::EPERM)).note("as for any ordinary user"),
    call(nr::CLOCK_SETTIME, Never(libc::EPERM)).note("as for any ordinary user"),
    call(nr::ALARM, Home).shaped([Value]),
    call(nr::SETITIMER, Node)
        .rules(&[rule(0, Equal(ITIMER_REAL), Home, "which is ITIMER_REAL")])
        .shaped([Value, In(Fixed(TIMER_BYTES)), Out(Fixed(TIMER_BYTES))]),
    call(nr::GETITIMER, Node)
        .rules(&[rule(0, Equal(ITIMER_REAL), Home, "which is ITIMER_REAL")])
        .shaped([Value, Out(Fixed(TIMER_BYTES))]),
    call(nr::TIMER_CREATE, Node),
    call(nr::TIMER_SETTIME, Event(Notify)),
    call(nr::TIMER_GETTIME, Node),
    call(nr::TIMER_GETOVERRUN, Node),
    call(nr::TIMER_DELETE, Node),
    call(nr::SCHED_YIELD, Node),
    call(nr::SCHED_SETPARAM, Node).note("the node's CPUs"),
    call(nr::SCHED_GETPARAM, Node).note("the node's CPUs"),
    call(nr::SCHED_SETSCHEDULER, Node).note("the node's CPUs"),
    call(nr::SCHED_GETSCHEDULER, Node).note("the node's CPUs"),
    call(nr::SCHED_GET_PRIORITY_MAX, Node),
    call(nr::SCHED_GET_PRIORITY_MIN, Node),
    call(nr::SCHED_RR_GET_INTERVAL, Node).note("the node's CPUs"),
    call(nr::SCHED_SETAFFINITY, Node).note("the node's CPUs"),
    call(nr::SCHED_GETAFFINITY, Node).note("the node's CPUs"),
    call(nr::SCHED_SETATTR, Node).note("the node's CPUs"),
    call(nr::SCHED_GETATTR, Node).note("the node's CPUs"),
    call(nr::GETCPU, Node).note("the node's CPUs"),
];
