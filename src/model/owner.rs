//! Whose an endpoint is.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, ensure};
use serde::{Deserialize, Serialize};

/// Text that says whose an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner(String);

impl Owner {
    /// The most bytes: those of a file's name, by which runtimes keep their workloads.
    pub const MAX: usize = 255;

    /// The text.
    pub fn get(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Owner {
    type Error = Error;

    fn try_from(text: String) -> Result<Owner> {
        ensure!(!text.is_empty(), "an owner has a name; leave it out if there is none");
        ensure!(
            text.len() <= Owner::MAX,
            "owner `{text}` has {} bytes; {} are the most",
            text.len(),
            Owner::MAX
        );
        ensure!(
            !text.chars().any(char::is_control),
            "owner `{text}` has a control character in it"
        );
        Ok(Owner(text))
    }
}

impl FromStr for Owner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Owner> {
        Owner::try_from(text.to_owned())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> String {
        owner.0
    }
}
