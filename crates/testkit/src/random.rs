//! Numbers that a seed repeats.

/// A small generator (SplitMix64): good enough to choose test operations, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator that this seed always gives.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of the values, which must not be empty.
    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

/// The seed to start from: `LIFEBOAT_SEED` when set, the clock under `LIFEBOAT_FULL=1`, else `usual`, so that the quick
/// set is the same at every run. The caller prints it.
pub fn seed(usual: u64) -> u64 {
    if let Ok(text) = std::env::var("LIFEBOAT_SEED") {
        return text.parse().expect("LIFEBOAT_SEED is a decimal number");
    }
    if !crate::report::full() {
        return usual;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map(|since| since.as_nanos() as u64).unwrap_or(usual)
}

/// Bytes that `tag` determines, for file contents that can be checked without keeping them.
pub fn bytes(tag: u64, length: usize) -> Vec<u8> {
    let mut generator = Random::new(tag);
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        out.extend_from_slice(&generator.word().to_le_bytes());
    }
    out.truncate(length);
    out
}
