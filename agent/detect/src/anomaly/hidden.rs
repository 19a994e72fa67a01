//! The fixed random units of the forecast: the same for every host, from the seed in the manifest.

use super::fit::narrow;

/// Spread of the units' biases.
const BIAS_SPREAD: f64 = 0.5;

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in (0, 1].
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal (Box and Muller).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Weights, `past` rows of `units`, of variance 1 / `past`, and the units' biases.
pub(super) fn units(seed: u64, past: usize, units: usize) -> (Vec<f32>, Vec<f32>) {
    let mut random = SplitMix(seed);
    let scale = 1.0 / (past.max(1) as f64).sqrt();
    let weight = (0..past * units)
        .map(|_| narrow(random.normal() * scale))
        .collect();
    let bias = (0..units)
        .map(|_| narrow(random.normal() * BIAS_SPREAD))
        .collect();
    (weight, bias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_the_same_every_time_and_spread_as_documented() {
        let (weight, bias) = units(7, 100, 64);
        assert_eq!(units(7, 100, 64), (weight.clone(), bias));
        let variance = weight.iter().map(|w| w * w).sum::<f32>() / weight.len() as f32;
        assert!((variance * 100.0 - 1.0).abs() < 0.05, "{variance}");
    }
}
