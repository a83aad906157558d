//! `--confirm` and `--yes`: whoever enforces on a NIC may cut himself off.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use super::time;
use crate::model::enforcement::Grace;
use crate::model::shell::word;
use crate::model::text::visible;
use crate::model::time::Time;
use crate::output;

#[derive(clap::Args)]
#[group(skip)]
pub struct Prompt {
    /// Go back by itself unless `cilmark confirm` comes within this time, such as 60s or 5m
    #[arg(long, value_name = "TIME", value_parser = parse_deadline)]
    pub confirm: Option<Duration>,
    /// Enforce on a NIC, or relax it, without asking
    #[arg(long)]
    pub yes: bool,
}

impl Prompt {
    /// How long a change has to be confirmed.
    pub fn grace(&self) -> Grace {
        self.confirm.map_or(Grace::Permanent, Grace::Within)
    }

    /// Whether the flags have answered the prompt already.
    pub fn has_answered(&self) -> bool {
        self.yes || self.confirm.is_some()
    }

    /// Fails unless the user is known to know what he does. On a terminal it asks.
    pub fn obtain(&self, risk: &str, whose: &str) -> Result<()> {
        self.ask(
            &format!("{risk}, which may cut you off (--confirm 60s would go back by itself)"),
            &format!(
                "{risk}, which may cut you off; say --confirm 60s, to go back by itself unless \
                 `cilmark confirm {}` comes in time, or --yes",
                word(whose)
            ),
        )
    }

    /// The same of what opens or takes away, which no clock brings back.
    pub fn obtain_openly(&self, risk: &str) -> Result<()> {
        self.ask(risk, &format!("{risk}; say --yes, if that is meant; nothing has changed"))
    }

    fn ask(&self, question: &str, refusal: &str) -> Result<()> {
        if self.has_answered() {
            return Ok(());
        }
        let stdin = io::stdin();
        ensure!(stdin.is_terminal() && io::stderr().is_terminal(), "{refusal}");
        let mut stderr = io::stderr();
        write!(stderr, "{}. Go on? [y/N] ", visible(question))?;
        stderr.flush()?;
        let mut answer = String::new();
        stdin.lock().read_line(&mut answer).context("read the answer")?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => bail!("nothing has changed"),
        }
    }
}

/// Tells what is to be done, and by when.
pub fn remind(whose: &str, time: Duration, otherwise: &str) {
    output::note(&format!(
        "`cilmark confirm {}` within {} makes this permanent; otherwise {otherwise}",
        word(whose),
        time::text(time)
    ));
}

fn parse_deadline(text: &str) -> Result<Duration, String> {
    match text.parse::<Time>()?.get() {
        Duration::ZERO => Err("nobody can confirm in no time; write 60s or 5m".to_owned()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_confirm_in_no_time() {
        assert_eq!(parse_deadline("5m"), Ok(Duration::from_secs(300)));
        assert!(parse_deadline("0").is_err() && parse_deadline("-1s").is_err());
    }
}
