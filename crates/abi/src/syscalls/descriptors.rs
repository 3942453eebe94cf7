//! Descriptors, the node's own objects behind them (pipes, events, private sockets), and input and output.

use super::Arg::{Fd, In, InOut, Out, String, Value};
use super::Class::{Event, File, Home, Never, Node};
use super::Door::{Notify, Trace};
use super::Len::{Argument, Fixed, Pointee};
use super::Test::{Any, Equal};
use super::{Len, Restart, Row, call, nr, rule};

/// Commands that the session has to see: the node's kernel would answer some by itself (`FIONREAD`, `FIONBIO`, `FIOASYNC`), some
/// have an argument that is not what their number says (`TIOCSIG`) or has a pointer in it (`SIOCGIFCONF`).
const COMMANDS: &[u32] = &[
    libc::FIONREAD as u32,
    libc::FIONBIO as u32,
    libc::FIOASYNC as u32,
    libc::TIOCSIG as u32,
    libc::SIOCGIFCONF as u32,
];
/// `FS_IOC_SETFLAGS`, whose argument is an `int` whatever its number says.
pub const SET_FILE_FLAGS: u32 = 0x4008_6602;
/// `FS_IOC_FSSETXATTR`, with a `struct fsxattr`.
pub const SET_FILE_ATTRIBUTES: u32 = 0x401c_5820;
/// `F_SETSIG`, `F_GETSIG`, `F_SETOWN_EX` and `F_GETOWN_EX`.
const OWNER_COMMANDS: &[u32] = &[libc::F_SETOWN as u32, libc::F_GETOWN as u32, 10, 11, 15, 16];

/// An address that is passed in. The kernel refuses longer ones than `sockaddr_storage`.
const ADDRESS: Len = Argument {
    index: 2,
    unit: 1,
    max: 128,
};
/// Room for an address, as its length argument says.
const ADDRESS_ROOM: Len = Pointee { index: 2, max: 128 };

/// Longest socket option.
pub const OPTION_BYTES_MAX: u32 = 256 << 10;

const PRIVATE: &str = "on private sockets the node's";
const MESSAGES: &str = "on home's sockets by the deputy, on private ones the node's";
const OPTIONS: &str = "on private sockets the node's; options whose value has pointers fail with ENOPROTOOPT, but for packet filters";
const DUPLICATES: &str = "noted, so that the last descriptor's closing is known";

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
    call(nr::SPLICE, Event(Notify))
        .note("what comes from a home object does not go through the node's cache"),
    call(nr::TEE, Node),
    call(nr::VMSPLICE, Node),
    call(nr::CLOSE, Node),
    call(nr::CLOSE_RANGE, Node),
    call(nr::DUP, Event(Notify)).note(DUPLICATES),
    call(nr::DUP2, Event(Notify)).note(DUPLICATES),
    call(nr::DUP3, Event(Notify)).note(DUPLICATES),
    call(nr::FCNTL, File)
        .rules(&[
            rule(1, Equal(libc::F_SETFL as u32), Event(Notify), "cmd is F_SETFL"),
            rule(
                1,
                Any(&[libc::F_DUPFD as u32, libc::F_DUPFD_CLOEXEC as u32]),
                Event(Notify),
                "cmd is F_DUPFD or F_DUPFD_CLOEXEC",
            ),
            rule(
                1,
                Any(OWNER_COMMANDS),
                Event(Notify),
                "cmd is about the receiver of signals",
            ),
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
        .rules(&[
            rule(
                1,
                Any(COMMANDS),
                Event(Notify),
                "request is FIONREAD, FIONBIO, FIOASYNC, TIOCSIG or SIOCGIFCONF",
            ),
            rule(1, Equal(libc::TIOCGPTPEER as u32), Home, "request is TIOCGPTPEER")
                .shaped([Fd, Value, Value]),
            rule(
                1,
                Equal(SET_FILE_FLAGS),
                Event(Notify),
                "request is FS_IOC_SETFLAGS",
            )
            .shaped([String, Value, In(Fixed(4))]),
            rule(
                1,
                Equal(SET_FILE_ATTRIBUTES),
                Event(Notify),
                "request is FS_IOC_FSSETXATTR",
            )
            .shaped([String, Value, In(Fixed(28))]),
        ])
        .opens(Some(2), false)
        .note("on home objects by the deputy; a privileged user's flags of files by the deputy"),
    call(nr::POLL, Node),
    call(nr::PPOLL, Node),
    call(nr::SELECT, Node),
    call(nr::PSELECT6, Node),
    call(nr::EPOLL_CREATE, Node),
    call(nr::EPOLL_CREATE1, Node),
    call(nr::EPOLL_CTL, Node)
        .rules(&[rule(
            1,
            Any(&[libc::EPOLL_CTL_ADD as u32, libc::EPOLL_CTL_MOD as u32]),
            Event(Notify),
            "op is EPOLL_CTL_ADD or EPOLL_CTL_MOD",
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
    call(nr::SOCKETPAIR, Never(libc::EOPNOTSUPP))
        .rules(&[rule(0, Equal(libc::AF_UNIX as u32), Node, "family is AF_UNIX")])
        .note("pairs of local sockets are private; no other family has pairs"),
    call(nr::SOCKET, Home)
        .shaped([Value, Value, Value])
        .opens(Some(1), false)
        .note("sockets are home's"),
    call(nr::BIND, Home)
        .shaped([Fd, In(ADDRESS), Value])
        .note(PRIVATE),
    call(nr::CONNECT, Home)
        .shaped([Fd, In(ADDRESS), Value])
        .blocks(Restart::Restart)
        .note(PRIVATE),
    call(nr::LISTEN, Home).shaped([Fd, Value]).note(PRIVATE),
    call(nr::ACCEPT, Home)
        .shaped([Fd, Out(ADDRESS_ROOM), InOut(Fixed(4))])
        .blocks(Restart::Restart)
        .opens(None, false)
        .note(PRIVATE),
    call(nr::ACCEPT4, Home)
        .shaped([Fd, Out(ADDRESS_ROOM), InOut(Fixed(4)), Value])
        .blocks(Restart::Restart)
        .opens(Some(3), false)
        .note(PRIVATE),
    call(nr::SHUTDOWN, Home).shaped([Fd, Value]).note(PRIVATE),
    call(nr::GETSOCKNAME, Home)
        .shaped([Fd, Out(ADDRESS_ROOM), InOut(Fixed(4))])
        .note(PRIVATE),
    call(nr::GETPEERNAME, Home)
        .shaped([Fd, Out(ADDRESS_ROOM), InOut(Fixed(4))])
        .note(PRIVATE),
    call(nr::SETSOCKOPT, Home)
        .shaped([
            Fd,
            Value,
            Value,
            In(Argument {
                index: 4,
                unit: 1,
                max: OPTION_BYTES_MAX,
            }),
            Value,
        ])
        .note(OPTIONS),
    call(nr::GETSOCKOPT, Home)
        .shaped([
            Fd,
            Value,
            Value,
            Out(Pointee {
                index: 4,
                max: OPTION_BYTES_MAX,
            }),
            InOut(Fixed(4)),
        ])
        .note(OPTIONS),
    call(nr::SENDTO, Event(Notify)).note(MESSAGES),
    call(nr::RECVFROM, Event(Notify)).note(MESSAGES),
    call(nr::SENDMSG, Event(Notify)).note(MESSAGES),
    call(nr::RECVMSG, Event(Notify)).note(MESSAGES),
    call(nr::SENDMMSG, Event(Notify)).note(MESSAGES),
    call(nr::RECVMMSG, Event(Notify)).note(MESSAGES),
    call(nr::IO_URING_SETUP, Never(libc::ENOSYS))
        .note("its calls would pass the filter by; programs fall back"),
    call(nr::IO_URING_ENTER, Never(libc::ENOSYS)).note("as `io_uring_setup`"),
    call(nr::IO_URING_REGISTER, Never(libc::ENOSYS)).note("as `io_uring_setup`"),
];
