//! How sure a median is, of samples that were taken side by side in the same rounds.

use crate::figures::quantile;
use crate::random::Random;

const RESAMPLES: usize = 2000;

/// What the rounds say, and between which bounds it would be in 95 of 100 runs like this one, by
/// bootstrap: whole rounds are drawn again, so that what was taken side by side stays so.
pub fn sure(rounds: usize, statistic: impl Fn(&[usize]) -> f64) -> [f64; 3] {
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let all: Vec<usize> = (0..rounds).collect();
    let again: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            statistic(
                &(0..rounds).map(|_| random.below(rounds as u64) as usize).collect::<Vec<_>>(),
            )
        })
        .collect();
    [statistic(&all), quantile(&again, 0.025), quantile(&again, 0.975)]
}

/// The median of these rounds of some samples.
pub fn median_of(samples: &[f64], rounds: &[usize]) -> f64 {
    let drawn: Vec<f64> = rounds.iter().map(|&round| samples[round]).collect();
    quantile(&drawn, 0.5)
}
