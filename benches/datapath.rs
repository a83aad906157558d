//! What cilmark costs, side by side with what it is compared with, in the same run.
//!
//! `cargo bench` measures what a packet costs in each program, and `cargo bench -- SECTION` another
//! section; `--json FILE` writes the figures down. `make bench` runs them all.

mod attach;
/// The floods of the soak are those of the tests.
#[path = "../tests/common/mod.rs"]
#[allow(dead_code)]
mod common;
mod control;
mod endpoints;
mod figures;
mod packet;
mod peers;
mod random;
mod samples;
mod soak;
mod world;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

#[derive(Parser)]
struct Args {
    /// What to measure
    #[arg(value_enum, default_value_t = Section::Packet)]
    section: Section,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How long the soak lasts
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Section {
    /// What a packet costs in each program
    Packet,
    /// How long endpoints take to come, to change and to go, beside what the kernel takes
    Attach,
    /// How long the ipcache and rules take to change, and until every flow obeys
    Control,
    /// Beside what a user would pick instead, on real packets
    Peers,
    /// Short connections while programs and rules are replaced, and floods
    Soak,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let measured = match args.section {
        Section::Packet => serde_json::to_value(packet::measure()?)?,
        Section::Attach => serde_json::to_value(attach::measure()?)?,
        Section::Control => serde_json::to_value(control::measure()?)?,
        Section::Peers => serde_json::to_value(peers::measure()?)?,
        Section::Soak => serde_json::to_value(soak::measure(args.seconds)?)?,
    };
    let Some(file) = args.json else { return Ok(()) };
    let text = serde_json::to_string_pretty(&measured)? + "\n";
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))
}
