//! Which flags stand on the command line: those that have a default have a value in any case.

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, Error, FromArgMatches};

use super::{Args, Flags};

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Args, Error> {
        let on_command_line =
            |id: &&str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let named = matches.ids().map(clap::Id::as_str).filter(on_command_line);
        let named = named.map(str::to_owned).collect();
        Ok(Args { flags: Flags::from_arg_matches(matches)?, named })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Args::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}
