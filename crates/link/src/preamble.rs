//! The first bytes of every connection between machines, in clear: enough for a node to find the process that the
//! connection is for, or to say in words why there is none.
//!
//! Home writes a [`Preamble`] of [`PREAMBLE_BYTES`]:
//!
//! | bytes | field | meaning |
//! |---|---|---|
//! | 0..8 | magic | `afield\r\n` |
//! | 8..12 | protocol | [`PROTOCOL`], little-endian |
//! | 12..28 | session | public id of the session to resume; zero for a new one |
//!
//! The node answers with an [`Answer`]: the same magic, its protocol, one byte ([`Answer::Go`] or a refusal), one byte of
//! length, and so many bytes of words. Nothing here is secret or trusted: the id only says whom to ask; the right to the
//! session is proved later, inside the encrypted stream.

use std::io::{self, Read, Write};

use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;

use crate::PROTOCOL;

const MAGIC: [u8; 8] = *b"afield\r\n";

/// Bytes of a [`Preamble`].
pub const PREAMBLE_BYTES: usize = 28;

const ANSWER_HEAD_BYTES: usize = 14;

/// Names a session in clear; all zero names none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// One that nobody has had before.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| io::Error::other("the kernel gives no random numbers"))?;
        Ok(Self(bytes))
    }

    /// True for the id that asks for a new session.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Debug for SessionId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// What home says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// The protocol it speaks.
    pub protocol: u32,
    /// The session it resumes; none for a new one.
    pub session: SessionId,
}

/// What the node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Go on: what follows is the encrypted stream.
    Go,
    /// Never, for this reason.
    Refused(String),
    /// There is no such session (any more).
    Unknown,
}

/// Why the first bytes of a connection are not as they should be.
#[derive(Debug, Error)]
pub enum PreambleError {
    /// The connection ended or failed.
    #[error("{0}")]
    Io(io::Error),
    /// Nothing came for too long.
    #[error("its first words were not finished in time")]
    Timeout,
    /// The peer is something else.
    #[error("the other side is not afield's, or of a version before links could be resumed")]
    Strange,
    /// Other protocol.
    #[error("the other side speaks protocol {theirs}, this one {PROTOCOL}")]
    Version {
        /// The peer's.
        theirs: u32,
        /// In its words, if it said any.
        words: String,
    },
    /// The node does not want to.
    #[error("{0}")]
    Refused(String),
    /// The node has no such session.
    #[error("the node does not know the session any more")]
    Unknown,
}

impl From<io::Error> for PreambleError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // A socket's time-out is told as the former.
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Io(error),
        }
    }
}

impl Preamble {
    /// For a session of this program's protocol.
    pub fn new(session: SessionId) -> Self {
        Self {
            protocol: PROTOCOL,
            session,
        }
    }

    /// As it is on the wire.
    pub fn encode(&self) -> [u8; PREAMBLE_BYTES] {
        let mut bytes = [0; PREAMBLE_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.protocol.to_le_bytes());
        bytes[12..].copy_from_slice(&self.session.0);
        bytes
    }

    /// From what a peer has sent; any protocol is well-formed.
    pub fn decode(bytes: &[u8; PREAMBLE_BYTES]) -> Result<Self, PreambleError> {
        let (magic, rest) = bytes.split_at(8);
        if magic != MAGIC {
            return Err(PreambleError::Strange);
        }
        let (protocol, session) = rest.split_at(4);
        Ok(Self {
            protocol: u32::from_le_bytes(protocol.try_into().unwrap_or_default()),
            session: SessionId(session.try_into().unwrap_or_default()),
        })
    }
}

impl Answer {
    /// As it is on the wire. Words are cut to 255 bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (status, words) = match self {
            Self::Go => (0, ""),
            Self::Refused(words) => (1, cut(words)),
            Self::Unknown => (2, ""),
        };
        let mut bytes = Vec::with_capacity(ANSWER_HEAD_BYTES + words.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&PROTOCOL.to_le_bytes());
        bytes.push(status);
        bytes.push(words.len() as u8);
        bytes.extend_from_slice(words.as_bytes());
        bytes
    }

    /// Sends it.
    pub fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        stream.write_all(&self.encode())
    }
}

/// The first 255 bytes, or a few less so that no letter is cut.
fn cut(words: &str) -> &str {
    let end = (0..=words.len().min(255)).rfind(|&end| words.is_char_boundary(end));
    &words[..end.unwrap_or(0)]
}

/// Says whom the connection is for, and takes the node's answer; `Ok` if it is [`Answer::Go`]. Takes not a byte more than
/// that from the stream, which should have a time-out.
pub fn ask(stream: &mut (impl Read + Write), session: SessionId) -> Result<(), PreambleError> {
    stream.write_all(&Preamble::new(session).encode())?;
    let mut head = [0; ANSWER_HEAD_BYTES];
    stream.read_exact(&mut head)?;
    if head[..8] != MAGIC {
        return Err(PreambleError::Strange);
    }
    let theirs = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    let mut words = vec![0; usize::from(head[13])];
    stream.read_exact(&mut words)?;
    // They are shown to the user as they are.
    let words: String = String::from_utf8_lossy(&words)
        .chars()
        .filter(|letter| !letter.is_control())
        .collect();
    if theirs != PROTOCOL {
        return Err(PreambleError::Version { theirs, words });
    }
    match head[12] {
        0 => Ok(()),
        1 => Err(PreambleError::Refused(words)),
        2 => Err(PreambleError::Unknown),
        _ => Err(PreambleError::Strange),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    struct Peer {
        said: Vec<u8>,
        answers: VecDeque<u8>,
    }

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.answers.read(buffer)
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.said.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn asked(answer: &[u8]) -> (Result<(), PreambleError>, Peer) {
        let mut peer = Peer {
            said: Vec::new(),
            answers: answer.iter().copied().collect(),
        };
        (ask(&mut peer, SessionId([7; 16])), peer)
    }

    #[test]
    fn whom_it_is_for_and_what_is_answered() {
        let mut bytes = Answer::Go.encode();
        bytes.extend_from_slice(b"rest");
        let (result, peer) = asked(&bytes);
        result.unwrap();
        assert_eq!(peer.answers, b"rest");
        let said = Preamble::decode(peer.said.as_slice().try_into().unwrap()).unwrap();
        assert_eq!(said, Preamble::new(SessionId([7; 16])));
        let (result, _) = asked(&Answer::Unknown.encode());
        assert!(matches!(result, Err(PreambleError::Unknown)));
        let (result, _) = asked(&Answer::Refused("no\x1b[31m room".to_owned()).encode());
        assert_eq!(result.unwrap_err().to_string(), "no[31m room");
        let (result, _) = asked(&Answer::Refused("ä".repeat(200)).encode());
        assert_eq!(result.unwrap_err().to_string(), "ä".repeat(127));
    }

    #[test]
    fn whoever_else_answers_is_named_as_such() {
        let (result, _) = asked(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        assert!(matches!(result, Err(PreambleError::Strange)));
        let mut other = Answer::Refused("too old".to_owned()).encode();
        other[8] ^= 0x40;
        let (result, _) = asked(&other);
        assert!(
            matches!(result, Err(PreambleError::Version { theirs, words }) if theirs != PROTOCOL && words == "too old")
        );
        let whole = Answer::Go.encode();
        for cut in 0..whole.len() {
            assert!(matches!(asked(&whole[..cut]).0, Err(PreambleError::Io(_))));
        }
        assert!(Preamble::decode(&[0; PREAMBLE_BYTES]).is_err());
    }
}
