//! `cilmark identity set|list|del`.

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

use super::Context;
use crate::model::identity::Identity;
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
    /// Show the declared names
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
    name: &'a str,
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
            let lines: Vec<Named<'_>> =
                names.declared().map(|(identity, name)| Named { identity, name }).collect();
            if context.json {
                return output::json(&lines);
            }
            let rows: Vec<[String; 2]> =
                lines.iter().map(|line| [line.identity.to_string(), line.name.into()]).collect();
            output::table(["IDENTITY", "NAME"], &rows)
        }
        Command::Del { identity } => {
            let identity = names.parse(&identity)?;
            let _lock = ops::lock(&context.root)?;
            identities::delete(&context.root, identity)
        }
    }
}
