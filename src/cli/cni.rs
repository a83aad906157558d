//! `cilmark cni`, which is `cilmark-cni` in a directory of plugins.

mod install;

use std::env;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, anyhow};

use super::Context;
use crate::model::cni::{Call, Code, Error, Version};
use crate::model::text;
use crate::ops::cni;
use crate::output;

/// The name of the plugin, and of its file.
const NAME: &str = "cilmark-cni";

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Link this command as cilmark-cni into a directory of plugins, and print a network that has it
    Install(install::Args),
}

/// Whether the command was called by the name of the plugin.
pub fn is_plugin(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|name| name == NAME)
}

pub fn run(context: &Context, args: Args) -> Result<ExitCode> {
    match args.command {
        Some(Command::Install(args)) => install::run(&args).map(|()| ExitCode::SUCCESS),
        None => plugin(context),
    }
}

/// Stdout is the runtime's: an answer, an error object, or nothing.
fn plugin(context: &Context) -> Result<ExitCode> {
    let (config, answer) = match read_config() {
        Ok(config) => {
            let call = Call::of(variable);
            let answer = call.and_then(|call| cni::serve(&context.root, &call, &config));
            (config, answer)
        }
        Err(error) => (Vec::new(), Err(error)),
    };
    let (said, status) = match answer {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (Some(error.json(Version::of_errors(&config))), ExitCode::FAILURE),
    };
    if let Some(said) = said {
        // Elsewhere a reader that has gone has seen enough; a runtime has not heard then what has become of it.
        output::json(&said).map_err(|error| anyhow!("{error:#}"))?;
    }
    Ok(status)
}

/// A person at a terminal has none.
fn read_config() -> Result<Vec<u8>, Error> {
    let (mut stdin, mut config) = (io::stdin(), Vec::new());
    if !stdin.is_terminal() {
        let read = stdin.read_to_end(&mut config);
        read.map_err(|error| {
            Error::new(Code::Io, "the configuration of the network", format!("read stdin: {error}"))
        })?;
    }
    Ok(config)
}

fn variable(name: &str) -> Option<String> {
    env::var_os(name).map(|value| text::from_bytes(value.as_bytes()))
}
