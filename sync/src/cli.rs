//! The command line of `cilmark-sync`, and of `cilmark cluster`, which runs it.

use std::process::ExitCode;

/// Runs the command line.
pub fn main() -> ExitCode {
    todo!()
}
