//! `cilmark identity set|list|del`.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

use super::Context;
use crate::model::identity::Identity;
use crate::ops::cluster::labels;
use crate::ops::{self, identities};
use crate::output;

#[derive(Subcommand)]
pub enum Command {
    /// Name an identity
    Set {
        /// A number
        #[arg(value_name = "ID")]
        identity: String,
        /// Letters a-z, digits, - _ . and at most 31 bytes
        name: String,
    },
    /// Show the declared names, and the labels that clusters tell
    List,
    /// Forget the name of an identity
    Del {
        /// A number or a name
        #[arg(value_name = "ID")]
        identity: String,
    },
}

#[derive(Serialize)]
struct Named<'a> {
    identity: Identity,
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<&'a str>,
}

pub fn run(context: &Context, command: Command) -> Result<()> {
    let names = context.names()?;
    match command {
        Command::Set { identity, name } => {
            let identity = names.parse(&identity)?;
            names.check_declaration(identity, &name)?;
            let _lock = ops::prepare(&context.root, false)?;
            identities::set(&context.root, identity, &name)
        }
        Command::List => {
            let mut lines: BTreeMap<Identity, Named<'_>> = names
                .declared()
                .map(|(identity, name)| {
                    (identity, Named { identity, name: Some(name), labels: None })
                })
                .collect();
            let mut labels = BTreeMap::new();
            labels::for_each(&context.root, |identity, text| _ = labels.insert(identity, text))?;
            for (identity, text) in &labels {
                let nobody = Named { identity: *identity, name: None, labels: None };
                lines.entry(*identity).or_insert(nobody).labels = Some(text);
            }
            print(context, lines.into_values().collect())
        }
        Command::Del { identity } => {
            let identity = names.parse(&identity)?;
            let _lock = ops::lock(&context.root)?;
            identities::delete(&context.root, identity)
        }
    }
}

/// Labels have a column where a cluster has told any.
fn print(context: &Context, lines: Vec<Named<'_>>) -> Result<()> {
    if context.json {
        return output::json(&lines);
    }
    let rows = lines.iter().map(|line| {
        let [name, labels] = [line.name, line.labels].map(|it| it.unwrap_or_default().to_owned());
        [line.identity.to_string(), name, labels]
    });
    if lines.iter().any(|line| line.labels.is_some()) {
        return output::table(["IDENTITY", "NAME", "LABELS"], &rows.collect::<Vec<_>>());
    }
    let rows = rows.map(|[identity, name, _]| [identity, name]);
    output::table(["IDENTITY", "NAME"], &rows.collect::<Vec<_>>())
}
