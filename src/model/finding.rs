//! What a doctor has found out about one condition, on this host or in a cluster.

use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, bail};
use serde::Serialize;

/// One condition, with what it comes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Of what: a device, a cluster, `this host`.
    pub of: String,
    /// The condition, in a word or two that stay the same.
    pub check: &'static str,
    /// What is, and what follows from it.
    pub says: String,
    /// What to do.
    pub cure: Option<String>,
}

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not as somebody might think; or soon it will not.
    Warning,
    /// It does not work.
    Problem,
}

impl Level {
    /// As people name them, the best first.
    pub const NAMES: [&str; 3] = ["ok", "warning", "problem"];
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(name: &str) -> Result<Level> {
        match name {
            "ok" => Ok(Level::Ok),
            "warning" => Ok(Level::Warning),
            "problem" => Ok(Level::Problem),
            _ => bail!("`{name}` is no level; there are {}", Level::NAMES.join(", ")),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        })
    }
}

/// Findings of one thing, in the order in which they were made.
#[derive(Debug)]
pub struct Findings {
    of: String,
    /// So far.
    pub all: Vec<Finding>,
}

impl Findings {
    /// Of this host as a whole.
    pub fn of_this_host() -> Findings {
        Findings::of("this host")
    }

    /// Of what has this name.
    pub fn of(name: &str) -> Findings {
        Findings { of: name.to_owned(), all: Vec::new() }
    }

    /// It is as it should be.
    pub fn ok(&mut self, check: &'static str, says: impl Into<String>) {
        self.add(Level::Ok, check, says.into(), None);
    }

    /// Somebody should look at it.
    pub fn warning(&mut self, check: &'static str, says: impl Into<String>, cure: &str) {
        self.add(Level::Warning, check, says.into(), Some(cure));
    }

    /// It does not work.
    pub fn problem(&mut self, check: &'static str, says: impl Into<String>, cure: &str) {
        self.add(Level::Problem, check, says.into(), Some(cure));
    }

    fn add(&mut self, level: Level, check: &'static str, says: String, cure: Option<&str>) {
        let cure = cure.map(str::to_owned);
        self.all.push(Finding { level, of: self.of.clone(), check, says, cure });
    }
}
