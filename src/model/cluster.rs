//! What commands ask of cilmark-sync, and what it answers: a line of JSON each, by a socket of this host.

use serde::{Deserialize, Serialize};

use super::identity::Identity;
use super::labels::Labels;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The number of these labels, in this host's cluster.
    Allocate(Labels),
    /// Let what is held of this cluster go.
    Sweep(String),
    /// Withdraw what this host has published, and end.
    Leave,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// A number.
    Identity(Identity),
    /// It is done: how many lines it was about.
    Done(usize),
    /// It is not: why.
    Error(String),
}
