//! Random weights: the same numbers on every machine, for models of a shape and for checks of kernels.

/// What fills a stream of a random matrix.
pub enum Fill {
    /// The format has no such stream.
    Nothing,
    /// Random bytes.
    Random,
    /// These bytes, again and again.
    Repeat(Vec<u8>),
}

impl Fill {
    /// `count` bytes of it.
    pub fn bytes(&self, count: usize, seed: u64) -> Vec<u8> {
        match self {
            Fill::Nothing => Vec::new(),
            Fill::Random => random_bytes(seed, count),
            Fill::Repeat(pattern) => {
                let mut bytes = pattern.repeat(count.div_ceil(pattern.len().max(1)));
                bytes.truncate(count);
                bytes
            }
        }
    }
}

/// The next of SplitMix64's numbers.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `count` random bytes.
pub fn random_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes: Vec<u8> = (0..count.div_ceil(8)).flat_map(|_| split_mix(&mut state).to_le_bytes()).collect();
    bytes.truncate(count);
    bytes
}
