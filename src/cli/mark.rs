//! `cilmark mark encode|decode`.

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

use super::Context;
use crate::model::identity::Identity;
use crate::model::mark::{Magic, Mark};
use crate::output;

#[derive(Subcommand)]
pub enum Command {
    /// The mark that an identity is stamped as
    Encode {
        /// A number or a name
        #[arg(value_name = "ID")]
        identity: String,
    },
    /// What a mark says
    Decode {
        /// Such as 0x04d20f00
        #[arg(value_name = "MARK")]
        mark: Mark,
    },
}

#[derive(Serialize)]
struct Decoded {
    identity: Option<Identity>,
    mark: Mark,
    magic: Option<Magic>,
}

pub fn run(context: &Context, command: Command) -> Result<()> {
    let (mark, encoding) = match command {
        Command::Encode { identity } => {
            // A number needs no names, and so no privilege to read them.
            let number = Identity::from_number_or_reserved(&identity);
            let identity = number.map_or_else(|| context.names()?.parse(&identity), Ok)?;
            (Mark::encode(identity)?, true)
        }
        Command::Decode { mark } => (mark, false),
    };
    if context.json {
        output::json(&Decoded { identity: mark.identity(), mark, magic: mark.magic() })
    } else if encoding {
        output::line(&mark.to_string())
    } else {
        // Names are a courtesy here; without the privilege to read them numbers will do.
        output::line(&describe(context, mark))
    }
}

fn describe(context: &Context, mark: Mark) -> String {
    let Some(magic) = mark.magic() else {
        return format!("{mark}: not one of ours");
    };
    let mut text = format!("{mark}: {magic}");
    if let Some(identity) = mark.identity() {
        let names = context.names().unwrap_or_default();
        text.push_str(&format!(", identity {}", names.label(identity)));
    }
    if let Some(port) = mark.proxy_port() {
        text.push_str(&format!(", port {port}"));
    }
    if let Some(key) = mark.key() {
        text.push_str(&format!(", key {key}"));
    }
    text
}
