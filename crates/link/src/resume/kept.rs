//! Bytes in a queue, in chunks: what is sent stays in few places of memory that the processor's caches know, however far the
//! queue has come and however long it was once.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks without bytes that are held on to: as many as a busy link fills and empties again all the time, and an idle one.
const SPARE_MAX: usize = 32;
const SPARE_IDLE: usize = 1;

/// See the module.
#[derive(Debug, Default)]
pub struct Kept {
    /// All are full but for the last.
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first one that were forgotten.
    start: usize,
    length: usize,
    /// Empty chunks; the last was used last.
    spare: Vec<Vec<u8>>,
}

impl Kept {
    /// Bytes in the queue.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Appends bytes.
    pub fn extend(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        while !bytes.is_empty() {
            let chunk = match self.chunks.back_mut() {
                Some(chunk) if chunk.len() < CHUNK_BYTES => chunk,
                _ => {
                    let spare = self.spare.pop();
                    let chunk = spare.unwrap_or_else(|| Vec::with_capacity(CHUNK_BYTES));
                    self.chunks.push_back(chunk);
                    continue;
                }
            };
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - chunk.len()));
            chunk.extend_from_slice(now);
            bytes = later;
        }
    }

    /// Takes so many bytes, at most all, off the front.
    pub fn forget(&mut self, count: usize) {
        self.length -= count;
        self.start += count;
        while self.start >= CHUNK_BYTES || self.length == 0 {
            let Some(mut chunk) = self.chunks.pop_front() else {
                break;
            };
            self.start = self.start.saturating_sub(CHUNK_BYTES);
            chunk.clear();
            if self.spare.len() < SPARE_MAX {
                self.spare.push(chunk);
            }
        }
        if self.length == 0 {
            self.start = 0;
        }
    }

    /// The bytes of a range, or as many as fit in `slices`. Gives how many slices there are.
    pub fn slices<'a>(&'a self, range: Range<usize>, slices: &mut [IoSlice<'a>]) -> usize {
        let (mut at, end) = (self.start + range.start, self.start + range.end);
        let mut count = 0;
        while at < end && count < slices.len() {
            let chunk = &self.chunks[at / CHUNK_BYTES];
            let first = at % CHUNK_BYTES;
            let bytes = &chunk[first..chunk.len().min(first + end - at)];
            slices[count] = IoSlice::new(bytes);
            count += 1;
            at += bytes.len();
        }
        count
    }

    /// Gives memory back.
    pub fn trim(&mut self) {
        self.spare.truncate(SPARE_IDLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything from `from` on.
    fn bytes(kept: &Kept, from: usize, slices: usize) -> Vec<u8> {
        let mut found = vec![IoSlice::new(&[]); slices];
        let count = kept.slices(from..kept.len(), &mut found);
        found[..count].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn it_is_a_queue() {
        let mut kept = Kept::default();
        let mut model = VecDeque::new();
        let mut seed = 1_u32;
        for round in 0..2000_u32 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let size = (seed >> 8) as usize % [10, 3000, 200_000][round as usize % 3];
            let piece: Vec<u8> = (0..size).map(|place| (place as u32 ^ seed) as u8).collect();
            kept.extend(&piece);
            model.extend(piece);
            let gone = match round % 50 {
                49 => model.len(),
                _ => (seed >> 4) as usize % (model.len() + 1),
            };
            kept.forget(gone);
            model.drain(..gone);
            assert_eq!(kept.len(), model.len());
            let from = (seed >> 6) as usize % (model.len() + 1);
            assert_eq!(
                bytes(&kept, from, 10_000),
                model.range(from..).copied().collect::<Vec<_>>()
            );
            // What does not fit in two is not lost, but left.
            let few = bytes(&kept, from, 2);
            assert!(model.range(from..).take(few.len()).eq(&few));
            assert!(kept.spare.len() <= SPARE_MAX);
            if round % 7 == 0 {
                kept.trim();
            }
        }
    }
}
