//! What home says of a file's contents behind its reply to an open, for nodes that keep contents from session to session.
//!
//! A file is cut into pieces of [`PIECE_BYTES`], the last of which may be shorter, and each piece is known by its BLAKE3 hash. A node
//! that has a piece of that hash need not ask for it, and one that finds another hash over what it has kept throws that away. What is
//! said holds until home says that the contents have changed, as [`invalidation`](crate::invalidation) has it.
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0..8 | size | bytes of the file |
//! | 8 | form | 0: nothing follows the path; 1: a hash for each piece; 2: the contents, at most [`WHOLE_BYTES_MAX`] |
//! | 9..11 | path | bytes of the path that follows, where the node's own system may have the same file; 0: it cannot |

use zerocopy::byteorder::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::WireError;

/// Bytes of a piece.
pub const PIECE_BYTES: usize = 64 << 10;

/// Most bytes of a file of which home says anything: its hashes still are a small part of one reply.
pub const FILE_BYTES_MAX: u64 = 256 << 20;

/// Most bytes of contents behind a reply.
pub const WHOLE_BYTES_MAX: usize = 32 << 10;

/// Longest path.
const PATH_BYTES_MAX: usize = 4096;

/// BLAKE3 of a piece.
pub type Hash = [u8; 32];

/// The hash of a piece.
pub fn hash(piece: &[u8]) -> Hash {
    *blake3::hash(piece).as_bytes()
}

/// Pieces of a file of `size` bytes.
pub fn piece_count(size: u64) -> u64 {
    size.div_ceil(PIECE_BYTES as u64)
}

/// What is told of the contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told<'a> {
    /// Nothing, or nothing new.
    Nothing,
    /// Each piece's hash.
    Hashes(&'a [Hash]),
    /// All of them.
    Whole(&'a [u8]),
}

/// What home says of a file's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents<'a> {
    /// Bytes of the file.
    pub size: u64,
    /// Where the node may have the same file; empty if it cannot.
    pub path: &'a [u8],
    /// The contents.
    pub told: Told<'a>,
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    size: U64,
    form: u8,
    path: U16,
}

/// Appends what is said to a reply.
pub fn append(reply: &mut Vec<u8>, contents: &Contents<'_>) {
    let (form, told) = match contents.told {
        Told::Nothing => (0, &[][..]),
        Told::Hashes(hashes) => (1, hashes.as_flattened()),
        Told::Whole(data) => (2, data),
    };
    // A path that is too long is one that no system has.
    let path = match contents.path.len() <= PATH_BYTES_MAX {
        true => contents.path,
        false => &[],
    };
    let head = Head {
        size: U64::new(contents.size),
        form,
        path: U16::new(path.len() as u16),
    };
    reply.extend_from_slice(head.as_bytes());
    reply.extend_from_slice(path);
    reply.extend_from_slice(told);
}

/// What is said, of all of `bytes`.
///
/// # Errors
/// It is nothing that a home says.
pub fn decode(bytes: &[u8]) -> Result<Contents<'_>, WireError> {
    let malformed = || WireError::Malformed("contents of a file");
    let (head, rest) = Head::ref_from_prefix(bytes).map_err(|_| malformed())?;
    let (path, rest) = rest
        .split_at_checked(usize::from(head.path.get()))
        .ok_or_else(malformed)?;
    let size = head.size.get();
    let is_path = path.is_empty() || path[0] == b'/' && path.len() <= PATH_BYTES_MAX && !path.contains(&0);
    if !is_path || size > FILE_BYTES_MAX {
        return Err(malformed());
    }
    let told = match head.form {
        0 if rest.is_empty() => Told::Nothing,
        1 => {
            let hashes = <[Hash]>::ref_from_bytes(rest).map_err(|_| malformed())?;
            if hashes.len() as u64 != piece_count(size) {
                return Err(malformed());
            }
            Told::Hashes(hashes)
        }
        2 if rest.len() as u64 == size && rest.len() <= WHOLE_BYTES_MAX => Told::Whole(rest),
        _ => return Err(malformed()),
    };
    Ok(Contents { size, path, told })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let hashes = [hash(b"a"), hash(b"b")];
        for contents in [
            Contents {
                size: PIECE_BYTES as u64 + 1,
                path: b"/usr/lib/x",
                told: Told::Hashes(&hashes),
            },
            Contents {
                size: 3,
                path: b"",
                told: Told::Whole(b"abc"),
            },
            Contents {
                size: 0,
                path: b"",
                told: Told::Hashes(&[]),
            },
            Contents {
                size: FILE_BYTES_MAX,
                path: b"/x",
                told: Told::Nothing,
            },
        ] {
            let mut reply = Vec::new();
            append(&mut reply, &contents);
            assert_eq!(decode(&reply).unwrap(), contents);
            for length in 0..reply.len() {
                let cut = decode(&reply[..length]);
                assert!(cut.is_err(), "{length}: {cut:?}");
            }
            reply.push(0);
            assert!(decode(&reply).is_err());
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let said = |contents: Contents<'_>| {
            let mut reply = Vec::new();
            append(&mut reply, &contents);
            decode(&reply).is_err()
        };
        let told = Told::Nothing;
        for path in [&b"x"[..], b"/x\0"] {
            assert!(said(Contents { size: 1, path, told }));
        }
        let path = b"";
        assert!(said(Contents {
            size: FILE_BYTES_MAX + 1,
            path,
            told
        }));
        // Not as many hashes as pieces.
        let hashes = [hash(b"")];
        for size in [0, PIECE_BYTES as u64 + 1] {
            let told = Told::Hashes(&hashes);
            assert!(said(Contents { size, path, told }));
        }
        let long = vec![7; WHOLE_BYTES_MAX + 1];
        let size = long.len() as u64;
        assert!(said(Contents {
            size,
            path,
            told: Told::Whole(&long)
        }));
        assert!(said(Contents {
            size: 2,
            path,
            told: Told::Whole(b"abc")
        }));
    }

    #[test]
    fn pieces_cover_a_file() {
        let piece = PIECE_BYTES as u64;
        assert_eq!(
            [0, 1, piece, piece + 1, FILE_BYTES_MAX].map(piece_count),
            [0, 1, 1, 2, 4096]
        );
    }
}
