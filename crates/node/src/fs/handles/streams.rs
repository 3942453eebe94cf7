//! Streams that one guest alone has: reads of what home has sent ahead, and writes for which home has room, ask nobody.
//!
//! Positions count the bytes of a stream since it was opened, on both sides alike. What is sent ahead stays in home's kernel until
//! this side says that it has been read, so it can be dropped at any time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The streams of a session, by handle.
#[derive(Debug, Default)]
pub struct Streams {
    flows: Mutex<HashMap<u64, Flow>>,
}

#[derive(Debug)]
struct Flow {
    /// The only process that has it; `None` once there are others.
    owner: Option<u32>,
    /// Bytes that have been read.
    consumed: u64,
    /// Position of the first byte of `ahead`.
    position: u64,
    /// What home has sent ahead.
    ahead: Vec<u8>,
    /// Bytes that have been written.
    written: u64,
    /// How far home has room.
    limit: u64,
    /// Reads and writes that home is executing.
    reading: u32,
    writing: u32,
}

impl Streams {
    fn flows(&self) -> MutexGuard<'_, HashMap<u64, Flow>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guest has opened it.
    pub fn opened(&self, handle: u64, owner: u32) {
        let flow = Flow {
            owner: Some(owner),
            consumed: 0,
            position: 0,
            ahead: Vec::new(),
            written: 0,
            limit: 0,
            reading: 0,
            writing: 0,
        };
        self.flows().insert(handle, flow);
    }

    /// It is no more.
    pub fn closed(&self, handle: u64) {
        self.flows().remove(&handle);
    }

    /// Others have it too now.
    pub fn shared(&self, handle: u64) {
        if let Some(flow) = self.flows().get_mut(&handle) {
            flow.share();
        }
    }

    /// The process has forked: its child has all of its streams.
    pub fn forked(&self, parent: u32) {
        for flow in self.flows().values_mut() {
            if flow.owner == Some(parent) {
                flow.share();
            }
        }
    }

    /// Whether the process alone has it.
    pub fn is_alone(&self, handle: u64, pid: u32) -> bool {
        self.flows()
            .get(&handle)
            .is_some_and(|flow| flow.owner == Some(pid))
    }

    /// Home has sent something ahead. False if nobody wants it.
    pub fn pushed(&self, handle: u64, position: u64, bytes: &[u8]) -> bool {
        let mut flows = self.flows();
        let Some(flow) = flows.get_mut(&handle).filter(|flow| flow.owner.is_some()) else {
            return false;
        };
        flow.position = position;
        flow.ahead = bytes.to_vec();
        true
    }

    /// Home has room for so many bytes behind those `written`.
    pub fn grant(&self, handle: u64, written: u64, room: u32) {
        if let Some(flow) = self.flows().get_mut(&handle) {
            flow.limit = written.saturating_add(u64::from(room));
        }
    }

    /// Reads up to `size` bytes that are here: at least one. Home has to be told.
    pub fn read(&self, handle: u64, pid: u32, size: usize) -> Option<(Vec<u8>, bool)> {
        let mut flows = self.flows();
        let flow = flows.get_mut(&handle)?;
        if flow.owner != Some(pid) || flow.reading > 0 {
            return None;
        }
        let start = usize::try_from(flow.consumed.checked_sub(flow.position)?).ok()?;
        let ahead = flow.ahead.get(start..)?;
        let count = ahead.len().min(size);
        if count == 0 {
            return None;
        }
        let bytes = ahead[..count].to_vec();
        let empty = count == ahead.len();
        flow.consumed += count as u64;
        if empty {
            flow.ahead = Vec::new();
            flow.position = flow.consumed;
        }
        Some((bytes, empty))
    }

    /// The bytes that were read last could not be given to the guest.
    pub fn unread(&self, handle: u64, bytes: Vec<u8>) {
        if let Some(flow) = self.flows().get_mut(&handle) {
            flow.consumed -= bytes.len() as u64;
            if flow.ahead.is_empty() {
                flow.position = flow.consumed;
                flow.ahead = bytes;
            }
        }
    }

    /// Whether all that there may be to read has been looked for: nothing is here, and no read is under way.
    pub fn is_idle(&self, handle: u64, pid: u32) -> bool {
        self.flows()
            .get(&handle)
            .is_some_and(|flow| flow.owner == Some(pid) && flow.reading == 0 && flow.ahead.is_empty())
    }

    /// Whether so many bytes can be acknowledged at once. Then they have to be sent.
    pub fn write(&self, handle: u64, pid: u32, count: usize) -> bool {
        let mut flows = self.flows();
        let Some(flow) = flows.get_mut(&handle) else {
            return false;
        };
        let after = flow.written + count as u64;
        if flow.owner != Some(pid) || flow.writing > 0 || count == 0 || after > flow.limit {
            return false;
        }
        flow.written = after;
        true
    }

    /// Home begins to read or write.
    pub fn begin(&self, handle: u64, reads: bool) {
        if let Some(flow) = self.flows().get_mut(&handle) {
            if reads {
                flow.reading += 1;
            } else {
                flow.writing += 1;
            }
        }
    }

    /// It has read or written so many bytes.
    pub fn end(&self, handle: u64, reads: bool, count: u64) {
        let mut flows = self.flows();
        let Some(flow) = flows.get_mut(&handle) else {
            return;
        };
        if reads {
            flow.reading = flow.reading.saturating_sub(1);
            flow.consumed += count;
        } else {
            flow.writing = flow.writing.saturating_sub(1);
            flow.written += count;
        }
    }
}

impl Flow {
    fn share(&mut self) {
        self.owner = None;
        self.ahead = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_ahead_is_read_once_and_in_order() {
        let streams = Streams::default();
        streams.opened(7, 1);
        assert!(streams.read(7, 1, 10).is_none());
        assert!(streams.pushed(7, 0, b"hello"));
        assert!(streams.read(7, 2, 10).is_none());
        assert_eq!(streams.read(7, 1, 2), Some((b"he".to_vec(), false)));
        assert_eq!(streams.read(7, 1, 10), Some((b"llo".to_vec(), true)));
        assert!(streams.is_idle(7, 1));
        // Looked at before the last bytes were taken: they come again.
        assert!(streams.pushed(7, 2, b"llo you"));
        assert_eq!(streams.read(7, 1, 10), Some((b" you".to_vec(), true)));
        streams.unread(7, b"ou".to_vec());
        assert_eq!(streams.read(7, 1, 10), Some((b"ou".to_vec(), true)));
        // A read at home meanwhile takes what has been sent ahead.
        assert!(streams.pushed(7, 9, b"abcdef"));
        streams.begin(7, true);
        assert!(streams.read(7, 1, 1).is_none() && !streams.is_idle(7, 1));
        streams.end(7, true, 4);
        assert_eq!(streams.read(7, 1, 10), Some((b"ef".to_vec(), true)));
        // What home has sent may be ahead of the reply that it follows.
        streams.begin(7, true);
        assert!(streams.pushed(7, 20, b"xyz"));
        assert!(streams.read(7, 1, 10).is_none());
        streams.end(7, true, 5);
        assert_eq!(streams.read(7, 1, 10), Some((b"xyz".to_vec(), true)));
    }

    #[test]
    fn nothing_is_acknowledged_without_room() {
        let streams = Streams::default();
        streams.opened(7, 1);
        assert!(!streams.write(7, 1, 1));
        streams.grant(7, 0, 10);
        assert!(streams.write(7, 1, 6) && !streams.write(7, 1, 5) && streams.write(7, 1, 4));
        streams.begin(7, false);
        streams.grant(7, 10, 100);
        assert!(!streams.write(7, 1, 1));
        streams.end(7, false, 3);
        assert!(streams.write(7, 1, 97) && !streams.write(7, 1, 1));
        streams.grant(7, 110, 50);
        streams.forked(1);
        assert!(!streams.write(7, 1, 1) && !streams.pushed(7, 0, b"x"));
    }
}
