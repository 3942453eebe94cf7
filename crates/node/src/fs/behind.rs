//! Write-behind: writes to home's files that are answered once they are in the stream.
//!
//! Home executes such a write before anything later from this node, so whoever hears of it sees it. What cannot be seen any more is
//! whether it succeeded: home says so ahead of any later reply, and the next call on the file gets the error. Each open file is told
//! once of what went wrong with its node, at a write, `fsync` or `close`.
//!
//! Home gives leave for each open file; it is good for [`LEAVE`], is asked for anew with a write, and is off for all files as soon
//! as home says that there is little room, or that a write took long. What has not been confirmed is bounded: beyond that, a write
//! waits for its answer as if it was not behind (but for pages of mapped files, of which the kernel never has many). A reply to any
//! later request of the file door confirms all that was before it.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use afield_abi::fuse::{RequestHeader, WRITE_AMPLE, WriteReply, WriteRequest, write_flag};
use tracing::debug;
use zerocopy::{FromBytes, IntoBytes};

use super::{Request, lock};
use crate::leases::Lease;

/// How long home's word counts that writes will succeed.
const LEAVE: Duration = Duration::from_secs(2);

/// It is asked for anew when so little of it is left.
const LEAVE_WANED: Duration = Duration::from_millis(1500);

/// Most bytes that home has not confirmed.
const WINDOW_BYTES: usize = 16 << 20;

/// Most writes that home has not confirmed.
const WINDOW_WRITES: usize = 4096;

/// After so many bytes home is asked for a word.
const ASKED_BYTES: usize = WINDOW_BYTES / 4;

/// After so many writes home is asked for a word.
const ASKED_WRITES: usize = WINDOW_WRITES / 4;

/// Writes that end beyond this wait for home: the file system's largest file may be no larger.
const END_MAX: u64 = 1 << 40;

/// What is to be done with a write that has been sent.
#[derive(Debug)]
pub enum Course {
    /// Its caller is told that all is written.
    Answer(Vec<u8>),
    /// Home's reply is waited for.
    Wait(Settling),
}

/// What home says of a write that had been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It is done.
    Done,
    /// It is not: what is kept of this node's contents is not what home has.
    Failed {
        /// The node.
        node: u64,
    },
}

/// A request whose reply says that all writes before it are done.
#[derive(Debug, Clone, Copy)]
pub struct Settling {
    handle: u64,
    /// It asks home for leave.
    asks: bool,
    /// Count of writes before it.
    through: u64,
}

/// What is known of the writes that have not been confirmed.
#[derive(Debug, Default)]
pub struct Behind {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Files that can be written through, by handle.
    files: HashMap<u64, File>,
    /// Their nodes.
    nodes: HashMap<u64, Node>,
    /// Writes that home has not confirmed, in the stream's order.
    sent: VecDeque<Sent>,
    /// Their places among all there have been, by FUSE's number.
    places: HashMap<u64, u64>,
    /// Bytes of them.
    sent_bytes: usize,
    /// How many have been confirmed; the first of `sent` is the next.
    confirmed: u64,
    /// Open files that can be mapped for stores.
    mappable: usize,
    /// Bytes and writes since home was asked last.
    unasked: (usize, usize),
}

#[derive(Debug)]
struct File {
    node: u64,
    /// Until when home's leave is good; `None` if there never is one.
    leave: Option<Instant>,
    /// Home has been asked for it.
    is_asking: bool,
    /// How many failures of its node it has been told of.
    told: u64,
    /// It can be read as well, and so be mapped for stores.
    is_mappable: bool,
}

#[derive(Debug, Default)]
struct Node {
    /// Open files of it.
    files: usize,
    /// Those that can be mapped for stores.
    mappable: usize,
    /// The place after its last write.
    last: u64,
    /// How many writes have failed.
    failures: u64,
    /// Why the last did.
    errno: i32,
    /// Somebody has been told.
    is_told: bool,
}

#[derive(Debug)]
struct Sent {
    unique: u64,
    node: u64,
    handle: u64,
    bytes: usize,
    /// Where what is written is, until home has written it.
    _data: Option<Lease>,
}

impl State {
    /// Home has executed the first `through` of all writes there have been.
    fn confirm(&mut self, through: u64) {
        while self.confirmed < through
            && let Some(sent) = self.sent.pop_front()
        {
            self.places.remove(&sent.unique);
            self.sent_bytes -= sent.bytes;
            self.confirmed += 1;
        }
    }

    /// How many there have been.
    fn count(&self) -> u64 {
        self.confirmed + self.sent.len() as u64
    }

    fn fail(&mut self, node: u64, errno: i32) {
        if let Some(state) = self.nodes.get_mut(&node) {
            state.failures += 1;
            state.errno = errno;
            state.is_told = false;
        } else {
            debug!("a write to node {node}, which nobody has open any more, failed: errno {errno}");
        }
        for file in self.files.values_mut().filter(|file| file.node == node) {
            // From now on its writes are waited for.
            file.leave = None;
        }
    }

    fn is_full(&self, bytes: usize) -> bool {
        self.sent_bytes + bytes > WINDOW_BYTES || self.sent.len() >= WINDOW_WRITES
    }

    /// What an open file has not been told yet of its node.
    fn tell(&mut self, handle: u64) -> Option<i32> {
        let file = self.files.get_mut(&handle)?;
        let node = self.nodes.get_mut(&file.node)?;
        if file.told == node.failures {
            return None;
        }
        file.told = node.failures;
        node.is_told = true;
        Some(node.errno)
    }

    fn answered(&mut self, handle: u64, is_ample: bool, now: Instant) {
        if let Some(file) = self.files.get_mut(&handle) {
            file.is_asking = false;
        }
        if is_ample {
            if let Some(leave) = self.files.get_mut(&handle).and_then(|file| file.leave.as_mut()) {
                *leave = now + LEAVE;
            }
        } else {
            for leave in self.files.values_mut().filter_map(|file| file.leave.as_mut()) {
                *leave = now;
            }
        }
    }
}

impl Behind {
    /// A file was opened that can be written; `may` if home gives leave. If it can be read as well it can be mapped for stores.
    pub fn opened(&self, handle: u64, node: u64, may: bool, is_mappable: bool, now: Instant) {
        let mut state = lock(&self.state);
        state.mappable += usize::from(is_mappable);
        let entry = state.nodes.entry(node).or_default();
        entry.files += 1;
        entry.mappable += usize::from(is_mappable);
        // What nobody has been told yet, the next to open the file is.
        let told = entry.failures - u64::from(entry.failures > 0 && !entry.is_told);
        let leave = may.then(|| now + LEAVE);
        let file = File {
            node,
            leave,
            is_asking: false,
            told,
            is_mappable,
        };
        state.files.insert(handle, file);
    }

    /// An open file is no more. False if none is left that can be mapped for stores.
    pub fn released(&self, handle: u64) -> bool {
        let mut state = lock(&self.state);
        let Some(file) = state.files.remove(&handle) else {
            return true;
        };
        state.mappable -= usize::from(file.is_mappable);
        if let Some(node) = state.nodes.get_mut(&file.node) {
            node.files -= 1;
            node.mappable -= usize::from(file.is_mappable);
            if node.files == 0 {
                state.nodes.remove(&file.node);
            }
        }
        !file.is_mappable || state.mappable > 0
    }

    /// Whether there is an open file that can be mapped for stores.
    pub fn has_mappable(&self) -> bool {
        lock(&self.state).mappable > 0
    }

    /// The nodes that have one.
    pub fn mappable_nodes(&self) -> Vec<u64> {
        let state = lock(&self.state);
        let nodes = state.nodes.iter().filter(|(_, node)| node.mappable > 0);
        nodes.map(|(node, _)| *node).collect()
    }

    /// Whether this node has one.
    pub fn is_mappable(&self, node: u64) -> bool {
        lock(&self.state)
            .nodes
            .get(&node)
            .is_some_and(|node| node.mappable > 0)
    }

    /// A write is about to be sent to home: how it is to be answered, which the request then says, too.
    ///
    /// # Errors
    /// An earlier write's, which is the answer.
    pub fn write(&self, request: &mut Request<'_>, now: Instant) -> Result<Option<Course>, i32> {
        let record: WriteRequest = request.record()?;
        let unique = request.header.unique;
        let bytes = record.size as usize;
        let mut state = lock(&self.state);
        let of_cache = record.write_flags & write_flag::CACHE != 0;
        if !of_cache && let Some(errno) = state.tell(record.handle) {
            return Err(errno);
        }
        let is_full = state.is_full(bytes);
        let is_due = state.unasked.0 >= ASKED_BYTES || state.unasked.1 >= ASKED_WRITES;
        let Some(file) = state.files.get_mut(&record.handle) else {
            return Ok(None);
        };
        let node = file.node;
        let waits = (libc::O_SYNC | libc::O_DSYNC | libc::O_DIRECT) as u32;
        let may = file.leave.is_some_and(|until| now < until) && record.flags & waits == 0;
        // Pages of mapped files are always behind, however much is under way: nobody waits for them, and what comes after them relies on
        // their being written in order.
        let is_behind =
            node == request.header.node && (of_cache || may && !is_full && record.offset <= END_MAX);
        let is_waning = file.leave.is_some_and(|until| until < now + LEAVE_WANED) && !file.is_asking;
        let mut flags = if is_behind { write_flag::BEHIND } else { 0 };
        if is_waning || is_behind && is_due && file.leave.is_some() {
            flags |= write_flag::ASKS;
            file.is_asking = true;
            state.unasked = (0, 0);
        } else if is_behind {
            state.unasked.0 += bytes;
            state.unasked.1 += 1;
        }
        let at = size_of::<RequestHeader>();
        if let Some(Ok((record, _))) = request.bytes.get_mut(at..).map(WriteRequest::mut_from_prefix) {
            record.write_flags |= flags;
        }
        if !is_behind {
            return Ok(Some(Course::Wait(Settling {
                handle: record.handle,
                asks: flags & write_flag::ASKS != 0,
                through: state.count(),
            })));
        }
        let place = state.count();
        state.places.insert(unique, place);
        state.sent.push_back(Sent {
            unique,
            node,
            handle: record.handle,
            bytes,
            _data: request.data.take(),
        });
        state.sent_bytes += bytes;
        if let Some(node) = state.nodes.get_mut(&node) {
            node.last = place + 1;
        }
        let reply = WriteReply {
            size: record.size,
            padding: 0,
        };
        Ok(Some(Course::Answer(super::data_reply(
            unique,
            &[reply.as_bytes()],
        ))))
    }

    /// A request is about to be sent whose reply is to tell of all writes before it.
    pub fn settling(&self, handle: u64) -> Settling {
        Settling {
            handle,
            asks: false,
            through: lock(&self.state).count(),
        }
    }

    /// True if closing this file tells nobody anything: home has given leave for it, so that its file system has nothing to say,
    /// and all its writes are done.
    pub fn is_settled(&self, handle: u64) -> bool {
        let state = lock(&self.state);
        let Some(file) = state.files.get(&handle) else {
            return false;
        };
        let node = state.nodes.get(&file.node);
        file.leave.is_some()
            && node.is_some_and(|node| node.last <= state.confirmed && node.failures == file.told)
    }

    /// Home has replied to what settles. An error of an earlier write is the answer in place of success.
    pub fn settled(&self, settling: Settling, error: i32) -> Option<i32> {
        let mut state = lock(&self.state);
        state.confirm(settling.through);
        if error == 0 {
            state.tell(settling.handle)
        } else {
            None
        }
    }

    /// Home has replied to a write for which its caller waited. The reply's body is as the kernel is to see it then.
    pub fn waited(&self, settling: Settling, error: i32, body: &mut [u8], now: Instant) {
        let mut state = lock(&self.state);
        state.confirm(settling.through);
        let mut is_ample = false;
        if error == 0
            && let Ok((reply, _)) = WriteReply::mut_from_prefix(body)
        {
            is_ample = std::mem::take(&mut reply.padding) & WRITE_AMPLE != 0;
        }
        if settling.asks {
            state.answered(settling.handle, is_ample, now);
        }
    }

    /// Home has replied to something: what that means, if it was a write that had been answered.
    pub fn replied(&self, unique: u64, error: i32, body: &[u8], now: Instant) -> Option<Word> {
        let mut state = lock(&self.state);
        let &place = state.places.get(&unique)?;
        state.confirm(place);
        let &Sent { node, handle, .. } = state.sent.front()?;
        state.confirm(place + 1);
        if error != 0 {
            state.fail(node, -error);
            state.answered(handle, false, now);
            Some(Word::Failed { node })
        } else {
            let reply = WriteReply::read_from_prefix(body).map_or(0, |(reply, _)| reply.padding);
            state.answered(handle, reply & WRITE_AMPLE != 0, now);
            Some(Word::Done)
        }
    }
}

#[cfg(test)]
mod tests {
    use afield_abi::fuse::Opcode;

    use super::*;

    const NODE: u64 = 7;

    struct Door {
        behind: Behind,
        now: Instant,
        next: u64,
    }

    /// What became of a write.
    #[derive(Debug, PartialEq)]
    enum Written {
        Behind { unique: u64, asks: bool },
        Waits { asks: bool },
        Failed(i32),
    }

    impl Door {
        fn new() -> Self {
            Self {
                behind: Behind::default(),
                now: Instant::now(),
                next: 1,
            }
        }

        fn open(&self, handle: u64, may: bool) {
            self.behind.opened(handle, NODE, may, true, self.now);
        }

        fn write(&mut self, handle: u64, size: u32, flags: i32) -> (Written, Option<Settling>) {
            let record = WriteRequest {
                handle,
                size,
                flags: flags as u32,
                ..WriteRequest::default()
            };
            let header = RequestHeader {
                node: NODE,
                unique: self.next,
                ..RequestHeader::default()
            };
            self.next += 1;
            let mut bytes = [header.as_bytes(), record.as_bytes()].concat();
            let mut request = Request {
                opcode: Opcode::Write,
                header,
                bytes: &mut bytes,
                data: None,
            };
            let course = match self.behind.write(&mut request, self.now) {
                Err(errno) => return (Written::Failed(errno), None),
                Ok(course) => course.unwrap(),
            };
            let flags = request.record::<WriteRequest>().unwrap().write_flags;
            let asks = flags & write_flag::ASKS != 0;
            let is_behind = flags & write_flag::BEHIND != 0;
            match course {
                Course::Answer(_) => {
                    assert!(is_behind);
                    let unique = header.unique;
                    (Written::Behind { unique, asks }, None)
                }
                Course::Wait(settling) => {
                    assert!(!is_behind);
                    (Written::Waits { asks }, Some(settling))
                }
            }
        }

        fn is_behind(&mut self, handle: u64, size: u32) -> Option<u64> {
            match self.write(handle, size, 0).0 {
                Written::Behind { unique, .. } => Some(unique),
                _ => None,
            }
        }

        fn fails(&self, unique: u64, errno: i32) {
            let word = self.behind.replied(unique, -errno, &[], self.now);
            assert_eq!(word, Some(Word::Failed { node: NODE }));
        }

        fn closes(&self, handle: u64) -> Option<i32> {
            self.behind.settled(self.behind.settling(handle), 0)
        }
    }

    #[test]
    fn only_with_leave_and_without_a_demand_to_wait() {
        let mut door = Door::new();
        door.open(1, true);
        door.open(2, false);
        assert!(door.is_behind(1, 10).is_some());
        assert_eq!(door.is_behind(2, 10), None);
        for flag in [libc::O_SYNC, libc::O_DSYNC, libc::O_DIRECT] {
            assert_eq!(door.write(1, 10, flag).0, Written::Waits { asks: false });
        }
    }

    #[test]
    fn leave_wanes_and_is_renewed() {
        let mut door = Door::new();
        door.open(1, true);
        door.now += LEAVE / 2;
        let (first, _) = door.write(1, 10, 0);
        let Written::Behind { unique, asks: true } = first else {
            panic!("{first:?}")
        };
        assert_eq!(
            door.write(1, 10, 0).0,
            Written::Behind {
                unique: unique + 1,
                asks: false
            }
        );
        let ample = WriteReply {
            size: 10,
            padding: WRITE_AMPLE,
        };
        let word = door.behind.replied(unique, 0, ample.as_bytes(), door.now);
        assert_eq!(word, Some(Word::Done));
        door.now += LEAVE / 2;
        assert!(door.is_behind(1, 10).is_some());
        // Nothing was heard of home in time.
        door.now += LEAVE;
        let (late, settling) = door.write(1, 10, 0);
        assert_eq!(late, Written::Waits { asks: false });
        assert!(settling.is_some());
    }

    #[test]
    fn no_room_anywhere_is_no_leave_for_anybody() {
        let mut door = Door::new();
        door.open(1, true);
        door.open(2, true);
        let unique = door.is_behind(1, 10).unwrap();
        let tight = WriteReply { size: 10, padding: 0 };
        let word = door.behind.replied(unique, 0, tight.as_bytes(), door.now);
        assert_eq!(word, Some(Word::Done));
        let (waits, settling) = door.write(2, 10, 0);
        assert_eq!(waits, Written::Waits { asks: true });
        let mut ample = WriteReply {
            size: 10,
            padding: WRITE_AMPLE,
        };
        door.behind
            .waited(settling.unwrap(), 0, ample.as_mut_bytes(), door.now);
        assert_eq!(ample.padding, 0, "the kernel is not shown it");
        assert!(door.is_behind(2, 10).is_some());
        assert_eq!(door.is_behind(1, 10), None);
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let mut door = Door::new();
        door.open(1, true);
        let mut sent = 0;
        while door.is_behind(1, 1 << 20).is_some() {
            sent += 1;
        }
        assert_eq!(sent, WINDOW_BYTES >> 20);
        // The reply to one that waits tells of all before it.
        let (_, settling) = door.write(1, 1 << 20, 0);
        assert!(!door.behind.is_settled(1));
        let mut reply = WriteReply::default();
        door.behind
            .waited(settling.unwrap(), 0, reply.as_mut_bytes(), door.now);
        assert!(door.behind.is_settled(1));
        let mut count = 0;
        while door.is_behind(1, 1).is_some() {
            count += 1;
        }
        assert_eq!(count, WINDOW_WRITES);
    }

    #[test]
    fn an_error_is_told_once_to_each_open_file() {
        let mut door = Door::new();
        door.open(1, true);
        door.open(2, true);
        let unique = door.is_behind(1, 10).unwrap();
        door.fails(unique, libc::ENOSPC);
        assert_eq!(door.write(1, 10, 0).0, Written::Failed(libc::ENOSPC));
        // Its writes wait from now on.
        assert!(matches!(door.write(1, 10, 0).0, Written::Waits { .. }));
        assert_eq!(door.closes(1), None);
        assert!(!door.behind.is_settled(2));
        assert_eq!(door.closes(2), Some(libc::ENOSPC));
        // Somebody has been told; who opens it now is not.
        door.open(3, true);
        assert_eq!(door.closes(3), None);
        let unique = door.is_behind(3, 10).unwrap();
        door.fails(unique, libc::EIO);
        assert!(door.behind.released(3), "others are left");
        door.open(4, true);
        assert_eq!(door.closes(4), Some(libc::EIO), "nobody had been told");
    }

    #[test]
    fn a_close_that_succeeds_at_home_may_still_fail() {
        let mut door = Door::new();
        door.open(1, true);
        let unique = door.is_behind(1, 10).unwrap();
        assert!(!door.behind.is_settled(1));
        let settling = door.behind.settling(1);
        door.fails(unique, libc::ENOSPC);
        assert_eq!(door.behind.settled(settling, 0), Some(libc::ENOSPC));
        assert_eq!(door.behind.settled(settling, 0), None);
        // What home says of something else is none of this.
        assert_eq!(door.behind.replied(unique, -libc::EIO, &[], door.now), None);
        assert_eq!(door.behind.replied(99, 0, &[], door.now), None);
    }
}
