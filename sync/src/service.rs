//! The process: one thread that runs the readers and the publisher, answers commands, and tells systemd, the state file and
//! Prometheus how it is.

pub mod metrics;
pub mod socket;
pub mod state;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use cilmark::state::pin::Root;

/// What the process is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration.
    pub config: PathBuf,
    /// Where everything is pinned.
    pub root: Root,
    /// Where Prometheus finds it.
    pub listen: Option<SocketAddr>,
}

/// Runs until a signal, or a command to leave.
pub fn run(options: Options) -> Result<()> {
    let _ = options;
    todo!()
}
