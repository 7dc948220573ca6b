//! The one generator that data is shuffled with.

/// Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators": small, seeded by any number, and the
/// same on every platform and in every version, which saved runs rely on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitMix64 {
    /// All there is to the generator: one with the same number goes on with the same draws.
    pub state: u64,
}

impl SplitMix64 {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Fisher and Yates's shuffle. The high bits of a product map a draw to its range; the bias is below 2^-40 for any
    /// dataset that fits in memory.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            let draw = u128::from(self.next()) * (last as u128 + 1);
            values.swap(last, (draw >> 64) as usize);
        }
    }
}
