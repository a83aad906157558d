//! The command `cilmark-sync`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cilmark_sync::cli::main()
}
