//! Small writes that follow each other closely go home as one.
//!
//! This is for writes that nobody waits for ([`behind`](super::behind)), and that begin where the last one ended, by the same caller and
//! through the same open file. The first goes at once. If another comes within [`CLOSELY`], it is held in the link's order for a moment
//! ([`Writer::hold_frame`]), in which those that follow it become part of it. Whatever else is sent goes after it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use afield_abi::fuse::{RequestHeader, WriteRequest, write_flag};
use afield_link::frame::{FILE_ID, Frame, Kind};
use afield_link::stream::{LinkError, Writer};
use zerocopy::FromBytes;

use super::intake::WRITE_HEAD_BYTES;
use super::lock;

/// Writes that follow each other at this distance are taken for many.
const CLOSELY: Duration = Duration::from_millis(1);

/// Most bytes of a small write.
const SMALL_BYTES_MAX: usize = 8 << 10;

/// Most bytes of several in one.
const JOINED_BYTES_MAX: usize = 64 << 10;

/// What went home last.
#[derive(Debug, Default)]
pub struct Joined {
    last: Mutex<Option<Last>>,
}

#[derive(Debug)]
struct Last {
    head: Head,
    when: Instant,
}

/// What is said of a write before its data.
#[derive(Debug, Clone, Copy)]
struct Head {
    header: RequestHeader,
    record: WriteRequest,
}

impl Head {
    /// Of a small write that can be part of another. `bytes` are the whole request.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (header, body) = RequestHeader::read_from_prefix(bytes).ok()?;
        let (record, data) = WriteRequest::read_from_prefix(body).ok()?;
        let is_small = record.size as usize == data.len() && (1..=SMALL_BYTES_MAX).contains(&data.len());
        let is_plain = record.write_flags & !write_flag::KILL_SUIDGID == write_flag::BEHIND;
        (is_small && is_plain).then_some(Self { header, record })
    }

    fn end(&self) -> u64 {
        self.record.offset.saturating_add(self.record.size.into())
    }

    /// Whether both can be one write.
    fn is_followed_by(&self, next: &Self) -> bool {
        let caller = |head: &Self| {
            (
                head.header.node,
                head.header.uid,
                head.header.gid,
                head.header.pid,
            )
        };
        let how = |head: &Self| {
            let WriteRequest {
                handle,
                flags,
                write_flags,
                lock_owner,
                ..
            } = head.record;
            (handle, flags, write_flags, lock_owner)
        };
        caller(self) == caller(next) && how(self) == how(next) && self.end() == next.record.offset
    }
}

impl Joined {
    /// Sends a write that its caller does not wait for, or sees to it that it is sent soon. `bytes` are the whole request. False if it is
    /// none that this is for.
    ///
    /// # Errors
    /// Those of the link.
    pub fn send(&self, writer: &Writer, bytes: &[u8], now: Instant) -> Result<bool, LinkError> {
        let Some(head) = Head::of(bytes) else {
            return Ok(false);
        };
        let mut last = lock(&self.last);
        let goes_on = last.as_ref().is_some_and(|last| {
            last.head.is_followed_by(&head) && now.saturating_duration_since(last.when) < CLOSELY
        });
        *last = Some(Last { head, when: now });
        if !goes_on {
            return Ok(false);
        }
        if writer.extend_held(|frame| extend(frame, &head, bytes)) {
            return Ok(true);
        }
        let frame = Frame {
            kind: Kind::File,
            id: head.header.unique | FILE_ID,
            payload: bytes.to_vec(),
        };
        writer.hold_frame(frame).map(|()| true)
    }
}

/// Appends a write's data to a frame, if that has one before it.
fn extend(frame: &mut Frame, next: &Head, bytes: &[u8]) -> bool {
    let length = frame.payload.len() + next.record.size as usize;
    let Ok((header, body)) = RequestHeader::mut_from_prefix(&mut frame.payload) else {
        return false;
    };
    let is_write = header.opcode == next.header.opcode;
    let Ok((record, _)) = WriteRequest::mut_from_prefix(body) else {
        return false;
    };
    let before = Head {
        header: *header,
        record: *record,
    };
    if !is_write || !before.is_followed_by(next) || length > WRITE_HEAD_BYTES + JOINED_BYTES_MAX {
        return false;
    }
    header.length = length as u32;
    record.size += next.record.size;
    frame.payload.extend_from_slice(&bytes[WRITE_HEAD_BYTES..]);
    true
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use afield_abi::fuse::Opcode;
    use afield_link::stream::{Reader, Socket, split};
    use zerocopy::IntoBytes;

    use super::*;

    struct Door {
        joined: Joined,
        writer: Writer,
        home: Reader,
        _back: Writer,
        now: Instant,
        unique: u64,
    }

    impl Door {
        fn new() -> Self {
            let (node, home) = UnixStream::pair().unwrap();
            let (_, writer) = split(Socket::Unix(node)).unwrap();
            let (home, back) = split(Socket::Unix(home)).unwrap();
            writer.start_holding().unwrap();
            Self {
                joined: Joined::default(),
                writer,
                home,
                _back: back,
                now: Instant::now(),
                unique: 0,
            }
        }

        fn write_as(&mut self, handle: u64, offset: u64, data: &[u8], flags: u32) {
            self.unique += 1;
            let header = RequestHeader {
                length: (WRITE_HEAD_BYTES + data.len()) as u32,
                opcode: Opcode::Write as u32,
                unique: self.unique,
                node: 7,
                ..RequestHeader::default()
            };
            let record = WriteRequest {
                handle,
                offset,
                size: data.len() as u32,
                write_flags: flags,
                ..WriteRequest::default()
            };
            let bytes = [header.as_bytes(), record.as_bytes(), data].concat();
            if !self.joined.send(&self.writer, &bytes, self.now).unwrap() {
                self.other(&bytes);
            }
        }

        fn write(&mut self, handle: u64, offset: u64, data: &[u8]) {
            self.write_as(handle, offset, data, write_flag::BEHIND);
        }

        fn other(&self, bytes: &[u8]) {
            self.writer
                .write_frame(Kind::File, self.unique, &[bytes])
                .unwrap();
        }

        /// The next write that home gets: its handle, offset and data.
        fn next(&mut self) -> (u64, u64, Vec<u8>) {
            let frame = self.home.read_frame().unwrap();
            let (header, body) = RequestHeader::read_from_prefix(&frame.payload).unwrap();
            let (record, data) = WriteRequest::read_from_prefix(body).unwrap();
            assert_eq!(header.length as usize, frame.payload.len());
            assert_eq!(record.size as usize, data.len());
            (record.handle, record.offset, data.to_vec())
        }

        /// All that home gets until it gets a frame of other bytes.
        fn until(&mut self, last: &[u8]) -> Vec<Vec<u8>> {
            let mut all = Vec::new();
            loop {
                let frame = self.home.read_frame().unwrap();
                if frame.payload == last {
                    return all;
                }
                all.push(frame.payload[WRITE_HEAD_BYTES..].to_vec());
            }
        }
    }

    #[test]
    fn a_write_is_made_longer_by_the_one_behind_it() {
        let request = |offset: u64, data: &[u8]| {
            let header = RequestHeader {
                length: (WRITE_HEAD_BYTES + data.len()) as u32,
                opcode: Opcode::Write as u32,
                node: 7,
                ..RequestHeader::default()
            };
            let record = WriteRequest {
                offset,
                size: data.len() as u32,
                write_flags: write_flag::BEHIND | write_flag::KILL_SUIDGID,
                ..WriteRequest::default()
            };
            [header.as_bytes(), record.as_bytes(), data].concat()
        };
        let extend = |frame: &mut Frame, next: &[u8]| extend(frame, &Head::of(next).unwrap(), next);
        let mut frame = Frame {
            kind: Kind::File,
            id: 1,
            payload: request(3, b"abc"),
        };
        assert!(!extend(&mut frame, &request(5, b"x")));
        assert!(extend(&mut frame, &request(6, b"de")));
        assert!(extend(&mut frame, &request(8, b"f")));
        assert_eq!(frame.payload, request(3, b"abcdef"));
        frame.payload = request(0, &[7; JOINED_BYTES_MAX]);
        assert!(!extend(&mut frame, &request(JOINED_BYTES_MAX as u64, b"x")));
        assert!(Head::of(&request(0, &[7; SMALL_BYTES_MAX])).is_some());
        assert!(Head::of(&request(0, &[7; SMALL_BYTES_MAX + 1])).is_none());
        assert!(Head::of(&request(0, b"")).is_none());
    }

    #[test]
    fn what_follows_closely_is_one_write() {
        let mut door = Door::new();
        for (offset, data) in [(0, "ab"), (2, "c"), (3, "def"), (6, "g")] {
            // As the kernel says of guests, who have no capabilities outside of their world.
            let flags = write_flag::BEHIND | write_flag::KILL_SUIDGID;
            door.write_as(1, offset, data.as_bytes(), flags);
        }
        door.other(b"other");
        let all = door.until(b"other").concat();
        assert_eq!(all, b"abcdefg");
        // The first went at once; how many the others were depends on how fast this went.
        assert_eq!(door.joined.last.lock().unwrap().as_ref().unwrap().head.end(), 7);
    }

    #[test]
    fn nobody_has_to_say_anything_for_it_to_go() {
        let mut door = Door::new();
        door.write(1, 0, b"ab");
        door.write(1, 2, b"cd");
        assert_eq!(door.next(), (1, 0, b"ab".to_vec()));
        assert_eq!(door.next(), (1, 2, b"cd".to_vec()));
        // Who sees to it rests by now, or does soon.
        for pause in [0, 30] {
            std::thread::sleep(Duration::from_millis(pause));
            door.write(1, 8, b"x");
            door.write(1, 9, b"y");
            assert_eq!(door.next(), (1, 8, b"x".to_vec()));
            assert_eq!(door.next(), (1, 9, b"y".to_vec()));
        }
    }

    #[test]
    fn others_are_others() {
        let mut door = Door::new();
        door.write(1, 0, b"ab");
        door.write(1, 2, b"c");
        // Another file, another place, one that is waited for, and one that comes late.
        door.write(2, 3, b"d");
        door.write(2, 9, b"e");
        door.write_as(2, 10, b"f", 0);
        door.write(2, 11, b"g");
        door.write_as(2, 12, b"h", write_flag::BEHIND | write_flag::KILL_SUIDGID);
        door.now += CLOSELY;
        door.write_as(2, 13, b"i", write_flag::BEHIND | write_flag::KILL_SUIDGID);
        let seen: Vec<_> = (0..8).map(|_| door.next()).collect();
        let data: Vec<&[u8]> = seen.iter().map(|(_, _, data)| &data[..]).collect();
        assert_eq!(data, [&b"ab"[..], b"c", b"d", b"e", b"f", b"g", b"h", b"i"]);
        assert_eq!(seen[7].1, 13);
    }

    #[test]
    fn no_write_becomes_too_long() {
        let mut door = Door::new();
        let data = vec![7; SMALL_BYTES_MAX];
        for at in 0..20 {
            door.write(1, (at * SMALL_BYTES_MAX) as u64, &data);
        }
        door.other(b"other");
        let all = door.until(b"other");
        assert!(all.iter().all(|data| data.len() <= JOINED_BYTES_MAX));
        assert_eq!(all.concat().len(), 20 * SMALL_BYTES_MAX);
    }
}
