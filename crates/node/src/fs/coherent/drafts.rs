//! What guests have written to small files that they have made: pure.
//!
//! The kernel keeps what is written a page at a time, and of a page that has not been written whole it asks for the rest: a program that goes
//! back in what it writes, or reads what another one has just written, would wait for home to send what came from here. Of a
//! file that was empty when home opened it for a guest, and of which home says when somebody else changes it, everything is known that is in
//! it as long as all of it is written in the stream's order.

use std::collections::{HashMap, VecDeque};

/// Most bytes of one file.
const FILE_BYTES_MAX: usize = 64 << 10;

/// Most bytes of all files. The oldest go first.
const BYTES_MAX: usize = 8 << 20;

/// Most files.
const FILES_MAX: usize = 4096;

/// The files.
#[derive(Debug, Default)]
pub struct Drafts {
    of: HashMap<u64, Draft>,
    /// When they were begun: nodes, some of which are gone, or begun anew.
    order: VecDeque<(u64, u64)>,
    /// Count of those begun so far.
    begun: u64,
    bytes: usize,
    /// There are none any more.
    over: bool,
}

#[derive(Debug)]
struct Draft {
    /// Which of all it is.
    number: u64,
    bytes: Vec<u8>,
}

impl Drafts {
    /// There is nothing in a file.
    pub fn begin(&mut self, node: u64) {
        self.forget(node);
        if self.over {
            return;
        }
        self.begun += 1;
        let number = self.begun;
        self.of.insert(
            node,
            Draft {
                number,
                bytes: Vec::new(),
            },
        );
        self.order.push_back((node, number));
        self.limit();
    }

    /// A guest has written to a file, and home does so before anything later.
    pub fn write(&mut self, node: u64, offset: u64, data: &[u8]) {
        let Some(draft) = self.of.get_mut(&node) else {
            return;
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(data.len());
        if end > FILE_BYTES_MAX {
            return self.forget(node);
        }
        let before = draft.bytes.len();
        if before < end {
            // What lies between is a hole.
            draft.bytes.resize(end, 0);
        }
        draft.bytes[start..end].copy_from_slice(data);
        self.bytes += draft.bytes.len() - before;
        self.limit();
    }

    /// Whether it is known what is in a file.
    pub fn has(&self, node: u64) -> bool {
        self.of.contains_key(&node)
    }

    /// What a reading gives, if that is known.
    pub fn read(&self, node: u64, offset: u64, size: usize) -> Option<&[u8]> {
        let bytes = &self.of.get(&node)?.bytes[..];
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(size).min(bytes.len());
        Some(&bytes[start..end])
    }

    /// A file is not what was written any more, as far as is known.
    pub fn forget(&mut self, node: u64) {
        if let Some(draft) = self.of.remove(&node) {
            self.bytes -= draft.bytes.len();
        }
    }

    /// No file is.
    pub fn forget_all(&mut self) {
        *self = Self {
            begun: self.begun,
            over: self.over,
            ..Self::default()
        };
    }

    /// From now on guests see at home what is opened and read.
    pub fn end(&mut self) {
        self.over = true;
        self.forget_all();
    }

    fn limit(&mut self) {
        while self.bytes > BYTES_MAX || self.of.len() > FILES_MAX || self.order.len() > 2 * FILES_MAX {
            let Some((node, number)) = self.order.pop_front() else {
                return;
            };
            if self.of.get(&node).is_some_and(|draft| draft.number == number) {
                self.forget(node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut drafts = Drafts::default();
        assert_eq!(drafts.read(7, 0, 10), None);
        drafts.write(7, 0, b"unknown");
        assert_eq!(drafts.read(7, 0, 10), None);
        drafts.begin(7);
        assert_eq!(drafts.read(7, 0, 10), Some(&b""[..]));
        drafts.write(7, 2, b"cd");
        drafts.write(7, 1, b"b");
        assert_eq!(drafts.read(7, 0, 10), Some(&b"\0bcd"[..]));
        assert_eq!(drafts.read(7, 1, 2), Some(&b"bc"[..]));
        assert_eq!(drafts.read(7, 9, 2), Some(&b""[..]));
        assert_eq!(drafts.read(7, u64::MAX, usize::MAX), Some(&b""[..]));
        drafts.begin(7);
        assert_eq!(drafts.read(7, 0, 10), Some(&b""[..]));
        drafts.forget(7);
        assert_eq!((drafts.read(7, 0, 10), drafts.bytes), (None, 0));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut drafts = Drafts::default();
        drafts.begin(1);
        drafts.write(1, FILE_BYTES_MAX as u64 - 1, b"ab");
        assert_eq!(drafts.read(1, 0, 1), None);
        drafts.begin(1);
        drafts.write(1, u64::MAX, b"a");
        assert_eq!(drafts.read(1, 0, 1), None);
        for node in 0..2 * FILES_MAX as u64 {
            drafts.begin(node);
            drafts.write(node, 0, &[1; FILE_BYTES_MAX / 2]);
            drafts.write(node, 0, &[2; FILE_BYTES_MAX / 2]);
        }
        assert!(
            drafts.bytes <= BYTES_MAX && drafts.of.len() <= FILES_MAX && drafts.order.len() <= 2 * FILES_MAX
        );
        assert_eq!(drafts.read(0, 0, 1), None);
        let last = 2 * FILES_MAX as u64 - 1;
        assert_eq!(drafts.read(last, 5, 2), Some(&[2, 2][..]));
        let sum: usize = drafts.of.values().map(|draft| draft.bytes.len()).sum();
        assert_eq!(drafts.bytes, sum);
        drafts.end();
        drafts.begin(1);
        assert_eq!((drafts.bytes, drafts.read(1, 0, 1)), (0, None));
    }
}
