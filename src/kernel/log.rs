//! libbpf's own messages, in our log.

use libbpf_rs::{PrintLevel, set_print};
use log::{Level, debug, log_enabled, trace};

/// Sends libbpf's messages to `log`. Its warnings become debug messages: whatever matters of them
/// comes back as an error as well, and is reported there with its object and hint. What nobody wants to
/// read is not formatted: that was 0.8 ms of an attachment.
pub fn forward_libbpf() {
    let level = if log_enabled!(target: "libbpf", Level::Trace) {
        Some(PrintLevel::Debug)
    } else if log_enabled!(target: "libbpf", Level::Debug) {
        Some(PrintLevel::Info)
    } else {
        None
    };
    set_print(level.map(|level| (level, print as _)));
}

fn print(level: PrintLevel, message: String) {
    match level {
        PrintLevel::Debug => trace!(target: "libbpf", "{}", message.trim_end()),
        _ => debug!(target: "libbpf", "{}", message.trim_end()),
    }
}
