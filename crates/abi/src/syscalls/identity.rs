//! Who the process is: users, groups, capabilities, and the machine's name.

use super::Arg::{In, InOut, Out, Value};
use super::Class::{Both, Home, Node};
use super::Len::{Argument, Fixed};
use super::{Row, call, nr};

/// `NGROUPS_MAX`.
const GROUPS_MAX: u32 = 65536;

/// `struct __user_cap_header_struct`.
const CAPABILITY_HEADER_BYTES: u32 = 8;
/// Two `struct __user_cap_data_struct`; programs that use the first version have one, and its memory's neighbour
/// makes the round trip unchanged.
const CAPABILITY_BYTES: u32 = 24;

pub(super) const ROWS: &[Row] = &[
    call(nr::GETUID, Node),
    call(nr::GETEUID, Node),
    call(nr::GETGID, Node),
    call(nr::GETEGID, Node),
    call(nr::GETRESUID, Node),
    call(nr::GETRESGID, Node),
    call(nr::SETUID, Both).shaped([Value]),
    call(nr::SETGID, Both).shaped([Value]),
    call(nr::SETREUID, Both).shaped([Value, Value]),
    call(nr::SETREGID, Both).shaped([Value, Value]),
    call(nr::SETRESUID, Both).shaped([Value, Value, Value]),
    call(nr::SETRESGID, Both).shaped([Value, Value, Value]),
    call(nr::SETFSUID, Both).shaped([Value]),
    call(nr::SETFSGID, Both).shaped([Value]),
    call(nr::GETGROUPS, Home).shaped([
        Value,
        // Only as many as there are get written.
        InOut(Argument {
            index: 0,
            unit: 4,
            max: GROUPS_MAX,
        }),
    ]),
    call(nr::SETGROUPS, Home).shaped([
        Value,
        In(Argument {
            index: 0,
            unit: 4,
            max: GROUPS_MAX,
        }),
    ]),
    call(nr::CAPGET, Home).shaped([
        InOut(Fixed(CAPABILITY_HEADER_BYTES)),
        InOut(Fixed(CAPABILITY_BYTES)),
    ]),
    call(nr::CAPSET, Home).shaped([InOut(Fixed(CAPABILITY_HEADER_BYTES)), In(Fixed(CAPABILITY_BYTES))]),
    call(nr::UNAME, Home).shaped([Out(Fixed(390))]),
    call(nr::SETHOSTNAME, Home).shaped([
        In(Argument {
            index: 1,
            unit: 1,
            max: 64,
        }),
        Value,
    ]),
    call(nr::SETDOMAINNAME, Home).shaped([
        In(Argument {
            index: 1,
            unit: 1,
            max: 64,
        }),
        Value,
    ]),
    call(nr::SYSINFO, Node).note("the node's memory and load"),
    call(nr::GETRANDOM, Node),
];
