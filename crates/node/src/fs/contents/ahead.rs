//! What is asked of home before the kernel asks for it: what follows, for whoever reads a file from one end to the other.

use std::collections::HashSet;
use std::ops::Range;

use afield_link::contents::PIECE_BYTES;

/// How far ahead of a read that begins a file.
const WINDOW_BYTES_MIN: u64 = 256 << 10;

/// How far ahead of one that follows many others.
const WINDOW_BYTES_MAX: u64 = 8 << 20;

const PIECE: u64 = PIECE_BYTES as u64;

/// The state of one file. `W` is what waits.
#[derive(Debug)]
pub struct Ahead<W> {
    /// Where a read that follows the last one begins.
    next: u64,
    /// How far ahead is asked; 0 while reads do not follow each other.
    window: u64,
    /// Up to where it has been asked.
    until: u64,
    /// Pieces that are on their way.
    flying: HashSet<u64>,
    /// Who waits, and for which.
    waiting: Vec<(Range<u64>, W)>,
}

impl<W> Default for Ahead<W> {
    fn default() -> Self {
        Self {
            next: 0,
            window: 0,
            until: 0,
            flying: HashSet::new(),
            waiting: Vec::new(),
        }
    }
}

impl<W> Ahead<W> {
    /// Somebody reads `size` bytes at `offset` of a file that has `bytes`. Gives the pieces that are to be asked for, if any, and takes
    /// those that are `wanted` as asked for.
    pub fn follow(
        &mut self,
        (offset, size): (u64, u64),
        bytes: u64,
        wanted: impl Fn(u64) -> bool,
    ) -> Vec<Range<u64>> {
        let end = offset.saturating_add(size).min(bytes);
        let follows = offset == self.next;
        self.next = end;
        if offset == 0 {
            (self.window, self.until) = (WINDOW_BYTES_MIN, 0);
        } else if follows {
            self.window = (self.window * 2).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        } else {
            (self.window, self.until) = (0, 0);
            return Vec::new();
        }
        let last = bytes.div_ceil(PIECE);
        let from = self.until.max(end).div_ceil(PIECE);
        let until = end.saturating_add(self.window).div_ceil(PIECE).min(last);
        // Not a piece at a time.
        if from >= until || (until - from) * PIECE < self.window / 2 && until < last {
            return Vec::new();
        }
        self.until = until * PIECE;
        self.reserve(from..until, wanted)
    }

    /// Takes those of these pieces that are `wanted`, and not on their way, as asked for.
    pub fn reserve(&mut self, pieces: Range<u64>, wanted: impl Fn(u64) -> bool) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for piece in pieces {
            if self.flying.contains(&piece) || !wanted(piece) {
                continue;
            }
            self.flying.insert(piece);
            match ranges.last_mut() {
                Some(range) if range.end == piece => range.end += 1,
                _ => ranges.push(piece..piece + 1),
            }
        }
        ranges
    }

    /// These pieces are asked for, by somebody who needs them now.
    pub fn fly(&mut self, pieces: Range<u64>) {
        self.flying.extend(pieces);
    }

    /// Has this wait if one of the pieces is on its way; gives it back if none is.
    pub fn wait(&mut self, pieces: Range<u64>, waiter: W) -> Result<(), W> {
        if !pieces.clone().any(|piece| self.flying.contains(&piece)) {
            return Err(waiter);
        }
        self.waiting.push((pieces, waiter));
        Ok(())
    }

    /// These pieces have come, or never will: who has waited for them, and for no others that are still on their way.
    pub fn landed(&mut self, pieces: Range<u64>) -> Vec<W> {
        for piece in pieces {
            self.flying.remove(&piece);
        }
        let flying = &self.flying;
        let has_all = |pieces: &Range<u64>| !pieces.clone().any(|piece| flying.contains(&piece));
        let ready = self.waiting.extract_if(.., |(pieces, _)| has_all(pieces));
        ready.map(|(_, waiter)| waiter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: u64 = 128 << 10;

    /// Reads a file in order; how many pieces were asked for ahead, each once.
    fn read_all(bytes: u64) -> u64 {
        let mut ahead = Ahead::<()>::default();
        let mut asked = HashSet::new();
        for offset in (0..bytes).step_by(KERNEL as usize) {
            for range in ahead.follow((offset, KERNEL), bytes, |_| true) {
                assert!(range.start * PIECE >= offset + KERNEL && range.end <= bytes.div_ceil(PIECE));
                assert!(range.end * PIECE <= offset + KERNEL + WINDOW_BYTES_MAX + PIECE);
                asked.extend(range.clone());
                ahead.landed(range);
            }
        }
        asked.len() as u64
    }

    #[test]
    fn everything_behind_the_first_read_is_asked_for() {
        for bytes in [1, KERNEL, KERNEL + 1, 1 << 20, (100 << 20) + 5] {
            let first = KERNEL.min(bytes).div_ceil(PIECE);
            assert_eq!(read_all(bytes), bytes.div_ceil(PIECE) - first, "{bytes}");
        }
    }

    #[test]
    fn nothing_is_asked_for_if_reads_do_not_follow_each_other() {
        let mut ahead = Ahead::<()>::default();
        for offset in [5 * KERNEL, 3 * KERNEL, 2 * KERNEL, 90 * KERNEL, u64::MAX - 1] {
            assert!(ahead.follow((offset, KERNEL), 1 << 30, |_| true).is_empty());
        }
    }

    #[test]
    fn what_is_at_hand_is_left_out() {
        let mut ahead = Ahead::<()>::default();
        let ranges = ahead.follow((0, PIECE), 1 << 20, |piece| piece != 2);
        assert_eq!(ranges, [1..2, 3..5]);
        // On its way already.
        let again = ahead.follow((0, PIECE), 1 << 20, |_| true);
        assert!(again.into_iter().flatten().eq([2]));
    }

    #[test]
    fn who_waits_is_told() {
        let mut ahead = Ahead::default();
        let ranges = ahead.follow((0, PIECE), 1 << 20, |_| true);
        assert!(ranges.into_iter().flatten().eq([1, 2, 3, 4]));
        assert_eq!(ahead.wait(0..1, 'a'), Err('a'));
        assert_eq!(ahead.wait(0..2, 'b'), Ok(()));
        assert_eq!(ahead.wait(4..9, 'c'), Ok(()));
        assert_eq!(ahead.landed(2..5), ['c']);
        assert_eq!(ahead.landed(1..2), ['b']);
        assert_eq!(ahead.wait(4..9, 'd'), Err('d'));
    }
}
