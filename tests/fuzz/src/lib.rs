//! Structure-aware fuzzing as ordinary tests: good messages are damaged as peers damage them, in sequences that follow from a seed.
//!
//! `AFIELD_FUZZ_SECONDS` says how long each target runs (3), `AFIELD_FUZZ_SEED` where it begins. A failure prints the seed and
//! the input.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// A random sequence (xorshift).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Values at which code that counts goes wrong.
const EDGES: [u64; 20] = [
    0,
    1,
    2,
    7,
    0x7f,
    0x80,
    0xff,
    0x100,
    4095,
    4096,
    4097,
    0x7fff,
    0xffff,
    8 << 20,
    (8 << 20) + 1,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX,
];

/// Damages a message a little.
pub fn mutate(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    for _ in 0..1 + random.below(4) {
        let length = bytes.len();
        let at = random.below(length + 1);
        match random.below(9) {
            0 if length > 0 => bytes[at % length] ^= 1 << random.below(8),
            1 if length > 0 => bytes[at % length] = random.number() as u8,
            // A number of some width.
            2 | 3 if length > 0 => {
                let edge = random.pick(&EDGES).to_le_bytes();
                let near = (length as u64)
                    .wrapping_add(random.number() % 5)
                    .wrapping_sub(2)
                    .to_le_bytes();
                let value = if random.below(3) == 0 { near } else { edge };
                let width = *random.pick(&[1, 2, 4, 8]);
                for (place, byte) in bytes[at % length..].iter_mut().zip(&value[..width]) {
                    *place = *byte;
                }
            }
            4 => bytes.truncate(at),
            5 => {
                let count = random.below(20);
                let piece: Vec<u8> = (0..count).map(|_| random.number() as u8).collect();
                bytes.splice(at..at, piece);
            }
            6 if length > 0 => {
                let end = (at + random.below(16)).min(length);
                bytes.drain(at.min(end)..end);
            }
            7 if length > 0 && length < 1 << 16 => {
                let end = (at + random.below(64)).min(length);
                let piece = bytes[at.min(end)..end].to_vec();
                let to = random.below(length + 1);
                bytes.splice(to..to, piece);
            }
            8 if !others.is_empty() => {
                // The beginning of one and the end of another.
                let other = random.pick(others);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            _ => {}
        }
    }
}

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(usual)
}

/// Has `target` take damaged messages until the time is over; how many it took.
///
/// # Panics
/// If the target panics: with the seed and the input.
pub fn run(good: &[Vec<u8>], mut target: impl FnMut(&mut Random, &[u8])) -> u64 {
    let seed = setting("AFIELD_FUZZ_SEED", 1);
    let end = Instant::now() + Duration::from_secs(setting("AFIELD_FUZZ_SECONDS", 3));
    let mut random = Random::new(seed);
    let mut count = 0;
    for message in good {
        target(&mut random, message);
    }
    while Instant::now() < end {
        for _ in 0..256 {
            let mut bytes = random.pick(good).clone();
            mutate(&mut random, &mut bytes, good);
            let outcome = catch_unwind(AssertUnwindSafe(|| target(&mut random, &bytes)));
            assert!(outcome.is_ok(), "seed {seed}, input {count}: {bytes:02x?}");
            count += 1;
        }
    }
    count
}
