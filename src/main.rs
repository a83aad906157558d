//! The command `cilmark`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cilmark::cli::main()
}
