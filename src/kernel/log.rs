//! libbpf's own messages, in our log.

use libbpf_rs::{PrintLevel, set_print};
use log::{debug, trace};

/// Sends libbpf's messages to `log`. Its warnings become debug messages: whatever matters of them
/// comes back as an error as well, and is reported there with its object and cure.
pub fn forward_libbpf() {
    set_print(Some((PrintLevel::Debug, |level, message| match level {
        PrintLevel::Debug => trace!(target: "libbpf", "{}", message.trim_end()),
        _ => debug!(target: "libbpf", "{}", message.trim_end()),
    })));
}
