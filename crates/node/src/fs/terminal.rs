//! How much memory the `ioctl` commands of terminals and sockets (and a few general ones) take and give.
//!
//! Their numbers are older than the convention that encodes direction and size, so the kernel's FUSE client transfers
//! nothing for them: the session does, by this table.

/// Memory of a command: bytes that it reads and bytes that it writes at its argument's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes read by the command.
    pub input: usize,
    /// Bytes written by the command.
    pub output: usize,
}

const fn transfer(input: usize, output: usize) -> Option<Transfer> {
    Some(Transfer { input, output })
}

/// The kernel's `struct termios`.
const TERMIOS: usize = 36;
/// `struct termio`.
const TERMIO: usize = 18;
/// `struct winsize`.
const WINSIZE: usize = 8;
/// `struct serial_struct`.
const SERIAL: usize = 72;
/// `struct serial_rs485`.
const RS485: usize = 32;
/// `int`.
const INT: usize = 4;

/// `struct ifreq`.
const IFREQ: usize = 40;
/// `struct arpreq`.
const ARPREQ: usize = 68;

/// The transfer of a command without an encoded size; `None` if the argument is a plain number.
pub fn legacy_transfer(command: u32) -> Option<Transfer> {
    match command {
        // TCGETS
        0x5401 => transfer(0, TERMIOS),
        // TCSETS, TCSETSW, TCSETSF
        0x5402..=0x5404 => transfer(TERMIOS, 0),
        // TCGETA
        0x5405 => transfer(0, TERMIO),
        // TCSETA, TCSETAW, TCSETAF
        0x5406..=0x5408 => transfer(TERMIO, 0),
        // TIOCGPGRP, TIOCOUTQ, TIOCMGET, TIOCGSOFTCAR, FIONREAD, TIOCGETD, TIOCGSID
        0x540f | 0x5411 | 0x5415 | 0x5419 | 0x541b | 0x5424 | 0x5429 => transfer(0, INT),
        // TIOCSPGRP, TIOCMBIS, TIOCMBIC, TIOCMSET, TIOCSSOFTCAR, TIOCPKT, TIOCSETD
        0x5410 | 0x5416..=0x5418 | 0x541a | 0x5420 | 0x5423 => transfer(INT, 0),
        // TIOCSTI
        0x5412 => transfer(1, 0),
        // TIOCGWINSZ
        0x5413 => transfer(0, WINSIZE),
        // TIOCSWINSZ
        0x5414 => transfer(WINSIZE, 0),
        // TIOCGSERIAL, TIOCSSERIAL
        0x541e => transfer(0, SERIAL),
        0x541f => transfer(SERIAL, 0),
        // TIOCGICOUNT
        0x545d => transfer(0, 80),
        // TIOCGLCKTRMIOS, TIOCSLCKTRMIOS
        0x5456 => transfer(0, TERMIOS),
        0x5457 => transfer(TERMIOS, 0),
        // TIOCGRS485, TIOCSRS485
        0x542e => transfer(0, RS485),
        0x542f => transfer(RS485, RS485),
        // SIOCSPGRP, FIOSETOWN
        0x8901 | 0x8902 => transfer(INT, 0),
        // FIOGETOWN, SIOCGPGRP, SIOCATMARK, SIOCOUTQNSD
        0x8903..=0x8905 | 0x894b => transfer(0, INT),
        // SIOCGSTAMP, SIOCGSTAMPNS
        0x8906 | 0x8907 => transfer(0, 16),
        // SIOCGIFNAME; name, flags, addresses, metric, MTU, hardware address, index, queue length and map of an interface.
        0x8910 | 0x8913 | 0x8915 | 0x8917 | 0x8919 | 0x891b | 0x891d | 0x8921 | 0x8927 | 0x8933 | 0x8942
        | 0x8970 => transfer(IFREQ, IFREQ),
        // The same, set.
        0x8914 | 0x8916 | 0x8918 | 0x891a | 0x891c | 0x891e | 0x8922..=0x8924 | 0x8943 => transfer(IFREQ, 0),
        // SIOCGARP; SIOCDARP, SIOCSARP
        0x8954 => transfer(ARPREQ, ARPREQ),
        0x8953 | 0x8955 => transfer(ARPREQ, 0),
        // TIOCLINUX is a console's, with an interface of its own.
        _ => None,
    }
}
