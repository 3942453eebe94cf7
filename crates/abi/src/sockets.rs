//! Sockets: the kernel's structures for messages, and which options cannot be passed on as bytes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct iovec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Piece {
    /// Address.
    pub base: u64,
    /// Bytes.
    pub length: u64,
}

/// `struct msghdr` as the kernel has it for 64-bit programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Message {
    /// Address of the socket address; 0 for none.
    pub name: u64,
    /// Its length, an `int`.
    pub name_length: i32,
    /// Not looked at.
    pub name_padding: u32,
    /// Address of the [`Piece`]s.
    pub pieces: u64,
    /// How many they are.
    pub piece_count: u64,
    /// Address of the ancillary data.
    pub control: u64,
    /// Its bytes.
    pub control_length: u64,
    /// `MSG_*`, of a received message.
    pub flags: u32,
    /// Not looked at.
    pub padding: u32,
}

/// `struct mmsghdr`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CountedMessage {
    /// The message.
    pub message: Message,
    /// Bytes transferred.
    pub count: u32,
    /// Not looked at.
    pub padding: u32,
}

/// `struct cmsghdr`: head of one piece of ancillary data. The next begins at a multiple of eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ControlHead {
    /// Bytes, this head included.
    pub length: u64,
    /// `SOL_*`.
    pub level: i32,
    /// `SCM_*` or what the level has.
    pub kind: i32,
}

/// Bytes of a [`ControlHead`].
pub const CONTROL_HEAD_BYTES: usize = size_of::<ControlHead>();

/// Most descriptors in one piece of ancillary data (`SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 253;

/// `SCM_PIDFD`: ancillary data with the sender's process descriptor.
pub const SCM_PIDFD: i32 = 4;

/// One piece of ancillary data in a buffer of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// Where its head begins.
    pub start: usize,
    /// Its bytes, the head included.
    pub length: usize,
    /// `SOL_*`.
    pub level: i32,
    /// `SCM_*` or what the level has.
    pub kind: i32,
}

impl Control {
    /// Where its data is.
    pub fn data(&self) -> std::ops::Range<usize> {
        self.start + CONTROL_HEAD_BYTES..self.start + self.length
    }

    /// True if its data is an array of descriptors.
    pub fn has_descriptors(&self) -> bool {
        self.level == libc::SOL_SOCKET && matches!(self.kind, libc::SCM_RIGHTS | SCM_PIDFD)
    }
}

/// The pieces of ancillary data in `bytes`, as the kernel finds them.
///
/// # Errors
/// `EINVAL` if one is shorter than its head or longer than what is left.
pub fn controls(bytes: &[u8]) -> Result<Vec<Control>, i32> {
    let mut found = Vec::new();
    let mut start = 0usize;
    while let Some((head, _)) = bytes
        .get(start..)
        .and_then(|rest| ControlHead::read_from_prefix(rest).ok())
    {
        let length = usize::try_from(head.length).map_err(|_| libc::EINVAL)?;
        if length < CONTROL_HEAD_BYTES || length > bytes.len() - start {
            return Err(libc::EINVAL);
        }
        found.push(Control {
            start,
            length,
            level: head.level,
            kind: head.kind,
        });
        start += length.next_multiple_of(8);
    }
    Ok(found)
}

/// `struct sock_filter`.
pub const FILTER_INSTRUCTION_BYTES: usize = 8;
/// Most instructions of a packet filter (`BPF_MAXINSNS`).
pub const FILTER_INSTRUCTIONS_MAX: usize = 4096;

/// What is to be done with the value of a socket option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionValue {
    /// Plain bytes.
    Bytes,
    /// A packet filter: `struct sock_fprog` with a pointer to instructions, which are passed on in its place.
    Filter,
    /// It has pointers or descriptors that cannot be passed on.
    Refused,
    /// A descriptor of the peer's process, which the call makes.
    Process,
}

/// What the value of `setsockopt` (`set`) or `getsockopt` is. Everything that has pointers in it must be known here: the
/// deputy's kernel would follow them in the deputy's memory.
pub fn option_value(level: i32, name: i32, set: bool) -> OptionValue {
    const SO_ATTACH_BPF: i32 = 50;
    const SO_ATTACH_REUSEPORT_CBPF: i32 = 51;
    const SO_ATTACH_REUSEPORT_EBPF: i32 = 52;
    const SO_GET_FILTER: i32 = 26;
    const SO_PEERPIDFD: i32 = 77;
    const TCP_ZEROCOPY_RECEIVE: i32 = 35;
    const SOL_SCTP: i32 = 132;
    const SCTP_CONNECTX: [i32; 2] = [110, 111];
    const SOL_PACKET: i32 = 263;
    /// `PACKET_RX_RING`, `PACKET_TX_RING` (whose memory would have to be mapped) and `PACKET_FANOUT_DATA`.
    const PACKET_REFUSED: [i32; 3] = [5, 13, 22];
    const SOL_XDP: i32 = 283;
    use OptionValue::{Bytes, Filter, Process, Refused};
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER | SO_ATTACH_REUSEPORT_CBPF) if set => Filter,
        // The same number reads the filter back: as many instructions as there is room for, counted by the length.
        (libc::SOL_SOCKET, SO_GET_FILTER) => Refused,
        (libc::SOL_SOCKET, SO_ATTACH_BPF | SO_ATTACH_REUSEPORT_EBPF) => Refused,
        (libc::IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE) => Refused,
        // Tables of packet filters (iptables, arptables, ebtables) and of the virtual server.
        (libc::IPPROTO_IP, 64..=67 | 96..=99 | 128..=131 | 1024..) => Refused,
        (libc::IPPROTO_IPV6, 64 | 65 | 68 | 69 | 1024..) => Refused,
        (libc::SOL_SOCKET, SO_PEERPIDFD) if !set => Process,
        (SOL_SCTP, _) if SCTP_CONNECTX.contains(&name) => Refused,
        (SOL_PACKET, _) if PACKET_REFUSED.contains(&name) => Refused,
        (SOL_XDP, _) => Refused,
        _ => Bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(length: u64, level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = ControlHead { length, level, kind }.as_bytes().to_vec();
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn ancillary_data_is_walked_as_the_kernel_does() {
        let mut bytes = piece(20, libc::SOL_SOCKET, libc::SCM_RIGHTS, &[1, 0, 0, 0]);
        bytes.extend(piece(28, libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[7; 12]));
        let found = controls(&bytes).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0].has_descriptors() && !found[1].has_descriptors());
        assert_eq!((found[0].data(), found[1].data()), (16..20, 40..52));
        // Less than a head at the end is nothing.
        bytes.extend([0; 15]);
        assert_eq!(controls(&bytes).unwrap().len(), 2);
        for length in [0, 15, 17 + 8, u64::MAX] {
            assert_eq!(
                controls(&piece(length, 1, 1, &[0; 8])),
                Err(libc::EINVAL),
                "{length}"
            );
        }
        assert_eq!(controls(&[]), Ok(vec![]));
    }

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<Message>(), size_of::<libc::msghdr>());
        assert_eq!(size_of::<CountedMessage>(), size_of::<libc::mmsghdr>());
        assert_eq!(CONTROL_HEAD_BYTES, size_of::<libc::cmsghdr>());
        assert_eq!(size_of::<Piece>(), size_of::<libc::iovec>());
    }
}
