//! `cilmark export`.

use anyhow::{Context as _, Result};
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;

use super::Context;
use crate::model::origin::Origin;
use crate::ops::export;
use crate::output;

#[derive(clap::Args)]
pub struct Args {
    /// Of whom: what the file has made, commands, or runtimes' hooks
    #[arg(long, value_name = "WHO", value_delimiter = ',', default_value = "file", value_parser = origins())]
    origin: Vec<Origin>,
    /// Of all of them
    #[arg(long, conflicts_with = "origin")]
    all: bool,
}

/// A cluster's lines come from the cluster, and would be nobody's in a file.
const TOLD: [Origin; 3] = [Origin::File, Origin::Command, Origin::Hook];

fn origins() -> impl TypedValueParser<Value = Origin> {
    let names = TOLD.map(Origin::name);
    PossibleValuesParser::new(names).try_map(|text| text.parse::<Origin>())
}

pub fn run(context: &Context, args: Args) -> Result<()> {
    let origins =
        if args.all { TOLD.into_iter().collect() } else { args.origin.into_iter().collect() };
    let export = export::export(&context.root, &origins)?;
    match context.json {
        true => output::json(&export)?,
        false => output::lines(&toml::to_string_pretty(&export).context("write the file")?)?,
    }
    for (origin, count) in &export.left_out {
        let things = if *count == 1 { "thing" } else { "things" };
        let hint = match origin {
            Origin::Cluster => String::new(),
            origin => format!("; --origin {origin} or --all has them"),
        };
        output::note(&format!("left out: {count} {things} that a {origin} has made{hint}"));
    }
    Ok(())
}
