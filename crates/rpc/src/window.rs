//! Which of the latest numbers have been seen.

/// How far back it is known. On an ordered connection numbers are mixed up only by threads that send at the same time.
const WIDTH: u64 = 1024;

/// A bitmap that moves along.
#[derive(Debug, Clone)]
pub struct Window {
    /// The highest number seen.
    top: u64,
    /// Number `n` at bit `n % WIDTH`.
    seen: [u64; (WIDTH / 64) as usize],
}

impl Default for Window {
    fn default() -> Self {
        Self {
            top: 0,
            seen: [0; (WIDTH / 64) as usize],
        }
    }
}

impl Window {
    /// Takes note of a number, from 1; false if it was seen before, or is too old for that to be known.
    pub fn take(&mut self, number: u64) -> bool {
        if number == 0 || number.saturating_add(WIDTH) <= self.top {
            return false;
        }
        if number > self.top {
            let gone = (number - self.top).min(WIDTH);
            for passed in 0..gone {
                self.clear(number - passed);
            }
            self.top = number;
        }
        let (word, bit) = Self::place(number);
        let before = self.seen[word];
        self.seen[word] |= bit;
        before & bit == 0
    }

    fn clear(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        self.seen[word] &= !bit;
    }

    fn place(number: u64) -> (usize, u64) {
        let place = number % WIDTH;
        ((place / 64) as usize, 1 << (place % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_taken_once() {
        let mut window = Window::default();
        assert!(!window.take(0));
        for number in [1, 3, 2, 1000, 999, 5, 1026] {
            assert!(window.take(number), "{number}");
            assert!(!window.take(number), "{number}");
        }
        // Too old to know.
        assert!(!window.take(1));
        assert!(!window.take(2));
        assert!(window.take(4));
        assert!(window.take(1_000_000));
        assert!(!window.take(1026));
        assert!(window.take(999_999));
        assert!(window.take(u64::MAX - WIDTH));
    }
}
