//! NumPy's default generator, so that the random baseline can be compared with published figures.

/// PCG64 (XSL-RR 128/64, O'Neill 2014) in the state of `numpy.random.default_rng(0)`.
pub(crate) struct Pcg64 {
    state: u128,
    increment: u128,
}

impl Pcg64 {
    pub(crate) fn numpy_zero() -> Self {
        Self {
            state: 35_399_562_948_360_463_058_890_781_895_381_311_971,
            increment: 87_136_372_517_582_989_555_478_159_403_783_844_777,
        }
    }

    fn next(&mut self) -> u64 {
        const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
        let (high, low) = (self.state >> 64, self.state & u128::from(u64::MAX));
        let folded = u64::try_from(high ^ low).unwrap_or_default();
        folded.rotate_right(u32::try_from(self.state >> 122).unwrap_or_default())
    }

    /// Uniform in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..`below`.
    #[expect(clippy::cast_possible_truncation, reason = "the product is below `below`")]
    pub(crate) fn below(&mut self, below: usize) -> usize {
        (self.uniform() * below as f64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_numbers_are_those_of_numpy() {
        let mut random = Pcg64::numpy_zero();
        assert!((random.uniform() - 0.636_961_69).abs() < 1e-8);
        assert!((random.uniform() - 0.269_786_71).abs() < 1e-8);
    }
}
