//! The system's log, for what is said where nobody reads stderr.

use std::io::Result;
use std::os::unix::net::UnixDatagram;
use std::process;

use log::debug;

/// Facility `daemon`, severity `err` (RFC 3164, 4.1.1).
const ERROR: u32 = 3 << 3 | 3;

/// Writes a line to it, if there is one.
pub fn error(text: &str) {
    let line = format!("<{ERROR}>cilmark[{}]: {text}", process::id());
    let send =
        || -> Result<usize> { UnixDatagram::unbound()?.send_to(line.as_bytes(), "/dev/log") };
    if let Err(error) = send() {
        debug!("write to /dev/log: {error}");
    }
}
