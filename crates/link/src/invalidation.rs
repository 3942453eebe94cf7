//! What home says of files that have changed there: payload of [`Kind::Invalidate`](crate::frame::Kind::Invalidate), which the
//! node applies to all that it keeps before it takes any later frame.
//!
//! A list of entries, each a tag, a node's id (8 bytes, little endian), and for [`Change::Name`] a length (2 bytes) and a name.
//! Nodes are those of FUSE's replies, as the session's home numbers them.

use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::WireError;

/// Most bytes of one payload. Whoever has more to say says [`Change::Everything`].
pub const BYTES_MAX: usize = 32 << 10;

/// Longest name that Linux has.
const NAME_BYTES_MAX: usize = 255;

/// How long what home says is valid, in seconds, if home watches it: until it says otherwise. What is valid for no time is not to
/// be kept.
pub const FOREVER_SECONDS: u64 = 1 << 32;

/// Something that is not as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change<'a> {
    /// Nothing that is kept can be relied on.
    Everything,
    /// What a name in a directory means (perhaps nothing), and the directory's listing and attributes; not its other names.
    Name {
        /// The directory.
        directory: u64,
        /// One name in it.
        name: &'a [u8],
    },
    /// A node's attributes, and so who may do what with it: for a directory, use names in it.
    Attributes {
        /// The node.
        node: u64,
    },
    /// A file's contents and attributes; a directory's whole listing and attributes.
    Contents {
        /// The node.
        node: u64,
    },
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    tag: u8,
    node: U64,
}

/// Appends a change to a payload.
///
/// # Errors
/// The payload, or the name, would be too long; the payload is as it was.
pub fn append(payload: &mut Vec<u8>, change: Change<'_>) -> Result<(), WireError> {
    let (tag, node, name) = match change {
        Change::Everything => (0, 0, None),
        Change::Name { directory, name } => (1, directory, Some(name)),
        Change::Attributes { node } => (2, node, None),
        Change::Contents { node } => (3, node, None),
    };
    let length = size_of::<Head>() + name.map_or(0, |name| size_of::<U16>() + name.len());
    if payload.len() + length > BYTES_MAX || name.is_some_and(|name| name.len() > NAME_BYTES_MAX) {
        return Err(WireError::Malformed("list of changes"));
    }
    let node = U64::new(node);
    payload.extend_from_slice(Head { tag, node }.as_bytes());
    if let Some(name) = name {
        payload.extend_from_slice(U16::new(name.len() as u16).as_bytes());
        payload.extend_from_slice(name);
    }
    Ok(())
}

/// The changes of a payload.
///
/// # Errors
/// It is not one.
pub fn decode(payload: &[u8]) -> Result<Vec<Change<'_>>, WireError> {
    let malformed = || WireError::Malformed("list of changes");
    if payload.len() > BYTES_MAX {
        return Err(malformed());
    }
    let mut changes = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let (head, after) = Head::read_from_prefix(rest).map_err(|_| malformed())?;
        rest = after;
        let node = head.node.get();
        changes.push(match head.tag {
            0 => Change::Everything,
            1 => {
                let (length, after) = U16::read_from_prefix(rest).map_err(|_| malformed())?;
                let (name, after) = after
                    .split_at_checked(usize::from(length.get()))
                    .ok_or_else(malformed)?;
                if name.is_empty()
                    || name.len() > NAME_BYTES_MAX
                    || name.iter().any(|byte| matches!(byte, 0 | b'/'))
                {
                    return Err(malformed());
                }
                rest = after;
                let directory = node;
                Change::Name { directory, name }
            }
            2 => Change::Attributes { node },
            3 => Change::Contents { node },
            _ => return Err(malformed()),
        });
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let changes = [
            Change::Name {
                directory: 1,
                name: b"n",
            },
            Change::Attributes { node: u64::MAX },
            Change::Contents { node: 7 },
            Change::Everything,
        ];
        let mut payload = Vec::new();
        for change in changes {
            append(&mut payload, change).unwrap();
        }
        assert_eq!(decode(&payload).unwrap(), changes);
        for length in 0..payload.len() {
            // Cut anywhere, it is refused or is a shorter list.
            let _ = decode(&payload[..length]);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let name = |name: &'static [u8]| {
            let mut payload = Vec::new();
            append(&mut payload, Change::Name { directory: 1, name }).unwrap();
            payload
        };
        for payload in [
            name(b""),
            name(b"a/b"),
            name(b"a\0b"),
            vec![4; 9],
            vec![0; BYTES_MAX + 1],
            vec![1; 9],
        ] {
            assert!(decode(&payload).is_err());
        }
    }

    #[test]
    fn a_payload_is_bounded() {
        let mut payload = Vec::new();
        while append(&mut payload, Change::Attributes { node: 1 }).is_ok() {}
        assert!(payload.len() <= BYTES_MAX && payload.len() > BYTES_MAX - 9);
        assert!(
            append(
                &mut Vec::new(),
                Change::Name {
                    directory: 1,
                    name: &[b'x'; 256]
                }
            )
            .is_err()
        );
    }
}
