//! Clocks, timers and scheduling. Monotonic clocks of a world are aligned with home's.

use super::Class::{Event, Never, Node};
use super::Door::Notify;
use super::{Row, call, nr};

/// Why arming a timer is an event.
const TIMERS: &str = "the node's; noted, since its signal may have to interrupt a call at home";

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
    call(nr::ALARM, Event(Notify)).note(TIMERS),
    call(nr::SETITIMER, Event(Notify)).note(TIMERS),
    call(nr::GETITIMER, Node),
    call(nr::TIMER_CREATE, Node),
    call(nr::TIMER_SETTIME, Event(Notify)).note(TIMERS),
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
    call(nr::SCHED_SETAFFINITY, Event(Notify)).note("the node's CPUs, as far as it lends them"),
    call(nr::SCHED_GETAFFINITY, Node).note("the node's CPUs"),
    call(nr::SCHED_SETATTR, Node).note("the node's CPUs"),
    call(nr::SCHED_GETATTR, Node).note("the node's CPUs"),
    call(nr::GETCPU, Node).note("the node's CPUs"),
];
