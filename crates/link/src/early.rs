//! What home answers before it is asked: payload of [`Kind::Early`](crate::frame::Kind::Early).
//!
//! A list of items. An answer is what home would say to that question now, asked by a guest that has the service's own rights; it
//! counts as given: a found node as looked up once, an open file as open. The node uses it once, or gives it back. It holds until
//! home says otherwise, as [`invalidation`](crate::invalidation) has it, or the node itself changes something of what it is about.
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0 | tag | the question, or 5: pieces, 6: a listing |
//! | 1..9 | node | whom it is about |
//! | 9..13 | number | of an open: 1 if to execute, 2 if a directory; of access: what is asked; of pieces: the first; of a listing: 1 if it has attributes |
//! | 13..17 | errno | 0: there is a body; of pieces: the one after the last |
//! | 17..19 | name | bytes of the name that follows |
//! | 19..23 | body | bytes of the reply's body that follow |

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::wire::WireError;

/// Longest name of a directory's entry or of an attribute.
const NAME_BYTES_MAX: usize = 255;

/// Largest number of an error.
const ERRNO_MAX: u32 = 4095;

/// Largest piece number that is believed: files of which home tells anything have fewer.
const PIECE_MAX: u32 = 1 << 16;

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Question<'a> {
    /// What a name in a directory is: an entry, perhaps of nothing.
    Name {
        /// The directory.
        directory: u64,
        /// The name.
        name: &'a [u8],
    },
    /// Where a symbolic link leads to.
    Link {
        /// The link.
        node: u64,
    },
    /// Opening to read.
    Open {
        /// The file or directory.
        node: u64,
        /// In order to execute it.
        executes: bool,
        /// It is a directory's listing.
        directory: bool,
    },
    /// Whether it may be read or executed.
    Access {
        /// The file or directory.
        node: u64,
        /// `R_OK`, `X_OK`.
        mask: u32,
    },
    /// An extended attribute that is not there.
    Extended {
        /// The file or directory.
        node: u64,
        /// The attribute.
        name: &'a [u8],
    },
}

/// One item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    /// An answer.
    Answer {
        /// To this.
        question: Question<'a>,
        /// A positive errno, or the body of the reply.
        result: Result<&'a [u8], i32>,
    },
    /// All names in a directory; the kernel may rely on there being no others.
    Listing {
        /// The directory.
        node: u64,
        /// Entries have nodes, each looked up once, where they can be relied on. Otherwise they are names only.
        full: bool,
        /// As in replies to `READDIRPLUS`.
        entries: &'a [u8],
    },
    /// Pieces of a file's contents that will be read, as it seems; the file is one that has been answered to be open.
    Pieces {
        /// The file.
        node: u64,
        /// The first.
        first: u32,
        /// The one after the last.
        end: u32,
    },
}

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    tag: u8,
    node: U64,
    number: U32,
    errno: U32,
    name: U16,
    body: U32,
}

const TAG_NAME: u8 = 0;
const TAG_LINK: u8 = 1;
const TAG_OPEN: u8 = 2;
const TAG_ACCESS: u8 = 3;
const TAG_EXTENDED: u8 = 4;
const TAG_PIECES: u8 = 5;
const TAG_LISTING: u8 = 6;

/// Appends an item to a payload. Names must not be longer than Linux has them.
pub fn append(payload: &mut Vec<u8>, item: &Item<'_>) {
    let (tag, node, number, errno, name, body) = match *item {
        Item::Pieces { node, first, end } => (TAG_PIECES, node, first, end, &[][..], &[][..]),
        Item::Listing { node, full, entries } => (TAG_LISTING, node, full.into(), 0, &[][..], entries),
        Item::Answer { question, result } => {
            let (tag, node, number, name) = match question {
                Question::Name { directory, name } => (TAG_NAME, directory, 0, name),
                Question::Link { node } => (TAG_LINK, node, 0, &[][..]),
                Question::Open {
                    node,
                    executes,
                    directory,
                } => {
                    let number = u32::from(executes) | u32::from(directory) << 1;
                    (TAG_OPEN, node, number, &[][..])
                }
                Question::Access { node, mask } => (TAG_ACCESS, node, mask, &[][..]),
                Question::Extended { node, name } => (TAG_EXTENDED, node, 0, name),
            };
            let errno = result.err().map_or(0, i32::unsigned_abs);
            (tag, node, number, errno, name, result.unwrap_or_default())
        }
    };
    let head = Head {
        tag,
        node: U64::new(node),
        number: U32::new(number),
        errno: U32::new(errno),
        name: U16::new(name.len() as u16),
        body: U32::new(body.len() as u32),
    };
    payload.extend_from_slice(head.as_bytes());
    payload.extend_from_slice(name);
    payload.extend_from_slice(body);
}

/// The items of a payload.
///
/// # Errors
/// It is none that a home says.
pub fn decode(payload: &[u8]) -> Result<Vec<Item<'_>>, WireError> {
    let malformed = || WireError::Malformed("early answer");
    let mut items = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let (head, after) = Head::read_from_prefix(rest).map_err(|_| malformed())?;
        let (name, after) = after
            .split_at_checked(usize::from(head.name.get()))
            .ok_or_else(malformed)?;
        let (body, after) = after
            .split_at_checked(head.body.get() as usize)
            .ok_or_else(malformed)?;
        rest = after;
        let (node, number, errno) = (head.node.get(), head.number.get(), head.errno.get());
        let is_named = matches!(head.tag, TAG_NAME | TAG_EXTENDED);
        let has_number = !matches!(head.tag, TAG_NAME | TAG_LINK | TAG_EXTENDED);
        if !has_number && number != 0 {
            return Err(malformed());
        }
        if is_named == name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
            return Err(malformed());
        }
        let question = match head.tag {
            TAG_NAME if name.contains(&b'/') || matches!(name, b"." | b"..") => return Err(malformed()),
            TAG_NAME => Question::Name {
                directory: node,
                name,
            },
            TAG_LINK => Question::Link { node },
            TAG_OPEN if number < 4 => Question::Open {
                node,
                executes: number & 1 != 0,
                directory: number & 2 != 0,
            },
            TAG_ACCESS => Question::Access { node, mask: number },
            TAG_EXTENDED => Question::Extended { node, name },
            TAG_PIECES if number < errno && errno <= PIECE_MAX && body.is_empty() => {
                items.push(Item::Pieces {
                    node,
                    first: number,
                    end: errno,
                });
                continue;
            }
            TAG_LISTING if number < 2 && errno == 0 => {
                items.push(Item::Listing {
                    node,
                    full: number == 1,
                    entries: body,
                });
                continue;
            }
            _ => return Err(malformed()),
        };
        let result = match errno {
            0 => Ok(body),
            1..=ERRNO_MAX if body.is_empty() => Err(errno as i32),
            _ => return Err(malformed()),
        };
        items.push(Item::Answer { question, result });
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer<'a>(question: Question<'a>, result: Result<&'a [u8], i32>) -> Item<'a> {
        Item::Answer { question, result }
    }

    #[test]
    fn what_is_said_is_heard() {
        let items = [
            answer(
                Question::Name {
                    directory: 1,
                    name: b"usr",
                },
                Ok(b"entry"),
            ),
            answer(Question::Link { node: 2 }, Ok(b"target")),
            answer(
                Question::Open {
                    node: 3,
                    executes: true,
                    directory: false,
                },
                Ok(b"open"),
            ),
            answer(Question::Access { node: 4, mask: 5 }, Err(libc::EACCES)),
            answer(
                Question::Extended {
                    node: u64::MAX,
                    name: b"security.x",
                },
                Err(libc::ENODATA),
            ),
            Item::Pieces {
                node: 3,
                first: 0,
                end: 7,
            },
            Item::Listing {
                node: 1,
                full: true,
                entries: b"entries",
            },
        ];
        let mut payload = Vec::new();
        for item in &items {
            append(&mut payload, item);
        }
        assert_eq!(decode(&payload).unwrap(), items);
        for length in 0..payload.len() {
            // Cut anywhere, it is refused or is a shorter list.
            assert!(decode(&payload[..length]).is_ok_and(|some| some.len() < items.len()) || length > 0);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let said = |item: Item<'_>| {
            let mut payload = Vec::new();
            append(&mut payload, &item);
            decode(&payload).is_err()
        };
        for name in [&b""[..], b"a/b", b"a\0b", b".", b"..", &[b'x'; 256]] {
            let directory = 1;
            assert!(said(answer(Question::Name { directory, name }, Ok(b""))));
        }
        assert!(said(answer(Question::Link { node: 1 }, Err(4096))));
        for (first, end) in [(1, 1), (2, 1), (0, PIECE_MAX + 1)] {
            assert!(said(Item::Pieces { node: 1, first, end }));
        }
        // A body beside an error, a name where none belongs, a tag that is none.
        for (at, value) in [(13, 1), (17, 1), (0, 7)] {
            let mut payload = Vec::new();
            append(&mut payload, &answer(Question::Link { node: 1 }, Ok(b"target")));
            payload[at] = value;
            assert!(decode(&payload).is_err(), "{at}");
        }
    }
}
