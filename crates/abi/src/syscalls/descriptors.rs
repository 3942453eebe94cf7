//! Descriptors, the node's own objects behind them (pipes, events, private sockets), and input and output.

use super::Class::{Event, File, Never, Node};
use super::Door::{Notify, Trace};
use super::Test::{Any, Equal};
use super::{Row, call, nr, rule};

/// Commands that the session has to see: the node's kernel would answer some by itself (`FIONREAD`, `FIONBIO`, `FIOASYNC`), some
/// have an argument that is not what their number says (`TIOCSIG`).
const COMMANDS: &[u32] = &[
    libc::FIONREAD as u32,
    libc::FIONBIO as u32,
    libc::FIOASYNC as u32,
    libc::TIOCSIG as u32,
];

/// Why making a signal descriptor is an event.
const SIGNALS: &str =
    "the node's; from then on the process's reads are looked at, to put right who sent a signal";

pub(super) const ROWS: &[Row] = &[
    call(nr::READ, File),
    call(nr::WRITE, File),
    call(nr::READV, File),
    call(nr::WRITEV, File),
    call(nr::PREAD64, File),
    call(nr::PWRITE64, File),
    call(nr::PREADV, File),
    call(nr::PWRITEV, File),
    call(nr::PREADV2, File),
    call(nr::PWRITEV2, File),
    call(nr::SENDFILE, File),
    call(nr::SPLICE, File),
    call(nr::TEE, Node),
    call(nr::VMSPLICE, Node),
    call(nr::CLOSE, Node),
    call(nr::CLOSE_RANGE, Node),
    call(nr::DUP, Node),
    call(nr::DUP2, Node),
    call(nr::DUP3, Node),
    call(nr::FCNTL, File)
        .rules(&[
            rule(1, Equal(libc::F_SETFL as u32), Event(Notify), "cmd is F_SETFL"),
            rule(
                1,
                Equal(libc::F_NOTIFY as u32),
                Never(libc::EINVAL),
                "cmd is F_NOTIFY",
            ),
            rule(
                1,
                Equal(libc::F_SETLEASE as u32),
                Never(libc::EINVAL),
                "cmd is F_SETLEASE",
            ),
        ])
        .note("locks are home's; open-file flags of home objects are passed on"),
    call(nr::IOCTL, File)
        .rules(&[rule(
            1,
            Any(COMMANDS),
            Event(Notify),
            "request is FIONREAD, FIONBIO, FIOASYNC or TIOCSIG",
        )])
        .note("on home objects by the deputy"),
    call(nr::POLL, Node),
    call(nr::PPOLL, Node),
    call(nr::SELECT, Node),
    call(nr::PSELECT6, Node),
    call(nr::EPOLL_CREATE, Node),
    call(nr::EPOLL_CREATE1, Node),
    call(nr::EPOLL_CTL, Node)
        .rules(&[rule(
            1,
            Equal(libc::EPOLL_CTL_ADD as u32),
            Event(Notify),
            "op is EPOLL_CTL_ADD",
        )])
        .note("files of home that are always ready are refused, as natively"),
    call(nr::EPOLL_WAIT, Node),
    call(nr::EPOLL_PWAIT, Node),
    call(nr::EPOLL_PWAIT2, Node),
    call(nr::PIPE, Node),
    call(nr::PIPE2, Node),
    call(nr::EVENTFD, Node),
    call(nr::EVENTFD2, Node),
    call(nr::SIGNALFD, Event(Trace)).note(SIGNALS),
    call(nr::SIGNALFD4, Event(Trace)).note(SIGNALS),
    call(nr::TIMERFD_CREATE, Node),
    call(nr::TIMERFD_SETTIME, Node),
    call(nr::TIMERFD_GETTIME, Node),
    call(nr::IO_SETUP, Node),
    call(nr::IO_DESTROY, Node),
    call(nr::IO_SUBMIT, File),
    call(nr::IO_CANCEL, Node),
    call(nr::IO_GETEVENTS, Node),
    call(nr::IO_PGETEVENTS, Node),
    call(nr::SOCKETPAIR, Never(libc::EAFNOSUPPORT))
        .rules(&[rule(0, Equal(libc::AF_UNIX as u32), Node, "family is AF_UNIX")])
        .note("pairs of local sockets are private"),
    call(nr::SENDTO, Node).note("private sockets"),
    call(nr::RECVFROM, Node).note("private sockets"),
    call(nr::SENDMSG, Node).note("private sockets"),
    call(nr::RECVMSG, Node).note("private sockets"),
    call(nr::SENDMMSG, Node).note("private sockets"),
    call(nr::RECVMMSG, Node).note("private sockets"),
    call(nr::SHUTDOWN, Node).note("private sockets"),
    call(nr::GETSOCKNAME, Node).note("private sockets"),
    call(nr::GETPEERNAME, Node).note("private sockets"),
    call(nr::SETSOCKOPT, Node).note("private sockets"),
    call(nr::GETSOCKOPT, Node).note("private sockets"),
    call(nr::SOCKET, Never(libc::EAFNOSUPPORT)).note("until home's sockets are supported"),
    call(nr::BIND, Never(libc::EOPNOTSUPP)).note("until home's sockets are supported"),
    call(nr::CONNECT, Never(libc::EOPNOTSUPP)).note("until home's sockets are supported"),
    call(nr::LISTEN, Never(libc::EOPNOTSUPP)).note("until home's sockets are supported"),
    call(nr::ACCEPT, Never(libc::EOPNOTSUPP)).note("until home's sockets are supported"),
    call(nr::ACCEPT4, Never(libc::EOPNOTSUPP)).note("until home's sockets are supported"),
    call(nr::IO_URING_SETUP, Never(libc::ENOSYS))
        .note("its calls would pass the filter by; programs fall back"),
    call(nr::IO_URING_ENTER, Never(libc::ENOSYS)).note("as `io_uring_setup`"),
    call(nr::IO_URING_REGISTER, Never(libc::ENOSYS)).note("as `io_uring_setup`"),
];
