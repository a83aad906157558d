//! How sure a median is, of samples that were taken side by side in the same rounds.

use crate::figures::quantile;

const RESAMPLES: usize = 2000;

/// Numbers in an order that nothing follows, the same in every run.
pub struct Random(u64);

impl Random {
    /// Any seed but 0.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below this one (xorshift64).
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    /// All numbers below this one, shuffled.
    pub fn order(&mut self, end: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..end).collect();
        for place in (1..end).rev() {
            order.swap(place, self.below(place + 1));
        }
        order
    }
}

/// What the rounds say, and between which bounds it would be in 95 of 100 runs like this one, by
/// bootstrap: whole rounds are drawn again, so that what was taken side by side stays so.
pub fn sure(rounds: usize, statistic: impl Fn(&[usize]) -> f64) -> [f64; 3] {
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let all: Vec<usize> = (0..rounds).collect();
    let again: Vec<f64> = (0..RESAMPLES)
        .map(|_| statistic(&(0..rounds).map(|_| random.below(rounds)).collect::<Vec<_>>()))
        .collect();
    [statistic(&all), quantile(&again, 0.025), quantile(&again, 0.975)]
}

/// The median of these rounds of some samples.
pub fn median_of(samples: &[f64], rounds: &[usize]) -> f64 {
    let drawn: Vec<f64> = rounds.iter().map(|&round| samples[round]).collect();
    quantile(&drawn, 0.5)
}
