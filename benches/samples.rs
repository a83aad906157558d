//! Samples that are taken in turns, until they are figures.

use std::time::Instant;

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::figures::Figure;

/// Samples under the names of their figures, in the order in which these were first heard of.
#[derive(Default)]
pub struct Samples {
    all: Vec<Series>,
}

struct Series {
    measure: &'static str,
    subject: String,
    size: u64,
    unit: &'static str,
    samples: Vec<f64>,
}

impl Samples {
    /// Adds one, in `unit`.
    pub fn add(
        &mut self,
        measure: &'static str,
        subject: &str,
        size: u64,
        unit: &'static str,
        sample: f64,
    ) {
        let same = |series: &&mut Series| {
            (series.measure, series.subject.as_str(), series.size) == (measure, subject, size)
        };
        match self.all.iter_mut().find(same) {
            Some(series) => series.samples.push(sample),
            None => {
                let (subject, samples) = (subject.to_owned(), vec![sample]);
                self.all.push(Series { measure, subject, size, unit, samples });
            }
        }
    }

    /// What they come to, those of a measure together.
    pub fn figures(mut self) -> Vec<Figure> {
        let mut measures: Vec<&str> = Vec::new();
        for series in &self.all {
            if !measures.contains(&series.measure) {
                measures.push(series.measure);
            }
        }
        let place = |measure| measures.iter().position(|known| *known == measure);
        self.all.sort_by_key(|series| place(series.measure));
        let figure = |series: Series| {
            let Series { measure, subject, size, unit, samples } = series;
            Figure::of(measure, &subject, size, unit, &samples)
        };
        self.all.into_iter().map(figure).collect()
    }
}

/// What something took.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// From its beginning to its end.
    pub ms: f64,
    /// Of this process and of those that it has waited for.
    pub cpu_ms: f64,
}

/// What it took, in ms.
pub fn cost_of<T>(action: impl FnOnce() -> Result<T>) -> Result<(Cost, T)> {
    let (cpu, start) = (cpu_ms()?, Instant::now());
    let done = action()?;
    let ms = start.elapsed().as_secs_f64() * 1e3;
    Ok((Cost { ms, cpu_ms: cpu_ms()? - cpu }, done))
}

/// How long it took, in ms.
pub fn timed<T>(action: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    cost_of(action).map(|(cost, done)| (cost.ms, done))
}

fn cpu_ms() -> Result<f64> {
    let mut sum = 0.0;
    for whose in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(whose)?;
        sum += (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e3;
    }
    Ok(sum)
}
