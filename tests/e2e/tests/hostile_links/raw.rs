//! Links whose records a test makes itself.

use std::io::{ErrorKind, IoSlice};
use std::net::TcpStream;

use afield_link::byte_stream::ByteStream;
use afield_link::frame::{FILE_ID, HEADER_BYTES, Kind, encode_head};
use afield_link::preamble::{self, SessionId};
use afield_link::resume::greeting::{Greeting, Outcome};
use afield_link::secure::{self, Identity, SecureStream};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::{BOUND, soon};

/// A link whose records this test makes itself.
pub struct Raw {
    pub stream: SecureStream,
}

impl Raw {
    pub fn new(stream: SecureStream) -> Self {
        set_socket_timeout(stream.socket(), Timeout::Recv, Some(BOUND)).unwrap();
        Self { stream }
    }

    /// Of a home, to a node.
    pub fn dial(address: &str, session: SessionId, identity: &Identity) -> std::io::Result<Self> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(BOUND))?;
        preamble::ask(&mut socket, session).map_err(std::io::Error::other)?;
        let secured = secure::connect(socket, identity, None, soon()).map_err(std::io::Error::other)?;
        Ok(Self::new(SecureStream::new(secured)?))
    }

    pub fn say(&self, bytes: &[u8]) {
        // What is said here fits into the socket's buffer; the other side may have heard enough before the end.
        let mut rest = bytes;
        while let Ok(count @ 1..) = self.stream.write(&[IoSlice::new(rest)]) {
            rest = &rest[count..];
            if rest.is_empty() {
                break;
            }
        }
    }

    fn hear(&self, mut bytes: &mut [u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.read(bytes, true)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => bytes = &mut bytes[count..],
            }
        }
        Ok(())
    }

    pub fn greet(&self, mut greeting: Greeting) -> std::io::Result<Outcome> {
        self.say(&greeting.begin());
        loop {
            let mut message = vec![0; greeting.wanted()];
            self.hear(&mut message)?;
            let step = greeting.hear(&message, 0).map_err(std::io::Error::other)?;
            self.say(&step.say);
            if let Some(outcome) = step.outcome {
                return Ok(outcome);
            }
        }
    }

    /// The other side answers.
    pub fn is_answered(&self, number: u64) -> bool {
        self.say(&record(PING, 0, 0, number, 0));
        loop {
            let mut head = [0; HEAD_BYTES];
            if self.hear(&mut head).is_err() {
                return false;
            }
            if head[0] == PONG && head[8..16] == number.to_le_bytes() {
                return true;
            }
            let length = u16::from_le_bytes([head[2], head[3]]);
            if self.hear(&mut vec![0; usize::from(length)]).is_err() {
                return false;
            }
        }
    }

    /// Waits until the other side says more than its first frame, by which it has taken ours.
    pub fn expect_more(&self) {
        loop {
            let mut head = [0; HEAD_BYTES];
            self.hear(&mut head).expect("it goes on");
            let length = u16::from_le_bytes([head[2], head[3]]);
            self.hear(&mut vec![0; usize::from(length)]).expect("it goes on");
            if head[0] == PIECE && head[8..16] != 0u64.to_le_bytes() {
                return;
            }
        }
    }

    /// The other side closes the link.
    pub fn expect_end(&self, what: &str) {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer, true) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    assert_ne!(error.kind(), ErrorKind::WouldBlock, "{what}: the link stays open");
                    break;
                }
            }
        }
    }
}

const HEAD_BYTES: usize = 24;
const PIECE: u8 = 1;
const CREDIT: u8 = 2;
const PING: u8 = 3;
const PONG: u8 = 4;
pub const CLOSE: u8 = 5;
const FIRST: u8 = 1;
const LAST: u8 = 2;

/// The head of a record.
pub fn record(kind: u8, flags: u8, length: u16, number: u64, received: u64) -> Vec<u8> {
    slotted(kind, flags, length, 0, number, received)
}

fn slotted(kind: u8, flags: u8, length: u16, slot: u32, number: u64, received: u64) -> Vec<u8> {
    let mut bytes = vec![kind, flags];
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&slot.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&received.to_le_bytes());
    bytes
}

/// A piece with these bytes.
fn piece(number: u64, flags: u8, slot: u32, bytes: &[u8]) -> Vec<u8> {
    let mut record = slotted(PIECE, flags, bytes.len() as u16, slot, number, 0);
    record.extend_from_slice(bytes);
    record
}

/// The beginning of a frame that is to have so many bytes, as far as it is here.
fn begun(length: u32, payload: &[u8]) -> Vec<u8> {
    let mut head: [u8; HEADER_BYTES] = encode_head(Kind::File, FILE_ID | 1, 0).unwrap();
    head[..4].copy_from_slice(&length.to_le_bytes());
    [&head, payload].concat()
}

/// A whole frame as a piece.
pub fn whole(number: u64, kind: Kind, payload: &[u8]) -> Vec<u8> {
    let head = encode_head(kind, 0, payload.len()).unwrap();
    piece(number, FIRST | LAST, 0, &[&head, payload].concat())
}

/// What no peer may send, when one piece has gone; and what is said about it.
pub fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let both = FIRST | LAST;
    vec![
        ("a record of unknown kind", record(9, 0, 0, 0, 0)),
        ("a head that makes no sense", record(PIECE, both, u16::MAX, 1, 0)),
        (
            "frame of 4294967295 bytes is over the limit",
            piece(1, both, 0, &begun(u32::MAX, b"x")),
        ),
        (
            "sent piece 2 where 1 was next",
            piece(2, both, 0, &begun(1, b"x")),
        ),
        ("acknowledges what was not sent", record(PING, 0, 0, 1, 1 << 40)),
        ("acknowledges what was not sent", record(CREDIT, 0, 0, 1 << 60, 0)),
        (
            "more than there is room for",
            (1..4)
                .flat_map(|slot| piece(slot, FIRST, slot as u32, &begun(8 << 20, b"x")))
                .collect(),
        ),
        ("a frame that was not begun", piece(1, 0, 5, b"x")),
        (
            "begins a frame within another",
            (1..3)
                .flat_map(|number| piece(number, FIRST, 3, &begun(9, b"x")))
                .collect(),
        ),
        (
            "does not end where its frame does",
            piece(1, both, 0, &begun(9, b"x")),
        ),
        ("without a frame's header", piece(1, both, 0, b"x")),
    ]
}
