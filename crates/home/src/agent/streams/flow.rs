//! One stream that is read and written ahead: what the node has been told of it, and what it has done since.
//!
//! What has come stays in home's kernel until the guest has read it; the node has a copy. So whatever else is asked of the
//! connection meanwhile is answered by the kernel as ever.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use afield_link::frame::Kind;
use afield_link::hatch::{self, Hatch};
use afield_link::streams::{
    self, EAGER_BYTES, EVENT, HELD, HERE, Head, MORE, UNKNOWN, WHOLE, WINDOW_BYTES, cost,
};
use rustix::event::PollFlags;

use crate::deputy::ready_for;
use crate::sys::stream;

/// So much is told for nothing of a connection that is read in larger pieces than are told, or read and written at once; from then on only
/// that there is something.
const WASTED_BYTES_MAX: usize = WINDOW_BYTES / 2;

/// Most bytes that are looked at at once, behind those that the node has been told of: a look begins with these.
const LOOK_BYTES: usize = 512 << 10;

/// Most bytes for which home's kernel is to have room, as far as its settings allow it.
const ROOM_BYTES_MAX: usize = WINDOW_BYTES;

/// Most bytes that wait on one connection, and most requests.
const KEPT_BYTES_MAX: usize = 64 << 20;
const KEPT_MAX: usize = 4096;

/// A node sends what none of ours does.
#[derive(Debug, thiserror::Error)]
#[error("more was written to a connection than there was room for")]
pub struct TooMuch;

/// What the node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    ready: PollFlags,
    more: bool,
    /// How much has come, if the node takes it itself.
    come: u64,
    limit: u64,
    /// What of the limit was left when it was told.
    room: u64,
}

/// A frame that waits until what was written before it is gone.
#[derive(Debug)]
pub(super) struct Waiting {
    pub kind: Kind,
    pub id: u64,
    pub payload: Vec<u8>,
}

/// Whether a node takes what has come from a connection itself, when it has been told of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Here {
    No,
    /// It gets the connection when it is told of it.
    Soon,
    /// It does. So much had been taken when it was told of all.
    Since(u64),
}

/// Where there is room for what is told.
#[derive(Debug)]
pub(super) struct Notes<'a> {
    pub payload: &'a mut Vec<u8>,
    /// Bytes of contents that may be added.
    pub budget: usize,
    /// For looking at what has come.
    pub scratch: &'a mut Vec<u8>,
    /// Where a node on this machine gets connections.
    pub hatch: Option<&'a Hatch>,
}

/// A stream.
#[derive(Debug)]
pub(super) struct Flow {
    pub file: OwnedFd,
    pub peer: Option<SocketAddr>,
    /// Whether the node takes what has come from the connection itself.
    here: Here,
    /// `None`: nothing that would still hold.
    told: Option<Told>,
    /// Bytes of which the node has a copy.
    pushed: usize,
    /// Those behind them that have been looked at, but for the first `spoken`.
    seen: Vec<u8>,
    spoken: usize,
    /// Bytes that the node was told of for nothing, less those that were of use.
    wasted: usize,
    /// Cost of all that was written behind.
    spent: u64,
    /// The node has been told to ask, and has not: what it has read before it heard of that may be on its way.
    void: bool,
    /// It is not read or written ahead any more.
    off: bool,
    /// It may be written behind: nobody on the node has the other end, and this one is not shut.
    pub writes: bool,
    /// Its options may have changed.
    pub doubtful: bool,
    /// What was written, and home's kernel had no room for after all.
    backlog: VecDeque<u8>,
    /// What goes after that.
    pub waiting: VecDeque<Waiting>,
    /// The one of them that goes on now.
    pub freed: Option<u64>,
    /// Bytes of those.
    pub waiting_bytes: usize,
}

const WATCHED: PollFlags = PollFlags::IN
    .union(PollFlags::PRI)
    .union(PollFlags::OUT)
    .union(PollFlags::RDHUP);

const BROKEN: PollFlags = PollFlags::PRI
    .union(PollFlags::ERR)
    .union(PollFlags::HUP)
    .union(PollFlags::NVAL);

impl Flow {
    /// `here`: the node may get it as well.
    pub fn new(file: OwnedFd, peer: Option<SocketAddr>, writes: bool, here: bool) -> Self {
        let writes = writes && stream::is_whole(file.as_fd());
        Self {
            file,
            peer,
            here: if here { Here::Soon } else { Here::No },
            told: None,
            pushed: 0,
            seen: Vec::new(),
            spoken: 0,
            wasted: 0,
            spent: 0,
            void: false,
            off: peer.is_none(),
            writes,
            doubtful: true,
            backlog: VecDeque::new(),
            waiting: VecDeque::new(),
            freed: None,
            waiting_bytes: 0,
        }
    }

    /// The node asks something: it forgets what it was told.
    pub fn asked(&mut self) {
        self.told = None;
        self.wasted += std::mem::take(&mut self.pushed);
        self.see(&[]);
        self.void = false;
    }

    /// Others may read and write it from now on.
    pub fn give_up(&mut self) {
        self.off = true;
    }

    /// Whether what was written is on its way.
    pub fn is_clear(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Whether a request has to wait until what was written, and asked, before it is through.
    pub fn keeps(&self, id: u64) -> bool {
        let busy = !self.is_clear() || !self.waiting.is_empty() || self.freed.is_some();
        busy && self.freed != Some(id)
    }

    /// Tells the node what is new, or that it has to ask. `happened`: home's kernel has said that something has. False if there is more to tell.
    pub fn tell(&mut self, handle: u64, after: u64, happened: bool, notes: &mut Notes<'_>) -> bool {
        if std::mem::take(&mut self.doubtful) && !stream::is_plain(self.file.as_fd()) {
            // Until its options change again.
            self.doubtful = true;
            return self.tell_nothing(handle, after, happened, notes);
        }
        let ready = ready_for(self.file.as_fd(), WATCHED);
        if self.off || self.void || !self.is_clear() || ready.intersects(BROKEN) {
            return self.tell_nothing(handle, after, happened, notes);
        }
        let (mut count, mut more) = (0, false);
        let held = self.wasted > WASTED_BYTES_MAX;
        let come = match self.come() {
            Ok(come) => come,
            // More comes all the time. The node asks once more.
            Err(libc::EAGAIN) => return self.tell_nothing(handle, after, happened, notes),
            Err(_) => {
                self.off = true;
                return self.tell_nothing(handle, after, happened, notes);
            }
        };
        if come.is_none() && ready.contains(PollFlags::IN) {
            let Some(there) = self.look(held, notes.scratch) else {
                self.off = true;
                return self.tell_nothing(handle, after, happened, notes);
            };
            count = (self.seen.len() - self.spoken).min(notes.budget);
            more = there > self.pushed + count;
        }
        let room = match self.writes && ready.contains(PollFlags::OUT) {
            true => stream::room(self.file.as_fd()),
            false => 0,
        };
        let now = Told {
            ready,
            more,
            come: come.unwrap_or_default(),
            limit: self.spent + room,
            room,
        };
        let news = self.told.is_none_or(|told| {
            let left = told.limit.saturating_sub(self.spent);
            happened
                || count > 0
                || (told.ready, told.more, told.come) != (now.ready, now.more, now.come)
                || left < room / 2
                || !self.writes && told.limit > self.spent
        });
        if news {
            if self.here == Here::Soon {
                // Whoever is told of it takes it from there, and nobody else does.
                let given = notes
                    .hatch
                    .is_some_and(|hatch| hatch.give(handle, self.file.as_fd()).is_ok());
                self.here = if given { Here::Since(0) } else { Here::No };
                return self.tell(handle, after, happened, notes);
            }
            let flags = match self.told {
                None => WHOLE,
                Some(_) => 0,
            } | if more { MORE } else { 0 }
                | if happened { EVENT } else { 0 }
                | if held { HELD } else { 0 }
                | if come.is_some() { HERE } else { 0 };
            let bytes = now.come.to_le_bytes();
            let data = match come {
                Some(_) => &bytes[..],
                None => &self.seen[self.spoken..][..count],
            };
            streams::encode(notes.payload, self.head(handle, after, now, flags), data);
            notes.budget -= count;
            self.pushed += count;
            self.spoken += count;
            self.told = Some(now);
        }
        if self.spoken == self.seen.len() && !more {
            // There are many connections, most of them quiet.
            (self.seen, self.spoken) = (Vec::new(), 0);
        }
        // It counts on being told of so much.
        self.spoken == self.seen.len() && (!more || held || self.pushed > EAGER_BYTES)
    }

    /// How much has come, for a node that takes it itself.
    fn come(&mut self) -> Result<Option<u64>, i32> {
        let taken = match self.here {
            Here::No => return Ok(None),
            Here::Since(taken) if self.told.is_some() => taken,
            // The node takes nothing until it is told.
            _ => stream::taken(self.file.as_fd())?,
        };
        if let Here::Since(since) = &mut self.here {
            *since = taken;
        }
        let received = stream::received(self.file.as_fd())?;
        received.checked_sub(taken).map(Some).ok_or(libc::EIO)
    }

    /// The node does not have it any more: it is to be told what has come. False if that is known.
    pub fn leave(&mut self) -> bool {
        let left = std::mem::replace(&mut self.here, Here::No) != Here::No;
        if left {
            self.told = None;
        }
        left
    }

    /// What was looked at last.
    fn see(&mut self, bytes: &[u8]) {
        self.seen.clear();
        self.seen.extend_from_slice(bytes);
        self.spoken = 0;
    }

    /// How much there is, that of which the node has a copy included; `None` if somebody else has taken something. Looks at some
    /// of it, if the node is to be told of more.
    fn look(&mut self, held: bool, scratch: &mut Vec<u8>) -> Option<usize> {
        let there = stream::waiting(self.file.as_fd()).ok()?;
        let unseen = there.checked_sub(self.pushed + self.seen.len() - self.spoken)?;
        // What it has is enough to go on with, and would be copied again for little.
        let is_enough =
            self.pushed > EAGER_BYTES && (unseen < self.pushed / 2 || self.pushed > WINDOW_BYTES / 2);
        if held || unseen == 0 || self.spoken < self.seen.len() || is_enough {
            return Some(there);
        }
        if there > EAGER_BYTES / 4 {
            stream::grow(self.file.as_fd(), ROOM_BYTES_MAX);
        }
        let most = there.min(self.pushed + LOOK_BYTES);
        if scratch.len() < most {
            scratch.resize(most, 0);
        }
        let count = stream::peek(self.file.as_fd(), &mut scratch[..most]).ok()?;
        self.see(scratch.get(self.pushed..count)?);
        Some(there)
    }

    fn tell_nothing(&mut self, handle: u64, after: u64, happened: bool, notes: &mut Notes<'_>) -> bool {
        let was_told = self.told.take().is_some();
        self.void |= was_told;
        if was_told || happened {
            streams::encode(notes.payload, unknown(handle, after), &[]);
        }
        true
    }

    fn head(&self, handle: u64, after: u64, now: Told, flags: u32) -> Head {
        Head {
            handle: handle.into(),
            after: after.into(),
            limit: now.limit.into(),
            ready: u32::from(now.ready.bits()).into(),
            flags: flags.into(),
            length: 0.into(),
        }
    }

    /// The guest has read so much of what the node was told. True if there may be more to tell; false if that cannot be.
    pub fn consume(&mut self, count: usize) -> Result<bool, i32> {
        if count > self.pushed {
            return Err(libc::EINVAL);
        }
        let taken = stream::consume(self.file.as_fd(), count)?;
        if taken != count {
            return Err(libc::EIO);
        }
        self.pushed -= count;
        self.wasted = self.wasted.saturating_sub(count);
        let Some(told) = &mut self.told else {
            return Ok(false);
        };
        if self.pushed == 0 && !told.more && !told.ready.contains(PollFlags::RDHUP) {
            // The node knows it by itself.
            told.ready.remove(PollFlags::IN);
        }
        Ok(told.more)
    }

    /// Keeps a request until what goes before it is through. False if it is too much, which no guest has in flight.
    pub fn keep(&mut self, (kind, id, payload): (Kind, u64, &[u8])) -> bool {
        self.waiting_bytes += payload.len();
        let fits = self.waiting_bytes <= KEPT_BYTES_MAX && self.waiting.len() < KEPT_MAX;
        if fits {
            let payload = payload.to_vec();
            self.waiting.push_back(Waiting { kind, id, payload });
        }
        fits
    }

    /// The next of those that were kept.
    pub fn free(&mut self) -> Option<Waiting> {
        let next = self.waiting.pop_front();
        self.freed = next.as_ref().map(|next| next.id);
        self.waiting_bytes -= next.as_ref().map_or(0, |next| next.payload.len());
        next
    }

    /// The guest has written. True if there may be more to tell.
    ///
    /// # Errors
    /// It has written far more than the node knew of room for.
    pub fn append(&mut self, data: &[u8]) -> Result<bool, TooMuch> {
        if self.backlog.len() + data.len() > KEPT_BYTES_MAX {
            return Err(TooMuch);
        }
        self.spent += cost(data.len());
        if self.is_clear() {
            // What becomes of a write to a broken connection is for the next call to say, and it must not be said to this one.
            if ready_for(self.file.as_fd(), PollFlags::empty()).intersects(BROKEN) {
                return Ok(false);
            }
            match stream::append(self.file.as_fd(), data) {
                Ok(count) => self.backlog.extend(&data[count..]),
                Err(libc::EAGAIN) => self.backlog.extend(data),
                Err(_) => {}
            }
        } else {
            self.backlog.extend(data);
        }
        let tells = |told: Told| !self.is_clear() || told.limit.saturating_sub(self.spent) < told.room / 2;
        Ok(self.told.is_some_and(tells))
    }

    /// Lets go of the connection.
    pub fn close(self: Box<Self>) {
        hatch::close(self.file);
    }

    /// Writes what was left over. True if nothing is left of it now.
    pub fn flush(&mut self) -> bool {
        while !self.backlog.is_empty() {
            match stream::append(self.file.as_fd(), self.backlog.as_slices().0) {
                Ok(count) => drop(self.backlog.drain(..count)),
                Err(libc::EAGAIN) => return false,
                Err(_) => self.backlog.clear(),
            }
        }
        true
    }
}

/// Says that the node has to ask.
pub(super) fn unknown(handle: u64, after: u64) -> Head {
    Head {
        handle: handle.into(),
        after: after.into(),
        limit: 0.into(),
        ready: 0.into(),
        flags: UNKNOWN.into(),
        length: 0.into(),
    }
}
