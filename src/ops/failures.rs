//! More than one error, of an operation that goes on past a failure.

use std::fmt;

use anyhow::{Error, Result};

/// At least two.
#[derive(Debug)]
pub struct Failures(pub Vec<Error>);

/// One error of all that happened while an operation went on.
pub fn all_of(mut errors: Vec<Error>) -> Result<()> {
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(Failures(errors).into()),
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|error| format!("{error:#}")).collect();
        write!(f, "{} failures: {}", all.len(), all.join("; "))
    }
}

impl std::error::Error for Failures {}
