//! A small generator (SplitMix64), so that a seed replays a run.

#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From `AFIELD_E2E_SEED`: a number, or `new` for one that nobody has tried. Without it, each test has its own that
    /// is always the same, so that what fails is what was changed; new ones are for searching.
    pub fn seeded(test: &str) -> Self {
        let seed = match std::env::var("AFIELD_E2E_SEED").as_deref() {
            Ok("new") => std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
            Ok(text) => text.parse().expect("AFIELD_E2E_SEED is a number, or new"),
            Err(_) => test.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            }),
        };
        eprintln!("{test}: AFIELD_E2E_SEED={seed}");
        Self(seed)
    }

    /// From this seed.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// One of `items`, if there is one.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() {
            None
        } else {
            items.get(self.below(items.len() as u64) as usize)
        }
    }
}
