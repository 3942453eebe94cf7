//! What a change has left, behind home's reply to the request that made it: payload of a [`Kind::FileReply`](crate::frame::Kind::FileReply)
//! beyond the length that the reply itself has. Who has made a directory's entry or closed a file that was written asks for attributes
//! next; so home says them at once.
//!
//! A list of at most [`AFTER_MAX`] records. What they say was so when the request had been executed, and holds until home says otherwise,
//! as [`invalidation`](crate::invalidation) has it, or the node itself changes something.
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0..8 | node | of whom |
//! | 8..12 | flags | [`NAMES`], [`PLAIN`] |
//! | 12..16 | | zero |
//! | 16.. | attributes | as FUSE has them |

use afield_abi::fuse::Attributes;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::wire::WireError;

/// Most records behind one reply.
pub const AFTER_MAX: usize = 3;

/// It is a directory, and home says when names in it come to mean something else: one that was removed is none.
pub const NAMES: u32 = 1;

/// It is a file without capabilities (`security.capability`).
pub const PLAIN: u32 = 2;

/// What is left of one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct After {
    /// Home's number of it.
    pub node: u64,
    /// [`NAMES`], [`PLAIN`].
    pub flags: u32,
    /// Zero.
    pub padding: u32,
    /// What it is now.
    pub attributes: Attributes,
}

/// The records, of all of `bytes`.
///
/// # Errors
/// It is nothing that a home says.
pub fn decode(bytes: &[u8]) -> Result<Vec<After>, WireError> {
    const MALFORMED: WireError = WireError::Malformed("aftermath");
    if !bytes.len().is_multiple_of(size_of::<After>()) || bytes.len() > AFTER_MAX * size_of::<After>() {
        return Err(MALFORMED);
    }
    let mut list = Vec::new();
    for record in bytes.chunks_exact(size_of::<After>()) {
        let after = After::read_from_bytes(record).map_err(|_| MALFORMED)?;
        if after.node == 0 || after.flags & !(NAMES | PLAIN) != 0 || after.padding != 0 {
            return Err(MALFORMED);
        }
        list.push(after);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_and_nothing_else() {
        let one = After {
            node: 7,
            flags: NAMES,
            attributes: Attributes {
                size: 5,
                ..Attributes::default()
            },
            ..After::default()
        };
        let two = After {
            node: 8,
            flags: PLAIN,
            ..one
        };
        let bytes = [one.as_bytes(), two.as_bytes()].concat();
        assert_eq!(decode(&bytes).unwrap(), [one, two]);
        assert_eq!(decode(&[]).unwrap(), []);
        for length in 1..bytes.len() {
            assert_eq!(decode(&bytes[..length]).is_ok(), length == bytes.len() / 2);
        }
        assert!(decode(&bytes.repeat(2)).is_err());
        for bad in [
            After { node: 0, ..one },
            After { flags: 4, ..one },
            After { padding: 1, ..one },
        ] {
            assert!(decode(bad.as_bytes()).is_err());
        }
    }
}
