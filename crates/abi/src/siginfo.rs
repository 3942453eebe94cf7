//! What a signal tells: the kernel's `siginfo_t`, and the `signalfd_siginfo` in which a signal descriptor tells the same.

/// Bytes of either.
pub const INFO_BYTES: usize = 128;

const SI_KERNEL: i32 = 0x80;
const SI_TIMER: i32 = -2;
const SI_SIGIO: i32 = -5;
/// Highest `si_code` of `SIGIO` (`NSIGPOLL`).
const POLL_LAST: i32 = 6;

/// A field: where it is in `siginfo_t` and in `signalfd_siginfo`, and its bytes.
type Field = (usize, usize, usize);

/// Sender's pid and uid.
const SENDER: Field = (16, 12, 8);
/// `si_value` as a pointer, and as a number, which a descriptor tells apart.
const VALUE: Field = (24, 48, 8);
const VALUE_NUMBER: Field = (24, 44, 4);

/// The fields that such a signal has, as the kernel's `siginfo_layout` and `signalfd_copyinfo` decide.
fn fields(signal: i32, code: i32) -> &'static [Field] {
    const SIGILL: i32 = 4;
    const SIGTRAP: i32 = 5;
    const SIGBUS: i32 = 7;
    const SIGFPE: i32 = 8;
    const SIGSEGV: i32 = 11;
    const SIGCHLD: i32 = 17;
    const SIGSYS: i32 = 31;
    let kernel = code > 0 && code < SI_KERNEL;
    match signal {
        // Address, and how exact it is.
        SIGILL | SIGFPE | SIGSEGV | SIGBUS | SIGTRAP if kernel => &[(16, 72, 8), (24, 80, 2)],
        // Status, times.
        SIGCHLD if kernel => &[SENDER, (24, 40, 4), (32, 56, 16)],
        // Address, call, architecture.
        SIGSYS if kernel => &[(16, 88, 8), (24, 84, 4), (28, 96, 4)],
        // Band, descriptor.
        _ if kernel && code <= POLL_LAST || code == SI_SIGIO => &[(16, 28, 4), (24, 20, 4)],
        // Timer, overrun.
        _ if code == SI_TIMER => &[(16, 24, 4), (20, 32, 4), VALUE_NUMBER, VALUE],
        _ if code < 0 => &[SENDER, VALUE_NUMBER, VALUE],
        _ => &[SENDER],
    }
}

/// Number, error and code are first in either.
fn head(info: &[u8; INFO_BYTES]) -> ([u8; INFO_BYTES], &'static [Field]) {
    let word = |at: usize| i32::from_le_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    let mut other = [0; INFO_BYTES];
    other[..12].copy_from_slice(&info[..12]);
    (other, fields(word(0), word(8)))
}

/// The `siginfo_t` of which a `signalfd_siginfo` tells.
pub fn from_descriptor(shown: &[u8; INFO_BYTES]) -> [u8; INFO_BYTES] {
    let (mut info, fields) = head(shown);
    for &(to, from, bytes) in fields {
        info[to..to + bytes].copy_from_slice(&shown[from..from + bytes]);
    }
    info
}

/// The `signalfd_siginfo` that a signal descriptor gives for a `siginfo_t`.
pub fn to_descriptor(info: &[u8; INFO_BYTES]) -> [u8; INFO_BYTES] {
    let (mut shown, fields) = head(info);
    for &(from, to, bytes) in fields {
        shown[to..to + bytes].copy_from_slice(&info[from..from + bytes]);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(words: &[(usize, i32)]) -> [u8; INFO_BYTES] {
        let mut bytes = [0; INFO_BYTES];
        for &(at, value) in words {
            bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }

    /// Number, error, code, and what either form has after them.
    fn check(head: [i32; 3], info: &[(usize, i32)], shown: &[(usize, i32)]) {
        let head: Vec<_> = [0, 4, 8].into_iter().zip(head).collect();
        let info = with(&[&head, info].concat());
        let shown = with(&[&head, shown].concat());
        assert_eq!(to_descriptor(&info), shown);
        assert_eq!(from_descriptor(&shown), info);
    }

    #[test]
    fn fields_go_where_the_kernel_puts_them() {
        // An exited child (`CLD_EXITED`).
        check(
            [17, 0, 1],
            &[(16, 4711), (20, 1000), (24, 3)],
            &[(12, 4711), (16, 1000), (40, 3)],
        );
        // Queued (`SI_QUEUE`).
        check(
            [40, 0, -1],
            &[(16, 4711), (20, 1000), (24, 9)],
            &[(12, 4711), (16, 1000), (44, 9), (48, 9)],
        );
        // Sent by `kill`.
        check([15, 0, 0], &[(16, 4711), (20, 1000)], &[(12, 4711), (16, 1000)]);
    }
}
