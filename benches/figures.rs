//! What all sections measure, but for what a packet costs: figures with their spread.

use anyhow::Result;
use cilmark::output;
use serde::Serialize;

/// One figure, of samples from interleaved rounds.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured, such as `packet rate`.
    pub measure: String,
    /// Of what: `cilmark`, or what it is compared with.
    pub subject: String,
    /// How many addresses, endpoints or entries there were.
    pub size: u64,
    /// Of the three that follow.
    pub unit: &'static str,
    /// Half of the samples are below it.
    pub median: f64,
    /// A quarter of the samples is below it.
    pub low: f64,
    /// A quarter of the samples is above it.
    pub high: f64,
    /// How many samples there were.
    pub rounds: usize,
}

impl Figure {
    /// From samples, at least one of them.
    pub fn of(
        measure: &str,
        subject: &str,
        size: u64,
        unit: &'static str,
        samples: &[f64],
    ) -> Figure {
        Figure {
            measure: measure.to_owned(),
            subject: subject.to_owned(),
            size,
            unit,
            median: quantile(samples, 0.5),
            low: quantile(samples, 0.25),
            high: quantile(samples, 0.75),
            rounds: samples.len(),
        }
    }
}

/// The sample below which this part of them lies, between two neighbours in proportion.
pub fn quantile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = part * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// Prints figures as a table.
pub fn print(figures: &[Figure]) -> Result<()> {
    let number = |number: f64| match number.abs() {
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    };
    let rows: Vec<[String; 8]> = figures
        .iter()
        .map(|figure| {
            [
                figure.measure.clone(),
                figure.subject.clone(),
                figure.size.to_string(),
                number(figure.median),
                number(figure.low),
                number(figure.high),
                figure.unit.to_owned(),
                figure.rounds.to_string(),
            ]
        })
        .collect();
    output::table(["MEASURE", "OF", "SIZE", "MEDIAN", "LOW", "HIGH", "UNIT", "ROUNDS"], &rows)
}
