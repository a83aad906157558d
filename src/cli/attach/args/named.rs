//! Which flags stand on the command line: those that have a default have a value in any case.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args as _, Command, Error, FromArgMatches};

use super::{Args, Flags};
use crate::model::endpoint::Role;

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Args, Error> {
        let on_command_line =
            |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let named = matches.ids().map(clap::Id::as_str).filter(on_command_line);
        let named = named.map(str::to_owned).collect();
        let flags = Flags::from_arg_matches(matches)?;
        let is_a_workload = flags.role == Some(Role::Container) || flags.target.is_a_workload();
        let has_no_identity = flags.who.id.is_none() && flags.who.labels.is_none();
        if is_a_workload && has_no_identity && !flags.keep {
            return Err(missing_identity());
        }
        Ok(Args { flags, named })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Args::from_arg_matches(matches)?;
        Ok(())
    }
}

/// As clap says it of what is always required.
fn missing_identity() -> Error {
    let message = "the following required arguments were not provided:\n  --id <ID>, or --labels <KEY=VALUE> in a cluster";
    let command = Flags::augment_args(Command::new("cilmark attach"));
    let usage = "cilmark attach --id <ID> <DEV|--pid <N>|--container-netns <NAME|PATH>>";
    command.override_usage(usage).error(ErrorKind::MissingRequiredArgument, message)
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}
