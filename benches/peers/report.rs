//! From samples to figures: what each setup shows, what it adds, and how it compares.

use anyhow::{Context, Result};
use cilmark::output;

use super::setups::Setup;
use super::statistics::{median_of, sure};
use super::topology::Topology;
use crate::figures::Figure;

/// What was sampled of one measure: for each topology, a sample of each round.
pub struct Samples {
    pub name: &'static str,
    pub unit: &'static str,
    pub topologies: Vec<Vec<f64>>,
}

impl Samples {
    fn rounds(&self) -> usize {
        self.topologies[0].len()
    }

    /// In each round, the mean of the topologies that have no firewall.
    fn nothing(&self, topologies: &[Topology]) -> Vec<f64> {
        let bare = topologies
            .iter()
            .zip(&self.topologies)
            .filter(|(topology, _)| topology.setup == Setup::Nothing);
        let bare: Vec<&Vec<f64>> = bare.map(|(_, samples)| samples).collect();
        let mean = |round: usize| {
            bare.iter().map(|samples| samples[round]).sum::<f64>() / bare.len() as f64
        };
        (0..self.rounds()).map(mean).collect()
    }
}

/// All rows of the table, measure by measure.
pub fn figures(topologies: &[Topology], all: &[Samples]) -> Vec<Figure> {
    let mut figures = Vec::new();
    for samples in all {
        for (topology, of_topology) in topologies.iter().zip(&samples.topologies) {
            let (name, unit) = (samples.name, samples.unit);
            figures.push(Figure::of(
                name,
                topology.setup.name(),
                topology.size.into(),
                unit,
                of_topology,
            ));
        }
        figures.extend(against_nothing(topologies, samples));
        if samples.unit == "ns" {
            figures.extend(added(topologies, samples));
        }
    }
    figures
}

/// Prints a row for each measure and size, with the setups side by side. Behind `±` is half of what lies
/// between the bounds.
pub fn print(figures: &[Figure]) -> Result<()> {
    let setups = Setup::ALL.map(Setup::name);
    let mut rows: Vec<[String; 9]> = Vec::new();
    for figure in figures {
        let row = [figure.measure.clone(), figure.size.to_string(), figure.unit.to_owned()];
        let place = rows.iter().position(|other| other[..3] == row).unwrap_or_else(|| {
            let mut cells: [String; 9] = Default::default();
            cells[..3].clone_from_slice(&row);
            rows.push(cells);
            rows.len() - 1
        });
        let setup = setups.iter().position(|name| *name == figure.subject);
        rows[place][3 + setup.context("a figure of no setup")?] = cell(figure);
    }
    eprintln!(
        "±: half of what lies between the quartiles, and of what is compared (within each round) half \
        of the interval in which the median is with a probability of 95%"
    );
    let [nothing, cilmark, local, nftables, iptables, tc] = setups;
    let heading = ["MEASURE", "SIZE", "UNIT", nothing, cilmark, local, nftables, iptables, tc];
    output::table(heading, &rows)
}

fn cell(figure: &Figure) -> String {
    let half = (figure.high - figure.low) / 2.0;
    match figure.median.abs().max(half) {
        100.0.. => format!("{:.0} ±{half:.0}", figure.median),
        10.0.. => format!("{:.1} ±{half:.1}", figure.median),
        _ => format!("{:.2} ±{half:.2}", figure.median),
    }
}

/// A figure whose bounds are those between which its median is with a probability of 95%.
fn derived(
    samples: &Samples,
    topology: &Topology,
    compared: &str,
    unit: &'static str,
    statistic: impl Fn(&[usize]) -> f64,
) -> Figure {
    let rounds = samples.rounds();
    let [median, low, high] = sure(rounds, statistic);
    let measure = format!("{} {compared}", samples.name);
    let subject = topology.setup.name().to_owned();
    Figure { measure, subject, size: topology.size.into(), unit, median, low, high, rounds }
}

/// How much more or less it is than with no firewall at all, within each round.
fn against_nothing(topologies: &[Topology], samples: &Samples) -> Vec<Figure> {
    let nothing = samples.nothing(topologies);
    let of = |(topology, of_topology): (&Topology, &Vec<f64>)| {
        let more: Vec<f64> = of_topology
            .iter()
            .zip(&nothing)
            .map(|(own, bare)| (own / bare - 1.0) * 100.0)
            .collect();
        derived(samples, topology, "against nothing", "%", |rounds| median_of(&more, rounds))
    };
    let pairs = topologies.iter().zip(&samples.topologies);
    pairs.filter(|(topology, _)| topology.setup != Setup::Nothing).map(of).collect()
}

/// What is added to no firewall at all, and that as a part of what nftables adds. The rows of
/// `nothing` show how much two topologies differ that should not.
fn added(topologies: &[Topology], samples: &Samples) -> Vec<Figure> {
    let nothing = samples.nothing(topologies);
    let over = |of_topology: &Vec<f64>| -> Vec<f64> {
        of_topology.iter().zip(&nothing).map(|(own, bare)| own - bare).collect()
    };
    let over: Vec<Vec<f64>> = samples.topologies.iter().map(over).collect();
    let pairs = || topologies.iter().zip(&over);
    let mut figures: Vec<Figure> = pairs()
        .map(|(topology, own)| {
            derived(samples, topology, "added", "ns", |rounds| median_of(own, rounds))
        })
        .collect();
    for (topology, own) in pairs() {
        let nftables = pairs()
            .find(|(other, _)| other.setup == Setup::Nftables && other.size == topology.size)
            .filter(|_| ![Setup::Nothing, Setup::Nftables].contains(&topology.setup));
        let Some((_, nftables)) = nftables else { continue };
        figures.push(derived(samples, topology, "added, against nftables", "times", |rounds| {
            median_of(own, rounds) / median_of(nftables, rounds)
        }));
    }
    figures
}
